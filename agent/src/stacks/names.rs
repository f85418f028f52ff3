//! What addresses are called.
//!
//! The kernel's names are its own. Those of files come from the process that reads symbols (symbolizer.rs), a file at a
//! time, and functions are remembered: most new addresses lie in one of them. Code that was made at run time moves, and
//! its maker goes on writing names; so what has none yet is asked for again, ever more rarely.

use super::debug_files;
use super::debuginfod::{Debuginfod, State};
use super::elf::Elf;
use super::image::Binary;
use super::known::Known;
use super::perf_map::PerfMap;
use super::store::Place;
use super::symbolizer::{Answer, Question, Source, Symbolizer, cut};
use crate::identity::symbols::Symbols;
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Files of which something is remembered.
const FILES: usize = 65_536;
/// The share of the cache that functions take; the rest is for debug information.
const FUNCTIONS: u64 = 16;
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
    /// Whether functions that were inlined have names too.
    pub inlined: bool,
    /// Directories with debug information.
    pub debug_dirs: Vec<PathBuf>,
    /// Servers of debug information.
    pub debuginfod: Vec<String>,
    /// Where what was found is kept; `None` = nowhere.
    pub cache_dir: Option<PathBuf>,
    /// In so many bytes.
    pub cache_size: u64,
}

/// What could not be named, and why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failures {
    /// Times that the reader of symbols died or took too long.
    pub symbolizer: u64,
    /// Perf maps that are not to be believed.
    pub perf_maps: u64,
    /// Lines of perf maps that make no sense.
    pub perf_map_lines: u64,
    /// Files whose debug information no server has, or not as it should be.
    pub debuginfod: u64,
    /// Files of the cache that were not sound.
    pub cache: u64,
}

