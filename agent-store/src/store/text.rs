//! OpenMetrics text with times, line by line: what `promtool tsdb create-blocks-from openmetrics` takes. Native histograms are
//! written as OpenMetrics 2.0 proposes: `name{…} {count:3,sum:1.5,schema:3,…,positive_spans:[-2:1],positive_buckets:[3]} time`.

use super::head::Value;
use crate::histogram::Histogram;
use crate::labels::{Labels, NAME};
use crate::series::Millis;
use std::fmt::Write as _;
use std::sync::Arc;

/// The part of a line before the value, and the rest.
pub(super) fn split(line: &str) -> Option<(&str, &str)> {
    let (mut quoted, mut escaped, mut braced) = (false, false, false);
    for (at, byte) in line.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            _ if quoted => {}
            b'{' => braced = true,
            b'}' => {
                return Some(line.split_at_checked(at + 1)?)
                    .map(|(series, rest)| (series, rest.trim_start()));
            }
            b' ' | b'\t' if !braced => {
                return Some(line.split_at_checked(at)?).map(|(series, rest)| (series, rest.trim_start()));
            }
            _ => {}
        }
    }
    None
}

/// The labels that the first part of a line spells.
pub(super) fn labels(series: &str) -> Option<Labels> {
    let (name, rest) = series
        .split_once('{')
        .map_or((series, None), |(name, rest)| (name, Some(rest)));
    let mut pairs: Vec<(String, String)> = Vec::new();
    if !name.is_empty() {
        pairs.push((NAME.to_owned(), name.trim().to_owned()));
    }
    let mut rest = rest.map_or(Some(""), |rest| rest.strip_suffix('}'))?.trim();
    while !rest.is_empty() {
        let (key, after) = if rest.starts_with('"') {
            string(rest)?
        } else {
            let end = rest.find(['=', ' ', ','])?;
            let (key, after) = rest.split_at_checked(end)?;
            (key.to_owned(), after)
        };
        rest = after.trim_start();
        if let Some(value) = rest.strip_prefix('=') {
            let (value, after) = string(value.trim_start())?;
            pairs.push((key, value));
            rest = after.trim_start();
        } else {
            // A metric's name among the labels, in quotes.
            pairs.push((NAME.to_owned(), key));
        }
        rest = match rest.strip_prefix(',') {
            Some(after) => after.trim_start(),
            None if rest.is_empty() => rest,
            None => return None,
        };
    }
    (!pairs.is_empty()).then(|| Labels::new(pairs))
}

/// A string in quotes, and what is behind it.
fn string(text: &str) -> Option<(String, &str)> {
    let body = text.strip_prefix('"')?;
    let mut out = String::new();
    let mut chars = body.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((out, body.split_at_checked(at + 1)?.1)),
            '\\' => match chars.next()?.1 {
                'n' => out.push('\n'),
                other => out.push(other),
            },
            c => out.push(c),
        }
    }
    None
}

/// The value and the time of the second part of a line.
pub(super) fn sample(rest: &str) -> Option<(Value, Millis)> {
    let (value, rest) = if let Some(body) = rest.strip_prefix('{') {
        let (body, rest) = body.split_once('}')?;
        (Value::Histogram(Arc::new(histogram(body)?)), rest)
    } else {
        let (number, rest) = rest.split_once([' ', '\t'])?;
        (Value::Float(number.parse().ok()?), rest)
    };
    let seconds = rest.split_whitespace().next()?;
    Some((value, millis(seconds)?))
}

/// Seconds as text, exactly: a float of the seconds of today has no whole milliseconds.
fn millis(seconds: &str) -> Option<Millis> {
    let (whole, fraction) = seconds.split_once('.').unwrap_or((seconds, ""));
    let exact = || {
        let mut digits = fraction.bytes().chain(std::iter::repeat(b'0'));
        let mut sum = 0;
        for place in [100, 10, 1] {
            let digit = digits.next()?;
            sum += digit.is_ascii_digit().then(|| Millis::from(digit - b'0'))? * place;
        }
        let whole: Millis = whole.parse().ok()?;
        let sign = if whole < 0 || whole == 0 && seconds.starts_with('-') {
            -1
        } else {
            1
        };
        whole.checked_mul(1000)?.checked_add(sign * sum)
    };
    exact().or_else(|| {
        let seconds: f64 = seconds.parse().ok()?;
        (seconds.abs() < 1e12).then(|| (seconds * 1e3).round() as Millis)
    })
}

