//! Probe `profile`: files that lie, and a reader that dies.

use anyhow::{Context as _, Result, ensure};
use std::process::Command;
use std::time::{Duration, Instant};
use tests::harness::agent::Scratch;
use tests::harness::stacks::{MAIN, all_named, cc, run_gently, seen, spin, taking_stacks};
use tests::harness::{command, together, unique};
use tests::need_root;

/// Numbers of an ELF file.
struct Patch(Vec<u8>);

impl Patch {
    fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.0[at..at + 8].try_into().expect("eight bytes"))
    }

    fn put(&mut self, at: usize, bytes: &[u8]) -> Result<()> {
        let place = self.0.get_mut(at..at + bytes.len()).context("past the end")?;
        place.copy_from_slice(bytes);
        Ok(())
    }

    /// Where the headers of the sections of a type are.
    fn sections(&self, kind: u32) -> Vec<usize> {
        let (first, count) = (
            self.u64(0x28) as usize,
            u16::from_le_bytes([self.0[0x3c], self.0[0x3d]]),
        );
        let all = (0..usize::from(count)).map(|i| first + i * 64);
        all.filter(|at| self.0[at + 4..at + 8] == kind.to_le_bytes())
            .collect()
    }

    /// Where the header of the section of a name is.
    fn named(&self, name: &str) -> Result<usize> {
        let names =
            self.u64(0x28) as usize + usize::from(u16::from_le_bytes([self.0[0x3e], self.0[0x3f]])) * 64;
        let names = self.u64(names + 24) as usize;
        let is_it = |at: &usize| {
            let own =
                names + u32::from_le_bytes(self.0[*at..at + 4].try_into().expect("four bytes")) as usize;
            self.0[own..].starts_with(name.as_bytes()) && self.0[own + name.len()] == 0
        };
        self.sections(1).into_iter().find(is_it).context(name.to_owned())
    }
}

/// What a header of a section says of itself: flags, offset, bytes.
const FLAGS: usize = 8;
const OFFSET: usize = 24;
const SIZE: usize = 32;

/// Ways to make a program that runs and whose file is not to be read, and how long the file then claims to be.
type Harm = (&'static str, fn(&mut Patch) -> Result<()>, u64);

const HARMS: &[Harm] = &[
    (
        "sections past the end",
        |p| p.put(0x28, &(1u64 << 60).to_le_bytes()),
        0,
    ),
    (
        "sections without number",
        |p| {
            let first = p.u64(0x28) as usize;
            p.put(0x3c, &[0, 0])?;
            p.put(first + SIZE, &u64::from(u32::MAX).to_le_bytes())
        },
        0,
    ),
    (
        "symbols of an exabyte",
        |p| {
            for kind in [2, 3] {
                for at in p.sections(kind) {
                    p.put(at + SIZE, &(1u64 << 60).to_le_bytes())?;
                }
            }
            Ok(())
        },
        1 << 40,
    ),
    (
        "notes of gigabytes",
        |p| {
            for (i, at) in p.sections(1).into_iter().enumerate() {
                p.put(at + 4, &7u32.to_le_bytes())?;
                p.put(at + OFFSET, &((i as u64 + 1) << 32).to_le_bytes())?;
                p.put(at + SIZE, &(60u64 << 20).to_le_bytes())?;
            }
            Ok(())
        },
        1 << 40,
    ),
    (
        "unwinding without end",
        |p| {
            // A CIE of 60 KB that says nothing, and 6,000 functions that begin with it.
            let offset = p.0.len() as u64;
            let cie = [
                &[0u8, 0, 0, 0, 1, b'z', b'R', 0, 1, 0x78, 16, 1, 0x1b][..],
                &[0; 60_003],
            ]
            .concat();
            p.0.extend((cie.len() as u32).to_le_bytes());
            p.0.extend(cie);
            for i in 0..6000u32 {
                let back = (p.0.len() as u64 - offset + 4) as u32;
                p.0.extend(17u32.to_le_bytes());
                p.0.extend(back.to_le_bytes());
                p.0.extend((i * 16).to_le_bytes());
                p.0.extend(16u32.to_le_bytes());
                p.0.extend([0; 5]);
            }
            let at = p.named(".eh_frame")?;
            let size = p.0.len() as u64 - offset;
            p.put(at + OFFSET, &offset.to_le_bytes())?;
            p.put(at + SIZE, &size.to_le_bytes())
        },
        0,
    ),
    (
        "a section that grows when it is unpacked",
        |p| {
            // An Elf64_Chdr: zlib, four terabytes.
            let offset = p.0.len() as u64;
            p.0.extend([1u64.to_le_bytes(), (1u64 << 42).to_le_bytes(), 1u64.to_le_bytes()].concat());
            p.0.extend([0x78, 0x9c, 0, 0, 0, 0]);
            for name in [".debug_info", ".debug_abbrev", ".debug_line"] {
                let at = p.named(name)?;
                p.put(at + FLAGS, &0x800u64.to_le_bytes())?;
                p.put(at + OFFSET, &offset.to_le_bytes())?;
                p.put(at + SIZE, &30u64.to_le_bytes())?;
            }
            Ok(())
        },
        0,
    ),
    (
        "debug information of noise",
        |p| {
            let at = p.named(".debug_info")?;
            let (from, size) = (p.u64(at + OFFSET) as usize, p.u64(at + SIZE) as usize);
            for i in from + 12..from + size {
                p.0[i] = p.0[i].wrapping_mul(31).wrapping_add(i as u8);
            }
            Ok(())
        },
        0,
    ),
];

/// Debug information whose functions are abstract instances of each other, in a circle.
const CIRCLE: &str = r#"
    .text
    .globl circle
    .type circle, @function
circle:
    mov $200000, %ecx
1:  dec %ecx
    jnz 1b
    ret
    .size circle, .-circle
.Lend:
    .section .debug_abbrev,"",@progbits
    .byte 1, 0x11, 1, 0x11, 1, 0x12, 7, 0, 0
    .byte 2, 0x2e, 1, 0x11, 1, 0x12, 7, 0x31, 0x13, 0, 0
    .byte 3, 0x1d, 1, 0x31, 0x13, 0x11, 1, 0x12, 7, 0, 0
    .byte 4, 0x2e, 0, 0x47, 0x13, 0, 0
    .byte 0
    .section .debug_info,"",@progbits
.Lbegin:
    .long .Llast - .Lversion
.Lversion:
    .short 4
    .long 0
    .byte 8
    .byte 1
    .quad circle
    .quad .Lend - circle
.Lfunction:
    .byte 2
    .quad circle
    .quad .Lend - circle
    .long .Lorigin - .Lbegin
    .byte 3
    .long .Lother - .Lbegin
    .quad circle
    .quad .Lend - circle
    .byte 0, 0
.Lorigin:
    .byte 4
    .long .Lother - .Lbegin
.Lother:
    .byte 4
    .long .Lorigin - .Lbegin
    .byte 0
.Llast:
"#;

/// The most memory that a process has had, bytes.
fn peak(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status
        .lines()
        .find_map(|l| l.strip_prefix("VmHWM:"))
        .context("no VmHWM")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? << 10)
}

