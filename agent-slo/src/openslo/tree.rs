//! Maps of a YAML tree, read strictly.

use agent_rules::yaml::{Node, Value};
use std::rc::Rc;

/// A line, and what is wrong in it.
pub(super) type Wrong = (usize, String);

/// A map of which only known keys were given.
pub(super) struct Map<'n> {
    node: &'n Node,
    entries: &'n [(String, usize, Rc<Node>)],
    /// What it is, for messages.
    what: String,
}

impl<'n> Map<'n> {
    /// Of a node; `what` it is, for messages.
    pub fn new(node: &'n Node, what: &str, known: &[&str]) -> Result<Self, Wrong> {
        let Value::Map(entries) = &node.value else {
            let (keys, found) = (known.join(", "), node.describe());
            return Err((
                node.line,
                format!("{what}: expected the keys {keys}, found {}", brief(&found)),
            ));
        };
        for (key, line, _) in entries {
            if !known.contains(&key.as_str()) {
                let known = known.join(", ");
                let key = brief(&format!("{key:?}"));
                return Err((
                    *line,
                    format!("{what}: {key} is not supported, there are {known}"),
                ));
            }
        }
        Ok(Self {
            node,
            entries,
            what: what.to_owned(),
        })
    }

    pub fn line(&self) -> usize {
        self.node.line
    }

    pub fn what(&self) -> &str {
        &self.what
    }

    /// A value that is given and not nothing, and the line of its key.
    pub fn get(&self, key: &str) -> Option<(usize, &'n Rc<Node>)> {
        let found = self.entries.iter().find(|(known, ..)| known == key);
        found
            .filter(|(_, _, value)| !matches!(value.value, Value::Null))
            .map(|(_, line, value)| (*line, value))
    }

    fn missing(&self, key: &str) -> Wrong {
        (self.line(), format!("{}: it has no {key}, add it", self.what))
    }

    pub fn required(&self, key: &str) -> Result<Rc<Node>, Wrong> {
        self.get(key)
            .map(|(_, node)| node.clone())
            .ok_or_else(|| self.missing(key))
    }

    pub fn optional(&self, key: &str) -> Result<Option<Wrong>, Wrong> {
        match self.get(key) {
            None => Ok(None),
            Some((line, node)) => match &node.value {
                Value::Scalar(text) => Ok(Some((line, text.clone()))),
                _ => Err((
                    line,
                    format!("{}: {key}: expected a text, found {}", self.what, node.describe()),
                )),
            },
        }
    }

    pub fn text(&self, key: &str) -> Result<(usize, String), Wrong> {
        self.optional(key)?.ok_or_else(|| self.missing(key))
    }

    pub fn number(&self, key: &str) -> Result<Option<(usize, f64)>, Wrong> {
        let Some((line, text)) = self.optional(key)? else {
            return Ok(None);
        };
        match text.parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(Some((line, number))),
            _ => Err((
                line,
                format!(
                    "{}: {key}: expected a number, found {}",
                    self.what,
                    brief(&format!("{text:?}"))
                ),
            )),
        }
    }

    pub fn map(&self, key: &str, known: &[&str]) -> Result<Map<'n>, Wrong> {
        let (_, node) = self.get(key).ok_or_else(|| self.missing(key))?;
        Map::new(node, &format!("{}: {key}", self.what), known)
    }

    /// A list that is not empty.
    pub fn list(&self, key: &str) -> Result<&'n [Rc<Node>], Wrong> {
        let (line, node) = self.get(key).ok_or_else(|| self.missing(key))?;
        match &node.value {
            Value::List(items) if !items.is_empty() => Ok(items),
            _ => Err((
                line,
                format!(
                    "{}: {key}: expected a list, found {}",
                    self.what,
                    brief(&node.describe())
                ),
            )),
        }
    }
}

/// The beginning of a text that may be anything.
pub(super) fn brief(text: &str) -> String {
    if text.chars().count() <= 60 {
        return text.to_owned();
    }
    text.chars().take(60).chain(['…']).collect()
}
