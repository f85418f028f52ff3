//! Datagrams, while probe `udp` is on.

use super::{Popup, name, pairs};
use crate::ui::top::grid::{Cell, Column, Row, number, text};
use crate::ui::top::theme::Theme;
use crate::ui::units::{bytes, count, rate};
use crate::ui::view::{UdpRow, View};

/// Columns.
pub const COLUMNS: &[Column] = &[
    text("SUBJECT", 13, 0),
    number("RX dgm/s", 8, 0),
    number("TX dgm/s", 8, 0),
    number("RX/s", 7, 1),
    number("TX/s", 7, 1),
    number("RX dgm", 7, 2),
    number("TX dgm", 7, 2),
    number("RX", 7, 3),
    number("TX", 7, 3),
];
/// Sorted by what is received.
pub const SORT: usize = 1;

/// Rows.
pub fn rows(view: &View) -> Vec<Row> {
    view.udp.iter().flatten().map(row).collect()
}

fn row(r: &UdpRow) -> Row {
    let (rx, tx) = (&r.receive, &r.transmit);
    let cells = vec![
        name(&r.subject),
        Cell::number(rx.packets_rate, rate),
        Cell::number(tx.packets_rate, rate),
        Cell::number(rx.bytes_rate, bytes),
        Cell::number(tx.bytes_rate, bytes),
        Cell::number(rx.packets as f64, count),
        Cell::number(tx.packets as f64, count),
        Cell::number(rx.bytes as f64, bytes),
        Cell::number(tx.bytes as f64, bytes),
    ];
    Row {
        id: r.subject.clone(),
        cells,
    }
}

/// Everything about a subject's datagrams.
pub fn popup(wanted: &str, view: &View, theme: Theme) -> Option<Popup> {
    let r = view.udp.iter().flatten().find(|r| r.subject == wanted)?;
    let both = |rx: u64, tx: u64, write: fn(f64) -> String| {
        format!("{} received, {} sent", write(rx as f64), write(tx as f64))
    };
    let values = [
        ("datagrams", both(r.receive.packets, r.transmit.packets, count)),
        ("bytes", both(r.receive.bytes, r.transmit.bytes, bytes)),
    ];
    Some(Popup {
        title: wanted.to_owned(),
        upper: pairs(theme, &values),
        ..Popup::default()
    })
}