fn histogram(body: &str) -> Option<Histogram> {
    let mut row = Histogram::default();
    let mut spans = [Vec::new(), Vec::new()];
    let mut buckets = [Vec::new(), Vec::new()];
    let mut rest = body;
    while !rest.is_empty() {
        let (key, after) = rest.split_once(':')?;
        let (value, after) = match after.strip_prefix('[') {
            Some(list) => list
                .split_once(']')
                .map(|(list, after)| (list, after.trim_start_matches(',')))?,
            None => after.split_once(',').unwrap_or((after, "")),
        };
        rest = after;
        let items = || value.split(',').filter(|item| !item.is_empty());
        match key {
            "count" => row.count = value.parse().ok()?,
            "sum" => row.sum = value.parse().ok()?,
            "schema" => row.schema = value.parse().ok()?,
            "zero_threshold" => row.zero_threshold = value.parse().ok()?,
            "zero_count" => row.zero_count = value.parse().ok()?,
            "positive_spans" | "negative_spans" => {
                let parsed = items().map(|item| {
                    let (gap, len) = item.split_once(':')?;
                    Some((gap.parse::<i32>().ok()?, len.parse::<u16>().ok()?))
                });
                spans[usize::from(key.starts_with('n'))] = parsed.collect::<Option<Vec<_>>>()?;
            }
            "positive_buckets" | "negative_buckets" => {
                let parsed = items().map(|item| item.parse::<f64>().ok());
                buckets[usize::from(key.starts_with('n'))] = parsed.collect::<Option<Vec<_>>>()?;
            }
            _ => return None,
        }
    }
    let [positive, negative] = spans;
    let [in_positive, in_negative] = buckets;
    row.positive = indexed(&positive, in_positive)?;
    row.negative = indexed(&negative, in_negative)?;
    Some(row)
}

/// Counts with their indexes, from spans of (gap, length).
fn indexed(spans: &[(i32, u16)], counts: Vec<f64>) -> Option<Vec<(i32, f64)>> {
    let mut indexes = Vec::with_capacity(counts.len());
    let mut at = 0i32;
    for (gap, len) in spans {
        at = at.checked_add(*gap)?;
        for _ in 0..*len {
            indexes.push(at);
            at = at.checked_add(1)?;
        }
    }
    (indexes.len() == counts.len()).then(|| {
        indexes
            .into_iter()
            .zip(counts)
            .filter(|(_, c)| *c != 0.0)
            .collect()
    })
}

pub(super) fn put_number(out: &mut String, value: f64) {
    if value.is_infinite() {
        out.push_str(if value > 0.0 { "+Inf" } else { "-Inf" });
    } else if let Some(whole) = super::codec::floats::whole(value) {
        let _ = write!(out, "{whole}");
    } else {
        let _ = write!(out, "{value:?}");
    }
}

pub(super) fn put_time(out: &mut String, time: Millis) {
    let sign = if time < 0 { "-" } else { "" };
    let _ = write!(
        out,
        "{sign}{}.{:03}",
        time.unsigned_abs() / 1000,
        time.unsigned_abs() % 1000
    );
}

/// Whether a name needs no quotes.
fn plain(name: &str, colons: bool) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || colons && c == ':';
    name.chars().all(fits) && !name.starts_with(|c: char| c.is_ascii_digit()) && !name.is_empty()
}

fn put_string(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            c => out.push(c),
        }
    }
    out.push('"');
}

/// The name of a metric as a line, or a comment about it, has it.
pub(super) fn put_name(out: &mut String, name: &str) {
    if plain(name, true) {
        out.push_str(name)
    } else {
        put_string(out, name)
    }
}

