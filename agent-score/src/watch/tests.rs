//! Causes and what must be said of them: queries answered by a test, and the shipped watches over a real store.

use super::*;
use agent_store::histogram::Histogram;
use agent_store::promql::{self, Options, Sample, Value};
use agent_store::series::Free;
use agent_store::store::{self, Place, Store};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use std::sync::Arc;

const START: Millis = 1_760_000_000_000;
const STEP: Millis = 10_000;

const SETTINGS: Settings = Settings {
    interval: STEP,
    alarms_per_week: 1.0,
    learning: 32,
    most_series: 10,
    most_entities: 0,
    has_stacks: false,
};

fn definition(zero: bool) -> Definition {
    Definition {
        name: "w".to_owned(),
        expr: "x".to_owned(),
        unit: Unit::PerSecond,
        least: 1.0,
        zero,
    }
}

fn labels(name: &str) -> Labels {
    Labels::new([
        ("__name__", "x"),
        ("job", "geophone"),
        ("instance", "n1"),
        ("a", name),
    ])
}

/// A watcher and its time. Of what is asked for as evidence there is nothing.
struct Fed {
    watcher: Watcher,
    at: Millis,
    random: StdRng,
}

impl Fed {
    fn new(settings: Settings, zero: bool) -> Self {
        Self {
            watcher: Watcher::new(settings, vec![definition(zero)]),
            at: START,
            random: StdRng::seed_from_u64(1),
        }
    }

    fn say(&mut self, values: &[(&str, f64)]) -> Round {
        self.at += STEP;
        let values: Vec<(Labels, f64)> = values
            .iter()
            .map(|(name, value)| (labels(name), *value))
            .collect();
        self.watcher.evaluate(self.at, &mut |query| {
            Ok(if query == "x" { values.clone() } else { Vec::new() })
        })
    }

    fn usual(&mut self, rounds: usize) -> usize {
        let mut begun = 0;
        for _ in 0..rounds {
            let value = 100.0 + self.random.random_range(-1.0..1.0);
            begun += self.say(&[("one", value)]).begun.len();
        }
        begun
    }
}

#[test]
fn an_anomaly_begins_is_told_and_is_over() {
    let mut fed = Fed::new(SETTINGS, false);
    assert_eq!(fed.usual(20), 0);
    assert_eq!(
        (fed.watcher.counts().learning, fed.watcher.counts().judged),
        (1, 0)
    );
    assert_eq!(fed.usual(180), 0);
    assert_eq!(
        (fed.watcher.counts().learning, fed.watcher.counts().judged),
        (0, 1)
    );
    let round = fed.say(&[("one", 150.0)]);
    let [told] = &round.begun[..] else {
        panic!("{round:?}");
    };
    assert_eq!((told.watch.as_str(), told.labels["a"].as_str()), ("w", "one"));
    assert_eq!(told.labels.len(), 1, "what all series have says nothing");
    assert_eq!((told.value, told.since), (150.0, fed.at as f64 / 1e3));
    assert!(
        told.upper.unwrap() < 150.0 && told.lower.unwrap() > 50.0,
        "{told:?}"
    );
    assert!(fed.say(&[("one", 170.0)]).begun.is_empty(), "it is the same one");
    let worst = fed.watcher.anomaly(told.id).unwrap();
    assert_eq!((worst.value, worst.until), (170.0, None));
    let mut ended = Vec::new();
    for _ in 0..12 {
        ended.extend(fed.say(&[("one", 100.2)]).ended);
    }
    assert_eq!(ended.len(), 1);
    assert!(
        ended[0].until.is_some() && ended[0].over.contains("usual"),
        "{ended:?}"
    );
}

