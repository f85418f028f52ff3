//! What builds the eBPF object: a Rust compiler that has the source of `core`, and bpf-linker.
//!
//! Shared, by path, between `agent/build.rs` (which compiles) and xtask (which installs what is missing), so that both
//! find the same tools in the same order. Std only: build.rs has no dependencies.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The target of the eBPF crate.
pub const TARGET: &str = "bpfel-unknown-none";
/// The version of bpf-linker that setup installs.
pub const LINKER_VERSION: &str = "0.13.0";
/// The oldest compiler that takes the eBPF crate (the workspace's `rust-version`).
pub const OLDEST_RUST: u32 = 95;
/// The LLVM that setup builds bpf-linker against; it reads no newer bitcode.
pub const LLVM: u32 = 22;
/// The environment that decides how the object is built.
pub const ENV: [&str; 5] = [
    "GEOPHONE_BPF_RUSTC",
    "GEOPHONE_BPF_CARGO",
    "GEOPHONE_BPF_LINKER",
    "GEOPHONE_BPF_OBJECT",
    "GEOPHONE_SKIP_BPF",
];

/// A compiler that can build `core` for eBPF.
#[derive(Clone, Debug)]
pub struct Compiler {
    /// Where it was found, for people.
    pub origin: String,
    /// The `cargo` that belongs to it.
    pub cargo: PathBuf,
    /// The compiler itself.
    pub rustc: PathBuf,
    /// Its version, such as `1.96.0`.
    pub version: String,
    /// The major version of its LLVM.
    pub llvm: u32,
}

/// Finds the compiler: the environment's choice, else a rustup toolchain with rust-src, else the distribution's.
///
/// The error says, in one line, what was looked at and why it would not do.
pub fn compiler() -> Result<Compiler, String> {
    if let Some(rustc) = env::var_os("GEOPHONE_BPF_RUSTC").map(PathBuf::from) {
        let cargo = match env::var_os("GEOPHONE_BPF_CARGO") {
            Some(cargo) => cargo.into(),
            None => rustc.with_file_name("cargo"),
        };
        return inspect("GEOPHONE_BPF_RUSTC", rustc, cargo);
    }
    let mut refused = Vec::new();
    for (origin, bin) in candidates() {
        match inspect(&origin, bin.join("rustc"), bin.join("cargo")) {
            Ok(found) => return Ok(found),
            Err(why) => refused.push(why),
        }
    }
    if refused.is_empty() {
        refused.push(
            "neither a rustup toolchain with rust-src nor a system rustc with its library's source".into(),
        );
    }
    Err(format!("no Rust compiler for eBPF ({})", refused.join("; ")))
}

/// Finds bpf-linker: `GEOPHONE_BPF_LINKER`, else on the path, else where `cargo install` puts it.
pub fn linker() -> Result<PathBuf, String> {
    if let Some(chosen) = env::var_os("GEOPHONE_BPF_LINKER").map(PathBuf::from) {
        let missing = || format!("GEOPHONE_BPF_LINKER={}: no such file", chosen.display());
        return if chosen.is_file() {
            Ok(chosen)
        } else {
            Err(missing())
        };
    }
    find("bpf-linker").ok_or_else(|| "no bpf-linker".into())
}

/// A program on the path, in cargo's own directory or where Debian puts what is for root.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let cargo = cargo_home().map(|home| home.join("bin"));
    let system = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from);
    env::split_paths(&path)
        .chain(cargo)
        .chain(system)
        .map(|dir| dir.join(program))
        .find(|file| file.is_file())
}

