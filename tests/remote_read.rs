//! Another Prometheus has all that the agent's store holds, by remote read.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use std::time::SystemTime;
use tests::harness::prometheus::{Prometheus, query};
use tests::harness::{Scene, Setup, equal};
use tests::need_root;

/// Cause: a Prometheus with no data of its own reads the agent's store. Seen: whatever it is asked, it answers what the agent
/// answers; and the agent counts what was asked of it by path.
#[test]
fn a_prometheus_reads_the_store() -> Result<()> {
    need_root!("prometheus");
    let mut scene = Scene::echo()?;
    let agent = Setup::new().arg("--store").arg("memory").start()?;
    let config = format!(
        "remote_read: [{{url: 'http://{}/api/v1/read', read_recent: true}}]\n",
        agent.at
    );
    let prometheus = Prometheus::start(&config, &[])?;
    scene.talk(&agent)?;
    agent.after(3)?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    let time = now.as_secs_f64() - 1.0;
    let client = scene.client.name();
    let bytes = format!("geophone_tcp_bytes_total{{subject=\"{client}\"}}");
    // No histograms: Prometheus 2.42 leaves out those of an answer.
    for (asked, least) in [
        ("{job=\"geophone\",__name__!~\".*_seconds\"}".to_owned(), 100),
        (format!("increase({bytes}[10s])"), 1),
        (
            "count by (__name__) ({__name__=~\"geophone_tcp.+_total\",instance!=\"\"})".to_owned(),
            5,
        ),
        (format!("sum(max_over_time({bytes}[5s:1s] offset 1s))"), 1),
        ("{job=\"geophone\",outcome=~\"opened|closed\"}".to_owned(), 2),
        ("absent(geophone_of_nothing)".to_owned(), 1),
    ] {
        let (ours, theirs) = (
            query(agent.at, &asked, Some(time))?,
            query(prometheus.at, &asked, Some(time))?,
        );
        ensure!(ours.len() >= least, "{asked}: {} elements", ours.len());
        equal(&asked, &theirs, &ours)?;
    }
    for path in ["/api/v1/labels", "/api/v1/label/job/values"] {
        let answer = agent.get(path, "*/*")?;
        equal(path, answer.status, 200)?;
    }
    let counted = |path: &str, code: &str| {
        agent.until(|s| {
            let filter = [("path", path), ("code", code)];
            let count = s.sum("geophone_api_requests_total", &filter);
            ensure!(count > 0, "{path} is not counted");
            Ok(count)
        })
    };
    ensure!(
        counted("/api/v1/read", "2xx")? >= 6,
        "each query is a question at least"
    );
    equal("label values", counted("/api/v1/label/{name}/values", "2xx")?, 1)?;
    let answer = agent.get("/api/v1/read", "*/*")?;
    equal("GET", answer.status, 405)?;
    // What it has taken in is not its own.
    let tsdb: Value = serde_json::from_slice(
        &tests::harness::http::get(None, prometheus.at, "/api/v1/status/tsdb", "*/*")?.body,
    )?;
    let series = tsdb["data"]["headStats"]["numSeries"]
        .as_u64()
        .context("no tsdb status")?;
    equal("series of its own", series, 0)
}
