//! Differences of counters from one snapshot to the next.

use crate::aggregate::{Labels, Series, Snapshot, Value};
use std::collections::VecDeque;

use super::HISTORY;

/// Series may begin this much before the snapshot that did not have them yet.
const SLACK_NANOS: u64 = 500_000_000;

/// Where in time a snapshot stands.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Clock {
    /// Seconds since the Unix epoch.
    pub now: f64,
    /// The snapshot before, ns since the Unix epoch.
    pub previous: Option<u64>,
    /// Seconds since then; 1 if there was none.
    pub seconds: f64,
}

impl Clock {
    /// `before` is tick and time of the snapshot before.
    pub fn new(snapshot: &Snapshot, before: Option<(u64, u64)>) -> Self {
        let now = snapshot.unix_nanos as f64 / 1e9;
        let Some((tick, nanos)) = before else {
            return Self {
                now,
                previous: None,
                seconds: 1.0,
            };
        };
        let seconds = match snapshot.unix_nanos.checked_sub(nanos) {
            Some(diff) if diff > 0 => diff as f64 / 1e9,
            // The wall clock was set back: ticks are a second apart.
            _ => snapshot.tick.saturating_sub(tick).max(1) as f64,
        };
        Self {
            now,
            previous: Some(nanos),
            seconds,
        }
    }

    /// Whether a series that is seen for the first time began after the snapshot before.
    pub fn began_since(&self, start_unix_nanos: u64) -> bool {
        self.previous
            .is_some_and(|p| start_unix_nanos.saturating_add(SLACK_NANOS) >= p)
    }
}

/// A counter and how much it grew.
#[derive(Clone, Debug, Default)]
pub(super) struct Meter {
    start: u64,
    known: bool,
    /// Its value.
    pub total: f64,
    /// Growth since the snapshot before; all of it if it began since.
    pub delta: f64,
}

impl Meter {
    /// Takes the value of this snapshot.
    pub fn update(&mut self, value: f64, labels: &Labels, clock: &Clock) {
        let start = labels.start_unix_nanos;
        self.delta = match self.known {
            false if clock.began_since(start) => value,
            false => 0.0,
            true if start != self.start || value < self.total => value,
            true => value - self.total,
        };
        (self.known, self.start, self.total) = (true, start, value);
    }

    /// Growth per second.
    pub fn rate(&self, clock: &Clock) -> f64 {
        self.delta / clock.seconds
    }

    /// Adds another, for sums that are made anew for each snapshot.
    pub fn absorb(&mut self, other: &Self) {
        self.total += other.total;
        self.delta += other.delta;
    }
}

/// The number of a series; a histogram is its count.
pub(super) fn number(series: &Series) -> f64 {
    match &series.value {
        Value::Counter(v) => *v as f64,
        Value::CounterF(v) | Value::Gauge(v) => *v,
        Value::Histogram(h) => h.count as f64,
    }
}

/// Sum that is 0 for nothing; that of the standard library is -0.
pub(super) fn sum(values: impl Iterator<Item = f64>) -> f64 {
    values.fold(0.0, |sum, v| sum + v)
}

/// Value of a label by its Prometheus name, or `""`.
pub(super) fn label<'a>(labels: &'a Labels, name: &str) -> &'a str {
    labels
        .values
        .iter()
        .find(|(l, _)| l.prometheus == name)
        .map_or("", |(_, v)| v)
}

/// The last minute, one point a second.
#[derive(Clone, Debug, Default)]
pub(super) struct History(VecDeque<f32>);

impl History {
    /// Adds a rate that held for the last interval: a gap of five seconds is five points.
    pub fn push(&mut self, rate: f64, clock: &Clock) {
        if clock.previous.is_none() {
            return;
        }
        for _ in 0..(clock.seconds.round() as usize).clamp(1, HISTORY) {
            if self.0.len() == HISTORY {
                self.0.pop_front();
            }
            self.0.push_back(rate as f32);
        }
    }

    /// Its points, the newest last, in whole numbers: they are only drawn.
    pub fn points(&self) -> Vec<f64> {
        self.0.iter().map(|v| f64::from(*v).ceil()).collect()
    }

    /// Sum of its points.
    pub fn sum(&self) -> f64 {
        sum(self.0.iter().map(|v| f64::from(*v)))
    }
}
