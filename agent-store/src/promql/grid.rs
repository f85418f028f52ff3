//! The steps of a query and columns over them.

use super::Error;
use crate::histogram::Histogram;
use crate::labels::{Labels, NAME};
use crate::series::{Bounds, Millis, STALE, is_stale};
use std::collections::HashMap;
use std::sync::Arc;

/// The times at which a query is evaluated.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grid {
    pub start: Millis,
    /// More than 0.
    pub step: Millis,
    pub count: usize,
}

impl Grid {
    pub fn new(start: Millis, end: Millis, step: Millis) -> Self {
        let step = step.max(1);
        let count = usize::try_from(end.saturating_sub(start).div_euclid(step) + 1).unwrap_or(0);
        Self { start, step, count }
    }

    pub fn instant(at: Millis) -> Self {
        Self::new(at, at, 1)
    }

    pub fn times(self) -> impl Iterator<Item = Millis> {
        (0..self.count).map(move |step| self.start + step as Millis * self.step)
    }
}

/// A sample without its time.
#[derive(Clone, Debug, PartialEq)]
pub enum Sample {
    /// Of a counter or a gauge.
    Float(f64),
    /// A native histogram.
    Histogram(Arc<Histogram>),
}

/// One series of an instant vector over all steps of a grid. A float that is absent is `STALE`: a signalling NaN, which
/// no arithmetic yields.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub labels: Labels,
    pub floats: Vec<f64>,
    /// Empty when the row has none, else one a step.
    pub histograms: Vec<Option<Arc<Histogram>>>,
}

impl Row {
    pub fn empty(labels: Labels, count: usize) -> Self {
        Self {
            labels,
            floats: vec![STALE; count],
            histograms: Vec::new(),
        }
    }

    /// A scalar as a series.
    pub fn nameless(floats: Vec<f64>) -> Self {
        Self {
            labels: Labels::default(),
            floats,
            histograms: Vec::new(),
        }
    }

    pub fn float(&self, step: usize) -> Option<f64> {
        self.floats.get(step).copied().filter(|value| !is_stale(*value))
    }

    pub fn histogram(&self, step: usize) -> Option<&Arc<Histogram>> {
        self.histograms.get(step).and_then(Option::as_ref)
    }

    pub fn has(&self, step: usize) -> bool {
        self.float(step).is_some() || self.histogram(step).is_some()
    }

    pub fn get(&self, step: usize) -> Option<Sample> {
        let histogram = || self.histogram(step).cloned().map(Sample::Histogram);
        self.float(step).map(Sample::Float).or_else(histogram)
    }

    pub fn set(&mut self, step: usize, sample: Sample) {
        match sample {
            Sample::Float(value) => {
                if let Some(cell) = self.floats.get_mut(step) {
                    *cell = value;
                }
            }
            Sample::Histogram(value) => {
                if self.histograms.is_empty() {
                    self.histograms = vec![None; self.floats.len()];
                }
                if let Some(cell) = self.histograms.get_mut(step) {
                    *cell = Some(value);
                }
            }
        }
    }

    /// Puts a sample where none may be yet.
    pub fn put(&mut self, step: usize, sample: Sample) -> Result<(), Error> {
        if self.has(step) {
            return same_labels();
        }
        self.set(step, sample);
        Ok(())
    }

    pub fn clear(&mut self, step: usize) {
        if let Some(cell) = self.floats.get_mut(step) {
            *cell = STALE;
        }
        if let Some(cell) = self.histograms.get_mut(step) {
            *cell = None;
        }
    }

    pub fn is_empty(&self) -> bool {
        self.floats.iter().all(|value| is_stale(*value)) && self.histograms.iter().all(Option::is_none)
    }

    pub fn count(&self) -> usize {
        self.floats.len()
    }

    /// Applies `f` to all floats that are there and takes histograms away: what nearly all functions do.
    pub fn map_floats(mut self, mut f: impl FnMut(usize, f64) -> f64) -> Self {
        for (step, value) in self.floats.iter_mut().enumerate() {
            if !is_stale(*value) {
                *value = f(step, *value);
            }
        }
        self.histograms = Vec::new();
        self
    }

    pub fn without_name(mut self) -> Self {
        self.labels = drop_name(&self.labels);
        self
    }
}

/// Rows by their labels, when a step decides to which row a sample goes.
pub(super) struct Collector {
    rows: Vec<Row>,
    index: HashMap<Labels, usize>,
    count: usize,
    paid: usize,
}

impl Collector {
    /// For rows of `count` steps. Memory for `paid` of them has been taken note of already, usually by that many that go in.
    pub fn new(count: usize, paid: usize) -> Self {
        Self {
            rows: Vec::new(),
            index: HashMap::new(),
            count,
            paid,
        }
    }

    pub fn row(&mut self, labels: &Labels, bounds: &dyn Bounds) -> Result<&mut Row, Error> {
        let at = match self.index.get(labels) {
            Some(at) => *at,
            None => {
                if self.rows.len() >= self.paid {
                    bounds.take(0, self.count)?;
                }
                self.index.insert(labels.clone(), self.rows.len());
                self.rows.push(Row::empty(labels.clone(), self.count));
                self.rows.len() - 1
            }
        };
        Ok(&mut self.rows[at])
    }

    pub fn finish(self) -> Vec<Row> {
        self.rows
    }
}

/// Makes one row of rows with the same labels, which must not have samples at the same step; leaves out empty ones.
pub(super) fn unite(rows: Vec<Row>) -> Result<Vec<Row>, Error> {
    let mut index: HashMap<Labels, usize> = HashMap::with_capacity(rows.len());
    let mut united: Vec<Row> = Vec::with_capacity(rows.len());
    for row in rows.into_iter().filter(|row| !row.is_empty()) {
        let Some(at) = index.get(&row.labels) else {
            index.insert(row.labels.clone(), united.len());
            united.push(row);
            continue;
        };
        let into = &mut united[*at];
        for step in 0..row.count() {
            if let Some(sample) = row.get(step) {
                into.put(step, sample)?;
            }
        }
    }
    Ok(united)
}

/// For functions of range vectors, where two rows with the same labels are an error at any step.
pub(super) fn distinct(rows: Vec<Row>) -> Result<Vec<Row>, Error> {
    let rows: Vec<Row> = rows.into_iter().filter(|row| !row.is_empty()).collect();
    let mut seen = std::collections::HashSet::with_capacity(rows.len());
    if rows.iter().all(|row| seen.insert(&row.labels)) {
        return Ok(rows);
    }
    same_labels()
}

fn same_labels<T>() -> Result<T, Error> {
    Error::execution("vector cannot contain metrics with the same labelset")
}

pub(super) fn drop_name(labels: &Labels) -> Labels {
    if labels.name().is_empty() {
        return labels.clone();
    }
    without(labels, &[NAME])
}

pub(super) fn without(labels: &Labels, names: &[&str]) -> Labels {
    labels.filtered(|name| !names.contains(&name))
}

pub(super) fn only(labels: &Labels, names: &[&str]) -> Labels {
    labels.filtered(|name| names.contains(&name))
}

/// The labels with one set, or taken away when `value` is empty.
pub(super) fn with(labels: &Labels, name: &str, value: &str) -> Labels {
    let pairs = labels.iter().map(|(n, v)| (n.clone(), v.clone()));
    Labels::new(pairs.chain([(name.into(), value.into())]))
}
