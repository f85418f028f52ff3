//! Probe `tunnel`: what passes the underlay against what the tunnel devices and nft have counted.

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::process::Stdio;
use std::time::{Duration, Instant};
use tests::harness::cli::geophone;
use tests::harness::tunnels::{Mouth, dropped, links, lose, ping, vxlan, watching};
use tests::harness::{End, Link, Setup, Snapshot, WireGuard, command, equal};
use tests::need_root;

const BYTES: &str = "geophone_tunnel_bytes_total";
const INNER: &str = "geophone_tunnel_inner_bytes_total";
const PACKETS: &str = "geophone_tunnel_packets_total";
/// Programs are where they belong within this time of the cause.
const LOOK: Duration = Duration::from_secs(5);

/// (packets, bytes) by direction, as the tunnel device counts them.
fn device_counts(end: &End, mouth: &Mouth) -> Result<[(u64, u64); 2]> {
    let text = end.ns.ip(&format!("-j -s link show {}", mouth.device))?;
    let json: Value = serde_json::from_str(&text)?;
    let count = |side: &str| -> Result<(u64, u64)> {
        let of = |what: &str| json[0]["stats64"][side][what].as_u64().context("no statistics");
        Ok((of("packets")?, of("bytes")?))
    };
    Ok([count("rx")?, count("tx")?])
}

/// Whether a link is there.
fn exists(link: u64) -> bool {
    command::run(&format!("bpftool link show id {link}")).is_ok()
}

/// Cause: pings through a VXLAN of an unusual port. Seen: the packets and bytes that its device has counted.
#[test]
fn a_vxlan_is_counted_as_its_device_counts() -> Result<()> {
    need_root!("ping");
    let link = Link::new()?;
    let [here, there] = vxlan(&link, 77, 4799)?;
    let agent = Setup::new().inside(&link.a.ns).start()?;
    watching(&agent, &link.a.device)?;
    let before = device_counts(&link.a, &here)?;
    ping(&link.a, &there, "-c 50 -i 0.02 -s 300")?;
    let after = device_counts(&link.a, &here)?;
    let (local, remote) = (link.a.v4.to_string(), link.b.v4.to_string());
    agent.settles(|s| {
        for (i, direction) in ["receive", "transmit"].into_iter().enumerate() {
            let labels = [
                ("type", "vxlan"),
                ("id", "77"),
                ("local", local.as_str()),
                ("remote", remote.as_str()),
                ("direction", direction),
            ];
            let packets = after[i].0 - before[i].0;
            ensure!(packets >= 50, "{packets} packets");
            equal("packets", s.sum(PACKETS, &labels), packets)?;
            // The device counts without the inner Ethernet header; outside are Ethernet, IPv4, UDP and VXLAN.
            let inner = after[i].1 - before[i].1 + 14 * packets;
            equal("inner bytes", s.sum(INNER, &labels), inner)?;
            equal("bytes", s.sum(BYTES, &labels), inner + 50 * packets)?;
        }
        let classes = s.values(PACKETS, "class");
        ensure!(
            classes.contains("ipv4_icmp") && !classes.contains("other"),
            "{classes:?}"
        );
        s.lawful()
    })
}

/// Cause: no tunnel, then one; somebody detaches our program; the agent is killed. Seen: nothing attached, attached,
/// attached again with the gap told, nothing left.
#[test]
fn programs_come_with_the_tunnel_come_back_and_leave_nothing() -> Result<()> {
    need_root!("bpftool");
    let link = Link::new()?;
    let mut agent = Setup::new().inside(&link.a.ns).start()?;
    agent.after(4)?;
    equal("links without a tunnel", links(&agent)?.len(), 0)?;
    ensure!(!agent.attached("tunnel_ingress")?, "attached without a tunnel");
    let status = agent.status()?.to_string();
    ensure!(status.contains("no tunnel on this machine"), "{status}");

    vxlan(&link, 5, 4789)?;
    let took = watching(&agent, &link.a.device)?;
    ensure!(took < LOOK, "{took:?}");
    let held = links(&agent)?;
    equal("links", held.len(), 2)?;
    ensure!(held.iter().all(|id| exists(*id)), "bpftool sees no {held:?}");

    let start = Instant::now();
    command::run(&format!("bpftool link detach id {}", held[0]))?;
    agent.until(|s| equal("gaps", s.sum("geophone_tunnel_watch_gaps_total", &[]), 1))?;
    ensure!(
        start.elapsed() < LOOK + Duration::from_secs(1),
        "{:?}",
        start.elapsed()
    );
    watching(&agent, &link.a.device)?;
    ensure!(agent.log().contains("somebody has detached"), "{}", agent.log());

    let held = links(&agent)?;
    equal("links", held.len(), 2)?;
    agent.signal(Signal::SIGKILL)?;
    let _ = agent.wait(LOOK)?;
    ensure!(!held.iter().any(|id| exists(*id)), "a dead agent has links");
    Ok(())
}

