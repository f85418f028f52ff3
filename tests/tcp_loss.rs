//! Probe `tcp`: what is sent again.

use anyhow::{Result, ensure};
use serde_json::json;
use std::time::Duration;
use tests::harness::{Agent, Scene, Setup, Snapshot, Traffic, equal};
use tests::need_root;

const RETRANSMITS: &str = "geophone_tcp_retransmits_total";

/// A transfer of which the receiver throws 2 % of the segments away: as many retransmits as the kernel itself counts,
/// and what else must hold of the sender.
fn a_lossy_transfer(agent: Setup, more: impl Fn(&Snapshot, &str) -> Result<()>) -> Result<()> {
    let mut scene = Scene::lossy(2)?;
    let agent = agent.start()?;
    let before = scene.net.a.ns.counters()?;
    scene.deliver(8 << 20)?;
    agent.settles(|s| {
        let truth = scene.net.a.ns.counters()?.since(&before, "Tcp.RetransSegs");
        ensure!(truth > 20, "only {truth} retransmits: the wire loses too little");
        let own = [("subject", scene.client.name())];
        equal("retransmits", s.sum(RETRANSMITS, &own), truth)?;
        more(s, scene.client.name())
    })
}

/// Cause: such a transfer. Seen: as many retransmits as the kernel itself counts, and of which type.
#[test]
fn retransmits_are_the_kernels_own_count() -> Result<()> {
    need_root!();
    a_lossy_transfer(Setup::new(), |s, client| {
        for series in s.series(RETRANSMITS, &[("subject", client)]) {
            let known = ["fast", "tail_loss_probe", "timeout", "synack"];
            ensure!(known.contains(&series.label("type")), "{:?}", series.labels);
        }
        ensure!(
            s.sum(RETRANSMITS, &[("subject", client), ("type", "fast")]) > 0,
            "2 % of a long transfer are repaired by fast retransmits"
        );
        Ok(())
    })
}

/// Cause: loss, and segments that still wait in the sender's own queue when they are to be sent again: the kernel tries
/// and gives up (TcpExt.TCPSpuriousRtxHostQueues). Seen: what was sent again, not what was tried. Since 6.17 the
/// tracepoint reports both.
#[test]
fn a_retransmit_that_failed_is_none() -> Result<()> {
    need_root!();
    let mut scene = Scene::lossy(3)?;
    let device = &scene.net.a.device;
    scene.net.a.ns.run(&format!(
        "tc qdisc add dev {device} root tbf rate 4mbit burst 8k latency 4s"
    ))?;
    scene.net.a.ns.sysctl("net.ipv4.tcp_congestion_control", "reno")?;
    let agent = Agent::start()?;
    let before = scene.net.a.ns.counters()?;
    // Datagrams fill the queue all of a sudden: segments behind them are still there when their timer runs out.
    let mut others = (0..6)
        .map(|_| Traffic::new("udp", &scene.net.a.ns))
        .collect::<Result<Vec<_>>>()?;
    let burst = json!({ "do": "udp", "to": scene.net.b.at(7002), "count": 150, "size": 1400 });
    for _ in 0..3 {
        let connection = scene.connect()?;
        let order = json!({ "do": "send", "id": connection, "bytes": 600_000 });
        scene.client.give(&order)?;
        std::thread::sleep(Duration::from_millis(300));
        for other in &mut others {
            other.give(&burst)?;
        }
        for other in &mut others {
            other.answer(&burst)?;
        }
        scene.client.answer(&order)?;
        scene.client.close(connection)?;
    }
    let own = [("subject", scene.client.name())];
    agent.settles(|s| {
        let now = scene.net.a.ns.counters()?;
        let failed = now.since(&before, "TcpExt.TCPSpuriousRtxHostQueues");
        let truth = now.since(&before, "Tcp.RetransSegs");
        println!("{failed} retransmits failed, {truth} did not");
        equal("retransmits", s.sum(RETRANSMITS, &own), truth)
    })
}

/// The same, and an agent without kernel types. Seen: sock_ops counts the same.
#[test]
fn retransmits_without_kernel_types() -> Result<()> {
    need_root!();
    a_lossy_transfer(Setup::new().arg("--btf").arg("/dev/null"), |_, _| Ok(()))
}
