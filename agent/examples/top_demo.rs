//! The live view on a made-up machine, to look at it: `cargo run -p agent --example top_demo [empty|URL]`.

use agent::aggregate::{
    Family, HistogramValue, Kind, Label, Labels, Metric, Resource, Series, Snapshot, Stability, Value, label,
};
use agent::records::{DroppedPacket, Flow, Record};
use agent::ui::top::{LocalSource, Options, RemoteSource, run};
use agent::ui::view::Verdict;
use agent_common::histogram::{cell, from_micros};
use rand::Rng as _;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::{broadcast, watch};

/// Subject, peer, region, zone, median RTT in µs, bytes a second, loss, connections.
type Pair = (
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    f64,
    f64,
    f64,
    u64,
);

const PAIRS: &[Pair] = &[
    ("nginx.service", "public", "", "", 38_000.0, 24e6, 0.004, 812),
    (
        "checkout-7d9f8b6c5-x2x9k",
        "payments",
        "eu-west-1",
        "eu-west-1b",
        900.0,
        3.1e6,
        0.0,
        64,
    ),
    (
        "postgresql@15-main",
        "replica-db",
        "eu-central-1",
        "eu-central-1a",
        11_000.0,
        8.4e6,
        0.021,
        4,
    ),
    ("redis", "loopback", "", "", 24.0, 1.2e6, 0.0, 220),
    ("prometheus", "private", "", "", 340.0, 90e3, 0.0, 31),
    ("backup.service", "s3", "us-east-1", "", 92_000.0, 61e6, 0.072, 12),
    ("sshd", "public", "", "", 51_000.0, 800.0, 0.0, 2),
    (
        "kubelet",
        "control-plane",
        "eu-west-1",
        "eu-west-1a",
        610.0,
        12e3,
        0.0,
        5,
    ),
    ("日本語-サービス", "private", "", "", 2_000.0, 0.0, 0.0, 1),
    ("", "private", "", "", 1_200.0, 420.0, 0.0, 3),
];

const DROPS: &[(&str, &str, &str, &str, &str, u64)] = &[
    ("NO_SOCKET", "udp", "eth0", "receive", "", 3),
    ("NETFILTER_DROP", "tcp", "eth0", "receive", "", 12),
    ("TCP_INVALID_SEQUENCE", "tcp", "lo", "receive", "redis", 1),
    ("SOCKET_RCVBUFF", "udp", "eth0", "receive", "dnsmasq.service", 40),
    ("QDISC_DROP", "tcp", "wg0", "transmit", "backup.service", 0),
];

const PROGRAMS: &[(&str, u64, f64)] = &[
    ("tcp_probe", 21_000, 61e-9),
    ("tcp_state", 90, 240e-9),
    ("tcp_retransmit", 30, 210e-9),
    ("drops_kfree", 5_200, 74e-9),
    ("tcp_sweep", 1, 1.8e-3),
];

/// Totals by metric and label values, from which each snapshot is made.
#[derive(Default)]
struct Machine(BTreeMap<Key, Value>);

/// Metric and labels.
type Key = (&'static str, Vec<(&'static str, String)>);

