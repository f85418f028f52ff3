//! What each path answers, and who may ask.

use super::json::SnapshotView;
use super::stream::{Wanted, lines};
use super::{State, server::Token};
use crate::export::prometheus::{encode, negotiate};
use crate::export::spare::Spare;
use crate::stacks::{Format, store};
use axum::Router;
use axum::body::Body;
use axum::extract::{Query, Request, State as From};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use serde::Deserialize;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

/// A snapshot older than this means that the collector no longer ticks.
pub(super) const STALE: Duration = Duration::from_secs(5);
/// Clients of the streams at a time.
const STREAMS: usize = 16;
/// Profiles that are made at a time.
const PROFILES: usize = 2;
/// Profiles are of this time, unless told otherwise.
const LAST: Duration = Duration::from_secs(60);
/// Longest time that a stream may be asked for by `?for=`.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

#[derive(Clone)]
struct App {
    state: State,
    token: Option<Arc<Token>>,
    /// When the last snapshot came, by the monotonic clock: a step of the wall clock is no illness.
    ticked: watch::Receiver<Instant>,
    /// Size of the last exposition.
    size: Arc<AtomicUsize>,
    /// Its memory, for the next one.
    spare: Spare,
    streams: Arc<Semaphore>,
    profiles: Arc<Semaphore>,
}

pub(super) fn router(state: State, token: Option<Token>, ticked: watch::Receiver<Instant>) -> Router {
    let app = App {
        state,
        token: token.map(Arc::new),
        ticked,
        size: Arc::default(),
        spare: Spare::default(),
        streams: Arc::new(Semaphore::new(STREAMS)),
        profiles: Arc::new(Semaphore::new(PROFILES)),
    };
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/api/v1/status", get(status))
        .route("/api/v1/snapshot", get(snapshot))
        .route("/api/v1/view", get(view))
        .route("/api/v1/topology", get(topology))
        .route("/api/v1/profile", get(profile))
        .route("/api/v1/flows", get(flows))
        .route("/api/v1/drops", get(drops))
        .route("/api/v1/tunnels", get(tunnels))
        .fallback(async || problem(StatusCode::NOT_FOUND, "no such path"))
        .layer(middleware::from_fn_with_state(app.clone(), guard))
        .with_state(app)
}

/// Every request passes here first, and every answer last.
async fn guard(From(app): From<App>, request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    let mut response = match refuse(&app, &request) {
        Some(refusal) => refusal,
        None => next.run(request).await,
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

fn refuse(app: &App, request: &Request) -> Option<Response> {
    let headers = request.headers();
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = problem(StatusCode::METHOD_NOT_ALLOWED, "only GET");
        response
            .headers_mut()
            .insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        return Some(response);
    }
    let empty = headers.get(header::CONTENT_LENGTH).is_none_or(|l| l == "0");
    if !empty || headers.contains_key(header::TRANSFER_ENCODING) {
        let mut response = problem(StatusCode::PAYLOAD_TOO_LARGE, "a GET has no body");
        // What follows is the body that nobody reads.
        response
            .headers_mut()
            .insert(header::CONNECTION, HeaderValue::from_static("close"));
        return Some(response);
    }
    let Some(token) = &app.token else {
        // Without a token a web page could read this through a name that it points at 127.0.0.1.
        return (!local_host(headers)).then(|| {
            problem(
                StatusCode::MISDIRECTED_REQUEST,
                "Host is neither an address nor localhost; set api.token_file",
            )
        });
    };
    if matches!(request.uri().path(), "/healthz" | "/readyz") || token.admits(headers) {
        return None;
    }
    let mut response = problem(StatusCode::UNAUTHORIZED, "no or wrong bearer token");
    response
        .headers_mut()
        .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    Some(response)
}

fn local_host(headers: &HeaderMap) -> bool {
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
    host.eq_ignore_ascii_case("localhost") || host.parse::<std::net::IpAddr>().is_ok()
}

fn problem(status: StatusCode, message: &str) -> Response {
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

#[derive(Deserialize)]
struct ProfileQuery {
    from: Option<String>,
    to: Option<String>,
    subject: Option<String>,
    comm: Option<String>,
    pid: Option<u32>,
    #[serde(default)]
    format: Format,
}

/// Stacks of a past window, whole slices of ten seconds.
async fn profile(From(app): From<App>, Query(query): Query<ProfileQuery>) -> Response {
    let Some(stacks) = app.state.stacks.clone() else {
        return problem(
            StatusCode::NOT_FOUND,
            "no stacks are taken; set probes.profile.enabled",
        );
    };
    let Ok(place) = app.profiles.clone().try_acquire_owned() else {
        return problem(
            StatusCode::SERVICE_UNAVAILABLE,
            "two profiles are being made already; ask again",
        );
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let moment = |text: &Option<String>| text.as_deref().map(|text| moment(text, now)).transpose();
    let (Ok(from), Ok(to)) = (moment(&query.from), moment(&query.to)) else {
        return problem(
            StatusCode::BAD_REQUEST,
            "from, to: no time; write seconds since 1970, 2026-01-31T12:00:00Z, or how long ago, e.g. 10m",
        );
    };
    let wanted = store::Query {
        from: from.unwrap_or_else(|| now.saturating_sub(LAST)).as_nanos() as u64,
        to: to.map_or(0, |to| to.as_nanos() as u64),
        subject: query.subject,
        process: query.comm,
        pid: query.pid,
        sample: 0,
    };
    let format = query.format;
    let answer = tokio::task::spawn_blocking(move || {
        let _place = place;
        stacks.answer(&wanted, format)
    });
    match answer.await {
        Ok(Ok(body)) => ([(header::CONTENT_TYPE, format.content_type())], body).into_response(),
        Ok(Err(e)) => problem(StatusCode::INTERNAL_SERVER_ERROR, &e.to_string()),
        Err(e) => problem(StatusCode::INTERNAL_SERVER_ERROR, &e.to_string()),
    }
}

/// A time since 1970: in seconds, as RFC 3339 has it, or how long ago.
fn moment(text: &str, now: Duration) -> Result<Duration, ()> {
    if let Ok(seconds) = text.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).map_err(drop);
    }
    if let Ok(time) = humantime::parse_rfc3339_weak(text) {
        return time.duration_since(UNIX_EPOCH).map_err(drop);
    }
    let ago = humantime::parse_duration(text).map_err(drop)?;
    Ok(now.saturating_sub(ago))
}

async fn healthz(From(app): From<App>) -> Response {
    let age = app.ticked.borrow().elapsed();
    if age <= STALE {
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

#[derive(Deserialize)]
struct StreamQuery {
    #[serde(rename = "for")]
    length: Option<String>,
}

async fn flows(From(app): From<App>, Query(query): Query<StreamQuery>) -> Response {
    stream(&app, query, Wanted::Flows)
}

async fn drops(From(app): From<App>, Query(query): Query<StreamQuery>) -> Response {
    stream(&app, query, Wanted::Drops)
}

/// Changes of tunnels: first those that were kept.
async fn tunnels(From(app): From<App>, Query(query): Query<StreamQuery>) -> Response {
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
