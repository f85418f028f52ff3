use super::shots::{EPOCH, SECOND, Shot, of};
use super::*;
use crate::aggregate::{HistogramValue, Value};

fn near(got: f64, want: f64) -> bool {
    (got / want).log2().abs() <= 1.0 / 8.0
}

#[test]
fn rates_are_per_second_of_the_snapshots_own_time() {
    let mut builder = ViewBuilder::new();
    let first = builder.push(
        &Shot::at(1)
            .bytes("a", "receive", 1000)
            .bytes("a", "transmit", 10)
            .0,
    );
    assert_eq!(
        (first.interval, first.total.receive_rate, first.uptime),
        (None, 0.0, 1.0)
    );
    assert!(first.pairs[0].history.is_empty());
    let view = builder.push(
        &Shot::at(2)
            .bytes("a", "receive", 4000)
            .bytes("a", "transmit", 10)
            .0,
    );
    assert_eq!(
        (view.pairs[0].receive_rate, view.pairs[0].transmit_rate),
        (3000.0, 0.0)
    );
    assert_eq!(view.pairs[0].history, [3000.0]);
    // Five seconds without a snapshot: the rate is their mean, and the history keeps its time axis.
    let view = builder.push(
        &Shot::at(7)
            .bytes("a", "receive", 9000)
            .bytes("a", "transmit", 10)
            .0,
    );
    assert_eq!((view.interval, view.pairs[0].receive_rate), (Some(5.0), 1000.0));
    assert_eq!(
        view.pairs[0].history,
        [3000.0, 1000.0, 1000.0, 1000.0, 1000.0, 1000.0]
    );
    assert_eq!(view.total.receive_rate, 1000.0);
    assert_eq!(
        (view.host.as_str(), view.region.as_str(), view.zone.as_str()),
        ("h", "eu", "")
    );
}

#[test]
fn a_counter_that_began_again_is_counted_from_zero() {
    let mut builder = ViewBuilder::new();
    builder.push(&Shot::at(1).bytes("a", "receive", 1000).0);
    let view = builder.push(&Shot::at(2).bytes("a", "receive", 300).0);
    assert_eq!(view.pairs[0].receive_rate, 300.0);
    // Above the old value, but a new series.
    let labels = [("subject", "a"), ("peer", "db"), ("direction", "receive")];
    let shot = Shot::at(3).add_since(
        "geophone_tcp_bytes_total",
        &labels,
        Value::Counter(500),
        EPOCH + 3 * SECOND,
    );
    assert_eq!(builder.push(&shot.0).pairs[0].receive_rate, 500.0);
    // The clock was set back: a tick is a second.
    let mut back = Shot::at(4).add_since(
        "geophone_tcp_bytes_total",
        &labels,
        Value::Counter(700),
        EPOCH + 3 * SECOND,
    );
    back.0.unix_nanos = EPOCH;
    assert_eq!(builder.push(&back.0).pairs[0].receive_rate, 200.0);
}

#[test]
fn a_series_seen_for_the_first_time_counts_only_if_it_began_since() {
    let mut builder = ViewBuilder::new();
    builder.push(&Shot::at(1).0);
    let drops = |start| {
        let labels = [("reason", "NO_SOCKET"), ("protocol", "udp")];
        Shot::at(2)
            .add_since("geophone_drops_packets_total", &labels, Value::Counter(7), start)
            .0
    };
    let view = builder.push(&drops(EPOCH));
    assert_eq!(
        (view.drops[0].rate, view.drops[0].total, view.drops[0].age),
        (0.0, 7, None)
    );
    let mut builder = ViewBuilder::new();
    builder.push(&Shot::at(1).0);
    let view = builder.push(&drops(EPOCH + 2 * SECOND));
    assert_eq!(
        (view.drops[0].rate, view.drops[0].age, view.drops_rate),
        (7.0, Some(0.0), 7.0)
    );
    assert_eq!(
        (view.drops[0].reason.as_str(), view.drops_total),
        ("NO_SOCKET", 7)
    );
}

