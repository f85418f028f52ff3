//! Names of kernel addresses, a few at a time.
//!
//! The kernel takes 50 ms to write /proc/kallsyms and has no other way to ask. So it is read once, when an address is not
//! known; its functions (64,000 on 6.18, 2.5 MB) are kept while new addresses come, and given back after minutes without: stacks
//! have new ones in every slice of ten seconds, and to read it for each of them was half a percent of a core.

use crate::bpf::sys::newer_program;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Most names that are kept; kernels have a few hundred places that drop packets.
const CAPACITY: usize = 4096;
/// How long the table is kept after an address that was new.
const KEEP: Duration = Duration::from_secs(300);
/// BPF programs come without a word: where they lie, a table that is older than this is read anew, unless there is no program
/// that is newer than it.
const FRESH: Duration = Duration::from_secs(5);
/// Where nobody may ask for programs (no CAP_SYS_ADMIN) it is half a minute, or the price would be that of every slice again.
const FRESH_ENOUGH: Duration = Duration::from_secs(30);
/// Nothing is farther into its function: what is lies in something that has no name.
const FARTHEST: u64 = 1 << 20;

/// Names of kernel addresses.
pub struct Symbols {
    path: PathBuf,
    modules: PathBuf,
    names: HashMap<u64, String>,
    table: Option<Table>,
    asked: Instant,
    /// [`newer_program`].
    newer: fn(u32) -> io::Result<Option<u32>>,
}

impl Symbols {
    /// Reads names from a file of kallsyms' format; as long as `modules` (in /proc/modules' format) lists the same ones,
    /// the names hold.
    pub fn new(path: impl Into<PathBuf>, modules: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            modules: modules.into(),
            names: HashMap::new(),
            table: None,
            asked: Instant::now(),
            newer: newer_program,
        }
    }

    /// `function+0xoffset`; the address itself when symbols are hidden (kernel.kptr_restrict).
    pub fn name(&mut self, address: u64) -> String {
        if let Some(name) = self.names.get(&address) {
            return name.clone();
        }
        self.asked = Instant::now();
        let modules = loaded(&self.modules);
        let table = match self.table.take().filter(|t| t.modules == modules) {
            Some(table) => table,
            None => self.read(modules),
        };
        let name = table.name(address).unwrap_or_else(|| format!("{address:#x}"));
        self.table = Some(table);
        if self.names.len() < CAPACITY {
            self.names.insert(address, name.clone());
        }
        name
    }

    /// The functions of some addresses, without offsets, those of modules as `function [module]`, those of BPF programs as
    /// `program [bpf]`.
    pub fn functions(&mut self, addresses: &[u64]) -> Vec<String> {
        if addresses.is_empty() {
            return Vec::new();
        }
        self.asked = Instant::now();
        let modules = loaded(&self.modules);
        let holds = |t: &Table| {
            t.modules == modules
                && (t.read.elapsed() < FRESH
                    || !addresses.iter().any(|a| t.may_be_bpf(*a))
                    || match (self.newer)(t.newest) {
                        Ok(newer) => newer.is_none(),
                        Err(_) => t.read.elapsed() < FRESH_ENOUGH,
                    })
        };
        let table = match self.table.take().filter(holds) {
            Some(table) => table,
            None => self.read(modules),
        };
        let name = |address: &u64| match table.function(*address) {
            Some((_, name, module)) => shown(name, module),
            None => format!("{address:#x}"),
        };
        let names = addresses.iter().map(name).collect();
        self.table = Some(table);
        names
    }

    fn read(&self, modules: String) -> Table {
        // Asked first: what comes while the table is read may not be in it.
        let mut newest = 0;
        while let Ok(Some(newer)) = (self.newer)(newest) {
            newest = newer;
        }
        Table::read(&self.path, modules, newest)
    }

    /// Gives the table back when no new address has come for a while; to be called now and then.
    pub fn rest(&mut self) {
        if self.table.is_some() && self.asked.elapsed() > KEEP {
            self.table = None;
        }
    }
}

/// Names and addresses of the loaded modules: their functions move when a module comes or goes.
fn loaded(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let of = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        Some(format!("{} {}\n", words.next()?, words.nth(4)?))
    };
    text.lines().filter_map(of).collect()
}

/// The module in which kallsyms lists BPF programs.
const BPF: &str = "bpf";

