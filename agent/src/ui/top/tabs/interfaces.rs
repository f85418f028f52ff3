//! Network interfaces.

use super::{Popup, heading, name};
use crate::ui::top::grid::{Cell, Column, Row, bars, number, text};
use crate::ui::top::theme::{Theme, Tone};
use crate::ui::units::{bytes, bytes_rate, count, fit, percent, rate, spark};
use crate::ui::view::{DeviceRow, Lane, View};
use ratatui::text::Line;

/// Columns.
pub const COLUMNS: &[Column] = &[
    text("DEVICE", 10, 0),
    number("RX/s", 6, 1),
    number("TX/s", 6, 1),
    number("RX pkt/s", 8, 2),
    number("TX pkt/s", 8, 2),
    number("ERRS", 5, 3),
    number("DROPS", 5, 3),
    number("SPEED", 8, 4),
    number("USED", 5, 5),
    bars("RX+TX", 6, 60, 5),
    number("ERR/s", 5, 7),
    number("DROP/s", 6, 7),
    number("RX total", 8, 8),
    number("TX total", 8, 8),
];
/// Sorted by what is received.
pub const SORT: usize = 1;

/// Rows.
pub fn rows(view: &View) -> Vec<Row> {
    view.devices.iter().map(row).collect()
}

/// Link speeds are told in bits.
fn speed(bytes_per_second: f64) -> String {
    match bytes(bytes_per_second * 8.0).strip_suffix('B') {
        Some(n) => format!("{n}b/s"),
        None => "0".into(),
    }
}

fn used(d: &DeviceRow) -> Option<f64> {
    d.speed
        .filter(|s| *s > 0.0)
        .map(|s| d.receive.bytes_rate.max(d.transmit.bytes_rate) / s)
}

fn row(d: &DeviceRow) -> Row {
    let (rx, tx) = (&d.receive, &d.transmit);
    let wrong = |total: u64, rate: f64| {
        let cell = Cell::number(total as f64, count);
        if rate > 0.0 { cell.tone(Tone::Warn) } else { cell }
    };
    let (errors, drops) = (rx.errors_rate + tx.errors_rate, rx.drops_rate + tx.drops_rate);
    let cells = vec![
        name(&d.device),
        Cell::number(rx.bytes_rate, bytes),
        Cell::number(tx.bytes_rate, bytes),
        Cell::number(rx.packets_rate, rate),
        Cell::number(tx.packets_rate, rate),
        wrong(rx.errors + tx.errors, errors),
        wrong(rx.drops + tx.drops, drops),
        Cell::maybe(d.speed, speed),
        Cell::maybe(used(d), percent),
        Cell::bars(d.history.clone()),
        Cell::number(errors, rate),
        Cell::number(drops, rate),
        Cell::number(rx.bytes as f64, bytes),
        Cell::number(tx.bytes as f64, bytes),
    ];
    Row {
        id: d.device.clone(),
        cells,
    }
}

/// Everything about an interface.
pub fn popup(wanted: &str, view: &View, theme: Theme, width: u16) -> Option<Popup> {
    let d = view.devices.iter().find(|d| d.device == wanted)?;
    let line = |what: &str, write: fn(f64) -> String, value: fn(&Lane) -> (f64, u64)| {
        let lane = |lane| {
            let (rate, total) = value(lane);
            format!(
                "{}{}",
                fit(&write(rate), 10, true),
                fit(&write(total as f64), 10, true)
            )
        };
        Line::from(format!(
            "{}{}{}",
            fit(what, 9, false),
            lane(&d.receive),
            lane(&d.transmit)
        ))
    };
    let mut upper = vec![
        heading(theme, "               receive               transmit"),
        heading(theme, "             per s     total     per s     total"),
        line("bytes", bytes, |l| (l.bytes_rate, l.bytes)),
        line("packets", count, |l| (l.packets_rate, l.packets)),
        line("errors", count, |l| (l.errors_rate, l.errors)),
        line("drops", count, |l| (l.drops_rate, l.drops)),
        Line::default(),
    ];
    if let (Some(link), Some(used)) = (d.speed, used(d)) {
        upper.push(Line::from(format!(
            "speed    {}, {} used",
            speed(link),
            percent(used)
        )));
        upper.push(Line::default());
    }
    let most = d.history.iter().copied().fold(0.0, f64::max);
    upper.push(heading(theme, "Bytes per second, both directions, last minute"));
    upper.push(Line::from(spark(
        &d.history,
        d.history.len().min(usize::from(width)),
    )));
    upper.push(Line::from(format!("largest {}", bytes_rate(most))));
    Some(Popup {
        title: d.device.clone(),
        upper,
        ..Popup::default()
    })
}
