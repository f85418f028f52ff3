//! OpenMetrics 1.0 and Prometheus 0.0.4 text.
//!
//! Sources: <https://github.com/prometheus/OpenMetrics/blob/v1.0.0/specification/OpenMetrics.md> and
//! <https://prometheus.io/docs/instrumenting/exposition_formats/>.

use super::{BOUNDS, Exemplars, FIRST_BOUND, TARGET_INFO, classic, target_labels};
use crate::aggregate::{Exemplar, Family, HistogramValue, Kind, Metric, Snapshot, Value};

/// The bounds 2^-20 … 2^7 s, exact, in the spelling that Prometheus itself gives to bounds that it reads from
/// protobuf: a series keeps its identity when the format changes.
const LE: [&str; BOUNDS] = [
    "9.5367431640625e-07",
    "1.9073486328125e-06",
    "3.814697265625e-06",
    "7.62939453125e-06",
    "1.52587890625e-05",
    "3.0517578125e-05",
    "6.103515625e-05",
    "0.0001220703125",
    "0.000244140625",
    "0.00048828125",
    "0.0009765625",
    "0.001953125",
    "0.00390625",
    "0.0078125",
    "0.015625",
    "0.03125",
    "0.0625",
    "0.125",
    "0.25",
    "0.5",
    "1.0",
    "2.0",
    "4.0",
    "8.0",
    "16.0",
    "32.0",
    "64.0",
    "128.0",
];

/// Appends the whole exposition.
pub fn encode(snapshot: &Snapshot, open_metrics: bool, out: &mut Vec<u8>) {
    let target = target_labels(snapshot);
    if open_metrics {
        put(
            out,
            &["# TYPE target info\n# HELP target ", TARGET_INFO.help, "\n"],
        );
    } else {
        put(
            out,
            &[
                "# HELP target_info ",
                TARGET_INFO.help,
                "\n# TYPE target_info gauge\n",
            ],
        );
    }
    sample(out, TARGET_INFO.name, &target.text);
    put(out, &["1\n"]);
    for family in snapshot.families.iter().filter(|f| !f.series.is_empty()) {
        encode_family(family, open_metrics, out);
    }
    if open_metrics {
        put(out, &["# EOF\n"]);
    }
}

fn encode_family(family: &Family, open_metrics: bool, out: &mut Vec<u8>) {
    let metric = family.metric;
    header(metric, open_metrics, out);
    let begin = [metric.name, "{"].concat();
    let mut prefix = Vec::new();
    for series in &family.series {
        let labels = series.labels.text.as_str();
        if let Value::Histogram(histogram) = &series.value {
            encode_histogram(metric.name, labels, histogram, open_metrics, &mut prefix, out);
            continue;
        }
        // As `sample`, in fewer steps: this is what large answers are made of.
        if labels.is_empty() {
            put(out, &[metric.name, " "]);
        } else {
            put(out, &[&begin, labels, "} "]);
        }
        match &series.value {
            Value::Counter(v) => integer(out, *v),
            Value::CounterF(v) | Value::Gauge(v) => real(out, *v),
            Value::Histogram(_) => {}
        }
        out.push(b'\n');
    }
}

/// What the name of each classic series of a histogram ends with, and its bound.
pub(in crate::export) fn classic_names() -> impl Iterator<Item = (&'static str, Option<&'static str>)> {
    let bounds = LE.iter().copied().chain(["+Inf"]);
    bounds
        .map(|le| ("_bucket", Some(le)))
        .chain([("_sum", None), ("_count", None)])
}

/// The exponents at which the buckets of [`classic_names`] end, in the same order.
pub(in crate::export) fn classic_ends() -> impl Iterator<Item = i32> {
    (FIRST_BOUND..).take(BOUNDS).chain([i32::MAX])
}

/// Their values, in the same order.
pub(in crate::export) fn classic_values(histogram: &HistogramValue) -> impl Iterator<Item = f64> {
    let counts = classic(histogram).into_iter().chain([histogram.count]);
    counts
        .map(|count| count as f64)
        .chain([histogram.sum, histogram.count as f64])
}

