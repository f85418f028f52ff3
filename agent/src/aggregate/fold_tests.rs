use super::*;
use crate::aggregate::{Further, label};
use crate::config::Config;
use crate::probes::{path, tcp};
use rand::{Rng as _, SeedableRng as _};
use std::collections::HashSet;

fn fold(text: &str) -> Fold {
    Fold::new(&Config::parse("f", text).unwrap().labels, 1)
}

fn metric(name: &str) -> &'static Metric {
    let all = tcp::METRICS.iter().chain(path::METRICS);
    all.copied().find(|metric| metric.name == name).unwrap()
}

/// Labels of a subject of a namespace that talks to a peer.
fn labels(metric: &Metric, subject: &str, peer: &str, start: u64) -> Arc<Labels> {
    let value = |label: &&Label| match label.prometheus {
        "subject" => subject,
        "peer" => peer,
        "direction" => "transmit",
        _ => "",
    };
    let values: Vec<&str> = metric.labels.iter().map(value).collect();
    let further = Further::new([(&label::K8S_NAMESPACE, "shop".to_owned())]);
    let is_other = subject == "other";
    Arc::new(Labels::of(metric.labels, &values, &further, is_other, start))
}

fn family(metric: &'static Metric, series: &[(&Arc<Labels>, Value)]) -> Family {
    let series = series.iter().map(|(labels, value)| Series {
        labels: (*labels).clone(),
        value: value.clone(),
    });
    Family {
        metric,
        series: series.collect(),
    }
}

fn counts(
    fold: &mut Fold,
    metric: &'static Metric,
    series: &[(&Arc<Labels>, u64)],
) -> Vec<(String, u64, u64)> {
    let series: Vec<_> = series
        .iter()
        .map(|(labels, n)| (*labels, Value::Counter(*n)))
        .collect();
    let mut families = vec![family(metric, &series)];
    fold.apply(&mut families);
    let counted = families[0].series.iter().map(|series| match series.value {
        Value::Counter(count) => (series.labels.text.clone(), count, series.labels.start_unix_nanos),
        _ => unreachable!(),
    });
    counted.collect()
}

const SEGMENTS: &str = "geophone_tcp_segments_total";

#[test]
fn a_sum_keeps_what_ended_parts_have_given() {
    let segments = metric(SEGMENTS);
    let mut fold = fold("labels: [{metrics: 'geophone_tcp_*', exclude: [peer, direction]}]");
    let [a, b, c, other] = [
        ("web", "a", 5),
        ("web", "b", 3),
        ("web", "c", 9),
        ("other", "", 2),
    ]
    .map(|(subject, peer, start)| labels(segments, subject, peer, start));
    let sum = |count, start| {
        (
            "subject=\"web\",k8s_namespace_name=\"shop\"".to_owned(),
            count,
            start,
        )
    };
    let mut tick = |series: &[(&Arc<Labels>, u64)]| counts(&mut fold, segments, series);
    // It began with the first of its parts.
    assert_eq!(tick(&[(&a, 10), (&b, 5)]), [sum(15, 3)]);
    assert_eq!(tick(&[(&a, 12), (&b, 5)]), [sum(17, 3)]);
    // One ends, and then another one begins.
    assert_eq!(tick(&[(&b, 6)]), [sum(18, 3)]);
    assert_eq!(tick(&[(&c, 100), (&b, 6)]), [sum(118, 3)]);
    // One begins anew.
    assert_eq!(tick(&[(&c, 4), (&b, 7)]), [sum(123, 3)]);
    // What found no room is apart.
    let both = tick(&[(&other, 7), (&c, 4), (&b, 7)]);
    assert_eq!(both[1], sum(123, 3));
    assert!(
        both[0].0.contains("subject=\"other\"") && both[0].0.contains("overflow"),
        "{both:?}"
    );
    assert_eq!(tick(&[]), []);
    // After its end it is another one.
    assert_eq!(tick(&[(&c, 5)]), [sum(5, 9)]);
}

