//! What a receiver is told, and what is remembered of having told it.

use crate::alert::{Alert, as_map, time};
use agent_store::labels::Labels;
use agent_store::series::Millis;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// One message to one place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Notification {
    /// Name of the receiver.
    pub receiver: String,
    /// Key of the group, as Alertmanager writes it.
    pub group_key: String,
    /// What the alerts have in common by the route.
    #[serde(with = "as_map")]
    pub group_labels: Labels,
    /// When it was made, ms since 1970.
    pub at: Millis,
    /// Those that fire, then those that have ended since they were told; each by its labels.
    pub alerts: Vec<Alert>,
    /// Where people find the agent.
    pub external_url: String,
    /// Ms for which it holds at a place that is told again at each look; else 0.
    #[serde(default)]
    pub lasts: Millis,
}

impl Notification {
    /// `firing` if any alert does, else `resolved`.
    pub fn status(&self) -> &'static str {
        match self.alerts.iter().any(Alert::is_firing) {
            true => "firing",
            false => "resolved",
        }
    }

    /// What these of the same group, the latest first, say of alerts of which this says nothing: of each the newest.
    pub fn unsaid<'a>(&self, earlier: impl Iterator<Item = &'a Self>) -> Vec<Alert> {
        let mut known: BTreeSet<u64> = self.alerts.iter().map(Alert::fingerprint).collect();
        let all = earlier.flat_map(|one| &one.alerts);
        all.filter(|alert| known.insert(alert.fingerprint()))
            .cloned()
            .collect()
    }

    /// Says this as well.
    pub fn add(&mut self, more: Vec<Alert>) {
        self.alerts.extend(more);
        self.alerts
            .sort_by(|a, b| (!a.is_firing(), &a.labels).cmp(&(!b.is_firing(), &b.labels)));
    }

    /// Labels that all alerts have.
    pub fn common_labels(&self) -> BTreeMap<&str, &str> {
        let Some(first) = self.alerts.first() else {
            return BTreeMap::new();
        };
        let pairs = first.labels.iter().map(|(name, value)| (&**name, &**value));
        pairs
            .filter(|(name, value)| self.alerts.iter().all(|alert| alert.labels.get(name) == *value))
            .collect()
    }

    /// Annotations that all alerts have.
    pub fn common_annotations(&self) -> BTreeMap<&str, &str> {
        let Some(first) = self.alerts.first() else {
            return BTreeMap::new();
        };
        let pairs = first.annotations.iter();
        pairs
            .filter(|(name, value)| {
                let mut others = self.alerts.iter();
                others.all(|alert| alert.annotations.get(*name) == Some(value))
            })
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect()
    }

    /// Alertmanager's payload of webhooks, version 4, as JSON; at most so many alerts, 0 = all.
    pub fn payload(&self, most: usize) -> Vec<u8> {
        let shown = match most {
            0 => self.alerts.len(),
            most => most.min(self.alerts.len()),
        };
        let one = |alert: &'_ Alert| PayloadAlert {
            status: alert.status(),
            labels: map(&alert.labels),
            annotations: alert.annotations.clone(),
            starts_at: time(Some(alert.starts_at)),
            ends_at: time(alert.ends_at),
            generator_url: alert.generator_url.clone(),
            fingerprint: format!("{:016x}", alert.fingerprint()),
        };
        let payload = Payload {
            receiver: &self.receiver,
            status: self.status(),
            alerts: self.alerts.iter().take(shown).map(one).collect(),
            group_labels: map(&self.group_labels),
            common_labels: self.common_labels(),
            common_annotations: self.common_annotations(),
            external_url: &self.external_url,
            version: "4",
            group_key: &self.group_key,
            truncated_alerts: self.alerts.len() - shown,
        };
        // There is nothing in it that JSON could not write.
        serde_json::to_vec(&payload).unwrap_or_default()
    }
}

/// Alertmanager's `webhook.Message`, in its order.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Payload<'a> {
    receiver: &'a str,
    status: &'static str,
    alerts: Vec<PayloadAlert>,
    group_labels: BTreeMap<String, String>,
    common_labels: BTreeMap<&'a str, &'a str>,
    common_annotations: BTreeMap<&'a str, &'a str>,
    #[serde(rename = "externalURL")]
    external_url: &'a str,
    version: &'static str,
    group_key: &'a str,
    truncated_alerts: usize,
}

/// Alertmanager's `template.Alert`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PayloadAlert {
    status: &'static str,
    labels: BTreeMap<String, String>,
    #[serde(with = "crate::alert::shared")]
    annotations: Arc<BTreeMap<String, String>>,
    starts_at: String,
    ends_at: String,
    #[serde(rename = "generatorURL")]
    generator_url: String,
    fingerprint: String,
}

