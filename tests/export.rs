//! What leaves the agent by being asked for: a real Prometheus gets the numbers that the API shows.

use anyhow::{Context as _, Result, ensure};
use tests::harness::command::promtool;
use tests::harness::prometheus::Prometheus;
use tests::harness::{Agent, Scene, Setup, equal, near};
use tests::need_root;

/// Cause: two Prometheus, one that knows native histograms and one that does not. Seen: the totals and the quantiles of
/// the API.
#[test]
fn a_real_prometheus() -> Result<()> {
    need_root!("prometheus");
    let mut scene = Scene::echo()?;
    let agent = Setup::new().set("region", "r1").set("zone", "z1").start()?;
    let config = format!(
        "global: {{scrape_interval: 1s, scrape_timeout: 1s}}\n\
         scrape_configs: [{{job_name: geophone, static_configs: [{{targets: ['{}']}}]}}]\n",
        agent.at
    );
    let classic = Prometheus::start(&config, &[])?;
    let native = Prometheus::start(&config, &["--enable-feature=native-histograms"])?;
    let truth = scene.talk(&agent)?;
    for subject in [scene.client.name(), scene.server.name()] {
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
    need_root!();
    let mut scene = Scene::echo()?;
    let agent = Agent::start()?;
    scene.client.connect_fails("127.0.0.1:9")?;
    let truth = scene.talk(&agent)?;
    promtool(&agent.metrics()?)?;
    let name = scene.client.name();
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
