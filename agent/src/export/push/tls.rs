//! The exporter's certificates, for both clients.

use super::settings::Tls;
use crate::export::secret;
use anyhow::{Result, anyhow, bail};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use std::path::Path;
use tonic::transport::{Certificate, ClientTlsConfig, Identity};

/// What a file of certificates holds, one at least.
pub fn certificates(what: &str, path: &Path) -> Result<Vec<u8>> {
    let pem = secret::read(what, path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(pem),
        _ => bail!(
            "{what} {}: no certificate in it; give certificates as PEM",
            path.display()
        ),
    }
}

/// A client of HTTP that trusts these authorities and no others.
pub fn trusting(what: &str, ca: &[u8], builder: reqwest::ClientBuilder) -> Result<reqwest::ClientBuilder> {
    let ca = reqwest::Certificate::from_pem_bundle(ca).map_err(|e| anyhow!("{what}: {e}"))?;
    Ok(builder.tls_certs_only(ca))
}

/// What the files hold, checked as far as it is PEM.
pub struct Files {
    ca: Option<Vec<u8>>,
    /// Certificate and key.
    identity: Option<(Vec<u8>, Vec<u8>)>,
}

impl Files {
    /// Reads what is configured.
    pub fn read(name: &str, tls: &Tls) -> Result<Self> {
        let ca = tls
            .ca_file
            .as_ref()
            .map(|path| certificates(&format!("{name}.tls.ca_file"), path))
            .transpose()?;
        let identity = match (&tls.cert_file, &tls.key_file) {
            (Some(cert), Some(key)) => Some((
                certificates(&format!("{name}.tls.cert_file"), cert)?,
                secret::read_secret(&format!("{name}.tls.key_file"), key)?.into_bytes(),
            )),
            _ => None,
        };
        Ok(Self { ca, identity })
    }

    /// The authorities, as PEM.
    pub fn ca(&self) -> Option<&[u8]> {
        self.ca.as_deref()
    }

    /// Certificate and key, as PEM.
    pub fn identity(&self) -> Option<(&[u8], &[u8])> {
        self.identity
            .as_ref()
            .map(|(certificate, key)| (certificate.as_slice(), key.as_slice()))
    }

    /// For gRPC.
    pub fn tonic(&self, server_name: Option<&str>) -> ClientTlsConfig {
        let mut config = match &self.ca {
            Some(ca) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca)),
            None => ClientTlsConfig::new().with_native_roots(),
        };
        if let Some((cert, key)) = &self.identity {
            config = config.identity(Identity::from_pem(cert, key));
        }
        match server_name {
            Some(name) => config.domain_name(name),
            None => config,
        }
    }

    /// For HTTP.
    pub fn reqwest(&self, name: &str, mut builder: reqwest::ClientBuilder) -> Result<reqwest::ClientBuilder> {
        if let Some(ca) = &self.ca {
            builder = trusting(&format!("{name}.tls.ca_file"), ca, builder)?;
        }
        if let Some((cert, key)) = &self.identity {
            let both = [cert.as_slice(), b"\n", key.as_slice()].concat();
            let identity = reqwest::Identity::from_pem(&both).map_err(|e| {
                anyhow!("{name}.tls.cert_file, key_file: {e}; give certificate and key as PEM")
            })?;
            builder = builder.identity(identity);
        }
        Ok(builder)
    }
}
