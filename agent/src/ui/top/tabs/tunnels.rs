//! Tunnels.

use super::{Popup, heading, name, pairs};
use crate::ui::top::grid::{Cell, Column, Row, number, text};
use crate::ui::top::theme::{Theme, Tone};
use crate::ui::units::{bytes, bytes_rate, count, percent, rate, seconds};
use crate::ui::view::{InnerPair, TunnelRow, View};

/// Columns.
pub const COLUMNS: &[Column] = &[
    text("TYPE", 9, 0),
    text("ID", 6, 1),
    text("LOCAL", 15, 3),
    text("REMOTE", 15, 0),
    text("STATE", 8, 0),
    number("RX/s", 6, 1),
    number("TX/s", 6, 1),
    number("LOSS", 6, 1),
    number("RTT", 7, 2),
    text("REASON", 20, 4),
    number("SHAKE", 7, 5),
    number("RX pkt/s", 8, 6),
    number("TX pkt/s", 8, 6),
    number("LOST", 7, 7),
    number("REORD", 7, 7),
    text("REGION", 12, 8),
];
/// Sorted by what is received.
pub const SORT: usize = 5;

fn id(t: &TunnelRow) -> String {
    [&t.kind, &t.id, &t.local, &t.remote, &t.netns]
        .map(String::as_str)
        .join(" ")
        .trim_end()
        .to_owned()
}

/// Rows.
pub fn rows(view: &View) -> Vec<Row> {
    view.tunnels.iter().map(row).collect()
}

fn row(t: &TunnelRow) -> Row {
    let state = match t.state.as_str() {
        "down" => name(&t.state).tone(Tone::Bad),
        "degraded" => name(&t.state).tone(Tone::Warn),
        // Of what nobody watches the numbers stand still.
        "unknown" if !t.reason.is_empty() => name(&t.state).tone(Tone::Warn),
        _ => name(&t.state),
    };
    let cells = vec![
        name(&t.kind),
        name(&t.id),
        name(&t.local),
        name(&t.remote),
        state,
        Cell::number(t.bytes_rate[0], bytes),
        Cell::number(t.bytes_rate[1], bytes),
        Cell::maybe(t.loss_ratio, percent),
        Cell::maybe(t.rtt_remote, seconds),
        name(&t.reason),
        Cell::maybe(t.handshake, seconds),
        Cell::number(t.packets_rate[0], rate),
        Cell::number(t.packets_rate[1], rate),
        Cell::maybe(t.sequenced.map(|_| t.lost as f64), count),
        Cell::maybe(t.sequenced.map(|_| t.reordered as f64), count),
        name(&t.remote_region),
    ];
    Row { id: id(t), cells }
}

/// The addresses of a pair inside, and what they say to each other.
fn inside(pair: &InnerPair) -> (String, String) {
    let [rx, tx] = pair.bytes_rate.map(bytes_rate);
    let ends = [&pair.local, &pair.remote].map(String::as_str);
    let ends = ends.into_iter().filter(|end| !end.is_empty());
    (
        ends.collect::<Vec<_>>().join(" "),
        format!("{rx} received, {tx} sent"),
    )
}

/// Everything about a tunnel.
pub fn popup(wanted: &str, view: &View, theme: Theme) -> Option<Popup> {
    let t = view.tunnels.iter().find(|t| id(t) == wanted)?;
    let both = |values: [u64; 2], write: fn(f64) -> String| {
        let [rx, tx] = values.map(|v| write(v as f64));
        format!("{rx} received, {tx} sent")
    };
    let maybe = |value: Option<f64>, write: fn(f64) -> String| value.map(write).unwrap_or_default();
    let numbers = t.sequenced.map(|received| {
        format!(
            "{} came, {} lost, {} reordered, {} twice",
            count(received as f64),
            count(t.lost as f64),
            count(t.reordered as f64),
            count(t.duplicated as f64)
        )
    });
    let mut values = vec![
        ("state", [t.state.as_str(), t.reason.as_str()].join(" ")),
        ("local", t.local.clone()),
        ("remote", t.remote.clone()),
        ("region", t.remote_region.clone()),
        ("netns", t.netns.clone()),
        ("bytes", both(t.bytes, bytes)),
        ("inner", both(t.inner_bytes, bytes)),
        ("packets", both(t.packets, count)),
        ("numbers", numbers.unwrap_or_default()),
        ("loss, 30 s", maybe(t.loss_ratio, percent)),
        ("rtt beyond", maybe(t.rtt_remote, seconds)),
        ("rtt behind", maybe(t.rtt_local, seconds)),
        ("handshake", maybe(t.handshake, seconds)),
        ("its age", maybe(t.handshake_age, seconds)),
        ("mtu told", maybe(t.mtu, count)),
    ];
    values.extend(
        t.device_drops
            .iter()
            .map(|(drop, packets)| (drop.as_str(), format!("{} dropped", count(*packets as f64)))),
    );
    values.extend(
        t.classes
            .iter()
            .map(|(class, packets)| (class.as_str(), count(*packets as f64))),
    );
    let mut upper = pairs(theme, &values);
    if !t.pairs.is_empty() {
        upper.push(heading(theme, "who talks inside"));
    }
    let inside: Vec<(String, String)> = t.pairs.iter().map(inside).collect();
    let inside: Vec<(&str, String)> = inside.iter().map(|(n, v)| (n.as_str(), v.clone())).collect();
    upper.extend(pairs(theme, &inside));
    Some(Popup {
        title: id(t),
        upper,
        ..Popup::default()
    })
}
