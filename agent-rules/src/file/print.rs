//! Groups of rules as a file that any Prometheus takes.

use super::{GroupFile, RuleFile, Text};
use agent_store::promql::json;
use agent_store::series::Millis;
use std::fmt::Write as _;

/// The rule file: short forms are what they come to, and labels of a group are its rules'.
pub fn yaml(groups: &[GroupFile]) -> String {
    let mut out = String::from("groups:\n");
    for group in groups {
        let _ = writeln!(out, "- name: {}", quoted(&group.name));
        for (key, value) in [
            ("interval", group.interval.unwrap_or(0)),
            ("query_offset", group.query_offset),
        ] {
            if value > 0 {
                let _ = writeln!(out, "  {key}: {}", duration(value));
            }
        }
        if group.limit > 0 {
            let _ = writeln!(out, "  limit: {}", group.limit);
        }
        out.push_str("  rules:\n");
        group.rules.iter().for_each(|rule| write(&mut out, rule));
    }
    out
}

fn write(out: &mut String, rule: &RuleFile) {
    let kind = if rule.alert.is_some() { "alert" } else { "record" };
    let _ = writeln!(out, "  - {kind}: {}", quoted(&rule.name));
    let _ = writeln!(out, "    expr: {}", block(&rule.expr));
    if let Some(alert) = &rule.alert {
        for (key, value) in [("for", alert.hold), ("keep_firing_for", alert.keep_firing)] {
            if value > 0 {
                let _ = writeln!(out, "    {key}: {}", duration(value));
            }
        }
    }
    texts(out, "labels", &rule.labels);
    if let Some(alert) = &rule.alert {
        texts(out, "annotations", &alert.annotations);
    }
}

fn texts(out: &mut String, key: &str, texts: &[(String, Text)]) {
    if texts.is_empty() {
        return;
    }
    let _ = writeln!(out, "    {key}:");
    for (name, text) in texts {
        let _ = writeln!(out, "      {}: {}", quoted(name), quoted(&text.source));
    }
}

/// A query, line by line if it has several.
fn block(text: &str) -> String {
    let lines: Vec<&str> = text.trim_end().lines().collect();
    let plain = |line: &&str| !line.is_empty() && !line.chars().any(|c| c.is_control() || is_odd(c));
    if lines.len() < 2 || text.starts_with(' ') || !lines.iter().all(plain) {
        return quoted(text);
    }
    let mut out = String::from("|-");
    for line in lines {
        let _ = write!(out, "\n      {line}");
    }
    out
}

/// What JSON may have as it is, but YAML may not: Prometheus' reader says that control characters are not allowed, and takes U+0085,
/// U+2028 and U+2029 for ends of lines.
fn is_odd(c: char) -> bool {
    matches!(
        c,
        '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}'
    )
}

/// A text as YAML: that is JSON, with some characters more that are escaped.
pub fn quoted(text: &str) -> String {
    let mut json = String::new();
    json::string(&mut json, text);
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        if is_odd(c) {
            let _ = write!(out, "\\u{:04x}", u32::from(c));
        } else {
            out.push(c);
        }
    }
    out
}

/// As rule files have it.
fn duration(mut ms: Millis) -> String {
    let mut out = String::new();
    for (unit, size) in [
        ("d", 86_400_000),
        ("h", 3_600_000),
        ("m", 60_000),
        ("s", 1000),
        ("ms", 1),
    ] {
        if ms >= size {
            let _ = write!(out, "{}{unit}", ms / size);
            ms %= size;
        }
    }
    out
}
