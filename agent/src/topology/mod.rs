//! Who talks to whom, as a graph: subjects, peers and regions, and what the connections between them are like.
//!
//! Made of the [`View`] that `top` shows. An edge's numbers are those of the last interval (latencies: of the last
//! minute where it had none); only [`Quality::bytes_received`] and its like count since the start.

mod draw;
mod state;
mod table;
#[cfg(test)]
mod tests;

pub use draw::{dot, mermaid};
pub use state::{State, judge};
pub use table::table;

use crate::aggregate::{Series, Snapshot, Value, label};
use crate::probes::tunnel::metrics::{ID, LOCAL, NETNS, REMOTE, TYPE};
use crate::records::RouteChange;
use crate::ui::view::{Latency, PairRow, View};
use serde::{Deserialize, Serialize};

/// The graph.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Topology {
    /// Host name.
    pub host: String,
    /// Own region; empty = not known.
    pub region: String,
    /// Own zone; empty = not known.
    pub zone: String,
    /// Seconds since the Unix epoch.
    pub time: f64,
    /// Seconds to which rates refer; `None` = there was one snapshot only, and rates are zero.
    pub interval: Option<f64>,
    /// Subjects, peers and regions.
    pub nodes: Vec<Node>,
    /// From subjects to peers, the busiest first.
    pub edges: Vec<Edge>,
    /// Pairs that were too many to be edges; they are in `regions`.
    pub edges_omitted: usize,
    /// What goes between this host's region and each other: bandwidth, latency and loss. Exact sums.
    pub regions: Vec<Between>,
    /// Paths that active probes have found.
    pub paths: Vec<Path>,
    /// The latest changes of routes, oldest first.
    pub route_changes: Vec<RouteChange>,
}

/// What a node is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeKind {
    /// Container, unit or process of this host.
    #[default]
    Subject,
    /// A configured prefix, or `loopback`, `private`, `public`.
    Peer,
    /// A region.
    Region,
}

/// A node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Node {
    /// `subject:NAME`, `peer:NAME|REGION|ZONE` or `region:NAME`.
    pub id: String,
    /// What it is.
    pub kind: NodeKind,
    /// Its name; empty = not known.
    pub name: String,
    /// The region in which it lies, as the id of a node; `None` = not known, or it is one.
    pub region: Option<String>,
    /// Its zone; empty = not known.
    pub zone: String,
}

/// What the connections of a subject to a peer, or between two regions, are like.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Quality {
    /// Open connections.
    pub connections: u64,
    /// Median round-trip time, seconds; `None` = no sample.
    pub rtt_p50: Option<f64>,
    /// 99th percentile of the round-trip time, seconds.
    pub rtt_p99: Option<f64>,
    /// Median difference of consecutive round-trip times, seconds.
    pub jitter_p50: Option<f64>,
    /// 99th percentile of it.
    pub jitter_p99: Option<f64>,
    /// Share of the segments sent in the last ten seconds that were sent again; `None` = none sent.
    pub retransmit_ratio: Option<f64>,
    /// Payload bytes received per second.
    pub receive_rate: f64,
    /// Payload bytes sent per second.
    pub transmit_rate: f64,
    /// Payload bytes received since the start.
    pub bytes_received: u64,
    /// Payload bytes sent since the start.
    pub bytes_sent: u64,
    /// Whether all is well, by [`judge`].
    pub state: State,
    /// Why it is not.
    pub reasons: Vec<String>,
}

/// Connections of one subject with one peer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Edge {
    /// Id of the subject.
    pub from: String,
    /// Id of the peer.
    pub to: String,
    /// What they are like.
    #[serde(flatten)]
    pub quality: Quality,
    /// Routers on the way; `None` = not known.
    pub hops: Option<u8>,
    /// Path MTU, bytes; `None` = not known.
    pub mtu: Option<u32>,
    /// Changes of the route since the start.
    pub route_changes: u64,
    /// Tunnels in which the peer was seen. A tunnel that is not well makes the edge degraded.
    pub tunnels: Vec<Over>,
}

/// A tunnel that leads to a peer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Over {
    /// `vxlan`, `gre` …
    #[serde(rename = "type")]
    pub kind: String,
    /// VNI, key or SPI; may be empty.
    pub id: String,
    /// Own end.
    pub local: String,
    /// Other end.
    pub remote: String,
    /// `unknown`, `up`, `degraded` or `down`.
    pub state: String,
    /// Why; empty = all is well.
    pub reason: String,
}

