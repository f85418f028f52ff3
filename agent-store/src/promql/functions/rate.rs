//! How fast counters and gauges move.

use super::super::eval::{Evaluated, Evaluator};
use super::super::grid::{Row, Sample, distinct, drop_name};
use super::super::select::{Asked, Ranges};
use super::super::window::Window;
use super::super::{Error, Version};
use super::Arguments;
use crate::histogram::Histogram;
use crate::series::{Ends, Millis, Series};
use std::sync::Arc;

/// `rate`, `increase` and `delta`: from the first to the last sample, extended to the ends of the window where these are
/// near, by half an interval where they are not.
pub(super) fn extrapolated(args: &Arguments) -> Result<Evaluated, Error> {
    let is_counter = args.name != "delta";
    let is_rate = args.name == "rate";
    let ranges = args.evaluator.ranges(args.expr(0)?, args.grid)?;
    let seconds = ranges.range as f64 / 1000.0;
    let version = args.evaluator.options.version;
    if is_counter && let Some(rows) = of_rises(args, &ranges, is_rate)? {
        return Ok(Evaluated::Vector(rows));
    }
    let rows = args.evaluator.slide(&ranges, args.grid, false, |series| {
        let mut resets = Resets::of(series, is_counter);
        move |window| {
            let (change, factor) = match (&window.floats, &window.histograms) {
                (floats, []) if floats.len() > 1 => {
                    let change = floats[floats.len() - 1] - floats[0];
                    let change = resets.add_to(change, &window);
                    let from = (is_counter && change > 0.0 && floats[0] >= 0.0).then(|| floats[0] / change);
                    (
                        Sample::Float(change),
                        extended(&window, window.times, from, version),
                    )
                }
                ([], histograms) if histograms.len() > 1 => {
                    let change = increase_of(histograms, is_counter);
                    let from = from_zero(version, &histograms[0], &change).filter(|_| is_counter);
                    let factor = extended(&window, window.histogram_times, from, version);
                    (Sample::Histogram(Arc::new(change)), factor)
                }
                ([_, ..], [_, ..]) => {
                    mixed(args.evaluator, window.series);
                    return Ok(None);
                }
                _ => return Ok(None),
            };
            let factor = if is_rate { factor / seconds } else { factor };
            Ok(Some(match change {
                Sample::Float(change) => Sample::Float(change * factor),
                Sample::Histogram(mut change) => {
                    Arc::make_mut(&mut change).map(|count| count * factor);
                    Sample::Histogram(change)
                }
            }))
        }
    })?;
    Ok(Evaluated::Vector(rows))
}

/// The same of counters that only grow, at one time: what is between the first and the last sample says nothing more.
fn of_rises(args: &Arguments, ranges: &Ranges, is_rate: bool) -> Result<Option<Vec<Row>>, Error> {
    let (Asked::Source(matchers, from, to), [end]) = (&ranges.asked, &*ranges.ends) else {
        return Ok(None);
    };
    let evaluator = args.evaluator;
    let Some(mut rises) = evaluator.source.rises(matchers, *from, *to, evaluator.bounds)? else {
        return Ok(None);
    };
    rises.sort_by(|a, b| a.labels.cmp(&b.labels));
    let version = evaluator.options.version;
    let window = (end - ranges.range, *end);
    let seconds = ranges.range as f64 / 1000.0;
    let rows = rises.into_iter().filter(|rise| rise.count > 1).map(|rise| {
        let factor = |from_zero| {
            let factor = extension(window, rise.times, rise.count, from_zero, version);
            if is_rate { factor / seconds } else { factor }
        };
        let sample = match rise.ends {
            Ends::Floats(first, last) => {
                let change = last - first;
                let from = (change > 0.0 && first >= 0.0).then(|| first / change);
                Sample::Float(change * factor(from))
            }
            Ends::Histograms(first, last) => {
                let mut change = increase_of(&[first.clone(), last], true);
                let factor = factor(from_zero(version, &first, &change));
                change.map(|count| count * factor);
                Sample::Histogram(Arc::new(change))
            }
        };
        let mut row = Row::empty(drop_name(&rise.labels), 1);
        row.set(0, sample);
        row
    });
    distinct(rows.collect()).map(Some)
}

