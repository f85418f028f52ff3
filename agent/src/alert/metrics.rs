//! What the rules say of themselves.

use super::Rules;
use super::alertmanager::{Alertmanager, Stats};
use crate::aggregate::{Collect, Family, Label, Labels, Metric, Series, Value, metrics};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

static ALERTNAME: Label = Label {
    prometheus: "alertname",
    otlp: "geophone.alert.name",
    help: "Name of the alert in its rule file",
};
pub(super) static SEVERITY: Label = Label {
    prometheus: "severity",
    otlp: "geophone.alert.severity",
    help: "What the alert's label `severity` says",
};
static STATE: Label = Label {
    prometheus: "alertstate",
    otlp: "geophone.alert.state",
    help: "pending or firing",
};

static MANAGER: Label = Label {
    prometheus: "alertmanager",
    otlp: "geophone.alertmanager",
    help: "Host and port of the Alertmanager",
};
static OUTCOME: Label = Label {
    prometheus: "outcome",
    otlp: "geophone.outcome",
    help: "Of alerts: sent, or refused, and the Alertmanager's answer is in the log; of reloads: done, or failed",
};

metrics! {
    /// Alerts.
    ALERTS = "geophone_alerts", "geophone.alerts", "{alert}", Gauge, &[&ALERTNAME, &SEVERITY, &STATE],
        "Alerts that are pending or fire; with all their labels they are the series ALERTS of the store";
    /// Evaluations.
    EVALUATIONS = "geophone_rules_evaluations_total", "geophone.rules.evaluations", "{evaluation}", Counter, &[],
        "Evaluations of a rule";
    /// Failures.
    FAILURES = "geophone_rules_failures_total", "geophone.rules.failures", "{evaluation}", Counter, &[],
        "Evaluations that failed; /api/v1/rules says why";
    /// Time.
    SECONDS = "geophone_rules_evaluation_seconds_total", "geophone.rules.evaluation.time", "s", Counter, &[],
        "Time that evaluations took";
    /// Missed.
    MISSED = "geophone_rules_missed_total", "geophone.rules.missed", "{evaluation}", Counter, &[],
        "Evaluations of a group that were left out, because an earlier one took too long";
    /// Alerts told.
    TOLD = "geophone_alertmanager_alerts_total", "geophone.alertmanager.alerts", "{alert}", Counter, &[&MANAGER, &OUTCOME],
        "Alerts that an Alertmanager was told, each time anew";
    /// Failed requests.
    UNTOLD = "geophone_alertmanager_failures_total", "geophone.alertmanager.failures", "{request}", Counter, &[&MANAGER],
        "Requests to an Alertmanager that failed; what was in them is sent again";
    /// Reloads.
    RELOADS = "geophone_rules_reloads_total", "geophone.rules.reloads", "{reload}", Counter, &[&OUTCOME],
        "Times that rule files were read again; failed = one could not be used, and its old rules stay";
    /// Files.
    INVALID = "geophone_rules_invalid_files", "geophone.rules.files.invalid", "{file}", Gauge, &[],
        "Rule files that cannot be used, as of the last time that they were read; the log says why";
}

/// Makes the families.
pub struct StatsCollect {
    rules: Arc<Rules>,
    none: Arc<Labels>,
    /// Of reloads: done, failed.
    reloads: [Arc<Labels>; 2],
    start: u64,
    alerts: BTreeMap<[String; 3], Arc<Labels>>,
    /// Of each Alertmanager its labels: sent, refused, failures.
    managers: Vec<([Arc<Labels>; 3], Arc<Stats>)>,
}

impl StatsCollect {
    /// Of these rules, and of the Alertmanagers that get their alerts.
    pub fn new(rules: Arc<Rules>, managers: &[Alertmanager], start_unix_nanos: u64) -> Self {
        let labels =
            |declared, values: &[&str]| Arc::new(Labels::new(declared, values, false, start_unix_nanos));
        let managers = managers.iter().map(|manager| {
            let name = manager.name();
            let [sent, refused] = ["sent", "refused"].map(|outcome| labels(TOLD.labels, &[&name, outcome]));
            ([sent, refused, labels(UNTOLD.labels, &[&name])], manager.stats())
        });
        Self {
            managers: managers.collect(),
            rules,
            none: Arc::new(Labels::new(&[], &[], false, start_unix_nanos)),
            reloads: ["done", "failed"].map(|outcome| labels(RELOADS.labels, &[outcome])),
            start: start_unix_nanos,
            alerts: BTreeMap::new(),
        }
    }

    fn alerts(&mut self) -> Family {
        let mut counts: BTreeMap<[String; 3], f64> = BTreeMap::new();
        for group in self.rules.view() {
            for alert in group.alerts() {
                let get = |label: &str| alert.labels.get(label).cloned().unwrap_or_default();
                *counts
                    .entry([get("alertname"), get("severity"), alert.state.to_owned()])
                    .or_default() += 1.0;
            }
        }
        self.alerts.retain(|key, _| counts.contains_key(key));
        let series = counts.into_iter().map(|(key, count)| {
            let labels = self.alerts.entry(key).or_insert_with_key(|key| {
                let values = key.each_ref().map(String::as_str);
                Arc::new(Labels::new(ALERTS.labels, &values, false, self.start))
            });
            Series {
                labels: labels.clone(),
                value: Value::Gauge(count),
            }
        });
        Family {
            metric: &ALERTS,
            series: series.collect(),
        }
    }
}

impl Collect for StatsCollect {
    fn collect(&mut self, out: &mut Vec<Family>) {
        let alerts = self.alerts();
        let counters = &self.rules.counters;
        let count = |counter: &AtomicU64| Value::Counter(counter.load(Relaxed));
        let one = |metric: &'static Metric, value: Value| Family {
            metric,
            series: vec![Series {
                labels: self.none.clone(),
                value,
            }],
        };
        let managed = |at: usize, pick: fn(&Stats) -> &AtomicU64| {
            let managers = self.managers.iter();
            managers.filter_map(move |(labels, stats)| {
                Some(Series {
                    labels: labels.get(at)?.clone(),
                    value: Value::Counter(pick(stats).load(Relaxed)),
                })
            })
        };
        let reloads = self
            .reloads
            .iter()
            .zip([&counters.reloads, &counters.failed_reloads]);
        let reloads = reloads.map(|(labels, counter)| Series {
            labels: labels.clone(),
            value: count(counter),
        });
        let told = managed(0, |stats| &stats.sent).chain(managed(1, |stats| &stats.refused));
        out.push(Family {
            metric: &TOLD,
            series: told.collect(),
        });
        out.push(Family {
            metric: &UNTOLD,
            series: managed(2, |stats| &stats.failures).collect(),
        });
        out.extend([
            alerts,
            one(&EVALUATIONS, count(&counters.evaluations)),
            one(&FAILURES, count(&counters.failures)),
            one(
                &SECONDS,
                Value::CounterF(counters.nanos.load(Relaxed) as f64 / 1e9),
            ),
            one(&MISSED, count(&counters.missed)),
            one(&INVALID, Value::Gauge(self.rules.invalid.load(Relaxed) as f64)),
            Family {
                metric: &RELOADS,
                series: reloads.collect(),
            },
        ]);
    }
}
