//! The shipped watches over a real store.

use super::*;
use agent_store::histogram::Histogram;
use agent_store::promql::{self, Options, Sample, Value};
use agent_store::series::Free;
use agent_store::store::{self, Place, Store};
use std::sync::Arc;

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
                let mut cpu = |_: [Span; 2], _: &str| Vec::new();
                let round = watcher.evaluate(scene.at, &mut |query| scene.ask(query), Some(&mut cpu));
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
        let round = watcher.evaluate(
            at,
            &mut |query| {
                let place = names.iter().position(|name| *name == query);
                let value = |place: usize| load * (place + 1) as f64;
                let values = place.map(value);
                let peers = ["db", "web"].map(|peer| Labels::new([("peer", peer)]));
                Ok(peers
                    .into_iter()
                    .filter_map(|peer| Some((peer, values?)))
                    .collect())
            },
            None,
        );
        assert!(round.begun.is_empty(), "{round:?}");
    };
    let mut watcher = Watcher::new(settings, all.clone());
    for _ in 0..700 {
        round(&mut watcher);
        let (label, peer, scored, active) = watcher.entities().next().unwrap();
        assert_eq!((label, peer), ("peer", "db"));
        assert_eq!((scored.verdict, active), (Verdict::Learning, None));
    }
    let counts = watcher.counts();
    assert_eq!((counts.entities, counts.entities_refused), (1, 1));
    for _ in 0..100 {
        round(&mut watcher);
    }
    let mut again = Watcher::new(settings, all);
    again.restore(&watcher.save().unwrap()).unwrap();
    for watcher in [&mut watcher, &mut again] {
        // Its trees grow again.
        round(watcher);
        let (.., scored, _) = watcher.entities().next().unwrap();
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
