//! What became of notifications.

use super::Notifier;
use super::lane::{Stats, age};
use super::view::Open;
use crate::aggregate::{Collect, Family, Label, Labels, Metric, Series, Value, metrics};
use crate::alert::metrics::SEVERITY;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, PoisonError};

static RECEIVER: Label = Label {
    prometheus: "receiver",
    otlp: "geophone.receiver",
    help: "Name of the receiver in alerting.receivers",
};
static INTEGRATION: Label = Label {
    prometheus: "integration",
    otlp: "geophone.integration",
    help: "Which of the receiver's places, e.g. webhook[0]",
};
static REASON: Label = Label {
    prometheus: "reason",
    otlp: "geophone.reason",
    help: "queue_full: newer ones needed the room; refused: the place said that it will never take it; expired: tried for too long; superseded: it had waited for alerting.stale_after, or its group would have had more than half of the queue, and a later one of its group says what it said",
};

static INCIDENT_ID: Label = Label {
    prometheus: "incident",
    otlp: "geophone.incident.id",
    help: "Number of the incident, as geophone alerts incidents has it",
};
static CAUSE: Label = Label {
    prometheus: "cause",
    otlp: "geophone.incident.cause",
    help: "Name of the alert that is its first cause",
};
metrics! {
    /// Made.
    MADE = "geophone_notifications_total", "geophone.notifications", "{notification}", Counter, &[&RECEIVER, &INTEGRATION],
        "Notifications that were made, those found in the queue at the start included: delivered + dropped + in flight";
    /// Delivered.
    DELIVERED = "geophone_notifications_delivered_total", "geophone.notifications.delivered", "{notification}", Counter, &[&RECEIVER, &INTEGRATION],
        "Notifications that the place has accepted";
    /// Dropped.
    DROPPED = "geophone_notifications_dropped_total", "geophone.notifications.dropped", "{notification}", Counter, &[&RECEIVER, &INTEGRATION, &REASON],
        "Notifications that were given up; what they told is due again with the next look at their group, or told by a later one";
    /// In flight.
    IN_FLIGHT = "geophone_notifications_in_flight", "geophone.notifications.in_flight", "{notification}", Gauge, &[&RECEIVER, &INTEGRATION],
        "Notifications that wait in the queue or are being delivered";
    /// Age.
    OLDEST = "geophone_notifications_oldest_seconds", "geophone.notifications.oldest", "s", Gauge, &[&RECEIVER, &INTEGRATION],
        "For how long something waits, whatever has taken its place since; 0 = nothing does";
    /// Retries.
    RETRIES = "geophone_notifications_retries_total", "geophone.notifications.retries", "{attempt}", Counter, &[&RECEIVER, &INTEGRATION],
        "Attempts that failed and were to be repeated";
    /// Errors of the disk.
    UNWRITTEN = "geophone_notifications_write_errors_total", "geophone.notifications.write_errors", "{write}", Counter, &[&RECEIVER, &INTEGRATION],
        "Writes to the queue's file that failed: what it holds is in memory only until one succeeds";
    /// Incidents.
    INCIDENTS = "geophone_incidents", "geophone.incidents", "{incident}", Gauge, &[],
        "Incidents that are not over";
    /// Each of them.
    INCIDENT = "geophone_incident_start_time_seconds", "geophone.incident.start_time", "s", Gauge, &[&INCIDENT_ID, &CAUSE, &SEVERITY],
        "When an incident began that is not over, Unix time, by its first cause; of the twenty latest";
    /// Silences.
    SILENCES = "geophone_silences", "geophone.silences", "{silence}", Gauge, &[],
        "Silences that are active";
}

const REASONS: [&str; 4] = ["queue_full", "refused", "expired", "superseded"];

/// Makes the families.
pub struct StatsCollect {
    notifier: Arc<Notifier>,
    none: Arc<Labels>,
    /// Of each place its labels: its own, and those with each reason.
    places: Vec<(Arc<Labels>, [Arc<Labels>; REASONS.len()])>,
    /// Incidents that have a series, with its labels.
    open: Vec<(Open, Arc<Labels>)>,
}

