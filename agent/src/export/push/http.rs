//! One POST, and its answer read within bounds.

use super::reply::{self, LONGEST, Reply};
use bytes::Bytes;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{ClientBuilder, Url};
use rustls::{ClientConfig, RootCertStore};
use std::sync::Arc;

/// For what is not encrypted, as the URL says: the authorities of the system are not asked for, which a machine, or an image of
/// nothing but this program, need not have. Without them no client could be made.
pub fn for_url(builder: ClientBuilder, url: &Url) -> ClientBuilder {
    match url.scheme() {
        "http" => plain(builder),
        _ => builder,
    }
}

/// See [`for_url`].
pub fn plain(builder: ClientBuilder) -> ClientBuilder {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    match config {
        Ok(config) => builder.tls_backend_preconfigured(
            config
                .with_root_certificates(RootCertStore::empty())
                .with_no_client_auth(),
        ),
        Err(_) => builder,
    }
}

/// Who sends.
pub const AGENT: &str = concat!("geophone/", env!("CARGO_PKG_VERSION"));

/// What came back.
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its headers.
    pub headers: HeaderMap,
    /// `None` if it was too long.
    pub body: Option<Vec<u8>>,
}

impl Answer {
    /// A header, if it is there and readable.
    pub fn header(&self, name: impl reqwest::header::AsHeaderName) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

/// Posts a body; `Err` = nobody has answered to the end.
pub async fn post(
    client: &reqwest::Client,
    url: &Url,
    headers: &HeaderMap,
    own: &[(HeaderName, &'static str)],
    body: Bytes,
) -> Result<Answer, Reply> {
    let mut headers = headers.clone();
    for (name, value) in own {
        headers.insert(name, HeaderValue::from_static(value));
    }
    let request = client.post(url.clone()).headers(headers).body(body);
    let failed = |error: reqwest::Error| Reply::retry(describe(&error));
    let mut response = request.send().await.map_err(failed)?;
    let mut read = Some(Vec::new());
    while let Some(so_far) = &mut read {
        // Without the end of the reply it is not known what was accepted; a repetition does no harm, for points carry
        // their times and profiles their ids.
        match response.chunk().await.map_err(failed)? {
            Some(chunk) if so_far.len() + chunk.len() > LONGEST => read = None,
            Some(chunk) => so_far.extend_from_slice(&chunk),
            None => break,
        }
    }
    Ok(Answer {
        status: response.status().as_u16(),
        headers: std::mem::take(response.headers_mut()),
        body: read,
    })
}

/// The error and what lies below it, without the URL.
pub fn describe(error: &reqwest::Error) -> String {
    let mut out = if error.is_connect() {
        "not connected".to_owned()
    } else {
        "no reply".to_owned()
    };
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        out = format!("{out}: {error}");
        source = error.source();
    }
    reply::printable(&out)
}
