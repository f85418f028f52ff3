//! From the tree of a file to its groups.

use super::short::FORMS;
use super::{AlertFile, GroupFile, RuleFile, Text, duration};
use crate::template::Template;
use crate::yaml::{self, Node, Value, Wrong};
use agent_store::promql::{self, is_label_name};
use agent_store::series::{Bounds, Free, Matcher, Millis, Refusal, Series, Source};
use std::rc::Rc;
use std::sync::Arc;

/// Entries of a map: key, line of the key, value.
pub(super) type Entry = (String, usize, Rc<Node>);

/// What a file has, and what is wrong with it.
pub(super) fn read(file: &str, text: &str) -> (Vec<GroupFile>, Vec<Wrong>) {
    let mut read = Read {
        file,
        wrong: Vec::new(),
    };
    let groups = match yaml::parse(text) {
        Ok(root) => read.file(&root),
        Err(wrong) => {
            read.wrong.push(wrong);
            Vec::new()
        }
    };
    read.wrong.sort();
    (groups, read.wrong)
}

pub(super) struct Read<'a> {
    file: &'a str,
    wrong: Vec<Wrong>,
}

impl Read<'_> {
    pub(super) fn wrong<T>(&mut self, line: usize, what: impl Into<String>) -> Option<T> {
        self.wrong.push((line, what.into()));
        None
    }

    /// Entries of a map of which only `known` keys may be given.
    pub(super) fn map<'n>(&mut self, node: &'n Node, what: &str, known: &[&str]) -> Option<&'n [Entry]> {
        let Value::Map(entries) = &node.value else {
            let keys = known.join(", ");
            return self.wrong(
                node.line,
                format!("{what}: expected the keys {keys}, found {}", node.describe()),
            );
        };
        for (key, line, _) in entries {
            if !known.contains(&key.as_str()) {
                let known = known.join(", ");
                self.wrong::<()>(*line, format!("{what}: unknown key {key:?}, there are {known}"));
            }
        }
        Some(entries)
    }

    fn file(&mut self, root: &Node) -> Vec<GroupFile> {
        if matches!(root.value, Value::Null) {
            return Vec::new();
        }
        let Some(entries) = self.map(root, "rule file", &["groups"]) else {
            return Vec::new();
        };
        let mut groups: Vec<GroupFile> = Vec::new();
        for (_, line, list) in entries.iter().filter(|(key, ..)| key == "groups") {
            for node in self.list("groups", *line, list) {
                let Some(group) = self.group(node) else { continue };
                if groups.iter().any(|known| known.name == group.name) {
                    let what = format!(
                        "group {:?}: there is one of this name before, give it another",
                        group.name
                    );
                    self.wrong::<()>(node.line, what);
                }
                groups.push(group);
            }
        }
        groups
    }

    fn list<'n>(&mut self, name: &str, line: usize, node: &'n Node) -> &'n [Rc<Node>] {
        match &node.value {
            Value::List(items) => items,
            Value::Null => &[],
            _ => {
                self.wrong::<()>(
                    line,
                    format!("{name}: expected a list, found {}", node.describe()),
                );
                &[]
            }
        }
    }

    fn group(&mut self, node: &Node) -> Option<GroupFile> {
        let known = ["name", "interval", "query_offset", "limit", "labels", "rules"];
        let entries = self.map(node, "group", &known)?;
        let name = find(entries, "name")
            .and_then(|(_, value)| text(value))
            .unwrap_or_default();
        if name.is_empty() {
            return self.wrong(node.line, "group: it has no name, add `name: …`");
        }
        let what = format!("group {name:?}");
        let mut group = GroupFile {
            name,
            file: self.file.to_owned(),
            interval: self
                .duration(entries, "interval", &what)
                .filter(|interval| *interval > 0),
            query_offset: self.duration(entries, "query_offset", &what).unwrap_or(0),
            limit: 0,
            rules: Vec::new(),
        };
        if let Some((line, value)) = find(entries, "limit") {
            match text(value).and_then(|text| text.parse().ok()) {
                Some(limit) => group.limit = limit,
                None => {
                    let found = value.describe();
                    self.wrong::<()>(line, format!("{what}: limit: expected a number, found {found}"));
                }
            }
        }
        let labels = self.labels_of(entries, &what);
        if let Some((line, rules)) = find(entries, "rules") {
            for rule in self.list(&format!("{what}: rules"), line, rules) {
                let rule = self.rule(rule, &labels);
                group.rules.extend(rule);
            }
        }
        Some(group)
    }

    fn rule(&mut self, node: &Node, group: &[(String, usize, String)]) -> Option<RuleFile> {
        let known = [
            "record",
            "alert",
            "expr",
            "for",
            "keep_firing_for",
            "labels",
            "annotations",
            "severity",
            "summary",
            "description",
        ];
        let entries = self.map(node, "rule", &[&known[..], &FORMS].concat())?;
        let given = |key| find(entries, key).and_then(|(line, value)| Some((line, text(value)?)));
        let given = |key| given(key).filter(|(_, text)| !text.is_empty());
        let (line, name, alerts) = match (given("record"), given("alert")) {
            (Some((line, name)), None) => (line, name, false),
            (None, Some((line, name))) => (line, name, true),
            (None, None) => {
                return self.wrong(node.line, "rule: neither `record` nor `alert` is given, add one");
            }
            (Some((line, name)), Some(_)) => {
                return self.wrong(
                    line,
                    format!("{name}: both `record` and `alert` are given, remove one"),
                );
            }
        };
        if !alerts && !is_metric_name(&name) {
            let what = format!("{name}: no series can have this name, use letters, digits, _ and :");
            self.wrong::<()>(line, what);
        }
        let is_short = entries.iter().any(|(key, ..)| FORMS.contains(&key.as_str()));
        let short = if is_short {
            Some(self.short(&name, entries)?)
        } else {
            None
        };
        let expr = match given("expr") {
            _ if short.is_some() => short.as_ref().map(|short| short.expr.clone())?,
            Some((line, expr)) => {
                if let Err(why) = check(&expr) {
                    self.wrong::<()>(line, format!("{name}: expr: {why}"));
                }
                expr
            }
            None => return self.wrong(line, format!("{name}: it has no `expr`, add the query")),
        };
        let mut all = group.to_vec();
        for (label, line, value) in self.labels_of(entries, &name) {
            all.retain(|(known, ..)| *known != label);
            all.push((label, line, value));
        }
        let mut annotations = self.texts(entries, "annotations", &name);
        if alerts {
            self.said(&name, entries, &mut all, &mut annotations);
            let says = annotations.iter().any(|(annotation, ..)| annotation == "summary");
            if let Some(short) = short.as_ref().filter(|_| !says) {
                annotations.push(("summary".to_owned(), line, short.summary.clone()));
            }
        }
        for (annotation, line, _) in &annotations {
            if !is_label_name(annotation) {
                let what = format!(
                    "{name}: annotations: {annotation:?} cannot be a name, use letters, digits and _"
                );
                self.wrong::<()>(*line, what);
            }
        }
        let times = ["for", "keep_firing_for"].map(|key| self.duration(entries, key, &name));
        if !alerts {
            let only = [
                "for",
                "keep_firing_for",
                "annotations",
                "severity",
                "summary",
                "description",
            ];
            for key in only.iter().chain(&FORMS) {
                if let Some((line, _)) = find(entries, key) {
                    self.wrong::<()>(line, format!("{name}: only alerts have `{key}`, remove it"));
                }
            }
            let labels = all.into_iter().map(|(label, _, source)| {
                let template = None;
                (label, Text { source, template })
            });
            return Some(RuleFile {
                line,
                name,
                expr,
                labels: labels.collect(),
                alert: None,
                refers: Vec::new(),
            });
        }
        let [hold, keep_firing] = times.map(|time| time.unwrap_or(0));
        Some(RuleFile {
            line,
            labels: self.templates(&name, "labels", all),
            alert: Some(Arc::new(AlertFile {
                hold,
                keep_firing,
                annotations: self.templates(&name, "annotations", annotations),
            })),
            name,
            expr,
            refers: short.map(|short| short.refers).unwrap_or_default(),
        })
    }

    /// What an alert says by keys of its own instead of labels and annotations.
    fn said(
        &mut self,
        name: &str,
        entries: &[Entry],
        labels: &mut Vec<(String, usize, String)>,
        annotations: &mut Vec<(String, usize, String)>,
    ) {
        for key in ["severity", "summary", "description"] {
            let Some((line, node)) = find(entries, key) else {
                continue;
            };
            let (all, place) = match key {
                "severity" => (&mut *labels, "labels"),
                _ => (&mut *annotations, "annotations"),
            };
            // A group's own is for those that say nothing.
            let own = find(entries, place).is_some_and(
                |(_, node)| matches!(&node.value, Value::Map(entries) if entries.iter().any(|(known, ..)| known == key)),
            );
            let Some(text) = text(node) else {
                let found = node.describe();
                self.wrong::<()>(line, format!("{name}: {key}: expected a text, found {found}"));
                continue;
            };
            if own {
                let what = format!("{name}: `{key}` is among the {place} as well, remove one");
                self.wrong::<()>(line, what);
            }
            all.retain(|(known, ..)| known != key);
            all.push((key.to_owned(), line, text));
        }
    }

    fn duration(&mut self, entries: &[Entry], key: &str, what: &str) -> Option<Millis> {
        let (line, value) = find(entries, key)?;
        let parsed = text(value).and_then(|text| duration(&text));
        if parsed.is_none() {
            let found = value.describe();
            return self.wrong(
                line,
                format!("{what}: {key}: expected a duration like 5m, found {found}"),
            );
        }
        parsed
    }

    /// Labels, of a rule or of all of a group.
    fn labels_of(&mut self, entries: &[Entry], what: &str) -> Vec<(String, usize, String)> {
        let labels = self.texts(entries, "labels", what);
        for (label, line, _) in &labels {
            if label == "__name__" || !is_label_name(label) {
                let what =
                    format!("{what}: labels: {label:?} cannot be a label's name, use letters, digits and _");
                self.wrong::<()>(*line, what);
            }
        }
        labels
    }

    /// Names with texts.
    pub(super) fn texts(&mut self, entries: &[Entry], key: &str, what: &str) -> Vec<(String, usize, String)> {
        let Some((line, node)) = find(entries, key) else {
            return Vec::new();
        };
        let Value::Map(entries) = &node.value else {
            if !matches!(node.value, Value::Null) {
                let found = node.describe();
                self.wrong::<()>(
                    line,
                    format!("{what}: {key}: expected names with texts, found {found}"),
                );
            }
            return Vec::new();
        };
        let mut all = Vec::new();
        for (name, line, value) in entries {
            match (&value.value, text(value)) {
                (_, Some(text)) => all.push((name.clone(), *line, text)),
                (Value::Null, None) => all.push((name.clone(), *line, String::new())),
                _ => {
                    let found = value.describe();
                    self.wrong::<()>(
                        *line,
                        format!("{what}: {key}: {name}: expected a text, found {found}"),
                    );
                }
            }
        }
        all
    }

    fn templates(
        &mut self,
        rule: &str,
        key: &str,
        texts: Vec<(String, usize, String)>,
    ) -> Vec<(String, Text)> {
        let mut all = Vec::with_capacity(texts.len());
        for (name, line, source) in texts {
            match Template::parse(&source) {
                Ok(template) => {
                    let template = source.contains("{{").then_some(template);
                    all.push((name, Text { source, template }));
                }
                Err(why) => {
                    self.wrong::<()>(
                        line,
                        format!("{rule}: {key}: {name}: the template is wrong: {why}"),
                    );
                }
            }
        }
        all
    }
}

