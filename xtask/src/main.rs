//! Developer commands: `cargo xtask run`, `test`, `bench`, `vm`, `image`, `docs`, `deny`, `setup`.

mod arch;
mod bench;
mod cross;
mod deny;
mod docs;
mod fuzz;
mod image;
mod run;
mod setup;
mod shell;
mod test;
#[allow(dead_code, reason = "build.rs uses the rest")]
mod toolchain;
mod vm;

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
        /// What the machine is to be made fit for, besides building
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
    /// Check everything that must hold, and count it
    Test {
        #[command(flatten)]
        which: test::Which,
        #[command(flatten)]
        how: How,
        /// Fail if anything could not be tried here
        #[arg(long)]
        no_skip: bool,
        /// Only tests whose name contains this
        #[arg(last = true)]
        filter: Vec<String>,
    },
    /// Write the generated pages of docs/
    Docs {
        #[command(flatten)]
        how: How,
    },
    /// Check the licences, sources and advisories of the dependencies
    Deny {
        #[command(flatten)]
        how: How,
    },
    /// Measure what geophone costs
    Bench(bench::Options),
    /// Make the container image, as an OCI layout
    Image(image::Options),
    /// Run the parser of tunnel packets over whatever a fuzzer thinks of
    Fuzz {
        /// For so long
        #[arg(default_value_t = 60)]
        seconds: u32,
    },
    /// Boot other kernels with the agent and compare what it sees with a known cause
    Vm {
        /// Which kernels
        #[arg(default_value = "all")]
        series: vm::Series,
        /// Of this architecture; another one than this machine's is cross-built and emulated [default: this machine's]
        #[arg(long)]
        arch: Option<arch::Arch>,
        /// Instead: with systemd as the first process, and the agent as deploy/install.sh installs it
        #[arg(long)]
        service: bool,
        #[command(flatten)]
        how: How,
        /// Keep the image, and print the command that boots it again
        #[arg(long)]
        keep: bool,
        /// Use this binary instead of building one
        #[arg(long, value_name = "FILE")]
        agent: Option<std::path::PathBuf>,
    },
}

fn main() -> ExitCode {
    let done = match Cli::parse().task {
        Task::Setup { mut groups, how } => {
            if !groups.contains(&Group::Build) {
                groups.insert(0, Group::Build);
            }
            setup::setup(&groups, how)
        }
        Task::Run { how, args } => run::run(how, &args),
        Task::Test {
            which,
            how,
            no_skip,
            filter,
        } => test::test(&which, how, no_skip, &filter),
        Task::Docs { how } => docs::write(how),
        Task::Deny { how } => deny::deny(how),
        Task::Fuzz { seconds } => fuzz::fuzz(seconds),
        Task::Bench(options) => bench::bench(options),
        Task::Image(options) => image::image(&options),
        Task::Vm {
            series,
            arch,
            service,
            how,
            keep,
            agent,
        } => {
            let modes: &[vm::Mode] = if service {
                &[vm::Mode::Service]
            } else {
                &vm::Mode::KERNEL
            };
            vm::vm(
                series,
                arch.unwrap_or_else(arch::Arch::here),
                modes,
                how,
                keep,
                agent,
            )
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            shell::say(format_args!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}
