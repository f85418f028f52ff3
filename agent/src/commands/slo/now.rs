//! What is left of each budget now.

use super::super::query;
use super::super::say;
use super::{of, of_several, percent, shown};
use crate::config::Config;
use crate::error::{Context as _, Error, Result};
use crate::ui::print::{Reply, Row, table};
use agent_slo::indicator::{EVENTS, TIME};
use agent_slo::rules::{ALERT, PREFIX};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// The part of a window that must be known before its budget is called exhausted.
const ENOUGH: f64 = 0.25;

/// A series of an objective.
#[derive(Debug, Default)]
struct Entity {
    of: Vec<(String, String)>,
    sli: Option<f64>,
    left: Option<f64>,
    coverage: Option<f64>,
    /// Its objective is judged by time.
    of_time: bool,
    /// By window.
    burns: BTreeMap<String, f64>,
    /// Factors of the alerts that fire.
    firing: BTreeSet<String>,
}

/// An objective, and its series.
#[derive(Debug, Default)]
pub(super) struct Objective {
    pub name: String,
    /// The share that must be good.
    pub objective: f64,
    pub window: String,
    /// It is judged by time: how much there will be of it is known.
    pub of_time: bool,
    entities: BTreeMap<Vec<(String, String)>, Entity>,
}

fn label<'a>(row: &'a Row, name: &str) -> &'a str {
    row.metric.get(name).map_or("", String::as_str)
}

fn number(row: &Row) -> Option<f64> {
    row.value.as_ref().and_then(|(_, text)| text.parse().ok())
}

/// The objectives of the running agent.
pub(super) async fn objectives(config: &Config) -> Result<Vec<Objective>> {
    let series = "objective_ratio|sli_ratio|burn_rate|budget_remaining_ratio|coverage_ratio";
    let asked = format!(
        "{{__name__=~\"{PREFIX}({series})\"}} or ALERTS{{alertname=\"{ALERT}\",alertstate=\"firing\"}}"
    );
    let reply = Reply::read(query::now(config, &asked).await?.as_bytes())?;
    let found = read(reply.rows());
    if found.is_empty() {
        return Err(Error::new(
            "the agent has no objectives yet: give it slos or slo_files, and a store; the first numbers come within half a minute",
        ));
    }
    Ok(found)
}

fn read(rows: &[Row]) -> Vec<Objective> {
    let mut all: BTreeMap<String, Objective> = BTreeMap::new();
    let metric = |row: &Row| label(row, "__name__").strip_prefix(PREFIX).map(str::to_owned);
    for row in rows
        .iter()
        .filter(|row| metric(row).as_deref() == Some("objective_ratio"))
    {
        all.insert(
            label(row, "slo").to_owned(),
            Objective {
                name: label(row, "slo").to_owned(),
                objective: number(row).unwrap_or(f64::NAN),
                window: label(row, "window").to_owned(),
                of_time: label(row, "indicator") == TIME,
                entities: BTreeMap::new(),
            },
        );
    }
    for row in rows {
        let (Some(metric), Some(objective)) = (metric(row), all.get_mut(label(row, "slo"))) else {
            continue;
        };
        if metric == "objective_ratio" {
            continue;
        }
        let (key, window) = (of(row), label(row, "window"));
        let whole = window == objective.window;
        let entity = objective.entities.entry(key.clone()).or_default();
        (entity.of, entity.of_time) = (key, objective.of_time);
        let value = number(row).filter(|value| value.is_finite());
        match (metric.as_str(), value) {
            ("sli_ratio", value) if whole => entity.sli = value,
            ("budget_remaining_ratio", value) => entity.left = value,
            ("coverage_ratio", value) => entity.coverage = value,
            ("burn_rate", Some(value)) => {
                entity.burns.insert(window.to_owned(), value);
            }
            _ => {}
        }
    }
    for row in rows.iter().filter(|row| label(row, "__name__") == "ALERTS") {
        let Some(objective) = all.get_mut(label(row, "slo")) else {
            continue;
        };
        for entity in objective.entities.values_mut() {
            // The alert has labels of its own besides.
            if entity.of.iter().all(|(name, value)| label(row, name) == value) {
                entity.firing.insert(label(row, "factor").to_owned());
            }
        }
    }
    all.into_values().collect()
}

