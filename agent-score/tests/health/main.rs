//! Health rules over series as the agent stores them: what a change of the network does to score, state and confidence.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test ends at what it does not expect"
)]

mod node;

use agent_rules::file;
use agent_score::health::cause::LACKS;
use agent_score::health::{FACTORS, Factor, NODE_FULLNESS, Weights, fleet_rules, rules};
use node::{GOOD, Node, Peer, about, gauge, open};
use std::process::Command;

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
        assert!(node.of("geophone_health_state", "a").unwrap() < 2.0);
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

/// Cause: a link at 97 % of its speed, beside memory of which 60 % is used and tasks that all wait for disks a tenth of the time. Seen:
/// saturation is the link's, and the fullest of them is the link, with its direction.
#[test]
fn a_full_link_is_the_fullest_of_the_node() {
    let mut node = Node::new();
    let link = [("device", "eth0"), ("direction", "transmit")];
    for step in 0..6 {
        let passed = f64::from(step) * 15.0;
        let gauges = [
            gauge("geophone_node_used", &[("resource", "memory")], 60.0),
            gauge("geophone_node_limit", &[("resource", "memory")], 100.0),
            gauge("geophone_netdev_bytes_total", &link, passed * 97.0),
            gauge("geophone_netdev_speed_bytes", &link[..1], 100.0),
            gauge(
                "geophone_node_pressure_seconds_total",
                &[("resource", "io"), ("kind", "full")],
                passed * 0.1,
            ),
        ];
        node.step(&[], &gauges);
    }
    about(
        node.ask("geophone_health_signal{entity=\"node\",factor=\"saturation\"}"),
        0.97,
    );
    let link = "geophone_netdev_bytes_total{device=\"eth0\",direction=\"transmit\"}";
    about(
        node.ask(&format!(
            "topk(1, {NODE_FULLNESS}) and on (device, direction) {link}"
        )),
        0.97,
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

/// Cause: a container that talks to others and is at the limit of its memory, waits for CPU, or for a disk; and one that talks to
/// nobody. Seen: the first two are saturated, the third is not, and the last has no health.
#[test]
fn a_subject_at_its_limit_or_without_cpu_is_saturated() {
    let cgroup = |subject: &str, name: &str, more: &[(&str, &str)], value: f64| {
        let labels = [&[("subject", subject)][..], more].concat();
        gauge(name, &labels, value)
    };
    let talks = |subject: &str| cgroup(subject, "geophone_tcp_connections", &[("peer", "a")], 1.0);
    let memory = [("resource", "memory")];
    let mut node = Node::new();
    for round in 1..=8 {
        let waited = |subject: &str, resource: &str| {
            let labels = [("resource", resource), ("kind", "full")];
            // A sixth of the time: of CPU that is 5/6 of being full.
            cgroup(
                subject,
                "geophone_cgroup_pressure_seconds_total",
                &labels,
                f64::from(round) * 2.67,
            )
        };
        let gauges = [
            talks("full"),
            cgroup("full", "geophone_cgroup_used", &memory, 89.0),
            cgroup("full", "geophone_cgroup_limit", &memory, 100.0),
            talks("starved"),
            waited("starved", "cpu"),
            talks("reader"),
            waited("reader", "io"),
            cgroup("batch", "geophone_cgroup_used", &memory, 99.0),
            cgroup("batch", "geophone_cgroup_limit", &memory, 100.0),
        ];
        node.step(&[], &gauges);
    }
    let factor = |name: &str| {
        node.ask(&format!(
            "geophone_health_factor{{entity=\"subject\",name=\"{name}\",factor=\"saturation\"}}"
        ))
    };
    about(factor("full"), 0.5);
    about(factor("starved"), 1.0 - (5.0 * 2.67 / 15.0 - 0.8) / 0.18);
    assert_eq!(factor("reader"), None);
    assert_eq!(factor("batch"), None);
}

/// Cause: a subject near or at the limit of its memory, or a node without any, and a peer to which much or little is lost. Seen: who
/// loses more by the memory than by the peer lacks it, whoever has memory does not.
#[test]
fn who_loses_most_by_his_own_memory_lacks_it() {
    let of = |used: f64, node_used: f64, lost: f64| {
        let memory = [("resource", "memory")];
        let own = [("subject", "web"), ("resource", "memory")];
        let gauges = [
            open("a"),
            gauge("geophone_cgroup_used", &own, used),
            gauge("geophone_cgroup_limit", &own, 100.0),
            gauge("geophone_node_used", &memory, node_used),
            gauge("geophone_node_limit", &memory, 100.0),
        ];
        let mut node = Node::new();
        for _ in 0..8 {
            node.step(&[("a", Peer { lost, ..GOOD })], &gauges);
        }
        let lacks = |entity: &str| {
            node.ask(&format!(
                "({LACKS}) and on (entity) label_replace(vector(1), \"entity\", \"{entity}\", \"\", \"\")"
            ))
        };
        ["subject", "node", "peer"].map(|entity| lacks(entity).is_some())
    };
    assert_eq!(of(99.0, 10.0, 0.002), [true, false, false]);
    assert_eq!(of(10.0, 99.0, 0.002), [false, true, false]);
    assert_eq!(of(85.0, 85.0, 0.3), [false, false, false]);
    assert_eq!(of(10.0, 10.0, 0.3), [false, false, false]);
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

/// Everybody may look up what a factor means: docs/health.md has the curves as they are.
#[test]
fn the_curves_are_documented() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/health.md");
    let page = std::fs::read_to_string(page).unwrap();
    let limits = |factor: &Factor| match factor.name {
        "latency" => {
            [(factor.good, 1), (factor.bad, 10)].map(|(times, ms)| format!("{times} × usual + {ms} ms"))
        }
        _ => [factor.good, factor.bad].map(|share| format!("{} %", share * 100.0)),
    };
    for factor in FACTORS {
        let [good, bad] = limits(factor);
        let between = if factor.logarithmic {
            "logarithm"
        } else {
            "straight"
        };
        let vital = if factor.vital { "yes" } else { "no" };
        let row = format!(
            "| `{}` | {} | {} | {good} | {bad} | {between} | {vital} |\n",
            factor.name,
            Weights::default().of(factor),
            factor.signal
        );
        assert!(page.contains(&row), "not in docs/health.md: {row}");
    }
}

#[test]
fn promtool_takes_the_rules() {
    if Command::new("promtool").arg("--version").output().is_err() {
        println!("SKIPPED: promtool is not installed");
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("health.yaml");
    std::fs::write(&path, fleet_rules(&Weights::default())).unwrap();
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
        for text in [rules(&weights), fleet_rules(&weights)] {
            let read = file::parse("health.yaml", &text);
            assert!(read.is_ok(), "{weights:?}: {read:?}");
        }
    }
}
