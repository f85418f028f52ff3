//! Instant queries, of geophone and of a real Prometheus.

use super::http;
use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use std::net::SocketAddr;

/// A query's text as it stands in a URL.
pub fn encoded(query: &str) -> String {
    query.bytes().map(|b| format!("%{b:02X}")).collect()
}

/// What an instant query comes to.
pub fn instant(at: SocketAddr, query: &str) -> Result<Vec<Value>> {
    instant_at(at, query, None)
}

/// The same at a time, in seconds.
pub fn instant_at(at: SocketAddr, query: &str, time: Option<f64>) -> Result<Vec<Value>> {
    let time = time.map_or_else(String::new, |time| format!("&time={time:.3}"));
    let path = format!("/api/v1/query?query={}{time}", encoded(query));
    let answer = http::get(None, at, &path, "application/json")?;
    let body: Value = serde_json::from_slice(&answer.body).with_context(|| answer.text())?;
    ensure!(
        answer.status == 200 && body["status"] == "success",
        "{query}: {body}"
    );
    Ok(body["data"]["result"].as_array().cloned().unwrap_or_default())
}

/// The one number that an instant query comes to.
pub fn number(at: SocketAddr, query: &str) -> Result<f64> {
    let result = instant(at, query)?;
    ensure!(result.len() == 1, "{query}: {result:?}");
    let number = result[0]["value"][1].as_str().and_then(|v| v.parse().ok());
    number.with_context(|| format!("{query}: {result:?}"))
}
