//! Objects as clusters have them: the files in fixtures, whose README tells where each was seen.

use super::Api;
use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use std::path::PathBuf;

/// Kinds as their files begin, and as the API calls them.
const KINDS: [(&str, &str); 3] = [
    ("pod-", "pods"),
    ("service-", "services"),
    ("slice-", "endpointslices"),
];

/// The one of this name.
pub fn fixture(name: &str) -> Result<Value> {
    let path = directory().join(format!("{name}.json"));
    let text = std::fs::read(&path).with_context(|| path.display().to_string())?;
    serde_json::from_slice(&text).with_context(|| path.display().to_string())
}

/// Names of those whose files begin so.
pub fn names(kind: &str) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for file in std::fs::read_dir(directory())? {
        let name = file?.file_name().to_string_lossy().into_owned();
        let name = name.strip_suffix(".json").filter(|name| name.starts_with(kind));
        names.extend(name.map(str::to_owned));
    }
    names.sort();
    Ok(names)
}

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("harness/kubernetes/fixtures")
}

impl Api {
    /// Has all pods, services and slices of them as well, the pods on `node-1`; returns how many pods.
    pub fn has_fixtures(&self) -> Result<usize> {
        for (kind, plural) in KINDS {
            for name in names(kind)? {
                let mut object = fixture(&name)?;
                if plural == "pods" {
                    object["spec"]["nodeName"] = json!("node-1");
                }
                self.set(plural, object);
            }
        }
        Ok(names("pod-")?.len())
    }
}
