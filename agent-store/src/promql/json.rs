//! Answers and errors as Prometheus' HTTP API writes them.

use super::float::{plain, shortest};
use super::{Answer, Error, Sample, Value};
use crate::histogram::Histogram;
use crate::labels::Labels;
use crate::series::{Column, Millis, Series};
use std::fmt::Write;

/// The body of a response to a query.
pub fn answer(answer: &Answer) -> String {
    let mut out = String::from("{\"status\":\"success\",\"data\":");
    value(&mut out, &answer.value);
    if !answer.warnings.is_empty() {
        out.push_str(",\"warnings\":");
        list(&mut out, &answer.warnings, |out, text| string(out, text));
    }
    out.push('}');
    out
}

/// The body of a response that is an error; its status is `Error::status`.
pub fn error(error: &Error) -> String {
    let mut out = String::from("{\"status\":\"error\",\"errorType\":");
    string(&mut out, error.kind());
    out.push_str(",\"error\":");
    string(&mut out, &error.to_string());
    out.push('}');
    out
}

fn value(out: &mut String, value: &Value) {
    let kind = match value {
        Value::Scalar(..) => "scalar",
        Value::String(..) => "string",
        Value::Vector(..) => "vector",
        Value::Matrix(_) => "matrix",
    };
    _ = write!(out, "{{\"resultType\":\"{kind}\",\"result\":");
    match value {
        Value::Scalar(at, value) => alone(out, *at, &plain(*value)),
        Value::String(at, text) => alone(out, *at, text),
        Value::Vector(at, elements) => list(out, elements, |out, element| {
            out.push_str("{\"metric\":");
            labels(out, &element.labels);
            match &element.sample {
                Sample::Float(value) => {
                    out.push_str(",\"value\":");
                    point(out, *at, |out| float(out, *value));
                }
                Sample::Histogram(value) => {
                    out.push_str(",\"histogram\":");
                    point(out, *at, |out| histogram(out, value));
                }
            }
            out.push('}');
        }),
        Value::Matrix(series) => list(out, series, matrix_series),
    }
    out.push('}');
}

fn matrix_series(out: &mut String, series: &Series) {
    out.push_str("{\"metric\":");
    labels(out, &series.labels);
    column(out, "values", &series.samples.floats, |out, value| {
        float(out, *value)
    });
    column(out, "histograms", &series.samples.histograms, |out, value| {
        histogram(out, value)
    });
    out.push('}');
}

fn column<T>(out: &mut String, name: &str, column: &Column<T>, write: impl Fn(&mut String, &T)) {
    if column.times.is_empty() {
        return;
    }
    _ = write!(out, ",\"{name}\":");
    let points: Vec<(&Millis, &T)> = column.times.iter().zip(&column.values).collect();
    list(out, &points, |out, (at, value)| {
        point(out, **at, |out| write(out, value))
    });
}

/// An object of labels, as `series` and the like have it as well.
pub fn labels(out: &mut String, labels: &Labels) {
    out.push('{');
    for (at, (name, value)) in labels.iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        string(out, name);
        out.push(':');
        string(out, value);
    }
    out.push('}');
}

/// An array.
pub fn list<T>(out: &mut String, items: &[T], write: impl Fn(&mut String, &T)) {
    out.push('[');
    for (at, item) in items.iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        write(out, item);
    }
    out.push(']');
}

