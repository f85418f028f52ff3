//! What leaves the agent by being asked for: a real Prometheus gets the numbers that the API shows.

use anyhow::{Context as _, Result, ensure};
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tests::harness::agent::{PATIENCE, Scratch};
use tests::harness::command::promtool;
use tests::harness::{Agent, Scene, Setup, equal, near, promql};
use tests::need_root;

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

    /// Asks until the answer is right.
    fn until(&self, query: &str, right: impl Fn(f64) -> Result<()>) -> Result<()> {
        let start = Instant::now();
        loop {
            let error = match promql::number(self.at, query).and_then(&right) {
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
    need_root!("prometheus");
    let mut scene = Scene::echo()?;
    let agent = Setup::new().set("region", "r1").set("zone", "z1").start()?;
    let classic = Prometheus::new(agent.at, &[])?;
    let native = Prometheus::new(agent.at, &["--enable-feature=native-histograms"])?;
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
