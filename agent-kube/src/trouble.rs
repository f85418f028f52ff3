//! What goes wrong when the API is asked: why, and how long to wait.

use crate::Shared;
use crate::limit::TooLong;
use crate::protobuf::Strange;
use kube_client::Error;
use kube_runtime::watcher;
use std::error::Error as StdError;
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// First and longest pause after an error. A node is one of thousands that all want to come back.
const SHORTEST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// After so long without an error the next one is a first one again.
pub(crate) const FORGIVEN: Duration = Duration::from_secs(60);

/// What goes wrong: counted, told once, and followed by a pause that grows.
pub(crate) struct Trouble {
    /// What it means.
    what: &'static str,
    pause: Duration,
    last: Instant,
    is_told: bool,
}

impl Trouble {
    pub fn new(what: &'static str) -> Self {
        Self {
            what,
            pause: SHORTEST_PAUSE,
            last: Instant::now(),
            is_told: false,
        }
    }

    pub async fn has(&mut self, reason: &'static str, why: &str, shared: &Shared) {
        *shared.state().errors.entry(reason).or_default() += 1;
        // What a server that is well does now and then is no trouble.
        if !self.is_told && reason != "gone" {
            self.is_told = true;
            tracing::warn!(
                "kubernetes: {why}; {}, names of before are kept{}",
                self.what,
                remedy(reason)
            );
        }
        if self.last.elapsed() > self.pause + FORGIVEN {
            self.pause = SHORTEST_PAUSE;
        }
        sleep(self.pause.mul_f64(rand::random_range(0.5..1.0))).await;
        self.pause = (2 * self.pause).min(LONGEST_PAUSE);
        self.last = Instant::now();
    }

    pub fn over(&mut self) {
        self.pause = SHORTEST_PAUSE;
        if std::mem::take(&mut self.is_told) {
            tracing::info!("kubernetes: the API answers again");
        }
    }
}

fn remedy(reason: &str) -> &'static str {
    match reason {
        "forbidden" => {
            "; give the service account list and watch of pods, get of nodes, and with kubernetes.peers list and watch of services and endpointslices (with `pods` of all pods)"
        }
        "not_found" => "; set NODE_NAME to spec.nodeName by the downward API, or kubernetes.node",
        "connect" => "; can the API server be reached from here?",
        _ => "",
    }
}

/// What the server no longer remembers must be listed anew. kube does so itself only if an event says it.
pub(crate) fn is_gone(error: &watcher::Error) -> bool {
    matches!(error, watcher::Error::WatchStartFailed(Error::Api(status)) if status.code == 410)
}

pub(crate) fn reason(error: &watcher::Error) -> &'static str {
    use watcher::Error::{InitialListFailed, NoResourceVersion, WatchError, WatchFailed, WatchStartFailed};
    match error {
        WatchError(status) => by_code(status.code),
        NoResourceVersion => "malformed",
        InitialListFailed(e) | WatchStartFailed(e) | WatchFailed(e) => reason_of(e),
    }
}

pub(crate) fn reason_of(error: &Error) -> &'static str {
    let mut cause: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(e) = cause {
        if e.is::<TooLong>() {
            return "too_large";
        }
        if e.is::<prost::DecodeError>() || e.is::<Strange>() {
            return "malformed";
        }
        cause = e.source();
    }
    match error {
        Error::Api(status) => by_code(status.code),
        Error::SerdeError(_) | Error::FromUtf8(_) | Error::LinesCodecMaxLineLengthExceeded => "malformed",
        Error::Auth(_) => "forbidden",
        _ => "connect",
    }
}

fn by_code(code: u16) -> &'static str {
    match code {
        401 | 403 => "forbidden",
        404 => "not_found",
        410 => "gone",
        429 => "throttled",
        _ => "status",
    }
}

/// An error with its causes, each once, in one line of bounded length.
pub(crate) fn chain(error: &dyn StdError) -> String {
    let mut out = error.to_string();
    let mut cause = error.source();
    while let Some(e) = cause {
        let text = e.to_string();
        if !out.contains(&text) {
            out = format!("{out}: {text}");
        }
        cause = e.source();
    }
    let line: String = out
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(300)
        .collect();
    line
}
