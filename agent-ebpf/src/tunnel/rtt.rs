//! Round-trip time of TCP inside a tunnel, from the timestamps of RFC 7323: a value goes one way, its echo comes back.
//!
//! Only values that end in zeros are followed: both ways know them without looking anything up. A value waits in a table
//! without chains, addressed by a hash of connection, direction and value: bounded, and nothing is left over. A cell is
//! tag << 32 | µs, the low 32 bits of each, and changes hands by one atomic exchange; µs of 0 = already echoed.

use super::packet::Skb;
use super::row;
use crate::account::exchange;
use crate::histogram::record;
use agent_common::tunnel::parse::{Packet as _, Parsed};
use agent_common::tunnel::{direction, series};
use aya_ebpf::{helpers::bpf_ktime_get_boot_ns, macros::map, maps::Array};

/// A timestamp value is followed if `value & mask == 0`, with this mask or, under relief, one that is a bit longer for
/// each level. Linux' clock ticks once a millisecond.
const MASK: u32 = 15;

const CELLS: u32 = 1 << 14;
#[map]
static TUNNEL_RTT: Array<u64> = Array::with_max_entries(CELLS, 0);

/// A value that was not echoed for this time gives its cell to another, µs.
const PATIENCE: u32 = 4_000_000;
const ACK: u8 = 0x10;

/// Takes what a TCP packet tells; mostly nothing, and that costs no call.
#[inline(always)]
pub fn sample<const DIRECTION: usize>(skb: Skb, parsed: &Parsed, slot: u32, pair: u64, relief: u32) {
    let mask = ((MASK + 1) << (relief & 3)) - 1;
    let Some(h) = skb.load::<32>(parsed.transport) else {
        return;
    };
    let header = (h[12] >> 4) as u32 * 4;
    // The layout of all stacks for established connections: two fillers, then the timestamps.
    if header < 32 || [h[20], h[21], h[22], h[23]] != [1, 1, 8, 10] {
        return;
    }
    let value = u32::from_be_bytes([h[24], h[25], h[26], h[27]]);
    let echo = u32::from_be_bytes([h[28], h[29], h[30], h[31]]);
    // Values without data are echoed whenever the other side has something to say: no round trip.
    let asks = value & mask == 0 && parsed.inner_end > parsed.transport + header;
    let answers = echo & mask == 0 && h[13] & ACK != 0;
    if !asks && !answers {
        return;
    }
    let (from, to) = (
        u16::from_be_bytes([h[0], h[1]]) as u64,
        u16::from_be_bytes([h[2], h[3]]) as u64,
    );
    let ports = if DIRECTION == direction::INGRESS {
        to << 16 | from
    } else {
        from << 16 | to
    };
    let connection = (pair ^ ports).wrapping_mul(row::MIX);
    if answers {
        answer::<DIRECTION>(slot, connection, echo);
    }
    if asks {
        ask::<DIRECTION>(connection, value);
    }
}

/// µs since boot; never 0.
#[inline(always)]
fn now() -> u32 {
    // SAFETY: no preconditions.
    (unsafe { bpf_ktime_get_boot_ns() } / 1000) as u32 | 1
}

/// An echo: the value that it answers went the other way.
#[inline(never)]
fn answer<const DIRECTION: usize>(slot: u32, connection: u64, echo: u32) {
    let (index, tag) = place(connection, echo, 1 - DIRECTION);
    let Some(cell) = cell(index) else { return };
    let held = *cell;
    if (held >> 32) as u32 != tag || held as u32 == 0 || exchange(cell, (tag as u64) << 32) != held {
        return;
    }
    let series = if DIRECTION == direction::INGRESS {
        series::RTT_REMOTE
    } else {
        series::RTT_LOCAL
    };
    if let Some(state) = row::state(slot) {
        record(&mut state.histograms[series], now().wrapping_sub(held as u32));
    }
}

/// A value that will be echoed.
#[inline(never)]
fn ask<const DIRECTION: usize>(connection: u64, value: u32) {
    let (index, tag) = place(connection, value, DIRECTION);
    let Some(cell) = cell(index) else { return };
    let held = *cell;
    // The first packet of a value is the one that is echoed.
    if (held >> 32) as u32 == tag {
        return;
    }
    let now = now();
    if held as u32 == 0 || now.wrapping_sub(held as u32) >= PATIENCE {
        exchange(cell, (tag as u64) << 32 | now as u64);
    }
}

#[inline(always)]
fn cell(index: u32) -> Option<&'static mut u64> {
    // SAFETY: valid for the program's run; changed by exchanges only.
    TUNNEL_RTT.get_ptr_mut(index).map(|p| unsafe { &mut *p })
}

/// Cell and tag of a value that goes in a direction.
#[inline(always)]
fn place(connection: u64, value: u32, direction: usize) -> (u32, u32) {
    let hash = (connection ^ (value as u64) << 1 ^ direction as u64).wrapping_mul(row::MIX);
    ((hash >> 18) as u32 & (CELLS - 1), (hash >> 32) as u32)
}
