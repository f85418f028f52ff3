//! What became of every export.

use crate::aggregate::{Collect, Family, Kind, Label, Labels, Metric, Series, Stability, Value};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

static EXPORTER: Label = Label {
    prometheus: "exporter",
    otlp: "geophone.exporter",
    help: "Exporter: otlp for metrics, otlp_profiles, otlp_logs, otlp_traces, remote_write",
};
static OUTCOME: Label = Label {
    prometheus: "outcome",
    otlp: "geophone.outcome",
    help: "sent: all accepted; partial: the collector rejected some; dropped: some or all given up",
};
static REASON: Label = Label {
    prometheus: "reason",
    otlp: "geophone.reason",
    help: "queue_full: the receiver was too slow; permanent: it refused; expired: it did not answer in time; \
           partial: it rejected some of an export; shutdown: the agent ended",
};

macro_rules! metrics {
    ($($name:ident: $prometheus:literal, $otlp:literal, $unit:literal, $kind:ident, [$($label:expr),*], $help:literal;)*) => {
        $(
            #[doc = $help]
            pub static $name: Metric = Metric {
                name: $prometheus,
                otlp: $otlp,
                unit: $unit,
                kind: Kind::$kind,
                help: $help,
                labels: &[&EXPORTER, $($label),*],
                stability: Stability::Stable,
            };
        )*
        /// All metrics of the exporters that push.
        pub static METRICS: &[&Metric] = &[$(&$name),*];
    };
}
metrics! {
    BATCHES: "geophone_export_batches_total", "geophone.export.batches", "{batch}", Counter, [&OUTCOME],
        "Exports by what became of them";
    BEGUN: "geophone_export_datapoints_total", "geophone.export.datapoints", "{datapoint}", Counter, [],
        "Data points, profiles of a process, log records or spans, that were to be sent: those sent, dropped and in flight";
    SENT: "geophone_export_datapoints_sent_total", "geophone.export.datapoints.sent", "{datapoint}", Counter, [],
        "Data points, profiles of a process, log records or spans, that the receiver accepted";
    DROPPED: "geophone_export_datapoints_dropped_total", "geophone.export.datapoints.dropped", "{datapoint}", Counter,
        [&REASON], "Data points, profiles of a process, log records or spans, that were given up or rejected";
    IN_FLIGHT: "geophone_export_datapoints_in_flight", "geophone.export.datapoints.in_flight", "{datapoint}", Gauge, [],
        "Data points, profiles of a process, log records or spans, that wait for the receiver or its answer";
    RETRIES: "geophone_export_retries_total", "geophone.export.retries", "{attempt}", Counter, [],
        "Attempts that failed and were to be repeated";
    QUEUE: "geophone_export_queue_batches", "geophone.export.queue", "{batch}", Gauge, [],
        "Exports that wait for the receiver";
}

/// What became of an export; the worst of its requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// All accepted.
    Sent,
    /// Some rejected.
    Partial,
    /// Given up.
    Dropped,
}

/// Why data points were lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Newer exports needed the room.
    QueueFull,
    /// The receiver said that it will never take it.
    Permanent,
    /// Retried for too long.
    Expired,
    /// Rejected from an export that was otherwise accepted.
    Partial,
    /// The agent ended before the receiver answered.
    Shutdown,
}

const OUTCOMES: [&str; 3] = ["sent", "partial", "dropped"];
const REASONS: [&str; 5] = ["queue_full", "permanent", "expired", "partial", "shutdown"];

/// Counters of one exporter.
#[derive(Debug, Default)]
pub struct Stats {
    batches: [AtomicU64; OUTCOMES.len()],
    dropped: [AtomicU64; REASONS.len()],
    begun: AtomicU64,
    sent: AtomicU64,
    in_flight: AtomicU64,
    retries: AtomicU64,
    queue: AtomicU64,
}

fn add(counters: &[AtomicU64], index: usize, n: u64) {
    if let Some(counter) = counters.get(index) {
        counter.fetch_add(n, Relaxed);
    }
}

impl Stats {
    /// Counts an export.
    pub fn batch(&self, outcome: Outcome) {
        add(&self.batches, outcome as usize, 1);
    }

    /// Exports so far with this outcome.
    pub fn batches(&self, outcome: Outcome) -> u64 {
        self.batches.get(outcome as usize).map_or(0, |c| c.load(Relaxed))
    }

    /// Counts data points that are to be sent.
    pub fn begin(&self, points: u64) {
        self.begun.fetch_add(points, Relaxed);
        self.in_flight.fetch_add(points, Relaxed);
    }

    /// Takes note that the fate of data points is known: they are counted as sent or dropped.
    pub fn end(&self, points: u64) {
        self.in_flight.fetch_sub(points, Relaxed);
    }

    /// Takes note of data points that found no room before they came to the queue.
    pub fn never_queued(&self, points: u64) {
        self.begun.fetch_add(points, Relaxed);
        self.dropped(Reason::QueueFull, points);
    }

    /// Data points so far that were to be sent.
    pub fn total_begun(&self) -> u64 {
        self.begun.load(Relaxed)
    }

