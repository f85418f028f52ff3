//! The running agent, as the other commands ask it.

use crate::api::tls;
use crate::config::Config;
use crate::error::{Context as _, Error, Result};
use crate::export::push::http;
use crate::export::secret;
use reqwest::redirect::Policy;
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode, Url};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// For a connection, and for the answer whether it is an agent: on a busy machine it takes more than an idle one's millisecond.
const PATIENCE: Duration = Duration::from_secs(5);

/// For who asks something else than its agent, or as somebody else.
const REMEDY: &str = "--config (GEOPHONE_CONFIG) names the settings of the agent, --listen its address";

/// An agent that answers.
pub(super) struct Remote {
    pub(super) client: Client,
    /// Such as `https://127.0.0.1:9779`.
    pub(super) base: String,
    pub(super) token: Option<String>,
}

impl Remote {
    /// The agent that the settings describe. `None` = nobody listens there. Whoever listens and cannot be asked is an error:
    /// an agent of one's own beside it would be a second one, most likely, and say something else than was asked for.
    pub(super) async fn find(config: &Config) -> Result<Option<Self>> {
        let at = reached(config.api.listen);
        let connected = match timeout(PATIENCE, TcpStream::connect(at)).await {
            Ok(connected) => connected,
            Err(_) => Err(ErrorKind::TimedOut.into()),
        };
        match connected {
            Ok(_) => {}
            Err(e) if is_nobody(at, &e) => return Ok(None),
            Err(e) => return Err(Error::new(format_args!("{at}: {e}; {REMEDY}"))),
        }
        let scheme = if config.api.tls.is_some() { "https" } else { "http" };
        let remote = Self {
            client: client(config)?,
            base: format!("{scheme}://{at}"),
            token: token(config)?,
        };
        // Without the token: whoever it is need not get it before it is known to be an agent.
        let asked = remote.client.get(remote.url("/healthz")?).timeout(PATIENCE);
        match remote.send(asked).await?.status() {
            // Not well, and yet an agent.
            StatusCode::OK | StatusCode::SERVICE_UNAVAILABLE => Ok(Some(remote)),
            status => Err(remote.complaint(format_args!("{status}; it is no geophone; {REMEDY}"))),
        }
    }

    /// As [`Self::find`], for who can do without one.
    pub(super) async fn find_unless(own: bool, config: &Config) -> Result<Option<Self>> {
        if own {
            return Ok(None);
        }
        let found = Self::find(config).await;
        found.map_err(|e| Error::new(format_args!("{e}; --own does not look for one")))
    }

    /// Where a path is.
    pub(super) fn url(&self, path: &str) -> Result<Url> {
        Url::parse(&format!("{}{path}", self.base)).context(&self.base)
    }

    /// A request with the token, if there is one.
    pub(super) fn request(&self, method: Method, url: Url) -> RequestBuilder {
        let request = self.client.request(method, url);
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    /// Any answer but that the token is missing or wrong.
    pub(super) async fn send(&self, request: RequestBuilder) -> Result<Response> {
        let answer = request.send().await;
        let answer = answer.map_err(|e| self.complaint(format_args!("{}; {REMEDY}", cause(&e))))?;
        if answer.status() != StatusCode::UNAUTHORIZED {
            return Ok(answer);
        }
        Err(match self.token {
            Some(_) => self.complaint("it has another token than that of api.token_file"),
            None => self.complaint(format_args!("it asks for a token (api.token_file); {REMEDY}")),
        })
    }

    /// An answer that is no refusal. A refusal is told in its own words.
    pub(super) async fn told(&self, answer: Response) -> Result<Response> {
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let body = answer.bytes().await.context(&self.base)?;
        let told: Value = serde_json::from_slice(&body).unwrap_or_default();
        let told = told["error"].as_str().map(str::to_owned);
        Err(self.complaint(told.unwrap_or_else(|| status.to_string())))
    }

    /// What it answers to a path.
    pub(super) async fn get(&self, path: &str) -> Result<Response> {
        let asked = self.request(Method::GET, self.url(path)?);
        self.told(self.send(asked).await?).await
    }

    /// The same, read.
    pub(super) async fn json<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.read(self.get(path).await?).await
    }

    /// An answer in JSON.
    pub(super) async fn read<T: DeserializeOwned>(&self, answer: Response) -> Result<T> {
        let body = answer.bytes().await.context(&self.base)?;
        serde_json::from_slice(&body).context(format_args!("{}: the answer", self.base))
    }

    fn complaint(&self, what: impl std::fmt::Display) -> Error {
        Error::new(format_args!("{}: {what}", self.base))
    }
}

/// Where what listens here is reached from here: no certificate and no route has the name of *any* address.
pub(super) fn reached(listen: SocketAddr) -> SocketAddr {
    let mut at = listen;
    match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => at.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => at.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    at
}

/// Whether the failure says that no agent can be there. A namespace whose loopback is down has no route to it.
fn is_nobody(at: SocketAddr, error: &io::Error) -> bool {
    match error.kind() {
        ErrorKind::ConnectionRefused => true,
        ErrorKind::NetworkUnreachable | ErrorKind::AddrNotAvailable => at.ip().is_loopback(),
        _ => false,
    }
}

/// No proxy and no redirect: the token is for the agent alone.
fn client(config: &Config) -> Result<Client> {
    let mut builder = Client::builder()
        .no_proxy()
        .redirect(Policy::none())
        .connect_timeout(PATIENCE);
    builder = match &config.api.tls {
        Some(tls) => builder.tls_backend_preconfigured(tls::client(tls).map_err(unreadable)?),
        None => http::plain(builder),
    };
    builder.build().context("HTTP client")
}

fn token(config: &Config) -> Result<Option<String>> {
    let Some(file) = &config.api.token_file else {
        return Ok(None);
    };
    let token = secret::read("api.token_file", file).map_err(unreadable)?;
    let token = String::from_utf8_lossy(&token).trim().to_owned();
    Ok(Some(token))
}

/// What stands in the way of who is not the agent's user.
fn unreadable(error: anyhow::Error) -> Error {
    let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
    match kind {
        Some(ErrorKind::PermissionDenied) => Error::new(format_args!(
            "{error:#}; run it as the user of the agent (sudo), or be given the right to read it"
        )),
        _ => Error::new(format_args!("{error:#}")),
    }
}

/// The innermost reason: what reqwest says of itself is that it could not send.
fn cause(error: &reqwest::Error) -> String {
    let mut inner: &dyn std::error::Error = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    let told = inner.to_string();
    match told.strip_prefix("unexpected error: ") {
        _ if error.is_timeout() => format!("no answer in {} s", PATIENCE.as_secs()),
        Some(ours) => ours.to_owned(),
        None => told,
    }
}
