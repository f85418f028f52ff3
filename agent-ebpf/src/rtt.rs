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

/// What a segment's timestamps say. In few words, which fit into registers: on the stack of another function each costs
/// a store and a load.
#[derive(Clone, Copy)]
pub struct Stamps {
    /// Value << 32 | echo.
    values: u64,
    /// Source port << 16 | destination port.
    ports: u32,
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
        values: (value as u64) << 32 | echo as u64,
        ports: u32::from_be_bytes([h[0], h[1], h[2], h[3]]),
        // Values without data are echoed whenever the other side has something to say: no round trip.
        asks: value & mask == 0 && end > transport + header,
        answers: echo & mask == 0 && h[13] & ACK != 0,
    })
}

/// Takes what a segment tells that comes in ([`direction::INGRESS`]) or goes out. `pair` is a number for the two
/// addresses and where they are seen, the same for both directions. Hands `told` µs if this is an echo: on the way in it
/// is the time to the other side, on the way out to our own.
///
/// To be called in a function of its own, which gets all of it in registers. What is to be done with the time is done
/// where it is known: of a variable that is set there LLVM reads where it is not set yet, and does nothing with it, which
/// the verifier refuses.
#[inline(always)]
pub fn follow<const DIRECTION: usize>(stamps: Stamps, pair: u64, told: impl FnOnce(u32)) {
    let ports = if DIRECTION == direction::INGRESS {
        stamps.ports.rotate_left(16)
    } else {
        stamps.ports
    };
    let connection = (pair ^ ports as u64).wrapping_mul(MIX);
    if stamps.answers {
        let (index, tag) = slot(connection, stamps.values as u32, 1 - DIRECTION);
        if let Some(cell) = cell(index) {
            let held = *cell;
            if (held >> 32) as u32 == tag && held as u32 != 0 && exchange(cell, (tag as u64) << 32) == held {
                told(now().wrapping_sub(held as u32));
            }
        }
    }
    if stamps.asks {
        let (index, tag) = slot(connection, (stamps.values >> 32) as u32, DIRECTION);
        if let Some(cell) = cell(index) {
            let held = *cell;
            // The first packet of a value is the one that is echoed. Those that follow it need no clock, which costs as
            // much as all the rest.
            if (held >> 32) as u32 != tag {
                let now = now();
                if held as u32 == 0 || now.wrapping_sub(held as u32) >= PATIENCE {
                    exchange(cell, (tag as u64) << 32 | now as u64);
                }
            }
        }
    }
}

impl Stamps {
    /// As two words, for a call.
    #[inline(always)]
    pub fn words(self) -> (u64, u64) {
        let flags = (self.asks as u64) << 1 | self.answers as u64;
        (self.values, flags << 32 | self.ports as u64)
    }

    /// And back.
    #[inline(always)]
    pub fn of(values: u64, rest: u64) -> Self {
        Self {
            values,
            ports: rest as u32,
            asks: rest >> 33 & 1 != 0,
            answers: rest >> 32 & 1 != 0,
        }
    }
}

/// µs since boot, low 32 bits, never 0.
#[inline(always)]
fn now() -> u32 {
    // SAFETY: no preconditions.
    (unsafe { bpf_ktime_get_boot_ns() } / 1000) as u32 | 1
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
