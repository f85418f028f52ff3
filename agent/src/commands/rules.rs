//! `geophone rules`: what is wrong with rule files, what is in them, and what would have fired.

use super::query::time;
use super::store::moment;
use super::{say, terminal_width};
use crate::alert::files;
use crate::cli::{self, RulesCommand, RulesTest};
use crate::config::Config;
use crate::error::{Context as _, Error, Result};
use crate::memory::{self, Memory};
use crate::ui::print::table;
use agent_rules::alert::ALERTS;
use agent_rules::file::{self, GroupFile};
use agent_rules::{Environment, Episode, Past, Settings, past};
use agent_store::labels::{Labels, NAME};
use agent_store::promql::Options;
use agent_store::series::{Bounds, Millis};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Does what was asked.
pub fn rules(config: &Config, options: &cli::Rules) -> Result<()> {
    match &options.command {
        RulesCommand::Check { files } => check(files),
        RulesCommand::List { files, json } => list(&groups(files)?, *json),
        RulesCommand::Print { files } => print(&groups(files)?),
        RulesCommand::Test(options) => test(config, options),
    }
}

pub(super) fn tell(line: &str) {
    // Nobody may be left to read it.
    let _ = writeln!(std::io::stderr(), "geophone: {line}");
}

fn check(paths: &[PathBuf]) -> Result<()> {
    let mut wrong = 0;
    let mut all = Vec::new();
    let files = files::find(paths)?;
    for file in &files {
        match agent_rules::load(file) {
            Ok(mut groups) => {
                let rules: usize = groups.iter().map(|group| group.rules.len()).sum();
                say(&format!(
                    "{}: {} groups, {rules} rules: valid",
                    file.display(),
                    groups.len()
                ))?;
                all.append(&mut groups);
            }
            Err(faults) => {
                wrong += 1;
                faults.iter().for_each(|fault| tell(&fault.to_string()));
            }
        }
    }
    for remark in file::remarks(&all) {
        tell(&remark.to_string());
    }
    match wrong {
        0 => Ok(()),
        wrong => Err(Error::new(format_args!(
            "{wrong} of {} rule files cannot be used; the lines before say why",
            files.len()
        ))),
    }
}

/// The groups of all files, or the first error: what is left out would not be missed.
pub(super) fn groups(paths: &[PathBuf]) -> Result<Vec<GroupFile>> {
    let mut all = Vec::new();
    for file in files::find(paths)? {
        all.extend(agent_rules::load(&file).map_err(|faults| files::first(&faults))?);
    }
    Ok(all)
}

fn print(groups: &[GroupFile]) -> Result<()> {
    let mut names = BTreeSet::new();
    if let Some(group) = groups.iter().find(|group| !names.insert(&group.name)) {
        return Err(Error::new(format_args!(
            "{}: group {:?} is in another of the files as well, and one file cannot have both: print them one by one",
            group.file, group.name
        )));
    }
    say(file::yaml(groups).trim_end())
}

fn list(groups: &[GroupFile], as_json: bool) -> Result<()> {
    let rules = groups
        .iter()
        .flat_map(|group| group.rules.iter().map(move |rule| (group, rule)));
    let duration = |ms: Millis| Duration::from_millis(ms.unsigned_abs());
    if as_json {
        let all: Vec<Value> = rules
            .map(|(group, rule)| {
                let alert = rule.alert.as_ref();
                let labels = rule
                    .labels
                    .iter()
                    .map(|(name, text)| (name.clone(), text.source.clone()));
                json!({
                    "file": group.file, "line": rule.line, "group": group.name,
                    "type": if alert.is_some() { "alerting" } else { "recording" },
                    "name": rule.name, "query": rule.expr,
                    "for": alert.map(|alert| duration(alert.hold).as_secs_f64()),
                    "labels": labels.collect::<BTreeMap<_, _>>(),
                })
            })
            .collect();
        return say(&serde_json::to_string_pretty(&all).context("JSON")?);
    }
    let rows: Vec<Vec<String>> = rules
        .map(|(group, rule)| {
            let kind = if rule.alert.is_some() { "alert" } else { "record" };
            let hold = rule.alert.as_ref().map_or(0, |alert| alert.hold);
            let severity = rule.labels.iter().find(|(name, _)| name == "severity");
            let words: Vec<&str> = rule.expr.split_whitespace().collect();
            [
                group.name.clone(),
                kind.to_owned(),
                rule.name.clone(),
                severity.map(|(_, text)| text.source.clone()).unwrap_or_default(),
                if hold > 0 {
                    humantime::format_duration(duration(hold)).to_string()
                } else {
                    String::new()
                },
                words.join(" "),
            ]
            .into()
        })
        .collect();
    let text = table(&["GROUP", "KIND", "NAME", "SEVERITY", "FOR", "QUERY"], &rows);
    say(&narrowed(&text))
}

pub(super) fn narrowed(text: &str) -> String {
    let width = terminal_width();
    let lines = text.trim_end().lines();
    let lines: Vec<String> = lines.map(|line| line.chars().take(width).collect()).collect();
    lines.join("\n")
}

