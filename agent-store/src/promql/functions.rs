//! Functions, by name.

mod absent;
mod dates;
mod histograms;
mod labels;
mod math;
mod over_time;
mod rate;
mod regression;

use super::aggregate::by_value;
use super::eval::{Evaluated, Evaluator};
use super::grid::{Grid, Row, Sample, unite};
use super::{Error, binary};
use promql_parser::parser::{Call, Expr};

pub use dates::civil;
pub use labels::is_label_name;

/// Those that are not in a table of their own.
const OTHERS: &[&str] = &[
    "absent",
    "absent_over_time",
    "clamp",
    "clamp_max",
    "clamp_min",
    "delta",
    "double_exponential_smoothing",
    "histogram_avg",
    "histogram_count",
    "histogram_fraction",
    "histogram_quantile",
    "histogram_stddev",
    "histogram_stdvar",
    "histogram_sum",
    "holt_winters",
    "idelta",
    "increase",
    "irate",
    "label_join",
    "label_replace",
    "last_over_time",
    "pi",
    "predict_linear",
    "quantile_over_time",
    "rate",
    "round",
    "scalar",
    "sort",
    "sort_by_label",
    "sort_by_label_desc",
    "sort_desc",
    "time",
    "timestamp",
    "vector",
];

/// Whether there is a function of this name.
pub(super) fn is_known(name: &str) -> bool {
    math::function(name).is_some()
        || dates::function(name).is_some()
        || over_time::function(name).is_some()
        || OTHERS.contains(&name)
}

/// A call with its arguments at hand.
pub(super) struct Arguments<'a> {
    evaluator: &'a Evaluator<'a>,
    name: &'a str,
    args: &'a [Box<Expr>],
    grid: Grid,
}

impl<'a> Arguments<'a> {
    fn expr(&self, at: usize) -> Result<&'a Expr, Error> {
        match self.args.get(at) {
            Some(expr) => Ok(binary::bare(expr)),
            None => Error::execution(format!("{} has too few arguments", self.name)),
        }
    }

    fn vector(&self, at: usize) -> Result<Vec<Row>, Error> {
        self.evaluator.vector(self.expr(at)?, self.grid)
    }

    fn scalar(&self, at: usize) -> Result<Vec<f64>, Error> {
        self.evaluator.scalar(self.expr(at)?, self.grid)
    }

    fn string(&self, at: usize) -> Result<&'a str, Error> {
        match self.expr(at)? {
            Expr::StringLiteral(text) => Ok(&text.val),
            _ => Error::execution(format!("{} expects a string", self.name)),
        }
    }

    fn strings(&self, from: usize) -> Result<Vec<&'a str>, Error> {
        (from..self.args.len()).map(|at| self.string(at)).collect()
    }
}

