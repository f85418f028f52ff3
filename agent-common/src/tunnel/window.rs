//! Which sequence numbers have come: a sliding window in the manner of RFC 6479, a ring of 64-bit blocks.
//!
//! A number that is missing when its block leaves the window is lost; one that comes before is reordered. Sequence
//! numbers of 32 bits are extended to *positions* of 64 bits by their distance from the highest, so the window does not
//! see them wrap. Nothing before the first packet counts as lost. A single packet far from the window says nothing (it
//! may be very late, a replay or forged); two that follow each other there are a restart, as in RFC 3550 A.1.

/// Blocks of the ring.
pub const BLOCKS: usize = 64;
/// Positions that the window covers at least, behind the highest.
pub const SIZE: u64 = (BLOCKS as u64 - 1) * 64;
/// A jump ahead by more than this is not taken for loss. A second of 1 M packets/s.
pub const JUMP: u64 = 1 << 20;
/// A far packet confirms the one before it if it follows within this distance.
const CONFIRM: u64 = 64;
/// Position of sequence number 0: leaves room for what comes late before the first.
pub const ORIGIN: u64 = 1 << 32;
const SLOT: u64 = BLOCKS as u64 - 1;

crate::wire! {
    /// State of one sequence; see [`Window::EMPTY`].
    pub struct Window {
        /// Highest position so far.
        pub top: u64,
        /// Position of the first packet; 0 = none yet.
        pub base: u64,
        /// Position of a far packet, to be confirmed; 0 = none.
        pub suspect: u64,
        /// Restarts so far: a position of another epoch must not be compared with one of this.
        pub epoch: u64,
        /// Bit `p % 64` of block `p / 64 % 64`: position `p` has come.
        pub bits: [u64; BLOCKS],
    }
}

/// What packets did to the window. Every packet adds one to exactly one of `received`, `duplicated` and `late`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// First of its number; in order or reordered.
    pub received: u64,
    /// Numbers that left the window without having come.
    pub lost: u64,
    /// Came after a higher number.
    pub reordered: u64,
    /// Had come already.
    pub duplicated: u64,
    /// Far behind the window or far ahead: late, replayed, or the first of a restart.
    pub late: u64,
    /// The sequence began anew.
    pub restarts: u64,
}

/// Blocks from one position up to another, which may have wrapped.
#[inline(always)]
const fn blocks(from: u64, to: u64) -> u64 {
    (to >> 6).wrapping_sub(from >> 6) & (u64::MAX >> 6)
}

impl Window {
    /// A sequence that has not begun: all bits set, so that nothing before its first packet is a hole.
    pub const EMPTY: Self = Self {
        top: 0,
        base: 0,
        suspect: 0,
        epoch: 0,
        bits: [u64::MAX; BLOCKS],
    };

    /// Takes a packet's sequence number; `wide` = it has 64 bits and not 32.
    ///
    /// Calls nothing and reads no clock, so that it can run under a spin lock in the kernel.
    #[inline(always)]
    pub fn take(&mut self, sequence: u64, wide: bool, step: &mut Step) {
        let anchor = sequence.wrapping_add(ORIGIN);
        if self.base == 0 {
            self.base = anchor;
            self.begin(anchor);
            step.received += 1;
            return;
        }
        let delta = if wide {
            anchor.wrapping_sub(self.top)
        } else {
            (sequence as u32).wrapping_sub(self.top as u32) as i32 as i64 as u64
        };
        let position = self.top.wrapping_add(delta);
        // As unsigned numbers: ahead is small, behind is huge.
        if delta.wrapping_sub(1) < JUMP {
            self.advance(position, step);
            self.suspect = 0;
            self.top = position;
            self.mark(position);
            step.received += 1;
        } else if blocks(position, self.top) < BLOCKS as u64 {
            self.suspect = 0;
            // What comes late before the first is not remembered: its bits are set.
            if self.mark(position) && position.wrapping_sub(self.base) as i64 >= 0 {
                step.duplicated += 1;
            } else {
                step.received += 1;
                step.reordered += 1;
            }
        } else if self.suspect != 0 && position.wrapping_sub(self.suspect).wrapping_sub(1) < CONFIRM {
            let distance = position.wrapping_sub(self.suspect);
            // The window moves away from all that it holds; what lies above its top is not missing.
            self.bits[((self.top >> 6) & SLOT) as usize] |= u64::MAX << (self.top & 63);
            self.advance((self.top & !63).wrapping_add(64 * BLOCKS as u64), step);
            self.bits = Self::EMPTY.bits;
            self.base = anchor.wrapping_sub(distance);
            self.begin(self.base);
            // At most one block on, in which nothing has come.
            if anchor >> 6 != self.base >> 6 {
                self.bits[((anchor >> 6) & SLOT) as usize] = 0;
            }
            self.top = anchor;
            self.mark(anchor);
            self.suspect = 0;
            self.epoch += 1;
            step.received += 1;
            step.restarts += 1;
        } else {
            self.suspect = position;
            step.late += 1;
        }
    }

    /// Sets the bit of a position in the window; true if it was set.
    #[inline(always)]
    fn mark(&mut self, position: u64) -> bool {
        let block = &mut self.bits[((position >> 6) & SLOT) as usize];
        let bit = 1u64 << (position & 63);
        let was = *block & bit != 0;
        *block |= bit;
        was
    }

    /// The first packet: nothing above it has come.
    #[inline(always)]
    fn begin(&mut self, position: u64) {
        self.top = position;
        self.bits[((position >> 6) & SLOT) as usize] = u64::MAX >> (63 - (position & 63));
    }

    /// Moves the window up to the block of `position`, counting what is missing in the blocks that leave.
    ///
    /// The loop has no branch but its end: the kernel's verifier follows each in each turn.
    #[inline(always)]
    fn advance(&mut self, position: u64, step: &mut Step) {
        let old = self.top >> 6;
        let blocks = blocks(self.top, position);
        let turns = blocks.min(BLOCKS as u64);
        let mut i = 1u64;
        while i <= turns {
            let block = &mut self.bits[(old.wrapping_add(i) & SLOT) as usize];
            step.lost += (!*block).count_ones() as u64;
            *block = 0;
            i += 1;
        }
        if blocks > BLOCKS as u64 {
            // Blocks between that were never in the window.
            step.lost += (blocks - BLOCKS as u64) * 64;
        }
    }
}

/// Numbers in the window below the position `horizon` that have not come. With a top of two seconds ago as horizon:
/// what is lost but has not left the window yet.
pub fn holes_below(window: &Window, horizon: u64) -> u64 {
    if window.base == 0 {
        return 0;
    }
    let top = window.top >> 6;
    let end = horizon.min(window.top.saturating_add(1));
    let mut sum = 0;
    for back in 0..BLOCKS as u64 {
        let Some(block) = top.checked_sub(back) else {
            break;
        };
        let first = block << 6;
        if first >= end {
            continue;
        }
        let bits = window.bits[(block & SLOT) as usize];
        let beyond = if end - first < 64 {
            u64::MAX << (end - first)
        } else {
            0
        };
        sum += (!(bits | beyond)).count_ones() as u64;
    }
    sum
}

#[cfg(test)]
#[path = "window_tests.rs"]
mod tests;
