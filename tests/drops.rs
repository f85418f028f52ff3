//! Probe `drops`.

use anyhow::{Result, ensure};
use serde_json::json;
use tests::harness::cgroup::Cgroup;
use tests::harness::traffic::Place;
use tests::harness::{Agent, Link, Netns, Scene, Setup, Snapshot, Traffic, equal};
use tests::need_root;

const PACKETS: &str = "geophone_drops_packets_total";

/// Packets dropped for a reason at a device, with what is not under test left out.
fn dropped(s: &Snapshot, reason: &str, device: &str) -> u64 {
    s.sum(PACKETS, &[("reason", reason), ("device", device)])
}

/// Cause: a rule of nft drops. Seen: as many packets as nft has counted, with reason, protocol, device and direction.
#[test]
fn what_nft_drops() -> Result<()> {
    need_root!();
    let mut scene = Scene::new()?;
    scene.net.b.ns.nft(
        "table inet t { chain in { type filter hook input priority 0; udp dport 7000 counter drop; }; }",
    )?;
    // Whatever else is dropped on this machine must not use up the records.
    let agent = Setup::new()
        .set("probes.drops.records_per_second", "1000000")
        .set("limits.ring_bytes", "64MiB")
        .start()?;
    let told = agent.drops("3s", || {
        equal(
            "datagrams sent",
            scene.client.udp(&scene.net.b.at(7000), 500, 100)?,
            500,
        )
    })?;
    let device = scene.net.b.device.as_str();
    agent.settles(|s| {
        let truth = scene.net.b.ns.nft_counter()?;
        equal("nft's counter", truth, 500)?;
        let labels = [
            ("reason", "NETFILTER_DROP"),
            ("protocol", "udp"),
            ("device", device),
            ("direction", "receive"),
        ];
        equal("packets", s.sum(PACKETS, &labels), truth)?;
        // IP header, UDP header, payload; the Ethernet header has been taken off.
        equal("bytes", s.sum("geophone_drops_bytes_total", &labels), truth * 128)?;
        equal("other reasons", s.sum(PACKETS, &[labels[1], labels[2]]), truth)
    })?;
    let told: Vec<_> = told
        .iter()
        .filter(|d| d["device"] == device && d["protocol"] == "udp")
        .collect();
    equal("drops told", told.len(), 500)?;
    for drop in told {
        equal("reason", drop["reason"].as_str(), Some("NETFILTER_DROP"))?;
        equal(
            "destination",
            drop["destination"].as_str(),
            Some(scene.net.b.at(7000).as_str()),
        )?;
        equal("protocol", drop["protocol"].as_str(), Some("udp"))?;
        let place = drop["location"].as_str().unwrap_or_default();
        ensure!(
            place.starts_with("nf_hook_slow") || place.starts_with("nft_") || place.contains("netfilter"),
            "location {place}"
        );
    }
    Ok(())
}

/// Cause: a rule drops what this machine sends. Seen: direction transmit, and whose packet it was.
#[test]
fn what_is_dropped_on_its_way_out() -> Result<()> {
    need_root!();
    let mut scene = Scene::new()?;
    scene.net.a.ns.nft(
        "table inet t { chain o { type filter hook output priority 0; tcp dport 7001 counter drop; }; }",
    )?;
    let agent = Agent::start()?;
    let order = json!({ "do": "connect", "to": scene.net.b.at(7001), "wait_ms": 1500 });
    equal(
        "error",
        scene.client.ask(order)?["error"].as_str(),
        Some("timed_out"),
    )?;
    agent.settles(|s| {
        let truth = scene.net.a.ns.nft_counter()?;
        ensure!(truth > 0, "nothing was dropped");
        let labels = [
            ("reason", "NETFILTER_DROP"),
            ("protocol", "tcp"),
            ("direction", "transmit"),
            ("subject", scene.client.name()),
        ];
        equal("packets", s.sum(PACKETS, &labels), truth)
    })
}

/// Cause: datagrams to a port where nobody listens. Seen: NO_SOCKET, as many as the kernel's NoPorts.
#[test]
fn a_closed_udp_port() -> Result<()> {
    need_root!();
    let mut scene = Scene::new()?;
    let agent = Agent::start()?;
    let before = scene.net.b.ns.counters()?;
    scene.client.udp(&scene.net.b.at(7002), 300, 64)?;
    scene.client.udp(&scene.net.b.at6(7002), 200, 64)?;
    agent.settles(|s| {
        let now = scene.net.b.ns.counters()?;
        equal("the kernel's NoPorts", now.since(&before, "Udp.NoPorts"), 300)?;
        equal("NO_SOCKET", dropped(s, "NO_SOCKET", &scene.net.b.device), 500)
    })
}

