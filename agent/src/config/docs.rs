//! What users read about the settings, made of the schema, so that it cannot differ from them.

use super::check::range;
use super::layers::env_name;
use super::settings::Config;
use schemars::Schema;
use schemars::generate::SchemaSettings;
use serde_json::Value as Json;
use std::fmt::Write as _;

/// Width of comments.
const WIDTH: usize = 100;

/// JSON schema of the file.
pub fn schema() -> Schema {
    let settings = SchemaSettings::draft2020_12()
        .for_deserialize()
        .with(|s| s.inline_subschemas = true);
    settings.into_generator().into_root_schema_for::<Config>()
}

/// A file with every setting at its default, each with its documentation. What has no default is commented out.
pub fn default_yaml() -> String {
    let mut out = String::from(
        "# geophone: all settings with their defaults. Whatever is left out keeps its default.\n",
    );
    let defaults = serde_json::to_value(Config::default()).unwrap_or_default();
    yaml_fields(&mut out, schema().as_value(), &defaults, "", "");
    out
}

/// docs/config.md.
pub fn markdown() -> String {
    let mut out = String::from(
        "# Configuration\n\n\
         <!-- Made from agent/src/config/settings.rs by `cargo xtask docs`; do not edit. -->\n\n\
         One YAML file; `geophone config default` prints it, `geophone config validate FILE` checks it, \
         `geophone config schema` prints its JSON schema. Unknown keys are refused. Over the file lie environment \
         variables, `GEOPHONE_PROBES__TCP__ENABLED=false` for `probes.tcp.enabled` (two underscores for a dot), and \
         over those flags, `--set probes.tcp.enabled=false`. Lists are written `[a, b]` or `a,b` there, `null` takes \
         an optional setting away. Secrets are given as paths of files only.\n\n\
         Durations have a unit: `500ms`, `10s`, `1m 30s`. So have sizes: `64KiB`, `2MiB`, `1GB`.\n",
    );
    let defaults = serde_json::to_value(Config::default()).unwrap_or_default();
    section(&mut out, schema().as_value(), &defaults, "");
    out
}

/// Environment variables of all settings.
pub(super) fn env_names(schema: &Json) -> Vec<String> {
    fn walk(schema: &Json, path: &mut Vec<String>, out: &mut Vec<String>) {
        for (key, schema) in properties(schema) {
            path.push(key.clone());
            out.push(env_name(path.iter().map(String::as_str)));
            walk(schema, path, out);
            path.pop();
        }
    }
    let mut out = Vec::new();
    walk(schema, &mut Vec::new(), &mut out);
    out
}

fn properties(schema: &Json) -> impl Iterator<Item = (&String, &Json)> {
    schema
        .get("properties")
        .and_then(Json::as_object)
        .into_iter()
        .flatten()
}

fn description(schema: &Json) -> String {
    let text = schema
        .get("description")
        .and_then(Json::as_str)
        .unwrap_or_default();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// `auto, tcp_probe`, of a schema with a list of values.
fn choices(schema: &Json) -> Vec<(String, String)> {
    let text = |value: &Json| value.as_str().map(str::to_owned);
    let plain = schema.get("enum").and_then(Json::as_array).into_iter().flatten();
    let plain = plain.filter_map(|value| Some((text(value)?, String::new())));
    let told = schema.get("oneOf").and_then(Json::as_array).into_iter().flatten();
    let told = told.flat_map(|choice| {
        if choice.get("type").and_then(Json::as_str) == Some("boolean") {
            return ["true", "false"]
                .map(|name| (name.to_owned(), String::new()))
                .to_vec();
        }
        let values = choice
            .get("enum")
            .and_then(Json::as_array)
            .into_iter()
            .flatten()
            .chain(choice.get("const"));
        values
            .filter_map(|value| Some((text(value)?, description(choice))))
            .collect::<Vec<_>>()
    });
    plain.chain(told).collect()
}

/// Unit, choices or range of a value; empty = anything of its type.
fn allowed(schema: &Json) -> String {
    let mut parts: Vec<String> = choices(schema).into_iter().map(|(name, _)| name).collect();
    parts.extend(range(schema));
    if schema.get("x-power-of-two").is_some() {
        parts.push("a power of two".to_owned());
    }
    parts.join(", ")
}

/// Writes the fields of an object. `lead` begins each line: indentation, or the sign of a comment before it.
fn yaml_fields(out: &mut String, schema: &Json, defaults: &Json, lead: &str, indent: &str) {
    for (key, schema) in properties(schema) {
        if indent.is_empty() {
            out.push('\n');
        }
        let default = defaults
            .get(key)
            .or_else(|| schema.get("default"))
            .unwrap_or(&Json::Null);
        let comment = |out: &mut String, text: &str| {
            for line in wrap(text, WIDTH - indent.len()) {
                let _ = writeln!(out, "{lead}{indent}# {line}");
            }
        };
        comment(out, &description(schema));
        for (name, meaning) in choices(schema).iter().filter(|(_, meaning)| !meaning.is_empty()) {
            comment(out, &format!("  {name}: {meaning}"));
        }
        if let Some(range) = range(schema) {
            comment(out, &format!("Range: {range}."));
        }
        if let Some(example) = schema.get("examples").and_then(|e| e.get(0)) {
            comment(out, "Example:");
            let mut text = String::new();
            yaml_value(&mut text, key, example, "  ");
            text.lines().for_each(|line| {
                let _ = writeln!(out, "{lead}{indent}#{line}");
            });
        }
        let deeper = format!("{indent}  ");
        if properties(schema).next().is_some() {
            // An optional part is shown, but as a comment.
            let lead = if default.is_null() && lead.is_empty() {
                "#"
            } else {
                lead
            };
            let _ = writeln!(out, "{lead}{indent}{key}:");
            yaml_fields(out, schema, default, lead, &deeper);
        } else if default.is_null() {
            let lead = if lead.is_empty() { "#" } else { lead };
            let _ = writeln!(out, "{lead}{indent}{key}:");
        } else {
            let mut text = String::new();
            yaml_value(&mut text, key, default, indent);
            text.lines().for_each(|line| {
                let _ = writeln!(out, "{lead}{line}");
            });
        }
    }
}

/// Writes `key: value`, collections as blocks.
fn yaml_value(out: &mut String, key: &str, value: &Json, indent: &str) {
    let key = scalar(&Json::from(key));
    match value {
        Json::Object(entries) if !entries.is_empty() => {
            let _ = writeln!(out, "{indent}{key}:");
            for (key, value) in entries {
                yaml_value(out, key, value, &format!("{indent}  "));
            }
        }
        Json::Array(items) if items.iter().any(Json::is_object) => {
            let _ = writeln!(out, "{indent}{key}:");
            for item in items {
                let mut block = String::new();
                for (key, value) in item.as_object().into_iter().flatten() {
                    yaml_value(&mut block, key, value, "");
                }
                for (number, line) in block.lines().enumerate() {
                    let _ = writeln!(out, "{indent}  {} {line}", if number == 0 { '-' } else { ' ' });
                }
            }
        }
        value => {
            let _ = writeln!(out, "{indent}{key}: {}", scalar(value));
        }
    }
}

/// A value on one line. JSON is YAML; quotes are left out where the text cannot be taken for something else.
fn scalar(value: &Json) -> String {
    match value {
        Json::String(text) => {
            let simple = text.starts_with(|c: char| c.is_ascii_alphanumeric())
                && text
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || "._-:/ ".contains(c))
                && !text.contains(": ")
                && !text.ends_with([':', ' '])
                && !matches!(
                    text.to_ascii_lowercase().as_str(),
                    "true" | "false" | "null" | "yes" | "no" | "on" | "off"
                )
                && text.parse::<f64>().is_err();
            if simple { text.clone() } else { value.to_string() }
        }
        Json::Array(items) => format!("[{}]", items.iter().map(scalar).collect::<Vec<_>>().join(", ")),
        value => value.to_string(),
    }
}

