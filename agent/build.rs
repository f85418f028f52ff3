//! Builds the eBPF object and leaves it as `OUT_DIR/geophone.bpf.o`, which the agent embeds.
//!
//! `GEOPHONE_BPF_OBJECT=FILE` takes a ready one; `GEOPHONE_SKIP_BPF=1` leaves an empty one, which is enough to lint and
//! to document but which the agent refuses to run with.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};

#[path = "../xtask/src/toolchain.rs"]
#[allow(dead_code, reason = "xtask uses the rest")]
mod toolchain;

fn main() -> ExitCode {
    let directory = |name: &str| env::var_os(name).map(PathBuf::from).unwrap_or_default();
    let out = directory("OUT_DIR");
    let manifest = directory("CARGO_MANIFEST_DIR");
    let root = manifest.parent().unwrap_or(&manifest);
    match provide(root, &out) {
        Ok(built_by) => {
            println!("cargo::rustc-env=GEOPHONE_BPF_BUILT_BY={built_by}");
            for name in
                toolchain::ENV
                    .iter()
                    .chain(&["PATH", "RUSTUP_HOME", "RUSTUP_TOOLCHAIN", "CARGO_HOME"])
            {
                println!("cargo::rerun-if-env-changed={name}");
            }
        }
        Err(Failure::Told(why)) => println!("cargo::error={why}"),
        Err(Failure::Compile(log)) => {
            eprintln!("{log}\ngeophone: the eBPF programs do not compile");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// What the object is made of.
const SOURCES: [&str; 5] = [
    "agent-ebpf/src",
    "agent-ebpf/Cargo.toml",
    "agent-common/src",
    "agent-common/Cargo.toml",
    "Cargo.toml",
];

/// Why there is no object.
enum Failure {
    /// One line, with what to do.
    Told(String),
    /// The compiler's own words.
    Compile(String),
}

/// Leaves the object in `out`; says what it was built by.
fn provide(root: &Path, out: &Path) -> Result<String, Failure> {
    let object = out.join("geophone.bpf.o");
    let told = |what: &str, path: &Path, error: std::io::Error| {
        Failure::Told(format!("{what} {}: {error}", path.display()))
    };
    if env::var_os("GEOPHONE_SKIP_BPF").is_some_and(|value| value != "0" && !value.is_empty()) {
        fs::write(&object, []).map_err(|error| told("cannot write", &object, error))?;
        return Ok("nothing (GEOPHONE_SKIP_BPF)".into());
    }
    if let Some(ready) = env::var_os("GEOPHONE_BPF_OBJECT")
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
    {
        println!("cargo::rerun-if-changed={}", ready.display());
        let bytes =
            fs::read(&ready).map_err(|error| told("GEOPHONE_BPF_OBJECT: cannot read", &ready, error))?;
        if !bytes.starts_with(b"\x7fELF") {
            return Err(Failure::Told(format!(
                "GEOPHONE_BPF_OBJECT: {} is not an ELF object",
                ready.display()
            )));
        }
        fs::write(&object, bytes).map_err(|error| told("cannot write", &object, error))?;
        return Ok(format!("GEOPHONE_BPF_OBJECT={}", ready.display()));
    }
    let setup = |why: String| Failure::Told(format!("{why}: run `cargo xtask setup`"));
    let compiler = toolchain::compiler().map_err(setup)?;
    let linker = toolchain::linker().map_err(setup)?;
    // OUT_DIR is target/PROFILE/build/agent-…/out, or target/TARGET/PROFILE/…: what the crate depends on is compiled once for all
    // profiles, targets and the lints.
    let above = out.ancestors().nth(4).unwrap_or(out);
    let is_target = above.file_name() == env::var_os("TARGET").as_deref();
    let top = above.parent().filter(|_| is_target).unwrap_or(above);
    let target_dir = top.join("ebpf");
    let output = toolchain::cargo(&compiler, &linker, root, "build", &target_dir)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| told("cannot run", &compiler.cargo, error))?;
    let log = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(Failure::Compile(log.into_owned()));
    }
    repeat_warnings(&log);
    let sources = SOURCES.iter().map(|source| root.join(source));
    for source in sources.chain([compiler.rustc.clone(), linker.clone()]) {
        println!("cargo::rerun-if-changed={}", source.display());
    }
    let built = toolchain::object(&target_dir);
    fs::copy(&built, &object).map_err(|error| told("cannot copy", &built, error))?;
    Ok(format!(
        "rustc {} ({}), LLVM {}",
        compiler.version, compiler.origin, compiler.llvm
    ))
}

/// Cargo hides what a build script prints; the eBPF crate's warnings are for the developer's eyes all the same.
fn repeat_warnings(log: &str) {
    let mut lines = log.lines().peekable();
    while let Some(line) = lines.next() {
        if line.starts_with("warning: ") && !line.contains(" generated ") {
            let place = lines
                .peek()
                .map(|next| next.trim())
                .filter(|next| next.starts_with("-->"))
                .unwrap_or_default();
            println!("cargo::warning=eBPF: {line} {place}");
        }
    }
}