/// The cargo command that builds (or lints) the eBPF crate of the workspace at `root`.
///
/// What cargo set for the outer build is taken away: it is meant for another compiler and another target. Where sources,
/// crates and the linker are is not in the object: it is the same to the byte wherever it is built.
pub fn cargo(
    compiler: &Compiler,
    linker: &Path,
    root: &Path,
    subcommand: &str,
    target_dir: &Path,
) -> Command {
    let mut flags = vec![
        // Without it BTF lacks `core` and the verifier's log lacks lines (aya#1649).
        OsString::from("-Cdebuginfo=2"),
        "-Ctarget-cpu=v3".into(),
        "-Clink-arg=--btf".into(),
    ];
    // Of two that fit the last one holds.
    let library = compiler.rustc.parent().and_then(Path::parent);
    let library = library.map(|root| root.join("lib/rustlib/src/rust"));
    for (path, name) in [
        (cargo_home(), "cargo"),
        (library, "/rustc"),
        (Some(root.to_owned()), "geophone"),
    ] {
        if let Some(path) = path {
            let mut flag = OsString::from("--remap-path-prefix=");
            flag.push(path);
            flag.push("=");
            flag.push(name);
            flags.push(flag);
        }
    }
    let mut command = Command::new(&compiler.cargo);
    for (name, _) in env::vars_os().filter(|(name, _)| !kept(&name.to_string_lossy())) {
        command.env_remove(name);
    }
    command
        .args([
            subcommand,
            "--release",
            "--locked",
            "-Zbuild-std=core",
            "--target",
            TARGET,
        ])
        .arg("--manifest-path")
        .arg(root.join("agent-ebpf/Cargo.toml"))
        .arg("--target-dir")
        .arg(target_dir)
        .args(["--bin", "geophone-ebpf"])
        .current_dir(root)
        .env("RUSTC", &compiler.rustc)
        .env("RUSTC_WRAPPER", "")
        // Not among the flags, of which the names of symbols are made.
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", linker)
        .env("RUSTC_BOOTSTRAP", "1")
        .env(
            "CARGO_ENCODED_RUSTFLAGS",
            flags.join(std::ffi::OsStr::new("\x1f")),
        )
        .env("CARGO_PROFILE_RELEASE_LTO", "fat")
        .env("CARGO_PROFILE_RELEASE_PANIC", "abort");
    command
}

/// The object that [`cargo`] leaves under its target directory.
pub fn object(target_dir: &Path) -> PathBuf {
    target_dir.join(TARGET).join("release/geophone-ebpf")
}

/// The name and `bin` directory of every toolchain that has the source of `core`, the best first.
fn candidates() -> Vec<(String, PathBuf)> {
    let has_source = |root: &Path| {
        root.join("lib/rustlib/src/rust/library/core/Cargo.toml")
            .is_file()
    };
    let home = env::var_os("RUSTUP_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(user_home()?.join(".rustup")));
    let entries = home
        .and_then(|home| home.join("toolchains").read_dir().ok())
        .into_iter()
        .flatten()
        .flatten();
    let mut toolchains: Vec<_> = entries
        .map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path()))
        .collect();
    let active = env::var("RUSTUP_TOOLCHAIN").unwrap_or_default();
    toolchains.retain(|(_, path)| has_source(path));
    toolchains.sort();
    toolchains.sort_by_key(|(name, _)| (*name != active, !name.starts_with("stable")));
    let system = Some(("system".to_owned(), PathBuf::from("/usr"))).filter(|(_, path)| has_source(path));
    let rustup = toolchains
        .into_iter()
        .map(|(name, path)| (format!("rustup {name}"), path));
    rustup
        .chain(system)
        .map(|(name, path)| (name, path.join("bin")))
        .collect()
}

/// Asks a compiler who it is; an error if it is missing, too old, or of an LLVM that bpf-linker cannot read.
fn inspect(origin: &str, rustc: PathBuf, cargo: PathBuf) -> Result<Compiler, String> {
    let refuse = |why: &str| Err(format!("{origin}: {}: {why}", rustc.display()));
    if !cargo.is_file() {
        return refuse(&format!("its cargo is missing ({})", cargo.display()));
    }
    let output = Command::new(&rustc)
        .arg("-vV")
        .env_remove("LD_LIBRARY_PATH")
        .stdin(Stdio::null())
        .output();
    let text = match output {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).into_owned(),
        Ok(output) => return refuse(&format!("`-vV` ended with {}", output.status)),
        Err(error) => return refuse(&error.to_string()),
    };
    let (version, llvm) = match describe(&text) {
        Ok(known) => known,
        Err(why) => return refuse(&why),
    };
    Ok(Compiler {
        origin: origin.to_owned(),
        cargo,
        rustc,
        version,
        llvm,
    })
}

