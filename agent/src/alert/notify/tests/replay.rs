//! Rules as they are shipped, over a store, and who is told: minutes of it in no time.

use super::*;
use crate::alert::Rules;
use crate::export::testing::snapshot;
use crate::memory::Memory;

/// Evaluates what is due, and looks who is to be told. Answers what fires.
fn step(rules: &Rules, notifier: &Notifier, at: i64) -> Vec<String> {
    rules.evaluate(at);
    let groups = rules.view();
    notifier.hear(at, &groups, Edges::default);
    let firing = groups
        .iter()
        .flat_map(|group| group.alerts())
        .filter(|alert| alert.state == "firing");
    firing.map(|alert| alert.labels["alertname"].clone()).collect()
}

/// Cause: an alert whose rule waits for five minutes has fired, and the agent is started again; its receiver is told each minute of what
/// changes. Seen: within a quarter of an hour it is told nothing: neither that it is over, nor that it fires; also if what the agent
/// remembered is gone, and the alert waits again.
#[test]
fn a_restart_is_no_end_of_what_has_waited_to_fire() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("r.yaml");
    let rule = "{alert: Up, expr: up == 1, for: 5m}";
    std::fs::write(&file, format!("groups: [{{name: g, rules: [{rule}]}}]")).unwrap();
    let config = parse(&format!(
        "store: {{kind: memory}}\nhealth: {{enabled: false}}\nrules: {{files: [{}]}}\nalerting:\n  directory: {}\n  \
         route: {{receiver: ops, group_wait: 0s, group_interval: 1m}}\n  receivers: [{{name: ops, log_configs: [{{}}]}}]\n",
        file.display(),
        directory.path().display()
    ))
    .unwrap();
    let memory = || Arc::new(Memory::open(&config.store).unwrap().unwrap());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_time()
        .build()
        .unwrap();
    // It is started again by the clock: there an end that nobody speaks of is waited for from then on.
    let began = now() - 42 * 15_000;
    let life = |memory: &Arc<Memory>, ticks: std::ops::Range<u64>| {
        let rules = Rules::open(&config, Some(memory), None).unwrap();
        let notifier = Notifier::open(&config).unwrap();
        let (snapshots, receiver) = watch::channel(Arc::new(snapshot(0, 0)));
        let (stored, mut ticked) = watch::channel(0);
        std::thread::scope(|scope| {
            let handle = runtime.handle();
            scope.spawn(|| memory.record(receiver, "n", &stored, handle));
            for tick in ticks {
                let at = began + tick as i64 * 15_000;
                let mut next = snapshot(1, 1);
                next.tick = tick;
                next.unix_nanos = at.unsigned_abs() * 1_000_000;
                snapshots.send_replace(Arc::new(next));
                let stored = ticked.wait_for(|stored| *stored == at);
                let stored = async { tokio::time::timeout(Duration::from_secs(5), stored).await.is_ok() };
                assert!(runtime.block_on(stored));
                step(&rules, &notifier, at);
            }
            drop(snapshots);
        });
        let lane = notifier.lanes().next().unwrap();
        lane.stats.made.load(Relaxed)
    };
    let first = memory();
    assert_eq!(life(&first, 1..40), 1);
    // It finds the one that nobody has delivered yet.
    assert_eq!(life(&first, 42..100), 1);
    assert_eq!(life(&memory(), 102..160), 1);
}