fn encode_histogram(
    name: &str,
    labels: &str,
    histogram: &HistogramValue,
    open_metrics: bool,
    prefix: &mut Vec<u8>,
    out: &mut Vec<u8>,
) {
    prefix.clear();
    put(
        prefix,
        &[
            name,
            "_bucket{",
            labels,
            if labels.is_empty() { "le=\"" } else { ",le=\"" },
        ],
    );
    let bounds = LE
        .iter()
        .zip(classic(histogram))
        .chain([(&"+Inf", histogram.count)]);
    // The older text has no place for exemplars.
    let known = histogram.exemplars.iter().filter(|_| open_metrics);
    let mut exemplars = Exemplars::new(known.collect());
    for ((le, count), end) in bounds.zip(classic_ends()) {
        out.extend_from_slice(prefix);
        put(out, &[le, "\"} "]);
        integer(out, count);
        if let Some(one) = exemplars.up_to(end) {
            exemplar(out, one);
        }
        out.push(b'\n');
    }
    for suffix in ["_sum", "_count"] {
        put(out, &[name, suffix]);
        sample(out, "", labels);
        if suffix == "_sum" {
            real(out, histogram.sum)
        } else {
            integer(out, histogram.count)
        }
        out.push(b'\n');
    }
}

fn exemplar(out: &mut Vec<u8>, one: &Exemplar) {
    put(
        out,
        &[
            " # {trace_id=\"",
            &one.trace(),
            "\",span_id=\"",
            &one.span(),
            "\"} ",
        ],
    );
    real(out, one.value);
    let (seconds, millis) = (one.unix_nanos / 1_000_000_000, one.unix_nanos / 1_000_000 % 1000);
    put(out, &[" ", &seconds.to_string(), &format!(".{millis:03}")]);
}

/// OpenMetrics names the family of a counter without `_total`, and has units; the older text has neither.
fn header(metric: &Metric, open_metrics: bool, out: &mut Vec<u8>) {
    let kind = metric.kind.name();
    if !open_metrics {
        put(out, &["# HELP ", metric.name, " "]);
        help(out, metric.help, false);
        put(out, &["\n# TYPE ", metric.name, " ", kind, "\n"]);
        return;
    }
    let (family, kind) = match (metric.kind, metric.name.strip_suffix("_total")) {
        (Kind::Counter, Some(family)) => (family, kind),
        // A counter that is not named like one would make the whole exposition illegal.
        (Kind::Counter, None) => (metric.name, "unknown"),
        _ => (metric.name, kind),
    };
    put(out, &["# TYPE ", family, " ", kind, "\n"]);
    if let Some(unit) = unit(metric) {
        put(out, &["# UNIT ", family, " ", unit, "\n"]);
    }
    put(out, &["# HELP ", family, " "]);
    help(out, metric.help, true);
    out.push(b'\n');
}

/// The word for the unit that the metric's name ends with.
pub(in crate::export) fn unit(metric: &Metric) -> Option<&'static str> {
    let unit = match metric.unit {
        "s" => "seconds",
        "By" => "bytes",
        "1" => "ratio",
        _ => return None,
    };
    let family = metric.name.strip_suffix("_total").unwrap_or(metric.name);
    let named = family.strip_suffix(unit).is_some_and(|f| f.ends_with('_'));
    named.then_some(unit)
}

/// `name{labels} `
#[inline]
fn sample(out: &mut Vec<u8>, name: &str, labels: &str) {
    out.extend_from_slice(name.as_bytes());
    if !labels.is_empty() {
        out.push(b'{');
        out.extend_from_slice(labels.as_bytes());
        out.push(b'}');
    }
    out.push(b' ');
}

#[inline]
fn put(out: &mut Vec<u8>, parts: &[&str]) {
    for part in parts {
        out.extend_from_slice(part.as_bytes());
    }
}

#[inline]
fn integer(out: &mut Vec<u8>, v: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(v).as_bytes());
}

#[inline]
fn real(out: &mut Vec<u8>, v: f64) {
    if v.is_finite() {
        out.extend_from_slice(ryu::Buffer::new().format_finite(v).as_bytes());
    } else {
        put(
            out,
            &[if v.is_nan() {
                "NaN"
            } else if v > 0.0 {
                "+Inf"
            } else {
                "-Inf"
            }],
        );
    }
}

fn help(out: &mut Vec<u8>, text: &str, quotes: bool) {
    for byte in text.bytes() {
        match byte {
            b'\\' => put(out, &["\\\\"]),
            b'\n' => put(out, &["\\n"]),
            b'"' if quotes => put(out, &["\\\""]),
            _ => out.push(byte),
        }
    }
}

#[cfg(test)]
#[path = "text_tests.rs"]
mod tests;
