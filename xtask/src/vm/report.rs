//! What the guest reported, taken apart.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::boot::{Section, Seen};

/// `geophone check --json`.
#[derive(Deserialize)]
struct Programs {
    programs: Vec<Program>,
}

#[derive(Deserialize)]
pub struct Program {
    /// The program.
    pub name: String,
    /// What became of it.
    pub verdict: String,
    /// Why.
    #[serde(default)]
    pub reason: Option<String>,
}

/// `geophone run --summary-json`.
#[derive(Deserialize)]
struct Summary {
    families: Vec<Family>,
}

#[derive(Deserialize)]
struct Family {
    name: String,
    series: Vec<Series>,
}

#[derive(Deserialize)]
pub struct Series {
    #[serde(default)]
    labels: BTreeMap<String, String>,
    /// Its value.
    pub value: Value,
}

#[derive(Deserialize)]
#[serde(untagged)]
pub enum Value {
    /// Of a counter or a gauge.
    Number(f64),
    /// Of a histogram, in short.
    Histogram {
        /// Number of values.
        count: f64,
        /// Median.
        p50: Option<f64>,
    },
}

impl Series {
    /// Values in a histogram.
    pub fn count(&self) -> f64 {
        match self.value {
            Value::Histogram { count, .. } => count,
            Value::Number(_) => 0.0,
        }
    }

    /// A counter's or gauge's value.
    pub fn number(&self) -> f64 {
        match self.value {
            Value::Number(n) => n,
            Value::Histogram { .. } => 0.0,
        }
    }

    /// Whether it has these labels.
    pub fn has(&self, labels: &[(&str, &str)]) -> bool {
        labels
            .iter()
            .all(|(key, value)| self.labels.get(*key).is_some_and(|v| v == value))
    }
}

/// A section that must be there.
pub fn section<'a>(seen: &'a Seen, name: &str) -> Result<&'a Section> {
    seen.get(name)
        .with_context(|| format!("the guest reported no `{name}`"))
}

/// The verdicts in a section.
pub fn programs(seen: &Seen, check: &str) -> Result<Vec<Program>> {
    let section = section(seen, check)?;
    let parsed: Programs = serde_json::from_str(&section.text).with_context(|| {
        format!(
            "`geophone check --json` (exit code {}) is not what was agreed",
            section.code
        )
    })?;
    ensure!(!parsed.programs.is_empty(), "no program is listed");
    Ok(parsed.programs)
}

/// The series of a metric in the summary that a section holds.
pub fn family(seen: &Seen, run: &str, name: &str) -> Result<Vec<Series>> {
    let text = &section(seen, run)?.text;
    let summary: Summary = serde_json::from_str(text).context("`--summary-json` is not what was agreed")?;
    let found = summary.families.into_iter().find(|family| family.name == name);
    Ok(found.with_context(|| format!("no {name} in the summary"))?.series)
}