impl Over {
    /// As it is called.
    pub fn name(&self) -> String {
        let parts = [&self.kind, &self.id, &self.remote].map(String::as_str);
        parts
            .into_iter()
            .filter(|p| !p.is_empty())
            .collect::<Vec<_>>()
            .join(" ")
    }
}

/// All connections between two regions.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Between {
    /// This host's region; empty = not known.
    pub from: String,
    /// The other region; empty = not known.
    pub to: String,
    /// What they are like.
    #[serde(flatten)]
    pub quality: Quality,
}

/// A path that active probes have found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Path {
    /// Name of the peer.
    pub peer: String,
    /// Address that is traced.
    pub remote: String,
    /// The hops, the first router first.
    pub hops: Vec<Hop>,
}

/// A hop of such a path.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Hop {
    /// Who answers; empty = nobody.
    pub addresses: Vec<String>,
    /// Median time until the answer in the latest 10 traces, seconds.
    pub rtt_p50: Option<f64>,
    /// Packets sent in these.
    pub sent: u64,
    /// Of them without an answer.
    pub lost: u64,
}

impl Topology {
    /// The graph of a view. `snapshot` is what the view was made of.
    pub fn new(view: &View, snapshot: &Snapshot, route_changes: Vec<RouteChange>) -> Self {
        let mut out = Self {
            host: view.host.clone(),
            region: view.region.clone(),
            zone: view.zone.clone(),
            time: view.time,
            interval: view.interval,
            edges_omitted: view.pairs_omitted,
            paths: paths(snapshot),
            route_changes,
            ..Self::default()
        };
        let tunnels = tunnels(view, snapshot);
        for pair in &view.pairs {
            // What has no other end yet, such as the row of a socket that never got anywhere.
            if peer(pair).is_empty() && Quality::of(pair).is_nothing() {
                continue;
            }
            let from = out.node(NodeKind::Subject, subject(pair), &view.region, &view.zone);
            let to = out.node(NodeKind::Peer, peer(pair), &pair.peer_region, &pair.peer_zone);
            let tunnels: Vec<Over> = tunnels
                .iter()
                .filter(|(peer, _)| {
                    *peer == [&pair.peer, &pair.peer_region, &pair.peer_zone].map(String::as_str)
                })
                .map(|(_, over)| over.clone())
                .collect();
            let mut quality = Quality::of(pair);
            for over in tunnels
                .iter()
                .filter(|t| matches!(t.state.as_str(), "degraded" | "down"))
            {
                quality.state = State::Degraded;
                quality
                    .reasons
                    .push(format!("tunnel {} {}: {}", over.name(), over.state, over.reason));
            }
            out.edges.push(Edge {
                from,
                to,
                quality,
                tunnels,
                hops: pair.hops,
                mtu: pair.mtu,
                route_changes: counter(pair, "route changes", ""),
            });
        }
        out.nodes.sort_by(|a, b| (a.kind, &a.id).cmp(&(b.kind, &b.id)));
        let between = |sum: &PairRow| Between {
            from: view.region.clone(),
            to: sum.peer_region.clone(),
            quality: Quality::of(sum),
        };
        out.regions = view.regions.iter().map(between).collect();
        out
    }

    /// Adds a node and its region unless they are there; returns its id.
    fn node(&mut self, kind: NodeKind, name: &str, region: &str, zone: &str) -> String {
        let id = match kind {
            NodeKind::Subject => format!("subject:{name}"),
            NodeKind::Peer => format!("peer:{name}|{region}|{zone}"),
            NodeKind::Region => format!("region:{name}"),
        };
        if !self.nodes.iter().any(|n| n.id == id) {
            let region = (!region.is_empty()).then(|| self.node(NodeKind::Region, region, "", ""));
            self.nodes.push(Node {
                id: id.clone(),
                kind,
                name: name.to_owned(),
                region,
                zone: zone.to_owned(),
            });
        }
        id
    }

    /// The node of an id.
    pub fn get(&self, id: &str) -> Option<&Node> {
        self.nodes.iter().find(|n| n.id == id)
    }
}

fn subject(pair: &PairRow) -> &str {
    if pair.overflow { "(other)" } else { &pair.subject }
}

fn peer(pair: &PairRow) -> &str {
    if pair.overflow { "(other)" } else { &pair.peer }
}

