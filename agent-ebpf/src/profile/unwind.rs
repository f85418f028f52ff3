//! User stacks without frame pointers, by the tables that userspace makes of `.eh_frame`.
//!
//! One frame is one call of [`step`] by `bpf_loop`: the verifier looks at it once, and not for each of 128 frames. What is
//! to be done at an address is found by two binary searches, for the mapping and for the row, in a function that the verifier
//! looks at once and not for each way that leads there ([`profile_find`]); and it is remembered, for a search touches some
//! twenty cache lines that are cold by the next sample. All else is up to three reads of the stack.

mod aarch64;

use super::Stack;
use crate::settings::{AARCH64, FRAME_MASK, ROW_MASK};
use agent_common::profile::{
    BY_FRAME_POINTER, Process, ProcessKey, RULE_BITS, RULES, Range, Row, SHARD_ROWS, USER_FRAMES, end, kind,
};
use aya_ebpf::{
    btf_maps,
    helpers::{bpf_get_smp_processor_id, bpf_probe_read_user, generated::bpf_loop},
    macros::{btf_map, map},
    maps::{Array, HashMap},
};

const MMAPABLE: u32 = 1 << 10;
const NO_PREALLOC: u32 = 1;

/// Processes that userspace has looked at.
#[map]
pub static PROCESSES: HashMap<ProcessKey, Process> = HashMap::with_max_entries(1, NO_PREALLOC);

/// Their executable mappings.
#[map]
static RANGES: Array<Range> = Array::with_max_entries(1, MMAPABLE);

/// Rows of a shard, see [`Row`]. One value, so that a search looks it up once.
type Shard = btf_maps::Array<[u64; SHARD_ROWS], 1, { MMAPABLE as usize }>;

/// Rows of all files.
#[btf_map]
static UNWIND_SHARDS: btf_maps::ArrayOfMaps<Shard, 1> = btf_maps::ArrayOfMaps::new();

/// [`Row::rule`]s of the addresses that each CPU has met lately, at the place that the first bits of a hash of process and
/// address say; above them in the word are those that follow, of which 36 are kept. So a rule is another address's once in
/// 2^36 times that the place is taken by one; the outcome is a wrong stack. A word is written at once, whoever interrupts.
#[map]
static PROFILE_RULES: Array<[u64; RULES]> = Array::with_max_entries(1, 0);

/// Odd, so that multiplying by it is one-to-one: 2^64 by the golden ratio.
const SCATTER: u64 = 0x9e37_79b9_7f4a_7c15;

/// Steps of the search for a mapping: 65,536 of them.
const RANGE_STEPS: u32 = 17;
/// Steps of the search for a row: 131,072 of them.
const ROW_STEPS: u32 = 18;
/// Registers in the `ucontext` that a signal handler returns to (x86-64: `uc_mcontext.gregs` is at 40).
const UCONTEXT_FP: u64 = 40 + 10 * 8;
const UCONTEXT_SP: u64 = 40 + 15 * 8;
const UCONTEXT_IP: u64 = 40 + 16 * 8;

/// Registers at the innermost frame.
pub struct Start {
    pub ip: u64,
    pub sp: u64,
    pub fp: u64,
    /// x30 of aarch64; else zero.
    pub lr: u64,
}

/// What is said of an address by nothing but a kind.
const fn only(kind: u8) -> u32 {
    Row {
        pc: 0,
        kind,
        offset: 0,
        frame_pointer: 0,
    }
    .rule()
}

/// What an address of a frame is.
mod origin {
    /// Where a call returns to; the call is before it.
    pub const CALL: u32 = 0;
    /// Where the thread was interrupted.
    pub const EXACT: u32 = 1;
    /// As [`CALL`], by a frame pointer that may be none.
    pub const GUESSED: u32 = 2;
}

/// What was guessed lies in no mapping. Not one of [`end`].
const NOT_CODE: u8 = u8::MAX;

/// What [`step`] works on.
#[repr(C)]
struct Walk {
    stack: *mut Stack,
    rules: *mut [u64; RULES],
    ip: u64,
    sp: u64,
    fp: u64,
    /// As in [`Start`]: what holds in the innermost frame, and in one that a signal has interrupted.
    lr: u64,
    /// Tells the process from others in the hash.
    salt: u64,
    first: u32,
    ranges: u32,
    count: u32,
    /// See [`origin`].
    origin: u32,
    end: u32,
    /// aarch64: the stack pointer is only the least that it can be.
    is_loose: u32,
}

/// What userspace has found of a process, if it is the one that it has looked at.
#[inline(always)]
pub fn process(tgid: u32, start: u64) -> Option<&'static Process> {
    let process = PROCESSES.get_ptr(ProcessKey { tgid })?;
    // SAFETY: valid for the program's run; userspace replaces the whole value.
    let process = unsafe { &*process };
    (process.start == start).then_some(process)
}

