//! Whether two bodies of the HTTP API say the same.

use serde_json::Value;
use std::collections::BTreeMap;

/// Floats may differ by this part of themselves: Go's and Rust's libraries round differently, and sums are compensated.
const TOLERANCE: f64 = 1e-12;

/// The texts of parse errors are the parser's own; all else must be the same, in the same order if it is `ordered`.
pub fn compare(ours: &str, theirs: &str, ordered: bool) -> Result<(), String> {
    let ours: Value = serde_json::from_str(ours).map_err(|error| format!("ours is no JSON: {error}"))?;
    let theirs: Value =
        serde_json::from_str(theirs).map_err(|error| format!("theirs is no JSON: {error}"))?;
    for key in ["status", "errorType"] {
        same(&ours[key], &theirs[key], key)?;
    }
    let parse_error = theirs["error"]
        .as_str()
        .is_some_and(|text| text.contains("parse error"));
    if theirs["status"] == "error" {
        if parse_error {
            return Ok(());
        }
        return same(&ours["error"], &theirs["error"], "error");
    }
    let (ours, theirs) = (&ours["data"], &theirs["data"]);
    same(&ours["resultType"], &theirs["resultType"], "resultType")?;
    let (a, b) = (&ours["result"], &theirs["result"]);
    if matches!(ours["resultType"].as_str(), Some("vector" | "matrix")) && !ordered {
        return close(&by_metric(a)?, &by_metric(b)?, "result");
    }
    close(a, b, "result")
}

fn same(ours: &Value, theirs: &Value, what: &str) -> Result<(), String> {
    if ours == theirs {
        return Ok(());
    }
    Err(format!("{what}: {ours}, not {theirs}"))
}

/// Series by their labels.
fn by_metric(result: &Value) -> Result<Value, String> {
    let list = result.as_array().ok_or("no result")?;
    let map: BTreeMap<String, Value> = list
        .iter()
        .map(|element| (element["metric"].to_string(), element.clone()))
        .collect();
    if map.len() != list.len() {
        return Err("a series comes twice".to_owned());
    }
    serde_json::to_value(map).map_err(|error| error.to_string())
}

/// Equal, strings that are floats nearly so.
fn close(ours: &Value, theirs: &Value, path: &str) -> Result<(), String> {
    match (ours, theirs) {
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => a
            .iter()
            .zip(b)
            .enumerate()
            .try_for_each(|(at, (a, b))| close(a, b, &format!("{path}[{at}]"))),
        (Value::Array(a), Value::Array(b)) => Err(format!("{path}: {} elements, not {}", a.len(), b.len())),
        (Value::Object(a), Value::Object(b)) => {
            let keys: (Vec<&String>, Vec<&String>) = (a.keys().collect(), b.keys().collect());
            if keys.0 != keys.1 {
                return Err(format!("{path}: keys {:?}, not {:?}", keys.0, keys.1));
            }
            a.iter()
                .zip(b)
                .try_for_each(|((key, a), (_, b))| close(a, b, &format!("{path}.{key}")))
        }
        (Value::String(a), Value::String(b)) => match (a.parse::<f64>(), b.parse::<f64>()) {
            (Ok(x), Ok(y)) if near(x, y) => Ok(()),
            _ => same(ours, theirs, path),
        },
        _ => same(ours, theirs, path),
    }
}

fn near(a: f64, b: f64) -> bool {
    a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= TOLERANCE * a.abs().max(b.abs())
}
