//! `geophone dashboards`.

use super::time;
use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use std::path::PathBuf;
use std::time::Duration;

/// `geophone dashboards`.
#[derive(Debug, Args)]
pub struct Dashboards {
    /// Only these, e.g. geophone-tunnels, or tunnels; without -o and --push one name prints its JSON; custom: nothing but --panel
    pub names: Vec<String>,
    /// Write them into this directory, a file each
    #[arg(long, short, value_name = "DIR")]
    pub output: Option<PathBuf>,
    /// Put them into the Grafana at this address, over those of the same uid
    #[arg(long, value_name = "URL", conflicts_with = "output", requires = "token_file")]
    pub push: Option<String>,
    /// File with a token of a Grafana service account that may write dashboards
    #[arg(long, value_name = "FILE", requires = "push")]
    pub token_file: Option<PathBuf>,
    /// Certificates (PEM) that Grafana's is signed by, in place of those that the system trusts
    #[arg(long, value_name = "FILE", requires = "push")]
    pub ca_file: Option<PathBuf>,
    /// Folder of Grafana, by its uid; without it the general one
    #[arg(long, value_name = "UID", requires = "push")]
    pub folder: Option<String>,
    /// For a Prometheus without native histograms: queries ask for buckets
    #[arg(long)]
    pub classic: bool,
    /// What a variable begins with, e.g. node=n1:9779, or datasource=UID; again for one value more
    #[arg(long = "var", value_name = "NAME=VALUE", value_parser = pair)]
    pub vars: Vec<(String, String)>,
    /// One panel more at the end, of a query of your own, which may have $instance and the like; the same title again: one line more
    #[arg(long = "panel", value_name = "TITLE=PROMQL", value_parser = pair)]
    pub panels: Vec<(String, String)>,
    /// Another title
    #[arg(long, value_name = "TEXT", value_parser = NonEmptyStringValueParser::new())]
    pub title: Option<String>,
    /// Another uid, so that it stands beside the one that it is made of
    #[arg(long, value_name = "UID")]
    pub uid: Option<String>,
    /// Show so long at first [default: 1h]
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub last: Option<Duration>,
    /// Ask again so often, or off [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = refresh)]
    pub refresh: Option<Refresh>,
    /// No step of a graph is shorter, and rates are over four of them at least [default: as the source is scraped]
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub interval: Option<Duration>,
}

/// `None` = not by itself.
type Refresh = Option<Duration>;

impl Dashboards {
    /// Whether they are not to be as they are.
    pub const fn is_changed(&self) -> bool {
        !self.vars.is_empty()
            || !self.panels.is_empty()
            || self.title.is_some()
            || self.uid.is_some()
            || self.last.is_some()
            || self.refresh.is_some()
            || self.interval.is_some()
    }
}

/// Up to the first `=`, and what is behind it.
fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.trim().is_empty() => {
            Ok((name.trim().to_owned(), value.trim().to_owned()))
        }
        _ => Err("a name, =, and what it is".to_owned()),
    }
}

fn refresh(text: &str) -> Result<Refresh, String> {
    if text == "off" {
        Ok(None)
    } else {
        time(text).map(Some)
    }
}
