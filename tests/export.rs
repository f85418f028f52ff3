//! What leaves the agent: a real Prometheus and real OTLP receivers get the numbers that the API shows.

use anyhow::{Context as _, Result, ensure};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use serde_json::Value;
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tests::harness::agent::{PATIENCE, Scratch, binary, clean};
use tests::harness::command::{present, promtool};
use tests::harness::otlp::{Authority, Receiver};
use tests::harness::{Agent, Link, Setup, Snapshot, Traffic, equal, http, near, root};

/// Client and server with some traffic between them that is over.
struct Talk {
    _link: Link,
    server: Traffic,
    client: Traffic,
    at: String,
}

impl Talk {
    fn new() -> Result<Self> {
        let link = Link::new()?;
        let mut server = Traffic::new("srv", &link.b.ns)?;
        let client = Traffic::new("cli", &link.a.ns)?;
        let at = server.serve(&link.b.at(0), "echo")?;
        Ok(Self {
            _link: link,
            server,
            client,
            at,
        })
    }

    /// Makes traffic and waits until the agent has all of it.
    fn talk(&mut self, agent: &Agent<'_>) -> Result<Snapshot> {
        for _ in 0..30 {
            let connection = self.client.connect(&self.at)?;
            self.client.ping(connection, 20, 500)?;
            self.client.close(connection)?;
        }
        let name = self.client.name();
        agent.settles(|s| {
            let closed = [("subject", name), ("outcome", "closed")];
            equal("closed", s.sum("geophone_tcp_connections_total", &closed) % 30, 0)?;
            ensure!(
                s.sum("geophone_tcp_connections_total", &closed) > 0,
                "none closed"
            );
            let sent = [("subject", name), ("direction", "transmit")];
            ensure!(
                s.sum("geophone_tcp_bytes_total", &sent) >= 300_000,
                "bytes are missing"
            );
            Ok(())
        })?;
        agent.after(1)
    }
}

/// Metrics that must be equal everywhere: Prometheus name and OTLP name, of the probe tcp.
fn names() -> Result<Vec<(String, String)>> {
    let out = clean(binary()).args(["docs", "metrics"]).output()?;
    let text = String::from_utf8(out.stdout)?;
    let names: Vec<(String, String)> = text
        .lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix("| `geophone_tcp_")?.split('`');
            let (prometheus, otlp) = (cells.next()?, cells.nth(1)?);
            Some((format!("geophone_tcp_{prometheus}"), otlp.to_owned()))
        })
        .collect();
    ensure!(names.len() >= 13, "only {names:?}");
    Ok(names)
}

/// Cause: gRPC and HTTP receivers, one after the other, plain and compressed. Seen: the totals of the API, to the last.
#[test]
fn otlp_receivers_get_the_same_totals() -> Result<()> {
    if !root("otlp") {
        return Ok(());
    }
    let mut talk = Talk::new()?;
    for (protocol, compression) in [("grpc", "none"), ("grpc", "gzip"), ("http", "none")] {
        let receiver = match protocol {
            "grpc" => Receiver::grpc(None)?,
            _ => Receiver::http()?,
        };
        let agent = otlp(&receiver.endpoint, protocol)
            .set("export.otlp.compression", compression)
            .set("region", "r1")
            .set("zone", "z1")
            .start()?;
        let truth = talk.talk(&agent)?;
        receiver.wait(receiver.count() + 3)?;
        for subject in [talk.client.name(), talk.server.name()] {
            for (prometheus, otlp) in names()? {
                equal(
                    &format!("{protocol}: {prometheus} as {otlp}"),
                    receiver.total(&otlp, subject),
                    truth.sum(&prometheus, &[("subject", subject)]),
                )?;
            }
        }
        ensure!(
            receiver.total("geophone.tcp.connections", talk.client.name()) == 60,
            "30 opened and 30 closed"
        );
        let resource = receiver.resource();
        for (key, value) in [
            ("service.name", "geophone"),
            ("cloud.region", "r1"),
            ("cloud.availability_zone", "z1"),
        ] {
            ensure!(
                resource.iter().any(|(k, v)| k == key && v == value),
                "no {key}={value} in {resource:?}"
            );
        }
        histograms_are_sound(&receiver)?;
        // The last state is sent when the agent ends.
        let before = receiver.count();
        agent.stop()?;
        ensure!(receiver.count() > before, "nothing was sent at the end");
    }
    Ok(())
}

/// Exponential histograms whose parts add up.
fn histograms_are_sound(receiver: &Receiver) -> Result<()> {
    let mut points = 0;
    for metric in receiver.metrics() {
        ensure!(
            !metric.unit.is_empty() && !metric.description.is_empty(),
            "{}",
            metric.name
        );
        let Some(Data::ExponentialHistogram(h)) = metric.data else {
            continue;
        };
        for p in h.data_points {
            points += 1;
            let buckets: u64 = p.positive.as_ref().map_or(0, |b| b.bucket_counts.iter().sum());
            equal("scale", p.scale, 3)?;
            equal("sum of the buckets", buckets + p.zero_count, p.count)?;
        }
    }
    ensure!(points > 0, "no histogram");
    Ok(())
}

