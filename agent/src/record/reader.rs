//! Reads the chunks of a recording, as far as it is whole.

use super::format::{CHUNK_HEAD, HEAD, LONGEST, MAGIC, Meta, OLDEST, VERSION};
use crate::error::{Context as _, Error, Result};
use agent_common::wire::LAYOUT;
use std::io::Read;
use std::path::Path;

/// The chunks of a file.
pub struct Chunks<'a> {
    content: &'a [u8],
    at: usize,
    meta: Meta,
}

impl<'a> Chunks<'a> {
    /// Reads the beginning. An error if it is no recording, or one that this version does not understand.
    pub fn new(content: &'a [u8], path: &Path) -> Result<Self> {
        let refuse = |why: &str| Error::new(format_args!("{}: {why}", path.display()));
        let version = content
            .strip_prefix(MAGIC)
            .and_then(|rest| rest.first_chunk())
            .map(|v| u16::from_le_bytes(*v))
            .ok_or_else(|| refuse("is no recording; `geophone record FILE` makes one"))?;
        if !(OLDEST..=VERSION).contains(&version) {
            return Err(refuse(&format!(
                "is a recording of form {version}, and this geophone reads forms {OLDEST} to {VERSION}"
            )));
        }
        let mut meta = Vec::new();
        let at = read(content, HEAD, &mut meta).ok_or_else(|| refuse("is damaged at its beginning"))?;
        let meta: Meta =
            serde_json::from_slice(&meta).map_err(|e| refuse(&format!("its description: {e}")))?;
        if meta.layout != LAYOUT {
            return Err(refuse(&format!(
                "has records of layout {}, and this geophone reads layout {LAYOUT}; replay it with geophone {}",
                meta.layout, meta.geophone
            )));
        }
        Ok(Self { content, at, meta })
    }

    /// What it is of.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// Goes to the next chunk without unpacking this one; false = it is not whole.
    pub fn pass(&mut self) -> bool {
        let next = whole(self.content, self.at).map(|(_, _, end)| end);
        self.at = next.unwrap_or(self.at);
        next.is_some()
    }

    /// The frames of the next chunk, in memory that is used again; false = there is none, or it is not whole.
    pub fn read(&mut self, frames: &mut Vec<u8>) -> bool {
        let next = read(self.content, self.at, frames);
        self.at = next.unwrap_or(self.at);
        next.is_some()
    }

    /// Where the next chunk begins.
    pub fn at(&self) -> usize {
        self.at
    }

    /// Bytes that are left: none when all has been read, else what is damaged.
    pub fn rest(&self) -> usize {
        self.content.len() - self.at
    }
}

impl Iterator for Chunks<'_> {
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
        Chunks::new(&head, path).map(|chunks| chunks.meta)
    }
}

/// Unpacks the chunk at a place; where the next begins, `None` = it is not whole.
fn read(content: &[u8], at: usize, frames: &mut Vec<u8>) -> Option<usize> {
    let (stored, raw, end) = whole(content, at)?;
    frames.resize(raw, 0);
    let unpacked = lz4_flex::block::decompress_into(stored, frames).ok()?;
    frames.truncate(unpacked);
    Some(end)
}

/// The chunk at a place as it is stored, its length as it was, and where the next begins; `None` = it is not whole.
fn whole(content: &[u8], at: usize) -> Option<(&[u8], usize, usize)> {
    let head = content.get(at..at + CHUNK_HEAD)?;
    let word = |i: usize| Some(u32::from_le_bytes(*head.get(4 * i..)?.first_chunk()?));
    let (packed, raw, crc) = (word(0)? as usize, word(1)? as usize, word(2)?);
    if packed > LONGEST || raw > LONGEST {
        return None;
    }
    let end = (at + CHUNK_HEAD).checked_add(packed)?;
    let stored = content.get(at + CHUNK_HEAD..end)?;
    let mut sum = crc32fast::Hasher::new();
    sum.update(head.get(..8)?);
    sum.update(stored);
    (sum.finalize() == crc).then_some((stored, raw, end))
}
