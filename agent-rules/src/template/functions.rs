//! The functions of templates: Go's and Prometheus'.

use super::printf::printf;
use super::value::{Sample, Texts, Value, look_up};
use super::{Scope, humanize};
use regex::Regex;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::rc::Rc;

/// What there is; `and` and `or` are the evaluator's, because they do not always evaluate what they are given.
pub(super) const NAMES: [&str; 48] = [
    "and",
    "args",
    "eq",
    "externalURL",
    "first",
    "ge",
    "graphLink",
    "gt",
    "html",
    "humanize",
    "humanize1024",
    "humanizeDuration",
    "humanizePercentage",
    "humanizeTimestamp",
    "index",
    "label",
    "le",
    "len",
    "lt",
    "match",
    "ne",
    "not",
    "or",
    "parseDuration",
    "pathPrefix",
    "print",
    "printf",
    "println",
    "query",
    "reReplaceAll",
    "safeHtml",
    "sortByLabel",
    "stripDomain",
    "stripPort",
    "strvalue",
    "tableLink",
    "title",
    "toLower",
    "toUpper",
    "urlquery",
    "urlQueryEscape",
    "value",
    "now",
    "toDuration",
    "slice",
    "js",
    "call",
    "toTime",
];

/// Those of [`NAMES`] that Prometheus has and we do not.
pub(super) const REFUSED: [&str; 6] = ["now", "toDuration", "slice", "js", "call", "toTime"];

/// What templates of notifications have beside those.
pub(super) const OF_NOTIFICATIONS: &[&str] = &["join", "trimSpace"];

pub(super) fn call(name: &str, args: &[Value], scope: &Scope<'_>) -> Result<Value, String> {
    let said = evaluate(name, args, scope);
    said.map_err(|why| format!("error calling {name}: {why}"))
}

fn evaluate(name: &str, args: &[Value], scope: &Scope<'_>) -> Result<Value, String> {
    let text = |value: String| Ok(Value::Text(value.into()));
    match (name, args) {
        ("print", args) => text(print(args)),
        ("println", args) => {
            let words: Vec<String> = args.iter().map(shown).collect();
            text(words.join(" ") + "\n")
        }
        ("printf", [Value::Text(format), rest @ ..]) => text(printf(format, rest)),
        ("not", [value]) => Ok(Value::Bool(!value.is_true())),
        ("len", [value]) => len(value),
        ("index", [value, keys @ ..]) => keys
            .iter()
            .try_fold(value.clone(), |value, key| index(&value, key)),
        ("eq", [first, rest @ ..]) if !rest.is_empty() => {
            for other in rest {
                if equal(first, other)? {
                    return Ok(Value::Bool(true));
                }
            }
            Ok(Value::Bool(false))
        }
        ("ne", [a, b]) => Ok(Value::Bool(!equal(a, b)?)),
        ("lt", [a, b]) => compared(a, b, Ordering::is_lt),
        ("le", [a, b]) => compared(a, b, Ordering::is_le),
        ("gt", [a, b]) => compared(a, b, Ordering::is_gt),
        ("ge", [a, b]) => compared(a, b, Ordering::is_ge),
        ("html", args) => text(html(&print(args))),
        ("urlquery", args) => text(url_query(&print(args))),
        ("urlQueryEscape", [value]) => text(url_query(&string(value)?)),
        ("safeHtml", [value]) => text(string(value)?),
        ("query", [query]) => scope.query(&string(query)?),
        ("first", [Value::Samples(samples)]) => match samples.first() {
            Some(first) => Ok(Value::Sample(first.clone())),
            None => Err("first() called on vector with no elements".to_owned()),
        },
        ("value", [Value::Sample(sample)]) => Ok(Value::Float(sample.value)),
        ("strvalue", [Value::Sample(sample)]) => Ok(look_up(&sample.labels, "__value__")),
        ("label", [label, Value::Sample(sample)]) => Ok(look_up(&sample.labels, &string(label)?)),
        ("sortByLabel", [label, Value::Samples(samples)]) => {
            let label = string(label)?;
            let mut sorted: Vec<Rc<Sample>> = samples.to_vec();
            let key = |labels: &Texts| labels.get(label.as_str()).cloned().unwrap_or_default();
            sorted.sort_by_key(|sample| key(&sample.labels));
            Ok(Value::Samples(sorted.into()))
        }
        ("args", args) => {
            let named = args.iter().enumerate();
            let named: BTreeMap<String, Value> =
                named.map(|(at, arg)| (format!("arg{at}"), arg.clone())).collect();
            Ok(Value::Named(Rc::new(named)))
        }
        ("reReplaceAll", [pattern, by, value]) => {
            let pattern = regex(&string(pattern)?)?;
            text(
                pattern
                    .replace_all(&string(value)?, string(by)?.as_str())
                    .into_owned(),
            )
        }
        ("match", [pattern, value]) => Ok(Value::Bool(regex(&string(pattern)?)?.is_match(&string(value)?))),
        ("title", [value]) => text(title(&string(value)?)),
        ("toUpper", [value]) => text(string(value)?.chars().map(upper).collect()),
        ("toLower", [value]) => text(string(value)?.chars().map(lower).collect()),
        ("graphLink", [query]) => text(link(&string(query)?, 0)),
        ("tableLink", [query]) => text(link(&string(query)?, 1)),
        ("stripPort", [value]) => text(strip_port(&string(value)?)),
        ("stripDomain", [value]) => text(strip_domain(&string(value)?)),
        ("parseDuration", [value]) => {
            let value = string(value)?;
            let parsed = crate::file::duration(&value);
            let parsed = parsed.ok_or_else(|| format!("not a valid duration string: {value:?}"))?;
            Ok(Value::Float(parsed as f64 / 1000.0))
        }
        ("join", [separator, Value::List(items)]) => {
            let items: Vec<String> = items.iter().map(string).collect::<Result<_, _>>()?;
            text(items.join(&string(separator)?))
        }
        ("trimSpace", [value]) => text(string(value)?.trim().to_owned()),
        ("externalURL", []) => text(scope.external_url.to_owned()),
        ("pathPrefix", []) => text(path(scope.external_url)),
        ("humanize", [value]) => text(humanize::humanize(float(value)?)),
        ("humanize1024", [value]) => text(humanize::binary(float(value)?)),
        ("humanizeDuration", [value]) => text(humanize::duration(float(value)?)),
        ("humanizePercentage", [value]) => text(humanize::percentage(float(value)?)),
        ("humanizeTimestamp", [value]) => text(humanize::timestamp(float(value)?)),
        _ => {
            let kinds: Vec<&str> = args.iter().map(Value::kind).collect();
            Err(format!("it does not take ({})", kinds.join(", ")))
        }
    }
}

