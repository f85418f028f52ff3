//! Alerts of one cause: what concerns the same peer, region or subject, or what depends on what, within a window.

pub mod place;
#[cfg(test)]
mod tests;

use crate::alert::{Alert, as_map, fingerprint};
use crate::file;
use agent_store::labels::Labels;
use agent_store::series::Millis;
pub use place::{Edges, Entity, Kind, Place};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;

/// Incidents that are remembered; of those that are over the oldest goes first. One that is not over stays.
const KEPT: usize = 256;
/// Alerts of an incident that are listed.
const MEMBERS: usize = 256;
/// Longest value of a label, and longest summary, that is remembered, in bytes.
const LONGEST: usize = 256;

/// Alerts that have one cause.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Incident {
    /// Its number: sixteen hexadecimal digits.
    pub id: String,
    /// When its first alert began, ms since 1970.
    pub started_at: Millis,
    /// When its last alert ended; `None` = it is not over.
    pub ended_at: Option<Millis>,
    /// When the latest alert joined it.
    pub joined_at: Millis,
    /// Its alerts, in the order in which they joined.
    pub alerts: Vec<Member>,
    /// How many more there were.
    pub more: usize,
    /// Which of them is the first cause, by its place in `alerts`.
    pub cause: usize,
    /// Why that one.
    pub why: String,
}

/// An alert of an incident.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Member {
    /// Alertmanager's number of its labels.
    pub fingerprint: u64,
    /// Its labels, long values cut.
    #[serde(with = "as_map")]
    pub labels: Labels,
    /// Its annotation `summary`, cut.
    pub summary: String,
    /// Since when its query has had a result.
    pub active_at: Millis,
    /// Since when it fires.
    pub starts_at: Millis,
    /// Since when it does no longer.
    pub ends_at: Option<Millis>,
}

impl Member {
    fn new(alert: &Alert, fingerprint: u64) -> Self {
        let pairs = alert.labels.iter();
        let summary = alert.annotations.get("summary").map_or("", String::as_str);
        Self {
            fingerprint,
            labels: Labels::new(pairs.map(|(name, value)| (name.clone(), cut(value)))),
            summary: cut(summary),
            active_at: alert.active_at,
            starts_at: alert.starts_at,
            ends_at: alert.ends_at,
        }
    }
}

fn cut(text: &str) -> String {
    if text.len() <= LONGEST {
        return text.to_owned();
    }
    format!(
        "{}…",
        text.get(..text.floor_char_boundary(LONGEST)).unwrap_or_default()
    )
}

/// All incidents, and the file that they are in.
#[derive(Debug, Default)]
pub struct Incidents {
    /// Oldest first.
    all: Vec<Incident>,
    /// Where alerts that fire belong.
    of: HashMap<u64, String>,
    window: Millis,
    path: Option<PathBuf>,
    changed: bool,
}

impl Incidents {
    /// None yet; alerts join within `window` ms.
    pub fn new(window: Millis) -> Self {
        Self {
            window,
            ..Self::default()
        }
    }

    /// Those of a file, which is written from now on; if it cannot be read the text says why, and there are none.
    pub fn open(window: Millis, path: PathBuf) -> (Self, Option<String>) {
        let (all, wrong) = match file::list::<Incident>(&path) {
            Ok(all) => (all, None),
            Err(wrong) => (Vec::new(), Some(wrong)),
        };
        let mut this = Self {
            window,
            path: Some(path),
            ..Self::default()
        };
        for incident in &all {
            let open = incident.alerts.iter().filter(|member| member.ends_at.is_none());
            this.of
                .extend(open.map(|member| (member.fingerprint, incident.id.clone())));
        }
        this.all = all;
        (this, wrong)
    }

    /// All of them, the oldest first.
    pub fn all(&self) -> &[Incident] {
        &self.all
    }

    /// To which incident an alert that fires belongs.
    pub fn of(&self, fingerprint: u64) -> &str {
        self.of.get(&fingerprint).map_or("", String::as_str)
    }

