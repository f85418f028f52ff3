//! One connection to a collector, over gRPC or HTTP.

use super::reply::{self, LONGEST, Reply};
use super::settings::{Compression, OtlpSettings, Protocol};
use super::signal::Signal;
use super::tls::Files;
use anyhow::{Context as _, Result, anyhow, bail};
use bytes::{Buf as _, BufMut as _, Bytes};
use reqwest::Url;
use reqwest::header::{self, HeaderMap, HeaderName, HeaderValue};
use std::net::SocketAddr;
use std::sync::Arc;
use tonic::codec::{Codec, CompressionEncoding, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

const AGENT: &str = concat!("geophone/", env!("CARGO_PKG_VERSION"));

/// A client with its files read. Made anew after failures, so that new certificates and headers are taken up.
pub struct Client {
    kind: Kind,
    signal: Signal,
    headers: HeaderMap,
    compression: Compression,
}

enum Kind {
    Grpc(Channel),
    Http(reqwest::Client, Url),
}

impl Client {
    /// Reads the files; does not connect. Must be called in a tokio runtime.
    pub fn new(settings: &OtlpSettings, url: &Url, signal: Signal) -> Result<Self> {
        let headers = match &settings.headers_file {
            None => HeaderMap::new(),
            Some(path) => {
                let text = crate::export::secret::read_secret("otlp.headers_file", path)?;
                parse_headers(&text).with_context(|| format!("otlp.headers_file {}", path.display()))?
            }
        };
        let files = Files::read(&settings.tls)?;
        let kind = match settings.protocol {
            Protocol::Grpc => Kind::Grpc(channel(settings, url, &files)?),
            Protocol::Http => {
                let (client, url) = http_client(settings, url, &files)?;
                Kind::Http(client, url)
            }
        };
        Ok(Self {
            kind,
            signal,
            headers,
            compression: settings.compression,
        })
    }

    /// Sends one request. `body` is compressed in place the first time if it is to be.
    pub async fn send(&self, body: Bytes) -> Reply {
        match &self.kind {
            Kind::Grpc(channel) => self.grpc(channel.clone(), body).await,
            Kind::Http(client, url) => self.http(client, url, body).await,
        }
    }

    async fn grpc(&self, channel: Channel, body: Bytes) -> Reply {
        let mut grpc = tonic::client::Grpc::new(channel).max_decoding_message_size(LONGEST);
        if self.compression == Compression::Gzip {
            grpc = grpc.send_compressed(CompressionEncoding::Gzip);
        }
        if let Err(error) = grpc.ready().await {
            return reply::grpc(&Status::from_error(error.into()));
        }
        let mut request = Request::new(body);
        *request.metadata_mut() = MetadataMap::from_headers(self.headers.clone());
        match grpc.unary(request, self.signal.method(), Raw).await {
            Ok(response) => reply::accepted(&response.into_inner()),
            Err(status) => reply::grpc(&status),
        }
    }

    async fn http(&self, client: &reqwest::Client, url: &Url, body: Bytes) -> Reply {
        let mut request = client.post(url.clone()).headers(self.headers.clone());
        request = request.header(header::CONTENT_TYPE, "application/x-protobuf");
        let body = match self.compression {
            Compression::None => body,
            Compression::Gzip => {
                request = request.header(header::CONTENT_ENCODING, "gzip");
                // Up to 20 ms of computing.
                match tokio::task::spawn_blocking(move || gzip(&body)).await {
                    Ok(Ok(body)) => body,
                    _ => return Reply::retry("gzip failed"),
                }
            }
        };
        let mut response = match request.body(body).send().await {
            Ok(response) => response,
            Err(error) => return Reply::retry(describe(&error)),
        };
        let status = response.status().as_u16();
        let mut read = Some(Vec::new());
        while let Some(so_far) = &mut read {
            match response.chunk().await {
                Ok(Some(chunk)) if so_far.len() + chunk.len() > LONGEST => read = None,
                Ok(Some(chunk)) => so_far.extend_from_slice(&chunk),
                Ok(None) => break,
                // Without the end of the reply it is not known what was accepted; a repetition does no harm, for
                // points carry their times and profiles their ids.
                Err(error) => return Reply::retry(describe(&error)),
            }
        }
        let get = |name| response.headers().get(name).and_then(|v| v.to_str().ok());
        reply::http(
            status,
            get(header::CONTENT_TYPE).unwrap_or_default(),
            get(header::RETRY_AFTER),
            read.as_deref(),
        )
    }
}

fn gzip(body: &[u8]) -> std::io::Result<Bytes> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut encoder, body)?;
    Ok(encoder.finish()?.into())
}

/// The error and what lies below it, without the URL.
fn describe(error: &reqwest::Error) -> String {
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

fn channel(settings: &OtlpSettings, url: &Url, files: &Files) -> Result<Channel> {
    let mut endpoint = Endpoint::from_shared(url.as_str().to_owned())?
        .user_agent(AGENT)?
        .connect_timeout(settings.timeout)
        .http2_max_header_list_size(LONGEST as u32);
    if url.scheme() == "https" {
        endpoint = endpoint
            .tls_config(files.tonic(settings.tls.server_name.as_deref()))
            .map_err(|e| {
                let cause = std::error::Error::source(&e).map_or_else(|| e.to_string(), |s| s.to_string());
                anyhow!("otlp.tls: {cause}; check the PEM files")
            })?;
    }
    Ok(endpoint.connect_lazy())
}

fn http_client(settings: &OtlpSettings, url: &Url, files: &Files) -> Result<(reqwest::Client, Url)> {
    let mut url = url.clone();
    let mut builder = reqwest::Client::builder()
        .user_agent(AGENT)
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        .no_proxy()
        .connect_timeout(settings.timeout)
        .http1_only();
    if url.scheme() == "https" {
        builder = files.reqwest(builder.https_only(true))?;
        if let Some(name) = &settings.tls.server_name {
            let host = url
                .host_str()
                .unwrap_or_default()
                .trim_matches(['[', ']'])
                .to_owned();
            builder = builder.dns_resolver(Instead(Arc::from(host)));
            if url.set_host(Some(name)).is_err() || url.host_str() != Some(name) {
                bail!("otlp.tls.server_name {name:?}: not a host name");
            }
        }
    }
    let client = builder
        .build()
        .map_err(|e| anyhow!("otlp.tls: {}; check the PEM files", describe(&e)))?;
    Ok((client, url))
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
        let ours = [
            "content-type",
            "content-length",
            "content-encoding",
            "host",
            "te",
            "transfer-encoding",
        ];
        if ours.contains(&name.as_str())
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

/// Messages that are encoded already, and replies that are decoded later.
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
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
