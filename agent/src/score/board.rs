//! What was said of all series at the latest evaluation, for everybody who asks.

use crate::aggregate::{Label, Labels, Series, Value};
use crate::docs;
use agent_score::anomaly::Verdict;
use agent_score::watch::{Anomaly, Counts, Definition, Watched, Watcher};
use agent_store::labels;
use agent_store::series::Millis;
use serde_json::json;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

/// Label of the watch.
pub(super) static WATCH: Label = Label {
    prometheus: "watch",
    otlp: "geophone.anomaly.watch",
    help: "Name of the watch that the series is of; its other labels are those of the series",
};
/// Label of what is unusual.
pub(super) static CHANGE: Label = Label {
    prometheus: "change",
    otlp: "geophone.anomaly.change",
    help: "What was unusual when the anomaly began: up, down, wider, narrower",
};
/// Label of who found it.
pub(super) static DETECTORS: Label = Label {
    prometheus: "detectors",
    otlp: "geophone.anomaly.detectors",
    help: "Detectors that found it when it began, with + between them",
};

/// The series as they are exported. They stay the same until the next evaluation.
#[derive(Debug, Default)]
pub(super) struct Exported {
    pub value: Vec<Series>,
    pub score: Vec<Series>,
    pub lower: Vec<Series>,
    pub upper: Vec<Series>,
    pub learned: Vec<Series>,
    pub active: Vec<Series>,
    pub since: Vec<Series>,
    pub entity_score: Vec<Series>,
}

/// All of it.
#[derive(Debug, Default)]
pub(super) struct Board {
    at: Millis,
    pub counts: Counts,
    pub exported: Exported,
    pub failed: Vec<(String, String)>,
    rows: Vec<Row>,
    anomalies: Vec<Arc<Anomaly>>,
}

/// A series.
#[derive(Debug)]
struct Row {
    watch: String,
    labels: labels::Labels,
    unit: &'static str,
    value: f64,
    learned: f32,
    judged: Option<Judged>,
    anomaly: Option<u64>,
}

#[derive(Debug)]
struct Judged {
    score: f32,
    lower: f64,
    upper: f64,
}

impl Board {
    /// Anomalies that are not over.
    pub fn active(&self) -> impl Iterator<Item = &Arc<Anomaly>> {
        self.anomalies.iter().filter(|anomaly| anomaly.until.is_none())
    }

    /// Those and the latest of the others, each later than the one before it.
    pub fn known(&self) -> &[Arc<Anomaly>] {
        &self.anomalies
    }

    /// As the API has it.
    pub fn view(&self, interval: Millis, all: bool) -> serde_json::Value {
        let counts = &self.counts;
        let failed = self.failed.iter();
        let failed: BTreeMap<&str, &str> = failed
            .map(|(watch, why)| (watch.as_str(), why.as_str()))
            .collect();
        let finite = |value: f64| value.is_finite().then_some(value);
        let mut view = json!({
            "time": self.at as f64 / 1e3,
            "interval": interval as f64 / 1e3,
            "judged": counts.judged,
            "learning": counts.learning,
            "refused": counts.refused,
            "failed": failed,
            "anomalies": self.anomalies.iter().rev().map(Arc::as_ref).collect::<Vec<&Anomaly>>(),
        });
        if all {
            let rows = self.rows.iter().map(|row| {
                let labels: BTreeMap<&str, &str> = row.labels.iter().map(|(n, v)| (&**n, &**v)).collect();
                json!({
                    "watch": row.watch,
                    "labels": labels,
                    "unit": row.unit,
                    "value": finite(row.value),
                    "learned": row.learned,
                    "score": row.judged.as_ref().map(|judged| judged.score),
                    "lower": row.judged.as_ref().and_then(|judged| finite(judged.lower)),
                    "upper": row.judged.as_ref().and_then(|judged| finite(judged.upper)),
                    "anomaly": row.anomaly,
                })
            });
            view["series"] = rows.collect();
        }
        view
    }
}

/// Makes boards; keeps the labels, which are encoded once.
pub(super) struct Boards {
    start: u64,
    known: HashMap<(String, labels::Labels), Known>,
    round: u64,
}

struct Known {
    labels: Arc<Labels>,
    /// Of its anomaly, and of which.
    active: Option<(u64, Arc<Labels>)>,
    round: u64,
}

impl Boards {
    /// For an agent that started then.
    pub fn new(start_unix_nanos: u64) -> Self {
        Self {
            start: start_unix_nanos,
            known: HashMap::new(),
            round: 0,
        }
    }

    /// What the latest evaluation has said.
    pub fn make(&mut self, watcher: &Watcher) -> Board {
        self.round += 1;
        let mut board = Board {
            at: watcher.latest(),
            counts: watcher.counts(),
            failed: watcher
                .failed()
                .map(|(watch, why)| (watch.to_owned(), why.to_owned()))
                .collect(),
            anomalies: watcher.anomalies().cloned().collect(),
            ..Board::default()
        };
        for (definition, labels, series) in watcher.series() {
            self.add(&mut board, watcher, definition, labels, series);
        }
        for (label, name, scored, active) in watcher.entities() {
            let labels = labels::Labels::new([(label, name)]);
            let known = self.known(("entity", &labels), active, watcher);
            if scored.verdict != Verdict::Learning {
                board
                    .exported
                    .entity_score
                    .push(gauge(&known.0, f64::from(scored.score)));
            }
            board.exported.activity(known.1.as_ref(), active, watcher);
        }
        let round = self.round;
        self.known.retain(|_, known| known.round == round);
        board
    }

