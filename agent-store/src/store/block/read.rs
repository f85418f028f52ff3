//! Opens a block and reads its parts; each is checked against its checksum when it is read.

use super::super::bytes::Reader;
use super::super::codec::times;
use super::{
    Axis, Column, Entry, Extent, Footer, Kind, MAGIC, Run, SERIES_GROUP, Summary, axis, damaged, extent,
};
use crate::series::Millis;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, OnceLock};

/// Chunks that are nearer to each other than this are read at once.
const GAP: u64 = 4096;
/// At most this much is read at once.
const AT_ONCE: u64 = 1 << 20;

/// Where a block's bytes are.
pub(in super::super) enum Data {
    File(File),
    Memory(Vec<u8>),
    /// A disk with a bad sector.
    #[cfg(test)]
    Bad(Vec<u8>, u64),
}

impl Data {
    fn read(&self, at: Extent) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; at.len as usize];
        match self {
            Self::File(file) => file.read_exact_at(&mut bytes, at.offset)?,
            Self::Memory(all) => {
                let start = usize::try_from(at.offset).unwrap_or(usize::MAX);
                let part = all.get(start..).and_then(|tail| tail.get(..bytes.len()));
                bytes.copy_from_slice(part.ok_or(io::ErrorKind::UnexpectedEof)?);
            }
            #[cfg(test)]
            Self::Bad(_, sector) if (at.offset..at.offset + u64::from(at.len)).contains(sector) => {
                return Err(io::Error::other("a bad sector"));
            }
            #[cfg(test)]
            Self::Bad(all, _) => {
                bytes.copy_from_slice(&all[at.offset as usize..][..at.len as usize]);
            }
        }
        Ok(bytes)
    }
}

/// The first pair of a group, and where the group is.
pub(super) struct PairGroup {
    pub(super) name: Box<str>,
    pub(super) value: Box<str>,
    pub(super) at: Extent,
}

/// A block that is open.
pub(in super::super) struct Block {
    pub(in super::super) id: u64,
    pub(in super::super) summary: Summary,
    pub(in super::super) size: u64,
    data: Data,
    main: Axis,
    main_times: OnceLock<Arc<[Millis]>>,
    series_groups: Vec<Extent>,
    pub(super) pair_groups: Vec<PairGroup>,
}

impl Block {
    pub(in super::super) fn open(id: u64, data: Data) -> io::Result<Self> {
        let size = match &data {
            Data::File(file) => file.metadata()?.len(),
            Data::Memory(bytes) => bytes.len() as u64,
            #[cfg(test)]
            Data::Bad(bytes, _) => bytes.len() as u64,
        };
        let tail = size.min(4096);
        let end = data.read(Extent {
            offset: size - tail,
            len: tail as u32,
        })?;
        let footer = Self::footer(&end).or_else(|| {
            let all = data
                .read(Extent {
                    offset: 0,
                    len: u32::try_from(size).ok()?,
                })
                .ok()?;
            Self::footer(&all)
        });
        let footer = footer.ok_or_else(|| damaged("its footer"))?;
        let mut block = Self {
            id,
            size,
            data,
            summary: footer.summary,
            main: footer.main,
            main_times: OnceLock::new(),
            series_groups: Vec::new(),
            pair_groups: Vec::new(),
        };
        let directory = block.read(footer.directory, "its directory")?;
        block
            .directory(&mut Reader::new(&directory))
            .ok_or_else(|| damaged("its directory"))?;
        Ok(block)
    }

    fn footer(end: &[u8]) -> Option<Footer> {
        let rest = end.strip_suffix(MAGIC)?;
        let (rest, crc) = rest.split_last_chunk::<4>()?;
        let (before, len) = rest.split_last_chunk::<4>()?;
        let len = u32::from_le_bytes(*len) as usize;
        let bytes = rest.get(before.len().checked_sub(len)?..)?;
        if crc32fast::hash(bytes) != u32::from_le_bytes(*crc) {
            return None;
        }
        Footer::get(&mut Reader::new(bytes))
    }

    fn directory(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        for _ in 0..reader.uint()? {
            self.series_groups.push(extent(reader)?);
        }
        for _ in 0..reader.uint()? {
            self.pair_groups.push(PairGroup {
                name: reader.str()?.into(),
                value: reader.str()?.into(),
                at: extent(reader)?,
            });
        }
        (self.series_groups.len() == (self.summary.series as usize).div_ceil(SERIES_GROUP)).then_some(())
    }

    /// About what it takes in memory while it is open.
    pub(in super::super) fn memory(&self) -> usize {
        let names: usize = self
            .pair_groups
            .iter()
            .map(|g| g.name.len() + g.value.len() + 80)
            .sum();
        let times = self.main_times.get().map_or(0, |times| times.len() * 8);
        let bytes = if let Data::Memory(bytes) = &self.data {
            bytes.len()
        } else {
            0
        };
        names + self.series_groups.len() * 16 + times + bytes + 512
    }