fn string(value: &Value) -> Result<String, String> {
    match value {
        Value::Text(text) => Ok(text.to_string()),
        other => Err(format!("expected string, got {}", other.kind())),
    }
}

/// A number, or text that is one.
fn float(value: &Value) -> Result<f64, String> {
    match value {
        Value::Float(value) => Ok(*value),
        Value::Int(value) => Ok(*value as f64),
        Value::Text(text) => {
            let parsed: Result<f64, _> = text.parse();
            parsed.map_err(|error| format!("{text:?} is not a number: {error}"))
        }
        other => Err(format!("can't convert {} to float", other.kind())),
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::Nil => "<nil>".to_owned(),
        other => other.to_text(),
    }
}

/// Go puts a space between two of which none is a string.
fn print(args: &[Value]) -> String {
    let mut out = String::new();
    let mut after_text = true;
    for (at, arg) in args.iter().enumerate() {
        let is_text = matches!(arg, Value::Text(_));
        if at > 0 && !is_text && !after_text {
            out.push(' ');
        }
        out.push_str(&shown(arg));
        after_text = is_text;
    }
    out
}

fn len(value: &Value) -> Result<Value, String> {
    let count = match value {
        Value::Text(text) => text.len(),
        Value::Texts(texts) | Value::Pairs(texts) => texts.len(),
        Value::List(items) => items.len(),
        Value::Samples(samples) => samples.len(),
        Value::Named(values) => values.len(),
        other => return Err(format!("len of type {}", other.kind())),
    };
    Ok(Value::Int(i64::try_from(count).unwrap_or(i64::MAX)))
}

