//! A table that chooses its columns by the width it gets, sorts, and keeps its selection by row, not by place.

use super::theme::{Theme, Tone};
use crate::ui::units::{self, fit, spark};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Modifier;
use ratatui::text::{Line, Span};
use ratatui::widgets::Widget as _;
use std::cmp::Ordering;

/// A column.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    /// Heading.
    pub title: &'static str,
    /// Least width.
    pub width: u16,
    /// How it takes spare room.
    pub grow: Grow,
    /// Columns of a lower rank are dropped later when room is short.
    pub rank: u8,
}

/// How a column takes spare room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grow {
    /// A number: right-aligned, of fixed width.
    Number,
    /// Text, as wide as its longest cell if there is room.
    Text,
    /// Bars, up to this width.
    Bars(u16),
}

/// A number column.
pub const fn number(title: &'static str, width: u16, rank: u8) -> Column {
    Column {
        title,
        width,
        grow: Grow::Number,
        rank,
    }
}

/// A text column.
pub const fn text(title: &'static str, width: u16, rank: u8) -> Column {
    Column {
        title,
        width,
        grow: Grow::Text,
        rank,
    }
}

/// A column of bars.
pub const fn bars(title: &'static str, width: u16, most: u16, rank: u8) -> Column {
    Column {
        title,
        width,
        grow: Grow::Bars(most),
        rank,
    }
}

/// What a cell is sorted by.
#[derive(Clone, Debug, PartialEq)]
pub enum Key {
    /// By value, the largest first.
    Number(f64),
    /// By alphabet.
    Text,
}

/// A cell.
#[derive(Clone, Debug)]
pub struct Cell {
    /// What it says.
    pub text: String,
    /// What it is sorted by.
    pub key: Key,
    /// What it means.
    pub tone: Tone,
    /// Points of bars, instead of the text.
    pub points: Vec<f64>,
}

impl Cell {
    /// Text.
    pub fn text(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            key: Key::Text,
            tone: Tone::Normal,
            points: Vec::new(),
        }
    }

    /// A number and how it is written. Zero is dim.
    pub fn number(value: f64, write: fn(f64) -> String) -> Self {
        let tone = if value == 0.0 { Tone::Dim } else { Tone::Normal };
        Self {
            text: write(value),
            key: Key::Number(value),
            tone,
            points: Vec::new(),
        }
    }

    /// A number that may not be known.
    pub fn maybe(value: Option<f64>, write: fn(f64) -> String) -> Self {
        value.map_or_else(Self::none, |v| Self::number(v, write))
    }

    /// Not known; sorts last.
    pub fn none() -> Self {
        Self {
            text: "–".into(),
            key: Key::Number(f64::NEG_INFINITY),
            tone: Tone::Dim,
            points: Vec::new(),
        }
    }

    /// Bars; they sort by their sum.
    pub fn bars(points: Vec<f64>) -> Self {
        let sum = points.iter().sum();
        Self {
            text: String::new(),
            key: Key::Number(sum),
            tone: Tone::Normal,
            points,
        }
    }

    /// The same with another tone.
    pub fn tone(self, tone: Tone) -> Self {
        Self { tone, ..self }
    }
}

/// A row.
#[derive(Clone, Debug)]
pub struct Row {
    /// What it is about, the same in every view.
    pub id: String,
    /// One cell for each column.
    pub cells: Vec<Cell>,
}

impl Row {
    /// Whether any cell contains the needle, which is in lower case.
    pub fn matches(&self, needle: &str) -> bool {
        self.cells.iter().any(|c| c.text.to_lowercase().contains(needle))
    }
}

/// Sorting, selection and scrolling of a table.
#[derive(Clone, Debug, Default)]
pub struct GridState {
    /// Column by which rows are sorted.
    pub sort: usize,
    /// In the other direction.
    pub reverse: bool,
    /// Id of the selected row.
    pub selected: Option<String>,
    /// Columns that were drawn last.
    pub visible: Vec<usize>,
    /// Ids of all rows, in order, as drawn last.
    pub order: Vec<String>,
    /// Rows that were drawn last.
    pub page: usize,
    offset: usize,
}

impl GridState {
    /// Sorted by a column.
    pub fn sorted_by(sort: usize) -> Self {
        Self {
            sort,
            ..Self::default()
        }
    }

