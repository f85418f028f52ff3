//! Short forms of alerts, each of which compiles to a query: threshold, rate, change, anomaly, composite.
//!
//! What they come to is an ordinary rule of Prometheus; `geophone rules print` writes it down.

use super::read::{Entry, Read, check, find, text};
use crate::yaml::{Node, Value};
use agent_store::promql::{is_label_name, json};
use std::fmt::Write as _;

/// The keys by which they are known.
pub(super) const FORMS: [&str; 5] = ["threshold", "rate", "change", "anomaly", "composite"];
/// What an alert may be.
pub const SEVERITIES: [&str; 3] = ["info", "warning", "critical"];

/// What a short form comes to.
#[derive(Debug, PartialEq)]
pub(super) struct Short {
    pub expr: String,
    /// What is said of it if the file says nothing.
    pub summary: String,
    /// Alerts that it is made of.
    pub refers: Vec<String>,
}

/// A bound of a short form.
struct Bound {
    /// `>` or `<`
    operator: &'static str,
    /// `above` or `below`
    word: &'static str,
    /// As it is in the file.
    text: String,
    /// As PromQL has it; a part of one if the file has percent.
    number: String,
    percent: bool,
}

/// A text as a string of PromQL.
fn quoted(text: &str) -> String {
    let mut out = String::new();
    json::string(&mut out, text);
    out
}

/// An expression as an operand.
fn operand(of: &str) -> String {
    let plain = of
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | ':'));
    if plain { of.to_owned() } else { format!("({of})") }
}

/// Alerts that fire, by these labels.
fn firing(alert: &str, on: &str) -> String {
    let alert = quoted(alert);
    format!("max by ({on}) (ALERTS{{alertname={alert},alertstate=\"firing\"}})")
}

