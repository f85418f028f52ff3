//! Prometheus' HTTP API over the store: queries, series, labels, and what Grafana's data source asks besides.

use super::routes::App;
use super::{exemplars, remote_read};
use crate::alert::view::GroupView;
use crate::memory::{Limits, Memory};
use agent_store::labels::Labels;
use agent_store::promql::{self, Error, Options, json};
use agent_store::series::{Matcher, Millis};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Path, RawQuery, State as From};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Longest form of a POST.
pub(super) const LONGEST_FORM: usize = 1 << 20;
/// So far back a question about series goes that does not say from when: all that is kept at a second by default.
const SERIES_SPAN: Millis = 24 * 3600 * 1000;
/// Queries that are evaluated at a time; others wait.
pub(super) const QUERIES: usize = 4;

const FORMS: [&str; 6] = [
    remote_read::PATH,
    "/api/v1/query",
    "/api/v1/query_range",
    "/api/v1/series",
    "/api/v1/labels",
    "/api/v1/query_exemplars",
];

/// Whether a path takes forms, or another question, by POST.
pub(super) fn takes_forms(path: &str) -> bool {
    FORMS.contains(&path)
}

pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/api/v1/query", get(query).post(query))
        .route("/api/v1/query_range", get(query_range).post(query_range))
        .route("/api/v1/series", get(series).post(series))
        .route("/api/v1/labels", get(labels).post(labels))
        .route("/api/v1/label/{name}/values", get(values))
        .route("/api/v1/metadata", get(metadata))
        .route("/api/v1/status/buildinfo", get(build_info))
        .route("/api/v1/rules", get(rules))
        .route("/api/v1/alerts", get(alerts))
        .route("/api/v1/query_exemplars", get(exemplars_of).post(exemplars_of))
        .route(remote_read::PATH, post(remote_read::read))
        // The guard has read it already, and bounded it.
        .layer(DefaultBodyLimit::disable())
}

/// Parameters of a query string or a form.
struct Params(Vec<(String, String)>);

impl Params {
    /// Of a POST both are read, the form first, whatever it says of its type.
    fn read(form: &[u8], query: &str) -> Result<Self, Error> {
        let mut all = Vec::new();
        for text in [form, query.as_bytes()] {
            let read: Vec<_> = serde_urlencoded::from_bytes(text)
                .map_err(|e| Error::BadData(format!("error parsing form values: {e}")))?;
            all.extend(read);
        }
        Ok(Self(all))
    }

    fn get(&self, name: &str) -> Option<&str> {
        let mut found = self.0.iter().filter(|(n, v)| n == name && !v.is_empty());
        found.next().map(|(_, value)| value.as_str())
    }

    fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0
            .iter()
            .filter(move |(n, _)| n == name)
            .map(|(_, v)| v.as_str())
    }

    fn time(&self, name: &str) -> Result<Option<Millis>, Error> {
        let parse = |text: &str| {
            time(text).ok_or_else(|| invalid(name, &format!("cannot parse {text:?} to a valid timestamp")))
        };
        self.get(name).map(parse).transpose()
    }

    fn duration(&self, name: &str) -> Result<Option<Millis>, Error> {
        let parse = |text: &str| {
            duration(text).ok_or_else(|| invalid(name, &format!("cannot parse {text:?} to a valid duration")))
        };
        self.get(name).map(parse).transpose()
    }

    fn options(&self) -> Result<Options, Error> {
        let asked = self.duration("lookback_delta")?;
        Ok(Options {
            lookback: asked.unwrap_or(Options::default().lookback),
            ..Options::default()
        })
    }

    fn limits(&self, memory: &Memory) -> Result<Limits, Error> {
        let asked = self.duration("timeout")?;
        let most = memory.timeout();
        let timeout = asked.map_or(most, |ms| Duration::from_millis(ms.unsigned_abs()).min(most));
        Ok(memory.limits(timeout))
    }
}

pub(super) fn invalid(name: &str, why: &str) -> Error {
    Error::BadData(format!("invalid parameter {name:?}: {why}"))
}

/// Seconds that fit; `None` if the text is no number at all.
fn seconds(text: &str) -> Option<Option<Millis>> {
    let ms = (text.parse::<f64>().ok()? * 1000.0).round();
    Some((ms.abs() < 9e15).then_some(ms as Millis))
}

