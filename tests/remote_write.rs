//! What leaves the agent by remote write: a real Prometheus takes version 1, a receiver made of the specification version 2.

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::net::TcpListener;
use std::time::{Duration, Instant};
use tests::harness::agent::PATIENCE;
use tests::harness::prometheus::{Prometheus, query};
use tests::harness::promql::number;
use tests::harness::remote_write::{Receiver, obedient, written};
use tests::harness::{Agent, Scene, Setup, Snapshot, equal, together};
use tests::need_root;

fn setup(url: &str, protocol: u8) -> Setup {
    Setup::new()
        .set("export.remote_write.url", url)
        .set("export.remote_write.protocol", &protocol.to_string())
        .set("export.remote_write.interval", "1s")
        .set("export.remote_write.timeout", "2s")
        .set("export.remote_write.retry.initial", "100ms")
}

const EXPORTER: (&str, &str) = ("exporter", "remote_write");

fn total(s: &Snapshot, what: &str) -> u64 {
    s.sum(&format!("geophone_export_datapoints{what}"), &[EXPORTER])
}

fn dropped(s: &Snapshot, reason: &str) -> u64 {
    s.sum(
        "geophone_export_datapoints_dropped_total",
        &[EXPORTER, ("reason", reason)],
    )
}

/// Every sample that was to be sent is sent, dropped or in flight. The counters are read one after the other while the exporter
/// works, hence more than once.
fn conserved(agent: &Agent) -> Result<Snapshot> {
    agent.until(|s| {
        let parts = ["_sent_total", "_dropped_total", "_in_flight"].map(|what| total(s, what));
        ensure!(parts.iter().sum::<u64>() > 0, "nothing was to be sent");
        equal(
            "sent, dropped and in flight",
            parts.iter().sum(),
            total(s, "_total"),
        )?;
        Ok(s.clone())
    })
}

fn until(what: &str, mut check: impl FnMut() -> Result<()>) -> Result<()> {
    let start = Instant::now();
    loop {
        match check() {
            Err(e) if start.elapsed() > PATIENCE => return Err(e.context(what.to_owned())),
            Err(_) => std::thread::sleep(Duration::from_millis(200)),
            Ok(()) => return Ok(()),
        }
    }
}

/// Equal, but for the last digits of a bucket's bounds: each computes them in its own way.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| same(a, b)))
        }
        (Value::String(a), Value::String(b)) => match (a.parse::<f64>(), b.parse::<f64>()) {
            (Ok(a), Ok(b)) => a.to_bits() == b.to_bits() || (a - b).abs() <= 1e-14 * a.abs(),
            _ => a == b,
        },
        _ => a == b,
    }
}

/// Cause: a real Prometheus takes version 1. Seen: at the time of an export it answers for every series, histograms as well,
/// what the agent's own store answers; what the agent's traffic was is what /metrics says; when the agent ends, all series
/// end at once.
#[test]
fn prometheus_knows_what_the_agent_knows() -> Result<()> {
    need_root!("prometheus");
    let mut scene = Scene::echo()?;
    let prometheus = Prometheus::start("", &["--enable-feature=native-histograms"])?;
    let agent = setup(&format!("http://{}/api/v1/write", prometheus.at), 1)
        .arg("--store")
        .arg("memory")
        .start()?;
    let truth = scene.talk(&agent)?;
    let all = "{job=\"geophone\"}";
    let mut compared = 0;
    until("two stores", || {
        let time = number(prometheus.at, "timestamp(up{job=\"geophone\"})")?;
        let theirs = query(prometheus.at, all, Some(time))?;
        let ours = query(agent.at, all, Some(time))?;
        for (labels, value) in &ours {
            let theirs = theirs.get(labels).unwrap_or(&Value::Null);
            ensure!(same(value, theirs), "{labels}: {value}, not {theirs}");
        }
        equal("series", theirs.len(), ours.len())?;
        let is_histogram = |value: &&Value| value[1].is_object();
        ensure!(ours.values().filter(is_histogram).count() > 2, "no histograms");
        ensure!(ours.len() > 100, "only {} series", ours.len());
        compared = ours.len();
        Ok(())
    })?;
    println!("{compared} series are equal");
    let client = scene.client.name();
    for metric in [
        "geophone_tcp_connections_total",
        "geophone_tcp_bytes_total",
        "geophone_tcp_segments_total",
    ] {
        let asked = number(prometheus.at, &format!("sum({metric}{{subject=\"{client}\"}})"))?;
        equal(metric, asked as u64, truth.sum(metric, &[("subject", client)]))?;
    }
    let asked = format!("histogram_count(sum(geophone_tcp_rtt_seconds{{subject=\"{client}\"}}))");
    let want = truth.sum("geophone_tcp_rtt_seconds", &[("subject", client)]);
    equal("round trips", number(prometheus.at, &asked)? as u64, want)?;
    let last = conserved(&agent)?;
    equal("dropped", total(&last, "_dropped_total"), 0)?;
    agent.stop()?;
    equal("series after the end", query(prometheus.at, all, None)?.len(), 0)
}

