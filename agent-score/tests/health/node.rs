//! A node whose health is judged as time goes.

use agent_rules::{Environment, Group, Health, Results, Settings, file};
use agent_score::health::{Weights, rules};
use agent_store::histogram::Histogram;
use agent_store::labels::Labels;
use agent_store::promql::{self, Options, Sample, Value as Answer};
use agent_store::series::{Bounds, Free, Millis};
use agent_store::store::{Place, Settings as Keep, Store, Value};
use std::collections::BTreeMap;
use std::sync::Arc;

/// 2023-11-14T00:00:00Z
const START: Millis = 1_699_920_000_000;
const STEP: Millis = 15_000;

/// What a peer's connections do in a step.
#[derive(Clone, Copy)]
pub struct Peer {
    pub rtt: f64,
    pub lost: f64,
    pub failed: f64,
}

pub const GOOD: Peer = Peer {
    rtt: 0.010,
    lost: 0.0,
    failed: 0.0,
};

/// A series of this node, and its value.
pub fn gauge(name: &str, more: &[(&str, &str)], value: f64) -> (Labels, f64) {
    let own = [("__name__", name), ("instance", "n")];
    (Labels::new(own.into_iter().chain(more.iter().copied())), value)
}

/// A node whose rules are evaluated as time goes.
pub struct Node {
    store: Store,
    groups: Vec<Group>,
    now: Millis,
    totals: BTreeMap<Labels, f64>,
    histograms: BTreeMap<Labels, Histogram>,
}

impl Node {
    pub fn new() -> Self {
        let keep = Keep {
            worker: false,
            ..Keep::default()
        };
        let groups = file::parse("health.yaml", &rules(&Weights::default())).unwrap();
        Self {
            store: Store::open(Place::Memory, keep).unwrap().0,
            groups: groups.into_iter().map(|group| Group::new(group, false)).collect(),
            now: START,
            totals: BTreeMap::new(),
            histograms: BTreeMap::new(),
        }
    }

    pub fn add(&mut self, name: &str, peer: &str, more: &[(&str, &str)], by: f64) {
        // What never happened has no series, as from the agent.
        if by == 0.0 {
            return;
        }
        let own = [
            ("__name__", name),
            ("instance", "n"),
            ("subject", "web"),
            ("peer", peer),
        ];
        *self
            .totals
            .entry(Labels::new(own.into_iter().chain(more.iter().copied())))
            .or_default() += by;
    }

    pub fn step(&mut self, peers: &[(&str, Peer)], gauges: &[(Labels, f64)]) {
        for (peer, how) in peers {
            let labels = [
                ("__name__", "geophone_tcp_rtt_seconds"),
                ("instance", "n"),
                ("subject", "web"),
                ("peer", *peer),
            ];
            let rtt = self
                .histograms
                .entry(Labels::new(labels))
                .or_insert_with(|| Histogram {
                    schema: 3,
                    ..Histogram::default()
                });
            let index = (how.rtt.log2() * 8.0).ceil() as i32;
            match rtt.positive.iter_mut().find(|(at, _)| *at == index) {
                Some((_, count)) => *count += 100.0,
                None => rtt.positive.push((index, 100.0)),
            }
            rtt.positive.sort_by_key(|(at, _)| *at);
            (rtt.count, rtt.sum) = (rtt.count + 100.0, rtt.sum + 100.0 * how.rtt);
            self.add(
                "geophone_tcp_segments_total",
                peer,
                &[("direction", "transmit")],
                1000.0,
            );
            self.add(
                "geophone_tcp_retransmits_total",
                peer,
                &[("type", "fast")],
                how.lost * 1000.0,
            );
            if how.failed.is_nan() {
                continue;
            }
            self.add(
                "geophone_tcp_connections_total",
                peer,
                &[("role", "client"), ("outcome", "failed")],
                how.failed * 10.0,
            );
            self.add(
                "geophone_tcp_connections_total",
                peer,
                &[("role", "client"), ("outcome", "opened")],
                10.0 - how.failed * 10.0,
            );
            self.add(
                "geophone_tcp_zero_windows_total",
                peer,
                &[("direction", "receive")],
                0.0,
            );
        }
        let floats = self.totals.iter().map(|(labels, value)| (labels.clone(), *value));
        let mut samples: Vec<_> = floats
            .chain(gauges.iter().cloned())
            .map(|(labels, value)| (self.store.register(&labels).unwrap(), Value::Float(value)))
            .collect();
        samples.extend(self.histograms.iter().map(|(labels, histogram)| {
            (
                self.store.register(labels).unwrap(),
                Value::Histogram(Arc::new(histogram.clone())),
            )
        }));
        self.store.append(self.now, &samples);
        let mut results = Results::default();
        let bounds = || -> Box<dyn Bounds> { Box::new(Free) };
        for group in &mut self.groups {
            if (self.now - START) % group.file.interval.unwrap_or(STEP) != 0 {
                continue;
            }
            let environment = Environment {
                source: &self.store,
                bounds: &bounds,
                settings: &Settings::default(),
            };
            group.evaluate(self.now, &environment, &mut results);
            for rule in &group.rules {
                assert_eq!(rule.health, Health::Ok, "{}", rule.file.name);
            }
        }
        let recorded: Vec<_> = results
            .take()
            .into_iter()
            .filter_map(|series| {
                Some((
                    self.store.register(&series.labels)?,
                    Value::Float(*series.samples.floats.values.last()?),
                ))
            })
            .collect();
        self.store.append(self.now + 1, &recorded);
        self.now += STEP;
    }

    pub fn ask(&self, query: &str) -> Option<f64> {
        let answer = promql::instant(
            query,
            self.now - STEP + 1,
            &Options::default(),
            &self.store,
            &Free,
        )
        .unwrap();
        let Answer::Vector(_, elements) = answer.value else {
            panic!("{query}")
        };
        assert!(elements.len() < 2, "{query}: {elements:?}");
        elements.first().map(|element| match element.sample {
            Sample::Float(value) => value,
            Sample::Histogram(_) => panic!("{query}: a histogram"),
        })
    }

    pub fn of(&self, metric: &str, peer: &str) -> Option<f64> {
        self.ask(&format!("{metric}{{entity=\"peer\",name=\"{peer}\"}}"))
    }
}

pub fn open(peer: &str) -> (Labels, f64) {
    let labels = [
        ("__name__", "geophone_tcp_connections"),
        ("instance", "n"),
        ("subject", "web"),
        ("peer", peer),
    ];
    (Labels::new(labels), 3.0)
}

pub fn about(found: Option<f64>, wanted: f64) {
    assert!(
        found.is_some_and(|found| (found - wanted).abs() < 0.01),
        "{found:?}, wanted {wanted}"
    );
}
