use super::*;
use object::{Object as _, ObjectSymbol as _};
use std::io::Write as _;

/// A file with these bytes that nobody else sees.
fn file(bytes: &[u8]) -> File {
    let path = std::env::temp_dir().join(format!(
        "geophone-symtab-{}-{:?}",
        std::process::id(),
        std::thread::current().id()
    ));
    let mut file = File::options()
        .create(true)
        .truncate(true)
        .read(true)
        .write(true)
        .open(&path)
        .unwrap();
    file.write_all(bytes).unwrap();
    std::fs::remove_file(path).unwrap();
    file
}

/// An ELF file with code from 0x1000 to 0x2000 and these symbols: name, info, section, value, size.
fn elf(symbols: &[(&str, u8, u16, u64, u64)]) -> Vec<u8> {
    let (mut table, mut names) = (vec![0u8; SYMBOL_BYTES], vec![0u8]);
    for (name, info, section, value, size) in symbols {
        table.extend((names.len() as u32).to_le_bytes());
        table.extend([*info, 0]);
        table.extend(section.to_le_bytes());
        table.extend(value.to_le_bytes());
        table.extend(size.to_le_bytes());
        names.extend(name.bytes());
        names.push(0);
    }
    let mut out = vec![0; HEADER_BYTES];
    out[..6].copy_from_slice(b"\x7fELF\x02\x01");
    out[0x28..0x30].copy_from_slice(&(HEADER_BYTES as u64).to_le_bytes());
    out[0x3a..0x3c].copy_from_slice(&(SECTION_BYTES as u16).to_le_bytes());
    out[0x3c..0x3e].copy_from_slice(&4u16.to_le_bytes());
    let data = HEADER_BYTES + 4 * SECTION_BYTES;
    let mut section = |kind: u32, flags: u64, address: u64, offset: usize, size: usize, link: u32| {
        let mut bytes = vec![0; SECTION_BYTES];
        bytes[4..8].copy_from_slice(&kind.to_le_bytes());
        for (at, word) in [(8, flags), (16, address), (24, offset as u64), (32, size as u64)] {
            bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
        }
        bytes[40..44].copy_from_slice(&link.to_le_bytes());
        out.extend(bytes);
    };
    section(0, 0, 0, 0, 0, 0);
    section(1, SHF_EXECINSTR, 0x1000, 0, 0x1000, 0);
    section(SHT_SYMTAB, 0, 0, data, table.len(), 3);
    section(3, 0, 0, data + table.len(), names.len(), 0);
    out.extend(table);
    out.extend(names);
    out
}

const LOCAL: u8 = STT_FUNC;
const GLOBAL: u8 = STB_GLOBAL << 4 | STT_FUNC;
const WEAK: u8 = STB_WEAK << 4 | STT_FUNC;
const BARE: u8 = STT_NOTYPE;

fn names(bytes: &[u8], addresses: &[u64]) -> Vec<String> {
    let found = functions(&file(bytes), addresses).unwrap();
    assert_eq!(found.functions.len(), addresses.len());
    let shown = |f: &Option<Function>| match f {
        Some(f) => format!("{}@{:x}+{:x}", f.name, f.start, f.size),
        None => "-".into(),
    };
    found.functions.iter().map(shown).collect()
}

#[test]
fn the_innermost_function_and_the_name_that_perf_takes() {
    let bytes = elf(&[
        ("outer", GLOBAL, 1, 0x1100, 0x100),
        ("inner", LOCAL, 1, 0x1140, 0x10),
        ("__memcpy", GLOBAL, 1, 0x1300, 0x40),
        ("memcpy", GLOBAL, 1, 0x1300, 0x40),
        ("a_weak_and_longer_name", WEAK, 1, 0x1300, 0x40),
        ("elsewhere", GLOBAL, 0, 0x1400, 0x40),
        ("data", GLOBAL - STT_FUNC + 1, 1, 0x1500, 0x40),
    ]);
    assert_eq!(
        // In any order, and twice.
        names(
            &bytes,
            &[
                0x1320, 0x1100, 0x1145, 0x1150, 0x11ff, 0x1200, 0x10ff, 0x1410, 0x1510, 0x1145
            ]
        ),
        [
            "memcpy@1300+40",
            "outer@1100+100",
            "inner@1140+10",
            "outer@1100+100",
            "outer@1100+100",
            "-",
            "-",
            "-",
            "-",
            "inner@1140+10"
        ]
    );
}

