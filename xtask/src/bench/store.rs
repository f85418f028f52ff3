//! The store beside Prometheus and VictoriaMetrics: the same data, taken in and asked for in one run.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use serde_json::Value;

use super::child::{Child, Program, free_port, pause};
use super::columns::row;
use super::load::{Kind, Load, children_cpu};
use super::metrics::get;
use super::proc::{cpu_seconds, memory, tree};
use super::stats::median;
use super::subject::Place;
use crate::shell::{cargo, run, say, target_dir};

const SERIES: u64 = 500;
const DAY: u64 = 86_400;
const STEP: u64 = 10;
const SAMPLES: f64 = (SERIES * DAY / STEP) as f64;
const QUERIES: [(&str, &str); 3] = [
    ("sum(rate), 24 h", "sum(rate(bench_bytes_total[5m]))"),
    ("by interface", "sum by (interface) (rate(bench_bytes_total[5m]))"),
    (
        "one series raw",
        "bench_bytes_total{interface=\"eth7\",host=\"node-3\"}[1d]",
    ),
];

/// How an engine did.
#[derive(Clone, Debug, Serialize)]
pub struct Engine {
    name: &'static str,
    /// Samples taken in per CPU second.
    import: f64,
    bytes_per_sample: f64,
    /// Of each query: milliseconds until the whole answer was there, and of CPU; medians.
    queries: Vec<(f64, f64)>,
    /// Resident bytes after them.
    rss: u64,
}

/// A figure of the store alone, with the limit that is set for it.
#[derive(Clone, Debug, Serialize)]
struct Figure {
    what: String,
    value: f64,
    unit: String,
    limit: String,
}

/// All of it.
#[derive(Clone, Debug, Serialize)]
pub struct Store {
    engines: Vec<Engine>,
    figures: Vec<Figure>,
    /// A store that a live agent filled under nginx and wrk: seconds, what `geophone store info` says.
    own: (u64, String),
}

/// Measures everything. `rounds`: how often each is asked; `seconds`: how long the agent records itself; `peers`: beside the
/// others.
pub fn measure(place: &Place, rounds: u32, seconds: u64, peers: bool) -> Result<Store> {
    let figures = alone()?;
    let home = place.scratch.join("store");
    let data = Data::write(&home)?;
    let mut running = Vec::new();
    let others = [prometheus, victoria].into_iter().filter(|_| peers);
    for start in std::iter::once(geophone as Start).chain(others.map(|start| start as Start)) {
        let engine = start(place, &home, &data)?;
        say(format_args!("store: {} has taken {SAMPLES} samples", engine.name));
        running.push(engine);
    }
    let mut times = vec![vec![Vec::new(); QUERIES.len()]; running.len()];
    for _ in 0..rounds {
        for (engine, times) in running.iter().zip(&mut times) {
            for ((_, query), times) in QUERIES.iter().zip(times) {
                times.push(engine.ask(&data, query)?);
            }
        }
    }
    agree(&running, &data)?;
    let engines = running
        .iter()
        .zip(times)
        .map(|(engine, times)| Engine {
            name: engine.name,
            import: SAMPLES / engine.import,
            bytes_per_sample: engine.bytes as f64 / SAMPLES,
            queries: times
                .iter()
                .map(|times| {
                    let (wall, cpu): (Vec<f64>, Vec<f64>) = times.iter().copied().unzip();
                    // The kernel counts CPU time by ticks: the mean of all is meant.
                    (median(&wall), cpu.iter().sum::<f64>() / cpu.len() as f64)
                })
                .collect(),
            rss: memory(engine.child.pid()).rss,
        })
        .collect();
    drop(running);
    Ok(Store {
        engines,
        figures,
        own: (seconds, own(place, &home, seconds)?),
    })
}