/// Seconds since 1970, or RFC 3339.
pub(super) fn time(text: &str) -> Option<Millis> {
    if let Some(ms) = seconds(text) {
        return ms;
    }
    let (local, offset) = zone(text)?;
    let time = humantime::parse_rfc3339(&local).ok()?;
    let since = time.duration_since(std::time::UNIX_EPOCH).ok()?;
    Some(Millis::try_from(since.as_millis()).ok()? - offset)
}

/// A date as if it were of UTC, and how far its zone is ahead of that.
pub(crate) fn zone(text: &str) -> Option<(String, Millis)> {
    let (date, zone) = text.split_at_checked(text.len().checked_sub(6)?)?;
    let (sign, zone) = match zone.split_at_checked(1)? {
        ("+", zone) => (1, zone),
        ("-", zone) => (-1, zone),
        _ => return Some((text.to_owned(), 0)),
    };
    let (hours, minutes) = zone.split_once(':')?;
    let minutes: Millis =
        hours.parse::<u8>().ok().map(Millis::from)? * 60 + Millis::from(minutes.parse::<u8>().ok()?);
    Some((format!("{date}Z"), sign * minutes * 60_000))
}

/// Seconds, or a duration of PromQL such as `1h30m`.
fn duration(text: &str) -> Option<Millis> {
    if let Some(ms) = seconds(text) {
        return ms;
    }
    let parsed = promql::duration(text)?;
    Millis::try_from(parsed.as_millis()).ok()
}

/// Evaluates on a thread that may take its time, once there is a place.
pub(super) async fn evaluated<T, F>(app: &App, evaluate: F) -> Result<T, Response>
where
    T: Send + 'static,
    F: FnOnce(&Memory) -> Result<T, Error> + Send + 'static,
{
    let Some(memory) = app.state.memory.clone() else {
        let why = "nothing is remembered: set store.kind to memory or disk";
        let body = json!({ "status": "error", "errorType": "unavailable", "error": why });
        return Err(body_of(StatusCode::SERVICE_UNAVAILABLE, body.to_string()));
    };
    let place = tokio::time::timeout(memory.timeout(), app.queries.clone().acquire_owned()).await;
    let Ok(Ok(place)) = place else {
        let why = "query timed out in query queue: four others take all of store.query_timeout";
        return Err(refuse(&Error::Timeout(why.to_owned())));
    };
    let evaluated = tokio::task::spawn_blocking(move || {
        let result = evaluate(&memory);
        drop(place);
        result
    });
    match evaluated.await {
        Ok(result) => result.map_err(|e| refuse(&e)),
        Err(_) => Err(refuse(&Error::Internal("the query has panicked".to_owned()))),
    }
}

/// The same for a question of parameters.
async fn answer<F>(app: &App, (RawQuery(query), form): (RawQuery, Bytes), evaluate: F) -> Response
where
    F: FnOnce(&Memory, &Params) -> Result<String, Error> + Send + 'static,
{
    let answered = evaluated(app, move |memory| {
        let params = Params::read(&form, query.as_deref().unwrap_or_default())?;
        evaluate(memory, &params)
    });
    answered
        .await
        .map_or_else(|refusal| refusal, |body| body_of(StatusCode::OK, body))
}

fn body_of(status: StatusCode, body: String) -> Response {
    let mut response = (status, Body::from(body)).into_response();
    let value = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, value);
    response
}

