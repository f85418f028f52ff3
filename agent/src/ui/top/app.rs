//! The state of the live view, and what keys do to it. No terminal here: tests drive it as a person would.

use super::grid::{GridState, Row};
use super::source::Update;
use super::tabs::{self, Tab};
use super::theme::Theme;
use crate::aggregate::labels::clean;
use crate::records::Record;
use crate::ui::view::View;
use crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use std::collections::VecDeque;
use std::time::Instant;

/// Records that are kept to look at.
pub const RECORDS: usize = 500;
/// Longest filter.
const FILTER: usize = 40;

/// What lies over the table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overlay {
    /// Nothing.
    #[default]
    None,
    /// The list of keys.
    Help,
    /// Everything about the selected row, scrolled by so many lines.
    Detail(u16),
}

/// The live view.
#[derive(Debug)]
pub struct App {
    /// Colour or none.
    pub theme: Theme,
    /// What is shown.
    pub view: Option<Box<View>>,
    /// Records with their serial numbers, the newest last.
    pub records: VecDeque<(u64, Record)>,
    /// Why there is nobody to ask.
    pub gone: Option<String>,
    /// When the newest snapshot came.
    pub received: Instant,
    /// The tab that is shown.
    pub tab: Tab,
    /// State of the tables, by tab.
    pub grids: [GridState; Tab::ALL.len()],
    /// Rows without this text are left out.
    pub filter: String,
    /// The filter is being typed.
    pub typing: bool,
    /// Nothing moves.
    pub paused: bool,
    /// What lies over the table.
    pub overlay: Overlay,
    /// Leave.
    pub quit: bool,
    held: Option<Box<View>>,
    held_records: VecDeque<(u64, Record)>,
    serial: u64,
}

impl App {
    /// Before the first update.
    pub fn new(theme: Theme) -> Self {
        Self {
            theme,
            view: None,
            records: VecDeque::new(),
            gone: None,
            received: Instant::now(),
            tab: Tab::Connections,
            grids: Tab::ALL.map(|tab| GridState::sorted_by(tab.sort())),
            filter: String::new(),
            typing: false,
            paused: false,
            overlay: Overlay::None,
            quit: false,
            held: None,
            held_records: VecDeque::new(),
            serial: 0,
        }
    }

    /// Takes news. While paused they are kept back.
    pub fn apply(&mut self, update: Update) {
        match update {
            Update::View(mut view) => {
                tabs::clean_view(&mut view);
                self.gone = None;
                let newest = self.held.as_ref().or(self.view.as_ref());
                if newest.is_none_or(|v| v.tick != view.tick || v.time != view.time) {
                    self.received = Instant::now();
                }
                match self.paused && self.view.is_some() {
                    true => self.held = Some(view),
                    false => self.view = Some(view),
                }
            }
            Update::Records(records) => {
                let to = if self.paused {
                    &mut self.held_records
                } else {
                    &mut self.records
                };
                for mut record in records {
                    tabs::clean_record(&mut record);
                    self.serial += 1;
                    to.push_back((self.serial, record));
                }
                to.drain(..to.len().saturating_sub(RECORDS));
            }
            Update::Gone(why) => self.gone = Some(clean(&why)),
        }
    }

    /// The newest view, shown or kept back.
    pub fn newest(&self) -> Option<&View> {
        self.held.as_ref().or(self.view.as_ref()).map(|v| &**v)
    }

    fn pause(&mut self) {
        self.paused = !self.paused;
        if !self.paused {
            if let Some(view) = self.held.take() {
                self.view = Some(view);
            }
            self.records.append(&mut self.held_records);
            self.records.drain(..self.records.len().saturating_sub(RECORDS));
        }
    }

    /// State of the shown table.
    pub fn grid(&mut self) -> &mut GridState {
        &mut self.grids[self.tab.index()]
    }

    /// Rows of the shown table that the filter lets through, in order; and how many there are without it.
    pub fn rows(&mut self) -> (Vec<Row>, usize) {
        let mut rows = self.tab.rows(self.view.as_deref(), &self.records);
        let all = rows.len();
        if !self.filter.is_empty() {
            let needle = self.filter.to_lowercase();
            rows.retain(|r| r.matches(&needle));
        }
        self.grid().arrange(&mut rows);
        (rows, all)
    }

