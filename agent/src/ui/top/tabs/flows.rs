//! The last records.

use super::{Popup, name, pairs};
use crate::records::{DroppedPacket, Flow, Record, TunnelChange};
use crate::ui::top::grid::{Cell, Column, Key, Row, number, text};
use crate::ui::top::theme::{Theme, Tone};
use crate::ui::units::{bytes, clock, count, percent, seconds, span};
use std::collections::VecDeque;
use std::net::SocketAddr;

/// Columns.
pub const COLUMNS: &[Column] = &[
    text("UTC", 8, 1),
    text("EVENT", 7, 0),
    text("SUBJECT", 12, 0),
    text("REMOTE", 21, 1),
    text("PEER/REASON", 11, 2),
    number("RTT", 6, 3),
    number("RX", 6, 4),
    number("TX", 6, 5),
    number("RETR", 5, 6),
    number("LASTED", 6, 6),
    text("LOCAL", 15, 7),
    text("PROCESS", 10, 7),
    number("CONNECT", 7, 8),
];
/// Sorted by time.
pub const SORT: usize = 0;

/// Rows.
pub fn rows(records: &VecDeque<(u64, Record)>) -> Vec<Row> {
    let row = |(serial, record): &(u64, Record)| {
        let cells = match record {
            Record::Flow(flow) => of_flow(flow),
            Record::Drop(drop) => of_drop(drop),
            Record::Tunnel(change) => of_tunnel(change),
        };
        Row {
            id: format!("{serial:020}"),
            cells,
        }
    };
    records.iter().map(row).collect()
}

/// The event in one word: why it failed rather than that it did.
pub fn word(flow: &Flow) -> &str {
    match flow.error.as_str() {
        "" | "none" => &flow.event,
        "timed_out" => "timeout",
        "unreachable" => "unreach",
        "other" => "failed",
        error => error,
    }
}

fn when(time: f64) -> Cell {
    let text = clock(time).chars().take(8).collect();
    Cell {
        text,
        key: Key::Number(time),
        tone: Tone::Dim,
        points: Vec::new(),
    }
}

fn address(a: Option<SocketAddr>) -> Cell {
    name(&a.map(|a| a.to_string()).unwrap_or_default())
}

fn of_flow(f: &Flow) -> Vec<Cell> {
    let tone = match (f.event.as_str(), word(f)) {
        ("failed", _) => Tone::Bad,
        (event, word) if event != word => Tone::Warn,
        ("open", _) => Tone::Dim,
        _ => Tone::Normal,
    };
    let ratio = retransmitted(f).map_or_else(Cell::none, |r| {
        Cell::number(r, percent).tone(super::connections::retransmit_tone(r))
    });
    vec![
        when(f.time),
        Cell::text(word(f)).tone(tone),
        name(&f.subject),
        address(Some(f.remote)),
        name(&f.peer),
        Cell::maybe(f.rtt, seconds),
        Cell::number(f.bytes_received as f64, bytes),
        Cell::number(f.bytes_sent as f64, bytes),
        ratio,
        Cell::maybe(f.duration, lasted),
        address(Some(f.local)),
        name(&process(f)),
        Cell::maybe(f.connect, seconds),
    ]
}

/// Retransmitted share of the segments sent.
pub fn retransmitted(f: &Flow) -> Option<f64> {
    (f.segments_sent > 0).then(|| f64::from(f.retransmits) / f64::from(f.segments_sent))
}

/// How long a connection lasted.
pub fn lasted(duration: f64) -> String {
    if duration < 60.0 {
        seconds(duration)
    } else {
        span(duration)
    }
}

/// Process and pid.
pub fn process(f: &Flow) -> String {
    match (f.process.as_str(), f.pid) {
        ("", 0) => String::new(),
        (process, 0) => process.to_owned(),
        (process, pid) => format!("{process}[{pid}]"),
    }
}

fn of_drop(d: &DroppedPacket) -> Vec<Cell> {
    let (local, remote) = if d.direction == "transmit" {
        (d.source, d.destination)
    } else {
        (d.destination, d.source)
    };
    let mut cells = vec![
        when(d.time),
        Cell::text("drop").tone(Tone::Warn),
        name(&d.subject),
        address(remote),
        name(&d.reason),
        Cell::none(),
        Cell::none(),
        Cell::none(),
        Cell::none(),
        Cell::none(),
        address(local),
    ];
    cells.extend([Cell::text(d.location.clone()).tone(Tone::Dim), Cell::none()]);
    cells
}