fn refuse(error: &Error) -> Response {
    let status = StatusCode::from_u16(error.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    body_of(status, json::error(error))
}

fn success(data: &Value) -> String {
    json!({ "status": "success", "data": data }).to_string()
}

/// Written as the answers of queries are.
fn listed<T>(all: &[T], write: impl Fn(&mut String, &T)) -> String {
    let mut out = String::from("{\"status\":\"success\",\"data\":");
    json::list(&mut out, all, write);
    out.push('}');
    out
}

async fn query(From(app): From<App>, query: RawQuery, form: Bytes) -> Response {
    answer(&app, (query, form), |memory, params| {
        let at = params.time("time")?.unwrap_or_else(crate::memory::now);
        let query = params.get("query").unwrap_or_default();
        let limits = params.limits(memory)?;
        promql::instant(query, at, &params.options()?, memory.store(), &limits)
            .map(|answer| json::answer(&answer))
    })
    .await
}

async fn query_range(From(app): From<App>, query: RawQuery, form: Bytes) -> Response {
    answer(&app, (query, form), |memory, params| {
        let missing = |name| invalid(name, "cannot parse \"\" to a valid timestamp");
        let start = params.time("start")?.ok_or_else(|| missing("start"))?;
        let end = params.time("end")?.ok_or_else(|| missing("end"))?;
        let step = params
            .duration("step")?
            .ok_or_else(|| invalid("step", "cannot parse \"\" to a valid duration"))?;
        let query = params.get("query").unwrap_or_default();
        let limits = params.limits(memory)?;
        promql::range(
            query,
            start,
            end,
            step,
            &params.options()?,
            memory.store(),
            &limits,
        )
        .map(|answer| json::answer(&answer))
    })
    .await
}

/// The span of a question about series.
fn span(params: &Params) -> Result<(Millis, Millis), Error> {
    let end = params.time("end")?.unwrap_or_else(crate::memory::now);
    let start = params.time("start")?.unwrap_or(end - SERIES_SPAN);
    if end < start {
        return Err(invalid("end", "end timestamp must not be before start time"));
    }
    Ok((start, end))
}

/// The selectors of `match[]`; without one, that of everything.
fn selectors(params: &Params) -> Result<Vec<Vec<Matcher>>, Error> {
    let selectors: Vec<_> = params
        .all("match[]")
        .map(promql::selector)
        .collect::<Result<_, _>>()?;
    Ok(if selectors.is_empty() {
        vec![Vec::new()]
    } else {
        selectors
    })
}

/// At most `limit` of the parameter, which is 0 for all.
fn limited<T>(params: &Params, mut all: Vec<T>) -> Result<Vec<T>, Error> {
    if let Some(limit) = params.get("limit") {
        let most: usize = limit
            .parse()
            .map_err(|e| invalid("limit", &format!("{limit:?}: {e}")))?;
        if most > 0 {
            all.truncate(most);
        }
    }
    Ok(all)
}

async fn series(From(app): From<App>, query: RawQuery, form: Bytes) -> Response {
    answer(&app, (query, form), |memory, params| {
        if params.get("match[]").is_none() {
            return Err(Error::BadData("no match[] parameter provided".to_owned()));
        }
        let ((start, end), limits) = (span(params)?, params.limits(memory)?);
        let mut all = BTreeSet::new();
        for selector in selectors(params)? {
            all.extend(memory.store().series(&selector, start, end, &limits)?);
        }
        let all: Vec<Labels> = limited(params, all.into_iter().collect())?;
        Ok(listed(&all, json::labels))
    })
    .await
}

async fn labels(From(app): From<App>, query: RawQuery, form: Bytes) -> Response {
    answer(&app, (query, form), |memory, params| words(memory, params, None)).await
}

async fn values(From(app): From<App>, Path(name): Path<String>, query: RawQuery, form: Bytes) -> Response {
    answer(&app, (query, form), move |memory, params| {
        if !promql::is_label_name(&name) {
            return Err(Error::BadData(format!("invalid label name: {name:?}")));
        }
        words(memory, params, Some(&name))
    })
    .await
}

/// Names of labels, or the values of one.
fn words(memory: &Memory, params: &Params, label: Option<&str>) -> Result<String, Error> {
    let (span, limits) = (span(params)?, params.limits(memory)?);
    let mut all = BTreeSet::new();
    for selector in selectors(params)? {
        all.extend(memory.store().words(label, &selector, span, &limits)?);
    }
    let all: Vec<String> = limited(params, all.into_iter().collect())?;
    Ok(listed(&all, |out, word| json::string(out, word)))
}

/// Type and help of the metrics, as they are declared.
async fn metadata(From(app): From<App>, query: RawQuery, form: Bytes) -> Response {
    answer(&app, (query, form), |_, params| {
        let wanted = params.get("metric");
        let all: BTreeMap<&str, Value> = crate::docs::all()
            .into_iter()
            .flat_map(|(_, metrics)| metrics.iter().copied())
            .filter(|metric| wanted.is_none_or(|name| name == metric.name))
            .map(|metric| {
                let about = json!([{ "type": metric.kind.name(), "help": metric.help, "unit": "" }]);
                (metric.name, about)
            })
            .collect();
        let all: Vec<(&str, Value)> = limited(params, all.into_iter().collect())?;
        Ok(success(&json!(all.into_iter().collect::<BTreeMap<_, _>>())))
    })
    .await
}

/// By the version clients choose what they ask: that of the Prometheus whose answers are compared with ours.
async fn build_info() -> Response {
    let version = json!({
        "version": "2.42.0",
        "revision": concat!("geophone-", env!("CARGO_PKG_VERSION")),
        "branch": "", "buildUser": "", "buildDate": "", "goVersion": "",
    });
    body_of(StatusCode::OK, success(&version))
}

/// The rules, of one `type`, or of these names, groups and files.
async fn rules(From(app): From<App>, RawQuery(query): RawQuery) -> Response {
    let params = match Params::read(&[], query.as_deref().unwrap_or_default()) {
        Ok(params) => params,
        Err(e) => return refuse(&e),
    };
    let kind = match params.get("type") {
        None => None,
        Some("alert") => Some("alerting"),
        Some("record") => Some("recording"),
        Some(other) => return refuse(&invalid("type", &format!("not supported value {other:?}"))),
    };
    let wanted = |name: &str, value: &str| {
        let mut asked = params.all(name).peekable();
        asked.peek().is_none() || asked.any(|one| one == value)
    };
    let mut groups = groups(&app);
    groups.retain(|group| wanted("rule_group[]", &group.name) && wanted("file[]", &group.file));
    for group in &mut groups {
        group
            .rules
            .retain(|rule| kind.is_none_or(|kind| kind == rule.kind) && wanted("rule_name[]", &rule.name));
    }
    groups.retain(|group| !group.rules.is_empty());
    body_of(StatusCode::OK, success(&json!({ "groups": groups })))
}

/// All groups, with why nobody is told of what fires.
fn groups(app: &App) -> Vec<GroupView> {
    let both = app.state.rules.as_ref().zip(app.state.notifier.as_ref());
    both.map(|(rules, notifier)| notifier.view(rules))
        .unwrap_or_default()
}

async fn alerts(From(app): From<App>) -> Response {
    let groups = groups(&app);
    let alerts: Vec<_> = groups.iter().flat_map(|group| group.alerts()).collect();
    body_of(StatusCode::OK, success(&json!({ "alerts": alerts })))
}

/// Those that the latest snapshot has, of the histograms that a query reads: the store keeps none.
async fn exemplars_of(From(app): From<App>, RawQuery(query): RawQuery, form: Bytes) -> Response {
    let answer = || {
        let params = Params::read(&form, query.as_deref().unwrap_or_default())?;
        let (start, end) = (params.time("start")?, params.time("end")?);
        let text = params.get("query").unwrap_or_default();
        let selectors = promql::selectors(text)?;
        let snapshot = app.state.snapshots.borrow().clone();
        Ok(exemplars::found(&snapshot, &selectors, start, end))
    };
    match answer() {
        Ok(found) => body_of(StatusCode::OK, success(&found)),
        Err(e) => refuse(&e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_seconds_or_dates() {
        assert_eq!(time("1.5"), Some(1500));
        assert_eq!(time("2026-01-31T12:00:00Z"), Some(1_769_860_800_000));
        assert_eq!(time("2026-01-31T12:00:00.25Z"), Some(1_769_860_800_250));
        assert_eq!(time("2026-01-31T13:30:00+01:30"), time("2026-01-31T12:00:00Z"));
        assert_eq!(time("2026-01-31T10:00:00.5-02:00"), Some(1_769_860_800_500));
        assert_eq!((time("NaN"), time("soon"), time("1e300")), (None, None, None));
    }

    #[test]
    fn durations_are_seconds_or_units() {
        assert_eq!(
            (duration("15"), duration("1h30m"), duration("x")),
            (Some(15_000), Some(5_400_000), None)
        );
    }

    #[test]
    fn a_parameter_may_be_given_twice() {
        let params = Params::read(b"match%5B%5D=up", "match[]=go_info&end=").unwrap();
        assert_eq!(params.all("match[]").collect::<Vec<_>>(), ["up", "go_info"]);
        assert_eq!(params.get("end"), None);
    }
}