impl Machine {
    fn add(&mut self, metric: &'static str, labels: &[(&'static str, &str)], by: u64) {
        let value = self.0.entry(key(metric, labels)).or_insert(Value::Counter(0));
        if let Value::Counter(v) = value {
            *v += by;
        }
    }

    fn addf(&mut self, metric: &'static str, labels: &[(&'static str, &str)], by: f64) {
        let value = self.0.entry(key(metric, labels)).or_insert(Value::CounterF(0.0));
        if let Value::CounterF(v) = value {
            *v += by;
        }
    }

    fn set(&mut self, metric: &'static str, labels: &[(&'static str, &str)], to: f64) {
        self.0.insert(key(metric, labels), Value::Gauge(to));
    }

    fn sample(&mut self, metric: &'static str, labels: &[(&'static str, &str)], seconds: f64, n: u64) {
        let value = self
            .0
            .entry(key(metric, labels))
            .or_insert_with(|| Value::Histogram(Arc::default()));
        if let Value::Histogram(h) = value {
            let micros = (seconds * 1e6) as u32;
            let h = Arc::make_mut(h);
            h.add_cell(cell(from_micros(micros)), n);
            h.sum += seconds * n as f64;
            let one = HistogramValue {
                min: Some(seconds),
                max: Some(seconds),
                ..Default::default()
            };
            h.add(&one);
        }
    }

    fn snapshot(&self, tick: u64, start: u64) -> Snapshot {
        let mut families: Vec<Family> = Vec::new();
        for ((metric, labels), value) in &self.0 {
            let declared: Vec<&'static Label> = labels.iter().map(|(name, _)| declare(name)).collect();
            let values: Vec<&str> = labels.iter().map(|(_, v)| v.as_str()).collect();
            let labels = Arc::new(Labels::new(&declared, &values, false, start));
            let series = Series {
                labels,
                value: value.clone(),
            };
            match families.last_mut().filter(|f| f.metric.name == *metric) {
                Some(family) => family.series.push(series),
                None => families.push(Family {
                    metric: metric_of(metric),
                    series: vec![series],
                }),
            }
        }
        let resource = Resource {
            host: "web-14".into(),
            region: "eu-west-1".into(),
            zone: "eu-west-1a".into(),
            attributes: Vec::new(),
        };
        Snapshot {
            tick,
            unix_nanos: now(),
            start_unix_nanos: start,
            resource: Arc::new(resource),
            families,
        }
    }
}

fn key(metric: &'static str, labels: &[(&'static str, &str)]) -> Key {
    (
        metric,
        labels.iter().map(|(n, v)| (*n, (*v).to_owned())).collect(),
    )
}

