//! What addresses are called.
//!
//! ELF and DWARF of whatever runs on the machine are not to be trusted, and a file may be truncated while it is mapped. So
//! they are read by a process of their own (`geophone symbolize`, this program again), of low priority and with bounded
//! memory. When it dies or takes too long, its addresses stay without names, and the next ones get a new one. It ends when
//! nothing was asked for a while, and with it goes the memory that symbols take.

use super::image::Binary;
use super::store::Place;
use super::symtab;
use crate::error::{Context as _, Error, Result};
use crate::identity::symbols::Symbols;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead as _, Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The worker has so long for the addresses of one file; DWARF of a large one takes a second or two.
const PATIENCE: Duration = Duration::from_secs(20);
/// Without a question for this time the worker ends.
const IDLE: Duration = Duration::from_secs(60);
/// Bytes that the worker may allocate.
const MEMORY: u64 = 1 << 30;
/// Longest answer, bytes.
const LONGEST: usize = 16 << 20;
/// Functions that are remembered.
const FUNCTIONS: usize = 65_536;
/// Longest name, bytes; C++ makes some of 10 KB.
const NAME: usize = 512;

/// A question to the worker, one line of JSON.
#[derive(Debug, Serialize, Deserialize)]
struct Question {
    /// Path of an ELF file.
    path: String,
    /// Addresses before relocation.
    addresses: Vec<u64>,
}

/// A function: its first address, its bytes, its name.
type Function = (u64, u64, String);

/// Its answer: the function of each, where there is one.
type Answer = Vec<Option<Function>>;

/// Gives places their names.
pub struct Names {
    kernel: Symbols,
    /// Functions that are known, by file and first address: most new addresses lie in one of them.
    functions: BTreeMap<(u32, u64), (u64, Arc<str>)>,
    worker: Option<Worker>,
    asked: Instant,
    /// Times that a worker had to be given up.
    pub failures: u64,
}

struct Worker {
    child: Child,
    questions: ChildStdin,
    answers: ChildStdout,
}

impl Names {
    /// Nothing is started yet.
    pub fn new() -> Self {
        Self {
            kernel: Symbols::new("/proc/kallsyms", "/proc/modules"),
            functions: BTreeMap::new(),
            worker: None,
            asked: Instant::now(),
            failures: 0,
        }
    }

    /// Names of places; each place gets one, if only its address.
    pub fn of(
        &mut self,
        places: &[Place],
        binary: impl Fn(u32) -> Option<Arc<Binary>>,
    ) -> Vec<(Place, String)> {
        let mut out = Vec::with_capacity(places.len());
        let mut by_binary: HashMap<u32, Vec<u64>> = HashMap::new();
        if self.functions.len() > FUNCTIONS {
            self.functions.clear();
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
                Place::Cut(_) => {}
            }
        }
        for (id, addresses) in by_binary {
            let Some(binary) = binary(id) else { continue };
            let names = self.ask(&binary, &addresses);
            let file = binary
                .path
                .file_name()
                .unwrap_or(binary.path.as_os_str())
                .to_string_lossy();
            let file = file.trim_matches(['[', ']']);
            for (i, address) in addresses.into_iter().enumerate() {
                let name = match names.get(i) {
                    Some(Some((start, size, name))) => {
                        let name = clean(name);
                        self.functions.insert((id, *start), (*size, name.as_str().into()));
                        name
                    }
                    _ => clean(&format!("[{file}+{address:#x}]")),
                };
                out.push((Place::Binary(id, address), name));
            }
        }
        out
    }

    fn known(&self, id: u32, address: u64) -> Option<&Arc<str>> {
        let (&(file, start), (size, name)) = self.functions.range(..=(id, address)).next_back()?;
        (file == id && address - start < *size).then_some(name)
    }

    fn ask(&mut self, binary: &Binary, addresses: &[u64]) -> Answer {
        let Some(file) = binary.file.get() else {
            return Vec::new();
        };
        self.asked = Instant::now();
        let question = Question {
            path: format!("/proc/{}/fd/{}", std::process::id(), file.as_fd().as_raw_fd()),
            addresses: addresses.to_vec(),
        };
        let worker = match self.worker.take() {
            Some(worker) => Ok(worker),
            None => Worker::start(),
        };
        match worker.and_then(|mut worker| worker.ask(&question).map(|answer| (worker, answer))) {
            Ok((worker, answer)) => {
                self.worker = Some(worker);
                answer
            }
            Err(e) => {
                self.failures += 1;
                tracing::warn!(
                    "names of {}: {e}; its frames have addresses only",
                    binary.path.display()
                );
                Vec::new()
            }
        }
    }

    /// To be called now and then: ends what nobody needs.
    pub fn rest(&mut self) {
        if self.asked.elapsed() > IDLE {
            self.worker = None;
        }
    }
}

impl Default for Names {
    fn default() -> Self {
        Self::new()
    }
}

impl Worker {
    fn start() -> Result<Self> {
        let mut child = Command::new("/proc/self/exe")
            .arg("symbolize")
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("starting a process that reads symbols")?;
        let questions = child.stdin.take().context("its input")?;
        let answers = child.stdout.take().context("its output")?;
        Ok(Self {
            child,
            questions,
            answers,
        })
    }

