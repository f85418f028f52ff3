//! Evaluation of a group at a time.

mod past;
#[cfg(test)]
mod tests;

pub use past::{Episode, Past, past};

use crate::alert::{ALERTNAME, ALERTS, ALERTS_FOR_STATE, Alert, Alerts, State};
use crate::file::{AlertFile, GroupFile, RuleFile, Text};
use crate::restore;
use crate::results::{Results, Together};
use crate::template::Scope;
use agent_store::labels::{Labels, NAME};
use agent_store::promql::{Element, Memo, Options, Query, Sample, Value};
use agent_store::series::{Bounds, Millis, Source};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// So long after the first evaluation alerts that are new to this agent may be old ones: a rate needs its samples first.
/// Prometheus waits for the second evaluation.
const RESTORING: Millis = 60_000;

/// What all rules have in common.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// `$externalLabels`.
    pub external_labels: Labels,
    /// `$externalURL`.
    pub external_url: String,
    /// How queries are evaluated.
    pub options: Options,
}

/// What a group is evaluated over.
pub struct Environment<'a> {
    /// Where series come from.
    pub source: &'a dyn Source,
    /// Makes the bounds of one query.
    pub bounds: &'a dyn Fn() -> Box<dyn Bounds>,
    /// What all rules have in common.
    pub settings: &'a Settings,
}

/// How a rule's latest evaluation went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Health {
    /// There was none yet.
    #[default]
    Unknown,
    /// It went well.
    Ok,
    /// It did not; why.
    Bad(String),
}

/// A rule, and what it is doing.
#[derive(Debug)]
pub struct Rule {
    /// As the file has it.
    pub file: RuleFile,
    /// How the latest evaluation went.
    pub health: Health,
    /// How long it took.
    pub took: Duration,
    /// Its expression, or why it is none.
    query: Result<Query, String>,
    alerts: Alerts,
    /// The series of the latest evaluation that went well.
    series: BTreeSet<Labels>,
    /// Whether alerts go on where they were when the agent stopped.
    restore: bool,
    /// Time of the first evaluation that went well.
    first: Option<Millis>,
    /// How many there were, up to three.
    early: u8,
}

/// A group, and what its rules are doing.
#[derive(Debug)]
pub struct Group {
    /// As the file has it, without its rules.
    pub file: GroupFile,
    /// Its rules.
    pub rules: Vec<Rule>,
    /// When it was evaluated last.
    pub evaluated_at: Option<Millis>,
    /// How long that took.
    pub took: Duration,
}

impl Group {
    /// A group that was never evaluated. `restore`: its alerts go on where they were when the agent stopped.
    pub fn new(mut file: GroupFile, restore: bool) -> Self {
        let rules = std::mem::take(&mut file.rules).into_iter().map(|file| Rule {
            query: Query::new(&file.expr).map_err(|error| error.to_string()),
            restore: restore && file.alert.is_some(),
            first: None,
            early: 0,
            file,
            health: Health::Unknown,
            took: Duration::ZERO,
            alerts: Alerts::default(),
            series: BTreeSet::new(),
        });
        Self {
            rules: rules.collect(),
            file,
            evaluated_at: None,
            took: Duration::ZERO,
        }
    }

    /// Goes on where an earlier reading of the same group was: alerts of rules that have the name and the labels of one there,
    /// as in Prometheus, keep their state. What is left there goes to `results` as ended.
    pub fn inherit(&mut self, mut old: Self, at: Millis, results: &mut Results) {
        for rule in &mut self.rules {
            let is_it = |known: &Rule| known.file.is_same(&rule.file);
            if let Some(place) = old.rules.iter().position(is_it) {
                let known = old.rules.remove(place);
                *rule = Rule {
                    file: rule.file.clone(),
                    query: rule.query.clone(),
                    ..known
                };
            }
        }
        self.evaluated_at = old.evaluated_at;
        self.took = old.took;
        old.end(at, results);
    }

