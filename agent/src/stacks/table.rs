//! From the `.eh_frame` of a file to the rows that the kernel unwinds by.
//!
//! The file is somebody else's: every size in it is a claim. What is read is bounded in bytes, in entries and in rows, and
//! a file that cannot be understood is an error and nothing worse. It is read and not mapped, because a mapping of a file
//! that is truncated meanwhile kills who looks at it.

use super::cfi::Rules;
use crate::bpf::host;
use agent_common::profile::{Row, kind};
use gimli::{BaseAddresses, CieOrFde, UnwindContext, UnwindSection as _};
use object::{Object as _, ObjectSection as _, ObjectSegment as _, ReadRef};
use std::cell::Cell;
use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt as _;

/// Largest `.eh_frame` that is read, bytes. That of libLLVM has 8 MiB, that of chromium 12.
const LARGEST: u64 = 64 << 20;
/// Most bytes of a file that are read in all.
const MOST: u64 = LARGEST + (32 << 20);
/// What reading a name costs at least, in bytes: names of nothing take time as well.
const PRICE: u64 = 64;
/// Most rows of one file; libLLVM has a tenth of it.
const MOST_ROWS: usize = 4 << 20;
/// Most bytes of entries that are gone through. Each entry of a function begins with what it shares with others, so that a
/// file can ask for more work than it has bytes.
const MOST_WORK: usize = 256 << 20;

/// What is wrong with a file.
#[derive(Debug, PartialEq, Eq)]
pub enum Fault {
    /// It could not be read.
    Io(String),
    /// It is no ELF file, or a broken one.
    Malformed(String),
    /// It is larger than what is taken.
    TooLarge(&'static str, u64),
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Io(cause) => write!(f, "cannot be read: {cause}"),
            Self::Malformed(cause) => write!(f, "is no sound ELF file: {cause}"),
            Self::TooLarge(what, bytes) => {
                write!(f, "has {bytes} bytes of {what}, which is more than is taken")
            }
        }
    }
}

/// A loadable part of a file that is executable. Others may share a page of the file with it and lie elsewhere in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where it lies in the file.
    pub offset: u64,
    /// Its bytes in the file.
    pub size: u64,
    /// Its address before relocation.
    pub address: u64,
}

/// What is known of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// Packed [`Row`]s, ordered by address. Addresses are relative to `base`.
    pub rows: Vec<u64>,
    /// Address that rows begin to count from.
    pub base: u64,
    /// Its executable parts.
    pub segments: Vec<Segment>,
    /// Build id, lower-case hexadecimal; empty = it has none.
    pub build_id: String,
    /// It has no rows because its code has frame pointers: the Go compiler made it, or one that was told to.
    pub by_frame_pointer: bool,
    /// Rules that a [`Row`] cannot say.
    pub unsupported: usize,
    /// Where it has the interpreter of Python, if it is that.
    pub python: Option<super::python::runtime::Symbols>,
}

impl Table {
    /// What to take off an address inside of a mapping to get that of a row: the mapping begins at `start` with the byte
    /// `offset` of the file. `None` = the file has no such part.
    pub fn bias(&self, start: u64, offset: u64) -> Option<u64> {
        let within = !(host::page_size() - 1);
        let page = offset & within;
        // A mapping begins at a page of the file, a segment anywhere in one.
        let segment = self
            .segments
            .iter()
            .find(|s| s.offset & within <= page && page < s.offset.saturating_add(s.size.max(1)))?;
        let address = segment.address.wrapping_add(offset.wrapping_sub(segment.offset));
        Some(start.wrapping_sub(address.wrapping_sub(self.base)))
    }
}

/// Reads at most so much of a file, wherever it lies. All that is read is kept, so it is bounded as a whole: a file may have
/// any number of sections that are large.
#[derive(Clone, Copy)]
pub(super) struct Bounded<'a> {
    cache: &'a object::ReadCache<Positioned<'a>>,
    left: &'a Cell<u64>,
}

impl Bounded<'_> {
    fn take(self, bytes: u64) -> Result<(), ()> {
        let left = self.left.get().checked_sub(bytes).ok_or(())?;
        self.left.set(left);
        Ok(())
    }
}

/// A file with a position of its own, so that two readers do not share one.
pub(super) struct Positioned<'a> {
    file: &'a File,
    position: u64,
}

impl std::io::Read for Positioned<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.file.read_at(buffer, self.position)?;
        self.position += n as u64;
        Ok(n)
    }
}