/// Labels as JSON has them.
pub fn map(labels: &Labels) -> BTreeMap<String, String> {
    let pairs = labels.iter();
    pairs
        .map(|(name, value)| (name.to_string(), value.to_string()))
        .collect()
}

/// What a group's place knows: what it was told fires, and when.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Told {
    /// When it was told anything; 0 = it is due again.
    pub at: Millis,
    /// Alerts that it may believe to fire, by fingerprint: when it was last told so; 0 = that is due again.
    pub open: BTreeMap<u64, Millis>,
    /// Alerts whose end it was told: when it had last been told that they fire.
    pub ended: BTreeMap<u64, Millis>,
}

impl Told {
    /// Takes what was told at a later time for told now: the clock was set back.
    pub fn not_after(&mut self, now: Millis) {
        let open = self.open.values_mut().chain(self.ended.values_mut());
        for at in open.chain([&mut self.at]) {
            *at = (*at).min(now);
        }
    }
}

/// What is remembered of a group at a place, so that a restart neither tells twice nor forgets an end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Memo {
    /// Name of the receiver.
    pub receiver: String,
    /// Key of the group.
    pub group_key: String,
    /// Its labels.
    #[serde(with = "as_map")]
    pub group_labels: Labels,
    /// What was told.
    pub told: Told,
    /// The alerts of `told.open`.
    pub open: Vec<Alert>,
}

/// What goes into a queue.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// For which receiver, by place in the list of them.
    pub receiver: usize,
    /// For which of its integrations.
    pub integration: usize,
    /// What is told.
    pub notification: Notification,
    /// What is remembered once this is in the queue.
    pub memo: Memo,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What Alertmanager 0.25 posted of these two alerts, of which the second had ended.
    const REAL: &str = r#"{"receiver":"hook","status":"firing","alerts":[{"status":"firing","labels":{"alertname":"Down","peer":"a\"}\r\n\u003cb\u003e","severity":"critical"},"annotations":{"description":"a\"}\r\n\u003cb\u003e","summary":"it is down"},"startsAt":"2026-11-28T22:13:20Z","endsAt":"0001-01-01T00:00:00Z","generatorURL":"http://h/q?x=1","fingerprint":"fc6d009c8f9e3d31"},{"status":"resolved","labels":{"alertname":"Down","peer":"b","severity":"critical"},"annotations":{"description":"b","summary":"it is down"},"startsAt":"2026-11-28T22:13:20Z","endsAt":"2026-11-28T22:13:40.5Z","generatorURL":"http://h/q?x=1","fingerprint":"33f03bff7e4bb440"}],"groupLabels":{"alertname":"Down"},"commonLabels":{"alertname":"Down","severity":"critical"},"commonAnnotations":{"summary":"it is down"},"externalURL":"http://vm:19193","version":"4","groupKey":"{}:{alertname=\"Down\"}","truncatedAlerts":0}"#;
    const START: Millis = 1795904000000;

    fn alert(peer: &str, ends_at: Option<Millis>) -> Alert {
        let annotations = [("summary", "it is down"), ("description", peer)];
        let annotations = annotations.map(|(name, text)| (name.to_owned(), text.to_owned()));
        Alert {
            labels: Labels::new([("alertname", "Down"), ("peer", peer), ("severity", "critical")]),
            annotations: Arc::new(BTreeMap::from(annotations)),
            active_at: START,
            starts_at: START,
            ends_at,
            generator_url: "http://h/q?x=1".into(),
        }
    }

    #[test]
    fn the_payload_is_that_of_a_real_alertmanager() {
        let notification = Notification {
            receiver: "hook".to_owned(),
            group_key: "{}:{alertname=\"Down\"}".to_owned(),
            group_labels: Labels::new([("alertname", "Down")]),
            at: START + 30_000,
            alerts: vec![alert("a\"}\r\n<b>", None), alert("b", Some(START + 20_500))],
            external_url: "http://vm:19193".to_owned(),
            lasts: 0,
        };
        let ours = String::from_utf8(notification.payload(0)).unwrap();
        // Go writes these two another way, which means the same.
        let real = REAL.replace("\\u003c", "<").replace("\\u003e", ">");
        assert_eq!(ours, real);
        let cut: serde_json::Value = serde_json::from_slice(&notification.payload(1)).unwrap();
        assert_eq!(cut["truncatedAlerts"], 1);
        assert_eq!(cut["alerts"].as_array().unwrap().len(), 1);
    }
}
