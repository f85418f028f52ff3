//! The same rules over the same series here and in `promtool test rules`: what comes out here is written down as what promtool
//! is to expect, alert by alert, annotation by annotation and sample by sample, at every evaluation.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test ends at what it does not expect"
)]

mod promtool;
mod scenarios;

use agent_rules::{Environment, Group, Results, Settings, State, file};
use agent_store::labels::Labels;
use agent_store::promql::{self, Options, Sample, Value, Version};
use agent_store::series::{Bounds, Free, Millis, STALE, Series, Source};
use agent_store::store::{Place, Store};
use promtool::{Expected, Promtool};
use scenarios::Scenario;
use std::collections::{BTreeMap, BTreeSet};

/// Between samples, and between evaluations.
const STEP: Millis = 60_000;

/// The series of a scenario, in a store.
fn fill(scenario: &Scenario) -> Store {
    let settings = agent_store::store::Settings {
        worker: false,
        keep: std::time::Duration::from_hours(24 * 365),
        ..agent_store::store::Settings::default()
    };
    let (store, _) = Store::open(Place::Memory, settings).unwrap();
    let ids: Vec<_> = scenario
        .series
        .iter()
        .map(|(labels, _)| store.register(&Labels::new(labels.to_vec())).unwrap())
        .collect();
    for step in 0..scenario.steps {
        let samples = ids.iter().zip(&scenario.series).filter_map(|(id, (_, values))| {
            let value = match *values.get(step)? {
                "_" => return None,
                "stale" => STALE,
                number => number.parse().unwrap(),
            };
            Some((*id, agent_store::store::Value::Float(value)))
        });
        let samples: Vec<_> = samples.collect();
        store.append(step as Millis * STEP, &samples);
    }
    store
}

struct Both<'a>(&'a Store, &'a Results);

impl Source for Both<'_> {
    fn select(
        &self,
        matchers: &[agent_store::series::Matcher],
        from: Millis,
        to: Millis,
        bounds: &dyn Bounds,
    ) -> Result<Vec<Series>, agent_store::series::Refusal> {
        let mut found = self.0.select(matchers, from, to, bounds)?;
        found.extend(self.1.select(matchers, from, to, bounds)?);
        Ok(found)
    }
}

/// What the rules of a scenario come to.
fn ours(scenario: &Scenario) -> Vec<Expected> {
    let store = fill(scenario);
    let settings = Settings {
        external_labels: Labels::new([("site", "here & there")]),
        external_url: "http://here.example:9090/p".to_owned(),
        options: Options {
            version: Version::Two,
            ..Options::default()
        },
    };
    let bounds = || -> Box<dyn Bounds> { Box::new(Free) };
    let groups = file::parse("rules.yaml", scenario.rules).unwrap();
    let mut groups: Vec<Group> = groups.into_iter().map(|group| Group::new(group, false)).collect();
    let rules = || groups.iter().flat_map(|group| &group.rules);
    let names = |alerts: bool| -> BTreeSet<String> {
        let wanted = rules().filter(|rule| rule.file.alert.is_some() == alerts);
        wanted.map(|rule| rule.file.name.clone()).collect()
    };
    let (alerts, recorded) = (names(true), names(false));
    let mut results = Results::default();
    let mut expected = Vec::new();
    for step in 0..scenario.steps {
        let at = step as Millis * STEP;
        for group in &mut groups {
            let environment = Environment {
                source: &store,
                bounds: &bounds,
                settings: &settings,
            };
            group.evaluate(at, &environment, &mut results);
        }
        let mut firing: BTreeMap<&str, Vec<promtool::Alert>> =
            alerts.iter().map(|name| (name.as_str(), Vec::new())).collect();
        for rule in groups.iter().flat_map(|group| &group.rules) {
            for alert in rule.alerts().filter(|alert| alert.state == State::Firing) {
                let one = (alert.labels.clone(), alert.annotations.clone());
                firing.get_mut(rule.file.name.as_str()).unwrap().push(one);
            }
        }
        for (name, alerts) in firing {
            expected.push(Expected::Alerts(at, name.to_owned(), alerts));
        }
        let series = ["ALERTS", "ALERTS_FOR_STATE"].map(str::to_owned);
        for name in series.iter().chain(&recorded) {
            let source = Both(&store, &results);
            let answer = promql::instant(name, at, &settings.options, &source, &Free).unwrap();
            let Value::Vector(_, elements) = answer.value else {
                panic!("{name} is no vector")
            };
            let samples = elements.into_iter().map(|element| match element.sample {
                Sample::Float(value) => (element.labels, value),
                Sample::Histogram(_) => panic!("a histogram"),
            });
            expected.push(Expected::Samples(at, name.clone(), samples.collect()));
        }
    }
    expected
}

#[test]
fn rules_come_to_what_promtool_says() {
    let Some(promtool) = Promtool::find() else {
        eprintln!("SKIPPED: no promtool here; `cargo xtask setup test` installs it");
        return;
    };
    for scenario in scenarios::all() {
        let expected = ours(&scenario);
        let firing = expected
            .iter()
            .filter(|one| matches!(one, Expected::Alerts(_, _, alerts) if !alerts.is_empty()));
        assert!(
            firing.count() > 0,
            "{}: nothing fires, so nothing is compared",
            scenario.name
        );
        // As they are, where they are Prometheus' own, and as we write them down.
        let written = file::yaml(&file::parse("rules.yaml", scenario.rules).unwrap());
        let own = (scenario.name != "short").then_some(scenario.rules);
        for rules in own.into_iter().chain([written.as_str()]) {
            if let Err(output) = promtool.agrees(&scenario, rules, &expected) {
                panic!("{}: promtool says\n{output}\nof\n{rules}", scenario.name);
            }
        }
    }
}

/// That the comparison can fail: promtool refuses an annotation that is not its own.
#[test]
fn promtool_finds_what_differs() {
    let Some(promtool) = Promtool::find() else { return };
    let scenario = scenarios::all().remove(0);
    let mut expected = ours(&scenario);
    for one in &mut expected {
        if let Expected::Alerts(_, _, alerts) = one {
            for (_, annotations) in alerts {
                annotations.insert("summary".to_owned(), "another".to_owned());
            }
        }
    }
    assert!(promtool.agrees(&scenario, scenario.rules, &expected).is_err());
}
