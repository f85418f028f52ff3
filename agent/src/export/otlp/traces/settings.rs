//! Settings of traces.

use crate::export::duration;
use anyhow::{Result, bail};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// TCP connections as spans, when they end. Both ends of a connection are one trace, without any instrumentation: the id is made
/// of what only they know. What is told is also an exemplar of the histograms of round trips and handshakes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Traces {
    /// Send them.
    pub enabled: bool,
    /// Share of the connections that chance tells, 0 to 1. It is the same connections on all hosts, and the same that OpenTelemetry's
    /// samplers choose by the id, but for attempts that nobody answered.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub share: f64,
    /// Tell those that end with an error in any case: refused, reset, timed out, unreachable, and those that nobody had answered when
    /// the application gave up.
    pub errors: bool,
    /// Tell those whose handshake, or one of whose round trips, took at least so long in any case; `0s` = no such.
    #[serde(with = "duration")]
    #[schemars(with = "String")]
    pub slow: Duration,
    /// Most spans a second. What is over it is counted as sampled.
    #[schemars(range(min = 1, max = 100_000))]
    pub per_second: u32,
}

impl Default for Traces {
    fn default() -> Self {
        Self {
            enabled: false,
            share: 0.01,
            errors: true,
            slow: Duration::from_secs(1),
            per_second: 100,
        }
    }
}

impl Traces {
    /// Says what is wrong, in one line.
    pub fn validate(&self) -> Result<()> {
        if !(0.0..=1.0).contains(&self.share) {
            bail!("otlp.traces.share {}: out of range; use 0 to 1", self.share);
        }
        let longest = Duration::from_secs(3600);
        if self.slow > longest || (self.slow != Duration::ZERO && self.slow < Duration::from_millis(1)) {
            let slow = humantime::format_duration(self.slow);
            bail!("otlp.traces.slow {slow}: out of range; use 0s or 1ms to 1h");
        }
        if !(1..=100_000).contains(&self.per_second) {
            bail!(
                "otlp.traces.per_second {}: out of range; use 1 to 100000",
                self.per_second
            );
        }
        Ok(())
    }
}
