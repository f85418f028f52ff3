//! What it costs to watch series: `cargo run --release -p agent-score --example bench_watch [PEERS [ENTITIES]]`.
//!
//! A store that gets each second what an agent with so many peers exports (200 by default: two subjects each, counters and
//! histograms), and the shipped watches over it each ten seconds: queries, ensemble, and the forests of 16 peers and
//! subjects. That is a little more than 2,000 series with 250 peers.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a benchmark ends at what it does not expect"
)]

use agent_score::watch::{Settings, Watcher, defaults};
use agent_store::histogram::Histogram;
use agent_store::labels::Labels;
use agent_store::promql::{Options, Sample, Value as Answer, instant};
use agent_store::series::{Free, Millis};
use agent_store::store::{Place, SeriesRef, Store, Value};
use std::sync::Arc;
use std::time::{Duration, Instant};

const START: Millis = 1_760_000_000_000;
/// Evaluations: more than are needed to learn.
const ROUNDS: usize = 310;
const STEP: usize = 10;

/// Counters of a pair of subject and peer.
const COUNTERS: [(&str, &[(&str, &str)]); 11] = [
    ("geophone_tcp_segments_total", &[("direction", "transmit")]),
    ("geophone_tcp_segments_total", &[("direction", "receive")]),
    ("geophone_tcp_bytes_total", &[("direction", "transmit")]),
    ("geophone_tcp_bytes_total", &[("direction", "receive")]),
    ("geophone_tcp_retransmits_total", &[("type", "fast")]),
    ("geophone_tcp_retransmits_total", &[("type", "tail_loss_probe")]),
    (
        "geophone_tcp_connections_total",
        &[("outcome", "opened"), ("role", "client")],
    ),
    (
        "geophone_tcp_connections_total",
        &[("outcome", "closed"), ("role", "client")],
    ),
    (
        "geophone_tcp_connections_total",
        &[("outcome", "failed"), ("role", "client")],
    ),
    ("geophone_tcp_resets_total", &[("direction", "receive")]),
    ("geophone_tcp_zero_windows_total", &[("direction", "receive")]),
];

struct Pair {
    counters: Vec<SeriesRef>,
    rtt: SeriesRef,
}

fn main() {
    let argument = |place, usual| std::env::args().nth(place).map_or(usual, |n| n.parse().unwrap());
    let (peers, entities): (usize, usize) = (argument(1, 250), argument(2, 16));
    let settings = agent_store::store::Settings {
        worker: false,
        memory: 512 << 20,
        ..agent_store::store::Settings::default()
    };
    let (store, _) = Store::open(Place::Memory, settings).unwrap();
    let pairs: Vec<Pair> = (0..2 * peers).map(|at| pair(&store, at)).collect();
    let mut watcher = Watcher::new(
        Settings {
            interval: STEP as Millis * 1000,
            alarms_per_week: 1.0,
            learning: 256,
            accept_after: 3_000_000,
            most_series: 1_000_000,
            most_entities: entities,
        },
        defaults(STEP as Millis * 1000),
    );
    let (mut asked, mut all, mut worst) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
    for second in 0..ROUNDS * STEP {
        let at = START + second as Millis * 1000;
        append(&store, &pairs, second, at);
        if second % 600 == 599 {
            store.flush();
        }
        let Some(0) = watcher.due(at) else { continue };
        let begin = cpu();
        let mut queries = Duration::ZERO;
        let mut ask = |query: &str| {
            let begin = cpu();
            let answer = instant(query, at, &Options::default(), &store, &Free);
            let Answer::Vector(_, elements) = answer.map_err(|e| e.to_string())?.value else {
                panic!("{query}: no vector");
            };
            let found = elements.into_iter().filter_map(|element| match element.sample {
                Sample::Float(value) => Some((element.labels, value)),
                Sample::Histogram(_) => None,
            });
            let found = found.collect();
            queries += cpu() - begin;
            Ok(found)
        };
        let verdicts = watcher.verdicts(at, &mut ask);
        let round = watcher.explain(verdicts, &mut ask, None);
        assert!(round.failed.is_empty(), "{:?}", round.failed);
        // What is learned at first costs less.
        if second >= (ROUNDS - 50) * STEP {
            asked += queries;
            let took = cpu() - begin;
            all += took;
            worst = worst.max(took);
        }
    }
    let counts = watcher.counts();
    println!(
        "{} entities, {} without room; resident {}",
        counts.entities,
        counts.entities_refused,
        resident()
    );
    let percent = |time: Duration| time.as_secs_f64() / (50 * STEP) as f64 * 100.0;
    println!(
        "{} series of {peers} peers judged every {STEP} s: {:.3} % of a core, {:.3} % of it queries; the longest evaluation {:.1} ms",
        counts.judged + counts.learning,
        percent(all),
        percent(asked),
        worst.as_secs_f64() * 1e3
    );
    let begin = Instant::now();
    let saved = watcher.save().unwrap();
    println!(
        "baselines: {} bytes a series in the file ({:.0} KiB, written in {:.1} ms)",
        saved.len() / counts.judged.max(1),
        saved.len() as f64 / 1024.0,
        begin.elapsed().as_secs_f64() * 1e3
    );
}

fn pair(store: &Store, at: usize) -> Pair {
    let (subject, peer) = (format!("subject-{}", at % 20), format!("peer-{:04}", at / 2));
    let register = |name: &str, own: &[(&str, &str)]| {
        let all = [
            ("__name__", name),
            ("instance", "n1"),
            ("job", "geophone"),
            ("subject", &subject),
            ("peer", &peer),
        ];
        store
            .register(&Labels::new(all.into_iter().chain(own.iter().copied())))
            .unwrap()
    };
    Pair {
        counters: COUNTERS.iter().map(|(name, own)| register(name, own)).collect(),
        rtt: register("geophone_tcp_rtt_seconds", &[]),
    }
}

/// Something like noise, the same each time.
fn noise(a: usize, b: usize) -> u64 {
    let mut x =
        (a as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (b as u64).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x ^= x >> 31;
    x = x.wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 29
}

fn append(store: &Store, pairs: &[Pair], second: usize, at: Millis) {
    let mut samples = Vec::new();
    for (place, pair) in pairs.iter().enumerate() {
        for (kind, series) in pair.counters.iter().enumerate() {
            let per_second = [
                60.0, 60.0, 40_000.0, 90_000.0, 0.3, 0.1, 2.0, 2.0, 0.01, 0.05, 0.0,
            ];
            let jitter = (noise(place * 16 + kind, second) % 100) as f64 / 200.0;
            let value = (per_second.get(kind).copied().unwrap_or(0.0) * (second as f64 + jitter)).floor();
            samples.push((*series, Value::Float(value)));
        }
        let counts = (0..24).map(|cell| {
            let jitter = noise(place, second / 3 + cell) % 3;
            (cell as i32 - 90, (second as u64 * 3 + jitter) as f64)
        });
        let positive: Vec<(i32, f64)> = counts.collect();
        let count = positive.iter().map(|(_, count)| count).sum();
        let histogram = Histogram {
            schema: 3,
            count,
            sum: count / 1000.0,
            positive,
            ..Histogram::default()
        };
        samples.push((pair.rtt, Value::Histogram(Arc::new(histogram))));
    }
    store.append(at, &samples);
}

/// Memory of this process.
fn resident() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.unwrap().trim().to_owned()
}

/// CPU time of this thread: the machine may have other work.
fn cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    let nanos = text.split_whitespace().next().unwrap();
    Duration::from_nanos(nanos.parse().unwrap())
}
