//! What the loader tells of itself.

use serde::{Deserialize, Serialize};

/// What it costs and what it had to refuse.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Processes that the kernel can unwind.
    pub processes: usize,
    /// Files with rows.
    pub binaries: usize,
    /// Files that are open.
    pub open: usize,
    /// Rows that are taken.
    pub rows: usize,
    /// Bytes of shards.
    pub bytes: usize,
    /// Tables made so far.
    pub tables: u64,
    /// Files whose table found no room.
    pub refused: u64,
    /// Files that could not be understood.
    pub faulty: u64,
}
