//! The evaluator: an expression over all steps of a grid at once.

use super::grid::{Grid, Row, Sample, drop_name, unite};
use super::memo::Memo;
use super::{Error, MOST_STEPS, Options, float};
use crate::series::{Bounds, Millis, Source};
use promql_parser::parser::{Expr, UnaryExpr};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

/// What an expression is, over a grid. A range vector is `select::Ranges`.
pub(super) enum Evaluated {
    /// One a step.
    Scalar(Vec<f64>),
    Vector(Vec<Row>),
    String(String),
}

/// One query.
pub(super) struct Evaluator<'a> {
    pub source: &'a dyn Source,
    pub bounds: &'a dyn Bounds,
    pub options: &'a Options,
    /// Of the whole query.
    pub start: Millis,
    /// Of the whole query.
    pub end: Millis,
    pub memo: Option<&'a Memo>,
    pub warnings: Mutex<BTreeSet<String>>,
    /// Samples looked at since the clock was.
    pub worked: AtomicUsize,
}

/// How many samples are looked at between two looks at the clock: some tens of milliseconds.
pub(super) const BETWEEN_LOOKS: usize = 1 << 20;

/// What making labels costs, in samples.
pub(super) const OF_LABELS: usize = 64;

impl Evaluator<'_> {
    pub fn eval(&self, expr: &Expr, grid: Grid) -> Result<Evaluated, Error> {
        // Each node has at least a column of its own. Over the steps of a query that is little, over those of a subquery
        // it need not be.
        let is_long = i64::try_from(grid.count).is_ok_and(|count| count > MOST_STEPS + 1);
        let has_column = !matches!(expr, Expr::Paren(_));
        self.bounds
            .take(0, if is_long && has_column { grid.count } else { 0 })?;
        match expr {
            Expr::Paren(inner) => self.eval(&inner.expr, grid),
            Expr::NumberLiteral(number) => Ok(Evaluated::Scalar(vec![number.val; grid.count])),
            Expr::StringLiteral(string) => Ok(Evaluated::String(string.val.clone())),
            Expr::VectorSelector(node) => self.instant_selector(node, grid, false).map(Evaluated::Vector),
            Expr::Unary(node) => self.negate(node, grid),
            Expr::Binary(node) => self.binary(node, grid),
            Expr::Aggregate(node) => self.aggregate(node, grid).map(Evaluated::Vector),
            Expr::Call(node) => self.call(node, grid),
            Expr::MatrixSelector(_) | Expr::Subquery(_) => {
                Error::execution("a range vector can only be the argument of a function")
            }
            Expr::Extension(_) => Error::execution("unsupported expression"),
        }
    }

    /// An instant vector.
    pub fn vector(&self, expr: &Expr, grid: Grid) -> Result<Vec<Row>, Error> {
        match self.eval(expr, grid)? {
            Evaluated::Vector(rows) => Ok(rows),
            _ => Error::execution("expected an instant vector"),
        }
    }

    /// A scalar.
    pub fn scalar(&self, expr: &Expr, grid: Grid) -> Result<Vec<f64>, Error> {
        match self.eval(expr, grid)? {
            Evaluated::Scalar(values) => Ok(values),
            _ => Error::execution("expected a scalar"),
        }
    }

    /// Takes note of work that is not bounded by what was taken of samples, as these are looked at again and again: ends it
    /// when the time is over.
    pub fn work(&self, samples: usize) -> Result<(), Error> {
        let worked = self.worked.load(Relaxed).saturating_add(samples);
        if worked < BETWEEN_LOOKS {
            self.worked.store(worked, Relaxed);
            return Ok(());
        }
        self.worked.store(0, Relaxed);
        Ok(self.bounds.take(0, 0)?)
    }

    /// Says something beside the answer, once.
    pub fn warn(&self, text: impl Into<String>) {
        self.warnings
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(format!("PromQL warning: {}", text.into()));
    }

    /// Warns of quantiles beyond 0 to 1.
    pub fn check_quantiles(&self, q: &[f64]) {
        for q in q.iter().filter(|q| !(0.0..=1.0).contains(*q)) {
            let q = float::plain(*q);
            self.warn(format!("quantile value should be between 0 and 1, got {q}"));
        }
    }

    fn negate(&self, node: &UnaryExpr, grid: Grid) -> Result<Evaluated, Error> {
        Ok(match self.eval(&node.expr, grid)? {
            Evaluated::Scalar(values) => Evaluated::Scalar(values.into_iter().map(|value| -value).collect()),
            Evaluated::Vector(rows) => {
                let negated = rows.into_iter().map(|mut row| {
                    row.labels = drop_name(&row.labels);
                    for step in 0..row.count() {
                        match row.get(step) {
                            Some(Sample::Float(value)) => row.set(step, Sample::Float(-value)),
                            Some(Sample::Histogram(mut value)) => {
                                Arc::make_mut(&mut value).map(|count| -count);
                                row.set(step, Sample::Histogram(value));
                            }
                            None => {}
                        }
                    }
                    row
                });
                Evaluated::Vector(unite(negated.collect())?)
            }
            Evaluated::String(_) => return Error::execution("a string cannot be negated"),
        })
    }
}
