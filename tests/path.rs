//! Probe `path`.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use std::fs;
use std::time::Duration;
use tests::harness::{Agent, Netns, Setup, Traffic, equal, together};
use tests::need_root;

/// Where the server lives, whatever way leads there.
const SERVER: &str = "10.201.9.9";

/// Two ways from a client to a server: over one router, or over two.
///
/// ```text
/// a (10.201.1.1) ── r1 ───────── b (10.201.9.9)
///                    └── r2 ──────┘
/// ```
struct Roads {
    a: Netns,
    r1: Netns,
    r2: Netns,
    b: Netns,
}

impl Roads {
    /// With the short way in use.
    fn new() -> Result<Self> {
        let roads = Self {
            a: Netns::new()?,
            r1: Netns::new()?,
            r2: Netns::new()?,
            b: Netns::new()?,
        };
        let Self { a, r1, r2, b } = &roads;
        for ns in [a, r1, r2, b] {
            for (key, value) in [
                ("net.ipv4.ip_forward", "1"),
                ("net.ipv4.conf.all.rp_filter", "0"),
                ("net.ipv4.conf.default.rp_filter", "0"),
                // Probes come faster than answers are allowed as it comes.
                ("net.ipv4.icmp_ratelimit", "0"),
                ("net.ipv4.icmp_msgs_per_sec", "100000"),
                ("net.ipv4.tcp_ecn", "1"),
            ] {
                // Since 6.x one of them is not to be had in every namespace.
                if let Err(e) = ns.sysctl(key, value) {
                    ensure!(key.contains("msgs_per_sec"), "{e:#}");
                }
            }
        }
        for (i, (left, l, right, r)) in [
            (a, "upward", r1, "downward"),
            (r1, "short", b, "short"),
            (r1, "long", r2, "downward"),
            (r2, "upward", b, "long"),
        ]
        .into_iter()
        .enumerate()
        {
            let net = i + 1;
            left.ip(&format!(
                "link add {l} type veth peer name {r} netns {}",
                right.name()
            ))?;
            for (ns, device, last) in [(left, l, 1), (right, r, 2)] {
                ns.ip(&format!("addr add 10.201.{net}.{last}/24 dev {device}"))?;
                ns.run(&format!("ethtool -K {device} tx off gso off tso off gro off"))?;
                ns.ip(&format!("link set {device} up"))?;
            }
        }
        b.ip(&format!("addr add {SERVER}/32 dev lo"))?;
        a.ip("route add default via 10.201.1.2")?;
        r2.ip(&format!("route add {SERVER} via 10.201.4.2"))?;
        r2.ip("route add 10.201.1.0/24 via 10.201.3.1")?;
        roads.short()?;
        Ok(roads)
    }

    fn short(&self) -> Result<()> {
        self.r1.ip(&format!("route replace {SERVER} via 10.201.2.2"))?;
        self.b.ip("route replace 10.201.1.0/24 via 10.201.2.1")?;
        Ok(())
    }

    fn long(&self) -> Result<()> {
        self.r1.ip(&format!("route replace {SERVER} via 10.201.3.2"))?;
        self.b.ip("route replace 10.201.1.0/24 via 10.201.4.1")?;
        Ok(())
    }

    /// A client and a server that sends back what comes, connected.
    fn connected(&self) -> Result<(Traffic, Traffic, u64)> {
        let mut server = Traffic::new("srv", &self.b)?;
        let at = server.serve(&format!("{SERVER}:0"), "echo")?;
        let mut client = Traffic::new("cli", &self.a)?;
        let connection = client.connect(&at)?;
        Ok((client, server, connection))
    }
}