/// So many of them.
const MOST_INCIDENTS: usize = 20;

impl StatsCollect {
    /// Of all places.
    pub fn new(notifier: Arc<Notifier>, start_unix_nanos: u64) -> Self {
        let labels =
            |declared, values: &[&str]| Arc::new(Labels::new(declared, values, false, start_unix_nanos));
        let places = notifier.lanes().map(|lane| {
            let (receiver, integration) = (&*lane.place.receiver, &*lane.place.integration);
            let reasons = REASONS.map(|reason| labels(DROPPED.labels, &[receiver, integration, reason]));
            (labels(MADE.labels, &[receiver, integration]), reasons)
        });
        Self {
            places: places.collect(),
            none: Arc::new(Labels::new(&[], &[], false, start_unix_nanos)),
            open: Vec::new(),
            notifier,
        }
    }

    /// Brings the latest incidents up to date; how many there are.
    fn incidents(&mut self) -> usize {
        let open = self.notifier.open.lock().unwrap_or_else(PoisonError::into_inner);
        let latest = open.iter().skip(open.len().saturating_sub(MOST_INCIDENTS));
        let made = latest.map(|one| {
            let known = self.open.iter().find(|(known, _)| known == one);
            known.cloned().unwrap_or_else(|| {
                let begun = u64::try_from(one.started_at).unwrap_or(0) * 1_000_000;
                let labels = Labels::new(
                    INCIDENT.labels,
                    &[&one.id, &one.cause, &one.severity],
                    false,
                    begun,
                );
                (one.clone(), Arc::new(labels))
            })
        });
        let made = made.collect();
        let count = open.len();
        drop(open);
        self.open = made;
        count
    }
}

impl Collect for StatsCollect {
    fn collect(&mut self, out: &mut Vec<Family>) {
        let now = crate::memory::now();
        let incidents = self.incidents();
        let of_incidents = Family {
            metric: &INCIDENT,
            series: self
                .open
                .iter()
                .map(|(open, labels)| Series {
                    labels: labels.clone(),
                    value: Value::Gauge(open.started_at as f64 / 1e3),
                })
                .collect(),
        };
        let all = || self.notifier.lanes().map(|lane| &lane.stats).zip(&self.places);
        let series = |labels: &Arc<Labels>, value| Series {
            labels: labels.clone(),
            value,
        };
        let of = |metric: &'static Metric, value: &dyn Fn(&Stats) -> Value| Family {
            metric,
            series: all()
                .map(|(stats, (labels, _))| series(labels, value(stats)))
                .collect(),
        };
        let dropped = all().flat_map(|(stats, (_, labels))| stats.dropped.iter().zip(labels));
        let dropped = Family {
            metric: &DROPPED,
            series: dropped
                .map(|(count, labels)| series(labels, Value::Counter(count.load(Relaxed))))
                .collect(),
        };
        let one = |metric: &'static Metric, value: u64| Family {
            metric,
            series: vec![series(&self.none, Value::Gauge(value as f64))],
        };
        out.extend([
            of(&MADE, &|stats| Value::Counter(stats.made.load(Relaxed))),
            of(&DELIVERED, &|stats| Value::Counter(stats.delivered.load(Relaxed))),
            dropped,
            of(&IN_FLIGHT, &|stats| {
                Value::Gauge(stats.in_flight.load(Relaxed) as f64)
            }),
            of(&OLDEST, &|stats| Value::Gauge(age(stats, now))),
            of(&RETRIES, &|stats| Value::Counter(stats.retries.load(Relaxed))),
            of(&UNWRITTEN, &|stats| {
                Value::Counter(stats.write_errors.load(Relaxed))
            }),
            one(&INCIDENTS, incidents as u64),
            of_incidents,
            one(&SILENCES, self.notifier.active_silences.load(Relaxed)),
        ]);
    }
}
