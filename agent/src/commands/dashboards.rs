//! `geophone dashboards`: the dashboards of our own metrics, listed, written, or put into a Grafana.

use super::say;
use crate::aggregate::{Kind, Metric};
use crate::cli;
use crate::error::{Context as _, Error, Result};
use crate::export::push::http::{self, AGENT, post};
use crate::export::push::reply::{Reply, printable};
use crate::export::secret;
use crate::ui::print::table;
use agent_dashboards::{Dashboard, Style, dashboards as make};
use reqwest::Url;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;

/// For one request.
const PATIENCE: Duration = Duration::from_secs(30);

/// Does what is asked of them.
pub async fn dashboards(options: &cli::Dashboards) -> Result<()> {
    let style = Style {
        classic: options.classic,
    };
    let made = make(&declared(), style).map_err(|faults| Error::new(faults.join("; ")))?;
    let chosen = chosen(&made, &options.names)?;
    if let Some(directory) = &options.output {
        return write(&chosen, directory);
    }
    if let (Some(url), Some(file)) = (&options.push, &options.token_file) {
        let grafana = Grafana::new(url, file)?;
        for board in &chosen {
            let place = grafana.put(board, options.folder.as_deref()).await?;
            say(&format!("{}: {place}", board.name))?;
        }
        return Ok(());
    }
    if let ([board], [_]) = (chosen.as_slice(), options.names.as_slice()) {
        return say(board.text().trim_end());
    }
    let rows: Vec<Vec<String>> = chosen
        .iter()
        .map(|board| {
            vec![
                board.name.to_owned(),
                board.queries.len().to_string(),
                board.about.to_owned(),
            ]
        })
        .collect();
    say(table(&["NAME", ">QUERIES", "WHAT"], &rows).trim_end())
}

/// Our metrics, as the dashboards want them.
fn declared() -> Vec<agent_dashboards::Metric> {
    let all = crate::docs::all()
        .into_iter()
        .flat_map(|(_, metrics)| metrics.iter());
    all.map(|metric: &&Metric| agent_dashboards::Metric {
        name: metric.name.to_owned(),
        kind: match metric.kind {
            Kind::Counter => agent_dashboards::Kind::Counter,
            Kind::Gauge => agent_dashboards::Kind::Gauge,
            Kind::Histogram => agent_dashboards::Kind::Histogram,
        },
        unit: metric.unit.to_owned(),
        labels: metric
            .labels
            .iter()
            .map(|label| label.prometheus.to_owned())
            .collect(),
        help: metric.help.to_owned(),
    })
    .collect()
}

/// Those of these names, with or without `geophone-`; all if there is no name.
fn chosen<'a>(made: &'a [Dashboard], names: &[String]) -> Result<Vec<&'a Dashboard>> {
    if names.is_empty() {
        return Ok(made.iter().collect());
    }
    let one = |name: &String| {
        let found = made
            .iter()
            .find(|board| board.name == name || board.name.strip_prefix("geophone-") == Some(name));
        found.ok_or_else(|| {
            let known: Vec<&str> = made.iter().map(|board| board.name).collect();
            Error::usage(format_args!(
                "{name}: no such dashboard; there are {}",
                known.join(", ")
            ))
        })
    };
    names.iter().map(one).collect()
}

fn write(boards: &[&Dashboard], directory: &Path) -> Result<()> {
    std::fs::create_dir_all(directory).context(format_args!("--output {}", directory.display()))?;
    for board in boards {
        let file = directory.join(format!("{}.json", board.name));
        std::fs::write(&file, board.text()).context(format_args!("--output {}", file.display()))?;
    }
    say(&format!("{} dashboards in {}", boards.len(), directory.display()))
}

/// A Grafana that is reached by its API.
struct Grafana {
    client: reqwest::Client,
    url: Url,
    headers: HeaderMap,
}

impl Grafana {
    fn new(url: &str, token_file: &Path) -> Result<Self> {
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
        let client = http::for_url(client, &base).build().context("--push")?;
        Ok(Self {
            client,
            url: base,
            headers: HeaderMap::from_iter([(AUTHORIZATION, bearer)]),
        })
    }

    /// Puts a dashboard there, over that of the same name; where it is.
    async fn put(&self, board: &Dashboard, folder: Option<&str>) -> Result<String> {
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

#[cfg(test)]
mod tests {
    use agent_score::watch::defaults;

    /// The dashboards draw bands of what is watched: the same names, units and labels.
    #[test]
    fn the_watches_are_those_of_the_dashboards() {
        let watched = defaults(10_000);
        assert_eq!(watched.len(), agent_dashboards::WATCHES.len());
        for (one, (name, unit, labels)) in watched.iter().zip(agent_dashboards::WATCHES) {
            assert_eq!((one.name.as_str(), one.unit.name()), (*name, *unit));
            let by = format!("by ({}) (", labels.join(", "));
            assert!(one.expr.contains(&by), "{name}: not {by} in {}", one.expr);
        }
    }
}
