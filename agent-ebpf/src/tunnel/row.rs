//! From a packet's tunnel to its rows.

use super::packet::{Skb, Wire};
use crate::account::{add, bump};
use crate::settings::SHARD_MASK;
use agent_common::account::Account;
use agent_common::tunnel::parse::{Parsed, bytes};
use agent_common::tunnel::{
    InnerKey, InnerValue, SLOT_OTHER, TunnelCells, TunnelKey, TunnelState, TunnelValue, direction,
};
use aya_ebpf::{
    helpers::{bpf_get_smp_processor_id, bpf_ktime_get_boot_ns},
    macros::map,
    maps::{Array, HashMap, Queue},
};

const MMAPABLE: u32 = 1 << 10;
const NOEXIST: u64 = 1;

/// Tunnel → slot.
#[map]
static TUNNELS: HashMap<TunnelKey, TunnelValue> = HashMap::with_max_entries(1, 0);

/// Slots that are free, as `FREE_SLOTS` of the pairs. Slot 0 is never among them.
#[map]
static TUNNEL_FREE: Queue<u32> = Queue::with_max_entries(1, 0);

/// Row `slot * shards + (cpu & SHARD_MASK)`.
#[map]
static TUNNEL_CELLS: Array<TunnelCells> = Array::with_max_entries(1, MMAPABLE);

/// Row `slot`.
#[map]
static TUNNEL_STATES: Array<TunnelState> = Array::with_max_entries(1, MMAPABLE);

/// Who talks inside.
#[map]
static TUNNEL_INNER: HashMap<InnerKey, InnerValue> = HashMap::with_max_entries(1, 0);

/// Changes when userspace has taken a tunnel out of `TUNNELS`, before its slot becomes free.
#[map]
static TUNNEL_EPOCH: Array<u64> = Array::with_max_entries(1, MMAPABLE);

/// The tunnel of this CPU's last packet: the next one is mostly of the same, and comparing costs a tenth of looking up.
#[repr(C)]
pub struct Memo {
    key: TunnelKey,
    epoch: u64,
    /// 0 = none.
    slot: u32,
    pad: u32,
}

/// The key of a packet that goes in a direction.
#[inline(always)]
pub fn key(key: &mut TunnelKey, parsed: &Parsed, skb: &Skb, direction: usize) {
    if direction == direction::INGRESS {
        key.local = bytes(parsed.destination);
        key.remote = bytes(parsed.source);
        key.local_port = parsed.destination_port;
        key.remote_port = parsed.source_port;
    } else {
        key.local = bytes(parsed.source);
        key.remote = bytes(parsed.destination);
        key.local_port = parsed.source_port;
        key.remote_port = parsed.destination_port;
    }
    key.id = parsed.id;
    key.ifindex = skb.ifindex();
    key.kind = parsed.kind;
    key.flags = parsed.flags;
}

/// The slot of a tunnel that is known.
#[inline(always)]
pub fn find(key: &TunnelKey) -> Option<u32> {
    // SAFETY: valid for the program's run; `slot` never changes once written.
    TUNNELS.get_ptr(key).map(|value| unsafe { (*value).slot })
}

/// The slot of a tunnel, a new one if need be, `SLOT_OTHER` if there is none left.
#[inline(always)]
pub fn slot(account: &mut Account, key: &TunnelKey, memo: &mut Memo) -> u32 {
    let epoch = TUNNEL_EPOCH.get(0).copied().unwrap_or(0);
    if memo.slot != SLOT_OTHER && memo.epoch == epoch && same(key, &memo.key) {
        return memo.slot;
    }
    if let Some(slot) = find(key) {
        copy(key, &mut memo.key);
        memo.epoch = epoch;
        memo.slot = slot;
        return slot;
    }
    let Ok(Some(free)) = TUNNEL_FREE.pop() else {
        bump(&mut account.overflowed);
        return SLOT_OTHER;
    };
    if let Some(state) = state(free) {
        state.initiation = [0; 2];
        state.unanswered = [0; 2];
        state.last_handshake = 0;
        state.last_latency = 0;
        state.mtu = 0;
    }
    let value = TunnelValue {
        // SAFETY: no preconditions.
        since: unsafe { bpf_ktime_get_boot_ns() },
        slot: free,
        pad: 0,
    };
    if TUNNELS.insert(key, value, NOEXIST).is_ok() {
        return free;
    }
    // Another CPU was first, or the table is full: the slot goes back.
    let _ = TUNNEL_FREE.push(free, 0);
    if let Some(slot) = find(key) {
        return slot;
    }
    bump(&mut account.overflowed);
    SLOT_OTHER
}

const KEY_WORDS: usize = size_of::<TunnelKey>() / 8;
const _: () = assert!(size_of::<TunnelKey>().is_multiple_of(8));

/// Word by word: `==` is a call of memcmp, which counts bytes.
#[inline(always)]
fn same(a: &TunnelKey, b: &TunnelKey) -> bool {
    let (a, b): (*const u64, *const u64) = (core::ptr::from_ref(a).cast(), core::ptr::from_ref(b).cast());
    let (mut differ, mut i) = (0, 0);
    while i < KEY_WORDS {
        // SAFETY: both are of this many words, and lie in a map at multiples of eight.
        differ |= unsafe { a.add(i).read_volatile() ^ b.add(i).read_volatile() };
        i += 1;
    }
    differ == 0
}

#[inline(always)]
fn copy(from: &TunnelKey, to: &mut TunnelKey) {
    let (from, to): (*const u64, *mut u64) =
        (core::ptr::from_ref(from).cast(), core::ptr::from_mut(to).cast());
    let mut i = 0;
    while i < KEY_WORDS {
        // SAFETY: as above.
        unsafe { to.add(i).write_volatile(from.add(i).read_volatile()) };
        i += 1;
    }
}

/// The counters of a slot for this CPU.
#[inline(always)]
pub fn cells(slot: u32) -> Option<&'static mut TunnelCells> {
    // SAFETY: the helper has no preconditions.
    let cpu = unsafe { bpf_get_smp_processor_id() } as u32;
    let mask = SHARD_MASK.load();
    TUNNEL_CELLS
        .get_ptr_mut(slot * (mask + 1) + (cpu & mask))
        .map(|p| {
            // SAFETY: a non-null map value stays valid for the program's run; it is only added to atomically.
            unsafe { &mut *p }
        })
}

/// The rare state of a slot.
#[inline(always)]
pub fn state(slot: u32) -> Option<&'static mut TunnelState> {
    // SAFETY: as above; what is not atomic is told of one moment, and the last one wins.
    TUNNEL_STATES.get_ptr_mut(slot).map(|p| unsafe { &mut *p })
}

/// Counts an inner pair; false if there is no room.
#[inline(always)]
pub fn inner(key: &InnerKey, direction: usize, wire: &Wire) -> bool {
    if let Some(value) = TUNNEL_INNER.get_ptr_mut(key) {
        return inner_add(value, direction, wire);
    }
    let value = InnerValue {
        packets: [0; 2],
        bytes: [0; 2],
    };
    let _ = TUNNEL_INNER.insert(key, value, NOEXIST);
    match TUNNEL_INNER.get_ptr_mut(key) {
        Some(value) => inner_add(value, direction, wire),
        None => false,
    }
}

#[inline(always)]
fn inner_add(value: *mut InnerValue, direction: usize, wire: &Wire) -> bool {
    // SAFETY: valid for the program's run; only added to atomically.
    let value = unsafe { &mut *value };
    add(&mut value.packets[direction], wire.packets);
    add(&mut value.bytes[direction], wire.inner);
    true
}
