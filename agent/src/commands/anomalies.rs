//! `geophone anomalies`: what is not as it usually is, and why.

use super::alerts::agent;
use super::say;
use super::store::moment;
use crate::config::Config;
use crate::error::{Context as _, Result};
use crate::ui::print::table;
use agent_score::watch::{Anomaly, Definition, NO_STACKS, Unit};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

/// Anomalies that the table has, and those of them that are explained.
const SHOWN: usize = 20;
const EXPLAINED: usize = 5;

/// What the API answers.
#[derive(Debug, Deserialize)]
struct Answer {
    time: f64,
    judged: usize,
    learning: usize,
    refused: usize,
    failed: BTreeMap<String, String>,
    anomalies: Vec<Anomaly>,
    #[serde(default)]
    series: Vec<Series>,
}

/// A watched series.
#[derive(Debug, Deserialize)]
struct Series {
    watch: String,
    labels: BTreeMap<String, String>,
    unit: Unit,
    value: Option<f64>,
    learned: f64,
    score: Option<f64>,
    lower: Option<f64>,
    upper: Option<f64>,
    anomaly: Option<u64>,
}

/// Shows it.
pub async fn anomalies(config: &Config, all: bool, watches: bool, as_json: bool) -> Result<()> {
    if watches {
        let texts: Vec<String> = config.anomaly.definitions().iter().map(yaml).collect();
        return say(texts.concat().trim_end());
    }
    let path = format!("/api/v1/anomalies?all={all}");
    let answer: Value = agent(config).await?.json(&path).await?;
    if as_json {
        return say(&serde_json::to_string_pretty(&answer).context("JSON")?);
    }
    say(&told(answer)?)
}

/// An answer of the API, or of a replay, for people.
pub(super) fn told(answer: Value) -> Result<String> {
    let answer = read(answer)?;
    let mut out = answer.summary();
    if !answer.series.is_empty() {
        let _ = write!(out, "\n\n{}", answer.every());
    }
    if !answer.anomalies.is_empty() {
        let _ = write!(out, "\n\n{}", answer.table());
        let _ = write!(out, "\n\n{}", answer.explained());
    }
    Ok(out.trim_end().to_owned())
}

fn read(answer: Value) -> Result<Answer> {
    serde_json::from_value(answer).context("the answer of the agent")
}

/// A watch as the configuration has it.
fn yaml(watch: &Definition) -> String {
    format!(
        "- name: {}\n  expr: |-\n    {}\n  unit: {}\n  min_change: {}\n  zero: {}\n",
        watch.name,
        watch.expr,
        watch.unit.name(),
        watch.least,
        watch.zero
    )
}

fn lasting(seconds: f64) -> String {
    humantime::format_duration(Duration::from_secs(seconds.max(0.0).round() as u64)).to_string()
}

fn pairs(labels: &BTreeMap<String, String>) -> String {
    let pairs: Vec<String> = labels
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    pairs.join(" ")
}

impl Answer {
    fn summary(&self) -> String {
        let active = self.anomalies.iter().filter(|a| a.until.is_none()).count();
        if self.time == 0.0 {
            return "no series has been looked at yet".to_owned();
        }
        let mut out = format!(
            "{active} of {} series {} not as usual; {} more are being learned",
            self.judged,
            if active == 1 { "is" } else { "are" },
            self.learning
        );
        if self.refused > 0 {
            let _ = write!(out, ", {} find no room (anomaly.series)", self.refused);
        }
        for (watch, why) in &self.failed {
            let _ = write!(out, "\nwatch {watch} fails: {why}");
        }
        out
    }

    fn table(&self) -> String {
        let shown = self.anomalies.iter().take(SHOWN);
        let rows: Vec<Vec<String>> = shown
            .map(|anomaly| {
                vec![
                    if anomaly.until.is_some() { "over" } else { "active" }.to_owned(),
                    moment((anomaly.since * 1e3) as i64),
                    lasting(anomaly.until.unwrap_or(self.time) - anomaly.since),
                    anomaly.watch.clone(),
                    pairs(&anomaly.labels),
                    anomaly.direction.name().to_owned(),
                    anomaly.unit.show(anomaly.value),
                    anomaly.usual(),
                    format!("{:.2}", anomaly.score),
                ]
            })
            .collect();
        let heads = [
            "STATE", "SINCE", ">FOR", "WATCH", "SERIES", "CHANGE", ">VALUE", "USUAL", ">SCORE",
        ];
        let mut out = table(&heads, &rows).trim_end().to_owned();
        if self.anomalies.len() > SHOWN {
            let _ = write!(out, "\nand {} before these: --json", self.anomalies.len() - SHOWN);
        }
        out
    }

    /// A sentence of each that is active, or of the latest, and what else had changed.
    fn explained(&self) -> String {
        let active = self.anomalies.iter().filter(|a| a.until.is_none());
        let over = self.anomalies.iter().filter(|a| a.until.is_some());
        let mut out = String::new();
        for anomaly in active.chain(over).take(EXPLAINED) {
            let _ = writeln!(out, "{}", explain(anomaly, self.time));
        }
        out
    }

