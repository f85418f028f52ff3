//! The process that reads symbols, as it is asked and as it answers.
//!
//! ELF and DWARF of whatever runs on the machine are not to be trusted, and a file may be truncated while it is mapped. So
//! they are read by a process of their own (`geophone symbolize`, this program again), of low priority and with bounded
//! memory. When it dies or takes too long, its addresses stay without names, and the next ones get a new one. It ends when
//! nothing was asked for a while, and with it goes the memory that symbols take.

use super::debug_files::Place;
use super::elf::{self, Dwarf, Elf};
use super::perf_map::{self, PerfMap};
use crate::aggregate::labels::printable;
use crate::bpf::privileges;
use crate::confine;
use crate::error::{Context as _, Error, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};
use std::io::{BufRead as _, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

/// It has so long for the addresses of one file; DWARF of a large one takes a second or two.
const PATIENCE: Duration = Duration::from_secs(20);
/// Without a question for this time it ends.
const IDLE: Duration = Duration::from_secs(60);
/// Bytes that it may allocate.
const MEMORY: u64 = 1 << 30;
/// Longest answer, bytes.
const LONGEST: usize = 16 << 20;
/// Longest name, characters; C++ makes some of 10 KB.
const NAME: usize = 512;
/// Processes that were killed and have not ended: one that waits for a file system that does not answer cannot.
const LINGERING: usize = 4;

/// A question, one line of JSON.
#[derive(Debug, Serialize, Deserialize)]
pub struct Question {
    /// Where to look.
    pub source: Source,
    /// Addresses: of a file before relocation.
    pub addresses: Vec<u64>,
}

/// Where names are.
#[derive(Debug, Serialize, Deserialize)]
pub enum Source {
    /// In an ELF file.
    Elf(Elf),
    /// In what the maker of code has written.
    PerfMap {
        /// The process's root directory.
        root: String,
        /// Which.
        map: PerfMap,
    },
}

/// A function: its first address, its bytes, its name.
pub type Function = (u64, u64, String);

/// What it says.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Answer {
    /// The function of each address, where there is one.
    pub functions: Vec<Option<Function>>,
    /// Why a file was not believed; empty = it was.
    pub refused: String,
    /// Parts of it that make no sense.
    pub skipped: u64,
    /// Where the debug information of the file is.
    pub debug: Option<Place>,
    /// The file is stripped, and its debug information was not found.
    pub is_stripped: bool,
    /// System calls that the process was refused since its last answer, by number: how often.
    pub refused_calls: Vec<(i64, u64)>,
    /// Why it may do more than read; empty = it may not.
    pub unconfined: String,
}

/// The process, started when it is asked.
pub struct Symbolizer {
    worker: Option<Worker>,
    /// Killed, and not gone yet.
    lingering: Vec<Child>,
    asked: Instant,
    /// It is known that none can be had.
    is_missing: bool,
    /// It was said that it may do more than read.
    is_told: bool,
    /// Times that it had to be given up.
    pub failures: u64,
}

struct Worker {
    child: Child,
    questions: ChildStdin,
    answers: ChildStdout,
}

impl Symbolizer {
    /// Not started yet.
    pub fn new() -> Self {
        Self {
            worker: None,
            lingering: Vec::new(),
            asked: Instant::now(),
            is_missing: false,
            is_told: false,
            failures: 0,
        }
    }

    /// Asks, and waits for the answer. `None` = it could not be asked, which says nothing about what it would have read.
    pub fn ask(&mut self, question: &Question) -> Result<Option<Answer>> {
        // What cannot be said is no fault of the process, which others need.
        let mut line = serde_json::to_vec(question).context("JSON")?;
        line.push(b'\n');
        self.asked = Instant::now();
        let worker = match self.worker() {
            Ok(worker) => worker,
            Err(e) => {
                // For each file of each slice, if it lasts.
                if !std::mem::replace(&mut self.is_missing, true) {
                    tracing::warn!("functions stay without names for now: {e}");
                }
                return Ok(None);
            }
        };
        // It reads to the end of the line before it opens anything: if it is gone by then, something else has ended it.
        let is_asked = worker.questions.write_all(&line).is_ok();
        let answer = if is_asked {
            worker.answer().map(Some)
        } else {
            Ok(None)
        };
        match &answer {
            Ok(Some(answer)) => self.told(answer),
            _ => {
                self.failures += 1;
                self.end();
            }
        }
        answer
    }

