//! The topology as a drawing: Graphviz and Mermaid.

use super::table::{known, over, share, time};
use super::{Edge, Node, NodeKind, State, Topology};
use crate::aggregate::labels::clean;
use crate::ui::units::bytes_rate;
use std::collections::HashMap;
use std::fmt::Write as _;

/// As Graphviz reads it: regions are clusters, degraded edges are red.
pub fn dot(topology: &Topology) -> String {
    let text = |text: &str| clean(text).replace('\\', "\\\\").replace('"', "\\\"");
    let ids = numbers(topology);
    let mut out = String::from(
        "digraph geophone {\n  rankdir=LR;\n  node [fontname=\"sans-serif\"];\n  edge [fontname=\"sans-serif\", fontsize=10];\n",
    );
    for (i, (region, nodes)) in by_region(topology).iter().enumerate() {
        let indent = match region {
            Some(region) => {
                let _ = writeln!(
                    out,
                    "  subgraph cluster_{i} {{\n    label=\"{}\";",
                    text(&region.name)
                );
                "    "
            }
            None => "  ",
        };
        for node in nodes {
            let shape = if node.kind == NodeKind::Subject {
                "box"
            } else {
                "ellipse"
            };
            let _ = writeln!(
                out,
                "{indent}n{} [label=\"{}\", shape={shape}];",
                ids.get(node.id.as_str()).copied().unwrap_or_default(),
                text(&known(&node.name))
            );
        }
        if region.is_some() {
            out.push_str("  }\n");
        }
    }
    for edge in &topology.edges {
        let [from, to] = ends(edge, &ids);
        let color = match edge.quality.state {
            State::Ok => "",
            State::Degraded => ", color=red, fontcolor=red",
        };
        let label = captions(edge, text).join("\\n");
        let _ = writeln!(out, "  n{from} -> n{to} [label=\"{label}\"{color}];");
    }
    out.push_str("}\n");
    out
}

/// As Mermaid reads it, e.g. in Markdown: regions are subgraphs, degraded edges are red.
pub fn mermaid(topology: &Topology) -> String {
    // Inside quotes all but the quote itself and what HTML takes for markup stands for itself; `#` begins an entity.
    let text = |text: &str| {
        clean(text)
            .replace('#', "#35;")
            .replace('"', "#quot;")
            .replace('<', "#lt;")
            .replace('>', "#gt;")
            .replace('`', "#96;")
    };
    let ids = numbers(topology);
    let mut out = String::from("flowchart LR\n");
    for (i, (region, nodes)) in by_region(topology).iter().enumerate() {
        let indent = match region {
            Some(region) => {
                let _ = writeln!(out, "  subgraph r{i}[\"{}\"]", text(&region.name));
                "    "
            }
            None => "  ",
        };
        for node in nodes {
            let (open, close) = if node.kind == NodeKind::Subject {
                ("[", "]")
            } else {
                ("([", "])")
            };
            let id = ids.get(node.id.as_str()).copied().unwrap_or_default();
            let _ = writeln!(out, "{indent}n{id}{open}\"{}\"{close}", text(&known(&node.name)));
        }
        if region.is_some() {
            out.push_str("  end\n");
        }
    }
    let mut degraded = Vec::new();
    for (i, edge) in topology.edges.iter().enumerate() {
        let [from, to] = ends(edge, &ids);
        let label = captions(edge, text).join("<br/>");
        let _ = writeln!(out, "  n{from} -->|\"{label}\"| n{to}");
        if edge.quality.state == State::Degraded {
            degraded.push(i.to_string());
        }
    }
    if !degraded.is_empty() {
        let _ = writeln!(out, "  linkStyle {} stroke:red,color:red", degraded.join(","));
    }
    out
}

/// Numbers of the nodes: names may hold anything, numbers are safe in every language.
fn numbers(topology: &Topology) -> HashMap<&str, usize> {
    let ids = topology.nodes.iter().enumerate();
    ids.map(|(i, n)| (n.id.as_str(), i)).collect()
}

fn ends(edge: &Edge, ids: &HashMap<&str, usize>) -> [usize; 2] {
    [&edge.from, &edge.to].map(|id| ids.get(id.as_str()).copied().unwrap_or_default())
}

/// Subjects and peers by region; those without one last.
fn by_region(topology: &Topology) -> Vec<(Option<&Node>, Vec<&Node>)> {
    let inside = |region: Option<&Node>| -> Vec<&Node> {
        let id = region.map(|r| &r.id);
        let nodes = topology.nodes.iter();
        nodes
            .filter(|n| n.kind != NodeKind::Region && n.region.as_ref() == id)
            .collect()
    };
    let regions = topology.nodes.iter().filter(|n| n.kind == NodeKind::Region);
    regions
        .map(Some)
        .chain([None])
        .map(|region| (region, inside(region)))
        .filter(|(_, nodes)| !nodes.is_empty())
        .collect()
}

fn captions(edge: &Edge, text: impl Fn(&str) -> String) -> Vec<String> {
    caption(edge).iter().map(|line| text(line)).collect()
}

/// What stands at an edge.
fn caption(edge: &Edge) -> Vec<String> {
    let q = &edge.quality;
    let mut lines = vec![
        format!(
            "p50 {} p99 {} retr {}",
            time(q.rtt_p50),
            time(q.rtt_p99),
            share(q.retransmit_ratio)
        ),
        format!(
            "in {} out {}",
            bytes_rate(q.receive_rate),
            bytes_rate(q.transmit_rate)
        ),
    ];
    if !edge.tunnels.is_empty() {
        lines.push(format!("over {}", over(edge)));
    }
    lines
}
