//! What the values of a query are, as far as the declarations of its metrics say.

use crate::maker::unit as grafana;
use crate::{Kind, Metric};
use promql_parser::parser::token::{T_ADD, T_COUNT, T_COUNT_VALUES, T_DIV, T_GROUP, T_SUB};
use promql_parser::parser::{BinaryExpr, Expr, LabelModifier};

/// A unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit<'a> {
    /// A number of nothing.
    Number,
    /// A part of a whole.
    Share,
    /// UCUM, and whether in a second.
    Of(&'a str, bool),
}

/// So many of something.
const MANY: &str = "{}";

/// Grafana's name of the unit of a query's values.
pub fn of(expr: &Expr, metrics: &[Metric]) -> &'static str {
    match find(expr, metrics) {
        Some(Unit::Share) => "percentunit",
        Some(Unit::Of(ucum, rate)) => grafana(ucum, rate),
        Some(Unit::Number) | None => "short",
    }
}

/// The same where [`is_histogram`]: of what is counted, not of the counts.
pub fn of_histogram(expr: &Expr, metrics: &[Metric]) -> &'static str {
    match find(expr, metrics) {
        Some(Unit::Of(ucum, _)) => grafana(ucum, false),
        _ => "short",
    }
}

/// Whether each value of a query is a histogram, or a bucket of one: what a heatmap shows.
pub fn is_histogram(expr: &Expr, metrics: &[Metric]) -> bool {
    let is_buckets = |expr: &Expr| matches!(name(expr), Some(name) if name.ends_with("_bucket"));
    let is_native = |expr: &Expr| {
        let found = metrics
            .iter()
            .find(|metric| Some(metric.name.as_str()) == name(expr));
        found.is_some_and(|metric| metric.kind == Kind::Histogram)
    };
    match expr {
        Expr::Paren(paren) => is_histogram(&paren.expr, metrics),
        // How many there are is a number.
        Expr::Aggregate(sum) if matches!(sum.op.to_string().as_str(), "sum" | "avg") => {
            let by_le = matches!(&sum.modifier, Some(LabelModifier::Include(by)) if by.labels.iter().any(|label| label == "le"));
            let rated = |expr: &Expr| matches!(expr, Expr::Call(call) if call.args.args.iter().any(|arg| is_buckets(arg)));
            by_le && rated(&sum.expr) || is_histogram(&sum.expr, metrics)
        }
        Expr::Call(call) => {
            matches!(call.func.name, "rate" | "increase") && call.args.args.iter().any(|arg| is_native(arg))
        }
        other => is_native(other),
    }
}

fn name(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::VectorSelector(selector) => selector.name.as_deref(),
        Expr::MatrixSelector(range) => range.vs.name.as_deref(),
        Expr::Subquery(subquery) => name(&subquery.expr),
        _ => None,
    }
}

fn find<'a>(expr: &Expr, metrics: &'a [Metric]) -> Option<Unit<'a>> {
    match expr {
        Expr::NumberLiteral(_) => Some(Unit::Number),
        Expr::Paren(paren) => find(&paren.expr, metrics),
        Expr::Unary(unary) => find(&unary.expr, metrics),
        Expr::Subquery(subquery) => find(&subquery.expr, metrics),
        Expr::VectorSelector(_) | Expr::MatrixSelector(_) => of_metric(name(expr)?, metrics),
        Expr::Aggregate(aggregate) => match aggregate.op.id() {
            T_COUNT | T_GROUP | T_COUNT_VALUES => Some(Unit::Number),
            _ => find(&aggregate.expr, metrics),
        },
        Expr::Call(call) => {
            let mut arguments = call.args.args.iter().filter_map(|arg| find(arg, metrics));
            let measured = arguments.find(|unit| *unit != Unit::Number);
            called(call.func.name, measured)
        }
        Expr::Binary(binary) => combined(binary, metrics),
        Expr::StringLiteral(_) | Expr::Extension(_) => None,
    }
}

fn of_metric<'a>(name: &str, metrics: &'a [Metric]) -> Option<Unit<'a>> {
    metrics.iter().find_map(|metric| {
        let end = name.strip_prefix(metric.name.as_str())?;
        let histogram = metric.kind == Kind::Histogram;
        match end {
            "" if metric.unit == "1" && name.ends_with("_ratio") => Some(Unit::Share),
            "" => Some(Unit::Of(&metric.unit, false)),
            "_bucket" | "_sum" if histogram => Some(Unit::Of(&metric.unit, false)),
            "_count" if histogram => Some(Unit::Of(MANY, false)),
            _ => None,
        }
    })
}

