//! Probe `sched`: who runs, who waits for a CPU, who gives it up.

use crate::histogram::Histogram;
use crate::tcp::SubjectKey;

/// Counters of a subject.
pub mod counter {
    /// Time on a CPU, ns.
    pub const CPU: usize = 0;
    /// Switches away from a thread that had nothing more to do.
    pub const VOLUNTARY: usize = 1;
    /// Switches away from a thread that would have gone on.
    pub const INVOLUNTARY: usize = 2;
    /// Number of them.
    pub const COUNT: usize = 3;
}

/// What is counted of a subject, one for each shard of its row.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct SchedCells {
    /// See [`counter`].
    pub counters: [u64; counter::COUNT],
    /// Grows when the row gets another owner: threads that still hold it look theirs up anew.
    pub generation: u64,
    /// From when a thread could have run until it did.
    pub wait: Histogram,
}

const _: () = assert!(size_of::<SchedCells>() == 32 + size_of::<Histogram>());

/// Rows, `other` included.
pub const SLOTS: u32 = 512;
/// Row of what finds none of its own.
pub const SLOT_OTHER: u32 = 0;
/// Threads that are known at a time.
pub const THREADS: u32 = 32_768;
/// Bytes of what is known of one.
pub const THREAD_BYTES: usize = 64;

crate::wire! {
    /// What a [`SubjectKey`] maps to.
    pub struct SchedSubject {
        /// Its row.
        pub slot: u32,
        /// Always zero.
        pub pad: u32,
        /// Name of the process when it was first seen, or when it ended.
        pub comm: [u8; 16],
    }
}

/// All threads of the kernel: they belong to nobody, and there are many.
pub const KERNEL: SubjectKey = SubjectKey {
    netns: u32::MAX,
    ..SubjectKey::NOBODY
};
