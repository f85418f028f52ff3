//! Probe `tunnel`: what becomes a row and what does not, and which devices are watched for it.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use std::collections::BTreeSet;
use std::net::{Ipv4Addr, UdpSocket};
use std::process::Stdio;
use std::time::{Duration, Instant};
use tests::harness::tunnels::{ping, vxlan, watching};
use tests::harness::{Agent, Link, Netns, Setup, Snapshot, equal};
use tests::need_root;

const PACKETS: &str = "geophone_tunnel_packets_total";
const STRANGERS: &str = "geophone_tunnel_stranger_packets_total";

/// Sends VXLAN datagrams with so many ids of their own, the first of which is given.
fn forge(link: &Link, from: Ipv4Addr, first: u32, ids: u32) -> Result<()> {
    let to = (link.a.v4, 4789);
    link.b.ns.enter(|| {
        let socket = UdpSocket::bind((from, 0))?;
        for id in first..first + ids {
            let mut datagram = vec![8, 0, 0, 0];
            datagram.extend((id << 8).to_be_bytes());
            // An ARP frame of nobody.
            datagram.extend([0; 12]);
            datagram.extend([8, 6]);
            datagram.extend([0; 46]);
            socket.send_to(&datagram, to)?;
        }
        Ok(())
    })
}

/// Cause: somebody without a tunnel sends datagrams of 300 tunnels, then the same with the address of one that has.
/// Seen: no row, and every packet counted as a stranger's; no more rows than one end may have; and a tunnel that begins
/// afterwards has its own.
#[test]
fn forged_packets_do_not_fill_the_table() -> Result<()> {
    need_root!("ping");
    let link = Link::new()?;
    let [_, there] = vxlan(&link, 42, 4789)?;
    let forger = Ipv4Addr::new(10, 252, 7, 7);
    link.b
        .ns
        .ip(&format!("addr add {forger}/32 dev {}", link.b.device))?;
    link.a
        .ns
        .ip(&format!("route add {forger}/32 dev {}", link.a.device))?;
    let agent = Setup::new().inside(&link.a.ns).start()?;
    watching(&agent, &link.a.device)?;
    ping(&link.a, &there, "-c 5 -i 0.01")?;
    let other = |s: &Snapshot| s.sum(PACKETS, &[("type", "other"), ("direction", "receive")]);
    forge(&link, forger, 1000, 300)?;
    agent.settles(|s| {
        equal("strangers", s.sum(STRANGERS, &[]), 300)?;
        equal("in other", other(s), 300)?;
        equal("tunnels", s.number("geophone_tunnels", &[])?, 1.0)?;
        s.lawful()
    })?;

    forge(&link, link.b.v4, 2000, 300)?;
    let rows = agent.settles(|s| {
        let rows = s.number("geophone_tunnels", &[])? as u64;
        ensure!((2..=65).contains(&rows), "{rows} rows");
        equal("strangers", s.sum(STRANGERS, &[]), 600 - (rows - 1))?;
        s.lawful()?;
        Ok(rows)
    })?;

    let [_, late] = vxlan(&link, 43, 4789)?;
    ping(&link.a, &late, "-c 5 -i 0.01")?;
    agent.settles(|s| {
        let received = [("id", "43"), ("direction", "receive"), ("class", "ipv4_icmp")];
        equal("packets", s.sum(PACKETS, &received), 5)?;
        equal("tunnels", s.number("geophone_tunnels", &[])? as u64, rows + 1)
    })
}

