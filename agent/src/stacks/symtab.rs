//! Names from the symbol tables of an ELF file: one pass over them, and nothing is kept but what was asked for.
//!
//! A reader that remembers a whole file is faster the second time, and has 30 to 100 MB for it. But who asks remembers
//! functions, so that second times are rare, and a pass over libLLVM's 260,000 symbols takes milliseconds. The file is
//! somebody else's: every size in it is a claim, and what is read is bounded.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt as _;

/// Sections that are looked at; a table of more is not an honest one.
const SECTIONS: u64 = 65_536;
/// Most bytes of a symbol table that are read: ten million symbols.
const TABLE: u64 = 256 << 20;
/// Symbols that are read at once.
const CHUNK: usize = 4096;
/// Longest mangled name.
const NAME: usize = 64 << 10;

const HEADER_BYTES: usize = 64;
const SECTION_BYTES: usize = 64;
const SYMBOL_BYTES: usize = 24;
const SHT_SYMTAB: u32 = 2;
const SHT_DYNSYM: u32 = 11;
const SHF_EXECINSTR: u64 = 4;
const STT_NOTYPE: u8 = 0;
const STT_FUNC: u8 = 2;
const STT_GNU_IFUNC: u8 = 10;
const STB_LOCAL: u8 = 0;
/// Place of `e_machine` in the header, and its value of aarch64.
const E_MACHINE: u64 = 18;
const EM_AARCH64: [u8; 2] = [183, 0];
const STB_GLOBAL: u8 = 1;
const STB_WEAK: u8 = 2;

/// A function: its first address, its bytes, its name as the linker knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// First address, before relocation.
    pub start: u64,
    /// Its bytes.
    pub size: u64,
    /// Mangled name.
    pub name: String,
}

/// What was found, address by address.
#[derive(Debug, Default)]
pub struct Found {
    /// The function of each address, where there is one.
    pub functions: Vec<Option<Function>>,
    /// The file has a table of all its symbols, not only of those that it exports: what is not in it has no name anywhere.
    pub is_full: bool,
}

#[derive(Clone, Copy)]
struct Section {
    kind: u32,
    flags: u64,
    address: u64,
    offset: u64,
    size: u64,
    link: u32,
}

/// A symbol that may be the function of an address.
#[derive(Clone, Copy, Debug)]
struct Symbol {
    start: u64,
    size: u64,
    /// Where its name lies in the file.
    name: u64,
    binding: u8,
    section: u16,
}

/// Integers of a record.
struct Record<'a>(&'a [u8]);

impl Record<'_> {
    fn number<const N: usize>(&self, at: usize) -> [u8; N] {
        let bytes = self.0.get(at..at + N).and_then(|b| b.try_into().ok());
        bytes.unwrap_or([0; N])
    }
    fn u8(&self, at: usize) -> u8 {
        self.number::<1>(at)[0]
    }
    fn u16(&self, at: usize) -> u16 {
        u16::from_le_bytes(self.number(at))
    }
    fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.number(at))
    }
    fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.number(at))
    }
}

/// Finds the functions of some addresses in a 64-bit little-endian ELF file.
pub fn functions(file: &File, addresses: &[u64]) -> std::io::Result<Found> {
    let sections = sections(file)?;
    let mut order: Vec<usize> = (0..addresses.len()).collect();
    order.sort_by_key(|i| addresses.get(*i));
    let sorted: Vec<u64> = order.iter().filter_map(|i| addresses.get(*i).copied()).collect();
    let mut search = Search::new(&sorted);
    let mut is_full = false;
    for table in sections
        .iter()
        .filter(|s| matches!(s.kind, SHT_SYMTAB | SHT_DYNSYM))
    {
        let Some(names) = sections.get(table.link as usize) else {
            continue;
        };
        is_full |= table.kind == SHT_SYMTAB;
        symbols(file, table, names, &sections, |symbol| search.see(file, symbol));
    }
    let mut functions = vec![None; addresses.len()];
    for (at, symbol) in search.finish(&sections).into_iter().enumerate() {
        let place = order.get(at).and_then(|i| functions.get_mut(*i));
        if let (Some(place), Some(symbol)) = (place, symbol) {
            *place = name(file, symbol.name).map(|name| Function {
                start: symbol.start,
                size: symbol.size,
                name,
            });
        }
    }
    Ok(Found { functions, is_full })
}

