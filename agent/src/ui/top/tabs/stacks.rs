//! Where the time goes, while probe `profile` is on.

use super::{Popup, name, pairs};
use crate::ui::top::grid::{Cell, Column, GridState, Row, draw, number, text};
use crate::ui::top::theme::Theme;
use crate::ui::units::percent;
use crate::ui::view::{Hot, HotRow, View};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::Line;

/// Columns of the functions.
pub const COLUMNS: &[Column] = &[
    text("FUNCTION", 24, 0),
    text("SUBJECT", 12, 2),
    number("OWN", 6, 0),
    number("TOTAL", 6, 1),
    number("OFF-CPU", 7, 3),
];
/// Sorted by own time.
pub const SORT: usize = 2;

const SUBJECTS: &[Column] = &[
    text("SUBJECT", 24, 0),
    number("CPU", 6, 0),
    number("OFF-CPU", 7, 1),
];
/// Subjects that are shown above the functions.
const SHOWN: usize = 4;

/// Functions.
pub fn rows(view: &View) -> Vec<Row> {
    view.stacks
        .iter()
        .flat_map(|hot| &hot.functions)
        .map(row)
        .collect()
}

fn id(r: &HotRow) -> String {
    format!("{}\n{}", r.function, r.subject)
}

fn row(r: &HotRow) -> Row {
    Row {
        id: id(r),
        cells: vec![
            name(&r.function),
            name(&r.subject),
            Cell::number(r.own, percent),
            Cell::number(r.total, percent),
            Cell::maybe(r.off_cpu, percent),
        ],
    }
}

/// Draws the busiest subjects; returns the room that is left for the functions.
pub fn draw_upper(buffer: &mut Buffer, area: Rect, hot: &Hot, theme: Theme) -> Rect {
    let rows: Vec<Row> = hot
        .subjects
        .iter()
        .take(SHOWN)
        .map(|r| Row {
            id: r.subject.clone(),
            cells: vec![
                name(&r.subject),
                Cell::number(r.own, percent),
                Cell::maybe(r.off_cpu, percent),
            ],
        })
        .collect();
    let total = Row {
        id: String::new(),
        cells: vec![
            Cell::text(format!("ALL, {:.0} s, of a core", hot.seconds)),
            Cell::number(hot.total.own, percent),
            Cell::maybe(hot.total.off_cpu, percent),
        ],
    };
    let high = rows.len() as u16 + 2;
    // Some functions must be seen as well.
    if rows.is_empty() || area.height < high + 5 {
        return area;
    }
    let upper = Rect { height: high, ..area };
    let mut state = GridState::sorted_by(usize::MAX);
    draw(buffer, upper, SUBJECTS, &rows, Some(&total), &mut state, theme);
    Rect {
        y: area.y + high + 1,
        height: area.height - high - 1,
        ..area
    }
}

/// Everything about a function.
pub fn popup(wanted: &str, view: &View, theme: Theme) -> Option<Popup> {
    let hot = view.stacks.as_ref()?;
    let r = hot.functions.iter().find(|r| id(r) == wanted)?;
    let values = [
        ("subject", r.subject.clone()),
        ("own", format!("{} of a core, by itself", percent(r.own))),
        ("total", format!("{} with what it calls", percent(r.total))),
        (
            "off-CPU",
            r.off_cpu
                .map(|v| format!("{} of a thread waits below it", percent(v)))
                .unwrap_or_default(),
        ),
    ];
    let mut upper = pairs(theme, &values);
    if !r.stack.is_empty() {
        upper.push(Line::default());
        let title = format!("its busiest stack, {} of its own time", percent(r.stack_share));
        upper.push(super::heading(theme, &title));
        upper.extend(r.stack.iter().map(|frame| Line::from(frame.clone())));
    }
    Some(Popup {
        title: r.function.clone(),
        upper,
        ..Popup::default()
    })
}

/// Makes texts harmless: a remote agent may send anything.
pub fn clean(hot: &mut Hot, scrub: fn(&mut String)) {
    for r in hot.functions.iter_mut().chain(&mut hot.subjects) {
        [&mut r.subject, &mut r.function]
            .into_iter()
            .chain(&mut r.stack)
            .for_each(scrub);
    }
}
