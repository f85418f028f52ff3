//! Which Python a process is, and where that version keeps things.
//!
//! 3.13 tells it itself (`_Py_DebugOffsets`, at the head of `_PyRuntime`). Of 3.11 and 3.12 the offsets are those of their
//! debug information; they are the same in all releases of a version. A build that has other ones shows when the first
//! thread does not belong to the first interpreter.

use crate::stacks::maps::Mapping;
use crate::stacks::table::{self, Table};
use agent_common::profile::{PythonLayout, python};
use object::{Object as _, ObjectSymbol as _, SymbolKind};
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

/// Where a file has the interpreter, before relocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Symbols {
    /// `_PyRuntime`.
    pub runtime: u64,
    /// `Py_Version`, since 3.11.
    pub version: Option<u64>,
}

impl Symbols {
    /// Where a process has them, a mapping of whose is of the file.
    pub fn moved(self, table: &Table, mapping: &Mapping) -> Option<Self> {
        let bias = table.bias(mapping.start, mapping.offset)?;
        let moved = |address: u64| address.wrapping_sub(table.base).wrapping_add(bias);
        Some(Self {
            runtime: moved(self.runtime),
            version: self.version.map(moved),
        })
    }
}

/// What is needed to read the objects of a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Objects {
    /// Where a code object has the number of its first line.
    pub first_line: u64,
    /// Bytes before the text of a string that is ASCII. Others have 16 more, 24 before 3.12.
    pub ascii: u64,
    /// Bytes before the text of other strings.
    pub compact: u64,
}

/// A version of CPython whose frames can be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// For the kernel.
    pub layout: PythonLayout,
    /// For this side.
    pub objects: Objects,
}

/// Largest offset that is believed: an interpreter's state has 200 to 400 KB.
const LARGEST: u64 = 1 << 20;
/// Where a thread has its interpreter.
const THREAD_INTERPRETER: u64 = 16;
/// Words of `_Py_DebugOffsets`.
const OFFSETS: usize = 73;

/// Finds the interpreter in a file; `None` = it has none. Only of files whose name speaks of Python: others have symbols as
/// well, up to hundreds of thousands.
pub fn symbols(file: &File, path: &Path) -> Option<Symbols> {
    if !path.file_name()?.to_string_lossy().contains("python") {
        return None;
    }
    table::look(file, |elf| {
        // The interpreter exports them for its extensions, stripped or not.
        let address = |name: &str, is_it: &dyn Fn(u64) -> bool| {
            elf.dynamic_symbols()
                .filter(|s| s.kind() == SymbolKind::Data && is_it(s.size()))
                .find(|s| s.name() == Ok(name))
                .map(|s| s.address())
        };
        Some(Symbols {
            runtime: address("_PyRuntime", &|size| size > 512)?,
            version: address("Py_Version", &|size| size == 8),
        })
    })?
}

/// A word of a process.
pub fn word(memory: &File, at: u64) -> Option<u64> {
    let mut bytes = [0; 8];
    memory.read_exact_at(&mut bytes, at).ok()?;
    Some(u64::from_le_bytes(bytes))
}

/// As a person writes it: 3.11.2.
pub fn spoken(version: u64) -> String {
    format!(
        "{}.{}.{}",
        version >> 24 & 0xff,
        version >> 16 & 0xff,
        version >> 8 & 0xff
    )
}

/// The version that a process has at these addresses, or why its frames cannot be read.
pub fn version(memory: &File, at: Symbols) -> Result<Version, String> {
    let place = at.version.ok_or("older than 3.11")?;
    let number = word(memory, place).ok_or("its memory cannot be read")?;
    let found = match number >> 16 {
        0x030b => PYTHON_3_11,
        0x030c => PYTHON_3_12,
        0x030d => told(memory, at.runtime)?,
        _ => return Err(format!("{} is none of 3.11 to 3.13", spoken(number))),
    };
    let unlike = || format!("{} was built with other structures", spoken(number));
    if !is_sound(memory, at.runtime, &found.layout).ok_or_else(unlike)? {
        return Err(unlike());
    }
    Ok(found)
}

/// Whether the first thread belongs to the first interpreter. Before there are any, nothing can be said.
fn is_sound(memory: &File, runtime: u64, layout: &PythonLayout) -> Option<bool> {
    let interpreter = word(memory, runtime.checked_add(u64::from(layout.interpreters))?)?;
    if interpreter == 0 {
        return Some(true);
    }
    let thread = word(memory, interpreter.checked_add(u64::from(layout.threads))?)?;
    Some(thread == 0 || word(memory, thread.checked_add(THREAD_INTERPRETER)?)? == interpreter)
}

/// What 3.13 says of itself.
fn told(memory: &File, runtime: u64) -> Result<Version, String> {
    let mut bytes = [0; OFFSETS * 8];
    memory
        .read_exact_at(&mut bytes, runtime)
        .map_err(|e| format!("its memory cannot be read: {e}"))?;
    offsets(&bytes)
}

