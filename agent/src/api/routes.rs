//! What each path answers, and who may ask.

use super::json::SnapshotView;
use super::places::Admission;
use super::profile::{next_profile, profile};
use super::promql;
use super::record::record;
use super::silences;
use super::stats::PATHS;
use super::stream::{Wanted, lines};
use super::{State, server::Token};
use crate::alert;
use crate::export::prometheus::{encode, negotiate};
use crate::export::spare::Spare;
use axum::Router;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{FromRequestParts, Query, Request, State as From};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use serde::Deserialize;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

/// A snapshot older than this means that the collector no longer ticks.
pub(super) const STALE: Duration = Duration::from_secs(5);
/// Clients of the streams at a time.
const STREAMS: usize = 16;
/// Profiles that are made at a time.
const PROFILES: usize = 2;
/// Clients that wait for the end of a profile.
pub(super) const WAITING: usize = 8;
/// Reads the rule files again, as a Prometheus does.
const RELOAD: &str = "/-/reload";
/// Longest time that a stream may be asked for by `?for=`.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

#[derive(Clone)]
pub(super) struct App {
    pub(super) state: State,
    token: Option<watch::Receiver<Arc<Token>>>,
    /// Names of this host, for requests without a token; `None` = clients have shown a certificate, and may use any.
    hosts: Option<Arc<[String]>>,
    /// When the last snapshot came, by the monotonic clock: a step of the wall clock is no illness.
    ticked: watch::Receiver<Instant>,
    /// Size of the last exposition.
    size: Arc<AtomicUsize>,
    /// Its memory, for the next one.
    spare: Spare,
    streams: Arc<Semaphore>,
    pub(super) profiles: Arc<Semaphore>,
    pub(super) waiting: Arc<Semaphore>,
    /// For a form to come.
    patience: Duration,
    pub(super) queries: Arc<Semaphore>,
}

pub(super) fn router(
    state: State,
    token: Option<watch::Receiver<Arc<Token>>>,
    hosts: Option<Vec<String>>,
    patience: Duration,
    ticked: watch::Receiver<Instant>,
) -> Router {
    let app = App {
        state,
        token,
        hosts: hosts.map(Arc::from),
        ticked,
        patience,
        size: Arc::default(),
        spare: Spare::default(),
        streams: Arc::new(Semaphore::new(STREAMS)),
        profiles: Arc::new(Semaphore::new(PROFILES)),
        waiting: Arc::new(Semaphore::new(WAITING)),
        queries: Arc::new(Semaphore::new(promql::QUERIES)),
    };
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/api/v1/status", get(status))
        .route("/api/v1/snapshot", get(snapshot))
        .route("/api/v1/view", get(view))
        .route("/api/v1/topology", get(topology))
        .route("/api/v1/capacity", get(capacity))
        .route("/api/v1/profile", get(profile))
        .route("/debug/pprof/profile", get(next_profile))
        .route("/api/v1/flows", get(flows))
        .route("/api/v1/drops", get(drops))
        .route("/api/v1/tunnels", get(tunnels))
        .route(RELOAD, post(reload))
        .route("/api/v1/record", get(record))
        .route("/api/v1/anomalies", get(anomalies))
        .merge(promql::routes())
        .merge(silences::routes())
        .fallback(async || {
            problem(
                StatusCode::NOT_FOUND,
                &format!("no such path; there are {}", paths()),
            )
        })
        .layer(middleware::from_fn_with_state(app.clone(), guard))
        .with_state(app)
}

/// Every request passes here first, and every answer last.
async fn guard(From(app): From<App>, request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    let mut response = match refuse(&app, &request) {
        Some(refusal) => refusal,
        None => {
            // Whether it is well anybody may ask, which shows nothing of who asks.
            if let Some(admission) = request.extensions().get::<Admission>()
                && !is_free(&path)
            {
                admission.admit();
            }
            match whole(request, app.patience).await {
                Ok(request) => next.run(request).await,
                Err(refusal) => refusal,
            }
        }
    };
    app.state.stats.request(&path, response.status().as_u16());
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    response
}

/// Whether everybody may ask for it.
fn is_free(path: &str) -> bool {
    matches!(path, "/healthz" | "/readyz")
}

/// The request with its form, if it has one: who begins one and does not go on must not keep a connection from others.
async fn whole(request: Request, patience: Duration) -> Result<Request, Response> {
    if *request.method() != Method::POST {
        return Ok(request);
    }
    let (parts, body) = request.into_parts();
    let read = axum::body::to_bytes(body, promql::LONGEST_FORM);
    let (status, message) = match tokio::time::timeout(patience, read).await {
        Ok(Ok(form)) => return Ok(Request::from_parts(parts, form.into())),
        Ok(Err(_)) => (
            StatusCode::PAYLOAD_TOO_LARGE,
            "the form is cut, or longer than 1 MiB",
        ),
        Err(_) => (StatusCode::REQUEST_TIMEOUT, "the form did not come in time"),
    };
    let mut response = problem(status, message);
    response
        .headers_mut()
        .insert(header::CONNECTION, HeaderValue::from_static("close"));
    Err(response)
}

