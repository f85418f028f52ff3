//! What the store costs: `cargo run --release -p agent-store --example bench_store [counters|day|churn|FILE]`. FILE is
//! OpenMetrics text with times, such as a recording of an agent's own series (a name with a dot or a slash). A line per
//! figure, by tabs: name, value, unit, and the limit that is set for it. `cargo xtask bench --workload store` reads them.

use agent_store::labels::Labels;
use agent_store::series::{Comparison, Free, Matcher, Millis, Source};
use agent_store::store::{Place, SeriesRef, Settings, Store, Value};
use std::path::Path;
use std::time::Duration;

/// 2023-11-14T00:00:00Z
const START: Millis = 1_699_920_000_000;

/// A small generator, so that the figures are of the same numbers every time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

/// CPU time of the calling thread.
fn cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    Duration::from_nanos(
        text.split(' ')
            .next()
            .and_then(|ns| ns.parse().ok())
            .unwrap_or_default(),
    )
}

fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS"))
        .unwrap_or_default();
    line.split_whitespace()
        .nth(1)
        .and_then(|kb| kb.parse::<f64>().ok())
        .unwrap_or_default()
        / 1024.0
}

fn print(what: &str, value: f64, unit: &str, limit: &str) {
    println!("{what}\t{value:.3}\t{unit}\t{limit}");
}

/// Milliseconds of CPU that a run takes: the wall's on a machine that has nothing else to do. The kernel counts by ticks of
/// some milliseconds, so it is the mean of many.
fn mean(mut run: impl FnMut()) -> f64 {
    let (start, wall) = (cpu(), std::time::Instant::now());
    let mut runs = 0u32;
    while runs < 5 || wall.elapsed() < Duration::from_millis(500) {
        run();
        runs += 1;
    }
    (cpu() - start).as_secs_f64() * 1e3 / f64::from(runs)
}

fn open(directory: &Path, settings: Settings) -> Store {
    match Store::open(Place::Directory(directory.to_owned()), settings) {
        Ok((store, _)) => store,
        Err(error) => {
            eprintln!("{error}");
            std::process::abort()
        }
    }
}

fn quiet() -> Settings {
    Settings {
        worker: false,
        ..Settings::default()
    }
}

fn labels(at: usize) -> Labels {
    Labels::new([
        ("__name__", format!("geophone_tcp_metric_{}_total", at % 40)),
        (
            "subject",
            format!("/system.slice/service-{}.service", at / 40 % 10),
        ),
        ("peer", format!("peer-{}", at / 400)),
        ("zone", "eu-central-1a".to_owned()),
        ("direction", "egress".to_owned()),
        ("host", "node-17".to_owned()),
    ])
}

fn register(store: &Store, n: usize) -> Vec<SeriesRef> {
    (0..n).filter_map(|at| store.register(&labels(at))).collect()
}

fn select(store: &Store, matchers: &[Matcher], from: Millis, to: Millis) -> usize {
    let found = store.select(matchers, from, to, &Free).unwrap_or_default();
    found.iter().map(|series| series.samples.floats.times.len()).sum()
}

/// As research/performance.md has it: 500 random counters, 24 h at 10 s.
fn counters(directory: &Path) {
    let store = open(directory, quiet());
    let series = register(&store, 500);
    let mut dice = Dice(1);
    let mut samples: Vec<(SeriesRef, Value)> = series.iter().map(|s| (*s, Value::Float(0.0))).collect();
    let mut spent = Duration::ZERO;
    for tick in 0..8640 {
        for (_, value) in &mut samples {
            if let Value::Float(value) = value {
                *value += dice.below(1000) as f64;
            }
        }
        let start = cpu();
        store.append(START + tick * 10_000, &samples);
        if tick % 60 == 59 {
            store.sync();
            store.maintain();
        }
        spent += cpu() - start;
    }
    let start = cpu();
    store.flush();
    // A tick of the next day: the day's blocks can be merged.
    store.append(START + 86_400_000, &samples);
    store.flush();
    spent += cpu() - start;
    let stats = store.stats();
    print(
        "ingest, log, blocks and merging included",
        500.0 * 8640.0 / spent.as_secs_f64() / 1e6,
        "M samples/s/core",
        ">= 3",
    );
    print(
        "random counters",
        stats.disk_bytes as f64 / stats.samples as f64,
        "bytes/sample",
        "<= 2.5",
    );
    print("  blocks", stats.blocks as f64, "", "");
    let all = [Matcher {
        label: "__name__".into(),
        comparison: Comparison::NotEqual(String::new()),
    }];
    let mut n = 0;
    let ms = mean(|| n = select(&store, &all, START, START + 86_399_000));
    print(
        &format!("select 500 series x 24 h at 10 s ({n} samples)"),
        ms,
        "ms",
        "",
    );
}