    /// It is evaluated no more: its series end.
    pub fn end(self, at: Millis, results: &mut Results) {
        let series = self.rules.iter().flat_map(|rule| &rule.series);
        series.for_each(|labels| results.end(labels, at));
    }

    /// Evaluates all rules, one after the other; each sees what those before it came to.
    pub fn evaluate(&mut self, at: Millis, environment: &Environment<'_>, results: &mut Results) {
        let began = Instant::now();
        let times = (at, at - self.file.query_offset);
        let memo = Memo::default();
        for rule in &mut self.rules {
            let began = Instant::now();
            rule.health = match rule.evaluate(times, self.file.limit, environment, &memo, results) {
                Ok(()) => Health::Ok,
                Err(why) => Health::Bad(why),
            };
            rule.took = began.elapsed();
        }
        self.evaluated_at = Some(at);
        self.took = began.elapsed();
    }
}

impl Rule {
    /// All alerts, those that were resolved within the latest 15 minutes among them; none of a recording rule.
    pub fn alerts(&self) -> impl Iterator<Item = &Alert> {
        self.alerts.0.values()
    }

    /// The state of the alert that is furthest.
    pub fn state(&self) -> State {
        let states = self.alerts().map(|alert| alert.state);
        states.max().unwrap_or(State::Inactive)
    }

    fn evaluate(
        &mut self,
        (now, at): (Millis, Millis),
        limit: usize,
        environment: &Environment<'_>,
        memo: &Memo,
        results: &mut Results,
    ) -> Result<(), String> {
        let source = Together {
            base: environment.source,
            results: &*results,
        };
        let ask = Ask {
            now,
            at,
            source: &source,
            environment,
            memo,
        };
        let found = ask.query(self.query.as_ref().map_err(Clone::clone)?)?;
        let samples = self.take(&found, limit, &ask)?;
        self.put(samples, at, results);
        let made: &[&str] = match self.file.alert {
            Some(_) => &[ALERTS, ALERTS_FOR_STATE],
            None => &[&self.file.name],
        };
        made.iter().for_each(|metric| memo.forget(metric));
        Ok(())
    }

    /// What becomes of what the query found: the rule's series.
    fn take(
        &mut self,
        found: &[Element],
        limit: usize,
        ask: &Ask<'_>,
    ) -> Result<Vec<(Labels, Sample)>, String> {
        match self.file.alert.clone() {
            Some(alert) => self.alert(found, &alert, limit, ask),
            None => self.record(found, limit),
        }
    }

    fn put(&mut self, samples: Vec<(Labels, Sample)>, at: Millis, results: &mut Results) {
        let mut series = BTreeSet::new();
        for (labels, sample) in samples {
            results.add(&labels, at, sample);
            series.insert(labels);
        }
        for ended in self.series.difference(&series) {
            results.end(ended, at);
        }
        self.series = series;
    }

    fn record(&self, found: &[Element], limit: usize) -> Result<Vec<(Labels, Sample)>, String> {
        let own = || {
            let labels = self.file.labels.iter();
            labels.map(|(label, text)| (label.as_str(), text.source.as_str()))
        };
        let mut seen = BTreeSet::new();
        let mut all = Vec::with_capacity(found.len());
        for element in found {
            let pairs = element.labels.iter().map(|(label, value)| (&**label, &**value));
            let labels = Labels::new(pairs.chain([(NAME, self.file.name.as_str())]).chain(own()));
            if !seen.insert(labels.clone()) {
                return Err(
                    "vector contains metrics with the same labelset after applying rule labels".to_owned(),
                );
            }
            all.push((labels, element.sample.clone()));
        }
        if limit > 0 && all.len() > limit {
            return Err(format!("exceeded limit of {limit} with {} series", all.len()));
        }
        Ok(all)
    }

