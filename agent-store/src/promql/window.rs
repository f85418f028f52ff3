//! Windows that slide over the columns of a range vector.

use super::Error;
use super::eval::{BETWEEN_LOOKS, Evaluator};
use super::grid::{Grid, Row, Sample, distinct, drop_name};
use super::select::{Ranges, advance};
use crate::histogram::Histogram;
use crate::series::{Millis, Series, cores, in_parts};
use std::sync::Arc;

/// What a function of a range vector sees at one step of one series; there is at least one sample.
#[derive(Clone, Copy)]
pub(super) struct Window<'a> {
    /// Index of the step.
    pub step: usize,
    /// Time of the step.
    pub at: Millis,
    /// Both ends belong to it.
    pub start: Millis,
    pub end: Millis,
    /// Index of the first float within the series.
    pub first: usize,
    pub times: &'a [Millis],
    pub floats: &'a [f64],
    pub histogram_times: &'a [Millis],
    pub histograms: &'a [Arc<Histogram>],
}

/// What a histogram costs more than a float: it has that many buckets, about.
pub(super) const OF_A_HISTOGRAM: usize = 64;

/// From so many samples on, several threads slide; below, starting one takes longer.
const MANY: usize = 1 << 18;

impl Evaluator<'_> {
    /// Calls what `prepare` makes of a series with each of its windows.
    pub fn slide<'s, F>(
        &self,
        ranges: &'s Ranges,
        grid: Grid,
        keep_name: bool,
        prepare: impl Fn(&'s Series) -> F + Sync,
    ) -> Result<Vec<Row>, Error>
    where
        F: FnMut(Window) -> Result<Option<Sample>, Error>,
    {
        let samples: usize = ranges
            .series
            .iter()
            .map(|one| {
                let samples = &one.samples;
                samples.floats.times.len() + samples.histograms.times.len() * OF_A_HISTOGRAM
            })
            .sum();
        let threads = if samples < MANY { 1 } else { cores() };
        let parts = in_parts(&ranges.series, threads, |series| {
            self.slide_part(ranges, series, grid, keep_name, &prepare)
        });
        let mut rows = Vec::with_capacity(ranges.series.len());
        for part in parts {
            rows.extend(part.unwrap_or_else(|| Error::execution("a thread has panicked"))?);
        }
        distinct(rows)
    }

    fn slide_part<'s, F>(
        &self,
        ranges: &Ranges,
        series: &'s [Series],
        grid: Grid,
        keep_name: bool,
        prepare: impl Fn(&'s Series) -> F,
    ) -> Result<Vec<Row>, Error>
    where
        F: FnMut(Window) -> Result<Option<Sample>, Error>,
    {
        let mut rows = Vec::with_capacity(series.len());
        // Counted here and not by `work`: the threads would fight for the line.
        let mut worked = 0;
        for series in series {
            self.bounds.take(0, 0)?;
            let labels = if keep_name {
                series.labels.clone()
            } else {
                drop_name(&series.labels)
            };
            let mut row = Row::empty(labels, grid.count);
            let mut call = prepare(series);
            let (floats, histograms) = (&series.samples.floats, &series.samples.histograms);
            let (mut from, mut to, mut h_from, mut h_to) = (0, 0, 0, 0);
            for ((step, at), end) in grid.times().enumerate().zip(&ranges.ends) {
                let start = end - ranges.range;
                to = advance(&floats.times, to, *end);
                h_to = advance(&histograms.times, h_to, *end);
                from = advance(&floats.times, from, start - 1);
                h_from = advance(&histograms.times, h_from, start - 1);
                if from == to && h_from == h_to {
                    continue;
                }
                let window = Window {
                    step,
                    at,
                    start,
                    end: *end,
                    first: from,
                    times: &floats.times[from..to],
                    floats: &floats.values[from..to],
                    histogram_times: &histograms.times[h_from..h_to],
                    histograms: &histograms.values[h_from..h_to],
                };
                worked += 1 + (to - from) + (h_to - h_from) * OF_A_HISTOGRAM;
                if worked >= BETWEEN_LOOKS {
                    worked = 0;
                    self.bounds.take(0, 0)?;
                }
                if let Some(sample) = call(window)? {
                    row.set(step, sample);
                }
            }
            rows.push(row);
        }
        Ok(rows)
    }
}
