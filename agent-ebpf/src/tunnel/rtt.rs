//! Round-trip time of TCP inside a tunnel.

use super::packet::Skb;
use super::row;
use crate::histogram::record;
use crate::rtt::{pass, stamps};
use agent_common::tunnel::parse::Parsed;
use agent_common::tunnel::{InnerKey, direction, series};

/// Takes what a TCP packet tells.
#[inline(never)]
pub fn sample<const DIRECTION: usize>(skb: Skb, parsed: &Parsed, inner: &InnerKey, relief: u32) {
    let Some(stamps) = stamps(&skb, parsed.transport, parsed.inner_end, relief) else {
        return;
    };
    if !stamps.asks && !stamps.answers {
        return;
    }
    if let Some(micros) = pass::<DIRECTION>(&stamps, inner.slot, &inner.local, &inner.remote)
        && let Some(state) = row::state(inner.slot)
    {
        let series = if DIRECTION == direction::INGRESS {
            series::RTT_REMOTE
        } else {
            series::RTT_LOCAL
        };
        record(&mut state.histograms[series], micros);
    }
}
