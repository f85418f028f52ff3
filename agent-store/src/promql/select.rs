//! Selectors: each is asked of the source once for a whole query.

use super::eval::Evaluator;
use super::grid::{Grid, Row, Sample};
use super::{Error, Version, parse};
use crate::series::{Column, Matcher, Millis, Series, is_stale};
use promql_parser::parser::{Expr, MatrixSelector, SubqueryExpr, VectorSelector};
use std::borrow::Cow;

/// A range vector over a grid: whose samples, and where the window of each step ends.
pub(super) struct Ranges {
    pub asked: Asked,
    pub range: Millis,
    /// One a step, never falling.
    pub ends: Vec<Millis>,
}

/// The series of a range vector.
pub(super) enum Asked {
    /// Of the source, in a span: asked for when they are needed, for all of them may be more than fits in a cache.
    Source(Vec<Matcher>, Millis, Millis),
    /// What a subquery has made, ordered.
    Rows(Vec<Series>),
}

impl Ranges {
    /// A series without what is not of the span, or only says that it ended.
    pub fn tidy<'a>(&self, series: &'a Series) -> Cow<'a, Series> {
        let Asked::Source(_, from, to) = self.asked else {
            return Cow::Borrowed(series);
        };
        let (floats, histograms) = (&series.samples.floats, &series.samples.histograms);
        let within = |times: &[Millis]| {
            times.first().is_none_or(|time| *time >= from) && times.last().is_none_or(|time| *time <= to)
        };
        if within(&floats.times)
            && within(&histograms.times)
            && !floats.values.iter().any(|value| is_stale(*value))
            && !histograms.values.iter().any(|value| is_stale(value.sum))
        {
            return Cow::Borrowed(series);
        }
        let mut series = series.clone();
        trim(&mut series.samples.floats, from, to);
        trim(&mut series.samples.histograms, from, to);
        drop_all_ends(&mut series);
        Cow::Owned(series)
    }
}

/// Far beyond all samples, and yet so near that a range, a lookback and a step of a subquery fit in between it and the ends of
/// `Millis`, however many subqueries move away from the query's own time.
const FARTHEST: Millis = 1 << 60;

/// Series in order, and only what they have in a span: sources of tests hand out all that they have.
fn tidied(mut series: Vec<Series>, from: Millis, to: Millis) -> Vec<Series> {
    for one in &mut series {
        trim(&mut one.samples.floats, from, to);
        trim(&mut one.samples.histograms, from, to);
    }
    series.retain(|one| !one.samples.floats.times.is_empty() || !one.samples.histograms.times.is_empty());
    series.sort_by(|a, b| a.labels.cmp(&b.labels));
    series
}

/// Where a selector looks at each step.
fn references(at: Option<Millis>, offset: Millis, grid: Grid) -> Vec<Millis> {
    let reference = |time| {
        at.unwrap_or(time)
            .saturating_sub(offset)
            .clamp(-FARTHEST, FARTHEST)
    };
    grid.times().map(reference).collect()
}

impl Evaluator<'_> {
    /// How far behind its start a window begins: times are whole milliseconds.
    pub fn without_start(&self) -> Millis {
        Millis::from(self.options.version == Version::Three)
    }

    fn select(&self, matchers: &[Matcher], from: Millis, to: Millis) -> Result<Vec<Series>, Error> {
        let series = self.source.select(matchers, from, to, self.bounds)?;
        Ok(tidied(series, from, to))
    }

    /// The latest samples of each series at least.
    fn latest(&self, matchers: &[Matcher], from: Millis, to: Millis) -> Result<Vec<Series>, Error> {
        let series = self.source.latest(matchers, from, to, self.bounds)?;
        Ok(tidied(series, from, to))
    }

    /// The latest sample of each series at each step, not older than the lookback and not ended; or its time in seconds.
    pub fn instant_selector(
        &self,
        node: &VectorSelector,
        grid: Grid,
        times: bool,
    ) -> Result<Vec<Row>, Error> {
        let at = parse::at(node.at.as_ref(), self.start, self.end);
        let references = references(at, parse::offset(node.offset.as_ref()), grid);
        let (Some(first), Some(last)) = (references.first(), references.last()) else {
            return Ok(Vec::new());
        };
        let lookback = self.options.lookback - self.without_start();
        let (matchers, from) = (parse::matchers(node), first - lookback);
        let series = match grid.count {
            1 => self.latest(&matchers, from, *last)?,
            _ => self.select(&matchers, from, *last)?,
        };
        self.bounds.take(0, series.len() * grid.count)?;
        let rows = series
            .into_iter()
            .map(|series| latest(&series, &references, lookback, times));
        Ok(rows.filter(|row| !row.is_empty()).collect())
    }

    /// The windows of a range selector or a subquery.
    pub fn ranges(&self, expr: &Expr, grid: Grid) -> Result<Ranges, Error> {
        match expr {
            Expr::Paren(inner) => self.ranges(&inner.expr, grid),
            Expr::MatrixSelector(node) => self.range_selector(node, grid),
            Expr::Subquery(node) => self.subquery(node, grid),
            _ => Error::execution("expected a range vector"),
        }
    }

    fn range_selector(&self, node: &MatrixSelector, grid: Grid) -> Result<Ranges, Error> {
        let at = parse::at(node.vs.at.as_ref(), self.start, self.end);
        let range = parse::millis(node.range);
        let ends = references(at, parse::offset(node.vs.offset.as_ref()), grid);
        let asked = match (ends.first(), ends.last()) {
            (Some(first), Some(last)) => {
                let from = first - range + self.without_start();
                Asked::Source(parse::matchers(&node.vs), from, *last)
            }
            _ => Asked::Rows(Vec::new()),
        };
        Ok(Ranges { asked, range, ends })
    }

    /// The series of a range vector, ordered.
    pub fn matrix(&self, expr: &Expr, grid: Grid) -> Result<Vec<Series>, Error> {
        match self.ranges(expr, grid)?.asked {
            Asked::Rows(series) => Ok(series),
            Asked::Source(matchers, from, to) => {
                let mut series = self.select(&matchers, from, to)?;
                for one in &mut series {
                    drop_all_ends(one);
                }
                Ok(series)
            }
        }
    }

    fn subquery(&self, node: &SubqueryExpr, grid: Grid) -> Result<Ranges, Error> {
        let at = parse::at(node.at.as_ref(), self.start, self.end);
        let range = parse::millis(node.range);
        let ends = references(at, parse::offset(node.offset.as_ref()), grid);
        let step = node.step.map_or(self.options.subquery_step, parse::millis).max(1);
        let (Some(first), Some(last)) = (ends.first(), ends.last()) else {
            return Ok(Ranges {
                asked: Asked::Rows(Vec::new()),
                range,
                ends,
            });
        };
        // The steps of a subquery are multiples of its step, whatever those of the query are.
        let from = first - range + self.without_start();
        let start = from.div_euclid(step) * step;
        let start = if start < from { start + step } else { start };
        let inner = Grid::new(start, *last, step);
        self.bounds.take(0, inner.count)?;
        let rows = self.vector(&node.expr, inner)?;
        self.bounds.take(rows.len(), rows.len() * inner.count)?;
        let asked = Asked::Rows(rows.iter().map(|row| to_series(row, inner)).collect());
        Ok(Ranges { asked, range, ends })
    }
}

