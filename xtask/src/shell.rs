//! Running other programs, and what xtask knows about where it runs.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use anyhow::{Context, Result, bail};

/// Tells the developer what happens next.
pub fn say(text: impl std::fmt::Display) {
    eprintln!("xtask: {text}");
}

/// The workspace's directory: cargo's word at run time, for the binary may come from a target directory that several
/// work trees share.
pub fn root() -> &'static Path {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    ROOT.get_or_init(|| {
        let manifest = std::env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
        manifest.parent().map_or(manifest.clone(), Path::to_path_buf)
    })
}

/// Where cargo puts what it builds.
pub fn target_dir() -> Result<PathBuf> {
    Ok(metadata()?.target_directory)
}

/// The part of `cargo metadata` that xtask uses.
#[derive(serde::Deserialize)]
pub struct Metadata {
    /// Where cargo puts what it builds.
    pub target_directory: PathBuf,
    /// The members of the workspace.
    pub packages: Vec<Package>,
}

/// A member of the workspace.
#[derive(serde::Deserialize)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its Cargo.toml.
    pub manifest_path: PathBuf,
    /// Its `package.metadata`.
    #[serde(default)]
    pub metadata: serde_json::Value,
}

/// Asks cargo about the workspace.
pub fn metadata() -> Result<Metadata> {
    let text = capture(cargo().args(["metadata", "--no-deps", "--format-version", "1"]))?;
    serde_json::from_str(&text).context("cargo metadata: not what was expected")
}

/// Whether this is root.
pub fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|me| me.uid() == 0)
}

/// Cargo, in the workspace, without what the outer `cargo xtask` set for xtask itself: crates that watch those
/// variables (ring does) would be built again and again.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text == "CARGO" || text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(name);
        }
    }
    command.current_dir(root());
    command
}

/// The same with a subcommand for what is to be tested: packages of the workspace not optimized and with their own checks, on the dependencies of the
/// released agent. A profile of its own would compile those once more, which is half of what a fresh machine does.
pub fn cargo_tested(subcommand: &str) -> Result<Command> {
    let mut command = cargo();
    command.args([subcommand, "--release"]);
    for package in metadata()?.packages {
        let settings = ["opt-level=0", "debug-assertions=true", "overflow-checks=true"];
        for setting in settings {
            let setting = format!("profile.release.package.{}.{setting}", package.name);
            command.args(["--config", &setting]);
        }
    }
    Ok(command)
}

/// The command as one could type it.
pub fn shown(command: &Command) -> String {
    let quote = |text: &OsStr| {
        let text = text.to_string_lossy();
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
        if !text.is_empty() && text.chars().all(plain) {
            text.into_owned()
        } else {
            format!("'{text}'")
        }
    };
    let set = command
        .get_envs()
        .filter_map(|(name, value)| Some((name, value?)));
    let mut words: Vec<String> = set
        .map(|(name, value)| format!("{}={}", name.to_string_lossy(), quote(value)))
        .collect();
    words.push(quote(command.get_program()));
    words.extend(command.get_args().map(quote));
    words.join(" ")
}

/// The command in a word or two, for a line that says how it ended.
pub fn brief(command: &Command) -> String {
    let program = Path::new(command.get_program())
        .file_name()
        .unwrap_or_default()
        .to_string_lossy();
    let first = command
        .get_args()
        .next()
        .map(|word| format!(" {}", word.to_string_lossy()))
        .unwrap_or_default();
    format!("{program}{first}")
}

/// Runs a command, which must succeed; its output is the developer's to see.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("cannot run `{}`", shown(command)))?;
    if !status.success() {
        bail!("`{}` ended with {status}", brief(command));
    }
    Ok(())
}

/// Runs a command, which must succeed, and returns what it prints.
pub fn capture(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot run `{}`", shown(command)))?;
    if !output.status.success() {
        bail!("`{}` ended with {}", brief(command), output.status);
    }
    String::from_utf8(output.stdout)
        .with_context(|| format!("`{}` printed what is not UTF-8", shown(command)))
}