pub(super) fn put_labels(out: &mut String, labels: &Labels) {
    let quoted = !plain(labels.name(), true) && !labels.name().is_empty();
    if !quoted {
        out.push_str(labels.name());
    }
    if labels.len() == 1 && !quoted && !labels.name().is_empty() {
        return;
    }
    out.push('{');
    if quoted {
        put_string(out, labels.name());
    }
    for (name, value) in labels.iter().filter(|(name, _)| &***name != NAME) {
        if !out.ends_with('{') {
            out.push(',');
        }
        if plain(name, false) {
            out.push_str(name)
        } else {
            put_string(out, name)
        }
        out.push('=');
        put_string(out, value);
    }
    out.push('}');
}

pub(super) fn put_histogram(out: &mut String, row: &Histogram) {
    out.push_str("{count:");
    put_number(out, row.count);
    out.push_str(",sum:");
    put_number(out, row.sum);
    let _ = write!(out, ",schema:{},zero_threshold:", row.schema);
    put_number(out, row.zero_threshold);
    out.push_str(",zero_count:");
    put_number(out, row.zero_count);
    for (side, buckets) in [("positive", &row.positive), ("negative", &row.negative)] {
        if buckets.is_empty() {
            continue;
        }
        let mut spans: Vec<(i64, usize)> = Vec::new();
        let mut next = 0;
        for (index, _) in buckets {
            match spans.last_mut() {
                Some((_, len)) if i64::from(*index) == next => *len += 1,
                _ => spans.push((i64::from(*index) - next, 1)),
            }
            next = i64::from(*index) + 1;
        }
        let spans: Vec<String> = spans.iter().map(|(gap, len)| format!("{gap}:{len}")).collect();
        let _ = write!(out, ",{side}_spans:[{}],{side}_buckets:[", spans.join(","));
        for (at, (_, count)) in buckets.iter().enumerate() {
            if at > 0 {
                out.push(',');
            }
            put_number(out, *count);
        }
        out.push(']');
    }
    out.push('}');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Option<(Labels, Value, Millis)> {
        let (series, rest) = split(text)?;
        let (value, time) = sample(rest)?;
        Some((labels(series)?, value, time))
    }

    #[test]
    fn lines_of_all_kinds_are_understood() {
        let float = |labels: &[(&str, &str)], value: f64, time| {
            Some((Labels::new(labels.iter().copied()), Value::Float(value), time))
        };
        assert_eq!(
            line("up 1 1700000000.123"),
            float(&[(NAME, "up")], 1.0, 1_700_000_000_123)
        );
        assert_eq!(
            line(r#"a:b{x="1",y="q\"}\n\\",} -Inf 5 # {trace_id="1"} 3"#),
            float(
                &[(NAME, "a:b"), ("x", "1"), ("y", "q\"}\n\\")],
                f64::NEG_INFINITY,
                5000
            )
        );
        assert_eq!(
            line(r#"{"a b","c.d"="e"} 1e3 -1.5"#),
            float(&[(NAME, "a b"), ("c.d", "e")], 1000.0, -1500)
        );
        assert_eq!(line("up 1 1.7e9"), float(&[(NAME, "up")], 1.0, 1_700_000_000_000));
        for bad in [
            "",
            "up",
            "up 1",
            "up x 1",
            "up{a=\"b} 1 1",
            "up{a} 1 x",
            "up{a=b} 1 1",
            "up{a=\"b\" c=\"d\"} 1 1",
            "{} 1 1",
        ] {
            assert_eq!(line(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_histogram_comes_back() {
        let row = Histogram {
            schema: -1,
            zero_threshold: 0.001,
            zero_count: 2.0,
            count: 12.5,
            sum: f64::INFINITY,
            positive: vec![(-3, 1.0), (-2, 2.0), (5, 0.5)],
            negative: vec![(0, 7.0)],
            is_gauge: false,
        };
        let mut text = String::from("x ");
        put_histogram(&mut text, &row);
        text.push_str(" 1");
        assert_eq!(line(&text).unwrap().1, Value::Histogram(Arc::new(row)));
    }
}
