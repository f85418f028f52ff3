//! Objectives as people write them, and as they are once they are known to be right.

use crate::indicator::{Failed, Indicator, Judge};
use crate::query;
use crate::template::Template;
use crate::window::{Window, duration, short};
use agent_store::promql::is_label_name;
use agent_store::series::Millis;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// Longest name, in bytes: a label of DNS, as OpenSLO has it.
const LONGEST_NAME: usize = 63;
/// Most text of a description, in characters.
const LONGEST_TEXT: usize = 1000;
/// How often an indicator is looked at, unless it is said.
pub(crate) const INTERVAL: Millis = 30_000;
/// Round trips that are short enough, unless it is said, in seconds.
const BELOW: f64 = 0.125;

/// A service level objective. What is measured is a `template`, or `total` with `good` or `bad`, or a `histogram`, or a
/// `value`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Definition {
    /// Its name, in the label `slo` of its series: letters, digits, `.`, `_` and `-`.
    pub name: String,
    /// What it is an objective of, for people; the label `service` of its alerts.
    pub service: String,
    /// What it is about, for people.
    pub description: String,
    /// What share must be good, in percent.
    pub objective: f64,
    /// Over which time: rolling, e.g. `30d`, or `day`, `week` (from Monday) or `month` of the calendar, in UTC.
    pub window: String,
    /// What is measured, built in: `peer-latency`, `peer-loss`, `connect-success`, `peer-availability`, `dns` or `tunnel-availability`.
    pub template: Option<Template>,
    /// Only series that these matchers accept, e.g. `peer="database"`; for templates.
    pub filter: String,
    /// All that there were: the selector of a counter, or a query with `$window` where its range stands.
    pub total: Option<String>,
    /// Those that were good.
    pub good: Option<String>,
    /// Those that were bad; `good` or this.
    pub bad: Option<String>,
    /// The selector of a histogram, native or with buckets; its values up to `below` are good.
    pub histogram: Option<String>,
    /// The greatest value that is good, in the histogram's unit; with buckets it must be the bound of one.
    pub below: Option<f64>,
    /// A query whose value is looked at now and then; the time in which it is good counts.
    pub value: Option<String>,
    /// The greatest value that is good. Without it and `at_least` the value is itself the good share, 0 to 1.
    pub at_most: Option<f64>,
    /// The least value that is good.
    pub at_least: Option<f64>,
    /// Labels that tell one series of it from another: each has a budget of its own. If it is not said, those of the
    /// template, or `[instance]`.
    pub by: Option<Vec<String>>,
    /// How often it is looked at, 1s to 2m; below 10s only with a `window` that is no longer than `store.retention`.
    pub interval: String,
    /// Labels of its alerts, to route them.
    pub labels: BTreeMap<String, String>,
}

impl Default for Definition {
    fn default() -> Self {
        Self {
            name: String::new(),
            service: String::new(),
            description: String::new(),
            objective: 99.9,
            window: "30d".to_owned(),
            template: None,
            filter: String::new(),
            total: None,
            good: None,
            bad: None,
            histogram: None,
            below: None,
            value: None,
            at_most: None,
            at_least: None,
            by: None,
            interval: "30s".to_owned(),
            labels: BTreeMap::new(),
        }
    }
}

/// What is wrong with an objective.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The key that is wrong.
    pub key: &'static str,
    /// What is wrong, and what would be right.
    pub what: String,
}

impl Fault {
    pub(crate) fn new(key: &'static str, what: impl Into<String>) -> Self {
        Self {
            key,
            what: what.into(),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.what)
    }
}

impl std::error::Error for Fault {}

/// An objective that is right.
#[derive(Clone, Debug, PartialEq)]
pub struct Slo {
    /// Its name.
    pub name: String,
    /// What it is an objective of; may be empty.
    pub service: String,
    /// What it is about; may be empty.
    pub description: String,
    /// The share that must be good, above 0 and below 1.
    pub objective: f64,
    /// Over which time.
    pub window: Window,
    /// How often it is looked at, in milliseconds.
    pub interval: Millis,
    /// What is measured.
    pub indicator: Indicator,
    /// Labels of its alerts.
    pub labels: BTreeMap<String, String>,
}

