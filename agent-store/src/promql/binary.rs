//! Binary operators.

mod matching;
mod sets;

pub(super) use matching::strs;

use super::Error;
use super::eval::{Evaluated, Evaluator};
use super::grid::{Grid, Row, Sample, drop_name, unite};
use crate::histogram::Histogram;
use promql_parser::parser::token::{
    T_ADD, T_ATAN2, T_DIV, T_EQLC, T_GTE, T_GTR, T_LSS, T_LTE, T_MOD, T_MUL, T_NEQ, T_POW, T_SUB, TokenId,
};
use promql_parser::parser::{BinaryExpr, Expr};
use std::sync::Arc;

/// An operator that is not one of sets.
#[derive(Clone, Copy, PartialEq)]
pub(super) struct Operator {
    id: TokenId,
    /// `bool`: a comparison answers 0 or 1, and filters nothing.
    bool: bool,
}

impl Operator {
    fn compares(self) -> bool {
        matches!(self.id, T_EQLC | T_NEQ | T_GTR | T_LSS | T_GTE | T_LTE)
    }

    /// Whether the result is no longer what the metric's name says.
    fn drops_name(self) -> bool {
        self.bool || matches!(self.id, T_ADD | T_SUB | T_MUL | T_DIV | T_MOD | T_POW)
    }

    fn floats(self, a: f64, b: f64) -> f64 {
        match self.id {
            T_ADD => a + b,
            T_SUB => a - b,
            T_MUL => a * b,
            T_DIV => a / b,
            T_MOD => a % b,
            T_POW => a.powf(b),
            T_ATAN2 => a.atan2(b),
            _ => f64::from(u8::from(self.holds(a, b))),
        }
    }

    fn holds(self, a: f64, b: f64) -> bool {
        match self.id {
            T_EQLC => a == b,
            T_NEQ => a != b,
            T_GTR => a > b,
            T_LSS => a < b,
            T_GTE => a >= b,
            T_LTE => a <= b,
            _ => true,
        }
    }

    /// Two elements of vectors; `None` when nothing comes of it.
    fn samples(self, a: &Sample, b: &Sample) -> Option<Sample> {
        match (a, b) {
            (Sample::Float(a), Sample::Float(b)) if self.compares() && !self.bool => {
                self.holds(*a, *b).then_some(Sample::Float(*a))
            }
            (Sample::Float(a), Sample::Float(b)) => Some(Sample::Float(self.floats(*a, *b))),
            (Sample::Histogram(a), Sample::Histogram(b)) => self.histograms(a, b),
            (Sample::Histogram(histogram), Sample::Float(by)) if matches!(self.id, T_MUL | T_DIV) => {
                let mut result = Histogram::clone(histogram);
                if self.id == T_MUL {
                    result.map(|value| value * by);
                } else {
                    result.divide(*by);
                }
                Some(Sample::Histogram(Arc::new(result)))
            }
            (Sample::Float(by), Sample::Histogram(histogram)) if self.id == T_MUL => {
                let mut result = Histogram::clone(histogram);
                result.map(|value| value * by);
                Some(Sample::Histogram(Arc::new(result)))
            }
            _ => None,
        }
    }

    fn histograms(self, a: &Arc<Histogram>, b: &Arc<Histogram>) -> Option<Sample> {
        let mut result = Histogram::clone(a);
        match self.id {
            T_ADD => result.add(b),
            T_SUB => result.sub(b),
            T_EQLC | T_NEQ => {
                let holds = (a == b) == (self.id == T_EQLC);
                if self.bool {
                    return Some(Sample::Float(f64::from(u8::from(holds))));
                }
                return holds.then(|| Sample::Histogram(a.clone()));
            }
            _ => return None,
        }
        Some(Sample::Histogram(Arc::new(result)))
    }
}

impl Evaluator<'_> {
    pub fn binary(&self, node: &BinaryExpr, grid: Grid) -> Result<Evaluated, Error> {
        let operator = Operator {
            id: node.op.id(),
            bool: node.return_bool(),
        };
        let (left, right) = (self.eval(&node.lhs, grid)?, self.eval(&node.rhs, grid)?);
        match (left, right) {
            (Evaluated::Scalar(left), Evaluated::Scalar(right)) => {
                let values = left
                    .iter()
                    .zip(&right)
                    .map(|(a, b)| operator.floats(*a, *b))
                    .collect();
                Ok(Evaluated::Scalar(values))
            }
            (Evaluated::Vector(rows), Evaluated::Scalar(by)) => with_scalar(operator, rows, &by, false),
            (Evaluated::Scalar(by), Evaluated::Vector(rows)) => with_scalar(operator, rows, &by, true),
            (Evaluated::Vector(left), Evaluated::Vector(right)) if node.op.is_set_operator() => {
                sets::combine(node, left, right, grid.count).map(Evaluated::Vector)
            }
            (Evaluated::Vector(left), Evaluated::Vector(right)) => {
                matching::combine(self, operator, node.modifier.as_ref(), left, right, grid.count)
                    .map(Evaluated::Vector)
            }
            _ => Error::execution("binary expression must contain only scalar and instant vector types"),
        }
    }
}

/// A comparison keeps the vector's value, whichever side it is on.
fn with_scalar(operator: Operator, rows: Vec<Row>, by: &[f64], swapped: bool) -> Result<Evaluated, Error> {
    let filters = operator.compares() && !operator.bool;
    let rows = rows.into_iter().map(|mut row| {
        if operator.drops_name() {
            row.labels = drop_name(&row.labels);
        }
        for (step, by) in by.iter().enumerate().take(row.count()) {
            let result = match row.get(step) {
                None => continue,
                Some(Sample::Float(value)) => {
                    let (a, b) = if swapped { (*by, value) } else { (value, *by) };
                    if filters {
                        operator.holds(a, b).then_some(Sample::Float(value))
                    } else {
                        Some(Sample::Float(operator.floats(a, b)))
                    }
                }
                Some(histogram) if swapped => operator.samples(&Sample::Float(*by), &histogram),
                Some(histogram) => operator.samples(&histogram, &Sample::Float(*by)),
            };
            match result {
                None => row.clear(step),
                Some(result) => row.set(step, result),
            }
        }
        row
    });
    unite(rows.collect()).map(Evaluated::Vector)
}

/// An expression without the parentheses around it.
pub(super) fn bare(mut expr: &Expr) -> &Expr {
    while let Expr::Paren(inner) = expr {
        expr = &inner.expr;
    }
    expr
}
