//! A small fleet: nodes of several regions, a net between them, tunnels over it, and the Prometheus that a region has.

use super::agent::Scratch;
use super::otlp::Authority;
use super::prometheus::Prometheus;
use super::tunnels::{Mouth, vxlan_between};
use super::{Agent, End, Netns, Setup, all_unique, promql};
use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

/// What the API of each agent wants to see.
const TOKEN: &str = "0123456789abcdef0123456789abcdef";
/// In the rules of the fleet a minute has so many seconds here.
const MINUTE: u32 = 4;

/// A region's only node.
#[derive(Debug)]
pub struct Node {
    /// Its region, and the tag of the names that processes on it must have.
    pub region: &'static str,
    /// Its namespace, and its interface to the net.
    pub end: End,
    /// Its ends of tunnels, by the region that each leads to.
    pub mouths: BTreeMap<&'static str, Mouth>,
}

impl Node {
    /// As it calls itself.
    pub fn name(&self) -> String {
        format!("node-{}", self.region)
    }
}

/// Nodes, each on a wire of its own to one router; between any two a VXLAN.
#[derive(Debug)]
pub struct Fleet {
    /// The net between the regions.
    pub router: Netns,
    /// One a region.
    pub nodes: Vec<Node>,
}

impl Fleet {
    /// With these regions.
    pub fn new(regions: &[&'static str]) -> Result<Self> {
        let router = Netns::new()?;
        router.sysctl("net.ipv4.ip_forward", "1")?;
        let node = |(n, region): (u8, &'static str)| node(&router, n, region);
        let nodes: Result<Vec<Node>> = (0..).zip(regions.iter().copied()).map(node).collect();
        let mut fleet = Self {
            router,
            nodes: nodes?,
        };
        let mut vni = 100;
        for left in 0..fleet.nodes.len() {
            for right in left + 1..fleet.nodes.len() {
                fleet.tunnel(left, right, vni)?;
                vni += 1;
            }
        }
        Ok(fleet)
    }

    fn tunnel(&mut self, left: usize, right: usize, vni: u32) -> Result<()> {
        let (a, b) = (&self.nodes[left], &self.nodes[right]);
        let (from, to) = (a.region, b.region);
        let below = [(&*a.end.device, a.end.v4), (&*b.end.device, b.end.v4)];
        let [here, there] = vxlan_between([&a.end, &b.end], below, vni, 4789)?;
        self.nodes[left].mouths.insert(to, here);
        self.nodes[right].mouths.insert(from, there);
        Ok(())
    }

    /// The node of a region.
    pub fn node(&self, region: &str) -> Result<&Node> {
        let mut nodes = self.nodes.iter();
        nodes
            .find(|node| node.region == region)
            .with_context(|| format!("no {region}"))
    }

    /// Where somebody in one region finds the node of another one inside of the tunnel between them.
    pub fn inside(&self, from: &str, to: &str) -> Result<Ipv4Addr> {
        let mouth = self.node(to)?.mouths.get(from);
        Ok(mouth
            .with_context(|| format!("no tunnel from {from} to {to}"))?
            .v4)
    }

    /// From now on the net loses one of so many packets of the tunnel from one region to another, and none the other way.
    pub fn lose(&self, from: &str, to: &str, one_of: u32) -> Result<()> {
        let (from, to) = (self.node(from)?.end.v4, self.node(to)?.end.v4);
        self.router.nft(&format!(
            "table inet loss {{ chain way {{ type filter hook forward priority 0; ip saddr {from} ip daddr {to} \
             udp dport 4789 numgen random mod {one_of} < 1 counter drop; }}; }}"
        ))?;
        Ok(())
    }

    /// It loses nothing any more; how much it was.
    pub fn recover(&self) -> Result<u64> {
        let lost = self.router.nft_counter()?;
        self.router.nft("delete table inet loss")?;
        Ok(lost)
    }

    /// The settings that all agents have, whatever node they are on: which addresses are where.
    fn peers(&self) -> Value {
        let peers = self.nodes.iter().map(|node| {
            let inside = node.mouths.values().map(|mouth| mouth.v4);
            let all: Vec<String> = inside.chain([node.end.v4]).map(|v4| format!("{v4}/32")).collect();
            json!({ "name": format!("all-{}", node.region), "region": node.region, "cidrs": all })
        });
        peers.collect()
    }
}

fn node(router: &Netns, n: u8, region: &'static str) -> Result<Node> {
    let end = End {
        ns: Netns::new()?,
        device: "upward".to_owned(),
        v4: Ipv4Addr::new(10, 202, n, 1),
        v6: Ipv6Addr::UNSPECIFIED,
    };
    let down = format!("down{n}");
    end.ns.ip(&format!(
        "link add upward type veth peer name {down} netns {}",
        router.name()
    ))?;
    for (ns, device, v4) in [
        (&end.ns, "upward", end.v4),
        (router, &*down, Ipv4Addr::new(10, 202, n, 254)),
    ] {
        ns.ip(&format!("addr add {v4}/24 dev {device}"))?;
        // A packet on the wire is a segment, and what is lost is one of them.
        ns.run(&format!("ethtool -K {device} tx off gso off tso off gro off"))?;
        ns.ip(&format!("link set {device} up"))?;
    }
    end.ns.ip(&format!("route add default via 10.202.{n}.254"))?;
    Ok(Node {
        region,
        end,
        mouths: BTreeMap::new(),
    })
}

/// Agents on some of the nodes, and the Prometheus that scrapes them, on the router.
#[derive(Debug)]
pub struct Watch {
    /// By region.
    pub agents: BTreeMap<&'static str, Agent>,
    /// Who has all that they say.
    pub prometheus: Prometheus,
    router: Netns,
    _authority: Authority,
    _scratch: Scratch,
}

impl Watch {
    /// An agent in each of these regions. Prometheus is set up as deploy/prometheus/config/region.yaml says.
    pub fn start(fleet: &Fleet, regions: &[&'static str]) -> Result<Self> {
        let (authority, scratch) = (Authority::new()?, Scratch::new()?);
        let token = scratch.secret("token", TOKEN)?;
        let mut agents = BTreeMap::new();
        let mut targets = Vec::new();
        let mut own = Vec::new();
        for region in regions {
            let node = fleet.node(region)?;
            let config = json!({
                "host": node.name(),
                "region": region,
                "zone": format!("{region}-a"),
                "peers": fleet.peers(),
                // What the machine has is no node's own.
                "probes": { "node": { "enabled": false } },
            });
            let agent = Setup::new()
                .config(config.to_string())
                .set("api.tls.cert_file", &authority.file("server.crt"))
                .set("api.tls.key_file", &authority.file("server.key"))
                .set("api.token_file", &token.to_string_lossy())
                .inside(&node.end.ns)
                .listen(node.end.v4)
                .spawn()?;
            targets.push(json!({ "targets": [agent.at.to_string()], "labels": { "hostname": node.name() } }));
            own.push(format!("{};{}", node.name(), all_unique(region)));
            agents.insert(*region, agent);
        }
        scratch.write("targets.json", Value::from(targets).to_string())?;
        let config = configuration(&scratch, &authority, &token, &own)?;
        let router = fleet.router.clone();
        let prometheus =
            router.enter(|| Prometheus::start(&config, &["--enable-feature=native-histograms"]))?;
        Ok(Self {
            agents,
            prometheus,
            router,
            _authority: authority,
            _scratch: scratch,
        })
    }

    /// An instant query.
    pub fn ask(&self, query: &str) -> Result<Vec<Value>> {
        self.router.enter(|| promql::instant(self.prometheus.at, query))
    }

    /// What went on, for who has to know why.
    pub fn log(&self) -> String {
        let agents = self.agents.iter();
        let agents = agents.map(|(region, agent)| format!("agent in {region}:\n{}", agent.log()));
        agents
            .chain([self.prometheus.log()])
            .collect::<Vec<_>>()
            .join("\n")
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A text in which each of these was there, and is another one now.
fn replaced(text: &str, all: &[(&str, &str)]) -> Result<String> {
    let mut text = text.to_owned();
    for (from, to) in all {
        ensure!(text.contains(from), "{from:?} is not in\n{text}");
        text = text.replace(from, to);
    }
    Ok(text)
}

/// What deploy/prometheus has, with the places and the times of this test. `own`: node and processes, as `node;regex`.
fn configuration(scratch: &Scratch, authority: &Authority, token: &Path, own: &[String]) -> Result<String> {
    let deployed = |file: &str| {
        let path = root().join("deploy/prometheus").join(file);
        std::fs::read_to_string(&path).with_context(|| path.display().to_string())
    };
    let mut fleet = deployed("fleet.yaml")?;
    for minutes in [15, 5, 2] {
        let seconds = minutes * MINUTE;
        fleet = replaced(
            &fleet,
            &[(&format!("for: {minutes}m"), &format!("for: {seconds}s"))],
        )?;
        fleet = fleet.replace(&format!("[{minutes}m]"), &format!("[{seconds}s]"));
    }
    let health = replaced(&deployed("health.yaml")?, &[("interval: 15s", "interval: 1s")])?;
    let fleet = scratch.write("fleet.yaml", fleet)?;
    let health = scratch.write("health.yaml", health)?;
    let alerts = root().join("docs/rules/*.yaml");
    // Agents on one kernel see all of its sockets: of each only what its own node's processes do is taken.
    let keep = format!(
        "    metric_relabel_configs:\n      - {{source_labels: [instance, subject], regex: '.*;|{}', action: keep}}\n    relabel_configs:\n",
        own.join("|")
    );
    let whole = deployed("config/region.yaml")?;
    let (scraped, _) = whole
        .split_once("\nremote_write:")
        .context("region.yaml sends nothing on")?;
    replaced(
        scraped,
        &[
            (
                "scrape_interval: 15s",
                "scrape_interval: 1s\n  evaluation_interval: 1s",
            ),
            // Debian's Prometheus has a flag for it.
            ("    scrape_native_histograms: true\n", ""),
            ("alertmanager.example:9093", "127.0.0.1:9"),
            ("../../../docs/rules/*.yaml", &alerts.to_string_lossy()),
            ("../fleet.yaml", &fleet.to_string_lossy()),
            ("../health.yaml", &health.to_string_lossy()),
            ("/etc/prometheus/geophone.token", &token.to_string_lossy()),
            (
                "/etc/prometheus/geophone-ca.pem",
                &format!("{}, server_name: localhost", authority.file("ca.crt")),
            ),
            (
                "/etc/prometheus/geophone/*.json",
                &scratch.path("targets.json").to_string_lossy(),
            ),
            ("    relabel_configs:\n", &keep),
        ],
    )
}
