//! The watched series of an agent: snapshots, its store, a restart.

use super::{Anomalies, METRICS, StatsCollect};
use crate::aggregate::{Collect as _, Family, Value};
use crate::config::{Config, StoreKind};
use crate::memory::Memory;
use agent_store::labels::Labels;
use agent_store::series::{Bounds, Matcher, Millis, Refusal, Source};
use std::path::Path;
use std::sync::{Arc, Mutex};

fn config(directory: &Path) -> Config {
    let mut config = Config::parse(
        "f",
        "anomaly: {interval: 1s, learning: 16, defaults: false, watch: [\
           {name: ticks, expr: \"sum(level)\", min_change: 1}, \
           {name: wrong, expr: \"level * on() {__name__=~'.+'}\"}]}",
    )
    .unwrap();
    config.store.kind = StoreKind::Disk;
    directory.clone_into(&mut config.store.directory);
    config
}

/// An agent's memory and what is watched of it; each second `level` has a value.
struct Fed {
    memory: Arc<Memory>,
    anomalies: Arc<Anomalies>,
    level: agent_store::store::SeriesRef,
    other: agent_store::store::SeriesRef,
    at: Millis,
}

impl Fed {
    fn new(directory: &Path, at: Millis) -> Self {
        Self::of(directory, StoreKind::Disk, at)
    }

    fn of(directory: &Path, kind: StoreKind, at: Millis) -> Self {
        let mut config = config(directory);
        config.store.kind = kind;
        let memory = Arc::new(Memory::open(&config.store).unwrap().unwrap());
        let anomalies = Anomalies::open(&config, Some(&memory), 1).unwrap();
        let level = memory
            .store()
            .register(&Labels::new([("__name__", "level")]))
            .unwrap();
        let other = Labels::new([("__name__", "other")]);
        let other = memory.store().register(&other).unwrap();
        let mut fed = Self {
            memory,
            anomalies,
            level,
            other,
            at,
        };
        // The shortest window of a rate, within which nothing is evaluated.
        (0..3).for_each(|_| fed.say(10.0));
        fed
    }

    fn say(&mut self, value: f64) {
        self.at += 1000;
        let sample = agent_store::store::Value::Float(value);
        let samples = [(self.level, sample.clone()), (self.other, sample)];
        self.memory.store().append(self.at, &samples);
        self.anomalies.evaluate(self.at);
    }

    fn families(&self) -> Vec<Family> {
        let mut out = Vec::new();
        StatsCollect::new(self.anomalies.clone(), 1).collect(&mut out);
        out
    }

    /// Its series and their values.
    fn exported(&self, name: &str) -> Vec<(String, f64)> {
        let families = self.families();
        let family = families.iter().find(|family| family.metric.name == name).unwrap();
        let value = |value: &Value| match value {
            Value::Gauge(value) | Value::CounterF(value) => *value,
            Value::Counter(count) => *count as f64,
            Value::Histogram(_) => f64::NAN,
        };
        let series = family.series.iter();
        series
            .map(|series| (series.labels.text.clone(), value(&series.value)))
            .collect()
    }
}

/// Ends when its sender is gone.
fn ended() -> tokio::sync::watch::Receiver<Millis> {
    tokio::sync::watch::channel(0).1
}

