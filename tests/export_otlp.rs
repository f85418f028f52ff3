//! What leaves the agent by being sent: real OTLP receivers get the numbers that the API shows.

use anyhow::{Context as _, Result, ensure};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use std::net::TcpListener;
use std::time::{Duration, Instant};
use tests::harness::agent::{binary, clean};
use tests::harness::otlp::{Authority, Receiver};
use tests::harness::scene::heard;
use tests::harness::{Scene, Setup, Snapshot, equal, together};
use tests::need_root;

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

/// Cause: agents that send to gRPC and HTTP receivers, plain and compressed. Seen: the totals of each one's API, to the last.
#[test]
fn otlp_receivers_get_the_same_totals() -> Result<()> {
    need_root!();
    let mut scene = Scene::echo()?;
    let mut sending = Vec::new();
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
        sending.push((format!("{protocol} {compression}"), receiver, agent));
    }
    scene.chat()?;
    let (client, server) = (scene.client.name(), scene.server.name());
    together(sending, |(what, receiver, agent)| {
        let truth = heard(&agent, client)?;
        receiver.wait(receiver.count() + 3)?;
        for subject in [client, server] {
            for (prometheus, otlp) in names()? {
                equal(
                    &format!("{what}: {prometheus} as {otlp}"),
                    receiver.total(&otlp, subject),
                    truth.sum(&prometheus, &[("subject", subject)]),
                )?;
            }
        }
        ensure!(
            receiver.total("geophone.tcp.connections", client) == 60,
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
        Ok(())
    })?;
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
    need_root!();
    let mut scene = Scene::echo()?;
    let receiver = Receiver::grpc(None)?;
    let agent = otlp(&receiver.endpoint, "grpc").start()?;
    scene.talk(&agent)?;
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

fn otlp(endpoint: &str, protocol: &str) -> Setup {
    Setup::new()
        .set("export.otlp.endpoint", endpoint)
        .set("export.otlp.protocol", protocol)
        .set("export.otlp.interval", "1s")
        .set("export.otlp.timeout", "2s")
}

/// Cause: delta temporality. Seen: the deltas of all exports add up to the totals of the API.
#[test]
fn deltas_add_up() -> Result<()> {
    need_root!();
    let mut scene = Scene::echo()?;
    let receiver = Receiver::grpc(None)?;
    let agent = otlp(&receiver.endpoint, "grpc")
        .set("export.otlp.temporality", "delta")
        .start()?;
    scene.talk(&agent)?;
    let truth = scene.talk(&agent)?;
    receiver.wait(receiver.count() + 3)?;
    let subject = scene.client.name();
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
    need_root!("openssl");
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
    let mut sending = Vec::new();
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
        sending.push((what, good, receiver, agent));
    }
    together(sending, |(what, good, receiver, agent)| {
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
        Ok(())
    })?;
    Ok(())
}

/// Cause: collectors that are not there, that hang, that talk nonsense. Seen: collection goes on; what is dropped is
/// counted; the log does not flood; the end comes in time.
#[test]
fn dead_and_lying_collectors() -> Result<()> {
    need_root!();
    let mut scene = Scene::echo()?;
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
    let mut sending = Vec::new();
    for (what, at) in [
        ("closed", closed),
        ("hanging", hanging.local_addr()?),
        ("lying", nonsense),
    ] {
        for protocol in ["grpc", "http"] {
            let agent = otlp(&format!("http://{at}"), protocol)
                .set("export.otlp.queue_size", "1")
                .set("export.otlp.retry.max_elapsed", "2s")
                .start()?;
            let begun = (agent.snapshot()?.tick, Instant::now());
            sending.push((format!("{what} by {protocol}"), agent, begun));
        }
    }
    scene.chat()?;
    let client = scene.client.name();
    together(sending, |(name, mut agent, (first, start))| {
        heard(&agent, client).with_context(|| name.clone())?;
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
        Ok(())
    })?;
    Ok(())
}