#[test]
fn what_comes_to_be_was_zero_before() {
    let mut fed = Fed::new(SETTINGS, true);
    for _ in 0..40 {
        assert!(fed.say(&[("one", 5.0)]).begun.is_empty());
    }
    let round = fed.say(&[("one", 5.0), ("new", 30.0)]);
    assert_eq!(round.begun.len(), 1, "{round:?}");
    assert_eq!(round.begun[0].labels["a"], "new");
    // Its end is the value 0, though the query has nothing.
    let ended: usize = (0..12).map(|_| fed.say(&[("one", 5.0)]).ended.len()).sum();
    assert_eq!(ended, 1);
    // And what never was there goes on being no series.
    assert_eq!(fed.watcher.series().count(), 2);
    let mut other = Fed::new(SETTINGS, false);
    for _ in 0..40 {
        other.say(&[("one", 5.0)]);
    }
    assert!(
        other.say(&[("new", 30.0)]).begun.is_empty(),
        "of this nothing is known"
    );
}

/// Cause: no value, no number, an error, in the middle of what is usual and of an anomaly. Seen: nothing of it is an anomaly, and an
/// anomaly that nobody sees any more is over.
#[test]
fn gaps_are_no_anomalies() {
    let mut fed = Fed::new(SETTINGS, false);
    fed.usual(100);
    assert!(fed.say(&[]).begun.is_empty());
    assert!(fed.say(&[("one", f64::NAN)]).begun.is_empty());
    fed.at += STEP;
    let round = fed.watcher.evaluate(fed.at, &mut |_| Err("no".to_owned()));
    assert_eq!(round.failed, [("w".to_owned(), "no".to_owned())]);
    fed.at += STEP;
    let again = fed.watcher.evaluate(fed.at, &mut |_| Err("no".to_owned()));
    assert!(again.failed.is_empty(), "it is told once");
    assert_eq!((fed.watcher.failures(), fed.watcher.failed().count()), (2, 1));
    assert_eq!(fed.usual(50), 0);
    assert_eq!(fed.watcher.failed().count(), 0);
    assert_eq!(fed.say(&[("one", 200.0)]).begun.len(), 1);
    let ended: Vec<Anomaly> = (0..12).flat_map(|_| fed.say(&[]).ended).collect();
    assert!(ended[0].over.contains("no value"), "{ended:?}");
    assert_eq!(fed.usual(20), 0);
    let (_, _, series) = fed.watcher.series().next().unwrap();
    assert_eq!(series.active(), None);
}

#[test]
fn what_finds_no_room_is_counted_and_who_is_gone_gives_way() {
    let mut fed = Fed::new(SETTINGS, false);
    let names: Vec<String> = (0..15).map(|i| format!("s{i:02}")).collect();
    let all: Vec<(&str, f64)> = names.iter().map(|name| (name.as_str(), 1.0)).collect();
    fed.say(&all);
    let counts = fed.watcher.counts();
    assert_eq!((counts.learning, counts.refused), (10, 5));
    let mut known: Vec<String> = fed
        .watcher
        .series()
        .map(|(_, l, _)| l.get("a").to_owned())
        .collect();
    known.sort();
    assert_eq!(known, names[..10], "not by chance");
    // An hour later the first have not been there for long.
    for _ in 0..400 {
        fed.say(&all[2..]);
    }
    let counts = fed.watcher.counts();
    assert_eq!((counts.learning + counts.judged, counts.refused), (10, 3));
}

#[test]
fn two_series_of_the_same_labels_are_an_error() {
    let mut watcher = Watcher::new(SETTINGS, vec![definition(false)]);
    let twice = vec![
        (Labels::new([("instance", "a"), ("b", "c")]), 1.0),
        (Labels::new([("instance", "b"), ("b", "c")]), 1.0),
    ];
    let round = watcher.evaluate(START, &mut |_| Ok(twice.clone()));
    assert!(round.failed[0].1.contains("b=c"), "{round:?}");
}

