//! Placeholders of settings that live beside the code that they are for.

use super::units::HumanDuration;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::PathBuf;

/// HTTP: metrics, health and the API.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ApiSettings {
    /// Address and port to listen on. Any but a loopback address needs `tls` and `token_file`.
    #[schemars(with = "String")]
    pub listen: SocketAddr,
    /// Certificate to serve; without it the API speaks plain HTTP.
    pub tls: Option<TlsSettings>,
    /// File with the token that requests must bear.
    pub token_file: Option<PathBuf>,
}

impl Default for ApiSettings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 9779)),
            tls: None,
            token_file: None,
        }
    }
}

/// A certificate and its key.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TlsSettings {
    /// PEM file with the certificate chain.
    pub cert_file: PathBuf,
    /// PEM file with the private key.
    pub key_file: PathBuf,
}

/// How to speak to an OTLP receiver.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OtlpProtocol {
    /// gRPC.
    #[default]
    Grpc,
    /// HTTP with protobuf bodies.
    Http,
}

/// An OTLP receiver.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OtlpSettings {
    /// URL, e.g. `https://collector.example:4317`.
    pub endpoint: String,
    /// Protocol.
    #[serde(default)]
    pub protocol: OtlpProtocol,
    /// Time between two exports.
    #[serde(default = "interval")]
    #[schemars(extend("x-minimum" = "1s", "x-maximum" = "10m"))]
    pub interval: HumanDuration,
}

fn interval() -> HumanDuration {
    HumanDuration::from_secs(10)
}