#[test]
fn what_is_watched_is_exported_told_and_goes_on_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let begin = crate::memory::now() - 120_000;
    let mut fed = Fed::new(directory.path(), begin);
    assert!(
        fed.anomalies.view(true)["anomalies"]
            .as_array()
            .unwrap()
            .is_empty()
    );
    fed.say(10.0);
    assert_eq!(
        fed.exported("geophone_anomaly_learned_ratio"),
        [("watch=\"ticks\"".to_owned(), 1.0 / 16.0)]
    );
    assert!(
        fed.exported("geophone_anomaly_score").is_empty(),
        "nothing is known yet"
    );
    for second in 0..40 {
        fed.say(10.0 + f64::from(second % 3) / 10.0);
    }
    let own = "watch=\"ticks\"";
    assert!(fed.exported("geophone_anomaly_learned_ratio").is_empty());
    let score = fed.exported("geophone_anomaly_score");
    assert!(score[0].0 == own && score[0].1 < 0.5, "{score:?}");
    let (lower, upper) = (
        fed.exported("geophone_anomaly_lower")[0].1,
        fed.exported("geophone_anomaly_upper")[0].1,
    );
    assert!(lower < 10.0 && upper > 10.2 && upper < 30.0, "{lower} {upper}");
    assert!(fed.exported("geophone_anomaly_active").is_empty());
    fed.say(50.0);
    let active = fed.exported("geophone_anomaly_active");
    assert!(
        active[0]
            .0
            .starts_with("watch=\"ticks\",change=\"up\",detectors=\"")
            && active[0].1 == 1.0,
        "{active:?}"
    );
    let since = fed.exported("geophone_anomaly_since_timestamp_seconds")[0].1;
    assert_eq!(since, fed.at as f64 / 1e3);
    let view = fed.anomalies.view(true);
    assert_eq!(view["anomalies"][0]["watch"], "ticks", "{view}");
    assert_eq!(view["series"][0]["anomaly"], view["anomalies"][0]["id"], "{view}");
    assert!(
        view["failed"]["wrong"].as_str().unwrap().contains("many"),
        "{view}"
    );
    assert_eq!(fed.exported("geophone_anomaly_failures_total")[0].1, 42.0);
    assert_eq!(
        fed.exported("geophone_anomaly_series"),
        [("learning", 0.0), ("judged", 1.0), ("refused", 0.0)]
            .map(|(state, count)| (format!("state=\"{state}\""), count))
    );
    // A restart.
    fed.anomalies.run(ended(), runtime.handle());
    let at = fed.at;
    drop(fed);
    let mut fed = Fed::new(directory.path(), at + 5000);
    assert_eq!(
        fed.exported("geophone_anomaly_active"),
        active,
        "the anomaly goes on before anything is evaluated"
    );
    assert_eq!(fed.anomalies.view(false)["time"], at as f64 / 1e3);
    fed.say(10.1);
    assert!(
        fed.exported("geophone_anomaly_learned_ratio").is_empty(),
        "nothing is learned anew"
    );
    assert_eq!(fed.exported("geophone_anomaly_active"), active, "and when it is");
    for _ in 0..10 {
        fed.say(10.1);
    }
    assert!(fed.exported("geophone_anomaly_active").is_empty());
    let view = fed.anomalies.view(false);
    assert!(
        view["anomalies"][0]["until"].is_number() && view["series"].is_null(),
        "{view}"
    );
    // Another interval is no damage: it is learned anew, and nothing is put aside or counted.
    fed.anomalies.run(ended(), runtime.handle());
    let file = directory.path().join("anomaly.baseline");
    let mut slower = config(directory.path());
    slower.anomaly.interval = crate::config::HumanDuration::from_secs(2);
    let slower = Anomalies::open(&slower, Some(&fed.memory), 1).unwrap();
    assert!(file.exists() && !file.with_extension("damaged").exists());
    assert_eq!(
        slower.counters.unsaved.load(std::sync::atomic::Ordering::Relaxed),
        0
    );
    // A file that is damaged is put aside and named; everything is learned anew.
    let at = fed.at;
    drop((fed, slower));
    let mut bytes = std::fs::read(&file).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let mut fed = Fed::new(directory.path(), at);
    assert!(!file.exists() && file.with_extension("damaged").exists());
    assert_eq!(fed.exported("geophone_anomaly_baseline_failures_total")[0].1, 1.0);
    fed.say(10.0);
    assert_eq!(fed.exported("geophone_anomaly_learned_ratio").len(), 1);
    let declared: Vec<&str> = METRICS.iter().map(|metric| metric.name).collect();
    assert!(fed.families().iter().all(|f| declared.contains(&f.metric.name)));
}

/// Cause: agents of the shipped watches, each at another moment of the interval after the one before and with counters that begin
/// anew, while all goes on as ever; what fails is no series before it fails again. Seen: nothing is told, neither that a rate falls
/// nor that one is not there.
#[test]
fn a_restart_is_no_anomaly() {
    use rand::{Rng as _, SeedableRng as _};
    let directory = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut config = Config::parse("f", "anomaly: {learning: 64}").unwrap();
    config.store.kind = StoreKind::Disk;
    directory.path().clone_into(&mut config.store.directory);
    let mut random = rand::rngs::StdRng::seed_from_u64(1);
    let mut at = crate::memory::now() - 7_200_000;
    for restart in 0..10 {
        let memory = Arc::new(Memory::open(&config.store).unwrap().unwrap());
        let anomalies = Anomalies::open(&config, Some(&memory), 1).unwrap();
        let counters = [
            ("geophone_tcp_bytes_total", ("direction", "transmit"), 5e6),
            ("geophone_tcp_connections_total", ("outcome", "opened"), 40.0),
            ("geophone_tcp_connections_total", ("outcome", "failed"), 30.0),
            ("geophone_tcp_resets_total", ("direction", "receive"), 30.0),
        ];
        let mut counters = counters.map(|(name, label, rate)| {
            let labels = Labels::new([("__name__", name), ("peer", "db"), label]);
            (memory.store().register(&labels).unwrap(), 0.0, rate)
        });
        for second in 0..if restart == 0 { 4000 } else { 120 } {
            at += 1000;
            let begun = counters.iter_mut().map(|(series, count, rate)| {
                *count += *rate * random.random_range(0.95..1.05);
                (*series, agent_store::store::Value::Float(*count))
            });
            let samples: Vec<_> = begun.collect();
            let known = if second == 0 { &samples[..2] } else { &samples };
            memory.store().append(at, known);
            anomalies.evaluate(at);
            let told: Vec<String> = anomalies.known().iter().map(|one| one.to_string()).collect();
            assert!(told.is_empty(), "restart {restart}, second {second}: {told:?}");
        }
        anomalies.run(ended(), runtime.handle());
        at += 1000 + restart * 1300;
    }
}