#[test]
fn percentiles_are_those_of_the_last_interval_and_the_total_is_an_exact_sum() {
    let mut builder = ViewBuilder::new();
    let old = of(&[(900_000, 1000)]);
    let first = builder.push(&Shot::at(1).rtt("a", &old).rtt("b", &old).0);
    let since_start = first.pairs[0].rtt.clone().unwrap();
    assert!(since_start.age.is_none() && near(since_start.p50, 0.9));
    let (mut a, mut b) = (old.clone(), old.clone());
    a.add(&of(&[(1000, 98)]));
    b.add(&of(&[(50_000, 2)]));
    let view = builder.push(&Shot::at(2).rtt("a", &a).rtt("b", &b).0);
    let row = |name: &str| {
        view.pairs
            .iter()
            .find(|p| p.subject == name)
            .unwrap()
            .rtt
            .clone()
            .unwrap()
    };
    assert_eq!((row("a").count, row("b").count, row("a").age), (98, 2, Some(0.0)));
    assert!(near(row("a").p99, 0.001) && near(row("b").p50, 0.05));
    let total = view.total.rtt.clone().unwrap();
    assert_eq!(total.count, 100);
    assert!(near(total.p50, 0.001) && near(total.p99, 0.05), "{total:?}");
    assert_eq!(view.total.rtt_since_start.histogram().count, 2100);
    assert_eq!(view.total.rtt_since_start.max, Some(0.9));
    // Nothing new: the last minute, with its age. After a minute: nothing.
    let at = |builder: &mut ViewBuilder, second| {
        builder
            .push(&Shot::at(second).rtt("a", &a).rtt("b", &b).0)
            .total
            .rtt
    };
    let later = at(&mut builder, 12).unwrap();
    assert_eq!((later.count, later.age, later.old()), (100, Some(10.0), true));
    assert!(near(later.p50, 0.001));
    assert_eq!(at(&mut builder, 63), None);
}

#[test]
fn the_minute_forgets_in_steps_of_ten_seconds() {
    let mut builder = ViewBuilder::new();
    let mut h = HistogramValue::default();
    builder.push(&Shot::at(1).rtt("a", &h).0);
    for second in 2..=41 {
        h.add(&of(&[(1000, 1)]));
        builder.push(&Shot::at(second).rtt("a", &h).0);
    }
    let quiet = |builder: &mut ViewBuilder, second| {
        builder
            .push(&Shot::at(second).rtt("a", &h).0)
            .total
            .rtt
            .unwrap()
            .count
    };
    assert_eq!(quiet(&mut builder, 42), 40);
    let left = quiet(&mut builder, 80);
    assert!((15..=30).contains(&left), "{left}");
}

#[test]
fn the_retransmit_ratio_is_that_of_ten_seconds() {
    let mut builder = ViewBuilder::new();
    let shot = |second, again, sent| {
        let pair = [("subject", "a"), ("peer", "db")];
        let with = |name, value| [&pair[..], &[(name, value)][..]].concat();
        Shot::at(second)
            .add(
                "geophone_tcp_retransmits_total",
                &with("type", "fast"),
                Value::Counter(again),
            )
            .add(
                "geophone_tcp_retransmits_total",
                &with("type", "timeout"),
                Value::Counter(1),
            )
            .add(
                "geophone_tcp_segments_total",
                &with("direction", "transmit"),
                Value::Counter(sent),
            )
            .add(
                "geophone_tcp_segments_total",
                &with("direction", "receive"),
                Value::Counter(1_000_000),
            )
            .0
    };
    assert_eq!(builder.push(&shot(1, 5, 1000)).total.retransmit_ratio, None);
    assert_eq!(builder.push(&shot(2, 15, 1100)).total.retransmit_ratio, Some(0.1));
    for second in 3..=11 {
        assert_eq!(
            builder.push(&shot(second, 15, 1100)).total.retransmit_ratio,
            Some(0.1),
            "{second}"
        );
    }
    let view = builder.push(&shot(12, 15, 1200));
    assert_eq!(view.total.retransmit_ratio, Some(0.0));
    let fast = view.total.counters.iter().find(|c| c.kind == "fast").unwrap();
    assert_eq!(
        (fast.name.as_str(), fast.total, fast.rate),
        ("retransmits", 15, 0.0)
    );
}

