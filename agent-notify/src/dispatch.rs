//! The state machine between alerts that fire and places that are told: groups and their times, who was told what.
//!
//! Whoever drives it says what time it is, gives it all alerts after each evaluation, and asks what is due. What it hands out is
//! taken for told; who cannot deliver it says so by [`Dispatcher::failed`], and it is due again.

mod group;
#[cfg(test)]
mod tests;

pub use group::LASTS;

use crate::alert::Alert;
use crate::incident::{Edges, Incidents};
use crate::inhibit::{Inhibited, Inhibition};
use crate::notification::{Entry, Memo};
use crate::route::Routes;
use crate::silence::Silences;
use agent_store::labels::Labels;
use agent_store::series::Millis;
use group::{Group, Member};
use std::collections::BTreeMap;

/// The end of an alert that a place could not be told is tried again for this long.
const INSIST: Millis = 3_600_000;

/// A receiver: several places that are told the same.
#[derive(Clone, Debug, PartialEq)]
pub struct Receiver {
    /// Its name.
    pub name: String,
    /// The places.
    pub integrations: Vec<Integration>,
}

/// A place that is told.
#[derive(Clone, Debug, PartialEq)]
pub struct Integration {
    /// Its name within the receiver: `webhook[0]`.
    pub name: String,
    /// Whether it is told of the end as well.
    pub send_resolved: bool,
    /// Whether it takes what it is not told again for over, so that it is told at each look at a group.
    pub forgets: bool,
}

/// What holds for all.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    /// Ms after which an alert that nobody speaks of any more is taken for ended.
    pub resolve_timeout: Millis,
    /// Ms within which an alert that fires again after its end was told is not told again.
    pub deduplication_window: Millis,
    /// Where people find the agent.
    pub external_url: String,
}

/// A group: the place of its route, and its labels.
type Key = (usize, Labels);

/// An alert that is known.
struct Held {
    alert: Alert,
    seen: Millis,
    /// In which groups it is.
    groups: Vec<Key>,
    /// Whether it has taken all of its routes: what is known from before a restart only has those that were told.
    routed: bool,
    /// Whether it was among the alerts that were given here, and not only in what was told before a restart.
    observed: bool,
}

impl Held {
    fn new(alert: &Alert, seen: Millis) -> Self {
        Self {
            alert: alert.clone(),
            seen,
            groups: Vec::new(),
            routed: false,
            observed: false,
        }
    }

    fn is_in(&mut self, key: &Key) {
        if !self.groups.contains(key) {
            self.groups.push(key.clone());
        }
    }
}

/// All of it.
pub struct Dispatcher {
    routes: Option<Routes>,
    receivers: Vec<Receiver>,
    inhibitions: Vec<Inhibition>,
    settings: Settings,
    alerts: BTreeMap<Labels, Held>,
    groups: BTreeMap<Key, Group>,
    incidents: Incidents,
    /// When it took over from an earlier agent.
    restored_at: Millis,
    /// To be remembered of places that were told nothing.
    quiet: Vec<(usize, usize, Memo)>,
}

impl Dispatcher {
    /// Knows nothing yet. Without routes nobody is told, but incidents are found all the same.
    pub fn new(
        routes: Option<Routes>,
        receivers: Vec<Receiver>,
        inhibitions: Vec<Inhibition>,
        settings: Settings,
        incidents: Incidents,
    ) -> Self {
        Self {
            routes,
            receivers,
            inhibitions,
            settings,
            alerts: BTreeMap::new(),
            groups: BTreeMap::new(),
            incidents,
            restored_at: 0,
            quiet: Vec::new(),
        }
    }

