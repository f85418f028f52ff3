//! Silences as Alertmanager's API (version 2) has them, so that amtool and others can be pointed here; and incidents.
//!
//! Who may ask is decided before, as for every path. A POST must say that it is JSON: that a web page elsewhere cannot send
//! without asking first, and nobody answers such a question here.

use super::promql::{invalid, time};
use super::routes::{App, problem};
use crate::memory::now;
use agent_notify::Silence;
use agent_notify::matcher::{self, Matcher};
use agent_notify::silence::NotExpired;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, RawQuery, State as From};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use rand::Rng as _;
use serde::Deserialize;
use serde_json::{Value, json};

/// All silences.
pub(super) const ALL: &str = "/api/v2/silences";
/// Begin of the path of one.
pub(super) const ONE: &str = "/api/v2/silence/";

pub(super) fn routes() -> Router<App> {
    Router::new()
        .route(ALL, get(list).post(add))
        .route("/api/v2/silence/{id}", get(one).delete(expire))
        .route("/api/v1/incidents", get(incidents))
        .layer(DefaultBodyLimit::disable())
}

/// What is posted.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Posted {
    #[serde(default)]
    id: String,
    #[serde(deserialize_with = "matcher::few")]
    matchers: Vec<Matcher>,
    starts_at: String,
    ends_at: String,
    created_by: String,
    comment: String,
}

/// Asks the notifier where it may block.
async fn ask<T: Send + 'static>(
    app: &App,
    what: impl FnOnce(&crate::alert::notify::Notifier) -> T + Send + 'static,
) -> Result<T, Response> {
    let Some(notifier) = app.state.notifier.clone() else {
        let why = "no rule is evaluated: set rules.files, and store.kind to memory or disk";
        return Err(problem(StatusCode::SERVICE_UNAVAILABLE, why));
    };
    let answer = tokio::task::spawn_blocking(move || what(&notifier)).await;
    answer.map_err(|error| problem(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()))
}

/// All, or those that pass each `filter`.
async fn list(From(app): From<App>, RawQuery(query): RawQuery) -> Response {
    let parsed: Result<Vec<(String, String)>, _> =
        serde_urlencoded::from_str(query.as_deref().unwrap_or_default());
    // Patterns are compiled there: not where others wait.
    let fitting = move |notifier: &crate::alert::notify::Notifier| -> Result<Vec<Value>, String> {
        let mut filters: Vec<Matcher> = Vec::new();
        for (_, text) in parsed
            .unwrap_or_default()
            .iter()
            .filter(|(name, _)| name == "filter")
        {
            filters.extend(matcher::parse(text)?);
            if filters.len() > matcher::MOST {
                return Err(format!("more than {} matchers", matcher::MOST));
            }
        }
        Ok(notifier.silences(&filters))
    };
    match ask(&app, fitting).await {
        Ok(Ok(fitting)) => axum::Json(fitting).into_response(),
        Ok(Err(why)) => problem(StatusCode::BAD_REQUEST, &format!("filter: {why}")),
        Err(response) => response,
    }
}

async fn one(From(app): From<App>, Path(id): Path<String>) -> Response {
    let all = match ask(&app, |notifier| notifier.silences(&[])).await {
        Ok(all) => all,
        Err(response) => return response,
    };
    match all.into_iter().find(|silence| silence["id"] == *id) {
        Some(silence) => axum::Json(silence).into_response(),
        None => problem(StatusCode::NOT_FOUND, "there is no such silence"),
    }
}

async fn add(From(app): From<App>, headers: HeaderMap, body: Bytes) -> Response {
    let kind = headers
        .get(header::CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok());
    let kind = kind
        .unwrap_or_default()
        .split(';')
        .next()
        .unwrap_or_default()
        .trim();
    if !kind.eq_ignore_ascii_case("application/json") {
        let why = "Content-Type is not application/json";
        return problem(StatusCode::UNSUPPORTED_MEDIA_TYPE, why);
    }
    // Patterns are compiled here: not where others wait.
    let add = move |notifier: &crate::alert::notify::Notifier| {
        let (silence, new) = match read(&body) {
            Ok(read) => read,
            Err(why) => return Some(Err(why)),
        };
        let id = silence.id.clone();
        let added = notifier.add(silence, new)?;
        Some(added.map(|()| id))
    };
    match ask(&app, add).await {
        Ok(Some(Ok(id))) => axum::Json(json!({ "silenceID": id })).into_response(),
        Ok(Some(Err(why))) => problem(StatusCode::BAD_REQUEST, &why),
        Ok(None) => problem(StatusCode::NOT_FOUND, "there is no silence of this id"),
        Err(response) => response,
    }
}

/// The silence, and whether it is a new one.
fn read(body: &[u8]) -> Result<(Silence, bool), String> {
    let posted: Posted = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    let at = |name: &str, text: &str| {
        time(text).ok_or_else(|| invalid(name, &format!("{text:?} is no time")).to_string())
    };
    let now = now();
    let new = posted.id.is_empty();
    let silence = Silence {
        id: if new { uuid() } else { posted.id },
        matchers: posted.matchers,
        starts_at: at("startsAt", &posted.starts_at)?.max(now),
        ends_at: at("endsAt", &posted.ends_at)?,
        updated_at: now,
        created_by: posted.created_by,
        comment: posted.comment,
    };
    Ok((silence, new))
}

/// A random UUID, version 4: clients of Alertmanager refuse another form.
fn uuid() -> String {
    let number = rand::rng().random::<u128>() & !(0xf << 76) & !(3 << 62) | (4 << 76) | (2 << 62);
    let hex = format!("{number:032x}");
    let part = |from, to| hex.get(from..to).unwrap_or_default();
    [part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32)].join("-")
}

async fn expire(From(app): From<App>, Path(id): Path<String>) -> Response {
    match ask(&app, move |notifier| notifier.expire(&id)).await {
        Ok(Ok(())) => StatusCode::OK.into_response(),
        Ok(Err(NotExpired::Unknown(why))) => problem(StatusCode::NOT_FOUND, &why),
        Ok(Err(NotExpired::Over(why))) => problem(StatusCode::BAD_REQUEST, &why),
        Ok(Err(NotExpired::Unwritten(why))) => problem(StatusCode::INTERNAL_SERVER_ERROR, &why),
        Err(response) => response,
    }
}

async fn incidents(From(app): From<App>) -> Response {
    match ask(&app, |notifier| notifier.incidents()).await {
        Ok(all) => axum::Json(json!({ "status": "success", "data": { "incidents": all } })).into_response(),
        Err(response) => response,
    }
}
