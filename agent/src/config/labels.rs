//! Which labels the series of a metric have.

use super::error::nearest;
use super::units::Glob;
use crate::aggregate::{FURTHER, Metric, label};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Labels that series of some metrics have, or do not have.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LabelRule {
    /// Names of metrics as Prometheus has them, by pattern: `*` stands for any characters, `?` for one.
    pub metrics: Glob,
    /// The only labels that are left, by their names in Prometheus; empty = all.
    #[serde(default)]
    pub include: Vec<String>,
    /// Labels that are left out.
    #[serde(default)]
    pub exclude: Vec<String>,
}

/// Labels that an error names at most.
const SHOWN: usize = 16;

/// What the documentation shows.
pub(super) fn example() -> Vec<LabelRule> {
    let rule = |metrics: &str, include: &[&str], exclude: &[&str]| {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Some(LabelRule {
            metrics: metrics.parse().ok()?,
            include: names(include),
            exclude: names(exclude),
        })
    };
    [
        rule("geophone_tcp_*", &[], &["peer_zone"]),
        rule("geophone_tcp_jitter_seconds", &["subject"], &[]),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// All labels that series of a metric may have: those that it declares, and those that a subject brings.
pub fn of(metric: &Metric) -> impl Iterator<Item = &'static str> {
    let has_subject = metric
        .labels
        .iter()
        .any(|l| l.prometheus == label::SUBJECT.prometheus);
    let further = FURTHER.iter().filter(move |_| has_subject);
    metric.labels.iter().chain(further).map(|label| label.prometheus)
}

impl LabelRule {
    /// Whether it lets a series keep a label.
    pub fn keeps(&self, label: &str) -> bool {
        let is_in = |names: &[String]| names.iter().any(|name| name == label);
        (self.include.is_empty() || is_in(&self.include)) && !is_in(&self.exclude)
    }

    /// Whether this version has what it names.
    pub fn is_known(&self) -> bool {
        self.check().is_ok()
    }

    /// What is wrong with it: the key, and why.
    pub(super) fn check(&self) -> Result<(), (&'static str, String)> {
        let pattern = self.metrics.to_string();
        let all = crate::docs::all();
        let all = || all.iter().flat_map(|(_, metrics)| metrics.iter().copied());
        let named: Vec<&Metric> = all().filter(|metric| self.metrics.matches(metric.name)).collect();
        if named.is_empty() {
            let close = nearest(&pattern, all().map(|metric| metric.name), None);
            let remedy = close.map_or_else(
                || "docs/metrics.md has their names".to_owned(),
                |name| format!("did you mean {name}?"),
            );
            return Err(("metrics", format!("no metric is called {pattern:?}; {remedy}")));
        }
        let folded: Vec<&Metric> = named.iter().copied().filter(|metric| metric.adds_up()).collect();
        if folded.is_empty() {
            let message = format!(
                "the values of {pattern} cannot be added up, so that its series keep their labels; counters, histograms and \
                 gauges of what is there ({}) can",
                crate::aggregate::ADD_UP.join(", ")
            );
            return Err(("metrics", message));
        }
        if self.include.is_empty() && self.exclude.is_empty() {
            return Err(("metrics", "a rule needs include or exclude".to_owned()));
        }
        let mut known: Vec<&str> = folded.iter().flat_map(|metric| of(metric)).collect();
        known.sort_unstable();
        known.dedup();
        for (key, names) in [("include", &self.include), ("exclude", &self.exclude)] {
            if let Some(name) = names.iter().find(|name| !known.contains(&name.as_str())) {
                let remedy = match nearest(name, known.iter().copied(), None) {
                    Some(close) => format!("did you mean {close}?"),
                    None if known.len() > SHOWN => "docs/metrics.md has them".to_owned(),
                    None => format!("known: {}", known.join(", ")),
                };
                return Err((key, format!("{pattern} has no label {name:?}; {remedy}")));
            }
        }
        match self.include.iter().find(|name| self.exclude.contains(name)) {
            Some(name) => Err(("exclude", format!("{name} is included as well"))),
            None => Ok(()),
        }
    }
}
