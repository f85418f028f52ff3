//! The agent that asks it, and what it says.

use super::Api;
use crate::harness::{Setup, Snapshot};
use anyhow::{Context as _, Result};

/// An agent that asks this server for `node-1`.
pub fn agent(api: &Api) -> Result<Setup> {
    let kubeconfig = api.kubeconfig()?;
    let path = kubeconfig.to_str().context("a strange path")?;
    Ok(Setup::new()
        .set("kubernetes.kubeconfig", path)
        .set("kubernetes.node", "node-1"))
}

/// Bytes that were sent by who has these labels.
pub fn sent(s: &Snapshot, filter: &[(&str, &str)]) -> u64 {
    let filter: Vec<_> = filter
        .iter()
        .copied()
        .chain([("direction", "transmit")])
        .collect();
    s.sum("geophone_tcp_bytes_total", &filter)
}
