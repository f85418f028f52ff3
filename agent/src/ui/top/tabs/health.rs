//! What is wrong, and how everybody is: alerts, anomalies, scores; while something is remembered to judge by.

use super::{Popup, name, pairs};
use crate::ui::top::grid::{Cell, Column, Key, Row, number, text};
use crate::ui::top::theme::{Theme, Tone};
use crate::ui::units::{clock, span};
use crate::ui::view::{Finding, View};
use ratatui::text::Line;

/// Columns.
pub const COLUMNS: &[Column] = &[
    text("WHAT", 7, 1),
    text("STATE", 8, 0),
    text("NAME", 16, 0),
    text("OF", 20, 1),
    number("FOR", 6, 2),
    number("VALUE", 7, 2),
];
/// Sorted by the state, the worst first.
pub const SORT: usize = 1;

/// Rows.
pub fn rows(view: &View) -> Vec<Row> {
    view.findings
        .iter()
        .flatten()
        .map(|finding| row(finding, view))
        .collect()
}

fn id(finding: &Finding) -> String {
    // Spans of an anomaly that comes again are others.
    let since = finding.since.unwrap_or_default();
    format!("{} {} {} {since}", finding.kind, finding.name, finding.of)
}

/// How bad it is, and how it looks.
fn rank(finding: &Finding) -> (f64, Tone) {
    match (finding.kind.as_str(), finding.state.as_str()) {
        ("error", _) => (10.0, Tone::Bad),
        ("alert", "critical") => (9.0, Tone::Bad),
        ("health", "critical") => (8.0, Tone::Bad),
        ("alert", "pending") => (3.0, Tone::Dim),
        ("alert", "info") => (4.0, Tone::Normal),
        ("alert", _) => (7.0, Tone::Warn),
        ("anomaly", _) => (6.0, Tone::Warn),
        ("health", "degraded") => (5.0, Tone::Warn),
        ("health", "healthy") => (1.0 - finding.value.unwrap_or_default() / 100.0, Tone::Good),
        _ => (0.0, Tone::Dim),
    }
}

fn age(finding: &Finding, view: &View) -> Option<f64> {
    finding.since.map(|since| (view.time - since).max(0.0))
}

fn value(value: f64) -> String {
    let digits = match value.abs() {
        0.0 | 1000.0.. => 0,
        10.0.. => 1,
        _ => 3,
    };
    format!("{value:.digits$}")
}

fn row(finding: &Finding, view: &View) -> Row {
    let (rank, tone) = rank(finding);
    let cells = vec![
        name(&finding.kind),
        Cell {
            key: Key::Number(rank),
            ..name(&finding.state).tone(tone)
        },
        name(&finding.name),
        name(&finding.of),
        Cell::maybe(age(finding, view), span),
        Cell::maybe(finding.value, value),
    ];
    Row {
        id: id(finding),
        cells,
    }
}

/// Everything about one.
pub fn popup(wanted: &str, view: &View, theme: Theme) -> Option<Popup> {
    let finding = view.findings.iter().flatten().find(|one| id(one) == wanted)?;
    let since = |at: f64| format!("{}, for {}", clock(at), span((view.time - at).max(0.0)));
    let values = [
        ("what", finding.kind.clone()),
        ("state", finding.state.clone()),
        ("of", finding.of.clone()),
        ("since", finding.since.map(since).unwrap_or_default()),
        ("value", finding.value.map(value).unwrap_or_default()),
    ];
    let mut upper = pairs(theme, &values);
    if !finding.more.is_empty() {
        upper.push(Line::default());
        upper.extend(finding.more.iter().map(|line| Line::from(line.clone())));
    }
    Some(Popup {
        title: finding.name.clone(),
        upper,
        ..Popup::default()
    })
}
