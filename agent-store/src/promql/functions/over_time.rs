//! Functions of all samples of a window.

use super::super::eval::Evaluated;
use super::super::float::{Kahan, mean, variance};
use super::super::grid::Sample;
use super::super::window::Window;
use super::super::{Error, quantile};
use super::Arguments;
use crate::histogram::Histogram;
use std::sync::Arc;

/// The function of this name.
pub(super) fn function(name: &str) -> Option<fn(&Window) -> Option<Sample>> {
    Some(match name {
        "avg_over_time" => |window| match histogram_sum(window) {
            Some(mut sum) => {
                sum.divide(window.histograms.len() as f64);
                Some(Sample::Histogram(Arc::new(sum)))
            }
            None => floats(window, |values| mean(values.iter().copied())),
        },
        "sum_over_time" => |window| match histogram_sum(window) {
            Some(sum) => Some(Sample::Histogram(Arc::new(sum))),
            None => floats(window, |values| {
                let mut sum = Kahan::default();
                values.iter().for_each(|value| sum.add(*value));
                sum.total()
            }),
        },
        "min_over_time" => |window| floats(window, |values| fold(values, |old, new| new < old)),
        "max_over_time" => |window| floats(window, |values| fold(values, |old, new| new > old)),
        "count_over_time" => |window| float((window.floats.len() + window.histograms.len()) as f64),
        "present_over_time" => |_| float(1.0),
        "stddev_over_time" => |window| floats(window, |values| variance(values.iter().copied()).sqrt()),
        "stdvar_over_time" => |window| floats(window, |values| variance(values.iter().copied())),
        "mad_over_time" => |window| {
            floats(window, |values| {
                let mut values = values.to_vec();
                let median = quantile::quantile(0.5, &mut values);
                values
                    .iter_mut()
                    .for_each(|value| *value = (*value - median).abs());
                quantile::quantile(0.5, &mut values)
            })
        },
        "changes" => |window| {
            let of_floats = pairs(window.floats)
                .filter(|(a, b)| a != b && !(a.is_nan() && b.is_nan()))
                .count();
            float((of_floats + pairs(window.histograms).filter(|(a, b)| a != b).count()) as f64)
        },
        "resets" => |window| {
            let of_floats = pairs(window.floats).filter(|(a, b)| b < a).count();
            float(
                (of_floats
                    + pairs(window.histograms)
                        .filter(|(a, b)| b.is_reset_since(a))
                        .count()) as f64,
            )
        },
        "deriv" => super::regression::deriv,
        _ => return None,
    })
}

/// The latest sample.
pub(super) fn last(window: &Window) -> Option<Sample> {
    let float = window.times.last().zip(window.floats.last());
    let histogram = window.histogram_times.last().zip(window.histograms.last());
    match (float, histogram) {
        (Some((at, _)), Some((time, value))) if time > at => Some(Sample::Histogram(value.clone())),
        (Some((_, value)), _) => Some(Sample::Float(*value)),
        (None, Some((_, value))) => Some(Sample::Histogram(value.clone())),
        (None, None) => None,
    }
}

pub(super) fn quantile(args: &Arguments) -> Result<Evaluated, Error> {
    let q = args.scalar(0)?;
    args.evaluator.check_quantiles(&q);
    let ranges = args.evaluator.ranges(args.expr(1)?, args.grid)?;
    let rows = args.evaluator.slide(&ranges, args.grid, false, |_| {
        let (q, mut values) = (&q, Vec::new());
        move |window: Window| {
            Ok(floats(&window, |floats| {
                values.clear();
                values.extend_from_slice(floats);
                quantile::quantile(q[window.step], &mut values)
            }))
        }
    })?;
    Ok(Evaluated::Vector(rows))
}

fn float(value: f64) -> Option<Sample> {
    Some(Sample::Float(value))
}

/// For functions that know only floats: nothing where there is none.
fn floats(window: &Window, f: impl FnOnce(&[f64]) -> f64) -> Option<Sample> {
    (!window.floats.is_empty()).then(|| Sample::Float(f(window.floats)))
}

/// The first value, or a later one that is `better`; NaN only if all are.
fn fold(values: &[f64], better: impl Fn(f64, f64) -> bool) -> f64 {
    values
        .iter()
        .copied()
        .reduce(|old, new| {
            if better(old, new) || old.is_nan() {
                new
            } else {
                old
            }
        })
        .unwrap_or(f64::NAN)
}

fn pairs<T>(values: &[T]) -> impl Iterator<Item = (&T, &T)> {
    values.iter().zip(values.iter().skip(1))
}

/// The sum of the histograms of a window that has no floats.
fn histogram_sum(window: &Window) -> Option<Histogram> {
    let (first, others) = window
        .histograms
        .split_first()
        .filter(|_| window.floats.is_empty())?;
    let mut sum = Histogram::clone(first);
    others.iter().for_each(|other| sum.add(other));
    Some(sum)
}