    fn every(&self) -> String {
        let mut series: Vec<&Series> = self.series.iter().collect();
        series.sort_by(|a, b| (&a.watch, &a.labels).cmp(&(&b.watch, &b.labels)));
        let show = |unit: Unit, value: Option<f64>| value.map_or_else(|| "-".to_owned(), |v| unit.show(v));
        let rows: Vec<Vec<String>> = series
            .into_iter()
            .map(|one| {
                let state = match (one.anomaly, one.score) {
                    (Some(_), _) => "anomaly".to_owned(),
                    (None, Some(_)) => "normal".to_owned(),
                    (None, None) => format!("learning {:.0} %", one.learned * 100.0),
                };
                vec![
                    one.watch.clone(),
                    pairs(&one.labels),
                    state,
                    show(one.unit, one.value),
                    show(one.unit, one.lower),
                    show(one.unit, one.upper),
                    one.score.map_or_else(|| "-".to_owned(), |s| format!("{s:.2}")),
                ]
            })
            .collect();
        let heads = ["WATCH", "SERIES", "STATE", ">VALUE", ">LOWER", ">UPPER", ">SCORE"];
        table(&heads, &rows).trim_end().to_owned()
    }
}

fn explain(anomaly: &Anomaly, now: f64) -> String {
    let mut out = format!("{anomaly}, ");
    let _ = match anomaly.until {
        None => write!(out, "for {}", lasting(now - anomaly.since)),
        Some(until) => write!(out, "for {}; {}", lasting(until - anomaly.since), anomaly.over),
    };
    for evidence in &anomaly.evidence {
        let _ = write!(out, "\n  {evidence}");
    }
    if let Some(more) = anomaly.left_out() {
        let _ = write!(out, "\n  {more}");
    }
    let missing = anomaly.evidence_missing.as_str();
    if !matches!(missing, "" | NO_STACKS) {
        let _ = write!(out, "\n  what else changed is not known: {missing}");
    } else if anomaly.evidence.is_empty() {
        out.push_str("\n  nothing else that is known had changed much");
    }
    if missing == NO_STACKS {
        let _ = write!(out, "\n  {missing}");
    }
    if !anomaly.profile.is_empty() {
        let _ = write!(
            out,
            "\n  what the CPU did: geophone diff {}",
            anomaly.profile.join(" ")
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_anomaly_is_explained() {
        let answer = read(json!({
            "time": 1_769_860_830.0, "interval": 10.0, "judged": 40, "learning": 2, "refused": 1, "failed": {},
            "anomalies": [{
                "id": 3, "watch": "tcp_retransmit_ratio", "unit": "ratio", "labels": {"peer": "db"},
                "since": 1_769_860_800.0, "until": null, "over": "", "direction": "up",
                "detectors": ["robust"], "score": 0.9, "value": 0.12, "expected": 0.0, "lower": 0.0, "upper": 0.01,
                "evidence": [{
                    "what": "drops", "unit": "1/s", "labels": {"reason": "NETFILTER_DROP"}, "before": null, "now": 12.0
                }],
                "evidence_left_out": 2, "evidence_missing": "", "profile": ["1..2", "2..3"],
            }],
        }))
        .unwrap();
        assert_eq!(
            answer.summary(),
            "1 of 40 series is not as usual; 2 more are being learned, 1 find no room (anomaly.series)"
        );
        assert_eq!(
            answer.explained().lines().collect::<Vec<_>>(),
            [
                "tcp_retransmit_ratio of peer=db is 12 % where 0 % to 1 % is usual (robust, score 0.90), for 30s",
                "  drops reason=NETFILTER_DROP: 12/s, before none",
                "  and 2 more that changed less, or share nothing with it",
                "  what the CPU did: geophone diff 1..2 2..3",
            ]
        );
        let mut without = answer.anomalies[0].clone();
        without.profile.clear();
        NO_STACKS.clone_into(&mut without.evidence_missing);
        let told = explain(&without, answer.time);
        assert_eq!(
            told.lines().nth(3),
            Some(
                "  what the CPUs did: no stacks are taken; set probes.profile.enabled: true, with hz above 0"
            )
        );
        let line = answer.table().lines().nth(1).unwrap().to_owned();
        assert!(
            line.starts_with("active  2026-01-31T12:00:00Z  30s  tcp_retransmit_ratio  peer=db"),
            "{line}"
        );
    }

    /// What is printed can be put into a configuration.
    #[test]
    fn watches_are_printed_as_settings() {
        let shipped = Config::default().anomaly.definitions();
        let texts: String = shipped.iter().map(yaml).collect();
        let indented = texts.replace('\n', "\n    ");
        let text = format!("anomaly:\n  defaults: false\n  watch:\n    {indented}");
        let config = Config::parse("f", &text).unwrap();
        assert_eq!(config.anomaly.definitions(), shipped);
    }
}