/// Cause: connections begin while the agent runs. Seen: points whose interval has a length. A cumulative point with
/// start = time says "what came before is not known", and receivers subtract its value from all that follow.
#[test]
fn intervals_have_a_length() -> Result<()> {
    if !root("otlp") {
        return Ok(());
    }
    let mut talk = Talk::new()?;
    let receiver = Receiver::grpc(None)?;
    let agent = otlp(&receiver.endpoint, "grpc").start()?;
    talk.talk(&agent)?;
    receiver.wait(receiver.count() + 2)?;
    let (mut points, mut empty) = (0, Vec::new());
    for metric in receiver.metrics() {
        let intervals: Vec<(u64, u64)> = match &metric.data {
            Some(Data::Sum(sum)) => sum
                .data_points
                .iter()
                .map(|p| (p.start_time_unix_nano, p.time_unix_nano))
                .collect(),
            Some(Data::ExponentialHistogram(h)) => h
                .data_points
                .iter()
                .map(|p| (p.start_time_unix_nano, p.time_unix_nano))
                .collect(),
            _ => Vec::new(),
        };
        points += intervals.len();
        empty.extend(
            intervals
                .into_iter()
                .filter(|(start, time)| *start == 0 || start >= time)
                .map(|interval| (metric.name.clone(), interval)),
        );
    }
    ensure!(
        empty.is_empty(),
        "{} of {points} points, e.g. {:?}",
        empty.len(),
        empty.first()
    );
    Ok(())
}

fn otlp(endpoint: &str, protocol: &str) -> Setup<'static> {
    Setup::new()
        .set("export.otlp.endpoint", endpoint)
        .set("export.otlp.protocol", protocol)
        .set("export.otlp.interval", "1s")
        .set("export.otlp.timeout", "2s")
}

/// Cause: delta temporality. Seen: the deltas of all exports add up to the totals of the API.
#[test]
fn deltas_add_up() -> Result<()> {
    if !root("otlp") {
        return Ok(());
    }
    let mut talk = Talk::new()?;
    let receiver = Receiver::grpc(None)?;
    let agent = otlp(&receiver.endpoint, "grpc")
        .set("export.otlp.temporality", "delta")
        .start()?;
    talk.talk(&agent)?;
    let truth = talk.talk(&agent)?;
    receiver.wait(receiver.count() + 3)?;
    let subject = talk.client.name();
    for (prometheus, otlp) in names()? {
        // A gauge has no delta.
        if prometheus != "geophone_tcp_connections" {
            equal(
                &prometheus,
                receiver.added(&otlp, subject),
                truth.sum(&prometheus, &[("subject", subject)]),
            )?;
        }
    }
    Ok(())
}

fn dropped(s: &Snapshot) -> u64 {
    s.sum("geophone_export_datapoints_dropped_total", &[])
}

/// Cause: TLS with the right authority, the wrong one, another name, and a server that wants to know the client.
/// Seen: data only where all is right; elsewhere drops that are counted, and why in the log.
#[test]
fn otlp_over_tls() -> Result<()> {
    if !root("otlp") {
        return Ok(());
    }
    if !present("openssl") {
        eprintln!("SKIPPED otlp over TLS: no openssl");
        return Ok(());
    }
    let (ours, others) = (Authority::new()?, Authority::new()?);
    let client = |authority: &Authority| {
        [
            ("cert_file", authority.file("client.crt")),
            ("key_file", authority.file("client.key")),
        ]
    };
    let trust = |authority: &Authority| vec![("ca_file", authority.file("ca.crt"))];
    let with = |mut settings: Vec<(&'static str, String)>, more: &[(&'static str, String)]| {
        settings.extend_from_slice(more);
        settings
    };
    let wrong_name = [("server_name", "elsewhere.example".to_owned())];
    let cases = [
        ("right", false, trust(&ours), true),
        ("wrong authority", false, trust(&others), false),
        ("the system's authorities", false, vec![], false),
        ("wrong name", false, with(trust(&ours), &wrong_name), false),
        ("mutual", true, with(trust(&ours), &client(&ours)), true),
        ("no client certificate", true, trust(&ours), false),
        (
            "a stranger's certificate",
            true,
            with(trust(&ours), &client(&others)),
            false,
        ),
    ];
    for (what, mutual, settings, good) in cases {
        let receiver = Receiver::grpc(Some(ours.server(mutual.then_some(&ours))?))?;
        let mut setup = otlp(&receiver.endpoint, "grpc")
            .set("probes.tcp.enabled", "false")
            .set("probes.drops.enabled", "false")
            .set("export.otlp.queue_size", "1")
            .set("export.otlp.retry.max_elapsed", "1s");
        for (key, value) in &settings {
            setup = setup.set(&format!("export.otlp.tls.{key}"), value);
        }
        let agent = setup.start().with_context(|| what.to_owned())?;
        if good {
            receiver
                .wait(2)
                .with_context(|| format!("{what}: {}", agent.log()))?;
            equal(what, dropped(&agent.snapshot()?), 0)?;
        } else {
            agent
                .until(|s| {
                    ensure!(dropped(s) > 0, "nothing dropped");
                    Ok(())
                })
                .with_context(|| what.to_owned())?;
            equal(what, receiver.count(), 0)?;
            let log = agent.log();
            ensure!(
                log.contains("otlp") || log.contains("OTLP"),
                "{what}: the log says only: {log}"
            );
        }
    }
    Ok(())
}

