//! A Grafana that is reached by its API.

use crate::error::{Context as _, Error, Result};
use crate::export::push::http::{self, AGENT, post};
use crate::export::push::reply::{Reply, printable};
use crate::export::push::tls;
use crate::export::secret;
use agent_dashboards::Dashboard;
use reqwest::Url;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;

/// For one request.
const PATIENCE: Duration = Duration::from_secs(30);

/// It, and who speaks to it.
pub(super) struct Grafana {
    client: reqwest::Client,
    url: Url,
    headers: HeaderMap,
}

impl Grafana {
    /// With a token of a service account, and the authorities that signed its certificate where the system does not know them.
    pub(super) fn new(url: &str, token_file: &Path, ca_file: Option<&Path>) -> Result<Self> {
        let wrong = || {
            Error::usage(format_args!(
                "--push {url}: no address of a Grafana, e.g. https://grafana.example"
            ))
        };
        let mut base = Url::parse(url).map_err(|_e| wrong())?;
        if !matches!(base.scheme(), "http" | "https") || base.host_str().is_none() {
            return Err(wrong());
        }
        // A Grafana may live below a path.
        base.set_path(&format!(
            "{}/api/dashboards/db",
            base.path().trim_end_matches('/')
        ));
        let token =
            secret::read_secret("--token-file", token_file).map_err(|e| Error::new(format_args!("{e:#}")))?;
        let bearer = HeaderValue::from_str(&format!("Bearer {}", token.trim()));
        let mut bearer = bearer.context(format_args!(
            "--token-file {}: it is no token",
            token_file.display()
        ))?;
        bearer.set_sensitive(true);
        let client = reqwest::Client::builder()
            .timeout(PATIENCE)
            .user_agent(AGENT)
            // The token is for this address only.
            .redirect(reqwest::redirect::Policy::none());
        let client = match ca_file {
            Some(_) if base.scheme() == "http" => {
                return Err(Error::usage(format_args!(
                    "--ca-file: --push {url} is not encrypted; take https, or leave it out"
                )));
            }
            Some(file) => tls::certificates("--ca-file", file)
                .and_then(|ca| tls::trusting("--ca-file", &ca, client))
                .map_err(|e| Error::new(format_args!("{e:#}")))?,
            None => http::for_url(client, &base),
        };
        let client = client.build().context("--push")?;
        Ok(Self {
            client,
            url: base,
            headers: HeaderMap::from_iter([(AUTHORIZATION, bearer)]),
        })
    }

    /// Puts a dashboard there, over that of the same name; where it is.
    pub(super) async fn put(&self, board: &Dashboard, folder: Option<&str>) -> Result<String> {
        let mut body = json!({ "dashboard": board.json, "overwrite": true, "message": AGENT });
        if let Some(folder) = folder {
            body["folderUid"] = json!(folder);
        }
        let what = format!("{} to {}", board.name, self.url);
        let own = [(CONTENT_TYPE, "application/json")];
        let answer = post(
            &self.client,
            &self.url,
            &self.headers,
            &own,
            body.to_string().into(),
        )
        .await;
        let answer = answer.map_err(|reply| match reply {
            Reply::Retry { cause, .. }
            | Reply::Permanent { cause }
            | Reply::Accepted { message: cause, .. } => Error::new(format_args!("{what}: {cause}")),
        })?;
        let said: Value = serde_json::from_slice(&answer.body.unwrap_or_default()).unwrap_or_default();
        let text = |key: &str| said[key].as_str().map(printable);
        match answer.status {
            200 => Ok(text("url").unwrap_or_else(|| "put".to_owned())),
            401 | 403 => Err(Error::new(format_args!(
                "{what}: {}; the token's service account needs the role Editor",
                text("message").unwrap_or_else(|| "refused".to_owned())
            ))),
            status => Err(Error::new(format_args!(
                "{what}: status {status}: {}",
                text("message").unwrap_or_default()
            ))),
        }
    }
}
