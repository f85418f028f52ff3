//! `geophone alerts`: what fires, silences, incidents, and a test of receivers.

use super::remote::Remote;
use super::rules::{labels, narrowed};
use super::say;
use crate::alert::files;
use crate::alert::notify::plan;
use crate::cli::{self, AlertsCommand, SilenceAdd, SilenceCommand};
use crate::config::Config;
use crate::error::{Context as _, Error, Result};
use crate::export::push::reply::Reply;
use crate::memory::now;
use crate::score::explain::{is_of, reasons};
use crate::ui::print::table;
use agent_notify::alert::time;
use agent_notify::dispatch::{Integration, LASTS};
use agent_notify::matcher::{self, Matcher};
use agent_notify::{Alert, Notification};
use agent_score::watch::{Anomaly, Evidence};
use agent_store::labels::Labels;
use reqwest::{Method, header};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, UNIX_EPOCH};

/// Does what was asked.
pub async fn alerts(config: &Config, options: &cli::Alerts) -> Result<()> {
    match &options.command {
        None => list(config, options.json).await,
        Some(AlertsCommand::Incidents { json }) => incidents(config, *json).await,
        Some(AlertsCommand::Test { receiver }) => test(config, receiver).await,
        Some(AlertsCommand::Silence { command }) => match command {
            SilenceCommand::Add(options) => silence(config, options).await,
            SilenceCommand::List { expired, json } => silences(config, *expired, *json).await,
            SilenceCommand::Expire { id } => {
                let path = format!("/api/v2/silence/{}", urlencoded(id));
                let agent = agent(config).await?;
                let asked = agent.request(Method::DELETE, agent.url(&path)?);
                agent.told(agent.send(asked).await?).await?;
                say(&format!("{id}: expired"))
            }
        },
    }
}

fn urlencoded(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'-' | b'_' | b'.' => char::from(byte).to_string(),
            _ if byte.is_ascii_alphanumeric() => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

/// The running agent.
pub(super) async fn agent(config: &Config) -> Result<Remote> {
    let found = Remote::find(config).await?;
    found.context("no agent answers; start one, or say where with --listen")
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn pretty(value: &Value) -> Result<()> {
    say(&serde_json::to_string_pretty(value).context("JSON")?)
}

fn labels_of(value: &Value) -> Labels {
    let given = value.as_object().into_iter().flatten();
    Labels::new(given.map(|(name, value)| (name.clone(), text(value))))
}

async fn list(config: &Config, as_json: bool) -> Result<()> {
    let agent = agent(config).await?;
    let body = agent.json::<Value>("/api/v1/alerts").await?;
    let alerts = body["data"]["alerts"].as_array().cloned().unwrap_or_default();
    if as_json {
        return pretty(&Value::Array(alerts));
    }
    if alerts.is_empty() {
        let rules = agent.json::<Value>("/api/v1/rules?type=alert").await?;
        let none = rules["data"]["groups"].as_array().is_none_or(Vec::is_empty);
        return say(if none {
            "no alerting rule is evaluated: see rules.files, and geophone_rules_invalid_files"
        } else {
            "no alert is pending or fires"
        });
    }
    let rows: Vec<Vec<String>> = alerts
        .iter()
        .map(|alert| {
            let given = labels_of(&alert["labels"]);
            let state = [&alert["state"], &alert["muted"]].map(text);
            [
                state.join(" ").trim().to_owned(),
                given.get("severity").to_owned(),
                given.get("alertname").to_owned(),
                text(&alert["activeAt"]),
                text(&alert["annotations"]["summary"]),
                labels(&given),
            ]
            .into()
        })
        .collect();
    let heads = ["STATE", "SEVERITY", "ALERT", "SINCE", "SUMMARY", "LABELS"];
    say(&narrowed(&table(&heads, &rows)))
}

async fn incidents(config: &Config, as_json: bool) -> Result<()> {
    let agent = agent(config).await?;
    let body = agent.json::<Value>("/api/v1/incidents").await?;
    let all = body["data"]["incidents"].as_array().cloned().unwrap_or_default();
    if as_json {
        return pretty(&Value::Array(all));
    }
    if all.is_empty() {
        return say("there was no incident");
    }
    // An agent that looks for none has no answer.
    let anomalies = agent.json::<Value>("/api/v1/anomalies").await.unwrap_or_default();
    let anomalies: Vec<Anomaly> = serde_json::from_value(anomalies["anomalies"].clone()).unwrap_or_default();
    let mut out = Vec::new();
    for incident in &all {
        let cause = labels_of(&incident["cause"]["labels"]);
        let until = match incident["endedAt"].as_str() {
            Some(end) => format!("until {end}"),
            None => "still".to_owned(),
        };
        out.push(format!(
            "{}  {}  since {}, {until}",
            text(&incident["id"]),
            text(&incident["state"]),
            text(&incident["startedAt"])
        ));
        out.push(format!(
            "  first cause: {} {} ({})",
            cause.get("alertname"),
            labels(&cause),
            text(&incident["why"])
        ));
        for alert in incident["alerts"].as_array().into_iter().flatten() {
            let given = labels_of(&alert["labels"]);
            let state = if alert["endsAt"].is_null() {
                "firing"
            } else {
                "resolved"
            };
            out.push(format!(
                "  {state:8}  {}  {}  {}",
                text(&alert["activeAt"]),
                given.get("alertname"),
                [text(&alert["summary"]), labels(&given)].join("  ").trim()
            ));
            let evidence = evidence(&anomalies, &given, &text(&alert["activeAt"]));
            out.extend(evidence.into_iter().map(|one| format!("            {one}")));
        }
        if let Some(more @ 1..) = incident["more"].as_u64() {
            out.push(format!("  and {more} more"));
        }
    }
    say(&narrowed(&out.join("\n")))
}

/// What else changed when the anomaly began that an alert is of; it was one when the alert became active.
fn evidence<'a>(anomalies: &'a [Anomaly], alert: &Labels, active_at: &str) -> Vec<&'a Evidence> {
    let at = humantime::parse_rfc3339(active_at).ok();
    let Some(at) = at.and_then(|at| at.duration_since(UNIX_EPOCH).ok()) else {
        return Vec::new();
    };
    let at = at.as_secs_f64();
    let was = |one: &Anomaly| one.since <= at && one.until.is_none_or(|until| at <= until);
    let mut all = anomalies.iter();
    let found = all.find(|one| was(one) && is_of(one, |name| alert.get(name)));
    found.map(reasons).unwrap_or_default()
}

