//! Grafana dashboards, made from the declarations of the metrics: units, descriptions and the form of each query come from there,
//! and a dashboard that asks for a metric or a label that nobody declares is not made.

mod boards;
pub mod check;
mod choice;
mod grafana;
mod links;
mod maker;
pub mod own;
mod panel;
mod place;
mod unit;
mod watches;

pub use watches::WATCHES;

use serde_json::Value;
use std::collections::BTreeMap;

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Monotonic sum.
    Counter,
    /// Value that goes up and down.
    Gauge,
    /// Histogram, native or with buckets.
    Histogram,
}

/// A metric as its owner declares it.
#[derive(Clone, Debug)]
pub struct Metric {
    /// Prometheus name, `_total` of counters included.
    pub name: String,
    /// Counter, gauge or histogram.
    pub kind: Kind,
    /// UCUM unit: `s`, `By`, `{segment}`, `1`.
    pub unit: String,
    /// Its labels, without `job` and `instance`.
    pub labels: Vec<String>,
    /// One sentence.
    pub help: String,
}

/// How queries are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Style {
    /// Histograms have buckets (`_bucket`, `le`), one an octave, as where Prometheus scrapes text; else they are native. Such a
    /// board may stand beside the other in one Grafana: its uid and its title say so, and its links lead to its own kind.
    pub classic: bool,
}

/// A query of a panel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// Title of its panel.
    pub panel: String,
    /// PromQL with Grafana's variables in it.
    pub expr: String,
}

/// A dashboard.
#[derive(Clone, Debug)]
pub struct Dashboard {
    /// Its name, which begins its uid in Grafana as well: `geophone-overview`.
    pub name: String,
    /// What it is about, in a line.
    pub about: &'static str,
    /// As Grafana imports it.
    pub json: Value,
    /// All that it asks.
    pub queries: Vec<Query>,
}

impl Dashboard {
    /// Its JSON as a file has it: the same, however the crate was built.
    pub fn text(&self) -> String {
        format!("{:#}\n", sorted(&self.json))
    }
}

/// With keys in the order of the alphabet, whether or not `serde_json` keeps the order in which they came.
fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let keys: BTreeMap<&String, Value> =
                map.iter().map(|(key, value)| (key, sorted(value))).collect();
            Value::Object(
                keys.into_iter()
                    .map(|(key, value)| (key.clone(), value))
                    .collect(),
            )
        }
        Value::Array(all) => Value::Array(all.iter().map(sorted).collect()),
        other => other.clone(),
    }
}

/// What recording rules, or Prometheus itself, add to the metrics: name and labels. The rules are those of `deploy/prometheus`.
pub const RECORDED: &[(&str, &[&str])] = &[
    ("up", &["job"]),
    ("target_info", &["job", "region", "zone", "host"]),
    (
        "ALERTS",
        &[
            "alertname",
            "alertstate",
            "severity",
            "region",
            "peer_region",
            "subject",
            "peer",
        ],
    ),
    ("geophone:region_rtt_seconds:p50_5m", &["region", "peer_region"]),
    ("geophone:region_rtt_seconds:p99_5m", &["region", "peer_region"]),
    ("geophone:region_retransmits:ratio_5m", &["region", "peer_region"]),
    (
        "geophone:region_bytes:rate5m",
        &["region", "peer_region", "direction"],
    ),
    (
        "geophone:region_connect_failures:ratio_5m",
        &["region", "peer_region"],
    ),
    ("geophone:region_health_score:avg", &["region"]),
    ("geophone:region_nodes:count", &["region"]),
    ("geophone_health_score", &["entity", "name"]),
    ("geophone_health_factor", &["entity", "name", "factor"]),
    ("geophone_health_confidence", &["entity", "name"]),
    ("geophone_slo_objective_ratio", &["slo", "window"]),
    ("geophone_slo_sli_ratio", &["slo", "window"]),
    ("geophone_slo_burn_rate", &["slo", "window"]),
    ("geophone_slo_budget_remaining_ratio", &["slo"]),
    ("geophone_slo_coverage_ratio", &["slo"]),
];

/// All dashboards, the one to begin with first.
///
/// # Errors
/// All that they ask for and these declarations do not have.
pub fn dashboards(metrics: &[Metric], style: Style) -> Result<Vec<Dashboard>, Vec<String>> {
    let mut maker = maker::Maker::new(metrics, style);
    let boards = boards::all(&mut maker);
    let mut faults = maker.faults();
    let map = links::map(&boards);
    let made = boards.iter().map(|board| grafana::dashboard(board, &map));
    let mut made: Vec<Dashboard> = made.collect();
    if style.classic {
        made.iter_mut().for_each(grafana::set_apart);
    }
    for board in &made {
        let wrong = board
            .queries
            .iter()
            .filter_map(|query| check::check(&query.expr, metrics).err());
        faults.extend(wrong.map(|fault| format!("{}: {fault}", board.name)));
    }
    if faults.is_empty() { Ok(made) } else { Err(faults) }
}
