//! Files and directories of the settings that the agent reads or writes by nothing but its capabilities: root without
//! `DAC_OVERRIDE` is in other people's directories what anybody is.

use crate::bpf::privileges;
use crate::config::{Config, StoreKind};
use agent_confine::Capability;
use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::unistd::{AccessFlags, faccessat};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// What is looked at of one tree; whoever has more has most of it by the same owner.
const MOST: usize = 2000;

/// Whether there are any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Others {
    /// To read.
    pub to_read: bool,
    /// To write.
    pub to_write: bool,
}

/// Asks the kernel, as who has neither capability.
pub fn of_others(config: &Config) -> Others {
    let mut named = Vec::new();
    if let Ok(mut values) = serde_json::to_value(config) {
        // For the commands that ask the agent; it does not read them.
        if let Some(tls) = values.pointer_mut("/api/tls").and_then(Value::as_object_mut) {
            tls.retain(|key, _| !matches!(key.as_str(), "client_cert_file" | "client_key_file"));
        }
        paths(&values, &mut named);
    }
    let may = |path: &Path, flags| faccessat(AT_FDCWD, path, flags, AtFlags::AT_EACCESS).is_ok();
    let files = || {
        let mut found = Vec::new();
        for path in &named {
            tree(path, &mut found);
        }
        found
    };
    // By all means that there are.
    let (to_read, to_write) = (files(), written(config));
    let can = |path: &Path, flags| may(path, flags);
    let readable: Vec<PathBuf> = to_read
        .into_iter()
        .filter(|path| can(path, AccessFlags::R_OK))
        .collect();
    let writable: Vec<PathBuf> = to_write
        .into_iter()
        .filter(|path| can(path, AccessFlags::W_OK))
        .collect();
    let both = Capability::DAC_OVERRIDE.bit() | Capability::DAC_READ_SEARCH.bit();
    privileges::without(both, || Others {
        to_read: readable.iter().any(|path| !may(path, AccessFlags::R_OK)),
        to_write: writable.iter().any(|path| !may(path, AccessFlags::W_OK)),
    })
}

/// Every text of the settings that is a path.
fn paths(value: &Value, out: &mut Vec<PathBuf>) {
    match value {
        Value::String(text) if text.starts_with('/') => out.push(PathBuf::from(text)),
        Value::Array(items) => items.iter().for_each(|item| paths(item, out)),
        Value::Object(entries) => entries.values().for_each(|value| paths(value, out)),
        _ => {}
    }
}

/// What is written to, with all that lies in it.
fn written(config: &Config) -> Vec<PathBuf> {
    let stored = !matches!(config.store.kind, StoreKind::None | StoreKind::Memory);
    let told = !config.alerting.receivers.is_empty();
    let flight = &config.record.flight;
    let cache = &config.probes.profile.cache_dir;
    let mut out = Vec::new();
    for (is_used, directory) in [
        (stored, &config.store.directory),
        (told, &config.alerting.directory),
        (flight.minutes > 0, &flight.directory),
        (
            config.probes.profile.enabled && !cache.as_os_str().is_empty(),
            cache,
        ),
    ] {
        if is_used {
            tree(directory, &mut out);
        }
    }
    out
}

/// A file, or a directory and what is in it. Links are not followed: they lead to what is named elsewhere.
fn tree(path: &Path, out: &mut Vec<PathBuf>) {
    let Ok(about) = path.symlink_metadata() else {
        return;
    };
    out.push(path.to_owned());
    if about.is_dir() && out.len() < MOST {
        for entry in path.read_dir().into_iter().flatten().flatten() {
            tree(&entry.path(), out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::unistd::{Gid, Uid, chown};
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn what_is_ones_own_takes_no_capability() {
        let scratch = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        config.store.kind = StoreKind::Disk;
        config.store.directory = scratch.path().to_owned();
        fs::write(scratch.path().join("block"), "x").unwrap();
        assert_eq!(of_others(&config), Others::default());
    }

    #[test]
    fn what_is_somebody_elses_does() {
        if !Uid::effective().is_root() {
            // Nobody can give files away.
            return;
        }
        let scratch = tempfile::tempdir().unwrap();
        fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let (store, secret) = (scratch.path().join("store"), scratch.path().join("secret"));
        fs::create_dir(&store).unwrap();
        fs::write(&secret, "x").unwrap();
        for (path, mode) in [(&store, 0o750), (&secret, 0o600)] {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
            chown(path, Some(Uid::from_raw(65534)), Some(Gid::from_raw(65534))).unwrap();
        }
        let mut config = Config::default();
        config.store.kind = StoreKind::Memory;
        config.rules.alertmanager_token_file = Some(secret);
        let read = Others {
            to_read: true,
            to_write: false,
        };
        assert_eq!(of_others(&config), read);
        config.rules.alertmanager_token_file = None;
        config.store.kind = StoreKind::Disk;
        config.store.directory = store;
        assert!(of_others(&config).to_write);
    }
}
