//! Queries as people give them, checked before anything is made of them.

use crate::indicator::WINDOW;
use crate::window::duration;
use agent_rules::file::check;
use agent_store::promql::is_label_name;
use agent_store::series::Millis;
use promql_parser::label::{MatchOp, Matcher};
use promql_parser::parser::token::{
    T_AVG, T_COUNT, T_GROUP, T_MAX, T_MIN, T_QUANTILE, T_STDDEV, T_STDVAR, T_SUM,
};
use promql_parser::parser::{self, AggregateExpr, Expr, LabelModifier, VectorSelector};
use std::collections::BTreeSet;

/// Longest query, in bytes.
const LONGEST: usize = 16 * 1024;
/// How other tools write the window: Sloth, and Go's templates in general.
const ELSEWHERE: [&str; 2] = ["{{.window}}", "{{ .window }}"];

/// A query with `$window` where others write it otherwise; an error says what is wrong with it.
fn clean(text: &str, counts: bool) -> Result<String, String> {
    if text.len() > LONGEST {
        return Err(format!(
            "the query has {} bytes, {LONGEST} are the most",
            text.len()
        ));
    }
    if let Some(c) = text
        .chars()
        .find(|c| c.is_control() && !matches!(c, '\n' | '\r' | '\t'))
    {
        return Err(format!(
            "the control character U+{:04X} is not allowed",
            u32::from(c)
        ));
    }
    let mut query = text.trim().replace("\r\n", "\n");
    for other in ELSEWHERE {
        query = query.replace(other, WINDOW);
    }
    if query.contains("{{") {
        return Err("it has a template; where a range stands write $window".to_owned());
    }
    if !counts && query.contains(WINDOW) {
        return Err("a value of now has no window; take $window out".to_owned());
    }
    check(&query.replace(WINDOW, "5m"))?;
    // A comment would swallow what follows.
    Ok(if query.contains(['#', '\n']) {
        format!("(\n{query}\n)")
    } else {
        query
    })
}

/// A query of a value that goes up and down.
pub(crate) fn value(text: &str) -> Result<String, String> {
    clean(text, false)
}

/// The labels of the series of a [`value`]; `None` where its query does not say.
pub(crate) fn grouped(value: &str) -> Option<BTreeSet<String>> {
    let plain = [
        T_AVG, T_COUNT, T_GROUP, T_MAX, T_MIN, T_QUANTILE, T_STDDEV, T_STDVAR, T_SUM,
    ];
    match bare(&parser::parse(value).ok()?) {
        Expr::Aggregate(one) if plain.contains(&one.op.id()) => included(one),
        _ => None,
    }
}

/// A query of how many there are, a second, and the labels by which it is grouped.
#[derive(Debug)]
pub(crate) struct Count {
    pub query: String,
    pub by: BTreeSet<String>,
}

/// A query of how many there are, a second: as it is if it has `$window` and is a sum, else made of a selector, `sum by (by)`
/// or `sum(selector)`. `counter`: the selector's series only grow; else each of their samples is a number of its own.
pub(crate) fn count(text: &str, by: &[String], counter: bool) -> Result<Count, String> {
    let query = clean(text, true)?;
    let parsed = parser::parse(&query.replace(WINDOW, "5m")).map_err(|error| error.to_string())?;
    if query.contains(WINDOW) {
        if let Some(name) = no_rate(&parsed) {
            return Err(format!(
                "{name} over a range is no rate a second; write rate instead, of a gauge avg_over_time"
            ));
        }
        return match bare(&parsed) {
            Expr::Aggregate(sum) => grouping(sum).map(|by| Count { query, by }),
            _ => None,
        }
        .ok_or_else(|| SUMS.to_owned());
    }
    let (selector, by) = match bare(&parsed) {
        Expr::VectorSelector(selector) => (selector, by.iter().cloned().collect()),
        Expr::Aggregate(sum) => match (bare(&sum.expr), grouping(sum)) {
            (Expr::VectorSelector(selector), Some(by)) => (selector, by),
            _ => return Err(SHAPES.to_owned()),
        },
        _ => return Err(SHAPES.to_owned()),
    };
    if selector.offset.is_some() || selector.at.is_some() {
        return Err("a selector with offset or @ cannot be asked over a window; take it out".to_owned());
    }
    let selector = written(selector);
    let over = if counter { "rate" } else { "avg_over_time" };
    let names = Vec::from_iter(by.iter().map(String::as_str)).join(", ");
    Ok(Count {
        query: format!("sum by ({names}) ({over}({selector}[{WINDOW}]))"),
        by,
    })
}

