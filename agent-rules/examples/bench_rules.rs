//! What it costs to evaluate the shipped rules: `cargo xtask bench rules`, or `cargo run --release -p agent-rules --example bench_rules`.
//!
//! An hour at a second of 2,000 series in memory, of all probes that the rules ask about, one of ten things in a bad state, and six
//! hours of the series that are recorded. Each turn evaluates all groups at once: the agent spreads them over `rules.interval`.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a benchmark ends at what it does not expect"
)]

use agent_rules::{Environment, Group, Results, Settings, load};
use agent_store::histogram::Histogram;
use agent_store::labels::Labels;
use agent_store::promql::selectors;
use agent_store::series::{Bounds, Free, Millis};
use agent_store::store::{Place, SeriesRef, Store, Value};
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

const SERIES: usize = 2_000;
const SECONDS: Millis = 3_600;
/// When the latest hour begins: before it there is only what was recorded.
const BEGIN: Millis = 23_000;
const TURNS: usize = 51;

/// How a series' value moves, first where all is well, then where it is bad: `is` so much, `grows` by so much a second, `takes` 12 values
/// a second about 2^(so much / 8) s.
#[derive(Clone, Copy)]
enum Kind {
    Is(f64, f64),
    Grows(f64, f64),
    Takes(f64, f64),
}

/// How many there are of what, metric, further labels (`|` between those of several series, `*` is the number), how its value moves.
const FAMILIES: &str = "
1 agent up - is 1 1
8 agent geophone_events_total probe=*,stage=seen grows 1000 1000
8 agent geophone_events_dropped_total probe=* grows 0 100
1 agent geophone_events_unaccounted - is 0 0
1 agent geophone_governor_level - is 1 1
1 agent geophone_governor_cpu_ratio - is 0.004 0.004
1 agent geophone_governor_budget_ratio - is 0.01 0.01
40 agent geophone_program_info program=*,state=attached is 1 1
1 agent geophone_agent_refused_calls_total - is 0 0
1 agent geophone_coverage_ratio - is 1 1
2 agent geophone_export_datapoints_dropped_total exporter=otlp,reason=* grows 0 0
1 agent geophone_store_write_failures_total - grows 0 0
1 agent geophone_store_damaged_total - is 0 0
1 agent geophone_store_series_refused_total - grows 0 0
1 agent geophone_rules_failures_total - grows 0 0
1 agent geophone_rules_missed_total - grows 0 0
1 agent geophone_rules_invalid_files - is 0 0
1 agent geophone_api_files_outdated - is 0 0
4 agent geophone_kubernetes_age_seconds object=o* is 3 3
4 agent geophone_kubernetes_lists_total object=o* is 3 3
4 agent geophone_notifications_oldest_seconds receiver=r*,integration=webhook is 0 0
4 agent geophone_notifications_dropped_total receiver=r*,integration=webhook,reason=queue_full grows 0 0
1 agent geophone_notifications_write_errors_total - grows 0 0
1 agent geophone_alertmanager_failures_total alertmanager=a grows 0 0
1 agent geophone_alertmanager_alerts_total alertmanager=a,outcome=refused grows 0 0
1 agent geophone_capacity_failures_total - grows 0 0
1 agent geophone_anomaly_missed_total - grows 0 0
1 agent geophone_anomaly_failures_total - grows 0 0
1 agent geophone_anomaly_series state=refused is 0 0
6 agent geophone_anomaly_active watch=tcp_retransmit_ratio,peer=p*,change=up,detectors=robust is 1 1
30 agent geophone_map_used map=* is 100 950
30 agent geophone_map_limit map=* is 1000 1000
10 agent geophone_slo_objective_ratio slo=* is 0.99 0.99
10 agent geophone_slo_covered_seconds slo=*,peer=p* is 15 15
10 agent geophone_slo_coverage_ratio slo=*,peer=p*,window=30d is 0.9 0.9
10 agent geophone_slo_budget_remaining_ratio slo=*,peer=p*,window=30d is 0.4 -0.1
40 agent geophone_health_state entity=peer,name=p* is 0 2
40 agent geophone_health_confidence entity=peer,name=p* is 0.9 0.9
12 agent geophone_node_used resource=r* is 10 93
12 agent geophone_node_limit resource=r* is 100 100
12 agent geophone_capacity_exhaustion_latest_seconds resource=r* is 1e8 1e5
12 device geophone_drops_packets_total reason=FULL_RING|reason=NOMEM|reason=NO_SOCKET grows 0 20
10 subject geophone_drops_udp_queue_failures_total - grows 0 2
10 subject geophone_tcp_listen_drops_total - grows 0 2
10 subject geophone_tcp_accept_seconds - takes -80 4
20 subject geophone_sched_runqueue_seconds - takes -100 -20
30 subject geophone_cgroup_used resource=memory|resource=tasks is 10 97
30 subject geophone_cgroup_limit resource=memory|resource=tasks is 100 100
30 subject geophone_cgroup_oom_kills_total - grows 0 0
30 subject geophone_cgroup_pressure_seconds_total resource=cpu,kind=full|resource=memory,kind=full grows 0 0.3
20 server geophone_dns_queries_total - grows 10 10
20 server geophone_dns_timeouts_total - grows 0 1
20 server geophone_dns_lookup_seconds rcode=NOERROR|rcode=SERVFAIL takes -60 2
10 device geophone_netdev_bytes_total direction=transmit|direction=receive grows 1e6 1.2e8
10 device geophone_netdev_packets_total direction=transmit|direction=receive grows 1e3 1e3
10 device geophone_netdev_errors_total direction=transmit|direction=receive grows 0 1
10 device geophone_netdev_drops_total direction=transmit|direction=receive grows 0 100
10 device geophone_netdev_up - is 1 1
10 device geophone_netdev_speed_bytes - is 1.25e8 1.25e8
4 device geophone_block_io_seconds operation=read|operation=write takes -70 0
12 tunnel geophone_tunnel_state state=up|state=degraded|state=down is 0 1
12 tunnel geophone_tunnel_state_changes_total state=up|state=down grows 0 0.01
12 tunnel geophone_tunnel_packets_total direction=transmit|direction=receive grows 1e3 1e3
12 tunnel geophone_tunnel_loss_ratio - is 0 0.05
12 tunnel geophone_tunnel_handshake_age_seconds - is 60 400
12 tunnel geophone_tunnel_too_big_total - grows 0 1
12 tunnel geophone_tunnel_watched - is 1 0
";