#[test]
fn a_subject_may_go_and_its_namespace_stay() {
    let segments = metric(SEGMENTS);
    let [web, api] = ["web", "api"].map(|subject| labels(segments, subject, "db", 1));
    let mut kept = fold("labels: [{metrics: '*_segments_*', include: [k8s_namespace_name, peer]}]");
    let shop = "peer=\"db\",k8s_namespace_name=\"shop\"".to_owned();
    assert_eq!(
        counts(&mut kept, segments, &[(&web, 1), (&api, 2)]),
        [(shop, 3, 1)]
    );
    // All rules have to let a label stay.
    let two = "labels: [{metrics: '*', include: [peer, subject]}, {metrics: geophone_tcp_segments_total, exclude: [subject]}]";
    let peer = "peer=\"db\"".to_owned();
    assert_eq!(
        counts(&mut fold(two), segments, &[(&web, 1), (&api, 2)]),
        [(peer, 3, 1)]
    );
}

#[test]
fn histograms_become_one_exactly_and_what_has_no_sum_stays() {
    let [rtt, connections, mtu] = [
        "geophone_tcp_rtt_seconds",
        "geophone_tcp_connections",
        "geophone_path_mtu_bytes",
    ]
    .map(metric);
    let mut fold = fold("labels: [{metrics: 'geophone_*', exclude: [peer]}]");
    let of = |cells: &[(usize, u64)], least: f64| {
        let mut out = HistogramValue::default();
        cells.iter().for_each(|(cell, count)| out.add_cell(*cell, *count));
        (out.sum, out.min, out.max) = (out.count as f64 * 0.5, Some(least), Some(1.0));
        Value::Histogram(Arc::new(out))
    };
    let mut tick = |values: [Value; 2], open: [f64; 2]| {
        let named = |metric: &'static Metric, values: [Value; 2]| {
            let labels = ["a", "b"].map(|peer| labels(metric, "web", peer, 1));
            (labels, metric, values)
        };
        let all = [
            named(rtt, values),
            named(connections, open.map(Value::Gauge)),
            named(mtu, [1500.0, 1400.0].map(Value::Gauge)),
        ];
        let mut families: Vec<Family> = all
            .iter()
            .map(|(labels, metric, values)| {
                family(
                    metric,
                    &[(&labels[0], values[0].clone()), (&labels[1], values[1].clone())],
                )
            })
            .collect();
        fold.apply(&mut families);
        families
    };
    let families = tick(
        [of(&[(0, 1), (9, 4)], 0.25), of(&[(9, 1), (30, 2)], 0.5)],
        [3.0, 4.0],
    );
    let whole = |families: &[Family]| match &families[0].series[..] {
        [
            Series {
                value: Value::Histogram(sum),
                ..
            },
        ] => (sum.zero, sum.count, sum.cells[8], sum.cells[29], sum.min, sum.sum),
        other => panic!("{other:?}"),
    };
    assert_eq!(whole(&families), (1, 8, 5, 2, Some(0.25), 4.0));
    assert!(matches!(
        &families[1].series[..],
        [Series {
            value: Value::Gauge(7.0),
            ..
        }]
    ));
    assert_eq!(families[2].series.len(), 2, "a path MTU is no part of another");
    let told: Vec<_> = families[3]
        .series
        .iter()
        .map(|s| s.labels.text.as_str())
        .collect();
    assert_eq!(
        told,
        [
            "metric=\"geophone_tcp_rtt_seconds\"",
            "metric=\"geophone_tcp_connections\""
        ]
    );
    assert!(matches!(families[3].series[0].value, Value::Gauge(1.0)));
}