#[test]
fn marks_of_aarch64_are_no_names() {
    let mut bytes = elf(&[
        ("entry", BARE, 1, 0x1100, 0),
        ("$x", BARE, 1, 0x1100, 0),
        ("$d.7", BARE, 1, 0x1110, 0),
        ("$x", BARE, 1, 0x1120, 0),
        ("next", BARE, 1, 0x1140, 0),
        ("$x", BARE, 1, 0x1140, 0),
    ]);
    assert_eq!(names(&bytes, &[0x1124]), ["$x@1120+20"], "elsewhere it is a name");
    bytes[18..20].copy_from_slice(&[183, 0]);
    assert_eq!(
        names(&bytes, &[0x1104, 0x1124, 0x1144]),
        ["entry@1100+40", "entry@1100+40", "next@1140+ec0"]
    );
}

#[test]
fn what_has_no_size_reaches_to_the_next_one() {
    let bytes = elf(&[
        ("_start", BARE, 1, 0x1010, 0),
        ("label", BARE, 1, 0x1080, 0),
        ("sized", LOCAL, 1, 0x1100, 0x10),
        ("last", BARE, 1, 0x1f00, 0),
    ]);
    assert_eq!(
        names(
            &bytes,
            &[
                0x100f, 0x1010, 0x107f, 0x1080, 0x10ff, 0x1105, 0x1110, 0x1eff, 0x1fff, 0x2000
            ]
        ),
        [
            "-",
            "_start@1010+70",
            "_start@1010+70",
            "label@1080+80",
            "label@1080+80",
            "sized@1100+10",
            "-",
            "-",
            "last@1f00+100",
            "-"
        ]
    );
}

#[test]
fn every_function_of_this_program_is_found() {
    let bytes = std::fs::read("/proc/self/exe").unwrap();
    let elf = object::File::parse(&*bytes).unwrap();
    let truth: Vec<(u64, u64)> = elf
        .symbols()
        .filter(|s| s.kind() == object::SymbolKind::Text && s.size() > 4 && s.is_definition())
        .map(|s| (s.address(), s.size()))
        .step_by(7)
        .collect();
    let addresses: Vec<u64> = truth.iter().map(|(start, size)| start + size - 1).collect();
    let found = functions(&File::open("/proc/self/exe").unwrap(), &addresses).unwrap();
    assert!(found.is_full && truth.len() > 1000);
    for ((start, size), function) in truth.iter().zip(&found.functions) {
        let function = function.as_ref().unwrap();
        // Another may begin inside of it.
        assert!(
            function.start >= *start && function.start + function.size >= start + size,
            "{function:?}"
        );
    }
}

#[test]
fn hostile_files_end_it_and_nothing_else() {
    let good = elf(&[("one", GLOBAL, 1, 0x1100, 0x100), ("two", BARE, 1, 0x1800, 0)]);
    assert!(functions(&file(b"#!/bin/sh\n"), &[1]).is_err());
    for len in 0..good.len() {
        let _ = functions(&file(&good[..len]), &[0, 0x1150, 0x1900, u64::MAX]);
    }
    for at in 0..good.len() {
        for value in [0, 0x7f, 0xff] {
            let mut bad = good.clone();
            bad[at] = value;
            let _ = functions(&file(&bad), &[0, 0x1150, 0x1900, u64::MAX]);
        }
    }
    // A table of an exabyte, and a name without an end.
    let mut bad = good.clone();
    bad[HEADER_BYTES + 2 * SECTION_BYTES + 32..][..8].copy_from_slice(&u64::MAX.to_le_bytes());
    assert_eq!(names(&bad, &[0x1150]), ["one@1100+100"]);
    let mut bad = good;
    bad.truncate(bad.len() - 1);
    bad.extend([b'x'; 2 * NAME]);
    assert_eq!(names(&bad, &[0x1150, 0x1900]), ["one@1100+100", "-"]);
}

#[test]
fn names_of_rust_and_of_cpp_and_of_nobody() {
    assert_eq!(
        demangled("_ZN4core3ptr4read17h0123456789abcdefE"),
        "core::ptr::read"
    );
    assert_eq!(
        demangled("_ZNSt6vectorIiSaIiEE9push_backERKi"),
        "std::vector<int, std::allocator<int> >::push_back(int const&)"
    );
    assert_eq!(demangled("_Z!"), "_Z!");
    assert_eq!(demangled("main"), "main");
}
