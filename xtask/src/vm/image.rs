//! The initial file system: busybox, glibc programs with their libraries, kernel modules, the agent.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::kernel::Kernel;
use super::service;
use super::userland::Userland;
use crate::shell::{capture, run};
use crate::toolchain::find;

/// Programs that the guest script calls. `timeout` is among them because busybox's would run busybox's `ip`.
const PROGRAMS: [&str; 12] = [
    "bash", "timeout", "ip", "tc", "ethtool", "iperf3", "ping", "nft", "bpftool", "wg", "perl", "runc",
];
/// Modules that they need, with what those depend on.
const MODULES: [&str; 19] = [
    "veth",
    "sch_netem",
    "sch_ingress",
    "cls_bpf",
    "inet_diag",
    "tcp_diag",
    "nf_tables",
    "8021q",
    "vxlan",
    "geneve",
    "ip_gre",
    "ipip",
    "sit",
    "wireguard",
    "esp4",
    "xfrm_user",
    "authenc",
    "echainiv",
    "drbg",
];

/// Writes the image into `dir` and returns its path.
pub fn make(kernel: &Kernel, userland: &Userland, agent: &Path, dir: &Path) -> Result<PathBuf> {
    let stage = dir.join("stage");
    if stage.exists() {
        fs::remove_dir_all(&stage)?;
    }
    for name in [
        "bin", "sbin", "usr/bin", "usr/sbin", "proc", "sys", "dev", "run", "tmp", "etc", "root", "var/run",
        "modules",
    ] {
        fs::create_dir_all(stage.join(name))
            .with_context(|| format!("cannot make {name} in {}", stage.display()))?;
    }
    fs::write(stage.join("etc/hosts"), "127.0.0.1 localhost\n")?;
    fs::write(stage.join("etc/passwd"), "root:x:0:0:root:/root:/bin/bash\n")?;
    script(&stage.join("init"), include_str!("../../vm/init.sh"))?;
    script(&stage.join("guest.sh"), include_str!("../../vm/guest.sh"))?;
    script(&stage.join("tunnels.sh"), include_str!("../../vm/tunnels.sh"))?;
    script(&stage.join("kubepods.sh"), include_str!("../../vm/kubepods.sh"))?;
    busybox(userland, &stage)?;
    for name in PROGRAMS {
        program(userland, name, &stage)?;
    }
    if userland.has_systemd() {
        service::stage(userland, &stage)?;
    }
    let copy = stage.join("bin/geophone");
    run(userland
        .strip()
        .arg("--strip-debug")
        .arg("-o")
        .arg(&copy)
        .arg(agent))?;
    userland.libraries(agent, &stage)?;
    stacks(userland, dir, &stage)?;
    modules(kernel, &stage)?;
    let image = dir.join("initramfs");
    // Not compressed: emulated decompression takes longer than reading.
    let pack = "find . | cpio --quiet -o -H newc > \"$0\"";
    run(Command::new("sh")
        .arg("-ec")
        .arg(pack)
        .arg(&image)
        .current_dir(&stage))?;
    fs::remove_dir_all(&stage)?;
    Ok(image)
}

fn script(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text)?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o755))?)
}

/// A program with its libraries, in place of busybox's of that name.
pub fn program(userland: &Userland, name: &str, stage: &Path) -> Result<()> {
    let program = userland.program(name)?;
    let copy = stage.join("bin").join(name);
    let _ = fs::remove_file(&copy);
    fs::copy(&program, copy)?;
    userland.libraries(&program, stage)
}

/// busybox and a link for each of its applets, which this machine's tells: it is of the same version.
fn busybox(userland: &Userland, stage: &Path) -> Result<()> {
    let program = find("busybox").context("no busybox: run `cargo xtask setup test`")?;
    fs::copy(userland.program("busybox")?, stage.join("bin/busybox"))?;
    for applet in capture(Command::new(&program).arg("--list"))?
        .lines()
        .filter(|applet| *applet != "busybox")
    {
        symlink("busybox", stage.join("bin").join(applet))?;
    }
    Ok(())
}

/// The program whose stacks are taken, where the end-to-end tests are not: of another architecture.
fn stacks(userland: &Userland, dir: &Path, stage: &Path) -> Result<()> {
    let Userland::Foreign(arch, _) = userland else {
        return Ok(());
    };
    let source = dir.join("stacks.c");
    fs::write(&source, include_str!("../../vm/stacks.c"))?;
    let program = stage.join("bin/stacks");
    run(Command::new(format!("{}gcc", arch.tools()))
        .args([
            "-O2",
            "-fomit-frame-pointer",
            "-mbranch-protection=standard",
            "-o",
        ])
        .arg(&program)
        .arg(&source))?;
    userland.libraries(&program, stage)
}

/// Unpacks the modules and writes the order in which they are to be loaded.
fn modules(kernel: &Kernel, stage: &Path) -> Result<()> {
    let mut order: Vec<String> = Vec::new();
    for module in MODULES {
        let mut command =
            Command::new(find("modprobe").context("no modprobe: run `cargo xtask setup test`")?);
        command
            .arg("-d")
            .arg(&kernel.root)
            .args(["-S", &kernel.release, "--show-depends", module]);
        for file in capture(&mut command)?
            .lines()
            .filter_map(|line| line.strip_prefix("insmod "))
        {
            let file = Path::new(file.trim());
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            let plain = name.strip_suffix(".xz").unwrap_or(&name).to_owned();
            if order.contains(&plain) {
                continue;
            }
            let copy = stage.join("modules").join(&plain);
            if name == plain {
                fs::copy(file, copy)?;
            } else {
                run(Command::new("xz")
                    .arg("-dc")
                    .arg(file)
                    .stdout(fs::File::create(copy)?))?;
            }
            order.push(plain);
        }
    }
    Ok(fs::write(stage.join("modules/order"), order.join("\n") + "\n")?)
}
