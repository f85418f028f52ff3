//! Rules as they are shipped, over a store, and who is told: minutes of it in no time.

use super::*;
use crate::alert::Rules;
use crate::export::testing::snapshot;
use crate::memory::Memory;
use agent_store::store::Value as Sample;

/// Evaluates what is due, and looks who is to be told. Answers what fires.
fn step(rules: &Rules, notifier: &Notifier, at: i64) -> Vec<String> {
    rules.evaluate(at);
    let groups = rules.view();
    let unread = rules.invalid.load(Relaxed) > 0;
    notifier.hear(at, &groups, unread, Edges::default);
    let firing = groups
        .iter()
        .flat_map(|group| group.alerts())
        .filter(|alert| alert.state == "firing");
    firing.map(|alert| alert.labels["alertname"].clone()).collect()
}

/// Cause: a peer's retransmits are an anomaly, and its health is critical ten seconds later; the rules, and how groups wait, are as
/// shipped: the one fires at once, the other five minutes later. Seen: one incident, and one group that is told of both.
#[test]
fn one_cause_is_one_incident_whatever_the_rules_wait() {
    let directory = tempfile::tempdir().unwrap();
    let rules = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/rules");
    let config = parse(&format!(
        "store: {{kind: memory}}\nhealth: {{enabled: false}}\nrules: {{files: [{rules}/anomalies.yaml, {rules}/verdicts.yaml]}}\n\
         alerting:\n  directory: {}\n  route: {{receiver: ops, group_by: [incident]}}\n  receivers: [{{name: ops, log_configs: [{{}}]}}]\n",
        directory.path().display()
    ))
    .unwrap();
    let memory = Arc::new(Memory::open(&config.store).unwrap().unwrap());
    let rules = Rules::open(&config, Some(&memory), None).unwrap();
    let notifier = Notifier::open(&config).unwrap();
    let series = |name: &str, labels: [(&str, &str); 2]| {
        let own = [("__name__", name), ("instance", "n")];
        let labels = Labels::new(own.into_iter().chain(labels));
        memory.store().register(&labels).unwrap()
    };
    let peer = [("entity", "peer"), ("name", "db")];
    let anomaly = series(
        "geophone_anomaly_active",
        [("watch", "tcp_retransmits"), ("peer", "db")],
    );
    let state = series("geophone_health_state", peer);
    let confidence = series("geophone_health_confidence", peer);
    let mut fired = BTreeMap::new();
    for second in (0..720).step_by(5) {
        let at = 1_700_000_000_000 + second * 1000;
        let critical = if second < 10 { 0.0 } else { 2.0 };
        let samples = [(anomaly, 1.0), (state, critical), (confidence, 1.0)];
        let samples = samples.map(|(series, value)| (series, Sample::Float(value)));
        memory.store().append(at, &samples);
        for name in step(&rules, &notifier, at) {
            fired.entry(name).or_insert(second);
        }
    }
    let fired: Vec<(&str, bool)> = fired
        .iter()
        .map(|(name, at)| (name.as_str(), *at > 300))
        .collect();
    assert_eq!(
        fired,
        [("GeophoneAnomaly", false), ("GeophoneHealthCritical", true)]
    );
    let incidents = notifier.incidents();
    let alerts: Vec<_> = incidents
        .iter()
        .map(|one| one["alerts"].as_array().unwrap().len())
        .collect();
    assert_eq!(alerts, [2], "{incidents:#?}");
    let lanes = notifier.lanes().flat_map(|lane| lane.memos());
    let open: Vec<usize> = lanes.map(|memo| memo.open.len()).collect();
    assert_eq!(open, [2]);
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

/// Cause: two files of rules, an alert of each fires, and the agent is started again when a mistake was made in one of them, and its
/// rule is no more in the other; after an hour the mistake is mended. Seen: the end of the one whose rule is gone, five minutes after
/// the mistake is mended; of the other, which fires all the time, no end and no news. It was told to be over five minutes after the start.
#[test]
fn a_file_that_cannot_be_read_is_no_end_of_what_fires_in_it() {
    let directory = tempfile::tempdir().unwrap();
    let files = ["a", "b"].map(|name| directory.path().join(format!("{name}.yaml")));
    let write = |file: usize, rules: &str| {
        std::fs::write(&files[file], format!("groups: [{{name: g, rules: [{rules}]}}]")).unwrap();
    };
    write(0, "{alert: Broken, expr: '1', for: 10m}");
    write(1, "{alert: Gone, expr: '1'}, {alert: Stays, expr: '1'}");
    let config = parse(&format!(
        "store: {{kind: memory}}\nhealth: {{enabled: false}}\nrules: {{files: [{}]}}\nalerting:\n  directory: {}\n  \
         resolve_timeout: 5m\n  route: {{receiver: ops, group_by: [alertname], group_wait: 0s, group_interval: 1m}}\n  \
         receivers: [{{name: ops, log_configs: [{{}}]}}]\n",
        directory.path().display(),
        directory.path().join("alerting").display()
    ))
    .unwrap();
    let memory = Arc::new(Memory::open(&config.store).unwrap().unwrap());
    let open = || {
        let rules = Rules::open(&config, Some(&memory), None).unwrap();
        (rules, Notifier::open(&config).unwrap())
    };
    // It is started again by the clock.
    let began = now() - 3_600_000;
    let run = |rules: &Rules, notifier: &Notifier, minutes: std::ops::Range<i64>| -> Vec<String> {
        for minute in minutes {
            step(rules, notifier, began + minute * 60_000);
        }
        let memos = notifier.lanes().flat_map(|lane| lane.memos());
        let open = memos.flat_map(|memo| memo.open);
        open.map(|alert| alert.labels.get("alertname").to_owned())
            .collect()
    };
    let (rules, notifier) = open();
    assert_eq!(run(&rules, &notifier, 0..60), ["Broken", "Gone", "Stays"]);
    drop((rules, notifier));
    write(0, "{alert: Broken, expr: '1 +'}");
    write(1, "{alert: Stays, expr: '1'}");
    let (rules, notifier) = open();
    assert_eq!(rules.invalid.load(Relaxed), 1);
    assert_eq!(run(&rules, &notifier, 61..140), ["Broken", "Gone", "Stays"]);
    write(0, "{alert: Broken, expr: '1', for: 10m}");
    rules.reload().unwrap();
    // Mended, and it waits once more.
    assert_eq!(run(&rules, &notifier, 140..144), ["Broken", "Gone", "Stays"]);
    assert_eq!(run(&rules, &notifier, 144..200), ["Broken", "Stays"]);
    let made: Vec<u64> = notifier
        .lanes()
        .map(|lane| lane.stats.made.load(Relaxed))
        .collect();
    // The three that were never delivered, and the end of one.
    assert_eq!(made, [4]);
}

/// Cause: of four alerts that fire one is silenced, one inhibited by another, and one has a route that is mute at all times. Seen: who asks
/// which alerts there are is told so of these three, by labels without those of all alerts as well.
#[test]
fn who_asks_what_fires_is_told_why_nobody_is() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("r.yaml");
    let rules = ["Free", "Silenced", "Inhibited", "Mute"].map(|name| format!("{{alert: {name}, expr: '1'}}"));
    std::fs::write(
        &file,
        format!("groups: [{{name: g, rules: [{}]}}]", rules.join(", ")),
    )
    .unwrap();
    let config = parse(&format!(
        "host: n\nstore: {{kind: memory}}\nhealth: {{enabled: false}}\nrules: {{files: [{}]}}\nalerting:\n  directory: {}\n  \
         route: {{receiver: ops, routes: [{{matchers: [alertname=Mute], mute_time_intervals: [always]}}]}}\n  \
         time_intervals: [{{name: always, time_intervals: [{{times: [{{start_time: '00:00', end_time: '24:00'}}]}}]}}]\n  \
         inhibit_rules: [{{source_matchers: [alertname=Free], target_matchers: [alertname=Inhibited], equal: [instance]}}]\n  \
         receivers: [{{name: ops, log_configs: [{{}}]}}]\n",
        file.display(),
        directory.path().display()
    ))
    .unwrap();
    let memory = Arc::new(Memory::open(&config.store).unwrap().unwrap());
    let rules = Rules::open(&config, Some(&memory), None).unwrap();
    let notifier = Notifier::open(&config).unwrap();
    let silence = agent_notify::Silence {
        id: "s".to_owned(),
        matchers: agent_notify::matcher::parse("alertname=Silenced,instance=n").unwrap(),
        starts_at: now() - 1000,
        ends_at: now() + 60_000,
        updated_at: now(),
        created_by: "me".to_owned(),
        comment: "why".to_owned(),
    };
    notifier.add(silence, true).unwrap().unwrap();
    assert_eq!(step(&rules, &notifier, now()).len(), 4);
    let groups = notifier.view(&rules);
    let said: Vec<_> = groups[0].alerts().map(|one| one.muted).collect();
    assert_eq!(said, [None, Some("silenced"), Some("inhibited"), Some("muted")]);
}