    /// What an answer says of the process itself: what it was refused counts as what the agent was, which nobody else could tell.
    fn told(&mut self, answer: &Answer) {
        privileges::add_refused(&answer.refused_calls);
        if !answer.unconfined.is_empty() && !std::mem::replace(&mut self.is_told, true) {
            tracing::warn!(
                "the process that reads symbols may do more than read: {}; probes.profile.symbolize: false does without it",
                printable(&answer.unconfined)
            );
        }
    }

    /// The process, started if there is none.
    fn worker(&mut self) -> Result<&mut Worker> {
        if self.worker.is_none() {
            self.reap();
            if self.lingering.len() >= LINGERING {
                return Err(Error::new(
                    "the processes that read symbols hang in files that do not answer",
                ));
            }
        }
        match &mut self.worker {
            Some(worker) => Ok(worker),
            none => {
                let worker = none.insert(Worker::start()?);
                self.is_missing = false;
                Ok(worker)
            }
        }
    }

    /// To be called now and then: ends what nobody needs.
    pub fn rest(&mut self) {
        if self.asked.elapsed() > IDLE {
            self.end();
        }
        self.reap();
    }

    fn end(&mut self) {
        if let Some(Worker { mut child, .. }) = self.worker.take() {
            let _ = child.kill();
            self.lingering.push(child);
        }
    }

    /// Never waits for one that has not ended. One that a refused call has ended could not tell of it.
    fn reap(&mut self) {
        self.lingering.retain_mut(|child| match child.try_wait() {
            Ok(None) => true,
            Ok(Some(status)) if status.signal() == Some(Signal::SIGSYS as i32) => {
                privileges::add_refused(&[(privileges::OTHER, 1)]);
                false
            }
            _ => false,
        });
    }
}

