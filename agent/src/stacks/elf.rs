//! The functions of addresses in an ELF file, as the process that reads symbols finds them.

use super::debug_files::{self, Place, Sought};
use super::names::INLINED;
use super::symbolizer::{Function, cut};
use super::symtab;
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::fs::File;
use std::path::Path;

/// A reader of all that a file and its debug information say; it keeps what it has read.
pub type Dwarf = Option<(blazesym::symbolize::Symbolizer, u32)>;

/// Files after which a [`Dwarf`] begins anew, so that its memory is bounded.
const FILES: u32 = 64;

/// An ELF file that is asked for functions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Elf {
    /// Where it is opened.
    pub path: String,
    /// Where it lies, as it is called. A path need not be text, and what is said to the process is: so these are bytes.
    pub name: OsString,
    /// The root directory of a process that has it; empty = none is left.
    pub root: String,
    /// Where its debug information is, if that is known.
    pub debug: Option<Place>,
    /// A file that may have it; empty = none.
    pub fetched: String,
    /// Directories that may have it.
    pub directories: Vec<OsString>,
    /// Functions that were inlined are asked for too.
    pub inlined: bool,
    /// Without DWARF: reading it has failed.
    pub plainly: bool,
}

/// What an ELF file says.
#[derive(Debug, Default)]
pub struct Found {
    /// The function of each address, where there is one.
    pub functions: Vec<Option<Function>>,
    /// Where its debug information was found.
    pub debug: Option<Place>,
    /// It is stripped, and its debug information was not found.
    pub is_stripped: bool,
}

/// Finds the functions of addresses, wherever the file's names are.
pub fn functions(dwarf: &mut Dwarf, elf: &Elf, addresses: &[u64]) -> Found {
    let Ok(file) = File::open(&elf.path) else {
        return Found::default();
    };
    let (mut names, is_full) = in_table(&file, addresses);
    let inlined = elf.inlined && !elf.plainly;
    if is_full && !inlined {
        return Found {
            functions: names,
            ..Found::default()
        };
    }
    let said = debug_files::said(&file);
    let sought = Sought {
        file: &file,
        path: Path::new(&elf.name),
        root: &elf.root,
    };
    let wanted = !is_full || !said.has_dwarf;
    let find = || debug_files::find(sought, &said, &elf.fetched, &elf.directories);
    let known = elf
        .debug
        .clone()
        .and_then(|place| place.open(sought).map(|file| (place, file)));
    let debug = known.or_else(|| wanted.then(find).flatten());
    if let (false, Some((_, file))) = (is_full, &debug) {
        let (better, _) = in_table(file, addresses);
        for (name, better) in names.iter_mut().zip(better) {
            *name = better.or(name.take());
        }
    }
    // It is read by this path: its own may be one of another root.
    let opened = debug
        .as_ref()
        .filter(|(place, file)| place.is_ours(&elf.fetched) || debug_files::said(file).is_alone)
        .map(|(_, file)| debug_files::descriptor(file));
    let dwarf_is_in = match &opened {
        _ if elf.plainly => None,
        // A file may have debug information and no table of its functions.
        _ if said.has_dwarf => Some(Path::new(&elf.path)).filter(|_| said.is_alone),
        opened => opened.as_deref().filter(|_| inlined),
    };
    if let Some(path) = dwarf_is_in {
        let asked = |i: &usize| inlined || matches!(names.get(*i), Some(None));
        let at: Vec<usize> = (0..names.len()).filter(asked).collect();
        let missing: Vec<u64> = at.iter().filter_map(|i| addresses.get(*i).copied()).collect();
        let found = by_dwarf(dwarf, path, inlined, &missing);
        for ((i, address), found) in at.into_iter().zip(&missing).zip(found) {
            let Some(name) = names.get_mut(i) else { continue };
            if name.is_none() || found.as_ref().is_some_and(|(_, _, name)| name.contains(INLINED)) {
                *name = found;
            }
            if let (true, Some((start, size, _))) = (inlined, name) {
                // What is inlined here is not inlined in all of the function.
                (*start, *size) = (*address, 1);
            }
        }
    }
    Found {
        functions: names,
        is_stripped: debug.is_none() && !said.has_dwarf,
        debug: debug.map(|(place, _)| place),
    }
}

/// By the tables of symbols of a file, and whether it has one of all its functions.
fn in_table(file: &File, addresses: &[u64]) -> (Vec<Option<Function>>, bool) {
    let table = symtab::functions(file, addresses).unwrap_or_default();
    let function = |f: symtab::Function| (f.start, f.size, cut(&symtab::demangled(&f.name)));
    let mut names: Vec<Option<Function>> = table.functions.into_iter().map(|f| f.map(function)).collect();
    names.resize(addresses.len(), None);
    (names, table.is_full)
}

fn by_dwarf(dwarf: &mut Dwarf, path: &Path, inlined: bool, addresses: &[u64]) -> Vec<Option<Function>> {
    use blazesym::symbolize::{Input, Symbolized, source};
    let (symbolizer, files) = dwarf.get_or_insert_with(|| {
        let symbolizer = blazesym::symbolize::Symbolizer::builder()
            // Inlined functions come with lines only.
            .enable_code_info(inlined)
            .enable_inlined_fns(inlined)
            .enable_demangling(true)
            // It is told which file to read.
            .set_debug_dirs(Some::<[&Path; 0]>([]))
            .build();
        (symbolizer, 0)
    });
    *files += 1;
    let is_last = *files == FILES;
    let source = source::Source::Elf(source::Elf::new(path));
    let found = symbolizer.symbolize(&source, Input::VirtOffset(addresses));
    let function = |symbol: Symbolized<'_>| match symbol {
        Symbolized::Sym(symbol) if symbol.inlined.is_empty() => {
            Some((symbol.addr, symbol.size.unwrap_or(0) as u64, cut(&symbol.name)))
        }
        // Told from the outermost inwards.
        Symbolized::Sym(symbol) => {
            let inner = symbol.inlined.iter().rev().map(|f| cut(&f.name));
            let names: Vec<String> = inner.chain([cut(&symbol.name)]).collect();
            Some((symbol.addr, 1, names.join(&INLINED.to_string())))
        }
        Symbolized::Unknown(_) => None,
    };
    let names = found.map_or_else(|_| Vec::new(), |found| found.into_iter().map(function).collect());
    if is_last {
        *dwarf = None;
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_of_this_program_has_its_name() {
        let maps = crate::stacks::maps::parse(&std::fs::read("/proc/self/maps").unwrap());
        let here = a_function_of_this_program_has_its_name as *const () as u64;
        let mapping = maps.iter().find(|m| m.start <= here && here < m.end).unwrap();
        let table = crate::stacks::table::read(&File::open("/proc/self/exe").unwrap()).unwrap();
        let address = here - table.bias(mapping.start, mapping.offset).unwrap() + table.base;
        // The second lies behind all code. DWARF has functions at 0 that the linker has left out.
        let own = Elf {
            path: "/proc/self/exe".into(),
            ..Elf::default()
        };
        let found = functions(&mut None, &own, &[address, 1 << 40]);
        let [Some((start, size, name)), None] = &found.functions[..] else {
            panic!("{found:?}")
        };
        assert!((*start..start + size).contains(&address));
        assert!(name.contains("a_function_of_this_program_has_its_name"), "{name}");
    }
}
