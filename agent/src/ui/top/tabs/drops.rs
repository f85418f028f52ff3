//! Dropped packets by cause.

use super::{Popup, heading, name, pairs};
use crate::ui::top::grid::{Cell, Column, Row, bars, number, text};
use crate::ui::top::theme::{Theme, Tone};
use crate::ui::units::{count, rate, span, spark};
use crate::ui::view::{DropRow, View};
use ratatui::text::Line;

/// Columns.
pub const COLUMNS: &[Column] = &[
    text("REASON", 22, 0),
    text("PROTO", 5, 2),
    text("DEVICE", 8, 3),
    text("DIR", 3, 4),
    text("SUBJECT", 10, 4),
    number("PKT/s", 6, 1),
    number("TOTAL", 6, 1),
    number("LAST", 6, 5),
    bars("TREND", 6, 60, 5),
];
/// Sorted by packets per second.
pub const SORT: usize = 5;

/// Rows.
pub fn rows(view: &View) -> Vec<Row> {
    view.drops.iter().map(row).collect()
}

fn id(d: &DropRow) -> String {
    [
        d.reason.as_str(),
        &d.protocol,
        &d.device,
        &d.direction,
        &d.subject,
    ]
    .join("\n")
}

fn row(d: &DropRow) -> Row {
    let direction = match d.direction.as_str() {
        "receive" => Cell::text("rx"),
        "transmit" => Cell::text("tx"),
        other => name(other),
    };
    let rate = Cell::number(d.rate, rate);
    let cells = vec![
        name(&d.reason),
        name(&d.protocol),
        name(&d.device),
        direction,
        name(&d.subject),
        if d.rate > 0.0 { rate.tone(Tone::Warn) } else { rate },
        Cell::number(d.total as f64, count),
        // The latest first.
        d.age.map_or_else(Cell::none, |age| Cell {
            text: ago(age),
            ..Cell::number(-age, rate_of)
        }),
        Cell::bars(d.history.clone()),
    ];
    Row { id: id(d), cells }
}

fn rate_of(v: f64) -> String {
    rate(-v)
}

fn ago(age: f64) -> String {
    if age < 1.0 { "now".into() } else { span(age) }
}

/// The row of all causes.
pub fn foot(view: &View) -> Row {
    let mut cells = vec![Cell::text("TOTAL")];
    cells.extend((0..4).map(|_| Cell::text("")));
    cells.push(Cell::number(view.drops_rate, rate));
    cells.push(Cell::number(view.drops_total as f64, count));
    cells.push(Cell::text(""));
    cells.push(Cell::bars(view.drops_history.clone()));
    Row {
        id: String::new(),
        cells,
    }
}

/// Everything about a cause.
pub fn popup(wanted: &str, view: &View, theme: Theme, width: u16) -> Option<Popup> {
    let d = view.drops.iter().find(|d| id(d) == wanted)?;
    let last = d
        .age
        .map_or("before this view began".into(), |age| match ago(age).as_str() {
            "now" => "now".into(),
            ago => format!("{ago} ago"),
        });
    let mut upper = pairs(
        theme,
        &[
            ("reason", d.reason.clone()),
            ("protocol", d.protocol.clone()),
            ("interface", d.device.clone()),
            ("direction", d.direction.clone()),
            ("subject", d.subject.clone()),
            (
                "packets",
                format!("{}/s, {} since the start", rate(d.rate), d.total),
            ),
            ("last", last),
        ],
    );
    upper.push(Line::default());
    upper.push(heading(theme, "Packets per second, last minute"));
    let most = d.history.iter().copied().fold(0.0, f64::max);
    upper.push(Line::from(spark(
        &d.history,
        d.history.len().min(usize::from(width)),
    )));
    upper.push(Line::from(format!("largest {}/s", rate(most))));
    Some(Popup {
        title: d.reason.clone(),
        upper,
        ..Popup::default()
    })
}
