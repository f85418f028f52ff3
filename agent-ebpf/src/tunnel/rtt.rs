//! Round-trip time of TCP inside a tunnel; see [`crate::rtt`].

use super::packet::Skb;
use super::row;
use crate::histogram::record;
use crate::rtt::{Stamps, follow, stamps};
use agent_common::tunnel::parse::Parsed;
use agent_common::tunnel::{direction, series};

/// Takes what a TCP packet tells; mostly nothing, and that costs no call.
#[inline(always)]
pub fn sample<const DIRECTION: usize>(skb: Skb, parsed: &Parsed, slot: u32, pair: u64, relief: u32) {
    let Some(stamps) = stamps(&skb, parsed.transport, parsed.inner_end, relief) else {
        return;
    };
    if stamps.asks || stamps.answers {
        let (values, rest) = stamps.words();
        followed::<DIRECTION>(values, rest, pair, slot);
    }
}

#[inline(never)]
fn followed<const DIRECTION: usize>(values: u64, rest: u64, pair: u64, slot: u32) {
    let series = if DIRECTION == direction::INGRESS {
        series::RTT_REMOTE
    } else {
        series::RTT_LOCAL
    };
    follow::<DIRECTION>(Stamps::of(values, rest), pair, |micros| {
        if let Some(state) = row::state(slot) {
            record(&mut state.histograms[series], micros);
        }
    });
}
