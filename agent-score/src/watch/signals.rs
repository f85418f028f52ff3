//! What entities are judged by: eight signals of a peer, which are watched anyway, and eight of a subject, which are asked for.

use super::{Ask, Round, Watch, single};
use crate::anomaly::Millis;
use agent_store::labels::Labels;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Signals of an entity; NaN = there is none.
pub(super) type Signals = [f64; 8];

/// What an entity is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) enum Kind {
    Peer,
    Subject,
}

/// A kind, and the name of one of it.
pub(super) type Key = (Kind, String);

/// One of the eight.
struct Signal {
    /// Name of a watch, or of a query of [`QUERIES`].
    of: &'static str,
    /// The label that tells two of one apart.
    direction: &'static str,
    /// Whether it is 0 where there is none, if there is any other.
    is_zero: bool,
    /// Whether it says how busy an entity is.
    is_work: bool,
}

const fn signal(of: &'static str) -> Signal {
    Signal {
        of,
        direction: "",
        is_zero: false,
        is_work: false,
    }
}

const fn count(of: &'static str) -> Signal {
    Signal {
        is_zero: true,
        ..signal(of)
    }
}

const fn work(of: &'static str, direction: &'static str) -> Signal {
    Signal {
        direction,
        is_work: true,
        ..signal(of)
    }
}

const OF_PEERS: [Signal; 8] = [
    signal("tcp_rtt_median"),
    signal("tcp_rtt_p99"),
    signal("tcp_retransmit_ratio"),
    signal("tcp_opened"),
    signal("tcp_failed"),
    signal("tcp_resets"),
    work("tcp_bytes", "receive"),
    work("tcp_bytes", "transmit"),
];

const OF_SUBJECTS: [Signal; 8] = [
    work("subject_cpu", ""),
    signal("subject_runqueue_p99"),
    signal("subject_tcp_rtt_median"),
    count("subject_tcp_retransmit_ratio"),
    count("subject_tcp_failed"),
    count("subject_drops"),
    work("subject_tcp_bytes", "receive"),
    work("subject_tcp_bytes", "transmit"),
];

/// What is asked of subjects, with `$W` for the window: as little as will do, for it costs more than the forests. Where there is too
/// little traffic for a share, there is none.
const QUERIES: [(&str, &str); 7] = [
    (
        "subject_cpu",
        "sum by (subject) (rate(geophone_sched_cpu_seconds_total$W))",
    ),
    (
        "subject_runqueue_p99",
        "histogram_quantile(0.99, sum by (subject) (rate(geophone_sched_runqueue_seconds$W)))",
    ),
    (
        "subject_tcp_rtt_median",
        "histogram_quantile(0.5, sum by (subject) (rate(geophone_tcp_rtt_seconds$W)))",
    ),
    (
        "subject_tcp_retransmit_ratio",
        "sum by (subject) (rate(geophone_tcp_retransmits_total$W)) \
         / (sum by (subject) (rate(geophone_tcp_segments_total{direction=\"transmit\"}$W)) > 5)",
    ),
    (
        "subject_tcp_failed",
        "sum by (subject) (rate(geophone_tcp_connections_total{outcome=\"failed\"}$W))",
    ),
    (
        "subject_tcp_bytes",
        "sum by (subject, direction) (rate(geophone_tcp_bytes_total$W))",
    ),
    (
        "subject_drops",
        "sum by (subject) (rate(geophone_drops_packets_total$W))",
    ),
];

impl Kind {
    pub const ALL: [Self; 2] = [Self::Peer, Self::Subject];

    /// The label that names one of it.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Peer => "peer",
            Self::Subject => "subject",
        }
    }

    const fn signals(self) -> &'static [Signal; 8] {
        match self {
            Self::Peer => &OF_PEERS,
            Self::Subject => &OF_SUBJECTS,
        }
    }

    /// The entity of this kind that a series is of.
    pub fn key(self, labels: &Labels) -> Option<Key> {
        let name = labels.get(self.label());
        (!name.is_empty()).then(|| (self, name.to_owned()))
    }
}

