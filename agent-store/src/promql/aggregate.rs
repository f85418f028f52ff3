//! Aggregation operators: rows are grouped once, then added column by column.

mod histograms;
mod rank;

pub(super) use rank::by_value;

use super::eval::Evaluator;
use super::float::{Kahan, mean, variance};
use super::grid::{Grid, Row, Sample, only, without};
use super::{Error, binary, quantile};
use crate::labels::{Labels, NAME};
use crate::series::is_stale;
use promql_parser::parser::token::{
    T_AVG, T_BOTTOMK, T_COUNT, T_COUNT_VALUES, T_GROUP, T_MAX, T_MIN, T_QUANTILE, T_STDDEV, T_STDVAR, T_SUM,
    T_TOPK, TokenId,
};
use promql_parser::parser::{AggregateExpr, Expr, LabelModifier};
use std::collections::HashMap;

impl Evaluator<'_> {
    pub fn aggregate(&self, node: &AggregateExpr, grid: Grid) -> Result<Vec<Row>, Error> {
        let op = node.op.id();
        let param = node.param.as_deref().map(binary::bare);
        let value_label = match param {
            Some(Expr::StringLiteral(text)) if op == T_COUNT_VALUES => Some(text.val.as_str()),
            _ => None,
        };
        let param = match param {
            Some(param) if value_label.is_none() => self.scalar(param, grid)?,
            _ => Vec::new(),
        };
        if matches!(op, T_TOPK | T_BOTTOMK) {
            rank::check(&param)?;
        }
        let rows = self.vector(&node.expr, grid)?;
        self.bounds.take(0, 0)?;
        let key = |labels: &Labels| group_key(node.modifier.as_ref(), labels);
        if let Some(label) = value_label {
            return rank::count_values(self, &rows, node.modifier.as_ref(), label, grid);
        }
        let mut order: Vec<Labels> = Vec::new();
        let mut groups: HashMap<Labels, Vec<Row>> = HashMap::new();
        for row in rows {
            let key = key(&row.labels);
            groups
                .entry(key)
                .or_insert_with_key(|key| {
                    order.push(key.clone());
                    Vec::new()
                })
                .push(row);
        }
        let mut results = Vec::with_capacity(order.len());
        for labels in order {
            let Some(rows) = groups.remove(&labels) else {
                continue;
            };
            match op {
                T_TOPK | T_BOTTOMK => results.extend(rank::rank(self, rows, &param, op == T_TOPK, grid)?),
                _ => results.push(self.aggregate_group(op, labels, &rows, &param, grid)?),
            }
        }
        results.retain(|row| !row.is_empty());
        if grid.count == 1 && matches!(op, T_TOPK | T_BOTTOMK) {
            return Ok(rank::ordered(results, node.modifier.as_ref(), op == T_TOPK));
        }
        Ok(results)
    }

    fn aggregate_group(
        &self,
        op: TokenId,
        labels: Labels,
        rows: &[Row],
        param: &[f64],
        grid: Grid,
    ) -> Result<Row, Error> {
        let mut result = Row::empty(labels, grid.count);
        match op {
            T_SUM => sum(rows, &mut result),
            T_MIN => fold(rows, &mut result, |old, new| {
                if old > new || old.is_nan() { new } else { old }
            }),
            T_MAX => fold(rows, &mut result, |old, new| {
                if old < new || old.is_nan() { new } else { old }
            }),
            T_GROUP => count(rows, &mut result, |_| 1.0),
            T_COUNT => count(rows, &mut result, |count| count),
            T_AVG => self.by_step(rows, &mut result, |_, values| mean(values.iter().copied()))?,
            T_STDVAR => self.by_step(rows, &mut result, |_, values| variance(values.iter().copied()))?,
            T_STDDEV => self.by_step(rows, &mut result, |_, values| {
                variance(values.iter().copied()).sqrt()
            })?,
            T_QUANTILE => {
                self.check_quantiles(param);
                self.by_step(rows, &mut result, |step, values| {
                    quantile::quantile(param.get(step).copied().unwrap_or(f64::NAN), values)
                })?;
            }
            _ => {
                return Error::execution("unsupported aggregation operator");
            }
        }
        if matches!(op, T_SUM | T_AVG) && rows.iter().any(|row| !row.histograms.is_empty()) {
            histograms::add(self, rows, &mut result, op == T_AVG)?;
        }
        Ok(result)
    }

    fn by_step(
        &self,
        rows: &[Row],
        result: &mut Row,
        mut f: impl FnMut(usize, &mut [f64]) -> f64,
    ) -> Result<(), Error> {
        let mut values = Vec::with_capacity(rows.len());
        for step in 0..result.count() {
            self.work(rows.len())?;
            values.clear();
            values.extend(rows.iter().filter_map(|row| row.float(step)));
            if !values.is_empty() {
                result.set(step, Sample::Float(f(step, &mut values)));
            }
        }
        Ok(())
    }
}

/// The labels that all of a group have.
fn group_key(modifier: Option<&LabelModifier>, labels: &Labels) -> Labels {
    match modifier {
        None => Labels::default(),
        Some(LabelModifier::Include(names)) => only(labels, &binary::strs(&names.labels)),
        Some(LabelModifier::Exclude(names)) => {
            without(labels, &[binary::strs(&names.labels), vec![NAME]].concat())
        }
    }
}

fn sum(rows: &[Row], result: &mut Row) {
    let mut sums = vec![Kahan::default(); result.count()];
    let mut there = vec![false; result.count()];
    for row in rows {
        for ((value, sum), there) in row.floats.iter().zip(&mut sums).zip(&mut there) {
            if !is_stale(*value) {
                sum.add(*value);
                *there = true;
            }
        }
    }
    for ((cell, sum), there) in result.floats.iter_mut().zip(sums).zip(there) {
        if there {
            *cell = sum.total();
        }
    }
}

fn fold(rows: &[Row], result: &mut Row, f: impl Fn(f64, f64) -> f64) {
    for row in rows {
        for (value, cell) in row.floats.iter().zip(&mut result.floats) {
            if !is_stale(*value) {
                *cell = if is_stale(*cell) { *value } else { f(*cell, *value) };
            }
        }
    }
}

fn count(rows: &[Row], result: &mut Row, f: impl Fn(f64) -> f64) {
    for step in 0..result.count() {
        let count = rows.iter().filter(|row| row.has(step)).count();
        if count > 0 {
            result.set(step, Sample::Float(f(count as f64)));
        }
    }
}
