//! Alerts as receivers are told of them; silences and incidents as the API shows them.

use crate::alert::view::{Told, generator_url, time};
use agent_notify::alert::bounded;
use agent_notify::incident::Member;
use agent_notify::notification::map;
use agent_notify::{Alert, Incident, Silence};
use agent_store::labels::Labels;
use serde_json::{Value, json};
use std::borrow::Cow;
use std::sync::Arc;

pub(super) use crate::alert::view::told;

/// An incident that is not over, as its series has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Open {
    /// Its number.
    pub(super) id: String,
    /// Name of its first cause.
    pub(super) cause: String,
    /// Severity of that.
    pub(super) severity: String,
    /// When it began, ms since 1970.
    pub(super) started_at: i64,
}

impl Open {
    /// `None` if it is over.
    pub(super) fn of(incident: &Incident) -> Option<Self> {
        let cause = incident.first_cause().filter(|_| incident.ended_at.is_none())?;
        let label = |name| cause.labels.get(name).to_owned();
        Some(Self {
            id: incident.id.clone(),
            cause: label("alertname"),
            severity: label("severity"),
            started_at: incident.started_at,
        })
    }
}

/// Labels as they are told: with those of all alerts, none too long.
pub(super) fn labels(own: &Labels, external: &Labels) -> Labels {
    // An alert's own labels win.
    let pairs = external.iter().chain(own.iter());
    Labels::new(pairs.map(|(name, value)| match bounded(value) {
        Cow::Borrowed(_) => (name.clone(), value.clone()),
        Cow::Owned(cut) => (name.clone(), cut.into()),
    }))
}

/// With the labels and the address that alerts get when they are sent.
pub(super) fn alert(told: &Told, external_labels: &Labels, external_url: &str) -> Alert {
    let annotations = told.annotations.iter();
    let fit = annotations
        .clone()
        .all(|(_, text)| matches!(bounded(text), Cow::Borrowed(_)));
    Alert {
        labels: labels(&told.labels, external_labels),
        annotations: match fit {
            true => told.annotations.clone(),
            false => Arc::new(
                annotations
                    .map(|(name, text)| (name.clone(), bounded(text).into_owned()))
                    .collect(),
            ),
        },
        active_at: told.active_at,
        starts_at: told.fired_at,
        ends_at: told.resolved_at,
        generator_url: generator_url(external_url, &told.query),
    }
}

/// As `GET /api/v2/silences` of Alertmanager.
pub(super) fn silence(silence: &Silence, now: i64) -> Value {
    json!({
        "id": silence.id,
        "status": { "state": silence.state(now) },
        "matchers": silence.matchers,
        "startsAt": time(silence.starts_at),
        "endsAt": time(silence.ends_at),
        "updatedAt": time(silence.updated_at),
        "createdBy": silence.created_by,
        "comment": silence.comment,
    })
}

pub(super) fn incident(incident: &Incident) -> Value {
    let member = |member: &Member| {
        json!({
            "labels": map(&member.labels),
            "summary": member.summary,
            "activeAt": time(member.active_at),
            "startsAt": time(member.starts_at),
            "endsAt": member.ends_at.map(time),
            "fingerprint": format!("{:016x}", member.fingerprint),
        })
    };
    json!({
        "id": incident.id,
        "state": if incident.ended_at.is_some() { "resolved" } else { "open" },
        "startedAt": time(incident.started_at),
        "endedAt": incident.ended_at.map(time),
        "cause": incident.first_cause().map(member),
        "why": incident.why,
        "alerts": incident.alerts.iter().map(member).collect::<Vec<_>>(),
        "more": incident.more,
    })
}
