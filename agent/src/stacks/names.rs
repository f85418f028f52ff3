//! What addresses are called.
//!
//! The kernel's names are its own. Those of files come from the process that reads symbols (symbolizer.rs), a file at a
//! time, and functions are remembered: most new addresses lie in one of them. Code that was made at run time moves, and
//! its maker goes on writing names; so what has none yet is asked for again, ever more rarely.

use super::elf::Elf;
use super::image::Binary;
use super::perf_map::PerfMap;
use super::store::Place;
use super::symbolizer::{Answer, Question, Source, Symbolizer, cut};
use crate::identity::symbols::Symbols;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Functions that are remembered.
const FUNCTIONS: usize = 65_536;
/// A perf map is read again after this time at the earliest …
const PAUSE: Duration = Duration::from_secs(1);
/// … and when reading it is so small a part of the time …
const SHARE: u32 = 50;
/// … and after this time at the latest.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// A file that the reader could not bear so often is not given to it again.
const CHANCES: u32 = 2;

/// Where names are looked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Whether files are asked at all.
    pub symbolize: bool,
    /// Directories with debug information.
    pub debug_dirs: Vec<PathBuf>,
}

/// What could not be named, and why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Failures {
    /// Times that the reader of symbols died or took too long.
    pub symbolizer: u64,
    /// Perf maps that are not to be believed.
    pub perf_maps: u64,
    /// Lines of perf maps that make no sense.
    pub perf_map_lines: u64,
}

/// Gives places their names.
pub struct Names {
    options: Options,
    kernel: Symbols,
    /// Functions that are known, by file and first address.
    functions: BTreeMap<(u32, u64), (u64, Arc<str>)>,
    /// Perf maps by the number of their process's code.
    perf_maps: HashMap<u32, Map>,
    /// How often the reader has failed for a file.
    failed: HashMap<u32, u32>,
    /// Where the debug information of a file is.
    debug: HashMap<u32, PathBuf>,
    symbolizer: Symbolizer,
    failures: Failures,
}

/// What is known of a perf map.
struct Map {
    next: Instant,
    pause: Duration,
    skipped: u64,
    refused: bool,
}

impl Names {
    /// Nothing is started yet.
    pub fn new(options: Options) -> Self {
        Self {
            options,
            kernel: Symbols::new("/proc/kallsyms", "/proc/modules"),
            functions: BTreeMap::new(),
            perf_maps: HashMap::new(),
            failed: HashMap::new(),
            debug: HashMap::new(),
            symbolizer: Symbolizer::new(),
            failures: Failures::default(),
        }
    }

    /// Names of places. One that has none yet and may get one later is left out; all others get one, if only their address.
    pub fn of(
        &mut self,
        places: &[Place],
        binary: impl Fn(u32) -> Option<Arc<Binary>>,
    ) -> Vec<(Place, String)> {
        let mut out = Vec::with_capacity(places.len());
        let mut by_binary: HashMap<u32, Vec<u64>> = HashMap::new();
        if self.functions.len() > FUNCTIONS {
            self.functions.clear();
            self.failed.clear();
            self.debug.clear();
        }
        let kernel: Vec<u64> = places
            .iter()
            .filter_map(|place| {
                if let Place::Kernel(address) = place {
                    Some(*address)
                } else {
                    None
                }
            })
            .collect();
        for (address, name) in kernel.iter().zip(self.kernel.functions(&kernel)) {
            out.push((Place::Kernel(*address), name));
        }
        for place in places {
            match place {
                Place::Kernel(_) => {}
                Place::Binary(id, address) => match self.known(*id, *address) {
                    Some(name) => out.push((*place, name.to_string())),
                    None => by_binary.entry(*id).or_default().push(*address),
                },
                Place::Anonymous(_) => out.push((*place, "[anonymous code]".into())),
                Place::Unknown(_) => out.push((*place, "[unknown]".into())),
                Place::Cut(_) | Place::Waker(_) => {}
            }
        }
        for (id, addresses) in by_binary {
            let Some(binary) = binary(id) else { continue };
            match &binary.perf_map {
                Some(map) => self.of_code(&binary, map, &addresses, &mut out),
                None => self.of_file(&binary, &addresses, &mut out),
            }
        }
        out
    }

    fn known(&self, id: u32, address: u64) -> Option<&Arc<str>> {
        let (&(file, start), (size, name)) = self.functions.range(..=(id, address)).next_back()?;
        (file == id && address - start < *size).then_some(name)
    }