/// Cause: a Prometheus as it comes, which takes no native histograms. Seen: the log says so, and what to set; once it is set,
/// the quantile is that of classic buckets, and their count that of the API.
#[test]
fn prometheus_without_native_histograms() -> Result<()> {
    need_root!("prometheus");
    let prometheus = Prometheus::start("", &[])?;
    let url = format!("http://{}/api/v1/write", prometheus.at);
    let agent = setup(&url, 1).start()?;
    until("the remedy", || {
        let log = agent.log();
        ensure!(log.contains("set remote_write.histograms: classic"), "{log}");
        Ok(())
    })?;
    agent.stop()?;
    let mut scene = Scene::echo()?;
    let agent = setup(&url, 1)
        .set("export.remote_write.histograms", "classic")
        .start()?;
    let truth = scene.talk(&agent)?;
    let client = scene.client.name();
    let of = format!("{{subject=\"{client}\"}}");
    let want = truth.sum("geophone_tcp_rtt_seconds", &[("subject", client)]);
    for series in ["count", "bucket"] {
        let bound = if series == "bucket" {
            of.replace('}', ",le=\"+Inf\"}")
        } else {
            of.clone()
        };
        prometheus.until(
            &format!("sum(geophone_tcp_rtt_seconds_{series}{bound})"),
            |asked| equal(series, asked as u64, want),
        )?;
    }
    let median = format!("histogram_quantile(0.5, sum by (le) (geophone_tcp_rtt_seconds_bucket{of}))");
    let median = number(prometheus.at, &median)?;
    ensure!(median > 0.0 && median < 1.0, "{median}");
    equal("dropped", total(&conserved(&agent)?, "_dropped_total"), 0)?;
    agent.stop()?;
    Ok(())
}

/// Cause: a receiver of version 2 that checks every rule. Seen: none is broken; values are those of the API; types, help, units
/// and beginnings are there; all it took is counted as sent; all series have ended when the agent has.
#[test]
fn version_2_by_the_book() -> Result<()> {
    need_root!();
    let mut scene = Scene::echo()?;
    let receiver = Receiver::start(obedient)?;
    let agent = setup(&receiver.url, 2)
        .set("export.remote_write.external_labels.dc", "fra")
        .start()?;
    let truth = scene.talk(&agent)?;
    let requests = receiver.seen().requests;
    until("two more exports", || {
        ensure!(receiver.seen().requests > requests + 2, "none");
        Ok(())
    })?;
    let client = scene.client.name().to_owned();
    let subject = ("subject".to_owned(), client.clone());
    {
        let seen = receiver.seen();
        equal("wrong", &seen.wrong, &Vec::new())?;
        for (metric, kind, unit) in [
            ("geophone_tcp_bytes_total", 1, "bytes"),
            ("geophone_tcp_connections_total", 1, ""),
            ("geophone_tcp_rtt_seconds", 3, "seconds"),
        ] {
            let name = ("__name__".to_owned(), metric.to_owned());
            let of: Vec<_> = seen
                .series
                .iter()
                .filter(|(labels, _)| labels.contains(&name) && labels.contains(&subject))
                .collect();
            let sum: f64 = of.iter().map(|(_, latest)| latest.value).sum();
            equal(metric, sum as u64, truth.sum(metric, &[("subject", &client)]))?;
            for (labels, latest) in of {
                ensure!(
                    labels.contains(&("dc".to_owned(), "fra".to_owned())),
                    "{labels:?}"
                );
                equal(
                    metric,
                    (latest.metadata.0, latest.metadata.2.as_str()),
                    (kind, unit),
                )?;
                ensure!(!latest.metadata.1.is_empty() && latest.start > 0, "{latest:?}");
            }
        }
    }
    let last = conserved(&agent)?;
    equal("dropped", total(&last, "_dropped_total"), 0)?;
    ensure!(
        receiver.seen().taken >= total(&last, "_sent_total"),
        "more was sent than taken"
    );
    agent.stop()?;
    let seen = receiver.seen();
    equal("wrong", &seen.wrong, &Vec::new())?;
    let living = seen.series.iter().find(|(_, latest)| !latest.stale);
    ensure!(living.is_none(), "has not ended: {living:?}");
    Ok(())
}

