//! Who talks to whom, and how well.

use super::{Popup, heading, name};
use crate::ui::top::grid::{Cell, Column, Key, Row, bars, number, text};
use crate::ui::top::theme::{Theme, Tone};
use crate::ui::units::{bar, bytes, count, fit, percent, rate, seconds, span};
use crate::ui::view::{Counter, Distribution, Latency, PairRow, View};
use agent_common::histogram::otel_index;
use ratatui::text::{Line, Span};
use std::collections::BTreeMap;

/// Columns.
pub const COLUMNS: &[Column] = &[
    text("SUBJECT", 13, 0),
    text("PEER", 10, 1),
    number("CONNS", 5, 3),
    number("RTT p50", 7, 1),
    number("p99", 6, 1),
    number("JITTER", 6, 4),
    number("RETR", 5, 2),
    number("RX/s", 6, 3),
    number("TX/s", 6, 3),
    bars("RX+TX", 6, 60, 5),
    number("OPEN/s", 6, 6),
    number("FAIL/s", 6, 6),
    number("RESETS", 6, 7),
    number("CONNECT", 7, 7),
    text("ZONE", 10, 8),
    number("JIT p99", 7, 9),
    number("SAMPLE", 6, 9),
];
/// Sorted by the bytes of the last minute: those of the last second would make rows jump.
pub const SORT: usize = 9;

/// Rows.
pub fn rows(view: &View) -> Vec<Row> {
    view.pairs
        .iter()
        .map(|p| Row {
            id: id(p),
            cells: cells(p, label(p)),
        })
        .collect()
}

/// The row of all pairs.
pub fn foot(view: &View) -> Row {
    let pairs = view.pairs.len() + view.pairs_omitted;
    let mut cells = cells(&view.total, "TOTAL".into());
    if let Some(peer) = cells.get_mut(1) {
        *peer = Cell::text(format!("{pairs} pair{}", if pairs == 1 { "" } else { "s" }));
    }
    Row {
        id: String::new(),
        cells,
    }
}

fn id(p: &PairRow) -> String {
    format!(
        "{}\n{}\n{}\n{}\n{}",
        p.subject, p.peer, p.peer_region, p.peer_zone, p.overflow
    )
}

fn label(p: &PairRow) -> String {
    if p.overflow {
        "(other)".into()
    } else {
        p.subject.clone()
    }
}

/// A percentile; `~` = not of this second.
fn latency(value: Option<&Latency>, of: fn(&Latency) -> f64) -> Cell {
    let Some(l) = value else { return Cell::none() };
    let text = seconds(of(l));
    let (text, tone) = if l.old() {
        (format!("~{text}"), Tone::Dim)
    } else {
        (text, Tone::Normal)
    };
    Cell {
        text,
        key: Key::Number(of(l)),
        tone,
        points: Vec::new(),
    }
}

/// Retransmits: from 1 % worth a look, from 5 % wrong.
pub fn retransmit_tone(ratio: f64) -> Tone {
    match ratio {
        r if r >= 0.05 => Tone::Bad,
        r if r >= 0.01 => Tone::Warn,
        0.0 => Tone::Dim,
        _ => Tone::Normal,
    }
}

fn cells(p: &PairRow, subject: String) -> Vec<Cell> {
    let zone = [p.peer_region.as_str(), p.peer_zone.as_str()]
        .into_iter()
        .filter(|t| !t.is_empty());
    let wrong = |cell: Cell, value: f64| if value > 0.0 { cell.tone(Tone::Warn) } else { cell };
    let age = p.rtt.as_ref().map(|l| {
        l.age
            .map_or_else(Cell::none, |a| Cell::number(a, |a| format!("{a:.0}s")))
    });
    let ratio = Cell::maybe(p.retransmit_ratio, percent);
    vec![
        name(&subject),
        name(&p.peer),
        Cell::number(p.connections as f64, count),
        latency(p.rtt.as_ref(), |l| l.p50),
        latency(p.rtt.as_ref(), |l| l.p99),
        latency(p.jitter.as_ref(), |l| l.p50),
        p.retransmit_ratio
            .map_or(ratio.clone(), |r| ratio.tone(retransmit_tone(r))),
        Cell::number(p.receive_rate, bytes),
        Cell::number(p.transmit_rate, bytes),
        Cell::bars(p.history.clone()),
        Cell::number(p.opened_rate, rate),
        wrong(Cell::number(p.failed_rate, rate), p.failed_rate),
        wrong(Cell::number(p.resets as f64, count), p.resets_rate),
        latency(p.connect.as_ref(), |l| l.p50),
        name(&zone.collect::<Vec<_>>().join("/")),
        latency(p.jitter.as_ref(), |l| l.p99),
        age.unwrap_or_else(Cell::none),
    ]
}

