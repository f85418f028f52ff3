//! Windows that slide over the columns of a range vector.

use super::Error;
use super::eval::{BETWEEN_LOOKS, Evaluator};
use super::grid::{Grid, Row, Sample, distinct, drop_name};
use super::select::{Asked, Ranges, advance};
use crate::histogram::Histogram;
use crate::labels::Labels;
use crate::series::{Millis, OF_A_HISTOGRAM, Series, show};
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};

/// What a function of a range vector sees at one step of one series; there is at least one sample.
#[derive(Clone, Copy)]
pub(super) struct Window<'a> {
    /// Index of the step.
    pub step: usize,
    /// Time of the step.
    pub at: Millis,
    /// Where it begins, whether or not that belongs to it.
    pub start: Millis,
    pub end: Millis,
    /// All that it slides over.
    pub series: &'a Series,
    /// Index of the first float within the series.
    pub first: usize,
    pub times: &'a [Millis],
    pub floats: &'a [f64],
    pub histogram_times: &'a [Millis],
    pub histograms: &'a [Arc<Histogram>],
}

impl Evaluator<'_> {
    /// Calls what `prepare` makes of a series with each of its windows. A series is in memory while it is worked on.
    pub fn slide<F>(
        &self,
        ranges: &Ranges,
        grid: Grid,
        keep_name: bool,
        prepare: impl Fn(&Series) -> F + Sync,
    ) -> Result<Vec<Row>, Error>
    where
        F: FnMut(Window) -> Result<Option<Sample>, Error>,
    {
        let done: Mutex<Result<Vec<(Labels, Row)>, Error>> = Mutex::new(Ok(Vec::new()));
        let visit = |series: &Series| {
            let row = self.slide_one(ranges, series, grid, keep_name, &prepare);
            let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
            match (&mut *done, row) {
                (Ok(rows), Ok(row)) => rows.push((series.labels.clone(), row)),
                (Ok(_), Err(error)) => *done = Err(error),
                (Err(_), _) => {}
            }
            match &*done {
                Ok(_) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            }
        };
        match &ranges.asked {
            Asked::Source(matchers, from, to) => {
                self.source.each(matchers, *from, *to, self.bounds, &visit)?
            }
            Asked::Rows(series) => show(series, &visit)?,
        }
        let mut rows = done.into_inner().unwrap_or_else(PoisonError::into_inner)?;
        rows.sort_by(|(a, _), (b, _)| a.cmp(b));
        distinct(rows.into_iter().map(|(_, row)| row).collect())
    }

    fn slide_one<F>(
        &self,
        ranges: &Ranges,
        series: &Series,
        grid: Grid,
        keep_name: bool,
        prepare: impl Fn(&Series) -> F,
    ) -> Result<Row, Error>
    where
        F: FnMut(Window) -> Result<Option<Sample>, Error>,
    {
        self.bounds.take(0, 0)?;
        let series = &*ranges.tidy(series);
        let labels = if keep_name {
            series.labels.clone()
        } else {
            drop_name(&series.labels)
        };
        let mut row = Row::empty(labels, grid.count);
        let mut call = prepare(series);
        let (floats, histograms) = (&series.samples.floats, &series.samples.histograms);
        let (mut from, mut to, mut h_from, mut h_to) = (0, 0, 0, 0);
        let mut worked = 0;
        for ((step, at), end) in grid.times().enumerate().zip(&ranges.ends) {
            let start = end - ranges.range;
            to = advance(&floats.times, to, *end);
            h_to = advance(&histograms.times, h_to, *end);
            let before = start - 1 + self.without_start();
            from = advance(&floats.times, from, before);
            h_from = advance(&histograms.times, h_from, before);
            if from == to && h_from == h_to {
                continue;
            }
            let window = Window {
                step,
                at,
                start,
                end: *end,
                series,
                first: from,
                times: &floats.times[from..to],
                floats: &floats.values[from..to],
                histogram_times: &histograms.times[h_from..h_to],
                histograms: &histograms.values[h_from..h_to],
            };
            // Counted here and not by `work`: the threads would fight for the line.
            worked += 1 + (to - from) + (h_to - h_from) * OF_A_HISTOGRAM;
            if worked >= BETWEEN_LOOKS {
                worked = 0;
                self.bounds.take(0, 0)?;
            }
            if let Some(sample) = call(window)? {
                row.set(step, sample);
            }
        }
        Ok(row)
    }
}
