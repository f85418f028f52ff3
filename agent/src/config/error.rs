//! What is wrong with a configuration, in one line that says where.

use super::layers::env_name;
use serde::de;
use std::fmt;
use std::rc::Rc;

/// One line: `geophone.yaml:12: unknown key "enabld" in probes.tcp; did you mean "enabled"?`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError(String);

impl ConfigError {
    pub(super) fn new(place: impl fmt::Display, what: impl fmt::Display) -> Self {
        Self(one_line(&format!("{place}: {what}")))
    }

    pub(super) fn nowhere(what: impl fmt::Display) -> Self {
        Self(one_line(&what.to_string()))
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ConfigError {}

/// Where a value was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// Line of the file, from 1.
    Line(usize),
    /// Name of an environment variable.
    Env(Rc<str>),
    /// A flag, as errors show it.
    Flag(Rc<str>),
}

impl Origin {
    /// As an error begins.
    pub fn place(&self, file: &str) -> String {
        match self {
            Self::Line(line) => format!("{file}:{line}"),
            Self::Env(name) => name.to_string(),
            Self::Flag(flag) => flag.to_string(),
        }
    }
}

/// An error on the way to a [`ConfigError`]: what is known about the place is added on the way up.
#[derive(Debug)]
pub(super) struct Problem {
    pub what: What,
    pub origin: Option<Origin>,
    /// Path of the value, or of what holds the key.
    pub path: Vec<String>,
}

#[derive(Debug)]
pub(super) enum What {
    Text(String),
    UnknownKey(String, &'static [&'static str]),
    UnknownValue(String, &'static [&'static str]),
    MissingKey(&'static str),
}

impl Problem {
    pub fn text(text: impl Into<String>) -> Self {
        Self {
            what: What::Text(text.into()),
            origin: None,
            path: Vec::new(),
        }
    }

    /// Adds the place, unless a deeper one is known.
    pub fn or_at(mut self, origin: &Origin, path: impl FnOnce() -> Vec<String>) -> Self {
        if self.origin.is_none() {
            self.origin = Some(origin.clone());
            self.path = path();
        }
        self
    }

    /// The finished line. `env_names` are those of all keys.
    pub fn into_error(self, file: &str, env_names: &[String]) -> ConfigError {
        let path = show(&self.path);
        let inside = if path.is_empty() {
            String::new()
        } else {
            format!(" in {path}")
        };
        let prefix = if path.is_empty() {
            String::new()
        } else {
            format!("{path}: ")
        };
        let message = match self.what {
            What::Text(text) => prefix + &text,
            What::MissingKey(key) => format!("{prefix}the key {key:?} is missing"),
            What::UnknownValue(value, known) => {
                format!(
                    "{prefix}unknown value {}{}",
                    quote(&value),
                    hint(&value, known.iter().copied())
                )
            }
            What::UnknownKey(key, known) => {
                let hint = match &self.origin {
                    Some(Origin::Env(name)) => {
                        let variable = |key| env_name(self.path.iter().map(String::as_str).chain([key]));
                        // The key may be right but for its place: `GEOPHONE_PROBES_TCP_ENABLED`.
                        let anywhere = || {
                            nearest(name, env_names.iter().map(String::as_str), Some(2)).map(str::to_owned)
                        };
                        match nearest(&key, known.iter().copied(), None)
                            .map(variable)
                            .or_else(anywhere)
                        {
                            Some(name) => format!("; did you mean {name}?"),
                            None => {
                                format!(
                                    "; known: {}",
                                    known.iter().map(|k| variable(k)).collect::<Vec<_>>().join(", ")
                                )
                            }
                        }
                    }
                    _ => hint(&key, known.iter().copied()),
                };
                format!("unknown key {}{inside}{hint}", quote(&key))
            }
        };
        match self.origin {
            Some(origin) => ConfigError::new(origin.place(file), message),
            None => ConfigError::nowhere(message),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.what)
    }
}

impl std::error::Error for Problem {}

impl de::Error for Problem {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::text(message.to_string())
    }

    fn invalid_type(found: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::text(format!("expected {expected}, found {found}"))
    }

    fn invalid_value(found: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::invalid_type(found, expected)
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        Self {
            what: What::UnknownKey(field.to_owned(), expected),
            ..Self::text("")
        }
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        Self {
            what: What::UnknownValue(variant.to_owned(), expected),
            ..Self::text("")
        }
    }

    fn missing_field(field: &'static str) -> Self {
        Self {
            what: What::MissingKey(field),
            ..Self::text("")
        }
    }
}

/// `probes.tcp.enabled`, `peers[0].name`.
pub(super) fn show(path: &[String]) -> String {
    let mut out = String::new();
    for part in path {
        if part.starts_with('[') {
            out.push_str(part);
        } else {
            out.push_str(if out.is_empty() { "" } else { "." });
            out.push_str(&cut(part));
        }
    }
    out
}

/// Foreign text for a message: in quotes, escaped, cut.
pub(super) fn quote(text: &str) -> String {
    format!("{:?}", cut(text))
}

fn cut(text: &str) -> String {
    const MOST: usize = 60;
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

fn hint<'a>(text: &str, known: impl Iterator<Item = &'a str> + Clone) -> String {
    match nearest(text, known.clone(), None) {
        Some(name) => format!("; did you mean {name:?}?"),
        None => format!("; known: {}", known.collect::<Vec<_>>().join(", ")),
    }
}

/// The known name that was probably meant: a quarter of its letters may differ, or `most`.
pub(super) fn nearest<'a>(
    text: &str,
    known: impl Iterator<Item = &'a str>,
    most: Option<usize>,
) -> Option<&'a str> {
    if text.len() > 100 {
        return None;
    }
    let plain = |text: &str| text.to_ascii_lowercase().replace(['-', '_', '.'], "");
    let text = plain(text);
    known
        .map(|name| (strsim::osa_distance(&text, &plain(name)), name))
        .filter(|(distance, name)| *distance <= most.unwrap_or(name.len() / 4 + 1) && *distance < name.len())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// No control characters and no line breaks, whatever a parser or a path put into a message.
fn one_line(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}
