//! `geophone dashboards`.

use clap::Args;
use std::path::PathBuf;

/// `geophone dashboards`.
#[derive(Debug, Args)]
pub struct Dashboards {
    /// Only these, e.g. geophone-tunnels, or tunnels; without -o and --push one name prints its JSON
    pub names: Vec<String>,
    /// Write them into this directory, a file each
    #[arg(long, short, value_name = "DIR")]
    pub output: Option<PathBuf>,
    /// Put them into the Grafana at this address, over those of the same name
    #[arg(long, value_name = "URL", conflicts_with = "output", requires = "token_file")]
    pub push: Option<String>,
    /// File with a token of a Grafana service account that may write dashboards
    #[arg(long, value_name = "FILE", requires = "push")]
    pub token_file: Option<PathBuf>,
    /// Folder of Grafana, by its uid; without it the general one
    #[arg(long, value_name = "UID", requires = "push")]
    pub folder: Option<String>,
    /// For a Prometheus without native histograms: queries ask for buckets
    #[arg(long)]
    pub classic: bool,
}
