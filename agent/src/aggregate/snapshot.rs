//! What one tick hands to everybody downstream: a complete, immutable picture.

use super::exemplar::{Exemplar, keep};
use super::labels::Labels;
use super::metric::Metric;
use agent_common::histogram::{CELLS, FIRST_INDEX, Histogram, otel_index};
use std::sync::Arc;

/// Cumulative exponential histogram, scale 3, unit seconds.
#[derive(Clone, Debug, PartialEq)]
pub struct HistogramValue {
    /// Values that were exactly zero.
    pub zero: u64,
    /// Cells 1.. of the kernel's table: `cells[i]` holds OTel index `FIRST_INDEX + i`, upper bound
    /// `2^((FIRST_INDEX + i + 1)/8)` s. Trailing zeros are cut.
    pub cells: Vec<u64>,
    /// Number of values: always `zero` plus the sum of `cells`.
    pub count: u64,
    /// Sum in seconds.
    pub sum: f64,
    /// Smallest value in seconds since the series began; `None` when empty.
    pub min: Option<f64>,
    /// Largest value in seconds since the series began; `None` when empty.
    pub max: Option<f64>,
    /// Values that lead to spans, the oldest first; at most eight.
    pub exemplars: Vec<Exemplar>,
}

impl Default for HistogramValue {
    fn default() -> Self {
        Self {
            zero: 0,
            cells: Vec::new(),
            count: 0,
            sum: 0.0,
            min: None,
            max: None,
            exemplars: Vec::new(),
        }
    }
}

impl HistogramValue {
    /// Adds another histogram; exact, because all have the same bounds.
    pub fn add(&mut self, other: &Self) {
        if self.cells.len() < other.cells.len() {
            self.cells.resize(other.cells.len(), 0);
        }
        for (mine, theirs) in self.cells.iter_mut().zip(&other.cells) {
            *mine += theirs;
        }
        self.zero += other.zero;
        self.count += other.count;
        self.sum += other.sum;
        self.min = [self.min, other.min].into_iter().flatten().reduce(f64::min);
        self.max = [self.max, other.max].into_iter().flatten().reduce(f64::max);
        other.exemplars.iter().for_each(|one| self.keep(*one));
    }

    /// Whether it has values in this power of two: above `2^(octave - 1)`, up to `2^octave` s.
    pub fn is_in(&self, octave: i32) -> bool {
        let first = (octave - 1) * 8 - FIRST_INDEX;
        let cells = self.cells.iter().enumerate();
        cells
            .filter(|(_, count)| **count > 0)
            .any(|(at, _)| (first..first + 8).contains(&(at as i32)))
            || (octave < FIRST_INDEX / 8 && self.zero > 0)
    }

    /// Keeps a value that leads to a span.
    pub fn keep(&mut self, exemplar: Exemplar) {
        keep(&mut self.exemplars, exemplar);
    }

    /// Adds the difference of a wrapping kernel cell.
    pub fn add_cell(&mut self, cell: usize, delta: u64) {
        self.count += delta;
        if cell == 0 {
            self.zero += delta;
            return;
        }
        let cell = cell.min(CELLS - 1);
        if self.cells.len() < cell {
            self.cells.resize(cell, 0);
        }
        if let Some(c) = self.cells.get_mut(cell - 1) {
            *c += delta;
        }
    }

    /// What has been added since `earlier`, cell by cell. `earlier` must be an earlier state of the same series.
    pub fn since(&self, earlier: &Self) -> Self {
        let cells: Vec<u64> = self
            .cells
            .iter()
            .enumerate()
            .map(|(i, c)| c.saturating_sub(earlier.cells.get(i).copied().unwrap_or(0)))
            .collect();
        Self {
            zero: self.zero.saturating_sub(earlier.zero),
            cells,
            count: self.count.saturating_sub(earlier.count),
            sum: (self.sum - earlier.sum).max(0.0),
            min: None,
            max: None,
            exemplars: self
                .exemplars
                .iter()
                .filter(|one| !earlier.exemplars.contains(one))
                .copied()
                .collect(),
        }
    }

