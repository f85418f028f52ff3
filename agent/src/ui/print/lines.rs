//! One line for each record.

use crate::aggregate::labels::clean;
use crate::records::{DroppedPacket, Flow, Record, TunnelChange};
use crate::ui::top::tabs::flows::{lasted, process, retransmitted, word};
use crate::ui::units::{bytes, clock, fit, percent, seconds, width};
use std::net::SocketAddr;

/// Least widths of the columns of a flow; `true` = to the right. What varies most stands last.
const FLOW: [(usize, bool); 14] = [
    (12, false),
    (8, false),
    (7, false),
    (7, true),
    (7, true),
    (7, true),
    (6, true),
    (7, true),
    (7, true),
    (20, false),
    (21, false),
    (21, false),
    (12, false),
    (0, false),
];
const DROP: [(usize, bool); 9] = [
    (12, false),
    (24, false),
    (8, false),
    (8, false),
    (10, false),
    (6, true),
    (20, false),
    (44, false),
    (0, false),
];
const TUNNEL: [(usize, bool); 7] = [
    (12, false),
    (9, false),
    (10, false),
    (21, false),
    (21, false),
    (20, false),
    (0, false),
];

/// Two spaces between columns. A longer cell pushes the rest out: no address is ever cut.
fn columns<const N: usize>(widths: [(usize, bool); N], cells: [&str; N]) -> String {
    let cells = cells.map(|cell| if cell.is_empty() { "–" } else { cell });
    let fitted = widths
        .iter()
        .zip(cells)
        .map(|((wide, right), cell)| fit(cell, width(cell).max(*wide), *right));
    fitted.collect::<Vec<_>>().join("  ").trim_end().to_owned()
}

/// Heading of connections.
pub fn flow_header() -> String {
    columns(
        FLOW,
        [
            "TIME UTC", "EVENT", "ROLE", "LASTED", "CONNECT", "RTT", "RETR", "IN", "OUT", "SUBJECT", "LOCAL",
            "REMOTE", "PEER", "PROCESS",
        ],
    )
}

/// Heading of dropped packets.
pub fn drop_header() -> String {
    columns(
        DROP,
        [
            "TIME UTC",
            "REASON",
            "PROTOCOL",
            "DEVICE",
            "DIRECTION",
            "BYTES",
            "SUBJECT",
            "SOURCE → DESTINATION",
            "LOCATION",
        ],
    )
}

/// Heading of a tunnel's changes.
pub fn tunnel_header() -> String {
    columns(
        TUNNEL,
        ["TIME UTC", "TYPE", "ID", "LOCAL", "REMOTE", "STATE", "REASON"],
    )
}

/// A record in one line.
pub fn line(record: &Record) -> String {
    match record {
        Record::Flow(flow) => of_flow(flow),
        Record::Drop(drop) => of_drop(drop),
        Record::Tunnel(change) => of_tunnel(change),
    }
}

fn of_flow(f: &Flow) -> String {
    let time = |v: Option<f64>| v.map(seconds).unwrap_or_default();
    columns(
        FLOW,
        [
            &clock(f.time),
            &clean(word(f)),
            &clean(&f.role),
            &f.duration.map(lasted).unwrap_or_default(),
            &time(f.connect),
            &time(f.rtt),
            &retransmitted(f).map(percent).unwrap_or_default(),
            &bytes(f.bytes_received as f64),
            &bytes(f.bytes_sent as f64),
            &clean(&f.subject),
            &f.local.to_string(),
            &f.remote.to_string(),
            &clean(&f.peer),
            &clean(&process(f)),
        ],
    )
}

fn of_drop(d: &DroppedPacket) -> String {
    let address = |a: Option<SocketAddr>| a.map_or("?".into(), |a| a.to_string());
    let way = match (d.source, d.destination) {
        (None, None) => String::new(),
        (source, destination) => format!("{} → {}", address(source), address(destination)),
    };
    columns(
        DROP,
        [
            &clock(d.time),
            &clean(&d.reason),
            &clean(&d.protocol),
            &clean(&d.device),
            &clean(&d.direction),
            &d.bytes.to_string(),
            &clean(&d.subject),
            &way,
            &clean(&d.location),
        ],
    )
}

fn of_tunnel(t: &TunnelChange) -> String {
    columns(
        TUNNEL,
        [
            &clock(t.time),
            &clean(&t.r#type),
            &clean(&t.id),
            &clean(&t.local),
            &clean(&t.remote),
            &format!("{} → {}", clean(&t.before), clean(&t.state)),
            &clean(&t.reason),
        ],
    )
}