/// Cause: a restart in the middle of an anomaly. Seen: nothing is learned anew, the anomaly goes on and ends, and what comes next
/// is judged as if there had been none.
#[test]
fn a_baseline_outlives_a_restart() {
    for zero in [false, true] {
        let mut fed = Fed::new(SETTINGS, zero);
        fed.usual(200);
        let number = fed.say(&[("one", 300.0)]).begun[0].id;
        let bytes = fed.watcher.save().unwrap();
        let mut again = Fed {
            watcher: Watcher::new(SETTINGS, vec![definition(zero)]),
            ..fed
        };
        let report = again.watcher.restore(&bytes).unwrap();
        assert_eq!(
            report,
            Report {
                series: 1,
                left_out: 0
            }
        );
        assert_eq!(again.watcher.counts().judged, 1);
        assert_eq!(again.watcher.anomaly(number).unwrap().until, None);
        let rounds: Vec<Round> = (0..12).map(|_| again.say(&[("one", 100.0)])).collect();
        assert!(rounds.iter().all(|round| round.begun.is_empty()));
        assert_eq!(rounds.iter().flat_map(|r| &r.ended).count(), 1);
        assert_eq!(again.say(&[("one", 300.0)]).begun[0].id, number + 1);
    }
}

#[test]
fn a_baseline_that_does_not_fit_is_learned_anew() {
    let mut fed = Fed::new(SETTINGS, false);
    fed.usual(100);
    fed.say(&[("one", 300.0)]);
    let bytes = fed.watcher.save().unwrap();
    let mut changed = definition(false);
    changed.expr = "y".to_owned();
    let mut other = Watcher::new(SETTINGS, vec![changed]);
    assert_eq!(
        other.restore(&bytes).unwrap(),
        Report {
            series: 0,
            left_out: 1
        }
    );
    assert!(
        other.anomalies().all(|a| a.until.is_some()),
        "nobody would end it"
    );
    let faster = Settings {
        interval: 1000,
        ..SETTINGS
    };
    let mut other = Watcher::new(faster, vec![definition(false)]);
    assert_eq!(other.restore(&bytes), Err(Fault::Interval(STEP)));
    for at in 0..bytes.len() {
        let mut other = Watcher::new(SETTINGS, vec![definition(false)]);
        assert!(other.restore(&bytes[..at]).is_err(), "cut at {at}");
        let mut flipped = bytes.clone();
        flipped[at] ^= 0x10;
        assert!(other.restore(&flipped).is_err(), "flipped at {at}");
        assert_eq!(other.counts(), Counts::default());
    }
}

#[test]
fn evaluations_are_due_once_an_interval() {
    let mut fed = Fed::new(SETTINGS, false);
    assert_eq!(fed.watcher.due(START), Some(0));
    fed.at = START + 3_000 - STEP;
    fed.say(&[]);
    assert_eq!(fed.watcher.due(START + 9_999), None);
    assert_eq!(fed.watcher.due(START + 10_001), Some(0));
    assert_eq!(fed.watcher.due(START + 45_000), Some(3), "as many were missed");
    assert_eq!(fed.watcher.due(START - 50_000), Some(0), "the clock was set back");
}

/// A store that grows by a second, and counters in it.
struct Scene {
    store: Store,
    at: Millis,
    counters: Vec<(store::SeriesRef, f64)>,
    rtt: store::SeriesRef,
    samples: f64,
    slow: f64,
}

impl Scene {
    fn new() -> Self {
        let settings = store::Settings {
            worker: false,
            ..store::Settings::default()
        };
        let (store, _) = Store::open(Place::Memory, settings).unwrap();
        let register = |name: &str, own: &[(&str, &str)]| {
            let all = [("__name__", name), ("job", "geophone"), ("instance", "n1")];
            store
                .register(&Labels::new(all.into_iter().chain(own.iter().copied())))
                .unwrap()
        };
        let pair = [("subject", "shop"), ("peer", "db")];
        let counters = vec![
            (
                register(
                    "geophone_tcp_segments_total",
                    &[pair[0], pair[1], ("direction", "transmit")],
                ),
                0.0,
            ),
            (
                register(
                    "geophone_tcp_segments_total",
                    &[pair[0], pair[1], ("direction", "receive")],
                ),
                0.0,
            ),
            (
                register(
                    "geophone_tcp_retransmits_total",
                    &[pair[0], pair[1], ("type", "fast")],
                ),
                0.0,
            ),
            (
                register(
                    "geophone_drops_packets_total",
                    &[("reason", "NETFILTER_DROP"), ("device", "eth0")],
                ),
                0.0,
            ),
        ];
        let rtt = register("geophone_tcp_rtt_seconds", &pair);
        Self {
            store,
            at: START,
            counters,
            rtt,
            samples: 0.0,
            slow: 0.0,
        }
    }

