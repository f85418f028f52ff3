//! Probe `path` where several ways lead to the target: its probes are one flow.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tests::harness::{Agent, Netns, Setup, equal, together};
use tests::need_root;

/// Targets of each family.
const TARGETS: u32 = 3;

/// Two routers between the same two ends, and a router before them that balances by flow.
///
/// ```text
///                 ┌── u ──┐
/// a (…1.1) ── r ──┤       ├── b (…9.1, …9.2, …9.3)
///                 └── v ──┘
/// ```
struct Diamond {
    a: Netns,
    r: Netns,
    u: Netns,
    v: Netns,
    _b: Netns,
}

impl Diamond {
    fn new() -> Result<Self> {
        let [a, r, u, v, b] = [
            Netns::new()?,
            Netns::new()?,
            Netns::new()?,
            Netns::new()?,
            Netns::new()?,
        ];
        for ns in [&a, &r, &u, &v, &b] {
            for (key, value) in [
                ("net.ipv4.ip_forward", "1"),
                ("net.ipv6.conf.all.forwarding", "1"),
                ("net.ipv4.conf.all.rp_filter", "0"),
                ("net.ipv4.conf.default.rp_filter", "0"),
                ("net.ipv6.conf.default.accept_dad", "0"),
                ("net.ipv4.fib_multipath_hash_policy", "1"),
                ("net.ipv6.fib_multipath_hash_policy", "1"),
                // Probes come faster than answers are allowed as it comes.
                ("net.ipv4.icmp_ratelimit", "0"),
                ("net.ipv6.icmp.ratelimit", "0"),
            ] {
                ns.sysctl(key, value)?;
            }
        }
        for (i, (left, l, right, other)) in [
            (&a, "upward", &r, "downward"),
            (&r, "tou", &u, "downward"),
            (&r, "tov", &v, "downward"),
            (&u, "upward", &b, "tou"),
            (&v, "upward", &b, "tov"),
        ]
        .into_iter()
        .enumerate()
        {
            let net = i + 1;
            left.ip(&format!(
                "link add {l} type veth peer name {other} netns {}",
                right.name()
            ))?;
            for (ns, device, last) in [(left, l, 1), (right, other, 2)] {
                ns.ip(&format!("addr add 10.203.{net}.{last}/24 dev {device}"))?;
                ns.ip(&format!("addr add fd00:203:{net}::{last}/64 dev {device} nodad"))?;
                ns.ip(&format!("link set {device} up"))?;
            }
        }
        for i in 1..=TARGETS {
            b.ip(&format!("addr add 10.203.9.{i}/32 dev lo"))?;
            b.ip(&format!("addr add fd00:203:9::{i}/128 dev lo nodad"))?;
        }
        for (ns, routes) in [
            (&a, ["default via 10.203.1.2", "default via fd00:203:1::2"]),
            (&b, ["default via 10.203.4.1", "default via fd00:203:4::1"]),
            (
                &r,
                [
                    "10.203.9.0/24 nexthop via 10.203.2.2 nexthop via 10.203.3.2",
                    "fd00:203:9::/64 nexthop via fd00:203:2::2 nexthop via fd00:203:3::2",
                ],
            ),
            (
                &u,
                [
                    "10.203.9.0/24 via 10.203.4.2",
                    "fd00:203:9::/64 via fd00:203:4::2",
                ],
            ),
            (
                &u,
                [
                    "10.203.1.0/24 via 10.203.2.1",
                    "fd00:203:1::/64 via fd00:203:2::1",
                ],
            ),
            (
                &v,
                [
                    "10.203.9.0/24 via 10.203.5.2",
                    "fd00:203:9::/64 via fd00:203:5::2",
                ],
            ),
            (
                &v,
                [
                    "10.203.1.0/24 via 10.203.3.1",
                    "fd00:203:1::/64 via fd00:203:3::1",
                ],
            ),
        ] {
            for route in routes {
                ns.ip(&format!("route add {route}"))?;
            }
        }
        let counted: String = targets()
            .iter()
            .map(|t| {
                let family = if t.contains(':') { "ip6" } else { "ip" };
                format!("{family} daddr {t} counter; ")
            })
            .collect();
        for router in [&u, &v] {
            router.nft(&format!(
                "table inet t {{ chain c {{ type filter hook prerouting priority -300; {counted}}}; }}"
            ))?;
        }
        Ok(Self { a, r, u, v, _b: b })
    }