#[test]
fn connections_interfaces_and_cost() {
    let mut builder = ViewBuilder::new();
    let shot = |second: u64| {
        let opened = [
            ("subject", "a"),
            ("role", "client"),
            ("outcome", "opened"),
            ("error", "none"),
        ];
        let failed = [
            ("subject", "a"),
            ("role", "client"),
            ("outcome", "failed"),
            ("error", "refused"),
        ];
        let device = [("device", "eth0"), ("direction", "transmit")];
        let program = [("program", "tcp_probe")];
        Shot::at(second)
            .add(
                "geophone_tcp_connections_total",
                &opened,
                Value::Counter(10 * second),
            )
            .add("geophone_tcp_connections_total", &failed, Value::Counter(second))
            .add(
                "geophone_tcp_connections",
                &[("subject", "a")],
                Value::Gauge(42.0),
            )
            .add(
                "geophone_tcp_resets_total",
                &[("subject", "a"), ("direction", "receive")],
                Value::Counter(2 * second),
            )
            .add(
                "geophone_netdev_bytes_total",
                &device,
                Value::Counter(500 * second),
            )
            .add("geophone_netdev_drops_total", &device, Value::Counter(9))
            .add(
                "geophone_netdev_speed_bytes",
                &[("device", "eth0")],
                Value::Gauge(1.25e8),
            )
            .add(
                "geophone_agent_cpu_seconds_total",
                &[],
                Value::CounterF(0.25 * second as f64),
            )
            .add("geophone_agent_memory_bytes", &[], Value::Gauge(3e7))
            .add("geophone_map_memory_bytes", &[("map", "x")], Value::Gauge(1e6))
            .add("geophone_map_memory_bytes", &[("map", "y")], Value::Gauge(2e6))
            .add(
                "geophone_program_run_seconds_total",
                &program,
                Value::CounterF(0.001 * second as f64),
            )
            .add(
                "geophone_program_runs_total",
                &program,
                Value::Counter(10_000 * second),
            )
            .add(
                "geophone_coverage_ratio",
                &[("metric", "segments")],
                Value::Gauge(0.999),
            )
            .0
    };
    let first = builder.push(&shot(1));
    assert_eq!(
        (first.cost.cpu, first.cost.programs[0].nanos_per_run),
        (Some(0.25), Some(100.0))
    );
    let view = builder.push(&shot(2));
    let pair = &view.pairs[0];
    assert_eq!(
        (
            pair.connections,
            pair.opened_rate,
            pair.failed_rate,
            pair.resets_rate,
            pair.resets
        ),
        (42, 10.0, 1.0, 2.0, 4)
    );
    let kinds: Vec<_> = pair.counters.iter().map(|c| c.kind.as_str()).collect();
    assert_eq!(kinds, ["receive", "failed client refused", "opened client"]);
    let device = &view.devices[0];
    assert_eq!(
        (device.transmit.bytes_rate, device.transmit.drops, device.speed),
        (500.0, 9, Some(1.25e8))
    );
    assert_eq!(device.receive, Lane::default());
    let cost = &view.cost;
    assert_eq!(
        (cost.cpu, cost.memory_bytes, cost.map_bytes, cost.governor_level),
        (Some(0.25), Some(3e7), 3e6, None)
    );
    assert_eq!(
        (cost.programs[0].runs_rate, cost.programs[0].program.as_str()),
        (10_000.0, "tcp_probe")
    );
    assert!((cost.bpf - 0.001).abs() < 1e-9);
    assert_eq!(
        view.coverage,
        [Coverage {
            metric: "segments".into(),
            ratio: 0.999
        }]
    );
}

#[test]
fn every_event_is_accounted_for() {
    let stage = |stage| [("probe", "tcp"), ("stage", stage)];
    let dropped = [("probe", "tcp"), ("stage", "ring"), ("reason", "ring_full")];
    let shot = Shot::at(1)
        .add("geophone_events_total", &stage("seen"), Value::Counter(100))
        .add("geophone_events_total", &stage("filtered"), Value::Counter(20))
        .add("geophone_events_total", &stage("delivered"), Value::Counter(70))
        .add("geophone_events_total", &stage("in_flight"), Value::Counter(3))
        .add("geophone_events_dropped_total", &dropped, Value::Counter(5));
    let account = ViewBuilder::new().push(&shot.0).accounts.remove(0);
    assert_eq!(
        (
            account.probe.as_str(),
            account.seen,
            account.lost(),
            account.unaccounted
        ),
        ("tcp", 100, 5, 2.0)
    );
    let flying = shot.add(
        "geophone_events_in_flight",
        &[("probe", "tcp")],
        Value::Gauge(5.0),
    );
    let account = ViewBuilder::new().push(&flying.0).accounts.remove(0);
    assert_eq!((account.in_flight, account.unaccounted), (5, 0.0));
    let shot = flying.add(
        "geophone_events_unaccounted",
        &[("probe", "tcp")],
        Value::Gauge(0.0),
    );
    assert_eq!(ViewBuilder::new().push(&shot.0).accounts[0].unaccounted, 0.0);
}

