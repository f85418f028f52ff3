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
use agent_common::tunnel::{InnerKey, direction, series};
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

/// Takes what a TCP packet tells.
#[inline(never)]
pub fn sample<const DIRECTION: usize>(skb: Skb, parsed: &Parsed, inner: &InnerKey, relief: u32) {
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
    // SAFETY: no preconditions.
    let now = (unsafe { bpf_ktime_get_boot_ns() } / 1000) as u32 | 1;
    let (from, to) = (
        u16::from_be_bytes([h[0], h[1]]) as u64,
        u16::from_be_bytes([h[2], h[3]]) as u64,
    );
    let ports = if DIRECTION == direction::INGRESS {
        to << 16 | from
    } else {
        from << 16 | to
    };
    let connection = connection(inner, ports);
    if answers {
        let (index, tag) = place(connection, echo, 1 - DIRECTION);
        if let Some(cell) = cell(index) {
            let held = *cell;
            if (held >> 32) as u32 == tag && held as u32 != 0 && exchange(cell, (tag as u64) << 32) == held {
                let series = if DIRECTION == direction::INGRESS {
                    series::RTT_REMOTE
                } else {
                    series::RTT_LOCAL
                };
                if let Some(state) = row::state(inner.slot) {
                    record(&mut state.histograms[series], now.wrapping_sub(held as u32));
                }
            }
        }
    }
    if asks {
        let (index, tag) = place(connection, value, DIRECTION);
        if let Some(cell) = cell(index) {
            let held = *cell;
            let waits = held as u32 != 0 && now.wrapping_sub(held as u32) < PATIENCE;
            // The first packet of a value is the one that is echoed.
            if (held >> 32) as u32 != tag && !waits {
                exchange(cell, (tag as u64) << 32 | now as u64);
            }
        }
    }
}

#[inline(always)]
fn cell(index: u32) -> Option<&'static mut u64> {
    // SAFETY: valid for the program's run; changed by exchanges only.
    TUNNEL_RTT.get_ptr_mut(index).map(|p| unsafe { &mut *p })
}

/// Multiplier of Fibonacci hashing, 2^64 / φ.
const MIX: u64 = 0x9e37_79b9_7f4a_7c15;

/// A number for a connection, the same for both directions.
#[inline(always)]
fn connection(inner: &InnerKey, ports: u64) -> u64 {
    let half = |a: &[u8; 16], at: usize| {
        u64::from_ne_bytes([
            a[at],
            a[at + 1],
            a[at + 2],
            a[at + 3],
            a[at + 4],
            a[at + 5],
            a[at + 6],
            a[at + 7],
        ])
    };
    let mut hash = ports ^ (inner.slot as u64) << 32;
    hash = (hash ^ half(&inner.local, 0)).wrapping_mul(MIX);
    hash = ((hash ^ hash >> 32) ^ half(&inner.local, 8)).wrapping_mul(MIX);
    hash = ((hash ^ hash >> 32) ^ half(&inner.remote, 0)).wrapping_mul(MIX);
    ((hash ^ hash >> 32) ^ half(&inner.remote, 8)).wrapping_mul(MIX)
}

/// Cell and tag of a value that goes in a direction.
#[inline(always)]
fn place(connection: u64, value: u32, direction: usize) -> (u32, u32) {
    let hash = (connection ^ (value as u64) << 1 ^ direction as u64).wrapping_mul(MIX);
    ((hash >> 18) as u32 & (CELLS - 1), (hash >> 32) as u32)
}
