//! Rule files as Prometheus has them, read strictly.

mod print;
mod read;
mod short;
#[cfg(test)]
mod tests;

pub use print::{quoted, yaml};
pub use read::check;
pub use short::SEVERITIES;

use crate::template::Template;
use agent_store::series::Millis;
use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// A group of rules, as the file has it.
#[derive(Clone, Debug)]
pub struct GroupFile {
    /// Its name, unique in the file.
    pub name: String,
    /// Where it is from.
    pub file: String,
    /// How often it is evaluated; `None` for the caller's default.
    pub interval: Option<Millis>,
    /// Most alerts, or series, of one rule; 0 for any number.
    pub limit: usize,
    /// How much earlier than now the rules' queries are evaluated.
    pub query_offset: Millis,
    /// Its rules, in the order in which they are evaluated.
    pub rules: Vec<RuleFile>,
}

/// A rule, as the file has it. Labels of the group are among its labels.
#[derive(Clone, Debug)]
pub struct RuleFile {
    /// Its line.
    pub line: usize,
    /// The series that it records, or the alert's name.
    pub name: String,
    /// The query.
    pub expr: String,
    /// Labels that the results get.
    pub labels: Vec<(String, Text)>,
    /// What only alerts have; `None` of a recording rule.
    pub alert: Option<Arc<AlertFile>>,
    /// Alerts that its query is made of, where a short form names them.
    pub refers: Vec<String>,
}

impl RuleFile {
    /// Whether it is the same rule, perhaps with another query: of the same kind, name and labels.
    pub fn is_same(&self, other: &Self) -> bool {
        let labels = |rule: &Self| -> BTreeSet<(String, String)> {
            let labels = rule.labels.iter();
            labels
                .map(|(name, text)| (name.clone(), text.source.clone()))
                .collect()
        };
        self.name == other.name
            && self.alert.is_some() == other.alert.is_some()
            && labels(self) == labels(other)
    }
}

/// What only alerts have.
#[derive(Clone, Debug)]
pub struct AlertFile {
    /// How long it is pending.
    pub hold: Millis,
    /// How long it goes on firing.
    pub keep_firing: Millis,
    /// What is said of it.
    pub annotations: Vec<(String, Text)>,
}

/// A text, and the template that it is.
#[derive(Clone, Debug)]
pub struct Text {
    /// As it is in the file.
    pub source: String,
    /// As it is evaluated; none of what is only text.
    pub template: Option<Template>,
}

/// What is wrong with a file: `file:line: name: what is wrong, remedy`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault(String);

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Fault {}

/// Reads a rule file from disk.
pub fn load(path: &Path) -> Result<Vec<GroupFile>, Vec<Fault>> {
    let shown = path.display().to_string();
    match std::fs::read_to_string(path) {
        Ok(text) => parse(&shown, &text),
        Err(error) => Err(vec![fault(
            &shown,
            None,
            &format!("cannot read the rules: {error}"),
        )]),
    }
}

/// Reads the text of a rule file. All that is wrong is told, not only the first.
pub fn parse(file: &str, text: &str) -> Result<Vec<GroupFile>, Vec<Fault>> {
    let (groups, wrong) = read::read(file, text);
    if wrong.is_empty() {
        return Ok(groups);
    }
    let faults = wrong.iter().map(|(line, what)| fault(file, Some(*line), what));
    Err(faults.collect())
}

/// What is wrong, or to be remarked, at a place: one line, whatever the text has.
pub fn fault(file: &str, line: Option<usize>, what: &str) -> Fault {
    let place = line.map_or_else(|| file.to_owned(), |line| format!("{file}:{line}"));
    let what: Vec<&str> = what.split_whitespace().collect();
    Fault(format!("{place}: {}", what.join(" ")))
}

/// What may be meant otherwise in files that can be used: severities that nobody else knows, and alerts that are named and are
/// not there, so that what is made of them never fires.
pub fn remarks(groups: &[GroupFile]) -> Vec<Fault> {
    let all = || groups.iter().flat_map(|group| &group.rules);
    let is_there = |name: &String| all().any(|rule| rule.alert.is_some() && rule.name == *name);
    let mut remarks = Vec::new();
    for group in groups {
        let mut remark = |rule: &RuleFile, what: String| {
            let what = format!("{}: {what}", rule.name);
            remarks.push(fault(&group.file, Some(rule.line), &what));
        };
        for rule in group.rules.iter().filter(|rule| rule.alert.is_some()) {
            let severity = rule.labels.iter().find(|(label, _)| label == "severity");
            if let Some((_, text)) = severity
                && text.template.is_none()
                && !SEVERITIES.contains(&text.source.as_str())
            {
                let known = SEVERITIES.join(", ");
                remark(rule, format!("severity {:?} is none of {known}", text.source));
            }
            for name in rule.refers.iter().filter(|name| !is_there(name)) {
                let what =
                    format!("no rule here is called {name:?}: without it this never fires as it is meant");
                remark(rule, what);
            }
        }
    }
    remarks
}

/// A duration as rule files have it, in milliseconds.
pub(crate) fn duration(text: &str) -> Option<Millis> {
    // PromQL takes a number alone for seconds, rule files do not.
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return (text == "0").then_some(0);
    }
    let duration = agent_store::promql::duration(text)?;
    Millis::try_from(duration.as_millis()).ok()
}