/// Everything about a pair.
pub fn popup(wanted: &str, view: &View, theme: Theme, (width, height): (u16, u16)) -> Option<Popup> {
    let p = view.pairs.iter().find(|p| id(p) == wanted)?;
    let zone = [p.peer_region.as_str(), p.peer_zone.as_str()]
        .into_iter()
        .filter(|t| !t.is_empty());
    let zone = zone.collect::<Vec<_>>().join("/");
    let zone = if zone.is_empty() {
        zone
    } else {
        format!(" ({zone})")
    };
    let subject = if p.subject.is_empty() {
        "–".into()
    } else {
        label(p)
    };
    let upper = percentiles(p, theme);
    let room = usize::from(height).saturating_sub(upper.len() + 2).max(6);
    let half = usize::from(if width >= WIDE { left_of(width) } else { width });
    let mut left = vec![heading(
        theme,
        &format!("RTT since start, {} samples", samples(&p.rtt_since_start)),
    )];
    left.extend(bars_of(&p.rtt_since_start, room, half));
    let mut right = vec![heading(theme, "Counters                  total   per s")];
    right.extend(p.counters.iter().map(counter));
    Some(Popup {
        title: format!(
            "{subject} → {}{zone}",
            if p.peer.is_empty() { "–" } else { &p.peer }
        ),
        upper,
        left,
        right,
    })
}

/// From this width on a popup has two columns.
pub const WIDE: u16 = 72;

/// Width of the left one of two columns: the counters on the right need 39.
pub fn left_of(width: u16) -> u16 {
    (width * 6 / 10).min(width.saturating_sub(40))
}

fn samples(d: &Distribution) -> String {
    count(d.histogram().count as f64)
}

fn percentiles(p: &PairRow, theme: Theme) -> Vec<Line<'static>> {
    let start = Latency::of(&p.rtt_since_start.histogram(), None);
    let mut lines = vec![heading(
        theme,
        "                  p50    p90    p95    p99  p99.9  samples  newest",
    )];
    let all = [
        ("RTT", p.rtt.as_ref()),
        ("RTT from start", start.as_ref()),
        ("jitter", p.jitter.as_ref()),
        ("connect", p.connect.as_ref()),
        ("accept", p.accept.as_ref()),
    ];
    for (what, latency) in all {
        let Some(l) = latency else { continue };
        let values = [l.p50, l.p90, l.p95, l.p99, l.p999]
            .map(|v| fit(&seconds(v), 7, true))
            .concat();
        let when = match l.age {
            Some(0.0) => "  now".into(),
            Some(age) => format!("  {} ago", span(age)),
            None => String::new(),
        };
        let text = format!(
            "{}{values} {}",
            fit(what, 14, false),
            fit(&count(l.count as f64), 8, true)
        );
        lines.push(Line::from(vec![
            Span::raw(text),
            Span::styled(when, theme.style(Tone::Dim)),
        ]));
    }
    if lines.len() == 1 {
        lines = vec![Line::from("no sample yet")];
    }
    lines.push(Line::default());
    lines
}

fn counter(c: &Counter) -> Line<'static> {
    let (total, per_second) = match c.name.as_str() {
        "bytes" => (bytes(c.total as f64), bytes(c.rate)),
        _ => (count(c.total as f64), rate(c.rate)),
    };
    let what = match (c.name.as_str(), c.kind.as_str()) {
        ("connections", kind) => kind.to_owned(),
        (name, "tail_loss_probe") => format!("{name} tail probe"),
        (name, kind) => format!("{name} {kind}"),
    };
    Line::from(format!(
        "{}{}{}",
        fit(&what, 23, false),
        fit(&total, 8, true),
        fit(&per_second, 8, true)
    ))
}

/// A histogram in at most `rows` lines: buckets are joined until it fits.
fn bars_of(d: &Distribution, rows: usize, width: usize) -> Vec<Line<'static>> {
    let h = d.histogram();
    let cells = || h.cells.iter().enumerate().filter(|(_, c)| **c > 0);
    let mut groups: BTreeMap<i32, u64> = BTreeMap::new();
    let mut size = 1;
    for octave in 0..10 {
        size = 1 << octave;
        groups.clear();
        for (i, c) in cells() {
            *groups.entry(otel_index(i + 1).div_euclid(size)).or_default() += c;
        }
        let lines = match (groups.first_key_value(), groups.last_key_value()) {
            (Some((first, _)), Some((last, _))) => (last - first) as usize + 1,
            _ => 0,
        };
        if lines + usize::from(h.zero > 0) <= rows {
            break;
        }
    }
    let most = groups.values().copied().chain([h.zero]).max().unwrap_or(0).max(1) as f64;
    let all = h.count.max(1) as f64;
    let line = |name: String, c: u64| {
        let room = width.saturating_sub(18);
        let share = if c == 0 {
            String::new()
        } else {
            percent(c as f64 / all)
        };
        Line::from(format!(
            "{} {} {}",
            fit(&name, 9, true),
            bar_fit(c as f64 / most, room),
            fit(&share, 6, true)
        ))
    };
    let mut out = Vec::new();
    if h.zero > 0 {
        out.push(line("0".into(), h.zero));
    }
    if let (Some((&first, _)), Some((&last, _))) = (groups.first_key_value(), groups.last_key_value()) {
        out.extend((first..=last).map(|g| {
            let upper = (f64::from(g + 1) * f64::from(size) / 8.0).exp2();
            line(
                format!("≤ {}", seconds(upper)),
                groups.get(&g).copied().unwrap_or(0),
            )
        }));
    }
    out
}

fn bar_fit(share: f64, width: usize) -> String {
    fit(&bar(share, width), width, false)
}
