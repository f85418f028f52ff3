//! The commands that install things.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::Step;
use super::packages::{self, Need};
use crate::shell::{self, is_root, say};
use crate::toolchain::{self, LINKER_VERSION, LLVM, find};

const POLICY: &str = "/usr/sbin/policy-rc.d";
const POLICY_TEXT: &str =
    "#!/bin/sh\n# left by geophone's `cargo xtask setup` while it installs: start no service\nexit 101\n";

/// How an eBPF compiler gets here: no step where Debian's packages bring it, else rustup's rust-src.
///
/// An explicit choice that does not work is not overruled.
pub fn compiler_install(why: &str) -> Result<Option<Step>> {
    if std::env::var_os("GEOPHONE_BPF_RUSTC").is_some() {
        bail!("{why}");
    }
    if is_debian() {
        return Ok(None);
    }
    if find("rustup").is_none() {
        bail!(
            "{why}; neither apt-get nor rustup can install one here: set GEOPHONE_BPF_RUSTC and GEOPHONE_BPF_CARGO"
        );
    }
    let mut command = Command::new("rustup");
    command.args(["component", "add", "rust-src"]);
    Ok(Some(Step {
        command,
        why: vec![format!("rust-src: {why}")],
        apt: false,
        optional: false,
    }))
}

/// rustfmt and clippy of the host's toolchain, which rustup's minimal profile lacks.
pub fn components() -> Result<Option<Step>> {
    let answers = |name: &str| {
        let mut command = Command::new(name);
        let silent = command
            .arg("--version")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        silent.status().is_ok_and(|status| status.success())
    };
    let missing: Vec<_> = [("rustfmt", "rustfmt"), ("cargo-clippy", "clippy")]
        .into_iter()
        .filter(|(program, _)| !answers(program))
        .collect();
    if missing.is_empty() {
        return Ok(None);
    }
    if find("rustup").is_none() {
        bail!("rustfmt or clippy is missing, and there is no rustup to install them");
    }
    let mut command = Command::new("rustup");
    command
        .args(["component", "add"])
        .args(missing.iter().map(|(_, component)| component));
    let why = missing
        .iter()
        .map(|(_, component)| format!("{component}: `cargo xtask test`"))
        .collect();
    Ok(Some(Step {
        command,
        why,
        apt: false,
        optional: false,
    }))
}

/// Debian, whose package names are used here.
pub fn is_debian() -> bool {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    release.lines().any(|line| line == "ID=debian") && find("apt-get").is_some()
}

/// One apt-get call for everything.
pub fn apt(needs: &[&Need]) -> Result<Step> {
    let mut names: Vec<&str> = needs.iter().map(|need| need.package).collect();
    names.sort_unstable();
    names.dedup();
    let why = needs
        .iter()
        .map(|need| format!("{}: {}", need.package, need.why))
        .collect();
    if !is_debian() {
        let programs: Vec<_> = needs.iter().flat_map(|need| need.proof).copied().collect();
        bail!(
            "missing, and not Debian, so install them yourself: {}",
            programs.join(" ")
        );
    }
    let mut command = Command::new("apt-get");
    command
        .args(["install", "-y", "-q", "--no-install-recommends"])
        .args(names);
    Ok(Step {
        command,
        why,
        apt: true,
        optional: false,
    })
}

/// Runs an apt-get install after an update, so that no service is started by it.
pub fn run_apt(install: &mut Command) -> Result<()> {
    if !is_root() {
        bail!(
            "installing packages needs root: run `sudo apt-get update && sudo {}`, then this again",
            shell::shown(install)
        );
    }
    let _guard = NoServices::new()?;
    refresh_apt()?;
    say(shell::shown(install));
    shell::run(install.env("DEBIAN_FRONTEND", "noninteractive"))
}

/// Gets the archive's lists.
pub fn refresh_apt() -> Result<()> {
    say("apt-get update");
    shell::run(Command::new("apt-get").args(["update", "-q"]))
}

/// While it lives, packages start no daemons: Debian asks policy-rc.d.
struct NoServices {
    ours: bool,
}

impl NoServices {
    fn new() -> Result<Self> {
        use std::os::unix::fs::PermissionsExt;
        let found = fs::read_to_string(POLICY);
        let ours = match &found {
            Ok(text) => text == POLICY_TEXT,
            Err(error) => error.kind() == std::io::ErrorKind::NotFound,
        };
        if ours {
            fs::write(POLICY, POLICY_TEXT)
                .and_then(|()| fs::set_permissions(POLICY, fs::Permissions::from_mode(0o755)))
                .with_context(|| format!("cannot write {POLICY}"))?;
        }
        Ok(Self { ours })
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.ours
            && let Err(error) = fs::remove_file(POLICY)
        {
            say(format_args!(
                "cannot remove {POLICY}: {error}; remove it, or no service starts on this machine"
            ));
        }
    }
}

/// Whether a bpf-linker is there that runs; it is only asked for its version, which takes milliseconds.
pub fn linker_state() -> Result<(), String> {
    let linker = toolchain::linker()?;
    let output = Command::new(&linker)
        .arg("--version")
        .stdin(Stdio::null())
        .output();
    let output = output.map_err(|error| format!("{}: {error}", linker.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = text.trim().strip_prefix("bpf-linker ").unwrap_or_default();
    let minor = |version: &str| {
        version
            .split('.')
            .nth(1)
            .and_then(|minor| minor.parse::<u32>().ok())
    };
    if !output.status.success() {
        let complaint = String::from_utf8_lossy(&output.stderr);
        return Err(format!(
            "{} does not run: {}",
            linker.display(),
            complaint.lines().next().unwrap_or_default()
        ));
    }
    if version.starts_with("0.") && minor(version) < minor(LINKER_VERSION) {
        return Err(format!(
            "{} is {version}, older than {LINKER_VERSION}",
            linker.display()
        ));
    }
    Ok(())
}

/// The packages and the command that build bpf-linker.
pub fn linker_install(why: String) -> Result<(&'static [Need], Step)> {
    if std::env::var_os("GEOPHONE_BPF_LINKER").is_some() {
        bail!("{why}");
    }
    let variable = format!("LLVM_SYS_{LLVM}1_PREFIX");
    let debian = PathBuf::from(format!("/usr/lib/llvm-{LLVM}"));
    let prefix = match std::env::var_os(&variable).map(PathBuf::from) {
        Some(prefix) => prefix,
        None if is_debian() || debian.join("bin/llvm-config").exists() => debian.clone(),
        None => bail!(
            "{why}: install LLVM {LLVM} with its headers, set {variable} to where it is, and run this again"
        ),
    };
    let packages: &[Need] = if prefix == debian && is_debian() {
        packages::LINKER
    } else {
        &[]
    };
    Ok((
        packages,
        Step {
            command: linker_command(&variable, &prefix),
            why: vec![format!("bpf-linker: {why}")],
            apt: false,
            optional: false,
        },
    ))
}

fn linker_command(variable: &str, prefix: &Path) -> Command {
    let mut command = Command::new("cargo");
    let feature = format!("llvm-{LLVM}");
    command
        .args([
            "install",
            "bpf-linker",
            "--version",
            LINKER_VERSION,
            "--locked",
            "--force",
        ])
        .args(["--no-default-features", "--features", &feature])
        .env(variable, prefix)
        // Its build script looks for llvm-config here, else on the path, where another LLVM's may be.
        .env("LLVM_PREFIX", prefix)
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_TARGET_DIR")
        .current_dir("/");
    command
}
