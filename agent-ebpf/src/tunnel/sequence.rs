//! Sequence numbers of received packets: what was lost, came late or twice.

use super::packet::Skb;
use super::row::{self, add, bump};
use agent_common::tunnel::parse::{Packet as _, Parsed, fact};
use agent_common::tunnel::window::{Step, Window};
use agent_common::tunnel::{TunnelCells, WindowKey, WindowValue, counter, kind};
use aya_ebpf::{
    bindings::__sk_buff,
    helpers::generated::{
        bpf_loop, bpf_map_lookup_elem, bpf_map_update_elem, bpf_spin_lock, bpf_spin_unlock,
    },
};

const NOEXIST: u64 = 1;
/// Datagrams of a UDP GSO packet, the kernel's limit since 6.9 (before: 64).
const SEGMENTS: u32 = 128;
/// Offset of the counter in a message of WireGuard.
const COUNTER: u32 = 8;
/// Order of [`agent_common::tunnel::SEQUENCE`].
const UNTRACKED: usize = counter::SEQUENCE + 6;

/// [`WindowValue`] as the kernel must see it: it finds the lock by the type's name.
#[repr(C)]
pub struct WindowCell {
    lock: aya_ebpf::bindings::bpf_spin_lock,
    pad: u32,
    window: Window,
}
const _: () = assert!(size_of::<WindowCell>() == size_of::<WindowValue>());

/// Declared by hand: a spin lock needs the value's BTF, and aya-ebpf's legacy maps have none.
#[repr(C)]
pub struct Hash<K, V> {
    r#type: *const [i32; 1], // BPF_MAP_TYPE_HASH
    key: *const K,
    value: *const V,
    max_entries: *const [i32; 1],
}

// SAFETY: a map definition is read by the loader only.
unsafe impl<K, V> Sync for Hash<K, V> {}

#[unsafe(no_mangle)]
#[unsafe(link_section = ".maps")]
static TUNNEL_WINDOWS: Hash<WindowKey, WindowCell> = Hash {
    r#type: core::ptr::null(),
    key: core::ptr::null(),
    value: core::ptr::null(),
    max_entries: core::ptr::null(),
};

/// A window that has not begun: too large for the stack.
static EMPTY: WindowCell = WindowCell {
    lock: aya_ebpf::bindings::bpf_spin_lock { val: 0 },
    pad: 0,
    window: Window::EMPTY,
};

#[inline(always)]
fn map() -> *mut core::ffi::c_void {
    (&raw const TUNNEL_WINDOWS).cast_mut().cast()
}

#[inline(always)]
fn lookup(key: &WindowKey) -> Option<*mut WindowCell> {
    // SAFETY: the map and the key are valid.
    let value: *mut WindowCell =
        unsafe { bpf_map_lookup_elem(map(), core::ptr::from_ref(key).cast()) }.cast();
    (!value.is_null()).then_some(value)
}

#[inline(always)]
fn lookup_or_begin(key: &WindowKey) -> Option<*mut WindowCell> {
    if let Some(value) = lookup(key) {
        return Some(value);
    }
    // SAFETY: as above; the value has the map's size.
    unsafe {
        bpf_map_update_elem(
            map(),
            core::ptr::from_ref(key).cast(),
            (&raw const EMPTY).cast_mut().cast(),
            NOEXIST,
        )
    };
    lookup(key)
}

/// Takes the sequence numbers of a packet, of which a GSO packet has several.
///
/// `step` lies in a map and not on the stack: of numbers there the verifier knows nothing, so they do not make two paths
/// of one.
#[inline(never)]
pub fn track(skb: Skb, parsed: &Parsed, slot: u32, step: &mut Step) {
    let Some(cells) = row::cells(slot) else {
        return;
    };
    let index = WindowKey {
        slot,
        index: parsed.window,
    };
    let Some(cell) = lookup_or_begin(&index) else {
        bump(&mut cells.counters[UNTRACKED]);
        return;
    };
    let wide = parsed.facts & fact::WIDE != 0;
    for counter in [
        &mut step.received,
        &mut step.lost,
        &mut step.reordered,
        &mut step.duplicated,
        &mut step.late,
        &mut step.restarts,
    ] {
        // SAFETY: a valid reference. Volatile, or LLVM makes a call of memset of it.
        unsafe { core::ptr::from_mut(counter).write_volatile(0) };
    }
    take(cell, parsed.sequence, wide, step);
    if parsed.facts & fact::MESSAGES != 0 && parsed.kind == kind::WIREGUARD {
        let mut messages = Messages {
            skb: skb.as_ptr(),
            cell,
            step: &raw mut *step,
            at: parsed.headers + COUNTER,
            size: skb.segment(),
        };
        // SAFETY: the callback takes what the kernel hands it, and the context outlives the call.
        unsafe {
            bpf_loop(
                SEGMENTS,
                next_message as *const () as *mut _,
                (&raw mut messages).cast(),
                0,
            )
        };
    }
    told(cells, step);
}

/// What [`next_message`] needs.
#[repr(C)]
struct Messages {
    skb: *mut __sk_buff,
    cell: *mut WindowCell,
    step: *mut Step,
    at: u32,
    size: u32,
}

/// The next message of a GSO packet; 1 = there is none. Called by the kernel, which verifies it once and not for each.
extern "C" fn next_message(_: u64, messages: *mut Messages) -> u64 {
    // SAFETY: what [`track`] has made.
    let messages = unsafe { &mut *messages };
    messages.at += messages.size;
    let Some(bytes) = Skb::of(messages.skb).load::<8>(messages.at) else {
        return 1;
    };
    // SAFETY: as above; nobody else has the step.
    take(messages.cell, u64::from_le_bytes(bytes), true, unsafe {
        &mut *messages.step
    });
    0
}

/// One number, under the lock.
#[inline(always)]
fn take(cell: *mut WindowCell, sequence: u64, wide: bool, step: &mut Step) {
    // SAFETY: the value is valid for the program's run, the lock is its own, and between the two calls is no other.
    unsafe {
        bpf_spin_lock(&raw mut (*cell).lock);
        (*cell).window.take(sequence, wide, step);
        bpf_spin_unlock(&raw mut (*cell).lock);
    }
}

#[inline(always)]
fn told(cells: &mut TunnelCells, step: &Step) {
    let counters = &mut cells.counters;
    if step.received != 0 {
        add(&mut counters[counter::SEQUENCE], step.received);
    }
    if step.lost != 0 {
        add(&mut counters[counter::SEQUENCE + 1], step.lost);
    }
    if step.reordered | step.duplicated | step.late | step.restarts != 0 {
        add(&mut counters[counter::SEQUENCE + 2], step.reordered);
        add(&mut counters[counter::SEQUENCE + 3], step.duplicated);
        add(&mut counters[counter::SEQUENCE + 4], step.late);
        add(&mut counters[counter::SEQUENCE + 5], step.restarts);
    }
}