/// Appends the user's frames.
#[inline(always)]
pub fn walk(stack: &mut Stack, start: Start, process: &Process) {
    // SAFETY: no preconditions.
    let cpu = unsafe { bpf_get_smp_processor_id() } as u32;
    let Some(rules) = PROFILE_RULES.get_ptr_mut(cpu) else {
        stack.head.end = end::NO_ROW;
        return;
    };
    let mut walk = Walk {
        stack,
        rules,
        ip: start.ip,
        sp: start.sp,
        fp: start.fp,
        lr: start.lr,
        salt: (process.serial as u64).wrapping_mul(SCATTER),
        first: process.range,
        ranges: process.ranges,
        count: 0,
        origin: origin::EXACT,
        end: end::TOO_DEEP as u32,
        is_loose: 0,
    };
    // SAFETY: the callback takes what the kernel hands it, and the context outlives the call.
    unsafe {
        bpf_loop(
            USER_FRAMES as u32,
            step as *const () as *mut _,
            (&raw mut walk).cast(),
            0,
        )
    };
    stack.head.user = walk.count as u16;
    stack.head.end = walk.end as u8;
}

/// Takes one frame and goes to its caller; 1 = there is none.
extern "C" fn step(_: u64, walk: *mut Walk) -> u64 {
    // SAFETY: what [`walk`] has made.
    let walk = unsafe { &mut *walk };
    // SAFETY: as above.
    let stack = unsafe { &mut *walk.stack };
    let place = (stack.head.kernel as u32 + 2 * stack.head.python as u32 + walk.count) & FRAME_MASK.load();
    stack.python.begins(place, walk.sp);
    // SAFETY: the mask is that of the array's length.
    unsafe { *stack.frames.get_unchecked_mut(place as usize) = walk.ip };
    walk.count += 1;
    match caller(walk) {
        Ok(()) => 0,
        Err(NOT_CODE) => {
            // What was guessed is no frame.
            walk.count -= 1;
            walk.end = end::NO_ROW as u32;
            1
        }
        Err(reason) => {
            walk.end = reason as u32;
            1
        }
    }
}

#[inline(always)]
fn caller(walk: &mut Walk) -> Result<(), u8> {
    let origin = walk.origin;
    walk.origin = origin::CALL;
    let look = if origin == origin::EXACT {
        walk.ip
    } else {
        walk.ip.wrapping_sub(1)
    };
    let row = Row::unpack((rule(walk, look) as u64) << 32);
    if AARCH64.load() != 0 {
        return aarch64::caller(walk, row, origin);
    }
    let offset = row.offset as u64 * 8;
    let cfa = match row.kind {
        kind::SP => walk.sp.wrapping_add(offset),
        kind::FP => walk.fp.wrapping_add(offset),
        kind::PLT => walk.sp.wrapping_add(if walk.ip & 15 >= 11 { 16 } else { 8 }),
        kind::AT_FP => read(walk.fp.wrapping_sub(offset))?,
        kind::AT_SP_PLUS_8 => read(walk.sp.wrapping_add(offset))?.wrapping_add(8),
        kind::SIGNAL => {
            let context = walk.sp;
            walk.ip = read(context + UCONTEXT_IP)?;
            walk.sp = read(context + UCONTEXT_SP)?;
            walk.fp = read(context + UCONTEXT_FP)?;
            walk.origin = origin::EXACT;
            return Ok(());
        }
        kind::END => return Err(end::COMPLETE),
        kind::HOLE => {
            walk.origin = origin::GUESSED;
            return by_frame_pointer(walk).or(Err(end::NO_ROW));
        }
        // The outermost frame of a goroutine, and of most run-time compilers, has none.
        kind::FRAME_POINTER if walk.fp == 0 => return Err(end::COMPLETE),
        kind::FRAME_POINTER => return by_frame_pointer(walk),
        kind::NO_TABLE => return Err(end::NO_ROW),
        kind::NO_MAPPING if origin == origin::GUESSED => return Err(NOT_CODE),
        kind::NO_MAPPING => return Err(end::NO_MAPPING),
        _ => return Err(end::NO_RULE),
    };
    let ip = read(cfa.wrapping_sub(8))?;
    if row.frame_pointer != 0 {
        walk.fp = read(cfa.wrapping_sub(row.frame_pointer as u64 * 8))?;
    }
    if ip == 0 {
        return Err(end::COMPLETE);
    }
    walk.ip = ip;
    walk.sp = cfa;
    Ok(())
}

