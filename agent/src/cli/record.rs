//! The commands of recordings.

use clap::Args;
use std::path::PathBuf;
use std::time::Duration;

/// `geophone record`.
#[derive(Debug, Args)]
pub struct Record {
    /// The file to write
    #[arg(value_name = "FILE", value_parser = super::writable, required_unless_present = "dump")]
    pub file: Option<PathBuf>,
    /// End by itself after this time
    #[arg(long = "for", value_name = "TIME", value_parser = super::time)]
    pub duration: Option<Duration>,
    /// Write the last exposition to this file as well: what a replay must say
    #[arg(long, value_name = "FILE", value_parser = super::writable)]
    pub exposition: Option<PathBuf>,
    /// Record nothing: write what the flight recorder (record.flight) has to this file
    #[arg(long, value_name = "FILE", value_parser = super::writable, conflicts_with_all = ["file", "duration", "exposition"])]
    pub dump: Option<PathBuf>,
    /// Not of the latest agent, but of the one before (1), or before that (2)
    #[arg(long, value_name = "N", default_value_t = 0, requires = "dump")]
    pub back: usize,
}

/// `geophone replay`.
#[derive(Debug, Args)]
pub struct Replay {
    /// The recording
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// A second a second, not as fast as it can
    #[arg(long)]
    pub real_time: bool,
    /// Fill this store, for `geophone query --store`
    #[arg(long = "store", value_name = "DIRECTORY")]
    pub directory: Option<PathBuf>,
    /// Say which alerts of these rule files of Prometheus would have fired when, not the last exposition; may be repeated
    #[arg(long, value_name = "FILE", conflicts_with = "ticks")]
    pub rules: Vec<PathBuf>,
    /// Score it as an agent would have, at the recording's own time: say who was not healthy when, and what was unusual. With
    /// --store the scores are there too
    #[arg(long)]
    pub scores: bool,
    /// With --scores or --rules: what an agent has learned, `anomaly.baseline` in the directory of its store; else all is learned anew
    #[arg(long, value_name = "FILE")]
    pub baseline: Option<PathBuf>,
    /// The alerts and the scores as JSON
    #[arg(long)]
    pub json: bool,
    /// Write the stacks of its last hour to this file: .pb.gz for pprof, .folded, .svg for a flamegraph, .json
    #[arg(long, value_name = "FILE", value_parser = super::profile_file)]
    pub profile: Option<PathBuf>,
    /// What stacks
    #[command(flatten)]
    pub kind: super::SampleKind,
    /// Each tick as a line of JSON, not the last exposition
    #[arg(long)]
    pub ticks: bool,
    /// Write to this file [default: standard output]
    #[arg(long, short, value_name = "FILE", value_parser = super::writable)]
    pub output: Option<PathBuf>,
}
