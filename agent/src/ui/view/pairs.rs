//! What is known about the connections of one pair, or of all.

use super::meter::{Clock, History, Meter, label, number, sum};
use super::timing::{Distribution, Timing};
use super::{Counter, PairRow};
use crate::aggregate::{Labels, Series, Value};
use std::collections::VecDeque;

/// Seconds over which the retransmit ratio is taken.
const RATIO_WINDOW: f64 = 10.0;

/// Counters with their short names and the labels that tell their kinds apart.
const COUNTERS: [(&str, &str, &[&str]); 9] = [
    ("geophone_tcp_retransmits_total", "retransmits", &["type"]),
    ("geophone_tcp_spurious_retransmits_total", "spurious", &[]),
    ("geophone_tcp_segments_total", "segments", &["direction"]),
    ("geophone_tcp_bytes_total", "bytes", &["direction"]),
    ("geophone_tcp_resets_total", "resets", &["direction"]),
    ("geophone_tcp_zero_windows_total", "zero windows", &["direction"]),
    (
        "geophone_tcp_connections_total",
        "connections",
        &["outcome", "role", "error"],
    ),
    ("geophone_path_route_changes_total", "route changes", &[]),
    ("geophone_path_ecn_ce_total", "congestion marks", &["direction"]),
];

/// Metric and place of the histograms.
const TIMINGS: [&str; 4] = [
    "geophone_tcp_rtt_seconds",
    "geophone_tcp_jitter_seconds",
    "geophone_tcp_connect_seconds",
    "geophone_tcp_accept_seconds",
];

const LIVE: &str = "geophone_tcp_connections";
const HOPS: &str = "geophone_path_hops";
const MTU: &str = "geophone_path_mtu_bytes";

/// Where a metric goes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Slot {
    Live,
    Hops,
    Mtu,
    Timing(usize),
    Counter(usize),
}

/// The place of a metric, if it is about connections.
pub(super) fn slot(metric: &str) -> Option<Slot> {
    match metric {
        LIVE => return Some(Slot::Live),
        HOPS => return Some(Slot::Hops),
        MTU => return Some(Slot::Mtu),
        _ => {}
    }
    let timing = TIMINGS.iter().position(|name| *name == metric).map(Slot::Timing);
    timing.or_else(|| {
        COUNTERS
            .iter()
            .position(|(name, ..)| *name == metric)
            .map(Slot::Counter)
    })
}

/// Labels that tell pairs apart.
const KEY: [&str; 4] = ["subject", "peer", "peer_region", "peer_zone"];

/// Which of them the series of a family do without. All of a metric do without the same.
pub(super) fn left_out(series: &[Series]) -> [bool; 4] {
    let names = series.first().map_or(&[][..], |one| &one.labels.left_out);
    KEY.map(|name| names.contains(&name))
}

impl Slot {
    /// Whether it is about a way, not about connections: nobody may be on it by now.
    pub(super) fn is_way(self) -> bool {
        matches!(self, Self::Hops | Self::Mtu)
    }

    /// The first of those that a snapshot has says what tells pairs apart.
    pub(super) fn order(self) -> usize {
        match self {
            Self::Live => 0,
            Self::Counter(i) => 1 + i,
            Self::Timing(i) => 1 + COUNTERS.len() + i,
            Self::Hops | Self::Mtu => usize::MAX,
        }
    }
}

/// Writes the key of the pair that a series is about. Labels hold no control characters.
pub(super) fn key(labels: &Labels, out: &mut String) {
    out.clear();
    for part in [
        labels.subject(),
        labels.peer(),
        label(labels, "peer_region"),
        label(labels, "peer_zone"),
    ] {
        out.push_str(part);
        out.push('\n');
    }
    if labels.overflow {
        out.push('+');
    }
}

#[derive(Clone, Debug, Default)]
struct Kind {
    counter: usize,
    name: String,
    meter: Meter,
    touched: bool,
}

/// State of one pair.
#[derive(Clone, Debug, Default)]
pub(super) struct Pair {
    row: PairRow,
    live: f64,
    timings: [Timing; 4],
    kinds: Vec<Kind>,
    ratio: VecDeque<(f64, f64, f64)>,
    history: History,
    /// The snapshot had a series of it.
    pub touched: bool,
}

impl Pair {
    /// A pair that has not been seen before.
    pub fn new(labels: &Labels) -> Self {
        let row = PairRow {
            subject: labels.subject().to_owned(),
            peer: labels.peer().to_owned(),
            peer_region: label(labels, "peer_region").to_owned(),
            peer_zone: label(labels, "peer_zone").to_owned(),
            overflow: labels.overflow,
            ..PairRow::default()
        };
        Self {
            row,
            ..Self::default()
        }
    }

    /// Before the series of a snapshot are taken.
    pub fn begin(&mut self) {
        self.touched = false;
        self.live = 0.0;
        for kind in &mut self.kinds {
            kind.touched = false;
        }
        for timing in &mut self.timings {
            timing.delta = Default::default();
        }
    }

