//! Probe `netdev`.

use anyhow::{Context as _, Result, ensure};
use std::time::{Duration, Instant};
use tests::harness::{Link, Scene, Setup, equal};
use tests::need_root;

/// Cause: traffic on a veth. Seen: the kernel's own counters, in the agent's namespace.
#[test]
fn counters_are_the_kernels() -> Result<()> {
    need_root!();
    let mut scene = Scene::echo()?;
    let agent = Setup::new().inside(&scene.net.a.ns).start()?;
    scene.exchange(1, 200, 10_000)?;
    let device = scene.net.a.device.as_str();
    agent.settles(|s| {
        let text = scene.net.a.ns.ip(&format!("-j -s link show {device}"))?;
        let json: serde_json::Value = serde_json::from_str(&text)?;
        for (direction, side) in [("receive", "rx"), ("transmit", "tx")] {
            for (metric, column) in [
                ("geophone_netdev_bytes_total", "bytes"),
                ("geophone_netdev_packets_total", "packets"),
                ("geophone_netdev_errors_total", "errors"),
                ("geophone_netdev_drops_total", "dropped"),
            ] {
                let truth = json[0]["stats64"][side][column]
                    .as_u64()
                    .context("no statistics")?;
                let labels = [("device", device), ("direction", direction)];
                equal(metric, s.sum(metric, &labels), truth)?;
            }
        }
        let sent = [("device", device), ("direction", "transmit")];
        ensure!(
            s.sum("geophone_netdev_bytes_total", &sent) > 2_000_000,
            "too little"
        );
        equal("up", s.number("geophone_netdev_up", &[("device", device)])?, 1.0)
    })
}

/// Cause: an interface comes and goes. Seen: it does so in the series, within the tick or two that it takes.
#[test]
fn interfaces_come_and_go() -> Result<()> {
    need_root!();
    let link = Link::new()?;
    let agent = Setup::new().inside(&link.a.ns).start()?;
    let there = |name: &str, up: Option<f64>| -> Result<Duration> {
        let start = Instant::now();
        agent.until(|s| {
            let found = s.number("geophone_netdev_up", &[("device", name)]).ok();
            equal(name, found, up)
        })?;
        Ok(start.elapsed())
    };
    link.a.ns.ip("link add newcomer type veth peer name other")?;
    link.a.ns.ip("link set newcomer up")?;
    let first = agent.snapshot()?.tick;
    there("newcomer", Some(0.0))?;
    let ticks = agent.snapshot()?.tick - first;
    ensure!(ticks <= 2, "it took {ticks} ticks");
    link.a.ns.ip("link set other up")?;
    there("newcomer", Some(1.0))?;
    link.a.ns.ip("link set newcomer name renamed").or_else(|_| {
        // Older kernels rename only what is down.
        link.a.ns.ip("link set newcomer down")?;
        link.a.ns.ip("link set newcomer name renamed")?;
        link.a.ns.ip("link set renamed up")
    })?;
    there("renamed", Some(1.0))?;
    there("newcomer", None)?;
    link.a.ns.ip("link del renamed")?;
    there("renamed", None)?;
    Ok(())
}

/// Cause: a pattern that leaves interfaces out. Seen: the others.
#[test]
fn excluded_interfaces_are_not_there() -> Result<()> {
    need_root!();
    let link = Link::new()?;
    let agent = Setup::new()
        .inside(&link.a.ns)
        .config("probes: {netdev: {exclude: [\"g*a\"]}}\n")
        .start()?;
    let names = agent.after(1)?.values("geophone_netdev_bytes_total", "device");
    ensure!(names.contains("lo"), "{names:?}");
    ensure!(!names.contains(&link.a.device), "{names:?}");
    Ok(())
}