impl Slo {
    /// Checks a definition.
    pub fn new(from: &Definition) -> Result<Self, Fault> {
        if let Some(by) = &from.by {
            query::labels(by).map_err(|what| Fault::new("by", what))?;
        }
        let interval = duration(&from.interval).filter(|ms| (1000..=120_000).contains(ms));
        Ok(Self {
            name: name("name", &from.name)?,
            service: match from.service.as_str() {
                "" => String::new(),
                service => name("service", service)?,
            },
            description: text(&from.description),
            objective: objective("objective", from.objective / 100.0)?,
            window: Window::parse(&from.window).map_err(|what| Fault::new("window", what))?,
            interval: interval.ok_or_else(|| {
                Fault::new(
                    "interval",
                    format!("expected 1s to 2m, found {:?}", from.interval),
                )
            })?,
            indicator: indicator(from)?,
            labels: labels(&from.labels)?,
        })
    }

    /// The share that may be bad.
    #[must_use]
    pub fn budget(&self) -> f64 {
        budget(self.objective)
    }

    /// The objective in percent, as people write it.
    #[must_use]
    pub fn percent(&self) -> String {
        percent(self.objective)
    }

    /// The objective and its window in words.
    #[must_use]
    pub fn target(&self) -> String {
        match self.window {
            Window::Rolling(length) => format!("{} % over {}", self.percent(), short(length)),
            _ => format!("{} % a {}", self.percent(), self.window.name()),
        }
    }
}

/// A share in percent, with no more digits than it has.
fn percent(share: f64) -> String {
    ((share * 1e12).round() / 1e10).to_string()
}

/// The share that may be bad where this one must be good.
#[must_use]
pub fn budget(objective: f64) -> f64 {
    // 1 - 0.999 is 0.0010000000000000009.
    ((1.0 - objective) * 1e12).round() / 1e12
}

/// The share of a percentage that can be an objective; an error says `objective: ` what is wrong.
pub fn checked_objective(percent: f64) -> Result<f64, Fault> {
    objective("objective", percent / 100.0)
}

/// The first name that two of these have.
#[must_use]
pub fn twice(slos: &[Slo]) -> Option<&str> {
    let mut seen = std::collections::BTreeSet::new();
    slos.iter()
        .map(|slo| slo.name.as_str())
        .find(|name| !seen.insert(*name))
}

pub(crate) fn name(key: &'static str, text: &str) -> Result<String, Fault> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if text.is_empty() || text.len() > LONGEST_NAME || !text.chars().all(fits) {
        let shown: String = text.chars().take(LONGEST_NAME + 1).collect();
        return Err(Fault::new(
            key,
            format!("expected 1 to {LONGEST_NAME} letters, digits, '.', '_' and '-', found {shown:?}"),
        ));
    }
    Ok(text.to_owned())
}

/// One line, and not endless.
pub(crate) fn text(given: &str) -> String {
    let words: Vec<&str> = given
        .split(|c: char| c.is_whitespace() || c.is_control())
        .collect();
    let words: Vec<&str> = words.into_iter().filter(|word| !word.is_empty()).collect();
    words.join(" ").chars().take(LONGEST_TEXT).collect()
}

pub(crate) fn objective(key: &'static str, share: f64) -> Result<f64, Fault> {
    // 99.9 / 100 is 0.9990000000000001, and nobody configured that.
    let share = (share * 1e12).round() / 1e12;
    if share == 1.0 {
        return Err(Fault::new(key, "100 % leaves no budget: take e.g. 99.9 %"));
    }
    if !(0.01..=0.999_999).contains(&share) {
        return Err(Fault::new(
            key,
            format!("{} % is out of range, 1 % to 99.9999 %", percent(share)),
        ));
    }
    Ok(share)
}

fn labels(given: &BTreeMap<String, String>) -> Result<BTreeMap<String, String>, Fault> {
    for label in given.keys() {
        let own = ["slo", "window", "severity", "factor", "service", "alertname"];
        if !is_label_name(label) || label.starts_with("__") || own.contains(&label.as_str()) {
            let what =
                format!("{label:?} cannot be a label here: it is none, or one that the alerts have already");
            return Err(Fault::new("labels", what));
        }
    }
    Ok(given
        .iter()
        .map(|(label, value)| (label.clone(), text(value)))
        .collect())
}

/// A label that the alerts are given hides the series' own: two alerts would be one.
fn unlabelled<'a>(
    given: &BTreeMap<String, String>,
    by: impl IntoIterator<Item = &'a str>,
) -> Result<(), Fault> {
    match by.into_iter().find(|label| given.contains_key(*label)) {
        Some(label) => Err(Fault::new(
            "labels",
            format!("{label:?} is a label of its series already, take it out or name it otherwise"),
        )),
        None => Ok(()),
    }
}