fn refuse(app: &App, request: &Request) -> Option<Response> {
    let headers = request.headers();
    let path = request.uri().path();
    let is_order = path == RELOAD;
    if is_order && headers.contains_key(header::ORIGIN) {
        return Some(problem(StatusCode::FORBIDDEN, "no web page may ask for this"));
    }
    let more = match () {
        () if is_order || promql::takes_forms(path) || path == silences::ALL => Some(Method::POST),
        () if path.starts_with(silences::ONE) => Some(Method::DELETE),
        () => None,
    };
    let method = request.method();
    let posts = *method == Method::POST && more == Some(Method::POST);
    let gets = matches!(*method, Method::GET | Method::HEAD) && !is_order;
    if !gets && more.as_ref() != Some(method) {
        let (told, allowed) = match more {
            Some(_) if is_order => ("only POST", "POST"),
            Some(Method::POST) => ("only GET and POST", "GET, HEAD, POST"),
            Some(_) => ("only GET and DELETE", "GET, HEAD, DELETE"),
            None => ("only GET", "GET, HEAD"),
        };
        let mut response = problem(StatusCode::METHOD_NOT_ALLOWED, told);
        response
            .headers_mut()
            .insert(header::ALLOW, HeaderValue::from_static(allowed));
        return Some(response);
    }
    let empty = posts || headers.get(header::CONTENT_LENGTH).is_none_or(|l| l == "0");
    if !empty || !posts && headers.contains_key(header::TRANSFER_ENCODING) {
        let mut response = problem(StatusCode::PAYLOAD_TOO_LARGE, "a GET has no body");
        // What follows is the body that nobody reads.
        response
            .headers_mut()
            .insert(header::CONNECTION, HeaderValue::from_static("close"));
        return Some(response);
    }
    let Some(token) = &app.token else {
        // Without a token a web page could read this through a name that it points at 127.0.0.1.
        let is_strange = |hosts: &Arc<[String]>| !is_own(headers, hosts);
        return app.hosts.as_ref().is_some_and(is_strange).then(|| {
            problem(
                StatusCode::MISDIRECTED_REQUEST,
                "Host is neither localhost nor an address nor one of api.hosts; add it there or set api.token_file",
            )
        });
    };
    if is_free(path) || token.borrow().admits(headers) {
        return None;
    }
    let mut response = problem(StatusCode::UNAUTHORIZED, "no or wrong bearer token");
    response
        .headers_mut()
        .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    Some(response)
}

/// Whether the client means this host: by an address, which no page can point elsewhere, or by a name that is known here.
fn is_own(headers: &HeaderMap, hosts: &[String]) -> bool {
    let Some(host) = headers.get(header::HOST) else {
        return true;
    };
    let Some(authority) = host
        .to_str()
        .ok()
        .and_then(|h| h.parse::<axum::http::uri::Authority>().ok())
    else {
        return false;
    };
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<std::net::IpAddr>().is_ok()
        || hosts.iter().any(|name| name.eq_ignore_ascii_case(host))
}

/// What there is, for who asked for something else.
fn paths() -> String {
    let known: Vec<&str> = PATHS.into_iter().filter(|path| path.starts_with('/')).collect();
    known.join(" ")
}

pub(super) fn problem(status: StatusCode, message: &str) -> Response {
    (status, axum::Json(serde_json::json!({ "error": message }))).into_response()
}

async fn metrics(From(app): From<App>, headers: HeaderMap) -> Response {
    let format = negotiate(headers.get(header::ACCEPT).and_then(|a| a.to_str().ok()));
    let snapshot = app.state.snapshots.borrow().clone();
    let last = app.size.load(Relaxed);
    let mut body = app.spare.take(last + last / 8 + 4096);
    encode(&snapshot, format, &mut body);
    app.size.store(body.len(), Relaxed);
    let mut response = Body::from(app.spare.lend(body)).into_response();
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static(format.content_type()),
    );
    headers.insert(header::VARY, HeaderValue::from_static("Accept"));
    response
}

async fn view(From(app): From<App>) -> Response {
    match (app.state.view)() {
        Some(view) => axum::Json(view).into_response(),
        None => problem(StatusCode::SERVICE_UNAVAILABLE, "no snapshot yet"),
    }
}

/// Who asks for the first time waits for the next snapshot: a single one has no rates.
async fn topology(From(app): From<App>) -> Response {
    let first = (app.state.topology)();
    let waits = first.as_ref().is_some_and(|t| t["interval"].is_null());
    if waits {
        let mut snapshots = app.state.snapshots.clone();
        snapshots.mark_unchanged();
        let _ = tokio::time::timeout(STALE, snapshots.changed()).await;
    }
    let answer = if waits { (app.state.topology)() } else { first };
    match answer {
        Some(answer) => axum::Json(answer).into_response(),
        None => problem(StatusCode::SERVICE_UNAVAILABLE, "no snapshot yet"),
    }
}

