//! Probe `path` on forwarding hosts: round-trip times of TCP that only passes by, to either side of a device. See
//! agent/src/probes/path/forwarded.rs.
//!
//! The programs only look. Those of connections that begin or end here are left to probe `tcp`.

use crate::account::{self, bump_own};
use crate::histogram;
use crate::rtt::{Stamps, follow, pair, stamps};
use crate::tcp;
use crate::tunnel::{NEXT, Skb};
use agent_common::account::{Account, program, reason};
use agent_common::histogram::Histogram;
use agent_common::path::{ForwardedKey, segment};
use agent_common::tunnel::direction;
use aya_ebpf::{
    macros::{classifier, map},
    maps::HashMap,
    programs::TcContext,
};

const NO_PREALLOC: u32 = 1;

/// By device, side and peer. The key of zeros is there from the start and takes what finds no room.
#[map]
static PATH_FORWARDED: HashMap<ForwardedKey, Histogram> = HashMap::with_max_entries(1024, NO_PREALLOC);

/// This host's own addresses; userspace writes them.
#[map]
static PATH_OWN: HashMap<[u8; 16], u8> = HashMap::with_max_entries(4096, NO_PREALLOC);

/// Set in the place of a device, for [`pair`]: numbers of tunnels do not have it.
const DEVICE: u32 = 1 << 31;

/// Packets that an Ethernet device has received.
#[classifier]
pub fn path_ingress(ctx: TcContext) -> i32 {
    watch::<{ direction::INGRESS }, true>(&ctx, program::PATH_INGRESS)
}

/// Packets that an Ethernet device is to send.
#[classifier]
pub fn path_egress(ctx: TcContext) -> i32 {
    watch::<{ direction::EGRESS }, true>(&ctx, program::PATH_EGRESS)
}

/// As `path_ingress`, for devices whose packets begin with the IP header.
#[classifier]
pub fn path_ingress_ip(ctx: TcContext) -> i32 {
    watch::<{ direction::INGRESS }, false>(&ctx, program::PATH_INGRESS)
}

/// As `path_egress`, for devices whose packets begin with the IP header.
#[classifier]
pub fn path_egress_ip(ctx: TcContext) -> i32 {
    watch::<{ direction::EGRESS }, false>(&ctx, program::PATH_EGRESS)
}

#[inline(always)]
fn watch<const DIRECTION: usize, const ETHERNET: bool>(ctx: &TcContext, program: usize) -> i32 {
    if let Some(account) = account::of(program) {
        bump_own(&mut account.seen);
        look::<DIRECTION, ETHERNET>(account, Skb::new(ctx));
    }
    NEXT
}

#[inline(always)]
fn look<const DIRECTION: usize, const ETHERNET: bool>(account: &mut Account, skb: Skb) {
    let Some(segment) = segment(&skb, ETHERNET) else {
        bump_own(&mut account.filtered);
        return;
    };
    let Some(stamps) = stamps(&skb, segment.transport, segment.end, 0) else {
        bump_own(&mut account.filtered);
        return;
    };
    if !stamps.asks && !stamps.answers {
        bump_own(&mut account.sampled);
        return;
    }
    let Some((source, destination)) = segment.ends(&skb) else {
        bump_own(&mut account.filtered);
        return;
    };
    if PATH_OWN.get_ptr(source).is_some() || PATH_OWN.get_ptr(destination).is_some() {
        bump_own(&mut account.filtered);
        return;
    }
    let place = skb.ifindex() | DEVICE;
    let (values, rest) = stamps.words();
    let pair = if DIRECTION == direction::INGRESS {
        pair(place, &destination, &source)
    } else {
        pair(place, &source, &destination)
    };
    let took = took::<DIRECTION>(values, rest, pair);
    if took == NONE {
        // A value that waits from now on, or an echo of none that did.
        if stamps.asks {
            bump_own(&mut account.aggregated);
        } else {
            bump_own(&mut account.filtered);
        }
        return;
    }
    let key = ForwardedKey {
        device: skb.ifindex(),
        // Who echoes is at the other end of what was measured.
        peer: tcp::peer(source),
        side: DIRECTION as u32,
        pad: 0,
    };
    match histogram::of(&PATH_FORWARDED, &key, &ForwardedKey::OTHER, account) {
        Some(histogram) => {
            histogram::record(histogram, took as u32);
            bump_own(&mut account.aggregated);
        }
        None => bump_own(&mut account.dropped[reason::MAP_FULL]),
    }
}

/// No time in µs of 32 bits.
const NONE: u64 = u64::MAX;

/// See [`follow`]; [`NONE`] = no echo.
#[inline(never)]
fn took<const DIRECTION: usize>(values: u64, rest: u64, pair: u64) -> u64 {
    let mut took = NONE;
    follow::<DIRECTION>(Stamps::of(values, rest), pair, |micros| took = micros as u64);
    took
}
