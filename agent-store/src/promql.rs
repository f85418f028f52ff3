//! PromQL: the language by its own parser, evaluated over whatever has series.
//!
//! All steps of a range query are evaluated at once: each selector is asked of the source once, and what comes of it are
//! columns with a value a step. Answers are those of Prometheus; docs/promql.md lists where they are not.

mod aggregate;
mod binary;
mod error;
mod eval;
mod float;
mod functions;
mod grid;
pub mod json;
mod memo;
mod parse;
mod quantile;
mod select;
mod show;
#[cfg(test)]
mod tests;
mod window;

pub use error::Error;
pub use functions::{civil, is_label_name};
pub use grid::Sample;
pub use memo::Memo;
pub use parse::{is_of_range, selector, selectors};

use crate::labels::Labels;
use crate::series::{Bounds, Millis, Series, Source};
use eval::{Evaluated, Evaluator};
use grid::{Grid, Row};
use promql_parser::parser::Expr;
use promql_parser::parser::value::ValueType;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, PoisonError};

/// Most steps of a range query: what Prometheus allows.
const MOST_STEPS: i64 = 11_000;

/// Whose answers they are, where the two differ: at the ends of windows, and within the buckets of native histograms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Version {
    /// Prometheus 2: a window has both its ends, values are spread evenly over a bucket.
    Two,
    /// Prometheus 3: a window does not have its start, values are spread evenly over the logarithm of a bucket.
    #[default]
    Three,
}

/// What a query leaves open.
#[derive(Clone, Debug)]
pub struct Options {
    /// Whose answers are wanted.
    pub version: Version,
    /// How old the latest sample of a series may be.
    pub lookback: Millis,
    /// Step of a subquery that gives none: Prometheus' evaluation interval.
    pub subquery_step: Millis,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            version: Version::default(),
            lookback: 300_000,
            subquery_step: 60_000,
        }
    }
}

/// One element of an instant vector.
#[derive(Clone, Debug, PartialEq)]
pub struct Element {
    /// Its identity.
    pub labels: Labels,
    /// Its value.
    pub sample: Sample,
}

/// What a query comes to.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A number at a time.
    Scalar(Millis, f64),
    /// A string at a time.
    String(Millis, String),
    /// Series with one sample each, all at one time; ordered when the query orders them.
    Vector(Millis, Vec<Element>),
    /// Series, ordered by their labels.
    Matrix(Vec<Series>),
}

/// A value, and what is to be said of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The value.
    pub value: Value,
    /// Each once.
    pub warnings: Vec<String>,
}

/// Whether a query makes sense and comes to values at a time: numbers, and not windows or strings.
pub fn check(query: &str) -> Result<(), Error> {
    with_room(query, || match parse::parse(query)?.value_type() {
        ValueType::Scalar | ValueType::Vector => Ok(()),
        other => bad(&format!(
            "the query comes to a {}; it must come to an instant vector or a scalar",
            parse::type_name(other)
        )),
    })
}

/// Evaluates a query at one time.
pub fn instant(
    query: &str,
    at: Millis,
    options: &Options,
    source: &dyn Source,
    bounds: &dyn Bounds,
) -> Result<Answer, Error> {
    check_time("time", at)?;
    with_room(query, || {
        let evaluator = evaluator((at, at), options, source, bounds);
        at_time(&parse::parse(query)?, at, evaluator)
    })
}

/// A query that is asked again and again: it is parsed once.
#[derive(Clone, Debug)]
pub struct Query {
    text: String,
    /// `None` of one of many parts: such a tree needs a deep stack, also where it ends.
    parsed: Option<Arc<Expr>>,
}

impl Query {
    /// Parses and checks it.
    pub fn new(text: &str) -> Result<Self, Error> {
        let parsed = match is_deep(text) {
            true => with_room(text, || parse::parse(text).map(|_| None))?,
            false => Some(Arc::new(parse::parse(text)?)),
        };
        Ok(Self {
            text: text.to_owned(),
            parsed,
        })
    }

    /// Evaluates it at one time, with what others of the same time and source came to.
    pub fn instant(
        &self,
        at: Millis,
        options: &Options,
        source: &dyn Source,
        bounds: &dyn Bounds,
        memo: &Memo,
    ) -> Result<Answer, Error> {
        match &self.parsed {
            Some(expr) => {
                check_time("time", at)?;
                let evaluator = Evaluator {
                    memo: Some(memo),
                    ..evaluator((at, at), options, source, bounds)
                };
                at_time(expr, at, evaluator)
            }
            None => instant(&self.text, at, options, source, bounds),
        }
    }
}

