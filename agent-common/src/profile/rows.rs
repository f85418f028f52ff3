//! Rows of an unwind table, their rules and the index that leads to them.

use super::SHARD_ROWS;

/// How the canonical frame address (CFA: the stack pointer before the call) is found; [`Row::kind`].
///
/// On x86-64 the return address lies right below the CFA. On aarch64 the frame pointer is x29, and the return address is in x30
/// until it is saved: with x29, right above it ([`SP`](kind::SP), [`FP`](kind::FP)), or alone.
pub mod kind {
    /// Stack pointer plus offset.
    pub const SP: u8 = 0;
    /// Frame pointer plus offset.
    pub const FP: u8 = 1;
    /// An entry of a procedure linkage table: stack pointer plus 8, plus another 8 from its eleventh byte on.
    pub const PLT: u8 = 2;
    /// The outermost frame: the return address is undefined.
    pub const END: u8 = 3;
    /// A signal handler returns to it; all registers lie in the `ucontext` at the stack pointer.
    pub const SIGNAL: u8 = 4;
    /// The word at frame pointer minus offset holds it: functions that align their stack anew.
    pub const AT_FP: u8 = 5;
    /// The word at stack pointer plus offset, plus 8: assembly that keeps the old stack pointer on the new stack.
    pub const AT_SP_PLUS_8: u8 = 6;
    /// No rule, or one that cannot be said here.
    pub const NONE: u8 = 7;
    /// No table covers it: code that has frame pointers instead, or assembly that may have none. They are followed if what
    /// they lead to is code.
    pub const HOLE: u8 = 8;
    /// In no table, as all that follow: an address in a mapping that is unwound by frame pointers.
    pub const FRAME_POINTER: u8 = 9;
    /// An address in a mapping whose rows are not loaded.
    pub const NO_TABLE: u8 = 10;
    /// An address in no mapping.
    pub const NO_MAPPING: u8 = 11;
    /// aarch64: stack pointer plus offset, and the return address is still in x30.
    pub const SP_IN_LR: u8 = 12;
    /// aarch64: stack pointer plus offset, and x30 lies where else x29 would; x29 is still in its register.
    pub const SP_ALONE: u8 = 13;
    /// aarch64: as before, from the frame pointer.
    pub const FP_ALONE: u8 = 14;
}

/// A row of a table, eight bytes: from `pc` on, until the next row.
///
/// | bits | what |
/// |---|---|
/// | 0–31 | address, relative to the mapping's bias |
/// | 32–47 | offset of the CFA, in words of 8 bytes |
/// | 48–55 | the caller's frame pointer is saved so many words below the CFA; 0 = it is still in its register. Of aarch64, but for [`SP_IN_LR`](kind::SP_IN_LR): 0 = as many as the CFA's offset says, where the register points that it counts from |
/// | 56–63 | [`kind`] |
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Row {
    /// From this address on.
    pub pc: u32,
    /// See [`kind`].
    pub kind: u8,
    /// Offset of the CFA, words.
    pub offset: u16,
    /// Place of the saved frame pointer, words below the CFA; 0 = not saved.
    pub frame_pointer: u8,
}

impl Row {
    /// What is said of an address, without the address.
    #[inline(always)]
    pub const fn rule(self) -> u32 {
        (self.pack() >> 32) as u32
    }

    /// As it lies in the array.
    #[inline(always)]
    pub const fn pack(self) -> u64 {
        self.pc as u64
            | (self.offset as u64) << 32
            | (self.frame_pointer as u64) << 48
            | (self.kind as u64) << 56
    }

    /// Out of the array.
    #[inline(always)]
    pub const fn unpack(word: u64) -> Self {
        Self {
            pc: word as u32,
            offset: (word >> 32) as u16,
            frame_pointer: (word >> 48) as u8,
            kind: (word >> 56) as u8,
        }
    }
}

/// Bits of [`Row::rule`] that are in use.
pub const RULE_BITS: u32 = 28;
const _: () = assert!((kind::FP_ALONE as u32) < 1 << (RULE_BITS - 24));
/// Rules that the kernel side remembers, on each CPU; a power of two: 32 KiB.
pub const RULES: usize = 1 << 12;