/// Cause: a pair that is met first and says little, then one that says much, where only one has series. Seen: the busier
/// one takes them; no counter ever falls; all of them together are what the tunnel has carried since.
#[test]
fn the_busiest_pair_has_the_series() -> Result<()> {
    need_root!("ping");
    let link = Link::new()?;
    let [here, there] = vxlan(&link, 44, 4789)?;
    let busy = Ipv4Addr::new(
        there.v4.octets()[0],
        there.v4.octets()[1],
        there.v4.octets()[2],
        77,
    );
    link.b
        .ns
        .ip(&format!("addr add {busy}/24 dev {}", there.device))?;
    let agent = Setup::new()
        .inside(&link.a.ns)
        .set("probes.tunnel.inner_pairs", "1")
        .start()?;
    watching(&agent, &link.a.device)?;
    const BYTES: &str = "geophone_tunnel_inner_pair_bytes_total";
    let pair = |s: &Snapshot, remote: &str| s.sum(BYTES, &[("inner_remote", remote)]);
    let other = |s: &Snapshot| s.sum(BYTES, &[("inner_local", "other")]);
    ping(&link.a, &there, "-c 3 -i 0.2")?;
    let first = there.v4.to_string();
    agent.settles(|s| {
        ensure!(pair(s, &first) > 0, "the first has no series");
        Ok(())
    })?;
    let mut talk = link.a.ns.command("ping");
    talk.args(["-q", "-i", "0.01", "-s", "1000", &busy.to_string()])
        .stdout(Stdio::null());
    let mut talk = talk.spawn()?;
    let mut before = 0;
    let busy = busy.to_string();
    let taken = agent.until(|s| {
        ensure!(pair(s, &busy) > 0, "the busier one has no series");
        equal(
            "of the first",
            s.series(BYTES, &[("inner_remote", &first)]).len(),
            0,
        )?;
        Ok([
            other(s),
            pair(s, &busy),
            s.sum("geophone_tunnel_inner_bytes_total", &[]),
        ])
    });
    let later = agent.after(3);
    talk.kill()?;
    talk.wait()?;
    let taken = taken?;
    for s in [later?, agent.after(2)?] {
        ensure!(other(&s) >= taken[0].max(before), "`other` has fallen");
        before = other(&s);
        let grown = s.sum("geophone_tunnel_inner_bytes_total", &[]) - taken[2];
        let pairs = other(&s) + pair(&s, &busy) - taken[0] - taken[1];
        equal("growth of all pairs", pairs, grown)?;
    }
    let shown = agent.command("tunnels", &["--pairs"])?;
    let pair = |line: &str| line.contains(&here.v4.to_string()) && line.contains(&busy);
    ensure!(shown.lines().any(pair), "{shown}");
    let rows: Value = serde_json::from_str(&agent.command("tunnels", &["--json"])?)?;
    equal(
        "in JSON",
        rows[0]["pairs"][0]["remote"].as_str(),
        Some(busy.as_str()),
    )?;
    equal(
        "in JSON, last",
        rows[0]["pairs"][1]["local"].as_str(),
        Some("other"),
    )
}

/// A namespace with devices, each with a network of its own: 10.253.I.0/24.
fn crossroads(devices: usize) -> Result<(Netns, Vec<String>)> {
    let ns = Netns::new()?;
    let names: Vec<String> = (1..=devices).map(|i| format!("road{i}")).collect();
    for (i, name) in names.iter().enumerate() {
        ns.ip(&format!("link add {name} type veth peer name {name}p"))?;
        ns.ip(&format!("link set {name}p up"))?;
        ns.ip(&format!("addr add 10.253.{}.1/24 dev {name}", i + 1))?;
        ns.ip(&format!("link set {name} up"))?;
    }
    Ok((ns, names))
}

/// Waits until exactly these devices are watched.
fn watched(agent: &Agent, devices: &[&String]) -> Result<()> {
    let wanted: BTreeSet<String> = devices.iter().map(|d| (*d).clone()).collect();
    let start = Instant::now();
    loop {
        let s = agent.snapshot()?;
        let all = s.series("geophone_tunnel_watched", &[]);
        let on = all.iter().filter(|series| series.value.as_f64() == Some(1.0));
        let on: BTreeSet<String> = on.map(|series| series.label("device").to_owned()).collect();
        if on == wanted {
            return Ok(());
        }
        ensure!(
            start.elapsed() < Duration::from_secs(20),
            "watched: {on:?}, not {wanted:?}"
        );
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Cause: a VXLAN that is bound to no address, whose forwarding table comes to name a second end; then one whose route has two
/// next hops; then one that names no other end, without a default route and with one. Seen: only the devices that these ways
/// take are watched, and all of them: of the last all there are, then that of the default route.
#[test]
fn only_the_devices_of_the_way_are_watched() -> Result<()> {
    need_root!("bridge");
    let (ns, roads) = crossroads(4)?;
    let agent = Setup::new().inside(&ns).start()?;
    ns.ip("link add vx0 type vxlan id 5 dstport 4789 remote 10.253.1.9")?;
    ns.ip("link set vx0 up")?;
    watched(&agent, &[&roads[0]])?;
    ns.run("bridge fdb append 00:00:00:00:00:00 dev vx0 dst 10.253.2.9")?;
    watched(&agent, &[&roads[0], &roads[1]])?;
    ns.ip("link del vx0")?;
    watched(&agent, &[])?;
    ns.ip("route add 10.254.0.0/24 nexthop via 10.253.3.2 dev road3 nexthop via 10.253.4.2 dev road4")?;
    ns.ip("link add vx1 type vxlan id 6 dstport 4789 remote 10.254.0.9")?;
    ns.ip("link set vx1 up")?;
    watched(&agent, &[&roads[2], &roads[3]])?;
    ns.ip("link del vx1")?;
    ns.ip("link add vx2 type vxlan id 7 dstport 4789")?;
    ns.ip("link set vx2 up")?;
    watched(&agent, &roads.iter().collect::<Vec<_>>())?;
    ns.ip("route add default via 10.253.2.2 dev road2")?;
    watched(&agent, &[&roads[1]])?;
    agent.snapshot().context("no snapshot")?.lawful()
}
