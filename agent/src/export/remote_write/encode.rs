//! From snapshots to requests. A series that is in no snapshot any more is told to have ended.

use super::message::{Message, Point, Row};
use super::settings::{Histograms, RemoteWriteSettings};
use crate::aggregate::{Exemplar, Kind, Living, Metric, Resource, Snapshot, Value};
use crate::export::prometheus::{Exemplars, Scraped, text};
use crate::export::push::Part;
use agent_store::labels;
use agent_store::series::STALE;
use std::collections::HashSet;
use std::sync::Arc;

/// A series that was sent.
struct Known {
    metric: &'static Metric,
    /// As the receiver knows it: a histogram that is sent as classic buckets is many.
    identities: Vec<labels::Labels>,
}

/// Knows what was sent.
pub(super) struct Encoder {
    protocol: u8,
    histograms: Histograms,
    scraped: Scraped,
    known: Living<Known>,
    /// `up` and `target_info`, which no family has.
    constant: Vec<(&'static Metric, labels::Labels)>,
    /// That the latter is about.
    resource: Arc<Resource>,
    /// Time of the last snapshot.
    last: i64,
    /// The same in ns: exemplars that were placed by then have been sent.
    last_nanos: u64,
}

const fn millis(unix_nanos: u64) -> i64 {
    (unix_nanos / 1_000_000) as i64
}

impl Encoder {
    pub(super) fn new(settings: &RemoteWriteSettings, instance: &str) -> Self {
        Self {
            protocol: settings.protocol,
            histograms: settings.histograms,
            scraped: Scraped::new(instance, &settings.external_labels),
            known: Living::default(),
            constant: Vec::new(),
            resource: Arc::default(),
            last: 0,
            last_nanos: 0,
        }
    }

    /// The requests that say all of a snapshot.
    pub(super) fn encode(&mut self, snapshot: &Snapshot) -> Vec<Part> {
        let mut message = Message::new(self.protocol);
        let (tick, time) = (snapshot.tick, millis(snapshot.unix_nanos));
        self.last = time;
        let sent = std::mem::replace(&mut self.last_nanos, snapshot.unix_nanos);
        if self.constant.is_empty() || !Arc::ptr_eq(&self.resource, &snapshot.resource) {
            let now = self.scraped.constant(snapshot).into();
            for (metric, identity) in std::mem::replace(&mut self.constant, now) {
                if !self.constant.iter().any(|(_, goes_on)| *goes_on == identity) {
                    message.push(&self.ended(metric, &identity, time));
                }
            }
            self.resource = snapshot.resource.clone();
        }
        for (metric, identity) in &self.constant {
            message.push(&Row {
                metric,
                identity,
                start: 0,
                time,
                point: Point::Number(1.0),
                exemplars: Vec::new(),
            });
        }
        for family in &snapshot.families {
            for series in &family.series {
                let split = family.metric.kind == Kind::Histogram && self.histograms == Histograms::Classic;
                let known = self.known.of(family.metric, &series.labels, tick, || {
                    Some(Known {
                        metric: family.metric,
                        identities: if split {
                            self.scraped.classic(family.metric, &series.labels)
                        } else {
                            vec![self.scraped.labels(family.metric, &series.labels)]
                        },
                    })
                });
                let Some(known) = known else { continue };
                let points: Vec<Point<'_>> = match &series.value {
                    Value::Counter(count) => vec![Point::Number(*count as f64)],
                    Value::CounterF(value) | Value::Gauge(value) => vec![Point::Number(*value)],
                    Value::Histogram(value) if split => {
                        text::classic_values(value).map(Point::Number).collect()
                    }
                    Value::Histogram(value) => vec![Point::Histogram(value)],
                };
                let new: Vec<&Exemplar> = match &series.value {
                    Value::Histogram(value) => {
                        value.exemplars.iter().filter(|one| one.placed > sent).collect()
                    }
                    _ => Vec::new(),
                };
                let mut by_bucket = Exemplars::new(if split { new.clone() } else { Vec::new() });
                let mut ends = text::classic_ends();
                for (identity, point) in known.identities.iter().zip(points) {
                    let exemplars = if split {
                        ends.next()
                            .and_then(|end| by_bucket.up_to(end))
                            .into_iter()
                            .collect()
                    } else {
                        new.clone()
                    };
                    message.push(&Row {
                        metric: known.metric,
                        identity,
                        start: millis(series.labels.start_unix_nanos),
                        time,
                        point,
                        exemplars,
                    });
                }
            }
        }
        let ended = self.known.ended(tick);
        if !ended.is_empty() {
            // Labels may have been made anew for a series that goes on.
            let living: HashSet<_> = self.known.iter().flat_map(|known| &known.identities).collect();
            for known in &ended {
                let gone = known
                    .identities
                    .iter()
                    .filter(|identity| !living.contains(identity));
                gone.for_each(|identity| message.push(&self.ended(known.metric, identity, time)));
            }
        }
        message.finish()
    }

    /// The requests that say of every series that it has ended.
    pub(super) fn end(&mut self) -> Vec<Part> {
        let mut message = Message::new(self.protocol);
        let time = self.last + 1;
        for (metric, identity) in std::mem::take(&mut self.constant) {
            message.push(&self.ended(metric, &identity, time));
        }
        for known in std::mem::take(&mut self.known).iter() {
            for identity in &known.identities {
                message.push(&self.ended(known.metric, identity, time));
            }
        }
        message.finish()
    }

    /// By the mark that belongs to what the series was sent as.
    fn ended<'a>(&self, metric: &'static Metric, identity: &'a labels::Labels, time: i64) -> Row<'a> {
        let native = metric.kind == Kind::Histogram && self.histograms == Histograms::Native;
        Row {
            metric,
            identity,
            start: 0,
            time,
            point: if native {
                Point::HistogramEnded
            } else {
                Point::Number(STALE)
            },
            exemplars: Vec::new(),
        }
    }
}