/// A day of 2,000 series at a second, as an agent's: most still, some counters, some gauges.
fn day(directory: &Path) {
    let store = open(directory, quiet());
    let series = register(&store, 2000);
    let mut dice = Dice(1);
    let mut samples: Vec<(SeriesRef, Value)> = series.iter().map(|s| (*s, Value::Float(0.0))).collect();
    let (mut spent, mut most) = (Duration::ZERO, 0f64);
    for tick in 0..=86_400 {
        for (at, (_, value)) in samples.iter_mut().enumerate() {
            let Value::Float(value) = value else { continue };
            match at % 10 {
                0..5 => *value = at as f64,
                5 => *value += dice.below(1000) as f64,
                6 => *value += dice.below(3) as f64,
                7 => *value += f64::from(u8::from(dice.below(20) == 0)),
                8 => *value = dice.below(1000) as f64 / 1000.0,
                _ => *value = 1e9 + 4096.0 * dice.below(64) as f64,
            }
        }
        let start = cpu();
        store.append(START + tick * 1000, &samples);
        store.sync();
        if tick % 5 == 0 {
            store.maintain();
        }
        spent += cpu() - start;
        if tick % 600 == 0 {
            most = most.max(resident());
        }
    }
    let stats = store.stats();
    print(
        "2,000 series at 1 s, everything included",
        spent.as_secs_f64() / 86_400.0 * 100.0,
        "% of a core",
        "<= 0.2",
    );
    print("  resident at most, with this program", most, "MiB", "<= 64");
    print(
        "  as the store counts",
        stats.memory_bytes as f64 / 1048576.0,
        "MiB",
        "",
    );
    print(
        "  on disk",
        stats.disk_bytes as f64 / stats.samples as f64,
        "bytes/sample",
        "<= 1.5",
    );
    for at in [5, 8] {
        let one: Vec<Matcher> = labels(at)
            .iter()
            .map(|(name, value)| Matcher::equal(name, value))
            .collect();
        let mut n = 0;
        let ms = mean(|| n = select(&store, &one, START, START + 86_399_000));
        print(
            &format!("one series raw, 24 h at 1 s ({n} samples)"),
            ms,
            "ms",
            "<= 3",
        );
    }
    let five = [Matcher::equal("subject", "/system.slice/service-3.service")];
    let ms = mean(|| {
        select(&store, &five, START + 86_100_000, START + 86_400_000);
    });
    print("200 series, the last 5 minutes", ms, "ms", "");
    drop(store);
    let ms = mean(|| drop(open(directory, quiet())));
    print("start with a full 24 h", ms, "ms", "<= 300");
}

/// A million series a day that live for a minute each, beside 1,000 that stay.
fn churn(directory: &Path) {
    let store = open(directory, quiet());
    let stay = register(&store, 1000);
    let mut moving: std::collections::VecDeque<(Millis, SeriesRef)> = std::collections::VecDeque::new();
    let (mut born, mut spent, mut most, mut counted) = (0u64, Duration::ZERO, 0f64, 0);
    for tick in 0..=86_400i64 {
        let start = cpu();
        while born < (tick as u64 * 1_000_000) / 86_400 {
            let labels = Labels::new([
                ("__name__", "geophone_flow_bytes_total".to_owned()),
                ("flow", format!("10.0.{}.{}:{born}", born % 251, born % 241)),
                ("host", "node-17".to_owned()),
            ]);
            moving.extend(store.register(&labels).map(|series| (tick, series)));
            born += 1;
        }
        while moving.front().is_some_and(|(begun, _)| *begun + 60 < tick) {
            moving.pop_front();
        }
        let samples: Vec<_> = stay
            .iter()
            .chain(moving.iter().map(|(_, series)| series))
            .map(|series| (*series, Value::Float((tick * i64::from(tick % 3 == 0)) as f64)))
            .collect();
        store.append(START + tick * 1000, &samples);
        if tick % 5 == 0 {
            store.sync();
            store.maintain();
        }
        spent += cpu() - start;
        if tick % 600 == 0 {
            most = most.max(resident());
            counted = counted.max(store.stats().memory_bytes);
        }
    }
    let stats = store.stats();
    print("churn: 1 M series a day, resident at most", most, "MiB", "<= 64");
    print("  as the store counts", counted as f64 / 1048576.0, "MiB", "");
    print("churn: refused", stats.series_refused as f64, "series", "<= 0");
    print("  live", stats.live_series as f64, "series", "");
    print("  blocks", stats.blocks as f64, "", "");
    print("  on disk", stats.disk_bytes as f64 / 1048576.0, "MiB", "");
    print("  CPU", spent.as_secs_f64() / 86_400.0 * 100.0, "% of a core", "");
    let ms = mean(|| {
        select(
            &store,
            &[Matcher::equal("flow", "10.0.1.1:1")],
            START,
            START + 86_400_000,
        );
    });
    print("  one of a million", ms, "ms", "");
}

/// A recording in OpenMetrics text.
fn recording(file: &str, directory: &Path) {
    let store = open(directory, quiet());
    let start = cpu();
    let imported = match std::fs::File::open(file) {
        Ok(input) => store.import(std::io::BufReader::new(input)),
        Err(error) => Err(format!("{file}: {error}")),
    };
    let spent = cpu() - start;
    match imported {
        Ok(imported) => {
            let info = store.info();
            print(
                "import of a recording",
                imported.samples as f64 / spent.as_secs_f64() / 1e6,
                "M samples/s/core",
                "",
            );
            print(
                &format!("  {} series on disk", info.series),
                info.bytes_per_sample(),
                "bytes/sample",
                "<= 1.5",
            );
            imported
                .findings
                .iter()
                .for_each(|finding| println!("  {finding}"));
        }
        Err(error) => eprintln!("{error}"),
    }
}

fn main() {
    let only = std::env::args().nth(1).unwrap_or_default();
    if only.contains(['/', '.']) {
        let directory = std::env::temp_dir().join(format!("bench_store-{}", std::process::id()));
        recording(&only, &directory);
        if let Err(error) = std::fs::remove_dir_all(&directory) {
            eprintln!("cannot remove {}: {error}", directory.display());
        }
        return;
    }
    type Part = (&'static str, fn(&Path));
    let parts: [Part; 3] = [("counters", counters), ("day", day), ("churn", churn)];
    for (name, part) in parts {
        if !only.is_empty() && only != name {
            continue;
        }
        let directory = std::env::temp_dir().join(format!("bench_store-{}-{name}", std::process::id()));
        part(&directory);
        if let Err(error) = std::fs::remove_dir_all(&directory) {
            eprintln!("cannot remove {}: {error}", directory.display());
        }
    }
}