/// How many of the sampled intervals ago a counter of histograms would have been empty.
fn from_zero(version: Version, first: &Histogram, change: &Histogram) -> Option<f64> {
    let is_asked = version == Version::Three && change.count > 0.0 && first.count >= 0.0;
    is_asked.then(|| first.count / change.count)
}

fn mixed(evaluator: &Evaluator, series: &Series) {
    let name = series.labels.name();
    evaluator.warn(format!(
        "encountered a mix of histograms and floats for metric name {name:?}"
    ));
}

fn extended(window: &Window, times: &[Millis], from_zero: Option<f64>, version: Version) -> f64 {
    let (Some(first), Some(last)) = (times.first(), times.last()) else {
        return f64::NAN;
    };
    let window = (window.start, window.end);
    extension(window, (*first, *last), times.len(), from_zero, version)
}

/// By how much a change between the first and the last of `count` samples is to be multiplied. `from_zero` is how many of the
/// sampled intervals ago a counter would have been 0: it is not extended beyond that.
fn extension(
    (start, end): (Millis, Millis),
    (first, last): (Millis, Millis),
    count: usize,
    from_zero: Option<f64>,
    version: Version,
) -> f64 {
    let to_start = (first - start) as f64 / 1000.0;
    let to_end = (end - last) as f64 / 1000.0;
    let sampled = (last - first) as f64 / 1000.0;
    let average = sampled / (count - 1) as f64;
    let near = |distance: f64| {
        if distance < average * 1.1 {
            distance
        } else {
            average / 2.0
        }
    };
    let not_below_zero = |distance: f64| match from_zero.map(|from_zero| sampled * from_zero) {
        Some(to_zero) if to_zero < distance => to_zero,
        _ => distance,
    };
    let to_start = match version {
        Version::Two => near(not_below_zero(to_start)),
        Version::Three => not_below_zero(near(to_start)),
    };
    (sampled + to_start + near(to_end)) / sampled
}

/// Where a counter of floats fell, found once for all windows.
struct Resets {
    /// Indexes of samples that are less than the one before.
    at: Vec<usize>,
    /// The first of them that can still be in a window.
    next: usize,
}

impl Resets {
    fn of(series: &Series, is_counter: bool) -> Self {
        let values = if is_counter {
            series.samples.floats.values.as_slice()
        } else {
            &[]
        };
        let falls = values
            .windows(2)
            .enumerate()
            .filter(|(_, pair)| pair[1] < pair[0]);
        Self {
            at: falls.map(|(at, _)| at + 1).collect(),
            next: 0,
        }
    }

    /// Adds what was counted before each reset of the window.
    fn add_to(&mut self, mut change: f64, window: &Window) -> f64 {
        while self.at.get(self.next).is_some_and(|at| *at <= window.first) {
            self.next += 1;
        }
        let end = window.first + window.floats.len();
        for at in self.at[self.next..].iter().take_while(|at| **at < end) {
            change += window.series.samples.floats.values[at - 1];
        }
        change
    }
}

fn increase_of(histograms: &[Arc<Histogram>], is_counter: bool) -> Histogram {
    let (Some(first), Some(last)) = (histograms.first(), histograms.last()) else {
        return Histogram::default();
    };
    let schema = if is_counter {
        histograms.iter().map(|h| h.schema).min()
    } else {
        None
    };
    let mut change = last.at_schema(schema.unwrap_or(last.schema).min(first.schema));
    change.sub(first);
    if is_counter {
        for (before, now) in histograms.iter().zip(histograms.iter().skip(1)) {
            // What did not change is held once.
            if !Arc::ptr_eq(before, now) && now.is_reset_since(before) {
                change.add(before);
            }
        }
    }
    change.is_gauge = true;
    change
}

/// `irate` and `idelta`: between the last two samples.
pub(super) fn instant(args: &Arguments) -> Result<Evaluated, Error> {
    let is_rate = args.name == "irate";
    let ranges = args.evaluator.ranges(args.expr(0)?, args.grid)?;
    let rows = args.evaluator.slide(&ranges, args.grid, false, |_| {
        |window: Window| {
            let ([.., before, last], [.., from, to]) = (window.floats, window.times) else {
                return Ok(None);
            };
            let change = if is_rate && last < before {
                *last
            } else {
                last - before
            };
            Ok(Some(Sample::Float(if is_rate {
                change / ((to - from) as f64 / 1000.0)
            } else {
                change
            })))
        }
    })?;
    Ok(Evaluated::Vector(rows))
}
