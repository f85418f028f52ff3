//! `absent` and `absent_over_time`.

use super::super::eval::Evaluated;
use super::super::grid::{Grid, Row, Sample};
use super::super::{Error, parse};
use super::Arguments;
use crate::labels::{Labels, NAME};
use crate::series::Comparison;
use promql_parser::parser::{Expr, VectorSelector};
use std::collections::HashMap;

pub(super) fn absent(args: &Arguments) -> Result<Evaluated, Error> {
    let expr = args.expr(0)?;
    let rows = args.vector(0)?;
    let selector = match expr {
        Expr::VectorSelector(selector) => Some(selector),
        _ => None,
    };
    gaps(&rows, selector, args.grid)
}

pub(super) fn absent_over_time(args: &Arguments) -> Result<Evaluated, Error> {
    let expr = args.expr(0)?;
    let ranges = args.evaluator.ranges(expr, args.grid)?;
    // Each series under a name of its own: several may have the same labels but for the name.
    let rows = args
        .evaluator
        .slide(&ranges, args.grid, true, |_| |_| Ok(Some(Sample::Float(1.0))))?;
    let selector = match expr {
        Expr::MatrixSelector(selector) => Some(&selector.vs),
        _ => None,
    };
    gaps(&rows, selector, args.grid)
}

/// One where no row has anything.
fn gaps(rows: &[Row], selector: Option<&VectorSelector>, grid: Grid) -> Result<Evaluated, Error> {
    let mut gaps = Row::empty(selector.map_or_else(Labels::default, labels), grid.count);
    for step in 0..grid.count {
        if !rows.iter().any(|row| row.has(step)) {
            gaps.set(step, Sample::Float(1.0));
        }
    }
    Ok(Evaluated::Vector(if gaps.is_empty() {
        Vec::new()
    } else {
        vec![gaps]
    }))
}

/// The labels that the selector asks for by `=`, once each.
fn labels(selector: &VectorSelector) -> Labels {
    let mut wanted: HashMap<String, String> = HashMap::new();
    let mut seen = std::collections::HashSet::new();
    for matcher in parse::matchers(selector)
        .into_iter()
        .filter(|matcher| matcher.label != NAME)
    {
        match matcher.comparison {
            Comparison::Equal(value) if seen.insert(matcher.label.clone()) => {
                wanted.insert(matcher.label, value);
            }
            _ => {
                wanted.remove(&matcher.label);
            }
        }
    }
    Labels::new(wanted)
}
