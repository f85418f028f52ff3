//! What is asked of the samples: whose, and when.

use crate::config::Glob;
use std::str::FromStr;
use std::time::{Duration, UNIX_EPOCH};

/// What is asked for.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// From this time on, ns since the Unix epoch.
    pub from: u64,
    /// Until this time; 0 = now.
    pub to: u64,
    /// Only this container, unit or process.
    pub subject: Option<String>,
    /// Only processes of this name.
    pub process: Option<String>,
    /// Only this process.
    pub pid: Option<u32>,
    /// Only what runs in this cgroup or below it.
    pub cgroup: Option<Below>,
    /// Only this kind of sample.
    pub sample: u8,
}

/// A cgroup and those below it; `*` stands for any text.
#[derive(Clone, Debug)]
pub struct Below([Glob; 2]);

impl FromStr for Below {
    type Err = String;

    fn from_str(path: &str) -> Result<Self, String> {
        let (own, below) = match path.trim_matches('/') {
            "" => ("*".to_owned(), "*".to_owned()),
            path => (format!("/{path}"), format!("/{path}/*")),
        };
        Ok(Self([own.parse()?, below.parse()?]))
    }
}

impl Below {
    /// Whether a cgroup is one of them; empty = the root.
    pub fn has(&self, cgroup: &str) -> bool {
        self.0.iter().any(|glob| glob.matches(cgroup))
    }
}

/// A span of time, ns since the Unix epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// When it begins.
    pub from: u64,
    /// When it is over.
    pub to: u64,
}

/// How [`moment`] wants a time.
pub const MOMENTS: &str =
    "no time; write seconds since 1970, 2026-01-31T12:00:00Z, how long ago, e.g. 10m, or now";

/// A time, ns since the Unix epoch: in seconds since then, as RFC 3339 has it, how long ago, or `now`.
pub fn moment(text: &str, now: u64) -> Result<u64, String> {
    let nanos = |time: Duration| u64::try_from(time.as_nanos()).ok();
    let found = if text == "now" {
        Some(now)
    } else if let Ok(seconds) = text.parse::<f64>() {
        Duration::try_from_secs_f64(seconds).ok().and_then(nanos)
    } else if let Ok(time) = humantime::parse_rfc3339_weak(text) {
        time.duration_since(UNIX_EPOCH).ok().and_then(nanos)
    } else {
        let ago = humantime::parse_duration(text).ok().and_then(nanos);
        ago.map(|ago| now.saturating_sub(ago))
    };
    found
        .filter(|time| *time < 1 << 63)
        .ok_or_else(|| format!("{text}: {MOMENTS}"))
}