    fn alert(
        &mut self,
        found: &[Element],
        alert: &AlertFile,
        limit: usize,
        ask: &Ask<'_>,
    ) -> Result<Vec<(Labels, Sample)>, String> {
        let mut new = BTreeMap::new();
        for element in found {
            let one = self.one(element, alert, ask);
            if new.insert(one.labels.clone(), one).is_some() {
                return Err(
                    "vector contains metrics with the same labelset after applying alert labels".to_owned(),
                );
            }
        }
        let active = self.alerts.update(ask.now, new, alert.hold, alert.keep_firing);
        if limit > 0 && active > limit {
            self.alerts = Alerts::default();
            return Err(format!("exceeded limit of {limit} with {active} alerts"));
        }
        self.early = (self.early + 1).min(3);
        let first = *self.first.get_or_insert(ask.now);
        if self.restore && (self.early <= 2 || ask.now - first <= RESTORING) {
            self.restore(alert, ask);
        }
        let samples = self.alerts.active().flat_map(|alert| {
            let since = alert.active_at.div_euclid(1000) as f64;
            [
                (alert.series(ALERTS, Some(alert.state)), Sample::Float(1.0)),
                (alert.series(ALERTS_FOR_STATE, None), Sample::Float(since)),
            ]
        });
        Ok(samples.collect())
    }

    fn one(&self, element: &Element, alert: &AlertFile, ask: &Ask<'_>) -> Alert {
        let value = match &element.sample {
            Sample::Float(value) => *value,
            Sample::Histogram(_) => 0.0,
        };
        let settings = ask.environment.settings;
        let query = |text: &str| ask.query(&Query::new(text).map_err(|error| error.to_string())?);
        let scope = Scope {
            labels: &element.labels,
            value,
            external_labels: &settings.external_labels,
            external_url: &settings.external_url,
            query: &query,
        };
        let expand = |text: &Text| match text.template.as_ref().map(|template| template.expand(&scope)) {
            Some(Ok(text)) => text,
            Some(Err(why)) => format!("<error expanding template: {why}>"),
            None => text.source.clone(),
        };
        let expanded = |texts: &[(String, Text)]| -> BTreeMap<String, String> {
            texts
                .iter()
                .map(|(name, text)| (name.clone(), expand(text)))
                .collect()
        };
        let own = expanded(&self.file.labels);
        let pairs = element.labels.iter().map(|(label, value)| (&**label, &**value));
        let pairs = pairs.filter(|(label, _)| *label != NAME);
        let own = own.iter().map(|(label, value)| (label.as_str(), value.as_str()));
        Alert {
            labels: Labels::new(pairs.chain(own).chain([(ALERTNAME, self.file.name.as_str())])),
            annotations: expanded(&alert.annotations),
            state: State::Pending,
            value,
            active_at: ask.now,
            fired_at: None,
            resolved_at: None,
            keep_firing_since: None,
        }
    }

    /// Alerts that are new to this agent go on where an earlier one left them.
    fn restore(&mut self, alert: &AlertFile, ask: &Ask<'_>) {
        let active = self.alerts.0.values_mut();
        let new = active.filter(|alert| alert.state != State::Inactive && alert.active_at == ask.now);
        for new in new {
            let bounds = (ask.environment.bounds)();
            restore::restore(new, alert.hold, ask.now, ask.environment.source, &*bounds);
        }
    }
}

/// Queries at one time.
struct Ask<'a> {
    /// The time of the evaluation.
    now: Millis,
    /// The time of the query: earlier by the group's offset.
    at: Millis,
    source: &'a Together<'a>,
    environment: &'a Environment<'a>,
    memo: &'a Memo,
}

impl Ask<'_> {
    fn query(&self, query: &Query) -> Result<Vec<Element>, String> {
        let bounds = (self.environment.bounds)();
        let options = &self.environment.settings.options;
        let answer = query.instant(self.at, options, self.source, &*bounds, self.memo);
        match answer.map_err(|error| error.to_string())?.value {
            Value::Vector(_, elements) => Ok(elements),
            Value::Scalar(_, value) => Ok(vec![Element {
                labels: Labels::default(),
                sample: Sample::Float(value),
            }]),
            Value::String(..) | Value::Matrix(_) => Err("rule result is not a vector or scalar".to_owned()),
        }
    }
}
