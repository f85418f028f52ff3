//! `geophone health`: scores, and what costs them points.

use super::query::now;
use super::say;
use crate::cli;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::ui::print::{Reply, Row, table};
use agent_score::health::cause::{self, Role, Topology};
use agent_score::health::{FACTORS, Factor, NODE_FULLNESS, SUBJECT_FULLNESS, fleet_rules};
use serde_json::{Value, json};
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

/// Entities that a sentence names.
const MOST_NAMES: usize = 5;

/// Everything that the rules come to, the fullest resource of a node, who talks to whom, where the peers are, and who lacks
/// something. `or` takes two of the same labels for one, whatever their names.
fn query() -> String {
    let named = |query: &str, name: &str| format!("label_replace({query}, \"as\", \"{name}\", \"\", \"\")");
    [
        "{__name__=~\"geophone_health_.+\"}".to_owned(),
        named(&format!("topk(1, {NODE_FULLNESS})"), "fullest"),
        named(&format!("topk by (subject) (1, {SUBJECT_FULLNESS})"), "lacks"),
        named(cause::TALKS, "talks"),
        named(cause::LIES, "lies"),
        named(cause::LACKS, "short"),
    ]
    .join(" or ")
}

fn label<'a>(row: &'a Row, name: &str) -> &'a str {
    row.metric.get(name).map_or("", String::as_str)
}

fn number(row: &Row) -> f64 {
    let value = row.value.as_ref();
    value.and_then(|(_, text)| text.parse().ok()).unwrap_or(f64::NAN)
}

/// What is known of one subject, peer, zone, region or node.
#[derive(Debug, Default)]
struct Entity {
    kind: String,
    name: String,
    score: f64,
    confidence: f64,
    state: f64,
    /// Factors that are lost altogether for minutes: it is critical whatever its score is.
    failed: Vec<String>,
    trend: Option<f64>,
    /// By factor: what it is, and what was measured.
    factors: BTreeMap<String, (f64, Option<f64>)>,
    baseline: Option<f64>,
    /// Peers that are not healthy, if it is a subject.
    depends_on: Vec<String>,
    /// Of what is not healthy.
    role: Option<Role>,
    /// What is fullest, if it is the node, or what a subject lacks most.
    fullest: Option<(String, f64)>,
}

/// Shows it.
pub async fn health(config: &Config, options: &cli::Health) -> Result<()> {
    if options.rules {
        return say(fleet_rules(&config.health.weights()).trim_end());
    }
    let reply = Reply::read(now(config, &query()).await?.as_bytes())?;
    let mut found = read(reply.rows());
    if found.is_empty() {
        return Err(Error::new(
            "no scores yet: they come half a minute after the agent's start, with health.enabled and a store",
        ));
    }
    if let Some(name) = &options.name {
        let named = |entity: &Entity| entity.name == *name || entity.kind == *name;
        found.retain(|entity| named(entity) || format!("{}/{}", entity.kind, entity.name) == *name);
        if found.is_empty() {
            return Err(Error::new(format_args!(
                "{name}: no score; `geophone health` shows who has one"
            )));
        }
    }
    if options.json {
        let all: Vec<Value> = found.iter().map(|entity| entity.json(config)).collect();
        return say(&json!(all).to_string());
    }
    if options.name.is_some() {
        let texts: Vec<String> = found.iter().map(|entity| entity.explain(config)).collect();
        return say(texts.join("\n").trim_end());
    }
    let rows: Vec<Vec<String>> = found.iter().map(|entity| entity.row(config)).collect();
    let heads = [
        "ENTITY",
        "NAME",
        ">SCORE",
        "STATE",
        ">AN HOUR",
        ">CONFIDENCE",
        "WHY",
    ];
    say(table(&heads, &rows).trim_end())
}

