//! Probe `tunnel`: what passes through the tunnels of an underlay device. See agent/src/probes/tunnel.rs for what it
//! exports.
//!
//! The programs only look: whatever they find, the next program or the stack goes on as if they were not there.

mod packet;
mod row;
mod rtt;
mod sequence;
mod wireguard;

use crate::account::{self, bump_own};
use agent_common::account::{Account, program, reason};
use agent_common::tunnel::parse::{Parsed, Verdict, fact, parse};
use agent_common::tunnel::window::Step;
use agent_common::tunnel::{
    EndKey, InnerKey, SLOT_OTHER, TunnelKey, class, counter, direction, kind, relief,
};
use aya_ebpf::{
    macros::{classifier, map},
    maps::{Array, PerCpuArray, ProgramArray},
    programs::TcContext,
};
pub use packet::Skb;
use packet::UdpPorts;

/// `TCX_NEXT`, and `TC_ACT_UNSPEC` of clsact: the next one decides.
pub const NEXT: i32 = -1;

/// What does not fit on the stack. Zero at first; padding of keys is never written and stays so. The programs run with bottom halves off, so nobody else of this CPU writes to it.
#[repr(C)]
struct Scratch {
    /// Number of the network namespace, written by the entry program of that namespace just before it jumps to a program
    /// here (agent/src/bpf/tc.rs). The programs of the agent's own namespace do not read it.
    netns: u32,
    /// `TUNNEL_RELIEF`, read once for a packet.
    relief: u32,
    parsed: Parsed,
    key: TunnelKey,
    /// Of `key`.
    end: EndKey,
    /// 1 = nobody knows that end.
    stranger: u64,
    inner: InnerKey,
    /// Of `inner`; see [`row::pair`].
    pair: u64,
    step: Step,
    memo: row::Memo,
}

const _: () = assert!(
    core::mem::offset_of!(Scratch, key).is_multiple_of(8)
        && core::mem::offset_of!(Scratch, end).is_multiple_of(8)
        && core::mem::offset_of!(Scratch, inner).is_multiple_of(8)
        && core::mem::offset_of!(Scratch, memo).is_multiple_of(8)
);

#[map]
static TUNNEL_SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);

/// Level of the governor; see [`relief`].
#[map]
static TUNNEL_RELIEF: Array<u64> = Array::with_max_entries(1, MMAPABLE);
const MMAPABLE: u32 = 1 << 10;

/// Where the entry programs of other namespaces jump to.
#[map]
static TUNNEL_JUMPS: ProgramArray = ProgramArray::with_max_entries(4, 0);

/// Packets that an Ethernet device has received.
#[classifier]
#[inline(always)]
pub fn tunnel_ingress(ctx: TcContext) -> i32 {
    watch::<{ direction::INGRESS }, true, true>(&ctx, program::TUNNEL_INGRESS)
}

/// Packets that an Ethernet device is to send.
#[classifier]
#[inline(always)]
pub fn tunnel_egress(ctx: TcContext) -> i32 {
    watch::<{ direction::EGRESS }, true, true>(&ctx, program::TUNNEL_EGRESS)
}

/// As `tunnel_ingress`, for devices whose packets begin with the IP header.
#[classifier]
#[inline(always)]
pub fn tunnel_ingress_ip(ctx: TcContext) -> i32 {
    watch::<{ direction::INGRESS }, false, true>(&ctx, program::TUNNEL_INGRESS)
}

/// As `tunnel_egress`, for devices whose packets begin with the IP header.
#[classifier]
#[inline(always)]
pub fn tunnel_egress_ip(ctx: TcContext) -> i32 {
    watch::<{ direction::EGRESS }, false, true>(&ctx, program::TUNNEL_EGRESS)
}

/// As `tunnel_ingress`, in another network namespace than the agent's, and so are those that follow.
#[classifier]
#[inline(always)]
pub fn tunnel_ingress_netns(ctx: TcContext) -> i32 {
    watch::<{ direction::INGRESS }, true, false>(&ctx, program::TUNNEL_INGRESS)
}

