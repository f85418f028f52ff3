//! From a packet's tunnel to its rows.

use super::Scratch;
use super::packet::{Skb, Wire};
use crate::account::{self, add_own, bump_own, exchange, replace};
use crate::rtt::MIX;
use crate::settings::{NCPU, SHARD_MASK, TUNNEL_INNER_MASK};
use agent_common::account::Account;
use agent_common::tunnel::parse::{Address, Parsed};
use agent_common::tunnel::{
    END_ROWS, EndKey, InnerCell, InnerKey, SLOT_OTHER, TunnelCells, TunnelKey, TunnelState, TunnelValue,
    direction, inner,
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

/// Ends that are known; see [`EndKey`].
#[map]
static TUNNEL_ENDS: HashMap<EndKey, u32> = HashMap::with_max_entries(1, 0);

/// Slots that are free, as `FREE_SLOTS` of the pairs. Slot 0 is never among them.
#[map]
static TUNNEL_FREE: Queue<u32> = Queue::with_max_entries(1, 0);

/// Row `slot * shards + (cpu & SHARD_MASK)`.
#[map]
static TUNNEL_CELLS: Array<TunnelCells> = Array::with_max_entries(1, MMAPABLE);

/// Row `slot`.
#[map]
static TUNNEL_STATES: Array<TunnelState> = Array::with_max_entries(1, MMAPABLE);

/// Who talks inside; see [`InnerCell`].
#[map]
static TUNNEL_INNER: Array<InnerCell> = Array::with_max_entries(1, MMAPABLE);

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
        store(&mut key.local, parsed.destination);
        store(&mut key.remote, parsed.source);
        key.local_port = parsed.destination_port;
        key.remote_port = parsed.source_port;
    } else {
        store(&mut key.local, parsed.source);
        store(&mut key.remote, parsed.destination);
        key.local_port = parsed.source_port;
        key.remote_port = parsed.destination_port;
    }
    key.id = parsed.id;
    key.ifindex = skb.ifindex();
    key.kind = parsed.kind;
    key.flags = parsed.flags;
}

/// The key of the pair inside.
#[inline(always)]
pub fn inner_key(key: &mut InnerKey, parsed: &Parsed, slot: u32, direction: usize) {
    if direction == direction::INGRESS {
        store(&mut key.local, parsed.inner_destination);
        store(&mut key.remote, parsed.inner_source);
    } else {
        store(&mut key.local, parsed.inner_source);
        store(&mut key.remote, parsed.inner_destination);
    }
    key.slot = slot;
}

/// By words, as it will be read: a load of what was just stored byte by byte waits for the stores.
#[inline(always)]
fn store(to: &mut [u8; 16], address: Address) {
    let to: *mut u64 = core::ptr::from_mut(to).cast();
    // SAFETY: sixteen bytes, which lie in `Scratch` at a multiple of eight. Volatile, or LLVM makes bytes of it again.
    unsafe {
        to.write_volatile(address[0]);
        to.add(1).write_volatile(address[1]);
    }
}
const _: () = assert!(
    core::mem::offset_of!(TunnelKey, local).is_multiple_of(8)
        && core::mem::offset_of!(TunnelKey, remote).is_multiple_of(8)
        && core::mem::offset_of!(InnerKey, local).is_multiple_of(8)
        && core::mem::offset_of!(InnerKey, remote).is_multiple_of(8)
);

/// The slot of a tunnel that is known.
#[inline(always)]
pub fn find(key: &TunnelKey) -> Option<u32> {
    // SAFETY: valid for the program's run; `slot` never changes once written.
    TUNNELS.get_ptr(key).map(|value| unsafe { (*value).slot })
}

/// The slot of a tunnel, a new one if need be, `SLOT_OTHER` if there is none left or none for it.
#[inline(always)]
pub fn slot<const DIRECTION: usize>(account: &mut Account, scratch: &mut Scratch) -> u32 {
    let (key, memo) = (&scratch.key, &mut scratch.memo);
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
    meet::<DIRECTION>(account, scratch)
}

/// A row for a tunnel that has none, or `SLOT_OTHER`.
#[inline(never)]
fn meet<const DIRECTION: usize>(account: &mut Account, scratch: &mut Scratch) -> u32 {
    let Scratch {
        key, end, stranger, ..
    } = scratch;
    copy(&key.remote, &mut end.remote);
    (end.kind, end.netns) = (key.kind, key.netns);
    let (key, end) = (&*key, &*end);
    if DIRECTION == direction::INGRESS {
        // SAFETY: valid for the program's run. Two CPUs may take the same one: it is a bound, and userspace counts anew.
        let left = TUNNEL_ENDS.get_ptr_mut(end).map(|left| unsafe { &mut *left });
        match left {
            Some(left) if *left > 0 => *left = left.saturating_sub(1),
            _ => {
                *stranger = 1;
                return SLOT_OTHER;
            }
        }
    }
    let Ok(Some(free)) = TUNNEL_FREE.pop() else {
        bump_own(&mut account.overflowed);
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
        if DIRECTION == direction::EGRESS {
            // Full, or there already: what is named stays.
            let _ = TUNNEL_ENDS.insert(end, END_ROWS, NOEXIST);
        }
        return free;
    }
    // Another CPU was first, or the table is full: the slot goes back.
    let _ = TUNNEL_FREE.push(free, 0);
    if let Some(slot) = find(key) {
        return slot;
    }
    bump_own(&mut account.overflowed);
    SLOT_OTHER
}