async fn silence(config: &Config, options: &SilenceAdd) -> Result<()> {
    let mut matchers: Vec<Matcher> = Vec::new();
    for text in &options.matchers {
        matchers.extend(matcher::parse(text).map_err(Error::usage)?);
    }
    let user = || {
        let user = nix::unistd::User::from_uid(nix::unistd::getuid()).ok().flatten();
        user.map_or_else(|| "unknown".to_owned(), |user| user.name)
    };
    let now = now();
    let length = i64::try_from(options.duration.as_millis()).unwrap_or(i64::MAX);
    let body = json!({
        "matchers": matchers,
        "startsAt": time(Some(now)),
        "endsAt": time(Some(now.saturating_add(length))),
        "createdBy": options.author.clone().unwrap_or_else(user),
        "comment": options.comment,
    });
    let agent = agent(config).await?;
    let asked = agent.request(Method::POST, agent.url("/api/v2/silences")?);
    let asked = asked
        .header(header::CONTENT_TYPE, "application/json")
        .body(body.to_string());
    let answer: Value = agent.read(agent.told(agent.send(asked).await?).await?).await?;
    say(&text(&answer["silenceID"]))
}

async fn silences(config: &Config, expired: bool, as_json: bool) -> Result<()> {
    let mut all = agent(config).await?.json::<Value>("/api/v2/silences").await?;
    if let Some(all) = all.as_array_mut() {
        all.retain(|silence| expired || silence["status"]["state"] != "expired");
    }
    if as_json {
        return pretty(&all);
    }
    let rows: Vec<Vec<String>> = all
        .as_array()
        .into_iter()
        .flatten()
        .map(|silence| {
            let matchers: Vec<Matcher> =
                serde_json::from_value(silence["matchers"].clone()).unwrap_or_default();
            let column = |name: &str| text(&silence[name]);
            [
                column("id"),
                text(&silence["status"]["state"]),
                column("endsAt"),
                matcher::shown(&matchers),
                column("createdBy"),
                column("comment"),
            ]
            .into()
        })
        .collect();
    if rows.is_empty() {
        return say("nothing is silenced");
    }
    let heads = ["ID", "STATE", "UNTIL", "MATCHERS", "BY", "COMMENT"];
    say(&narrowed(&table(&heads, &rows)))
}

