use super::*;

fn own() -> Table {
    read(&File::open("/proc/self/exe").unwrap()).unwrap()
}

#[test]
fn ones_own_table_covers_ones_own_code() {
    let table = own();
    let unpacked: Vec<Row> = table.rows.iter().copied().map(Row::unpack).collect();
    assert!(unpacked.len() > 10_000, "{}", unpacked.len());
    assert!(
        unpacked.windows(2).all(|w| w[0].pc < w[1].pc),
        "ordered, no two for one address"
    );
    let share = table.unsupported as f64 / unpacked.len() as f64;
    assert!(share < 0.001, "{} of {}", table.unsupported, unpacked.len());
    assert!(
        unpacked.iter().any(|row| row.kind == kind::END),
        "_start ends stacks"
    );
    assert!(!table.by_frame_pointer);
}

#[test]
fn the_vdso_and_libc_are_understood() {
    let maps = crate::stacks::maps::parse(&std::fs::read("/proc/self/maps").unwrap());
    let libc = maps
        .iter()
        .find_map(|m| match &m.origin {
            crate::stacks::maps::Origin::File(_, path) if path.to_string_lossy().contains("libc.so") => {
                Some(path)
            }
            _ => None,
        })
        .expect("tests are linked to libc");
    let table = read(&File::open(libc).unwrap()).unwrap();
    let rows: Vec<Row> = table.rows.iter().copied().map(Row::unpack).collect();
    assert!(rows.iter().any(|row| row.kind == kind::SIGNAL), "__restore_rt");
    assert!(
        rows.iter().any(|row| row.kind == kind::PLT),
        "procedure linkage table"
    );
    assert_eq!(table.build_id.len(), 40);
}

#[test]
fn what_is_no_elf_file_is_an_error_and_nothing_worse() {
    let directory = tempfile::tempdir().unwrap();
    let try_bytes = |bytes: &[u8]| {
        let path = directory.path().join("x");
        std::fs::write(&path, bytes).unwrap();
        read(&File::open(path).unwrap())
    };
    assert!(try_bytes(b"").is_err());
    assert!(try_bytes(b"#!/bin/sh\n").is_err());
    assert!(try_bytes(b"\x7fELF").is_err());
    let whole = std::fs::read("/bin/true").unwrap();
    assert!(try_bytes(&whole).is_ok());
    // Cut anywhere, and with any byte of the headers turned: no panic, no endless loop, no memory.
    for cut in (0..whole.len()).step_by(997) {
        let _ = try_bytes(&whole[..cut]);
    }
    for at in 0..512 {
        let mut broken = whole.clone();
        for value in [0xff, 0x80, 0] {
            broken[at] = value;
            let _ = try_bytes(&broken);
        }
    }
    // A sparse file of a terabyte that claims to be one.
    let path = directory.path().join("sparse");
    std::fs::write(&path, &whole[..64]).unwrap();
    File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(1 << 40)
        .unwrap();
    let _ = read(&File::open(path).unwrap());
}

/// The file of a program with an `.eh_frame` of these bytes.
fn with_eh_frame(bytes: &[u8]) -> Vec<u8> {
    let mut whole = std::fs::read("/bin/true").unwrap();
    let word = |whole: &[u8], at: usize| u64::from_le_bytes(whole[at..at + 8].try_into().unwrap());
    let section = {
        let elf = object::File::parse(&*whole).unwrap();
        elf.section_by_name(".eh_frame").unwrap().index().0
    };
    let header = word(&whole, 0x28) as usize + section * 64;
    let (offset, size) = (whole.len() as u64, bytes.len() as u64);
    whole[header + 24..][..8].copy_from_slice(&offset.to_le_bytes());
    whole[header + 32..][..8].copy_from_slice(&size.to_le_bytes());
    whole.extend(bytes);
    whole
}

#[test]
fn work_that_a_file_asks_for_is_bounded() {
    // A CIE (version 1, `zR`, pcrel sdata4) that says nothing at great length, and functions that begin with it.
    let unwinding = |nothing: usize, functions: u32| {
        let cie = [
            &[0u8, 0, 0, 0, 1, b'z', b'R', 0, 1, 0x78, 16, 1, 0x1b][..],
            &vec![0; nothing],
        ]
        .concat();
        let mut out = (cie.len() as u32).to_le_bytes().to_vec();
        out.extend(cie);
        for i in 0..functions {
            let back = out.len() as u32 + 4;
            for word in [13 + 4, back, i * 16, 16] {
                out.extend(word.to_le_bytes());
            }
            out.extend([0; 5]);
        }
        out
    };
    let directory = tempfile::tempdir().unwrap();
    let read_bytes = |bytes: &[u8]| {
        let path = directory.path().join("x");
        std::fs::write(&path, with_eh_frame(bytes)).unwrap();
        read(&File::open(path).unwrap())
    };
    assert!(read_bytes(&unwinding(3, 100)).unwrap().rows.len() >= 2);
    assert!(matches!(
        read_bytes(&unwinding(60_003, 6000)),
        Err(Fault::TooLarge(..))
    ));
}
