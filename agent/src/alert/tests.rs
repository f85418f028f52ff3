//! Rules over a store that snapshots fill.

use super::Rules;
use crate::config::{Config, StoreKind};
use crate::export::testing::snapshot;
use crate::memory::Memory;
use agent_store::promql::{Options, Value, instant};
use agent_store::series::Millis;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

const RULES: &str = "
groups:
- name: g
  interval: 1s
  rules:
  - {record: 'tick:up', expr: 'up + 1'}
  - alert: Up
    expr: 'tick:up == 2'
    for: 2s
    labels: {severity: info}
    annotations: {summary: '{{ $labels.instance }} of {{ $externalLabels.site }}'}
  - {alert: Wrong, expr: 'up * on() {__name__=~\"up|target_info\"}'}
";

/// Ticks pass: snapshots are stored by the recorder's thread, and rules are evaluated by theirs.
#[test]
fn alerts_fire_are_stored_and_are_told() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("r.yaml");
    std::fs::write(&file, RULES).unwrap();
    std::fs::write(directory.path().join("bad.yml"), "groups: 5").unwrap();
    let mut config = Config::default();
    config.store.kind = StoreKind::Memory;
    config.health.enabled = false;
    config.rules.files = vec![directory.path().to_owned(), directory.path().join("none.yaml")];
    config
        .rules
        .external_labels
        .insert("site".to_owned(), "here".to_owned());
    let memory = Arc::new(Memory::open(&config.store).unwrap().unwrap());
    let rules = Rules::open(&config, Some(&memory)).unwrap();
    assert_eq!(rules.invalid, 2);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_time()
        .build()
        .unwrap();
    let (snapshots, receiver) = watch::channel(Arc::new(snapshot(0, 0)));
    let (stored, ticks) = watch::channel(0);
    let mut seen = stored.subscribe();
    let at = |tick: u64| 1_700_000_000_000 + tick as Millis * 1000;
    std::thread::scope(|scope| {
        let handle = runtime.handle();
        scope.spawn(|| memory.record(receiver, "node-1", &stored, handle));
        for tick in 1..=6 {
            let mut next = snapshot(1, 1);
            next.tick = tick;
            next.unix_nanos = at(tick).unsigned_abs() * 1_000_000;
            snapshots.send_replace(Arc::new(next));
            let stored = async {
                tokio::time::timeout(Duration::from_secs(5), seen.wait_for(|t| *t == at(tick)))
                    .await
                    .is_ok()
            };
            assert!(runtime.block_on(stored));
            rules.evaluate(at(tick));
            let state = rules.view()[0].rules[1].alerting.as_ref().unwrap().state;
            assert_eq!(state, if tick < 3 { "pending" } else { "firing" }, "tick {tick}");
        }
        drop(snapshots);
    });
    let view = rules.view();
    let alert = view[0].alerts().next().unwrap();
    assert_eq!(alert.annotations["summary"], "node-1 of here");
    assert_eq!(
        (alert.value.as_str(), alert.active_at.as_str()),
        ("2e+00", "2023-11-14T22:13:21.000Z")
    );
    let error = &view[0].rules[2].last_error;
    assert!(error.contains("many-to-"), "{error}");
    let ask = |query: &str| {
        let limits = memory.limits(Duration::from_secs(5));
        match instant(query, at(6), &Options::default(), memory.store(), &limits)
            .unwrap()
            .value
        {
            Value::Vector(_, found) => found.len(),
            _ => 0,
        }
    };
    // Of the fifth evaluation: that of the sixth would be stored with the seventh snapshot.
    assert_eq!(
        ask("ALERTS{alertname=\"Up\",alertstate=\"firing\",severity=\"info\",instance=\"node-1\"}"),
        1
    );
    assert_eq!(ask("ALERTS{alertstate=\"pending\"}"), 0);
    assert_eq!(ask("ALERTS_FOR_STATE == 1.700000001e9"), 1);
    assert_eq!(ask("tick:up == 2"), 1);
    drop(ticks);
}

#[test]
fn nothing_is_evaluated_over_nothing() {
    let mut config = Config::default();
    assert!(Rules::open(&config, None).is_none());
    config.rules.files.push("r.yaml".into());
    assert!(Rules::open(&config, None).is_none());
}
