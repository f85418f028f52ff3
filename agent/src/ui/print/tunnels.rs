//! The table of `geophone tunnels`.

use super::table;
use crate::ui::units::{bytes, bytes_rate, count, percent, seconds};
use crate::ui::view::TunnelRow;

/// Headings; those of columns that are left out if they say nothing of any tunnel begin with `?`.
const HEADERS: [&str; 15] = [
    "TYPE",
    "ID",
    "LOCAL",
    "REMOTE",
    "?NETNS",
    "STATE",
    ">RX/s",
    ">TX/s",
    ">RX",
    ">TX",
    "?>LOSS 30s",
    "?>LOST",
    "?>DROPS",
    "?>RTT",
    "?>HANDSHAKE",
];

/// The table, and with `inside` one of who talks inside; a line that says so if there is no tunnel.
pub fn tunnels(rows: &[TunnelRow], inside: bool) -> String {
    if rows.is_empty() {
        return "no packet of a tunnel has been seen\n".to_owned();
    }
    let maybe = |value: Option<f64>, write: fn(f64) -> String| value.map_or("–".to_owned(), write);
    let cells = |t: &TunnelRow| {
        let drops = t.device_drops.values().sum::<u64>();
        vec![
            t.kind.clone(),
            t.id.clone(),
            t.local.clone(),
            t.remote.clone(),
            t.netns.clone(),
            [t.state.as_str(), t.reason.as_str()].join(" ").trim().to_owned(),
            bytes_rate(t.bytes_rate[0]),
            bytes_rate(t.bytes_rate[1]),
            bytes(t.bytes[0] as f64),
            bytes(t.bytes[1] as f64),
            maybe(t.loss_ratio, percent),
            maybe(t.sequenced.map(|_| t.lost as f64), count),
            maybe((drops > 0).then_some(drops as f64), count),
            maybe(t.rtt_remote, seconds),
            maybe(t.handshake_age, seconds),
        ]
    };
    let lines: Vec<Vec<String>> = rows.iter().map(cells).collect();
    let says = |i: usize| lines.iter().any(|l| !matches!(l[i].as_str(), "" | "–"));
    let keep: Vec<usize> = (0..HEADERS.len())
        .filter(|i| !HEADERS[*i].starts_with('?') || says(*i))
        .collect();
    let headers: Vec<&str> = keep.iter().map(|i| HEADERS[*i].trim_start_matches('?')).collect();
    let lines: Vec<Vec<String>> = lines
        .iter()
        .map(|line| keep.iter().map(|i| line[*i].clone()).collect())
        .collect();
    let mut out = table(&headers, &lines);
    if inside {
        out.push('\n');
        out.push_str(&pairs(rows));
    }
    out
}

/// Who talks inside of each tunnel.
fn pairs(rows: &[TunnelRow]) -> String {
    let mut lines = Vec::new();
    for t in rows {
        for pair in &t.pairs {
            let tunnel = [&t.kind, &t.id, &t.local, &t.remote].map(String::as_str);
            lines.push(vec![
                tunnel.join(" ").replace("  ", " "),
                pair.local.clone(),
                pair.remote.clone(),
                bytes_rate(pair.bytes_rate[0]),
                bytes_rate(pair.bytes_rate[1]),
                bytes(pair.bytes[0] as f64),
                bytes(pair.bytes[1] as f64),
            ]);
        }
    }
    if lines.is_empty() {
        return "nobody knows who talks inside: nothing that can be read has passed\n".to_owned();
    }
    let headers = ["TUNNEL", "INSIDE, HERE", "THERE", ">RX/s", ">TX/s", ">RX", ">TX"];
    table(&headers, &lines)
}