impl Default for Symbolizer {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Symbolizer {
    fn drop(&mut self) {
        self.end();
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

    fn answer(&mut self) -> Result<Answer> {
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

/// One line of bounded length, without what separates frames in folded stacks.
pub fn cut(name: &str) -> String {
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
    let _ = setrlimit(Resource::RLIMIT_FSIZE, 0, 0);
    let unconfined = confine::reader().err().unwrap_or_default();
    let mut dwarf = None;
    for line in std::io::stdin().lock().lines() {
        let question: Question =
            serde_json::from_str(&line.context("standard input")?).context("a question")?;
        let answer = Answer {
            unconfined: unconfined.clone(),
            ..answer(&mut dwarf, &question)
        };
        // What it came to is known by now.
        let answer = Answer {
            refused_calls: privileges::take_refused(),
            ..answer
        };
        let mut answer = serde_json::to_vec(&answer).context("JSON")?;
        answer.push(b'\n');
        let mut out = std::io::stdout().lock();
        out.write_all(&answer)
            .and_then(|()| out.flush())
            .context("standard output")?;
    }
    Ok(())
}

fn answer(dwarf: &mut Dwarf, question: &Question) -> Answer {
    match &question.source {
        Source::Elf(elf) => {
            let found = elf::functions(dwarf, elf, &question.addresses);
            Answer {
                functions: found.functions,
                debug: found.debug,
                is_stripped: found.is_stripped,
                ..Answer::default()
            }
        }
        Source::PerfMap { root, map } => match perf_map::functions(root, map, &question.addresses) {
            Ok(found) => Answer {
                functions: found.functions,
                skipped: found.skipped,
                ..Answer::default()
            },
            Err(refused) => Answer {
                refused,
                ..Answer::default()
            },
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_one_frame_each() {
        assert_eq!(cut("a;b\nc"), "a b c");
        assert_eq!(cut(&"ö".repeat(600)).chars().count(), NAME + 1);
    }

    #[test]
    fn a_path_that_is_no_text_is_passed_on() {
        use std::ffi::OsString;
        use std::os::unix::ffi::OsStringExt as _;
        let path = OsString::from_vec(b"/tmp/\xff\xfe; \n\"prog".to_vec());
        let elf = Elf {
            name: path.clone(),
            debug: Some(Place::default()),
            directories: vec![path],
            ..Elf::default()
        };
        let question = Question {
            source: Source::Elf(elf.clone()),
            addresses: vec![u64::MAX],
        };
        let line = serde_json::to_string(&question).unwrap();
        assert!(!line.contains('\n'), "{line}");
        let Source::Elf(told) = serde_json::from_str::<Question>(&line).unwrap().source else {
            panic!("{line}");
        };
        assert_eq!(told, elf);
        let answer = Answer {
            debug: Some(Place::default()),
            ..Answer::default()
        };
        let line = serde_json::to_vec(&answer).unwrap();
        assert_eq!(serde_json::from_slice::<Answer>(&line).unwrap(), answer);
    }

    /// Cause: a process that was refused a call and says so, one that such a call has ended, and one that could not be confined.
    /// Seen: all of it counts as the agent's own.
    #[test]
    fn what_the_process_was_refused_is_counted() {
        let counted = |number: i64| {
            let mut calls = privileges::refused_calls();
            calls.find(|(of, _)| *of == number).map_or(0, |(_, count)| count)
        };
        // No call of any architecture.
        let number = 1000;
        let (before, others) = (counted(number), counted(privileges::OTHER));
        let script = r#"read line; echo '{"refused_calls":[[1000,3]],"unconfined":"capset: no\u001b[2J"}'; read line; kill -SYS $$"#;
        let mut child = Command::new("sh")
            .args(["-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (questions, answers) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let mut symbolizer = Symbolizer::new();
        symbolizer.worker = Some(Worker {
            child,
            questions,
            answers,
        });
        let question = Question {
            source: Source::Elf(Elf::default()),
            addresses: vec![1],
        };
        assert!(symbolizer.ask(&question).unwrap().is_some());
        assert_eq!(counted(number) - before, 3);
        assert!(symbolizer.is_told);
        assert!(symbolizer.ask(&question).is_err());
        let begin = Instant::now();
        while !symbolizer.lingering.is_empty() {
            assert!(begin.elapsed() < Duration::from_secs(10));
            symbolizer.reap();
        }
        assert_eq!(counted(privileges::OTHER) - others, 1);
    }

    #[test]
    fn nothing_is_held_against_a_file_that_was_not_asked_for() {
        let sleep = || Command::new("sleep").arg("600").spawn().unwrap();
        let question = Question {
            source: Source::Elf(Elf::default()),
            addresses: vec![1],
        };
        let mut symbolizer = Symbolizer::new();
        symbolizer.lingering.extend((0..LINGERING).map(|_| sleep()));
        for _ in 0..3 {
            assert_eq!(symbolizer.ask(&question).unwrap(), None);
        }
        assert_eq!(symbolizer.failures, 0);
        for child in &mut symbolizer.lingering {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        // One that somebody else has ended meanwhile.
        let mut ended = Command::new("true")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (questions, answers) = (ended.stdin.take().unwrap(), ended.stdout.take().unwrap());
        ended.wait().unwrap();
        symbolizer.worker = Some(Worker {
            child: ended,
            questions,
            answers,
        });
        assert_eq!(symbolizer.ask(&question).unwrap(), None);
        assert_eq!((symbolizer.failures, symbolizer.worker.is_none()), (1, true));
    }
}
