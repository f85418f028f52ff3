//! Lookups, while probe `dns` is on.

use super::{Popup, name, pairs};
use crate::ui::top::grid::{Cell, Column, Row, number, text};
use crate::ui::top::theme::{Theme, Tone};
use crate::ui::units::{count, percent, rate, seconds};
use crate::ui::view::{DnsRow, View};

/// Columns.
pub const COLUMNS: &[Column] = &[
    text("SUBJECT", 13, 0),
    text("SERVER", 15, 0),
    number("QRY/s", 6, 0),
    number("p50", 6, 0),
    number("p99", 6, 0),
    number("NXDOM", 6, 1),
    number("SRVFAIL", 7, 1),
    number("NOANS/s", 7, 2),
    number("QUERIES", 7, 3),
    number("NOANS", 7, 4),
    number("AGAIN", 7, 5),
    number("CUT", 7, 5),
];
/// Sorted by queries.
pub const SORT: usize = 2;

fn id(row: &DnsRow) -> String {
    format!("{} → {}", row.subject, row.server)
}

/// Rows.
pub fn rows(view: &View) -> Vec<Row> {
    view.dns.iter().flatten().map(row).collect()
}

fn row(r: &DnsRow) -> Row {
    let timeouts = Cell::number(r.timeouts_rate, rate);
    let cells = vec![
        name(&r.subject),
        name(&r.server),
        Cell::number(r.queries_rate, rate),
        Cell::maybe(r.p50, seconds),
        Cell::maybe(r.p99, seconds),
        Cell::maybe(r.share("NXDOMAIN"), percent),
        Cell::maybe(r.share("SERVFAIL"), percent),
        if r.timeouts_rate > 0.0 {
            timeouts.tone(Tone::Warn)
        } else {
            timeouts
        },
        Cell::number(r.queries as f64, count),
        Cell::number(r.timeouts as f64, count),
        Cell::number(r.repeated as f64, count),
        Cell::number(r.truncated as f64, count),
    ];
    Row { id: id(r), cells }
}

/// Everything about a subject's lookups at a server.
pub fn popup(wanted: &str, view: &View, theme: Theme) -> Option<Popup> {
    let r = view.dns.iter().flatten().find(|r| id(r) == wanted)?;
    let number = |n: u64| count(n as f64);
    let maybe = |value: Option<f64>| value.map(seconds).unwrap_or_default();
    let mut values = vec![
        ("queries", number(r.queries)),
        ("sent again", number(r.repeated)),
        ("no answer", number(r.timeouts)),
        ("answers cut", number(r.truncated)),
        ("p50", maybe(r.p50)),
        ("p99", maybe(r.p99)),
    ];
    values.extend(r.answers.iter().map(|(code, n)| (code.as_str(), number(*n))));
    Some(Popup {
        title: id(r),
        upper: pairs(theme, &values),
        ..Popup::default()
    })
}
