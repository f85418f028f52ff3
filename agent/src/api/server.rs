//! Listening, TLS, and connections that cannot tie the agent up.

use super::held::{Held, LOOK};
use super::places::{Admission, Place, Places};
use super::settings::ApiSettings;
use super::stats::Files;
use super::{State, routes, tls};
use crate::export::secret;
use anyhow::{Context as _, Result, anyhow, bail};
use axum::Router;
use axum::http::{HeaderMap, header};
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use nix::sys::socket::{setsockopt, sockopt::TcpUserTimeout};
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use subtle::ConstantTimeEq as _;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsAcceptor;

/// Connections at a time; more wait in the kernel's queue, or get the place of one that has asked for nothing yet.
pub(super) const CONNECTIONS: usize = 64;
/// Default of [`Bound::patience`].
const PATIENCE: Duration = Duration::from_secs(10);
/// For what is under way at shutdown.
const GRACE: Duration = Duration::from_secs(1);
const SHORTEST_TOKEN: usize = 16;

/// What [`bind`] has made ready.
pub struct Bound {
    listener: std::net::TcpListener,
    tls: Option<Held<TlsAcceptor>>,
    token: Option<Held<Arc<Token>>>,
    /// `None`: under whatever name, for no page of somebody else's has a browser that would show a certificate to it.
    hosts: Option<Vec<String>>,
    address: SocketAddr,
    /// For the TLS handshake, for the head of each request, and for a client to go on taking what it is sent.
    pub(super) patience: Duration,
    /// Between two looks at the files.
    pub(super) look: Duration,
}

impl Bound {
    /// Where it listens; the port is the real one if 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// The bearer token.
pub(super) struct Token(Vec<u8>);

impl Token {
    fn read(path: &Path) -> Result<Self> {
        let token = secret::read_secret("api.token_file", path)?;
        let token = token.trim();
        if token.len() < SHORTEST_TOKEN || !token.bytes().all(|b| b.is_ascii_graphic()) {
            bail!(
                "api.token_file {}: not {SHORTEST_TOKEN} printable characters; openssl rand -hex 32",
                path.display()
            );
        }
        Ok(Self(token.as_bytes().to_vec()))
    }

