//! What it costs to evaluate the shipped rules: `cargo run --release -p agent-rules --example bench_rules`.
//!
//! Twenty minutes at a second of 2,000 series in memory: 100 pairs of subject and peer with the counters of probe tcp.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a benchmark ends at what it does not expect"
)]

use agent_rules::{Environment, Group, Results, Settings, load};
use agent_store::labels::Labels;
use agent_store::series::{Bounds, Free, Millis};
use agent_store::store::{Place, SeriesRef, Store, Value};
use std::time::Instant;

const SERIES: usize = 2_000;
const SECONDS: usize = 1_200;

fn main() {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/rules");
    let files = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let files = files.filter(|file| file.is_file());
    let mut groups: Vec<Group> = files
        .flat_map(|file| load(&file).unwrap())
        .map(|group| Group::new(group, false))
        .collect();
    let settings = agent_store::store::Settings {
        worker: false,
        ..agent_store::store::Settings::default()
    };
    let (store, _) = Store::open(Place::Memory, settings).unwrap();
    let series: Vec<SeriesRef> = (0..SERIES)
        .map(|at| store.register(&labels(at)).unwrap())
        .collect();
    for second in 0..SECONDS {
        let samples = series.iter().enumerate();
        let samples = samples.map(|(at, series)| (*series, Value::Float((second * (at % 7 + 1)) as f64)));
        store.append(second as Millis * 1000, &samples.collect::<Vec<_>>());
        if second % 600 == 599 {
            store.flush();
        }
    }
    let settings = Settings::default();
    let bounds = || -> Box<dyn Bounds> { Box::new(Free) };
    let environment = Environment {
        source: &store,
        bounds: &bounds,
        settings: &settings,
    };
    let rules: usize = groups.iter().map(|group| group.rules.len()).sum();
    let mut results = Results::default();
    let mut best = f64::MAX;
    for turn in 0..20 {
        let at = (SECONDS as Millis + turn) * 1000;
        let begin = Instant::now();
        for group in &mut groups {
            group.evaluate(at, &environment, &mut results);
        }
        best = best.min(begin.elapsed().as_secs_f64() * 1000.0);
    }
    println!("{rules} rules over {SERIES} series: {best:.1} ms, the best of 20");
    for rule in groups
        .iter()
        .flat_map(|group| &group.rules)
        .filter(|rule| rule.took.as_micros() > 1000)
    {
        println!("  {:6.2} ms {}", rule.took.as_secs_f64() * 1000.0, rule.file.name);
    }
}

fn labels(at: usize) -> Labels {
    const NAMES: [(&str, &[(&str, &str)]); 20] = [
        ("geophone_tcp_retransmits_total", &[("type", "fast")]),
        ("geophone_tcp_retransmits_total", &[("type", "timeout")]),
        ("geophone_tcp_retransmits_total", &[("type", "tail_loss_probe")]),
        ("geophone_tcp_segments_total", &[("direction", "transmit")]),
        ("geophone_tcp_segments_total", &[("direction", "receive")]),
        ("geophone_tcp_bytes_total", &[("direction", "transmit")]),
        ("geophone_tcp_bytes_total", &[("direction", "receive")]),
        ("geophone_tcp_resets_total", &[("direction", "transmit")]),
        ("geophone_tcp_resets_total", &[("direction", "receive")]),
        ("geophone_tcp_zero_windows_total", &[("direction", "transmit")]),
        ("geophone_tcp_zero_windows_total", &[("direction", "receive")]),
        (
            "geophone_tcp_connections_total",
            &[("outcome", "opened"), ("role", "client")],
        ),
        (
            "geophone_tcp_connections_total",
            &[("outcome", "opened"), ("role", "server")],
        ),
        (
            "geophone_tcp_connections_total",
            &[("outcome", "closed"), ("role", "client")],
        ),
        (
            "geophone_tcp_connections_total",
            &[("outcome", "failed"), ("role", "client")],
        ),
        ("geophone_tcp_connections", &[]),
        ("geophone_tcp_listen_drops_total", &[]),
        ("geophone_path_hops", &[]),
        ("geophone_path_mtu_bytes", &[]),
        ("geophone_path_route_changes_total", &[]),
    ];
    let (name, own) = NAMES[at % NAMES.len()];
    let pair = at / NAMES.len();
    let (subject, peer) = (format!("subject-{}", pair % 10), format!("peer-{}", pair / 10));
    let all = [
        ("__name__", name),
        ("instance", "n1"),
        ("job", "geophone"),
        ("subject", &subject),
        ("peer", &peer),
    ];
    Labels::new(all.into_iter().chain(own.iter().copied()))
}
