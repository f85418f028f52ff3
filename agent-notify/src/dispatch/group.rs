//! A group: what is in it, and what each place was told of it.

use super::{Integration, Receiver, Settings};
use crate::alert::Alert;
use crate::notification::{Entry, Memo, Notification, Told};
use crate::route::Resolved;
use agent_store::labels::Labels;
use agent_store::series::Millis;
use std::collections::BTreeSet;

/// What a place that forgets is told holds so long at least, in ms.
pub const LASTS: Millis = 240_000;

/// Alerts that are told together.
pub(super) struct Group {
    /// Who is told, by place in the list of receivers.
    pub receiver: usize,
    /// The alerts.
    pub members: BTreeSet<Labels>,
    /// When it is looked at next.
    pub next: Millis,
    /// Whether it was looked at since it was empty.
    pub flushed: bool,
    /// What each integration was told.
    pub told: Vec<Told>,
}

impl Group {
    pub fn new(receiver: usize, integrations: usize, next: Millis) -> Self {
        Self {
            receiver,
            members: BTreeSet::new(),
            next,
            flushed: false,
            told: vec![Told::default(); integrations],
        }
    }

    pub fn join(&mut self, alert: &Alert, now: Millis, wait: Millis) {
        if self.members.is_empty() {
            self.flushed = false;
            self.next = now + wait;
        }
        self.members.insert(alert.labels.clone());
        // One that has fired for longer than the wait has waited already: before a restart, or in another group.
        if !self.flushed && alert.starts_at + wait < now {
            self.next = now;
        }
    }
}

/// A look at a group when its time has come.
pub(super) struct Flush<'a> {
    pub now: Millis,
    pub route: &'a Resolved,
    pub receiver: &'a Receiver,
    pub group_labels: &'a Labels,
    pub settings: &'a Settings,
    /// Its alerts.
    pub members: &'a [Member<'a>],
}

/// An alert of the group.
pub(super) struct Member<'a> {
    pub alert: &'a Alert,
    /// A silence, an inhibition or the time is why nobody is told that it fires.
    pub muted: bool,
    /// Nobody has seen it fire since a restart: it may be over.
    pub unseen: bool,
}

impl Flush<'_> {
    /// What is to be told; takes note that it was. And what is to be remembered of places that are told nothing: the receiver,
    /// the integration and the memo.
    pub fn entries(&self, group: &mut Group) -> (Vec<Entry>, Vec<(usize, usize, Memo)>) {
        let (mut entries, mut quiet) = (Vec::new(), Vec::new());
        for (place, integration) in self.receiver.integrations.iter().enumerate() {
            let Some(told) = group.told.get_mut(place) else {
                continue;
            };
            let before = told.open.len();
            let alerts = self.look(told, integration);
            if alerts.is_none() && told.open.len() == before {
                continue;
            }
            let open = self.members.iter().map(|member| member.alert);
            let open = open.filter(|alert| told.open.contains_key(&alert.fingerprint()));
            let memo = Memo {
                receiver: self.receiver.name.clone(),
                group_key: self.route.group_key(self.group_labels),
                group_labels: self.group_labels.clone(),
                told: told.clone(),
                open: open.cloned().collect(),
            };
            let Some(alerts) = alerts else {
                // It wants to hear of no ends: after a restart the alert would be taken for one that fires.
                quiet.push((group.receiver, place, memo));
                continue;
            };
            entries.push(Entry {
                receiver: group.receiver,
                integration: place,
                notification: Notification {
                    receiver: self.receiver.name.clone(),
                    group_key: memo.group_key.clone(),
                    group_labels: self.group_labels.clone(),
                    at: self.now,
                    alerts,
                    external_url: self.settings.external_url.clone(),
                    lasts: match integration.forgets {
                        // As a Prometheus, which tells each minute and says that it holds for four.
                        true => LASTS.max(4 * self.route.group_interval),
                        false => 0,
                    },
                },
                memo,
            });
        }
        (entries, quiet)
    }

    /// The alerts that a place is to be told, if it is to be told anything.
    fn look(&self, told: &mut Told, integration: &Integration) -> Option<Vec<Alert>> {
        let of = |alert: &Alert| alert.fingerprint();
        let fires = self.members.iter().filter(|member| member.alert.is_firing());
        let left_out = fires.clone().filter(|member| member.muted || member.unseen);
        let firing = fires.filter(|member| !member.muted && !member.unseen);
        let firing: Vec<&Alert> = firing.map(|member| member.alert).collect();
        // The end of what was told is told even if a silence came in between: else it would be open there for ever.
        let ended = self.members.iter().map(|member| member.alert);
        let ended = ended.filter(|alert| !alert.is_firing() && told.open.contains_key(&of(alert)));
        let ended: Vec<&Alert> = ended.collect();
        let held_back = |alert: &Alert| {
            let last = told.ended.get(&of(alert));
            last.is_some_and(|last| self.now < *last + self.settings.deduplication_window)
        };
        let is_new =
            |alert: &&Alert| told.open.get(&of(alert)).is_none_or(|at| *at == 0) && !held_back(alert);
        let send_resolved = integration.send_resolved;
        let again = if integration.forgets {
            0
        } else {
            self.route.repeat_interval
        };
        let repeats = told.at > 0
            && self.now >= told.at + again
            && firing.iter().any(|alert| told.open.contains_key(&of(alert)));
        let speaks = firing.iter().any(is_new) || repeats || (send_resolved && !ended.is_empty());
        let mut alerts = Vec::new();
        if speaks {
            told.at = self.now;
            // A place that has one state for all of a group may take them for over: they are news once they are told again.
            for member in left_out {
                told.open.entry(of(member.alert)).and_modify(|at| *at = 0);
            }
            for alert in firing {
                told.open.insert(of(alert), self.now);
                told.ended.remove(&of(alert));
                alerts.push(alert.clone());
            }
        }
        for alert in ended {
            let last = told.open.remove(&of(alert)).unwrap_or(self.now);
            told.ended.insert(of(alert), last);
            if send_resolved {
                alerts.push(alert.clone());
            }
        }
        speaks.then_some(alerts)
    }
}
