//! Finds the last exported value of a series, for deltas.

use crate::aggregate::{Family, Labels, Series, Snapshot, Value};
use std::collections::HashMap;
use std::sync::Arc;

/// A family as it was exported before.
pub struct Previous<'a> {
    time: u64,
    series: &'a [Series],
    /// Made when a series is not at its old place.
    by_labels: Option<HashMap<&'a str, &'a Series>>,
}

impl<'a> Previous<'a> {
    /// The same family in the snapshot before, if there is one.
    pub fn new(family: &Family, before: Option<&'a Snapshot>) -> Self {
        let (time, series) = before
            .and_then(|s| {
                let family = s
                    .families
                    .iter()
                    .find(|f| std::ptr::eq(f.metric, family.metric))?;
                Some((s.unix_nanos, family.series.as_slice()))
            })
            .unwrap_or_default();
        Self {
            time,
            series,
            by_labels: None,
        }
    }

    /// When and with which value the series was exported; `i` is its place now, mostly the old one too. A series that
    /// has begun anew is another one.
    pub fn find(&mut self, i: usize, labels: &Arc<Labels>) -> Option<(u64, &'a Value)> {
        let same = |other: &&Series| {
            Arc::ptr_eq(&other.labels, labels)
                || (other.labels.text == labels.text
                    && other.labels.start_unix_nanos == labels.start_unix_nanos)
        };
        let series = self.series;
        let found = series.get(i).filter(same).or_else(|| {
            let map = self
                .by_labels
                .get_or_insert_with(|| series.iter().map(|s| (s.labels.text.as_str(), s)).collect());
            map.get(labels.text.as_str()).copied().filter(same)
        });
        found.map(|series| (self.time, &series.value))
    }
}
