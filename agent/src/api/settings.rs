//! Settings of the API.

use anyhow::{Result, bail};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

/// The HTTP API and `/metrics`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ApiSettings {
    /// Address and port to listen on. Any address but loopback needs `tls`, and `token_file` or `tls.client_ca_file`.
    pub listen: SocketAddr,
    /// TLS. Without it the API speaks plain HTTP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<ApiTls>,
    /// File with the token that requests must carry as `Authorization: Bearer …`, at least 16 characters.
    /// `/healthz` and `/readyz` need none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
    /// Names under which requests may call this agent, beside `localhost` and addresses, where neither a token nor a client's
    /// certificate is asked for. Any other is refused: a web page could point it here and read what the agent knows.
    pub hosts: Vec<String>,
}

/// Certificates of the API.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ApiTls {
    /// PEM file with the certificate and its chain.
    pub cert_file: PathBuf,
    /// PEM file with the private key.
    pub key_file: PathBuf,
    /// PEM file with the authorities whose client certificates are admitted, for all paths. Without it clients need none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_ca_file: Option<PathBuf>,
    /// PEM file with the certificate by which `geophone top` and the other commands that ask a running agent are admitted,
    /// where `client_ca_file` asks for one. The agent does not read it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_cert_file: Option<PathBuf>,
    /// PEM file with its private key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_key_file: Option<PathBuf>,
}

impl Default for ApiSettings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 9779)),
            tls: None,
            token_file: None,
            hosts: Vec::new(),
        }
    }
}

impl ApiSettings {
    /// Refuses to show this machine to a network without protection.
    pub fn validate(&self) -> Result<()> {
        if let Some(tls) = &self.tls
            && tls.client_cert_file.is_some() != tls.client_key_file.is_some()
        {
            bail!("api.tls: client_cert_file and client_key_file belong together; set both or none");
        }
        if let Some(tls) = &self.tls
            && tls.client_cert_file.is_some()
            && tls.client_ca_file.is_none()
        {
            bail!("api.tls.client_cert_file: no client is asked for a certificate; set client_ca_file too");
        }
        if self.listen.ip().to_canonical().is_loopback() {
            return Ok(());
        }
        let (missing, remedy) = match (&self.tls, &self.token_file) {
            (Some(_), Some(_)) => return Ok(()),
            (Some(_), None) if self.knows_clients() => return Ok(()),
            (None, Some(_)) => ("api.tls is", "set it"),
            (Some(_), None) => ("api.token_file is", "set it, or api.tls.client_ca_file,"),
            (None, None) => ("api.tls and api.token_file are", "set them"),
        };
        bail!(
            "api.listen {}: other machines can reach it and {missing} not set; {remedy} or listen on 127.0.0.1",
            self.listen
        )
    }

    /// Who has no certificate of an authority that is named is refused before he can ask.
    pub(super) fn knows_clients(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.client_ca_file.is_some())
    }
}