fn at_time(expr: &Expr, at: Millis, evaluator: Evaluator<'_>) -> Result<Answer, Error> {
    let grid = Grid::instant(at);
    let value = if expr.value_type() == ValueType::Matrix {
        matrix(evaluator.matrix(expr, grid)?)
    } else {
        match evaluator.eval(expr, grid)? {
            Evaluated::Scalar(values) => Value::Scalar(at, values.first().copied().unwrap_or(f64::NAN)),
            Evaluated::String(text) => Value::String(at, text),
            Evaluated::Vector(rows) => {
                let element = |row: Row| {
                    Some(Element {
                        sample: row.get(0)?,
                        labels: row.labels,
                    })
                };
                Value::Vector(at, rows.into_iter().filter_map(element).collect())
            }
        }
    };
    Ok(answer(value, evaluator))
}

/// Evaluates a query at `start`, `start + step` and so on, up to `end`.
pub fn range(
    query: &str,
    start: Millis,
    end: Millis,
    step: Millis,
    options: &Options,
    source: &dyn Source,
    bounds: &dyn Bounds,
) -> Result<Answer, Error> {
    check_time("start", start)?;
    check_time("end", end)?;
    if end < start {
        return bad("invalid parameter \"end\": end timestamp must not be before start time");
    }
    if step <= 0 {
        return bad(
            "invalid parameter \"step\": zero or negative query resolution step widths are not accepted. Try a positive integer",
        );
    }
    if end.saturating_sub(start) / step > MOST_STEPS {
        return bad(
            "exceeded maximum resolution of 11,000 points per timeseries. Try decreasing the query resolution (?step=XX)",
        );
    }
    with_room(query, || {
        let expr = parse::parse(query)?;
        check_type(&expr)?;
        let grid = Grid::new(start, end, step);
        let evaluator = evaluator((start, end), options, source, bounds);
        let rows = match evaluator.eval(&expr, grid)? {
            Evaluated::Scalar(floats) => vec![Row::nameless(floats)],
            Evaluated::Vector(rows) => rows,
            Evaluated::String(_) => return bad("a string has no range"),
        };
        let series = rows.iter().map(|row| select::to_series(row, grid)).collect();
        Ok(answer(matrix(series), evaluator))
    })
}

fn is_deep(query: &str) -> bool {
    parse::parts(query) > 100
}

/// Parsing, evaluation and the tree's end are recursive: a query of many parts gets a stack that is deep enough for
/// `parse::MOST_PARTS`, on a thread of its own.
fn with_room<T: Send>(query: &str, work: impl FnOnce() -> Result<T, Error> + Send) -> Result<T, Error> {
    if !is_deep(query) {
        return work();
    }
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("query".to_owned())
            .stack_size(64 << 20);
        let thread = thread
            .spawn_scoped(scope, work)
            .map_err(|error| Error::Internal(format!("no thread for a query of many parts: {error}")))?;
        thread
            .join()
            .unwrap_or_else(|_| Err(Error::Internal("the evaluation of the query panicked".to_owned())))
    })
}

/// Beyond this, times and offsets together might not fit.
const FARTHEST: Millis = 1 << 53;

fn check_time(name: &str, time: Millis) -> Result<(), Error> {
    if (-FARTHEST..=FARTHEST).contains(&time) {
        return Ok(());
    }
    bad(&format!(
        "invalid parameter {name:?}: {time} ms is more than 285,000 years from 1970"
    ))
}

fn check_type(expr: &Expr) -> Result<(), Error> {
    match expr.value_type() {
        ValueType::Scalar | ValueType::Vector => Ok(()),
        other => bad(&format!(
            "invalid expression type {:?} for range query, must be Scalar or instant Vector",
            parse::type_name(other)
        )),
    }
}

fn bad<T>(text: &str) -> Result<T, Error> {
    Err(Error::BadData(text.to_owned()))
}

fn evaluator<'a>(
    (start, end): (Millis, Millis),
    options: &'a Options,
    source: &'a dyn Source,
    bounds: &'a dyn Bounds,
) -> Evaluator<'a> {
    Evaluator {
        source,
        bounds,
        options,
        start,
        end,
        memo: None,
        warnings: Mutex::default(),
        worked: AtomicUsize::new(0),
    }
}

fn matrix(mut series: Vec<Series>) -> Value {
    series.retain(|one| !one.samples.floats.times.is_empty() || !one.samples.histograms.times.is_empty());
    series.sort_by(|a, b| a.labels.cmp(&b.labels));
    Value::Matrix(series)
}

fn answer(value: Value, evaluator: Evaluator) -> Answer {
    Answer {
        value,
        warnings: evaluator
            .warnings
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
            .into_iter()
            .collect(),
    }
}

/// A duration as PromQL writes it, e.g. `1h30m`; `None` if it is none.
pub fn duration(text: &str) -> Option<std::time::Duration> {
    promql_parser::util::parse_duration(text).ok()
}