    /// The ways that the kernel gives to datagrams from many ports to one target.
    fn ways(&self, protocol: &str, target: &str) -> Result<BTreeSet<String>> {
        let from = if target.contains(':') {
            "fd00:203:1::1"
        } else {
            "10.203.1.1"
        };
        let way = |port| {
            let said = self.r.ip(&format!(
                "route get {target} from {from} iif downward ipproto {protocol} sport {port} dport 33434"
            ))?;
            let via = said.split_whitespace().skip_while(|w| *w != "via").nth(1);
            via.map(str::to_owned).with_context(|| format!("no way: {said}"))
        };
        (40_000..40_020).map(way).collect()
    }
}

fn targets() -> Vec<String> {
    let both = |i| [format!("10.203.9.{i}"), format!("fd00:203:9::{i}")];
    (1..=TARGETS).flat_map(both).collect()
}

struct Hop {
    who: String,
    sent: u64,
    lost: u64,
}

/// The hops of a path.
fn hops(agent: &Agent, target: &str) -> Result<Vec<Hop>> {
    let all = agent.topology()?;
    let path = all["paths"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|p| p["remote"] == target)
        .cloned()
        .with_context(|| format!("no path to {target}"))?;
    let hop = |hop: &Value| {
        let who = hop["addresses"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str);
        Hop {
            who: who.collect::<Vec<_>>().join(" "),
            sent: hop["sent"].as_u64().unwrap_or(0),
            lost: hop["lost"].as_u64().unwrap_or(0),
        }
    };
    Ok(path["hops"].as_array().into_iter().flatten().map(hop).collect())
}

fn agent(at: &Netns, protocol: &str, targets: &[String]) -> Result<Agent> {
    let peers: Vec<String> = targets.iter().map(|t| format!("'far={t}'")).collect();
    Setup::new()
        .config(format!(
            "peers:\n- {{name: far, cidrs: [10.203.9.0/24, 'fd00:203:9::/64']}}\n\
             probes: {{path: {{active: {{peers: [{}], interval: 10s, protocol: {protocol}}}}}}}\n",
            peers.join(", ")
        ))
        .inside(at)
        .start()
}

/// Cause: probes of each protocol and family to addresses behind a router that balances by ports. Seen: each goes one
/// way in all its rounds and traces, as the routers have counted as well, though both ways are used by other flows.
#[test]
fn a_trace_is_one_flow() -> Result<()> {
    need_root!("nft");
    let targets = targets();
    let mut tracing = Vec::new();
    for protocol in ["udp", "tcp", "icmp"] {
        let diamond = Diamond::new()?;
        if protocol != "icmp" {
            for target in &targets {
                equal("ways by port", diamond.ways(protocol, target)?.len(), 2)?;
            }
        }
        let agent = agent(&diamond.a, protocol, &targets)?;
        tracing.push((protocol, diamond, agent));
    }
    let used: BTreeSet<bool> = together(tracing, |(protocol, diamond, agent)| {
        let mut used = BTreeSet::new();
        agent.until(|_| {
            for target in &targets {
                let found = hops(&agent, target)?;
                equal("hops", found.len(), 3)?;
                for hop in &found {
                    ensure!(hop.sent >= 6, "{target}: only {} packets", hop.sent);
                    equal("lost", hop.lost, 0)?;
                }
            }
            Ok(())
        })?;
        let counted = [diamond.u.nft_counters()?, diamond.v.nft_counters()?];
        for (i, target) in targets.iter().enumerate() {
            let found = hops(&agent, target)?;
            let who = &found[1].who;
            let (u, v) = if target.contains(':') {
                ("fd00:203:2::2", "fd00:203:3::2")
            } else {
                ("10.203.2.2", "10.203.3.2")
            };
            ensure!(who == u || who == v, "{protocol} to {target}: {who}");
            let by = [counted[0][i], counted[1][i]];
            let (here, there) = if who == u { (by[0], by[1]) } else { (by[1], by[0]) };
            ensure!(here >= 12, "{protocol} to {target}: {by:?}");
            equal("packets on the other way", there, 0)?;
            equal("target", &found[2].who, target)?;
            used.insert(who == u);
        }
        agent.until(|s| {
            equal("changes", s.sum("geophone_path_trace_changes_total", &[]), 0)?;
            equal(
                "foreign answers",
                s.sum("geophone_path_trace_foreign_answers_total", &[]),
                0,
            )
        })?;
        agent.stop()?;
        Ok(used)
    })?
    .into_iter()
    .flatten()
    .collect();
    // Eighteen flows: all the same way by chance once in 130,000.
    equal("ways", used.len(), 2)
}