/// Cause: a receive queue that nobody empties, of a socket in a cgroup. Seen: SOCKET_RCVBUFF, and whose queue it is. (Without cgroups of version 2 nobody can tell: a datagram
/// is received by whoever is running.)
#[test]
fn a_full_udp_queue_has_an_owner() -> Result<()> {
    need_root!();
    let link = Link::new()?;
    let unit = format!("dns-{}.service", std::process::id());
    let cgroup = Cgroup::new(&unit)?;
    let mut server = Traffic::at(Place {
        netns: Some(&link.b.ns),
        cgroup: Some(cgroup.path()),
        ..Place::default()
    })?;
    let mut client = Traffic::new("cli", &link.a.ns)?;
    let at = server.udp_bind(&link.b.at(0), 4096)?;
    let agent = Agent::start()?;
    let before = link.b.ns.counters()?;
    client.udp(&at, 1000, 200)?;
    agent.settles(|s| {
        let truth = link.b.ns.counters()?.since(&before, "Udp.RcvbufErrors");
        let own = [("subject", unit.as_str())];
        let failures = "geophone_drops_udp_queue_failures_total";
        ensure!(truth > 500, "the queue took all but {truth}");
        ensure!(
            s.sum(failures, &own) == truth,
            "{truth} failures of {unit}, but {:?}",
            s.series(failures, &[])
        );
        equal(
            "drops",
            s.sum(PACKETS, &[own[0], ("reason", "SOCKET_RCVBUFF")]),
            truth,
        )
    })
}

/// Cause: a listener with a backlog of one that never accepts. Seen: its drops, as many as the kernel's ListenDrops.
#[test]
fn a_full_accept_queue() -> Result<()> {
    need_root!();
    let mut scene = Scene::new()?;
    let agent = Agent::start()?;
    let before = scene.net.b.ns.counters()?;
    let at = scene.server.listen(&scene.net.b.at(0), 1)?;
    for _ in 0..10 {
        scene
            .client
            .ask(json!({ "do": "connect", "to": at, "wait_ms": 300 }))?;
    }
    agent.settles(|s| {
        let now = scene.net.b.ns.counters()?;
        let truth = now.since(&before, "TcpExt.ListenDrops");
        ensure!(truth > 0, "the queue was never full");
        let own = [("subject", scene.server.name())];
        equal(
            "listen drops",
            s.sum("geophone_tcp_listen_drops_total", &own),
            truth,
        )
    })
}

/// Cause: nothing in particular goes wrong on a wire that is used. Seen: no drop at its devices.
#[test]
fn what_ends_well_is_no_drop() -> Result<()> {
    need_root!();
    let mut scene = Scene::echo()?;
    let agent = Agent::start()?;
    let both = [scene.net.a.ns.clone(), scene.net.b.ns.clone()];
    let counters = || both.iter().map(Netns::counters).collect::<Result<Vec<_>>>();
    let before = counters()?;
    scene.exchange(20, 50, 3000)?;
    let s = agent.after(3)?;
    let now = counters()?;
    let again = now
        .iter()
        .zip(&before)
        .map(|(now, before)| now.since(before, "Tcp.RetransSegs"));
    let again: u64 = again.sum();
    let devices = [&scene.net.a.device, &scene.net.b.device].map(|d| ("device", d.as_str()));
    let subjects = [&scene.client, &scene.server].map(|t| ("subject", t.name()));
    for own in devices.into_iter().chain(subjects) {
        let mut series = s.series(PACKETS, &[own, ("protocol", "tcp")]);
        // A busy machine answers late, and what came is sent again.
        let twice = s.sum(PACKETS, &[own, ("reason", "TCP_OLD_DATA")]);
        series.retain(|series| twice > again || series.label("reason") != "TCP_OLD_DATA");
        ensure!(series.is_empty(), "drops where all went well: {series:?}");
    }
    Ok(())
}

/// Cause: connections that end at both sides at nearly the same time, so that a FIN is left in the queue of a socket that
/// is gone. Seen: no drop, because nothing was lost; the kernel calls it one.
#[test]
fn a_fin_that_nobody_reads_is_no_drop() -> Result<()> {
    need_root!();
    let mut scene = Scene::alone("echo")?;
    let agent = Agent::start()?;
    scene.storm(3000, 2, 100)?;
    let s = agent.after(3)?;
    let filtered = s.sum(
        "geophone_events_total",
        &[("probe", "drops"), ("stage", "filtered")],
    );
    ensure!(filtered > 0, "the kernel has called none of them a drop");
    for subject in [scene.client.name(), scene.server.name()] {
        let series = s.series(PACKETS, &[("subject", subject), ("reason", "QUEUE_PURGE")]);
        ensure!(series.is_empty(), "drops where all went well: {series:?}");
    }
    Ok(())
}