impl Read<'_> {
    /// What the short form of a rule comes to, if it has one; `None` as well, and told, if it is wrong.
    pub(super) fn short(&mut self, name: &str, entries: &[Entry]) -> Option<Short> {
        let mut given = entries.iter().filter(|(key, ..)| FORMS.contains(&key.as_str()));
        let (form, line, node) = given.next()?;
        if let Some((other, line, _)) = given.next() {
            return self.wrong(
                *line,
                format!("{name}: both `{form}` and `{other}` are given, remove one"),
            );
        }
        if find(entries, "expr").is_some() {
            return self.wrong(
                *line,
                format!("{name}: both `{form}` and `expr` are given, remove one"),
            );
        }
        let what = format!("{name}: {form}");
        let mut short = match form.as_str() {
            "threshold" => self.threshold(&what, *line, node),
            "rate" => self.rate(&what, *line, node),
            "change" => self.change(&what, *line, node),
            "anomaly" => self.anomaly(&what, node),
            _ => self.composite(&what, *line, node),
        }?;
        if let Err(why) = check(&short.expr) {
            return self.wrong(*line, format!("{what}: {why}"));
        }
        // Braces of a name would be a template's.
        let title = if name.contains("{{") { "alert" } else { name };
        short.summary = format!("{title}: {}", short.summary);
        Some(short)
    }

    fn threshold(&mut self, what: &str, line: usize, node: &Node) -> Option<Short> {
        let entries = self.map(node, what, &["of", "above", "below"])?;
        let of = self.query(what, line, entries)?;
        let bound = self.bound(what, line, entries, false)?;
        Some(Short {
            expr: format!("{} {} {}", operand(&of), bound.operator, bound.number),
            summary: format!("{{{{ $value | humanize }}}}, {} {}", bound.word, bound.text),
            refers: Vec::new(),
        })
    }

    fn rate(&mut self, what: &str, line: usize, node: &Node) -> Option<Short> {
        let entries = self.map(node, what, &["of", "over", "by", "above", "below"])?;
        let of = self.query(what, line, entries)?;
        let over = self.over(what, line, entries)?;
        let by = match find(entries, "by") {
            Some((line, node)) => Some(self.labels(&format!("{what}: by"), line, node)?),
            None => None,
        };
        let bound = self.bound(what, line, entries, false)?;
        let rate = format!("rate({of}[{over}])");
        if check(&rate).is_err() {
            let told = format!(
                "{what}: of: a rate is of a counter, e.g. geophone_tcp_resets_total{{peer=\"db\"}}, not of {of}"
            );
            return self.wrong(line, told);
        }
        let rate = match by {
            Some(by) => format!("sum by ({by}) ({rate})"),
            None => rate,
        };
        Some(Short {
            expr: format!("{rate} {} {}", bound.operator, bound.number),
            summary: format!(
                "{{{{ $value | humanize }}}} a second, {} {}",
                bound.word, bound.text
            ),
            refers: Vec::new(),
        })
    }

    fn change(&mut self, what: &str, line: usize, node: &Node) -> Option<Short> {
        let entries = self.map(node, what, &["of", "over", "above", "below"])?;
        let of = self.query(what, line, entries)?;
        let over = self.over(what, line, entries)?;
        let bound = self.bound(what, line, entries, true)?;
        // Only a selector can be shifted itself.
        let before = match check(&format!("count_over_time({of}[1m])")) {
            Ok(()) => format!("{of} offset {over}"),
            Err(_) => format!("last_over_time(({of})[1m:1m] offset {over})"),
        };
        let (change, value) = if bound.percent {
            // Of nothing there is no part.
            (
                format!("{} / ({before} > 0) - 1", operand(&of)),
                "humanizePercentage",
            )
        } else {
            (format!("{} - ({before})", operand(&of)), "humanize")
        };
        Some(Short {
            expr: format!("{change} {} {}", bound.operator, bound.number),
            summary: format!(
                "{{{{ $value | {value} }}}} more than {over} ago, {} {}",
                bound.word, bound.text
            ),
            refers: Vec::new(),
        })
    }

    /// Over the series of watched series: 1 while one is an anomaly, and its score.
    fn anomaly(&mut self, what: &str, node: &Node) -> Option<Short> {
        let entries = self.map(node, what, &["watch", "where", "score_above"])?;
        let mut matchers = Vec::new();
        let mut of = "any watched series".to_owned();
        if let Some((line, node)) = find(entries, "watch") {
            let Some(watch) = text(node) else {
                let found = node.describe();
                return self.wrong(
                    line,
                    format!("{what}: watch: expected the name of a watch, found {found}"),
                );
            };
            matchers.push(format!("watch={}", quoted(&watch)));
            of = watch.replace("{{", "");
        }
        for (label, line, value) in self.texts(entries, "where", what) {
            if !is_label_name(&label) {
                return self.wrong(line, format!("{what}: where: {label:?} cannot be a label's name"));
            }
            matchers.push(format!("{label}={}", quoted(&value)));
        }
        let matchers = match matchers.is_empty() {
            true => String::new(),
            false => format!("{{{}}}", matchers.join(",")),
        };
        let (expr, summary) = match find(entries, "score_above") {
            None => (
                // Which detectors agree changes while it lasts.
                format!("max without (change, detectors) (geophone_anomaly_active{matchers}) == 1"),
                format!("{of} is an anomaly"),
            ),
            Some((line, node)) => {
                let score = text(node)
                    .filter(|text| text.parse::<f64>().is_ok_and(|score| (0.0..1.0).contains(&score)));
                let Some(score) = score else {
                    let found = node.describe();
                    return self.wrong(
                        line,
                        format!(
                            "{what}: score_above: expected a number from 0 to 1, e.g. 0.9, found {found}"
                        ),
                    );
                };
                (
                    format!("geophone_anomaly_score{matchers} > {score}"),
                    format!("the score of {of} is {{{{ $value | humanize }}}}, above {score}"),
                )
            }
        };
        Some(Short {
            expr,
            summary,
            refers: Vec::new(),
        })
    }

    fn composite(&mut self, what: &str, line: usize, node: &Node) -> Option<Short> {
        let entries = self.map(node, what, &["all", "any", "unless", "on"])?;
        let on = match find(entries, "on") {
            Some((line, node)) => self.labels(&format!("{what}: on"), line, node)?,
            None => "instance".to_owned(),
        };
        let mut names = |key: &str| match find(entries, key) {
            Some((line, node)) => self.names(&format!("{what}: {key}"), line, node),
            None => Some(Vec::new()),
        };
        let (all, any, unless) = (names("all")?, names("any")?, names("unless")?);
        let mut parts: Vec<String> = all.iter().map(|alert| firing(alert, &on)).collect();
        let either: Vec<String> = any.iter().map(|alert| firing(alert, &on)).collect();
        match either.as_slice() {
            [] => {}
            [one] => parts.push(one.clone()),
            several => parts.push(format!("({})", several.join(" or "))),
        }
        if parts.is_empty() {
            return self.wrong(
                line,
                format!("{what}: neither `all` nor `any` has an alert, add the names of some"),
            );
        }
        let mut expr = parts.join("\nand ");
        let mut said = [all.join(" and "), any.join(" or ")];
        said.iter_mut().for_each(|words| *words = words.replace("{{", ""));
        let mut summary =
            said.iter()
                .filter(|words| !words.is_empty())
                .fold(String::new(), |so_far, words| match so_far.is_empty() {
                    true => words.clone(),
                    false => format!("{so_far} and ({words})"),
                });
        for alert in &unless {
            let _ = write!(expr, "\nunless {}", firing(alert, &on));
            let _ = write!(summary, ", not {}", alert.replace("{{", ""));
        }
        Some(Short {
            expr,
            summary,
            refers: all.into_iter().chain(any).chain(unless).collect(),
        })
    }

    /// What a form looks at.
    fn query(&mut self, what: &str, line: usize, entries: &[Entry]) -> Option<String> {
        let Some((line, of)) = find(entries, "of").and_then(|(line, node)| Some((line, text(node)?))) else {
            return self.wrong(
                line,
                format!("{what}: it has no `of`, add the metric or the query that is looked at"),
            );
        };
        match check(&of) {
            // A comment ends with its line, and not with what is written behind it.
            Ok(()) if of.contains('#') => Some(format!("{}\n", of.trim())),
            Ok(()) => Some(of.trim().to_owned()),
            Err(why) => self.wrong(line, format!("{what}: of: {why}")),
        }
    }

    fn over(&mut self, what: &str, line: usize, entries: &[Entry]) -> Option<String> {
        let Some((line, node)) = find(entries, "over") else {
            return self.wrong(
                line,
                format!("{what}: it has no `over`, add the time that is looked back, like 15m"),
            );
        };
        let over = text(node).filter(|text| super::duration(text).is_some_and(|ms| ms > 0));
        if over.is_none() {
            let found = node.describe();
            return self.wrong(
                line,
                format!("{what}: over: expected a duration like 15m, found {found}"),
            );
        }
        over
    }

    /// `above` or `below`.
    fn bound(&mut self, what: &str, line: usize, entries: &[Entry], relative: bool) -> Option<Bound> {
        let (word, operator, (line, node)) = match (find(entries, "above"), find(entries, "below")) {
            (Some(above), None) => ("above", ">", above),
            (None, Some(below)) => ("below", "<", below),
            (None, None) => {
                return self.wrong(
                    line,
                    format!("{what}: neither `above` nor `below` is given, add one"),
                );
            }
            (Some((line, _)), Some(_)) => {
                return self.wrong(
                    line,
                    format!("{what}: both `above` and `below` are given, remove one"),
                );
            }
        };
        let given = text(node).unwrap_or_default();
        let given = given.trim();
        let (number, percent) = match given.strip_suffix('%').filter(|_| relative) {
            Some(number) => (number.trim_end(), true),
            None => (given, false),
        };
        let Some(number) = number.parse::<f64>().ok().filter(|number| number.is_finite()) else {
            let (found, or) = (node.describe(), if relative { " or 50%" } else { "" });
            return self.wrong(
                line,
                format!("{what}: {word}: expected a number like 0.5{or}, found {found}"),
            );
        };
        Some(Bound {
            operator,
            word,
            text: given.to_owned(),
            number: (if percent { number / 100.0 } else { number }).to_string(),
            percent,
        })
    }

    /// Names of labels, for `by (…)`.
    fn labels(&mut self, what: &str, line: usize, node: &Node) -> Option<String> {
        let labels = self.names(what, line, node)?;
        match labels.iter().find(|label| !is_label_name(label)) {
            Some(label) => self.wrong(
                line,
                format!("{what}: {label:?} cannot be a label's name, use letters, digits and _"),
            ),
            None => Some(labels.join(", ")),
        }
    }

    /// A list of texts, or one.
    fn names(&mut self, what: &str, line: usize, node: &Node) -> Option<Vec<String>> {
        let names = match &node.value {
            Value::Scalar(one) => Some(vec![one.clone()]),
            Value::List(items) => items.iter().map(|item| text(item)).collect(),
            _ => None,
        };
        if names.is_none() {
            let found = node.describe();
            return self.wrong(line, format!("{what}: expected a list of names, found {found}"));
        }
        names
    }
}