    /// Data points whose fate is not known.
    pub fn total_in_flight(&self) -> u64 {
        self.in_flight.load(Relaxed)
    }

    /// Counts data points that arrived.
    pub fn sent(&self, points: u64) {
        self.sent.fetch_add(points, Relaxed);
    }

    /// Data points so far that arrived.
    pub fn total_sent(&self) -> u64 {
        self.sent.load(Relaxed)
    }

    /// Counts data points that are lost.
    pub fn dropped(&self, reason: Reason, points: u64) {
        add(&self.dropped, reason as usize, points);
    }

    /// Data points lost so far for this reason.
    pub fn total_dropped(&self, reason: Reason) -> u64 {
        self.dropped.get(reason as usize).map_or(0, |c| c.load(Relaxed))
    }

    /// Counts an attempt that will be repeated.
    pub fn retry(&self) {
        self.retries.fetch_add(1, Relaxed);
    }

    /// Attempts so far that were to be repeated.
    pub fn retries(&self) -> u64 {
        self.retries.load(Relaxed)
    }

    /// Says how many exports wait.
    pub fn queue(&self, batches: usize) {
        self.queue.store(batches as u64, Relaxed);
    }
}

/// Makes the families; keeps the labels, which are encoded once.
#[derive(Default)]
pub struct StatsCollect {
    exporters: Vec<Exporter>,
}

struct Exporter {
    stats: Arc<Stats>,
    outcomes: Vec<Arc<Labels>>,
    reasons: Vec<Arc<Labels>>,
    plain: Arc<Labels>,
}

impl StatsCollect {
    /// Adds the counters of an exporter.
    pub fn add(&mut self, exporter: &str, stats: Arc<Stats>, start_unix_nanos: u64) {
        let new = |metric: &'static Metric, value: &str| {
            Arc::new(Labels::new(
                metric.labels,
                &[exporter, value],
                false,
                start_unix_nanos,
            ))
        };
        self.exporters.push(Exporter {
            stats,
            outcomes: OUTCOMES.iter().map(|o| new(&BATCHES, o)).collect(),
            reasons: REASONS.iter().map(|r| new(&DROPPED, r)).collect(),
            plain: new(&SENT, ""),
        });
    }
}

impl Collect for StatsCollect {
    fn collect(&mut self, out: &mut Vec<Family>) {
        let exporters = &self.exporters;
        if exporters.is_empty() {
            return;
        }
        let series = |labels: &Arc<Labels>, value| Series {
            labels: labels.clone(),
            value,
        };
        let counters =
            |metric, of: fn(&Stats) -> &[AtomicU64], names: fn(&Exporter) -> &[Arc<Labels>]| Family {
                metric,
                series: exporters
                    .iter()
                    .flat_map(|e| of(&e.stats).iter().zip(names(e)))
                    .map(|(c, l)| series(l, Value::Counter(c.load(Relaxed))))
                    .collect(),
            };
        let plain = |metric, of: fn(&Stats) -> Value| Family {
            metric,
            series: exporters.iter().map(|e| series(&e.plain, of(&e.stats))).collect(),
        };
        out.extend([
            counters(&BATCHES, |s| &s.batches, |e| &e.outcomes),
            plain(&BEGUN, |s| Value::Counter(s.total_begun())),
            plain(&SENT, |s| Value::Counter(s.total_sent())),
            counters(&DROPPED, |s| &s.dropped, |e| &e.reasons),
            plain(&IN_FLIGHT, |s| Value::Gauge(s.total_in_flight() as f64)),
            plain(&RETRIES, |s| Value::Counter(s.retries())),
            plain(&QUEUE, |s| Value::Gauge(s.queue.load(Relaxed) as f64)),
        ]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_outcome_and_reason_is_a_series_from_the_start() {
        let stats = Arc::new(Stats::default());
        stats.batch(Outcome::Partial);
        stats.dropped(Reason::Shutdown, 7);
        stats.queue(3);
        let mut families = Vec::new();
        let mut collect = StatsCollect::default();
        collect.add("otlp", stats, 1);
        collect.add("otlp_profiles", Arc::default(), 1);
        collect.collect(&mut families);
        let declared: Vec<_> = METRICS.iter().map(|m| m.name).collect();
        assert_eq!(
            families.iter().map(|f| f.metric.name).collect::<Vec<_>>(),
            declared
        );
        let snapshot = crate::aggregate::Snapshot {
            families,
            ..Default::default()
        };
        let mut text = Vec::new();
        crate::export::prometheus::encode(&snapshot, crate::export::prometheus::Format::Text, &mut text);
        let text = String::from_utf8(text).unwrap();
        for line in [
            "geophone_export_batches_total{exporter=\"otlp\",outcome=\"sent\"} 0\n",
            "geophone_export_batches_total{exporter=\"otlp\",outcome=\"partial\"} 1\n",
            "geophone_export_datapoints_dropped_total{exporter=\"otlp\",reason=\"shutdown\"} 7\n",
            "geophone_export_queue_batches{exporter=\"otlp\"} 3.0\n",
            "geophone_export_queue_batches{exporter=\"otlp_profiles\"} 0.0\n",
        ] {
            assert!(text.contains(line), "{text}");
        }
    }
}
