//! The agent's own cost, what became of every event, and of every program.

use super::{Popup, name, pairs};
use crate::ui::top::grid::{Cell, Column, GridState, Key, Row, draw, number, text};
use crate::ui::top::theme::{Theme, Tone};
use crate::ui::units::{bytes, count, percent, rate, span};
use crate::ui::view::{Account, ProgramRow, View};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};
use ratatui::widgets::Widget as _;
use std::collections::BTreeSet;

/// Columns of the programs.
pub const COLUMNS: &[Column] = &[
    text("PROGRAM", 20, 0),
    text("STATE", 11, 1),
    number("CPU", 6, 2),
    number("RUNS/s", 6, 2),
    number("ns/RUN", 6, 3),
    number("RUNS", 6, 5),
    text("NOTE", 12, 4),
];
/// Sorted by CPU.
pub const SORT: usize = 2;

const ACCOUNT: &[Column] = &[
    text("PROBE", 7, 0),
    number("SEEN", 6, 1),
    number("FILTERED", 8, 2),
    number("SAMPLED", 7, 2),
    number("DELIVERED", 9, 1),
    number("IN FLIGHT", 9, 3),
    number("DROPPED", 7, 1),
    number("UNACCOUNTED", 11, 1),
    number("SEEN/s", 6, 4),
];

/// Programs: those that were loaded and those that ran.
pub fn rows(view: &View) -> Vec<Row> {
    let ran = view.cost.programs.iter().map(|p| p.program.as_str());
    let names: BTreeSet<&str> = view
        .verdicts
        .iter()
        .map(|v| v.program.as_str())
        .chain(ran)
        .collect();
    names.into_iter().map(|program| row(program, view)).collect()
}

fn state_tone(state: &str) -> Tone {
    match state {
        "attached" => Tone::Good,
        "broken" => Tone::Bad,
        "unsupported" => Tone::Warn,
        _ => Tone::Dim,
    }
}

fn row(program: &str, view: &View) -> Row {
    let verdict = view.verdicts.iter().find(|v| v.program == program);
    let cost = view.cost.programs.iter().find(|p| p.program == program);
    let of = |value: fn(&ProgramRow) -> Option<f64>, write| Cell::maybe(cost.and_then(value), write);
    let state = verdict.map_or("", |v| &v.state);
    let note = verdict.map_or("", |v| v.note.lines().next().unwrap_or_default());
    let cells = vec![
        name(program),
        name(state).tone(state_tone(state)),
        of(|p| Some(p.cpu), percent),
        of(|p| Some(p.runs_rate), rate),
        of(|p| p.nanos_per_run, count),
        of(|p| Some(p.runs as f64), count),
        name(note),
    ];
    Row {
        id: program.to_owned(),
        cells,
    }
}

/// Everything about a program.
pub fn popup(wanted: &str, view: &View, theme: Theme) -> Option<Popup> {
    let verdict = view.verdicts.iter().find(|v| v.program == wanted);
    let cost = view.cost.programs.iter().find(|p| p.program == wanted);
    if verdict.is_none() && cost.is_none() {
        return None;
    }
    let of = |value: fn(&ProgramRow) -> String| cost.map(value).unwrap_or_default();
    let mut upper = pairs(
        theme,
        &[
            ("program", wanted.to_owned()),
            ("state", verdict.map(|v| v.state.clone()).unwrap_or_default()),
            (
                "CPU",
                of(|p| format!("{} of a core, {:.3} s since the start", percent(p.cpu), p.seconds)),
            ),
            (
                "runs",
                of(|p| format!("{}/s, {} since the start", rate(p.runs_rate), p.runs)),
            ),
            (
                "per run",
                of(|p| p.nanos_per_run.map(|n| format!("{n:.0} ns")).unwrap_or_default()),
            ),
        ],
    );
    if let Some(verdict) = verdict.filter(|v| !v.note.is_empty()) {
        upper.push(Line::default());
        upper.extend(verdict.note.lines().map(|l| Line::from(l.to_owned())));
    }
    Some(Popup {
        title: wanted.to_owned(),
        upper,
        ..Popup::default()
    })
}

fn account(a: &Account) -> Row {
    let number = |v: u64| Cell::number(v as f64, count);
    let bad = |cell: Cell, v: f64, tone| if v == 0.0 { cell } else { cell.tone(tone) };
    let signed = |v: f64| {
        if v < 0.0 {
            format!("-{}", count(-v))
        } else {
            count(v)
        }
    };
    let unaccounted = Cell {
        text: signed(a.unaccounted),
        key: Key::Number(a.unaccounted),
        tone: Tone::Dim,
        points: Vec::new(),
    };
    let cells = vec![
        name(&a.probe),
        number(a.seen),
        number(a.filtered),
        number(a.sampled),
        number(a.delivered),
        number(a.in_flight),
        bad(number(a.lost()), a.lost() as f64, Tone::Warn),
        bad(unaccounted, a.unaccounted, Tone::Bad),
        Cell::number(a.rate, rate),
    ];
    Row {
        id: a.probe.clone(),
        cells,
    }
}