fn of_tunnel(t: &TunnelChange) -> Vec<Cell> {
    let tone = match t.state.as_str() {
        "down" => Tone::Bad,
        "degraded" => Tone::Warn,
        _ => Tone::Normal,
    };
    let mut cells = vec![
        when(t.time),
        Cell::text(t.state.clone()).tone(tone),
        name(&format!("{} {}", t.r#type, t.id)),
        name(&t.remote),
        name(&t.reason),
    ];
    cells.extend([(); 5].map(|()| Cell::none()));
    cells.extend([name(&t.local), Cell::none(), Cell::none()]);
    cells
}

/// Everything about a record.
pub fn popup(id: &str, records: &VecDeque<(u64, Record)>, theme: Theme) -> Option<Popup> {
    let serial: u64 = id.parse().ok()?;
    let (_, record) = records.iter().find(|(s, _)| *s == serial)?;
    Some(match record {
        Record::Flow(f) => flow(f, theme),
        Record::Drop(d) => drop(d, theme),
        Record::Tunnel(t) => tunnel(t, theme),
    })
}

fn flow(f: &Flow, theme: Theme) -> Popup {
    let time = |v: Option<f64>| v.map(seconds).unwrap_or_default();
    let zone = [f.peer_region.as_str(), f.peer_zone.as_str()]
        .into_iter()
        .filter(|t| !t.is_empty());
    let zone = zone.collect::<Vec<_>>().join("/");
    let left = pairs(
        theme,
        &[
            ("time", format!("{} UTC", clock(f.time))),
            ("event", f.event.clone()),
            (
                "error",
                if f.error == "none" {
                    String::new()
                } else {
                    f.error.clone()
                },
            ),
            ("state", f.state.clone()),
            ("role", f.role.clone()),
            ("subject", f.subject.clone()),
            ("process", process(f)),
            ("local", f.local.to_string()),
            ("remote", f.remote.to_string()),
            ("peer", f.peer.clone()),
            ("zone", zone),
            ("cookie", format!("{:x}", f.cookie)),
        ],
    );
    let right = pairs(
        theme,
        &[
            (
                "lasted",
                f.duration.map_or("since before the agent".into(), lasted),
            ),
            ("connect", time(f.connect)),
            ("RTT", time(f.rtt)),
            ("RTT least", time(f.rtt_min)),
            ("RTT deviation", time(f.rtt_var)),
            (
                "received",
                format!(
                    "{} in {} segments",
                    bytes(f.bytes_received as f64),
                    count(f.segments_received.into())
                ),
            ),
            (
                "sent",
                format!(
                    "{} in {} segments",
                    bytes(f.bytes_sent as f64),
                    count(f.segments_sent.into())
                ),
            ),
            (
                "retransmits",
                format!("{}, {} of them needless", f.retransmits, f.spurious),
            ),
            ("window", format!("{} segments", f.cwnd)),
        ],
    );
    Popup {
        title: format!("{} → {}", f.local, f.remote),
        left,
        right,
        ..Popup::default()
    }
}

fn drop(d: &DroppedPacket, theme: Theme) -> Popup {
    let address = |a: Option<SocketAddr>| a.map(|a| a.to_string()).unwrap_or_default();
    let upper = pairs(
        theme,
        &[
            ("time", format!("{} UTC", clock(d.time))),
            ("reason", d.reason.clone()),
            ("location", d.location.clone()),
            ("protocol", d.protocol.clone()),
            ("direction", d.direction.clone()),
            ("interface", d.device.clone()),
            ("subject", d.subject.clone()),
            ("source", address(d.source)),
            ("destination", address(d.destination)),
            ("bytes", d.bytes.to_string()),
        ],
    );
    Popup {
        title: format!("dropped: {}", d.reason),
        upper,
        ..Popup::default()
    }
}

fn tunnel(t: &TunnelChange, theme: Theme) -> Popup {
    let upper = pairs(
        theme,
        &[
            ("time", format!("{} UTC", clock(t.time))),
            ("state", t.state.clone()),
            ("before", t.before.clone()),
            ("reason", t.reason.clone()),
            ("type", t.r#type.clone()),
            ("id", t.id.clone()),
            ("local", t.local.clone()),
            ("remote", t.remote.clone()),
            ("region", t.remote_region.clone()),
        ],
    );
    Popup {
        title: format!("tunnel {} {} to {}", t.r#type, t.id, t.remote),
        upper,
        ..Popup::default()
    }
}