fn read(rows: &[Row]) -> Vec<Entity> {
    let mut found: BTreeMap<(String, String), Entity> = BTreeMap::new();
    for row in rows {
        let (kind, name) = (label(row, "entity"), label(row, "name"));
        let metric = label(row, "__name__")
            .strip_prefix("geophone_health_")
            .unwrap_or_default();
        if kind.is_empty() {
            continue;
        }
        let entity = found.entry((kind.to_owned(), name.to_owned())).or_default();
        (entity.kind, entity.name) = (kind.to_owned(), name.to_owned());
        let value = number(row);
        let factor = label(row, "factor").to_owned();
        match metric {
            "score" => entity.score = value,
            "confidence" => entity.confidence = value,
            "state" => entity.state = value,
            "trend" => entity.trend = Some(value),
            "baseline" => entity.baseline = Some(value),
            "factor" => entity.factors.entry(factor).or_default().0 = value,
            "failed" => entity.failed.push(factor),
            // A signal alone, such as a latency without a baseline, is no factor yet.
            _ => {}
        }
    }
    for row in rows {
        let key = (label(row, "entity").to_owned(), label(row, "name").to_owned());
        match label(row, "__name__") {
            "geophone_health_signal" => {
                let entity = found.get_mut(&key);
                if let Some(factor) = entity.and_then(|entity| entity.factors.get_mut(label(row, "factor"))) {
                    factor.1 = Some(number(row));
                }
            }
            "geophone_health_depends_on" => {
                let key = ("subject".to_owned(), label(row, "subject").to_owned());
                if let Some(entity) = found.get_mut(&key) {
                    entity.depends_on.push(label(row, "peer").to_owned());
                }
            }
            _ if label(row, "as") == "fullest" => {
                let nodes = found.values_mut().filter(|entity| entity.kind == "node");
                nodes.for_each(|entity| entity.fullest = Some((fullest(row), number(row))));
            }
            _ if label(row, "as") == "lacks" => {
                let key = ("subject".to_owned(), label(row, "subject").to_owned());
                if let Some(entity) = found.get_mut(&key) {
                    entity.fullest = Some((lacks(row), number(row)));
                }
            }
            _ => {}
        }
    }
    let ill = found
        .iter()
        .filter(|(_, entity)| entity.state >= 1.0)
        .map(|(key, _)| key.clone());
    let ill: BTreeSet<cause::Entity> = ill.collect();
    let node = found.keys().find(|(kind, _)| kind == "node");
    let node = node.map(|(_, name)| name.clone()).unwrap_or_default();
    for (key, role) in cause::roles(&ill, &topology(rows), &node) {
        if let Some(entity) = found.get_mut(&key) {
            entity.role = Some(role);
        }
    }
    // Who has no factor has no score.
    let mut found: Vec<Entity> = found
        .into_values()
        .filter(|entity| !entity.factors.is_empty())
        .collect();
    found.sort_by(|a, b| a.score.partial_cmp(&b.score).unwrap_or(Ordering::Equal));
    found
}

/// What a subject lacks.
fn lacks(row: &Row) -> String {
    let (resource, value) = (label(row, "resource"), number(row));
    match label(row, "kind") {
        "" => format!("{} % of its limit of {resource} is used", percent(value)),
        _ => format!("all its tasks wait for {resource} {}", waited(value)),
    }
}

/// What of the node is fullest: of what can run out, of the links, of what is waited for.
fn fullest(row: &Row) -> String {
    let (resource, device, value) = (label(row, "resource"), label(row, "device"), number(row));
    match (label(row, "direction"), label(row, "kind")) {
        ("", "") => format!(
            "{} is at {} %",
            format!("{resource} {device}").trim_end(),
            percent(value)
        ),
        ("", "some") => format!("tasks wait for {resource} {} % of the time", percent(value)),
        ("", _) => format!(
            "all tasks wait for {resource} {}, which counts five times",
            waited(value)
        ),
        (direction, _) => format!("{device} {direction}s at {} % of its speed", percent(value)),
    }
}

