//! Who and to whom: from a socket to its row of cells.

use crate::account::bump;
use crate::kernel::{self, Ptr};
use crate::settings::SHARD_MASK;
use agent_common::account::Account;
use agent_common::tcp::{PairCells, PairKey, PairValue, SLOT_OTHER, SubjectKey, home};
use aya_ebpf::{
    helpers::bpf_get_smp_processor_id,
    macros::map,
    maps::{Array, HashMap, LpmTrie, Queue, lpm_trie::Key},
};

const MMAPABLE: u32 = 1 << 10;
const NO_PREALLOC: u32 = 1;
const NOEXIST: u64 = 1;

/// Row `slot * shards + (cpu & SHARD_MASK)`. A shard is shared by few CPUs, so memory does not grow with them; all
/// writes are atomic adds, so counts stay exact.
#[map]
static PAIR_CELLS: Array<PairCells> = Array::with_max_entries(1, MMAPABLE);

/// (subject, peer) → slot.
#[map]
static PAIRS: HashMap<PairKey, PairValue> = HashMap::with_max_entries(1, 0);

/// Slots that are free, oldest first. Userspace fills it and gives back the rows of those that are gone.
#[map]
static FREE_SLOTS: Queue<u32> = Queue::with_max_entries(1, 0);

/// Prefix → peer id.
#[map]
static PEERS: LpmTrie<[u8; 16], u32> = LpmTrie::with_max_entries(1, NO_PREALLOC);

/// Counters of the agent's own network namespace, a row for each CPU.
#[map]
static HOME: Array<[u64; home::COUNT]> = Array::with_max_entries(1, MMAPABLE);

/// The cells of a slot for this CPU.
#[inline(always)]
pub fn cells(slot: u32) -> Option<&'static mut PairCells> {
    // SAFETY: the helper has no preconditions.
    let cpu = unsafe { bpf_get_smp_processor_id() } as u32;
    let mask = SHARD_MASK.load();
    PAIR_CELLS.get_ptr_mut(slot * (mask + 1) + (cpu & mask)).map(|p| {
        // SAFETY: a non-null map value stays valid for the program's run; counters are only added to atomically.
        unsafe { &mut *p }
    })
}

/// Adds a value in µs to a histogram.
#[inline(always)]
pub fn record(cells: &mut PairCells, series: usize, micros: u32) {
    crate::histogram::record(&mut cells.histograms[series], micros);
}

/// Adds to a counter of the own namespace.
#[inline(always)]
pub fn home(index: usize, n: u64) {
    // SAFETY: the helper has no preconditions.
    let cpu = unsafe { bpf_get_smp_processor_id() } as u32;
    if let Some(counters) = HOME.get_ptr_mut(cpu) {
        // SAFETY: valid for the program's run; `index` is a constant below `home::COUNT`.
        crate::account::add(unsafe { &mut (*counters)[index] }, n);
    }
}

/// Peer id of an address; 0 = no prefix.
#[inline(always)]
pub fn peer(address: [u8; 16]) -> u32 {
    PEERS.get(Key::new(128, address)).copied().unwrap_or(0)
}

/// The subject of a socket by itself: its cgroup and namespace, and the process when the cgroup says nothing.
#[inline(always)]
pub fn subject(sk: Ptr, process: (u32, u64)) -> SubjectKey {
    let cgroup = kernel::cgroup(sk);
    let (tgid, start) = if cgroup > 1 { (0, 0) } else { process };
    SubjectKey {
        cgroup,
        start,
        tgid,
        netns: kernel::netns(sk),
    }
}

/// The slot of a pair, a new one if need be, `SLOT_OTHER` if there is none left.
#[inline(always)]
pub fn slot(account: &mut Account, subject: &SubjectKey, peer: u32, comm: &[u8; 16]) -> u32 {
    let key = PairKey {
        subject: *subject,
        peer,
        pad: 0,
    };
    if let Some(value) = PAIRS.get_ptr(key) {
        // SAFETY: valid for the program's run; `slot` never changes once written.
        return unsafe { (*value).slot };
    }
    let Ok(Some(free)) = FREE_SLOTS.pop() else {
        bump(&mut account.overflowed);
        return SLOT_OTHER;
    };
    let value = PairValue {
        slot: free,
        pad: 0,
        comm: *comm,
    };
    if PAIRS.insert(key, value, NOEXIST).is_ok() {
        return free;
    }
    // Another CPU was first, or the table is full: the slot goes back.
    let _ = FREE_SLOTS.push(free, 0);
    if let Some(value) = PAIRS.get_ptr(key) {
        // SAFETY: as above.
        return unsafe { (*value).slot };
    }
    bump(&mut account.overflowed);
    SLOT_OTHER
}
