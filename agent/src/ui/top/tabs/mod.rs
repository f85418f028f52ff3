//! The tabs: which columns each has, how its rows are made, and what more is known about a row.

pub mod agent;
pub mod connections;
pub mod dns;
pub mod drops;
pub mod flows;
pub mod health;
pub mod interfaces;
pub mod stacks;
pub mod tunnels;
pub mod udp;

use super::grid::{Cell, Column, Row};
use super::theme::{Theme, Tone};
use crate::aggregate::labels::clean;
use crate::records::Record;
use crate::ui::units::fit;
use crate::ui::view::View;
use ratatui::text::{Line, Span};
use std::collections::VecDeque;

/// A tab.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tab {
    /// Who talks to whom, and how well.
    Connections,
    /// Dropped packets by cause.
    Drops,
    /// Network interfaces.
    Interfaces,
    /// The agent's own cost and accounts.
    Agent,
    /// The last records.
    Flows,
    /// Tunnels.
    Tunnels,
    /// Lookups; shown while probe `dns` is on.
    Dns,
    /// Datagrams; shown while probe `udp` is on.
    Udp,
    /// Hot functions; shown while probe `profile` is on.
    Stacks,
    /// Alerts, anomalies and scores; shown where something is remembered.
    Health,
}

/// What is known about a row: lines over the whole width, then two columns where there is room.
#[derive(Debug, Default)]
pub struct Popup {
    /// What it is about.
    pub title: String,
    /// Over the whole width.
    pub upper: Vec<Line<'static>>,
    /// Below, on the left.
    pub left: Vec<Line<'static>>,
    /// Below, on the right.
    pub right: Vec<Line<'static>>,
}

impl Tab {
    /// All, in order.
    pub const ALL: [Self; 10] = [
        Self::Connections,
        Self::Drops,
        Self::Interfaces,
        Self::Agent,
        Self::Flows,
        Self::Tunnels,
        Self::Dns,
        Self::Udp,
        Self::Stacks,
        Self::Health,
    ];

    /// Those that there is something to show in, in order.
    pub fn shown(view: Option<&View>) -> Vec<Self> {
        let on = |tab: &Self| match tab {
            Self::Dns => view.is_some_and(|v| v.dns.is_some()),
            Self::Udp => view.is_some_and(|v| v.udp.is_some()),
            Self::Stacks => view.is_some_and(|v| v.stacks.is_some()),
            Self::Health => view.is_some_and(|v| v.findings.is_some()),
            _ => true,
        };
        Self::ALL.into_iter().filter(on).collect()
    }

    /// The tab some places further.
    pub fn by(self, places: isize, view: Option<&View>) -> Self {
        let shown = Self::shown(view);
        let at = shown.iter().position(|t| *t == self).unwrap_or(0) as isize;
        let to = (at + places).rem_euclid(shown.len() as isize) as usize;
        shown.get(to).copied().unwrap_or(self)
    }

    /// Its place among all.
    pub fn index(self) -> usize {
        Self::ALL.iter().position(|t| *t == self).unwrap_or(0)
    }

    /// Its name, and a short one for narrow terminals.
    pub fn title(self) -> (&'static str, &'static str) {
        match self {
            Self::Connections => ("Connections", "Conns"),
            Self::Drops => ("Drops", "Drops"),
            Self::Interfaces => ("Interfaces", "Ifaces"),
            Self::Tunnels => ("Tunnels", "Tuns"),
            Self::Dns => ("DNS", "DNS"),
            Self::Udp => ("UDP", "UDP"),
            Self::Stacks => ("Stacks", "Stacks"),
            Self::Health => ("Health", "Health"),
            Self::Agent => ("Agent", "Agent"),
            Self::Flows => ("Flows", "Flows"),
        }
    }

