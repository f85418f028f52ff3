//! `cargo xtask test`: everything that must hold, stage by stage, with a summary that counts.

mod cargo_test;
mod checks;
mod deploy;
mod e2e;
mod unprivileged;

use std::time::Instant;

use anyhow::{Result, bail};
use clap::Args;

use crate::arch::Arch;
use crate::run::build_release;
use crate::setup::{Group, How, setup};
use crate::shell::{is_root, say};
use crate::{docs, image, vm};

/// What to test.
#[derive(Args, Clone, Debug, Default)]
#[group(multiple = false)]
pub struct Which {
    /// Only what needs no root: format, lints, unit tests, documentation
    #[arg(long)]
    unit: bool,
    /// Only what is in deploy/, each piece by its own tool
    #[arg(long)]
    deploy: bool,
    /// Only the end-to-end tests
    #[arg(long)]
    e2e: bool,
    /// Only the virtual machines
    #[arg(long)]
    vm: bool,
    /// Everything (as when nothing is said)
    #[arg(long)]
    all: bool,
}

/// How a stage ended; a stage that is one check counts as one.
pub enum Outcome {
    /// All held.
    Passed(u64),
    /// All held that could be tried here, and what is to be said of it.
    Tried(u64, Notes),
    /// Some held, some did not, and why.
    Failed(u64, u64, String),
    /// It did not take place, and why.
    Skipped(String),
}

/// What a number of tests that passed does not say.
#[derive(Default)]
pub struct Notes {
    /// Could not be tried here, and why.
    pub skipped: Vec<String>,
    /// Held only when they were run once more.
    pub unstable: Vec<String>,
}

impl Outcome {
    /// One check that holds or does not.
    fn of(result: Result<()>) -> Self {
        match result {
            Ok(()) => Self::Passed(1),
            Err(error) => Self::Failed(0, 1, format!("{error:#}")),
        }
    }
}

/// What was run so far.
#[derive(Default)]
struct Report {
    stages: Vec<(&'static str, Outcome, f32)>,
}

impl Report {
    fn stage(&mut self, name: &'static str, run: impl FnOnce() -> Result<Outcome>) {
        say(format_args!("== {name}"));
        let start = Instant::now();
        let outcome = run().unwrap_or_else(|error| Outcome::of(Err(error)));
        match &outcome {
            Outcome::Failed(_, _, why) => say(format_args!("{name} FAILED: {why}")),
            Outcome::Skipped(why) => say(format_args!("{name} SKIPPED: {why}")),
            Outcome::Tried(_, notes) => {
                for what in &notes.skipped {
                    say(format_args!("SKIPPED {what}"));
                }
                for what in &notes.unstable {
                    say(format_args!("UNSTABLE {what}: it held only at the second run"));
                }
            }
            Outcome::Passed(_) => {}
        }
        self.stages.push((name, outcome, start.elapsed().as_secs_f32()));
    }

