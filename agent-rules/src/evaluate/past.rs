//! What rules would have come to: their evaluation over a span of the past.
//!
//! A rule is evaluated over many steps at once, so that a store is read once a rule and stretch, not once a step. It sees what
//! the rules before it came to, at every step; what a later rule of the file came to at the step before it does not see.

use super::{Ask, Environment, Group, Rule};
use crate::alert::{ALERTS, ALERTS_FOR_STATE, State};
use crate::file::GroupFile;
use crate::results::{Results, Together};
use agent_store::labels::Labels;
use agent_store::promql::{self, Element, Memo, Sample, Value};
use agent_store::series::{Bounds, Column, Matcher, Millis, Refusal, Series, Source};
use std::collections::{BTreeMap, BTreeSet};

/// Steps that are evaluated at once.
const STRETCH: Millis = 1000;

/// A time during which an alert fired.
#[derive(Clone, Debug, PartialEq)]
pub struct Episode {
    /// The alert's labels.
    pub labels: Labels,
    /// As of its latest evaluation, as the value.
    pub annotations: BTreeMap<String, String>,
    /// The latest value.
    pub value: f64,
    /// Since when the query had it.
    pub active_at: Millis,
    /// Since when it fired.
    pub fired_at: Millis,
    /// Until when; `None` if it still did at the end.
    pub resolved_at: Option<Millis>,
}

/// What rules would have come to.
#[derive(Debug, Default)]
pub struct Past {
    /// When alerts fired, in the order in which they began to.
    pub episodes: Vec<Episode>,
    /// What rules recorded.
    pub recorded: Results,
    /// Which evaluations failed: the rule's name, how often, and the first reason.
    pub failed: BTreeMap<String, (u64, String)>,
    /// Evaluations of a rule in all.
    pub evaluations: u64,
}

/// Evaluates groups in `from..=to`. Series in the source that these rules make themselves are not looked at.
pub fn past(
    groups: Vec<GroupFile>,
    (from, to): (Millis, Millis),
    default_interval: Millis,
    environment: &Environment<'_>,
) -> Past {
    let names = groups
        .iter()
        .flat_map(|group| &group.rules)
        .filter(|rule| rule.alert.is_none())
        .map(|rule| rule.name.clone());
    let alerts = groups.iter().flat_map(|group| &group.rules);
    let alerts = alerts
        .filter(|rule| rule.alert.is_some())
        .map(|rule| rule.name.clone());
    let source = Without {
        base: environment.source,
        names: names.collect(),
        alerts: alerts.collect(),
    };
    let environment = Environment {
        source: &source,
        ..*environment
    };
    let mut groups: Vec<Group> = groups.into_iter().map(|group| Group::new(group, false)).collect();
    let mut past = Past::default();
    let mut episodes = BTreeMap::new();
    for group in &mut groups {
        let interval = group.file.interval.unwrap_or(default_interval).max(1);
        let (offset, limit) = (group.file.query_offset, group.file.limit);
        let mut begin = from;
        while begin <= to {
            let last = (begin + (STRETCH - 1) * interval).min(begin + (to - begin) / interval * interval);
            let steps = Steps {
                begin,
                last,
                interval,
                offset,
                limit,
            };
            for rule in &mut group.rules {
                if let Err(why) = stretch(rule, &steps, &environment, &mut past, &mut episodes) {
                    let count = (last - begin) / interval + 1;
                    fail(&mut past, rule, count.unsigned_abs(), why);
                }
            }
            begin = last + interval;
        }
    }
    past.episodes = episodes.into_values().collect();
    past.episodes
        .sort_by(|a, b| (a.fired_at, &a.labels).cmp(&(b.fired_at, &b.labels)));
    past
}

struct Steps {
    begin: Millis,
    last: Millis,
    interval: Millis,
    offset: Millis,
    limit: usize,
}

/// By when it began to fire, its labels, and its rule's place in the file.
type Episodes = BTreeMap<(Millis, Labels, usize), Episode>;

fn fail(past: &mut Past, rule: &Rule, count: u64, why: String) {
    let (times, _) = past.failed.entry(rule.file.name.clone()).or_insert((0, why));
    *times += count;
}