pub(super) fn find<'e>(entries: &'e [Entry], key: &str) -> Option<(usize, &'e Node)> {
    let found = entries.iter().find(|(known, ..)| known == key);
    found.map(|(_, line, value)| (*line, &**value))
}

pub(super) fn text(node: &Node) -> Option<String> {
    match &node.value {
        Value::Scalar(text) => Some(text.clone()),
        _ => None,
    }
}

fn is_metric_name(name: &str) -> bool {
    !name.starts_with(|c: char| c.is_ascii_digit())
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':')
}

/// No series: what is wrong with a query whatever the data, shows on it as well.
struct Nothing;

impl Source for Nothing {
    fn select(&self, _: &[Matcher], _: Millis, _: Millis, _: &dyn Bounds) -> Result<Vec<Series>, Refusal> {
        Ok(Vec::new())
    }
}

/// What is wrong with the query of a rule, whatever the data.
pub fn check(expr: &str) -> Result<(), String> {
    match promql::instant(expr, 0, &promql::Options::default(), &Nothing, &Free) {
        Ok(answer) => match answer.value {
            promql::Value::Scalar(..) | promql::Value::Vector(..) => Ok(()),
            promql::Value::String(..) => Err("it is a string, a rule needs a vector or a scalar".to_owned()),
            promql::Value::Matrix(_) => Err(
                "it is a range vector, a rule needs a vector or a scalar: put a function like rate() around it".to_owned(),
            ),
        },
        Err(promql::Error::BadData(why)) => {
            let said = why.strip_prefix("invalid parameter \"query\": ");
            Err(said.unwrap_or(&why).to_owned())
        }
        Err(_) => Ok(()),
    }
}
