//! The agent that asks it, and what it says.

use super::{Api, TOKEN};
use crate::harness::{Setup, Snapshot};
use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use std::path::PathBuf;

impl Api {
    /// A kubeconfig that leads to it.
    pub fn kubeconfig(&self) -> Result<PathBuf> {
        self.kubeconfig_of(&json!({"token": TOKEN}))
    }

    /// The same, whose user has his token from a program. It ends at once, so that each request runs the program again.
    pub fn kubeconfig_with_program(&self) -> Result<PathBuf> {
        let told = json!({
            "apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential",
            "status": {"token": TOKEN, "expirationTimestamp": "2026-01-01T00:00:00Z"}
        });
        self.kubeconfig_of(&json!({"exec": {
            "apiVersion": "client.authentication.k8s.io/v1", "interactiveMode": "Never",
            "command": "sh", "args": ["-c", format!("echo '{told}'")]
        }}))
    }

    fn kubeconfig_of(&self, user: &Value) -> Result<PathBuf> {
        let text = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "here",
            "clusters": [{"name": "c", "cluster": {"server": format!("http://{}", self.at)}}],
            "users": [{"name": "u", "user": user}],
            "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
        });
        self.scratch.secret("kubeconfig", text.to_string())
    }
}

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