/// Cause: the first router keeps every third of its answers to itself, the second one all. Seen: the loss of the one, as
/// much as was kept; the other silent; and none behind them.
#[test]
fn loss_stays_where_it_is() -> Result<()> {
    need_root!("nft");
    let diamond = Diamond::new()?;
    diamond.r.nft(
        "table inet t { chain o { type filter hook output priority 0; \
         icmp type time-exceeded numgen inc mod 3 0 counter drop; }; }",
    )?;
    for silent in [&diamond.u, &diamond.v] {
        silent.nft(
            "table inet s { chain o { type filter hook output priority 0; icmp type time-exceeded drop; }; }",
        )?;
    }
    let target = "10.203.9.1";
    let agent = agent(&diamond.a, "udp", &[target.to_owned()])?;
    agent.until(|s| {
        let found = hops(&agent, target)?;
        let table: Vec<_> = found.iter().map(|h| (h.who.as_str(), h.sent, h.lost)).collect();
        ensure!(table.len() == 3 && table[0].1 >= 6, "{table:?}");
        let kept = diamond.r.nft_counters()?[0];
        ensure!(
            kept == table[0].2 && kept * 3 == table[0].1,
            "{kept} were kept: {table:?}"
        );
        equal("the first", table[0].0, "10.203.1.2")?;
        equal("the silent one", (table[1].0, table[1].2), ("", table[1].1))?;
        equal("behind", (table[2].0, table[2].2), (target, 0))?;
        // What is exported says the same.
        for (i, (_, sent, lost)) in table.iter().enumerate() {
            let hop = (i + 1).to_string();
            let of = |metric| s.sum(metric, &[("hop", hop.as_str())]);
            equal("lost", of("geophone_path_hop_lost_total"), *lost)?;
            equal("sent", of("geophone_path_hop_probes_total"), *sent)?;
        }
        equal("changes", s.sum("geophone_path_trace_changes_total", &[]), 0)
    })
}

/// Cause: a route that goes over the one router and the other in turn, several times within a trace. Seen: a path whose
/// second hop is both, without loss, and no change.
#[test]
fn a_route_that_flaps_is_no_change() -> Result<()> {
    need_root!("nft");
    let diamond = Diamond::new()?;
    let target = "10.203.9.1";
    let r = diamond.r.clone();
    let over = Arc::new(AtomicBool::new(false));
    let ended = over.clone();
    let flapping = std::thread::spawn(move || -> Result<()> {
        for via in ["10.203.2.2", "10.203.3.2"].iter().cycle() {
            if ended.load(Ordering::Relaxed) {
                break;
            }
            r.ip(&format!("route replace 10.203.9.0/24 via {via}"))?;
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(())
    });
    let agent = agent(&diamond.a, "icmp", &[target.to_owned()])?;
    let seen = agent.until(|s| {
        let found = hops(&agent, target)?;
        ensure!(found.len() == 3 && found[0].sent >= 9, "not three traces yet");
        equal("lost", found.iter().map(|h| h.lost).sum::<u64>(), 0)?;
        Ok(s.sum("geophone_path_trace_changes_total", &[]))
    });
    over.store(true, Ordering::Relaxed);
    flapping.join().ok().context("a thread has panicked")??;
    equal("changes", seen?, 0)?;
    let both = [diamond.u.nft_counters()?[0], diamond.v.nft_counters()?[0]];
    ensure!(both.iter().all(|n| *n > 0), "it has not flapped: {both:?}");
    Ok(())
}
