//! The API's certificates, as the server shows them and as the other commands know it by them.

use super::settings::ApiTls;
use crate::export::secret;
use anyhow::{Context as _, Result, anyhow, bail};
use rustls::client::WantsClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{
    ClientConfig, ConfigBuilder, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme,
};
use std::path::Path;
use std::sync::Arc;

const CERTIFICATE: &str = "api.tls.cert_file";

/// What the server shows, and whom it admits.
pub(super) fn server(tls: &ApiTls) -> Result<Arc<ServerConfig>> {
    let provider = Arc::new(ring::default_provider());
    let builder =
        ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
    let chain = certificates(CERTIFICATE, &tls.cert_file)?;
    let key = secret::read_secret("api.tls.key_file", &tls.key_file)?;
    let key = key_of("api.tls.key_file", &tls.key_file, key.as_bytes())?;
    let builder = match &tls.client_ca_file {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            let context = || format!("api.tls.client_ca_file {}", path.display());
            for certificate in certificates("api.tls.client_ca_file", path)? {
                roots.add(certificate).with_context(context)?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().with_context(context)?)
        }
    };
    let config = builder.with_single_cert(chain, key);
    let mut config = config.map_err(|e| belongs(CERTIFICATE, &tls.cert_file, &e))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// For who asks the agent of these settings: it trusts the certificate that this agent shows, and nothing else. No authority is
/// asked, so no other certificate of the same one will do; and no name, for `0.0.0.0` and a node's loopback have none. The
/// server's key is not read.
pub fn client(tls: &ApiTls) -> Result<ClientConfig> {
    let provider = Arc::new(ring::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
    let mut shown = certificates(CERTIFICATE, &tls.cert_file)?;
    let known = Arc::new(Known {
        certificate: shown.swap_remove(0),
        file: tls.cert_file.display().to_string(),
        provider,
    });
    let builder = builder.dangerous().with_custom_certificate_verifier(known);
    identified(builder, tls)
}

/// With the certificate that the server asks for, where it asks for one.
fn identified(builder: ConfigBuilder<ClientConfig, WantsClientCert>, tls: &ApiTls) -> Result<ClientConfig> {
    let (certificate, key) = match (&tls.client_ca_file, &tls.client_cert_file, &tls.client_key_file) {
        (None, ..) => return Ok(builder.with_no_client_auth()),
        (Some(_), Some(certificate), Some(key)) => (certificate, key),
        (Some(_), ..) => bail!(
            "api.tls.client_ca_file: it asks clients for a certificate; \
             give one of that authority as api.tls.client_cert_file and client_key_file"
        ),
    };
    let chain = certificates("api.tls.client_cert_file", certificate)?;
    let pem = secret::read("api.tls.client_key_file", key)?;
    let built = builder.with_client_auth_cert(chain, key_of("api.tls.client_key_file", key, &pem)?);
    built.map_err(|e| belongs("api.tls.client_cert_file", certificate, &e))
}

/// All certificates of a file, one at least.
fn certificates(what: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let pem = secret::read(what, path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let found = found.map_err(|e| anyhow!("{what} {}: {e}; give certificates as PEM", path.display()))?;
    if found.is_empty() {
        bail!(
            "{what} {}: no certificate in it; give certificates as PEM",
            path.display()
        );
    }
    Ok(found)
}

fn key_of(what: &str, path: &Path, pem: &[u8]) -> Result<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_slice(pem)
        .map_err(|e| anyhow!("{what} {}: {e}; give a private key as PEM", path.display()))
}

fn belongs(what: &str, path: &Path, error: &rustls::Error) -> anyhow::Error {
    anyhow!("{what} {}: {error}; does the key belong to it?", path.display())
}

/// The one certificate that is trusted. That the server has its key is checked as ever.
#[derive(Debug)]
struct Known {
    certificate: CertificateDer<'static>,
    file: String,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Known {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if *shown == self.certificate {
            return Ok(ServerCertVerified::assertion());
        }
        Err(rustls::Error::General(format!(
            "the certificate that is shown is not that of {CERTIFICATE} {}",
            self.file
        )))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