/// The same of each pair of subject and peer; of these there are as many as find room.
const PAIRS: &str = "
geophone_tcp_rtt_seconds - takes -60 -4
geophone_tcp_connect_seconds - takes -60 2
geophone_tcp_retransmits_total type=fast|type=timeout|type=tail_loss_probe grows 0.01 40
geophone_tcp_segments_total direction=transmit|direction=receive grows 1e3 1e3
geophone_tcp_bytes_total direction=transmit|direction=receive grows 1e6 1e6
geophone_tcp_resets_total direction=transmit|direction=receive grows 0 2
geophone_tcp_zero_windows_total direction=transmit|direction=receive grows 0 2
geophone_tcp_connections_total outcome=opened,role=client|outcome=opened,role=server|outcome=closed,role=client|outcome=failed,role=client grows 0.1 1
geophone_tcp_connections - is 9 9
geophone_path_hops - is 9 9
geophone_path_mtu_bytes - is 1500 1200
geophone_path_route_changes_total - grows 0 0.01
";
const RECORDED: [&str; 2] = [
    "geophone:tcp_rtt_seconds:p99_5m",
    "geophone:tcp_retransmits:ratio_5m",
];

/// What tells one thing of a kind from another.
fn own(of: &str) -> &'static str {
    match of {
        "agent" => "",
        "subject" => "subject=s*",
        "server" => "subject=s*,server=10.0.0.*",
        "device" => "device=eth*",
        "tunnel" => "type=vxlan,id=*,local=10.0.0.1,remote=10.1.0.*",
        "pair" => "subject=s*,peer=p*",
        _ => panic!("{of}"),
    }
}

fn labels(name: &str, number: usize, of: &str, more: &str) -> Labels {
    let number = number.to_string();
    let pairs = [own(of), more].into_iter().flat_map(|part| part.split(','));
    let pairs = pairs.filter_map(|pair| pair.split_once('='));
    let pairs = pairs.map(|(label, value)| (label.to_owned(), value.replace('*', &number)));
    let shared = [("__name__", name), ("instance", "n1"), ("job", "geophone")];
    let shared = shared.map(|(label, value)| (label.to_owned(), value.to_owned()));
    Labels::new(shared.into_iter().chain(pairs))
}

/// The series of a line without its first two words, and how each moves: one of ten things is bad.
fn register(store: &Store, of: &str, number: usize, words: &[&str], all: &mut Vec<(SeriesRef, Kind, bool)>) {
    let [name, more, kind, usual, bad] = words else {
        panic!("{words:?}")
    };
    let [usual, bad] = [usual, bad].map(|text| text.parse().unwrap());
    let kind = match *kind {
        "is" => Kind::Is(usual, bad),
        "grows" => Kind::Grows(usual, bad),
        _ => Kind::Takes(usual, bad),
    };
    for more in more.split('|') {
        let series = store.register(&labels(name, number, of, more)).unwrap();
        all.push((series, kind, number % 10 == 9));
    }
}

fn all(store: &Store) -> Vec<(SeriesRef, Kind, bool)> {
    let mut all = Vec::new();
    let words = |line: &'static str| line.split(' ').collect::<Vec<_>>();
    for line in FAMILIES.trim().lines().map(words) {
        for number in 0..line[0].parse().unwrap() {
            register(store, line[1], number, &line[2..], &mut all);
        }
    }
    for pair in 0.. {
        for line in PAIRS.trim().lines().map(words) {
            register(store, "pair", pair, &line, &mut all);
        }
        if all.len() >= SERIES {
            break;
        }
    }
    all.truncate(SERIES);
    all
}

