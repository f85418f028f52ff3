//! Where views and records come from: a running agent, over HTTP.

use super::source::{Source, Update};
use crate::records::Record;
use crate::ui::view::View;
use futures::StreamExt as _;
use reqwest::{Client, Response};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

/// How often the view is asked for.
const PERIOD: Duration = Duration::from_secs(1);
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// Wait before the stream of records is opened again.
const AGAIN: Duration = Duration::from_secs(2);
/// Largest view that is read.
const MAX_VIEW: usize = 32 << 20;
/// Longest record that is read.
const MAX_LINE: usize = 64 << 10;

/// A running agent.
#[derive(Debug)]
pub struct RemoteSource {
    updates: mpsc::Receiver<Update>,
    _tasks: JoinSet<()>,
}

impl RemoteSource {
    /// Asks the agent at `base_url`, e.g. `http://127.0.0.1:9779`, by a client that knows whom to trust. Call it inside of a
    /// tokio runtime.
    pub fn new(client: Client, base_url: &str, token: Option<String>) -> Self {
        let agent = Agent {
            client,
            base: base_url.trim_end_matches('/').to_owned(),
            token,
        };
        let (sender, updates) = mpsc::channel(64);
        let mut tasks = JoinSet::new();
        tasks.spawn(views(agent.clone(), sender.clone()));
        tasks.spawn(flows(agent, sender));
        Self {
            updates,
            _tasks: tasks,
        }
    }
}

impl Source for RemoteSource {
    async fn next(&mut self) -> Option<Update> {
        self.updates.recv().await
    }
}

#[derive(Clone)]
struct Agent {
    client: Client,
    base: String,
    token: Option<String>,
}

impl Agent {
    async fn get(&self, path: &str) -> Result<Response, String> {
        let mut request = self.client.get(format!("{}{path}", self.base));
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        let name = self
            .base
            .split_once("://")
            .map_or(self.base.as_str(), |(_, name)| name);
        let response = match timeout(PATIENCE, request.send()).await {
            Ok(Ok(response)) => response,
            Ok(Err(e)) if e.is_builder() => return Err(format!("{}: {e}; retrying", self.base)),
            _ => return Err(format!("agent at {name} does not answer; retrying")),
        };
        match response.status() {
            s if s.is_success() => Ok(response),
            s if s.as_u16() == 401 || s.as_u16() == 403 => Err(format!(
                "agent at {name} refuses the token ({}); retrying",
                s.as_u16()
            )),
            s => Err(format!(
                "agent at {name} answers {path} with {}; retrying",
                s.as_u16()
            )),
        }
    }

    async fn view(&self) -> Result<Box<View>, String> {
        let mut stream = self.get("/api/v1/view").await?.bytes_stream();
        let mut body = Vec::new();
        let cut = || format!("the answer of {} broke off; retrying", self.base);
        while let Some(part) = timeout(PATIENCE, stream.next()).await.map_err(|_e| cut())? {
            body.extend_from_slice(&part.map_err(|_e| cut())?);
            if body.len() > MAX_VIEW {
                return Err(format!(
                    "the view of {} is larger than {} MiB; retrying",
                    self.base,
                    MAX_VIEW >> 20
                ));
            }
        }
        serde_json::from_slice(&body)
            .map_err(|e| format!("{} does not answer like geophone: {e}; retrying", self.base))
    }
}

async fn views(agent: Agent, sender: mpsc::Sender<Update>) {
    let mut tick = interval(PERIOD);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let update = match agent.view().await {
            Ok(view) => Update::View(view),
            Err(why) => Update::Gone(why),
        };
        if sender.send(update).await.is_err() {
            return;
        }
    }
}

async fn flows(agent: Agent, sender: mpsc::Sender<Update>) {
    while !sender.is_closed() {
        // Failures are told by the views.
        if let Ok(response) = agent.get("/api/v1/flows").await {
            let mut lines = Lines::default();
            let mut stream = response.bytes_stream();
            while let Some(Ok(part)) = stream.next().await {
                let records = lines.push(&part);
                if !records.is_empty() && sender.send(Update::Records(records)).await.is_err() {
                    return;
                }
            }
        }
        sleep(AGAIN).await;
    }
}

/// Newline-delimited JSON in pieces. What is too long or no record is skipped.
#[derive(Debug, Default)]
struct Lines {
    line: Vec<u8>,
    skip: bool,
}

impl Lines {
    fn push(&mut self, part: &[u8]) -> Vec<Record> {
        let mut records = Vec::new();
        let mut pieces = part.split(|b| *b == b'\n').peekable();
        while let Some(piece) = pieces.next() {
            if !self.skip {
                self.line.extend_from_slice(piece);
            }
            if self.line.len() > MAX_LINE {
                self.skip = true;
                self.line.clear();
            }
            if pieces.peek().is_some() {
                records.extend(serde_json::from_slice::<Record>(&self.line));
                self.line.clear();
                self.skip = false;
            }
        }
        records
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_found_across_pieces_and_nonsense_is_skipped() {
        let drop = r#"{"kind":"drop","time":1.0,"reason":"R","location":"","protocol":"udp","direction":"","device":"","subject":"","source":null,"destination":null,"bytes":9}"#;
        let mut lines = Lines::default();
        let (a, b) = drop.as_bytes().split_at(20);
        assert!(lines.push(a).is_empty());
        assert_eq!(
            lines
                .push(&[b, b"\n{}\nnonsense\n\n", drop.as_bytes(), b"\n{\"ki"].concat())
                .len(),
            2
        );
        let mut lines = Lines::default();
        lines.push(&vec![b'x'; MAX_LINE + 1]);
        assert!(lines.line.is_empty());
        assert_eq!(lines.push(&[b"yz\n", drop.as_bytes(), b"\n"].concat()).len(), 1);
    }

    fn source(url: &str, token: Option<&str>) -> RemoteSource {
        crate::export::testing_tls::install_crypto();
        RemoteSource::new(Client::new(), url, token.map(str::to_owned))
    }

    #[tokio::test]
    async fn an_agent_that_is_not_there_is_said_to_be_gone() {
        let mut told = source("http://127.0.0.1:1/", None);
        let Some(Update::Gone(why)) = told.next().await else {
            panic!("an answer from nobody")
        };
        assert_eq!(why, "agent at 127.0.0.1:1 does not answer; retrying");
    }

    #[tokio::test]
    async fn a_view_and_its_token_travel() {
        use axum::{Json, Router, http::HeaderMap, http::StatusCode, routing::get};
        let view = |headers: HeaderMap| async move {
            match headers.get("authorization").is_some_and(|v| v == "Bearer secret") {
                true => Ok(Json(View {
                    host: "far".into(),
                    ..View::default()
                })),
                false => Err(StatusCode::UNAUTHORIZED),
            }
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = tokio::spawn(async move {
            axum::serve(listener, Router::new().route("/api/v1/view", get(view)))
                .await
                .unwrap();
        });
        let mut told = source(&url, Some("secret"));
        assert!(matches!(told.next().await, Some(Update::View(view)) if view.host == "far"));
        let mut told = source(&url, None);
        assert!(
            matches!(told.next().await, Some(Update::Gone(why)) if why.contains("refuses the token (401)"))
        );
        server.abort();
    }
}
