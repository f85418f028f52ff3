//! Health: from a lossy link to a sentence about it.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tests::harness::{Scene, Setup, Traffic, equal};
use tests::need_root;

/// Who is not healthy: a name of its own, for others may talk to private addresses on this machine as well.
const PEER: &str = "lossy-server";

/// Cause: of a peer's packets one in twelve is lost, of the loopback's none, and one talks to both and to nobody else. Seen: that peer
/// is not healthy, loss is why, who talks to it is told so, and that nobody can say which of the two it is, for the loopback leads
/// nowhere; the loopback is as good as it can be; and what is not known costs no points.
#[test]
fn loss_costs_the_peer_points_and_says_so() -> Result<()> {
    need_root!();
    let mut scene = Scene::lossy(8)?;
    let mut here = Traffic::new("here", &scene.net.a.ns)?;
    let here = scene.client.connect(&here.serve("127.0.0.1:0", "echo")?)?;
    let agent = Setup::new()
        .config(format!(
            "store: {{kind: memory}}\npeers: [{{name: {PEER}, cidrs: [{}]}}]",
            scene.net.b.v4
        ))
        .inside(&scene.net.a.ns)
        .start()?;
    let start = Instant::now();
    let all = loop {
        scene.deliver(400_000)?;
        scene.client.ping(here, 5, 100)?;
        let text = agent.command("health", &["--json"]);
        let all: Vec<Value> = text
            .ok()
            .and_then(|text| serde_json::from_str(&text).ok())
            .unwrap_or_default();
        if find(&all, "peer", PEER).is_ok_and(|peer| peer["state"] != "healthy") {
            break all;
        }
        ensure!(
            start.elapsed() < Duration::from_secs(90),
            "still healthy: {all:?}\n{}",
            agent.log()
        );
    };
    let lossy = find(&all, "peer", PEER)?;
    ensure!(lossy["lost"][0]["factor"] == "loss", "{lossy}");
    ensure!(lossy["score"].as_f64().context("no score")? < 90.0, "{lossy}");
    // Five minutes make a baseline of latencies.
    let unknown = lossy["unknown"].as_array().context("unknown")?;
    ensure!(unknown.iter().any(|factor| factor == "latency"), "{lossy}");
    ensure!(
        lossy["confidence"].as_f64().context("no confidence")? < 1.0,
        "{lossy}"
    );
    let told = agent.command("health", &[&format!("peer/{PEER}")])?;
    ensure!(told.contains("% of the segments are sent again"), "{told}");
    let client = find(&all, "subject", scene.client.name())?;
    for one in [lossy, client] {
        equal("role", one["role"].as_str(), Some("unclear"))?;
    }
    ensure!(
        told.contains("  cause or symptom: not to be told apart"),
        "{told}"
    );
    equal("what it depends on", &client["depends_on"], &json!([PEER]))?;
    let loopback = find(&all, "peer", "loopback")?;
    ensure!(
        loopback["score"].as_f64().context("no score")? > 99.0,
        "{loopback}"
    );
    agent.command("health", &["--rules"]).map(|_| ())
}

fn find<'a>(all: &'a [Value], kind: &str, name: &str) -> Result<&'a Value> {
    let found = all
        .iter()
        .find(|one| one["entity"] == kind && one["name"] == name);
    found.with_context(|| format!("no {kind} {name}: {all:?}"))
}