fn offsets(bytes: &[u8; OFFSETS * 8]) -> Result<Version, String> {
    let words: Vec<u64> = bytes
        .chunks_exact(8)
        .filter_map(|word| Some(u64::from_le_bytes(word.try_into().ok()?)))
        .collect();
    let at = |byte: usize| words.get(byte / 8).copied().unwrap_or(u64::MAX);
    if !bytes.starts_with(b"xdebugpy") {
        return Err("it has no offsets for debuggers".into());
    }
    if at(16) != 0 {
        return Err("it was built without a global lock (free-threaded)".into());
    }
    let offset = |byte: usize| {
        let value = at(byte);
        u32::try_from(value)
            .ok()
            .filter(|_| value < LARGEST)
            .ok_or_else(|| format!("its offset for debuggers at {byte} is {value}"))
    };
    let layout = PythonLayout {
        interpreters: offset(40)?,
        interpreter_next: offset(64)?,
        threads: offset(72)?,
        thread_next: offset(168)?,
        thread_id: offset(192)?,
        thread_frame: offset(184)?,
        cframe_frame: u32::MAX,
        cframe_previous: 0,
        frame_code: offset(240)?,
        frame_previous: offset(232)?,
        frame_instruction: offset(248)?,
        frame_entry: offset(264)?,
        entry: ON_C_STACK,
        shim: 1,
        code_instructions: offset(344)?,
        pad: 0,
    };
    let in_frame = [
        layout.frame_code,
        layout.frame_previous,
        layout.frame_instruction,
        layout.frame_entry & !7,
    ];
    let known = |place: &u32| place.is_multiple_of(8) && *place as usize + 8 <= python::FRAME_BYTES;
    let code_names = (0..4).all(|i| {
        let order = [280, 288, 296, 304];
        order
            .get(i)
            .is_some_and(|byte| at(*byte) == python::CODE_NAMES + 8 * i as u64)
    });
    if !in_frame.iter().all(known) || !code_names || at(176) != THREAD_INTERPRETER {
        return Err("it was built with other structures".into());
    }
    let ascii = u64::from(offset(560)?);
    Ok(Version {
        layout,
        objects: Objects {
            first_line: u64::from(offset(312)?),
            ascii,
            compact: ascii + 16,
        },
    })
}

/// Layouts that no process can tell otherwise.
pub(super) const FIXED: [PythonLayout; 2] = [PYTHON_3_11.layout, PYTHON_3_12.layout];

/// `FRAME_OWNED_BY_CSTACK`, of 3.12 and 3.13.
const ON_C_STACK: u32 = 3;

const PYTHON_3_11: Version = Version {
    layout: PythonLayout {
        interpreters: 40,
        interpreter_next: 0,
        threads: 16,
        thread_next: 8,
        thread_id: 152,
        thread_frame: 56,
        cframe_frame: 8,
        cframe_previous: 16,
        frame_code: 32,
        frame_previous: 48,
        frame_instruction: 56,
        frame_entry: 68,
        entry: 1,
        shim: 0,
        code_instructions: 184,
        pad: 0,
    },
    objects: Objects {
        first_line: 72,
        ascii: 48,
        compact: 72,
    },
};

const PYTHON_3_12: Version = Version {
    layout: PythonLayout {
        interpreters: 40,
        interpreter_next: 0,
        threads: 72,
        thread_next: 8,
        thread_id: 136,
        thread_frame: 56,
        cframe_frame: 0,
        cframe_previous: 8,
        frame_code: 0,
        frame_previous: 8,
        frame_instruction: 56,
        frame_entry: 70,
        entry: ON_C_STACK,
        shim: 1,
        code_instructions: 192,
        pad: 0,
    },
    objects: Objects {
        first_line: 68,
        ascii: 40,
        compact: 56,
    },
};

#[cfg(test)]
mod tests {
    use super::*;

    /// The head of `_PyRuntime` of 3.13.0 as its debug information has it.
    fn python_3_13() -> [u8; OFFSETS * 8] {
        let mut bytes = [0; OFFSETS * 8];
        bytes[..8].copy_from_slice(b"xdebugpy");
        for (at, value) in [
            (40, 632),
            (64, 7264),
            (72, 7344),
            (168, 8),
            (176, 16),
            (184, 72),
            (192, 152),
            (232, 8),
            (240, 0),
            (248, 56),
            (264, 70),
            (280, 112),
            (288, 120),
            (296, 128),
            (304, 136),
            (312, 68),
            (344, 200),
            (560, 40),
        ] {
            put(&mut bytes, at, value);
        }
        bytes
    }

    fn put(bytes: &mut [u8], at: usize, value: u64) {
        bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }

    #[test]
    fn what_3_13_says_of_itself_is_believed_if_it_can_be() {
        let found = offsets(&python_3_13()).unwrap();
        assert_eq!(found.layout.thread_frame, 72);
        assert_eq!(found.layout.interpreters, 632);
        assert_eq!(
            found.objects,
            Objects {
                first_line: 68,
                ascii: 40,
                compact: 56
            }
        );
        for (at, value) in [
            (0, 1),
            (16, 1),
            (64, u64::MAX),
            (72, 1 << 20),
            (240, 72),
            (264, 75),
            (288, 128),
            (176, 24),
        ] {
            let mut bytes = python_3_13();
            put(&mut bytes, at, value);
            assert!(offsets(&bytes).is_err(), "{value} at {at}");
        }
    }

    #[test]
    fn versions_as_people_write_them() {
        assert_eq!(spoken(0x030b_07f0), "3.11.7");
    }
}
