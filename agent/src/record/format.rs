//! The form of a recording.
//!
//! A file is the magic `GEOPHREC`, the version as u16 and two zero bytes, then chunks: length as stored, length as it was,
//! CRC-32 of these two and of what is stored (all u32, little-endian), then frames, compressed by LZ4. The first chunk is
//! [`Meta`] as JSON. A frame is a tag and varints, names and bytes with their length before them. Frames up to a [`Step`] are
//! what was read in it: the reader applies them, then does the step. Words of arrays are differences to what was there before;
//! `RESET` begins anew: a segment of the flight recorder, or after something could not be written. `BASE` says what the series
//! were then, and `Step::Begin` that this is all; it may take several chunks, all others end with a step.

use serde::{Deserialize, Serialize};

/// Beginning of every file.
pub const MAGIC: &[u8; 8] = b"GEOPHREC";
/// Version of the form.
pub const VERSION: u16 = 3;
/// The oldest that is read: it has no `BASE` and no `Step::Begin`. Before form 3 there were no `STACKS`.
pub const OLDEST: u16 = 1;
/// Bytes before the first chunk.
pub const HEAD: usize = 12;
/// Bytes before what a chunk holds.
pub const CHUNK_HEAD: usize = 12;
/// No chunk is longer; a length beyond it is damage.
pub const LONGEST: usize = 32 << 20;

/// Frames of one step, in as many chunks as they need; a frame is in one.
#[derive(Default)]
pub struct Parts {
    full: Vec<Vec<u8>>,
    last: Vec<u8>,
}

impl Parts {
    /// Frames for one chunk; a frame more still fits into it.
    const FULL: usize = if cfg!(test) { 64 << 10 } else { LONGEST / 2 };

    /// Where the next frame goes.
    pub fn room(&mut self) -> &mut Vec<u8> {
        if self.last.len() >= Self::FULL {
            self.full.push(std::mem::take(&mut self.last));
        }
        &mut self.last
    }

    /// The chunks, one behind the other; `None` = one is so long that no reader takes it.
    pub fn chunks(&self) -> Option<Vec<u8>> {
        let all = || self.full.iter().chain([&self.last]);
        let fit = all().all(|part| part.len() <= LONGEST);
        fit.then(|| all().flat_map(|part| chunk(part)).collect())
    }
}

/// Frames.
pub mod tag {
    /// key, JSON.
    pub const FACT: u8 = 1;
    /// map, size of a key, size of a value, rows.
    pub const ROWS: u8 = 2;
    /// number, name, bytes of an element.
    pub const ARRAY: u8 = 3;
    /// number of the array, (step to the word's number, growth) …, both zigzag.
    pub const WORDS: u8 = 4;
    /// records, each with its length before it.
    pub const RECORDS: u8 = 5;
    /// map, key, what it held last.
    pub const TAKEN: u8 = 6;
    /// map, key: it was not there any more.
    pub const REFUSED: u8 = 7;
    /// what.
    pub const HAPPENED: u8 = 8;
    /// which, ns since the recording began, ns since the epoch, from boot to epoch.
    pub const STEP: u8 = 9;
    /// ticks so far, whether they were written or not. All arrays are zero and all maps empty now.
    pub const RESET: u8 = 10;
    /// What the series are, after a `RESET`; see base.rs.
    pub const BASE: u8 = 11;
    /// map, key: the agent took it out in this step. So does a replay, unless it began later and does not know that it is due.
    pub const REMOVED: u8 = 12;
    /// JSON: samples of stacks, and what they are called; see stacks.rs.
    pub const STACKS: u8 = 13;
}

/// What the collector does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Attaches the programs.
    Attach,
    /// Takes the records of the ring.
    Drain,
    /// A tick.
    Tick,
    /// The last tick.
    Last,
    /// None: what is read up to here is what was known at a tick before.
    Begin,
}

impl Step {
    /// As written.
    pub const fn number(self) -> u64 {
        match self {
            Self::Attach => 0,
            Self::Drain => 1,
            Self::Tick => 2,
            Self::Last => 3,
            Self::Begin => 4,
        }
    }

    /// As read.
    pub const fn of(number: u64) -> Option<Self> {
        Some(match number {
            0 => Self::Attach,
            1 => Self::Drain,
            2 => Self::Tick,
            3 => Self::Last,
            4 => Self::Begin,
            _ => return None,
        })
    }
}

/// What a recording is of.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Meta {
    /// Version of geophone.
    pub geophone: String,
    /// Layout of everything that crosses from the kernel (`agent_common::wire::LAYOUT`).
    pub layout: u8,
    /// Kernel release.
    pub kernel: String,
    /// Name of the host.
    pub host: String,
    /// When it began, ns since the epoch.
    pub start_unix_nanos: u64,
    /// The settings that decide what is read and how it is named.
    pub settings: serde_json::Value,
    /// Probes that were on and are not in it: before form 3, `profile` and `tunnel`.
    pub left_out: Vec<String>,
}

/// Appends a varint.
pub fn varint(out: &mut Vec<u8>, value: u64) {
    crate::aggregate::labels::varint(out, value);
}

/// Appends a number that may be below zero, small ones short.
pub fn signed(out: &mut Vec<u8>, value: i64) {
    varint(out, (value.cast_unsigned() << 1) ^ (value >> 63).cast_unsigned());
}

/// Appends bytes behind their length.
pub fn bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Reads what the functions above have written; `None` = it ends too early.
#[derive(Clone, Copy)]
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    /// One byte.
    pub fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    /// A varint.
    pub fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    /// A number that may be below zero.
    pub fn signed(&mut self) -> Option<i64> {
        let value = self.varint()?;
        Some((value >> 1).cast_signed() ^ -(value & 1).cast_signed())
    }

    /// Bytes behind their length.
    pub fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = usize::try_from(self.varint()?).ok()?;
        let (bytes, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(bytes)
    }

    /// Text behind its length.
    pub fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.bytes()?).ok()
    }
}

/// A chunk of these frames.
pub fn chunk(frames: &[u8]) -> Vec<u8> {
    let packed = lz4_flex::block::compress(frames);
    let lengths = [packed.len() as u32, frames.len() as u32]
        .map(u32::to_le_bytes)
        .concat();
    let mut crc = crc32fast::Hasher::new();
    crc.update(&lengths);
    crc.update(&packed);
    let mut out = lengths;
    out.extend_from_slice(&crc.finalize().to_le_bytes());
    out.extend_from_slice(&packed);
    out
}

/// The beginning of a file.
pub fn head(meta: &Meta) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&[0; 2]);
    // Made of strings and numbers: it cannot fail.
    out.extend_from_slice(&chunk(&serde_json::to_vec(meta).unwrap_or_default()));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_every_size_come_back() {
        let mut out = Vec::new();
        let numbers = [0, 1, -1, 63, -64, 64, i64::MAX, i64::MIN, i64::MIN + 1];
        for n in numbers {
            signed(&mut out, n);
            varint(&mut out, n.cast_unsigned());
        }
        bytes(&mut out, b"rest");
        let mut reader = Reader(&out);
        for n in numbers {
            assert_eq!(
                (reader.signed(), reader.varint()),
                (Some(n), Some(n.cast_unsigned()))
            );
        }
        assert_eq!(reader.text(), Some("rest"));
        assert_eq!(reader.byte(), None);
        for cut in 0..out.len() {
            let mut reader = Reader(out.get(..cut).unwrap());
            while reader.bytes().is_some() {}
        }
    }
}
