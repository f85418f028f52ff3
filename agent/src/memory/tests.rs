//! Snapshots go in, PromQL comes out.

use super::record::{Recorder, native};
use super::*;
use crate::aggregate::{Labels, Series, Value};
use crate::export::testing::{BYTES, LABELS, RTT, histogram, snapshot};
use agent_store::promql::{Options, Sample, Value as Answered, instant};

fn memory() -> Memory {
    let settings = StoreSettings {
        kind: StoreKind::Memory,
        ..StoreSettings::default()
    };
    Memory::open(&settings).unwrap().unwrap()
}

/// The elements of a vector: labels as text, and value.
fn ask(memory: &Memory, query: &str, at: Millis) -> Vec<(String, Sample)> {
    let limits = memory.limits(Duration::from_secs(5));
    let answer = instant(query, at, &Options::default(), memory.store(), &limits).unwrap();
    let Answered::Vector(_, elements) = answer.value else {
        return Vec::new();
    };
    let text = |labels: &agent_store::labels::Labels| {
        labels
            .iter()
            .map(|(n, v)| format!("{n}={v}"))
            .collect::<Vec<_>>()
            .join(",")
    };
    elements
        .into_iter()
        .map(|e| (text(&e.labels), e.sample))
        .collect()
}

fn at(snapshot: &mut Snapshot, tick: u64) -> Millis {
    snapshot.tick = tick;
    snapshot.unix_nanos = 1_700_000_000_000_000_000 + tick * 1_000_000_000;
    (snapshot.unix_nanos / 1_000_000) as Millis
}

#[test]
fn a_series_has_the_labels_of_a_scrape() {
    let memory = memory();
    let mut snapshot = snapshot(2, 1);
    let now = at(&mut snapshot, 1);
    Recorder::new("node-1").record(&snapshot, memory.store());
    let seen = ask(&memory, "up", now);
    assert_eq!(
        seen,
        [(
            "__name__=up,instance=node-1,job=geophone".to_owned(),
            Sample::Float(1.0)
        )]
    );
    assert_eq!(
        ask(
            &memory,
            "count(geophone_test_bytes_total{job=\"geophone\",peer=\"eu-west\"})",
            now
        )
        .len(),
        1
    );
    assert_eq!(
        ask(
            &memory,
            "geophone_test_bytes_total{otel_metric_overflow=\"true\"}",
            now
        )
        .len(),
        1
    );
    assert_eq!(ask(&memory, "target_info", now).len(), 1);
}

/// Cause: the machine is in another zone from the second snapshot on. Seen: `target_info` once, of the zone of the moment.
#[test]
fn where_the_machine_is_follows_it() {
    let memory = memory();
    let mut recorder = Recorder::new("n");
    let mut snapshot = snapshot(1, 1);
    for (tick, zone) in ["a", "b", "b"].into_iter().enumerate() {
        let now = at(&mut snapshot, tick as u64 + 1);
        Arc::make_mut(&mut snapshot.resource).zone = zone.to_owned();
        // As a snapshot that others still have.
        let held = snapshot.clone();
        recorder.record(&held, memory.store());
        assert_eq!(ask(&memory, "target_info", now).len(), 1, "{zone}");
        let query = format!("target_info{{zone=\"{zone}\"}}");
        assert_eq!(ask(&memory, &query, now).len(), 1, "{zone}");
        assert_eq!(ask(&memory, "up", now).len(), 1);
    }
}

#[test]
fn a_histogram_answers_the_quantile_that_the_agent_shows() {
    let memory = memory();
    let mut snapshot = snapshot(1, 1);
    let now = at(&mut snapshot, 1);
    Recorder::new("n").record(&snapshot, memory.store());
    let family = snapshot.family(RTT.name).unwrap();
    let Value::Histogram(shown) = &family.series[0].value else {
        panic!("no histogram")
    };
    for q in [0.5, 0.75, 0.9] {
        let seen = ask(&memory, &format!("histogram_quantile({q}, {})", RTT.name), now);
        let Sample::Float(answered) = seen[0].1 else {
            panic!("no number")
        };
        let own = shown.quantile(q).unwrap();
        // Prometheus 2 interpolates linearly within a bucket of 9 %, the screen exponentially: at most 0.4 % apart.
        assert!((answered / own - 1.0).abs() < 0.004, "q {q}: {answered}, {own}");
    }
    let counted = ask(&memory, &format!("histogram_count({})", RTT.name), now);
    assert_eq!(counted[0].1, Sample::Float(shown.count as f64));
}

#[test]
fn buckets_are_those_of_the_exposition() {
    // The first cell ends at 2^(-159/8) s, which is Prometheus' index -159.
    let native = native(&histogram(0));
    assert_eq!(native.positive[0].0, -159);
    let sum: f64 = native.positive.iter().map(|(_, count)| count).sum();
    assert_eq!(native.zero_count + sum, native.count);
}

