//! Rules and alerts as Prometheus' HTTP API has them.

use crate::score::explain::is_of;
use agent_notify::alert::LATEST;
use agent_rules::file::Text;
use agent_rules::template::number::float;
use agent_rules::{Alert, Group, Health, Rule, State};
use agent_score::watch::Anomaly;
use agent_store::labels::Labels;
use agent_store::series::Millis;
use reqwest::Url;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

/// The annotation with what else changed when an anomaly began.
const EVIDENCE: &str = "evidence";

/// A group.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GroupView {
    /// Its name.
    pub name: String,
    /// Its file.
    pub file: String,
    /// Its rules.
    pub rules: Vec<RuleView>,
    /// Seconds between evaluations.
    pub interval: f64,
    /// Most results of a rule; 0 = any number.
    pub limit: usize,
    /// Seconds that the latest evaluation took.
    pub evaluation_time: f64,
    /// When it was.
    pub last_evaluation: String,
    /// Alerts that fire or did within the latest quarter of an hour.
    #[serde(skip)]
    pub(super) told: Vec<Told>,
}

/// An alert as an Alertmanager is told of it.
#[derive(Clone, Debug)]
pub(super) struct Told {
    pub labels: Labels,
    pub annotations: Arc<BTreeMap<String, String>>,
    pub active_at: Millis,
    pub fired_at: Millis,
    pub resolved_at: Option<Millis>,
    pub query: String,
    pub interval: Millis,
    /// The rule's latest evaluation failed: what it said before is not known to hold.
    pub unknown: bool,
}

/// A rule.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RuleView {
    /// What only alerting rules have.
    #[serde(flatten)]
    pub alerting: Option<AlertingView>,
    /// The alert's name, or that of the series.
    pub name: String,
    /// The query.
    pub query: String,
    /// Labels that results get.
    pub labels: BTreeMap<String, String>,
    /// `ok`, `err` or `unknown`.
    pub health: &'static str,
    /// Why it is `err`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub last_error: String,
    /// Seconds that the latest evaluation took.
    pub evaluation_time: f64,
    /// When it was.
    pub last_evaluation: String,
    /// `alerting` or `recording`.
    #[serde(rename = "type")]
    pub kind: &'static str,
}

/// What only alerting rules have.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AlertingView {
    /// The state of the alert that is furthest.
    pub state: &'static str,
    /// Seconds of `for`.
    pub duration: f64,
    /// Seconds of `keep_firing_for`.
    pub keep_firing_for: f64,
    /// Annotations before their templates are expanded.
    pub annotations: BTreeMap<String, String>,
    /// Alerts that are pending or fire.
    pub alerts: Vec<AlertView>,
}

/// An alert.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AlertView {
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
    /// `pending` or `firing`.
    pub state: &'static str,
    /// Since when the query has it.
    pub active_at: String,
    /// Since when it fires only because of `keep_firing_for`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_firing_since: Option<String>,
    /// The value, as Go writes it with an exponent.
    pub value: String,
    /// Why nobody is told although it fires: `silenced`, `inhibited`, or `muted` by the times of its routes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub muted: Option<&'static str>,
}

impl GroupView {
    pub(super) fn new(group: &Group, default_interval: Millis) -> Self {
        let last = group.evaluated_at.map_or_else(never, time);
        let interval = group.file.interval.unwrap_or(default_interval);
        Self {
            told: group
                .rules
                .iter()
                .flat_map(|rule| told_of(rule, interval))
                .collect(),
            name: group.file.name.clone(),
            file: group.file.file.clone(),
            rules: group.rules.iter().map(|rule| rule_view(rule, &last)).collect(),
            interval: seconds(interval),
            limit: group.file.limit,
            evaluation_time: group.took.as_secs_f64(),
            last_evaluation: last,
        }
    }

    /// Gives the alerts of anomalies an annotation with the evidence of these, unless their rule has one of this name. They are the
    /// latest, in order: an alert that is resolved, or fires on, still is of one that is over.
    pub(super) fn explain(&mut self, anomalies: &[Arc<Anomaly>]) {
        for told in &mut self.told {
            if let Some(evidence) = evidence(anomalies, |name| told.labels.get(name)) {
                let annotations = Arc::make_mut(&mut told.annotations);
                annotations.entry(EVIDENCE.to_owned()).or_insert(evidence);
            }
        }
        let rules = self.rules.iter_mut().filter_map(|rule| rule.alerting.as_mut());
        for alert in rules.flat_map(|rule| &mut rule.alerts) {
            let label = |name: &str| alert.labels.get(name).map_or("", String::as_str);
            if let Some(evidence) = evidence(anomalies, label) {
                alert.annotations.entry(EVIDENCE.to_owned()).or_insert(evidence);
            }
        }
    }

