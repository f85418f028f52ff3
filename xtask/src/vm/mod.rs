//! `cargo xtask vm`: other kernels, in virtual machines, without KVM.
//!
//! Debian's newest 6.1 and 6.12 cloud kernels boot in qemu with an initial file system that holds the agent as it was just
//! built; a guest script makes a known delay and a known loss, and the host compares what geophone says with the kernel.

mod boot;
mod image;
mod judge;
mod kernel;

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Result, bail};
use clap::ValueEnum;

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

/// Sets up, builds, boots and judges; an error if a check failed.
pub fn vm(series: Series, how: How, keep: bool, agent: Option<PathBuf>) -> Result<()> {
    setup(&[Group::Build, Group::Test], how)?;
    let agent = match agent {
        Some(agent) => agent,
        None => build_release()?,
    };
    let score = judged(series, &agent, keep)?;
    println!("{} passed, {} failed", score.passed, score.failed);
    if score.failed > 0 {
        bail!("vm: {} checks failed", score.failed);
    }
    Ok(())
}

/// Boots each kernel with the agent and prints one line for each check.
pub fn judged(series: Series, agent: &Path, keep: bool) -> Result<Score> {
    let mut score = Score::default();
    for series in series.each() {
        let start = Instant::now();
        let dir = directory().join(series);
        let kernel = kernel::provide(series, &dir)?;
        let image = image::make(&kernel, agent, &dir)?;
        let seen = boot::boot(&kernel, &image, &dir)?;
        for check in judge::judge(&kernel.release, &seen) {
            match &check.outcome {
                Ok(detail) => println!("vm {series} ok      {}: {detail}", check.name),
                Err(why) => println!("vm {series} FAILED  {}: {why}", check.name),
            }
            if check.outcome.is_ok() {
                score.passed += 1
            } else {
                score.failed += 1
            }
        }
        say(format_args!(
            "vm {series}: {} in {:.1} s",
            kernel.release,
            start.elapsed().as_secs_f32()
        ));
        if score.failed > 0 {
            say(format_args!(
                "the machine's console: {}",
                dir.join("console.log").display()
            ));
        }
        if keep {
            say(format_args!(
                "kept: {}; boot it again with: {}",
                image.display(),
                boot::shown(&kernel, &image)
            ));
        } else {
            std::fs::remove_file(&image)?;
        }
    }
    Ok(score)
}

/// Where kernels are kept between runs.
fn directory() -> PathBuf {
    std::env::var_os("GEOPHONE_VM_DIR").map_or_else(|| root().join(".vm"), PathBuf::from)
}