    /// Reads a part and takes the checksum off.
    pub(super) fn read(&self, at: Extent, what: &str) -> io::Result<Vec<u8>> {
        let mut bytes = self.data.read(at)?;
        check(&bytes).ok_or_else(|| damaged(what))?;
        bytes.drain(..4);
        Ok(bytes)
    }

    /// The times of the main axis.
    pub(in super::super) fn main(&self) -> io::Result<Arc<[Millis]>> {
        if let Some(times) = self.main_times.get() {
            return Ok(times.clone());
        }
        let times: Arc<[Millis]> = self.axis(self.main)?.into();
        Ok(self.main_times.get_or_init(|| times).clone())
    }

    pub(in super::super) fn axis(&self, axis: Axis) -> io::Result<Vec<Millis>> {
        let bytes = self.read(axis.at, "a list of times")?;
        times::decode(&bytes, axis.n as usize).ok_or_else(|| damaged("a list of times"))
    }

    /// Reads some chunks, in the order in which they are asked for, which should be that of the file. What cannot be read, or
    /// is damaged, costs no other.
    pub(in super::super) fn chunks(&self, wanted: &[Extent], mut each: impl FnMut(usize, io::Result<&[u8]>)) {
        let mut next = 0;
        while let Some(first) = wanted.get(next) {
            let mut end = first.offset + u64::from(first.len);
            let mut until = next + 1;
            while let Some(more) = wanted.get(until)
                && (end..=end + GAP).contains(&more.offset)
                && more.offset + u64::from(more.len) - first.offset <= AT_ONCE
            {
                end = more.offset + u64::from(more.len);
                until += 1;
            }
            let together = self.data.read(Extent {
                offset: first.offset,
                len: (end - first.offset) as u32,
            });
            for (at, extent) in wanted.iter().enumerate().take(until).skip(next) {
                let start = (extent.offset - first.offset) as usize;
                let alone;
                let part = match &together {
                    Ok(bytes) => Ok(bytes.get(start..start + extent.len as usize).unwrap_or_default()),
                    Err(_) => match self.data.read(*extent) {
                        Ok(bytes) => {
                            alone = bytes;
                            Ok(alone.as_slice())
                        }
                        Err(error) => Err(error),
                    },
                };
                each(
                    at,
                    part.and_then(|part| check(part).ok_or_else(|| damaged("a column"))),
                );
            }
            next = until;
        }
    }

    pub(in super::super) fn groups(&self) -> usize {
        self.series_groups.len()
    }

    /// The entries of one group.
    pub(in super::super) fn group(&self, number: usize) -> io::Result<Vec<Entry>> {
        let at = self
            .series_groups
            .get(number)
            .ok_or_else(|| damaged("its index"))?;
        let bytes = self.read(*at, "its index")?;
        let mut reader = Reader::new(&bytes);
        let mut entries = Vec::with_capacity(SERIES_GROUP);
        while !reader.is_empty() {
            entries.push(entry(&mut reader).ok_or_else(|| damaged("its index"))?);
        }
        Ok(entries)
    }
}

/// The bytes after a checksum, if it is theirs.
fn check(bytes: &[u8]) -> Option<&[u8]> {
    let (crc, rest) = bytes.split_first_chunk::<4>()?;
    (crc32fast::hash(rest) == u32::from_le_bytes(*crc)).then_some(rest)
}

pub(super) fn list(reader: &mut Reader<'_>) -> Option<Vec<u32>> {
    let n = reader.size()?;
    let mut list = Vec::with_capacity(n.min(1 << 20));
    let mut before = 0i64;
    for _ in 0..n {
        before = before.checked_add(reader.int()?)?;
        list.push(u32::try_from(before).ok()?);
    }
    Some(list)
}

fn entry(reader: &mut Reader<'_>) -> Option<Entry> {
    let fingerprint = u128::from_le_bytes(reader.bytes(16)?.try_into().ok()?);
    let pairs = list(reader)?;
    let n = reader.size()?;
    let mut columns = Vec::with_capacity(n.min(8));
    for _ in 0..n {
        columns.push(column(reader)?);
    }
    Some(Entry {
        fingerprint,
        pairs,
        columns,
    })
}

fn column(reader: &mut Reader<'_>) -> Option<Column> {
    let kind = *Kind::ALL.get(usize::from(reader.byte()?))?;
    let n = reader.u32()?;
    let axis = if reader.byte()? == 0 {
        None
    } else {
        Some(axis(reader)?)
    };
    let count = reader.size()?;
    let mut runs = Vec::with_capacity(count.min(1 << 16));
    let mut end = 0u32;
    for _ in 0..count {
        let start = end.checked_add(reader.u32()?)?;
        let len = reader.u32()?;
        end = start.checked_add(len)?;
        runs.push(Run { start, len });
    }
    Some(Column {
        kind,
        n,
        axis,
        runs,
        chunk: extent(reader)?,
    })
}
