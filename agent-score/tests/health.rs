//! Health rules over series as the agent stores them: what a change of the network does to score, state and confidence.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test ends at what it does not expect"
)]

use agent_rules::{Environment, Group, Health, Results, Settings, file};
use agent_score::health::{Weights, rules};
use agent_store::histogram::Histogram;
use agent_store::labels::Labels;
use agent_store::promql::{self, Options, Sample, Value as Answer};
use agent_store::series::{Bounds, Free, Millis};
use agent_store::store::{Place, Settings as Keep, Store, Value};
use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Arc;

/// 2023-11-14T00:00:00Z
const START: Millis = 1_699_920_000_000;
const STEP: Millis = 15_000;

/// What a peer's connections do in a step.
#[derive(Clone, Copy)]
struct Peer {
    rtt: f64,
    lost: f64,
    failed: f64,
}

const GOOD: Peer = Peer {
    rtt: 0.010,
    lost: 0.0,
    failed: 0.0,
};

/// A node whose rules are evaluated as time goes.
struct Node {
    store: Store,
    groups: Vec<Group>,
    now: Millis,
    totals: BTreeMap<Labels, f64>,
    histograms: BTreeMap<Labels, Histogram>,
}

impl Node {
    fn new() -> Self {
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

    fn add(&mut self, name: &str, peer: &str, more: &[(&str, &str)], by: f64) {
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

    fn step(&mut self, peers: &[(&str, Peer)], gauges: &[(Labels, f64)]) {
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

    fn ask(&self, query: &str) -> Option<f64> {
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

    fn of(&self, metric: &str, peer: &str) -> Option<f64> {
        self.ask(&format!("{metric}{{entity=\"peer\",name=\"{peer}\"}}"))
    }
}

fn open(peer: &str) -> (Labels, f64) {
    let labels = [
        ("__name__", "geophone_tcp_connections"),
        ("instance", "n"),
        ("subject", "web"),
        ("peer", peer),
    ];
    (Labels::new(labels), 3.0)
}

fn about(found: Option<f64>, wanted: f64) {
    assert!(
        found.is_some_and(|found| (found - wanted).abs() < 0.01),
        "{found:?}, wanted {wanted}"
    );
}

#[test]
fn a_lossy_and_slow_peer_is_critical_and_the_others_are_not() {
    let mut node = Node::new();
    let gauges = [open("a"), open("b")];
    let bad = Peer {
        rtt: 0.2,
        lost: 0.08,
        failed: 0.0,
    };
    for _ in 0..8 {
        node.step(&[("a", GOOD), ("b", GOOD)], &gauges);
    }
    // Two minutes are no baseline: the latency is not judged yet, which costs confidence.
    about(node.of("geophone_health_score", "a"), 100.0);
    about(node.of("geophone_health_confidence", "a"), 60.0 / 85.0);
    for _ in 0..40 {
        node.step(&[("a", GOOD), ("b", GOOD)], &gauges);
    }
    for peer in ["a", "b"] {
        about(node.of("geophone_health_score", peer), 100.0);
        about(node.of("geophone_health_confidence", peer), 1.0);
        about(node.of("geophone_health_state", peer), 0.0);
    }
    for _ in 0..5 {
        node.step(&[("a", bad), ("b", GOOD)], &gauges);
    }
    // Of 85 points 25 for the latency and 25 for the loss are gone.
    about(node.of("geophone_health_score", "a"), 100.0 * 35.0 / 85.0);
    about(node.of("geophone_health_state", "a"), 2.0);
    about(node.of("geophone_health_score", "b"), 100.0);
    about(
        node.ask("geophone_health_factor{entity=\"peer\",name=\"a\",factor=\"loss\"}"),
        0.0,
    );
    about(node.ask("geophone_health_depends_on"), 1000.0 / 15.0);
    let subject = node
        .ask("geophone_health_score{entity=\"subject\",name=\"web\"}")
        .unwrap();
    assert!(
        subject > 40.0 && subject < 95.0,
        "half of what it says goes to a: {subject}"
    );
    for _ in 0..6 {
        node.step(&[("a", GOOD), ("b", GOOD)], &gauges);
    }
    about(node.of("geophone_health_score", "a"), 100.0);
    about(node.of("geophone_health_state", "a"), 0.0);
}

/// Cause: all connections to a peer fail, and all else is well, which costs 20 of 85 points. Seen: degraded at once, critical once
/// it lasts, because of the errors, and not any longer when they end. One failure, which is all of five minutes, is not enough.
#[test]
fn what_is_lost_altogether_is_critical_whatever_else_is_well() {
    let mut node = Node::new();
    let gauges = [open("a")];
    let none = Peer { failed: 1.0, ..GOOD };
    // Who opens nothing: what is tried no more is known from the connections that are open.
    let quiet = Peer {
        failed: f64::NAN,
        ..GOOD
    };
    let failed = "geophone_health_failed{entity=\"peer\",name=\"a\",factor=\"errors\"}";
    // A series begins with what it has counted: from then on it grows.
    let some = Peer { failed: 0.1, ..GOOD };
    (0..3).for_each(|_| node.step(&[("a", some)], &gauges));
    // Five minutes later nothing of it is looked at.
    (0..25).for_each(|_| node.step(&[("a", quiet)], &gauges));
    node.step(&[("a", none)], &gauges);
    let factor = "geophone_health_factor{entity=\"peer\",name=\"a\",factor=\"errors\"}";
    let mut worst = 0;
    for _ in 0..30 {
        worst += u32::from(node.ask(factor) == Some(0.0));
        node.step(&[("a", quiet)], &gauges);
        assert_eq!(node.ask(failed), None);
        assert!(node.of("geophone_health_state", "a") < Some(2.0));
    }
    assert!(worst >= 18, "it was looked at: {worst}");
    let mut critical = 0;
    for _ in 0..60 {
        node.step(&[("a", none)], &gauges);
        assert!(node.of("geophone_health_score", "a").unwrap() > 76.0);
        let state = node.of("geophone_health_state", "a").unwrap();
        assert!(state > 0.0);
        critical += u32::from(state > 1.0);
        assert_eq!(node.ask(failed).is_some(), state > 1.0);
    }
    assert!(
        (34..=38).contains(&critical),
        "of 60 all but six minutes: {critical}"
    );
    // A fifth of those of five minutes fail until four minutes after it is over.
    for _ in 0..20 {
        node.step(&[("a", GOOD)], &gauges);
    }
    about(node.of("geophone_health_state", "a"), 0.0);
    assert_eq!(node.ask(failed), None);
}

#[test]
fn a_trend_of_an_hour_is_said_of_an_hour() {
    let mut node = Node::new();
    let gauges = [open("a")];
    let lossy = |step: i32| Peer {
        lost: 0.001 + f64::from(step) * 0.000_1,
        ..GOOD
    };
    for step in 0..190 {
        node.step(&[("a", lossy(step))], &gauges);
        assert_eq!(node.of("geophone_health_trend", "a"), None, "after {step} steps");
    }
    for step in 190..215 {
        node.step(&[("a", lossy(step))], &gauges);
    }
    let trend = node.of("geophone_health_trend", "a").unwrap();
    assert!((-40.0..-10.0).contains(&trend), "{trend}");
}

#[test]
fn a_state_gets_better_a_few_points_later_than_it_got_worse() {
    let mut node = Node::new();
    let (gauges, at) = ([open("a")], |failed| Peer { failed, ..GOOD });
    for _ in 0..30 {
        node.step(&[("a", GOOD)], &gauges);
    }
    // Of 85 points the errors are 20.
    let mut state = |failed: f64, wanted: f64| {
        (0..25).for_each(|_| node.step(&[("a", at(failed))], &gauges));
        about(node.of("geophone_health_state", "a"), wanted);
        node.of("geophone_health_score", "a").unwrap()
    };
    assert!(state(0.11, 1.0) < 90.0);
    let between = state(0.085, 1.0);
    assert!((90.0..93.0).contains(&between), "{between}");
    assert!(state(0.04, 0.0) > 93.0);
    let between = state(0.085, 0.0);
    assert!((90.0..93.0).contains(&between), "{between}");
}

#[test]
fn who_says_nothing_loses_confidence_and_no_points() {
    let mut node = Node::new();
    for _ in 0..30 {
        node.step(&[], &[open("a")]);
    }
    about(node.of("geophone_health_score", "a"), 100.0);
    about(node.of("geophone_health_confidence", "a"), 35.0 / 85.0);
    assert_eq!(node.of("geophone_health_score", "b"), None);
}

#[test]
fn the_node_is_as_full_as_the_fullest_and_has_its_tunnels() {
    let mut node = Node::new();
    let gauge = |name: &str, more: &[(&str, &str)], value: f64| {
        let own = [("__name__", name), ("instance", "n")];
        (Labels::new(own.into_iter().chain(more.iter().copied())), value)
    };
    let disk = [("resource", "filesystem"), ("device", "vda1")];
    let tunnel = |state| {
        [
            ("type", "wireguard"),
            ("id", "7"),
            ("local", "l"),
            ("remote", "r"),
            ("state", state),
        ]
    };
    let gauges = [
        gauge("geophone_node_used", &disk, 89.0),
        gauge("geophone_node_limit", &disk, 100.0),
        gauge("geophone_node_used", &[("resource", "memory")], 10.0),
        gauge("geophone_node_limit", &[("resource", "memory")], 100.0),
        gauge("geophone_tunnel_state", &tunnel("up"), 0.0),
        gauge("geophone_tunnel_state", &tunnel("down"), 1.0),
        gauge("geophone_tunnel_state", &tunnel("degraded"), 0.0),
    ];
    for _ in 0..6 {
        node.step(&[], &gauges);
    }
    let factor = |name: &str| {
        node.ask(&format!(
            "geophone_health_factor{{entity=\"node\",name=\"n\",factor=\"{name}\"}}"
        ))
    };
    about(factor("saturation"), 0.5);
    about(factor("availability"), 0.0);
    about(
        node.ask("geophone_health_score{entity=\"node\"}"),
        100.0 * 7.5 / 30.0,
    );
    // Saturation and the tunnels, of all five.
    about(
        node.ask("geophone_health_confidence{entity=\"node\"}"),
        30.0 / 100.0,
    );
}

#[test]
fn a_server_that_takes_all_is_not_saturated_and_one_that_takes_none_is() {
    for (taken, refused, wanted) in [(10.0, 0.0, 1.0), (0.0, 10.0, 0.0)] {
        let mut node = Node::new();
        for _ in 0..6 {
            let opened = [("role", "server"), ("outcome", "opened")];
            node.add("geophone_tcp_connections_total", "a", &opened, taken);
            node.add("geophone_tcp_listen_drops_total", "a", &[], refused);
            node.step(&[], &[]);
        }
        let factor = "geophone_health_factor{entity=\"subject\",name=\"web\",factor=\"saturation\"}";
        about(node.ask(factor), wanted);
    }
}

#[test]
fn what_has_no_weight_is_not_looked_at() {
    let only = Weights {
        latency: 1,
        loss: 0,
        errors: 0,
        saturation: 0,
        availability: 0,
    };
    let text = rules(&only);
    assert!(
        !text.contains("factor: loss") && text.contains("factor: latency"),
        "{text}"
    );
}

#[test]
fn promtool_takes_the_rules() {
    if Command::new("promtool").arg("--version").output().is_err() {
        println!("SKIPPED: promtool is not installed");
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("health.yaml");
    std::fs::write(&path, rules(&Weights::default())).unwrap();
    let out = Command::new("promtool")
        .args(["check", "rules"])
        .arg(&path)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{said}");
}

#[test]
fn whatever_is_looked_at_the_rules_are_whole() {
    for chosen in 1..32u32 {
        let weight = |place: u32| chosen >> place & 1;
        let weights = Weights {
            latency: weight(0),
            loss: weight(1),
            errors: weight(2),
            saturation: weight(3),
            availability: weight(4),
        };
        let read = file::parse("health.yaml", &rules(&weights));
        assert!(read.is_ok(), "{weights:?}: {read:?}");
    }
}