/// What the store's own example measures, a line a figure.
fn alone() -> Result<Vec<Figure>> {
    let build = [
        "build",
        "--release",
        "--locked",
        "--package",
        "agent-store",
        "--example",
        "bench_store",
    ];
    run(cargo().args(build))?;
    let example = target_dir()?.join("release/examples/bench_store");
    let mut figures = Vec::new();
    for part in ["counters", "day", "churn"] {
        say(format_args!("store: {part}"));
        let text = Program::new([example.as_os_str(), part.as_ref()]).finish()?;
        figures.extend(text.lines().filter_map(|line| {
            let mut cells = line.split('\t').map(str::to_owned);
            Some(Figure {
                what: cells.next()?,
                value: cells.next()?.parse().ok()?,
                unit: cells.next()?,
                limit: cells.next()?,
            })
        }));
    }
    Ok(figures)
}

/// 500 counters with random increments over the last day: as OpenMetrics has it (seconds), and as VictoriaMetrics takes it
/// (milliseconds).
struct Data {
    open_metrics: PathBuf,
    text: PathBuf,
    from: u64,
}

impl Data {
    fn write(home: &Path) -> Result<Self> {
        fs::create_dir_all(home).with_context(|| home.display().to_string())?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).context("clock")?;
        let from = (now.as_secs() - DAY - 60) / 60 * 60;
        let (open_metrics, text) = (home.join("day.om"), home.join("day.txt"));
        let mut files = [
            (BufWriter::new(File::create(&open_metrics)?), ""),
            (BufWriter::new(File::create(&text)?), "000"),
        ];
        writeln!(files[0].0, "# TYPE bench_bytes counter")?;
        let mut state = 1u64;
        for series in 0..SERIES {
            let (interface, host, mut value) = (series % 50, series / 50, 0);
            for tick in 0..DAY / STEP {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                value += (state >> 33) % 1000;
                let time = from + tick * STEP;
                for (file, millis) in &mut files {
                    writeln!(
                        file,
                        "bench_bytes_total{{interface=\"eth{interface}\",host=\"node-{host}\"}} {value} {time}{millis}"
                    )?;
                }
            }
        }
        writeln!(files[0].0, "# EOF")?;
        for (mut file, _) in files {
            file.flush()?;
        }
        Ok(Self {
            open_metrics,
            text,
            from,
        })
    }
}

type Start = fn(&Place, &Path, &Data) -> Result<Running>;

/// An engine that has the data and answers.
struct Running {
    name: &'static str,
    child: Child,
    port: u16,
    /// CPU seconds of taking the data in.
    import: f64,
    /// Bytes on disk.
    bytes: u64,
}

impl Running {
    fn answer(&self, data: &Data, query: &str) -> Result<String> {
        let (from, to) = (data.from, data.from + DAY - STEP);
        let query = encoded(query);
        let path = if query.ends_with("%5D") {
            format!("/api/v1/query?query={query}&time={to}")
        } else {
            // VictoriaMetrics would answer from its cache.
            format!("/api/v1/query_range?query={query}&start={from}&end={to}&step=60&nocache=1")
        };
        get(self.port, &path)
    }

    /// Milliseconds until the answer is there, and of CPU.
    fn ask(&self, data: &Data, query: &str) -> Result<(f64, f64)> {
        let cpu = || -> f64 { tree(self.child.pid()).into_iter().map(cpu_seconds).sum() };
        let (before, start) = (cpu(), Instant::now());
        self.answer(data, query)?;
        let wall = start.elapsed();
        Ok((wall.as_secs_f64() * 1e3, (cpu() - before) * 1e3))
    }
}