/// Series that come, go, grow and begin anew by chance: a sum is what its parts have ever grown by, and no two series have
/// the same labels.
#[test]
fn sums_never_fall_and_lose_nothing() {
    let segments = metric(SEGMENTS);
    let mut random = rand::rngs::SmallRng::seed_from_u64(7);
    let mut fold = fold("labels: [{metrics: geophone_tcp_segments_total, exclude: [peer]}]");
    // One of each subject lives throughout, so that their sums do.
    let mut living: Vec<(Arc<Labels>, u64)> = Vec::new();
    for subject in ["a", "b", "c"] {
        living.push((labels(segments, subject, "first", 1), 0));
    }
    let mut truth: HashMap<String, u64> = HashMap::new();
    for tick in 0..500u64 {
        let mut at = 3;
        while at < living.len() {
            if random.random_ratio(1, 8) {
                living.swap_remove(at);
            } else {
                at += 1;
            }
        }
        for _ in 0..random.random_range(0..4) {
            let subject = ["a", "b", "c"][random.random_range(0..3)];
            living.push((labels(segments, subject, &tick.to_string(), tick), 0));
        }
        for (labels, count) in &mut living {
            // What begins anew and is by now larger than before looks as if it had grown.
            if *count > 100 && random.random_ratio(1, 50) {
                *count = 0;
            }
            let grown = random.random_range(1..100);
            *count += grown;
            *truth.entry(labels.subject().to_owned()).or_default() += grown;
        }
        let series: Vec<_> = living.iter().map(|(labels, count)| (labels, *count)).collect();
        let sums = counts(&mut fold, segments, &series);
        let names: HashSet<&str> = sums.iter().map(|(text, ..)| text.as_str()).collect();
        assert_eq!((names.len(), sums.len()), (3, 3));
        for (text, count, _) in &sums {
            let subject = text
                .split("subject=\"")
                .nth(1)
                .and_then(|rest| rest.split('"').next())
                .unwrap();
            assert_eq!(*count, truth[subject], "{subject} in tick {tick}");
        }
    }
    assert!(
        fold.metrics
            .values()
            .all(|plan| plan.parts.len() == living.len() && plan.sums.len() == 3)
    );
}

#[test]
fn gauges_that_add_up_are_amounts() {
    for name in ADD_UP {
        let all = crate::docs::all();
        let mut all = all.iter().flat_map(|(_, metrics)| metrics.iter());
        assert!(
            all.any(|m| m.name == *name && m.kind == Kind::Gauge && m.unit.starts_with('{')),
            "{name}"
        );
    }
}

/// Cause: a probe that makes the labels of its series anew in each tick. Seen: they are the parts that they were.
#[test]
fn labels_that_are_made_anew_are_the_same_parts() {
    let segments = metric(SEGMENTS);
    let mut fold = fold("labels: [{metrics: 'geophone_tcp_*', exclude: [peer]}]");
    let mut tick = |a: u64, b: u64, start: u64| {
        let [a_labels, b_labels] =
            [("a", 5), ("b", start)].map(|(peer, start)| labels(segments, "web", peer, start));
        let sums = counts(&mut fold, segments, &[(&a_labels, a), (&b_labels, b)]);
        let [(_, sum, 5)] = sums[..] else {
            panic!("{sums:?}")
        };
        sum
    };
    assert_eq!(tick(10, 5, 7), 15);
    assert_eq!(tick(10, 5, 7), 15);
    assert_eq!(tick(12, 6, 7), 18);
    // It began then, so it is another one.
    assert_eq!(tick(12, 6, 9), 24);
    assert_eq!(tick(3, 6, 9), 27, "one begins anew");
}

/// Cause: an interface gets another name, or comes from elsewhere, with all that it has ever counted. Seen: only what is seen to
/// happen is added.
#[test]
fn what_somebody_else_has_counted_before_is_not_added() {
    let all = crate::probes::netdev::METRICS;
    for name in NOT_FROM_ZERO {
        assert!(
            all.iter().any(|m| m.name == *name && m.kind == Kind::Counter),
            "{name}"
        );
    }
    let counters = all.iter().filter(|m| m.kind == Kind::Counter);
    assert_eq!(counters.count(), NOT_FROM_ZERO.len());
    let bytes: &'static Metric = &crate::probes::netdev::BYTES;
    let mut fold = fold("labels: [{metrics: geophone_netdev_bytes_total, exclude: [device]}]");
    let [eth0, wan0, eth1] = ["eth0", "wan0", "eth1"]
        .map(|device| Arc::new(Labels::new(bytes.labels, &[device, "receive"], false, 1)));
    let mut tick = |series: &[(&Arc<Labels>, u64)]| counts(&mut fold, bytes, series)[0].1;
    assert_eq!(
        tick(&[(&eth0, 100), (&eth1, 5_000)]),
        5_100,
        "what was there from the start"
    );
    assert_eq!(tick(&[(&wan0, 110), (&eth1, 5_001)]), 5_101, "renamed");
    assert_eq!(tick(&[(&wan0, 117), (&eth1, 5_001)]), 5_108);
}