impl std::io::Seek for Positioned<'_> {
    fn seek(&mut self, to: std::io::SeekFrom) -> std::io::Result<u64> {
        let from = |base: u64, delta: i64| {
            base.checked_add_signed(delta)
                .ok_or_else(|| std::io::Error::from(std::io::ErrorKind::InvalidInput))
        };
        self.position = match to {
            std::io::SeekFrom::Start(n) => n,
            std::io::SeekFrom::Current(n) => from(self.position, n)?,
            std::io::SeekFrom::End(n) => from(self.file.metadata()?.len(), n)?,
        };
        Ok(self.position)
    }
}

impl<'a> ReadRef<'a> for Bounded<'a> {
    fn len(self) -> Result<u64, ()> {
        self.cache.len()
    }

    fn read_bytes_at(self, offset: u64, size: u64) -> Result<&'a [u8], ()> {
        // Headers, tables of sections and the one section that is asked for; nothing honest is larger.
        self.take(size)?;
        self.cache.read_bytes_at(offset, size)
    }

    fn read_bytes_at_until(self, range: std::ops::Range<u64>, delimiter: u8) -> Result<&'a [u8], ()> {
        let text = self.cache.read_bytes_at_until(range, delimiter)?;
        self.take(text.len() as u64 + PRICE)?;
        Ok(text)
    }
}

/// Has a look at a file, of which as little is read as can be.
pub(super) fn look<T>(
    file: &File,
    at: impl for<'a> FnOnce(&object::File<'a, Bounded<'a>>) -> T,
) -> Option<T> {
    let cache = object::ReadCache::new(Positioned { file, position: 0 });
    let left = &Cell::new(MOST);
    object::File::parse(Bounded { cache: &cache, left })
        .ok()
        .map(|elf| at(&elf))
}

/// What is executable in a file, without rows.
pub fn segments(file: &File) -> Option<Table> {
    look(file, |elf| Table {
        base: base(elf),
        segments: executable(elf),
        ..Table::default()
    })
}

fn base<'a>(elf: &object::File<'a, impl ReadRef<'a>>) -> u64 {
    elf.segments().map(|s| s.address()).min().unwrap_or(0) & !0xfff
}

/// Reads the table of a file.
pub fn read(file: &File) -> Result<Table, Fault> {
    let cache = object::ReadCache::new(Positioned { file, position: 0 });
    let left = &Cell::new(MOST);
    let malformed = |e: object::Error| Fault::Malformed(e.to_string());
    let elf = object::File::parse(Bounded { cache: &cache, left }).map_err(malformed)?;
    let build_id = elf.build_id().ok().flatten().unwrap_or_default();
    let mut table = Table {
        base: base(&elf),
        segments: executable(&elf),
        build_id: build_id.iter().take(64).map(|b| format!("{b:02x}")).collect(),
        by_frame_pointer: [".gopclntab", ".note.go.buildid"]
            .iter()
            .any(|name| elf.section_by_name(name).is_some()),
        ..Table::default()
    };
    let Some(section) = elf.section_by_name(".eh_frame") else {
        table.by_frame_pointer = true;
        return Ok(table);
    };
    if section.size() > LARGEST {
        return Err(Fault::TooLarge(".eh_frame", section.size()));
    }
    let bytes = section.data().map_err(malformed)?;
    let mut bases = BaseAddresses::default().set_eh_frame(section.address());
    for (name, set) in [
        (
            ".text",
            BaseAddresses::set_text as fn(BaseAddresses, u64) -> BaseAddresses,
        ),
        (".got", BaseAddresses::set_got),
    ] {
        if let Some(section) = elf.section_by_name(name) {
            bases = set(bases, section.address());
        }
    }
    rows(
        bytes,
        &bases,
        Rules::of(elf.architecture()),
        Vec::new(),
        &mut table,
    )?;
    Ok(table)
}

fn executable<'a>(elf: &object::File<'a, impl ReadRef<'a>>) -> Vec<Segment> {
    let is_executable =
        |flags| matches!(flags, object::SegmentFlags::Elf { p_flags } if p_flags & object::elf::PF_X != 0);
    elf.segments()
        .filter(|s| is_executable(s.flags()))
        .map(|s| Segment {
            offset: s.file_range().0,
            size: s.file_range().1,
            address: s.address(),
        })
        .collect()
}