/// Names and values in as many lines as they need.
pub fn chips(items: &[(&str, String, Tone)], width: u16, theme: Theme) -> Vec<Line<'static>> {
    let mut lines: Vec<Line> = Vec::new();
    for (name, value, tone) in items {
        let chip = [
            Span::styled(
                if name.is_empty() {
                    String::new()
                } else {
                    format!("{name} ")
                },
                theme.style(Tone::Dim),
            ),
            Span::styled(value.clone(), theme.style(*tone)),
        ];
        let wide: usize = chip.iter().map(Span::width).sum();
        match lines.last_mut() {
            Some(line) if line.width() + 3 + wide <= usize::from(width) => {
                line.push_span(Span::raw("   "));
                chip.into_iter().for_each(|s| line.push_span(s));
            }
            _ => {
                let mut line = Line::from(" ");
                chip.into_iter().for_each(|s| line.push_span(s));
                lines.push(line);
            }
        }
    }
    lines
}

fn costs(view: &View) -> Vec<(&'static str, String, Tone)> {
    let c = &view.cost;
    let known = |v: Option<f64>, write: fn(f64) -> String| v.map_or("–".into(), write);
    let mut out = vec![
        (
            "agent CPU",
            format!("{} of a core", known(c.cpu, percent)),
            Tone::Strong,
        ),
        ("in all", format!("{:.2}s", c.cpu_seconds), Tone::Normal),
        ("RSS", known(c.memory_bytes, bytes), Tone::Strong),
        ("maps", bytes(c.map_bytes), Tone::Normal),
        ("BPF", format!("{} of a core", percent(c.bpf)), Tone::Strong),
    ];
    if let Some(level) = c.governor_level {
        let tone = if level > 0.0 { Tone::Warn } else { Tone::Good };
        let text = if level > 0.0 {
            format!("level {level:.0}: sampling lowered")
        } else {
            "kept".into()
        };
        out.push(("budget", text, tone));
    }
    out.push(("up", span(view.uptime), Tone::Normal));
    out
}

/// Draws cost and accounts; returns the room that is left for the programs.
pub fn draw_upper(buffer: &mut Buffer, area: Rect, view: &View, theme: Theme) -> Rect {
    let mut rest = area;
    let mut take = |height: u16, rest: &mut Rect| {
        let height = height.min(rest.height);
        let part = Rect { height, ..*rest };
        (rest.y, rest.height) = (rest.y + height, rest.height - height);
        part
    };
    let lines = |lines: Vec<Line<'static>>,
                 buffer: &mut Buffer,
                 rest: &mut Rect,
                 take: &mut dyn FnMut(u16, &mut Rect) -> Rect| {
        for line in lines {
            // Some programs must be seen as well.
            if rest.height < 6 {
                return;
            }
            let part = take(1, rest);
            line.render(part, buffer);
        }
    };
    lines(
        chips(&costs(view), area.width, theme),
        buffer,
        &mut rest,
        &mut take,
    );
    if !view.accounts.is_empty() && rest.height > 6 {
        let rows: Vec<Row> = view.accounts.iter().map(account).collect();
        let part = take(rows.len() as u16 + 1, &mut rest);
        draw(
            buffer,
            part,
            ACCOUNT,
            &rows,
            None,
            &mut GridState::sorted_by(usize::MAX),
            theme,
        );
        let mut items = Vec::new();
        for a in &view.accounts {
            let lost = a.dropped.iter().map(|l| {
                let text = format!(
                    "{} of {}: {} at {}",
                    count(l.total as f64),
                    a.probe,
                    l.reason,
                    l.stage
                );
                ("lost", text, Tone::Warn)
            });
            items.extend(lost);
        }
        lines(chips(&items, area.width, theme), buffer, &mut rest, &mut take);
    }
    let covered: Vec<_> = view
        .coverage
        .iter()
        .map(|c| (c.metric.as_str(), coverage(c.ratio), Tone::Normal))
        .collect();
    if !covered.is_empty() && rest.height > 6 {
        let mut items = vec![("coverage", "of the kernel's own counters:".to_owned(), Tone::Dim)];
        items.extend(covered);
        lines(chips(&items, area.width, theme), buffer, &mut rest, &mut take);
    }
    if rest.height > 8 {
        take(1, &mut rest);
    }
    rest
}

/// A ratio that should be one, to a tenth of a percent.
pub fn coverage(ratio: f64) -> String {
    format!("{:.1}%", ratio * 100.0)
}
