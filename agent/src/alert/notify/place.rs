//! A place that is told: how it is reached, and one attempt.

use super::smtp::{self, Smtp};
use crate::export::push::delivery::Delivery;
use crate::export::push::http::{self, Answer};
use crate::export::push::reply::{Reply, printable, retry_after};
use crate::export::push::settings::{Retry, Tls};
use crate::export::secret::read_secret;
use agent_notify::receivers::{
    self, Post, alertmanager::Alertmanager, email::Email, log::Log, pagerduty::PagerDuty, slack::Slack,
    webhook::Webhook,
};
use agent_notify::{Integration, Notification};
use anyhow::{Result, anyhow, bail};
use bytes::Bytes;
use reqwest::Url;
use reqwest::header::{self, HeaderMap};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A place.
#[derive(Clone, Debug)]
pub struct Place {
    /// Name of its receiver.
    pub receiver: String,
    /// Its name within that: `webhook[0]`.
    pub integration: String,
    /// Where it stands in the configuration, for errors.
    pub setting: String,
    /// Whether it is told of the end.
    pub send_resolved: bool,
    /// What it is.
    pub kind: Kind,
    /// Longest time for an attempt.
    pub timeout: Duration,
    /// What follows a failure.
    pub retry: Retry,
    /// Most attempts a minute.
    pub rate_limit: usize,
}

/// What a place is.
#[derive(Clone, Debug)]
pub enum Kind {
    /// An Alertmanager.
    Alertmanager {
        /// Where to, path and all.
        url: Url,
        /// File with headers.
        headers_file: Option<PathBuf>,
        /// Whom to trust.
        tls: Tls,
    },
    /// Alertmanager's payload.
    Webhook {
        /// What is sent.
        webhook: Webhook,
        /// Where to.
        url: Option<Url>,
        /// File with that.
        url_file: Option<PathBuf>,
        /// File with headers.
        headers_file: Option<PathBuf>,
        /// Whom to trust.
        tls: Tls,
    },
    /// Slack.
    Slack {
        /// What is sent.
        slack: Slack,
        /// File with the address.
        url_file: PathBuf,
        /// Whom to trust.
        tls: Tls,
    },
    /// PagerDuty.
    PagerDuty {
        /// What is sent.
        pagerduty: PagerDuty,
        /// Where to.
        url: Url,
        /// File with the key.
        key_file: PathBuf,
        /// Whom to trust.
        tls: Tls,
    },
    /// Mail.
    Email {
        /// What is sent.
        email: Box<Email>,
        /// Which way.
        route: Box<smtp::Route>,
        /// File with the password.
        password_file: Option<PathBuf>,
    },
    /// The agent's own log.
    Log(Log),
}

/// What is kept from one attempt to the next; made anew after a failure, files read again.
pub enum Client {
    /// For whoever takes posts.
    Http(Box<Http>),
    /// For a mail server.
    Smtp(Box<Smtp>),
    /// Nothing is needed.
    Log,
}

/// A client that posts.
pub struct Http {
    client: reqwest::Client,
    url: Url,
    headers: HeaderMap,
    /// Key of PagerDuty.
    key: String,
}

impl Place {
    /// As the state machine knows it.
    pub fn integration(&self) -> Integration {
        Integration {
            name: self.integration.clone(),
            send_resolved: self.send_resolved,
            forgets: matches!(self.kind, Kind::Alertmanager { .. }),
        }
    }

