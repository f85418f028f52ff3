//! `cargo xtask vm`: other kernels, in virtual machines, without KVM.
//!
//! Debian's newest 6.1 and 6.12 cloud kernels boot in qemu with an initial file system that holds the agent as it was just
//! built; a guest script makes a known delay, a known loss and tunnels of all kinds, and the host compares what
//! geophone says with the kernel.
//! Each boots twice: as it comes, at the end without cgroups, and with lockdown=confidentiality. `--service` boots it with systemd
//! instead, which runs what deploy/install.sh has installed. They run side by side.
//! `--arch arm64` has the same machines of another architecture: programs and kernels are Debian's, the agent is cross-built.

mod boot;
mod cgroups;
mod image;
mod judge;
mod kernel;
mod kubepods;
mod report;
mod service;
mod stacks;
mod tunnels;
mod userland;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Result, bail};
use clap::ValueEnum;

pub use self::boot::Mode;
use self::kernel::Kernel;
use self::userland::Userland;
use crate::arch::Arch;
use crate::cross::{self, Profile};
use crate::run::build_release;
use crate::setup::{Group, How, setup};
use crate::shell::{root, say};

/// Which kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Series {
    /// Debian 12's own
    #[value(name = "6.1")]
    V6_1,
    /// Debian 12's newer one
    #[value(name = "6.12")]
    V6_12,
    /// Both
    All,
}

impl Series {
    /// The series by name, one by one.
    fn each(self) -> &'static [&'static str] {
        match self {
            Self::V6_1 => &["6.1"],
            Self::V6_12 => &["6.12"],
            Self::All => &["6.1", "6.12"],
        }
    }
}

/// How many checks held and how many did not.
#[derive(Clone, Copy, Debug, Default)]
pub struct Score {
    /// Those that held.
    pub passed: u64,
    /// Those that did not.
    pub failed: u64,
}

impl Score {
    /// Prints a line for each check and adds it; returns how many did not hold.
    fn count(&mut self, machine: &str, checks: &[judge::Check]) -> u64 {
        let mut failed = 0;
        for check in checks {
            match &check.outcome {
                Ok(detail) => println!("vm {machine} ok      {}: {detail}", check.name),
                Err(why) => {
                    println!("vm {machine} FAILED  {}: {why}", check.name);
                    failed += 1;
                }
            }
        }
        self.passed += checks.len() as u64 - failed;
        self.failed += failed;
        failed
    }
}

/// Sets up, builds, boots and judges; an error if a check failed.
pub fn vm(
    series: Series,
    arch: Arch,
    modes: &[Mode],
    how: How,
    keep: bool,
    agent: Option<PathBuf>,
) -> Result<()> {
    if arch.is_foreign() && modes.contains(&Mode::Service) {
        bail!("--service: not of another architecture than this machine's, whose systemd it takes");
    }
    let mut groups = vec![Group::Build, Group::Test];
    if arch.is_foreign() {
        groups.push(Group::Arm64);
    }
    setup(&groups, how)?;
    let agent = match agent {
        Some(agent) => agent,
        None if arch.is_foreign() => cross::build(arch, Profile::Emulated)?,
        None => build_release()?,
    };
    let score = judged(series, arch, modes, &agent, keep)?;
    println!("{} passed, {} failed", score.passed, score.failed);
    if score.failed > 0 {
        bail!("vm: {} checks failed", score.failed);
    }
    Ok(())
}

/// A kernel, and what it boots with.
struct Machine {
    series: &'static str,
    /// Where what it says is kept.
    dir: PathBuf,
    kernel: Kernel,
    image: PathBuf,
}

/// Boots each kernel, in each mode, with the agent and prints one line for each check. The kernels run side by side: a machine is
/// emulated by one thread.
pub fn judged(series: Series, arch: Arch, modes: &[Mode], agent: &Path, keep: bool) -> Result<Score> {
    let (home, label) = if arch.is_foreign() {
        (directory().join(arch.name()), format!("{} ", arch.name()))
    } else {
        (directory(), String::new())
    };
    fs::create_dir_all(&home)?;
    let userland = Userland::of(arch, &home)?;
    let machine = |series: &'static str| -> Result<Machine> {
        let dir = home.join(series);
        let kernel = kernel::provide(series, arch, &dir)?;
        let image = image::make(&kernel, &userland, agent, &dir)?;
        Ok(Machine {
            series,
            dir,
            kernel,
            image,
        })
    };
    let machines: Vec<Machine> = series
        .each()
        .iter()
        .copied()
        .map(machine)
        .collect::<Result<_>>()?;
    let score = Mutex::new(Score::default());
    std::thread::scope(|scope| {
        let run = |machine| {
            let (score, label) = (&score, &label);
            scope.spawn(move || machine_judged(machine, modes, label, keep, score))
        };
        let running: Vec<_> = machines.iter().map(run).collect();
        running.into_iter().try_for_each(|one| match one.join() {
            Ok(ended) => ended,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })?;
    Ok(score.into_inner().unwrap_or_else(PoisonError::into_inner))
}

fn machine_judged(
    machine: &Machine,
    modes: &[Mode],
    label: &str,
    keep: bool,
    score: &Mutex<Score>,
) -> Result<()> {
    let Machine {
        series,
        dir,
        kernel,
        image,
    } = machine;
    let start = Instant::now();
    let mut plain = None;
    for &mode in modes {
        let dir = dir.join(mode.name());
        fs::create_dir_all(&dir)?;
        let seen = boot::boot(kernel, image, mode, &dir)?;
        let checks = match (mode, &plain) {
            (Mode::Service, _) => service::checks(&seen),
            (Mode::Lockdown, Some(plain)) => judge::lockdown(&kernel.release, &seen, plain),
            _ => {
                let mut checks = judge::plain(&kernel.release, &seen);
                checks.extend(tunnels::checks(&seen));
                checks.extend(stacks::checks(&seen));
                checks.extend(cgroups::checks(&seen));
                checks.extend(kubepods::checks(&seen));
                checks
            }
        };
        // What belongs together is printed together.
        let mut score = score.lock().unwrap_or_else(PoisonError::into_inner);
        let failed = score.count(&format!("{label}{series} {}", mode.name()), &checks);
        drop(score);
        plain.get_or_insert(seen);
        if failed > 0 {
            say(format_args!(
                "the machine's console: {}",
                dir.join("console.log").display()
            ));
        }
        if keep {
            say(format_args!(
                "kept: {}; boot it again with: {}",
                image.display(),
                boot::shown(kernel, image, mode)
            ));
        }
    }
    say(format_args!(
        "vm {label}{series}: {} in {:.1} s",
        kernel.release,
        start.elapsed().as_secs_f32()
    ));
    if !keep {
        fs::remove_file(image)?;
    }
    Ok(())
}

/// Where kernels, and what else is fetched for them, are kept between runs.
pub fn directory() -> PathBuf {
    std::env::var_os("GEOPHONE_VM_DIR").map_or_else(|| root().join(".vm"), PathBuf::from)
}
