//! Which rule files there are, and what all their rules have in common.

use crate::config::Config;
use crate::error::{Context as _, Error, Result};
use agent_rules::Fault;
use agent_store::labels::Labels;
use std::path::{Path, PathBuf};

/// The files; of a directory, those in it that end in .yaml or .yml, by name.
pub fn find(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for path in paths {
        if !path.is_dir() {
            all.push(path.clone());
            continue;
        }
        let mut files = Vec::new();
        for entry in std::fs::read_dir(path).context(path.display())? {
            let file = entry.context(path.display())?.path();
            if file.is_file() && is_yaml(&file) {
                files.push(file);
            }
        }
        if files.is_empty() {
            return Err(Error::new(format_args!(
                "{}: no file in it ends in .yaml or .yml",
                path.display()
            )));
        }
        files.sort();
        all.extend(files);
    }
    Ok(all)
}

fn is_yaml(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str());
    matches!(extension, Some("yaml" | "yml"))
}

/// The first of several faults, and how many there are.
pub fn first(faults: &[Fault]) -> Error {
    let first = faults.first().map(ToString::to_string).unwrap_or_default();
    match faults.len() {
        0 | 1 => Error::new(first),
        count => Error::new(format_args!(
            "{first} (and {} more: `geophone rules check` has all)",
            count - 1
        )),
    }
}

/// `$externalLabels`.
pub fn external_labels(config: &Config) -> Labels {
    let host = [("instance".to_owned(), config.host_name())];
    let given = config.rules.external_labels.clone();
    Labels::new(host.into_iter().chain(given))
}

/// `$externalURL`.
pub fn external_url(config: &Config) -> String {
    if config.rules.external_url.is_empty() {
        let scheme = if config.api.tls.is_some() { "https" } else { "http" };
        return format!("{scheme}://{}", config.api.listen);
    }
    config.rules.external_url.clone()
}
