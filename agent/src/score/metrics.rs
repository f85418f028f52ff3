//! What is exported of the watched series.

use super::board::{CHANGE, DETECTORS, WATCH};
use super::live::Anomalies;
use crate::aggregate::{Collect, Family, Label, Labels, Metric, Series, Value, label, metrics};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

static STATE: Label = Label {
    prometheus: "state",
    otlp: "geophone.anomaly.state",
    help: "learning: nothing is said yet; judged; refused: there was no room (anomaly.series, anomaly.entities)",
};

metrics! {
    /// Values.
    VALUE = "geophone_anomaly_value", "geophone.anomaly.value", "1", Gauge, &[&WATCH],
        "What a watched series was at the latest evaluation, in its own unit";
    /// Lower end of the band.
    LOWER = "geophone_anomaly_lower", "geophone.anomaly.lower", "1", Gauge, &[&WATCH],
        "Lower end of what was expected of it";
    /// Upper end of the band.
    UPPER = "geophone_anomaly_upper", "geophone.anomaly.upper", "1", Gauge, &[&WATCH],
        "Upper end of what was expected of it";
    /// Scores.
    SCORE = "geophone_anomaly_score", "geophone.anomaly.score", "1", Gauge, &[&WATCH],
        "How unusual it is, 0 to 1; from 0.5 on it is an anomaly. No series while it is learned";
    /// How much has been learned.
    LEARNED = "geophone_anomaly_learned_ratio", "geophone.anomaly.learned", "1", Gauge, &[&WATCH],
        "How much of what must be seen of a series has been; no series when all of it has";
    /// Anomalies.
    ACTIVE = "geophone_anomaly_active", "geophone.anomaly.active", "1", Gauge, &[&WATCH, &CHANGE, &DETECTORS],
        "1 while a watched series, or an entity (watch entity), is an anomaly; no series otherwise";
    /// Their beginning.
    SINCE = "geophone_anomaly_since_timestamp_seconds", "geophone.anomaly.since", "s", Gauge, &[&WATCH, &CHANGE, &DETECTORS],
        "Since when it is one, seconds since the Unix epoch";
    /// Scores of entities.
    ENTITY = "geophone_anomaly_entity_score", "geophone.anomaly.entity.score", "1", Gauge, &[&label::PEER, &label::SUBJECT, &WATCH],
        "How unusual all signals of a peer, or of a subject, are together (isolation forest), 0 to 1; no series while it is learned";
    /// Counts.
    WATCHED = "geophone_anomaly_series", "geophone.anomaly.series", "{series}", Gauge, &[&STATE],
        "Watched series, and those that the latest evaluation had and for which there was no room";
    /// Counts of entities.
    ENTITIES = "geophone_anomaly_entities", "geophone.anomaly.entities", "{entity}", Gauge, &[&STATE],
        "Peers and subjects that are judged by all their signals together, and those for which there was no room";
    /// Anomalies found.
    FOUND = "geophone_anomaly_found_total", "geophone.anomaly.found", "{anomaly}", Counter, &[],
        "Anomalies that have begun";
    /// Anomalies forgotten.
    FORGOTTEN = "geophone_anomaly_forgotten_total", "geophone.anomaly.forgotten", "{anomaly}", Counter, &[],
        "Anomalies that are told no more although they last, because 256 came after them";
    /// Evaluations.
    EVALUATIONS = "geophone_anomaly_evaluations_total", "geophone.anomaly.evaluations", "{evaluation}", Counter, &[],
        "Evaluations of all watches";
    /// Evaluations left out.
    MISSED = "geophone_anomaly_missed_total", "geophone.anomaly.missed", "{evaluation}", Counter, &[],
        "Evaluations that were left out, because an earlier one took too long";
    /// Failed queries.
    FAILURES = "geophone_anomaly_failures_total", "geophone.anomaly.failures", "{evaluation}", Counter, &[],
        "Evaluations of one watch that failed; /api/v1/anomalies says why";
    /// Baselines.
    UNSAVED = "geophone_anomaly_baseline_failures_total", "geophone.anomaly.baseline.failures", "{failure}", Counter, &[],
        "Times that the baselines could not be written or read; the log says why";
    /// CPU.
    CPU = "geophone_anomaly_cpu_seconds_total", "geophone.anomaly.cpu.time", "s", Counter, &[],
        "CPU time of all evaluations, queries included; it is part of the agent's own";
    /// Lag.
    LAG = "geophone_anomaly_lag_seconds", "geophone.anomaly.lag", "s", Gauge, &[],
        "From the latest sample to what was said of it";
}

/// Makes the families.
pub struct StatsCollect {
    anomalies: Arc<Anomalies>,
    none: Arc<Labels>,
    states: [Arc<Labels>; 3],
}

impl StatsCollect {
    /// Of these.
    pub fn new(anomalies: Arc<Anomalies>, start_unix_nanos: u64) -> Self {
        let state = |state| Arc::new(Labels::new(WATCHED.labels, &[state], false, start_unix_nanos));
        Self {
            anomalies,
            none: Arc::new(Labels::new(&[], &[], false, start_unix_nanos)),
            states: ["learning", "judged", "refused"].map(state),
        }
    }
}

impl Collect for StatsCollect {
    fn collect(&mut self, out: &mut Vec<Family>) {
        let board = self.anomalies.board();
        let exported = &board.exported;
        let families = [
            (&VALUE, &exported.value),
            (&LOWER, &exported.lower),
            (&UPPER, &exported.upper),
            (&SCORE, &exported.score),
            (&LEARNED, &exported.learned),
            (&ACTIVE, &exported.active),
            (&SINCE, &exported.since),
            (&ENTITY, &exported.entity_score),
        ];
        out.extend(families.into_iter().map(|(metric, series)| Family {
            metric,
            series: series.clone(),
        }));
        let counts = &board.counts;
        let by_state = |metric: &'static Metric, counts: [Option<usize>; 3]| Family {
            metric,
            series: self
                .states
                .iter()
                .zip(counts)
                .filter_map(|(labels, count)| {
                    Some(Series {
                        labels: labels.clone(),
                        value: Value::Gauge(count? as f64),
                    })
                })
                .collect(),
        };
        out.push(by_state(
            &WATCHED,
            [Some(counts.learning), Some(counts.judged), Some(counts.refused)],
        ));
        out.push(by_state(
            &ENTITIES,
            [None, Some(counts.entities), Some(counts.entities_refused)],
        ));
        let one = |metric: &'static Metric, value: Value| Family {
            metric,
            series: vec![Series {
                labels: self.none.clone(),
                value,
            }],
        };
        let counters = &self.anomalies.counters;
        let count = |counter: &AtomicU64| Value::Counter(counter.load(Relaxed));
        out.extend([
            one(&FOUND, count(&counters.begun)),
            one(&FORGOTTEN, count(&counters.forgotten)),
            one(&EVALUATIONS, count(&counters.evaluations)),
            one(&MISSED, count(&counters.missed)),
            one(&FAILURES, count(&counters.failures)),
            one(&UNSAVED, count(&counters.unsaved)),
        ]);
        if self.anomalies.is_live {
            out.extend([
                one(&CPU, Value::CounterF(counters.nanos.load(Relaxed) as f64 / 1e9)),
                one(&LAG, Value::Gauge(counters.lag_micros.load(Relaxed) as f64 / 1e6)),
            ]);
        }
    }
}