/// A string, escaped as Go escapes it: also what would be markup in HTML.
pub fn string(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' | '\0'..='\u{1f}' => {
                _ = write!(out, "\\u{:04x}", u32::from(c))
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

fn point(out: &mut String, at: Millis, write: impl FnOnce(&mut String)) {
    out.push('[');
    time(out, at);
    out.push(',');
    write(out);
    out.push(']');
}

/// A scalar or a string: Prometheus writes their time as a float.
fn alone(out: &mut String, at: Millis, text: &str) {
    _ = write!(out, "[{},", at as f64 / 1000.0);
    string(out, text);
    out.push(']');
}

/// Seconds, with three digits of a second if it is not whole.
fn time(out: &mut String, at: Millis) {
    let sign = if at < 0 { "-" } else { "" };
    let abs = at.unsigned_abs();
    _ = write!(out, "{sign}{}", abs / 1000);
    if !abs.is_multiple_of(1000) {
        _ = write!(out, ".{:03}", abs % 1000);
    }
}

fn float(out: &mut String, value: f64) {
    _ = write!(out, "\"{}\"", shortest(value));
}

fn histogram(out: &mut String, histogram: &Histogram) {
    out.push_str("{\"count\":");
    float(out, histogram.count);
    out.push_str(",\"sum\":");
    float(out, histogram.sum);
    let mut buckets = histogram.buckets();
    buckets.retain(|bucket| bucket.count != 0.0);
    if !buckets.is_empty() {
        out.push_str(",\"buckets\":");
        list(out, &buckets, |out, bucket| {
            // 0: (lower, upper], 1: [lower, upper), 2: open at both ends, 3: closed at both.
            let rule = match (bucket.lower_inclusive(), bucket.upper_inclusive()) {
                (false, true) => 0,
                (true, false) => 1,
                (false, false) => 2,
                (true, true) => 3,
            };
            _ = write!(out, "[{rule}");
            for value in [bucket.lower, bucket.upper, bucket.count] {
                out.push(',');
                float(out, value);
            }
            out.push(']');
        });
    }
    out.push('}');
}

#[cfg(test)]
mod tests {
    use super::super::Element;
    use super::*;
    use std::sync::Arc;

    fn vector(sample: Sample) -> Answer {
        let labels = Labels::new([("__name__", "x"), ("a", "<\"\u{1}\n")]);
        Answer {
            value: Value::Vector(1_435_781_451_078, vec![Element { labels, sample }]),
            warnings: Vec::new(),
        }
    }

    #[test]
    fn an_answer_is_what_prometheus_writes() {
        let mut said = vector(Sample::Float(f64::INFINITY));
        said.warnings.push("careful".to_owned());
        assert_eq!(
            answer(&said),
            "{\"status\":\"success\",\"data\":{\"resultType\":\"vector\",\"result\":[{\"metric\":{\"__name__\":\"x\",\
             \"a\":\"\\u003c\\\"\\u0001\\n\"},\"value\":[1435781451.078,\"+Inf\"]}]},\"warnings\":[\"careful\"]}"
        );
        let scalar = Answer {
            value: Value::Scalar(-1500, 1e-7),
            warnings: Vec::new(),
        };
        let text =
            "{\"status\":\"success\",\"data\":{\"resultType\":\"scalar\",\"result\":[-1.5,\"0.0000001\"]}}";
        assert_eq!(answer(&scalar), text);
        let wrong = Error::Execution("no".to_owned());
        assert_eq!(
            error(&wrong),
            "{\"status\":\"error\",\"errorType\":\"execution\",\"error\":\"no\"}"
        );
    }

    #[test]
    fn buckets_say_which_bound_is_within() {
        let histogram = Histogram {
            count: 6.0,
            sum: 1.5,
            zero_threshold: 0.25,
            zero_count: 1.0,
            positive: vec![(1, 2.0)],
            negative: vec![(1, 3.0)],
            ..Histogram::default()
        };
        let text = answer(&vector(Sample::Histogram(Arc::new(histogram))));
        let wanted = "\"histogram\":[1435781451.078,{\"count\":\"6\",\"sum\":\"1.5\",\"buckets\":[[1,\"-2\",\"-1\",\"3\"],\
                      [3,\"-0.25\",\"0.25\",\"1\"],[0,\"1\",\"2\",\"2\"]]}]";
        assert!(text.contains(wanted), "{text}");
    }
}
