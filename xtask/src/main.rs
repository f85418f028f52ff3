//! Developer commands: `cargo xtask run`, `test`, `vm`, `docs`, `deny`, `setup`.

mod run;
mod setup;
mod shell;
mod toolchain;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use setup::{Group, How};

/// Builds, runs and tests geophone on a machine that has root and stable Rust; what is missing is installed.
#[derive(Parser)]
#[command(bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Find or install what building (and, if named, testing and benchmarking) needs
    Setup {
        /// What the machine is to be made fit for
        #[arg(default_value = "build")]
        groups: Vec<Group>,
        #[command(flatten)]
        how: How,
    },
    /// Build the agent and run it with its live view
    Run {
        #[command(flatten)]
        how: How,
        /// Options of `geophone run`
        #[arg(last = true)]
        args: Vec<String>,
    },
}

fn main() -> ExitCode {
    let done = match Cli::parse().task {
        Task::Setup { groups, how } => setup::setup(&groups, how),
        Task::Run { how, args } => run::run(how, &args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            shell::say(format_args!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}