#[inline(always)]
fn by_frame_pointer(walk: &mut Walk) -> Result<(), u8> {
    // Frames lie one above the other; anything else is a register that holds something else.
    if walk.fp < walk.sp {
        return Err(end::FRAME_POINTER);
    }
    let ip = read(walk.fp.wrapping_add(8)).or(Err(end::FRAME_POINTER))?;
    if ip == 0 {
        return Err(end::COMPLETE);
    }
    let fp = read(walk.fp).or(Err(end::FRAME_POINTER))?;
    walk.ip = ip;
    walk.sp = walk.fp.wrapping_add(16);
    walk.fp = fp;
    Ok(())
}

#[inline(always)]
fn read(address: u64) -> Result<u64, u8> {
    // SAFETY: a helper that fails on what cannot be read.
    unsafe { bpf_probe_read_user(address as *const u64) }.or(Err(end::UNREADABLE))
}

/// What is said of an address: as remembered, or found anew.
#[inline(always)]
fn rule(walk: &mut Walk, address: u64) -> u32 {
    let hash = (address ^ walk.salt).wrapping_mul(SCATTER);
    // SAFETY: as many places as there are first bits.
    let place = unsafe {
        let rules: *mut u64 = walk.rules.cast();
        rules.add((hash >> (u64::BITS - RULES.ilog2())) as usize)
    };
    let tag = hash << RULES.ilog2() >> RULE_BITS;
    // SAFETY: as above.
    let known = unsafe { place.read_volatile() };
    if known >> RULE_BITS == tag {
        return known as u32 & ((1 << RULE_BITS) - 1);
    }
    let rule = profile_find(walk.first, walk.ranges, address);
    // SAFETY: as above.
    unsafe { place.write_volatile(tag << RULE_BITS | rule) };
    rule as u32
}

/// What is said of an address of a process with these ranges. With linkage of its own and numbers alone for arguments it is
/// verified once for all numbers.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn profile_find(first: u32, ranges: u32, address: u64) -> u64 {
    let rule = match find_range(first, ranges, address) {
        None => only(kind::NO_MAPPING),
        Some(range) if range.rows == BY_FRAME_POINTER => only(kind::FRAME_POINTER),
        Some(range) if range.rows == 0 => only(kind::NO_TABLE),
        Some(range) => match find_row(range, address.wrapping_sub(range.bias) as u32) {
            Some(row) => (row >> 32) as u32,
            // Before the first row of a file.
            None => only(kind::HOLE),
        },
    };
    rule as u64 & ((1 << RULE_BITS) - 1)
}

/// Finds the mapping of an address among those of the process.
#[inline(always)]
fn find_range(first: u32, ranges: u32, address: u64) -> Option<&'static Range> {
    let (mut low, mut high) = (first, first.wrapping_add(ranges));
    let mut i = 0;
    while i < RANGE_STEPS && low < high {
        let middle = (low >> 1) + (high >> 1) + (low & high & 1);
        let range = RANGES.get(middle)?;
        if address < range.start {
            high = middle;
        } else if address >= range.end {
            low = middle + 1;
        } else {
            return Some(range);
        }
        i += 1;
    }
    None
}

/// Finds the last row that begins at or before an address: among those of a block of addresses.
#[inline(always)]
fn find_row(range: &Range, pc: u32) -> Option<u64> {
    // Not `&0`: LLVM would take a constant of the same value for it, and userspace sets those.
    let first = 0;
    let shard = UNWIND_SHARDS.get_value_ptr_mut(range.shard, &first)?;
    let rows: *const u64 = shard.cast_const().cast();
    if pc < range.base {
        return None;
    }
    let block = (pc - range.base) >> (range.shift & 31);
    let block = if block < range.last { block } else { range.last };
    let entries = 2 * (range.row + range.rows) + block;
    // To the verifier every step begins with the same two numbers, and not with those that 2^18 ways lead to.
    let bounds = ROW_MASK.load() << 1 | 1;
    // SAFETY: the masks are those of a shard's rows, and of half rows. Volatile, for userspace may be writing other rows.
    let entry = |n: u32| unsafe { rows.cast::<u32>().add((n & bounds) as usize).read_volatile() };
    let (mut low, mut high) = (range.row + entry(entries), range.row + entry(entries + 1) + 1);
    let mut found = None;
    let mut i = 0;
    while i < ROW_STEPS {
        low &= bounds;
        high &= bounds;
        if low >= high {
            break;
        }
        let middle = (low + high) >> 1;
        // SAFETY: as above.
        let row = unsafe { rows.add((middle & ROW_MASK.load()) as usize).read_volatile() };
        if row as u32 <= pc {
            found = Some(row);
            low = middle + 1;
        } else {
            high = middle;
        }
        i += 1;
    }
    found
}