fn sections(file: &File) -> std::io::Result<Vec<Section>> {
    let malformed = || std::io::Error::from(std::io::ErrorKind::InvalidData);
    let mut bytes = [0; HEADER_BYTES];
    file.read_exact_at(&mut bytes, 0)?;
    // 64 bits, little-endian.
    if !bytes.starts_with(b"\x7fELF\x02\x01") {
        return Err(malformed());
    }
    let header = Record(&bytes);
    let (offset, count) = (header.u64(0x28), u64::from(header.u16(0x3c)));
    if offset == 0 || usize::from(header.u16(0x3a)) != SECTION_BYTES {
        return Ok(Vec::new());
    }
    let read = |count: u64| -> std::io::Result<Vec<Section>> {
        let mut bytes = vec![0; count.min(SECTIONS) as usize * SECTION_BYTES];
        file.read_exact_at(&mut bytes, offset)?;
        let section = |bytes| {
            let section = Record(bytes);
            Section {
                kind: section.u32(4),
                flags: section.u64(8),
                address: section.u64(16),
                offset: section.u64(24),
                size: section.u64(32),
                link: section.u32(40),
            }
        };
        Ok(bytes.chunks_exact(SECTION_BYTES).map(section).collect())
    };
    if count != 0 {
        return read(count);
    }
    // More than fit the header: the first section says how many.
    read(read(1)?.first().map_or(0, |first| first.size))
}

/// Hands on each symbol that is code.
fn symbols(file: &File, table: &Section, names: &Section, sections: &[Section], mut see: impl FnMut(Symbol)) {
    let mut machine = [0; 2];
    let is_aarch64 = file.read_at(&mut machine, E_MACHINE).is_ok_and(|n| n == 2) && machine == EM_AARCH64;
    // On aarch64 `$x` says that code begins there, and `$d` that it ends. Linkers write most names once, so these are asked for once.
    let mut marks: HashMap<u64, bool> = HashMap::new();
    let mut is_mark = |at: u64| {
        let mut begins = [0];
        is_aarch64
            && *marks.entry(at).or_insert_with(|| {
                file.read_at(&mut begins, at)
                    .is_ok_and(|n| n == 1 && begins == *b"$")
            })
    };
    let mut bytes = vec![0; CHUNK * SYMBOL_BYTES];
    let mut rest = table.size.min(TABLE);
    let mut offset = table.offset;
    while rest >= SYMBOL_BYTES as u64 {
        let wanted = rest.min(bytes.len() as u64) as usize;
        let read = bytes
            .get_mut(..wanted)
            .and_then(|part| file.read_at(part, offset).ok());
        // A table that is cut off has the symbols that are there.
        let len = read.unwrap_or(0) / SYMBOL_BYTES * SYMBOL_BYTES;
        let Some(part) = bytes.get(..len).filter(|part| !part.is_empty()) else {
            return;
        };
        for symbol in part.chunks_exact(SYMBOL_BYTES).map(Record) {
            let (kind, section) = (symbol.u8(4) & 15, symbol.u16(6));
            let is_code = || {
                let section = sections.get(usize::from(section));
                section.is_some_and(|s| s.flags & SHF_EXECINSTR != 0)
            };
            let name = u64::from(symbol.u32(0));
            let binding = symbol.u8(4) >> 4;
            if section == 0 || name == 0 || name >= names.size {
                continue;
            }
            let at = names.offset.wrapping_add(name);
            let mut is_label = || kind == STT_NOTYPE && is_code() && (binding != STB_LOCAL || !is_mark(at));
            let is_function = matches!(kind, STT_FUNC | STT_GNU_IFUNC) || is_label();
            if is_function {
                see(Symbol {
                    start: symbol.u64(8),
                    size: symbol.u64(16),
                    name: at,
                    binding,
                    section,
                });
            }
        }
        (rest, offset) = (rest - len as u64, offset + len as u64);
    }
}