    /// Takes up what the places were told before a restart. Answers what no route leads to any more.
    pub fn restore(&mut self, now: Millis, memos: Vec<(usize, usize, Memo)>) -> Vec<Memo> {
        self.restored_at = now;
        let mut orphans = Vec::new();
        for (receiver, integration, memo) in memos {
            let Some(key) = self.key_of(receiver, &memo) else {
                orphans.push(memo);
                continue;
            };
            for alert in &memo.open {
                let held = self.alerts.entry(alert.labels.clone());
                held.or_insert_with(|| Held::new(alert, now)).is_in(&key);
            }
            let Some(group) = self.group(&key, now) else {
                continue;
            };
            group.flushed = true;
            group
                .members
                .extend(memo.open.iter().map(|alert| alert.labels.clone()));
            if let Some(told) = group.told.get_mut(integration) {
                *told = memo.told;
            }
        }
        orphans
    }

    fn key_of(&self, receiver: usize, memo: &Memo) -> Option<Key> {
        let name = &self.receivers.get(receiver)?.name;
        let mut routes = self.routes.as_ref()?.iter();
        let place = routes.position(|route| {
            route.receiver == *name && route.group_key(&memo.group_labels) == memo.group_key
        })?;
        Some((place, memo.group_labels.clone()))
    }

    /// The group of a key, made if it is not there.
    fn group(&mut self, key: &Key, now: Millis) -> Option<&mut Group> {
        let route = self.routes.as_ref()?.get(key.0)?;
        let receiver = self.receivers.iter().position(|one| one.name == route.receiver)?;
        let places = self.receivers.get(receiver)?.integrations.len();
        let wait = route.group_wait;
        Some(
            self.groups
                .entry(key.clone())
                .or_insert_with(|| Group::new(receiver, places, now + wait)),
        )
    }

    /// When it took over from an earlier agent; 0 = it did not.
    pub const fn restored_at(&self) -> Millis {
        self.restored_at
    }

    /// Of alerts of these labels nobody can say now whether they still fire: that nothing is said of them is no end. `is_open` is told
    /// as well whether anybody has spoken of it since a restart.
    pub fn spare(&mut self, now: Millis, is_open: impl Fn(&Labels, bool) -> bool) {
        for (labels, held) in &mut self.alerts {
            if is_open(labels, held.observed) {
                held.seen = now;
            }
        }
    }

    /// Takes what is known of all alerts now, and what depends on what.
    pub fn observe(&mut self, now: Millis, alerts: &[Alert], edges: &Edges) {
        for alert in alerts {
            // Of one that nobody was told of, the end is no news.
            if !alert.is_firing() && !self.alerts.contains_key(&alert.labels) {
                continue;
            }
            let held = self.alerts.entry(alert.labels.clone());
            let held = held.or_insert_with(|| Held::new(alert, now));
            if alert.is_firing() && !held.alert.is_firing() {
                // It fires again: into those of its groups that have told its end, or had none to tell, it comes anew.
                let groups = &self.groups;
                let member = |key: &Key| {
                    groups
                        .get(key)
                        .is_some_and(|group| group.members.contains(&alert.labels))
                };
                held.groups.retain(member);
                held.routed = false;
            }
            held.alert.clone_from(alert);
            held.seen = now;
            held.observed = true;
        }
        for held in self.alerts.values_mut() {
            if held.alert.is_firing() && now - held.seen >= self.settings.resolve_timeout.max(1) {
                held.alert.ends_at = Some(now);
            }
        }
        // What is only known from before a restart stays in its incident, but joins none.
        let known: Vec<&Alert> = {
            let incidents = &self.incidents;
            let is_in_one = |alert: &Alert| !incidents.of(alert.fingerprint()).is_empty();
            let all = self.alerts.values();
            all.filter(|held| held.observed || is_in_one(&held.alert))
                .map(|held| &held.alert)
                .collect()
        };
        self.incidents.observe(now, known.into_iter(), edges);
        self.route(now);
        self.forget(now);
    }