impl Entity {
    fn state(&self) -> String {
        let mut words = Vec::new();
        if self.left.is_some_and(|left| left <= 0.0) {
            // The budget of events is that of what was seen: one bad minute may be all of it.
            let known = self.of_time || self.coverage.is_some_and(|share| share >= ENOUGH);
            words.push(
                if known {
                    "exhausted"
                } else {
                    "burning, too little known"
                }
                .to_owned(),
            );
        }
        let factors = self.firing.iter().filter_map(|factor| factor.parse::<f64>().ok());
        if let Some(factor) = factors.reduce(f64::max) {
            words.push(format!("burns more than {factor} times too fast"));
        }
        match (words.is_empty(), self.sli, self.burns.is_empty()) {
            (false, ..) => words.join(", "),
            (true, Some(_), _) => "ok".to_owned(),
            // The long window is looked at more rarely.
            (true, None, false) => "learning".to_owned(),
            (true, None, true) if self.coverage.is_some_and(|share| share > 0.0) => {
                "nothing happened".to_owned()
            }
            (true, None, true) => "no data".to_owned(),
        }
    }

    fn row(&self, objective: &Objective, several: bool) -> Vec<String> {
        let text = |value: Option<f64>, write: fn(f64) -> String| value.map_or_else(|| "-".to_owned(), write);
        let burn = |window: &str| text(self.burns.get(window).copied(), |burn| format!("{burn:.1}"));
        vec![
            objective.name.clone(),
            shown(&self.of, several),
            percent(objective.objective),
            objective.window.clone(),
            text(self.sli, percent),
            text(self.left, |left| format!("{:.1} %", left * 100.0)),
            burn("5m"),
            burn("1h"),
            text(self.coverage, |share| format!("{:.1} %", share * 100.0)),
            self.state(),
        ]
    }

    fn json(&self, objective: &Objective) -> Value {
        let of: BTreeMap<&str, &str> = self.of.iter().map(|(name, value)| (&**name, &**value)).collect();
        json!({
            "slo": objective.name, "of": of, "objective": objective.objective, "window": objective.window,
            "indicator": if self.of_time { TIME } else { EVENTS },
            "sli": self.sli, "budget_remaining": self.left, "coverage": self.coverage, "burn_rate": self.burns,
            "firing": self.firing, "state": self.state(),
        })
    }
}