    /// Says of alerts that fire why nobody is told of them, if `why` knows.
    pub fn explain_silence(&mut self, why: impl Fn(&AlertView) -> Option<&'static str>) {
        let rules = self.rules.iter_mut().filter_map(|rule| rule.alerting.as_mut());
        let alerts = rules.flat_map(|rule| &mut rule.alerts);
        for alert in alerts.filter(|alert| alert.state == State::Firing.name()) {
            alert.muted = why(alert);
        }
    }

    /// All alerts that are pending or fire.
    pub fn alerts(&self) -> impl Iterator<Item = &AlertView> {
        let rules = self.rules.iter().filter_map(|rule| rule.alerting.as_ref());
        rules.flat_map(|rule| &rule.alerts)
    }
}

/// The evidence of the latest anomaly that an alert with these labels may be of, a line each.
fn evidence<'a>(anomalies: &[Arc<Anomaly>], label: impl Fn(&str) -> &'a str) -> Option<String> {
    let anomaly = anomalies.iter().rfind(|anomaly| is_of(anomaly, &label))?;
    let lines: Vec<String> = anomaly.evidence.iter().map(ToString::to_string).collect();
    (!lines.is_empty()).then(|| lines.join("\n"))
}

/// What is to be told of all groups; of two rules whose alerts have the same labels, the one that fires, and is known to.
pub(super) fn told(groups: &[Arc<GroupView>]) -> Vec<&Told> {
    let rank = |told: &Told| (told.resolved_at.is_none(), !told.unknown);
    let mut told: BTreeMap<&Labels, &Told> = BTreeMap::new();
    for alert in groups.iter().flat_map(|group| &group.told) {
        let one = told.entry(&alert.labels).or_insert(alert);
        if rank(alert) > rank(one) {
            *one = alert;
        }
    }
    told.into_values().collect()
}

/// Where the query of an alert can be looked at.
pub(super) fn generator_url(external_url: &str, query: &str) -> String {
    let url = Url::parse_with_params(&format!("{external_url}/api/v1/query"), [("query", query)]);
    url.map(String::from).unwrap_or_default()
}

fn told_of(rule: &Rule, interval: Millis) -> impl Iterator<Item = Told> + '_ {
    rule.alerts().filter_map(move |alert| {
        Some(Told {
            fired_at: alert.fired_at?,
            labels: alert.labels.clone(),
            annotations: Arc::new(alert.annotations.clone()),
            active_at: alert.active_at,
            resolved_at: alert.resolved_at,
            query: rule.file.expr.clone(),
            interval,
            unknown: matches!(rule.health, Health::Bad(_)),
        })
    })
}

fn rule_view(rule: &Rule, last: &str) -> RuleView {
    let (health, last_error) = match &rule.health {
        Health::Unknown => ("unknown", String::new()),
        Health::Ok => ("ok", String::new()),
        Health::Bad(why) => ("err", why.clone()),
    };
    let alerting = rule.file.alert.as_ref().map(|alert| AlertingView {
        state: rule.state().name(),
        duration: seconds(alert.hold),
        keep_firing_for: seconds(alert.keep_firing),
        annotations: sources(&alert.annotations),
        alerts: rule
            .alerts()
            .filter(|alert| alert.state != State::Inactive)
            .map(alert_view)
            .collect(),
    });
    RuleView {
        kind: if alerting.is_some() {
            "alerting"
        } else {
            "recording"
        },
        alerting,
        name: rule.file.name.clone(),
        query: rule.file.expr.clone(),
        labels: sources(&rule.file.labels),
        health,
        last_error,
        evaluation_time: rule.took.as_secs_f64(),
        last_evaluation: last.to_owned(),
    }
}

fn alert_view(alert: &Alert) -> AlertView {
    AlertView {
        labels: labels(&alert.labels),
        annotations: alert.annotations.clone(),
        state: alert.state.name(),
        active_at: time(alert.active_at),
        keep_firing_since: alert.keep_firing_since.map(time),
        value: float(alert.value, 'e', None),
        muted: None,
    }
}

fn labels(labels: &Labels) -> BTreeMap<String, String> {
    let pairs = labels.iter();
    pairs
        .map(|(name, value)| (name.to_string(), value.to_string()))
        .collect()
}

fn sources(texts: &[(String, Text)]) -> BTreeMap<String, String> {
    let pairs = texts.iter();
    pairs
        .map(|(name, text)| (name.clone(), text.source.clone()))
        .collect()
}

fn seconds(millis: Millis) -> f64 {
    millis as f64 / 1000.0
}