#[test]
fn a_series_that_leaves_the_snapshot_ends_at_once() {
    let memory = memory();
    let mut recorder = Recorder::new("n");
    let mut first = snapshot(2, 1);
    let before = at(&mut first, 1);
    recorder.record(&first, memory.store());
    let mut second = first.clone();
    let after = at(&mut second, 2);
    for family in &mut second.families {
        family.series.truncate(1);
    }
    recorder.record(&second, memory.store());
    assert_eq!(ask(&memory, BYTES.name, before).len(), 2);
    assert_eq!(ask(&memory, BYTES.name, after).len(), 1);
    recorder.end(memory.store());
    assert_eq!(ask(&memory, BYTES.name, after + 1).len(), 0);
    assert_eq!(ask(&memory, "up", after + 1).len(), 0);
}

#[test]
fn a_series_that_a_killed_agent_left_ends_with_the_next_one() {
    let memory = memory();
    let mut first = snapshot(2, 1);
    at(&mut first, 1);
    Recorder::new("n").record(&first, memory.store());
    Recorder::new("other").record(&first, memory.store());
    let mut second = first.clone();
    let after = at(&mut second, 20);
    for family in &mut second.families {
        family.series.truncate(1);
    }
    Recorder::new("n").record(&second, memory.store());
    assert_eq!(
        ask(&memory, &format!("{}{{instance=\"n\"}}", BYTES.name), after).len(),
        1
    );
    assert_eq!(
        ask(&memory, &format!("{}{{instance=\"other\"}}", BYTES.name), after).len(),
        2
    );
}

#[test]
fn a_series_whose_labels_are_made_anew_goes_on() {
    let memory = memory();
    let mut recorder = Recorder::new("n");
    let one = |tick: u64, count: u64| {
        let mut snapshot = Snapshot::default();
        at(&mut snapshot, tick);
        let labels = Arc::new(Labels::new(LABELS, &["a", "b"], false, 1));
        snapshot.families.push(crate::aggregate::Family {
            metric: &BYTES,
            series: vec![Series {
                labels,
                value: Value::Counter(count),
            }],
        });
        snapshot
    };
    recorder.record(&one(1, 5), memory.store());
    let last = one(2, 7);
    recorder.record(&last, memory.store());
    let seen = ask(&memory, BYTES.name, (last.unix_nanos / 1_000_000) as Millis);
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].1, Sample::Float(7.0));
}

#[test]
fn a_query_has_its_limits() {
    let memory = memory();
    let mut snapshot = snapshot(2, 1);
    let now = at(&mut snapshot, 1);
    Recorder::new("n").record(&snapshot, memory.store());
    let mut limits = memory.limits(Duration::from_secs(5));
    limits.most_series = 1;
    let refused = instant(
        "{job=\"geophone\"}",
        now,
        &Options::default(),
        memory.store(),
        &limits,
    );
    assert!(refused.unwrap_err().to_string().contains("store.query_series 1"));
    let over = memory.limits(Duration::ZERO);
    let refused = instant("up", now, &Options::default(), memory.store(), &over).unwrap_err();
    assert_eq!(refused.status(), 503);
}

#[test]
fn a_directory_that_is_taken_leaves_a_memory_without_disk() {
    let home = tempfile::tempdir().unwrap();
    let settings = |kind| StoreSettings {
        kind,
        directory: home.path().join("store"),
        ..StoreSettings::default()
    };
    let first = Memory::open(&settings(StoreKind::Auto)).unwrap().unwrap();
    let second = Memory::open(&settings(StoreKind::Auto)).unwrap().unwrap();
    let remember = |memory: &Memory| {
        let series = memory
            .store()
            .register(&agent_store::labels::Labels::new([("__name__", "up")]))
            .unwrap();
        memory
            .store()
            .append(now(), &[(series, agent_store::store::Value::Float(1.0))]);
        memory.store().flush();
    };
    let files = || std::fs::read_dir(home.path().join("store")).unwrap().count();
    let before = files();
    remember(&second);
    assert_eq!(files(), before);
    remember(&first);
    assert!(files() > before);
    let error = Memory::open(&settings(StoreKind::Disk))
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains(&*home.path().display().to_string()), "{error}");
}

/// Whatever is summed over windows of objectives is kept for as long as the longest of them.
#[test]
fn objectives_outlast_the_store() {
    use crate::config::Config;
    use crate::score::slo;
    let one = |name, window| {
        format!("{{name: {name}, template: connect-success, objective: 99.9, window: {window}}}")
    };
    let yaml = format!("slos: [{}, {}]", one("a", "30d"), one("b", "7d"));
    let config = Config::parse("f", &yaml).unwrap();
    assert_eq!(slo::reach(&config), Duration::from_hours(30 * 24));
    assert_eq!(slo::reach(&Config::default()), Duration::ZERO);
    let rules = agent_slo::rules::write(&slo::all(&config).0).unwrap();
    let kept = agent_slo::rules::events();
    let summed = rules.split("sum_over_time(").skip(1);
    let names: Vec<&str> = summed.filter_map(|rest| rest.split('{').next()).collect();
    assert!(
        names.len() > 9 && names.iter().all(|name| kept.iter().any(|kept| kept == name)),
        "{names:?}"
    );
}