/// See `tunnel_ingress_netns`.
#[classifier]
#[inline(always)]
pub fn tunnel_egress_netns(ctx: TcContext) -> i32 {
    watch::<{ direction::EGRESS }, true, false>(&ctx, program::TUNNEL_EGRESS)
}

/// See `tunnel_ingress_netns`.
#[classifier]
#[inline(always)]
pub fn tunnel_ingress_ip_netns(ctx: TcContext) -> i32 {
    watch::<{ direction::INGRESS }, false, false>(&ctx, program::TUNNEL_INGRESS)
}

/// See `tunnel_ingress_netns`.
#[classifier]
#[inline(always)]
pub fn tunnel_egress_ip_netns(ctx: TcContext) -> i32 {
    watch::<{ direction::EGRESS }, false, false>(&ctx, program::TUNNEL_EGRESS)
}

#[inline(always)]
fn watch<const DIRECTION: usize, const ETHERNET: bool, const OWN: bool>(
    ctx: &TcContext,
    program: usize,
) -> i32 {
    let Some(account) = account::of(program) else {
        return NEXT;
    };
    bump_own(&mut account.seen);
    if packet::plain::<ETHERNET>(ctx) {
        bump_own(&mut account.filtered);
        return NEXT;
    }
    let Some(scratch) = TUNNEL_SCRATCH.get_ptr_mut(0) else {
        bump_own(&mut account.dropped[reason::MAP_FULL]);
        return NEXT;
    };
    // SAFETY: a non-null map value stays valid for the program's run, and nobody else uses it; see [`Scratch`].
    let scratch = unsafe { &mut *scratch };
    let skb = Skb::new(ctx);
    reset(&mut scratch.parsed);
    scratch.relief = TUNNEL_RELIEF.get(0).copied().unwrap_or(0) as u32;
    scratch.stranger = 0;
    scratch.key.netns = if OWN { 0 } else { scratch.netns as u16 };
    match read::<ETHERNET>(skb, &mut scratch.parsed) {
        Verdict::Nothing => bump_own(&mut account.filtered),
        Verdict::Fragment => {
            if let Some(cells) = row::cells(SLOT_OTHER) {
                row::bump(&mut cells.counters[counter::UNKNOWN_FRAGMENTS + DIRECTION]);
            }
            bump_own(&mut account.filtered);
        }
        Verdict::Malformed => {
            row::key(&mut scratch.key, &scratch.parsed, &skb, DIRECTION);
            // Junk makes no tunnel.
            let slot = row::find(&scratch.key).unwrap_or(SLOT_OTHER);
            if let Some(cells) = row::cells(slot) {
                row::bump(&mut cells.counters[counter::MALFORMED + DIRECTION]);
            }
            bump_own(&mut account.aggregated);
        }
        Verdict::TooBig => {
            // The quoted packet went the other way.
            row::key(&mut scratch.key, &scratch.parsed, &skb, 1 - DIRECTION);
            too_big::<DIRECTION>(account, scratch);
        }
        Verdict::SomeTunnel => count::<DIRECTION>(account, skb, scratch, SLOT_OTHER),
        Verdict::Tunnel => {
            row::key(&mut scratch.key, &scratch.parsed, &skb, DIRECTION);
            let slot = row::slot::<DIRECTION>(account, scratch);
            tunnel::<DIRECTION>(account, skb, scratch, slot);
        }
    }
    NEXT
}

/// Zeroes what the parser expects to be zero. Volatile, because LLVM makes a memset of plain stores, and in BPF that is
/// a function that counts bytes: 100 ns.
#[inline(always)]
fn reset(parsed: &mut Parsed) {
    let start = core::mem::offset_of!(Parsed, sequence) / 8;
    let words: *mut u64 = core::ptr::from_mut(parsed).cast();
    let mut i = start;
    while i < core::mem::offset_of!(Parsed, net) / 8 {
        // SAFETY: inside the struct, whose integers may be zero; it is aligned to eight bytes.
        unsafe { words.add(i).write_volatile(0) };
        i += 1;
    }
}
const _: () = assert!(core::mem::offset_of!(Parsed, net) % 8 == 0 && align_of::<Parsed>() == 8);