    /// Puts alerts that are new into their groups.
    fn route(&mut self, now: Millis) {
        let Some(routes) = &self.routes else {
            return;
        };
        let mut new = Vec::new();
        let waiting = self.alerts.iter_mut();
        for (labels, held) in waiting.filter(|(_, held)| held.observed && !held.routed) {
            held.routed = true;
            let incident = self.incidents.of(held.alert.fingerprint());
            for place in routes.of(labels) {
                // In a group of this route it is already if it was told before a restart.
                let Some(route) = routes.get(place) else { continue };
                if held.groups.iter().all(|(other, _)| *other != place) {
                    let key = (place, route.group(labels, incident));
                    held.groups.push(key.clone());
                    new.push((key, held.alert.clone()));
                }
            }
        }
        let waits: Vec<Millis> = routes.iter().map(|route| route.group_wait).collect();
        for (key, alert) in new {
            let wait = waits.get(key.0).copied().unwrap_or_default();
            if let Some(group) = self.group(&key, now) {
                group.join(&alert, now, wait);
            }
        }
    }

    /// Lets go of what has ended and was told, or never needed to be.
    fn forget(&mut self, now: Millis) {
        let window = self.settings.deduplication_window;
        for group in self.groups.values_mut() {
            for told in &mut group.told {
                told.ended.retain(|_, at| now < *at + window);
            }
        }
        self.groups.retain(|_, group| {
            !group.members.is_empty() || group.told.iter().any(|told| !told.ended.is_empty())
        });
        let groups = &self.groups;
        self.alerts.retain(|labels, held| {
            let member = |key: &Key| {
                groups
                    .get(key)
                    .is_some_and(|group| group.members.contains(labels))
            };
            held.alert.is_firing() || held.groups.iter().any(member)
        });
    }

    /// When something may be due next.
    pub fn next(&self) -> Option<Millis> {
        let waiting = self.groups.values().filter(|group| !group.members.is_empty());
        waiting.map(|group| group.next).min()
    }

    /// What is to be told now.
    pub fn due(&mut self, now: Millis, silences: &Silences) -> Vec<Entry> {
        let Some(routes) = &self.routes else {
            return Vec::new();
        };
        let mut entries = Vec::new();
        let mut inhibited = None;
        for (key, group) in &mut self.groups {
            let Some(route) = routes.get(key.0) else {
                continue;
            };
            // The clock was set back: what waits for a time far off would wait for ever.
            group.next = group.next.min(now + route.group_wait.max(route.group_interval));
            group.told.iter_mut().for_each(|told| told.not_after(now));
            if group.members.is_empty() || now < group.next {
                continue;
            }
            let Some(receiver) = self.receivers.get(group.receiver) else {
                continue;
            };
            // What nobody has seen since a restart may be over: it is no reason to be silent.
            let firing = self.alerts.values().filter(|held| held.observed);
            let firing = firing.map(|held| &held.alert).filter(|alert| alert.is_firing());
            let inhibited = inhibited.get_or_insert_with(|| Inhibited::new(&self.inhibitions, firing));
            let silent = route.schedule.is_silent(now);
            let members = group.members.iter().filter_map(|labels| self.alerts.get(labels));
            let members: Vec<Member<'_>> = members
                .map(|held| {
                    let labels = &held.alert.labels;
                    Member {
                        alert: &held.alert,
                        muted: silent || silences.mute(labels, now) || inhibited.is(labels),
                        unseen: !held.observed,
                    }
                })
                .collect();
            let flush = group::Flush {
                now,
                route,
                receiver,
                group_labels: &key.1,
                settings: &self.settings,
                members: &members,
            };
            let (told, quiet) = flush.entries(group);
            entries.extend(told);
            self.quiet.extend(quiet);
            let ended = members.iter().filter(|member| !member.alert.is_firing());
            let ended: Vec<Labels> = ended.map(|member| member.alert.labels.clone()).collect();
            for labels in ended {
                group.members.remove(&labels);
            }
            group.flushed = true;
            group.next = now + route.group_interval;
        }
        entries
    }

    /// What places are to be remembered to know although the latest look told them nothing: receiver, integration, memo. Each
    /// is answered once.
    pub fn quiet(&mut self) -> Vec<(usize, usize, Memo)> {
        std::mem::take(&mut self.quiet)
    }

