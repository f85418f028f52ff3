//! Whether a query asks for what there is.

use crate::maker::EVERYWHERE;
use crate::watches::has_labels_of_watched;
use crate::{Kind, Metric, RECORDED, WATCHES};
use promql_parser::parser::token::{T_BOTTOMK, T_TOPK};
use promql_parser::parser::{self, Expr, LabelModifier, VectorSelector};

/// What Grafana's own variables stand for where a query is only read.
const STAND_INS: [(&str, &str); 10] = [
    ("__rate_interval", "1m"),
    ("__rate_interval_ms", "60000"),
    ("__range", "1h"),
    ("__range_s", "3600"),
    ("__range_ms", "3600000"),
    ("__interval", "15s"),
    ("__interval_ms", "15000"),
    ("__dashboard", "x"),
    ("__from", "1764460800000"),
    ("__to", "1764464400000"),
];

/// A query as Prometheus reads it: durations in place of Grafana's, and in place of its other variables, `$name` or `${name:format}`,
/// whatever they are given. `$1`, as in `label_replace`, stays.
pub fn plain(expr: &str, mut variable: impl FnMut(&str) -> String) -> String {
    replaced(expr, |name, _| {
        stand_in(name).map_or_else(|| variable(name), str::to_owned)
    })
}

/// The same with each character where it was, for who tells of one; variables become something like `xxx`, and are told of.
pub fn aligned(expr: &str, mut variable: impl FnMut(&str)) -> String {
    replaced(expr, |name, length| match stand_in(name) {
        Some(time) => format!("{time:0>length$}"),
        None => {
            variable(name);
            "x".repeat(length)
        }
    })
}

fn stand_in(name: &str) -> Option<&'static str> {
    let found = STAND_INS.iter().find(|(own, _)| *own == name);
    found.map(|(_, stand_in)| *stand_in)
}

/// `with`: the name of a variable and the length of all that stands for it → what takes its place.
fn replaced(expr: &str, mut with: impl FnMut(&str, usize) -> String) -> String {
    let mut out = String::with_capacity(expr.len());
    let mut parts = expr.split('$');
    out.push_str(parts.next().unwrap_or_default());
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    for part in parts {
        let braced = part.strip_prefix('{').and_then(|inner| inner.split_once('}'));
        let (name, rest) = braced.unwrap_or_else(|| {
            let end = part.find(|c| !is_name(c)).unwrap_or(part.len());
            part.split_at(end)
        });
        let name = name.split([':', '.']).next().unwrap_or_default();
        if name.starts_with(|c: char| is_name(c) && !c.is_ascii_digit()) {
            out.push_str(&with(name, 1 + part.len() - rest.len()));
            out.push_str(rest);
        } else {
            out.push('$');
            out.push_str(part);
        }
    }
    out
}

/// Parses a query, and looks up each metric and each label that it names.
///
/// # Errors
/// What is wrong with it.
pub fn check(expr: &str, metrics: &[Metric]) -> Result<(), String> {
    let text = plain(expr, |_| ".*".to_owned());
    let tree = parser::parse(&text).map_err(|e| format!("{text}: {e}"))?;
    let mut labels = Vec::new();
    visit(&tree, metrics, &mut labels).map_err(|fault| format!("{text}: {fault}"))
}

/// The metrics that a query names.
pub fn names(expr: &str) -> Vec<String> {
    let text = plain(expr, |_| ".*".to_owned());
    let mut found = Vec::new();
    if let Ok(tree) = parser::parse(&text) {
        selectors(&tree, &mut |selector| found.extend(selector.name.clone()));
    }
    found
}

/// Labels of a selector's series, if there is such a metric.
pub(crate) fn labels_of(name: &str, metrics: &[Metric]) -> Option<Vec<String>> {
    let extra = EVERYWHERE.iter().map(|&label| label.to_owned());
    if let Some((_, labels)) = RECORDED.iter().find(|(recorded, _)| *recorded == name) {
        let own = labels.iter().map(|&label| label.to_owned());
        // What a rule has summed up over nodes is of no node any more.
        return Some(if name.starts_with("geophone:") {
            own.collect()
        } else {
            own.chain(extra).collect()
        });
    }
    let found = metrics.iter().find_map(|metric| {
        let rest = name.strip_prefix(metric.name.as_str())?;
        let histogram = metric.kind == Kind::Histogram;
        match rest {
            "" => Some((metric, false)),
            "_count" | "_sum" if histogram => Some((metric, false)),
            "_bucket" if histogram => Some((metric, true)),
            _ => None,
        }
    });
    let (metric, bucket) = found?;
    let le = bucket.then(|| "le".to_owned());
    Some(metric.labels.iter().cloned().chain(extra).chain(le).collect())
}

fn known(selector: &VectorSelector, metrics: &[Metric]) -> Result<Vec<String>, String> {
    let name = selector.name.as_deref().ok_or("a selector without a name")?;
    let mut labels = labels_of(name, metrics).ok_or_else(|| format!("{name}: no such metric"))?;
    let mut matchers = selector.matchers.matchers.iter();
    if has_labels_of_watched(name) {
        let watch = matchers.clone().find(|matcher| matcher.name == "watch");
        let watch = watch.map_or("", |matcher| matcher.value.as_str());
        if let Some((_, _, own)) = WATCHES.iter().find(|(known, ..)| *known == watch) {
            labels.extend(own.iter().map(|&label| label.to_owned()));
        } else if !watch.is_empty() {
            return Err(format!("{name}: nobody watches {watch}"));
        }
    }
    let unknown = matchers.find(|matcher| !labels.contains(&matcher.name));
    match unknown {
        Some(matcher) => Err(format!("{name}: no label {}", matcher.name)),
        None => Ok(labels),
    }
}

