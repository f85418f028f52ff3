//! What lies over the file: environment variables, then flags. Both end in the same code.

use super::error::{Origin, Problem};
use super::node::{self, Key, Node, Value};
use serde_json::Value as Json;
use std::ffi::OsString;
use std::rc::Rc;

/// A setting that was given by a flag.
#[derive(Clone, Debug)]
pub struct Given {
    /// The flag, as errors show it.
    pub flag: String,
    /// The setting, e.g. `probes.tcp.enabled`.
    pub key: String,
    /// Its value.
    pub value: String,
}

impl Given {
    /// By `--set`.
    pub fn set(key: &str, value: &str) -> Self {
        Self::new(format!("--set {key}"), key, value)
    }

    /// By a flag of its own.
    pub fn new(flag: impl Into<String>, key: &str, value: &str) -> Self {
        Self {
            flag: flag.into(),
            key: key.to_owned(),
            value: value.to_owned(),
        }
    }
}

/// Begin of the environment variables that are settings.
pub const ENV_PREFIX: &str = "GEOPHONE_";
/// Variables with that prefix which are no settings: flags, and what the build and the tests read. A
/// final `_` stands for any name that begins so.
pub const ENV_ELSEWHERE: [&str; 6] = [
    "GEOPHONE_BTF",
    "GEOPHONE_CONFIG",
    "GEOPHONE_BPF_",
    "GEOPHONE_SKIP_BPF",
    "GEOPHONE_TEST_",
    "GEOPHONE_VM_",
];

/// `GEOPHONE_PROBES__TCP__ENABLED` from the path of a setting.
pub(super) fn env_name<'a>(path: impl Iterator<Item = &'a str>) -> String {
    let parts: Vec<String> = path
        .map(|part| part.to_ascii_uppercase().replace('.', "__"))
        .collect();
    format!("{ENV_PREFIX}{}", parts.join("__"))
}

/// Lays the settings among `env` over the tree, parents before their parts.
pub(super) fn apply_env(
    root: &mut Node,
    env: impl IntoIterator<Item = (OsString, OsString)>,
    schema: &Json,
) -> Result<(), Problem> {
    let mut settings = Vec::new();
    for (name, value) in env {
        let name = name.to_string_lossy().into_owned();
        let Some(path) = name.strip_prefix(ENV_PREFIX) else {
            continue;
        };
        if ENV_ELSEWHERE
            .iter()
            .any(|other| name == *other || (other.ends_with('_') && name.starts_with(other)))
        {
            continue;
        }
        let path: Vec<String> = path.split("__").map(str::to_ascii_lowercase).collect();
        let origin = Origin::Env(name.as_str().into());
        match value.into_string() {
            Ok(value) if is_service_link(&name, &value) => {}
            Ok(value) => settings.push((path, value, origin)),
            Err(_) => {
                return Err(Problem {
                    origin: Some(origin),
                    ..Problem::text("the value is not valid UTF-8")
                });
            }
        }
    }
    settings.sort_by(|a, b| a.0.cmp(&b.0));
    settings
        .into_iter()
        .try_for_each(|(path, value, origin)| apply(root, path, &value, origin, schema))
}

/// Lays flags over the tree, in their order.
pub(super) fn apply_flags(root: &mut Node, flags: &[Given], schema: &Json) -> Result<(), Problem> {
    flags.iter().try_for_each(|given| {
        let path = given.key.split('.').map(str::to_owned).collect();
        apply(
            root,
            path,
            &given.value,
            Origin::Flag(given.flag.as_str().into()),
            schema,
        )
    })
}

fn apply(
    root: &mut Node,
    path: Vec<String>,
    text: &str,
    origin: Origin,
    schema: &Json,
) -> Result<(), Problem> {
    let (path, schema) = resolve(path, schema);
    let value = value(text, &origin, schema)?;
    put(root, &path, value).map_err(|e| e.or_at(&origin, || path.clone()))
}