/// Cause: collectors that are not there, that hang, that talk nonsense. Seen: collection goes on; what is dropped is
/// counted; the log does not flood; the end comes in time.
#[test]
fn dead_and_lying_collectors() -> Result<()> {
    if !root("otlp") {
        return Ok(());
    }
    let mut talk = Talk::new()?;
    let closed = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let hanging = TcpListener::bind("127.0.0.1:0")?;
    let lying = TcpListener::bind("127.0.0.1:0")?;
    let nonsense = lying.local_addr()?;
    std::thread::spawn(move || {
        use std::io::{Read as _, Write as _};
        for mut stream in lying.incoming().flatten() {
            std::thread::spawn(move || {
                let _ = stream.set_read_timeout(Some(Duration::from_millis(200)));
                let _ = stream.read(&mut [0; 4096]);
                let _ = stream
                    .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n\xff\xff\xff\x0b");
                let _ = stream.write_all(&[0x5a; 100_000]);
            });
        }
    });
    for (what, at) in [
        ("closed", closed),
        ("hanging", hanging.local_addr()?),
        ("lying", nonsense),
    ] {
        for protocol in ["grpc", "http"] {
            let mut agent = otlp(&format!("http://{at}"), protocol)
                .set("export.otlp.queue_size", "1")
                .set("export.otlp.retry.max_elapsed", "2s")
                .start()?;
            let name = format!("{what} by {protocol}");
            let (first, start) = (agent.snapshot()?.tick, Instant::now());
            talk.talk(&agent).with_context(|| name.clone())?;
            let ticks = agent.snapshot()?.tick - first;
            let seconds = start.elapsed().as_secs_f64();
            ensure!(
                ticks as f64 >= seconds * 0.7 - 2.0,
                "{name}: {ticks} ticks in {seconds} s"
            );
            agent.until(|s| {
                ensure!(dropped(s) > 0, "{name}: nothing is counted as dropped");
                s.lawful()
            })?;
            let lines = agent.log().lines().count();
            ensure!(lines < 40, "{name}: {lines} lines of log: {}", agent.log());
            agent.signal(nix::sys::signal::Signal::SIGTERM)?;
            let status = agent
                .wait(Duration::from_secs(10))
                .with_context(|| name.clone())?;
            ensure!(status.success(), "{name}: {status}");
        }
    }
    Ok(())
}

/// A Prometheus of Debian.
struct Prometheus {
    child: Child,
    at: SocketAddr,
    _scratch: Scratch,
}

