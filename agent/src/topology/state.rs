//! Whether connections are well.

use crate::ui::units::{percent, rate, seconds};
use crate::ui::view::{Latency, PairRow};
use serde::{Deserialize, Serialize};

/// Degraded from this share of segments sent again in the last ten seconds.
pub const RETRANSMITS: f64 = 0.01;
/// Degraded when the present median of the round-trip time is so many times that since the start …
pub const SLOWER: f64 = 2.0;
/// … and so much above it, seconds: on a fast wire twice is nothing …
pub const SLOWER_BY: f64 = 0.001;
/// … of at least so many samples.
pub const SAMPLES: u64 = 100;

/// Whether all is well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Nothing speaks against it.
    #[default]
    Ok,
    /// One of the thresholds is passed.
    Degraded,
}

impl State {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Degraded => "degraded",
        }
    }
}

/// The state of the connections of a pair, and why it is not `ok`: 1 % of the segments of the last ten seconds were
/// sent again, an attempt to connect has failed in the last interval, or round trips take twice as long as they used to.
pub fn judge(pair: &PairRow) -> (State, Vec<String>) {
    let mut reasons = Vec::new();
    if let Some(ratio) = pair.retransmit_ratio.filter(|r| *r >= RETRANSMITS) {
        reasons.push(format!("{} retransmitted", percent(ratio)));
    }
    if pair.failed_rate > 0.0 {
        reasons.push(format!("{} failed attempts/s", rate(pair.failed_rate)));
    }
    let usual = Latency::of(&pair.rtt_since_start.histogram(), None).filter(|l| l.count >= SAMPLES);
    if let (Some(now), Some(usual)) = (&pair.rtt, usual)
        && now.p50 >= SLOWER * usual.p50
        && now.p50 >= usual.p50 + SLOWER_BY
    {
        reasons.push(format!(
            "RTT {}, usually {}",
            seconds(now.p50),
            seconds(usual.p50)
        ));
    }
    let state = if reasons.is_empty() {
        State::Ok
    } else {
        State::Degraded
    };
    (state, reasons)
}