/// A function with its module; `bpf_prog_TAG_NAME` is the program NAME.
fn shown(name: &str, module: &str) -> String {
    let program = || {
        let (tag, program) = name.strip_prefix("bpf_prog_")?.split_once('_')?;
        let is_tag = tag.len() == 16 && tag.bytes().all(|b| b.is_ascii_hexdigit());
        (is_tag && !program.is_empty()).then_some(program)
    };
    match module {
        "" => name.to_owned(),
        BPF => format!("{} [{BPF}]", program().unwrap_or(name)),
        // Trampolines of ftrace and kprobes.
        _ if module.starts_with("__builtin__") => name.to_owned(),
        _ => format!("{name} [{module}]"),
    }
}

/// All functions, sorted. The names lie one after the other, each followed by its module, if it has one, and a line feed.
struct Table {
    /// Address and position of the name.
    functions: Vec<(u64, u32)>,
    names: String,
    modules: String,
    /// The first and the last function of the kernel itself; BPF programs and modules lie behind it, on aarch64 before it as well.
    first: u64,
    last: u64,
    read: Instant,
    /// The BPF program with the highest id then; 0 = not known.
    newest: u32,
}

impl Table {
    /// What cannot be read is left out: then addresses stay addresses.
    fn read(path: &Path, modules: String, newest: u32) -> Self {
        let mut table = Self {
            functions: Vec::new(),
            names: String::new(),
            modules,
            first: u64::MAX,
            last: 0,
            read: Instant::now(),
            newest,
        };
        let Ok(file) = File::open(path) else {
            return table;
        };
        let mut reader = BufReader::with_capacity(1 << 16, file);
        let mut line = String::new();
        while reader.read_line(&mut line).is_ok_and(|read| read > 0) {
            let mut words = line.split_ascii_whitespace();
            if let (Some(at), Some("t" | "T"), Some(name)) = (words.next(), words.next(), words.next())
                // The padding before each function: nothing runs there. `$x` marks code in modules of aarch64.
                && !name.starts_with("__pfx_") && !name.starts_with('$')
                && let Ok(at) = u64::from_str_radix(at, 16)
                && at != 0
                && let Ok(position) = u32::try_from(table.names.len())
            {
                table.functions.push((at, position));
                table.names.push_str(name);
                match words.next() {
                    Some(module) => {
                        table.names.push('\t');
                        table.names.push_str(module.trim_matches(['[', ']']));
                    }
                    None => (table.first, table.last) = (table.first.min(at), table.last.max(at)),
                }
                table.names.push('\n');
            }
            line.clear();
        }
        // Stable: of several names of one address the first counts, as it is listed.
        table.functions.sort_by_key(|&(at, _)| at);
        table.functions.dedup_by_key(|&mut (at, _)| at);
        table.functions.shrink_to_fit();
        table.names.shrink_to_fit();
        table
    }

    fn name(&self, address: u64) -> Option<String> {
        let (at, name, _) = self.function(address)?;
        Some(format!("{name}+{:#x}", address - at))
    }

    /// The nearest function below: where it begins, its name and its module.
    fn function(&self, address: u64) -> Option<(u64, &str, &str)> {
        let next = self.functions.partition_point(|&(at, _)| at <= address);
        let &(at, position) = self.functions.get(next.checked_sub(1)?)?;
        let line = self.names.get(position as usize..)?.lines().next()?;
        let (name, module) = line.split_once('\t').unwrap_or((line, ""));
        (address - at < FARTHEST).then_some((at, name, module))
    }

    /// Whether a BPF program may lie there, be it one that the table does not have: they lie among the modules.
    fn may_be_bpf(&self, address: u64) -> bool {
        let module = self.function(address).map(|(_, _, module)| module);
        (address > self.last || address < self.first) && module != Some("")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_function_below_is_the_name() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(
            file.path(),
            "0000000000001000 T first\n0000000000002000 t second\n0000000000002100 d data\n0000000000002108 t $x\n\
             0000000000003000 T third\n",
        )
        .unwrap();
        let mut symbols = Symbols::new(file.path(), "/nonexistent");
        assert_eq!(symbols.name(0x2110), "second+0x110");
        assert_eq!(symbols.name(0x1000), "first+0x0");
        assert_eq!(symbols.name(0x10), "0x10");
    }

