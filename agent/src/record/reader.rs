//! Reads the chunks of a recording, as far as it is whole.

use super::format::{CHUNK_HEAD, HEAD, LONGEST, MAGIC, Meta, OLDEST, VERSION};
use crate::error::{Context as _, Error, Result};
use agent_common::wire::LAYOUT;
use std::io::{self, Read};
use std::path::Path;

/// The chunks of a file, read one by one: a recording may be larger than the memory.
pub struct Chunks<R> {
    source: R,
    /// Bytes of the source, if that is known.
    length: Option<u64>,
    /// Bytes that were read of it as whole chunks.
    at: u64,
    /// Nothing behind what was read is a whole chunk.
    ended: bool,
    /// There is something behind it.
    damaged: bool,
    /// As stored.
    packed: Vec<u8>,
    meta: Meta,
}

impl<R: Read> Chunks<R> {
    /// Reads the beginning. An error if it is no recording, or one that this version does not understand.
    pub fn new(mut source: R, length: Option<u64>, path: &Path) -> Result<Self> {
        let refuse = |why: &str| Error::new(format_args!("{}: {why}", path.display()));
        let mut head = [0; HEAD];
        let got = fill(&mut source, &mut head).context(path.display())?;
        let version = head
            .strip_prefix(MAGIC)
            .filter(|_| got >= MAGIC.len() + 2)
            .and_then(|rest| rest.first_chunk())
            .map(|v| u16::from_le_bytes(*v))
            .ok_or_else(|| refuse("is no recording; `geophone record FILE` makes one"))?;
        if !(OLDEST..=VERSION).contains(&version) {
            return Err(refuse(&format!(
                "is a recording of form {version}, and this geophone reads forms {OLDEST} to {VERSION}"
            )));
        }
        let (mut meta, mut packed) = (Vec::new(), Vec::new());
        let raw = match stored(&mut source, &mut packed) {
            Ok(Stored::Whole(raw)) => raw,
            Ok(_) => return Err(refuse("is damaged at its beginning")),
            Err(e) => return Err(e).context(path.display()),
        };
        if !unpack(&packed, raw, &mut meta) {
            return Err(refuse("is damaged at its beginning"));
        }
        let meta: Meta =
            serde_json::from_slice(&meta).map_err(|e| refuse(&format!("its description: {e}")))?;
        if meta.layout != LAYOUT {
            return Err(refuse(&format!(
                "has records of layout {}, and this geophone reads layout {LAYOUT}; replay it with geophone {}",
                meta.layout, meta.geophone
            )));
        }
        Ok(Self {
            source,
            length,
            at: (HEAD + CHUNK_HEAD + packed.len()) as u64,
            ended: false,
            damaged: false,
            packed,
            meta,
        })
    }

    /// What it is of.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// Goes to the next chunk without unpacking this one; false = there is none, or it is not whole.
    pub fn pass(&mut self) -> bool {
        self.next_stored().is_some()
    }

    /// The frames of the next chunk, in memory that is used again; false = there is none, or it is not whole.
    pub fn read(&mut self, frames: &mut Vec<u8>) -> bool {
        let Some(raw) = self.next_stored() else {
            return false;
        };
        let is_whole = unpack(&self.packed, raw, frames);
        if !is_whole {
            self.at -= (CHUNK_HEAD + self.packed.len()) as u64;
            (self.ended, self.damaged) = (true, true);
        }
        is_whole
    }

    fn next_stored(&mut self) -> Option<usize> {
        if self.ended {
            return None;
        }
        match stored(&mut self.source, &mut self.packed) {
            Ok(Stored::Whole(raw)) => {
                self.at += (CHUNK_HEAD + self.packed.len()) as u64;
                Some(raw)
            }
            // A disk that cannot be read is as bad as one that says something else.
            other => {
                (self.ended, self.damaged) = (true, !matches!(other, Ok(Stored::End)));
                None
            }
        }
    }

    /// Where the next chunk begins.
    pub fn at(&self) -> u64 {
        self.at
    }

    /// Bytes that are left: none when all has been read, else what is damaged; `None` = it is not known how many there are.
    pub fn rest(&self) -> Option<u64> {
        match (self.ended, self.damaged) {
            (true, false) => Some(0),
            _ => self.length.map(|length| length.saturating_sub(self.at)),
        }
    }
}

impl<R: Read> Iterator for Chunks<R> {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        let mut frames = Vec::new();
        self.read(&mut frames).then_some(frames)
    }
}

impl Meta {
    /// What a recording is of, without reading all of it.
    pub(super) fn read(file: &mut impl Read, path: &Path) -> Result<Self> {
        /// Of a description; its settings may name many peers.
        const MOST: u64 = 16 << 20;
        let mut head = vec![0; HEAD + CHUNK_HEAD];
        file.read_exact(&mut head).context(path.display())?;
        let packed = head.get(HEAD..).and_then(|chunk| chunk.first_chunk());
        let packed = packed.map_or(0, |length| u32::from_le_bytes(*length));
        file.take(u64::from(packed).min(MOST))
            .read_to_end(&mut head)
            .context(path.display())?;
        Chunks::new(head.as_slice(), None, path).map(|chunks| chunks.meta)
    }
}

/// What there was of a chunk.
enum Stored {
    /// All of it, which comes to so many bytes.
    Whole(usize),
    /// Nothing at all.
    End,
    /// Something else, or a part.
    Damaged,
}

/// Reads until there is no more or no room; how many bytes there were.
fn fill(source: &mut impl Read, to: &mut [u8]) -> io::Result<usize> {
    let mut at = 0;
    while let Some(room) = to.get_mut(at..).filter(|room| !room.is_empty()) {
        match source.read(room) {
            Ok(0) => break,
            Ok(more) => at += more,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(at)
}

/// Reads the next chunk as it is stored. What it says of its length is not believed before it is there.
fn stored(source: &mut impl Read, packed: &mut Vec<u8>) -> io::Result<Stored> {
    let mut head = [0; CHUNK_HEAD];
    match fill(source, &mut head)? {
        0 => return Ok(Stored::End),
        CHUNK_HEAD => {}
        _ => return Ok(Stored::Damaged),
    }
    let word = |i: usize| {
        let word = head.get(4 * i..).and_then(|rest| rest.first_chunk());
        word.map_or(0, |word| u32::from_le_bytes(*word))
    };
    let (length, raw, crc) = (word(0) as usize, word(1) as usize, word(2));
    if length > LONGEST || raw > LONGEST {
        return Ok(Stored::Damaged);
    }
    packed.clear();
    let got = source.take(length as u64).read_to_end(packed)?;
    let mut sum = crc32fast::Hasher::new();
    sum.update(head.get(..8).unwrap_or_default());
    sum.update(packed);
    Ok(match got == length && sum.finalize() == crc {
        true => Stored::Whole(raw),
        false => Stored::Damaged,
    })
}

/// Unpacks what was stored; false = it is something else than it says.
fn unpack(packed: &[u8], raw: usize, frames: &mut Vec<u8>) -> bool {
    frames.resize(raw, 0);
    let unpacked = lz4_flex::block::decompress_into(packed, frames);
    frames.truncate(*unpacked.as_ref().unwrap_or(&0));
    unpacked.is_ok()
}