    /// Compares in constant time: how long a refusal takes tells nothing about the token but its length.
    pub(super) fn admits(&self, headers: &HeaderMap) -> bool {
        let given = headers
            .get(header::AUTHORIZATION)
            .map_or(&[][..], |v| v.as_bytes());
        let Some((scheme, token)) = given.split_at_checked(7) else {
            return false;
        };
        scheme.eq_ignore_ascii_case(b"Bearer ") && token.ct_eq(&self.0).into()
    }
}

/// Reads the files and takes the port, so that what is wrong with them is known before any probe is loaded.
pub fn bind(settings: &ApiSettings) -> Result<Bound> {
    settings.validate()?;
    let token = settings.token_file.clone().map(|path| {
        Held::new(Files::Token, [path.clone()], move || {
            Token::read(&path).map(Arc::new)
        })
    });
    let tls = settings.tls.clone().map(|tls| {
        let paths = [&tls.cert_file, &tls.key_file]
            .into_iter()
            .chain(&tls.client_ca_file);
        let paths: Vec<PathBuf> = paths.cloned().collect();
        Held::new(Files::Tls, paths, move || {
            tls::server(&tls).map(TlsAcceptor::from)
        })
    });
    let (token, tls) = (token.transpose()?, tls.transpose()?);
    let listener = std::net::TcpListener::bind(settings.listen).map_err(|e| {
        let remedy = match e.kind() {
            ErrorKind::AddrInUse => "address already in use; another geophone? use --listen".to_owned(),
            ErrorKind::AddrNotAvailable => "no interface has this address; use --listen".to_owned(),
            ErrorKind::PermissionDenied => "not permitted; use a port above 1023 or run as root".to_owned(),
            _ => e.to_string(),
        };
        anyhow!("api.listen {}: {remedy}", settings.listen)
    })?;
    listener
        .set_nonblocking(true)
        .with_context(|| format!("api.listen {}", settings.listen))?;
    let address = listener
        .local_addr()
        .with_context(|| format!("api.listen {}", settings.listen))?;
    Ok(Bound {
        listener,
        tls,
        token,
        hosts: (!settings.knows_clients()).then(|| settings.hosts.clone()),
        address,
        patience: PATIENCE,
        look: LOOK,
    })
}

/// Answers until `shutdown` resolves.
pub async fn serve(bound: Bound, state: State, shutdown: impl Future<Output = ()>) -> Result<()> {
    let Bound {
        listener,
        tls,
        token,
        hosts,
        address,
        patience,
        look,
    } = bound;
    let listener = TcpListener::from_std(listener).with_context(|| format!("api.listen {address}"))?;
    let (ticked, last_tick) = watch::channel(Instant::now());
    let mut snapshots = state.snapshots.clone();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        while snapshots.changed().await.is_ok() {
            ticked.send_replace(Instant::now());
        }
        // Keeps the time of the last tick readable after the collector has gone.
        ticked.closed().await;
    });
    let stats = state.stats.clone();
    let latest_token = token.as_ref().map(Held::latest);
    let latest_tls = tls.as_ref().map(Held::latest);
    let router = routes::router(state, latest_token, hosts, patience, last_tick);
    if let Some(token) = token {
        tasks.spawn(token.follow(look, stats.clone()));
    }
    if let Some(tls) = tls {
        tasks.spawn(tls.follow(look, stats.clone()));
    }
    let places: Arc<Places> = Arc::default();
    let (stop, stopped) = watch::channel(());
    let accept = async {
        loop {
            while tasks.try_join_next().is_some() {}
            match listener.accept().await {
                Ok((stream, client)) => {
                    let (place, was_anothers) = places.take(CONNECTIONS, client.ip()).await;
                    if was_anothers {
                        stats.displaced();
                    }
                    let tls = latest_tls.as_ref().map(|latest| latest.borrow().clone());
                    let (router, stopped) = (router.clone(), stopped.clone());
                    tasks.spawn(async move {
                        tokio::select! {
                            () = answer(stream, tls, router, &place, patience, stopped) => {}
                            () = place.lost() => {}
                        }
                    });
                    // What has come must be read before the next one may take its place.
                    tokio::task::yield_now().await;
                }
                Err(error) => {
                    // Out of file descriptors, most likely: it passes when a connection closes.
                    tracing::debug!(%error, "accept");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    };
    tokio::select! {
        () = accept => {}
        () = shutdown => {}
    }
    drop(listener);
    drop(stop);
    let _ = timeout(GRACE, places.empty()).await;
    tasks.shutdown().await;
    Ok(())
}

async fn answer(
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
    router: Router,
    place: &Place,
    patience: Duration,
    stopped: watch::Receiver<()>,
) {
    let _ = stream.set_nodelay(true);
    // The kernel gives up a client that takes nothing; else it would keep its place for ever.
    let stalled = u32::try_from(patience.as_millis()).unwrap_or(u32::MAX);
    let _ = setsockopt(&stream, TcpUserTimeout, &stalled);
    let Some(tls) = tls else {
        return connection(stream, router, place.admission(), patience, stopped).await;
    };
    if let Ok(Ok(stream)) = timeout(patience, tls.accept(stream)).await {
        connection(stream, router, place.admission(), patience, stopped).await;
    }
}

async fn connection<S>(
    stream: S,
    router: Router,
    admission: Admission,
    patience: Duration,
    mut stopped: watch::Receiver<()>,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(admission.clone());
        router.call(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(patience)
        .max_headers(64)
        .max_buf_size(16 * 1024)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        _ = connection.as_mut() => return,
        _ = stopped.changed() => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}