    /// What was given up before a restart, without the ends that are so old that nothing of them is due any more.
    pub fn recall(mut entry: Entry, now: Millis) -> Entry {
        let is_due = |alert: &Alert| alert.ends_at.is_none_or(|at| now - at < INSIST);
        entry.notification.alerts.retain(is_due);
        entry
    }

    /// A place will never have what was handed out for it: those of its alerts of which nothing was told later are due again,
    /// also if the group is gone by now. Answers what is remembered now; `None` if nothing is due.
    pub fn failed(&mut self, entry: &Entry, now: Millis) -> Option<Memo> {
        let key = self.key_of(entry.receiver, &entry.memo)?;
        let interval = self.routes.as_ref()?.get(key.0)?.group_interval;
        let made = entry.notification.at;
        let group = self.group(&key, now)?;
        let told = group.told.get_mut(entry.integration)?;
        let mut due = told.at == made;
        let mut again = Vec::new();
        for alert in &entry.notification.alerts {
            let number = alert.fingerprint();
            let last = told.open.get(&number);
            match alert.ends_at {
                // Earlier: it is told of by what took the place of the one that had told it.
                None if last.is_some_and(|last| *last <= made) => {
                    // Kept: the place may have it from an earlier one, and would never hear of its end.
                    told.open.insert(number, 0);
                    due = true;
                }
                // Told to fire again, or that again it does not.
                Some(_) if last.is_some() || told.ended.get(&number).is_some_and(|at| *at >= made) => {}
                Some(at) if made - at < INSIST.max(2 * interval) => {
                    // Where it is not known that the place ever had it, it is news should it fire again.
                    let had = told.ended.remove(&number).is_some_and(|at| at > 0);
                    told.open.insert(number, if had { made } else { 0 });
                    group.members.insert(alert.labels.clone());
                    again.push(alert);
                }
                _ => {}
            }
        }
        if !due && again.is_empty() {
            return None;
        }
        if told.at == made {
            told.at = 0;
        }
        // From when it was made: other places of the group do not wait for this one.
        group.next = group.next.max(made + interval);
        for alert in again {
            let held = self.alerts.entry(alert.labels.clone());
            held.or_insert_with(|| Held::new(alert, now)).is_in(&key);
        }
        let group = self.groups.get(&key)?;
        let told = group.told.get(entry.integration)?.clone();
        let members = group.members.iter().filter_map(|labels| self.alerts.get(labels));
        let open = members.filter(|held| told.open.contains_key(&held.alert.fingerprint()));
        let open = open.map(|held| Alert {
            ends_at: None,
            ..held.alert.clone()
        });
        Some(Memo {
            open: open.collect(),
            told,
            ..entry.memo.clone()
        })
    }

    /// The incidents.
    pub fn incidents(&mut self) -> &mut Incidents {
        &mut self.incidents
    }

    /// Alerts that fire, and why nobody is told of one: `silenced`, `inhibited`, `muted` by the times of its routes, or empty.
    pub fn states(&self, now: Millis, silences: &Silences) -> Vec<(&Alert, &'static str)> {
        let firing = self.alerts.values().filter(|held| held.alert.is_firing());
        // As in `due`.
        let sources = firing.clone().filter(|held| held.observed);
        let inhibited = Inhibited::new(&self.inhibitions, sources.map(|held| &held.alert));
        let routes = self.routes.iter().flat_map(Routes::iter);
        let silent: Vec<bool> = routes.map(|route| route.schedule.is_silent(now)).collect();
        let is_silent = |(place, _): &Key| silent.get(*place).copied().unwrap_or_default();
        firing
            .map(|held| {
                let alert = &held.alert;
                let state = match () {
                    () if silences.mute(&alert.labels, now) => "silenced",
                    () if inhibited.is(&alert.labels) => "inhibited",
                    () if !held.groups.is_empty() && held.groups.iter().all(is_silent) => "muted",
                    () => "",
                };
                (alert, state)
            })
            .collect()
    }
}