/// Follows a path through the schema. What follows the name of a free map is one key, dots included.
fn resolve(path: Vec<String>, schema: &Json) -> (Vec<String>, Option<&Json>) {
    let mut out = Vec::new();
    let mut at = Some(schema);
    let mut parts = path.into_iter();
    while let Some(part) = parts.next() {
        let free = at
            .and_then(|s| s.get("additionalProperties"))
            .filter(|s| s.is_object());
        if let Some(values) = free {
            out.push(
                std::iter::once(part)
                    .chain(parts.by_ref())
                    .collect::<Vec<_>>()
                    .join("."),
            );
            return (out, Some(values));
        }
        at = at.and_then(|s| match s.get("items") {
            Some(items) if node::index(&part).is_some() => Some(items),
            _ => s.get("properties")?.get(&part),
        });
        out.push(part);
    }
    (out, at)
}

/// Text as the schema wants it: lists and maps as YAML in brackets, lists also with commas, the rest as it is.
fn value(text: &str, origin: &Origin, schema: Option<&Json>) -> Result<Node, Problem> {
    let is = |kind: &str| {
        schema.and_then(|s| s.get("type")).is_some_and(|t| match t {
            Json::Array(kinds) => kinds.iter().any(|k| k == kind),
            one => one == kind,
        })
    };
    if is("null") && matches!(text, "null" | "~") {
        return Ok(Node {
            value: Value::Null,
            origin: origin.clone(),
        });
    }
    if (is("array") || is("object")) && text.trim_start().starts_with(['[', '{']) {
        return node::parse(text, &|_| origin.clone());
    }
    if is("array") {
        let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
        let items = items
            .map(|item| Rc::new(Node::scalar(item, origin.clone())))
            .collect();
        return Ok(Node {
            value: Value::List(items),
            origin: origin.clone(),
        });
    }
    Ok(Node::scalar(text, origin.clone()))
}

fn put(node: &mut Node, path: &[String], value: Node) -> Result<(), Problem> {
    let Some((first, rest)) = path.split_first() else {
        *node = value;
        return Ok(());
    };
    if let (Value::List(items), Some(index)) = (&mut node.value, node::index(first)) {
        let item = items
            .get_mut(index)
            .ok_or_else(|| Problem::text(format!("the list has no entry {index}")))?;
        return put(Rc::make_mut(item), rest, value);
    }
    if !matches!(node.value, Value::Map(_)) {
        *node = Node {
            value: Value::Map(Vec::new()),
            origin: value.origin.clone(),
        };
    }
    let Value::Map(entries) = &mut node.value else {
        return Ok(());
    };
    if let Some((_, child)) = entries.iter_mut().find(|(key, _)| key.text == *first) {
        return put(Rc::make_mut(child), rest, value);
    }
    let origin = value.origin.clone();
    let mut child = Node {
        value: Value::Null,
        origin: origin.clone(),
    };
    put(&mut child, rest, value)?;
    entries.push((
        Key {
            text: first.clone(),
            origin,
        },
        Rc::new(child),
    ));
    Ok(())
}

/// Kubernetes sets `GEOPHONE_PORT`, `GEOPHONE_SERVICE_HOST` … in every pod beside a service named `geophone`.
fn is_service_link(name: &str, value: &str) -> bool {
    let rest = name.strip_prefix(ENV_PREFIX).unwrap_or(name);
    let any = |part: &str| rest.starts_with(part) || rest.contains(&format!("_{part}"));
    let port = rest
        .rsplit_once("PORT")
        .is_some_and(|(_, after)| after.is_empty() || after.starts_with('_'));
    any("SERVICE_HOST")
        || any("SERVICE_PORT")
        || (port && value.contains("://"))
        || ["_TCP", "_UDP", "_SCTP"].iter().any(|protocol| {
            rest.split_once(protocol).is_some_and(|(before, after)| {
                matches!(after, "" | "_PROTO" | "_PORT" | "_ADDR")
                    && before
                        .rsplit_once("PORT_")
                        .is_some_and(|(_, port)| port.bytes().all(|b| b.is_ascii_digit()))
            })
        })
}