impl Evaluator<'_> {
    /// A call, or what is known of it.
    pub fn call(&self, node: &Call, grid: Grid) -> Result<Evaluated, Error> {
        let Some((memo, key)) = self.part(node, grid) else {
            return self.call_anew(node, grid);
        };
        if let Some(rows) = memo.get(&key) {
            return Ok(Evaluated::Vector(rows));
        }
        let value = self.call_anew(node, grid)?;
        if let Evaluated::Vector(rows) = &value {
            memo.put(key, rows);
        }
        Ok(value)
    }

    fn call_anew(&self, node: &Call, grid: Grid) -> Result<Evaluated, Error> {
        let name = node.func.name;
        let args = Arguments {
            evaluator: self,
            name,
            args: &node.args.args,
            grid,
        };
        if let Some(f) = math::function(name) {
            return floats(args.vector(0)?, |_, value| f(value));
        }
        if let Some(f) = dates::function(name) {
            if args.args.is_empty() {
                let times = grid.times().map(|time| f(time as f64 / 1000.0));
                return Ok(Evaluated::Vector(vec![Row::nameless(times.collect())]));
            }
            return floats(args.vector(0)?, |_, value| f(value));
        }
        if let Some(f) = over_time::function(name) {
            let ranges = self.ranges(args.expr(0)?, grid)?;
            return self
                .slide(&ranges, grid, false, |_| |window| Ok(f(&window)))
                .map(Evaluated::Vector);
        }
        match name {
            "pi" => Ok(Evaluated::Scalar(vec![std::f64::consts::PI; grid.count])),
            "time" => Ok(Evaluated::Scalar(
                grid.times().map(|time| time as f64 / 1000.0).collect(),
            )),
            "vector" => Ok(Evaluated::Vector(vec![Row::nameless(args.scalar(0)?)])),
            "scalar" => Ok(Evaluated::Scalar(to_scalar(&args.vector(0)?, grid))),
            "clamp" | "clamp_max" | "clamp_min" | "round" => math::with_scalars(&args),
            "timestamp" => timestamp(&args),
            "absent" => absent::absent(&args),
            "absent_over_time" => absent::absent_over_time(&args),
            "sort" => sort(&args, false),
            "sort_desc" => sort(&args, true),
            "sort_by_label" | "sort_by_label_desc" => labels::sort(&args),
            "label_replace" => labels::replace(&args),
            "label_join" => labels::join(&args),
            "rate" | "increase" | "delta" => rate::extrapolated(&args),
            "irate" | "idelta" => rate::instant(&args),
            "last_over_time" => {
                let ranges = self.ranges(args.expr(0)?, grid)?;
                let rows = self.slide(&ranges, grid, true, |_| |window| Ok(over_time::last(&window)))?;
                Ok(Evaluated::Vector(rows))
            }
            "quantile_over_time" => over_time::quantile(&args),
            "predict_linear" => regression::predict_linear(&args),
            "holt_winters" | "double_exponential_smoothing" => regression::smoothing(&args),
            _ => histograms::call(&args),
        }
    }
}

/// Applies `f` to the floats of a vector, whose values are no longer what the name says.
fn floats(rows: Vec<Row>, f: impl Fn(usize, f64) -> f64) -> Result<Evaluated, Error> {
    unite(
        rows.into_iter()
            .map(|row| row.map_floats(&f).without_name())
            .collect(),
    )
    .map(Evaluated::Vector)
}

/// The value of the only element of a vector, NaN at steps that have none or several.
fn to_scalar(rows: &[Row], grid: Grid) -> Vec<f64> {
    let one = |step| {
        let mut there = rows.iter().filter(|row| row.has(step));
        match (there.next(), there.next()) {
            (Some(row), None) => row.float(step).unwrap_or(f64::NAN),
            _ => f64::NAN,
        }
    };
    (0..grid.count).map(one).collect()
}

/// When the samples of a selector were taken; of any other vector, the time of the step.
fn timestamp(args: &Arguments) -> Result<Evaluated, Error> {
    if let Expr::VectorSelector(selector) = args.expr(0)? {
        let rows = args.evaluator.instant_selector(selector, args.grid, true)?;
        return unite(rows.into_iter().map(Row::without_name).collect()).map(Evaluated::Vector);
    }
    let rows = args.vector(0)?.into_iter().map(|row| {
        let mut times = Row::empty(row.labels.clone(), row.count()).without_name();
        for (step, time) in args.grid.times().enumerate().filter(|(step, _)| row.has(*step)) {
            times.set(step, Sample::Float(time as f64 / 1000.0));
        }
        times
    });
    unite(rows.collect()).map(Evaluated::Vector)
}

/// Orders an instant vector; the series of a range query are ordered by their labels, always.
fn sort(args: &Arguments, descending: bool) -> Result<Evaluated, Error> {
    let mut rows = args.vector(0)?;
    if args.grid.count == 1 {
        let value = |row: &Row| row.float(0).unwrap_or(f64::NAN);
        rows.sort_by(|a, b| by_value(value(a), value(b), descending));
    }
    Ok(Evaluated::Vector(rows))
}