/// Shows them.
pub(super) async fn now(config: &Config, as_json: bool) -> Result<()> {
    let found = objectives(config).await?;
    let all = || {
        found
            .iter()
            .flat_map(|one| one.entities.values().map(move |entity| (one, entity)))
    };
    if as_json {
        let all: Vec<Value> = all().map(|(one, entity)| entity.json(one)).collect();
        return say(&serde_json::to_string_pretty(&all).context("JSON")?);
    }
    let several = of_several(all().map(|(_, entity)| &*entity.of));
    let mut rows: Vec<Vec<String>> = all().map(|(one, entity)| entity.row(one, several)).collect();
    for one in found.iter().filter(|one| one.entities.is_empty()) {
        let mut row = vec!["-".to_owned(); 10];
        row.splice(
            ..4,
            [
                one.name.clone(),
                String::new(),
                percent(one.objective),
                one.window.clone(),
            ],
        );
        row.splice(9.., ["no data".to_owned()]);
        rows.push(row);
    }
    let heads = [
        "SLO",
        "OF",
        ">OBJECTIVE",
        "WINDOW",
        ">SLI",
        ">BUDGET LEFT",
        ">BURN 5M",
        ">1H",
        ">KNOWN",
        "STATE",
    ];
    say(table(&heads, &rows).trim_end())?;
    if all().any(|(_, entity)| entity.coverage.is_some_and(|share| share < 0.995)) {
        say(
            "\nKNOWN is the part of the window that was seen; what was not is in none of the numbers, but for the budgets of values, which are of the whole window",
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, labels: &[(&str, &str)], value: f64) -> Row {
        let pairs = [("__name__", name), ("slo", "web")];
        let metric: BTreeMap<&str, &str> = pairs.iter().chain(labels).copied().collect();
        serde_json::from_value(json!({"metric": metric, "value": [0.0, value.to_string()]})).unwrap()
    }

    #[test]
    fn each_series_of_an_objective_has_its_state() {
        let of = |peer: &'static str, window: &'static str| [("peer", peer), ("window", window)];
        let rows = [
            row("geophone_slo_objective_ratio", &[("window", "30d")], 0.999),
            row("geophone_slo_sli_ratio", &of("a", "30d"), 0.9995),
            row("geophone_slo_sli_ratio", &of("a", "5m"), 0.98),
            row("geophone_slo_burn_rate", &of("a", "5m"), 20.0),
            row("geophone_slo_burn_rate", &of("a", "1h"), 15.0),
            row("geophone_slo_budget_remaining_ratio", &[("peer", "a")], 0.5),
            row("geophone_slo_coverage_ratio", &[("peer", "a")], 0.25),
            row(
                "ALERTS",
                &[
                    ("peer", "a"),
                    ("window", "1h"),
                    ("factor", "14.4"),
                    ("severity", "critical"),
                ],
                1.0,
            ),
            row("geophone_slo_burn_rate", &of("b", "5m"), 0.0),
            row("geophone_slo_sli_ratio", &of("c", "30d"), 0.99),
            row("geophone_slo_budget_remaining_ratio", &[("peer", "c")], -9.0),
            row("geophone_slo_coverage_ratio", &[("peer", "c")], 0.25),
            row("geophone_slo_budget_remaining_ratio", &[("peer", "d")], -9.0),
            row("geophone_slo_coverage_ratio", &[("peer", "d")], 0.2),
        ];
        let found = read(&rows);
        assert_eq!(found.len(), 1);
        let rows: Vec<Vec<String>> = found[0]
            .entities
            .values()
            .map(|one| one.row(&found[0], false))
            .collect();
        let wanted = [
            [
                "web",
                "peer=a",
                "99.9 %",
                "30d",
                "99.95 %",
                "50.0 %",
                "20.0",
                "15.0",
                "25.0 %",
                "burns more than 14.4 times too fast",
            ],
            [
                "web", "peer=b", "99.9 %", "30d", "-", "-", "0.0", "-", "-", "learning",
            ],
            [
                "web",
                "peer=c",
                "99.9 %",
                "30d",
                "99 %",
                "-900.0 %",
                "-",
                "-",
                "25.0 %",
                "exhausted",
            ],
            [
                "web",
                "peer=d",
                "99.9 %",
                "30d",
                "-",
                "-900.0 %",
                "-",
                "-",
                "20.0 %",
                "burning, too little known",
            ],
        ];
        assert_eq!(rows, wanted);
    }

    /// Cause: little is known of the window, and the budget is used up: of events, and of time, of which it is known how much there
    /// will be. Seen: only the second is exhausted for good.
    #[test]
    fn a_budget_of_time_that_is_used_up_stays_so() {
        for (indicator, state) in [("events", "burning, too little known"), ("time", "exhausted")] {
            let rows = [
                row(
                    "geophone_slo_objective_ratio",
                    &[("window", "30d"), ("indicator", indicator)],
                    0.999,
                ),
                row("geophone_slo_budget_remaining_ratio", &[], -1.8),
                row("geophone_slo_coverage_ratio", &[], 0.03),
            ];
            let found = read(&rows);
            let states: Vec<String> = found[0].entities.values().map(Entity::state).collect();
            assert_eq!(states, [state]);
        }
    }
}