    /// Takes what is known of all alerts. Those of an open incident that are not among them have ended unseen.
    pub fn observe<'a>(&mut self, now: Millis, alerts: impl Iterator<Item = &'a Alert>, edges: &Edges) {
        let mut seen = BTreeSet::new();
        let mut new = Vec::new();
        for alert in alerts {
            let number = alert.fingerprint();
            seen.insert(number);
            if !alert.is_firing() {
                self.end(number, alert.ends_at.unwrap_or(now));
            } else if !self.of.contains_key(&number) {
                new.push(Member::new(alert, number));
            }
        }
        let gone: Vec<u64> = self
            .of
            .keys()
            .filter(|number| !seen.contains(number))
            .copied()
            .collect();
        gone.into_iter().for_each(|number| self.end(number, now));
        new.sort_by(|a, b| (a.active_at, &a.labels).cmp(&(b.active_at, &b.labels)));
        let joined: BTreeSet<u64> = new.iter().map(|member| member.fingerprint).collect();
        for member in new {
            self.join(now, member, edges);
        }
        let ids: BTreeSet<String> = joined.iter().map(|number| self.of(*number).to_owned()).collect();
        for incident in self.all.iter_mut().filter(|incident| ids.contains(&incident.id)) {
            incident.find_cause(edges);
        }
        self.close();
    }

    fn end(&mut self, number: u64, at: Millis) {
        let Some(id) = self.of.remove(&number) else {
            return;
        };
        self.changed = true;
        let incident = self.all.iter_mut().find(|incident| incident.id == id);
        let members = incident.into_iter().flat_map(|incident| &mut incident.alerts);
        for member in members.filter(|member| member.fingerprint == number) {
            member.ends_at.get_or_insert(at);
        }
    }

    /// Puts an alert into the incident that it belongs to: of several, the oldest, which takes in the others. One that is over
    /// is opened again only where none is open: who was told of its end would be told anew.
    fn join(&mut self, now: Millis, member: Member, edges: &Edges) {
        self.changed = true;
        let place = edges.place(&member.labels);
        let fits = |incident: &Incident| {
            let mut others = incident.alerts.iter();
            // By when it began, not by when it fires: else the `for` of its rule would count.
            member.active_at - incident.latest() <= self.window
                && others.any(|other| {
                    other.fingerprint == member.fingerprint
                        || edges.relate(&place, &edges.place(&other.labels))
                })
        };
        let is_open = |at: &usize| self.all.get(*at).is_some_and(|one| one.ended_at.is_none());
        let mut fitting: Vec<usize> = (0..self.all.len())
            .filter(|at| self.all.get(*at).is_some_and(fits))
            .collect();
        if fitting.iter().any(is_open) {
            fitting.retain(is_open);
        } else {
            // What is over stays several.
            let latest = |at: &usize| self.all.get(*at).map(Incident::latest);
            fitting = fitting.into_iter().max_by_key(latest).into_iter().collect();
        }
        // The store's time, by which alerts begin, goes on where the clock was set back.
        let joined_at = now.max(member.active_at);
        let at = match fitting.split_first() {
            None => {
                let number = Labels::new([
                    ("alert", member.fingerprint.to_string()),
                    ("at", member.starts_at.to_string()),
                ]);
                self.all.push(Incident {
                    id: format!("{:016x}", fingerprint(&number)),
                    started_at: member.active_at,
                    ended_at: None,
                    joined_at,
                    alerts: Vec::new(),
                    more: 0,
                    cause: 0,
                    why: String::new(),
                });
                self.all.len() - 1
            }
            Some((first, others)) => {
                for other in others.iter().rev() {
                    let other = self.all.remove(*other);
                    self.take_in(*first, other);
                }
                *first
            }
        };
        let Some(incident) = self.all.get_mut(at) else {
            return;
        };
        self.of.insert(member.fingerprint, incident.id.clone());
        incident.joined_at = joined_at;
        incident.ended_at = None;
        incident.add(member);
    }

    fn take_in(&mut self, into: usize, other: Incident) {
        let Some(incident) = self.all.get_mut(into) else {
            return;
        };
        for id in self.of.values_mut().filter(|id| **id == other.id) {
            id.clone_from(&incident.id);
        }
        incident.more += other.more;
        incident.joined_at = incident.joined_at.max(other.joined_at);
        other.alerts.into_iter().for_each(|member| incident.add(member));
    }

    fn close(&mut self) {
        let of: BTreeSet<&String> = self.of.values().collect();
        for incident in &mut self.all {
            if incident.ended_at.is_none() && !of.contains(&incident.id) {
                incident.ended_at = incident.alerts.iter().filter_map(|member| member.ends_at).max();
                self.changed = true;
            }
        }
        while self.all.len() > KEPT {
            let Some(over) = self.all.iter().position(|incident| incident.ended_at.is_some()) else {
                return;
            };
            self.all.remove(over);
        }
    }

    /// Writes them down if they have changed.
    pub fn save(&mut self) -> Result<(), String> {
        if !std::mem::take(&mut self.changed) {
            return Ok(());
        }
        let Some(path) = &self.path else {
            return Ok(());
        };
        let text = serde_json::to_vec(&self.all).map_err(|error| error.to_string())?;
        file::replace(path, &text).map_err(|error| {
            // Not forgotten: the next time does.
            self.changed = true;
            format!("{}: {error}", path.display())
        })
    }
}