/// All must say the same: an answer that is quick and wrong is none.
fn agree(running: &[Running], data: &Data) -> Result<()> {
    for (_, query) in QUERIES {
        let mut known: Option<f64> = None;
        for engine in running {
            let answer: Value = serde_json::from_str(&engine.answer(data, query)?)?;
            let values = answer
                .pointer("/data/result/0/values")
                .and_then(Value::as_array)
                .with_context(|| format!("{}: no answer to {query}", engine.name))?;
            let values: Vec<f64> = values
                .iter()
                .filter_map(|value| value.get(1)?.as_str()?.parse().ok())
                .collect();
            // VictoriaMetrics does not extrapolate rates: it may differ by a sample in thirty, not by more.
            let mean = values.iter().sum::<f64>() / values.len() as f64;
            let first = *known.get_or_insert(mean);
            ensure!(
                (mean / first - 1.0).abs() < 0.05,
                "{}: {query}: a mean of {mean}, but {first} of the first",
                engine.name
            );
        }
    }
    Ok(())
}

fn geophone(place: &Place, home: &Path, data: &Data) -> Result<Running> {
    let directory = home.join("geophone");
    let (store, agent) = (directory.display().to_string(), place.agent.display().to_string());
    let file = data.open_metrics.display().to_string();
    let before = children_cpu()?;
    Program::new([&agent, "store", "import", "--store", &store, &file].map(String::from)).finish()?;
    let import = children_cpu()? - before;
    let bytes = size(&directory)?;
    let port = free_port(19_779)?;
    let listen = format!("127.0.0.1:{port}");
    let words = [
        &agent, "run", "--log", "warn", "--store", &store, "--listen", &listen,
    ]
    .map(String::from);
    started("geophone", Program::new(words), place, port, "/readyz").map(|running| Running {
        import,
        bytes,
        ..running
    })
}

fn prometheus(place: &Place, home: &Path, data: &Data) -> Result<Running> {
    let directory = home.join("prometheus");
    let (path, file) = (
        directory.display().to_string(),
        data.open_metrics.display().to_string(),
    );
    let before = children_cpu()?;
    let words = [
        "promtool",
        "tsdb",
        "create-blocks-from",
        "openmetrics",
        &file,
        &path,
    ];
    Program::new(words.map(String::from)).finish()?;
    let import = children_cpu()? - before;
    let bytes = size(&directory)?;
    let config = home.join("prometheus.yml");
    fs::write(&config, "scrape_configs: []\n")?;
    let port = free_port(19_090)?;
    let words = [
        "prometheus".to_owned(),
        format!("--config.file={}", config.display()),
        format!("--storage.tsdb.path={path}"),
        format!("--web.listen-address=127.0.0.1:{port}"),
        "--log.level=warn".to_owned(),
    ];
    started("Prometheus", Program::new(words), place, port, "/-/ready").map(|running| Running {
        import,
        bytes,
        ..running
    })
}

fn victoria(place: &Place, home: &Path, data: &Data) -> Result<Running> {
    let directory = home.join("victoria");
    let port = free_port(18_428)?;
    let words = [
        "victoria-metrics".to_owned(),
        format!("-storageDataPath={}", directory.display()),
        format!("-httpListenAddr=127.0.0.1:{port}"),
        "-loggerLevel=ERROR".to_owned(),
    ];
    let running = started("VictoriaMetrics", Program::new(words), place, port, "/health")?;
    let before = cpu_seconds(running.child.pid());
    let url = format!("http://127.0.0.1:{port}/api/v1/import/prometheus");
    let file = data.text.display().to_string();
    let words = [
        "curl",
        "--silent",
        "--show-error",
        "--fail",
        "--upload-file",
        &file,
        "--request",
        "POST",
        &url,
    ];
    Program::new(words.map(String::from)).finish()?;
    get(port, "/internal/force_flush")?;
    // Its parts reach the disk and are merged within seconds.
    pause(Duration::from_secs(10))?;
    Ok(Running {
        import: cpu_seconds(running.child.pid()) - before,
        bytes: size(&directory.join("data"))? + size(&directory.join("indexdb"))?,
        ..running
    })
}

