//! Rolls a series up: of each step the last sample at its own time, and min, max, sum and count of them all.
//!
//! A plain selector reads the last, so that counters and `rate` work over all of the past. The others are read by the label
//! `__rollup__`: `max_over_time(x{__rollup__="max"}[1d])`. Samples that are not rolled up yet are their own min, max and sum,
//! and count as one, so such a query may span both. A histogram holds a distribution already; only its last is kept.

use super::rewrite::Columns;
use crate::series::{Column, Millis, is_stale};

/// The label by which a query asks for something other than the last sample of a step.
pub const ROLLUP: &str = "__rollup__";

/// Of each step the last.
fn last<T: Clone>(column: &Column<T>, step: Millis) -> Column<T> {
    let mut last = Column::default();
    let mut at = 0;
    for times in column
        .times
        .chunk_by(|a, b| a.div_euclid(step) == b.div_euclid(step))
    {
        at += times.len();
        if let (Some(time), Some(value)) = (times.last(), column.values.get(at - 1)) {
            last.times.push(*time);
            last.values.push(value.clone());
        }
    }
    last
}

pub(super) fn roll(columns: &Columns, step: Millis) -> Columns {
    let mut rolled = Columns {
        floats: last(&columns.floats, step),
        histograms: last(&columns.histograms, step),
        ..Columns::default()
    };
    let mut rest = columns.floats.values.as_slice();
    for times in columns
        .floats
        .times
        .chunk_by(|a, b| a.div_euclid(step) == b.div_euclid(step))
    {
        let Some((values, after)) = rest.split_at_checked(times.len()) else {
            break;
        };
        rest = after;
        let (Some(time), Some(end)) = (times.last(), values.last()) else {
            continue;
        };
        let live: Vec<f64> = values.iter().copied().filter(|value| !is_stale(*value)).collect();
        let numbers = if live.is_empty() {
            [*end; 4]
        } else {
            // `min` and `max` of f64 pass NaN over, as PromQL's do.
            [
                live.iter().copied().fold(f64::NAN, f64::min),
                live.iter().copied().fold(f64::NAN, f64::max),
                live.iter().sum(),
                live.len() as f64,
            ]
        };
        for (column, number) in rolled.rolled.iter_mut().zip(numbers) {
            column.times.push(*time);
            column.values.push(number);
        }
    }
    rolled
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::series::STALE;

    #[test]
    fn a_step_has_its_last_min_max_sum_and_count() {
        let mut columns = Columns::default();
        columns.floats.times = vec![1000, 2000, 3000, 11_000, 12_000, 25_000];
        columns.floats.values = vec![5.0, 1.0, 3.0, 7.0, STALE, STALE];
        let rolled = roll(&columns, 10_000);
        assert_eq!(rolled.floats.times, [3000, 12_000, 25_000]);
        assert_eq!(rolled.floats.values[0].to_bits(), 3f64.to_bits());
        assert!(is_stale(rolled.floats.values[1]) && is_stale(rolled.floats.values[2]));
        let first: Vec<f64> = rolled.rolled.iter().map(|column| column.values[0]).collect();
        assert_eq!(first, [1.0, 5.0, 9.0, 3.0]);
        let second: Vec<f64> = rolled.rolled.iter().map(|column| column.values[1]).collect();
        assert_eq!(second, [7.0, 7.0, 7.0, 1.0]);
        assert!(
            rolled
                .rolled
                .iter()
                .all(|column| is_stale(column.values[2]) && column.times.len() == 3)
        );
    }
}