/// Keys are compared and copied word by word: what LLVM makes of `==` and `=` are calls that count bytes.
#[inline(always)]
fn same<K>(a: &K, b: &K) -> bool {
    let (a, b): (*const u64, *const u64) = (core::ptr::from_ref(a).cast(), core::ptr::from_ref(b).cast());
    let (mut differ, mut i) = (0, 0);
    while i < const { words::<K>() } {
        // SAFETY: both are of this many words, and lie in a map at multiples of eight.
        differ |= unsafe { a.add(i).read_volatile() ^ b.add(i).read_volatile() };
        i += 1;
    }
    differ == 0
}

#[inline(always)]
fn copy<K>(from: &K, to: &mut K) {
    let (from, to): (*const u64, *mut u64) =
        (core::ptr::from_ref(from).cast(), core::ptr::from_mut(to).cast());
    let mut i = 0;
    while i < const { words::<K>() } {
        // SAFETY: as above.
        unsafe { to.add(i).write_volatile(from.add(i).read_volatile()) };
        i += 1;
    }
}

const fn words<K>() -> usize {
    assert!(size_of::<K>().is_multiple_of(8));
    size_of::<K>() / 8
}

/// Adds to [`cells`]: atomically only where CPUs share them. One of the ways is never seen by the verifier.
#[inline(always)]
pub fn add(counter: &mut u64, n: u64) {
    if NCPU.load() <= SHARD_MASK.load() + 1 {
        add_own(counter, n);
    } else {
        account::add(counter, n);
    }
}

/// Adds one.
#[inline(always)]
pub fn bump(counter: &mut u64) {
    add(counter, 1);
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
            // SAFETY: a non-null map value stays valid for the program's run; it is only added to, see [`add`].
            unsafe { &mut *p }
        })
}

/// The rare state of a slot.
#[inline(always)]
pub fn state(slot: u32) -> Option<&'static mut TunnelState> {
    // SAFETY: as above; what is not atomic is told of one moment, and the last one wins.
    TUNNEL_STATES.get_ptr_mut(slot).map(|p| unsafe { &mut *p })
}

/// A number for an inner pair, the same for both directions.
#[inline(always)]
pub fn pair(key: &InnerKey) -> u64 {
    let word = |a: &[u8; 16], at: usize| {
        // SAFETY: inside the address, which lies in `Scratch` at a multiple of eight.
        unsafe { core::ptr::from_ref(a).cast::<u64>().add(at).read() }
    };
    // Independent of each other, so that the processor does them at once.
    let sum = word(&key.local, 0)
        .wrapping_mul(MIX)
        .wrapping_add(word(&key.local, 1).wrapping_mul(0xbf58_476d_1ce4_e5b9))
        .wrapping_add(word(&key.remote, 0).wrapping_mul(0x94d0_49bb_1331_11eb))
        .wrapping_add(word(&key.remote, 1).wrapping_mul(0xd6e8_feb8_6659_fd93))
        .wrapping_add((key.slot as u64).wrapping_mul(0xa076_1d64_78bd_642f));
    (sum ^ sum >> 32).wrapping_mul(MIX)
}

/// Counts an inner pair; if there is no room, it is in the tunnel's own bytes only. `hash` is that of [`pair`].
#[inline(always)]
pub fn inner(key: &InnerKey, hash: u64, direction: usize, wire: &Wire) {
    let mut probe = 0;
    while probe < inner::PROBES {
        let index = ((hash >> 40) as u32 + probe) & TUNNEL_INNER_MASK.load();
        let Some(cell) = TUNNEL_INNER.get_ptr_mut(index) else {
            return;
        };
        // SAFETY: valid for the program's run; who has won the state writes the key, all others add atomically.
        let cell = unsafe { &mut *cell };
        // SAFETY: a valid reference. Volatile: others write it.
        let state = unsafe { core::ptr::from_ref(&cell.state).read_volatile() };
        if state == inner::TAKEN && same(key, &cell.key) {
            account::add(&mut cell.bytes[direction], wire.inner);
            return;
        }
        if state == inner::FREE && replace(&mut cell.state, inner::FREE, inner::BUSY) {
            copy(key, &mut cell.key);
            cell.bytes[1 - direction] = 0;
            cell.bytes[direction] = wire.inner;
            exchange(&mut cell.state, inner::TAKEN);
            return;
        }
        probe += 1;
    }
}