    /// Takes a series. `scratch` spares an allocation for each.
    pub fn take(&mut self, slot: Slot, series: &Series, clock: &Clock, scratch: &mut String) {
        self.touched |= !slot.is_way();
        let labels = &series.labels;
        match (slot, &series.value) {
            (Slot::Live, _) => self.live = number(series),
            (Slot::Hops, _) => self.row.hops = Some(number(series) as u8),
            (Slot::Mtu, _) => self.row.mtu = Some(number(series) as u32),
            (Slot::Timing(i), Value::Histogram(h)) => {
                if let Some(timing) = self.timings.get_mut(i) {
                    timing.update(h, labels.start_unix_nanos, clock);
                }
            }
            (Slot::Timing(_), _) => {}
            (Slot::Counter(counter), _) => {
                scratch.clear();
                for name in COUNTERS.get(counter).map_or(&[][..], |(_, _, labels)| labels) {
                    let value = label(labels, name);
                    if !value.is_empty() && value != "none" {
                        scratch.push_str(if scratch.is_empty() { "" } else { " " });
                        scratch.push_str(value);
                    }
                }
                self.kind(counter, scratch)
                    .meter
                    .update(number(series), labels, clock);
            }
        }
    }

    fn kind(&mut self, counter: usize, name: &str) -> &mut Kind {
        let at = self
            .kinds
            .iter()
            .position(|k| k.counter == counter && k.name == name)
            .unwrap_or_else(|| {
                self.kinds.push(Kind {
                    counter,
                    name: name.to_owned(),
                    ..Kind::default()
                });
                self.kinds.len() - 1
            });
        let kind = &mut self.kinds[at];
        kind.touched = true;
        kind
    }

    /// Empties it before it becomes the sum of all pairs.
    pub fn clear(&mut self) {
        self.begin();
        self.kinds.clear();
        self.timings.iter_mut().for_each(Timing::clear);
    }

    /// The sum of all pairs to a region, before the first is added.
    pub fn of_region(region: &str) -> Self {
        let row = PairRow {
            peer_region: region.to_owned(),
            ..PairRow::default()
        };
        Self {
            row,
            ..Self::default()
        }
    }

    /// Region of the peer.
    pub fn region(&self) -> &str {
        &self.row.peer_region
    }

    /// Adds another pair; histograms exactly.
    pub fn absorb(&mut self, other: &Self) {
        self.touched = true;
        self.live += other.live;
        for kind in &other.kinds {
            self.kind(kind.counter, &kind.name).meter.absorb(&kind.meter);
        }
        self.timings
            .iter_mut()
            .zip(&other.timings)
            .for_each(|(mine, theirs)| mine.absorb(theirs));
    }

    /// After the series of a snapshot have been taken.
    pub fn finish(&mut self, clock: &Clock) {
        self.kinds.retain(|k| k.touched);
        self.timings.iter_mut().for_each(|t| t.finish(clock));
        let (again, sent) = (self.grown("retransmits", ""), self.grown("segments", "transmit"));
        self.ratio.push_back((clock.now, again, sent));
        // Half a second of grace for a tick that came late.
        let from = clock.now - RATIO_WINDOW + 0.5;
        self.ratio.retain(|(at, ..)| (from..=clock.now).contains(at));
        self.history.push(self.grown("bytes", "") / clock.seconds, clock);
    }

    fn of<'a>(&'a self, name: &'a str, kind: &'a str) -> impl Iterator<Item = &'a Meter> {
        let counter = COUNTERS.iter().position(|(_, short, _)| *short == name);
        let wanted = move |k: &&Kind| Some(k.counter) == counter && k.name.starts_with(kind);
        self.kinds.iter().filter(wanted).map(|k| &k.meter)
    }

    fn grown(&self, name: &str, kind: &str) -> f64 {
        sum(self.of(name, kind).map(|m| m.delta))
    }

    /// How busy it was in the last minute.
    pub fn activity(&self) -> f64 {
        self.history.sum() + self.live
    }

    /// What is shown of it.
    pub fn row(&self, clock: &Clock) -> PairRow {
        let rate = |name, kind| self.grown(name, kind) / clock.seconds;
        let (again, sent) = self
            .ratio
            .iter()
            .fold((0.0, 0.0), |(a, s), (_, again, sent)| (a + again, s + sent));
        let [rtt, jitter, connect, accept] = &self.timings;
        let mut counters: Vec<Counter> = self
            .kinds
            .iter()
            .filter(|k| k.meter.total > 0.0)
            .map(|k| Counter {
                name: COUNTERS
                    .get(k.counter)
                    .map_or("", |(_, short, _)| short)
                    .to_owned(),
                kind: k.name.clone(),
                total: k.meter.total as u64,
                rate: k.meter.rate(clock),
            })
            .collect();
        let order = |c: &Counter| COUNTERS.iter().position(|(_, short, _)| *short == c.name);
        counters.sort_by(|a, b| order(a).cmp(&order(b)).then_with(|| a.kind.cmp(&b.kind)));
        PairRow {
            connections: self.live.max(0.0) as u64,
            rtt: rtt.latency(clock),
            jitter: jitter.latency(clock),
            connect: connect.latency(clock),
            accept: accept.latency(clock),
            rtt_since_start: Distribution::from(&*rtt.value),
            retransmit_ratio: (sent > 0.0).then(|| again / sent),
            receive_rate: rate("bytes", "receive"),
            transmit_rate: rate("bytes", "transmit"),
            history: self.history.points(),
            opened_rate: rate("connections", "opened"),
            failed_rate: rate("connections", "failed"),
            resets_rate: rate("resets", ""),
            resets: sum(self.of("resets", "").map(|m| m.total)) as u64,
            counters,
            ..self.row.clone()
        }
    }
}

#[cfg(test)]
#[path = "pairs_tests.rs"]
mod tests;
