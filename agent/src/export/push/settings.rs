//! Settings that several exporters have, and what may be wrong with them.

use crate::export::duration;
use anyhow::{Result, bail};
use reqwest::Url;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::Duration;

/// TLS of the exporter. Files are read again whenever the connection is made anew after a failure.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Tls {
    /// PEM file with the only authorities to trust; without it those of the system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// PEM file with our own certificate, for mutual TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cert_file: Option<PathBuf>,
    /// PEM file with its private key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
    /// Name that the receiver's certificate must have, if it is not the endpoint's host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
}

/// Retries: the wait doubles each time and is shortened by a random part.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Retry {
    /// First wait.
    #[serde(with = "duration")]
    #[schemars(with = "String")]
    pub initial: Duration,
    /// Longest wait, also where the receiver asks for a longer one.
    #[serde(with = "duration")]
    #[schemars(with = "String")]
    pub max: Duration,
    /// After this time an export is given up and counted.
    #[serde(with = "duration")]
    #[schemars(with = "String")]
    pub max_elapsed: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            initial: Duration::from_secs(1),
            max: Duration::from_secs(30),
            max_elapsed: Duration::from_secs(300),
        }
    }
}

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

/// Says what is wrong, in one line. Files are not looked at.
pub fn check(
    exporter: &str,
    interval: Duration,
    timeout: Duration,
    retry: &Retry,
    queue_size: usize,
    tls: &Tls,
) -> Result<()> {
    for (name, value, shortest, longest) in [
        ("interval", interval, SECOND, HOUR),
        ("timeout", timeout, SECOND / 10, HOUR),
        ("retry.initial", retry.initial, SECOND / 100, HOUR),
        ("retry.max", retry.max, retry.initial, HOUR),
        ("retry.max_elapsed", retry.max_elapsed, Duration::ZERO, 24 * HOUR),
    ] {
        if !(shortest..=longest).contains(&value) {
            let [value, shortest, longest] = [value, shortest, longest].map(humantime::format_duration);
            bail!("{exporter}.{name} {value}: out of range; use {shortest} to {longest}");
        }
    }
    if !(1..=1024).contains(&queue_size) {
        bail!("{exporter}.queue_size {queue_size}: out of range; use 1 to 1024");
    }
    match (&tls.cert_file, &tls.key_file) {
        (Some(_), None) => bail!("{exporter}.tls.cert_file: there is no key_file; set both or none"),
        (None, Some(_)) => bail!("{exporter}.tls.key_file: there is no cert_file; set both or none"),
        _ => Ok(()),
    }
}

/// A text that was to be a URL, without what may be a password: that is before an `@`.
fn harmless(text: &str) -> String {
    match text.rsplit_once('@') {
        Some((_, rest)) => format!("\"…@{rest}\""),
        None => format!("{text:?}"),
    }
}

/// Reads a URL that may be shown; `setting` is where it stands.
pub fn url(exporter: &str, setting: &str, text: &str, example: &str, tls: &Tls) -> Result<Url> {
    let Ok(url) = Url::parse(text) else {
        bail!(
            "{exporter}.{setting} {}: not a URL; write e.g. {example}",
            harmless(text)
        );
    };
    // Not shown in messages from here on: it may hold a password.
    if !url.username().is_empty() || url.password().is_some() {
        bail!(
            "{exporter}.{setting}: has a user or password; put an authorization header into {exporter}.headers_file"
        );
    }
    if !matches!(url.scheme(), "http" | "https") {
        bail!(
            "{exporter}.{setting} {}: scheme {:?} is not http or https; put one before it",
            harmless(text),
            url.scheme()
        );
    }
    if url.scheme() == "http" && *tls != Tls::default() {
        bail!("{exporter}.{setting} {text:?}: {exporter}.tls is set, but http is not encrypted; use https");
    }
    Ok(url)
}