fn index(value: &Value, key: &Value) -> Result<Value, String> {
    match (value, key) {
        (Value::Texts(texts) | Value::Pairs(texts), Value::Text(key)) => Ok(look_up(texts, key)),
        (Value::List(items), Value::Int(at)) => {
            let found = usize::try_from(*at).ok().and_then(|at| items.get(at));
            found.cloned().ok_or_else(|| format!("index out of range: {at}"))
        }
        (Value::Named(values), Value::Text(key)) => Ok(values.get(&**key).cloned().unwrap_or(Value::Nil)),
        (Value::Samples(samples), Value::Int(at)) => {
            let found = usize::try_from(*at).ok().and_then(|at| samples.get(at));
            let found = found.ok_or_else(|| format!("index out of range: {at}"))?;
            Ok(Value::Sample(found.clone()))
        }
        _ => Err(format!("can't index {} by {}", value.kind(), key.kind())),
    }
}

fn equal(a: &Value, b: &Value) -> Result<bool, String> {
    match (a, b) {
        (Value::Bool(a), Value::Bool(b)) => Ok(a == b),
        (Value::Int(a), Value::Int(b)) => Ok(a == b),
        #[allow(clippy::float_cmp, reason = "as Go compares")]
        (Value::Float(a), Value::Float(b)) => Ok(a == b),
        (Value::Text(a), Value::Text(b)) => Ok(a == b),
        _ => Err("incompatible types for comparison".to_owned()),
    }
}

fn compared(a: &Value, b: &Value, wanted: impl Fn(Ordering) -> bool) -> Result<Value, String> {
    let ordering = match (a, b) {
        (Value::Int(a), Value::Int(b)) => Some(a.cmp(b)),
        (Value::Float(a), Value::Float(b)) => a.partial_cmp(b),
        (Value::Text(a), Value::Text(b)) => Some(a.cmp(b)),
        _ => return Err("incompatible types for comparison".to_owned()),
    };
    // Go has > and >= as what is not <= and <: of NaN they hold.
    let of_none = !wanted(Ordering::Less);
    Ok(Value::Bool(ordering.map_or(of_none, wanted)))
}

fn regex(pattern: &str) -> Result<Regex, String> {
    Regex::new(pattern).map_err(|error| format!("{pattern:?} is not a regular expression: {error}"))
}

/// Go's `strings.Title`: a letter that follows no letter, digit or underscore is in upper case.
fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut within = false;
    for c in text.chars() {
        if within {
            out.push(c);
        } else {
            out.push(upper(c));
        }
        within = if c.is_ascii() {
            c.is_ascii_alphanumeric() || c == '_'
        } else {
            !c.is_whitespace()
        };
    }
    out
}

/// Go maps a character to one; of those that would become several it leaves what it is.
fn upper(c: char) -> char {
    let mut mapped = c.to_uppercase();
    if mapped.len() == 1 {
        mapped.next().unwrap_or(c)
    } else {
        c
    }
}

fn lower(c: char) -> char {
    let mut mapped = c.to_lowercase();
    if mapped.len() == 1 {
        mapped.next().unwrap_or(c)
    } else {
        c
    }
}

fn html(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&#34;"),
            '\'' => out.push_str("&#39;"),
            '\0' => out.push(char::REPLACEMENT_CHARACTER),
            c => out.push(c),
        }
    }
    out
}

fn url_query(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' ' => out.push('+'),
            b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            _ if byte.is_ascii_alphanumeric() => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// Prometheus' link to its expression browser.
fn link(query: &str, tab: u8) -> String {
    format!("/graph?g0.expr={}&g0.tab={tab}", url_query(query))
}

/// The path of an address, without the slash at its end.
fn path(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let path = rest.split_once('/').map_or("", |(_, path)| path);
    let path = path.trim_end_matches('/');
    if path.is_empty() {
        String::new()
    } else {
        format!("/{path}")
    }
}

/// Host and port of `host:port` or `[host]:port`.
fn split_port(text: &str) -> Option<(&str, &str)> {
    let (host, port) = text.rsplit_once(':')?;
    if let Some(inner) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        return Some((inner, port));
    }
    (!host.contains(':') && !host.contains(['[', ']'])).then_some((host, port))
}

fn strip_port(text: &str) -> String {
    split_port(text).map_or(text, |(host, _)| host).to_owned()
}

fn strip_domain(text: &str) -> String {
    let (host, port) = split_port(text).map_or((text, None), |(host, port)| (host, Some(port)));
    if host.parse::<IpAddr>().is_ok() {
        return text.to_owned();
    }
    let short = host.split_once('.').map_or(host, |(short, _)| short);
    match port {
        Some(port) => format!("{short}:{port}"),
        None => short.to_owned(),
    }
}
