//! Metrics of probe `path`.

use super::active::{Active, Place};
use crate::aggregate::{Family, Kind, Label, Labels, Metric, Series, Value, label};
use crate::probes::slots::PairSeries;
use crate::probes::totals::Totals;
use crate::probes::watch;
use agent_common::path::Seen;
use agent_common::tcp::counter;
use std::hash::Hash;
use std::sync::Arc;

const PAIR: &[&Label] = &[
    &label::SUBJECT,
    &label::PEER,
    &label::PEER_REGION,
    &label::PEER_ZONE,
];
const PAIR_DIRECTION: &[&Label] = &[
    &label::DIRECTION,
    &label::SUBJECT,
    &label::PEER,
    &label::PEER_REGION,
    &label::PEER_ZONE,
];
/// Of an address that is traced.
pub(super) const TARGET: &[&Label] = &[
    &label::PEER,
    &label::PEER_REGION,
    &label::PEER_ZONE,
    &label::REMOTE,
];
const PLACE: &[&Label] = &[
    &label::HOP,
    &label::PEER,
    &label::PEER_REGION,
    &label::PEER_ZONE,
    &label::REMOTE,
];

const DEVICE_DIRECTION: &[&Label] = &[&label::DEVICE, &label::DIRECTION];
const GAP: &[&Label] = &[&label::DEVICE, &label::DIRECTION, &label::REASON];
static SIDE: Label = Label {
    prometheus: "side",
    otlp: "geophone.path.side",
    help: "remote = beyond the device, local = on our side of it",
};

/// Hop count.
pub static HOPS: Metric = Metric::experimental(
    "geophone_path_hops",
    "geophone.path.hops",
    "{hop}",
    Kind::Gauge,
    PAIR,
    "Routers between the peer and this socket, from the TTL of the connection that was heard last",
);
/// Route changes.
pub static CHANGES: Metric = Metric::experimental(
    "geophone_path_route_changes_total",
    "geophone.path.route_changes",
    "{change}",
    Kind::Counter,
    PAIR,
    "Changes of the hop count inside a connection, each seen twice",
);
/// Path MTU.
pub static MTU: Metric = Metric::experimental(
    "geophone_path_mtu_bytes",
    "geophone.path.mtu",
    "By",
    Kind::Gauge,
    PAIR,
    "Path MTU of the connection that was heard last",
);
/// Congestion marks.
pub static CE: Metric = Metric::experimental(
    "geophone_path_ecn_ce_total",
    "geophone.path.ecn.ce",
    "{segment}",
    Kind::Counter,
    PAIR_DIRECTION,
    "Segments with a congestion mark (ECN CE): receive = that came with one (Linux 6.17 and later), transmit = of which the peer has said so",
);
/// Latency of a hop.
pub static HOP_RTT: Metric = Metric::experimental(
    "geophone_path_hop_rtt_seconds",
    "geophone.path.hop.rtt",
    "s",
    Kind::Histogram,
    PLACE,
    "Time until a hop of a traced path answered a probe",
);
/// Probes to a hop.
pub static HOP_PROBES: Metric = Metric::experimental(
    "geophone_path_hop_probes_total",
    "geophone.path.hop.probes",
    "{packet}",
    Kind::Counter,
    PLACE,
    "Probes that were to end at a hop of a traced path",
);
/// Loss of a hop.
pub static HOP_LOST: Metric = Metric::experimental(
    "geophone_path_hop_lost_total",
    "geophone.path.hop.lost",
    "{packet}",
    Kind::Counter,
    PLACE,
    "Probes to a hop that nobody answered; routers limit their answers, so only loss that goes on to the end is loss",
);
/// Latest probes to a hop.
pub static RECENT_PROBES: Metric = Metric::experimental(
    "geophone_path_hop_recent_probes",
    "geophone.path.hop.recent.probes",
    "{packet}",
    Kind::Gauge,
    PLACE,
    "Probes to a hop in the latest 10 traces (30 rounds) of its path; after a change of the path, in those since",
);
/// Latest loss of a hop.
pub static RECENT_LOST: Metric = Metric::experimental(
    "geophone_path_hop_recent_lost",
    "geophone.path.hop.recent.lost",
    "{packet}",
    Kind::Gauge,
    PLACE,
    "Those of geophone_path_hop_recent_probes that nobody answered",
);
/// Latest latency of a hop.
pub static RECENT_RTT: Metric = Metric::experimental(
    "geophone_path_hop_recent_rtt_seconds",
    "geophone.path.hop.recent.rtt",
    "s",
    Kind::Gauge,
    PLACE,
    "Median time until a hop answered those of geophone_path_hop_recent_probes that it has answered",
);
/// Who the hops are.
pub static INFO: Metric = Metric::experimental(
    "geophone_path_hop_info",
    "geophone.path.hop.info",
    "1",
    Kind::Gauge,
    &[
        &label::HOP_ADDRESS,
        &label::HOP,
        &label::PEER,
        &label::PEER_REGION,
        &label::PEER_ZONE,
        &label::REMOTE,
    ],
    "1 = this address was the last that answered at this hop, in the latest 10 traces of its path",
);
/// Changes of a traced path.
pub static TRACE_CHANGES: Metric = Metric::experimental(
    "geophone_path_trace_changes_total",
    "geophone.path.trace.changes",
    "{change}",
    Kind::Counter,
    TARGET,
    "Changes of the routers or of the length of a traced path, each confirmed by a second trace",
);
/// Traces that failed.
pub static TRACE_ERRORS: Metric = Metric::experimental(
    "geophone_path_trace_errors_total",
    "geophone.path.trace.errors",
    "{trace}",
    Kind::Counter,
    TARGET,
    "Traces that could not be made; the log says why",
);

