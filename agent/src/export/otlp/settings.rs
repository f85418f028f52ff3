//! Settings of the OTLP exporter.

use super::signal::Signal;
use super::traces::settings::Traces;
use crate::export::duration;
use crate::export::push::delivery::Delivery;
use crate::export::push::settings::{self, Retry, Tls};
use anyhow::{Result, bail};
use reqwest::Url;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::Duration;

/// Metrics, profiles, logs and traces to an OpenTelemetry collector. Without an endpoint nothing is sent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct OtlpSettings {
    /// Where to send, e.g. `https://collector.example:4317`. `http` means plain text. With the protocol `http` the
    /// path `/v1/metrics` is added where the endpoint has none, and profiles go to `/v1development/profiles`, logs to `/v1/logs`, traces to `/v1/traces` beside it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// `grpc` or `http` (protobuf).
    pub protocol: Protocol,
    /// Send profiles too: what probe `profile` takes, each ten seconds once. Off by default: OTLP's definition of profiles
    /// (`v1development`) may still change, and not every collector takes them.
    pub profiles: bool,
    /// Send anomalies as log records: one when it begins, with its evidence (event `geophone.anomaly.begun`), one when it is over
    /// (`geophone.anomaly.over`).
    pub logs: bool,
    /// Connections that end, as spans.
    pub traces: Traces,
    /// Time between two exports of metrics.
    #[serde(with = "duration")]
    #[schemars(with = "String")]
    pub interval: Duration,
    /// Longest time for one attempt, from connecting to the end of the reply.
    #[serde(with = "duration")]
    #[schemars(with = "String")]
    pub timeout: Duration,
    /// `cumulative`: totals since the series began. `delta`: what came since the last export.
    pub temporality: Temporality,
    /// `none` or `gzip`.
    pub compression: Compression,
    /// File with headers to send, one `name: value` a line. Lines that begin with `#` are comments.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub headers_file: Option<PathBuf>,
    /// Whom to trust and who we are. Needs an `https` endpoint.
    pub tls: Tls,
    /// Exports that wait while the collector does not answer; when there are more, the oldest is dropped and counted.
    pub queue_size: usize,
    /// What happens after an attempt that may succeed later.
    pub retry: Retry,
}

/// Protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// gRPC.
    #[default]
    Grpc,
    /// HTTP with protobuf bodies.
    Http,
}

/// Temporality of sums and histograms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Temporality {
    /// Since the series began.
    #[default]
    Cumulative,
    /// Since the last export.
    Delta,
}

/// Compression of requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// As it is.
    #[default]
    None,
    /// gzip.
    Gzip,
}

impl Default for OtlpSettings {
    fn default() -> Self {
        Self {
            endpoint: None,
            profiles: false,
            logs: false,
            traces: Traces::default(),
            protocol: Protocol::default(),
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(10),
            temporality: Temporality::default(),
            compression: Compression::default(),
            headers_file: None,
            tls: Tls::default(),
            queue_size: 8,
            retry: Retry::default(),
        }
    }
}

impl OtlpSettings {
    /// Says what is wrong, in one line. Files are not looked at.
    pub fn validate(&self) -> Result<()> {
        self.url(Signal::Metrics)?;
        if self.profiles {
            self.url(Signal::Profiles)?;
        }
        if self.logs {
            self.url(Signal::Logs)?;
        }
        if self.traces.enabled {
            self.url(Signal::Traces)?;
        }
        self.traces.validate()?;
        settings::check(
            "otlp",
            self.interval,
            self.timeout,
            &self.retry,
            self.queue_size,
            &self.tls,
        )
    }

    /// Where a signal goes, path included; `None` = nothing is to be sent.
    pub fn url(&self, signal: Signal) -> Result<Option<Url>> {
        let Some(endpoint) = &self.endpoint else {
            return Ok(None);
        };
        let mut url = settings::url("otlp", "endpoint", endpoint, "http://127.0.0.1:4317", &self.tls)?;
        if url.query().is_some() || url.fragment().is_some() {
            bail!("otlp.endpoint {endpoint:?}: has a query or fragment; end it with the path");
        }
        match (self.protocol, url.path()) {
            (Protocol::Http, "" | "/") => url.set_path(signal.path()),
            (Protocol::Http, path) if signal != Signal::Metrics => {
                let Some(before) = path.strip_suffix(Signal::Metrics.path()) else {
                    bail!(
                        "otlp.endpoint {endpoint:?}: its path does not end in {}, so nobody knows that of {name}; end it \
                         so or set otlp.{name}{on}: false",
                        Signal::Metrics.path(),
                        name = signal.name(),
                        on = if signal == Signal::Traces { ".enabled" } else { "" },
                    );
                };
                let path = format!("{before}{}", signal.path());
                url.set_path(&path);
            }
            (Protocol::Grpc, "" | "/") | (Protocol::Http, _) => {}
            (Protocol::Grpc, path) => {
                bail!(
                    "otlp.endpoint {endpoint:?}: gRPC has no path {path}; remove it or set otlp.protocol: http"
                )
            }
        }
        Ok(Some(url))
    }