/// A name at a place in the file.
fn name(file: &File, at: u64) -> Option<String> {
    let mut bytes = vec![0; 256];
    loop {
        let n = file.read_at(&mut bytes, at).ok()?;
        let read = bytes.get(..n)?;
        if let Some(end) = read.iter().position(|b| *b == 0) {
            return (end != 0).then(|| String::from_utf8_lossy(&read[..end]).into_owned());
        }
        if n < bytes.len() || n >= NAME {
            return None;
        }
        bytes.resize(n * 4, 0);
    }
}

/// What the symbols so far say of addresses that are sorted.
struct Search<'a> {
    addresses: &'a [u64],
    /// The innermost symbol around each.
    around: Vec<Option<Symbol>>,
    /// Between each address and the one before it: the first symbol, and the last one. Assembly has symbols without a size;
    /// they reach to the next one.
    between: Vec<Option<(u64, Symbol)>>,
}

impl<'a> Search<'a> {
    fn new(addresses: &'a [u64]) -> Self {
        Self {
            addresses,
            around: vec![None; addresses.len()],
            between: vec![None; addresses.len() + 1],
        }
    }

    fn see(&mut self, file: &File, symbol: Symbol) {
        // The first address that is not before it.
        let at = self.addresses.partition_point(|a| *a < symbol.start);
        if let Some(between) = self.between.get_mut(at) {
            *between = Some(match between.take() {
                None => (symbol.start, symbol),
                Some((first, last)) => (
                    first.min(symbol.start),
                    if better(file, &symbol, &last) {
                        symbol
                    } else {
                        last
                    },
                ),
            });
        }
        let inside = self.addresses.get(at..).unwrap_or_default();
        let end = symbol.start.saturating_add(symbol.size);
        let inside = inside.partition_point(|a| *a < end);
        for place in self.around.iter_mut().skip(at).take(inside) {
            if place.as_ref().is_none_or(|known| better(file, &symbol, known)) {
                *place = Some(symbol);
            }
        }
    }

    fn finish(self, sections: &[Section]) -> Vec<Option<Symbol>> {
        let mut below: Option<Symbol> = None;
        let mut found = self.around;
        for (at, place) in found.iter_mut().enumerate() {
            if let Some((_, last)) = self.between.get(at).copied().flatten() {
                below = Some(last);
            }
            let Some(below) = below.filter(|b| place.is_none() && b.size == 0) else {
                continue;
            };
            let next = self
                .between
                .iter()
                .skip(at + 1)
                .find_map(|b| b.map(|(first, _)| first));
            let section = sections.get(usize::from(below.section));
            let end = section.map_or(0, |s| s.address.saturating_add(s.size));
            let end = next.unwrap_or(end).min(end);
            if self.addresses.get(at).is_some_and(|a| *a < end) {
                *place = Some(Symbol {
                    size: end - below.start,
                    ..below
                });
            }
        }
        found
    }
}

/// Whether `a` is rather the function of an address than `b`: the innermost, and of several names the one that perf takes.
fn better(file: &File, a: &Symbol, b: &Symbol) -> bool {
    let rank = |s: &Symbol| {
        (
            s.start,
            s.size != 0,
            s.binding != STB_WEAK,
            s.binding == STB_GLOBAL,
        )
    };
    match rank(a).cmp(&rank(b)) {
        std::cmp::Ordering::Greater => true,
        std::cmp::Ordering::Less => false,
        std::cmp::Ordering::Equal => {
            let rank = |s: &Symbol| {
                let name = name(file, s.name).unwrap_or_default();
                let underscores = name.bytes().take_while(|b| *b == b'_').count();
                (std::cmp::Reverse(underscores), name.len())
            };
            rank(a) > rank(b)
        }
    }
}

/// A name as its programmer wrote it: that of Rust or C++, else as it is.
pub fn demangled(name: &str) -> String {
    if let Ok(rust) = rustc_demangle::try_demangle(name) {
        return format!("{rust:#}");
    }
    if !name.starts_with("_Z") {
        return name.to_owned();
    }
    let cpp = cpp_demangle::Symbol::new(name).ok();
    cpp.and_then(|symbol| symbol.demangle().ok())
        .unwrap_or_else(|| name.to_owned())
}

#[cfg(test)]
#[path = "symtab_tests.rs"]
mod tests;
