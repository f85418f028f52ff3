//! Alerts to Alertmanagers, as Prometheus sends them: again each minute while they fire, and for a quarter of an hour after
//! their end, so that one that was away is told, also of what came and went meanwhile. Grouping, silences and receivers are the
//! Alertmanager's.
//!
//! What is to be sent follows from the rules' own state, so nothing is queued: a failed attempt leaves the alert due. What ends
//! and cannot be told within that quarter, or before a restart, is lost; a receiver with `alertmanager_configs` keeps it on disk.
//! Each Alertmanager has a task of its own, and one that does not answer delays nobody.

use super::Rules;
use super::view::Told;
use crate::config::Config;
use crate::error::{Context as _, Error, Result};
use crate::export::push::http::{self, AGENT, describe};
use crate::export::push::reply::printable;
use agent_notify::receivers::alertmanager::SEEN;
use agent_store::labels::Labels;
use agent_store::series::Millis;
use rand::Rng as _;
use reqwest::{StatusCode, Url, header};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::time::sleep;

/// An alert is told again after this time.
const AGAIN: Millis = 60_000;
/// Alerts of one request.
const MOST: usize = 64;
/// For one request.
const PATIENCE: Duration = Duration::from_secs(10);
/// The first and the longest wait after a failure.
const BACKOFF: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(60)];

/// What became of alerts.
#[derive(Debug, Default)]
pub struct Stats {
    /// Alerts that were accepted; each time counts.
    pub sent: AtomicU64,
    /// Alerts that were refused for good.
    pub refused: AtomicU64,
    /// Requests that failed and are made again.
    pub failures: AtomicU64,
}

/// One of them.
pub struct Alertmanager {
    url: Url,
    token_file: Option<PathBuf>,
    external_labels: Labels,
    external_url: String,
    client: reqwest::Client,
    told: HashMap<Labels, Sent>,
    failing: bool,
    stats: Arc<Stats>,
}

/// When an alert was told last, and whether its end was.
struct Sent {
    at: Millis,
    resolved: bool,
}

/// How an attempt failed.
enum Failure {
    /// Another one may do.
    Retry(String),
    /// No other one will.
    Refused(String),
}

/// Those of the configuration.
pub fn all(config: &Config) -> Result<Vec<Alertmanager>> {
    let one = |(at, given): (usize, &String)| {
        let wrong = |why: &dyn std::fmt::Display| {
            Error::usage(format_args!(
                "rules.alertmanagers[{at}] {given:?}: {why}; write e.g. http://127.0.0.1:9093"
            ))
        };
        let mut url = Url::parse(given).map_err(|error| wrong(&error))?;
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
            return Err(wrong(&"no address of a server"));
        }
        let path = format!("{}/api/v2/alerts", url.path().trim_end_matches('/'));
        url.set_path(&path);
        let client = reqwest::Client::builder()
            .timeout(PATIENCE)
            .referer(false)
            .no_proxy()
            .user_agent(AGENT)
            // Of a redirect a GET would be made, whose answer is no receipt.
            .redirect(reqwest::redirect::Policy::none());
        let client = http::for_url(client, &url)
            .build()
            .context("rules.alertmanagers")?;
        Ok(Alertmanager {
            url,
            token_file: config.rules.alertmanager_token_file.clone(),
            external_labels: super::files::external_labels(config),
            external_url: super::files::external_url(config),
            client,
            told: HashMap::new(),
            failing: false,
            stats: Arc::default(),
        })
    };
    config.rules.alertmanagers.iter().enumerate().map(one).collect()
}

