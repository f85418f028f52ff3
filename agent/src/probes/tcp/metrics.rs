//! Metrics of probe `tcp`, from the pairs' counters and histograms.

use crate::aggregate::{Family, Kind, Label, Labels, Metric, Series, Value, label};
use crate::probes::slots::PairSeries;
use crate::probes::totals::Totals;
use agent_common::tcp::{END_REASONS, RETRANSMIT_TYPES, ROLES, counter, series};
use std::hash::Hash;
use std::sync::Arc;

macro_rules! pair_labels {
    ($($extra:ident),*) => {
        &[$(&label::$extra,)* &label::SUBJECT, &label::PEER, &label::PEER_REGION, &label::PEER_ZONE]
    };
}

const PAIR: &[&Label] = pair_labels!();

/// Round-trip times.
pub static RTT: Metric = Metric::stable(
    "geophone_tcp_rtt_seconds",
    "system.network.tcp.rtt.duration",
    "s",
    Kind::Histogram,
    PAIR,
    "Round-trip time of TCP segments: each raw sample that the kernel takes (tcp_sock.rack.rtt_us)",
);
/// Jitter.
pub static JITTER: Metric = Metric::stable(
    "geophone_tcp_jitter_seconds",
    "geophone.tcp.jitter",
    "s",
    Kind::Histogram,
    PAIR,
    "Absolute difference of consecutive round-trip times of one connection",
);
/// Connect latency.
pub static CONNECT: Metric = Metric::stable(
    "geophone_tcp_connect_seconds",
    "system.network.tcp.handshake.duration",
    "s",
    Kind::Histogram,
    PAIR,
    "Time from the first SYN sent to the connection being established, clients only",
);
/// Accept latency.
pub static ACCEPT: Metric = Metric::stable(
    "geophone_tcp_accept_seconds",
    "geophone.tcp.accept.duration",
    "s",
    Kind::Histogram,
    PAIR,
    "Time from the connection being established to its being accepted by the application, servers only",
);
/// Retransmits.
pub static RETRANSMITS: Metric = Metric::stable(
    "geophone_tcp_retransmits_total",
    "system.network.tcp.retransmits",
    "{segment}",
    Kind::Counter,
    pair_labels!(TYPE),
    "Segments sent again, by what made the kernel do it; the sum is the kernel's own RetransSegs",
);
/// Needless retransmits.
pub static SPURIOUS: Metric = Metric::stable(
    "geophone_tcp_spurious_retransmits_total",
    "geophone.tcp.spurious_retransmits",
    "{segment}",
    Kind::Counter,
    PAIR,
    "Retransmits that the peer's DSACK proved needless; each is already in geophone_tcp_retransmits_total under its type",
);
/// Segments.
pub static SEGMENTS: Metric = Metric::stable(
    "geophone_tcp_segments_total",
    "geophone.tcp.segments",
    "{segment}",
    Kind::Counter,
    pair_labels!(DIRECTION),
    "TCP segments of sockets, retransmits included, as on the wire (a GSO buffer counts as its segments)",
);
/// Bytes.
pub static BYTES: Metric = Metric::stable(
    "geophone_tcp_bytes_total",
    "geophone.tcp.io",
    "By",
    Kind::Counter,
    pair_labels!(DIRECTION),
    "Payload bytes received in order, and sent for the first time",
);
/// Resets.
pub static RESETS: Metric = Metric::stable(
    "geophone_tcp_resets_total",
    "geophone.tcp.resets",
    "{segment}",
    Kind::Counter,
    pair_labels!(DIRECTION),
    "RST segments",
);
/// Zero windows.
pub static ZERO_WINDOWS: Metric = Metric::stable(
    "geophone_tcp_zero_windows_total",
    "geophone.tcp.zero_windows",
    "{event}",
    Kind::Counter,
    pair_labels!(DIRECTION),
    "Times that a receive window fell to zero: receive = the peer stopped us, transmit = we stopped the peer",
);
/// Listeners' drops.
pub static LISTEN_DROPS: Metric = Metric::stable(
    "geophone_tcp_listen_drops_total",
    "geophone.tcp.listen_drops",
    "{connection}",
    Kind::Counter,
    &[&label::SUBJECT],
    "Connection requests that a listening socket refused because its accept queue was full or memory was short",
);
/// Connections.
pub static CONNECTIONS_TOTAL: Metric = Metric::stable(
    "geophone_tcp_connections_total",
    "geophone.tcp.connections",
    "{connection}",
    Kind::Counter,
    pair_labels!(ROLE, OUTCOME, ERROR),
    "Connections opened, closed and failed; adopted = already open when the agent came",
);
/// Live connections.
pub static CONNECTIONS: Metric = Metric::stable(
    "geophone_tcp_connections",
    "system.network.connection.count",
    "{connection}",
    Kind::Gauge,
    PAIR,
    "Connections that are open now",
);