fn stretch(
    rule: &mut Rule,
    steps: &Steps,
    environment: &Environment<'_>,
    past: &mut Past,
    episodes: &mut Episodes,
) -> Result<(), String> {
    let count = (steps.last - steps.begin) / steps.interval + 1;
    past.evaluations += count.unsigned_abs();
    let found = {
        let source = Together {
            base: environment.source,
            results: &past.recorded,
        };
        let (from, to) = (steps.begin - steps.offset, steps.last - steps.offset);
        let (options, expr) = (&environment.settings.options, &rule.file.expr);
        let ask = |from: Millis, to: Millis| {
            let bounds = (environment.bounds)();
            let answer = promql::range(expr, from, to, steps.interval, options, &source, &*bounds);
            match answer.map_err(|error| error.to_string())?.value {
                Value::Matrix(series) => Ok(by_time(&series)),
                _ => Err("rule result is not a vector or scalar".to_owned()),
            }
        };
        // Of a rule `@ end()` is now; of all steps at once it would be the future.
        if promql::is_of_range(expr).map_err(|error| error.to_string())? {
            let mut found = BTreeMap::new();
            let mut at = from;
            while at <= to {
                found.extend(ask(at, at)?);
                at += steps.interval;
            }
            found
        } else {
            ask(from, to)?
        }
    };
    let mut now = steps.begin;
    while now <= steps.last {
        let at = now - steps.offset;
        let elements = found.get(&at).map_or(&[][..], Vec::as_slice);
        let samples = {
            let source = Together {
                base: environment.source,
                results: &past.recorded,
            };
            let ask = Ask {
                now,
                at,
                source: &source,
                memo: &Memo::default(),
                environment,
            };
            rule.take(elements, steps.limit, &ask)
        };
        match samples {
            Ok(samples) => rule.put(samples, at, &mut past.recorded),
            Err(why) => fail(past, rule, 1, why),
        }
        note(rule, episodes);
        now += steps.interval;
    }
    Ok(())
}

fn note(rule: &Rule, episodes: &mut Episodes) {
    for alert in rule.alerts() {
        let Some(fired_at) = alert.fired_at else { continue };
        let key = (fired_at, alert.labels.clone(), rule.file.line);
        let episode = episodes.entry(key).or_insert_with(|| Episode {
            labels: alert.labels.clone(),
            annotations: BTreeMap::new(),
            value: alert.value,
            active_at: alert.active_at,
            fired_at,
            resolved_at: None,
        });
        if alert.state == State::Firing {
            episode.value = alert.value;
            episode.annotations.clone_from(&alert.annotations);
        }
        episode.resolved_at = alert.resolved_at;
    }
}

fn by_time(series: &[Series]) -> BTreeMap<Millis, Vec<Element>> {
    let mut all: BTreeMap<Millis, Vec<Element>> = BTreeMap::new();
    for one in series {
        let mut add = |at: Millis, sample: Sample| {
            let labels = one.labels.clone();
            all.entry(at).or_default().push(Element { labels, sample });
        };
        let Column { times, values } = &one.samples.floats;
        times
            .iter()
            .zip(values)
            .for_each(|(at, value)| add(*at, Sample::Float(*value)));
        let Column { times, values } = &one.samples.histograms;
        times
            .iter()
            .zip(values)
            .for_each(|(at, value)| add(*at, Sample::Histogram(value.clone())));
    }
    all
}

/// A source without the series of some names.
struct Without<'a> {
    base: &'a dyn Source,
    names: BTreeSet<String>,
    /// Those of other alerts stay: a composite may refer to one that the agent evaluates.
    alerts: BTreeSet<String>,
}

impl Source for Without<'_> {
    fn select(
        &self,
        matchers: &[Matcher],
        from: Millis,
        to: Millis,
        bounds: &dyn Bounds,
    ) -> Result<Vec<Series>, Refusal> {
        let mut found = self.base.select(matchers, from, to, bounds)?;
        found.retain(|series| match series.labels.name() {
            ALERTS | ALERTS_FOR_STATE => !self.alerts.contains(series.labels.get("alertname")),
            name => !self.names.contains(name),
        });
        Ok(found)
    }
}