impl Alertmanager {
    /// Host and port, for labels and the log.
    pub fn name(&self) -> String {
        let host = self.url.host_str().unwrap_or_default();
        match self.url.port_or_known_default() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        }
    }

    /// What became of the alerts.
    pub fn stats(&self) -> Arc<Stats> {
        self.stats.clone()
    }

    /// Sends what is due until it is over.
    pub async fn run(mut self, rules: Arc<Rules>, over: impl Future<Output = ()>) {
        tokio::pin!(over);
        let mut evaluated = rules.evaluated();
        let mut backoff = BACKOFF[0];
        loop {
            evaluated.mark_unchanged();
            let failed = self.send(&rules, crate::memory::now()).await.is_err();
            if failed {
                let wait = backoff.mul_f64(rand::rng().random_range(0.5..1.0));
                backoff = (backoff * 2).min(BACKOFF[1]);
                tokio::select! {
                    () = &mut over => return,
                    () = sleep(wait) => {}
                }
                continue;
            }
            backoff = BACKOFF[0];
            tokio::select! {
                () = &mut over => return,
                changed = evaluated.changed() => if changed.is_err() { return },
            }
        }
    }

    /// One turn: all that is due; an error if some of it is to be tried again.
    pub(super) async fn send(&mut self, rules: &Rules, now: Millis) -> std::result::Result<(), ()> {
        let groups = rules.view();
        let told = super::view::told(&groups);
        let known: HashSet<&Labels> = told.iter().map(|alert| &alert.labels).collect();
        self.told.retain(|labels, _| known.contains(labels));
        let due: Vec<&Told> = told.into_iter().filter(|alert| self.is_due(alert, now)).collect();
        for some in due.chunks(MOST) {
            let is_new = |alert: &Told| !self.told.contains_key(&alert.labels);
            let body = payload(some, is_new, &self.external_labels, &self.external_url, now);
            let count = some.len() as u64;
            match self.post(body).await {
                Ok(()) => {
                    self.stats.sent.fetch_add(count, Relaxed);
                    if std::mem::take(&mut self.failing) {
                        tracing::info!("alertmanager {}: it accepts again", self.name());
                    }
                }
                Err(Failure::Refused(why)) => {
                    self.stats.refused.fetch_add(count, Relaxed);
                    self.complain(&format!("{count} alerts were refused: {why}"));
                }
                Err(Failure::Retry(why)) => {
                    self.stats.failures.fetch_add(1, Relaxed);
                    self.complain(&format!("{why}; trying again"));
                    return Err(());
                }
            }
            for alert in some {
                let resolved = alert.resolved_at.is_some();
                self.told.insert(alert.labels.clone(), Sent { at: now, resolved });
            }
        }
        Ok(())
    }

    /// What ended while nobody could be told is due as well; as one that fires it is told once.
    fn is_due(&self, alert: &Told, now: Millis) -> bool {
        // As with a Prometheus: it ends at the Alertmanager if the rule goes on failing.
        if alert.unknown {
            return false;
        }
        match self.told.get(&alert.labels) {
            None => true,
            Some(sent) => sent.resolved != alert.resolved_at.is_some() || (now - sent.at).abs() >= AGAIN,
        }
    }

    async fn post(&self, body: String) -> std::result::Result<(), Failure> {
        let mut request = self.client.post(self.url.clone()).body(body);
        request = request.header(header::CONTENT_TYPE, "application/json");
        if let Some(file) = &self.token_file {
            // Read each time: it may have been renewed.
            let token = std::fs::read_to_string(file);
            let token = token.map_err(|error| {
                Failure::Retry(format!(
                    "rules.alertmanager_token_file {}: {error}",
                    file.display()
                ))
            })?;
            request = request.bearer_auth(token.trim());
        }
        let answer = request.send().await;
        let mut answer = answer.map_err(|error| Failure::Retry(describe(&error)))?;
        let status = answer.status();
        if status.is_success() {
            return Ok(());
        }
        // Its beginning is enough, and may be anything.
        let said = answer.chunk().await.ok().flatten().unwrap_or_default();
        let why = format!("{status}: {}", printable(String::from_utf8_lossy(&said).trim()));
        let passing = matches!(
            status,
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS | StatusCode::UNAUTHORIZED
        );
        Err(if status.is_client_error() && !passing {
            Failure::Refused(why)
        } else {
            Failure::Retry(why)
        })
    }

    /// One line at the first failure, not one each time.
    fn complain(&mut self, what: &str) {
        if std::mem::replace(&mut self.failing, true) {
            tracing::debug!("alertmanager {}: {what}", self.name());
        } else {
            tracing::warn!("alertmanager {}: {what}", self.name());
        }
    }
}

/// The body of `POST /api/v2/alerts`.
fn payload(
    alerts: &[&Told],
    is_new: impl Fn(&Told) -> bool,
    external: &Labels,
    external_url: &str,
    now: Millis,
) -> String {
    let one = |alert: &&Told| -> Value {
        // An alert's own labels win.
        let pairs = external.iter().chain(alert.labels.iter());
        let labels: BTreeMap<&str, &str> = pairs.map(|(name, value)| (&**name, &**value)).collect();
        // The clock may have been set back since: an end before its beginning would be refused.
        let ends = match alert.resolved_at {
            None => now + 4 * AGAIN.max(alert.interval),
            Some(_) if is_new(alert) => now + SEEN,
            Some(at) => at.min(now),
        };
        json!({
            "labels": labels,
            "annotations": *alert.annotations,
            "startsAt": super::view::time(alert.fired_at.min(now)),
            "endsAt": super::view::time(ends),
            "generatorURL": super::view::generator_url(external_url, &alert.query),
        })
    };
    Value::Array(alerts.iter().map(one).collect()).to_string()
}

#[cfg(test)]
mod tests;