/// Answers to none of our packets.
pub static TRACE_FOREIGN: Metric = Metric::experimental(
    "geophone_path_trace_foreign_answers_total",
    "geophone.path.trace.foreign_answers",
    "{packet}",
    Kind::Counter,
    TARGET,
    "Answers about a traced flow that quote none of its packets, or one that had been answered: late, doubled or forged; not taken",
);

/// Forwarded connections.
pub static FORWARDED: Metric = Metric::experimental(
    "geophone_path_forwarded_rtt_seconds",
    "geophone.path.forwarded.rtt.duration",
    "s",
    Kind::Histogram,
    &[
        &label::DEVICE,
        &SIDE,
        &label::PEER,
        &label::PEER_REGION,
        &label::PEER_ZONE,
    ],
    "Round-trip time of TCP connections that this host only forwards, from here to one of their ends and back, by their timestamps, sampled; peer is that end",
);
/// Devices.
pub static WATCHED: Metric = Metric::experimental(
    "geophone_path_watched",
    "geophone.path.watched",
    "1",
    Kind::Gauge,
    DEVICE_DIRECTION,
    "1 = the packets of this device are watched for forwarded connections, 0 = they should be and are not",
);
/// Gaps.
pub static GAPS: Metric = Metric::experimental(
    "geophone_path_watch_gaps_total",
    "geophone.path.watch_gaps",
    "{event}",
    Kind::Counter,
    GAP,
    "Times without our program on the device: detached = by somebody, and attached again within 5 s; governor = for the CPU budget",
);
/// Their length.
pub static GAP_SECONDS: Metric = Metric::experimental(
    "geophone_path_watch_gap_seconds_total",
    "geophone.path.watch_gap.time",
    "s",
    Kind::Counter,
    GAP,
    "Seconds without our program on the device, at most: since it was last seen there",
);
/// Of the devices.
pub(super) static WATCH: watch::Metrics = watch::Metrics {
    watched: &WATCHED,
    gaps: &GAPS,
    gap_seconds: &GAP_SECONDS,
};

/// All of them.
pub const METRICS: &[&Metric] = &[
    &HOPS,
    &CHANGES,
    &MTU,
    &CE,
    &HOP_RTT,
    &HOP_PROBES,
    &HOP_LOST,
    &RECENT_PROBES,
    &RECENT_LOST,
    &RECENT_RTT,
    &INFO,
    &TRACE_CHANGES,
    &TRACE_ERRORS,
    &TRACE_FOREIGN,
    &FORWARDED,
    &WATCHED,
    &GAPS,
    &GAP_SECONDS,
];