/// Inlined, and so is all that most packets need: where returns are guarded against speculation (SRSO) each costs 10 ns,
/// more than to read a header. What is rare or large is a function: where one returns, all its paths are one to the
/// verifier.
#[inline(always)]
fn read<const ETHERNET: bool>(skb: Skb, parsed: &mut Parsed) -> Verdict {
    parse(&skb, &UdpPorts, ETHERNET, parsed)
}

#[inline(always)]
fn too_big<const DIRECTION: usize>(account: &mut Account, scratch: &Scratch) {
    let slot = row::find(&scratch.key).unwrap_or(SLOT_OTHER);
    if let Some(cells) = row::cells(slot) {
        row::bump(&mut cells.counters[counter::TOO_BIG + DIRECTION]);
    }
    bump_own(&mut account.aggregated);
    if slot == SLOT_OTHER {
        return;
    }
    if let Some(state) = row::state(slot) {
        state.mtu = scratch.parsed.mtu as u64;
    }
}

/// All that a packet of a known tunnel tells.
#[inline(always)]
fn tunnel<const DIRECTION: usize>(account: &mut Account, skb: Skb, scratch: &mut Scratch, slot: u32) {
    count::<DIRECTION>(account, skb, scratch, slot);
    if slot == SLOT_OTHER {
        return;
    }
    let facts = scratch.parsed.facts;
    if facts & fact::TCP != 0 && scratch.relief < relief::NO_RTT as u32 {
        rtt::sample::<DIRECTION>(skb, &scratch.parsed, slot, scratch.pair, scratch.relief);
    }
    if DIRECTION == direction::INGRESS && facts & fact::SEQUENCED != 0 {
        sequence::track(skb, &scratch.parsed, slot, &mut scratch.step);
    }
    if scratch.parsed.kind == kind::WIREGUARD && (1..4).contains(&scratch.parsed.message) {
        wireguard::handshake::<DIRECTION>(&scratch.parsed, slot);
    }
}

/// Packets, bytes and what is inside.
#[inline(always)]
fn count<const DIRECTION: usize>(account: &mut Account, skb: Skb, scratch: &mut Scratch, slot: u32) {
    let Some(cells) = row::cells(slot) else {
        bump_own(&mut account.dropped[reason::MAP_FULL]);
        return;
    };
    let parsed = &scratch.parsed;
    let wire = skb.on_the_wire(parsed);
    row::add(&mut cells.counters[counter::BYTES + DIRECTION], wire.bytes);
    if wire.inner != 0 {
        row::add(&mut cells.counters[counter::INNER_BYTES + DIRECTION], wire.inner);
    }
    let class = (parsed.class as usize).min(class::COUNT - 1);
    // SAFETY: within the counters; indexing would emit a panic path, which does not load.
    row::add(
        unsafe {
            cells
                .counters
                .get_unchecked_mut(counter::PACKETS + DIRECTION * class::COUNT + class)
        },
        wire.packets,
    );
    if parsed.facts & fact::FRAGMENT != 0 {
        row::bump(&mut cells.counters[counter::FRAGMENTS + DIRECTION]);
    }
    if slot == SLOT_OTHER {
        if DIRECTION == direction::INGRESS && scratch.stranger != 0 {
            row::add(&mut cells.counters[counter::STRANGERS], wire.packets);
        }
    } else if parsed.facts & fact::PAIR != 0 {
        let inner = &mut scratch.inner;
        row::inner_key(inner, parsed, slot, DIRECTION);
        scratch.pair = row::pair(inner);
        if scratch.relief < relief::NO_PAIRS as u32 {
            row::inner(inner, scratch.pair, DIRECTION, &wire);
        }
    }
    bump_own(&mut account.aggregated);
}