/// RTT source.
pub static RTT_SOURCE: Metric = Metric::stable(
    "geophone_tcp_rtt_source_info",
    "geophone.tcp.rtt_source.info",
    "1",
    Kind::Gauge,
    &[&label::SOURCE, &label::SAMPLE],
    "1 = round-trip times come from this source; sample says whether they are the kernel's raw samples or smoothed",
);

/// What the kernel does for the socket storage.
pub static STORAGE_SECONDS: Metric = Metric::stable(
    "geophone_tcp_storage_seconds_total",
    "geophone.tcp.storage.time",
    "s",
    Kind::Counter,
    &[],
    "CPU time in which the kernel copies and frees what is remembered of connections, which is in no program's time: 0.7 µs for each end of a connection, measured on one machine",
);

/// All of them, in the order of the snapshot.
pub const METRICS: &[&Metric] = &[
    &RTT,
    &JITTER,
    &CONNECT,
    &ACCEPT,
    &RETRANSMITS,
    &SPURIOUS,
    &SEGMENTS,
    &BYTES,
    &RESETS,
    &ZERO_WINDOWS,
    &LISTEN_DROPS,
    &CONNECTIONS_TOTAL,
    &CONNECTIONS,
    &RTT_SOURCE,
    &STORAGE_SECONDS,
];