/// Made on a thread that may take its time, one at a time.
async fn capacity(From(app): From<App>) -> Response {
    let Some(live) = app.state.capacity.clone() else {
        let why = "no forecasts are made: set capacity.enabled, and store.kind to memory or disk";
        return problem(StatusCode::SERVICE_UNAVAILABLE, why);
    };
    match tokio::task::spawn_blocking(move || live.report()).await {
        Ok(Ok(report)) => axum::Json(report.as_ref()).into_response(),
        Ok(Err(error)) => problem(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
        Err(_) => problem(StatusCode::INTERNAL_SERVER_ERROR, "the forecast has panicked"),
    }
}

async fn reload(From(app): From<App>) -> Response {
    let Some(rules) = app.state.rules.clone() else {
        let why = "no rules are evaluated: set rules.files, and store.kind to memory or disk";
        return problem(StatusCode::SERVICE_UNAVAILABLE, why);
    };
    match alert::reload(rules).await {
        Ok(()) => axum::Json(serde_json::json!({
            "status": "ok",
            "reloaded": "rules.files",
            "not_reloaded": "the configuration, and the other files that it names: for these restart the agent; certificates and token of the API are read as they change",
        }))
        .into_response(),
        Err(error) => problem(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

/// Whether a snapshot of this age is one of a collector that works.
pub(super) fn is_well(age: Duration) -> bool {
    age <= STALE
}

async fn healthz(From(app): From<App>) -> Response {
    let age = app.ticked.borrow().elapsed();
    if is_well(age) {
        return axum::Json(serde_json::json!({ "status": "ok" })).into_response();
    }
    problem(
        StatusCode::SERVICE_UNAVAILABLE,
        &format!("no snapshot for {} s", age.as_secs()),
    )
}

async fn readyz(From(app): From<App>) -> Response {
    if app.state.snapshots.borrow().tick > 0 {
        return axum::Json(serde_json::json!({ "status": "ready" })).into_response();
    }
    problem(StatusCode::SERVICE_UNAVAILABLE, "no snapshot yet")
}

async fn status(From(app): From<App>) -> Response {
    axum::Json((app.state.status)()).into_response()
}

async fn snapshot(From(app): From<App>) -> Response {
    let snapshot = app.state.snapshots.borrow().clone();
    axum::Json(SnapshotView::from(snapshot.as_ref())).into_response()
}

/// The parameters of a request. What is wrong with them is told as everything else is.
pub(super) struct Parameters<T>(pub(super) T);

impl<S: Sync, T: serde::de::DeserializeOwned> FromRequestParts<S> for Parameters<T> {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Response> {
        let parameters: Result<Query<T>, QueryRejection> = Query::try_from_uri(&parts.uri);
        match parameters {
            Ok(Query(parameters)) => Ok(Self(parameters)),
            Err(e) => Err(problem(StatusCode::BAD_REQUEST, &e.body_text())),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StreamQuery {
    #[serde(rename = "for")]
    length: Option<String>,
}

async fn flows(From(app): From<App>, Parameters(query): Parameters<StreamQuery>) -> Response {
    stream(&app, query, Wanted::Flows)
}

async fn drops(From(app): From<App>, Parameters(query): Parameters<StreamQuery>) -> Response {
    stream(&app, query, Wanted::Drops)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AnomaliesQuery {
    /// With every series that is watched.
    #[serde(default)]
    all: bool,
}

/// What is not as usual: the latest 256, the newest first.
async fn anomalies(From(app): From<App>, Parameters(query): Parameters<AnomaliesQuery>) -> Response {
    let Some(anomalies) = app.state.anomalies.clone() else {
        let why = "nothing is watched: it needs anomaly.enabled and a store (store.kind)";
        return problem(StatusCode::SERVICE_UNAVAILABLE, why);
    };
    // There may be many series.
    let text = tokio::task::spawn_blocking(move || anomalies.view(query.all).to_string()).await;
    match text {
        Ok(text) => ([(header::CONTENT_TYPE, "application/json")], text).into_response(),
        Err(_) => problem(StatusCode::INTERNAL_SERVER_ERROR, "the answer has panicked"),
    }
}

/// Changes of tunnels: first those that were kept.
async fn tunnels(From(app): From<App>, Parameters(query): Parameters<StreamQuery>) -> Response {
    stream(&app, query, Wanted::Tunnels)
}

fn stream(app: &App, query: StreamQuery, wanted: Wanted) -> Response {
    let length = match query.length.map(|l| humantime::parse_duration(&l)) {
        None => None,
        Some(Ok(length)) if length <= LONGEST => Some(length),
        Some(_) => {
            return problem(
                StatusCode::BAD_REQUEST,
                "for: no duration up to 24h; write e.g. for=10s",
            );
        }
    };
    let Ok(place) = app.streams.clone().try_acquire_owned() else {
        return problem(
            StatusCode::SERVICE_UNAVAILABLE,
            "16 clients are listening already; close one",
        );
    };
    let (kept, records) = match wanted {
        Wanted::Tunnels => app.state.changes.follow(),
        _ => (VecDeque::new(), app.state.records.subscribe()),
    };
    let lines = lines(kept, records, wanted, length, app.state.stats.clone(), place);
    let mut response = Body::from_stream(lines).into_response();
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/x-ndjson"),
    );
    response
}
