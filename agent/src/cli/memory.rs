//! The commands that ask what is remembered.

use clap::{Args, Subcommand};
use std::path::PathBuf;
use std::time::Duration;

/// `geophone query`.
#[derive(Debug, Args)]
pub struct Query {
    /// The query, e.g. 'sum by (peer) (geophone_tcp_connections)'
    #[arg(value_name = "PROMQL")]
    pub query: String,
    /// Not one moment, but the time before it, e.g. 1h
    #[arg(long, value_name = "TIME", value_parser = super::time)]
    pub range: Option<Duration>,
    /// Of a range, the time from one value to the next [default: a 120th of it]
    #[arg(long, value_name = "TIME", value_parser = super::time, requires = "range")]
    pub step: Option<Duration>,
    /// The moment, or the end of the range: 2026-01-31T12:00:00Z, seconds since 1970, or how long ago, e.g. 10m [default: now]
    #[arg(long, value_name = "TIME", value_parser = super::instant)]
    pub at: Option<String>,
    /// How it is written
    #[arg(long, value_enum, default_value_t = AnswerFormat::Table)]
    pub format: AnswerFormat,
    /// Read this store; no agent need run
    #[arg(long = "store", value_name = "DIRECTORY")]
    pub directory: Option<PathBuf>,
}

/// `geophone store`.
#[derive(Debug, Args)]
pub struct Store {
    /// Its directory [default: store.directory of the configuration]
    #[arg(long = "store", global = true, value_name = "DIRECTORY")]
    pub directory: Option<PathBuf>,
    /// What of it
    #[command(subcommand)]
    pub command: StoreCommand,
}

/// What `geophone store` does.
#[derive(Debug, Subcommand)]
pub enum StoreCommand {
    /// How many series and samples, from when to when, and in which blocks
    Info,
    /// Read everything and check it; exit status 1 if a part is damaged
    Verify,
    /// Take samples from OpenMetrics text with timestamps, as promtool's backfill does; no agent may be using the store
    Import {
        /// The file; - for standard input
        file: PathBuf,
    },
    /// Write samples as OpenMetrics text with timestamps
    Export {
        /// Of which series
        #[arg(long = "match", value_name = "SELECTOR", default_value = "{__name__!=\"\"}")]
        selector: String,
        /// From this time on: 2026-01-31T12:00:00Z, seconds since 1970, or how long ago, e.g. 10m [default: all]
        #[arg(long, value_name = "TIME", value_parser = super::instant)]
        from: Option<String>,
        /// Until this time [default: now]
        #[arg(long, value_name = "TIME", value_parser = super::instant)]
        to: Option<String>,
    },
}

/// How an answer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum AnswerFormat {
    /// A line a value.
    Table,
    /// As Prometheus' HTTP API has it.
    Json,
    /// Comma-separated, with a column for each label.
    Csv,
    /// Curves over time.
    Chart,
}
