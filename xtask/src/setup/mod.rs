//! `cargo xtask setup`: finds what the build, the tests and the benchmarks need, and installs what is missing.
//!
//! It says what it is about to install and why before it does. When nothing is missing it only looks at files, so that it
//! may stand before every other command.

mod install;
mod packages;
mod registries;

use std::io::{BufRead, IsTerminal};
use std::process::Command;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};

use crate::shell::{say, shown};
use crate::toolchain::{self, Compiler};
pub use install::refresh_apt;
use install::{apt, linker_install, run_apt};
use packages::Need;

/// What the machine is to be made fit for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Group {
    /// Building and running geophone.
    Build,
    /// The tests that need no root.
    Lint,
    /// All tests, virtual machines included.
    Test,
    /// The checks of deploy/ by tools that are not Debian's.
    Deploy,
    /// Its benchmarks.
    Bench,
    /// Building for arm64 on another machine, and emulating it.
    Arm64,
}

/// How to go about it; shared by every command that sets the machine up first.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct How {
    /// Print the commands that would install what is missing, and stop
    #[arg(long)]
    pub no_install: bool,
    /// Do not ask before installing (it is only asked at a terminal)
    #[arg(long, short)]
    pub yes: bool,
}

/// One command to come, and why.
struct Step {
    command: Command,
    why: Vec<String>,
    /// Whether it is apt-get, which wants root and starts services.
    apt: bool,
    /// Whether one goes on without.
    optional: bool,
}

/// Makes the machine fit for the groups.
pub fn setup(groups: &[Group], how: How) -> Result<()> {
    let steps = plan(groups)?;
    if steps.is_empty() {
        return Ok(());
    }
    say(format_args!("missing for {}:", names(groups)));
    for step in &steps {
        for why in &step.why {
            eprintln!("  {why}");
        }
        eprintln!("    {}", shown(&step.command));
    }
    let refused = if how.no_install {
        "not installed, as asked (--no-install)"
    } else if !how.yes && !confirmed()? {
        "nothing was installed"
    } else {
        ""
    };
    if !refused.is_empty() {
        if steps.iter().any(|step| !step.optional) {
            bail!("{refused}");
        }
        // What needs it is skipped, and named.
        say(refused);
        return Ok(());
    }
    for mut step in steps {
        let done = if step.apt {
            run_apt(&mut step.command)
        } else {
            crate::shell::run(&mut step.command)
        };
        match done {
            Err(error) if step.optional => say(format_args!("{error:#}; what needs it will be skipped")),
            done => done?,
        }
    }
    // The Rust compiler decides what follows it, and an install that did not help must not be taken for one that did.
    let rest = plan(groups)?;
    if let Some(step) = rest.iter().find(|step| !step.optional) {
        bail!(
            "still missing after the install: {}; `{}` was to bring it",
            step.why.join(", "),
            shown(&step.command)
        );
    }
    say(format_args!("the machine is fit for {}", names(groups)));
    Ok(())
}

/// What has to be done, in order; empty when nothing is missing.
fn plan(groups: &[Group]) -> Result<Vec<Step>> {
    let mut needs: Vec<&'static Need> = Vec::new();
    let mut steps = Vec::new();
    if groups.contains(&Group::Build) {
        needs.extend(packages::BUILD);
    }
    let compiler = toolchain::compiler();
    if groups.contains(&Group::Build) {
        if let Err(why) = &compiler {
            match install::compiler_install(why)? {
                Some(step) => steps.push(step),
                None => needs.extend(packages::COMPILER),
            }
        }
        if let Err(why) = install::linker_state() {
            let (packages, step) = linker_install(why)?;
            needs.extend(packages);
            steps.push(step);
        }
    }
    if groups.contains(&Group::Test) {
        needs.extend(packages::TEST);
        let debian = |compiler: &Compiler| compiler.rustc.starts_with("/usr/bin");
        if install::is_debian() && compiler.as_ref().map_or(true, debian) {
            needs.extend(packages::CLIPPY);
        }
    }
    if groups.contains(&Group::Test) || groups.contains(&Group::Lint) {
        steps.extend(install::components()?);
    }
    if groups.contains(&Group::Deploy) {
        needs.extend(packages::DEPLOY);
        steps.extend(registries::steps()?);
    }
    if groups.contains(&Group::Bench) {
        needs.extend(packages::BENCH);
    }
    if groups.contains(&Group::Arm64) {
        needs.extend(packages::COMPILER);
        needs.extend(packages::ARM64);
    }
    needs.retain(|need| !need.met());
    if !needs.is_empty() {
        steps.insert(0, apt(&needs)?);
    }
    Ok(steps)
}

/// Asks at a terminal; goes on where there is none.
fn confirmed() -> Result<bool> {
    if !std::io::stdin().is_terminal() || std::env::var_os("CI").is_some() {
        return Ok(true);
    }
    eprint!("xtask: install them now? [Y/n] ");
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(
        answer.trim().to_ascii_lowercase().as_str(),
        "" | "y" | "yes"
    ))
}

fn names(groups: &[Group]) -> String {
    let name = |group: &Group| format!("{group:?}").to_lowercase();
    groups.iter().map(name).collect::<Vec<_>>().join(", ")
}
