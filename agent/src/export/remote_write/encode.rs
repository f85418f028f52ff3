//! From snapshots to requests. A series that is in no snapshot any more is told to have ended.

use super::message::{Message, Point, Row};
use crate::aggregate::{Labels, Metric, Snapshot, Value};
use crate::export::prometheus::Scraped;
use crate::export::push::Part;
use agent_store::labels;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

/// Which series of a snapshot: its metric and its labels, by address. The labels are held as long as the address is a key, so
/// that no others can be there.
type Key = (usize, usize);

/// A series that was sent.
struct Known {
    metric: &'static Metric,
    labels: Arc<Labels>,
    /// As the receiver knows it.
    identity: labels::Labels,
    tick: u64,
}

/// Knows what was sent.
pub(super) struct Encoder {
    protocol: u8,
    scraped: Scraped,
    known: HashMap<Key, Known>,
    /// `up` and `target_info`, which no family has.
    constant: Vec<(&'static Metric, labels::Labels)>,
    /// Time of the last snapshot.
    last: i64,
}

const fn millis(unix_nanos: u64) -> i64 {
    (unix_nanos / 1_000_000) as i64
}

impl Encoder {
    pub(super) fn new(protocol: u8, instance: &str, external: &BTreeMap<String, String>) -> Self {
        Self {
            protocol,
            scraped: Scraped::new(instance, external),
            known: HashMap::new(),
            constant: Vec::new(),
            last: 0,
        }
    }

    /// The requests that say all of a snapshot.
    pub(super) fn encode(&mut self, snapshot: &Snapshot) -> Vec<Part> {
        let mut message = Message::new(self.protocol);
        let (tick, time) = (snapshot.tick, millis(snapshot.unix_nanos));
        self.last = time;
        if self.constant.is_empty() {
            self.constant = self.scraped.constant(snapshot).into();
        }
        for (metric, identity) in &self.constant {
            message.push(&Row {
                metric,
                identity,
                start: 0,
                time,
                point: Point::Number(1.0),
            });
        }
        for family in &snapshot.families {
            for series in &family.series {
                let key = (
                    std::ptr::from_ref(family.metric).addr(),
                    Arc::as_ptr(&series.labels).addr(),
                );
                let known = self.known.entry(key).or_insert_with(|| Known {
                    metric: family.metric,
                    labels: series.labels.clone(),
                    identity: self.scraped.labels(family.metric, &series.labels),
                    tick,
                });
                known.tick = tick;
                message.push(&Row {
                    metric: known.metric,
                    identity: &known.identity,
                    start: millis(known.labels.start_unix_nanos),
                    time,
                    point: match &series.value {
                        Value::Counter(count) => Point::Number(*count as f64),
                        Value::CounterF(value) | Value::Gauge(value) => Point::Number(*value),
                        Value::Histogram(histogram) => Point::Histogram(histogram),
                    },
                });
            }
        }
        let ended: Vec<Known> = self
            .known
            .extract_if(|_, known| known.tick != tick)
            .map(|(_, known)| known)
            .collect();
        if !ended.is_empty() {
            // Labels may have been made anew for a series that goes on.
            let living: HashSet<_> = self.known.values().map(|known| &known.identity).collect();
            for known in ended.iter().filter(|known| !living.contains(&known.identity)) {
                message.push(&Row::ended(known.metric, &known.identity, time));
            }
        }
        message.finish()
    }

    /// The requests that say of every series that it has ended.
    pub(super) fn end(&mut self) -> Vec<Part> {
        let mut message = Message::new(self.protocol);
        let time = self.last + 1;
        for (metric, identity) in self.constant.drain(..) {
            message.push(&Row::ended(metric, &identity, time));
        }
        for (_, known) in self.known.drain() {
            message.push(&Row::ended(known.metric, &known.identity, time));
        }
        message.finish()
    }
}
