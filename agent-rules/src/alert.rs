//! An alert and its life: inactive, pending, firing, and firing a little longer.

use agent_store::labels::{Labels, NAME};
use agent_store::series::Millis;
use std::collections::BTreeMap;

/// The label that carries an alert's name.
pub const ALERTNAME: &str = "alertname";
/// The series of active alerts: 1, with `alertstate`.
pub const ALERTS: &str = "ALERTS";
/// The series that say since when alerts are active, in seconds.
pub const ALERTS_FOR_STATE: &str = "ALERTS_FOR_STATE";

/// A resolved alert is remembered for this long, so that whoever missed the end is told.
const RESOLVED: Millis = 15 * 60 * 1000;

/// Where an alert is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// It was resolved.
    Inactive,
    /// Its query has a result, not for long enough yet.
    Pending,
    /// It fires.
    Firing,
}

impl State {
    /// As Prometheus writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Inactive => "inactive",
            Self::Pending => "pending",
            Self::Firing => "firing",
        }
    }
}

/// An alert of one element of its rule's result.
#[derive(Clone, Debug, PartialEq)]
pub struct Alert {
    /// Its identity, `alertname` among it.
    pub labels: Labels,
    /// What is said of it, as of its latest evaluation.
    pub annotations: BTreeMap<String, String>,
    /// Where it is in its life.
    pub state: State,
    /// The element's latest value.
    pub value: f64,
    /// Since when the query has the element.
    pub active_at: Millis,
    /// Since when it fires.
    pub fired_at: Option<Millis>,
    /// Since when it does no longer.
    pub resolved_at: Option<Millis>,
    /// Since when it fires only because of `keep_firing_for`.
    pub keep_firing_since: Option<Millis>,
}

/// The alerts of a rule.
#[derive(Debug, Default)]
pub(crate) struct Alerts(pub BTreeMap<Labels, Alert>);

impl Alerts {
    /// Takes what the query has now. Answers how many are active.
    pub fn update(
        &mut self,
        at: Millis,
        found: BTreeMap<Labels, Alert>,
        hold: Millis,
        keep: Millis,
    ) -> usize {
        for (labels, alert) in &mut self.0 {
            if !found.contains_key(labels) {
                alert.missed(at, keep);
            }
        }
        self.0.retain(|labels, alert| {
            let kept = match alert.state {
                State::Pending => found.contains_key(labels),
                State::Firing => true,
                State::Inactive => alert.resolved_at.is_none_or(|resolved| at - resolved <= RESOLVED),
            };
            kept || found.contains_key(labels)
        });
        for (labels, new) in found {
            match self.0.get_mut(&labels) {
                Some(alert) if alert.state != State::Inactive => {
                    alert.value = new.value;
                    alert.annotations = new.annotations;
                    alert.keep_firing_since = None;
                }
                _ => {
                    self.0.insert(labels, new);
                }
            }
        }
        for alert in self.0.values_mut().filter(|alert| alert.state == State::Pending) {
            if at - alert.active_at >= hold {
                alert.state = State::Firing;
                alert.fired_at = Some(at);
            }
        }
        self.active().count()
    }

    /// Those that are pending or fire.
    pub fn active(&self) -> impl Iterator<Item = &Alert> {
        self.0.values().filter(|alert| alert.state != State::Inactive)
    }
}

impl Alert {
    /// The query does not have it any more.
    fn missed(&mut self, at: Millis, keep: Millis) {
        if self.state != State::Firing {
            return;
        }
        if keep > 0 && at - *self.keep_firing_since.get_or_insert(at) < keep {
            return;
        }
        self.state = State::Inactive;
        self.resolved_at = Some(at);
    }

    /// Its labels as those of a series.
    pub(crate) fn series(&self, name: &str, state: Option<State>) -> Labels {
        let own = self.labels.iter().map(|(label, value)| (&**label, &**value));
        let state = state.map(|state| ("alertstate", state.name()));
        Labels::new(own.chain(state).chain([(NAME, name)]))
    }
}