/// Whether these two can be divided: what has other labels than the total would be a series of its own.
pub(crate) fn same(part: &Count, total: &Count) -> Result<(), String> {
    let shown = |by: &BTreeSet<String>| {
        format!(
            "by ({})",
            Vec::from_iter(by.iter().map(String::as_str)).join(", ")
        )
    };
    if part.by == total.by {
        return labels(&Vec::from_iter(total.by.iter().cloned()));
    }
    Err(format!(
        "it is summed {}, but total {}; sum both by the same labels",
        shown(&part.by),
        shown(&total.by)
    ))
}

/// A query with [`WINDOW`] in place of its ranges, and what they all are; `None` if it has none, several, or says the window itself.
/// Others' files have `sum(rate(x[5m]))`, and their tools put the window there.
pub(crate) fn ranged(text: &str) -> Option<(String, Millis)> {
    let (mut out, mut found) = (String::new(), None);
    let (mut quote, mut escaped, mut comment) = (None, false, false);
    let mut rest = text.char_indices();
    while let Some((at, c)) = rest.next() {
        match quote {
            _ if comment => comment = c != '\n',
            Some(_) if escaped => escaped = false,
            Some(end) => {
                escaped = c == '\\' && end != '`';
                quote = quote.filter(|_| c != end);
            }
            None => match c {
                '"' | '\'' | '`' => quote = Some(c),
                '#' => comment = true,
                // A subquery has a range of another kind, and is none here.
                '[' => {
                    let (range, _) = text.get(at + 1..)?.split_once(']')?;
                    let range_ms = duration(range.trim())?;
                    if *found.get_or_insert(range_ms) != range_ms {
                        return None;
                    }
                    rest.nth(range.chars().count());
                    out.push_str(&format!("[{WINDOW}]"));
                    continue;
                }
                _ => {}
            },
        }
        out.push(c);
    }
    found.map(|range| (out, range))
}

/// The labels of a `sum by (…)`.
fn grouping(sum: &AggregateExpr) -> Option<BTreeSet<String>> {
    (sum.op.id() == T_SUM).then(|| included(sum)).flatten()
}

/// The labels of a `by (…)`.
fn included(aggregate: &AggregateExpr) -> Option<BTreeSet<String>> {
    match &aggregate.modifier {
        None => Some(BTreeSet::new()),
        Some(LabelModifier::Include(labels)) => Some(labels.labels.iter().cloned().collect()),
        Some(LabelModifier::Exclude(_)) => None,
    }
}

/// A function over a range whose value grows with the range, if there is one: it would count each event many times.
fn no_rate(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::Call(call) => match call.func.name {
            name @ ("increase" | "delta" | "idelta" | "changes" | "resets" | "sum_over_time"
            | "count_over_time") => Some(name),
            _ => call.args.args.iter().find_map(|argument| no_rate(argument)),
        },
        Expr::Aggregate(one) => no_rate(&one.expr),
        Expr::Paren(one) => no_rate(&one.expr),
        Expr::Unary(one) => no_rate(&one.expr),
        Expr::Subquery(one) => no_rate(&one.expr),
        Expr::Binary(two) => no_rate(&two.lhs).or_else(|| no_rate(&two.rhs)),
        _ => None,
    }
}

const SUMS: &str = "a query with $window must be a sum: sum by (…) (…), or sum(…)";

const SHAPES: &str = "expected a selector, sum(selector), or a query with $window where its range stands, \
     e.g. sum(rate(requests_total{code=~\"5..\"}[$window]))";

/// The selector of a histogram.
pub(crate) fn histogram(text: &str) -> Result<String, String> {
    let query = clean(text, false)?;
    match parser::parse(&query).map_err(|error| error.to_string())? {
        Expr::VectorSelector(selector) if selector.offset.is_none() && selector.at.is_none() => {
            let name = selector.name.as_deref().unwrap_or_default();
            if name.is_empty()
                || ["_bucket", "_count", "_sum"]
                    .iter()
                    .any(|end| name.ends_with(end))
            {
                return Err("expected the histogram's own name, without _bucket".to_owned());
            }
            Ok(written(&selector))
        }
        _ => Err("expected a selector like http_request_duration_seconds{job=\"shop\"}".to_owned()),
    }
}

