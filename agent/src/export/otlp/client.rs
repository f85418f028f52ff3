//! One connection to a collector, over gRPC or HTTP.

use super::reply;
use super::settings::{Compression, OtlpSettings, Protocol};
use super::signal::Signal;
use crate::export::push::delivery::Delivery;
use crate::export::push::reply::{LONGEST, Reply};
use crate::export::push::{self, Part, http};
use anyhow::{Result, anyhow};
use bytes::{Buf as _, BufMut as _, Bytes};
use reqwest::Url;
use reqwest::header::{self, HeaderMap};
use tonic::codec::{Codec, CompressionEncoding, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

/// A collector, as it is configured.
pub struct Collector {
    settings: OtlpSettings,
    delivery: Delivery,
    signal: Signal,
}

impl Collector {
    /// For one signal.
    pub fn new(settings: &OtlpSettings, delivery: &Delivery, signal: Signal) -> Self {
        Self {
            settings: settings.clone(),
            delivery: delivery.clone(),
            signal,
        }
    }
}

impl push::Target for Collector {
    type Client = Client;

    fn client(&self) -> Result<Client> {
        Client::new(self)
    }
}

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
    fn new(collector: &Collector) -> Result<Self> {
        let (settings, delivery) = (&collector.settings, &collector.delivery);
        let kind = match settings.protocol {
            Protocol::Grpc => Kind::Grpc(channel(delivery)?),
            Protocol::Http => {
                let (client, url) = delivery.http()?;
                Kind::Http(client, url)
            }
        };
        Ok(Self {
            kind,
            signal: collector.signal,
            headers: delivery.headers()?,
            compression: settings.compression,
        })
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
        let mut own = vec![(header::CONTENT_TYPE, "application/x-protobuf")];
        let body = match self.compression {
            Compression::None => body,
            Compression::Gzip => {
                own.push((header::CONTENT_ENCODING, "gzip"));
                // Up to 20 ms of computing.
                match tokio::task::spawn_blocking(move || gzip(&body)).await {
                    Ok(Ok(body)) => body,
                    _ => return Reply::retry("gzip failed"),
                }
            }
        };
        match http::post(client, url, &self.headers, &own, body).await {
            Ok(answer) => reply::http(
                answer.status,
                answer.header(header::CONTENT_TYPE).unwrap_or_default(),
                answer.header(header::RETRY_AFTER),
                answer.body.as_deref(),
            ),
            Err(reply) => reply,
        }
    }
}

impl push::Client for Client {
    /// The body is compressed the first time if it is to be.
    async fn send(&self, part: &Part) -> Reply {
        let body = part.body.clone();
        match &self.kind {
            Kind::Grpc(channel) => self.grpc(channel.clone(), body).await,
            Kind::Http(client, url) => self.http(client, url, body).await,
        }
    }
}

fn gzip(body: &[u8]) -> std::io::Result<Bytes> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut encoder, body)?;
    Ok(encoder.finish()?.into())
}

fn channel(delivery: &Delivery) -> Result<Channel> {
    let files = delivery.files()?;
    let mut endpoint = Endpoint::from_shared(delivery.url.as_str().to_owned())?
        .user_agent(http::AGENT)?
        .connect_timeout(delivery.timeout)
        .http2_max_header_list_size(LONGEST as u32);
    if delivery.url.scheme() == "https" {
        endpoint = endpoint
            .tls_config(files.tonic(delivery.tls.server_name.as_deref()))
            .map_err(|e| {
                let cause = std::error::Error::source(&e).map_or_else(|| e.to_string(), |s| s.to_string());
                anyhow!("otlp.tls: {cause}; check the PEM files")
            })?;
    }
    Ok(endpoint.connect_lazy())
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