impl Incident {
    /// When an alert joined it, or ended, last.
    fn latest(&self) -> Millis {
        let ends = self.alerts.iter().filter_map(|member| member.ends_at);
        ends.fold(self.joined_at, Millis::max)
    }

    fn add(&mut self, member: Member) {
        self.started_at = self.started_at.min(member.active_at);
        if let Some(known) = self
            .alerts
            .iter_mut()
            .find(|known| known.fingerprint == member.fingerprint)
        {
            known.ends_at = member.ends_at;
            known.starts_at = member.starts_at;
            return;
        }
        if self.alerts.len() < MEMBERS {
            self.alerts.push(member);
        } else {
            self.more += 1;
        }
    }

    /// The first cause: of those whose place depends on no other alert's place the one that was there first. The health of a zone or
    /// region is the mean of its peers': where only one of these is in the incident, it comes of that one.
    fn find_cause(&mut self, edges: &Edges) {
        let reaches: Vec<place::Reach> = self
            .alerts
            .iter()
            .map(|member| edges.reach(edges.place(&member.labels)))
            .collect();
        let comes_of_one = |member: &Member, own: &place::Reach| {
            matches!(member.labels.get("entity"), "zone" | "region") && {
                let below = reaches.iter().filter(|other| other.depends(own));
                let named = below.flat_map(place::Reach::own);
                let peers: BTreeSet<&Entity> = named.filter(|(kind, _)| *kind == Kind::Peer).collect();
                peers.len() == 1
            }
        };
        let all = self.alerts.iter().zip(&reaches).enumerate();
        let possible: Vec<(usize, &place::Reach)> = all
            .filter(|(_, (member, own))| !comes_of_one(member, own))
            .map(|(at, (_, own))| (at, own))
            .collect();
        let is_root = |own: &place::Reach| !possible.iter().any(|(_, other)| own.depends(other));
        let roots = possible.iter().copied().filter(|(_, own)| is_root(own));
        let first = roots.min_by_key(|(at, _)| (self.alerts.get(*at).map(|member| member.active_at), *at));
        let Some((cause, own)) = first else {
            return;
        };
        let below = reaches.iter().filter(|other| other.depends(own)).count();
        self.cause = cause;
        self.why = match (self.alerts.len(), below) {
            (1, _) => "it is the only one".to_owned(),
            (_, 0) => "it was there first".to_owned(),
            (all, below) => format!("{}: {below} of the {} others depend on it", own.shown(), all - 1),
        };
    }

    /// The alert that is the first cause.
    pub fn first_cause(&self) -> Option<&Member> {
        self.alerts.get(self.cause)
    }
}