/// A counter with its metric and its leading label values.
struct Source {
    metric: &'static Metric,
    values: [&'static str; 3],
    counter: usize,
}

const DIRECTIONS: [&str; 2] = ["receive", "transmit"];

/// Every counter of a pair that is exported one to one.
fn sources() -> Vec<Source> {
    let mut out = Vec::new();
    let mut add = |metric, values, counter| {
        out.push(Source {
            metric,
            values,
            counter,
        })
    };
    for (i, name) in RETRANSMIT_TYPES.into_iter().enumerate() {
        add(&RETRANSMITS, [name, "", ""], counter::RETRANSMITS + i);
    }
    add(&SPURIOUS, [""; 3], counter::SPURIOUS);
    for (metric, first) in [
        (&SEGMENTS, counter::SEGMENTS_IN),
        (&BYTES, counter::BYTES_IN),
        (&RESETS, counter::RESETS_IN),
        (&ZERO_WINDOWS, counter::ZERO_WINDOW_IN),
    ] {
        for (i, name) in DIRECTIONS.into_iter().enumerate() {
            add(metric, [name, "", ""], first + i);
        }
    }
    for (role, name) in ROLES.into_iter().enumerate() {
        if role < 2 {
            add(&CONNECTIONS_TOTAL, [name, "opened", ""], counter::OPENED + role);
        } else {
            add(&CONNECTIONS_TOTAL, [name, "adopted", ""], counter::ADOPTED);
        }
        for (end, error) in END_REASONS.into_iter().enumerate() {
            let error = if end == 0 { "" } else { error };
            add(
                &CONNECTIONS_TOTAL,
                [name, "closed", error],
                counter::CLOSED + 6 * role + end,
            );
            if role < 2 {
                add(
                    &CONNECTIONS_TOTAL,
                    [name, "failed", error],
                    counter::FAILED + 6 * role + end,
                );
            }
        }
    }
    out
}

fn variant(pair: &mut PairSeries, index: usize, source: &Source) -> Arc<Labels> {
    if let Some((_, labels)) = pair.variants.iter().find(|((i, _), _)| *i == index) {
        return labels.clone();
    }
    let own = &pair.labels;
    let mut values: Vec<&str> = source.values.to_vec();
    values.truncate(source.metric.labels.len() - PAIR.len());
    for l in PAIR {
        values.push(own.get(l).unwrap_or(""));
    }
    let labels = Arc::new(Labels::of(
        source.metric.labels,
        &values,
        &own.further,
        own.overflow,
        own.start_unix_nanos,
    ));
    pair.variants.push(((index, 0), labels.clone()));
    labels
}

/// Appends the families. Counters that never moved have no series, except those whose zero means something.
pub fn collect<K: Eq + Hash>(pairs: &mut Totals<K, PairSeries>, out: &mut Vec<Family>) {
    for (metric, index) in [
        (&RTT, series::RTT),
        (&JITTER, series::JITTER),
        (&CONNECT, series::CONNECT),
        (&ACCEPT, series::ACCEPT),
    ] {
        let series = pairs
            .iter()
            .filter_map(|p| {
                let histogram = p.histograms.get(index).filter(|h| h.count > 0)?;
                Some(Series {
                    labels: p.labels.clone(),
                    value: Value::Histogram(histogram.clone()),
                })
            })
            .collect();
        out.push(Family { metric, series });
    }
    let mut family: Option<Family> = None;
    for (i, source) in sources().into_iter().enumerate() {
        if family
            .as_ref()
            .is_none_or(|f| !std::ptr::eq(f.metric, source.metric))
        {
            out.extend(family.replace(Family {
                metric: source.metric,
                series: Vec::new(),
            }));
        }
        let always = [
            counter::SEGMENTS_IN,
            counter::SEGMENTS_OUT,
            counter::BYTES_IN,
            counter::BYTES_OUT,
        ];
        for pair in pairs.iter_mut() {
            let value = pair.counters.get(source.counter).copied().unwrap_or(0);
            let alive = pair.counters[counter::ATTACHED] > 0;
            if value > 0 || (alive && always.contains(&source.counter)) {
                let labels = variant(pair, i, &source);
                if let Some(family) = &mut family {
                    family.series.push(Series {
                        labels,
                        value: Value::Counter(value),
                    });
                }
            }
        }
    }
    out.extend(family);
    out.push(listen_drops(pairs));
    let series = pairs
        .iter()
        .filter(|p| p.counters[counter::ATTACHED] > 0)
        .map(|p| Series {
            labels: p.labels.clone(),
            value: Value::Gauge(live(&p.counters) as f64),
        })
        .collect();
    out.push(Family {
        metric: &CONNECTIONS,
        series,
    });
}

/// The family of [`STORAGE_SECONDS`].
pub fn storage(seconds: f64, labels: &Arc<Labels>) -> Family {
    Family {
        metric: &STORAGE_SECONDS,
        series: vec![Series {
            labels: labels.clone(),
            value: Value::CounterF(seconds),
        }],
    }
}

/// The family that names the RTT source.
pub fn source_info(source: Option<(&str, &str)>) -> Family {
    let series = source
        .map(|(source, sample)| Series {
            labels: Arc::new(Labels::new(RTT_SOURCE.labels, &[source, sample], false, 0)),
            value: Value::Gauge(1.0),
        })
        .into_iter()
        .collect();
    Family {
        metric: &RTT_SOURCE,
        series,
    }
}

fn listen_drops<K: Eq + Hash>(pairs: &mut Totals<K, PairSeries>) -> Family {
    const INDEX: usize = usize::MAX;
    let mut series: Vec<Series> = Vec::new();
    for pair in pairs.iter_mut().filter(|p| p.counters[counter::LISTEN_DROPS] > 0) {
        let value = pair.counters[counter::LISTEN_DROPS];
        let subject = pair.labels.subject().to_owned();
        let is_same = |labels: &Labels| labels.subject() == subject && labels.further == pair.labels.further;
        match series.iter_mut().find(|s| is_same(&s.labels)) {
            Some(Series {
                value: Value::Counter(sum),
                ..
            }) => *sum += value,
            _ => {
                let source = Source {
                    metric: &LISTEN_DROPS,
                    values: [""; 3],
                    counter: 0,
                };
                let labels = match pair.variants.iter().find(|((i, _), _)| *i == INDEX) {
                    Some((_, labels)) => labels.clone(),
                    None => {
                        let own = &pair.labels;
                        let labels = Arc::new(Labels::of(
                            source.metric.labels,
                            &[&subject],
                            &own.further,
                            own.overflow,
                            own.start_unix_nanos,
                        ));
                        pair.variants.push(((INDEX, 0), labels.clone()));
                        labels
                    }
                };
                series.push(Series {
                    labels,
                    value: Value::Counter(value),
                });
            }
        }
    }
    Family {
        metric: &LISTEN_DROPS,
        series,
    }
}

/// Open connections: those that came minus those that went.
pub fn live(counters: &[u64; counter::COUNT]) -> u64 {
    let sum = |from: usize, n: usize| {
        counters
            .iter()
            .skip(from)
            .take(n)
            .copied()
            .fold(0u64, u64::wrapping_add)
    };
    let came = sum(counter::OPENED, 2).wrapping_add(sum(counter::ADOPTED, 1));
    let went = sum(counter::CLOSED, 18);
    came.saturating_sub(went)
}