fn wrap(text: &str, width: usize) -> Vec<String> {
    let indent: String = text.chars().take_while(|c| *c == ' ').collect();
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            Some(_) => lines.push(format!(
                "{indent}{}{word}",
                if indent.is_empty() { "" } else { "  " }
            )),
            None => lines.push(format!("{indent}{word}")),
        }
    }
    lines
}

/// A table of the plain settings of an object, then a section for each object in it.
fn section(out: &mut String, schema: &Json, defaults: &Json, path: &str) {
    let items = |schema: &Json| {
        schema
            .get("items")
            .filter(|s| properties(s).next().is_some())
            .cloned()
    };
    let is_leaf = |schema: &Json| properties(schema).next().is_none();
    let required = schema.get("required").and_then(Json::as_array);
    let is_required = |key: &str| required.is_some_and(|keys| keys.iter().any(|k| k == key));
    if !path.is_empty() {
        let _ = write!(out, "\n## `{path}`\n\n{}\n", description(schema));
    }
    if properties(schema).any(|(_, s)| is_leaf(s)) {
        out.push_str("\n| Key | Default | Allowed | Meaning |\n| --- | --- | --- | --- |\n");
    }
    for (key, schema) in properties(schema).filter(|(_, s)| is_leaf(s)) {
        let default = defaults
            .get(key)
            .or_else(|| schema.get("default"))
            .unwrap_or(&Json::Null);
        let default = match default {
            Json::Null if is_required(key) => "required".to_owned(),
            Json::Null => String::new(),
            value => format!("`{}`", scalar(value)),
        };
        let mut meaning = description(schema);
        for (name, told) in choices(schema).iter().filter(|(_, told)| !told.is_empty()) {
            let _ = write!(meaning, "<br>`{name}`: {told}");
        }
        let kind = match allowed(schema) {
            text if !text.is_empty() => text,
            _ => kind(schema),
        };
        let _ = writeln!(
            out,
            "| `{key}` | {default} | {kind} | {} |",
            meaning.replace('|', "\\|")
        );
    }
    for (key, schema) in properties(schema) {
        let path = if path.is_empty() {
            key.clone()
        } else {
            format!("{path}.{key}")
        };
        let default = defaults.get(key).unwrap_or(&Json::Null);
        match items(schema) {
            Some(items) => section(out, &items, &Json::Null, &format!("{path}[]")),
            None if !is_leaf(schema) => section(out, schema, default, &path),
            None => {}
        }
    }
}

fn kind(schema: &Json) -> String {
    let format = schema
        .get("format")
        .and_then(Json::as_str)
        .filter(|f| matches!(*f, "duration" | "bytes" | "glob"));
    let kind = match schema.get("type") {
        Some(Json::Array(kinds)) => kinds.iter().find(|k| *k != "null").and_then(Json::as_str),
        Some(kind) => kind.as_str(),
        None => None,
    };
    match format.or(kind).unwrap_or_default() {
        "bytes" => "a size",
        "glob" => "a pattern",
        "duration" => "a duration",
        "boolean" => "true, false",
        "string" => "text",
        "array" => "a list",
        "object" => "keys with values",
        "integer" => "a whole number",
        "number" => "a number",
        _ => "",
    }
    .to_owned()
}