    /// The same as every exporter has it.
    pub fn delivery(&self, url: Url) -> Delivery {
        Delivery {
            name: "otlp".into(),
            url,
            timeout: self.timeout,
            retry: self.retry.clone(),
            queue_size: self.queue_size,
            headers_file: self.headers_file.clone(),
            tls: self.tls.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(yaml: &str) -> Result<OtlpSettings> {
        let settings: OtlpSettings = serde_yaml_ng::from_str(yaml)?;
        settings.validate()?;
        Ok(settings)
    }

    #[test]
    fn defaults_are_valid_and_come_back() {
        let yaml = serde_yaml_ng::to_string(&OtlpSettings::default()).unwrap();
        assert!(yaml.contains("interval: 10s"), "{yaml}");
        assert_eq!(with(&yaml).unwrap(), OtlpSettings::default());
        assert!(OtlpSettings::default().url(Signal::Metrics).unwrap().is_none());
    }

    #[test]
    fn the_path_is_added_where_there_is_none() {
        for (yaml, want) in [
            (
                "{endpoint: 'http://[::1]:4318', protocol: http}",
                "http://[::1]:4318/v1/metrics",
            ),
            (
                "{endpoint: 'https://c.example/otlp', protocol: http}",
                "https://c.example/otlp",
            ),
            ("{endpoint: 'http://127.0.0.1:4317'}", "http://127.0.0.1:4317/"),
        ] {
            let url = with(yaml).unwrap().url(Signal::Metrics);
            assert_eq!(url.unwrap().unwrap().as_str(), want);
        }
        for (endpoint, protocol, want) in [
            ("http://h:4318", "http", "http://h:4318/v1development/profiles"),
            (
                "http://h/x/v1/metrics",
                "http",
                "http://h/x/v1development/profiles",
            ),
            ("http://h:4317", "grpc", "http://h:4317/"),
        ] {
            let yaml = format!("{{endpoint: '{endpoint}', protocol: {protocol}, profiles: true}}");
            let url = with(&yaml).unwrap().url(Signal::Profiles);
            assert_eq!(url.unwrap().unwrap().as_str(), want);
        }
    }

    #[test]
    fn every_mistake_is_one_line_with_a_remedy() {
        for (yaml, want) in [
            (
                "{endpoint: 'localhost:4317'}",
                "scheme \"localhost\" is not http or https; put one before it",
            ),
            (
                "{endpoint: '127.0.0.1:4317'}",
                "not a URL; write e.g. http://127.0.0.1:4317",
            ),
            (
                "{endpoint: 'unix:///run/otlp.sock'}",
                "scheme \"unix\" is not http or https",
            ),
            (
                "{endpoint: 'http://u:secret@h:1'}",
                "otlp.endpoint: has a user or password",
            ),
            (
                "{endpoint: 'http://h', tls: {ca_file: /ca}}",
                "http is not encrypted; use https",
            ),
            (
                "{endpoint: 'http://h/v1/metrics'}",
                "gRPC has no path /v1/metrics",
            ),
            ("{endpoint: 'http://h?x=1', protocol: http}", "has a query"),
            (
                "{interval: 100ms}",
                "otlp.interval 100ms: out of range; use 1s to 1h",
            ),
            (
                "{endpoint: 'http://h/otlp', protocol: http, profiles: true}",
                "its path does not end in /v1/metrics",
            ),
            (
                "{endpoint: 'http://h/otlp', protocol: http, traces: {enabled: true}}",
                "end it so or set otlp.traces.enabled: false",
            ),
            (
                "{traces: {share: 1.5}}",
                "otlp.traces.share 1.5: out of range; use 0 to 1",
            ),
            ("{traces: {share: .nan}}", "out of range; use 0 to 1"),
            (
                "{traces: {slow: 10us}}",
                "otlp.traces.slow 10us: out of range; use 0s or 1ms to 1h",
            ),
            (
                "{traces: {per_second: 0}}",
                "otlp.traces.per_second 0: out of range",
            ),
            ("{interval: 10}", "duration"),
            ("{interval: -1s}", "duration"),
            ("{timeout: 0s}", "otlp.timeout 0s: out of range; use 100ms to 1h"),
            (
                "{retry: {initial: 10s, max: 1s}}",
                "otlp.retry.max 1s: out of range; use 10s to 1h",
            ),
            ("{queue_size: 0}", "otlp.queue_size 0: out of range"),
            ("{tls: {cert_file: /c}}", "set both or none"),
            ("{intervall: 1s}", "unknown field"),
            ("{protocol: grcp}", "unknown variant"),
        ] {
            let error = format!("{:#}", with(yaml).unwrap_err());
            assert!(
                error.contains(want) && !error.contains('\n') && !error.contains("secret"),
                "{yaml}: {error}"
            );
        }
    }
}
