//! Settings of the watched series.

use super::units::HumanDuration;
use agent_score::watch::{self, Definition, Unit};
use agent_store::promql;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::BTreeSet;

/// Series that are watched for anomalies. They need the store.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AnomalySettings {
    /// Whether they are.
    pub enabled: bool,
    /// How often a value of each is taken. What was learned at another interval is learned anew.
    #[schemars(extend("x-minimum" = "1s", "x-maximum" = "10m"))]
    pub interval: HumanDuration,
    /// Values of a series before anything is said of it. With fewer there are more false alarms at first.
    #[schemars(range(min = 16, max = 10_000))]
    pub learning: u32,
    /// What has been an anomaly for so long, half of the values at least, is the new normal, if it has lasted for 60 values as well.
    #[schemars(extend("x-minimum" = "1m", "x-maximum" = "30d"))]
    pub accept_after: HumanDuration,
    /// False alarms that are allowed for each series in a week.
    #[schemars(range(min = 0.01, max = 10_000.0))]
    pub alarms_per_week: f64,
    /// Most series, 4 KiB each, 9 with the course of a day. What finds no room is counted.
    #[schemars(range(min = 1, max = 100_000))]
    pub series: u32,
    /// So many entities, peers and subjects, get a score of all their signals together as well (isolation forest), the busiest
    /// first, 260 KiB each; 0 = none. Where a watched series of one (with its label `peer` or `subject`) is an anomaly, it is among the
    /// detectors if it agrees; by itself it hardly ever makes one.
    #[schemars(range(min = 0, max = 1_000))]
    pub entities: u32,
    /// Watch what `geophone anomalies --watches` prints.
    pub defaults: bool,
    /// Names of watches of these that are left out.
    pub exclude: Vec<String>,
    /// What is watched besides; of the same name as one of these, instead of it.
    #[schemars(example = watch_example())]
    pub watch: Vec<WatchSettings>,
}

fn watch_example() -> Vec<WatchSettings> {
    vec![WatchSettings {
        name: "zero_windows".to_owned(),
        expr: "sum by (peer) (rate(geophone_tcp_zero_windows_total[10s]))".to_owned(),
        unit: WatchUnit(Unit::PerSecond),
        min_change: 0.5,
        zero: true,
    }]
}

/// A query whose series are watched.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WatchSettings {
    /// Value of the label `watch`: letters, digits and `_`.
    pub name: String,
    /// The query, in PromQL; each series that it comes to is watched by itself. A window as long as `interval` says what is
    /// new, and after a start nothing is asked before there are samples of one; where there is too little to say anything, it
    /// should have no value (`… and on (peer) … > 5`).
    pub expr: String,
    /// What its values are counted in, for people.
    #[serde(default)]
    pub unit: WatchUnit,
    /// Changes up to this are none, however rare.
    #[serde(default)]
    pub min_change: f64,
    /// Whether a series that the query does not have is 0: one that comes later was 0 before, and not unknown.
    #[serde(default)]
    pub zero: bool,
}

/// A unit of a watch: seconds, a ratio (1 = all), times or bytes a second, or any number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WatchUnit(pub Unit);

impl JsonSchema for WatchUnit {
    fn schema_name() -> Cow<'static, str> {
        "WatchUnit".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "enum": Unit::ALL.map(Unit::name) })
    }
}

impl Default for AnomalySettings {
    fn default() -> Self {
        Self {
            enabled: true,
            interval: HumanDuration::from_secs(10),
            learning: 256,
            accept_after: HumanDuration::from_secs(50 * 60),
            alarms_per_week: 1.0,
            series: 2000,
            entities: 16,
            defaults: true,
            exclude: Vec::new(),
            watch: Vec::new(),
        }
    }
}

fn millis(duration: HumanDuration) -> i64 {
    i64::try_from(duration.get().as_millis()).unwrap_or(i64::MAX)
}

impl AnomalySettings {
    /// As the watcher has them.
    pub fn settings(&self) -> watch::Settings {
        watch::Settings {
            interval: millis(self.interval),
            alarms_per_week: self.alarms_per_week,
            learning: self.learning,
            accept_after: millis(self.accept_after),
            most_series: self.series as usize,
            most_entities: self.entities as usize,
        }
    }

    /// All that is watched.
    pub fn definitions(&self) -> Vec<Definition> {
        let own = self.watch.iter().map(|watch| Definition {
            name: watch.name.clone(),
            expr: watch.expr.clone(),
            unit: watch.unit.0,
            least: watch.min_change,
            zero: watch.zero,
        });
        let replaced = |name: &str| self.watch.iter().any(|watch| watch.name == name);
        let shipped = watch::defaults(millis(self.interval)).into_iter();
        let shipped =
            shipped.filter(|one| self.defaults && !self.exclude.contains(&one.name) && !replaced(&one.name));
        shipped.chain(own).collect()
    }

    /// What is wrong with them: where, and what.
    pub(super) fn check(&self) -> Result<(), (Vec<String>, String)> {
        let shipped = watch::defaults(millis(self.interval));
        for (index, name) in self.exclude.iter().enumerate() {
            if !shipped.iter().any(|one| one.name == *name) {
                let message = format!("{name:?} is no watch; `geophone anomalies --watches` prints them");
                return Err((vec!["exclude".to_owned(), format!("[{index}]")], message));
            }
        }
        let mut names = BTreeSet::new();
        for (index, watch) in self.watch.iter().enumerate() {
            let wrong = |field: &str, message: String| {
                let path = ["watch".to_owned(), format!("[{index}]"), field.to_owned()];
                Err((path.to_vec(), message))
            };
            let is_word = watch.name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
            if watch.name.is_empty() || watch.name.len() > 64 || !is_word {
                let message = format!("{:?} is no name of 1 to 64 letters, digits and _", watch.name);
                return wrong("name", message);
            }
            if watch.name == watch::ENTITY_WATCH {
                let message = format!("{:?} is the name of the entities' own scores", watch.name);
                return wrong("name", message);
            }
            if !names.insert(&watch.name) {
                return wrong("name", format!("{:?} is there twice", watch.name));
            }
            if let Err(error) = promql::check(&watch.expr) {
                return wrong("expr", error.to_string());
            }
            if !(watch.min_change.is_finite() && watch.min_change >= 0.0) {
                return wrong("min_change", "is less than nothing, or no number".to_owned());
            }
        }
        Ok(())
    }
}
