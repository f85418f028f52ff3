//! The table of `geophone tunnels`.

use super::table;
use crate::ui::units::{bytes, bytes_rate, count, percent, seconds};
use crate::ui::view::TunnelRow;

/// The table; a line that says so if there is no tunnel.
pub fn tunnels(rows: &[TunnelRow]) -> String {
    if rows.is_empty() {
        return "no packet of a tunnel has been seen\n".to_owned();
    }
    let maybe = |value: Option<f64>, write: fn(f64) -> String| value.map_or("–".to_owned(), write);
    let elsewhere = rows.iter().any(|t| !t.netns.is_empty());
    let lines: Vec<Vec<String>> = rows
        .iter()
        .map(|t| {
            let mut cells = vec![
                t.kind.clone(),
                t.id.clone(),
                t.local.clone(),
                t.remote.clone(),
                [t.state.as_str(), t.reason.as_str()].join(" ").trim().to_owned(),
                bytes_rate(t.bytes_rate[0]),
                bytes_rate(t.bytes_rate[1]),
                bytes(t.bytes[0] as f64),
                bytes(t.bytes[1] as f64),
                maybe(t.loss_ratio, percent),
                maybe(t.sequenced.map(|_| t.lost as f64), count),
                count(t.device_drops.values().sum::<u64>() as f64),
                maybe(t.rtt_remote, seconds),
                maybe(t.handshake_age, seconds),
            ];
            cells.extend(elsewhere.then(|| t.netns.clone()));
            cells
        })
        .collect();
    let mut headers = vec![
        "TYPE",
        "ID",
        "LOCAL",
        "REMOTE",
        "STATE",
        ">RX/s",
        ">TX/s",
        ">RX",
        ">TX",
        ">LOSS 30s",
        ">LOST",
        ">DROPS",
        ">RTT",
        ">HANDSHAKE",
    ];
    headers.extend(elsewhere.then_some("NETNS"));
    table(&headers, &lines)
}
