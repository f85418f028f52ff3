//! What probe `profile` has counted: its own numbers, and those of the threads.

use crate::stacks::Stacks;
use crate::stacks::loader;
use crate::stacks::names::Failures;
use crate::stacks::python::Lost;
use agent_common::profile::{end, python, sample};
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicU64, Ordering};

/// All numbers.
#[derive(Clone, Default, Serialize, Deserialize)]
pub(super) struct Counted {
    /// Stacks by kind of sample …
    pub samples: [u64; sample::COUNT],
    /// … and by how they ended.
    pub ends: [u64; end::COUNT],
    /// The same of Python's.
    pub python_ends: [u64; python::COUNT],
    /// Samples that found no room on the way to the store.
    pub backlog: u64,
    /// CPUs that are sampled.
    pub cpus: usize,
    /// Samples that the store had no room for.
    pub forgotten: u64,
    /// Bytes of the store.
    pub store_bytes: usize,
    /// Waits without their waker.
    pub wakers: u64,
    /// Frames of Python without a name, by [`Lost::ALL`].
    pub python: [u64; Lost::ALL.len()],
    /// Times that processes were looked at.
    pub looked: u64,
    /// Tables.
    pub loader: loader::Stats,
    /// What could not be named.
    pub failures: Failures,
}

impl Counted {
    /// Reads those of the threads.
    pub fn update(&mut self, stacks: &Stacks) {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (self.store_bytes, self.forgotten) = {
            let store = stacks.store();
            (store.bytes(), store.forgotten)
        };
        self.wakers = read(&stacks.counts.wakers);
        self.looked = read(&stacks.counts.looked);
        self.python = stacks.counts.python.each_ref().map(read);
        self.loader = stacks.loader();
        self.failures = stacks.failures();
    }
}
