//! Probe `profile`: what crosses between the programs that take stacks and the agent that explains them.
//!
//! Code without frame pointers is unwound by tables that userspace makes of `.eh_frame`: a [`Row`] says, from an address on,
//! where the caller's frame lies. A [`Range`] is a mapping of a process and the rows of its file; a [`Process`] is a run
//! of ranges. Rows lie in shards that are made as they are needed, so that memory is what the binaries of this machine ask
//! for, and not the budget.

use crate::tcp::SubjectKey;
use crate::wire::Header;

mod rows;

pub use rows::{Index, RULE_BITS, RULES, Row, kind};

/// Most frames of the kernel in a record; the kernel's own limit is 127.
pub const KERNEL_FRAMES: usize = 127;
/// Most frames of the user in a record.
pub const USER_FRAMES: usize = 128;
/// Most frames of Python in a record; each takes two words, see [`python`].
pub const PYTHON_FRAMES: usize = 128;
/// Layouts of Python at a time, see [`PythonLayout`].
pub const PYTHON_LAYOUTS: usize = 32;
/// Words of all, a power of two.
pub const FRAMES: usize = KERNEL_FRAMES + USER_FRAMES + 2 * PYTHON_FRAMES + 1;
/// In the address of a user's frame: it is one of the interpreter's loop, which a run of Python frames ends at.
pub const RUNS_PYTHON: u64 = 1 << 63;

/// Rows of a shard, a power of two: 1 MiB.
pub const SHARD_ROWS: usize = 1 << 17;

/// What a sample is of. [`StackHead::value`] says how much of it, in [`UNITS`](sample::UNITS).
pub mod sample {
    /// A tick of a CPU's clock.
    pub const CPU: u8 = 0;
    /// A thread was not running: from when it was taken off its CPU until it was back.
    pub const OFF_CPU: u8 = 1;
    /// A lock of the kernel was waited for.
    pub const LOCK: u8 = 2;
    /// A page was not there.
    pub const FAULT: u8 = 3;
    /// A block device was read or written.
    pub const BLOCK_IO: u8 = 4;
    /// A packet was dropped.
    pub const DROP: u8 = 5;
    /// A segment was sent again.
    pub const RETRANSMIT: u8 = 6;
    /// Number of them.
    pub const COUNT: usize = 7;
    /// Who ended a wait: goes with a sample of [`OFF_CPU`] and is none by itself.
    pub const WAKER: u8 = COUNT as u8;
    /// Names, as exported.
    pub const NAMES: [&str; COUNT] = [
        "cpu",
        "off_cpu",
        "lock",
        "fault",
        "block_io",
        "drop",
        "retransmit",
    ];
    /// What the values are counted in, in the terms of pprof and OTLP.
    pub const UNITS: [&str; COUNT] = [
        "nanoseconds",
        "nanoseconds",
        "nanoseconds",
        "count",
        "nanoseconds",
        "count",
        "count",
    ];
}

/// Events of a kind in one second and on one CPU that are all sampled; of what comes then, ever fewer by chance. See
/// [`thinning`].
pub const ALL_OF: u64 = 128;

/// How the `n`-th event of a second is sampled: by a chance of one in `2^thinning(n)`, and it stands for so many. Each
/// doubling of what has come before is good for [`ALL_OF`] samples, so a flood costs its logarithm; that a sample stands
/// for those like it and not for whatever was left out before it keeps the shares true.
#[inline(always)]
pub const fn thinning(n: u64) -> u32 {
    crate::histogram::ilog2(n / ALL_OF + 1)
}

/// Number from which on the events of a second are thinned by `2^level` at least.
pub const fn thinned_from(level: u32) -> u64 {
    ALL_OF * ((1 << level) - 1)
}

/// [`StackHead::detail`] of [`sample::RETRANSMIT`], below the peer: why it was sent again.
pub mod retransmit {
    /// An acknowledgement told of the loss.
    pub const FAST: u32 = 0;
    /// The end of what was sent was sent once more, to hear of it.
    pub const TAIL_LOSS_PROBE: u32 = 1;
    /// Nothing was heard in time.
    pub const TIMEOUT: u32 = 2;
    /// Names, as exported.
    pub const NAMES: [&str; 3] = ["fast", "tail_loss_probe", "timeout"];
}

/// [`StackHead::detail`] of [`sample::FAULT`].
pub mod fault {
    /// The page was only to be entered or made.
    pub const MINOR: u64 = 0;
    /// It had to be read from a disk.
    pub const MAJOR: u64 = 1;
    /// Names, as exported.
    pub const NAMES: [&str; 2] = ["minor", "major"];
}

/// A detail of two numbers: the reason and the peer of a loss, the disk and the operation of a request.
#[inline(always)]
pub const fn detail(low: u32, high: u32) -> u64 {
    low as u64 | (high as u64) << 32
}

