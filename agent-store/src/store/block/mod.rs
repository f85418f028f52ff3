//! A block: the samples of a span in one file that never changes. Written beside its name, synced, renamed.
//!
//! ```text
//! MAGIC | axes and chunks: crc, column                      read one by one, or neighbours at once
//!       | series groups:   crc, 32 entries                  labels as numbers of pairs; where the chunks are
//!       | postings:        crc, series of one pair          series by number, which is their order by labels
//!       | pair groups:     crc, 64 of (name, value, postings)
//!       | directory:       crc, where the groups are        in memory while the block is open
//!       | footer | its length | crc of both | MAGIC
//! ```
//!
//! Nearly every series has a sample at every tick, so times are stored once, as the block's main axis; a column says by runs
//! at which of them it has samples. A column that fits badly brings an axis of its own.

pub(super) mod find;
pub(super) mod read;
pub(super) mod write;

use super::bytes::{Reader, put_int, put_uint};
use crate::labels::Labels;
use crate::series::Millis;
use siphasher::sip128::{Hasher128, SipHasher13};
use std::hash::Hasher;
use std::io;

const MAGIC: &[u8; 8] = b"gphblk01";
pub(super) const SERIES_GROUP: usize = 32;
const PAIR_GROUP: usize = 64;

/// What the numbers of a column are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// Floats as they were; in a rollup the last of each step.
    Float,
    /// Histograms; in a rollup the last of each step.
    Histogram,
    Min,
    Max,
    Sum,
    Count,
}

impl Kind {
    pub(super) const ALL: [Self; 6] = [
        Self::Float,
        Self::Histogram,
        Self::Min,
        Self::Max,
        Self::Sum,
        Self::Count,
    ];
}

/// Neighbours on an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) start: u32,
    pub(super) len: u32,
}

/// A piece of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) offset: u64,
    pub(super) len: u32,
}

/// A list of times in a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Axis {
    pub(super) at: Extent,
    pub(super) n: u32,
}

/// Where a column is.
#[derive(Clone, Debug)]
pub(super) struct Column {
    pub(super) kind: Kind,
    pub(super) n: u32,
    /// `None`: the main axis.
    pub(super) axis: Option<Axis>,
    pub(super) runs: Vec<Run>,
    pub(super) chunk: Extent,
}

/// A series of a block.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) fingerprint: u128,
    pub(super) pairs: Vec<u32>,
    pub(super) columns: Vec<Column>,
}

/// What a block is about.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Summary {
    /// Milliseconds between samples of a rollup; 0 for samples as they came.
    pub(super) step: Millis,
    pub(super) from: Millis,
    pub(super) to: Millis,
    pub(super) series: u64,
    pub(super) samples: u64,
    /// The first and the last log that it makes unnecessary; (1, 0) for none.
    pub(super) logs: (u64, u64),
    /// Blocks that it replaces.
    pub(super) replaces: Vec<u64>,
}

#[derive(Clone, Debug, Default)]
struct Footer {
    summary: Summary,
    main: Axis,
    directory: Extent,
}

impl Footer {
    fn put(&self, out: &mut Vec<u8>) {
        let s = &self.summary;
        for time in [s.step, s.from, s.to] {
            put_int(out, time);
        }
        for number in [s.series, s.samples, s.logs.0, s.logs.1, s.replaces.len() as u64] {
            put_uint(out, number);
        }
        for id in &s.replaces {
            put_uint(out, *id);
        }
        put_axis(out, self.main);
        put_extent(out, self.directory);
    }

    fn get(reader: &mut Reader<'_>) -> Option<Self> {
        let mut summary = Summary {
            step: reader.int()?,
            from: reader.int()?,
            to: reader.int()?,
            series: reader.uint()?,
            samples: reader.uint()?,
            logs: (reader.uint()?, reader.uint()?),
            replaces: Vec::new(),
        };
        for _ in 0..reader.uint()? {
            summary.replaces.push(reader.uint()?);
        }
        Some(Self {
            summary,
            main: axis(reader)?,
            directory: extent(reader)?,
        })
    }
}

fn put_extent(out: &mut Vec<u8>, extent: Extent) {
    put_uint(out, extent.offset);
    put_uint(out, extent.len.into());
}

fn extent(reader: &mut Reader<'_>) -> Option<Extent> {
    Some(Extent {
        offset: reader.uint()?,
        len: reader.u32()?,
    })
}

fn put_axis(out: &mut Vec<u8>, axis: Axis) {
    put_extent(out, axis.at);
    put_uint(out, axis.n.into());
}

fn axis(reader: &mut Reader<'_>) -> Option<Axis> {
    Some(Axis {
        at: extent(reader)?,
        n: reader.u32()?,
    })
}

/// The identity of a series across blocks, so that only one of them has to spell its labels. A keyed hash of 128 bits: two
/// of a million series are alike with a probability of 10^-27.
pub(super) fn fingerprint(labels: &Labels) -> u128 {
    let mut hasher = SipHasher13::new_with_keys(0x6765_6f70_686f_6e65, 1);
    for (name, value) in labels.iter() {
        for text in [name, value] {
            hasher.write(&(text.len() as u64).to_le_bytes());
            hasher.write(text.as_bytes());
        }
    }
    hasher.finish128().as_u128()
}

/// The error of bytes that are not what was written.
pub(super) fn damaged(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{what} is damaged"))
}

/// The runs by which `times` are on `axis`; `None` when they are not, or in so many runs that times of its own are less.
pub(super) fn runs_on(axis: &[Millis], times: &[Millis]) -> Option<Vec<Run>> {
    let mut runs: Vec<Run> = Vec::new();
    let mut rest = times;
    let mut at = 0;
    while let Some(first) = rest.first() {
        let tail = axis.get(at..)?;
        at += if tail.first() == Some(first) {
            0
        } else {
            tail.binary_search(first).ok()?
        };
        let tail = axis.get(at..)?;
        let len = if tail.starts_with(rest) {
            rest.len()
        } else {
            tail.iter().zip(rest).take_while(|(a, b)| a == b).count()
        };
        runs.push(Run {
            start: at as u32,
            len: len as u32,
        });
        if runs.len() > 4 + times.len() / 8 {
            return None;
        }
        at += len;
        rest = rest.get(len..)?;
    }
    Some(runs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_become_runs() {
        let axis: Vec<Millis> = (0..100).map(|i| i * 10).collect();
        let run = |start, len| Run { start, len };
        assert_eq!(runs_on(&axis, &axis), Some(vec![run(0, 100)]));
        assert_eq!(runs_on(&axis, &[50, 60, 80]), Some(vec![run(5, 2), run(8, 1)]));
        assert_eq!(runs_on(&axis, &[]), Some(vec![]));
        assert_eq!(runs_on(&axis, &[55]), None);
        assert_eq!(
            runs_on(&axis, &axis.iter().copied().step_by(2).collect::<Vec<_>>()),
            None
        );
    }

    #[test]
    fn a_fingerprint_never_changes() {
        // It is in files: a crate that changes its hash must not pass.
        let known = 0xdbd3_7d59_2aa2_9a65_8c5c_5ad5_168c_03ff;
        assert_eq!(fingerprint(&Labels::new([("a", "b")])), known);
        assert_ne!(
            fingerprint(&Labels::new([("a", "bc")])),
            fingerprint(&Labels::new([("ab", "c")]))
        );
    }
}