    /// Quantile in seconds, `0.0..=1.0`, by exponential interpolation inside the bucket, as Prometheus does it for
    /// native histograms; `None` when empty. The error is at most the bucket's width (9 %).
    pub fn quantile(&self, q: f64) -> Option<f64> {
        if self.count == 0 {
            return None;
        }
        let rank = q.clamp(0.0, 1.0) * self.count as f64;
        let mut below = self.zero as f64;
        if below >= rank && self.zero > 0 {
            return Some(0.0);
        }
        for (i, &c) in self.cells.iter().enumerate() {
            if c > 0 && below + c as f64 >= rank {
                let lower = f64::from(otel_index(i + 1)) / 8.0;
                let share = (rank - below) / c as f64;
                let value = (lower + share / 8.0).exp2();
                return Some(match (self.min, self.max) {
                    (Some(min), Some(max)) => value.clamp(min, max),
                    _ => value,
                });
            }
            below += c as f64;
        }
        self.max
    }

    /// From one or more shards of kernel cells, none of which has wrapped yet.
    pub fn from_kernel(shards: &[Histogram]) -> Self {
        let mut out = Self::default();
        for shard in shards {
            for (i, &c) in shard.cells.iter().enumerate().filter(|(_, c)| **c > 0) {
                out.add_cell(i, u64::from(c));
            }
            out.sum += shard.sum_micros as f64 / 1e6;
        }
        out
    }
}

/// The value of a series.
#[derive(Clone, Debug)]
pub enum Value {
    /// Monotonic count.
    Counter(u64),
    /// Monotonic sum of seconds or another real quantity.
    CounterF(f64),
    /// A gauge.
    Gauge(f64),
    /// A histogram.
    Histogram(Arc<HistogramValue>),
}

/// One series.
#[derive(Clone, Debug)]
pub struct Series {
    /// Its identity.
    pub labels: Arc<Labels>,
    /// Its value.
    pub value: Value,
}

/// All series of a metric.
#[derive(Clone, Debug)]
pub struct Family {
    /// Its declaration.
    pub metric: &'static Metric,
    /// Its series; no two have equal labels.
    pub series: Vec<Series>,
}

/// What the series of this process are about.
#[derive(Clone, Debug, Default)]
pub struct Resource {
    /// `host.name`.
    pub host: String,
    /// `cloud.region`; empty = not known.
    pub region: String,
    /// `cloud.availability_zone`; empty = not known.
    pub zone: String,
    /// Further OTLP resource attributes, as configured.
    pub attributes: Vec<(String, String)>,
}

/// A complete, immutable picture, once a second.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Counts from 1.
    pub tick: u64,
    /// When it was taken, ns since the Unix epoch.
    pub unix_nanos: u64,
    /// When the agent started, ns since the Unix epoch.
    pub start_unix_nanos: u64,
    /// What it is about.
    pub resource: Arc<Resource>,
    /// All families, in the order of the registry.
    pub families: Vec<Family>,
}

impl Snapshot {
    /// The family of a metric.
    pub fn family(&self, name: &str) -> Option<&Family> {
        self.families.iter().find(|f| f.metric.name == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use agent_common::histogram::{cell, from_micros};

    fn of(micros: &[u32]) -> HistogramValue {
        let mut h = HistogramValue::default();
        for &v in micros {
            h.add_cell(cell(from_micros(v)), 1);
            h.sum += f64::from(v) / 1e6;
            h.add(&HistogramValue {
                min: Some(f64::from(v) / 1e6),
                max: Some(f64::from(v) / 1e6),
                ..Default::default()
            });
        }
        h
    }

    #[test]
    fn a_quantile_lies_in_the_bucket_of_the_true_value() {
        let values: Vec<u32> = (1..=10_000).map(|i| i * 7).collect();
        let h = of(&values);
        for q in [0.01, 0.5, 0.9, 0.95, 0.99, 0.999] {
            let truth = f64::from(values[((q * values.len() as f64) as usize).min(values.len() - 1)]) / 1e6;
            let got = h.quantile(q).unwrap();
            assert!(
                (got / truth).log2().abs() <= 1.0 / 8.0,
                "q {q}: {got} for {truth}"
            );
        }
        assert_eq!(h.quantile(0.0).unwrap(), 7e-6);
        assert_eq!(HistogramValue::default().quantile(0.5), None);
    }

    #[test]
    fn merging_and_differences_are_exact() {
        let (a, b) = (of(&[0, 1, 50, 999, 1_000_000]), of(&[3, 3, 70_000]));
        let mut sum = a.clone();
        sum.add(&b);
        assert_eq!(sum.count, 8);
        assert_eq!(sum.zero + sum.cells.iter().sum::<u64>(), sum.count);
        let back = sum.since(&a);
        assert_eq!((back.count, back.zero), (3, 0));
        assert_eq!(back.cells.iter().sum::<u64>(), 3);
    }
}