/// Where to search among rows: for each block of addresses the number of the last row that begins at or before the block does,
/// two to a word, and once more that of the last row of all. A search in all rows would touch a cache line a step, and all of
/// them are cold by the next sample.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Index {
    /// Address of the first row, where the first block begins.
    pub base: u32,
    /// Number of the last block.
    pub last: u32,
    /// A block has `1 << shift` addresses.
    pub shift: u32,
}

/// About so many rows lie in a block, and in two of them, which a word of the index is for.
const ROWS_OF_BLOCK: usize = 8;
const ROWS_OF_WORD: usize = 2 * ROWS_OF_BLOCK;

impl Index {
    /// Of so many rows between two addresses.
    pub fn new(rows: usize, base: u32, end: u32) -> Self {
        let (span, most) = (end - base, (rows / ROWS_OF_BLOCK) as u32);
        let shift = (0..u32::BITS - 1)
            .find(|shift| span >> shift <= most)
            .unwrap_or(u32::BITS - 1);
        Self {
            base,
            last: span >> shift,
            shift,
        }
    }

    /// Words to ask for, for rows with their index: each shard that they are divided among has an index of its own.
    pub const fn words(rows: usize) -> usize {
        rows + rows / ROWS_OF_WORD + 4 * (1 + rows / (SHARD_ROWS / 2))
    }

    /// Rows that so many words of a shard have room for.
    pub const fn rows(words: usize) -> usize {
        words.saturating_sub(2) * ROWS_OF_WORD / (ROWS_OF_WORD + 1)
    }

    /// The words of it, for rows that are [packed](Row::pack).
    pub fn entries(self, rows: &[u64]) -> impl Iterator<Item = u64> {
        let mut at = 0;
        let mut entry = move |block: u32| {
            let from = u64::from(self.base) + (u64::from(block) << self.shift);
            while rows
                .get(at + 1)
                .is_some_and(|row| block > self.last || u64::from(*row as u32) <= from)
            {
                at += 1;
            }
            at as u64
        };
        (0..=self.last.div_ceil(2)).map(move |pair| entry(2 * pair) | entry(2 * pair + 1) << 32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_leads_to_the_row() {
        extern crate std;
        use std::vec::Vec;
        let mut seed = 1u64;
        let mut next = || {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            seed >> 33
        };
        for count in [1, 2, 7, 8, 9, 64, 1000] {
            for gap in [1, 40, 1 << 20] {
                let mut pc = next() % 10_000;
                let rows: Vec<u64> = (0..count)
                    .map(|_| {
                        pc += 1 + next() % gap;
                        pc
                    })
                    .collect();
                let index = Index::new(rows.len(), rows[0] as u32, pc as u32);
                let words: Vec<u64> = index.entries(&rows).collect();
                let room = Index::words(rows.len());
                assert!(
                    rows.len() + words.len() <= room && Index::rows(room) >= rows.len(),
                    "{count} {gap}"
                );
                let entry = |n: u32| (words[n as usize / 2] >> (32 * (n & 1))) as u32 as usize;
                for _ in 0..1000 {
                    let pc = rows[0] + next() % (pc - rows[0] + 100);
                    let block = (((pc - rows[0]) >> index.shift) as u32).min(index.last);
                    let (low, high) = (entry(block), entry(block + 1));
                    let wanted = rows.partition_point(|row| *row <= pc) - 1;
                    assert!(
                        (low..=high).contains(&wanted),
                        "{count} {gap} {pc}: {low} {high} {wanted}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_row_survives_its_word() {
        for row in [
            Row {
                pc: u32::MAX,
                kind: kind::NONE,
                offset: u16::MAX,
                frame_pointer: u8::MAX,
            },
            Row {
                pc: 1,
                kind: kind::FP,
                offset: 2,
                frame_pointer: 2,
            },
            Row {
                pc: 0x1234_5678,
                kind: kind::SP,
                offset: 0x8001,
                frame_pointer: 0,
            },
        ] {
            assert_eq!(Row::unpack(row.pack()), row);
        }
    }

    #[test]
    fn rows_are_ordered_by_address_as_words_and_as_structs() {
        let row = |pc, kind| Row {
            pc,
            kind,
            offset: 9,
            frame_pointer: 7,
        };
        assert!(row(5, kind::NONE) < row(6, kind::SP));
        assert!((row(5, kind::NONE).pack() as u32) < row(6, kind::SP).pack() as u32);
    }
}
