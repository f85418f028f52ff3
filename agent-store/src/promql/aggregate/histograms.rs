//! `sum` and `avg` of native histograms.

use super::super::Error;
use super::super::eval::Evaluator;
use super::super::grid::{Row, Sample};
use crate::histogram::Histogram;
use crate::series::OF_A_HISTOGRAM;
use std::sync::Arc;

/// Adds the histograms of each step; a step that has floats as well has no result.
pub(super) fn add(evaluator: &Evaluator, rows: &[Row], result: &mut Row, average: bool) -> Result<(), Error> {
    for step in 0..result.count() {
        evaluator.work(rows.len())?;
        let mut all = rows.iter().filter_map(|row| row.histogram(step));
        let Some(first) = all.next() else { continue };
        if result.float(step).is_some() {
            evaluator.warn("encountered a mix of histograms and floats for aggregation");
            result.clear(step);
            continue;
        }
        let mut sum = Histogram::clone(first);
        let mut count = 1.0;
        for other in all {
            evaluator.work(OF_A_HISTOGRAM)?;
            sum.add(other);
            count += 1.0;
        }
        if average {
            sum.divide(count);
        }
        result.set(step, Sample::Histogram(Arc::new(sum)));
    }
    Ok(())
}