/// Messages there and back, for so many tenths of a second.
fn chat(client: &mut Traffic, connection: u64, tenths: u32) -> Result<()> {
    for _ in 0..tenths {
        client.ping(connection, 1, 100)?;
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// Cause: the route moves from one router to two and back, while one connection talks and another one begins. Seen: hop
/// counts 1 → 2 → 1, each change once, with before and after; the other connection is no change.
#[test]
fn a_route_that_moves() -> Result<()> {
    need_root!();
    let roads = Roads::new()?;
    let agent = Agent::start()?;
    let (mut client, _server, connection) = roads.connected()?;
    let name = client.name().to_owned();
    let own = [("subject", name.as_str())];
    let seen = |hops: u64, changes: u64| {
        agent.until(|s| {
            equal("hops", s.sum("geophone_path_hops", &own), hops)?;
            equal(
                "route changes",
                s.sum("geophone_path_route_changes_total", &own),
                changes,
            )
        })
    };
    client.ping(connection, 2, 100)?;
    // Not a second has passed: the first acknowledgements show it.
    seen(1, 0)?;
    roads.long()?;
    chat(&mut client, connection, 40)?;
    seen(2, 1)?;
    let change = agent.topology()?["route_changes"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|c| c["subject"] == *name)
        .cloned()
        .context("no event")?;
    equal("source", change["source"].as_str(), Some("passive"))?;
    equal("before", change["hops_before"].as_u64(), Some(1))?;
    equal("after", change["hops_after"].as_u64(), Some(2))?;
    equal("remote", change["remote"].as_str(), Some(SERVER))?;
    equal("connections", change["connections"].as_u64(), Some(1))?;
    roads.short()?;
    chat(&mut client, connection, 40)?;
    seen(1, 2)?;
    let events = |s: &Value| {
        let all = s["route_changes"].as_array().into_iter().flatten();
        all.filter(|c| c["subject"] == *name).count()
    };
    equal("events", events(&agent.topology()?), 2)?;
    ensure!(
        agent.log().contains(&format!("({SERVER}) changed: 2 → 1 hops")),
        "the log does not tell: {}",
        agent.log()
    );
    // The records are in the books.
    agent.settles(tests::harness::Snapshot::lawful)
}

/// Cause: the probe is off. Seen: nothing of it, and round-trip times all the same.
#[test]
fn without_the_probe() -> Result<()> {
    need_root!();
    let roads = Roads::new()?;
    let agent = Setup::new().set("probes.path.enabled", "false").start()?;
    let (mut client, _server, connection) = roads.connected()?;
    chat(&mut client, connection, 15)?;
    let own = [("subject", client.name())];
    agent.settles(|s| {
        ensure!(
            s.histogram("geophone_tcp_rtt_seconds", &own)?.count > 10,
            "no RTT"
        );
        equal("hops", s.series("geophone_path_hops", &own).len(), 0)
    })?;
    ensure!(agent.attached("tcp_probe")?, "tcp_probe is not attached");
    Ok(())
}

/// Cause: a link in the middle carries 1300 bytes. Seen: that path MTU, as the client's kernel has learnt it.
#[test]
fn a_smaller_link_in_the_middle() -> Result<()> {
    need_root!();
    let roads = Roads::new()?;
    // Not a link of the hosts: those would never try more.
    roads.long()?;
    roads.r1.ip("link set long mtu 1300")?;
    roads.r2.ip("link set downward mtu 1300")?;
    let agent = Agent::start()?;
    let (mut client, _server, connection) = roads.connected()?;
    let own_name = client.name().to_owned();
    let own = [("subject", own_name.as_str())];
    client.ping(connection, 2, 100)?;
    agent.until(|s| equal("path MTU", s.sum("geophone_path_mtu_bytes", &own), 1500))?;
    // Messages that do not fit: the router says so.
    client.ping(connection, 5, 5000)?;
    chat(&mut client, connection, 25)?;
    let learnt = roads.a.ip(&format!("route get {SERVER}"))?;
    ensure!(
        learnt.contains("mtu 1300"),
        "the kernel has not learnt it: {learnt}"
    );
    agent.until(|s| equal("path MTU", s.sum("geophone_path_mtu_bytes", &own), 1300))?;
    Ok(())
}

/// Whether this kernel counts the marks that it receives.
fn counts_received() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map_while(|n| n.parse::<u32>().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (6, 17)
}

/// Cause: a router marks what goes to the server. Seen: at the server as many marks as the router made, at the client
/// as many as its kernel has learnt of; nothing the other way.
#[test]
fn congestion_marks() -> Result<()> {
    need_root!();
    let roads = Roads::new()?;
    roads.r1.nft(&format!(
        "table inet marks {{ chain f {{ type filter hook forward priority 0; \
         ip daddr {SERVER} ip ecn ect0 counter ip ecn set ce; }}; }}"
    ))?;
    let agent = Agent::start()?;
    let (mut client, server, connection) = roads.connected()?;
    client.ping(connection, 50, 500)?;
    chat(&mut client, connection, 12)?;
    let marked = roads.r1.nft_counter()?;
    ensure!(marked >= 50, "the router has marked {marked}");
    let told = roads.a.run(&format!("ss -tinH dst {SERVER}"))?;
    let told: u64 = told
        .split_whitespace()
        .find_map(|word| word.strip_prefix("delivered_ce:"))
        .context("the client's kernel has learnt of no mark")?
        .parse()?;
    agent.settles(|s| {
        let of = |name: &str, direction: &str| {
            s.sum(
                "geophone_path_ecn_ce_total",
                &[("subject", name), ("direction", direction)],
            )
        };
        if counts_received() {
            equal(
                "marks received by the server",
                of(server.name(), "receive"),
                marked,
            )?;
        }
        equal(
            "marks the client was told of",
            of(client.name(), "transmit"),
            told,
        )?;
        equal("marks received by the client", of(client.name(), "receive"), 0)
    })
}

/// An agent at the client's place that traces the server.
fn tracing(roads: &Roads, protocol: &str) -> Result<Agent> {
    Setup::new()
        .config(format!(
            "peers:\n- {{name: far, region: away, cidrs: [{SERVER}/32]}}\n\
             probes: {{path: {{active: {{peers: [far], interval: 10s, protocol: {protocol}}}}}}}\n"
        ))
        .inside(&roads.a)
        .start()
}

/// The routers of the traced path, each with its counts.
fn hops(agent: &Agent) -> Result<Vec<(String, u64, u64)>> {
    let all = agent.topology()?;
    let path = all["paths"].get(0).cloned().unwrap_or_default();
    let hops = path["hops"].as_array().into_iter().flatten().map(|hop| {
        let names: Vec<&str> = hop["addresses"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        (
            names.join(" "),
            hop["sent"].as_u64().unwrap_or(0),
            hop["lost"].as_u64().unwrap_or(0),
        )
    });
    Ok(hops.filter(|(name, ..)| !name.is_empty()).collect())
}

/// Cause: probes of each kind over two routers. Seen: both, and the target, three packets each and none lost.
#[test]
fn a_traced_path() -> Result<()> {
    need_root!();
    together(vec!["udp", "icmp", "tcp"], |protocol| {
        let roads = Roads::new()?;
        roads.long()?;
        let agent = tracing(&roads, protocol)?;
        agent.until(|s| {
            ensure!(!s.series("geophone_path_hop_info", &[]).is_empty(), "nothing yet");
            let found = hops(&agent)?;
            let names: Vec<&str> = found.iter().map(|(name, ..)| name.as_str()).collect();
            equal(protocol, names, vec!["10.201.1.2", "10.201.3.2", SERVER])?;
            for (name, sent, lost) in &found {
                ensure!(
                    *sent >= 3 && *lost == 0,
                    "{protocol}: {name}: {lost} of {sent} lost"
                );
            }
            let rtt = s.histogram("geophone_path_hop_rtt_seconds", &[("hop", "3"), ("peer", "far")])?;
            ensure!(rtt.count >= 3 && rtt.p50 < 0.2, "{rtt:?}");
            Ok(())
        })?;
        agent.stop()
    })?;
    Ok(())
}

/// Cause: the route moves, and later the server's answers are lost. Seen: an event with the routers before and after,
/// and then loss at the last hop, which is no event.
#[test]
fn a_traced_path_that_changes() -> Result<()> {
    need_root!();
    let roads = Roads::new()?;
    roads.long()?;
    let agent = tracing(&roads, "udp")?;
    let length = |wanted: usize| {
        agent.until(|_| {
            let found: Vec<String> = hops(&agent)?.into_iter().map(|(name, ..)| name).collect();
            equal("hops", found.len(), wanted)
        })
    };
    length(3)?;
    roads.short()?;
    // The first trace of the new way is not believed yet.
    length(2)?;
    // Other tests move their routes as well, and their connections are seen.
    let events = || -> Result<Vec<Value>> {
        let all = agent.topology()?["route_changes"].clone();
        let all = all.as_array().into_iter().flatten();
        Ok(all.filter(|c| c["source"] == "active").cloned().collect())
    };
    let changes = events()?;
    equal("events", changes.len(), 1)?;
    let change = changes.first().context("no event")?;
    equal(
        "before",
        change["before"].to_string(),
        format!(r#"["10.201.1.2","10.201.3.2","{SERVER}"]"#),
    )?;
    equal(
        "after",
        change["after"].to_string(),
        format!(r#"["10.201.1.2","{SERVER}"]"#),
    )?;
    roads
        .b
        .nft("table inet t { chain i { type filter hook input priority 0; udp dport 33434 drop; }; }")?;
    agent.until(|_| {
        let found = hops(&agent)?;
        let (name, _, lost) = found.last().context("no hop")?;
        ensure!(name == SERVER && *lost >= 3, "{found:?}");
        let (_, _, lost) = found.first().context("no hop")?;
        equal("lost at the router", *lost, 0)
    })?;
    equal("events", events()?.len(), 1)?;
    agent.stop()?;
    Ok(())
}

/// Cause: peers that may not be probed as they are named. Seen: refused, with the reason.
#[test]
fn targets_that_are_refused() -> Result<()> {
    need_root!();
    let refused = Setup::new()
        .config("peers:\n- {name: net, cidrs: [10.2.0.0/16]}\nprobes: {path: {active: {peers: [net]}}}\n")
        .start();
    let error = format!("{:#}", refused.err().context("it has started")?);
    ensure!(error.contains("net=ADDRESS"), "{error}");
    Ok(())
}