fn counter(pair: &PairRow, name: &str, kind: &str) -> u64 {
    let of = pair.counters.iter().filter(|c| c.name == name && c.kind == kind);
    of.map(|c| c.total).sum()
}

impl Quality {
    /// Nothing was ever exchanged.
    fn is_nothing(&self) -> bool {
        let bytes = self.bytes_received + self.bytes_sent;
        self.connections == 0 && bytes == 0 && self.rtt_p50.is_none() && self.reasons.is_empty()
    }

    fn of(pair: &PairRow) -> Self {
        let quantile = |l: &Option<Latency>, q: fn(&Latency) -> f64| l.as_ref().map(q);
        let (state, reasons) = judge(pair);
        Self {
            connections: pair.connections,
            rtt_p50: quantile(&pair.rtt, |l| l.p50),
            rtt_p99: quantile(&pair.rtt, |l| l.p99),
            jitter_p50: quantile(&pair.jitter, |l| l.p50),
            jitter_p99: quantile(&pair.jitter, |l| l.p99),
            retransmit_ratio: pair.retransmit_ratio,
            receive_rate: pair.receive_rate,
            transmit_rate: pair.transmit_rate,
            bytes_received: counter(pair, "bytes", "receive"),
            bytes_sent: counter(pair, "bytes", "transmit"),
            state,
            reasons,
        }
    }
}

/// Tunnels by the peer that they lead to, from the metrics of probe `tunnel`.
fn tunnels<'a>(view: &View, snapshot: &'a Snapshot) -> Vec<([&'a str; 3], Over)> {
    let all = snapshot.family("geophone_tunnel_peer_info");
    let over = |series: &'a Series| {
        let get = |l| series.labels.get(l).unwrap_or("");
        let wanted = [&TYPE, &ID, &LOCAL, &REMOTE, &NETNS].map(get);
        let row = view
            .tunnels
            .iter()
            .find(|t| [&t.kind, &t.id, &t.local, &t.remote, &t.netns].map(String::as_str) == wanted)?;
        let over = Over {
            kind: row.kind.clone(),
            id: row.id.clone(),
            local: row.local.clone(),
            remote: row.remote.clone(),
            state: row.state.clone(),
            reason: row.reason.clone(),
        };
        let peer = [&label::PEER, &label::PEER_REGION, &label::PEER_ZONE].map(get);
        Some((peer, over))
    };
    all.into_iter().flat_map(|f| &f.series).filter_map(over).collect()
}

/// The traced paths, from the metrics of probe `path`.
fn paths(snapshot: &Snapshot) -> Vec<Path> {
    let mut out: Vec<Path> = Vec::new();
    for (metric, take) in [
        (
            "geophone_path_hop_recent_rtt_seconds",
            (|hop, series| {
                if let Value::Gauge(seconds) = series.value {
                    hop.rtt_p50 = Some(seconds);
                }
            }) as fn(&mut Hop, &Series),
        ),
        ("geophone_path_hop_recent_probes", |hop, series| {
            if let Value::Gauge(n) = series.value {
                hop.sent = n as u64;
            }
        }),
        ("geophone_path_hop_recent_lost", |hop, series| {
            if let Value::Gauge(n) = series.value {
                hop.lost = n as u64;
            }
        }),
        ("geophone_path_hop_info", |hop, series| {
            hop.addresses
                .extend(series.labels.get(&label::HOP_ADDRESS).map(str::to_owned));
        }),
    ] {
        for series in snapshot.family(metric).iter().flat_map(|f| &f.series) {
            let get = |l| series.labels.get(l).unwrap_or("");
            let (peer, remote) = (series.labels.peer(), get(&label::REMOTE));
            let Some(index) = get(&label::HOP)
                .parse()
                .ok()
                .and_then(|n: usize| n.checked_sub(1))
            else {
                continue;
            };
            let at = out
                .iter()
                .position(|p| p.peer == peer && p.remote == remote)
                .unwrap_or_else(|| {
                    out.push(Path {
                        peer: peer.to_owned(),
                        remote: remote.to_owned(),
                        hops: Vec::new(),
                    });
                    out.len() - 1
                });
            let hops = &mut out[at].hops;
            if hops.len() <= index {
                hops.resize_with(index + 1, Hop::default);
            }
            take(&mut hops[index], series);
        }
    }
    out
}
