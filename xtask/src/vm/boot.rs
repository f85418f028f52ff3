//! One boot: qemu by emulation, the console to a file, the results from the second serial line.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::kernel::Kernel;
use crate::arch::Arch;
use crate::shell;

/// A machine that is not done by then is stuck.
const LIMIT_SECONDS: u32 = 300;

/// How a machine of an architecture is emulated.
struct Machine {
    qemu: &'static str,
    /// Its board and CPU.
    board: &'static [&'static str],
    /// The kernel's name of the line that is its console.
    console: &'static str,
    /// And of the one that carries the results.
    results: &'static str,
}

impl Machine {
    fn of(arch: Arch) -> Self {
        match arch {
            Arch::Amd64 => Self {
                qemu: "qemu-system-x86_64",
                board: &["-cpu", "max"],
                console: "ttyS0",
                results: "ttyS1",
            },
            Arch::Arm64 => Self {
                qemu: "qemu-system-aarch64",
                // Everything that a CPU may have, signed return addresses among it, but these by a cheaper function.
                board: &["-machine", "virt", "-cpu", "max,pauth-impdef=on"],
                console: "ttyAMA0",
                results: "ttyS0",
            },
        }
    }

    /// The lines: the console first, then the results.
    fn lines(&self, command: &mut Command, console: &str, results: &str) {
        command.args(["-serial", console]);
        if self.results == "ttyS1" {
            command.args(["-serial", results]);
        } else {
            // The board has one line only.
            let backend = match results.split_once(':') {
                Some(("file", path)) => format!("file,id=results,path={path}"),
                _ => "null,id=results".to_owned(),
            };
            command.args(["-chardev", &backend, "-device", "pci-serial,chardev=results"]);
        }
    }
}

/// What one section of the guest script printed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Section {
    /// Its standard output.
    pub text: String,
    /// Its exit code.
    pub code: i32,
}

/// The sections by name.
pub type Seen = BTreeMap<String, Section>;

/// What else is on the kernel's command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Nothing.
    Plain,
    /// Nobody, not even root, may read the kernel's memory.
    Lockdown,
    /// systemd is the first process, as on a host.
    Service,
}

impl Mode {
    /// Those of the kernel's own, in the order in which they are booted.
    pub const KERNEL: [Self; 2] = [Self::Plain, Self::Lockdown];

    /// For lines that name it, and where its console is kept, below the kernel's directory.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Lockdown => "lockdown",
            Self::Service => "service",
        }
    }

    /// What the guest's scripts, or the kernel, know it by.
    fn option(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Lockdown => " lockdown=confidentiality",
            Self::Service => " systemd",
        }
    }
}

/// Boots the kernel with the image and returns what the guest script reported.
pub fn boot(kernel: &Kernel, image: &Path, mode: Mode, dir: &Path) -> Result<Seen> {
    let (console, results) = (dir.join("console.log"), dir.join("results"));
    for file in [&console, &results] {
        fs::write(file, "").with_context(|| format!("cannot write {}", file.display()))?;
    }
    let mut command = qemu(kernel, image, mode);
    let line = |file: &Path| format!("file:{}", file.display());
    Machine::of(kernel.arch).lines(&mut command, &line(&console), &line(&results));
    let status = command
        .stdin(Stdio::null())
        .status()
        .context("cannot run qemu: run `cargo xtask setup test`, or `setup arm64`")?;
    let seen = sections(&String::from_utf8_lossy(&fs::read(&results)?));
    if !status.success() || !seen.contains_key("end") {
        let log = fs::read(&console)?;
        let log = String::from_utf8_lossy(&log);
        let tail: Vec<_> = log.lines().rev().take(30).collect();
        for line in tail.iter().rev() {
            eprintln!("  | {line}");
        }
        let why = if status.code() == Some(124) {
            "was stopped, as it was not done in time"
        } else {
            "ended early"
        };
        bail!(
            "the virtual machine with {} {why} ({status}); its console is {}",
            kernel.release,
            console.display()
        );
    }
    Ok(seen)
}

/// The command for a developer who wants to look around.
pub fn shown(kernel: &Kernel, image: &Path, mode: Mode) -> String {
    let mut command = qemu(kernel, image, mode);
    Machine::of(kernel.arch).lines(&mut command, "stdio", "file:/dev/null");
    shell::shown(&command)
}

/// Emulated, not KVM: it works in any container or virtual machine, and a boot takes but seconds.
fn qemu(kernel: &Kernel, image: &Path, mode: Mode) -> Command {
    let machine = Machine::of(kernel.arch);
    let limit = LIMIT_SECONDS * if kernel.arch.is_foreign() { 3 } else { 1 };
    let mut command = Command::new("timeout");
    command
        .args(["--kill-after=5", &limit.to_string(), machine.qemu])
        .args(machine.board)
        .args([
            // One thread for both CPUs: with two, a CPU was seen to run an int3 of the kernel's own code patching after
            // it had been taken back (static keys of the BPF statistics), which is a panic.
            "-accel",
            "tcg,thread=single",
            "-smp",
            "2",
            "-m",
            "1024",
        ])
        .args([
            "-display",
            "none",
            "-monitor",
            "none",
            "-no-reboot",
            "-nic",
            "none",
        ])
        .arg("-kernel")
        .arg(&kernel.image)
        .arg("-initrd")
        .arg(image)
        .arg("-append")
        .arg(format!(
            "console={} results=/dev/{} quiet panic=-1 mitigations=off tsc=reliable{}",
            machine.console,
            machine.results,
            mode.option()
        ));
    command
}

/// Takes the results apart: `@@begin NAME`, text, `@@end NAME CODE`.
fn sections(text: &str) -> Seen {
    let mut seen = Seen::new();
    let mut open: Option<(String, Vec<&str>)> = None;
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("@@begin ") {
            open = Some((name.trim().to_owned(), Vec::new()));
        } else if let Some(rest) = line.strip_prefix("@@end ") {
            let Some((name, lines)) = open.take() else {
                continue;
            };
            let code = rest
                .trim()
                .rsplit(' ')
                .next()
                .and_then(|code| code.parse().ok())
                .unwrap_or(-1);
            seen.insert(
                name,
                Section {
                    text: lines.join("\n").trim().to_owned(),
                    code,
                },
            );
        } else if let Some((_, lines)) = &mut open {
            lines.push(line);
        }
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::sections;

    #[test]
    fn takes_results_apart() {
        let seen = sections("noise\n@@begin check\n{\"a\":\n1}\n\n@@end check 1\n@@begin cut\nx\n");
        assert_eq!(seen.len(), 1);
        assert_eq!(seen["check"].text, "{\"a\":\n1}");
        assert_eq!(seen["check"].code, 1);
    }
}
