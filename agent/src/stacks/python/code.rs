//! What a code object of another process says. All of it is somebody else's memory: every size in it is a claim.

use super::lines::Lines;
use super::runtime::{Objects, word};
use crate::aggregate::labels::printable;
use agent_common::profile::python::{CODE_NAMES, STRING_HASH, fingerprint};
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

/// Longest name, characters.
const NAME: u64 = 256;
/// Longest path, characters: of those that are longer the file's name is lost, but every function has one of its own here.
const PATH: u64 = 512;
/// Largest table of lines, bytes: that of a generated module of some 6,000 lines.
const LINES: u64 = 64 << 10;
const LENGTH: u64 = 16;
const STATE: u64 = 32;
const BYTES: u64 = 32;
/// Where a code object has its flags, and that of what stands for a call and is no function (`CO_NO_MONITORING_EVENTS`, 3.12).
const FLAGS: u64 = 48;
const NO_FUNCTION: u64 = 0x200_0000;

/// A function of Python.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Function {
    /// Qualified name.
    pub name: Arc<str>,
    /// File that it is from, as Python has it; may be `<string>`.
    pub file: Arc<str>,
    /// Its first line; 0 = not known.
    pub line: u32,
    /// As it is shown: with its file and first line, so that a function is one whatever line it is at.
    pub shown: Arc<str>,
}

impl Function {
    /// Bytes that it takes.
    pub fn size(&self) -> usize {
        size_of::<Self>() + self.name.len() + self.file.len() + self.shown.len()
    }

    /// What stands for frames that are lost.
    pub fn lost(why: &str) -> Self {
        let name: Arc<str> = format!("[python: {why}]").into();
        Self {
            shown: name.clone(),
            name,
            file: "".into(),
            line: 0,
        }
    }

    /// By its parts.
    pub fn new(name: &str, file: &str, line: u32) -> Self {
        let short = file.rsplit('/').next().unwrap_or(file);
        Self {
            shown: format!("{name} ({short}:{line})").into(),
            name: name.into(),
            file: file.into(),
            line,
        }
    }
}

/// Why a code object has no name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// Its memory cannot be read: the process has ended, or it is not to be looked at.
    Unreadable,
    /// Another object lies there by now.
    Replaced,
    /// It makes no sense, or is larger than what is read.
    Malformed,
    /// Whoever stands behind its memory does not answer.
    Silent,
}

impl Lost {
    /// All, in the order of their counters.
    pub const ALL: [Self; 4] = [Self::Unreadable, Self::Replaced, Self::Malformed, Self::Silent];

    /// As exported.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unreadable => "unreadable",
            Self::Replaced => "replaced",
            Self::Malformed => "malformed",
            Self::Silent => "silent",
        }
    }
}

/// A code object.
#[derive(Debug)]
pub struct Code {
    /// What it is the code of; `None` = of nothing that was written.
    pub function: Option<Function>,
    /// Its lines.
    pub lines: Lines,
}

impl Code {
    /// Reads one, if it is still the one that the kernel has seen.
    pub fn read(memory: &File, objects: Objects, at: u64, seen: u32) -> Result<Self, Lost> {
        let word = |at: u64| word(memory, at).ok_or(Lost::Unreadable);
        let place = |offset: u64| at.checked_add(offset).ok_or(Lost::Malformed);
        let mut names = [0; 4];
        for (name, offset) in names.iter_mut().zip((CODE_NAMES..).step_by(8)) {
            *name = word(place(offset)?)?;
        }
        let [file, name, qualified, lines] = names;
        let hash = word(name.checked_add(STRING_HASH).ok_or(Lost::Malformed)?)?;
        if fingerprint(&names, hash) != seen {
            return Err(Lost::Replaced);
        }
        let first = word(place(objects.first_line)?)? as u32;
        let is_function = word(place(FLAGS)?)? & NO_FUNCTION == 0;
        let name = text(memory, objects, qualified, NAME)?;
        let file = text(memory, objects, file, PATH)?;
        let size = word(lines.checked_add(LENGTH).ok_or(Lost::Malformed)?)?;
        // Without it, all lines are the first one.
        let mut table = vec![0; if size > LINES { 0 } else { size as usize }];
        memory
            .read_exact_at(&mut table, lines.saturating_add(BYTES))
            .ok()
            .ok_or(Lost::Unreadable)?;
        Ok(Self {
            function: is_function.then(|| Function::new(&name, &file, first)),
            lines: Lines::new(&table, first),
        })
    }
}

/// A string, cut after so many characters; without what separates frames in folded stacks.
fn text(memory: &File, objects: Objects, at: u64, most: u64) -> Result<String, Lost> {
    let offset = |n: u64| at.checked_add(n).ok_or(Lost::Malformed);
    let word = |at: u64| word(memory, at).ok_or(Lost::Unreadable);
    let length = word(offset(LENGTH)?)?;
    let state = word(offset(STATE)?)? as u32;
    let (kind, is_compact, is_ascii) = (state >> 2 & 7, state >> 5 & 1 == 1, state >> 6 & 1 == 1);
    if !is_compact || !matches!(kind, 1 | 2 | 4) || length > i64::MAX as u64 {
        return Err(Lost::Malformed);
    }
    let mut bytes = vec![0; (length.min(most) * u64::from(kind)) as usize];
    let begin = offset(if is_ascii { objects.ascii } else { objects.compact })?;
    memory
        .read_exact_at(&mut bytes, begin)
        .ok()
        .ok_or(Lost::Unreadable)?;
    let point = |unit: &[u8]| {
        let value = unit.iter().rev().fold(0, |sum, byte| sum << 8 | u32::from(*byte));
        char::from_u32(value).unwrap_or(char::REPLACEMENT_CHARACTER)
    };
    let mut text: String = bytes.chunks_exact(kind as usize).map(point).collect();
    if length > most {
        text.push('…');
    }
    Ok(printable(&text).replace(';', " "))
}
