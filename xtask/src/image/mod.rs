//! `cargo xtask image`: the container image as an OCI layout, made here and without a registry, and tried by runc.
//!
//! One program, certificates to trust, licences, the bill of materials; deploy/container/Dockerfile takes the same files. Of the
//! same program, certificates and commit it is the same to the byte, whenever it is made.

mod layer;
mod layout;
mod runtime_default;
mod sbom;
mod trial;
mod twice;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::arch::Arch;
use crate::cross::{self, Profile};
use crate::setup::{Group, How, setup};
use crate::shell::{capture, cargo, root, run, say, target_dir};
use crate::toolchain::find;
use layer::Layer;
pub use layout::Layout;

/// What to make.
#[derive(Args, Clone, Debug, Default)]
pub struct Options {
    /// For this architecture; for another one than this machine's it is cross-built [default: this machine's]
    #[arg(long)]
    arch: Option<Arch>,
    /// Use this program instead of building a static one
    #[arg(long, value_name = "FILE")]
    agent: Option<PathBuf>,
    /// Where to; its contents are replaced. As it comes: target/image, or target/image-arm64
    #[arg(long, value_name = "DIRECTORY")]
    output: Option<PathBuf>,
    /// Leave what is in it here as well, as files: deploy/container/Dockerfile takes them
    #[arg(long, value_name = "DIRECTORY")]
    rootfs: Option<PathBuf>,
    /// Start it by runc as well, with the capabilities of the DaemonSet, and ask it for its metrics
    #[arg(long)]
    test: bool,
    /// With --test: under this default profile of a runtime as well, as containers-common and Docker write theirs
    #[arg(long, value_name = "FILE", requires = "test")]
    seccomp: Option<PathBuf>,
    /// Build the eBPF object in another directory too, and compare: a minute of CPU time
    #[arg(long)]
    reproduce: bool,
    #[command(flatten)]
    how: How,
}

/// Where certificates to trust are, on Debian and its like.
const CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Makes the image and says what it is.
pub fn image(options: &Options) -> Result<()> {
    let arch = options.arch.unwrap_or_else(Arch::here);
    let mut groups = vec![Group::Build];
    if options.test {
        ensure!(
            !arch.is_foreign(),
            "an image of {} cannot be started here: `cargo xtask vm --arch {}` runs the agent",
            arch.name(),
            arch.name()
        );
        groups.push(Group::Test);
    }
    if arch.is_foreign() {
        groups.push(Group::Arm64);
    }
    setup(&groups, options.how)?;
    if options.reproduce {
        twice::check()?;
    }
    let agent = match &options.agent {
        Some(ready) => ready.clone(),
        None if arch.is_foreign() => cross::build(arch, Profile::Static)?,
        None => build_static()?,
    };
    let output = match &options.output {
        Some(output) => output.clone(),
        None if arch.is_foreign() => target_dir()?.join(format!("image-{}", arch.name())),
        None => target_dir()?.join("image"),
    };
    let layout = make(arch, &agent, &output)?;
    say(format_args!(
        "{}: {} ({}, {:.1} MB, {})",
        output.display(),
        layout.digest,
        arch.name(),
        layout.bytes as f64 / 1e6,
        if is_static(&agent)? {
            "static"
        } else {
            "with the libraries of this machine"
        }
    ));
    say(format_args!(
        "`skopeo copy oci:{} docker://…` or `podman pull oci:{}` takes it from there",
        output.display(),
        output.display()
    ));
    if let Some(rootfs) = &options.rootfs {
        fs::create_dir_all(rootfs).with_context(|| format!("cannot make {}", rootfs.display()))?;
        layer::unpack(&layout::read(&output)?.layer, rootfs)?;
    }
    if options.test {
        trial::try_all(&output, options.seccomp.as_deref())?;
    }
    Ok(())
}

/// As a stage of the tests: twice the same, and started.
pub fn check(agent: &Path) -> Result<u64> {
    let scratch = tempfile::tempdir_in(target_dir()?)?;
    let (first, second) = (scratch.path().join("first"), scratch.path().join("second"));
    let digest = make(Arch::here(), agent, &first)?.digest;
    // Another name and another time: neither is to be in it.
    let copy = scratch.path().join("another-name");
    fs::copy(agent, &copy)?;
    let again = make(Arch::here(), &copy, &second)?.digest;
    ensure!(digest == again, "twice made, it is {digest} and {again}");
    Ok(1 + trial::try_all(&first, None)?)
}