    fn of_file(&mut self, binary: &Binary, addresses: &[u64], out: &mut Vec<(Place, String)>) {
        let file = binary
            .path
            .file_name()
            .unwrap_or(binary.path.as_os_str())
            .to_string_lossy();
        let file = file.trim_matches(['[', ']']);
        let names = match binary.file.get() {
            Some(file) => {
                let elf = Elf {
                    path: descriptor(&file),
                    name: binary.path.clone(),
                    debug: self.debug.get(&binary.id).cloned(),
                    fetched: String::new(),
                    directories: self.options.debug_dirs.clone(),
                    plainly: false,
                };
                let answer = self.ask(binary, Source::Elf(elf), addresses);
                if let Some(path) = answer.debug {
                    self.debug.insert(binary.id, path);
                }
                answer.functions
            }
            None => Vec::new(),
        };
        for (i, address) in addresses.iter().enumerate() {
            let name = match names.get(i) {
                Some(Some((start, size, name))) => {
                    self.functions
                        .insert((binary.id, *start), (*size, name.as_str().into()));
                    name.clone()
                }
                _ => cut(&format!("[{file}+{address:#x}]")),
            };
            out.push((Place::Binary(binary.id, *address), name));
        }
    }

    /// Names of code that was made at run time; what is not there yet may come.
    fn of_code(&mut self, binary: &Binary, map: &PerfMap, addresses: &[u64], out: &mut Vec<(Place, String)>) {
        let now = Instant::now();
        let place = |address: u64| Place::Binary(binary.id, address);
        let Some(root) = binary.file.get() else {
            // The process is gone.
            self.perf_maps.remove(&binary.id);
            out.extend(addresses.iter().map(|a| (place(*a), ANONYMOUS.to_owned())));
            return;
        };
        if self
            .perf_maps
            .get(&binary.id)
            .is_some_and(|known| now < known.next)
        {
            return;
        }
        let source = Source::PerfMap {
            root: descriptor(&root),
            map: map.clone(),
        };
        let answer = self.ask(binary, source, addresses);
        if self.perf_maps.len() > FUNCTIONS {
            self.perf_maps.clear();
        }
        let known = self.perf_maps.entry(binary.id).or_insert(Map {
            next: now,
            pause: PAUSE,
            skipped: 0,
            refused: false,
        });
        if !answer.refused.is_empty() && !known.refused {
            known.refused = true;
            self.failures.perf_maps += 1;
            tracing::warn!(
                "names of code made at run time: {}; it stays without names",
                answer.refused
            );
        }
        self.failures.perf_map_lines += answer.skipped.saturating_sub(known.skipped);
        known.skipped = known.skipped.max(answer.skipped);
        let named = answer.functions.iter().flatten().count();
        let shortest = (now.elapsed() * SHARE).max(PAUSE);
        known.pause = match named {
            0 => (known.pause * 2).clamp(shortest, LONGEST_PAUSE.max(shortest)),
            _ => shortest,
        };
        known.next = Instant::now() + known.pause;
        for (address, function) in addresses.iter().zip(answer.functions) {
            if let Some((_, _, name)) = function {
                out.push((place(*address), name));
            }
        }
    }

    /// What the reader cannot bear it is asked once more, plainly, and then no more.
    fn ask(&mut self, binary: &Binary, source: Source, addresses: &[u64]) -> Answer {
        let mut question = Question {
            source,
            addresses: addresses.to_vec(),
        };
        loop {
            let failed = self.failed.get(&binary.id).copied().unwrap_or_default();
            if failed >= CHANCES {
                return Answer::default();
            }
            if let Source::Elf(elf) = &mut question.source {
                elf.plainly = failed > 0;
            }
            match self.symbolizer.ask(&question) {
                Ok(answer) => return answer,
                Err(e) if failed + 1 == CHANCES => tracing::warn!(
                    "names of {}: {e}; its frames have addresses only",
                    binary.path.display()
                ),
                Err(e) => tracing::debug!("names of {}: {e}; without DWARF", binary.path.display()),
            }
            self.failed.insert(binary.id, failed + 1);
        }
    }

    /// To be called now and then: ends what nobody needs.
    pub fn rest(&mut self) {
        self.symbolizer.rest();
    }

    /// What could not be named.
    pub fn failures(&self) -> Failures {
        Failures {
            symbolizer: self.symbolizer.failures,
            ..self.failures
        }
    }
}

/// Code that was made at run time and whose maker does not say what it is.
pub const ANONYMOUS: &str = "[anonymous code]";

/// The path by which another process of ours opens what is open here.
fn descriptor(file: &File) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd())
}
