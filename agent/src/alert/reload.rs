//! Rule files are read again: because somebody asked the API, or by SIGHUP, as a Prometheus does.

use super::{Rules, files};
use crate::error::{Error, Result};
use crate::manager;
use agent_rules::file::GroupFile;
use nix::sys::signal::{Signal, raise};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::signal::unix::{SignalKind, signal};

/// A file, or a directory that has none: its groups, or why there are none.
pub(super) struct Source {
    pub path: PathBuf,
    pub groups: Result<Vec<GroupFile>>,
}

impl Source {
    /// Whether a group was read from it.
    pub fn has(&self, group: &GroupFile) -> bool {
        Path::new(&group.file).starts_with(&self.path)
    }
}

/// All files of the configuration, in their order.
pub(super) fn read(paths: &[PathBuf]) -> Vec<Source> {
    let mut all = Vec::new();
    for path in paths {
        match files::find(std::slice::from_ref(path)) {
            Ok(found) => all.extend(found.into_iter().map(|path| {
                let groups = agent_rules::load(&path).map_err(|faults| files::first(&faults));
                Source { path, groups }
            })),
            Err(error) => all.push(Source {
                path: path.clone(),
                groups: Err(error),
            }),
        }
    }
    let read = all.iter().filter_map(|source| source.groups.as_ref().ok());
    let groups: Vec<GroupFile> = read.flatten().cloned().collect();
    for remark in agent_rules::file::remarks(&groups) {
        tracing::warn!("rules.files: {remark}");
    }
    all
}

fn has_terminal() -> bool {
    File::open("/dev/tty").is_ok()
}

/// Whether whoever started this wants it to outlive its terminal, as `nohup` does.
fn outlives_terminal() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    ignored.is_some_and(|mask| mask & 1 << (Signal::SIGHUP as i32 - 1) != 0)
}

/// Reads them again at each SIGHUP, until the agent ends; where there are none that is said, and all goes on. Who loses his
/// terminal gets that signal as well, and ends.
pub async fn on_hangup(rules: Option<Arc<Rules>>, over: impl Future<Output = ()>) {
    // From the next line on it is not ignored.
    let outlives = outlives_terminal();
    let mut hangups = match signal(SignalKind::hangup()) {
        Ok(hangups) => hangups,
        Err(error) => {
            tracing::warn!("SIGHUP: {error}; POST /-/reload reads rule files again");
            return;
        }
    };
    let had_terminal = !outlives && has_terminal();
    tokio::pin!(over);
    loop {
        tokio::select! {
            () = &mut over => return,
            received = hangups.recv() => if received.is_none() {
                return;
            }
        }
        if had_terminal && !has_terminal() {
            let _ = raise(Signal::SIGTERM);
            continue;
        }
        manager::reloading();
        match &rules {
            // What goes wrong is in the log.
            Some(rules) => {
                let _ = reload(rules.clone()).await;
            }
            None => tracing::info!("SIGHUP: there are no rules to read again; rules.files names them"),
        }
        manager::reloaded();
    }
}

/// Reads them again, on a thread that may wait for the end of an evaluation.
pub async fn reload(rules: Arc<Rules>) -> Result<()> {
    let done = tokio::task::spawn_blocking(move || rules.reload()).await;
    done.unwrap_or_else(|_| Err(Error::new("reading the rules has panicked")))
}