/// Appends what the connections of the pairs have shown.
pub fn passive<K: Eq + Hash>(pairs: &mut Totals<K, PairSeries>, out: &mut Vec<Family>) {
    let gauge = |value: fn(Seen) -> Option<f64>| {
        let series = |p: &PairSeries| {
            Some(Series {
                labels: p.labels.clone(),
                value: Value::Gauge(value(Seen::unpack(p.path))?),
            })
        };
        pairs.iter().filter_map(series).collect()
    };
    let hops = gauge(|seen| seen.hops.map(f64::from));
    let mtu = gauge(|seen| (seen.mtu > 0).then(|| f64::from(seen.mtu)));
    let changes = pairs
        .iter()
        // Zero means something: the way has been watched.
        .filter(|p| Seen::unpack(p.path).hops.is_some() || p.counters[counter::ROUTE_CHANGES] > 0)
        .map(|p| Series {
            labels: p.labels.clone(),
            value: Value::Counter(p.counters[counter::ROUTE_CHANGES]),
        })
        .collect();
    for (metric, series) in [(&HOPS, hops), (&CHANGES, changes), (&MTU, mtu)] {
        out.push(Family { metric, series });
    }
    let mut series = Vec::new();
    for (direction, index) in [("receive", counter::CE_IN), ("transmit", counter::CE_OUT)] {
        for pair in pairs.iter_mut().filter(|p| p.counters[index] > 0) {
            series.push(Series {
                labels: directed(pair, direction, index),
                value: Value::Counter(pair.counters[index]),
            });
        }
    }
    out.push(Family { metric: &CE, series });
}

/// Labels of a pair with a direction before them, made once. Variants of probe `tcp` count from below.
fn directed(pair: &mut PairSeries, direction: &str, index: usize) -> Arc<Labels> {
    let key = (usize::MAX - 1, index);
    if let Some((_, labels)) = pair.variants.iter().find(|(k, _)| *k == key) {
        return labels.clone();
    }
    let own = &pair.labels;
    let values: Vec<&str> = std::iter::once(direction)
        .chain(PAIR.iter().map(|l| own.get(l).unwrap_or("")))
        .collect();
    let labels = Arc::new(Labels::of(
        PAIR_DIRECTION,
        &values,
        &own.further,
        own.overflow,
        own.start_unix_nanos,
    ));
    pair.variants.push((key, labels.clone()));
    labels
}

/// Appends what the probes have shown.
pub(super) fn active(active: &Active, out: &mut Vec<Family>) {
    let places = |metric, value: fn(&Place) -> Value| Family {
        metric,
        series: active
            .ways
            .iter()
            .flat_map(|w| &w.places)
            .map(|p| Series {
                labels: p.labels.clone(),
                value: value(p),
            })
            .collect(),
    };
    out.push(places(&HOP_RTT, |p| Value::Histogram(p.rtt.clone())));
    out.push(places(&HOP_PROBES, |p| Value::Counter(p.sent)));
    out.push(places(&HOP_LOST, |p| Value::Counter(p.lost)));
    out.push(places(&RECENT_PROBES, |p| Value::Gauge(p.seen.sent as f64)));
    out.push(places(&RECENT_LOST, |p| Value::Gauge(p.seen.lost as f64)));
    let answered = active.ways.iter().flat_map(|w| &w.places).filter_map(|p| {
        Some(Series {
            labels: p.labels.clone(),
            value: Value::Gauge(p.seen.rtt?.as_secs_f64()),
        })
    });
    out.push(Family {
        metric: &RECENT_RTT,
        series: answered.collect(),
    });
    let routers = active
        .ways
        .iter()
        .flat_map(|w| &w.places)
        .flat_map(|p| &p.routers);
    out.push(Family {
        metric: &INFO,
        series: routers
            .map(|labels| Series {
                labels: labels.clone(),
                value: Value::Gauge(1.0),
            })
            .collect(),
    });
    for (metric, value) in [
        (&TRACE_CHANGES, (|w| w.changes) as fn(&super::active::Way) -> u64),
        (&TRACE_ERRORS, |w| w.failed),
        (&TRACE_FOREIGN, |w| w.foreign),
    ] {
        let series = active.ways.iter().map(|w| Series {
            labels: w.labels.clone(),
            value: Value::Counter(value(w)),
        });
        out.push(Family {
            metric,
            series: series.collect(),
        });
    }
}