    /// For the log: `ops/webhook[0]`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.receiver, self.integration)
    }

    /// Reads the files and makes a client; does not connect.
    pub fn client(&self) -> Result<Client> {
        match &self.kind {
            Kind::Alertmanager {
                url,
                headers_file,
                tls,
            } => self.http(url.clone(), headers_file.clone(), tls, String::new()),
            Kind::Webhook {
                url,
                url_file,
                headers_file,
                tls,
                ..
            } => {
                let url = match (url, url_file) {
                    (Some(url), _) => url.clone(),
                    (None, Some(file)) => self.secret_url("url_file", file)?,
                    (None, None) => bail!("{}: no url", self.setting),
                };
                self.http(url, headers_file.clone(), tls, String::new())
            }
            Kind::Slack { url_file, tls, .. } => {
                let url = self.secret_url("api_url_file", url_file)?;
                self.http(url, None, tls, String::new())
            }
            Kind::PagerDuty {
                url, key_file, tls, ..
            } => {
                let key = self.secret("routing_key_file", key_file)?;
                self.http(url.clone(), None, tls, key)
            }
            Kind::Email {
                route, password_file, ..
            } => {
                let password = password_file.as_ref();
                let password = password
                    .map(|file| self.secret("auth_password_file", file))
                    .transpose()?;
                let smtp = Smtp::new(route, &self.setting, password, self.timeout)?;
                Ok(Client::Smtp(Box::new(smtp)))
            }
            Kind::Log(_) => Ok(Client::Log),
        }
    }

    fn http(&self, url: Url, headers_file: Option<PathBuf>, tls: &Tls, key: String) -> Result<Client> {
        let delivery = Delivery {
            name: self.setting.clone().into(),
            url,
            timeout: self.timeout,
            retry: self.retry.clone(),
            queue_size: 1,
            headers_file,
            tls: tls.clone(),
        };
        let headers = delivery.headers()?;
        let (client, url) = delivery.http()?;
        Ok(Client::Http(Box::new(Http {
            client,
            url,
            headers,
            key,
        })))
    }

    fn secret(&self, name: &str, file: &Path) -> Result<String> {
        let text = read_secret(&format!("{}.{name}", self.setting), file)?;
        let text = text.trim();
        if text.is_empty() {
            bail!("{}.{name} {}: is empty", self.setting, file.display());
        }
        Ok(text.to_owned())
    }

    /// An address that must not be shown.
    fn secret_url(&self, name: &str, file: &Path) -> Result<Url> {
        let url = Url::parse(&self.secret(name, file)?).ok();
        url.filter(|url| matches!(url.scheme(), "http" | "https"))
            .ok_or_else(|| {
                let file = file.display();
                anyhow!("{}.{name} {file}: what is in it is no http address", self.setting)
            })
    }

    /// Tells it once.
    pub async fn tell(&self, client: &Client, notification: &Notification) -> Reply {
        match (&self.kind, client) {
            (Kind::Alertmanager { .. }, Client::Http(client)) => {
                let alerts = Alertmanager.post(notification, crate::memory::now());
                post(client, alerts, receivers::judge).await
            }
            (Kind::Webhook { webhook, .. }, Client::Http(client)) => {
                post(client, webhook.post(notification), receivers::judge).await
            }
            (Kind::Slack { slack, .. }, Client::Http(client)) => {
                post(client, slack.post(notification), Slack::judge).await
            }
            (Kind::PagerDuty { pagerduty, .. }, Client::Http(client)) => {
                let event = pagerduty.post(notification, &client.key);
                post(client, event, receivers::judge).await
            }
            (Kind::Email { email, route, .. }, Client::Smtp(smtp)) => {
                match smtp::message(email, route, notification) {
                    Ok(message) => smtp.send(&message).await,
                    Err(error) => Reply::permanent(format!("{error:#}")),
                }
            }
            (Kind::Log(log), _) => {
                tracing::warn!(receiver = self.receiver, "alert: {}", log.line(notification));
                accepted()
            }
            _ => Reply::permanent("another kind of client"),
        }
    }
}

/// The place has taken all of it.
pub(super) fn accepted() -> Reply {
    Reply::Accepted {
        rejected: 0,
        message: String::new(),
    }
}

async fn post(to: &Http, post: Post, judge: fn(u16, &[u8]) -> receivers::Answer) -> Reply {
    let own = [(header::CONTENT_TYPE, "application/json")];
    match http::post(&to.client, &to.url, &to.headers, &own, Bytes::from(post.body)).await {
        Ok(answer) => verdict(&answer, judge),
        Err(reply) => reply,
    }
}

fn verdict(answer: &Answer, judge: fn(u16, &[u8]) -> receivers::Answer) -> Reply {
    match judge(answer.status, answer.body.as_deref().unwrap_or_default()) {
        receivers::Answer::Delivered => accepted(),
        receivers::Answer::Retry(why) => Reply::Retry {
            after: answer.header(header::RETRY_AFTER).and_then(retry_after),
            cause: printable(&why),
        },
        receivers::Answer::Refused(why) => Reply::permanent(why),
    }
}