    /// Sorts by the next visible column.
    pub fn next_sort(&mut self) {
        let at = self.visible.iter().position(|c| *c == self.sort);
        let next = at.map_or(0, |i| (i + 1) % self.visible.len().max(1));
        if let Some(column) = self.visible.get(next) {
            (self.sort, self.reverse) = (*column, false);
        }
    }

    /// Moves the selection by rows.
    pub fn step(&mut self, by: isize) {
        let last = self.order.len().saturating_sub(1);
        let to = match self.at() {
            Some(at) => at.saturating_add_signed(by).min(last),
            None if by < 0 => last,
            None => 0,
        };
        self.selected = self.order.get(to).cloned();
    }

    /// Selects the first row.
    pub fn first(&mut self) {
        self.selected = self.order.first().cloned();
    }

    /// Selects the last row.
    pub fn last(&mut self) {
        self.selected = self.order.last().cloned();
    }

    fn at(&self) -> Option<usize> {
        let id = self.selected.as_ref()?;
        self.order.iter().position(|o| o == id)
    }

    /// Sorts rows; equal ones by id, so that they do not jump.
    pub fn arrange(&mut self, rows: &mut [Row]) {
        let compare = |a: &Row, b: &Row| {
            let order = match (a.cells.get(self.sort), b.cells.get(self.sort)) {
                (Some(a), Some(b)) => compare(a, b),
                _ => Ordering::Equal,
            };
            if self.reverse { order.reverse() } else { order }.then_with(|| a.id.cmp(&b.id))
        };
        rows.sort_by(compare);
        self.order = rows.iter().map(|r| r.id.clone()).collect();
    }
}

fn compare(a: &Cell, b: &Cell) -> Ordering {
    match (&a.key, &b.key) {
        (Key::Number(a), Key::Number(b)) => b.total_cmp(a),
        (Key::Number(_), Key::Text) => Ordering::Less,
        (Key::Text, Key::Number(_)) => Ordering::Greater,
        (Key::Text, Key::Text) => a.text.to_lowercase().cmp(&b.text.to_lowercase()),
    }
}

/// Columns from this rank on get what room the texts of the others leave.
const EXTRA: u8 = 6;

/// Chooses columns and their widths. One column of space, which also takes the mark of the selected row, stands before
/// each.
pub fn layout(columns: &[Column], rows: &[Row], room: u16) -> Vec<(usize, u16)> {
    let mut by_rank: Vec<usize> = (0..columns.len()).collect();
    by_rank.sort_by_key(|i| columns[*i].rank);
    let extra = by_rank
        .iter()
        .position(|i| columns[*i].rank >= EXTRA)
        .unwrap_or(by_rank.len());
    let (most, extra) = by_rank.split_at(extra);
    let mut left = room;
    let mut chosen: Vec<(usize, u16)> = Vec::new();
    let whole = choose(columns, most, &mut left, &mut chosen);
    widen(columns, rows, Grow::Text, &mut left, &mut chosen);
    if whole {
        choose(columns, extra, &mut left, &mut chosen);
        widen(columns, rows, Grow::Text, &mut left, &mut chosen);
    }
    widen(columns, rows, Grow::Bars(0), &mut left, &mut chosen);
    chosen.sort_unstable();
    chosen
}

/// Takes columns in order until one finds no room; says whether all found it.
fn choose(columns: &[Column], order: &[usize], left: &mut u16, chosen: &mut Vec<(usize, u16)>) -> bool {
    for &i in order {
        match left.checked_sub(columns[i].width + 1) {
            Some(rest) => *left = rest,
            None if chosen.is_empty() => {
                // The first column is shown whatever the width.
                chosen.push((i, left.saturating_sub(1)));
                *left = 0;
                return false;
            }
            None => return false,
        }
        chosen.push((i, columns[i].width));
    }
    true
}