    fn add(
        &mut self,
        board: &mut Board,
        watcher: &Watcher,
        definition: &Definition,
        labels: &labels::Labels,
        series: &Watched,
    ) {
        // One that was given up is not told any more, although its series goes on being one.
        let active = series
            .active()
            .filter(|number| watcher.anomaly(*number).is_some());
        let (own, of_anomaly) = self.known((&definition.name, labels), active, watcher);
        let exported = &mut board.exported;
        exported.activity(of_anomaly.as_ref(), active, watcher);
        if series.at < board.at || !series.value.is_finite() {
            return;
        }
        let (learned, latest) = (series.learned(), &series.latest);
        exported.value.push(gauge(&own, series.value));
        let judged = (learned >= 1.0).then_some(Judged {
            score: latest.score,
            lower: latest.lower,
            upper: latest.upper,
        });
        match &judged {
            None => exported.learned.push(gauge(&own, f64::from(learned))),
            Some(judged) => {
                exported.score.push(gauge(&own, f64::from(judged.score)));
                for (series, value) in [
                    (&mut exported.lower, judged.lower),
                    (&mut exported.upper, judged.upper),
                ] {
                    series.extend(value.is_finite().then(|| gauge(&own, value)));
                }
            }
        }
        board.rows.push(Row {
            watch: definition.name.clone(),
            labels: labels.clone(),
            unit: definition.unit.name(),
            value: series.value,
            learned,
            judged,
            anomaly: active,
        });
    }

    /// The labels of a series, and those of its anomaly.
    fn known(
        &mut self,
        (watch, labels): (&str, &labels::Labels),
        active: Option<u64>,
        watcher: &Watcher,
    ) -> (Arc<Labels>, Option<Arc<Labels>>) {
        let (start, round) = (self.start, self.round);
        let key = (watch.to_owned(), labels.clone());
        let known = self.known.entry(key).or_insert_with(|| Known {
            labels: encoded(watch, labels, None, start),
            active: None,
            round,
        });
        known.round = round;
        let changed = known.active.as_ref().map(|(number, _)| *number) != active;
        if changed {
            let anomaly = active.and_then(|number| watcher.anomaly(number));
            known.active = anomaly.map(|anomaly| (anomaly.id, encoded(watch, labels, Some(anomaly), start)));
        }
        (
            known.labels.clone(),
            known.active.as_ref().map(|(_, labels)| labels.clone()),
        )
    }
}

impl Exported {
    fn activity(&mut self, labels: Option<&Arc<Labels>>, active: Option<u64>, watcher: &Watcher) {
        let anomaly = active.and_then(|number| watcher.anomaly(number));
        if let (Some(labels), Some(anomaly)) = (labels, anomaly) {
            self.active.push(gauge(labels, 1.0));
            self.since.push(gauge(labels, anomaly.since));
        }
    }
}

fn gauge(labels: &Arc<Labels>, value: f64) -> Series {
    Series {
        labels: labels.clone(),
        value: Value::Gauge(value),
    }
}

/// Labels of a series and those of its watch; the latter win, and the former of the same name are called otherwise, as a scrape
/// does it.
fn encoded(watch: &str, labels: &labels::Labels, anomaly: Option<&Anomaly>, start: u64) -> Arc<Labels> {
    let mut declared: Vec<&'static Label> = vec![&WATCH];
    let mut values: Vec<String> = vec![watch.to_owned()];
    for (name, value) in labels.iter() {
        let own = [&WATCH, &CHANGE, &DETECTORS];
        let is_own = own.iter().any(|label| label.prometheus == &**name);
        let name = if is_own {
            format!("exported_{name}")
        } else {
            name.to_string()
        };
        declared.push(declare(&name));
        values.push(value.to_string());
    }
    if let Some(anomaly) = anomaly {
        declared.extend([&CHANGE, &DETECTORS]);
        values.extend([
            anomaly.direction.name().to_owned(),
            anomaly.detectors_first.join("+"),
        ]);
    }
    let values: Vec<&str> = values.iter().map(String::as_str).collect();
    Arc::new(Labels::new(&declared, &values, false, start))
}

/// What a label is called as an attribute of OpenTelemetry.
pub fn attribute(name: &str) -> &'static str {
    declare(name).otlp
}

/// The declaration of a label by its name: that of our own metrics, or one made for it. Names come from the metrics and from the
/// queries of the configuration, so there are few, and what is made for them may stay.
fn declare(name: &str) -> &'static Label {
    static MADE: Mutex<BTreeMap<String, &'static Label>> = Mutex::new(BTreeMap::new());
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(label) = made.get(name) {
        return label;
    }
    let all = docs::all().into_iter();
    let mut declared = all.flat_map(|(_, metrics)| metrics.iter().flat_map(|metric| metric.labels));
    let label: &'static Label = match declared.find(|label| label.prometheus == name) {
        Some(label) => label,
        None => Box::leak(Box::new(Label {
            prometheus: Box::leak(name.to_owned().into_boxed_str()),
            otlp: Box::leak(format!("geophone.label.{name}").into_boxed_str()),
            help: "A label of a query of the configuration",
        })),
    };
    made.insert(name.to_owned(), label);
    label
}