/// Adds the labels that can come out of a part of a query, and checks what it groups by against them.
fn visit(expr: &Expr, metrics: &[Metric], out: &mut Vec<String>) -> Result<(), String> {
    match expr {
        Expr::VectorSelector(selector) => out.extend(known(selector, metrics)?),
        Expr::MatrixSelector(selector) => out.extend(known(&selector.vs, metrics)?),
        Expr::Aggregate(aggregate) => {
            let mut inner = Vec::new();
            visit(&aggregate.expr, metrics, &mut inner)?;
            // Those that are chosen keep their labels.
            let chooses = matches!(aggregate.op.id(), T_TOPK | T_BOTTOMK);
            match &aggregate.modifier {
                Some(LabelModifier::Include(by)) => {
                    if let Some(label) = by.labels.iter().find(|label| !inner.contains(label)) {
                        return Err(format!("grouped by {label}, which nothing has"));
                    }
                    out.extend(if chooses { inner } else { by.labels.clone() });
                }
                _ => out.extend(inner),
            }
        }
        Expr::Binary(binary) => {
            visit(&binary.lhs, metrics, out)?;
            visit(&binary.rhs, metrics, out)?;
        }
        Expr::Call(call) => {
            for argument in &call.args.args {
                visit(argument, metrics, out)?;
            }
        }
        Expr::Paren(paren) => visit(&paren.expr, metrics, out)?,
        Expr::Unary(unary) => visit(&unary.expr, metrics, out)?,
        Expr::Subquery(subquery) => visit(&subquery.expr, metrics, out)?,
        Expr::NumberLiteral(_) | Expr::StringLiteral(_) | Expr::Extension(_) => {}
    }
    Ok(())
}

pub(crate) fn selectors(expr: &Expr, see: &mut impl FnMut(&VectorSelector)) {
    match expr {
        Expr::VectorSelector(selector) => see(selector),
        Expr::MatrixSelector(selector) => see(&selector.vs),
        Expr::Aggregate(aggregate) => selectors(&aggregate.expr, see),
        Expr::Binary(binary) => {
            selectors(&binary.lhs, see);
            selectors(&binary.rhs, see);
        }
        Expr::Call(call) => call
            .args
            .args
            .iter()
            .for_each(|argument| selectors(argument, see)),
        Expr::Paren(paren) => selectors(&paren.expr, see),
        Expr::Unary(unary) => selectors(&unary.expr, see),
        Expr::Subquery(subquery) => selectors(&subquery.expr, see),
        Expr::NumberLiteral(_) | Expr::StringLiteral(_) | Expr::Extension(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics() -> Vec<Metric> {
        let metric = |name: &str, kind| Metric {
            name: name.to_owned(),
            kind,
            unit: "s".to_owned(),
            labels: vec!["peer".to_owned()],
            help: String::new(),
        };
        vec![
            metric("rtt_seconds", Kind::Histogram),
            metric("sent_total", Kind::Counter),
            Metric {
                labels: vec!["watch".to_owned()],
                ..metric("geophone_anomaly_upper", Kind::Gauge)
            },
        ]
    }

    #[test]
    fn what_is_not_there_is_told() {
        let check = |expr| check(expr, &metrics());
        assert_eq!(
            check(r#"sum by (peer) (rate(sent_total{peer=~"$peer"}[$__rate_interval]))"#),
            Ok(())
        );
        assert_eq!(
            check("histogram_quantile(0.5, sum by (le) (rate(rtt_seconds_bucket[5m])))"),
            Ok(())
        );
        assert_eq!(
            check("sum by (le) (topk by (peer) (1, rate(rtt_seconds_bucket[5m])))"),
            Ok(())
        );
        assert_eq!(
            check(r#"geophone_anomaly_upper{watch="drops",reason="x"}"#),
            Ok(())
        );
        for (expr, fault) in [
            (
                r#"geophone_anomaly_upper{watch="drops",peer="x"}"#,
                "no label peer",
            ),
            (r#"geophone_anomaly_upper{watch="drop"}"#, "nobody watches drop"),
            (r#"geophone_anomaly_upper{peer="x"}"#, "no label peer"),
            ("sent", "sent: no such metric"),
            ("sent_total_bucket", "no such metric"),
            (r#"sent_total{subject="x"}"#, "no label subject"),
            ("sum by (le) (sent_total)", "grouped by le"),
            ("sum by (peer (sent_total)", "sent_total"),
            (r#"{peer="x"}"#, "without a name"),
        ] {
            let said = check(expr).unwrap_err();
            assert!(said.contains(fault), "{expr}: {said}");
        }
    }

    #[test]
    fn characters_stay_where_they_are() {
        let mut seen = Vec::new();
        let query = r#"rate(x{a=~"${b:regex}"}[$__rate_interval]) + $c"#;
        let text = aligned(query, |name| seen.push(name.to_owned()));
        assert_eq!(text, r#"rate(x{a=~"xxxxxxxxxx"}[000000000000001m]) + xx"#);
        assert_eq!(seen, ["b", "c"]);
        assert!(parser::parse(&text).is_ok());
    }

    #[test]
    fn variables_are_replaced() {
        assert_eq!(
            plain(r#"x{a=~"$a",b="$b_c"}[$__rate_interval]"#, |name| format!(
                "<{name}>"
            )),
            r#"x{a=~"<a>",b="<b_c>"}[1m]"#
        );
        assert_eq!(
            plain(
                r#"label_replace(x{a=~"${a:regex}"}[${__range}], "$1$", "${2}")"#,
                |name| { format!("<{name}>") }
            ),
            r#"label_replace(x{a=~"<a>"}[1h], "$1$", "${2}")"#
        );
    }
}