    /// Columns of its table.
    pub fn columns(self) -> &'static [Column] {
        match self {
            Self::Connections => connections::COLUMNS,
            Self::Drops => drops::COLUMNS,
            Self::Interfaces => interfaces::COLUMNS,
            Self::Tunnels => tunnels::COLUMNS,
            Self::Dns => dns::COLUMNS,
            Self::Udp => udp::COLUMNS,
            Self::Stacks => stacks::COLUMNS,
            Self::Health => health::COLUMNS,
            Self::Agent => agent::COLUMNS,
            Self::Flows => flows::COLUMNS,
        }
    }

    /// Column by which it is sorted at first.
    pub fn sort(self) -> usize {
        match self {
            Self::Connections => connections::SORT,
            Self::Drops => drops::SORT,
            Self::Interfaces => interfaces::SORT,
            Self::Tunnels => tunnels::SORT,
            Self::Dns => dns::SORT,
            Self::Udp => udp::SORT,
            Self::Stacks => stacks::SORT,
            Self::Health => health::SORT,
            Self::Agent => agent::SORT,
            Self::Flows => flows::SORT,
        }
    }

    /// Rows of its table.
    pub fn rows(self, view: Option<&View>, records: &VecDeque<(u64, Record)>) -> Vec<Row> {
        match (self, view) {
            (Self::Flows, _) => flows::rows(records),
            (_, None) => Vec::new(),
            (Self::Connections, Some(view)) => connections::rows(view),
            (Self::Drops, Some(view)) => drops::rows(view),
            (Self::Interfaces, Some(view)) => interfaces::rows(view),
            (Self::Tunnels, Some(view)) => tunnels::rows(view),
            (Self::Dns, Some(view)) => dns::rows(view),
            (Self::Udp, Some(view)) => udp::rows(view),
            (Self::Stacks, Some(view)) => stacks::rows(view),
            (Self::Health, Some(view)) => health::rows(view),
            (Self::Agent, Some(view)) => agent::rows(view),
        }
    }

    /// The row that stays at the foot.
    pub fn foot(self, view: &View) -> Option<Row> {
        match self {
            Self::Connections => Some(connections::foot(view)),
            Self::Drops => Some(drops::foot(view)),
            _ => None,
        }
    }

    /// What to say when there is no row.
    pub fn nothing(self) -> &'static str {
        match self {
            Self::Connections => "waiting for the first connection…",
            Self::Drops => "no packet has been dropped yet",
            Self::Interfaces => "no network interface has been seen yet",
            Self::Tunnels => "no packet of a tunnel has been seen yet",
            Self::Dns => "nobody has looked a name up yet",
            Self::Udp => "no datagram has been seen yet",
            Self::Stacks => "no stack has been taken in the last ten seconds",
            Self::Health => "nothing fires, nothing is unusual, and nobody has a score yet",
            Self::Agent => "no program has been reported yet",
            Self::Flows => "waiting for a connection to end…",
        }
    }

    /// What more is known about a row; `None` = it is gone.
    pub fn popup(
        self,
        id: &str,
        view: Option<&View>,
        records: &VecDeque<(u64, Record)>,
        theme: Theme,
        (width, height): (u16, u16),
    ) -> Option<Popup> {
        match (self, view) {
            (Self::Flows, _) => flows::popup(id, records, theme),
            (Self::Connections, view) => connections::popup(id, view?, theme, (width, height)),
            (Self::Drops, view) => drops::popup(id, view?, theme, width),
            (Self::Interfaces, view) => interfaces::popup(id, view?, theme, width),
            (Self::Tunnels, view) => tunnels::popup(id, view?, theme),
            (Self::Dns, view) => dns::popup(id, view?, theme),
            (Self::Udp, view) => udp::popup(id, view?, theme),
            (Self::Stacks, view) => stacks::popup(id, view?, theme),
            (Self::Health, view) => health::popup(id, view?, theme),
            (Self::Agent, view) => agent::popup(id, view?, theme),
        }
    }
}

/// Text that may be missing.
pub(super) fn name(text: &str) -> Cell {
    match text {
        "" => Cell::text("–").tone(Tone::Dim),
        text => Cell::text(text),
    }
}

/// Lines of a name and a value.
pub(super) fn pairs(theme: Theme, values: &[(&str, String)]) -> Vec<Line<'static>> {
    let wide = values.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let line = |(name, value): &(&str, String)| {
        let name = Span::styled(format!("{}  ", fit(name, wide, false)), theme.style(Tone::Dim));
        Line::from(vec![name, Span::raw(value.clone())])
    };
    values
        .iter()
        .filter(|(_, value)| !value.is_empty())
        .map(line)
        .collect()
}

/// A heading inside of a popup.
pub(super) fn heading(theme: Theme, text: &str) -> Line<'static> {
    Line::from(Span::styled(text.to_owned(), theme.style(Tone::Title)))
}