/// Cause: an agent ends in the middle of an anomaly. Seen by who was told that it has begun: that it is over, where nobody goes on
/// with it; and that there is no more to come.
#[test]
fn what_nobody_goes_on_with_is_told_to_be_over() {
    let directory = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    for (kind, over) in [(StoreKind::Disk, 0), (StoreKind::Memory, 1)] {
        let mut fed = Fed::of(directory.path(), kind, crate::memory::now() - 120_000);
        let mut told = fed.anomalies.follow();
        for second in 0..40 {
            fed.say(10.0 + f64::from(second % 3) / 10.0);
        }
        fed.say(50.0);
        fed.anomalies.run(ended(), runtime.handle());
        let begun = told.try_recv().unwrap();
        assert_eq!((begun.watch.as_str(), begun.until), ("ticks", None));
        let rest: Vec<_> = std::iter::from_fn(|| told.try_recv().ok()).collect();
        assert_eq!(rest.len(), over, "{kind:?}: {rest:?}");
        assert!(rest.iter().all(|one| one.id == begun.id && one.until.is_some()));
        assert!(told.is_closed(), "who listens need not wait");
        assert_eq!(fed.anomalies.active().len(), 1 - over);
    }
}

/// Cause: at the end of an agent the disk takes nothing. Seen: who was told that one has begun is told that it is over, for nobody
/// goes on with it; and where the disk takes it soon after it was told, a crash does not forget it.
#[test]
fn what_could_not_be_saved_is_told_to_be_over() {
    let directory = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut fed = Fed::new(directory.path(), crate::memory::now() - 120_000);
    let mut told = fed.anomalies.follow();
    for second in 0..40 {
        fed.say(10.0 + f64::from(second % 3) / 10.0);
    }
    fed.say(50.0);
    // A directory where the file would be written first.
    std::fs::create_dir(directory.path().join("anomaly.tmp")).unwrap();
    fed.anomalies.run(ended(), runtime.handle());
    let all: Vec<_> = std::iter::from_fn(|| told.try_recv().ok()).collect();
    let ends: Vec<bool> = all.iter().map(|one| one.until.is_some()).collect();
    assert_eq!(ends, [false, true], "{all:?}");
    assert!(fed.anomalies.active().is_empty());
}

#[test]
fn nothing_is_watched_without_a_store_or_a_wish() {
    let mut config = Config::default();
    assert!(Anomalies::open(&config, None, 1).is_none());
    config.store.kind = StoreKind::Memory;
    let memory = Arc::new(Memory::open(&config.store).unwrap().unwrap());
    assert!(Anomalies::open(&config, Some(&memory), 1).is_some());
    config.anomaly.enabled = false;
    assert!(Anomalies::open(&config, Some(&memory), 1).is_none());
}

/// What queries ask for, by name.
#[derive(Default)]
struct Asked(Mutex<Vec<String>>);

impl Source for Asked {
    fn select(
        &self,
        matchers: &[Matcher],
        _: Millis,
        _: Millis,
        _: &dyn Bounds,
    ) -> Result<Vec<agent_store::series::Series>, Refusal> {
        let names = matchers.iter().filter_map(|matcher| match &matcher.comparison {
            agent_store::series::Comparison::Equal(name) if matcher.label == "__name__" => Some(name.clone()),
            _ => None,
        });
        self.0.lock().unwrap().extend(names);
        Ok(Vec::new())
    }
}

/// The shipped watches ask for metrics that there are, and so does the search for evidence.
#[test]
fn what_is_watched_is_declared() {
    use agent_score::watch::{Watcher, defaults};
    let settings = Config::default().anomaly.settings();
    let odd = agent_score::watch::Definition {
        name: "odd".to_owned(),
        expr: "odd".to_owned(),
        ..defaults(1000)[0].clone()
    };
    let mut watcher = Watcher::new(settings, defaults(10_000).into_iter().chain([odd]).collect());
    let asked = Asked::default();
    for round in 0..300 {
        let at = 1_700_000_000_000 + round * 10_000;
        let mut ask = |query: &str| {
            if query == "odd" {
                let value = if round == 299 { 100.0 } else { 0.0 };
                return Ok(vec![(Labels::default(), value)]);
            }
            let options = agent_store::promql::Options::default();
            let answer =
                agent_store::promql::instant(query, at, &options, &asked, &agent_store::series::Free);
            answer.map(|_| Vec::new()).map_err(|e| e.to_string())
        };
        let verdicts = watcher.verdicts(at, &mut ask);
        watcher.explain(verdicts, &mut ask, None);
    }
    assert_eq!(watcher.anomalies().count(), 1, "evidence was looked for");
    assert_eq!(watcher.failures(), 0);
    let declared: Vec<&str> = crate::docs::all()
        .into_iter()
        .flat_map(|(_, metrics)| metrics.iter().map(|metric| metric.name))
        .collect();
    let asked = asked.0.into_inner().unwrap();
    assert!(
        asked
            .iter()
            .any(|name| name == "geophone_tunnel_lost_packets_total")
    );
    for name in asked {
        assert!(declared.contains(&name.as_str()), "{name} is no metric");
    }
}
