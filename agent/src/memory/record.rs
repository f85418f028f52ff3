//! From snapshots to samples.

use super::JOB;
use crate::aggregate::{self, Family, HistogramValue, Living, Resource, Series, Snapshot};
use crate::export::prometheus::{self, Scraped};
use agent_common::histogram::otel_index;
use agent_rules::alert::ALERTS_FOR_STATE;
use agent_store::histogram::Histogram;
use agent_store::promql::Options;
use agent_store::series::{Free, Matcher, Millis, STALE};
use agent_store::store::{SeriesRef, Store, Value};
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

/// Resolution of all our histograms.
const SCHEMA: i8 = 3;

/// A series that the store knows.
struct Known {
    series: SeriesRef,
    /// The last histogram, as the snapshot and as the store have it: one that has not changed is not built again.
    histogram: Option<(Arc<HistogramValue>, Arc<Histogram>)>,
}

/// Knows which series of the snapshots are which of the store.
pub struct Recorder {
    instance: Arc<str>,
    scraped: Scraped,
    known: Living<Known>,
    /// `up` and `target_info`, which no family has.
    constant: Vec<SeriesRef>,
    /// That the latter is about.
    resource: Arc<Resource>,
    samples: Vec<(SeriesRef, Value)>,
    /// Samples of rules that go with the next snapshot.
    added: Vec<(SeriesRef, Value)>,
    last: Millis,
}

impl Recorder {
    /// For series of this instance.
    pub fn new(instance: &str) -> Self {
        Self {
            instance: instance.into(),
            scraped: Scraped::new(instance, &Default::default()),
            known: Living::default(),
            constant: Vec::new(),
            resource: Arc::default(),
            samples: Vec::new(),
            added: Vec::new(),
            last: 0,
        }
    }

    /// Samples that go with the next snapshot.
    pub(super) fn add(&mut self, samples: BTreeMap<agent_store::labels::Labels, Value>, store: &Store) {
        let found = samples.into_iter();
        self.added
            .extend(found.filter_map(|(labels, value)| Some((store.register(&labels)?, value))));
    }

    /// Stores a snapshot, and answers when it was made. A series that it no longer has ends.
    pub fn record(&mut self, snapshot: &Snapshot, store: &Store) -> Millis {
        let tick = snapshot.tick;
        self.last = (snapshot.unix_nanos / 1_000_000) as Millis;
        self.samples.clear();
        let first = self.constant.is_empty();
        let mut moved = Vec::new();
        if first || !Arc::ptr_eq(&self.resource, &snapshot.resource) {
            let all = self.scraped.constant(snapshot);
            let all = all.iter().map(|(_, labels)| labels);
            let now = all.filter_map(|labels| store.register(labels)).collect();
            moved = std::mem::replace(&mut self.constant, now);
            self.resource = snapshot.resource.clone();
        }
        let constant = self.constant.iter();
        self.samples
            .extend(constant.map(|series| (*series, Value::Float(1.0))));
        for family in &snapshot.families {
            for series in &family.series {
                self.sample(family, series, tick, store);
            }
        }
        self.samples.append(&mut self.added);
        let ended = self.known.ended(tick).into_iter();
        let mut ended: Vec<SeriesRef> = ended.map(|known| known.series).chain(moved).collect();
        if first {
            ended.extend(self.left(store));
        }
        if !ended.is_empty() {
            // Labels may have been made anew for a series that goes on.
            let living: HashSet<SeriesRef> = self.samples.iter().map(|(series, _)| *series).collect();
            let ended = ended.into_iter().filter(|series| !living.contains(series));
            self.samples
                .extend(ended.map(|series| (series, Value::Float(STALE))));
        }
        store.append(self.last, &self.samples);
        // The clock may have been set back: rules look at what is there, not before it.
        self.last = store.last();
        self.last
    }

    /// Says of every series that it has ended.
    pub fn end(mut self, store: &Store) {
        let known = self.known.iter().map(|known| known.series);
        let all = known.chain(self.constant.drain(..));
        let samples: Vec<_> = all.map(|series| (series, Value::Float(STALE))).collect();
        store.append(self.last + 1, &samples);
    }

    /// Series that an earlier agent was writing and could not end, because it was killed: to a query they would live on for
    /// five minutes. Since when alerts are active is meant to outlive it.
    fn left(&self, store: &Store) -> Vec<SeriesRef> {
        let own =
            [("job", JOB), ("instance", &self.instance)].map(|(label, value)| Matcher::equal(label, value));
        let lookback = Options::default().lookback;
        let left = store.series(&own, self.last - lookback, self.last - 1, &Free);
        let left = left.unwrap_or_default();
        let left = left.iter().filter(|labels| labels.name() != ALERTS_FOR_STATE);
        left.filter_map(|labels| store.register(labels)).collect()
    }

    fn sample(&mut self, family: &Family, series: &Series, tick: u64, store: &Store) {
        let known = self.known.of(family.metric, &series.labels, tick, || {
            // A series that there is no memory for is counted by the store, and asked for again.
            let series = store.register(&self.scraped.labels(family.metric, &series.labels))?;
            Some(Known {
                series,
                histogram: None,
            })
        });
        let Some(known) = known else { return };
        let value = match &series.value {
            aggregate::Value::Counter(count) => Value::Float(*count as f64),
            aggregate::Value::CounterF(value) | aggregate::Value::Gauge(value) => Value::Float(*value),
            aggregate::Value::Histogram(value) => {
                let built = match &known.histogram {
                    Some((last, built)) if Arc::ptr_eq(last, value) || last == value => built.clone(),
                    _ => Arc::new(native(value)),
                };
                known.histogram = Some((value.clone(), built.clone()));
                Value::Histogram(built)
            }
        };
        self.samples.push((known.series, value));
    }
}

/// The same buckets that a scrape gets.
pub(super) fn native(value: &HistogramValue) -> Histogram {
    // A bucket of Prometheus ends where the OTel bucket of the same index begins.
    let index = |cell: usize| otel_index(cell + 1) + 1;
    let cells = value.cells.iter().enumerate().filter(|(_, count)| **count > 0);
    Histogram {
        schema: SCHEMA,
        zero_threshold: prometheus::ZERO_THRESHOLD,
        zero_count: value.zero as f64,
        count: value.count as f64,
        sum: value.sum,
        positive: cells.map(|(cell, count)| (index(cell), *count as f64)).collect(),
        ..Histogram::default()
    }
}
