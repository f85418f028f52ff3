//! `geophone alerts`.

use clap::{Args, Subcommand};
use std::time::Duration;

/// `geophone alerts`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Alerts {
    /// As JSON
    #[arg(long)]
    pub json: bool,
    /// Without: the alerts
    #[command(subcommand)]
    pub command: Option<AlertsCommand>,
}

/// What else `geophone alerts` does.
#[derive(Debug, Subcommand)]
pub enum AlertsCommand {
    /// What is not told for a time
    Silence {
        /// What to do with them
        #[command(subcommand)]
        command: SilenceCommand,
    },
    /// Alerts of one cause, the latest first
    Incidents {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Tell a receiver of the configuration that a test alert fires, and that it has ended, and say what came of it; exit status 1
    /// if it was not taken
    Test {
        /// Its name
        receiver: String,
    },
}

/// `geophone alerts silence`.
#[derive(Debug, Subcommand)]
pub enum SilenceCommand {
    /// Silence alerts that have all of these; prints the silence's number
    Add(SilenceAdd),
    /// The silences that are pending or active
    List {
        /// Those that are over as well
        #[arg(long)]
        expired: bool,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// End a silence
    Expire {
        /// Its number
        id: String,
    },
}

/// `geophone alerts silence add`.
#[derive(Debug, Args)]
pub struct SilenceAdd {
    /// What alerts must have: alertname=Down, peer=~db.*, severity!=critical
    #[arg(required = true, value_name = "MATCHER")]
    pub matchers: Vec<String>,
    /// For how long
    #[arg(long = "for", value_name = "TIME", value_parser = super::time, default_value = "1h")]
    pub duration: Duration,
    /// Why
    #[arg(long, value_name = "TEXT")]
    pub comment: String,
    /// Who silences [default: the user of this command]
    #[arg(long, value_name = "NAME")]
    pub author: Option<String>,
}
