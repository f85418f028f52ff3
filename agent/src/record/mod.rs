//! What the kernel told, written down and told again.
//!
//! Everything that the collector learns comes through [`Source`]: the records of the ring, the rows of the maps, the answers
//! of /proc and netlink, and the time. A [`Tape`] writes down each of them when it is read, a [`Past`] gives them back, and
//! what lies behind (decoding, names, series, the store, exports) is the same code and cannot tell. The form of a file is at
//! the head of format.rs.

mod base;
mod file;
mod flight;
pub mod format;
mod meta;
mod metrics;
mod past;
mod reader;
mod replay;
mod segments;
mod stacks;
mod tape;

pub use file::{Output, Written, private, private_new};
pub use flight::Flight;
pub use format::{Meta, Step};
pub use metrics::{METRICS, StatsCollect};
pub use past::{Past, verdict_key};
pub use replay::Replay;
pub use segments::{Dumped, Of, dump};
pub use tape::{Stats, Tape};

use crate::aggregate::Family;
use crate::probes::unix_nanos;
use nix::time::{ClockId, clock_gettime};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::sync::Arc;
use std::time::Instant;

/// The beginnings of the names of maps that say nothing of what has happened: they tell the programs how to see it.
const MAPS_LEFT_OUT: [&str; 6] = [
    "PROFILE_",
    "PROCESSES",
    "RANGES",
    "UNWIND_",
    "PYTHON_",
    "TUNNEL_ENDS",
];

/// Where what the collector learns comes from.
#[derive(Clone, Default)]
pub enum Source {
    /// The kernel.
    #[default]
    Kernel,
    /// The kernel, and all is written down.
    Recording(Arc<Tape>),
    /// A recording.
    Recorded(Arc<Past>),
}

/// One moment on all clocks.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// Monotonic.
    pub now: Instant,
    /// ns since the Unix epoch.
    pub unix_nanos: u64,
    /// To be added to a time since boot to get a time since the epoch, ns.
    pub boot_to_unix: u64,
}

impl Clock {
    fn read() -> Self {
        let nanos = |clock| {
            clock_gettime(clock).map_or(0, |t| t.tv_sec() as u64 * 1_000_000_000 + t.tv_nsec() as u64)
        };
        Self {
            now: Instant::now(),
            unix_nanos: unix_nanos(),
            boot_to_unix: nanos(ClockId::CLOCK_REALTIME).wrapping_sub(nanos(ClockId::CLOCK_BOOTTIME)),
        }
    }
}

impl Source {
    /// Records to an output.
    pub fn to(output: Output) -> Self {
        Self::Recording(Arc::new(Tape::new(output)))
    }

    /// What is recorded to, if anything is.
    pub fn tape(&self) -> Option<&Arc<Tape>> {
        match self {
            Self::Recording(tape) => Some(tape),
            _ => None,
        }
    }

    /// The same, if it takes what a map holds.
    pub fn tape_of(&self, map: &str) -> Option<&Arc<Tape>> {
        let is_left_out = MAPS_LEFT_OUT.iter().any(|begin| map.starts_with(begin));
        self.tape().filter(|_| !is_left_out)
    }

    /// What is replayed, if anything is.
    pub fn past(&self) -> Option<&Arc<Past>> {
        match self {
            Self::Recorded(past) => Some(past),
            _ => None,
        }
    }

    /// Now.
    pub fn clock(&self) -> Clock {
        match self {
            Self::Recorded(past) => past.clock(),
            _ => Clock::read(),
        }
    }

    /// Writes a fact down, if a recording is made.
    pub fn tell<T: Serialize>(&self, key: &str, value: impl FnOnce() -> T) {
        if let Self::Recording(tape) = self
            && let Ok(json) = serde_json::to_vec(&value())
        {
            tape.fact(key, json);
        }
    }

    /// Whether the tick that begins now ends with all that is known: for what is told once, to tell it again.
    pub fn is_due(&self, now: Instant) -> bool {
        self.tape().is_some_and(|tape| tape.is_due(now))
    }

    /// A fact: asked of the machine, or of the recording; `None` = the recording does not know.
    pub fn ask<T: Serialize + DeserializeOwned>(&self, key: &str, live: impl FnOnce() -> T) -> Option<T> {
        if let Self::Recorded(past) = self {
            return past.fact(key);
        }
        let value = live();
        self.tell(key, || &value);
        Some(value)
    }

    /// What was told of something that adds up since the agent began, where a replay begins in the middle.
    pub fn resume<T: DeserializeOwned>(&self, key: &str) -> Option<T> {
        self.past().filter(|past| past.has_jumped())?.fact(key)
    }

    /// Whether something that takes its own time happened in this tick.
    pub fn happened(&self, what: &'static str, live: bool) -> bool {
        match self {
            Self::Kernel => live,
            Self::Recording(tape) => {
                if live {
                    tape.happened(what);
                }
                live
            }
            Self::Recorded(past) => past.happened(what),
        }
    }

    /// The end of a step: what has been written down since the last one belongs to it. `families` is what a tick came to.
    pub fn end(&self, step: Step, clock: &Clock, families: &[Family]) {
        if let Self::Recording(tape) = self {
            tape.end(step, clock, families);
        }
    }
}
