//! Where an exporter sends and how long it tries, and the HTTP client and the headers for that.

use super::http::{self, AGENT, describe};
use super::settings::{Retry, Tls};
use super::tls::Files;
use anyhow::{Context as _, Result, anyhow, bail};
use reqwest::Url;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use std::borrow::Cow;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// The settings that all exporters have; each says what they mean in its own.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// The exporter's name in the configuration and in the log.
    pub name: Cow<'static, str>,
    /// Where to send.
    pub url: Url,
    /// Longest time for one attempt.
    pub timeout: Duration,
    /// What happens after an attempt that may succeed later.
    pub retry: Retry,
    /// Exports that may wait.
    pub queue_size: usize,
    /// File with headers to send.
    pub headers_file: Option<PathBuf>,
    /// Whom to trust and who we are.
    pub tls: Tls,
}

impl Delivery {
    /// The configured headers.
    pub fn headers(&self) -> Result<HeaderMap> {
        let Some(path) = &self.headers_file else {
            return Ok(HeaderMap::new());
        };
        let what = format!("{}.headers_file", self.name);
        let text = crate::export::secret::read_secret(&what, path)?;
        parse_headers(&text).with_context(|| format!("{what} {}", path.display()))
    }

    /// The files of TLS.
    pub fn files(&self) -> Result<Files> {
        Files::read(&self.name, &self.tls)
    }

    /// A client of HTTP/1.1, and the URL to give it.
    pub fn http(&self) -> Result<(reqwest::Client, Url)> {
        let (name, mut url) = (&*self.name, self.url.clone());
        let mut builder = reqwest::Client::builder()
            .user_agent(AGENT)
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .no_proxy()
            .connect_timeout(self.timeout)
            .http1_only();
        if url.scheme() == "https" {
            builder = self.files()?.reqwest(name, builder.https_only(true))?;
            if let Some(server) = &self.tls.server_name {
                let host = url.host_str().unwrap_or_default();
                let host = host.trim_matches(['[', ']']).to_owned();
                builder = builder.dns_resolver(Instead(Arc::from(host)));
                if url.set_host(Some(server)).is_err() || url.host_str() != Some(server) {
                    bail!("{name}.tls.server_name {server:?}: not a host name");
                }
            }
        }
        let client = http::for_url(builder, &url)
            .build()
            .map_err(|e| anyhow!("{name}.tls: {}; check the PEM files", describe(&e)))?;
        Ok((client, url))
    }
}

/// Resolves the endpoint's host where the client asks for the name that the certificate has.
struct Instead(Arc<str>);

impl reqwest::dns::Resolve for Instead {
    fn resolve(&self, _: reqwest::dns::Name) -> reqwest::dns::Resolving {
        let host = self.0.clone();
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((host.as_ref(), 0)).await?.collect();
            Ok(Box::new(found.into_iter()) as reqwest::dns::Addrs)
        })
    }
}

/// Headers that say what a request is.
const OURS: [&str; 8] = [
    "content-type",
    "content-length",
    "content-encoding",
    "host",
    "te",
    "transfer-encoding",
    "user-agent",
    "x-prometheus-remote-write-version",
];

/// One `name: value` a line. Messages name the line and never the value.
fn parse_headers(text: &str) -> Result<HeaderMap> {
    let mut out = HeaderMap::new();
    for (i, line) in text.lines().enumerate() {
        let (line, at) = (line.trim(), i + 1);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let Some((name, value)) = line.split_once(':') else {
            bail!("line {at}: no colon; write name: value")
        };
        let Ok(name) = name.trim().parse::<HeaderName>() else {
            bail!("line {at}: not a header name")
        };
        if OURS.contains(&name.as_str())
            || name.as_str().starts_with("grpc-")
            || name.as_str().ends_with("-bin")
        {
            bail!("line {at}: header {name} is set by the exporter; remove it");
        }
        let Ok(mut value) = value.trim().parse::<HeaderValue>() else {
            bail!("line {at}: value of {name} has characters that a header must not have");
        };
        value.set_sensitive(true);
        out.append(name, value);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_and_their_values_never_shown() {
        let headers = parse_headers("# who\n\nAuthorization:  Bearer s3cret: x \r\nx-scope: 1\n").unwrap();
        assert_eq!(headers["authorization"], "Bearer s3cret: x");
        assert_eq!(headers.len(), 2);
        assert!(!format!("{headers:?}").contains("s3cret"));
        for (text, want) in [
            ("a: 1\ns3cret", "line 2: no colon"),
            ("s3 cret: 1", "line 1: not a header name"),
            ("a: s3\u{0}cret", "line 1: value of a"),
            (
                "Content-Type: s3cret",
                "line 1: header content-type is set by the exporter",
            ),
        ] {
            let error = parse_headers(text).unwrap_err().to_string();
            assert!(error.starts_with(want) && !error.contains("s3cret"), "{error}");
        }
    }
}