    /// A second in which the counters grow by so much, and round trips take 1 ms, or 1 s.
    fn second(&mut self, growth: [f64; 4], slow: bool) {
        self.at += 1000;
        let mut samples = Vec::new();
        for ((series, count), more) in self.counters.iter_mut().zip(growth) {
            *count += more;
            samples.push((*series, store::Value::Float(*count)));
        }
        self.samples += 50.0;
        self.slow += if slow { 50.0 } else { 0.0 };
        let histogram = Histogram {
            schema: 3,
            count: self.samples,
            sum: self.samples,
            positive: vec![(-79, self.samples - self.slow), (1, self.slow)],
            ..Histogram::default()
        };
        samples.push((self.rtt, store::Value::Histogram(Arc::new(histogram))));
        self.store.append(self.at, &samples);
    }

    fn ask(&self, query: &str) -> Result<Vec<(Labels, f64)>, String> {
        let answer = promql::instant(query, self.at, &Options::default(), &self.store, &Free);
        let Value::Vector(_, elements) = answer.map_err(|e| e.to_string())?.value else {
            return Err("no vector".to_owned());
        };
        Ok(elements
            .into_iter()
            .filter_map(|element| match element.sample {
                Sample::Float(value) => Some((element.labels, value)),
                Sample::Histogram(_) => None,
            })
            .collect())
    }
}

/// Cause: segments of a peer are lost by a firewall, after ten minutes without. Seen: the peer's retransmits and the drops are anomalies,
/// each with the other as its evidence; later the same with a slow peer.
#[test]
fn the_shipped_watches_find_loss_and_slowness_and_say_what_changed() {
    let mut scene = Scene::new();
    let settings = Settings {
        most_entities: 4,
        most_series: 100,
        has_stacks: true,
        ..SETTINGS
    };
    let mut watcher = Watcher::new(settings, defaults(STEP));
    let mut random = StdRng::seed_from_u64(3);
    let mut rounds = |scene: &mut Scene, seconds: usize, lost: f64, slow: bool| {
        let mut begun = Vec::new();
        for _ in 0..seconds {
            let sent = random.random_range(95.0_f64..105.0).round();
            scene.second([sent, sent, lost, lost], slow);
            if watcher.due(scene.at).is_some() {
                let round = watcher.evaluate(scene.at, &mut |query| scene.ask(query));
                assert!(round.failed.is_empty(), "{:?}", round.failed);
                begun.extend(round.begun);
            }
        }
        begun
    };
    let quiet = rounds(&mut scene, 600, 0.0, false);
    assert!(quiet.is_empty(), "{quiet:?}");
    let lossy = rounds(&mut scene, 20, 12.0, false);
    let of = |watch: &str| lossy.iter().find(|anomaly| anomaly.watch == watch);
    let ratio = of("tcp_retransmit_ratio").unwrap_or_else(|| panic!("{lossy:?}"));
    assert_eq!(ratio.labels["peer"], "db");
    assert!(ratio.value > 0.02 && ratio.upper.unwrap() < 0.02, "{ratio:?}");
    let drops = ratio.evidence.iter().find(|e| e.what == "drops").unwrap();
    assert_eq!(drops.labels["reason"], "NETFILTER_DROP");
    assert!(
        drops.now.unwrap() > 1.0 && drops.before.unwrap_or(0.0) < 0.1,
        "{drops:?}"
    );
    let [before, then] = &ratio.profile[..] else {
        panic!("{:?}", ratio.profile);
    };
    let begin = then.split("..").next().unwrap();
    assert!(before.ends_with(begin), "{before} {then}");
    let drops = of("drops").unwrap_or_else(|| panic!("{lossy:?}"));
    assert!(
        drops
            .evidence
            .iter()
            .any(|e| e.what == "retransmits" && e.labels["subject"] == "shop"),
        "{drops:?}"
    );
    rounds(&mut scene, 300, 0.0, false);
    let slow = rounds(&mut scene, 20, 0.0, true);
    let rtt = slow.iter().find(|anomaly| anomaly.watch == "tcp_rtt_median");
    let rtt = rtt.unwrap_or_else(|| panic!("{slow:?}"));
    assert!(rtt.value > 0.5 && rtt.upper.unwrap() < 0.01, "{rtt:?}");
    assert!(
        rtt.evidence
            .iter()
            .any(|e| e.what == "round-trip time" && e.labels["subject"] == "shop"),
        "{rtt:?}"
    );
}