/// What a function makes of the unit of what it is given.
fn called<'a>(function: &str, given: Option<Unit<'a>>) -> Option<Unit<'a>> {
    let rate = matches!(given, Some(Unit::Of(_, true)));
    match (function, given) {
        ("rate" | "irate" | "deriv", Some(Unit::Of(ucum, _))) => Some(Unit::Of(ucum, true)),
        ("histogram_quantile" | "histogram_avg" | "histogram_stddev", Some(Unit::Of(ucum, _))) => {
            Some(Unit::Of(ucum, false))
        }
        ("histogram_count", Some(_)) => Some(Unit::Of(MANY, rate)),
        ("histogram_fraction", Some(_)) => Some(Unit::Share),
        ("time" | "timestamp", _) => Some(Unit::Of("s", false)),
        (
            "changes" | "resets" | "count_over_time" | "absent" | "absent_over_time" | "present_over_time"
            | "sgn" | "ln" | "log2" | "log10" | "exp" | "sqrt" | "stdvar_over_time",
            _,
        ) => Some(Unit::Number),
        (_, given) => given,
    }
}

fn combined<'a>(binary: &BinaryExpr, metrics: &'a [Metric]) -> Option<Unit<'a>> {
    let (lhs, rhs) = (find(&binary.lhs, metrics), find(&binary.rhs, metrics));
    let op = binary.op.id();
    if binary.op.is_comparison_operator() || binary.op.is_set_operator() {
        return lhs;
    }
    match (op, lhs?, rhs?) {
        (T_ADD | T_SUB, one, Unit::Number) => Some(one),
        (T_ADD | T_SUB, Unit::Number, one) => Some(one),
        (T_ADD | T_SUB, one, other) if one == other => Some(one),
        (T_DIV, Unit::Of(one, rate), Unit::Of(other, of)) if (one, rate) == (other, of) => Some(Unit::Share),
        // The mean of each.
        (T_DIV, Unit::Of(one, rate), Unit::Of(other, of)) if rate == of && other.starts_with('{') => {
            Some(Unit::Of(one, false))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use promql_parser::parser;

    #[test]
    fn units_follow_from_the_declarations() {
        let metric = |name: &str, kind, unit: &str| Metric {
            name: name.to_owned(),
            kind,
            unit: unit.to_owned(),
            labels: Vec::new(),
            help: String::new(),
        };
        let metrics = [
            metric("rtt_seconds", Kind::Histogram, "s"),
            metric("cpu_seconds_total", Kind::Counter, "s"),
            metric("bytes_total", Kind::Counter, "By"),
            metric("segments_total", Kind::Counter, "{segment}"),
            metric("again_total", Kind::Counter, "{segment}"),
            metric("used_ratio", Kind::Gauge, "1"),
            metric("seen_timestamp_seconds", Kind::Gauge, "s"),
            metric("memory_bytes", Kind::Gauge, "By"),
        ];
        for (query, unit, histogram) in [
            (
                "histogram_quantile(0.9, sum by (a) (rate(rtt_seconds[5m])))",
                "s",
                false,
            ),
            (
                "histogram_quantile(0.9, sum by (le) (rate(rtt_seconds_bucket[5m])))",
                "s",
                false,
            ),
            ("sum(rate(rtt_seconds[5m]))", "percentunit", true),
            (
                "(sum by (le) (rate(rtt_seconds_bucket[5m])))",
                "percentunit",
                true,
            ),
            ("sum by (a) (rate(rtt_seconds_bucket[5m]))", "percentunit", false),
            ("histogram_count(sum(rate(rtt_seconds[5m])))", "cps", false),
            (
                "rate(rtt_seconds_sum[5m]) / rate(rtt_seconds_count[5m])",
                "s",
                false,
            ),
            ("topk(5, sum by (a) (rate(bytes_total[5m])))", "Bps", false),
            ("increase(bytes_total[1h])", "bytes", false),
            ("rate(cpu_seconds_total[5m])", "percentunit", false),
            (
                "rate(again_total[5m]) / (rate(segments_total[5m]) > 0)",
                "percentunit",
                false,
            ),
            ("rate(bytes_total[5m]) / rate(segments_total[5m])", "bytes", false),
            ("rate(segments_total[5m])", "pps", false),
            ("time() - max(seen_timestamp_seconds)", "s", false),
            ("max_over_time(used_ratio[5m])", "percentunit", false),
            ("memory_bytes > 1000", "bytes", false),
            ("count(memory_bytes)", "short", false),
            ("count(rtt_seconds)", "short", false),
            ("memory_bytes * 2", "short", false),
            ("other_seconds", "short", false),
            ("memory_bytes + used_ratio", "short", false),
            ("quantile_over_time(0.9, memory_bytes[5m])", "bytes", false),
        ] {
            let tree = parser::parse(query).unwrap_or_else(|e| panic!("{query}: {e}"));
            assert_eq!(of(&tree, &metrics), unit, "{query}");
            assert_eq!(is_histogram(&tree, &metrics), histogram, "{query}");
        }
    }
}
