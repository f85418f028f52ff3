//! How long, how much, how often.

use crate::series::Millis;
use std::time::Duration;

/// What a store may take and how long it keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The log is on disk within this time: what a power cut costs at most.
    pub sync_interval: Duration,
    /// Samples are kept as they came for this long, counted from the newest.
    pub keep: Duration,
    /// Rollups of them are kept for this long; no longer than `keep` for none.
    pub keep_rollups: Duration,
    /// The step of rollups.
    pub rollup_step: Duration,
    /// Names of a few series of which one sample a step, where there are rollups, is kept for longer: `keep_lasting`.
    pub lasting: Vec<String>,
    /// How long those are kept; no longer than all others for none. They have half of `max_bytes` at most.
    pub keep_lasting: Duration,
    /// Blocks take at most this, the log comes on top; the oldest go first.
    pub max_bytes: u64,
    /// What the store takes in memory at most: a quarter for samples that are in no block yet, a quarter for those on their way
    /// into one, a quarter for the identities of live series, the rest for the index of blocks and for merging.
    pub memory: usize,
    /// Whether threads of the store's write and tidy up; else it is done by [`super::Store::sync`] and
    /// [`super::Store::maintain`].
    pub worker: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            sync_interval: Duration::from_secs(1),
            keep: Duration::from_hours(24),
            keep_rollups: Duration::from_hours(24 * 15),
            rollup_step: Duration::from_secs(10),
            lasting: Vec::new(),
            keep_lasting: Duration::ZERO,
            max_bytes: 2 << 30,
            memory: 64 << 20,
            worker: true,
        }
    }
}

/// The span of a block as it comes from the head.
pub(super) const BLOCK: Millis = 10 * 60 * 1000;
/// The span of a merged block.
pub(super) const MERGED: Millis = 2 * 60 * 60 * 1000;
/// The span of a merged block whose samples are few: rollups, or what was imported at a longer interval.
pub(super) const SPARSE: Millis = 24 * 60 * 60 * 1000;

/// Such a block has no more samples of a series than this: two days at ten seconds.
pub(super) const MOST_SAMPLES: u64 = 2 * 8640;

pub(super) fn millis(duration: Duration) -> Millis {
    Millis::try_from(duration.as_millis())
        .unwrap_or(Millis::MAX / 4)
        .min(Millis::MAX / 4)
}
