//! Settings of the remote-write exporter.

use crate::export::duration;
use crate::export::push::delivery::Delivery;
use crate::export::push::settings::{self, Retry, Tls};
use agent_store::promql;
use anyhow::{Result, bail};
use reqwest::Url;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

pub(super) const NAME: &str = "remote_write";
/// As everywhere in the configuration.
const LONGEST: usize = 128;

/// Metrics to whoever takes Prometheus' remote write, native histograms among them. Without a URL nothing is sent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RemoteWriteSettings {
    /// Where to send, path included, e.g. `https://prometheus.example/api/v1/write`. `http` means plain text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Version of the protocol. `1` every receiver takes; `2` sends types, help and the beginning of counters as well, and the
    /// receiver says how much it has taken.
    #[schemars(range(min = 1, max = 2))]
    pub protocol: u8,
    /// How histograms are sent.
    pub histograms: Histograms,
    /// Time between two exports, each of the latest second.
    #[serde(with = "duration")]
    #[schemars(with = "String")]
    pub interval: Duration,
    /// Longest time for one attempt, from connecting to the end of the reply.
    #[serde(with = "duration")]
    #[schemars(with = "String")]
    pub timeout: Duration,
    /// Labels that all series get which do not have them already. `job` is geophone and `instance` the host's name.
    pub external_labels: BTreeMap<String, String>,
    /// File with headers to send, one `name: value` a line. Lines that begin with `#` are comments.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub headers_file: Option<PathBuf>,
    /// Whom to trust and who we are. Needs an `https` URL.
    pub tls: Tls,
    /// Exports that wait while the receiver does not answer; when there are more, the oldest is dropped and counted.
    pub queue_size: usize,
    /// What happens after an attempt that may succeed later.
    pub retry: Retry,
}

/// How histograms are sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Histograms {
    /// One sample each, which Prometheus 2 takes with `--enable-feature=native-histograms` only.
    #[default]
    Native,
    /// Buckets, sum and count, 31 series a histogram, which every receiver takes.
    Classic,
}

impl Default for RemoteWriteSettings {
    fn default() -> Self {
        Self {
            url: None,
            protocol: 1,
            histograms: Histograms::default(),
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(10),
            external_labels: BTreeMap::new(),
            headers_file: None,
            tls: Tls::default(),
            queue_size: 8,
            retry: Retry::default(),
        }
    }
}

impl RemoteWriteSettings {
    /// Says what is wrong, in one line. Files are not looked at.
    pub fn validate(&self) -> Result<()> {
        self.delivery()?;
        for (name, value) in &self.external_labels {
            if !promql::is_label_name(name) || name.starts_with("__") {
                bail!(
                    "remote_write.external_labels: {name:?} is no name of a label; use letters, digits and _"
                );
            }
            if value.is_empty() || value.len() > LONGEST {
                bail!("remote_write.external_labels.{name}: no value of 1 to {LONGEST} bytes; give one");
            }
        }
        settings::check(
            NAME,
            self.interval,
            self.timeout,
            &self.retry,
            self.queue_size,
            &self.tls,
        )
    }

    /// The same as every exporter has it; `None` = nothing is to be sent.
    pub fn delivery(&self) -> Result<Option<Delivery>> {
        let Some(text) = &self.url else {
            return Ok(None);
        };
        let example = "http://127.0.0.1:9090/api/v1/write";
        let url: Url = settings::url(NAME, "url", text, example, &self.tls)?;
        if url.fragment().is_some() {
            bail!("remote_write.url {text:?}: has a fragment; end it with the path");
        }
        if matches!(url.path(), "" | "/") {
            bail!("remote_write.url {text:?}: has no path; most receivers have /api/v1/write");
        }
        Ok(Some(Delivery {
            name: NAME.into(),
            url,
            timeout: self.timeout,
            retry: self.retry.clone(),
            queue_size: self.queue_size,
            headers_file: self.headers_file.clone(),
            tls: self.tls.clone(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mistake_is_one_line_with_a_remedy() {
        for (yaml, want) in [
            ("{url: '127.0.0.1:9090'}", "not a URL; write e.g. http://"),
            (
                "{url: 'http://h:9090'}",
                "has no path; most receivers have /api/v1/write",
            ),
            (
                "{url: 'http://u:secret@h/w'}",
                "remote_write.url: has a user or password",
            ),
            ("{url: 'http://u:secret@h:99999/w'}", "\"…@h:99999/w\": not a URL"),
            ("{url: 'u:secret@h/w'}", "is not http or https"),
            ("{url: 'http://h/w#x'}", "has a fragment"),
            ("{interval: 100ms}", "remote_write.interval 100ms: out of range"),
            ("{external_labels: {a-b: x}}", "\"a-b\" is no name of a label"),
            ("{external_labels: {__name__: x}}", "is no name of a label"),
            (
                "{external_labels: {dc: ''}}",
                "remote_write.external_labels.dc: no value",
            ),
        ] {
            let settings: RemoteWriteSettings = serde_yaml_ng::from_str(yaml).unwrap();
            let error = format!("{:#}", settings.validate().unwrap_err());
            assert!(
                error.contains(want) && !error.contains('\n') && !error.contains("secret"),
                "{yaml}: {error}"
            );
        }
        let good = "{url: 'https://h/api/v1/write?tenant=1', external_labels: {dc: fra}}";
        let settings: RemoteWriteSettings = serde_yaml_ng::from_str(good).unwrap();
        settings.validate().unwrap();
    }
}
