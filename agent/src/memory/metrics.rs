//! What the store says of itself.

use super::Memory;
use crate::aggregate::{Collect, Family, Label, Labels, Metric, Series, Value, metrics};
use std::sync::Arc;

static PLACE: Label = Label {
    prometheus: "place",
    otlp: "geophone.store.place",
    help: "disk or memory",
};
static REASON: Label = Label {
    prometheus: "reason",
    otlp: "geophone.reason",
    help: "Why: refused (its series has a sample of that moment already, or is forgotten), no_room (memory was full before a block could be written)",
};

metrics! {
    /// Live series.
    SERIES = "geophone_store_series", "geophone.store.series", "{series}", Gauge, &[],
        "Series that get samples";
    /// All samples.
    SAMPLES = "geophone_store_samples", "geophone.store.samples", "{sample}", Gauge, &[],
        "Samples that can be asked for; a native histogram is one, a rollup as well";
    /// Bytes.
    BYTES = "geophone_store_bytes", "geophone.store.size", "By", Gauge, &[&PLACE],
        "What the store takes";
    /// Samples taken.
    APPENDED = "geophone_store_appended_total", "geophone.store.appended", "{sample}", Counter, &[],
        "Samples that the store took";
    /// Samples not taken or lost.
    DROPPED = "geophone_store_dropped_total", "geophone.store.dropped", "{sample}", Counter, &[&REASON],
        "Samples that the store does not have";
    /// Samples at risk.
    UNLOGGED = "geophone_store_unlogged_total", "geophone.store.unlogged", "{sample}", Counter, &[],
        "Samples that could not be written to the log: they are there, but gone if the agent dies before their block is written";
    /// Series refused.
    REFUSED = "geophone_store_series_refused_total", "geophone.store.series.refused", "{series}", Counter, &[],
        "Times that a new series found no room in store.memory; it is asked for again each second";
    /// Ticks that came too late.
    LATE = "geophone_store_late_ticks_total", "geophone.store.ticks.late", "{tick}", Counter, &[],
        "Seconds that were stored a little later than the clock said, because it had been set back";
    /// Ticks not stored.
    MISSED = "geophone_store_missed_ticks_total", "geophone.store.ticks.missed", "{tick}", Counter, &[],
        "Seconds that were not stored, because storing an earlier one took too long";
    /// Failed writes.
    FAILURES = "geophone_store_write_failures_total", "geophone.store.write.failures", "{write}", Counter, &[],
        "Writes that failed, e.g. because the disk is full; each is tried again";
    /// Damage.
    DAMAGED = "geophone_store_damaged_total", "geophone.store.damaged", "{part}", Counter, &[],
        "Parts of blocks and of the log that could not be read and are left out; the log of the agent names them";
}

/// Makes the families.
pub struct StatsCollect {
    memory: Arc<Memory>,
    none: Arc<Labels>,
    places: [Arc<Labels>; 2],
    reasons: [Arc<Labels>; 2],
    /// The latest finding that was logged.
    told: Option<String>,
}

impl StatsCollect {
    /// Of a store.
    pub fn new(memory: Arc<Memory>, start_unix_nanos: u64) -> Self {
        let new = |declared, value: &[&str]| Arc::new(Labels::new(declared, value, false, start_unix_nanos));
        Self {
            memory,
            none: new(&[], &[]),
            places: ["disk", "memory"].map(|place| new(BYTES.labels, &[place])),
            reasons: ["refused", "no_room"].map(|reason| new(DROPPED.labels, &[reason])),
            told: None,
        }
    }
}

impl Collect for StatsCollect {
    fn collect(&mut self, out: &mut Vec<Family>) {
        let stats = self.memory.stats();
        if let Some(finding) = stats
            .findings
            .last()
            .filter(|latest| self.told.as_ref() != Some(latest))
        {
            tracing::warn!("store: {finding}");
            self.told = Some(finding.clone());
        }
        let family = |metric: &'static Metric, series: Vec<(&Arc<Labels>, Value)>| Family {
            metric,
            series: series
                .into_iter()
                .map(|(labels, value)| Series {
                    labels: labels.clone(),
                    value,
                })
                .collect(),
        };
        let one = |metric, value| family(metric, vec![(&self.none, value)]);
        let [disk, memory] = &self.places;
        let [refused, no_room] = &self.reasons;
        out.extend([
            one(&SERIES, Value::Gauge(stats.live_series as f64)),
            one(&SAMPLES, Value::Gauge(stats.samples as f64)),
            family(
                &BYTES,
                vec![
                    (disk, Value::Gauge(stats.disk_bytes as f64)),
                    (memory, Value::Gauge(stats.memory_bytes as f64)),
                ],
            ),
            one(&APPENDED, Value::Counter(stats.appended)),
            family(
                &DROPPED,
                vec![
                    (refused, Value::Counter(stats.refused)),
                    (no_room, Value::Counter(stats.lost)),
                ],
            ),
            one(&UNLOGGED, Value::Counter(stats.unlogged)),
            one(&REFUSED, Value::Counter(stats.series_refused)),
            one(&LATE, Value::Counter(stats.late_ticks)),
            one(&MISSED, Value::Counter(self.memory.missed())),
            one(&FAILURES, Value::Counter(stats.write_failures)),
            one(&DAMAGED, Value::Counter(stats.damaged)),
        ]);
    }
}
