//! Objects of another process as they may lie in its memory, honest and not. The memory is a file: an address is an offset.

use super::*;
use agent_common::profile::python::{CODE_NAMES, STRING_HASH, fingerprint};
use std::os::unix::fs::FileExt as _;

const OBJECTS: Objects = Objects {
    first_line: 68,
    ascii: 40,
    compact: 56,
};
const CODE: u64 = 0x1_0000;
const NAME: u64 = 0x2_0000;
const QUALIFIED: u64 = 0x3_0000;
const PATH: u64 = 0x4_0000;
const LINES: u64 = 0x5_0000;

struct Memory {
    process: Python,
}

impl Memory {
    fn put(&self, at: u64, bytes: &[u8]) {
        self.process.memory.write_all_at(bytes, at).unwrap();
    }

    fn word(&self, at: u64, value: u64) {
        self.put(at, &value.to_le_bytes());
    }

    /// A string of so many bytes a character.
    fn text(&self, at: u64, text: &str, kind: u32) {
        self.word(at + 16, text.chars().count() as u64);
        self.word(at + STRING_HASH, at ^ 77);
        let is_ascii = kind == 1 && text.is_ascii();
        self.put(
            at + 32,
            &(kind << 2 | 1 << 5 | u32::from(is_ascii) << 6).to_le_bytes(),
        );
        let begin = at + if is_ascii { OBJECTS.ascii } else { OBJECTS.compact };
        for (i, c) in text.chars().enumerate() {
            let unit = (c as u32).to_le_bytes();
            self.put(begin + u64::from(kind) * i as u64, &unit[..kind as usize]);
        }
    }

    /// A function of the line 7, whose instructions are of the lines 8 and, from the third on, 9.
    fn new() -> Self {
        let memory = Self {
            process: Python {
                memory: Arc::new(tempfile::tempfile().unwrap()),
                objects: OBJECTS,
                runtime: 1,
                layout: Arc::new(0),
            },
        };
        memory.text(NAME, "f", 1);
        memory.text(QUALIFIED, "K.f", 1);
        memory.text(PATH, "/srv/a;b/ü.py", 1);
        for (i, pointer) in [PATH, NAME, QUALIFIED, LINES].into_iter().enumerate() {
            memory.word(CODE + CODE_NAMES + 8 * i as u64, pointer);
        }
        memory.word(CODE + OBJECTS.first_line, 7);
        memory.word(CODE + 48, 3);
        memory.word(LINES + 16, 6);
        // One line further: two units, then one.
        memory.put(LINES + 32, &[0x80 | 11 << 3 | 1, 0, 4, 0x80 | 11 << 3, 0, 4]);
        memory
    }

    fn print() -> u32 {
        fingerprint(&[PATH, NAME, QUALIFIED, LINES], NAME ^ 77)
    }

    /// What a frame at an instruction of the function is shown as.
    fn shown(&self, codes: &mut Codes, index: u32) -> (String, u32) {
        self.shown_at(codes, index, Instant::now())
    }

    fn shown_at(&self, codes: &mut Codes, index: u32, now: Instant) -> (String, u32) {
        let words = [
            CODE | LAST_OF_RUN,
            u64::from(index) | u64::from(Self::print()) << 32,
        ];
        let (frames, functions) = codes.frames((1, 1), &self.process, &words, python::COMPLETE, now);
        let [
            Frame {
                place: Some(Place::Python(number, line)),
                is_last: true,
            },
        ] = frames[..]
        else {
            panic!("{frames:?}")
        };
        let (_, function) = functions.iter().find(|(n, _)| *n == number).unwrap();
        (function.shown.to_string(), line)
    }
}

#[test]
fn a_function_has_its_name_file_and_line() {
    let (memory, mut codes) = (Memory::new(), Codes::default());
    let shown = "K.f (ü.py:7)".to_owned();
    assert_eq!(memory.shown(&mut codes, 0), (shown.clone(), 8));
    assert_eq!(memory.shown(&mut codes, 2), (shown.clone(), 9));
    assert_eq!(memory.shown(&mut codes, 9), (shown, 7), "beyond the table");
    let (_, function) = codes
        .function((1, 1, CODE, Memory::print()), &memory.process, 0, Instant::now())
        .map(|(n, f, _)| (n, f))
        .unwrap();
    assert_eq!(&*function.file, "/srv/a b/ü.py");
    // What is known is not read again.
    memory.text(QUALIFIED, "other", 1);
    assert_eq!(memory.shown(&mut codes, 0).0, "K.f (ü.py:7)");
}

#[test]
fn names_of_any_alphabet_and_length() {
    let memory = Memory::new();
    memory.text(QUALIFIED, "na\u{540d}", 2);
    assert_eq!(memory.shown(&mut Codes::default(), 0).0, "na\u{540d} (ü.py:7)");
    memory.text(QUALIFIED, "\u{1f40d}\n;", 4);
    assert_eq!(
        memory.shown(&mut Codes::default(), 0).0,
        "\u{1f40d}\u{fffd}  (ü.py:7)"
    );
    memory.text(QUALIFIED, &"x".repeat(5000), 1);
    assert_eq!(
        memory.shown(&mut Codes::default(), 0).0,
        format!("{}… (ü.py:7)", "x".repeat(256))
    );
}

