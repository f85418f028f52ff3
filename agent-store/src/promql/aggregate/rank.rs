//! `topk`, `bottomk` and `count_values`.

use super::super::eval::{Evaluator, OF_LABELS};
use super::super::functions::is_label_name;
use super::super::grid::{Collector, Grid, Row, Sample, with};
use super::super::{Error, float};
use super::group_key;
use promql_parser::parser::LabelModifier;
use std::cmp::Ordering;
use std::collections::HashMap;

/// NaN is behind all else, whether the largest come first or the smallest.
pub(in super::super) fn by_value(a: f64, b: f64, descending: bool) -> Ordering {
    match (a.is_nan(), b.is_nan()) {
        (false, false) if descending => b.total_cmp(&a),
        (false, false) => a.total_cmp(&b),
        (a, b) => a.cmp(&b),
    }
}

/// Whether all are a number of elements.
pub(super) fn check(k: &[f64]) -> Result<(), Error> {
    let limit = i64::MAX as f64;
    match k.iter().find(|k| !(-limit..limit).contains(*k)) {
        Some(k) => Error::execution(format!("Scalar value {} overflows int64", float::shortest(*k))),
        None => Ok(()),
    }
}

/// Keeps the first `k` floats of one group at each step.
pub(super) fn rank(
    evaluator: &Evaluator,
    mut rows: Vec<Row>,
    k: &[f64],
    descending: bool,
    grid: Grid,
) -> Result<Vec<Row>, Error> {
    for step in 0..grid.count {
        evaluator.work(rows.len())?;
        let k = k.get(step).copied().unwrap_or(0.0);
        let mut there: Vec<(usize, f64)> = rows
            .iter()
            .enumerate()
            .filter_map(|(at, row)| Some((at, row.float(step)?)))
            .collect();
        there.sort_by(|a, b| by_value(a.1, b.1, descending));
        let kept: Vec<(usize, f64)> = there.into_iter().take(k.max(0.0) as usize).collect();
        for row in &mut rows {
            row.clear(step);
        }
        for (at, value) in kept {
            rows[at].set(step, Sample::Float(value));
        }
    }
    Ok(rows)
}

/// The groups one after another, each ordered by value.
pub(super) fn ordered(rows: Vec<Row>, modifier: Option<&LabelModifier>, descending: bool) -> Vec<Row> {
    let mut keys = HashMap::new();
    let mut placed: Vec<(usize, f64, Row)> = Vec::with_capacity(rows.len());
    for row in rows {
        let key = group_key(modifier, &row.labels);
        let next = keys.len();
        let place = *keys.entry(key).or_insert(next);
        placed.push((place, row.float(0).unwrap_or(f64::NAN), row));
    }
    placed.sort_by(|a, b| a.0.cmp(&b.0).then_with(|| by_value(a.1, b.1, descending)));
    placed.into_iter().map(|(_, _, row)| row).collect()
}

/// How often each value is there, with the value as a label.
pub(super) fn count_values(
    evaluator: &Evaluator,
    rows: &[Row],
    modifier: Option<&LabelModifier>,
    label: &str,
    grid: Grid,
) -> Result<Vec<Row>, Error> {
    if !is_label_name(label) {
        return Error::execution(format!("invalid label name {label:?}"));
    }
    let mut collector = Collector::new(grid.count, rows.len());
    for row in rows {
        let group = group_key(modifier, &row.labels);
        // The label of the value belongs to the group, even if `without` names it.
        for step in 0..grid.count {
            let Some(value) = row.float(step) else { continue };
            evaluator.work(OF_LABELS)?;
            let labels = with(&group, label, &float::plain(value));
            let labels = match modifier {
                Some(LabelModifier::Exclude(names)) if names.labels.iter().any(|name| name == label) => {
                    group.clone()
                }
                _ => labels,
            };
            let counted = collector.row(&labels, evaluator.bounds)?;
            let count = counted.float(step).unwrap_or(0.0);
            counted.set(step, Sample::Float(count + 1.0));
        }
    }
    Ok(collector.finish())
}
