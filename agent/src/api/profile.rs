//! Stacks over HTTP.

use super::routes::{App, Parameters, WAITING, problem};
use crate::probes::profile::SETTINGS;
use crate::stacks::{Format, Stacks, store};
use agent_common::profile::sample;
use axum::extract::State as From;
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse as _, Response};
use serde::Deserialize;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;

/// So far back a profile goes whose beginning is not said.
const LAST: u64 = 60 * store::SECOND;
/// Seconds of a profile that begins now, if they are not said: as in Go.
const NEXT: f64 = 30.0;
/// And at most.
const LONGEST: f64 = 300.0;
/// Samples of the last moment may still be on their way.
const SETTLE: Duration = Duration::from_millis(300);

#[derive(Deserialize)]
pub(super) struct ProfileQuery {
    from: Option<String>,
    to: Option<String>,
    seconds: Option<f64>,
    subject: Option<String>,
    comm: Option<String>,
    pid: Option<u32>,
    cgroup: Option<String>,
    r#type: Option<String>,
    format: Option<Format>,
}

/// What a question about the past may name. Who scrapes may say more than is asked of him.
const NAMES: [&str; 8] = ["from", "to", "subject", "comm", "pid", "cgroup", "type", "format"];

/// Stacks of a past window.
pub(super) async fn profile(
    From(app): From<App>,
    uri: Uri,
    Parameters(query): Parameters<ProfileQuery>,
) -> Response {
    let mut names = uri
        .query()
        .unwrap_or_default()
        .split('&')
        .map(|part| part.split('=').next());
    if let Some(unknown) =
        names.find_map(|name| name.filter(|name| !name.is_empty() && !NAMES.contains(name)))
    {
        let message = format!("{unknown}: no such parameter; there are {}", NAMES.join(" "));
        return problem(StatusCode::BAD_REQUEST, &message);
    }
    let now = crate::stacks::now();
    let moment = |text: &Option<String>| text.as_deref().map(|text| store::moment(text, now)).transpose();
    let (from, to) = match (moment(&query.from), moment(&query.to)) {
        (Ok(from), Ok(to)) => (
            from.unwrap_or_else(|| now.saturating_sub(LAST)),
            to.unwrap_or(now),
        ),
        (Err(e), _) | (_, Err(e)) => return problem(StatusCode::BAD_REQUEST, &format!("from, to: {e}")),
    };
    let format = query.format.unwrap_or_default();
    let (stacks, wanted) = match wanted(&app, query, from, to) {
        Ok(both) => both,
        Err(response) => return *response,
    };
    let Ok(place) = app.profiles.clone().try_acquire_owned() else {
        return problem(
            StatusCode::SERVICE_UNAVAILABLE,
            "two profiles are being made already; ask again",
        );
    };
    answer(stacks, wanted, format, place).await
}

/// Stacks of the next `seconds`, as programs in Go serve them, for whoever scrapes those.
pub(super) async fn next_profile(
    From(app): From<App>,
    Parameters(query): Parameters<ProfileQuery>,
) -> Response {
    let seconds = query.seconds.unwrap_or(NEXT);
    if !(0.0..=LONGEST).contains(&seconds) || seconds == 0.0 {
        let message = format!("seconds: {seconds} is not between 0 and {LONGEST}");
        return problem(StatusCode::BAD_REQUEST, &message);
    }
    // From the next whole second on: stacks of the last minute are kept by the second.
    let from = crate::stacks::now().next_multiple_of(store::SECOND);
    let to = from + Duration::from_secs_f64(seconds).as_nanos() as u64;
    let (stacks, wanted) = match wanted(&app, query, from, to) {
        Ok(both) => both,
        Err(response) => return *response,
    };
    let Ok(_waiting) = app.waiting.clone().try_acquire_owned() else {
        let message = format!("{WAITING} clients are waiting for profiles already; ask again");
        return problem(StatusCode::SERVICE_UNAVAILABLE, &message);
    };
    tokio::time::sleep(Duration::from_nanos(to.saturating_sub(crate::stacks::now())) + SETTLE).await;
    match app.profiles.clone().acquire_owned().await {
        Ok(place) => answer(stacks, wanted, Format::Pprof, place).await,
        Err(e) => problem(StatusCode::INTERNAL_SERVER_ERROR, &e.to_string()),
    }
}

/// What is asked for, if there is such a thing.
fn wanted(
    app: &App,
    query: ProfileQuery,
    from: u64,
    to: u64,
) -> Result<(Arc<Stacks>, store::Query), Box<Response>> {
    let refused = |status, message: &str| Err(Box::new(problem(status, message)));
    let Some(stacks) = app.state.stacks.clone() else {
        return refused(
            StatusCode::NOT_FOUND,
            "no stacks are taken; set probes.profile.enabled",
        );
    };
    let word = query.r#type.as_deref().unwrap_or("cpu");
    let Some(kind) = sample::NAMES.iter().position(|name| *name == word) else {
        let known = sample::NAMES.join(", ");
        let message = format!("type: {word} is none of {known}");
        return refused(StatusCode::BAD_REQUEST, &message);
    };
    if stacks.kinds.get(kind) != Some(&true) {
        let setting = SETTINGS.get(kind).copied().unwrap_or_default();
        let message = format!("no stacks of {word} are taken; set probes.profile.{setting}");
        return refused(StatusCode::NOT_FOUND, &message);
    }
    if to <= from {
        return refused(
            StatusCode::BAD_REQUEST,
            "from, to: the end is not after the beginning",
        );
    }
    let cgroup = match query.cgroup.map(|path| path.parse()).transpose() {
        Ok(cgroup) => cgroup,
        Err(e) => return refused(StatusCode::BAD_REQUEST, &format!("cgroup: {e}")),
    };
    let wanted = store::Query {
        from,
        to,
        subject: query.subject,
        process: query.comm,
        pid: query.pid,
        cgroup,
        sample: kind as u8,
    };
    Ok((stacks, wanted))
}

async fn answer(
    stacks: Arc<Stacks>,
    wanted: store::Query,
    format: Format,
    place: OwnedSemaphorePermit,
) -> Response {
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