fn started(name: &'static str, program: Program, place: &Place, port: u16, ready: &str) -> Result<Running> {
    let mut child = program.start(&place.scratch)?;
    child.wait_until(Duration::from_secs(60), |_| get(port, ready).is_ok())?;
    Ok(Running {
        name,
        child,
        port,
        import: 0.0,
        bytes: 0,
    })
}

/// An agent's own series under a load.
fn own(place: &Place, home: &Path, seconds: u64) -> Result<String> {
    say(format_args!("store: the agent's own series, {seconds} s"));
    let store = home.join("own").display().to_string();
    let agent = place.agent.display().to_string();
    let port = free_port(19_779)?;
    let listen = format!("127.0.0.1:{port}");
    let words = [
        &agent, "run", "--log", "warn", "--store", &store, "--listen", &listen,
    ]
    .map(String::from);
    let mut load = Load::start(Kind::KeepAlive, &place.scratch)?;
    let mut running = started("geophone", Program::new(words), place, port, "/readyz")?;
    load.run(seconds)?;
    running.child.check()?;
    running.child.stop();
    Program::new([&agent, "store", "info", "--store", &store].map(String::from)).finish()
}

/// Bytes of all files below.
fn size(directory: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(directory).with_context(|| directory.display().to_string())? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes += if metadata.is_dir() {
            size(&entry.path())?
        } else {
            metadata.len()
        };
    }
    Ok(bytes)
}

fn encoded(query: &str) -> String {
    query.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || byte == b'_' {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
        out
    })
}

impl Store {
    /// The engines side by side.
    pub fn table(&self) -> Vec<Vec<String>> {
        let mut head = row(["500 series x 24 h at 10 s", "", "M samples/CPU s in", "B/sample"]);
        head.extend(
            QUERIES
                .iter()
                .flat_map(|(name, _)| [format!("{name}, ms"), "CPU ms".to_owned()]),
        );
        head.push("MiB".to_owned());
        let mut rows = vec![head];
        for e in &self.engines {
            let mut cells = row([e.name, ""]);
            cells.push(format!("{:.2}", e.import / 1e6));
            cells.push(format!("{:.2}", e.bytes_per_sample));
            cells.extend(
                e.queries
                    .iter()
                    .flat_map(|(wall, cpu)| [format!("{wall:.1}"), format!("{cpu:.1}")]),
            );
            cells.push(format!("{:.0}", e.rss as f64 / 1_048_576.0));
            rows.push(cells);
        }
        rows
    }

    /// What has no limit, and the agent's own series.
    pub fn text(&self) -> String {
        let mut out = String::new();
        for figure in self.figures.iter().filter(|figure| figure.limit.is_empty()) {
            let _ = writeln!(out, "{}: {} {}", figure.what.trim(), figure.value, figure.unit);
        }
        let (seconds, info) = &self.own;
        let _ = writeln!(
            out,
            "The agent's own series, {seconds} s of nginx and wrk:\n{}",
            info.trim_end()
        );
        out
    }

    /// What, which, target, reached, whether it is.
    pub fn judged(&self) -> impl Iterator<Item = (&'static str, String, String, String, bool)> {
        let alone = self.figures.iter().filter_map(|figure| {
            let (sign, limit) = figure.limit.split_once(' ').unwrap_or(("<=", &figure.limit));
            let limit: f64 = limit.parse().ok()?;
            let good = if sign == ">=" {
                figure.value >= limit
            } else {
                figure.value <= limit
            };
            let reached = format!("{:.2} {}", figure.value, figure.unit);
            Some((
                "store",
                figure.what.trim().to_owned(),
                figure.limit.clone(),
                reached,
                good,
            ))
        });
        let query = self.engines.first().and_then(|engine| engine.queries.first());
        let query = query.map(|(wall, _)| {
            let which = "sum(rate(x[5m])), 500 series x 24 h".to_owned();
            (
                "store",
                which,
                "<= 50 ms".to_owned(),
                format!("{wall:.1} ms"),
                *wall <= 50.0,
            )
        });
        alone.chain(query)
    }
}