/// Spreads spare room evenly over the columns of a kind, up to what they can use.
fn widen(columns: &[Column], rows: &[Row], kind: Grow, left: &mut u16, chosen: &mut [(usize, u16)]) {
    let want = |i: usize| match columns[i].grow {
        Grow::Number => 0,
        Grow::Text => rows
            .iter()
            .filter_map(|r| r.cells.get(i))
            .map(|c| units::width(&c.text))
            .max()
            .unwrap_or(0),
        Grow::Bars(most) => usize::from(most),
    };
    let same = |i: usize| std::mem::discriminant(&columns[i].grow) == std::mem::discriminant(&kind);
    let mut growing: Vec<(&mut u16, usize)> = chosen
        .iter_mut()
        .filter(|(i, _)| same(*i))
        .map(|(i, width)| (width, want(*i)))
        .collect();
    loop {
        let before = *left;
        for (width, want) in &mut growing {
            if *left > 0 && usize::from(**width) < *want {
                **width += 1;
                *left -= 1;
            }
        }
        if *left == before {
            return;
        }
    }
}

/// Draws heading, rows and, at the foot, a row that stays.
pub fn draw(
    buffer: &mut Buffer,
    area: Rect,
    columns: &[Column],
    rows: &[Row],
    foot: Option<&Row>,
    state: &mut GridState,
    theme: Theme,
) {
    if area.height == 0 || area.width < 4 {
        return;
    }
    let chosen = layout(columns, rows, area.width);
    state.visible = chosen.iter().map(|(i, _)| *i).collect();
    let line = |y: u16, line: Line, buffer: &mut Buffer| {
        line.render(
            Rect {
                y: area.y + y,
                height: 1,
                ..area
            },
            buffer,
        );
    };
    line(0, heading(columns, &chosen, state, theme), buffer);
    let foot = foot.filter(|_| area.height > 3);
    let page = usize::from(area.height - 1).saturating_sub(usize::from(foot.is_some()));
    let at = state.at();
    if let Some(at) = at {
        state.offset = state.offset.max((at + 1).saturating_sub(page)).min(at);
    }
    state.offset = state.offset.min(rows.len().saturating_sub(page));
    state.page = page;
    for (y, (i, row)) in rows.iter().enumerate().skip(state.offset).take(page).enumerate() {
        line(
            y as u16 + 1,
            body(row, &chosen, columns, (Some(i) == at, false), theme),
            buffer,
        );
    }
    if let Some(foot) = foot {
        let y = (rows.len().min(page) as u16 + 1).min(area.height - 1);
        line(y, body(foot, &chosen, columns, (false, true), theme), buffer);
    }
}

fn heading(columns: &[Column], chosen: &[(usize, u16)], state: &GridState, theme: Theme) -> Line<'static> {
    let style = theme.style(Tone::Title);
    let mut spans = Vec::new();
    for (i, width) in chosen {
        let column = &columns[*i];
        let (width, right) = (usize::from(*width), column.grow == Grow::Number);
        if state.sort != *i {
            spans.push(Span::styled(
                format!(" {}", fit(column.title, width, right)),
                style,
            ));
            continue;
        }
        let arrow = if state.reverse { '▲' } else { '▼' };
        // The arrow may take the space before the title.
        let text = match right {
            true => fit(&format!("{arrow}{}", column.title), width + 1, true),
            false => format!(" {}", fit(&format!("{}{arrow}", column.title), width, false)),
        };
        spans.push(Span::styled(text, style.add_modifier(Modifier::UNDERLINED)));
    }
    Line::from(spans)
}

fn body(
    row: &Row,
    chosen: &[(usize, u16)],
    columns: &[Column],
    (selected, strong): (bool, bool),
    theme: Theme,
) -> Line<'static> {
    let mut spans = Vec::new();
    for (i, width) in chosen {
        let Some(cell) = row.cells.get(*i) else { continue };
        let width = usize::from(*width);
        let text = match columns[*i].grow {
            Grow::Bars(_) => spark(&cell.points, width),
            grow => fit(&cell.text, width, grow == Grow::Number),
        };
        let style = match (selected, strong) {
            (true, _) => theme.selected(),
            (_, true) => theme.style(Tone::Strong),
            _ => theme.style(cell.tone),
        };
        let before = match columns[*i].grow {
            _ if spans.is_empty() && selected => "▶",
            _ if spans.is_empty() => " ",
            // A number that is one column too long takes the space before it.
            Grow::Number if units::width(&cell.text) == width + 1 => "",
            _ => " ",
        };
        let text = if before.is_empty() {
            cell.text.clone()
        } else {
            text
        };
        spans.push(Span::styled(format!("{before}{text}"), style));
    }
    Line::from(spans)
}