/// The released agent, linked once more: without a library of the host's. What it is made of is compiled for either, only the
/// program itself is not.
pub fn build_static() -> Result<PathBuf> {
    let mut command = cargo();
    command
        .args([
            "rustc",
            "--release",
            "--locked",
            "--package",
            "agent",
            "--bin",
            "geophone",
            "--",
        ])
        .args(["-C", "target-feature=+crt-static"]);
    run(&mut command)?;
    let built = target_dir()?.join("release/geophone");
    // The next build has the other one in this place.
    let own = target_dir()?.join("release/geophone-static");
    fs::copy(&built, &own).with_context(|| format!("cannot copy {}", built.display()))?;
    ensure!(
        is_static(&own)?,
        "{}: not static, although it was asked to be",
        own.display()
    );
    Ok(own)
}

/// Whether a program needs no library.
pub fn is_static(program: &Path) -> Result<bool> {
    let headers = capture(
        Command::new("readelf")
            .args(["--program-headers", "--dynamic", "--wide"])
            .arg(program),
    )?;
    Ok(!headers.contains("(NEEDED)") && !headers.contains("INTERP"))
}

/// Seconds since 1970 that everything in the image bears: SOURCE_DATE_EPOCH, else of the commit, else none.
fn epoch() -> u64 {
    let given = std::env::var("SOURCE_DATE_EPOCH").ok();
    let commit = || git(&["log", "-1", "--format=%ct"]);
    given
        .or_else(commit)
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(0)
}

/// What git says, where there is one that knows this directory.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git")
        .args(arguments)
        .current_dir(root())
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

/// Writes the layout of this program's image into a directory, which is made anew.
fn make(arch: Arch, agent: &Path, output: &Path) -> Result<Layout> {
    let epoch = epoch();
    if output.exists() {
        ensure!(
            output.join("oci-layout").is_file() || output.read_dir()?.next().is_none(),
            "{} is no image and not empty: name another directory",
            output.display()
        );
        fs::remove_dir_all(output)?;
    }
    fs::create_dir_all(output).with_context(|| format!("cannot make {}", output.display()))?;
    let mut layer = Layer::new(epoch);
    for directory in ["etc/geophone", "proc", "run", "sys", "dev", "var/lib/geophone"] {
        layer.directory(directory, 0o755);
    }
    layer.directory("tmp", 0o1777);
    let stripped = output.join("program");
    let tools = if arch.is_foreign() { arch.tools() } else { "" };
    run(Command::new(format!("{tools}strip"))
        .arg("--strip-debug")
        .arg("-o")
        .arg(&stripped)
        .arg(agent))?;
    layer.file("usr/bin/geophone", 0o755, fs::read(&stripped)?);
    fs::remove_file(&stripped)?;
    if !is_static(agent)? {
        ensure!(
            !arch.is_foreign(),
            "{}: not static, and the libraries of {} are not here",
            agent.display(),
            arch.name()
        );
        for library in libraries(agent)? {
            let bytes = fs::read(&library).with_context(|| library.display().to_string())?;
            layer.file(&library.to_string_lossy(), 0o755, bytes);
        }
    }
    let certificates = fs::read(CERTIFICATES).with_context(|| {
        format!("{CERTIFICATES}: no certificates to trust; apt-get install ca-certificates")
    })?;
    layer.file(CERTIFICATES, 0o644, certificates);
    // Else glibc asks DNS before /etc/hosts.
    layer.file("etc/nsswitch.conf", 0o644, b"hosts: files dns\n".to_vec());
    for name in ["LICENSE", "LICENSE-APACHE", "LICENSE-GPL"] {
        layer.file(&format!("licenses/{name}"), 0o644, fs::read(root().join(name))?);
    }
    let bill = sbom::of(arch, is_static(agent)?)?;
    layer.file("licenses/sbom.cdx.json", 0o644, bill.clone().into_bytes());
    let created = UNIX_EPOCH + Duration::from_secs(epoch);
    let about = layout::About {
        created: humantime::format_rfc3339_seconds(created).to_string(),
        revision: git(&["rev-parse", "HEAD"]).unwrap_or_default(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        arch,
    };
    let layout = layout::write(output, &layer.finish()?, &about)?;
    fs::write(output.join("sbom.cdx.json"), bill)?;
    Ok(layout)
}

/// The libraries of a program, its loader among them, where it looks for them.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let text = capture(Command::new(find("ldd").context("no ldd")?).arg(program))?;
    Ok(text
        .split_whitespace()
        .filter(|word| word.starts_with('/'))
        .map(PathBuf::from)
        .collect())
}