/// [`StackHead::detail`] of [`sample::OFF_CPU`]: why the thread was off its CPU, as far as the kernel side knows, and the
/// number of its waker, 0 = none was seen. That of [`sample::WAKER`] is the same number, and above it the thread that waited.
pub mod off {
    /// The part that is the reason.
    pub const WHY: u64 = !0 << 32;
    /// It waited for something; the stack tells for what.
    pub const BLOCKED: u64 = 1 << 32;
    /// It would have gone on, but it was the turn of another one.
    pub const PREEMPTED: u64 = 2 << 32;
    /// It waited in a system call for a futex. Also of [`super::sample::LOCK`].
    pub const FUTEX: u64 = 3 << 32;
}

/// [`StackHead::detail`] of [`sample::LOCK`], but for [`off::FUTEX`]: what kind of lock, as the kernel's tracepoint tells
/// (`LCB_F_*` in include/trace/events/lock.h).
pub mod contention {
    /// It is spun for.
    pub const SPIN: u64 = 1;
    /// It is wanted by a reader.
    pub const READ: u64 = 2;
    /// It is wanted by a writer.
    pub const WRITE: u64 = 4;
    /// An rt_mutex.
    pub const RT: u64 = 8;
    /// A percpu_rw_semaphore.
    pub const PERCPU: u64 = 16;
    /// A mutex.
    pub const MUTEX: u64 = 32;
}

/// Waits that are too short to be told, by kind of wait.
pub mod limit {
    /// Off the CPU, but for the next.
    pub const OFF_CPU: u32 = 0;
    /// For a futex.
    pub const FUTEX: u32 = 1;
    /// For a lock of the kernel.
    pub const LOCK: u32 = 2;
    /// Number of them.
    pub const COUNT: u32 = 3;
}

/// Threads that may be off their CPU at a time.
pub const OFF_THREADS: u32 = 32_768;
/// Threads that may wait for a lock of the kernel at a time.
pub const LOCK_THREADS: u32 = 4096;

/// How a user stack ended.
pub mod end {
    /// At the outermost frame, or there is none: a thread of the kernel.
    pub const COMPLETE: u8 = 0;
    /// Nobody has looked at the process yet: frame pointers were followed, right or wrong.
    pub const UNKNOWN_PROCESS: u8 = 1;
    /// An address outside of all mappings that are known.
    pub const NO_MAPPING: u8 = 2;
    /// A mapping whose rows are not loaded, or an address that no row covers and where no frame pointer helped.
    pub const NO_ROW: u8 = 3;
    /// A rule that [`super::Row`] cannot express.
    pub const NO_RULE: u8 = 4;
    /// The stack could not be read.
    pub const UNREADABLE: u8 = 5;
    /// More frames than a record holds.
    pub const TOO_DEEP: u8 = 6;
    /// The frame pointer chain of a mapping without rows ended before the outermost frame.
    pub const FRAME_POINTER: u8 = 7;
    /// Number of them.
    pub const COUNT: usize = 8;
    /// Names, as exported.
    pub const NAMES: [&str; COUNT] = [
        "complete",
        "unknown_process",
        "no_mapping",
        "no_row",
        "no_rule",
        "unreadable",
        "too_deep",
        "frame_pointer",
    ];
}

/// Frames of Python: two words each, innermost first. The first is the address of the code object, and in its lowest bit
/// [`python::LAST_OF_RUN`]; 0 but for that bit = no frame. The second is the index of the instruction, and above it the
/// [`python::fingerprint`].
pub mod python {
    /// Behind it other frames called the interpreter. Objects lie at multiples of 16.
    pub const LAST_OF_RUN: u64 = 1;

    /// This process is none of a Python that can be read.
    pub const NONE: u8 = 0;
    /// At the outermost frame.
    pub const COMPLETE: u8 = 1;
    /// The thread is none of Python's.
    pub const NO_THREAD: u8 = 2;
    /// The thread is not among the first that were looked at.
    pub const TOO_MANY_THREADS: u8 = 3;
    /// Memory of the interpreter could not be read.
    pub const UNREADABLE: u8 = 4;
    /// More frames than a record holds.
    pub const TOO_DEEP: u8 = 5;
    /// Number of them.
    pub const COUNT: usize = 6;
    /// Names, as exported.
    pub const NAMES: [&str; COUNT] = [
        "none",
        "complete",
        "no_thread",
        "too_many_threads",
        "unreadable",
        "too_deep",
    ];