/// The samples of a row with their times.
pub(super) fn to_series(row: &Row, grid: Grid) -> Series {
    let mut series = Series {
        labels: row.labels.clone(),
        ..Series::default()
    };
    for (step, time) in grid.times().enumerate() {
        match row.get(step) {
            Some(Sample::Float(value)) => {
                series.samples.floats.times.push(time);
                series.samples.floats.values.push(value);
            }
            Some(Sample::Histogram(value)) => {
                series.samples.histograms.times.push(time);
                series.samples.histograms.values.push(value);
            }
            None => {}
        }
    }
    series
}

fn latest(series: &Series, references: &[Millis], lookback: Millis, times: bool) -> Row {
    let mut row = Row::empty(series.labels.clone(), references.len());
    let (floats, histograms) = (&series.samples.floats, &series.samples.histograms);
    let (mut float, mut histogram) = (0, 0);
    for (step, reference) in references.iter().enumerate() {
        float = advance(&floats.times, float, *reference);
        histogram = advance(&histograms.times, histogram, *reference);
        let of_float = float.checked_sub(1).map(|at| (floats.times[at], at));
        let of_histogram = histogram.checked_sub(1).map(|at| (histograms.times[at], at));
        let (time, sample) = match (of_float, of_histogram) {
            (Some((t, _)), Some((time, at))) if time > t => (time, histogram_at(series, at)),
            (None, Some((time, at))) => (time, histogram_at(series, at)),
            (Some((time, at)), _) => {
                let value = floats.values[at];
                (time, (!is_stale(value)).then_some(Sample::Float(value)))
            }
            (None, None) => continue,
        };
        let Some(sample) = sample.filter(|_| time >= reference - lookback) else {
            continue;
        };
        row.set(
            step,
            if times {
                Sample::Float(time as f64 / 1000.0)
            } else {
                sample
            },
        );
    }
    row
}

fn histogram_at(series: &Series, at: usize) -> Option<Sample> {
    let value = &series.samples.histograms.values[at];
    (!is_stale(value.sum)).then(|| Sample::Histogram(value.clone()))
}

/// How many times are not after `limit`, of which at least `from` are known.
pub(super) fn advance(times: &[Millis], mut from: usize, limit: Millis) -> usize {
    while times.get(from).is_some_and(|time| *time <= limit) {
        from += 1;
    }
    from
}

fn trim<T>(column: &mut Column<T>, from: Millis, to: Millis) {
    let end = column.times.partition_point(|time| *time <= to);
    column.times.truncate(end);
    column.values.truncate(end);
    let start = column.times.partition_point(|time| *time < from);
    column.times.drain(..start);
    column.values.drain(..start);
}

fn drop_all_ends(series: &mut Series) {
    drop_ends(&mut series.samples.floats, |value| is_stale(*value));
    drop_ends(&mut series.samples.histograms, |value| is_stale(value.sum));
}

fn drop_ends<T>(column: &mut Column<T>, is_end: impl Fn(&T) -> bool) {
    if !column.values.iter().any(&is_end) {
        return;
    }
    let times = std::mem::take(&mut column.times);
    let values = std::mem::take(&mut column.values);
    for (time, value) in times.into_iter().zip(values) {
        if !is_end(&value) {
            column.times.push(time);
            column.values.push(value);
        }
    }
}