fn value(kind: Kind, is_bad: bool, second: Millis) -> Value {
    let second = second as f64;
    let (Kind::Is(usual, bad) | Kind::Grows(usual, bad) | Kind::Takes(usual, bad)) = kind;
    let by = if is_bad { bad } else { usual };
    match kind {
        Kind::Is(..) => Value::Float(by),
        Kind::Grows(..) => Value::Float(by * second),
        Kind::Takes(..) => Value::Histogram(Arc::new(Histogram {
            schema: 3,
            count: 12.0 * second,
            sum: second,
            positive: (by as i32 - 6..by as i32 + 6).map(|at| (at, second)).collect(),
            ..Histogram::default()
        })),
    }
}

fn tidy(store: &Store, second: Millis) {
    if second % 600 == 0 {
        store.flush();
        store.maintain();
    }
}

/// Puts in these seconds of the latest hour and what comes after it.
fn fill(store: &Store, series: &[(SeriesRef, Kind, bool)], seconds: Range<Millis>) {
    for second in seconds {
        let samples = series.iter();
        let samples = samples.map(|(series, kind, is_bad)| (*series, value(*kind, *is_bad, second)));
        store.append((BEGIN + second) * 1000, &samples.collect::<Vec<_>>());
        tidy(store, second);
    }
}

fn filled() -> (Store, Vec<(SeriesRef, Kind, bool)>) {
    let settings = agent_store::store::Settings {
        worker: false,
        ..agent_store::store::Settings::default()
    };
    let (store, _) = Store::open(Place::Memory, settings).unwrap();
    let recorded = (0..40).flat_map(|pair| RECORDED.map(|name| labels(name, pair, "pair", "")));
    let recorded: Vec<SeriesRef> = recorded.map(|labels| store.register(&labels).unwrap()).collect();
    for second in (0..BEGIN).step_by(15) {
        let samples = recorded.iter().map(|series| (*series, Value::Float(0.01)));
        store.append(second * 1000, &samples.collect::<Vec<_>>());
        tidy(&store, second);
    }
    let series = all(&store);
    // The last second is the first of a block to come: what is asked for is all in the one before.
    fill(&store, &series, 0..SECONDS + 1);
    (store, series)
}

fn main() {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/rules");
    let files = std::fs::read_dir(directory).unwrap();
    let files = files
        .map(|entry| entry.unwrap().path())
        .filter(|file| file.is_file());
    let groups = files.flat_map(|file| load(&file).unwrap());
    let mut groups: Vec<Group> = groups.map(|group| Group::new(group, false)).collect();
    let (store, series) = filled();
    let settings = Settings::default();
    let bounds = || -> Box<dyn Bounds> { Box::new(Free) };
    let environment = Environment {
        source: &store,
        bounds: &bounds,
        settings: &settings,
    };
    let now = (BEGIN + SECONDS) * 1000;
    let has = |expr: &str| {
        let asked = selectors(expr).unwrap();
        let found = |matchers: &Vec<_>| store.series(matchers, now - 600_000, now, &Free).unwrap();
        asked.iter().any(|matchers| !found(matchers).is_empty())
    };
    let rules = || groups.iter().flat_map(|group| &group.rules);
    let (count, asking) = (
        rules().count(),
        rules().filter(|rule| has(&rule.file.expr)).count(),
    );
    println!("{count} rules over {SERIES} series, {asking} of them with something to ask");
    measure("what they ask for in a block", &mut groups, &environment, now);
    fill(&store, &series, SECONDS + 1..SECONDS + 580);
    measure("in the head", &mut groups, &environment, now + 579_000);
}

fn measure(what: &str, groups: &mut [Group], environment: &Environment<'_>, now: Millis) {
    let count = groups.iter().map(|group| group.rules.len()).sum();
    let mut took = Vec::new();
    let mut each = vec![Vec::new(); count];
    for turn in 0..TURNS {
        let begin = Instant::now();
        let mut results = Results::default();
        for group in &mut *groups {
            group.evaluate(now + turn as Millis, environment, &mut results);
        }
        took.push(begin.elapsed().as_secs_f64() * 1000.0);
        let rules = groups.iter().flat_map(|group| &group.rules);
        rules
            .zip(&mut each)
            .for_each(|(rule, each)| each.push(rule.took.as_secs_f64() * 1000.0));
    }
    let median = |times: &mut Vec<f64>| {
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    };
    let middle = median(&mut took);
    let rules = || groups.iter().flat_map(|group| &group.rules);
    let active: usize = rules().map(|rule| rule.alerts().count()).sum();
    println!(
        "{what}: {active} alerts active; median {middle:.1} ms, best {:.1}, worst {:.1} of {TURNS}",
        took[0],
        took[took.len() - 1]
    );
    for (rule, times) in rules().zip(&mut each) {
        let middle = median(times);
        if middle >= 0.5 {
            println!("  {middle:6.2} ms {}", rule.file.name);
        }
    }
}
