//! The commands that say what a series means.

use crate::config::HumanDuration;
use agent_score::anomaly::Detector;
use clap::Args;
use clap::builder::PossibleValuesParser;
use std::ops::RangeInclusive;
use std::path::PathBuf;

/// `geophone score`.
#[derive(Debug, Args)]
pub struct Score {
    /// Lines of timestamp,value: RFC 3339, or seconds or milliseconds since 1970; - for standard input
    #[arg(value_name = "FILE.csv", value_parser = super::any_path())]
    pub file: PathBuf,
    /// Ask one detector instead of all
    #[arg(long, value_name = "NAME", value_parser = detectors())]
    pub detector: Option<String>,
    /// False alarms that are allowed in a week
    #[arg(long, value_name = "N", default_value = "1", value_parser = alarms)]
    pub alarms_per_week: f64,
    /// Lines before anything is said
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(16..=1_000_000))]
    pub learning: u32,
    /// Changes up to this are none, however rare; in the unit of the values
    #[arg(long, value_name = "N", default_value = "0", value_parser = min_change)]
    pub min_change: f64,
    /// What has been an anomaly for so long (e.g. 1h, 7d), and for 60 lines, is the new normal; if not said, 300 lines
    #[arg(long, value_name = "DURATION")]
    pub accept_after: Option<HumanDuration>,
    /// Write the lines to this file, and a summary to standard output
    #[arg(long, short, value_name = "OUT.csv", value_parser = super::writable)]
    pub output: Option<PathBuf>,
}

impl Score {
    /// What `--alarms-per-week` can be.
    pub const ALARMS: RangeInclusive<f64> = 1e-3..=1e4;
}

fn detectors() -> PossibleValuesParser {
    Detector::every().map(Detector::name).collect::<Vec<_>>().into()
}

fn alarms(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(number) if Score::ALARMS.contains(&number) => Ok(number),
        _ => Err("expected a number from 0.001 to 10000, e.g. 1".to_owned()),
    }
}

fn min_change(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(number) if (0.0..f64::INFINITY).contains(&number) => Ok(number),
        _ => Err("expected a number that is not negative, e.g. 0.5".to_owned()),
    }
}

/// `geophone capacity`.
#[derive(Debug, Args)]
pub struct Capacity {
    /// Only this, with all that is known of it: a resource (filesystem), a name (vda1), or both (filesystem/vda1)
    #[arg(conflicts_with = "csv")]
    pub name: Option<String>,
    /// Read this store; no agent need run
    #[arg(long = "store", value_name = "DIRECTORY", conflicts_with = "csv")]
    pub directory: Option<PathBuf>,
    /// Instead, lines of timestamp,value: RFC 3339, or seconds or milliseconds since 1970; - for standard input
    #[arg(long, value_name = "FILE", value_parser = super::any_path())]
    pub csv: Option<PathBuf>,
    /// Of --csv, the value at which it is exhausted: above what is usual for what fills up, below for what runs out
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = limit, requires = "csv")]
    pub limit: Option<f64>,
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

fn limit(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() => Ok(number),
        _ => Err("expected a number, e.g. 100".to_owned()),
    }
}