    fn ask(&mut self, question: &Question) -> Result<Answer> {
        let mut line = serde_json::to_vec(question).context("JSON")?;
        line.push(b'\n');
        self.questions
            .write_all(&line)
            .context("the process that reads symbols has ended")?;
        let mut answer = Vec::new();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
            let mut fds = [PollFd::new(self.answers.as_fd(), PollFlags::POLLIN)];
            if poll(&mut fds, timeout).unwrap_or(0) == 0 {
                return Err(Error::new(format_args!(
                    "no answer after {} s",
                    PATIENCE.as_secs()
                )));
            }
            let mut part = [0; 65_536];
            let n = self.answers.read(&mut part).context("its output")?;
            answer.extend_from_slice(part.get(..n).unwrap_or_default());
            if n == 0 || answer.len() > LONGEST {
                return Err(Error::new("the process that reads symbols has ended"));
            }
            if answer.last() == Some(&b'\n') {
                return serde_json::from_slice(&answer).context("its answer");
            }
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One line of bounded length, without what separates frames in folded stacks.
fn clean(name: &str) -> String {
    let mut out: String = name
        .chars()
        .map(|c| if c.is_control() || c == ';' { ' ' } else { c })
        .take(NAME)
        .collect();
    if name.chars().nth(NAME).is_some() {
        out.push('…');
    }
    out
}

/// `geophone symbolize`: answers questions on standard input until there are none.
pub fn serve() -> Result<()> {
    use nix::sys::resource::{Resource, setrlimit};
    crate::bpf::host::low_priority(10);
    let _ = setrlimit(Resource::RLIMIT_DATA, MEMORY, MEMORY);
    let _ = setrlimit(Resource::RLIMIT_CORE, 0, 0);
    let mut dwarf = None;
    for line in std::io::stdin().lock().lines() {
        let question: Question =
            serde_json::from_str(&line.context("standard input")?).context("a question")?;
        let mut answer = serde_json::to_vec(&answer(&mut dwarf, &question)).context("JSON")?;
        answer.push(b'\n');
        let mut out = std::io::stdout().lock();
        out.write_all(&answer)
            .and_then(|()| out.flush())
            .context("standard output")?;
    }
    Ok(())
}

/// A reader of all that a file and its debug information say; it keeps what it has read.
type Dwarf = Option<(blazesym::symbolize::Symbolizer, u32)>;

/// Files after which a [`Dwarf`] begins anew, so that its memory is bounded.
const FILES: u32 = 64;

fn answer(dwarf: &mut Dwarf, question: &Question) -> Answer {
    let table = std::fs::File::open(&question.path)
        .and_then(|file| symtab::functions(&file, &question.addresses))
        .unwrap_or_default();
    let function = |f: symtab::Function| (f.start, f.size, symtab::demangled(&f.name));
    let mut names: Answer = table.functions.into_iter().map(|f| f.map(function)).collect();
    names.resize(question.addresses.len(), None);
    if table.is_full {
        return names;
    }
    // A file without a table of its own functions may have debug information elsewhere.
    let at: Vec<usize> = (0..names.len())
        .filter(|i| matches!(names.get(*i), Some(None)))
        .collect();
    let addresses: Vec<u64> = at
        .iter()
        .filter_map(|i| question.addresses.get(*i).copied())
        .collect();
    if !addresses.is_empty() {
        for (i, found) in at.into_iter().zip(by_dwarf(dwarf, &question.path, &addresses)) {
            if let Some(name) = names.get_mut(i) {
                *name = found;
            }
        }
    }
    names
}

fn by_dwarf(dwarf: &mut Dwarf, path: &str, addresses: &[u64]) -> Answer {
    use blazesym::symbolize::{Input, Symbolized, source};
    let (symbolizer, files) = dwarf.get_or_insert_with(|| {
        let symbolizer = blazesym::symbolize::Symbolizer::builder()
            .enable_code_info(false)
            .enable_inlined_fns(false)
            .enable_demangling(true)
            .build();
        (symbolizer, 0)
    });
    *files += 1;
    let is_last = *files == FILES;
    let source = source::Source::Elf(source::Elf::new(path));
    let found = symbolizer.symbolize(&source, Input::VirtOffset(addresses));
    let function = |symbol: Symbolized<'_>| match symbol {
        Symbolized::Sym(symbol) => Some((
            symbol.addr,
            symbol.size.unwrap_or(0) as u64,
            symbol.name.into_owned(),
        )),
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
    fn names_are_one_frame_each() {
        assert_eq!(clean("a;b\nc"), "a b c");
        assert_eq!(clean(&"ö".repeat(600)).chars().count(), NAME + 1);
    }

    #[test]
    fn a_function_of_this_program_has_its_name() {
        let maps = crate::stacks::maps::parse(&std::fs::read("/proc/self/maps").unwrap());
        let here = a_function_of_this_program_has_its_name as *const () as u64;
        let mapping = maps.iter().find(|m| m.start <= here && here < m.end).unwrap();
        let table = crate::stacks::table::read(&std::fs::File::open("/proc/self/exe").unwrap()).unwrap();
        let address = here - table.bias(mapping.start, mapping.offset).unwrap() + table.base;
        let names = answer(
            &mut None,
            &Question {
                path: "/proc/self/exe".into(),
                // The second lies behind all code. DWARF has functions at 0 that the linker has left out.
                addresses: vec![address, 1 << 40],
            },
        );
        let [Some((start, size, name)), None] = &names[..] else {
            panic!("{names:?}")
        };
        assert!((*start..start + size).contains(&address));
        assert!(name.contains("a_function_of_this_program_has_its_name"), "{name}");
    }
}