/// Cause: programs that run and whose files lie about all that a file can lie about, among them one of a terabyte; and a reader
/// of symbols that is killed. Seen: all are sampled, the agent lives within its memory, and a program that comes afterwards has
/// its names in seconds.
#[test]
fn files_that_are_not_to_be_believed() -> Result<()> {
    need_root!("cc", "pgrep");
    let scratch = Scratch::new()?;
    let agent = taking_stacks().set("probes.profile.inlined", "true").start()?;
    let before = peak(agent.pid().as_raw() as u32)?;
    let source = spin("spinning") + MAIN;
    let mut running = Vec::new();
    for (what, harm, length) in HARMS {
        let program = cc(&scratch, &unique("h"), &source, &["-static", "-g"])?;
        let mut patch = Patch(std::fs::read(&program)?);
        harm(&mut patch).context(*what)?;
        std::fs::write(&program, &patch.0)?;
        if *length > 0 {
            std::fs::File::options()
                .write(true)
                .open(&program)?
                .set_len(*length)?;
        }
        running.push((*what, run_gently(&program)?));
    }
    let circle = scratch.write("circle.s", CIRCLE)?;
    let calls =
        "void circle(void);\nint main(void) { for (long i = 0; i < 3000000; i++) circle(); return 0; }\n";
    let program = cc(&scratch, &unique("h"), calls, &[&circle.display().to_string()])?;
    running.push(("a circle", run_gently(&program)?));
    together(running.iter().collect(), |(what, (name, _))| {
        seen(&agent, name, |folded| {
            ensure!(folded.total() > 20, "{}", folded.total());
            Ok(())
        })
        .context(*what)
    })?;
    // What cannot be unpacked ends the reader, and what is too much work is refused.
    agent.until(|snapshot| {
        let ended = snapshot.number("geophone_profile_symbolizer_failures_total", &[])?;
        let malformed = [("reason", "malformed")];
        let refused = snapshot.number("geophone_profile_table_failures_total", &malformed)?;
        ensure!(
            (1.0..10.0).contains(&ended) && refused >= 1.0,
            "{ended} ended, {refused} refused"
        );
        Ok(())
    })?;
    let children = command::output(Command::new("pgrep").args(["-P", &agent.pid().to_string()]))?;
    for pid in children.split_whitespace() {
        let words = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        if words.contains("symbolize") {
            nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(pid.parse()?),
                nix::sys::signal::Signal::SIGKILL,
            )?;
        }
    }
    let sound = cc(&scratch, &unique("h"), &source, &[])?;
    let (name, _busy) = run_gently(&sound)?;
    let start = Instant::now();
    seen(&agent, &name, all_named)?;
    let (took, grown) = (
        start.elapsed(),
        peak(agent.pid().as_raw() as u32)?.saturating_sub(before),
    );
    println!("{took:?}, {} MiB", grown >> 20);
    ensure!(
        took < Duration::from_secs(60) && grown < 400 << 20,
        "{took:?}, {} MiB",
        grown >> 20
    );
    Ok(())
}
