//! What rules have come to: series that the rules after them can ask for before anybody has stored them.

use agent_store::labels::{Labels, NAME};
use agent_store::promql::Sample;
use agent_store::series::{
    Bounds, Column, Free, Matcher, Millis, Refusal, Rise, STALE, Samples, Series, Source, Visit, accepts,
    show,
};
use std::collections::{BTreeMap, HashMap};

/// Series that rules made, in memory, by the names of their metrics: nearly all that is asked for is none of them.
#[derive(Debug, Default)]
pub struct Results(BTreeMap<String, BTreeMap<Labels, Samples>>);

impl Results {
    /// Adds a sample; false if the series has one at this time or later.
    pub(crate) fn add(&mut self, labels: &Labels, at: Millis, sample: Sample) -> bool {
        let named = match self.0.get_mut(labels.name()) {
            Some(named) => named,
            None => self.0.entry(labels.name().to_owned()).or_default(),
        };
        let samples = named.entry(labels.clone()).or_default();
        let last = samples.floats.times.last().max(samples.histograms.times.last());
        if last.is_some_and(|last| *last >= at) {
            return false;
        }
        match sample {
            Sample::Float(value) => push(&mut samples.floats, at, value),
            Sample::Histogram(value) => push(&mut samples.histograms, at, value),
        }
        true
    }

    pub(crate) fn end(&mut self, labels: &Labels, at: Millis) {
        self.add(labels, at, Sample::Float(STALE));
    }

    /// Takes everything: for who stores it.
    pub fn take(&mut self) -> Vec<Series> {
        let all = std::mem::take(&mut self.0).into_values().flatten();
        all.map(|(labels, samples)| Series { labels, samples }).collect()
    }

    /// Forgets samples before a time.
    pub fn forget(&mut self, before: Millis) {
        self.0.retain(|_, named| {
            named.retain(|_, samples| {
                forget(&mut samples.floats, before);
                forget(&mut samples.histograms, before);
                !samples.floats.times.is_empty() || !samples.histograms.times.is_empty()
            });
            !named.is_empty()
        });
    }

    /// How many samples there are.
    pub fn len(&self) -> usize {
        let count = |samples: &Samples| samples.floats.times.len() + samples.histograms.times.len();
        self.0.values().flat_map(BTreeMap::values).map(count).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn push<T>(column: &mut Column<T>, at: Millis, value: T) {
    column.times.push(at);
    column.values.push(value);
}

fn forget<T>(column: &mut Column<T>, before: Millis) {
    let gone = column.times.partition_point(|time| *time < before);
    column.times.drain(..gone);
    column.values.drain(..gone);
}

fn within<T: Clone>(column: &Column<T>, from: Millis, to: Millis) -> Column<T> {
    let begin = column.times.partition_point(|time| *time < from);
    let end = column.times.partition_point(|time| *time <= to).max(begin);
    Column {
        times: column.times.get(begin..end).unwrap_or_default().to_vec(),
        values: column.values.get(begin..end).unwrap_or_default().to_vec(),
    }
}

impl Source for Results {
    fn select(
        &self,
        matchers: &[Matcher],
        from: Millis,
        to: Millis,
        bounds: &dyn Bounds,
    ) -> Result<Vec<Series>, Refusal> {
        let mut found = Vec::new();
        let names: Vec<&Matcher> = matchers.iter().filter(|matcher| matcher.label == NAME).collect();
        let is_named = |name: &str| names.iter().all(|matcher| matcher.accepts(name));
        let named = self.0.iter().filter(|(name, _)| is_named(name));
        let all = named.flat_map(|(_, named)| named);
        for (labels, samples) in all.filter(|(labels, _)| accepts(matchers, labels)) {
            let samples = Samples {
                floats: within(&samples.floats, from, to),
                histograms: within(&samples.histograms, from, to),
            };
            bounds.take(1, samples.floats.times.len() + samples.histograms.times.len())?;
            found.push(Series {
                labels: labels.clone(),
                samples,
            });
        }
        Ok(found)
    }
}

/// A source together with results that are not in it yet, or not all.
pub(crate) struct Together<'a> {
    pub base: &'a dyn Source,
    pub results: &'a Results,
}

impl Together<'_> {
    /// What the base has, and what it does not have yet.
    fn with_results(
        &self,
        mut found: Vec<Series>,
        matchers: &[Matcher],
        (from, to): (Millis, Millis),
        bounds: &dyn Bounds,
    ) -> Result<Vec<Series>, Refusal> {
        let new = self.results.select(matchers, from, to, bounds)?;
        if new.is_empty() {
            return Ok(found);
        }
        let places = found.iter().enumerate();
        let places: HashMap<Labels, usize> = places.map(|(at, series)| (series.labels.clone(), at)).collect();
        for new in new {
            match places.get(&new.labels).and_then(|at| found.get_mut(*at)) {
                Some(known) => {
                    append(&mut known.samples.floats, new.samples.floats);
                    append(&mut known.samples.histograms, new.samples.histograms);
                }
                None => found.push(new),
            }
        }
        Ok(found)
    }
}

impl Source for Together<'_> {
    fn select(
        &self,
        matchers: &[Matcher],
        from: Millis,
        to: Millis,
        bounds: &dyn Bounds,
    ) -> Result<Vec<Series>, Refusal> {
        let found = self.base.select(matchers, from, to, bounds)?;
        self.with_results(found, matchers, (from, to), bounds)
    }

    fn latest(
        &self,
        matchers: &[Matcher],
        from: Millis,
        to: Millis,
        bounds: &dyn Bounds,
    ) -> Result<Vec<Series>, Refusal> {
        let found = self.base.latest(matchers, from, to, bounds)?;
        self.with_results(found, matchers, (from, to), bounds)
    }

    /// Rules have come to few series: of all others the base need not have all in memory.
    fn each(
        &self,
        matchers: &[Matcher],
        from: Millis,
        to: Millis,
        bounds: &dyn Bounds,
        visit: &Visit<'_>,
    ) -> Result<(), Refusal> {
        // They are few; what is taken of them is counted once, where they are asked for.
        match self.results.select(matchers, from, to, &Free)?.is_empty() {
            true => self.base.each(matchers, from, to, bounds, visit),
            false => show(&self.select(matchers, from, to, bounds)?, visit),
        }
    }

    fn rises(
        &self,
        matchers: &[Matcher],
        from: Millis,
        to: Millis,
        bounds: &dyn Bounds,
    ) -> Result<Option<Vec<Rise>>, Refusal> {
        match self.results.select(matchers, from, to, &Free)?.is_empty() {
            true => self.base.rises(matchers, from, to, bounds),
            false => Ok(None),
        }
    }
}

/// Adds what is later than what is there.
fn append<T>(column: &mut Column<T>, new: Column<T>) {
    let last = column.times.last().copied().unwrap_or(Millis::MIN);
    for (at, value) in new.times.into_iter().zip(new.values) {
        if at > last {
            push(column, at, value);
        }
    }
}