/// Gives places their names.
pub struct Names {
    options: Options,
    kernel: Symbols,
    known: Known,
    debuginfod: Option<Debuginfod>,
    /// Perf maps by the number of their process's code.
    perf_maps: HashMap<u32, Map>,
    /// How often the reader has failed for a file.
    failed: HashMap<u32, u32>,
    /// Where the debug information of a file is.
    debug: HashMap<u32, debug_files::Place>,
    /// Those that have none here.
    stripped: HashSet<u32>,
    /// Those of them whose debug information is on its way, with the addresses that have no name without it.
    pending: HashMap<u32, HashSet<u64>>,
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
        let cache = options.cache_dir.as_deref();
        let of_functions = options.cache_size / FUNCTIONS;
        let known = Known::new(cache, of_functions, options.inlined);
        let servers = cache.filter(|_| !options.debuginfod.is_empty());
        let debuginfod = servers.and_then(|directory| {
            let most = options.cache_size - of_functions;
            let started = Debuginfod::start(options.debuginfod.clone(), directory, most);
            started.inspect_err(|e| tracing::warn!("{e}")).ok()
        });
        Self {
            options,
            kernel: Symbols::new("/proc/kallsyms", "/proc/modules"),
            known,
            debuginfod,
            perf_maps: HashMap::new(),
            failed: HashMap::new(),
            debug: HashMap::new(),
            stripped: HashSet::new(),
            pending: HashMap::new(),
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
        if self.debug.len() + self.failed.len() + self.stripped.len() > FILES {
            self.failed.clear();
            self.debug.clear();
            self.stripped.clear();
            self.pending.clear();
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
                Place::Binary(id, address) => by_binary.entry(*id).or_default().push(*address),
                Place::Anonymous(_) => out.push((*place, "[anonymous code]".into())),
                Place::Unknown(_) => out.push((*place, "[unknown]".into())),
                Place::Cut(_) | Place::Python(..) | Place::Waker(_) => {}
            }
        }
        for (id, mut addresses) in by_binary {
            let Some(binary) = binary(id) else { continue };
            if let Some(map) = &binary.perf_map {
                self.of_code(&binary, map, &addresses, &mut out);
                continue;
            }
            addresses.retain(|address| {
                let known = self.known.find(&binary, *address);
                out.extend(known.map(|name| (Place::Binary(id, *address), name.to_string())));
                known.is_none()
            });
            if !addresses.is_empty() {
                self.of_file(&binary, &addresses, &mut out);
            }
        }
        out
    }

    /// Whether names of some places are on their way.
    pub fn may_come(&self, places: &[Place]) -> bool {
        let is_pending =
            |place: &Place| matches!(place, Place::Binary(id, _) if self.pending.contains_key(id));
        places.iter().any(is_pending)
    }

    /// Debug information that was fetched; `None` = it is on its way.
    fn fetched(&mut self, binary: &Binary) -> Option<String> {
        let stripped = self.stripped.contains(&binary.id) && !binary.build_id.is_empty();
        let state = match &self.debuginfod {
            Some(servers) if stripped => servers.of(&binary.build_id),
            _ => return Some(String::new()),
        };
        if state == State::Pending {
            self.pending.entry(binary.id).or_default();
            return None;
        }
        self.pending.remove(&binary.id);
        Some(match state {
            State::There(path) => path.to_string_lossy().into_owned(),
            _ => String::new(),
        })
    }

    fn of_file(&mut self, binary: &Binary, addresses: &[u64], out: &mut Vec<(Place, String)>) {
        let file = binary
            .path
            .file_name()
            .unwrap_or(binary.path.as_os_str())
            .to_string_lossy();
        let file = file.trim_matches(['[', ']']);
        let fetched = self.fetched(binary);
        // A server may take its time, and exported functions have their names without it. The others are not asked for again.
        let nameless = self.pending.get(&binary.id).filter(|_| fetched.is_none());
        let is_asked = |address: &&u64| !nameless.is_some_and(|nameless| nameless.contains(*address));
        let addresses: Vec<u64> = addresses.iter().filter(is_asked).copied().collect();
        if addresses.is_empty() {
            return;
        }
        let mut is_new = false;
        let names = match binary.file.get() {
            Some(file) => {
                let root = binary.file.root_of_its();
                let elf = Elf {
                    root: root.as_ref().map(descriptor).unwrap_or_default(),
                    path: descriptor(&file),
                    name: binary.path.clone().into(),
                    debug: self.debug.get(&binary.id).cloned(),
                    fetched: fetched.unwrap_or_default(),
                    directories: self.options.debug_dirs.iter().map(OsString::from).collect(),
                    inlined: self.options.inlined,
                    plainly: false,
                };
                let Some(answer) = self.ask(binary, Source::Elf(elf), &addresses) else {
                    return;
                };
                if let Some(path) = answer.debug {
                    self.debug.insert(binary.id, path);
                }
                is_new = answer.is_stripped && self.stripped.insert(binary.id);
                answer.functions
            }
            None => Vec::new(),
        };
        let is_awaited = match self.fetched(binary) {
            // It has been fetched before, for another process: the next time it is there.
            Some(path) if is_new && !path.is_empty() => {
                self.pending.insert(binary.id, HashSet::new()).is_none()
            }
            fetched => fetched.is_none(),
        };
        for (i, address) in addresses.iter().enumerate() {
            let name = match names.get(i) {
                Some(Some((start, size, name))) => {
                    // What is inlined is known later.
                    if !(is_awaited && self.options.inlined) {
                        self.known.add(binary, *start, *size, name);
                    }
                    name.clone()
                }
                _ if is_awaited => {
                    self.pending.entry(binary.id).or_default().insert(*address);
                    continue;
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
        let Some(answer) = self.ask(binary, source, addresses) else {
            return;
        };
        if self.perf_maps.len() > FILES {
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

    /// What the reader cannot bear it is asked once more, plainly, and then no more. `None` = it could not be asked: the names
    /// may come with the next slice.
    fn ask(&mut self, binary: &Binary, source: Source, addresses: &[u64]) -> Option<Answer> {
        let mut question = Question {
            source,
            addresses: addresses.to_vec(),
        };
        loop {
            let failed = self.failed.get(&binary.id).copied().unwrap_or_default();
            if failed >= CHANCES {
                return Some(Answer::default());
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
        self.known.save();
    }

    /// What could not be named.
    pub fn failures(&self) -> Failures {
        Failures {
            symbolizer: self.symbolizer.failures,
            debuginfod: self.debuginfod.as_ref().map_or(0, Debuginfod::failures),
            cache: self.known.corrupt,
            ..self.failures
        }
    }
}

/// Stands between the names of functions that were inlined into each other, innermost first. No name has it.
pub const INLINED: char = '\u{1f}';

/// Code that was made at run time and whose maker does not say what it is.
pub const ANONYMOUS: &str = "[anonymous code]";

/// The path by which another process of ours opens what is open here.
fn descriptor(file: &File) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd())
}