/// Part of the time that counts five times.
fn waited(value: f64) -> String {
    let more = if value >= 1.0 { " or more" } else { "" };
    format!("{}{more} % of the time", percent(value / 5.0))
}

/// Who talks to whom, and where.
fn topology(rows: &[Row]) -> Topology {
    let mut topology = Topology::default();
    for row in rows {
        match label(row, "as") {
            "talks" => topology.talks(label(row, "subject"), label(row, "peer")),
            "lies" => topology.lies(
                label(row, "peer"),
                label(row, "peer_zone"),
                label(row, "peer_region"),
            ),
            "short" => topology.lacks(label(row, "entity"), label(row, "name")),
            _ => {}
        }
    }
    topology
}

/// Who they are, a few of them.
fn names(all: &[cause::Entity]) -> String {
    let named: Vec<String> = all
        .iter()
        .take(MOST_NAMES)
        .map(|(kind, name)| format!("{kind} {name}"))
        .collect();
    match all.len().saturating_sub(MOST_NAMES) {
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}

impl Entity {
    fn state(&self) -> &'static str {
        match self.state {
            2.0 => "critical",
            1.0 => "degraded",
            _ => "healthy",
        }
    }

    /// Points that each factor costs, the dearest first, and those that are not known.
    fn losses(&self, config: &Config) -> (Vec<(&'static Factor, f64)>, Vec<&'static str>) {
        let weights = config.health.weights();
        let counted = || FACTORS.iter().filter(|factor| weights.of(factor) > 0);
        let known = |factor: &Factor| self.factors.get(factor.name).map(|(value, _)| *value);
        let all: f64 = counted()
            .filter(|factor| known(factor).is_some())
            .map(|factor| f64::from(weights.of(factor)))
            .sum();
        let mut losses: Vec<(&Factor, f64)> = counted()
            .filter_map(|factor| {
                Some((
                    factor,
                    (1.0 - known(factor)?) * 100.0 * f64::from(weights.of(factor)) / all,
                ))
            })
            .filter(|(_, lost)| *lost >= 0.05)
            .collect();
        losses.sort_by(|a, b| b.1.total_cmp(&a.1));
        // Who has no tunnel lacks nothing.
        let unknown = counted().filter(|factor| known(factor).is_none() && factor.name != "availability");
        (losses, unknown.map(|factor| factor.name).collect())
    }

    /// Why a factor costs points, in numbers.
    fn reason(&self, factor: &Factor) -> String {
        let signal = self
            .factors
            .get(factor.name)
            .and_then(|(_, signal)| *signal)
            .unwrap_or(f64::NAN);
        let range = format!(
            "good up to {} %, worst from {} %",
            percent(factor.good),
            percent(factor.bad)
        );
        match (factor.name, self.kind.as_str()) {
            ("latency", _) => {
                let usual = self.baseline.unwrap_or(f64::NAN) * 1e3;
                let (good, bad) = (usual * factor.good + 1.0, usual * factor.bad + 10.0);
                format!(
                    "latency: median round-trip time {:.3} ms, usual {usual:.3} ms (good up to {good:.3} ms, worst from {bad:.3} ms)",
                    signal * 1e3
                )
            }
            ("loss", _) => format!(
                "loss: {} % of the segments are sent again ({range})",
                percent(signal)
            ),
            ("errors", _) => format!("errors: {} % of the connections fail ({range})", percent(signal)),
            ("saturation", "node") => {
                // As it is now; the signal is of the latest evaluation.
                let fullest = self
                    .fullest
                    .as_ref()
                    .map_or_else(String::new, |(what, _)| format!("; fullest: {what}"));
                format!("saturation: {} % ({range}){fullest}", percent(signal))
            }
            ("saturation", "subject")
                if self
                    .fullest
                    .as_ref()
                    .is_some_and(|(_, full)| *full >= 0.99 * signal) =>
            {
                let what = self.fullest.as_ref().map_or("", |(what, _)| what.as_str());
                format!("saturation: {what}")
            }
            ("saturation", "subject") => format!(
                "saturation: {} % {}of the connection requests are refused, its queue is full",
                percent(signal / 10.0),
                if signal >= 1.0 { "or more " } else { "" }
            ),
            ("saturation", _) => format!(
                "saturation: its receive windows are closed {signal:.2} times a second and connection"
            ),
            _ => format!("availability: {} % of its tunnels are not up", percent(signal)),
        }
    }

    fn row(&self, config: &Config) -> Vec<String> {
        let (losses, _) = self.losses(config);
        vec![
            self.kind.clone(),
            self.name.clone(),
            format!("{:.0}", self.score),
            self.state().to_owned(),
            self.trend
                .map_or_else(|| "-".to_owned(), |trend| format!("{trend:+.0}")),
            format!("{:.0} %", self.confidence * 100.0),
            losses
                .first()
                .map_or_else(String::new, |(factor, _)| self.reason(factor)),
        ]
    }

    fn explain(&self, config: &Config) -> String {
        let (losses, unknown) = self.losses(config);
        let mut out = format!(
            "{} {}: {:.1} of 100, {}, confidence {:.0} %\n",
            self.kind,
            self.name,
            self.score,
            self.state(),
            self.confidence * 100.0
        );
        for (factor, lost) in &losses {
            out += &format!("  -{lost:.1}  {}\n", self.reason(factor));
        }
        if !self.failed.is_empty() {
            out += &format!(
                "  critical whatever the score is: {} at its worst for minutes\n",
                self.failed.join(", ")
            );
        }
        if !unknown.is_empty() {
            out += &format!(
                "  not known, which costs confidence only: {}\n",
                unknown.join(", ")
            );
        }
        if let Some(trend) = self.trend.filter(|trend| trend.abs() >= 0.5) {
            out += &format!("  trend of the last hour: {trend:+.1} points an hour\n");
        }
        if !self.depends_on.is_empty() {
            out += &format!(
                "  talks to what is not healthy: peer {}\n",
                self.depends_on.join(", ")
            );
        }
        match &self.role {
            None => {}
            Some(Role::Cause(others)) if others.is_empty() => {
                out += "  cause: nothing that it depends on explains it\n";
            }
            Some(Role::Cause(others)) => {
                out += &format!("  cause: it explains {}\n", names(others));
            }
            Some(Role::Symptom(causes)) => {
                out += &format!("  symptom: look at {} first\n", names(causes));
            }
            Some(Role::Unclear(others)) => {
                out += &format!(
                    "  cause or symptom: not to be told apart from {}\n",
                    names(others)
                );
            }
        }
        out
    }

    fn json(&self, config: &Config) -> Value {
        let (losses, unknown) = self.losses(config);
        let lost: Vec<Value> = losses
            .iter()
            .map(|(factor, points)| json!({"factor": factor.name, "points": points, "why": self.reason(factor)}))
            .collect();
        let role = self.role.as_ref().map(Role::name);
        let with = self.role.as_ref().map(|role| match role {
            Role::Cause(others) | Role::Symptom(others) | Role::Unclear(others) => others,
        });
        let with: Vec<Value> = with
            .into_iter()
            .flatten()
            .map(|(kind, name)| json!({"entity": kind, "name": name}))
            .collect();
        json!({
            "entity": self.kind, "name": self.name, "score": self.score, "state": self.state(),
            "confidence": self.confidence, "trend": self.trend, "lost": lost, "unknown": unknown, "failed": self.failed,
            "depends_on": self.depends_on, "role": role, "with": with,
        })
    }
}

/// A share in percent, with as many digits as mean something.
fn percent(share: f64) -> String {
    let percent = share * 100.0;
    let text = if percent < 10.0 {
        format!("{percent:.2}")
    } else {
        format!("{percent:.1}")
    };
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
#[path = "health_tests.rs"]
mod tests;