fn declare(name: &'static str) -> &'static Label {
    match name {
        "subject" => &label::SUBJECT,
        "peer" => &label::PEER,
        _ => Box::leak(Box::new(Label {
            prometheus: name,
            otlp: name,
            help: "",
        })),
    }
}

fn metric_of(name: &'static str) -> &'static Metric {
    let metric = Metric {
        name,
        otlp: name,
        unit: "1",
        kind: Kind::Counter,
        help: "",
        labels: &[],
        stability: Stability::Experimental,
    };
    Box::leak(Box::new(metric))
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_nanos() as u64)
}

fn second(m: &mut Machine, tick: u64) {
    let mut rng = rand::rng();
    for &(subject, peer, region, zone, rtt, bytes, loss, live) in PAIRS {
        let pair = [
            ("subject", subject),
            ("peer", peer),
            ("peer_region", region),
            ("peer_zone", zone),
        ];
        let with = |name: &'static str, value: &'static str| [&pair[..], &[(name, value)][..]].concat();
        let busy = 0.6 + 0.4 * (tick as f64 / 9.0 + rtt).sin() + rng.random_range(-0.2..0.2f64);
        let bytes = (bytes * busy.max(0.02)) as u64;
        m.add("geophone_tcp_bytes_total", &with("direction", "transmit"), bytes);
        m.add(
            "geophone_tcp_bytes_total",
            &with("direction", "receive"),
            bytes / 7,
        );
        m.add(
            "geophone_tcp_segments_total",
            &with("direction", "transmit"),
            bytes / 1400,
        );
        m.add(
            "geophone_tcp_segments_total",
            &with("direction", "receive"),
            bytes / 2800,
        );
        let lost = (bytes as f64 / 1400.0 * loss * busy) as u64;
        m.add("geophone_tcp_retransmits_total", &with("type", "fast"), lost);
        m.add(
            "geophone_tcp_retransmits_total",
            &with("type", "tail_loss_probe"),
            lost / 9,
        );
        m.set(
            "geophone_tcp_connections",
            &pair,
            (live as f64 * (0.8 + busy / 4.0)).round(),
        );
        for _ in 0..if bytes > 1000 || tick % 13 == 1 { 40 } else { 0 } {
            let v: f64 = rtt * (0.8 + rng.random::<f64>().powi(8) * 9.0) / 1e6;
            m.sample("geophone_tcp_rtt_seconds", &pair, v, 1 + bytes / 100_000);
            m.sample(
                "geophone_tcp_jitter_seconds",
                &pair,
                v * rng.random::<f64>() / 3.0,
                1,
            );
        }
        if live > 50 {
            let opened = [
                &pair[..],
                &[("role", "client"), ("outcome", "opened"), ("error", "none")],
            ]
            .concat();
            m.add("geophone_tcp_connections_total", &opened, live / 20);
            m.sample("geophone_tcp_connect_seconds", &pair, rtt * 1.2 / 1e6, live / 20);
        }
        if subject == "sshd" {
            let failed = [
                &pair[..],
                &[("role", "client"), ("outcome", "failed"), ("error", "refused")],
            ]
            .concat();
            m.add("geophone_tcp_connections_total", &failed, 2);
            m.add("geophone_tcp_resets_total", &with("direction", "receive"), 2);
        }
    }
    for &(reason, protocol, device, direction, subject, most) in DROPS {
        let labels = [
            ("reason", reason),
            ("protocol", protocol),
            ("device", device),
            ("direction", direction),
            ("subject", subject),
        ];
        m.add(
            "geophone_drops_packets_total",
            &labels,
            rng.random_range(0..=most),
        );
    }
    for (device, speed, bytes) in [
        ("eth0", 1.25e9, 31e6),
        ("lo", 0.0, 2e6),
        ("wg0", 0.0, 4e5),
        ("docker0", 0.0, 0.0),
    ] {
        for direction in ["receive", "transmit"] {
            let labels = [("device", device), ("direction", direction)];
            let bytes = (bytes * rng.random_range(0.5..1.5)) as u64;
            m.add("geophone_netdev_bytes_total", &labels, bytes);
            m.add("geophone_netdev_packets_total", &labels, bytes / 900);
            m.add("geophone_netdev_errors_total", &labels, 0);
            m.add(
                "geophone_netdev_drops_total",
                &labels,
                if device == "eth0" { 2 } else { 0 },
            );
        }
        m.set("geophone_netdev_speed_bytes", &[("device", device)], speed);
    }
    for &(program, runs, seconds) in PROGRAMS {
        m.add("geophone_program_runs_total", &[("program", program)], runs);
        m.addf(
            "geophone_program_run_seconds_total",
            &[("program", program)],
            runs as f64 * seconds,
        );
    }
    for (probe, seen, filtered) in [("tcp", 21_000, 9_000), ("drops", 5_200, 5_140)] {
        m.add(
            "geophone_events_total",
            &[("probe", probe), ("stage", "seen")],
            seen,
        );
        m.add(
            "geophone_events_total",
            &[("probe", probe), ("stage", "filtered")],
            filtered,
        );
        m.add(
            "geophone_events_total",
            &[("probe", probe), ("stage", "delivered")],
            seen - filtered - 4,
        );
        let lost = [("probe", probe), ("stage", "kernel"), ("reason", "ring_full")];
        m.add("geophone_events_dropped_total", &lost, 4);
        m.set("geophone_events_unaccounted", &[("probe", probe)], 0.0);
    }
    m.addf("geophone_agent_cpu_seconds_total", &[], 0.0021);
    m.set("geophone_agent_memory_bytes", &[], 31.4e6);
    m.set("geophone_map_memory_bytes", &[("map", "pairs")], 4.2e6);
    m.set("geophone_governor_level", &[], 0.0);
    for (metric, ratio) in [
        ("segments", 0.9994),
        ("retransmits", 1.0),
        ("resets", 0.998),
        ("active_opens", 1.0),
    ] {
        m.set("geophone_coverage_ratio", &[("metric", metric)], ratio);
    }
}

fn record(i: u64) -> Record {
    let mut rng = rand::rng();
    let time = now() as f64 / 1e9;
    let (subject, peer, region, zone, rtt, bytes, ..) = PAIRS[i as usize % PAIRS.len()];
    let remote = match i % 4 {
        0 => format!("[2001:db8:85a3::8a2e:370:{:x}]:443", rng.random_range(1..60_000)),
        _ => format!(
            "203.0.113.{}:{}",
            rng.random_range(1..250),
            rng.random_range(1024..60_000)
        ),
    };
    let address = |text: &str| text.parse().unwrap_or_else(|_| ([127, 0, 0, 1], 80).into());
    if i % 5 == 4 {
        let (reason, protocol, device, direction, subject, _) = DROPS[i as usize % DROPS.len()];
        return Record::Drop(Box::new(DroppedPacket {
            time,
            reason: reason.into(),
            location: "tcp_v4_rcv+0x1f".into(),
            protocol: protocol.into(),
            direction: direction.into(),
            device: device.into(),
            subject: subject.into(),
            source: Some(address(&remote)),
            destination: Some(([10, 0, 0, 4], 443).into()),
            bytes: 60,
        }));
    }
    let (event, error) = [
        ("closed", "none"),
        ("open", "none"),
        ("failed", "refused"),
        ("closed", "reset"),
    ][i as usize % 4];
    Record::Flow(Box::new(Flow {
        time,
        event: event.into(),
        state: "ESTABLISHED".into(),
        role: "client".into(),
        error: error.into(),
        subject: subject.into(),
        process: "evil\u{1b}[31m".into(),
        pid: 4711,
        local: ([10, 0, 0, 4], 40_000 + i as u16 % 1000).into(),
        remote: address(&remote),
        peer: peer.into(),
        peer_region: region.into(),
        peer_zone: zone.into(),
        duration: (!i.is_multiple_of(3)).then(|| rng.random::<f64>() * 200.0),
        connect: Some(rtt * 1.1 / 1e6),
        rtt: Some(rtt / 1e6),
        rtt_min: Some(rtt * 0.8 / 1e6),
        rtt_var: Some(rtt * 0.1 / 1e6),
        bytes_received: bytes as u64 / 7,
        bytes_sent: bytes as u64,
        segments_received: 1200,
        segments_sent: 2400,
        retransmits: (i % 30) as u32,
        spurious: 1,
        cwnd: 10,
        cookie: i,
    }))
}

fn verdicts() -> Vec<Verdict> {
    let mut all: Vec<Verdict> = PROGRAMS
        .iter()
        .map(|(program, ..)| Verdict {
            program: (*program).into(),
            state: "attached".into(),
            note: format!("tp_btf/{program}"),
        })
        .collect();
    all.push(Verdict {
        program: "tcp_accept".into(),
        state: "unsupported".into(),
        note: "fexit needs a BPF trampoline, which this architecture has from Linux 6.4\nboot a newer kernel"
            .into(),
    });
    all
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mode = std::env::args().nth(1).unwrap_or_default();
    if mode.starts_with("http") {
        run(RemoteSource::new(&mode, None)?, Options::default()).await?;
        return Ok(());
    }
    let start = now();
    let (snapshots, watching) = watch::channel(Arc::new(Snapshot::default()));
    let (records, listening) = broadcast::channel(1024);
    let empty = mode == "empty";
    tokio::spawn(async move {
        let mut machine = Machine::default();
        for tick in 1.. {
            if !empty {
                second(&mut machine, tick);
                for i in 0..3 {
                    let _ = records.send(Arc::new(record(tick * 3 + i)));
                }
            }
            if snapshots.send(Arc::new(machine.snapshot(tick, start))).is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1000)).await;
        }
    });
    let source =
        LocalSource::new(watching, listening).with_verdicts(if empty { Vec::new() } else { verdicts() });
    let last = run(source, Options::default()).await?;
    if let Some(view) = last {
        println!("{}", agent::ui::print::summary(&view));
    }
    Ok(())
}