/// Cause: somebody's own filter drops everything that comes in. Seen: the packets all the same, for we are first, and
/// the filter does what it did, before, during and after.
#[test]
fn filters_of_others_keep_working() -> Result<()> {
    need_root!("tc", "ping");
    let link = Link::new()?;
    let [_, there] = vxlan(&link, 6, 4789)?;
    ping(&link.a, &there, "-c 1")?;
    let device = &link.a.device;
    link.a.ns.run(&format!("tc qdisc add dev {device} clsact"))?;
    // Classic BPF: drop all.
    command::output(link.a.ns.command("tc").args([
        "filter",
        "add",
        "dev",
        device,
        "ingress",
        "protocol",
        "ip",
        "prio",
        "7",
        "bpf",
        "da",
        "bytecode",
        "1,6 0 0 2",
    ]))?;
    let filters = || link.a.ns.run(&format!("tc filter show dev {device} ingress"));
    let before = filters()?;
    ensure!(
        ping(&link.a, &there, "-c 2 -i 0.1").is_err(),
        "the filter does not drop"
    );
    let agent = Setup::new().inside(&link.a.ns).start()?;
    watching(&agent, device)?;
    ensure!(
        ping(&link.a, &there, "-c 5 -i 0.1").is_err(),
        "the filter does not drop any more"
    );
    agent.settles(|s| {
        let received = s.sum(PACKETS, &[("direction", "receive"), ("class", "ipv4_icmp")]);
        equal("packets before the filter", received, 5)
    })?;
    equal("filters", filters()?, before.clone())?;
    agent.stop()?;
    equal("filters afterwards", filters()?, before)
}

fn wireguard(s: &Snapshot, metric: &str) -> u64 {
    s.sum(metric, &[("type", "wireguard")])
}

fn state(s: &Snapshot) -> Result<(String, String)> {
    let all = s.series("geophone_tunnel_state", &[("type", "wireguard")]);
    let one = all.first().context("no state")?;
    Ok((one.label("state").to_owned(), one.label("reason").to_owned()))
}

/// Cause: a userspace WireGuard, first whole, then with losses behind the sender, then cut, then healed. Seen: nothing
/// lost, exactly what nft has dropped, down within 5 s, up.
#[test]
fn a_wireguard_tunnel_tells_loss_and_life() -> Result<()> {
    need_root!("wireguard-go", "wg", "nft", "ping");
    let link = Link::new()?;
    let agent = Setup::new().inside(&link.a.ns).start()?;
    let tunnel = WireGuard::new(&link)?;
    let there = &tunnel.mouths[1];
    watching(&agent, &link.a.device)?;
    ping(&link.a, there, "-c 500 -i 0.002 -s 400")?;
    agent.settles(|s| {
        ensure!(
            wireguard(s, "geophone_tunnel_sequenced_packets_total") >= 500,
            "too few"
        );
        equal(
            "lost of nothing",
            wireguard(s, "geophone_tunnel_lost_packets_total"),
            0,
        )?;
        equal(
            "duplicated",
            wireguard(s, "geophone_tunnel_duplicated_packets_total"),
            0,
        )?;
        equal("state", state(s)?, ("up".to_owned(), String::new()))?;
        ensure!(
            wireguard(s, "geophone_tunnel_handshake_seconds") >= 1,
            "no handshake"
        );
        s.lawful()
    })?;

    // Only the answers: a lost question has none. 200 bytes leave handshakes and keepalives alone.
    lose(&link.b, "udp length > 200 numgen random mod 100 < 5")?;
    const SENT: u64 = 4000;
    ping(&link.a, there, &format!("-c {SENT} -i 0.002 -s 400"))?;
    let truth = dropped(&link.b)?;
    link.b.ns.nft("delete table netdev loss")?;
    // What is lost at the end shows when something comes after it.
    ping(&link.a, there, "-c 3 -i 0.2")?;
    let lost = agent.settles(|s| {
        let lost = wireguard(s, "geophone_tunnel_lost_packets_total");
        equal("lost", lost, truth).map(|()| lost)
    })?;
    // That it is nft's own count is the proof. That nft drops what it was told to: 99 % of the binomial distribution lie
    // within 2.58 standard deviations, but one run of a hundred is too many to fail; of 4.5 it is one of 150,000.
    let (mean, deviation) = (SENT as f64 * 0.05, (SENT as f64 * 0.05 * 0.95).sqrt());
    ensure!(
        (lost as f64 - mean).abs() < 4.5 * deviation + 1.0,
        "{lost} of {SENT}"
    );
    agent.until(|s| equal("state", state(s)?, ("degraded".to_owned(), "loss".to_owned())))?;

    let mut talk = link
        .a
        .ns
        .command("ping")
        .args(["-q", "-i", "0.2", &there.v4.to_string()])
        .stdout(Stdio::null())
        .spawn()?;
    agent.after(5)?;
    lose(&link.b, "udp sport 51820")?;
    let start = Instant::now();
    let down = agent.until(|s| equal("state", state(s)?.0, "down".to_owned()));
    let took = start.elapsed();
    let healed = link.b.ns.nft("delete table netdev loss");
    let back = agent.until(|s| {
        let (state, _) = state(s)?;
        ensure!(state == "up" || state == "degraded", "{state}");
        Ok(())
    });
    talk.kill()?;
    talk.wait()?;
    down?;
    healed?;
    back?;
    ensure!(took < Duration::from_secs(6), "down after {took:?}");
    Ok(())
}

/// Through the programs themselves, by BPF_PROG_TEST_RUN: the command fails if a packet is taken for what it is not, or
/// if one is in no account.
#[test]
fn packets_of_every_kind_are_what_they_are_and_have_a_price() -> Result<()> {
    need_root!();
    let out = geophone(&["bench-packets", "--rounds", "1"])?;
    ensure!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let found: Value = serde_json::from_slice(&out.stdout)?;
    let packets = found["packets"].as_array().context("no packets")?;
    for program in ["tunnel_ingress", "tunnel_egress"] {
        for (kind, least) in [("plain", 10), ("tunnel", 18)] {
            let of = packets
                .iter()
                .filter(|p| p["program"] == program && p["kind"] == kind);
            let priced = of.filter(|p| p["nanos"].as_f64().is_some_and(|ns| ns < 5000.0));
            let count = priced.count();
            ensure!(count >= least, "{program}: {count} packets of {kind}");
        }
    }
    Ok(())
}