fn scrub(text: &mut String) {
    let cleaned = clean(text);
    if cleaned != *text {
        *text = cleaned;
    }
}

/// Makes the texts of a view harmless: a remote agent may send anything.
pub fn clean_view(view: &mut View) {
    [&mut view.host, &mut view.region, &mut view.zone]
        .into_iter()
        .for_each(scrub);
    for p in view.pairs.iter_mut().chain([&mut view.total]) {
        [&mut p.subject, &mut p.peer, &mut p.peer_region, &mut p.peer_zone]
            .into_iter()
            .for_each(scrub);
        p.counters
            .iter_mut()
            .flat_map(|c| [&mut c.name, &mut c.kind])
            .for_each(scrub);
    }
    for d in &mut view.drops {
        [
            &mut d.reason,
            &mut d.protocol,
            &mut d.device,
            &mut d.direction,
            &mut d.subject,
        ]
        .into_iter()
        .for_each(scrub);
    }
    view.devices.iter_mut().for_each(|d| scrub(&mut d.device));
    for t in &mut view.tunnels {
        [&mut t.kind, &mut t.id, &mut t.local, &mut t.remote]
            .into_iter()
            .for_each(scrub);
        [&mut t.remote_region, &mut t.netns, &mut t.state, &mut t.reason]
            .into_iter()
            .for_each(scrub);
        t.pairs
            .iter_mut()
            .flat_map(|p| [&mut p.local, &mut p.remote])
            .for_each(scrub);
        t.classes = std::mem::take(&mut t.classes)
            .into_iter()
            .map(|(class, packets)| (clean(&class), packets))
            .collect();
        t.device_drops = std::mem::take(&mut t.device_drops)
            .into_iter()
            .map(|(drop, packets)| (clean(&drop), packets))
            .collect();
    }
    for r in view.dns.iter_mut().flatten() {
        [&mut r.subject, &mut r.server].into_iter().for_each(scrub);
        r.answers = std::mem::take(&mut r.answers)
            .into_iter()
            .map(|(code, n)| (clean(&code), n))
            .collect();
    }
    view.udp.iter_mut().flatten().for_each(|r| scrub(&mut r.subject));
    for f in view.findings.iter_mut().flatten() {
        [&mut f.kind, &mut f.state, &mut f.name, &mut f.of]
            .into_iter()
            .chain(&mut f.more)
            .for_each(scrub);
    }
    if let Some(hot) = &mut view.stacks {
        stacks::clean(hot, scrub);
    }
    view.cost.programs.iter_mut().for_each(|p| scrub(&mut p.program));
    for a in &mut view.accounts {
        scrub(&mut a.probe);
        a.dropped
            .iter_mut()
            .flat_map(|l| [&mut l.stage, &mut l.reason])
            .for_each(scrub);
    }
    view.coverage.iter_mut().for_each(|c| scrub(&mut c.metric));
    // A note may be long, but is made of lines.
    for v in &mut view.verdicts {
        [&mut v.program, &mut v.state].into_iter().for_each(scrub);
        v.note = v.note.lines().map(clean).collect::<Vec<_>>().join("\n");
    }
}

/// Makes the texts of a record harmless.
pub fn clean_record(record: &mut Record) {
    match record {
        Record::Flow(f) => {
            [
                &mut f.event,
                &mut f.state,
                &mut f.role,
                &mut f.error,
                &mut f.subject,
            ]
            .into_iter()
            .for_each(scrub);
            [&mut f.process, &mut f.peer, &mut f.peer_region, &mut f.peer_zone]
                .into_iter()
                .for_each(scrub);
        }
        Record::Drop(d) => {
            [&mut d.reason, &mut d.location, &mut d.protocol]
                .into_iter()
                .for_each(scrub);
            [&mut d.direction, &mut d.device, &mut d.subject]
                .into_iter()
                .for_each(scrub);
        }
        Record::Tunnel(t) => {
            [&mut t.r#type, &mut t.id, &mut t.local, &mut t.remote]
                .into_iter()
                .for_each(scrub);
            [&mut t.remote_region, &mut t.before, &mut t.state, &mut t.reason]
                .into_iter()
                .chain([&mut t.netns])
                .for_each(scrub);
        }
    }
}
