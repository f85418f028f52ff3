//! Certificates for the tests of TLS, made anew in a directory that goes with them.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// A directory that is removed with the value.
pub struct Directory(PathBuf);

impl Directory {
    /// An empty one.
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "geophone-test-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Relaxed)
        );
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    /// Writes a file.
    pub fn write(&self, name: &str, contents: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, contents).unwrap();
        path
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// An authority.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    name: &'static str,
}

impl Authority {
    /// A new one; `name` tells its files from others'.
    pub fn new(name: &'static str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        Self {
            issuer: CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap(),
            name,
        }
    }

    /// Its certificate.
    pub fn file(&self, directory: &Directory) -> PathBuf {
        directory.write(&format!("{}.pem", self.name), &self.issuer.pem())
    }

    /// Certificate and key for a name.
    pub fn issue(&self, directory: &Directory, subject: &str) -> (PathBuf, PathBuf) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![subject.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let file = |what: &str| format!("{}-{subject}-{what}.pem", self.name);
        (
            directory.write(&file("cert"), &certificate.pem()),
            directory.write(&file("key"), &key.serialize_pem()),
        )
    }
}

/// Reads a file.
pub fn contents(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap()
}

/// What main does.
pub fn install_crypto() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}
