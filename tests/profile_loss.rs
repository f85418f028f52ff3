//! Probe `profile`: stacks of dropped packets and of segments that are sent again.

use anyhow::{Context as _, Result, ensure};
use std::time::{Duration, Instant};
use tests::harness::agent::{PATIENCE, Scratch};
use tests::harness::stacks::Folded;
use tests::harness::{Agent, End, Scene, Setup, equal, near};
use tests::need_root;

/// An agent that takes such samples; the far end has a name of its own, so that what others lose is not counted here.
fn agent(kind: &str, far: &End) -> Result<Agent> {
    let prefix = far.at(0).replace(":0", "");
    Setup::new()
        .config(format!("peers: [{{ name: lost, cidrs: [{prefix}/32] }}]\n"))
        .set("probes.profile.enabled", "true")
        .set("probes.profile.hz", "1")
        .set(&format!("probes.profile.{kind}"), "true")
        .start()
}

/// The stacks of a kind whose label is this one.
fn folded(agent: &Agent, kind: &str, label: &str) -> Result<Folded> {
    let answer = agent.get(
        &format!("/api/v1/profile?type={kind}&format=folded&from=10m"),
        "*/*",
    )?;
    ensure!(answer.status == 200, "{}", answer.text());
    let mut all = Folded::parse(&answer.text())?;
    all.0
        .retain(|(stack, _)| stack.last().is_some_and(|last| last == label));
    Ok(all)
}

/// Has the client send datagrams, a few at a time, to ports of the other side.
fn send(scene: &mut Scene, port: u16) -> Result<()> {
    for _ in 0..20 {
        scene.client.udp(&scene.net.b.at(port), 20, 100)?;
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// Cause: nft drops what comes in at one end, in a softirq, and what is sent at the other, while the sender runs. Seen: both
/// ways through the kernel, by reason and peer, as many as nft has counted; only the latter with the sender and its own
/// functions.
#[test]
fn where_packets_are_dropped() -> Result<()> {
    need_root!();
    let mut scene = Scene::new()?;
    let rule = |hook: &str, port| {
        format!(
            "table inet t {{ chain c {{ type filter hook {hook} priority 0; udp dport {port} counter drop; }}; }}"
        )
    };
    scene.net.b.ns.nft(&rule("input", 7000))?;
    scene.net.a.ns.nft(&rule("output", 7001))?;
    let agent = agent("drops", &scene.net.b)?;
    let name = scene.client.name().to_owned();
    let through = ["main", "udp_sendmsg_[k]", "nf_hook_slow_[k]"];
    // Its first stacks are from before anybody has looked at it.
    let start = Instant::now();
    while folded(&agent, "drop", "[NETFILTER_DROP lost]")?.through(&through) == 0 {
        ensure!(start.elapsed() < PATIENCE, "the sender is never looked at");
        send(&mut scene, 7001)?;
    }
    send(&mut scene, 7001)?;
    agent.until(|_| {
        let out = folded(&agent, "drop", "[NETFILTER_DROP lost]")?;
        let truth = scene.net.a.ns.nft_counter()? as f64;
        // Others' drops on this machine may make it sample ours more thinly.
        near("dropped on its way out", out.total() as f64, truth, 0.3)?;
        let own = out.count(|stack| stack.first() == Some(&name));
        equal("of the sender", own, out.total())?;
        let whole = out.through(&through);
        ensure!(whole >= 200, "{whole} are whole:\n{}", out.show());
        Ok(())
    })?;
    send(&mut scene, 7000)?;
    agent.until(|_| {
        // What comes in is from this end, which has no name.
        let all = folded(&agent, "drop", "[NETFILTER_DROP private]")?;
        let within = |stack: &[String], function: &str| stack.iter().any(|frame| frame == function);
        let received =
            all.count(|stack| within(stack, "handle_softirqs_[k]") || within(stack, "__do_softirq_[k]"));
        let truth = scene.net.b.ns.nft_counter()? as f64;
        near("dropped on its way in", received as f64, truth, 0.3)?;
        let with_user = all.count(|stack| within(stack, "main") || stack.first() == Some(&name));
        ensure!(with_user == 0, "{with_user} by whoever ran:\n{}", all.show());
        ensure!(
            all.through(&["net_rx_action_[k]", "nf_hook_slow_[k]"]) as f64 > 0.9 * truth,
            "{}",
            all.show()
        );
        Ok(())
    })?;
    agent.settles(|s| s.lawful())
}

/// Cause: nothing reaches the server any more. Seen: the timers that send again, for the client, as often as the kernel says.
#[test]
fn why_segments_are_sent_again() -> Result<()> {
    need_root!();
    let mut scene = Scene::echo()?;
    let agent = agent("retransmits", &scene.net.b)?;
    let connection = scene.connect()?;
    scene.client.ping(connection, 5, 100)?;
    scene
        .net
        .b
        .ns
        .nft("table inet t { chain c { type filter hook input priority 0; meta l4proto tcp drop; }; }")?;
    let before = scene.net.a.ns.counters()?;
    scene.client.send(connection, 1000)?;
    let name = scene.client.name().to_owned();
    agent.until(|_| {
        let truth = scene.net.a.ns.counters()?.since(&before, "Tcp.RetransSegs") as f64;
        ensure!(truth >= 5.0, "only {truth} so far");
        let again = folded(&agent, "retransmit", "[timeout lost]")?;
        let probes = folded(&agent, "retransmit", "[tail_loss_probe lost]")?;
        near("retransmits", (again.total() + probes.total()) as f64, truth, 0.3)?;
        for folded in [&again, &probes] {
            let own = folded.count(|stack| stack.first() == Some(&name));
            ensure!(own == folded.total(), "not of {name}:\n{}", folded.show());
        }
        let by_timer = again.through(&["tcp_retransmit_timer_[k]", "tcp_retransmit_skb_[k]"]);
        ensure!(by_timer == again.total() && by_timer > 0, "{}", again.show());
        Ok(())
    })?;
    agent.settles(|s| s.lawful())
}

/// Cause: the command asks for drops, and nobody is there who takes them. Seen: it looks by itself, and a setting that is
/// not on is named.
#[test]
fn the_command_takes_them_itself() -> Result<()> {
    need_root!();
    let mut scene = Scene::new()?;
    scene.net.b.ns.nft(
        "table inet t { chain c { type filter hook input priority 0; udp dport 7000 counter drop; }; }",
    )?;
    let agent = Setup::new().set("probes.profile.enabled", "true").start()?;
    let refused = agent.get("/api/v1/profile?type=drop", "*/*")?;
    ensure!(
        refused.status == 404 && refused.text().contains("probes.profile.drops"),
        "{} {}",
        refused.status,
        refused.text()
    );
    let scratch = Scratch::new()?;
    let listen = agent.at.to_string();
    let look = std::thread::spawn(move || -> Result<Folded> {
        Folded::take(&scratch, &["--listen", &listen, "--drops", "--for", "5s"])
    });
    while !look.is_finished() {
        scene.client.udp(&scene.net.b.at(7000), 1, 100)?;
        std::thread::sleep(Duration::from_millis(100));
    }
    let seen = look.join().ok().context("the command")??;
    ensure!(
        seen.through(&["nf_hook_slow_[k]", "[NETFILTER_DROP private]"]) >= 20,
        "{}",
        seen.show()
    );
    Ok(())
}