/// What is asked for, and why it could not be answered last.
pub(super) struct Asked(Vec<Query>);

struct Query {
    name: &'static str,
    expr: String,
    failed: Option<String>,
}

impl Asked {
    /// For this interval in milliseconds.
    pub fn new(interval: Millis) -> Self {
        let window = format!("[{}ms]", super::defaults::window(interval));
        let all = QUERIES.into_iter().map(|(name, expr)| Query {
            name,
            expr: expr.replace("$W", &window),
            failed: None,
        });
        Self(all.collect())
    }

    /// Those whose latest answer there was none, and why.
    pub fn failed(&self) -> impl Iterator<Item = (&str, &str)> {
        let all = self.0.iter();
        all.filter_map(|query| Some((query.name, query.failed.as_deref()?)))
    }

    /// The signals of each entity that there is now, and how many questions were not answered. Who has fewer than half of the
    /// signals is none.
    pub fn signals(
        &mut self,
        at: Millis,
        watches: &[Watch],
        ask: &mut Ask,
        round: &mut Round,
    ) -> (BTreeMap<Key, Signals>, u64) {
        let mut all = BTreeMap::new();
        for watch in watches {
            for (labels, series) in watch.series.iter().filter(|(_, series)| series.at == at) {
                take(&mut all, Kind::Peer, &watch.definition.name, labels, series.value);
            }
        }
        let mut failures = 0;
        for query in &mut self.0 {
            match ask(&query.expr).and_then(single) {
                Ok(values) => {
                    query.failed = None;
                    for (labels, value) in &values {
                        take(&mut all, Kind::Subject, query.name, labels, *value);
                    }
                }
                Err(why) => {
                    failures += 1;
                    if query.failed.as_ref() != Some(&why) {
                        round.failed.push((query.name.to_owned(), why.clone()));
                    }
                    query.failed = Some(why);
                }
            }
        }
        for ((kind, _), signals) in &mut all {
            for (signal, value) in kind.signals().iter().zip(signals) {
                let is_unanswered = self.failed().any(|(name, _)| name == signal.of);
                if signal.is_zero && value.is_nan() && !is_unanswered {
                    *value = 0.0;
                }
            }
        }
        all.retain(|_, signals| 2 * there(signals) >= signals.len());
        (all, failures)
    }
}

/// How many signals there are.
pub(super) fn there(signals: &Signals) -> usize {
    signals.iter().filter(|signal| signal.is_finite()).count()
}

/// Takes a value that may be a signal.
fn take(all: &mut BTreeMap<Key, Signals>, kind: Kind, of: &str, labels: &Labels, value: f64) {
    let direction = labels.get("direction");
    let mut signals = kind.signals().iter();
    let place = signals.position(|signal| signal.of == of && signal.direction == direction);
    if let (Some(place), Some(key)) = (place, kind.key(labels)) {
        let signals = all.entry(key).or_insert([f64::NAN; 8]);
        if let Some(signal) = signals.get_mut(place) {
            *signal = value;
        }
    }
}

/// How busy each is: its shares of what all of its kind do, added up over what counts as work.
pub(super) fn shares(all: &BTreeMap<Key, Signals>) -> BTreeMap<&Key, f64> {
    let mut shares: BTreeMap<&Key, f64> = all.keys().map(|key| (key, 0.0)).collect();
    for kind in Kind::ALL {
        let work = kind
            .signals()
            .iter()
            .enumerate()
            .filter(|(_, signal)| signal.is_work);
        for (place, _) in work {
            let of_kind = all.iter().filter(|((of, _), _)| *of == kind);
            let values = of_kind.filter_map(|(key, signals)| Some((key, *signals.get(place)?)));
            let values: Vec<(&Key, f64)> = values.filter(|(_, value)| *value > 0.0).collect();
            let sum: f64 = values.iter().map(|(_, value)| value).sum();
            for (key, value) in values {
                *shares.entry(key).or_default() += value / sum;
            }
        }
    }
    shares
}
