use super::super::table;
use super::*;
use agent_common::profile::Row;
use gimli::UnwindSection as _;

/// A CIE of aarch64 (`zR`, pcrel sdata4, return address in x30, CFA = sp) and one function of 64 bytes at `0x1000`.
fn frame(instructions: &[u8]) -> Vec<u8> {
    let mut cie = vec![0, 0, 0, 0, 1, b'z', b'R', 0, 4, 0x78, 30, 1, 0x1b, 0x0c, 31, 0];
    cie.resize(20, 0);
    let mut out = (cie.len() as u32).to_le_bytes().to_vec();
    out.extend(&cie);
    let mut fde = (out.len() as u32 + 4).to_le_bytes().to_vec();
    fde.extend((0x1000 - (out.len() as i32 + 8)).to_le_bytes());
    fde.extend(64u32.to_le_bytes());
    fde.push(0);
    fde.extend(instructions);
    fde.resize(fde.len().next_multiple_of(4), 0);
    out.extend((fde.len() as u32).to_le_bytes());
    out.extend(fde);
    out
}

fn rules(instructions: &[u8]) -> Vec<Option<Said>> {
    let bytes = frame(instructions);
    let section = Rules::Aarch64.section(&bytes);
    let bases = gimli::BaseAddresses::default().set_eh_frame(0);
    let mut context = gimli::UnwindContext::new();
    let mut entries = section.entries(&bases);
    while let Some(entry) = entries.next().unwrap() {
        if let gimli::CieOrFde::Fde(partial) = entry {
            let fde = partial.parse(EhFrame::cie_from_offset).unwrap();
            let mut out = Vec::new();
            let mut states = fde.rows(&section, &bases, &mut context).unwrap();
            while let Some(state) = states.next_row().unwrap() {
                out.push(Rules::Aarch64.rule(state, &section));
            }
            return out;
        }
    }
    Vec::new()
}

#[test]
fn what_compilers_of_aarch64_say() {
    // The code alignment is 4: advance_loc 1.
    let advance = 0x41;
    // paciasp; stp x29, x30, [sp, -32]!; mov x29, sp; ldp; autiasp; ret: -fno-omit-frame-pointer with signed addresses.
    let (x29_at_4, x30_at_3) = ([0x80 | 29, 4], [0x80 | 30, 3]);
    let function = [
        &[advance, 0x2d, advance, 0x0e, 32][..],
        &x29_at_4,
        &x30_at_3,
        &[
            advance,
            0x0d,
            29,
            advance,
            0x0c,
            31,
            0,
            0xc0 | 29,
            0xc0 | 30,
            advance,
            0x2d,
        ],
    ];
    let in_lr = Some((kind::SP_IN_LR, 0, 0));
    assert_eq!(
        rules(&function.concat()),
        [
            in_lr,
            in_lr,
            Some((kind::SP, 4, 0)),
            Some((kind::FP, 4, 0)),
            in_lr,
            in_lr
        ]
    );
    // str x30, [sp, -16]!: no frame pointer.
    assert_eq!(
        rules(&[advance, 0x0e, 16, 0x80 | 30, 2]),
        [in_lr, Some((kind::SP_ALONE, 2, 0))]
    );
    // stp x29, x30, [sp, 16] in a frame of 64 bytes; and at the end of one of 4096, where no byte would count the words.
    let record = |size: [u8; 2], x29: &[u8], x30: &[u8]| {
        let saved = [&[0x80 | 29][..], x29, &[0x80 | 30], x30].concat();
        rules(&[&[advance, 0x0e][..], &size, &saved].concat())[1]
    };
    assert_eq!(record([0xc0, 0], &[6], &[5]), Some((kind::SP, 8, 6)));
    assert_eq!(
        record([0x80, 32], &[0x80, 4], &[0xff, 3]),
        Some((kind::SP, 512, 0))
    );
    // _start: the return address is undefined.
    assert_eq!(rules(&[0x07, 30]), [Some((kind::END, 0, 0))]);
    // x30 somewhere else than beside x29, and a CFA by x16.
    assert_eq!(
        rules(&[
            advance,
            0x0e,
            64,
            0x80 | 29,
            4,
            0x80 | 30,
            7,
            advance,
            0x0c,
            16,
            0
        ]),
        [in_lr, None, None]
    );
}

#[test]
fn where_handlers_return_to_is_found() {
    let code = |words: &[u32]| {
        words
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .collect::<Vec<u8>>()
    };
    // nop; mov x8, #139; svc #0; ret; mov x8, #140; svc #0
    let image = code(&[
        0xd503_201f,
        0xd280_1168,
        0xd400_0001,
        0xd65f_03c0,
        0xd280_1188,
        0xd400_0001,
    ]);
    assert_eq!(Rules::Aarch64.trampolines(&image).collect::<Vec<_>>(), [4]);
    assert_eq!(Rules::X86_64.trampolines(&image).count(), 0);
}

/// As the cross compiler's package has it, where that is installed.
#[test]
fn libc_of_aarch64_is_understood() {
    let Ok(file) = std::fs::File::open("/usr/aarch64-linux-gnu/lib/libc.so.6") else {
        eprintln!("SKIPPED: no libc of arm64 here; `cargo xtask setup arm64` installs it");
        return;
    };
    let table = table::read(&file).unwrap();
    let rows: Vec<Row> = table.rows.iter().copied().map(Row::unpack).collect();
    assert!(rows.len() > 5_000, "{}", rows.len());
    let of = |kind| rows.iter().filter(|row| row.kind == kind).count();
    assert!(of(kind::SP) > 1_000 && of(kind::SP_IN_LR) > 1_000 && of(kind::END) > 0);
    let share = table.unsupported as f64 / rows.len() as f64;
    assert!(share < 0.01, "{} of {}", table.unsupported, rows.len());
}
