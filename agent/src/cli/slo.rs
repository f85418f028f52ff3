//! `geophone slo`.

use clap::{Args, Subcommand};
use std::path::PathBuf;

/// `geophone slo`.
#[derive(Debug, Args)]
pub struct Slo {
    /// What to do, instead of showing them
    #[command(subcommand)]
    pub command: Option<SloCommand>,
    /// Do not ask the agent, but judge lines of timestamp,good,total or timestamp,value; - for standard input
    #[arg(long, value_name = "FILE", value_parser = super::any_path())]
    pub csv: Option<PathBuf>,
    /// How the lines are judged
    #[command(flatten)]
    pub judge: SloJudge,
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

/// How lines are judged.
#[derive(Debug, Args)]
pub struct SloJudge {
    /// With --csv: what share must be good, in percent
    #[arg(long, value_name = "PERCENT", default_value = "99.9", requires = "csv")]
    pub objective: f64,
    /// With --csv: over which time: 30d, or day, week or month of the calendar
    #[arg(long, value_name = "TIME", default_value = "30d", requires = "csv")]
    pub over: String,
    /// Of timestamp,value: the greatest value that is good; without it and --at-least the value is the good share, 0 to 1
    #[arg(long, value_name = "N", allow_negative_numbers = true, requires = "csv")]
    pub at_most: Option<f64>,
    /// Of timestamp,value: the least value that is good
    #[arg(
        long,
        value_name = "N",
        allow_negative_numbers = true,
        requires = "csv",
        conflicts_with = "at_most"
    )]
    pub at_least: Option<f64>,
}

/// What `geophone slo` does besides.
#[derive(Debug, Subcommand)]
pub enum SloCommand {
    /// What a span came to: shares, budgets, when an objective was not met, and what would have been told
    Report {
        /// Up to now, how long
        #[arg(long, value_enum, default_value_t = SloSpan::Day)]
        window: SloSpan,
        /// How it is written
        #[arg(long, value_enum, default_value_t = SloFormat::Table)]
        format: SloFormat,
    },
    /// The rules that the agent evaluates, for the Prometheus of a fleet
    Rules {
        /// Files of OpenSLO v1 [default: slos and slo_files of the configuration]
        #[arg(value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// Say what is wrong with files, line by line; exit status 1 if anything is
    Check {
        /// Files of OpenSLO v1, or configurations
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
}

/// How long a report looks back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum SloSpan {
    /// 24 hours.
    Day,
    /// 7 days.
    Week,
    /// 30 days.
    #[value(name = "30d")]
    Month,
}

/// How a report is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum SloFormat {
    /// For a terminal.
    Table,
    /// For programs.
    Json,
    /// For people who get it by mail.
    Markdown,
}