/// Why a place is not told of an end; `None` if it is.
fn untold(place: &Integration) -> Option<String> {
    let lasts = humantime::format_duration(Duration::from_millis(LASTS.unsigned_abs()));
    match (place.send_resolved, place.forgets) {
        (false, _) => Some("not told: send_resolved is false".to_owned()),
        // What is over when an Alertmanager looks it tells nobody.
        (_, true) => Some(format!(
            "not told: it tells nobody what is over when it looks; there it ends by itself after {lasts}"
        )),
        _ => None,
    }
}

async fn test(config: &Config, name: &str) -> Result<()> {
    let plan = plan(config).map_err(|(path, why)| Error::usage(format_args!("alerting.{path}: {why}")))?;
    let Some(at) = plan.receivers.iter().position(|receiver| receiver.name == name) else {
        let known: Vec<&str> = plan
            .receivers
            .iter()
            .map(|receiver| receiver.name.as_str())
            .collect();
        return Err(Error::usage(match known.is_empty() {
            true => "the configuration has no receivers; give it with --config".to_owned(),
            false => format!("there is no receiver {name:?}; known: {}", known.join(", ")),
        }));
    };
    let texts = |pairs: [(&str, String); 3]| pairs.map(|(name, text)| (name.to_owned(), text));
    let labels = Labels::new(texts([
        ("alertname", "GeophoneTest".to_owned()),
        ("severity", "info".to_owned()),
        ("instance", config.host_name()),
    ]));
    let annotations = texts([
        ("summary", "a test of this receiver".to_owned()),
        (
            "description",
            "Sent by `geophone alerts test`. Nothing is wrong.".to_owned(),
        ),
        ("runbook_url", String::new()),
    ]);
    let now = now();
    let mut alert = Alert {
        labels: labels.clone(),
        annotations: Arc::new(BTreeMap::from(annotations)),
        active_at: now,
        starts_at: now,
        ends_at: None,
        generator_url: files::external_url(config),
    };
    let mut failed = 0;
    for (what, ends_at) in [("fires", None), ("has ended", Some(now + 1))] {
        alert.ends_at = ends_at;
        let notification = Notification {
            receiver: name.to_owned(),
            group_key: format!("{{}}:{{alertname=\"GeophoneTest\", at=\"{now}\"}}"),
            group_labels: Labels::new([("alertname", "GeophoneTest")]),
            at: now,
            alerts: vec![alert.clone()],
            external_url: files::external_url(config),
            lasts: LASTS,
        };
        for place in plan.places.get(at).into_iter().flatten() {
            let untold = ends_at.and_then(|_| untold(&place.integration()));
            if let Some(why) = untold {
                say(&format!("{}: that it {what}: {why}", place.name()))?;
                continue;
            }
            let began = Instant::now();
            let reply = match place.client() {
                Ok(client) => tokio::time::timeout(place.timeout, place.tell(&client, &notification))
                    .await
                    .unwrap_or_else(|_| Reply::retry("no reply in time")),
                Err(error) => Reply::permanent(format!("{error:#}")),
            };
            let line = match reply {
                Reply::Accepted { .. } => format!("taken, in {} ms", began.elapsed().as_millis()),
                Reply::Retry { cause, .. } => {
                    failed += 1;
                    format!("not taken; the agent would try again: {cause}")
                }
                Reply::Permanent { cause } => {
                    failed += 1;
                    format!("refused: {cause}")
                }
            };
            say(&format!("{}: that it {what}: {line}", place.name()))?;
        }
    }
    match failed {
        0 => Ok(()),
        failed => Err(Error::new(format_args!(
            "{failed} were not taken; the lines before say why"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Cause: an end at a webhook, at an Alertmanager, which forgets what it is not told again, and at a place that wants no ends. Seen: the
    /// first is told, of the others it is said why not.
    #[test]
    fn an_end_that_is_not_told_is_explained() {
        let place = |send_resolved, forgets| Integration {
            name: "a".to_owned(),
            send_resolved,
            forgets,
        };
        assert_eq!(untold(&place(true, false)), None);
        let words = |place| untold(&place).unwrap_or_default();
        assert!(words(place(true, true)).ends_with("there it ends by itself after 4m"));
        assert_eq!(words(place(false, true)), "not told: send_resolved is false");
    }
}