/// Matchers that are added to others.
pub(crate) fn filter(text: &str) -> Result<String, String> {
    let matchers = text.trim().trim_end_matches(',');
    if matchers.is_empty() {
        return Ok(String::new());
    }
    let told = || "expected matchers like peer=\"database\",subject!=\"test\"".to_owned();
    let query = clean(&format!("x{{{matchers}}}"), false)?;
    match parser::parse(&query).map_err(|error| error.to_string())? {
        Expr::VectorSelector(selector) if selector.offset.is_none() && selector.at.is_none() => {
            let all: Vec<String> = selector.matchers.matchers.iter().map(matcher).collect();
            Ok(all.join(","))
        }
        _ => Err(told()),
    }
}

/// Labels to group by.
pub(crate) fn labels(by: &[String]) -> Result<(), String> {
    for label in by {
        if !is_label_name(label) || label.starts_with("__") {
            return Err(format!(
                "{label:?} cannot be a label's name, use letters, digits and _"
            ));
        }
        let alerts = ["severity", "factor", "service", "alertname", "alertstate"];
        if ["slo", "window", "period", "le"].contains(&label.as_str()) || alerts.contains(&label.as_str()) {
            return Err(format!(
                "{label:?} is a label that the rules or their alerts need themselves, take it out"
            ));
        }
    }
    match by.len() {
        0..=16 => Ok(()),
        many => Err(format!("{many} labels are more than 16")),
    }
}

fn bare(expr: &Expr) -> &Expr {
    match expr {
        Expr::Paren(inner) => bare(&inner.expr),
        other => other,
    }
}

fn matcher(matcher: &Matcher) -> String {
    let op = match &matcher.op {
        MatchOp::Equal => "=",
        MatchOp::NotEqual => "!=",
        MatchOp::Re(_) => "=~",
        MatchOp::NotRe(_) => "!~",
    };
    let value = matcher
        .value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n");
    format!("{}{op}\"{value}\"", matcher.name)
}

fn written(selector: &VectorSelector) -> String {
    let all: Vec<String> = selector.matchers.matchers.iter().map(matcher).collect();
    format!(
        "{}{{{}}}",
        selector.name.as_deref().unwrap_or_default(),
        all.join(",")
    )
}

#[cfg(test)]
mod tests {
    use super::{grouped, ranged};

    /// Cause: ranges in queries, in texts and comments, several, a subquery, and a window that is said. Seen: only what is one range is taken.
    #[test]
    fn a_literal_range_becomes_the_window() {
        let (range, other) = ("[$window]", "[5m]");
        for (query, minutes) in [
            ("sum(rate(x[5m]))", Some(5)),
            (
                "sum(rate(x{a=~\"[5m]\\\"\",b='[1h]',c=`[2h]\\`}[ 5m ])) # [3h]",
                Some(5),
            ),
            ("sum(rate(x[5m])) / sum(rate(y[5m]))", Some(5)),
            ("sum(rate(x[5m])) / sum(rate(y[10m]))", None),
            ("sum(rate(x[$window]))", None),
            ("sum(max_over_time(x[1h:5m]))", None),
            ("sum(rate(x[5m", None),
            ("sum(x)", None),
        ] {
            let found = ranged(query);
            assert_eq!(
                found.as_ref().map(|found| found.1),
                minutes.map(|m| m * 60_000),
                "{query}"
            );
            if let Some((text, _)) = found {
                let wanted = query.replace("[ 5m ]", other).replace(other, range);
                assert_eq!(text, wanted.replacen("\"[$window]", "\"[5m]", 1));
            }
        }
    }

    #[test]
    fn aggregates_say_which_labels_are_left() {
        let some = |labels: &[&str]| Some(labels.iter().map(|label| (*label).to_owned()).collect());
        for (query, labels) in [
            ("(\nmax by (a, b) (x) # c\n)", some(&["a", "b"])),
            ("min(x)", some(&[])),
            ("x", None),
            ("sum without (a) (x)", None),
            ("topk by (a) (1, x)", None),
            ("max by (a) (x) or y", None),
        ] {
            assert_eq!(grouped(query), labels, "{query}");
        }
    }
}
