//! Stacks over HTTP.

use super::routes::{App, problem};
use crate::probes::profile::SETTINGS;
use crate::stacks::{Format, store};
use agent_common::profile::sample;
use axum::extract::{Query, State as From};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde::Deserialize;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// So far back a profile goes whose beginning is not said.
const LAST: Duration = Duration::from_secs(60);

#[derive(Deserialize)]
pub(super) struct ProfileQuery {
    from: Option<String>,
    to: Option<String>,
    subject: Option<String>,
    comm: Option<String>,
    pid: Option<u32>,
    r#type: Option<String>,
    #[serde(default)]
    format: Format,
}

/// Stacks of a past window, whole slices of ten seconds.
pub(super) async fn profile(From(app): From<App>, Query(query): Query<ProfileQuery>) -> Response {
    let Some(stacks) = app.state.stacks.clone() else {
        return problem(
            StatusCode::NOT_FOUND,
            "no stacks are taken; set probes.profile.enabled",
        );
    };
    let word = query.r#type.as_deref().unwrap_or("cpu");
    let Some(kind) = sample::NAMES.iter().position(|name| *name == word) else {
        let known = sample::NAMES.join(", ");
        return problem(
            StatusCode::BAD_REQUEST,
            &format!("type: {word} is none of {known}"),
        );
    };
    if stacks.kinds.get(kind) != Some(&true) {
        let setting = SETTINGS.get(kind).copied().unwrap_or_default();
        return problem(
            StatusCode::NOT_FOUND,
            &format!("no stacks of {word} are taken; set probes.profile.{setting}"),
        );
    }
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
        sample: kind as u8,
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
