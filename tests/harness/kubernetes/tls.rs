//! TLS in front of the server, and what the kubelet gives a container that may speak to it.

use super::{Api, TOKEN};
use crate::harness::otlp::Authority;
use anyhow::{Context as _, Result};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

impl Api {
    /// A command that runs its arguments as in a pod with a service account: token, authority and namespace where the kubelet
    /// puts them, in a mount namespace of its own, and the variables. The server is behind TLS.
    pub fn pod(&self, authority: &Authority) -> Result<Vec<String>> {
        let port = front(self.at, authority)?;
        let ca = authority.file("ca.crt");
        let script = format!(
            "set -e; at=/run/secrets/kubernetes.io/serviceaccount; mount -t tmpfs tmpfs /run; mkdir -p $at; \
             cp {ca} $at/ca.crt; printf %s {TOKEN} >$at/token; printf monitoring >$at/namespace; \
             export KUBERNETES_SERVICE_HOST=localhost KUBERNETES_SERVICE_PORT={port} NODE_NAME=node-1; exec \"$@\""
        );
        Ok(["unshare", "--mount", "sh", "-c", &script, "sh"]
            .map(str::to_owned)
            .into())
    }
}

/// Passes on to `at` what comes by TLS; returns the port.
fn front(at: SocketAddr, authority: &Authority) -> Result<u16> {
    let chain =
        CertificateDer::pem_file_iter(authority.files.path("server.crt"))?.collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_file(authority.files.path("server.key"))?;
    let tls = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let (sender, port) = sync_channel(1);
    std::thread::spawn(move || {
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            let _ = sender.send(listener.local_addr()?.port());
            loop {
                let (stream, _) = listener.accept().await?;
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let mut outside = acceptor.accept(stream).await?;
                    let mut inside = TcpStream::connect(at).await?;
                    tokio::io::copy_bidirectional(&mut outside, &mut inside).await
                });
            }
            #[expect(unreachable_code, reason = "it names the type of the errors above")]
            std::io::Result::Ok(())
        })
    });
    port.recv().context("no TLS server")
}
