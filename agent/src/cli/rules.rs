//! `geophone rules`.

use clap::{Args, Subcommand};
use std::path::PathBuf;

/// `geophone rules`.
#[derive(Debug, Args)]
pub struct Rules {
    /// What to do with them
    #[command(subcommand)]
    pub command: RulesCommand,
}

/// What `geophone rules` does.
#[derive(Debug, Subcommand)]
pub enum RulesCommand {
    /// Say what is wrong with rule files, line by line; exit status 1 if anything is
    Check {
        /// Rule files of Prometheus, or directories of them
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// The rules of files
    List {
        /// Rule files of Prometheus, or directories of them
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Write them as a rule file that any Prometheus takes: short forms as the queries that they are
    Print {
        /// Rule files, or directories of them
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// What would have fired, over what a store remembers; over a recording: geophone replay --rules
    Test(RulesTest),
}

/// `geophone rules test`.
#[derive(Debug, Args)]
pub struct RulesTest {
    /// Rule files of Prometheus, or directories of them
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// The store's directory [default: store.directory of the configuration]
    #[arg(long = "store", value_name = "DIRECTORY")]
    pub directory: Option<PathBuf>,
    /// From this time on: 2026-01-31T12:00:00Z, seconds since 1970, or how long ago, e.g. 10m [default: all]
    #[arg(long, value_name = "TIME", value_parser = super::instant)]
    pub from: Option<String>,
    /// Until this time [default: now]
    #[arg(long, value_name = "TIME", value_parser = super::instant)]
    pub to: Option<String>,
    /// As JSON
    #[arg(long)]
    pub json: bool,
}