/// Cause: receivers that take a part, say nothing of what they took, ask to wait, fail now and then. Seen: what they did not take
/// is counted under the right reason, what they took as sent, and the log names the cause and the remedy.
#[test]
fn version_2_takes_the_receiver_at_its_word() -> Result<()> {
    need_root!();
    // Of each request the samples, but no histogram.
    let partly = Receiver::start(|_, [samples, _]| (400, written(samples, 0), samples))?;
    let agent = setup(&partly.url, 2).start()?;
    agent.until(|s| {
        ensure!(
            dropped(s, "partial") > 0 && total(s, "_sent_total") > 0,
            "nothing in part"
        );
        Ok(())
    })?;
    let last = conserved(&agent)?;
    equal(
        "other drops",
        total(&last, "_dropped_total"),
        dropped(&last, "partial"),
    )?;
    agent.stop()?;
    equal("wrong", &partly.seen().wrong, &Vec::new())?;

    // As one of version 1 that does not look at the content type.
    let blind = Receiver::start(|_, _| (200, String::new(), 0))?;
    let agent = setup(&blind.url, 2).start()?;
    agent.until(|s| {
        ensure!(dropped(s, "permanent") > 0, "nothing dropped");
        Ok(())
    })?;
    let last = conserved(&agent)?;
    equal("sent", total(&last, "_sent_total"), 0)?;
    ensure!(
        agent.log().contains("set remote_write.protocol: 1"),
        "{}",
        agent.log()
    );
    agent.stop()?;

    // Each request only at the third time.
    let moody = Receiver::start(|number, counts| match number % 3 {
        0 => (503, "Retry-After: 0\r\n".to_owned(), 0),
        1 => (429, String::new(), 0),
        _ => obedient(number, counts),
    })?;
    let agent = setup(&moody.url, 2).start()?;
    agent.until(|s| {
        ensure!(
            s.sum("geophone_export_retries_total", &[EXPORTER]) > 4,
            "no retries"
        );
        Ok(())
    })?;
    let last = conserved(&agent)?;
    ensure!(total(&last, "_sent_total") > 0, "nothing was sent");
    equal(
        "dropped",
        total(&last, "_dropped_total"),
        dropped(&last, "queue_full"),
    )?;
    agent.stop()?;
    equal("wrong", &moody.seen().wrong, &Vec::new())
}

/// Cause: receivers that are not there, that hang, that refuse. Seen: collection goes on; what is dropped is counted; the log
/// says it once; the end comes in time.
#[test]
fn dead_slow_and_refusing_receivers() -> Result<()> {
    need_root!();
    let closed = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let hanging = TcpListener::bind("127.0.0.1:0")?;
    let refusing = Receiver::start(|_, _| (400, String::new(), 0))?;
    let receivers = vec![
        ("closed", format!("http://{closed}/w"), "queue_full"),
        (
            "hanging",
            format!("http://{}/w", hanging.local_addr()?),
            "queue_full",
        ),
        ("refusing", refusing.url.clone(), "permanent"),
    ];
    together(receivers, |(what, url, reason)| {
        let mut agent = setup(&url, 2)
            .set("export.remote_write.queue_size", "1")
            .start()?;
        let (first, start) = (agent.snapshot()?.tick, Instant::now());
        agent.until(|s| {
            ensure!(dropped(s, reason) > 0, "{what}: nothing is dropped as {reason}");
            s.lawful()
        })?;
        agent.after(3)?;
        let last = conserved(&agent).context(what)?;
        equal(what, total(&last, "_sent_total"), 0)?;
        let (ticks, seconds) = (last.tick - first, start.elapsed().as_secs_f64());
        ensure!(
            ticks as f64 >= seconds * 0.7 - 2.0,
            "{what}: {ticks} ticks in {seconds} s"
        );
        let log = agent.log();
        let told = log.lines().filter(|line| line.contains("remote_write")).count();
        ensure!(told == 1, "{what}: {told} lines: {log}");
        agent.signal(Signal::SIGTERM)?;
        let status = agent.wait(Duration::from_secs(10)).context(what)?;
        ensure!(status.success(), "{what}: {status}");
        Ok(())
    })?;
    Ok(())
}
