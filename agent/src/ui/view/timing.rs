//! Percentiles of the last interval, of the last minute, and of all time.

use super::meter::Clock;
use crate::aggregate::HistogramValue;
use agent_common::histogram::CELLS;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::sync::Arc;

/// How long a value is shown after the last sample, seconds.
const MINUTE: f64 = 60.0;
/// Resolution of that minute, seconds.
const STEP: f64 = 10.0;

/// Percentiles in seconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Latency {
    /// Median.
    pub p50: f64,
    /// 90th percentile.
    pub p90: f64,
    /// 95th percentile.
    pub p95: f64,
    /// 99th percentile.
    pub p99: f64,
    /// 99.9th percentile.
    pub p999: f64,
    /// Number of samples.
    pub count: u64,
    /// Seconds since the newest sample. 0 = these are the samples of the last interval; more = there was none and these
    /// are those of the last minute; `None` = first view, these are all since the start.
    pub age: Option<f64>,
}

impl Latency {
    /// Percentiles of a histogram; `None` when it is empty.
    pub fn of(h: &HistogramValue, age: Option<f64>) -> Option<Self> {
        let q = |q| h.quantile(q);
        Some(Self {
            p50: q(0.5)?,
            p90: q(0.9)?,
            p95: q(0.95)?,
            p99: q(0.99)?,
            p999: q(0.999)?,
            count: h.count,
            age,
        })
    }

    /// Whether it is older than the last interval.
    pub fn old(&self) -> bool {
        self.age != Some(0.0)
    }
}

/// A histogram with the empty cells at both ends left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Distribution {
    /// Values that were exactly zero.
    pub zero: u64,
    /// Index of the first cell, as in [`HistogramValue::cells`].
    pub first: usize,
    /// Counts from there.
    pub cells: Vec<u64>,
    /// Sum in seconds.
    pub sum: f64,
    /// Smallest value in seconds.
    pub min: Option<f64>,
    /// Largest value in seconds.
    pub max: Option<f64>,
}

impl From<&HistogramValue> for Distribution {
    fn from(h: &HistogramValue) -> Self {
        let mut out = Self::default();
        out.add(h);
        (out.min, out.max) = (h.min, h.max);
        out
    }
}

impl Distribution {
    /// Adds the counts of a histogram.
    fn add(&mut self, h: &HistogramValue) {
        self.zero += h.zero;
        self.sum += h.sum;
        let Some(from) = h.cells.iter().position(|c| *c > 0) else {
            return;
        };
        let to = h.cells.iter().rposition(|c| *c > 0).map_or(from, |i| i + 1);
        if self.cells.is_empty() {
            self.first = from;
        }
        if from < self.first {
            self.cells.splice(0..0, std::iter::repeat_n(0, self.first - from));
            self.first = from;
        }
        if self.cells.len() < to - self.first {
            self.cells.resize(to - self.first, 0);
        }
        let own = self.cells.iter_mut().skip(from - self.first);
        own.zip(h.cells.iter().skip(from))
            .for_each(|(mine, theirs)| *mine += theirs);
    }

    /// The whole histogram. What lies outside of the kernel's table, which only a strange agent can send, is left out.
    pub fn histogram(&self) -> HistogramValue {
        let mut cells = vec![0; self.first.min(CELLS)];
        cells.extend(&self.cells);
        cells.truncate(CELLS - 1);
        let count = cells.iter().fold(self.zero, |sum, c| sum.saturating_add(*c));
        HistogramValue {
            zero: self.zero,
            cells,
            count,
            sum: self.sum,
            min: self.min,
            max: self.max,
            exemplars: Vec::new(),
        }
    }
}

/// A histogram metric of a pair.
#[derive(Clone, Debug, Default)]
pub(super) struct Timing {
    start: u64,
    known: bool,
    /// Since the start of the series.
    pub value: Arc<HistogramValue>,
    /// Since the snapshot before.
    pub delta: HistogramValue,
    minute: VecDeque<(f64, Distribution)>,
    newest: f64,
}

impl Timing {
    /// Takes the value of this snapshot.
    pub fn update(&mut self, value: &Arc<HistogramValue>, start: u64, clock: &Clock) {
        let again = start != self.start || value.count < self.value.count;
        self.delta = match self.known {
            false if !clock.began_since(start) => HistogramValue::default(),
            true if !again && value.count == self.value.count => HistogramValue::default(),
            true if !again => value.since(&self.value),
            _ => HistogramValue::clone(value),
        };
        // The extremes are those of all time, not of the difference.
        (self.delta.min, self.delta.max) = (None, None);
        (self.known, self.start, self.value) = (true, start, Arc::clone(value));
    }

    /// Empties it, for sums that are made anew for each snapshot.
    pub fn clear(&mut self) {
        self.value = Arc::default();
        self.delta = HistogramValue::default();
    }

    /// Adds another; exact.
    pub fn absorb(&mut self, other: &Self) {
        Arc::make_mut(&mut self.value).add(&other.value);
        self.delta.add(&other.delta);
    }

    /// Puts the difference into the last minute.
    pub fn finish(&mut self, clock: &Clock) {
        while self
            .minute
            .front()
            .is_some_and(|(from, _)| !(0.0..MINUTE).contains(&(clock.now - from)))
        {
            self.minute.pop_front();
        }
        if self.delta.count == 0 {
            return;
        }
        self.newest = clock.now;
        match self.minute.back_mut() {
            Some((from, step)) if clock.now - *from <= STEP => step.add(&self.delta),
            _ => self.minute.push_back((
                clock.now - clock.seconds.min(STEP),
                Distribution::from(&self.delta),
            )),
        }
    }

    /// Percentiles of the last interval, else of the last minute, else of all time in the first view.
    pub fn latency(&self, clock: &Clock) -> Option<Latency> {
        if self.delta.count > 0 {
            return Latency::of(&self.delta, Some(0.0));
        }
        if clock.previous.is_none() {
            return Latency::of(&self.value, None);
        }
        let mut minute = HistogramValue::default();
        self.minute
            .iter()
            .for_each(|(_, step)| minute.add(&step.histogram()));
        Latency::of(
            &minute,
            Some((clock.now - self.newest).max(clock.seconds.min(1.0))),
        )
    }
}
