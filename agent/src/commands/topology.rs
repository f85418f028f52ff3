//! `geophone topology`.

use super::over;
use super::remote::Remote;
use crate::app::{self, Running, Views};
use crate::cli::{self, TopologyFormat};
use crate::config::Config;
use crate::error::{Context as _, Error, Result};
use crate::topology::{Topology, dot, mermaid, table};
use std::path::PathBuf;

/// Prints the topology that the running agent knows, else what an agent of its own sees in the given time.
pub async fn topology(config: &Config, btf: Option<PathBuf>, options: &cli::Topology) -> Result<()> {
    let topology = match Remote::find_unless(options.own, config).await? {
        Some(remote) => remote.json("/api/v1/topology").await?,
        None => look(config, btf, options).await?,
    };
    let text = match options.format {
        TopologyFormat::Table => table(&topology),
        TopologyFormat::Json => serde_json::to_string(&topology).context("JSON")? + "\n",
        TopologyFormat::Dot => dot(&topology),
        TopologyFormat::Mermaid => mermaid(&topology),
    };
    super::say(text.trim_end())
}

async fn look(config: &Config, btf: Option<PathBuf>, options: &cli::Topology) -> Result<Topology> {
    let mut running = Running::start(app::collector(config, btf)?, Vec::new())?;
    let views = Views::new(running.snapshots.clone(), running.shared.clone(), None, None);
    let mut snapshots = running.snapshots.clone();
    let _ = snapshots.wait_for(|s| s.tick > 0).await;
    super::explain_or_end(&running)?;
    let end = over(Some(options.duration));
    tokio::pin!(end);
    let mut last = views.topology();
    loop {
        tokio::select! {
            result = &mut end => {
                result?;
                break;
            }
            changed = snapshots.changed() => {
                if changed.is_err() {
                    return Err(Error::new("the collector has ended by itself; its last words are in the log"));
                }
                // Each snapshot: rates are differences.
                last = views.topology();
            }
        }
    }
    running.stop();
    let last = last.ok_or_else(|| Error::new("there was no snapshot in this time"))?;
    serde_json::from_value(last).context("the topology")
}
