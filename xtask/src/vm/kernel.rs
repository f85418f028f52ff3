//! Kernels: fetched from Debian once, unpacked (not installed), kept.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::arch::Arch;
use crate::cross::debian::{Debian, unpack as unpack_package};
use crate::setup::refresh_apt;
use crate::shell::{capture, run, say};

/// An unpacked kernel.
pub struct Kernel {
    /// What machines run it.
    pub arch: Arch,
    /// `uname -r`.
    pub release: String,
    /// The root of the unpacked package: `boot/`, `lib/modules/`.
    pub root: PathBuf,
    /// What qemu boots.
    pub image: PathBuf,
}

/// The newest kernel of a series: the one kept in `dir`, else fetched. Remove `dir` to get a newer one.
pub fn provide(series: &str, arch: Arch, dir: &Path) -> Result<Kernel> {
    let mark = dir.join("release");
    let root = dir.join("root");
    if let Ok(release) = fs::read_to_string(&mark) {
        return Ok(Kernel {
            arch,
            image: bootable(&root, &release),
            release,
            root,
        });
    }
    if dir.exists() {
        fs::remove_dir_all(dir).with_context(|| format!("cannot clear {}", dir.display()))?;
    }
    fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let package = newest(series, arch)?;
    let Some(release) = package.strip_prefix("linux-image-").map(str::to_owned) else {
        bail!("{package}: not the name of a kernel package");
    };
    say(format_args!(
        "fetching {package} for the virtual machine (kept in {})",
        dir.display()
    ));
    let deb = if arch.is_foreign() {
        Debian::of(arch)?.download(&package, dir)?
    } else {
        download(&package, dir)?
    };
    unpack_package(&deb, &root)?;
    run(Command::new("depmod").arg("-b").arg(&root).arg(&release))?;
    fs::remove_file(&deb)?;
    // That of arm64 is not compressed.
    if arch == Arch::Amd64 {
        unpack(&root, &release)?;
    }
    fs::write(mark, &release)?;
    Ok(Kernel {
        arch,
        image: bootable(&root, &release),
        release,
        root,
    })
}

fn download(package: &str, dir: &Path) -> Result<PathBuf> {
    // As root, apt would warn that its own user cannot write here.
    run(Command::new("apt-get")
        .args(["-q", "-o", "APT::Sandbox::User=root", "download", package])
        .current_dir(dir))?;
    let deb = fs::read_dir(dir)?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension() == Some("deb".as_ref()));
    deb.with_context(|| format!("apt-get download {package} left no package"))
}

/// The package that the series' meta package depends on: versions come and go, and old ones vanish from the archive.
fn newest(series: &str, arch: Arch) -> Result<String> {
    let name = arch.name();
    let meta = if series == "6.1" {
        format!("linux-image-cloud-{name}")
    } else {
        format!("linux-image-{series}-cloud-{name}")
    };
    let foreign = if arch.is_foreign() {
        Some(Debian::of(arch)?)
    } else {
        None
    };
    let depends = || match &foreign {
        Some(debian) => debian.depends(&meta),
        None => capture(Command::new("apt-cache").args(["depends", &meta])),
    };
    let text = match depends() {
        Ok(text) if text.contains("Depends:") => text,
        _ => {
            match &foreign {
                Some(debian) => debian.refresh()?,
                None => refresh_apt()?,
            }
            depends()?
        }
    };
    let wanted = format!("linux-image-{series}.");
    let mut names = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "));
    match names.find(|name| name.starts_with(&wanted)) {
        Some(name) => Ok(name.to_owned()),
        None => bail!("{meta} depends on no {wanted}* kernel: is this Debian 12 with its security updates?"),
    }
}

fn vmlinux(root: &Path) -> PathBuf {
    root.join("boot/vmlinux")
}

fn bootable(root: &Path, release: &str) -> PathBuf {
    let plain = vmlinux(root);
    if plain.exists() {
        plain
    } else {
        root.join(format!("boot/vmlinuz-{release}"))
    }
}

/// Takes the plain kernel out of the compressed one; booting it saves a second of emulated decompression.
///
/// Not finding it is no error: the compressed one boots as well.
fn unpack(root: &Path, release: &str) -> Result<()> {
    let packed = fs::read(root.join(format!("boot/vmlinuz-{release}")))?;
    for (magic, program) in [(&b"\x02\x21\x4c\x18"[..], "lz4"), (b"\x28\xb5\x2f\xfd", "zstd")] {
        let Some(start) = packed.windows(magic.len()).position(|window| window == magic) else {
            continue;
        };
        let plain = decompress(program, packed.get(start..).unwrap_or_default())?;
        if plain.starts_with(b"\x7fELF") {
            fs::write(vmlinux(root), plain)?;
            return Ok(());
        }
    }
    Ok(())
}

/// What a decompressor makes of the bytes; it complains about what follows its stream, so its exit code says little.
fn decompress(program: &str, bytes: &[u8]) -> Result<Vec<u8>> {
    let mut child = Command::new(program)
        .arg("-dc")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("cannot run {program}"))?;
    let mut input = child.stdin.take().context("no pipe")?;
    std::thread::scope(|scope| {
        // It stops reading at the end of its stream: a broken pipe is expected.
        scope.spawn(move || drop(input.write_all(bytes)));
        Ok(child.wait_with_output()?.stdout)
    })
}