    /// Prints the summary, and under it what was not tried; an error if anything failed, or if nothing may be left out.
    fn finish(self, no_skip: bool) -> Result<()> {
        let (mut passed, mut failed, mut skipped) = (0, 0, 0);
        println!(
            "\n{:<18} {:<8} {:>7} {:>7} {:>8}",
            "stage", "outcome", "passed", "failed", "seconds"
        );
        for (name, outcome, seconds) in &self.stages {
            let (word, held, broken, why) = match outcome {
                Outcome::Passed(held) => ("ok", *held, 0, String::new()),
                Outcome::Tried(held, notes) => {
                    let (skipped, unstable) = (notes.skipped.len(), notes.unstable.len());
                    let why = format!("{skipped} skipped, {unstable} unstable, named above");
                    ("ok", *held, 0, why)
                }
                Outcome::Failed(held, broken, why) => {
                    let first = why.lines().next().unwrap_or_default();
                    ("FAILED", *held, *broken, first.to_owned())
                }
                Outcome::Skipped(why) => ("SKIPPED", 0, 0, why.clone()),
            };
            println!("{name:<18} {word:<8} {held:>7} {broken:>7} {seconds:>8.1}  {why}");
            passed += held;
            failed += broken;
            skipped += match outcome {
                Outcome::Skipped(_) => 1,
                Outcome::Tried(_, notes) => notes.skipped.len(),
                _ => 0,
            };
        }
        let tried = self.stages.iter().filter_map(|(name, outcome, _)| match outcome {
            Outcome::Tried(_, notes) => Some((name, &notes.skipped)),
            _ => None,
        });
        for (name, skipped) in tried {
            for what in skipped {
                println!("NOT TRIED  {name}: {what}");
            }
        }
        for (name, outcome, _) in &self.stages {
            if let Outcome::Failed(_, _, why) = outcome {
                for line in why.lines().skip(1) {
                    println!("FAILED     {name}: {line}");
                }
            }
        }
        match skipped {
            0 => println!("\n{passed} passed, {failed} failed"),
            _ => println!("\n{passed} passed, {failed} failed, {skipped} skipped"),
        }
        if failed > 0 {
            bail!("{failed} failed");
        }
        if skipped > 0 && no_skip {
            bail!("{skipped} skipped, which is not allowed");
        }
        Ok(())
    }
}

/// Runs the stages; a failed one does not stop those after it.
pub fn test(which: &Which, how: How, no_skip: bool, filter: &[String]) -> Result<()> {
    let all = which.all || !(which.unit || which.deploy || which.e2e || which.vm);
    let root = is_root();
    let mut groups = if (all || !(which.unit || which.deploy)) && root {
        vec![Group::Build, Group::Test]
    } else {
        vec![Group::Build, Group::Lint]
    };
    if root && (all || which.deploy) {
        groups.push(Group::Deploy);
    }
    setup(&groups, how)?;
    let mut report = Report::default();
    if all || which.unit {
        // With a filter one is after a test, not after the house's order.
        if filter.is_empty() {
            report.stage("format", checks::format);
            report.stage("manifests", checks::manifests);
            report.stage("clippy", checks::clippy);
            report.stage("clippy ebpf", checks::clippy_ebpf);
        }
        report.stage("unit", || cargo_test::unit(filter));
        report.stage("unit unprivileged", || unprivileged::unit(filter));
        if filter.is_empty() {
            report.stage("rustdoc", checks::rustdoc);
            report.stage("generated files", || {
                Ok(Outcome::of(docs::check(&build_release()?)))
            });
            report.stage("deny", checks::deny);
        }
    }
    if which.deploy || (all || which.unit) && filter.is_empty() {
        report.stage("deploy", deploy::deploy);
    }
    let needs_root = |name: &str| {
        Outcome::Skipped(format!(
            "{name} tests need root: run `sudo -E env \"PATH=$PATH\" cargo xtask test`"
        ))
    };
    if all || which.e2e {
        report.stage("e2e", || {
            if root {
                e2e::run(&build_release()?, filter)
            } else {
                Ok(needs_root("end-to-end"))
            }
        });
    }
    if which.vm || all && filter.is_empty() {
        report.stage("vm", || {
            if root {
                machines()
            } else {
                Ok(needs_root("virtual machine"))
            }
        });
    }
    // With the libraries of this machine: to link without takes three minutes (`cargo xtask image --test` does).
    if (which.e2e || all) && filter.is_empty() {
        report.stage("image", || {
            if root {
                Ok(Outcome::Passed(image::check(&build_release()?)?))
            } else {
                Ok(needs_root("image"))
            }
        });
    }
    report.finish(no_skip)
}

fn machines() -> Result<Outcome> {
    let score = vm::judged(
        vm::Series::All,
        Arch::here(),
        &vm::Mode::KERNEL,
        &build_release()?,
        false,
    )?;
    Ok(match score.failed {
        0 => Outcome::Passed(score.passed),
        failed => Outcome::Failed(score.passed, failed, "see the lines `vm … FAILED` above".into()),
    })
}