#[test]
fn what_makes_no_sense_is_counted_and_nothing_worse() {
    let lost = |spoil: &dyn Fn(&Memory)| {
        let (memory, mut codes) = (Memory::new(), Codes::default());
        spoil(&memory);
        let (shown, _) = memory.shown(&mut codes, 0);
        (shown, codes.lost)
    };
    let malformed = ("[python: malformed]".to_owned(), [0, 0, 1, 0]);
    let unreadable = ("[python: unreadable]".to_owned(), [1, 0, 0, 0]);
    // A string that claims to be as long as the memory, of no kind, or in the old form.
    assert_eq!(lost(&|m| m.word(QUALIFIED + 16, u64::MAX)), malformed);
    assert_eq!(lost(&|m| m.word(QUALIFIED + 32, 7 << 2 | 1 << 5)), malformed);
    assert_eq!(lost(&|m| m.word(QUALIFIED + 32, 1 << 2)), malformed);
    // A table that ends before its end.
    assert_eq!(lost(&|m| m.word(LINES + 16, 100)), unreadable);
    // Another object lies there by now.
    assert_eq!(lost(&|m| m.word(CODE + CODE_NAMES, NAME)).1, [0, 1, 0, 0]);
    assert_eq!(lost(&|m| m.word(NAME + STRING_HASH, 1)).1, [0, 1, 0, 0]);
    // One that is too large has the first line only.
    let memory = Memory::new();
    memory.word(LINES + 16, 1 << 40);
    assert_eq!(
        memory.shown(&mut Codes::default(), 0),
        ("K.f (ü.py:7)".to_owned(), 7)
    );
}

#[test]
fn frames_that_are_no_functions_are_left_out_and_what_is_missing_is_said() {
    let (memory, mut codes) = (Memory::new(), Codes::default());
    // What stands for a call of `__init__`, and what is on the C stack.
    memory.word(CODE + 48, 0x200_0000);
    let words = [CODE, u64::from(Memory::print()) << 32, LAST_OF_RUN, 0];
    let (frames, functions) = codes.frames((1, 1), &memory.process, &words, python::TOO_DEEP, Instant::now());
    let empty = |is_last| Frame { place: None, is_last };
    assert_eq!(frames.get(..2).unwrap(), [empty(false), empty(true)]);
    assert_eq!((frames.len(), functions.len()), (3, 1));
    assert_eq!(&*functions.first().unwrap().1.shown, "[python: too_deep]");
}

#[test]
fn what_could_not_be_read_is_not_tried_at_once() {
    let (memory, mut codes, now) = (Memory::new(), Codes::default(), Instant::now());
    memory.word(CODE + CODE_NAMES, NAME);
    let replaced = ("[python: replaced]".to_owned(), 0);
    assert_eq!(memory.shown_at(&mut codes, 0, now), replaced);
    memory.word(CODE + CODE_NAMES, PATH);
    assert_eq!(memory.shown_at(&mut codes, 0, now + PAUSE / 2), replaced);
    assert_eq!(codes.lost, [0, 2, 0, 0], "every frame counts");
    let found = ("K.f (ü.py:7)".to_owned(), 8);
    assert_eq!(memory.shown_at(&mut codes, 0, now + PAUSE), found);
    assert!(codes.failed.is_empty());
    for address in 0..10_000 {
        let words = [16 * address + 16, 1 << 32];
        codes.frames((2, 1), &memory.process, &words, python::COMPLETE, now);
    }
    assert!(codes.failed.len() <= FAILED);
}

/// A process that makes up functions with the longest names and paths.
#[test]
fn functions_take_no_more_than_they_may() {
    let (memory, mut codes, mut functions) = (Memory::new(), Codes::default(), Functions::default());
    memory.text(QUALIFIED, &"\u{1f40d}".repeat(300), 4);
    memory.text(PATH, &"\u{1f40d}".repeat(600), 4);
    let taken = |codes: &Codes| -> usize {
        let lines: usize = codes.known.values().map(|known| known.lines.size()).sum();
        let names: usize = codes.numbers.keys().map(|function| function.size()).sum();
        lines + names
    };
    let mut most = 0;
    for line in 0..5000 {
        memory.word(CODE + OBJECTS.first_line, line);
        let words = [CODE, u64::from(Memory::print()) << 32];
        let key = (1, line);
        let (_, found) = codes.frames(key, &memory.process, &words, python::COMPLETE, Instant::now());
        functions.learn(found);
        most = most.max(taken(&codes));
    }
    assert!(most > BYTES / 2 && most <= BYTES, "{most}");
    assert!(codes.bytes <= BYTES, "{}", codes.bytes);
    let counted: usize = functions.known.values().map(|function| function.size()).sum();
    assert_eq!(functions.size(), counted);
    assert!(counted > NAMED / 2 && counted < NAMED + (1 << 20), "{counted}");
    functions.keep(&HashSet::new());
    assert_eq!(functions.size(), 0);
}