fn test(config: &Config, options: &RulesTest) -> Result<()> {
    let groups = groups(&options.files)?;
    let directory = options.directory.as_deref().unwrap_or(&config.store.directory);
    let memory = Memory::read(directory, &config.store)?;
    let Some(span) = memory.store().info().span else {
        return Err(Error::new(format_args!(
            "--store {}: no samples",
            directory.display()
        )));
    };
    let now = memory::now();
    let from = time("--from", options.from.as_deref(), now)?.map_or(span.0, |from| from.max(span.0));
    let to = time("--to", options.to.as_deref(), now)?.map_or(span.1, |to| to.min(span.1));
    if to < from {
        return Err(Error::usage(format_args!(
            "--from, --to: the store has samples from {} to {} only",
            moment(span.0),
            moment(span.1)
        )));
    }
    let began = Instant::now();
    let past = evaluate(config, &memory, groups, (from, to));
    if options.json {
        say(&serde_json::to_string_pretty(&as_json(&past, (from, to))).context("JSON")?)?;
    } else {
        say(&told(&past, (from, to), Some(began.elapsed())))?;
    }
    failures(&past)
}

/// What rules would have come to over what a store remembers.
fn evaluate(config: &Config, memory: &Memory, groups: Vec<GroupFile>, span: (Millis, Millis)) -> Past {
    let settings = Settings {
        external_labels: files::external_labels(config),
        external_url: files::external_url(config),
        options: Options::default(),
    };
    let timeout = memory.timeout();
    let bounds = || -> Box<dyn Bounds> { Box::new(memory.limits(timeout)) };
    let environment = Environment {
        source: memory.store(),
        bounds: &bounds,
        settings: &settings,
    };
    let interval = config.rules.interval.get().as_millis() as Millis;
    past(groups, span, interval, &environment)
}

/// Whether rules look at what only an agent that scores has: health, objectives, anomalies, or alerts that are not among them.
pub(super) fn need_scores(groups: &[GroupFile]) -> bool {
    let is_scored = |text: &str| {
        let series = ["health", "slo", "anomaly"].map(|what| format!("geophone_{what}_"));
        let all = series.iter().map(String::as_str).chain([ALERTS, NAME]);
        all.into_iter().any(|series| text.contains(series))
    };
    groups.iter().flat_map(|group| &group.rules).any(|rule| {
        let told = rule.alert.iter().flat_map(|alert| &alert.annotations);
        let texts = rule.labels.iter().chain(told);
        let mut texts = texts
            .map(|(_, text)| text.source.as_str())
            .chain([rule.expr.as_str()]);
        !rule.refers.is_empty() || texts.any(is_scored)
    })
}

/// Which alerts would have fired over a store that a recording has filled: text, or JSON. The same recording
/// gives the same bytes.
pub(super) fn replayed(
    config: &Config,
    memory: &Memory,
    groups: Vec<GroupFile>,
    json: bool,
) -> Result<(String, Past)> {
    let span = memory.store().info().span.unwrap_or_default();
    let past = evaluate(config, memory, groups, span);
    let text = if json {
        serde_json::to_string_pretty(&as_json(&past, span)).context("JSON")?
    } else {
        told(&past, span, None)
    };
    Ok((text, past))
}

/// What could not be evaluated, line by line.
pub(super) fn failures(past: &Past) -> Result<()> {
    match past.failed.len() {
        0 => Ok(()),
        failed => {
            for (rule, (times, why)) in &past.failed {
                tell(&format!("{rule}: {times} evaluations failed: {why}"));
            }
            Err(Error::new(format_args!(
                "{failed} rules failed; the lines before say why"
            )))
        }
    }
}

fn lasting(from: Millis, to: Millis) -> String {
    let seconds = Duration::from_secs((to - from).unsigned_abs() / 1000);
    humantime::format_duration(seconds).to_string()
}

pub(super) fn labels(labels: &Labels) -> String {
    let pairs = labels
        .iter()
        .filter(|(name, _)| !matches!(&***name, "alertname" | "severity"));
    let pairs: Vec<String> = pairs.map(|(name, value)| format!("{name}={value}")).collect();
    pairs.join(" ")
}

fn told(past: &Past, (from, to): (Millis, Millis), took: Option<Duration>) -> String {
    let rows: Vec<Vec<String>> = past
        .episodes
        .iter()
        .map(|one| {
            [
                moment(one.fired_at),
                one.resolved_at
                    .map_or_else(|| "still".to_owned(), |at| lasting(one.fired_at, at)),
                one.labels.get("severity").to_owned(),
                one.labels.get("alertname").to_owned(),
                labels(&one.labels),
            ]
            .into()
        })
        .collect();
    let summary = format!(
        "{} alerts from {} to {}; {} evaluations{}",
        rows.len(),
        moment(from),
        moment(to),
        past.evaluations,
        took.map_or_else(String::new, |took| format!(" in {:.1} s", took.as_secs_f64()))
    );
    if rows.is_empty() {
        return summary;
    }
    let text = table(&["FIRED", "FOR", "SEVERITY", "ALERT", "LABELS"], &rows);
    format!("{}\n\n{summary}", narrowed(&text))
}

fn as_json(past: &Past, (from, to): (Millis, Millis)) -> Value {
    let one = |one: &Episode| {
        let labels: serde_json::Map<String, Value> = one
            .labels
            .iter()
            .map(|(name, value)| (name.to_string(), json!(&**value)))
            .collect();
        json!({
            "labels": labels, "annotations": one.annotations, "value": one.value.to_string(),
            "activeAt": moment(one.active_at), "firedAt": moment(one.fired_at),
            "resolvedAt": one.resolved_at.map(moment),
        })
    };
    json!({
        "from": moment(from), "to": moment(to), "evaluations": past.evaluations,
        "alerts": past.episodes.iter().map(one).collect::<Vec<_>>(),
        "failed": past.failed,
    })
}
