//! Round-trip time of TCP that only passes by, from the timestamps of RFC 7323: a value goes one way, its echo comes back.
//! Probe `tunnel` measures so what is inside of tunnels, probe `path` what a host forwards.
//!
//! Only values that end in zeros are followed: both ways know them without looking anything up. A value waits in a table
//! without chains, addressed by a hash of connection, direction and value: bounded, and nothing is left over. A cell is
//! tag << 32 | µs, the low 32 bits of each, and changes hands by one atomic exchange; µs of 0 = already echoed.

use crate::account::exchange;
use crate::tunnel::Skb;
use agent_common::tunnel::direction;
use agent_common::tunnel::parse::Packet as _;
use aya_ebpf::{helpers::bpf_ktime_get_boot_ns, macros::map, maps::Array};

/// A timestamp value is followed if `value & mask == 0`, with this mask or, under relief, one that is a bit longer for
/// each level. Linux' clock ticks once a millisecond.
const MASK: u32 = 15;

const CELLS: u32 = 1 << 14;
#[map]
static RTT_WAITING: Array<u64> = Array::with_max_entries(CELLS, 0);

/// A value that was not echoed for this time gives its cell to another, µs.
const PATIENCE: u32 = 4_000_000;
const ACK: u8 = 0x10;

/// What a segment's timestamps say.
#[derive(Clone, Copy)]
pub struct Stamps {
    value: u32,
    echo: u32,
    source_port: u16,
    destination_port: u16,
    /// Its value is one that is followed.
    pub asks: bool,
    /// Its echo is.
    pub answers: bool,
}

/// Reads them from the TCP header at `transport` of a packet that ends at `end`; `None`: it has none.
#[inline(always)]
pub fn stamps(skb: &Skb, transport: u32, end: u32, relief: u32) -> Option<Stamps> {
    let mask = ((MASK + 1) << (relief & 3)) - 1;
    let h = skb.load::<32>(transport)?;
    let header = (h[12] >> 4) as u32 * 4;
    // The layout of all stacks for established connections: two fillers, then the timestamps.
    if header < 32 || [h[20], h[21], h[22], h[23]] != [1, 1, 8, 10] {
        return None;
    }
    let value = u32::from_be_bytes([h[24], h[25], h[26], h[27]]);
    let echo = u32::from_be_bytes([h[28], h[29], h[30], h[31]]);
    Some(Stamps {
        value,
        echo,
        source_port: u16::from_be_bytes([h[0], h[1]]),
        destination_port: u16::from_be_bytes([h[2], h[3]]),
        // Values without data are echoed whenever the other side has something to say: no round trip.
        asks: value & mask == 0 && end > transport + header,
        answers: echo & mask == 0 && h[13] & ACK != 0,
    })
}

/// Takes what a segment tells that comes in ([`direction::INGRESS`]) or goes out. `pair` is a number for the two
/// addresses and where they are seen, the same for both directions. Returns µs if this is an echo: on the way in it is the
/// time to the other side, on the way out to our own.
#[inline(always)]
pub fn pass<const DIRECTION: usize>(stamps: &Stamps, pair: u64) -> Option<u32> {
    let took = follow::<DIRECTION>(stamps, pair);
    (took != NONE).then_some(took as u32)
}

/// No time in µs of 32 bits.
const NONE: u64 = u64::MAX;

/// A function of its own: inside of another LLVM reads variables where they are not set yet, and does nothing with them,
/// which the verifier refuses.
#[inline(never)]
fn follow<const DIRECTION: usize>(stamps: &Stamps, pair: u64) -> u64 {
    // SAFETY: no preconditions.
    let now = (unsafe { bpf_ktime_get_boot_ns() } / 1000) as u32 | 1;
    let (from, to) = (stamps.source_port as u64, stamps.destination_port as u64);
    let ports = if DIRECTION == direction::INGRESS {
        to << 16 | from
    } else {
        from << 16 | to
    };
    let connection = (pair ^ ports).wrapping_mul(MIX);
    let mut took = NONE;
    if stamps.answers {
        let (index, tag) = slot(connection, stamps.echo, 1 - DIRECTION);
        if let Some(cell) = cell(index) {
            let held = *cell;
            if (held >> 32) as u32 == tag && held as u32 != 0 && exchange(cell, (tag as u64) << 32) == held {
                took = now.wrapping_sub(held as u32) as u64;
            }
        }
    }
    if stamps.asks {
        let (index, tag) = slot(connection, stamps.value, DIRECTION);
        if let Some(cell) = cell(index) {
            let held = *cell;
            let waits = held as u32 != 0 && now.wrapping_sub(held as u32) < PATIENCE;
            // The first packet of a value is the one that is echoed.
            if (held >> 32) as u32 != tag && !waits {
                exchange(cell, (tag as u64) << 32 | now as u64);
            }
        }
    }
    took
}

#[inline(always)]
fn cell(index: u32) -> Option<&'static mut u64> {
    // SAFETY: valid for the program's run; changed by exchanges only.
    RTT_WAITING.get_ptr_mut(index).map(|p| unsafe { &mut *p })
}

/// Multiplier of Fibonacci hashing, 2^64 / φ.
pub const MIX: u64 = 0x9e37_79b9_7f4a_7c15;

/// A number for two addresses: `local` is the one on our side. `place` tells the devices apart on which they are seen.
#[inline(always)]
pub fn pair(place: u32, local: &[u8; 16], remote: &[u8; 16]) -> u64 {
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
    let mut hash = ((place as u64) << 32 ^ half(local, 0)).wrapping_mul(MIX);
    hash = ((hash ^ hash >> 32) ^ half(local, 8)).wrapping_mul(MIX);
    hash = ((hash ^ hash >> 32) ^ half(remote, 0)).wrapping_mul(MIX);
    ((hash ^ hash >> 32) ^ half(remote, 8)).wrapping_mul(MIX)
}

/// Cell and tag of a value that goes in a direction.
#[inline(always)]
fn slot(connection: u64, value: u32, direction: usize) -> (u32, u32) {
    let hash = (connection ^ (value as u64) << 1 ^ direction as u64).wrapping_mul(MIX);
    ((hash >> 18) as u32 & (CELLS - 1), (hash >> 32) as u32)
}
