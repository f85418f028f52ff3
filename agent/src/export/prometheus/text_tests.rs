use super::*;
use crate::export::testing::{BYTES, RTT, histogram, labels, snapshot};
use prometheus_client::encoding::{EncodeLabelSet, text::encode as oracle};
use prometheus_client::metrics::{
    counter::Counter, family::Family as Many, gauge::Gauge, histogram::Histogram,
};
use prometheus_client::registry::{Registry, Unit};
use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;

fn text(snapshot: &Snapshot, open_metrics: bool) -> String {
    let mut out = Vec::new();
    encode(snapshot, open_metrics, &mut out);
    String::from_utf8(out).unwrap()
}

/// Lines by what stands before the value, numbers in bounds and values made equal.
fn canonical(text: &str) -> BTreeMap<String, String> {
    text.lines()
        .filter(|l| !l.starts_with("# EOF"))
        .map(|line| {
            if line.starts_with('#') {
                // The oracle ends its help with a period.
                return (line.trim_end_matches('.').to_owned(), String::new());
            }
            let (key, value) = line.rsplit_once(' ').unwrap();
            let key = match key.split_once("le=\"") {
                Some((head, tail)) => {
                    // We write the bound last, the oracle first.
                    let (le, rest) = tail.split_once('"').unwrap();
                    let labels = format!("{}{}", head.trim_end_matches(','), rest.trim_start_matches(','));
                    format!("{labels} le={:?}", le.parse::<f64>().unwrap())
                }
                None => key.to_owned(),
            };
            (key, format!("{:?}", value.parse::<f64>().unwrap()))
        })
        .collect()
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Set {
    subject: String,
    peer: String,
}

#[test]
fn prometheus_client_writes_the_same() {
    // Two series of each kind; the second ones, for the first carry the overflow label.
    let mut ours = snapshot(2, 3);
    for family in &mut ours.families {
        family.series.remove(0);
    }
    let set = || Set {
        subject: "docker/a\"b\\c\u{fffd}1".into(),
        peer: "eu-west".into(),
    };
    let mut registry = Registry::default();
    let bytes = Many::<Set, Counter>::default();
    bytes.get_or_create(&set()).inc_by(1_013);
    registry.register_with_unit("geophone_test", "Bytes that were tested", Unit::Bytes, bytes);
    let run = Many::<Set, Counter<f64, AtomicU64>>::default();
    run.get_or_create(&set()).inc_by(13.25);
    registry.register_with_unit(
        "geophone_test_run",
        "Time \\\"spent\\\" in C:\\\\tests",
        Unit::Seconds,
        run,
    );
    let level = Many::<Set, Gauge<f64, AtomicU64>>::default();
    level.get_or_create(&set()).set(1.5 - 13.0);
    registry.register("geophone_test_level", "How far it is", level);
    let rtt =
        Many::<Set, Histogram>::new_with_constructor(|| Histogram::new((-20..=7).map(|k| 2f64.powi(k))));
    let want = histogram(13);
    let mut fed = 0.0;
    for (i, &count) in want.cells.iter().enumerate() {
        for _ in 0..count {
            // The upper bound of the cell, which belongs to it.
            let v = ((i as f64 - 159.0) / 8.0).exp2();
            rtt.get_or_create(&set()).observe(v);
            fed += v;
        }
    }
    for _ in 0..want.zero {
        rtt.get_or_create(&set()).observe(0.0);
    }
    registry.register_with_unit("geophone_test_rtt", "Round trips", Unit::Seconds, rtt);
    let mut encoded = String::new();
    oracle(&mut encoded, &registry).unwrap();

    let mut oracle = canonical(&encoded);
    let mut mine = canonical(&text(&ours, true));
    mine.retain(|k, _| !k.contains("target"));
    // The sums differ on purpose: the fixture's is not the sum of bounds.
    let sum = mine
        .keys()
        .find(|k| k.starts_with("geophone_test_rtt_seconds_sum"))
        .unwrap()
        .clone();
    assert_eq!(oracle.remove(&sum).unwrap().parse::<f64>().unwrap(), fed);
    assert_eq!(mine.remove(&sum).unwrap(), "25.5");
    assert_eq!(mine, oracle);
}

#[test]
fn bounds_are_the_exact_powers_of_two() {
    for (k, le) in (-20..).zip(LE) {
        assert_eq!(le.parse::<f64>().unwrap(), 2f64.powi(k), "{le}");
    }
}

#[test]
fn the_old_text_has_old_names_and_no_end() {
    let old = text(&snapshot(1, 0), false);
    assert!(old.contains("# TYPE geophone_test_bytes_total counter\n"));
    assert!(old.contains("# HELP geophone_test_run_seconds_total Time \"spent\" in C:\\\\tests\n"));
    assert!(old.contains("# TYPE target_info gauge\ntarget_info{host=\"host-1\",region=\"eu\"} 1\n"));
    assert!(!old.contains("UNIT") && !old.contains("EOF"));
}

#[test]
fn open_metrics_begins_with_the_target_and_ends() {
    let new = text(&snapshot(1, 0), true);
    assert!(new.starts_with("# TYPE target info\n# HELP target "), "{new}");
    assert!(new.ends_with("# EOF\n") && new.matches("# EOF").count() == 1);
    assert!(new.contains("# TYPE geophone_test_bytes counter\n# UNIT geophone_test_bytes bytes\n"));
    // `1` is the unit, but the name does not say ratio.
    assert!(!new.contains("# UNIT geophone_test_level"));
}

#[test]
fn hostile_labels_and_values_stay_on_their_line() {
    let all = text(&snapshot(2, 1), true);
    assert!(
        all.contains("subject=\"docker/a\\\"b\\\\c\u{fffd}1\",peer=\"eu-west\"} -Inf\n"),
        "{all}"
    );
    assert!(all.contains("otel_metric_overflow=\"true\",le=\"+Inf\"} "));
    // HELP, TYPE, UNIT of four families, two series with 1, 1, 1 and 31 lines, the target's three, the end.
    assert_eq!(all.lines().count(), 4 * 2 + 3 + 2 * 34 + 3 + 1);
}

#[test]
fn empty_families_and_histograms_are_legal() {
    let mut snapshot = Snapshot::default();
    let series = crate::aggregate::Series {
        labels: labels(1),
        value: Value::Histogram(std::sync::Arc::new(HistogramValue::default())),
    };
    snapshot.families.push(Family {
        metric: &BYTES,
        series: Vec::new(),
    });
    snapshot.families.push(Family {
        metric: &RTT,
        series: vec![series],
    });
    let text = text(&snapshot, true);
    assert!(text.contains("\ntarget_info 1\n") && !text.contains("test_bytes"));
    assert_eq!(text.matches("} 0\n").count(), 30);
    assert!(text.contains("_sum{subject=\"docker/a\\\"b\\\\c\u{fffd}1\",peer=\"eu-west\"} 0.0\n"));
}

/// `cargo test -p agent --lib -- --ignored promtool`
#[test]
#[ignore = "needs promtool"]
fn promtool_has_nothing_to_say() {
    use crate::aggregate::Collect as _;
    use std::io::Write as _;
    // Our own metrics too, which no fixture stands for.
    let mut snapshot = snapshot(3, 0);
    crate::api::StatsCollect::new(Default::default(), 1).collect(&mut snapshot.families);
    let mut exporters = crate::export::push::StatsCollect::default();
    exporters.add("otlp", Default::default(), 1);
    exporters.collect(&mut snapshot.families);
    let mut child = std::process::Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(text(&snapshot, false).as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn exemplars_follow_their_buckets_in_openmetrics_only() {
    let snapshot = crate::export::testing::exemplified(30);
    let mut out = Vec::new();
    encode(&snapshot, true, &mut out);
    let text = String::from_utf8(out).unwrap();
    let ends: Vec<_> = text
        .lines()
        .filter_map(|line| line.split_once(" # "))
        .map(|(_, end)| end)
        .collect();
    let ids = format!("{{trace_id=\"{:032x}\",span_id=\"{:016x}\"}}", 0xabc, 0xdef);
    assert_eq!(
        ends,
        [
            format!("{ids} 0.9 1700000001.250"),
            format!("{ids} 5000000.0 1700000001.250")
        ]
    );
    let lines: Vec<_> = text.lines().filter(|line| line.contains(" # ")).collect();
    assert!(
        lines[0].contains("le=\"1.0\"}") && lines[1].contains("le=\"+Inf\"}"),
        "{text}"
    );
    let mut out = Vec::new();
    encode(&snapshot, false, &mut out);
    assert!(!String::from_utf8(out).unwrap().contains(" # "));
}
