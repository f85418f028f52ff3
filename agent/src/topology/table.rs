//! The topology as text.

use super::{Edge, Over, Quality, State, Topology};
use crate::aggregate::labels::clean;
use crate::ui::print;
use crate::ui::units::{bytes, bytes_rate, clock, count, percent, seconds};
use std::fmt::Write as _;

/// Route changes that are shown.
const CHANGES: usize = 10;

const QUALITY: [&str; 7] = [
    ">CONNS", ">RTT p50", ">p99", ">JITTER", ">RETR", ">IN/s", ">OUT/s",
];

/// Edges, the matrix of regions, traced paths and route changes; parts with nothing in them are left out.
pub fn table(topology: &Topology) -> String {
    let mut out = String::new();
    let mut headers = vec!["SUBJECT", "PEER", "REGION"];
    headers.extend(QUALITY);
    headers.extend([">HOPS", ">MTU", ">BYTES"]);
    // Most hosts have none.
    let tunnels = topology.edges.iter().any(|e| !e.tunnels.is_empty());
    headers.extend(tunnels.then_some("TUNNEL"));
    headers.push("STATE");
    let name = |id: &str| topology.get(id).map_or("", |n| n.name.as_str());
    let rows: Vec<Vec<String>> = topology
        .edges
        .iter()
        .map(|edge| {
            let region = topology.get(&edge.to).and_then(|n| n.region.as_deref());
            let mut row = vec![known(name(&edge.from)), known(name(&edge.to))];
            row.push(known(region.map_or("", name)));
            row.extend(quality(&edge.quality));
            row.push(edge.hops.map_or("–".into(), |h| h.to_string()));
            row.push(edge.mtu.map_or("–".into(), |m| m.to_string()));
            row.push(bytes(
                (edge.quality.bytes_received + edge.quality.bytes_sent) as f64,
            ));
            if tunnels {
                row.push(known(&over(edge)));
            }
            row.push(state(&edge.quality));
            row
        })
        .collect();
    out.push_str(&print::table(&headers, &rows));
    if topology.edges_omitted > 0 {
        let _ = writeln!(out, "and {} more", topology.edges_omitted);
    }
    regions(topology, &mut out);
    paths(topology, &mut out);
    changes(topology, &mut out);
    out
}

/// Bandwidth, latency and loss between the regions. Loss is what had to be sent again.
fn regions(topology: &Topology, out: &mut String) {
    if topology.regions.is_empty() {
        return;
    }
    let mut headers = vec!["FROM", "TO REGION"];
    headers.extend(QUALITY);
    headers.push("STATE");
    let rows: Vec<Vec<String>> = topology
        .regions
        .iter()
        .map(|between| {
            let mut row = vec![known(&between.from), known(&between.to)];
            row.extend(quality(&between.quality));
            row.push(state(&between.quality));
            row
        })
        .collect();
    let _ = write!(out, "\n{}", print::table(&headers, &rows));
}

fn paths(topology: &Topology, out: &mut String) {
    for path in &topology.paths {
        let _ = writeln!(out, "\nPath to {} ({})", path.peer, path.remote);
        let rows: Vec<Vec<String>> = path
            .hops
            .iter()
            .enumerate()
            .map(|(i, hop)| {
                vec![
                    (i + 1).to_string(),
                    if hop.addresses.is_empty() {
                        "*".into()
                    } else {
                        hop.addresses.join(" ")
                    },
                    time(hop.rtt_p50),
                    count(hop.sent as f64),
                    share((hop.sent > 0).then(|| hop.lost as f64 / hop.sent as f64)),
                ]
            })
            .collect();
        out.push_str(&print::table(
            &[">HOP", "ROUTER", ">p50", ">SENT", ">LOST"],
            &rows,
        ));
    }
}

fn changes(topology: &Topology, out: &mut String) {
    let latest = topology.route_changes.iter().rev().take(CHANGES);
    for (i, change) in latest.enumerate() {
        let start = if i == 0 { "\n" } else { "" };
        let line = format!("{} {change}", clock(change.time));
        // By word: only a word of more than 128 bytes is cut.
        let words: String = line.split_inclusive(' ').map(clean).collect();
        let _ = writeln!(out, "{start}{words}");
    }
}

fn quality(q: &Quality) -> [String; 7] {
    [
        count(q.connections as f64),
        time(q.rtt_p50),
        time(q.rtt_p99),
        time(q.jitter_p50),
        share(q.retransmit_ratio),
        bytes_rate(q.receive_rate),
        bytes_rate(q.transmit_rate),
    ]
}

fn state(q: &Quality) -> String {
    match q.state {
        State::Ok => "ok".to_owned(),
        State::Degraded => format!("degraded: {}", q.reasons.join(", ")),
    }
}

/// The tunnels of an edge, and their states where these say something.
pub(super) fn over(edge: &Edge) -> String {
    let one = |t: &Over| match t.state.as_str() {
        "" => t.name(),
        "unknown" if t.reason.is_empty() => t.name(),
        state => format!("{} ({state})", t.name()),
    };
    edge.tunnels.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// A name, or a dash.
pub(super) fn known(name: &str) -> String {
    if name.is_empty() { "–" } else { name }.to_owned()
}

/// A latency, or a dash.
pub(super) fn time(value: Option<f64>) -> String {
    value.map_or("–".into(), seconds)
}

/// A share, or a dash.
pub(super) fn share(value: Option<f64>) -> String {
    value.map_or("–".into(), percent)
}
