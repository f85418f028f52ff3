//! Straight lines and smoothing.

use super::super::Error;
use super::super::eval::Evaluated;
use super::super::float::{Kahan, plain};
use super::super::grid::Sample;
use super::super::window::Window;
use super::Arguments;
use crate::series::Millis;

/// The slope per second, and the value at `intercept`, of the line of least squares.
fn line(times: &[Millis], values: &[f64], intercept: Millis) -> (f64, f64) {
    let first = values.first().copied().unwrap_or(f64::NAN);
    if values.iter().skip(1).all(|value| *value == first) {
        return if first.is_infinite() {
            (f64::NAN, f64::NAN)
        } else {
            (0.0, first)
        };
    }
    let mut sums = [Kahan::default(); 4];
    for (time, y) in times.iter().zip(values) {
        let x = (time - intercept) as f64 / 1000.0;
        for (sum, value) in sums.iter_mut().zip([x, *y, x * y, x * x]) {
            sum.add(value);
        }
    }
    let count = values.len() as f64;
    let [x, y, xy, xx] = sums.map(Kahan::total);
    let slope = (xy - x * y / count) / (xx - x * x / count);
    (slope, y / count - slope * x / count)
}

pub(super) fn deriv(window: &Window) -> Option<Sample> {
    // Times relative to one of them keep their precision.
    let first = window.times.first().filter(|_| window.floats.len() > 1)?;
    Some(Sample::Float(line(window.times, window.floats, *first).0))
}

pub(super) fn predict_linear(args: &Arguments) -> Result<Evaluated, Error> {
    let seconds = args.scalar(1)?;
    let ranges = args.evaluator.ranges(args.expr(0)?, args.grid)?;
    let rows = args.evaluator.slide(&ranges, args.grid, false, |_| {
        |window: Window| {
            if window.floats.len() < 2 {
                return Ok(None);
            }
            let (slope, now) = line(window.times, window.floats, window.at);
            Ok(Some(Sample::Float(slope * seconds[window.step] + now)))
        }
    })?;
    Ok(Evaluated::Vector(rows))
}

/// Holt's double exponential smoothing.
pub(super) fn smoothing(args: &Arguments) -> Result<Evaluated, Error> {
    let (smoothing, trend) = (args.scalar(1)?, args.scalar(2)?);
    let check = |factor: f64, name: &str, short: &str| {
        if factor <= 0.0 || factor >= 1.0 {
            // `%f` of Go.
            let got = if factor.is_finite() {
                format!("{factor:.6}")
            } else {
                plain(factor)
            };
            return Error::execution(format!(
                "invalid {name} factor. Expected: 0 < {short} < 1, got: {got}"
            ));
        }
        Ok(())
    };
    let ranges = args.evaluator.ranges(args.expr(0)?, args.grid)?;
    let rows = args.evaluator.slide(&ranges, args.grid, false, |_| {
        |window: Window| {
            let (smoothing, trend) = (smoothing[window.step], trend[window.step]);
            check(smoothing, "smoothing", "sf")?;
            check(trend, "trend", "tf")?;
            let [first, second, ..] = window.floats else {
                return Ok(None);
            };
            let (mut before, mut now, mut slope) = (0.0, *first, second - first);
            for (at, value) in window.floats.iter().skip(1).enumerate() {
                if at > 0 {
                    slope = trend * (now - before) + (1.0 - trend) * slope;
                }
                let next = smoothing * value + (1.0 - smoothing) * (now + slope);
                (before, now) = (now, next);
            }
            Ok(Some(Sample::Float(now)))
        }
    })?;
    Ok(Evaluated::Vector(rows))
}