#[test]
fn nothing_is_a_view_as_well_and_json_keeps_it_all() {
    let mut builder = ViewBuilder::new();
    let view = builder.push(&Shot::at(0).0);
    assert!(view.pairs.is_empty() && view.total.rtt.is_none() && view.cost.cpu.is_none());
    builder.push(
        &Shot::at(1)
            .rtt("a", &of(&[(0, 2), (70, 3)]))
            .bytes("a", "receive", 5)
            .0,
    );
    let view = builder.push(
        &Shot::at(2)
            .rtt("a", &of(&[(0, 2), (70, 5), (9000, 1)]))
            .bytes("a", "receive", 9)
            .0,
    );
    let json = serde_json::to_string(&view).unwrap();
    let back = serde_json::from_str::<View>(&json).unwrap();
    assert_eq!(
        back.pairs[0].rtt_since_start.cells,
        view.pairs[0].rtt_since_start.cells
    );
    assert_eq!(
        (&back.total.counters, &back.total.history),
        (&view.total.counters, &view.total.history)
    );
    assert!(!json.contains("-0"));
    assert_eq!(
        serde_json::from_str::<View>(r#"{"host":"x","new":1}"#)
            .unwrap()
            .host,
        "x"
    );
}

#[test]
fn a_pair_that_is_gone_leaves_the_view_and_too_many_are_summed() {
    let mut builder = ViewBuilder::new();
    builder.push(&Shot::at(1).bytes("a", "receive", 1).0);
    assert!(builder.push(&Shot::at(2).0).pairs.is_empty());
    let many = |second: u64| {
        (0..600)
            .fold(Shot::at(second), |s, i| {
                s.bytes(&format!("s{i}"), "receive", second * i)
            })
            .0
    };
    builder.push(&many(3));
    let view = builder.push(&many(4));
    assert_eq!((view.pairs.len(), view.pairs_omitted), (PAIRS, 100));
    assert_eq!(view.pairs[0].subject, "s599");
    assert_eq!(view.total.receive_rate, (0..600).sum::<u64>() as f64);
}

#[test]
fn a_strange_distribution_does_no_harm() {
    let strange = Distribution {
        zero: 1,
        first: usize::MAX,
        cells: vec![u64::MAX, 5],
        ..Default::default()
    };
    assert!(strange.histogram().cells.len() < 300);
    let strange = Distribution {
        zero: 1,
        first: 2,
        cells: vec![u64::MAX, 5],
        ..Default::default()
    };
    assert_eq!(strange.histogram().count, u64::MAX);
}

#[test]
fn regions_are_exact_sums_of_their_pairs_and_a_pair_knows_its_way() {
    let mut builder = ViewBuilder::new();
    let shot = |second: u64, bytes: u64| {
        let mut shot = Shot::at(second);
        for (subject, region, rtt) in [("a", "us", 1000), ("b", "us", 50_000), ("c", "", 7)] {
            let labels = [("subject", subject), ("peer", "db"), ("peer_region", region)];
            let directed = [labels[0], labels[1], labels[2], ("direction", "receive")];
            let samples = of(&[(rtt, 10 * second)]);
            shot = shot
                .add("geophone_tcp_bytes_total", &directed, Value::Counter(bytes))
                .add(
                    "geophone_tcp_rtt_seconds",
                    &labels,
                    Value::Histogram(std::sync::Arc::new(samples)),
                )
                .add("geophone_path_hops", &labels, Value::Gauge(3.0))
                .add("geophone_path_mtu_bytes", &labels, Value::Gauge(1400.0));
        }
        shot.0
    };
    builder.push(&shot(1, 100));
    let view = builder.push(&shot(2, 700));
    assert!(
        view.pairs
            .iter()
            .all(|p| (p.hops, p.mtu) == (Some(3), Some(1400)))
    );
    let regions: Vec<_> = view
        .regions
        .iter()
        .map(|r| {
            (
                r.peer_region.as_str(),
                r.receive_rate,
                r.rtt.as_ref().map(|l| l.count),
            )
        })
        .collect();
    assert_eq!(regions, [("", 600.0, Some(10)), ("us", 1200.0, Some(20))]);
    // No snapshot has it any more.
    assert_eq!(builder.push(&Shot::at(3).0).regions, []);
}