/// Go's zero time.
fn never() -> String {
    "0001-01-01T00:00:00Z".to_owned()
}

pub(super) fn time(at: Millis) -> String {
    // Beyond the year 9999 humantime panics.
    let at = UNIX_EPOCH + Duration::from_millis(at.clamp(0, LATEST).unsigned_abs());
    humantime::format_rfc3339_millis(at).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use agent_score::watch::Evidence;

    /// Cause: two rules have an alert of the same labels: one is known to fire, or the evaluation of its rule fails, and the other's is over.
    /// Seen: it fires, whichever comes first.
    #[test]
    fn what_fires_by_one_rule_is_not_over_by_another() {
        let one = |resolved_at, unknown| Told {
            labels: Labels::default(),
            annotations: Arc::default(),
            active_at: 0,
            fired_at: 0,
            resolved_at,
            query: String::new(),
            interval: 1000,
            unknown,
        };
        let rules =
            agent_rules::file::parse("f", "groups: [{name: g, rules: [{alert: A, expr: up}]}]").unwrap();
        let mut view = GroupView::new(&Group::new(rules[0].clone(), true), 1000);
        let (over, unknown, fires) = (one(Some(1), false), one(None, true), one(None, false));
        for (all, wanted) in [
            ([&over, &unknown], &unknown),
            ([&over, &fires], &fires),
            ([&unknown, &fires], &fires),
        ] {
            for all in [all, [all[1], all[0]]] {
                view.told = all.map(Told::clone).to_vec();
                let groups = [Arc::new(view.clone())];
                let told = told(&groups);
                assert_eq!(
                    (told.len(), told[0].resolved_at, told[0].unknown),
                    (1, wanted.resolved_at, wanted.unknown)
                );
            }
        }
    }

    /// Cause: alerts of an anomaly that is over and had one before, of another series, and of one whose rule has an annotation of this
    /// name. Seen: the first has the evidence of the later, for who is told as for who asks.
    #[test]
    fn alerts_of_anomalies_carry_evidence() {
        let pairs = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            let pairs = pairs.iter();
            pairs
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect()
        };
        let own = pairs(&[("alertname", "A"), ("watch", "drops"), ("reason", "FULL")]);
        let other = pairs(&[("alertname", "A"), ("watch", "drops"), ("reason", "OTHER")]);
        let all = [
            (own.clone(), BTreeMap::new()),
            (other, BTreeMap::new()),
            (own, pairs(&[("evidence", "mine")])),
        ];
        let alert =
            |(labels, annotations): &(BTreeMap<String, String>, BTreeMap<String, String>)| AlertView {
                labels: labels.clone(),
                annotations: annotations.clone(),
                state: "firing",
                active_at: never(),
                keep_firing_since: None,
                value: "1e+00".to_owned(),
                muted: None,
            };
        let told = |(labels, annotations): &(BTreeMap<String, String>, BTreeMap<String, String>)| Told {
            labels: Labels::new(labels.clone()),
            annotations: Arc::new(annotations.clone()),
            active_at: 0,
            fired_at: 0,
            resolved_at: None,
            query: String::new(),
            interval: 1000,
            unknown: false,
        };
        let file =
            agent_rules::file::parse("f", "groups: [{name: g, rules: [{alert: A, expr: up}]}]").unwrap();
        let mut view = GroupView::new(&Group::new(file[0].clone(), true), 1000);
        view.told = all.iter().map(told).collect();
        let alerting = view.rules[0].alerting.as_mut().unwrap();
        alerting.alerts = all.iter().map(alert).collect();
        let evidence = ["retransmits", "CPU time"].map(|what| Evidence {
            what: what.to_owned(),
            ..Evidence::default()
        });
        let anomaly = Anomaly {
            watch: "drops".to_owned(),
            labels: pairs(&[("reason", "FULL")]),
            evidence: evidence.to_vec(),
            until: Some(2.0),
            ..Anomaly::default()
        };
        let earlier = Anomaly {
            evidence: vec![Evidence::default()],
            ..anomaly.clone()
        };
        view.explain(&[Arc::new(earlier), Arc::new(anomaly)]);
        let lines = format!("{}\n{}", evidence[0], evidence[1]);
        let wanted = [Some(lines.as_str()), None, Some("mine")];
        let told = view.told.iter();
        let told: Vec<Option<&str>> = told
            .map(|one| one.annotations.get("evidence").map(String::as_str))
            .collect();
        assert_eq!(told, wanted);
        let shown: Vec<Option<&str>> = view
            .alerts()
            .map(|one| one.annotations.get("evidence").map(String::as_str))
            .collect();
        assert_eq!(shown, wanted);
    }
}