/// Reads the version and the LLVM version from `rustc -vV`.
fn describe(text: &str) -> Result<(String, u32), String> {
    let field = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name))
            .map(str::trim)
    };
    let number = |text: &str| text.parse::<u32>().ok();
    let (Some(version), Some(llvm)) = (field("release:"), field("LLVM version:")) else {
        return Err("`-vV` names no release or no LLVM".into());
    };
    let minor = version.split('.').nth(1).and_then(number).unwrap_or(0);
    let llvm = llvm.split('.').next().and_then(number).unwrap_or(0);
    if version.starts_with("1.") && minor < OLDEST_RUST {
        return Err(format!("{version} is older than 1.{OLDEST_RUST}"));
    }
    if llvm > LLVM {
        return Err(format!("LLVM {llvm} is newer than bpf-linker's, {LLVM}"));
    }
    Ok((version.to_owned(), llvm))
}

/// Whether a variable of the outer build is for the inner one as well.
fn kept(name: &str) -> bool {
    const CARGO: [&str; 5] = [
        "CARGO_HOME",
        "CARGO_HTTP_",
        "CARGO_NET_",
        "CARGO_REGISTR",
        "CARGO_TERM_",
    ];
    const OTHER: [&str; 12] = [
        "DEBUG",
        "DEP_",
        "HOST",
        "LD_LIBRARY_PATH",
        "MAKEFLAGS",
        "MFLAGS",
        "NUM_JOBS",
        "OPT_LEVEL",
        "OUT_DIR",
        "PROFILE",
        "TARGET",
        "CLIPPY_",
    ];
    match name {
        "RUSTUP_HOME" => true,
        _ if name.starts_with("CARGO") => CARGO.iter().any(|kept| name.starts_with(kept)),
        _ if name.starts_with("RUST") => false,
        _ => !OTHER
            .iter()
            .any(|gone| name == *gone || gone.ends_with('_') && name.starts_with(gone)),
    }
}

fn cargo_home() -> Option<PathBuf> {
    env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(user_home()?.join(".cargo")))
}

fn user_home() -> Option<PathBuf> {
    env::var_os("HOME")
        .filter(|home| !home.is_empty())
        .map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::{describe, kept};

    #[test]
    fn reads_a_compiler() {
        let known = |release: &str, llvm: &str| {
            describe(&format!("rustc\nrelease: {release}\nLLVM version: {llvm}\n"))
        };
        assert_eq!(known("1.96.0", "22.1.8"), Ok(("1.96.0".into(), 22)));
        assert_eq!(
            known("1.98.0-nightly", "22.1.4"),
            Ok(("1.98.0-nightly".into(), 22))
        );
        assert!(known("1.63.0", "14.0.6").is_err_and(|why| why.contains("older")));
        assert!(known("1.99.0", "23.0.0").is_err_and(|why| why.contains("newer")));
        assert!(describe("").is_err());
    }

    #[test]
    fn keeps_what_is_not_cargos() {
        for name in [
            "PATH",
            "HOME",
            "CARGO_HOME",
            "CARGO_NET_OFFLINE",
            "CARGO_HTTP_PROXY",
            "RUSTUP_HOME",
            "TMPDIR",
        ] {
            assert!(kept(name), "{name}");
        }
        for name in [
            "RUSTC",
            "RUSTFLAGS",
            "RUSTUP_TOOLCHAIN",
            "RUSTC_WORKSPACE_WRAPPER",
            "CARGO_ENCODED_RUSTFLAGS",
            "CARGO_TARGET_DIR",
            "CARGO",
            "CARGO_CFG_TARGET_OS",
            "CARGO_MAKEFLAGS",
            "DEP_X",
            "TARGET",
            "CLIPPY_ARGS",
        ] {
            assert!(!kept(name), "{name}");
        }
    }
}