/// Cause: six signals of two peers, room for one forest. Seen: after it has learned, a score of that one, also after a restart; the
/// other is counted.
#[test]
fn a_peer_has_a_score_of_all_its_signals() {
    let names = [
        "tcp_rtt_median",
        "tcp_rtt_p99",
        "tcp_retransmit_ratio",
        "tcp_opened",
        "tcp_failed",
        "tcp_resets",
    ];
    let settings = Settings {
        most_entities: 1,
        ..SETTINGS
    };
    let all = names.iter().map(|name| Definition {
        name: (*name).to_owned(),
        expr: (*name).to_owned(),
        least: 1e9,
        ..definition(false)
    });
    let all: Vec<Definition> = all.collect();
    let mut random = StdRng::seed_from_u64(4);
    let mut at = START;
    let mut round = |watcher: &mut Watcher| {
        at += STEP;
        // Nearly a bell curve.
        let load: f64 = (0..12).map(|_| random.random::<f64>()).sum::<f64>() + 10.0;
        let round = watcher.evaluate(at, &mut |query| {
            let place = names.iter().position(|name| *name == query);
            let value = |place: usize| load * (place + 1) as f64;
            let values = place.map(value);
            let peers = ["db", "web"].map(|peer| Labels::new([("peer", peer)]));
            Ok(peers
                .into_iter()
                .filter_map(|peer| Some((peer, values?)))
                .collect())
        });
        assert!(round.begun.is_empty(), "{round:?}");
    };
    let mut watcher = Watcher::new(settings, all.clone());
    for _ in 0..700 {
        round(&mut watcher);
        let (peer, scored, active) = watcher.entities().next().unwrap();
        assert_eq!((peer, scored.verdict, active), ("db", Verdict::Learning, None));
    }
    let counts = watcher.counts();
    assert_eq!((counts.entities, counts.entities_refused), (1, 1));
    for _ in 0..100 {
        round(&mut watcher);
    }
    let mut again = Watcher::new(settings, all);
    again.restore(&watcher.save().unwrap()).unwrap();
    for watcher in [&mut watcher, &mut again] {
        // Its trees grow again at the first.
        round(watcher);
        round(watcher);
        let (_, scored, _) = watcher.entities().next().unwrap();
        assert!(
            scored.verdict == Verdict::Normal && scored.score > 0.1,
            "{scored:?}"
        );
    }
}

#[test]
fn the_shipped_watches_have_names_of_their_own() {
    let all = defaults(STEP);
    let names: std::collections::BTreeSet<&str> = all.iter().map(|d| d.name.as_str()).collect();
    assert_eq!(names.len(), all.len());
    assert!(
        defaults(1000).iter().all(|d| !d.expr.contains("[1000ms]")),
        "a rate needs two samples"
    );
}
