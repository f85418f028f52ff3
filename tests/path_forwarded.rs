//! Probe `path` on a host that only forwards.

use anyhow::{Result, ensure};
use std::time::Duration;
use tests::harness::delay::Delay;
use tests::harness::{Agent, Link, Netns, Setup, Snapshot, Traffic, equal};
use tests::need_root;

const RTT: &str = "geophone_path_forwarded_rtt_seconds";

/// A client on a short wire, a gateway, and a server on a wire of 10 ms each way.
///
/// ```text
/// client (10.202.1.1) ── near │ gateway │ far ── 10 ms ── server
/// ```
struct Gateway {
    client: Netns,
    link: Link,
    _delay: Delay,
}

impl Gateway {
    fn new() -> Result<Self> {
        let (link, devices) = Link::through_middle()?;
        let delay = Delay::between(link.middle()?, &devices, Duration::from_millis(10))?;
        let client = Netns::new()?;
        let (here, server) = (&link.a.ns, &link.b.ns);
        client.ip(&format!(
            "link add upward type veth peer name near netns {}",
            here.name()
        ))?;
        for (ns, device, last) in [(&client, "upward", 1), (here, "near", 2)] {
            ns.ip(&format!("addr add 10.202.1.{last}/24 dev {device}"))?;
            ns.ip(&format!("link set {device} up"))?;
        }
        here.sysctl("net.ipv4.ip_forward", "1")?;
        client.ip("route add default via 10.202.1.2")?;
        server.ip(&format!("route add 10.202.1.0/24 via {}", link.a.v4))?;
        Ok(Self {
            client,
            link,
            _delay: delay,
        })
    }

    /// An agent at the gateway that measures on some of its devices.
    fn agent(&self, devices: &str) -> Result<Agent> {
        Setup::new()
            .config(format!(
                "peers:\n- {{name: client, region: home, cidrs: [10.202.1.0/24]}}\n\
                 - {{name: server, region: away, cidrs: [{}/32]}}\n\
                 probes: {{path: {{forwarded: {{devices: [{devices}]}}}}}}\n",
                self.link.b.v4
            ))
            .inside(&self.link.a.ns)
            .start()
    }

    /// Messages from a namespace to the server and back, for some seconds.
    fn talk(&self, from: &Netns, server: &mut Traffic, rounds: u64) -> Result<Traffic> {
        let at = server.serve(&self.link.b.at(0), "echo")?;
        let mut client = Traffic::new("cli", from)?;
        let connection = client.connect(&at)?;
        client.ping(connection, rounds, 100)?;
        Ok(client)
    }
}

/// What became of the packets of the devices.
fn stage(s: &Snapshot, stage: &str) -> u64 {
    s.sum("geophone_events_total", &[("probe", "path"), ("stage", stage)])
}

/// Cause: a client and a server talk through a gateway, 20 ms from one of its sides and next to nothing from the other;
/// the gateway also talks to the server itself. Seen: both sides, on both devices, by peer, as long as they are; together
/// as long as the client's own round-trip time; of the gateway's own connection nothing.
#[test]
fn both_sides_of_a_gateway() -> Result<()> {
    need_root!();
    let gateway = Gateway::new()?;
    let far = gateway.link.a.device.clone();
    let agent = gateway.agent(&format!("near, \"{}*\"", far.trim_end_matches('a')))?;
    ensure!(
        agent.attached("path_ingress")? && agent.attached("path_egress")?,
        "not attached: {}",
        agent.log()
    );
    let mut server = Traffic::new("srv", &gateway.link.b.ns)?;
    let _own = gateway.talk(&gateway.link.a.ns, &mut server, 200)?;
    agent.settles(|s| {
        ensure!(stage(s, "seen") >= 400, "only {} packets seen", stage(s, "seen"));
        equal("of the gateway's own", s.sum(RTT, &[]), 0)?;
        s.lawful()
    })?;
    let client = gateway.talk(&gateway.client, &mut server, 600)?;
    agent.settles(|s| {
        let own = s.histogram("geophone_tcp_rtt_seconds", &[("subject", client.name())])?;
        for (device, to_client) in [("near", "remote"), (far.as_str(), "local")] {
            let to_server = if to_client == "remote" { "local" } else { "remote" };
            let side = |side, peer, region| {
                let seen = s.histogram(RTT, &[("device", device), ("side", side)])?;
                let by_peer = [
                    ("device", device),
                    ("side", side),
                    ("peer", peer),
                    ("peer_region", region),
                ];
                equal("by peer", s.sum(RTT, &by_peer), seen.count)?;
                ensure!(seen.count >= 10, "{device} {side}: {seen:?}");
                Ok(seen.p50)
            };
            let near = side(to_client, "client", "home")?;
            let far = side(to_server, "server", "away")?;
            println!("{device}: client {near}, server {far}, its own {}", own.p50);
            ensure!(near < 0.002, "{device}: to the client {near}");
            ensure!((0.019..0.026).contains(&far), "{device}: to the server {far}");
            let sum = near + far;
            ensure!(
                (sum - own.p50).abs() < 0.1 * own.p50,
                "{device}: {near} + {far}, but the client's own is {}",
                own.p50
            );
        }
        ensure!(stage(s, "sampled") > stage(s, "delivered"), "nothing is left out");
        s.lawful()
    })?;
    agent.stop()?;
    Ok(())
}

/// Cause: no device is named; then one that comes later. Seen: nothing is attached; then it is, within five seconds.
#[test]
fn only_where_it_is_asked_for() -> Result<()> {
    need_root!();
    let gateway = Gateway::new()?;
    let agent = Agent::start()?;
    ensure!(!agent.attached("path_")?, "attached, though nobody asked");
    agent.stop()?;
    let agent = gateway.agent("\"later*\"")?;
    ensure!(!agent.attached("path_")?, "attached to no device");
    gateway
        .link
        .a
        .ns
        .ip("link add later1 type veth peer name later2")?;
    agent.until(|s| {
        let on = [("device", "later1"), ("direction", "receive")];
        ensure!(s.number("geophone_path_watched", &on)? == 1.0, "not watched");
        ensure!(agent.attached("path_ingress")?, "no verdict says so");
        Ok(())
    })?;
    gateway.link.a.ns.ip("link del later1")?;
    agent.until(|s| {
        equal("watched", s.series("geophone_path_watched", &[]).len(), 0)?;
        ensure!(!agent.attached("path_")?, "still attached");
        s.lawful()
    })?;
    agent.stop()?;
    Ok(())
}