    #[test]
    fn hidden_symbols_leave_the_address() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "0000000000000000 T first\n").unwrap();
        assert_eq!(Symbols::new(file.path(), "/nonexistent").name(0xffff), "0xffff");
        assert_eq!(
            Symbols::new("/nonexistent", "/nonexistent").name(0xffff),
            "0xffff"
        );
    }

    #[test]
    fn the_table_is_read_again_only_when_modules_changed_and_given_back_when_nobody_asks() {
        let (file, modules) = (
            tempfile::NamedTempFile::new().unwrap(),
            tempfile::NamedTempFile::new().unwrap(),
        );
        let write = |symbols: &str, loaded: &str| {
            std::fs::write(file.path(), symbols).unwrap();
            std::fs::write(modules.path(), loaded).unwrap();
        };
        write("1000 T first\n1000 T alias\n", "veth 45056 0 - Live 0x5000\n");
        let mut symbols = Symbols::new(file.path(), modules.path());
        assert_eq!(symbols.name(0x1001), "first+0x1");
        write("1000 T changed\n", "veth 45056 3 - Live 0x5000\n");
        assert_eq!(symbols.name(0x1002), "first+0x2");
        write(
            "1000 T first\n6000 t module [m]\n",
            "m 1 0 - Live 0x6000\nveth 45056 3 - Live 0x5000\n",
        );
        assert_eq!(symbols.name(0x6001), "module+0x1");
        symbols.rest();
        assert!(symbols.table.is_some());
        symbols.asked = Instant::now().checked_sub(KEEP * 2).unwrap();
        symbols.rest();
        assert!(symbols.table.is_none());
        assert_eq!(symbols.name(0x6001), "module+0x1");
        assert!(symbols.table.is_none());
        symbols.asked = Instant::now().checked_sub(KEEP * 2).unwrap();
        assert_eq!(symbols.functions(&[0x6001]), ["module [m]"]);
        symbols.rest();
        assert!(symbols.table.is_some(), "somebody has just asked");
    }

    #[test]
    fn functions_have_their_module_and_bpf_programs_their_name() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let kernel = "1000 T first\n2000 T second\n5000 t nf_hook\t[nf_tables]\n6000 t trampoline\t[__builtin__ftrace]\n";
        std::fs::write(file.path(), kernel).unwrap();
        let mut symbols = Symbols::new(file.path(), "/nonexistent");
        let asked = [0x2001, 0x5001, 0x6001, 0x20_0000];
        let before = ["second", "nf_hook [nf_tables]", "trampoline", "0x200000"];
        assert_eq!(symbols.functions(&asked), before);
        let programs = "200000 t bpf_prog_6deef7357e7b4530_tcp_probe\t[bpf]\n201000 t bpf_prog_6deef7357e7b4530\t[bpf]\n\
                        202000 t bpf_trampoline_64\t[bpf]\n";
        std::fs::write(file.path(), kernel.to_owned() + programs).unwrap();
        assert_eq!(
            symbols.functions(&asked),
            before,
            "a table that was read just now"
        );
        symbols.newer = |_| Ok(None);
        let aged = |symbols: &mut Symbols| {
            let read = Instant::now().checked_sub(FRESH_ENOUGH * 2).unwrap();
            symbols.table.as_mut().unwrap().read = read;
        };
        aged(&mut symbols);
        let second = symbols.functions(&asked[..1]);
        assert_eq!(second, before[..1], "where no program can be it is old enough");
        assert!(symbols.table.as_ref().unwrap().read.elapsed() > FRESH);
        let unknown = "0x200000";
        assert_eq!(symbols.functions(&[0x20_0000]), [unknown], "no program is newer");
        symbols.newer = |_| Err(io::ErrorKind::PermissionDenied.into());
        let programs = [
            "tcp_probe [bpf]",
            "bpf_prog_6deef7357e7b4530 [bpf]",
            "bpf_trampoline_64 [bpf]",
        ];
        assert_eq!(symbols.functions(&[0x20_0010, 0x20_1010, 0x20_2010]), programs);
    }

    /// `cargo test -p agent --release --lib -- --ignored --nocapture symbols`
    #[test]
    #[ignore = "a measurement, of the machine that it runs on"]
    fn what_it_costs() {
        let mut symbols = Symbols::new("/proc/kallsyms", "/proc/modules");
        for address in [0xffff_ffff_8110_0000, 0xffff_ffff_8120_0000] {
            let start = Instant::now();
            let name = symbols.name(address);
            println!("{address:#x} {name} {:?}", start.elapsed());
        }
        let table = symbols.table.unwrap();
        let bytes = table.functions.capacity() * 16 + table.names.capacity();
        println!("{} functions, {bytes} bytes", table.functions.len());
    }
}