    /// Does what a key asks.
    pub fn key(&mut self, key: KeyEvent) {
        if key.kind == KeyEventKind::Release {
            return;
        }
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            self.quit |= matches!(key.code, KeyCode::Char('c' | 'd'));
            return;
        }
        match self.overlay {
            _ if self.typing => self.type_filter(key.code),
            Overlay::None => self.main_key(key.code),
            Overlay::Help => match key.code {
                KeyCode::Char('q') | KeyCode::Esc | KeyCode::Enter | KeyCode::Char('?') => {
                    self.overlay = Overlay::None;
                }
                _ => {}
            },
            Overlay::Detail(at) => self.detail_key(key.code, at),
        }
    }

    fn type_filter(&mut self, key: KeyCode) {
        match key {
            KeyCode::Enter => self.typing = false,
            KeyCode::Esc => (self.typing, self.filter) = (false, String::new()),
            KeyCode::Backspace => drop(self.filter.pop()),
            KeyCode::Char(c) if !c.is_control() && self.filter.chars().count() < FILTER => {
                self.filter.push(c)
            }
            _ => {}
        }
    }

    fn detail_key(&mut self, key: KeyCode, at: u16) {
        self.overlay = match key {
            KeyCode::Up | KeyCode::Char('k') => Overlay::Detail(at.saturating_sub(1)),
            KeyCode::Down | KeyCode::Char('j') => Overlay::Detail(at.saturating_add(1)),
            KeyCode::PageUp => Overlay::Detail(at.saturating_sub(10)),
            KeyCode::PageDown => Overlay::Detail(at.saturating_add(10)),
            KeyCode::Home => Overlay::Detail(0),
            KeyCode::Char('q') | KeyCode::Esc | KeyCode::Enter => Overlay::None,
            KeyCode::Char('?') => Overlay::Help,
            _ => {
                if key == KeyCode::Char('p') {
                    self.pause();
                }
                self.overlay
            }
        };
    }

    fn main_key(&mut self, key: KeyCode) {
        let page = self.grid().page.max(1) as isize;
        match key {
            KeyCode::Char('q') => self.quit = true,
            KeyCode::Char('?' | 'h') | KeyCode::F(1) => self.overlay = Overlay::Help,
            KeyCode::Tab | KeyCode::Right => self.tab = self.tab.by(1, self.view.as_deref()),
            KeyCode::BackTab | KeyCode::Left => self.tab = self.tab.by(-1, self.view.as_deref()),
            KeyCode::Char(c @ '0'..='9') => {
                // The tenth is 0.
                let at = (c as usize - '0' as usize + 9) % 10;
                if let Some(tab) = Tab::shown(self.view.as_deref()).get(at) {
                    self.tab = *tab;
                }
            }
            KeyCode::Down | KeyCode::Char('j') => self.grid().step(1),
            KeyCode::Up | KeyCode::Char('k') => self.grid().step(-1),
            KeyCode::PageDown => self.grid().step(page),
            KeyCode::PageUp => self.grid().step(-page),
            KeyCode::Home | KeyCode::Char('g') => self.grid().first(),
            KeyCode::End | KeyCode::Char('G') => self.grid().last(),
            KeyCode::Char('s') => self.grid().next_sort(),
            KeyCode::Char('r') => {
                let grid = self.grid();
                grid.reverse = !grid.reverse;
            }
            KeyCode::Char('/') => self.typing = true,
            KeyCode::Char('p' | ' ') => self.pause(),
            KeyCode::Esc if !self.filter.is_empty() => self.filter.clear(),
            KeyCode::Esc => self.grid().selected = None,
            KeyCode::Enter => self.open(),
            _ => {}
        }
    }

    /// Opens the selected row, else the first.
    fn open(&mut self) {
        let grid = self.grid();
        if grid.selected.as_ref().is_none_or(|id| !grid.order.contains(id)) {
            grid.selected = grid.order.first().cloned();
        }
        if grid.selected.is_some() {
            self.overlay = Overlay::Detail(0);
        }
    }
}
