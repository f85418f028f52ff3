//! Health: from a lossy link to a sentence about it.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use std::time::{Duration, Instant};
use tests::harness::{Scene, Setup};
use tests::need_root;

/// Cause: of a peer's packets one in twelve is lost, of the loopback's none. Seen: that peer is not healthy, loss is why, who talks to
/// it is told so; the other peer is as good as it can be; and what is not known costs no points.
#[test]
fn loss_costs_the_peer_points_and_says_so() -> Result<()> {
    need_root!();
    let mut scene = Scene::lossy(8)?;
    let agent = Setup::new()
        .config("store: {kind: memory}")
        .inside(&scene.net.a.ns)
        .start()?;
    let start = Instant::now();
    let all = loop {
        scene.deliver(400_000)?;
        let text = agent.command("health", &["--json"]);
        let all: Vec<Value> = text
            .ok()
            .and_then(|text| serde_json::from_str(&text).ok())
            .unwrap_or_default();
        let peer = |name: &str| {
            all.iter()
                .any(|e| e["entity"] == "peer" && e["name"] == name && e["state"] != "healthy")
        };
        if peer("private") {
            break all;
        }
        ensure!(
            start.elapsed() < Duration::from_secs(90),
            "still healthy: {all:?}\n{}",
            agent.log()
        );
    };
    let lossy = all
        .iter()
        .find(|e| e["entity"] == "peer" && e["name"] == "private")
        .context("no peer")?;
    ensure!(lossy["lost"][0]["factor"] == "loss", "{lossy}");
    ensure!(lossy["score"].as_f64().context("no score")? < 90.0, "{lossy}");
    // Five minutes make a baseline of latencies.
    let unknown = lossy["unknown"].as_array().context("unknown")?;
    ensure!(unknown.iter().any(|factor| factor == "latency"), "{lossy}");
    ensure!(
        lossy["confidence"].as_f64().context("no confidence")? < 1.0,
        "{lossy}"
    );
    let told = agent.command("health", &["peer/private"])?;
    ensure!(told.contains("% of the segments are sent again"), "{told}");
    // Whose fault it is, or why that cannot be said.
    let roles = ["cause", "symptom", "unclear"];
    ensure!(roles.iter().any(|role| lossy["role"] == *role), "{lossy}");
    ensure!(told.contains("  cause") || told.contains("  symptom"), "{told}");
    let subjects = all.iter().filter(|e| e["entity"] == "subject");
    let dependent = subjects.filter(|e| {
        e["depends_on"]
            .as_array()
            .is_some_and(|on| on.iter().any(|peer| peer == "private"))
    });
    ensure!(dependent.count() > 0, "nobody depends on it: {all:?}");
    if let Some(here) = all
        .iter()
        .find(|e| e["entity"] == "peer" && e["name"] == "loopback")
    {
        ensure!(here["score"].as_f64().context("no score")? > 99.0, "{here}");
    }
    agent.command("health", &["--rules"]).map(|_| ())
}