/// Reads the table of an image that lies in memory as it does in its file: the vdso.
pub fn read_image(image: &[u8]) -> Result<Table, Fault> {
    let malformed = |e: object::Error| Fault::Malformed(e.to_string());
    let elf = object::File::parse(image).map_err(malformed)?;
    let mut table = Table {
        segments: executable(&elf),
        ..Table::default()
    };
    let by = Rules::of(elf.architecture());
    // Where a signal's handler returns to has no frame information on aarch64. A return address is looked for one byte before.
    let trampolines = by.trampolines(image).filter_map(|at| {
        let pc = u32::try_from(at).ok()?.checked_sub(4)?;
        let row = Row {
            pc,
            kind: kind::SIGNAL,
            offset: 0,
            frame_pointer: 0,
        };
        Some(Rule { row, end: pc + 12 })
    });
    let trampolines = trampolines.collect();
    if let Some(section) = elf.section_by_name(".eh_frame") {
        let bases = BaseAddresses::default().set_eh_frame(section.address());
        let bytes = section.data().map_err(malformed)?;
        rows(bytes, &bases, by, trampolines, &mut table)?;
    } else {
        table.rows = ordered(trampolines);
    }
    Ok(table)
}

/// A rule, and where it ends at the latest.
struct Rule {
    row: Row,
    end: u32,
}

fn rows(
    bytes: &[u8],
    bases: &BaseAddresses,
    by: Rules,
    mut rules: Vec<Rule>,
    table: &mut Table,
) -> Result<(), Fault> {
    let malformed = |e: gimli::Error| Fault::Malformed(e.to_string());
    let section = by.section(bytes);
    let mut context = UnwindContext::new();
    let mut cies = HashMap::new();
    let mut work: usize = 0;
    let mut entries = section.entries(bases);
    while let Some(entry) = entries.next().map_err(malformed)? {
        let CieOrFde::Fde(partial) = entry else { continue };
        let parsed = partial.parse(|section, bases, offset| {
            if let Some(cie) = cies.get(&offset.0) {
                return Ok(Clone::clone(cie));
            }
            let cie = section.cie_from_offset(bases, offset)?;
            cies.insert(offset.0, cie.clone());
            Ok(cie)
        });
        // One bad entry does not spoil the others: its length has been read already.
        let Ok(fde) = parsed else {
            table.unsupported += 1;
            continue;
        };
        work = work
            .saturating_add(fde.entry_len())
            .saturating_add(fde.cie().entry_len());
        if work > MOST_WORK {
            return Err(Fault::TooLarge(".eh_frame (work)", work as u64));
        }
        let (Some(start), Some(end)) = (
            relative(fde.initial_address(), table),
            relative(fde.end_address(), table),
        ) else {
            table.unsupported += 1;
            continue;
        };
        let Ok(mut states) = fde.rows(&section, bases, &mut context) else {
            table.unsupported += 1;
            continue;
        };
        let signal = fde.is_signal_trampoline();
        loop {
            let state = match states.next_row() {
                Ok(Some(state)) => state,
                Ok(None) => break,
                Err(_) => {
                    table.unsupported += 1;
                    break;
                }
            };
            let Some(pc) = relative(state.start_address(), table) else {
                break;
            };
            let row = if signal {
                Some((kind::SIGNAL, 0, 0))
            } else {
                by.rule(state, &section)
            };
            table.unsupported += usize::from(row.is_none());
            let (kind, offset, frame_pointer) = row.unwrap_or((kind::NONE, 0, 0));
            rules.push(Rule {
                row: Row {
                    pc: pc.max(start),
                    kind,
                    offset,
                    frame_pointer,
                },
                end,
            });
            if rules.len() > MOST_ROWS {
                return Err(Fault::TooLarge(".eh_frame (rows)", bytes.len() as u64));
            }
        }
    }
    table.rows = ordered(rules);
    Ok(())
}

fn relative(address: u64, table: &Table) -> Option<u32> {
    u32::try_from(address.checked_sub(table.base)?).ok()
}

/// Rules by address, without repetitions, and with holes where no function is.
fn ordered(mut rules: Vec<Rule>) -> Vec<u64> {
    let hole = |pc| Row {
        pc,
        kind: kind::HOLE,
        offset: 0,
        frame_pointer: 0,
    };
    // Stable: of two rules for one address the later one is that of the same function's next row.
    rules.sort_by_key(|rule| rule.row.pc);
    let mut out: Vec<u64> = Vec::new();
    let mut covered = 0;
    let mut push = |row: Row| {
        let (last, row) = (out.last_mut(), row.pack());
        match last {
            Some(last) if *last as u32 == row as u32 => *last = row,
            // The same rule goes on.
            Some(last) if *last >> 32 == row >> 32 => {}
            _ => out.push(row),
        }
    };
    for rule in rules {
        if covered != 0 && rule.row.pc > covered {
            push(hole(covered));
        }
        push(rule.row);
        covered = covered.max(rule.end);
    }
    if covered != 0 {
        push(hole(covered));
    }
    out
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
