//! Functions of histograms, native and classic.

use super::super::eval::Evaluated;
use super::super::float::Kahan;
use super::super::grid::{Row, Sample, drop_name, unite, without};
use super::super::{Error, quantile};
use super::Arguments;
use crate::histogram::Histogram;
use crate::labels::Labels;
use std::collections::HashMap;

/// The label with a classic bucket's upper bound.
const LE: &str = "le";

pub(super) fn call(args: &Arguments) -> Result<Evaluated, Error> {
    match args.name {
        "histogram_count" => native(args.vector(0)?, |_, h| h.count),
        "histogram_sum" => native(args.vector(0)?, |_, h| h.sum),
        "histogram_avg" => native(args.vector(0)?, |_, h| h.sum / h.count),
        "histogram_stdvar" => native(args.vector(0)?, |_, h| variance(h)),
        "histogram_stddev" => native(args.vector(0)?, |_, h| variance(h).sqrt()),
        "histogram_fraction" => {
            let (lower, upper) = (args.scalar(0)?, args.scalar(1)?);
            native(args.vector(2)?, |step, h| {
                quantile::fraction(lower[step], upper[step], h, args.evaluator.options.version)
            })
        }
        "histogram_quantile" => quantiles(args),
        name => Error::execution(format!("unknown function with name {name:?}")),
    }
}

/// A float of each native histogram.
fn native(rows: Vec<Row>, f: impl Fn(usize, &Histogram) -> f64) -> Result<Evaluated, Error> {
    let rows = rows.into_iter().map(|row| {
        let mut floats = Row::empty(drop_name(&row.labels), row.count());
        for (step, histogram) in row.histograms.iter().enumerate() {
            if let Some(histogram) = histogram {
                floats.set(step, Sample::Float(f(step, histogram)));
            }
        }
        floats
    });
    unite(rows.collect()).map(Evaluated::Vector)
}

/// As if all values of a bucket were its geometric mean.
fn variance(histogram: &Histogram) -> f64 {
    let mean = histogram.sum / histogram.count;
    let mut sum = Kahan::default();
    for bucket in histogram.buckets().iter().filter(|bucket| bucket.count != 0.0) {
        let value = if bucket.lower <= 0.0 && bucket.upper >= 0.0 {
            0.0
        } else {
            (bucket.upper * bucket.lower).sqrt().copysign(bucket.upper)
        };
        sum.add(bucket.count * (value - mean) * (value - mean));
    }
    sum.total() / histogram.count
}

/// The buckets of one classic histogram.
struct Classic<'a> {
    /// Upper bounds, ordered, with their counts.
    buckets: Vec<(f64, &'a Row)>,
}

fn quantiles(args: &Arguments) -> Result<Evaluated, Error> {
    let q = args.scalar(0)?;
    let version = args.evaluator.options.version;
    args.evaluator.check_quantiles(&q);
    let rows = args.vector(1)?;
    let mut classics: HashMap<Labels, Classic> = HashMap::new();
    for row in &rows {
        let le = row.labels.get(LE);
        let Ok(bound) = le.parse::<f64>() else {
            if row.histograms.is_empty() {
                let name = row.labels.name();
                args.evaluator.warn(format!("bucket label \"le\" is missing or has a malformed value of {le:?} for metric name {name:?}"));
            }
            continue;
        };
        let classic = classics
            .entry(without(&row.labels, &[LE]))
            .or_insert(Classic { buckets: Vec::new() });
        classic.buckets.push((bound, row));
    }
    let mut results: Vec<Row> = Vec::new();
    for row in rows.iter().filter(|row| !row.histograms.is_empty()) {
        let mut result = Row::empty(drop_name(&row.labels), row.count());
        let same = classics.get(&row.labels);
        for (step, q) in q.iter().enumerate() {
            let Some(histogram) = row.histogram(step) else {
                continue;
            };
            // Native and classic buckets under one name: it is not known which to believe.
            if same.is_none_or(|classic| classic.buckets.iter().all(|(_, row)| row.float(step).is_none())) {
                result.set(step, Sample::Float(quantile::of_native(*q, histogram, version)));
            }
        }
        results.push(result);
    }
    let natives: HashMap<&Labels, &Row> = rows
        .iter()
        .filter(|row| !row.histograms.is_empty())
        .map(|row| (&row.labels, row))
        .collect();
    for (labels, classic) in &mut classics {
        classic.buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        let native = natives.get(labels);
        let mut result = Row::empty(drop_name(labels), args.grid.count);
        let mut buckets = Vec::with_capacity(classic.buckets.len());
        for (step, q) in q.iter().enumerate() {
            args.evaluator.work(classic.buckets.len())?;
            buckets.clear();
            buckets.extend(
                classic
                    .buckets
                    .iter()
                    .filter_map(|(bound, row)| Some((*bound, row.float(step)?))),
            );
            if !buckets.is_empty() && native.is_none_or(|row| row.histogram(step).is_none()) {
                result.set(step, Sample::Float(quantile::of_classic(*q, &buckets)));
            }
        }
        results.push(result);
    }
    results.sort_by(|a, b| a.labels.cmp(&b.labels));
    unite(results).map(Evaluated::Vector)
}