    /// Tells a code object from another one that lies in its place a moment later: `names` are the pointers to its file name,
    /// name, qualified name and table of lines, `hash` is that of its name.
    #[inline(always)]
    pub const fn fingerprint(names: &[u64; 4], hash: u64) -> u32 {
        let mixed = names[0]
            .wrapping_mul(3)
            .wrapping_add(names[1])
            .wrapping_mul(5)
            .wrapping_add(names[2])
            .wrapping_mul(7)
            .wrapping_add(names[3])
            ^ hash;
        (mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32
    }

    /// Bytes of an interpreter frame that are read.
    pub const FRAME_BYTES: usize = 72;
    /// Where a code object has its file name, name, qualified name and table of lines, one behind the other; since 3.11.
    pub const CODE_NAMES: u64 = 112;
    /// Where a string has its hash.
    pub const STRING_HASH: u64 = 24;
}

/// [`Range::rows`] of a mapping that is unwound by frame pointers: Go, code that was made at run time.
pub const BY_FRAME_POINTER: u32 = u32::MAX;

crate::wire! {
    /// Which process.
    pub struct ProcessKey {
        /// Its id.
        pub tgid: u32,
    }

    /// Where its ranges lie.
    pub struct Process {
        /// Start time of its leader, ns since boot: another process may get the same id.
        pub start: u64,
        /// First of its ranges.
        pub range: u32,
        /// Number of them, ordered by address.
        pub ranges: u32,
        /// Where its `_PyRuntime` lies; 0 = it is no Python.
        pub python: u64,
        /// Number of its [`PythonLayout`].
        pub layout: u32,
        /// Another one whenever anything of this, or of the ranges, is: what the kernel side remembers is of this one.
        pub serial: u32,
    }

    /// Where things lie in a version of CPython: offsets in bytes.
    pub struct PythonLayout {
        /// Of the first interpreter in `_PyRuntime`.
        pub interpreters: u32,
        /// Of the next one in an interpreter.
        pub interpreter_next: u32,
        /// Of the first thread in an interpreter.
        pub threads: u32,
        /// Of the next one in a thread.
        pub thread_next: u32,
        /// Of the thread pointer, which pthread_self() returns, in a thread.
        pub thread_id: u32,
        /// Of the innermost frame, or of the innermost `_PyCFrame`, in a thread.
        pub thread_frame: u32,
        /// Of the frame in a `_PyCFrame`; `u32::MAX` = there are none, since 3.13.
        pub cframe_frame: u32,
        /// Of the one before in a `_PyCFrame`.
        pub cframe_previous: u32,
        /// Of the code object in a frame.
        pub frame_code: u32,
        /// Of the frame before.
        pub frame_previous: u32,
        /// Of the pointer to the instruction.
        pub frame_instruction: u32,
        /// Of the byte that tells with which frame the interpreter's loop was entered.
        pub frame_entry: u32,
        /// Its value then.
        pub entry: u32,
        /// 1 = such a frame is on the C stack and stands for nothing else (3.12); 0 = it is a frame as all others (3.11).
        pub shim: u32,
        /// Of the first instruction in a code object.
        pub code_instructions: u32,
        /// Always zero.
        pub pad: u32,
    }

    /// An executable mapping of a process.
    pub struct Range {
        /// First address.
        pub start: u64,
        /// Address behind the last.
        pub end: u64,
        /// What to take off an address to get that of a [`Row`].
        pub bias: u64,
        /// Shard of its rows. What lies in two shards is two ranges.
        pub shard: u32,
        /// First row in it.
        pub row: u32,
        /// Number of rows; 0 = they are not loaded; or [`BY_FRAME_POINTER`]. Behind them is their [`Index`].
        pub rows: u32,
        /// See [`Index`], and for the next.
        pub base: u32,
        /// Number of the last block.
        pub last: u32,
        /// A block has `1 << shift` addresses.
        pub shift: u32,
    }

    /// Head of a record; behind it are `kernel` addresses, `python` pairs and `user` addresses of 8 bytes, innermost first.
    pub struct StackHead {
        /// Record header; its length is that of the whole record.
        pub header: Header,
        /// Time in ns since boot.
        pub time: u64,
        /// Process and cgroup. Unlike other keys this one always names the process.
        pub subject: SubjectKey,
        /// Thread.
        pub tid: u32,
        /// CPU.
        pub cpu: u32,
        /// What the sample stands for, see [`sample::UNITS`]: of the CPU's clock the time between two ticks.
        pub value: u64,
        /// What else is to be said, by the kind of sample: why, where; 0 = nothing.
        pub detail: u64,
        /// Frames of the kernel.
        pub kernel: u16,
        /// Frames of the user.
        pub user: u16,
        /// See [`sample`].
        pub sample: u8,
        /// See [`end`].
        pub end: u8,
        /// Frames of Python, see [`python`]; they are between those of the kernel and of the user.
        pub python: u8,
        /// How those ended, see [`python`].
        pub python_end: u8,
        /// Name of the process.
        pub comm: [u8; 16],
        /// Name of the thread.
        pub thread: [u8; 16],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_thinned_and_stands_for_all_of_it() {
        let all = 1_000_000;
        let samples: f64 = (0..all).map(|n| 0.5f64.powi(thinning(n) as i32)).sum();
        assert!(samples < 2000.0, "{samples}");
        assert!((0..ALL_OF).all(|n| thinning(n) == 0));
        for level in 0..10 {
            assert_eq!(thinning(thinned_from(level)), level);
            assert!(level == 0 || thinning(thinned_from(level) - 1) == level - 1);
        }
    }
}