fn indicator(from: &Definition) -> Result<Indicator, Fault> {
    let given = [
        ("template", from.template.is_some()),
        ("total", from.total.is_some()),
        ("histogram", from.histogram.is_some()),
        ("value", from.value.is_some()),
    ];
    let given: Vec<&'static str> = given
        .into_iter()
        .filter(|(_, is)| *is)
        .map(|(key, _)| key)
        .collect();
    let [kind] = given[..] else {
        return Err(match given.get(1) {
            Some(second) => Fault::new(second, format!("{} are given, keep one", given.join(" and "))),
            None => Fault::new(
                "template",
                "nothing is measured: give template, total, histogram or value",
            ),
        });
    };
    // A key that means nothing would be believed to mean something.
    let of = |key: &'static str, is: bool, kinds: &[&str]| match is && !kinds.contains(&kind) {
        true => Err(Fault::new(
            key,
            format!("goes with {}, not with {kind}; take it out", kinds.join(" or ")),
        )),
        false => Ok(()),
    };
    of("good", from.good.is_some(), &["total"])?;
    of("bad", from.bad.is_some(), &["total"])?;
    of("below", from.below.is_some(), &["histogram", "template"])?;
    of("at_most", from.at_most.is_some(), &["value"])?;
    of("at_least", from.at_least.is_some(), &["value"])?;
    of("filter", !from.filter.is_empty(), &["template"])?;
    of("by", from.by.is_some(), &["total", "histogram", "template"])?;
    if let Some(below) = from.below.filter(|below| !(below.is_finite() && *below > 0.0)) {
        return Err(Fault::new(
            "below",
            format!("expected a number above 0, found {below}"),
        ));
    }
    let instance = || vec!["instance".to_owned()];
    let by = from
        .by
        .clone()
        .unwrap_or_else(|| from.template.map_or_else(instance, Template::by));
    if kind != "value" {
        unlabelled(&from.labels, by.iter().map(String::as_str))?;
    }
    if let Some(template) = from.template {
        of(
            "below",
            from.below.is_some() && template != Template::PeerLatency,
            &["histogram"],
        )?;
        let filter = query::filter(&from.filter).map_err(|what| Fault::new("filter", what))?;
        return Ok(template.indicator(&filter, from.below.unwrap_or(BELOW), &by));
    }
    if let Some(total) = &from.total {
        let count = |key: &'static str, text: &str| {
            query::count(text, &by, true).map_err(|what| Fault::new(key, what))
        };
        let whole = count("total", total)?;
        let part = |key: &'static str, text: &str| {
            let part = count(key, text)?;
            query::same(&part, &whole).map_err(|what| Fault::new(key, what))?;
            unlabelled(&from.labels, part.by.iter().map(String::as_str))?;
            Ok(part.query)
        };
        let failed = match (&from.good, &from.bad) {
            (Some(good), None) => Failed::AllBut(part("good", good)?),
            (None, Some(bad)) => Failed::Bad(part("bad", bad)?),
            _ => return Err(Fault::new("total", "give good or bad beside it, one of them")),
        };
        let total = whole.query;
        return Ok(Indicator::Events { failed, total });
    }
    if let Some(histogram) = &from.histogram {
        let below = from.below;
        let below =
            below.ok_or_else(|| Fault::new("histogram", "say below which value is good: below: 0.25"))?;
        let selector = query::histogram(histogram).map_err(|what| Fault::new("histogram", what))?;
        return Ok(Indicator::histogram(&selector, below, &by.join(", ")));
    }
    let value = from.value.as_deref().unwrap_or_default();
    let query = query::value(value).map_err(|what| Fault::new("value", what))?;
    match query::grouped(&query) {
        Some(by) => {
            unlabelled(&from.labels, by.iter().map(String::as_str))?;
            query::labels(&Vec::from_iter(by)).map_err(|what| Fault::new("value", what))?;
        }
        None if !from.labels.is_empty() => {
            return Err(Fault::new(
                "labels",
                "the value does not say which labels its series have, and these could hide one: write it as \
                 max by (instance) (…), or take them out",
            ));
        }
        None => {}
    }
    let judge = match (from.at_most, from.at_least) {
        (None, None) => Judge::Share,
        (Some(limit), None) => Judge::AtMost(limit),
        (None, Some(limit)) => Judge::AtLeast(limit),
        _ => return Err(Fault::new("at_least", "at_most and at_least are given, keep one")),
    };
    Ok(Indicator::Time { query, judge })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events() -> Definition {
        Definition {
            name: "web".to_owned(),
            total: Some("requests_total".to_owned()),
            bad: Some("requests_total{code=~\"5..\"}".to_owned()),
            ..Definition::default()
        }
    }

    #[test]
    fn selectors_become_rates() {
        let slo = Slo::new(&events()).unwrap();
        let Indicator::Events { total, .. } = &slo.indicator else {
            panic!("no events")
        };
        assert_eq!(total, "sum by (instance) (rate(requests_total{}[$window]))");
        let (objective, percent) = (slo.objective, slo.percent());
        assert_eq!(
            (objective, slo.budget(), percent.as_str()),
            (0.999, 0.001, "99.9")
        );
    }

    fn value(one: &mut Definition, query: &str, label: &str) {
        (one.total, one.bad, one.value) = (None, None, Some(query.to_owned()));
        one.labels.insert(label.to_owned(), "x".to_owned());
    }

    #[test]
    fn what_is_wrong_is_told_with_its_key() {
        type Change = fn(&mut Definition);
        let wrong: [(&str, &str, Change); 28] = [
            ("name", "found \"\"", |d| d.name.clear()),
            ("name", "found \"a b\"", |d| d.name = "a b".to_owned()),
            ("service", "{{", |d| d.service = "{{".to_owned()),
            ("objective", "no budget", |d| d.objective = 100.0),
            ("objective", "out of range", |d| d.objective = 0.5),
            ("objective", "out of range", |d| d.objective = f64::NAN),
            ("window", "expected a duration", |d| d.window = "ages".to_owned()),
            ("interval", "1s to 2m", |d| d.interval = "1h".to_owned()),
            ("template", "nothing is measured", |d| d.total = None),
            ("total", "keep one", |d| d.template = Some(Template::Dns)),
            ("total", "good or bad", |d| d.bad = None),
            ("bad", "$window", |d| d.bad = Some("rate(x[5m])".to_owned())),
            ("bad", "parse error", |d| d.bad = Some("sum(".to_owned())),
            ("bad", "template", |d| d.bad = Some("x{a=\"{{ y }}\"}".to_owned())),
            ("bad", "summed by (job), but total by ()", |d| {
                d.total = Some("sum(rate(x[$window]))".to_owned());
                d.bad = Some("sum by (job) (rate(y[$window]))".to_owned());
            }),
            ("bad", "by (instance)", |d| {
                d.bad = Some("sum(requests_total)".to_owned())
            }),
            ("bad", "must be a sum", |d| {
                d.bad = Some("rate(x[$window])".to_owned())
            }),
            ("bad", "increase", |d| {
                d.bad = Some("sum by (instance) (increase(x[$window]))".to_owned());
            }),
            ("by", "alerts", |d| d.by = Some(vec!["severity".to_owned()])),
            ("labels", "\"instance\" is a label of its series", |d| {
                d.labels.insert("instance".to_owned(), "a".to_owned());
            }),
            ("below", "take it out", |d| d.below = Some(1.0)),
            ("filter", "take it out", |d| d.filter = "a=\"b\"".to_owned()),
            ("by", "slo", |d| d.by = Some(vec!["slo".to_owned()])),
            ("by", "cannot be", |d| d.by = Some(vec!["a) x".to_owned()])),
            ("labels", "severity", |d| {
                d.labels.insert("severity".to_owned(), String::new());
            }),
            ("labels", "write it as max by", |d| {
                value(d, "netdev_up", "device")
            }),
            ("labels", "\"device\" is a label", |d| {
                value(d, "(max by (device) (up)) # now", "device");
            }),
            ("value", "\"window\"", |d| {
                value(d, "max by (window) (up)", "team")
            }),
        ];
        for (key, part, change) in wrong {
            let mut definition = events();
            change(&mut definition);
            let fault = Slo::new(&definition).unwrap_err();
            assert_eq!(fault.key, key, "{fault}");
            assert!(fault.what.contains(part), "{fault}");
            assert!(!fault.what.contains('\n'), "{fault}");
        }
    }

    #[test]
    fn a_filter_cannot_leave_its_braces() {
        let with = |filter: &str| {
            Slo::new(&Definition {
                name: "a".to_owned(),
                template: Some(Template::PeerLoss),
                filter: filter.to_owned(),
                ..Definition::default()
            })
        };
        for filter in ["a=\"b\"} or x{c=\"d\"", "a", "a=\"b\"}[5m", "a=\"b\"} # "] {
            assert_eq!(with(filter).unwrap_err().key, "filter", "{filter}");
        }
        assert!(with("peer=~\"a|b\\\\.c\", subject!=\"x\"").is_ok());
    }
}