impl Prometheus {
    fn new(target: SocketAddr, arguments: &[&str]) -> Result<Self> {
        let scratch = Scratch::new()?;
        let config = scratch.write(
            "prometheus.yml",
            format!(
                "global: {{scrape_interval: 1s, scrape_timeout: 1s}}\n\
                 scrape_configs: [{{job_name: geophone, static_configs: [{{targets: ['{target}']}}]}}]\n"
            ),
        )?;
        let at = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", scratch.path("data").display()))
            .arg(format!("--web.listen-address={at}"))
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self {
            child,
            at,
            _scratch: scratch,
        })
    }

    /// The value of a query that gives exactly one.
    fn query(&self, query: &str) -> Result<f64> {
        let encoded: String = query.bytes().map(|b| format!("%{b:02x}")).collect();
        let path = format!("/api/v1/query?query={encoded}");
        let answer = http::get(None, self.at, &path, "application/json")?;
        let json: Value = serde_json::from_slice(&answer.body).with_context(|| answer.text())?;
        let result = json["data"]["result"].as_array().with_context(|| answer.text())?;
        ensure!(result.len() == 1, "{query}: {}", answer.text());
        json["data"]["result"][0]["value"][1]
            .as_str()
            .and_then(|v| v.parse().ok())
            .with_context(|| format!("{query}: {}", answer.text()))
    }

    /// Asks until the answer is right.
    fn until(&self, query: &str, right: impl Fn(f64) -> Result<()>) -> Result<()> {
        let start = Instant::now();
        loop {
            let error = match self.query(query).and_then(&right) {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            if start.elapsed() > PATIENCE {
                return Err(error.context(query.to_owned()));
            }
            std::thread::sleep(Duration::from_millis(300));
        }
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Cause: two Prometheus, one that knows native histograms and one that does not. Seen: the totals and the quantiles of
/// the API.
#[test]
fn a_real_prometheus() -> Result<()> {
    if !root("prometheus") {
        return Ok(());
    }
    if !present("prometheus") {
        eprintln!("SKIPPED prometheus: there is none");
        return Ok(());
    }
    let mut talk = Talk::new()?;
    let agent = Setup::new().set("region", "r1").set("zone", "z1").start()?;
    let classic = Prometheus::new(agent.at, &[])?;
    let native = Prometheus::new(agent.at, &["--enable-feature=native-histograms"])?;
    let truth = talk.talk(&agent)?;
    for subject in [talk.client.name(), talk.server.name()] {
        let own = [("subject", subject)];
        let rtt = truth.histogram("geophone_tcp_rtt_seconds", &own)?;
        for peer in [&classic, &native] {
            for metric in [
                "geophone_tcp_bytes_total",
                "geophone_tcp_segments_total",
                "geophone_tcp_connections_total",
            ] {
                let want = truth.sum(metric, &own) as f64;
                let query = format!("sum({metric}{{subject=\"{subject}\"}})");
                peer.until(&query, |v| equal(metric, v, want))?;
            }
            peer.until("up", |v| equal("up", v, 1.0))?;
            peer.until("target_info{region=\"r1\",zone=\"z1\"}", |v| {
                equal("info", v, 1.0)
            })?;
        }
        let selector = format!("{{subject=\"{subject}\"}}");
        classic.until(&format!("geophone_tcp_rtt_seconds_count{selector}"), |v| {
            equal("count", v, rtt.count as f64)
        })?;
        native.until(
            &format!("histogram_count(geophone_tcp_rtt_seconds{selector})"),
            |v| equal("count", v, rtt.count as f64),
        )?;
        native.until(
            &format!("histogram_sum(geophone_tcp_rtt_seconds{selector})"),
            |v| near("sum", v, rtt.sum, 1e-9),
        )?;
        for (q, want) in [(0.5, rtt.p50), (0.99, rtt.p99)] {
            // One bucket: an eighth of an octave, in text an octave.
            for (peer, suffix, octaves) in [(&classic, "_bucket", 1.0), (&native, "", 0.13)] {
                let query = format!("histogram_quantile({q}, geophone_tcp_rtt_seconds{suffix}{selector})");
                peer.until(&query, |v| {
                    ensure!((v / want).log2().abs() <= octaves, "{v} for {want}");
                    Ok(())
                })?;
            }
        }
    }
    Ok(())
}

/// Cause: an agent that has seen all kinds of things. Seen: an exposition that promtool finds no fault with, in which
/// text, OpenMetrics and protobuf agree.
#[test]
fn the_exposition_is_clean() -> Result<()> {
    if !root("exposition") {
        return Ok(());
    }
    let mut talk = Talk::new()?;
    let agent = Agent::start()?;
    talk.client.connect_fails("127.0.0.1:9")?;
    let truth = talk.talk(&agent)?;
    promtool(&agent.metrics()?)?;
    let name = talk.client.name();
    let count = truth.sum("geophone_tcp_rtt_seconds", &[("subject", name)]);
    for (accept, kind) in [
        ("text/plain;version=0.0.4", "text/plain"),
        (
            "application/openmetrics-text;version=1.0.0",
            "application/openmetrics-text",
        ),
    ] {
        let answer = agent.get("/metrics", accept)?;
        ensure!(answer.head.to_ascii_lowercase().contains(kind), "{}", answer.head);
        let text = answer.text();
        let line = text
            .lines()
            .find(|l| l.starts_with("geophone_tcp_rtt_seconds_count") && l.contains(name))
            .context("no count of RTT")?;
        equal(
            kind,
            line.rsplit(' ').next().unwrap_or_default(),
            &count.to_string(),
        )?;
        equal("end", text.ends_with("# EOF\n"), kind.contains("openmetrics"))?;
    }
    let protobuf =
        "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited";
    let answer = agent.get("/metrics", protobuf)?;
    ensure!(
        answer.head.contains("application/vnd.google.protobuf"),
        "{}",
        answer.head
    );
    ensure!(
        answer.body.windows(name.len()).any(|w| w == name.as_bytes()),
        "the client is not in the protobuf"
    );
    Ok(())
}
