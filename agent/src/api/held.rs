//! What files hold for the API, its certificates and its token: read at the start, and again when they have changed.

use super::stats::{Files, Stats};
use anyhow::Result;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

/// Between two looks at the files. The kubelet brings a changed secret within a minute or two, so nobody waits for this.
pub(super) const LOOK: Duration = Duration::from_secs(10);

/// What tells one state of a file from another: device, inode, size, and when it was changed in seconds and nanoseconds. By the
/// time of the inode, for contents can be given any other, as `cp -p` does.
type Stamp = Option<(u64, u64, u64, i64, i64)>;

/// A value that files hold. What they hold in a new state replaces it, if it can be used.
pub(super) struct Held<T> {
    files: Files,
    paths: Vec<PathBuf>,
    read: Box<dyn Fn() -> Result<T> + Send>,
    seen: Vec<Stamp>,
    /// What was seen last could not be used.
    failed: bool,
    value: watch::Sender<T>,
}

impl<T: Send + Sync + 'static> Held<T> {
    /// Reads it for the first time.
    pub(super) fn new<P, R>(files: Files, paths: P, read: R) -> Result<Self>
    where
        P: IntoIterator<Item = PathBuf>,
        R: Fn() -> Result<T> + Send + 'static,
    {
        let paths: Vec<PathBuf> = paths.into_iter().collect();
        // Before it is read: a change in between is seen at the next look.
        let seen = stamps(&paths);
        let value = watch::Sender::new(read()?);
        Ok(Self {
            files,
            paths,
            read: Box::new(read),
            seen,
            failed: false,
            value,
        })
    }

    /// The value, at any time.
    pub(super) fn latest(&self) -> watch::Receiver<T> {
        self.value.subscribe()
    }

    /// Looks at the files for as long as it is polled.
    pub(super) async fn follow(mut self, every: Duration, stats: Arc<Stats>) {
        let mut looks = interval(every);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            let stats = stats.clone();
            // Files may lie where reading takes its time.
            let looked = tokio::task::spawn_blocking(move || {
                self.look(&stats);
                self
            });
            match looked.await {
                Ok(back) => self = back,
                Err(_) => return,
            }
        }
    }

    /// A state that cannot be used is told once: it may be half of a pair, whose other half is on its way.
    fn look(&mut self, stats: &Stats) {
        let now = stamps(&self.paths);
        let is_news = now != self.seen;
        if !is_news && !self.failed {
            return;
        }
        self.seen = now;
        let name = self.files.setting();
        let taken = (self.read)();
        self.failed = taken.is_err();
        stats.outdated(self.files, self.failed);
        match taken {
            Ok(value) => {
                self.value.send_replace(value);
                tracing::info!("{name}: changed, and read again");
            }
            // Once; it may pass with no change of the files, and is tried at each look.
            Err(error) if is_news => tracing::warn!("{error:#}; what {name} held before is used on"),
            Err(_) => {}
        }
    }
}

/// Through links: Kubernetes changes a secret by a link to another directory.
fn stamps(paths: &[PathBuf]) -> Vec<Stamp> {
    let stamp = |path: &PathBuf| {
        let about = Path::metadata(path).ok()?;
        let changed = (about.ctime(), about.ctime_nsec());
        Some((about.dev(), about.ino(), about.len(), changed.0, changed.1))
    };
    paths.iter().map(stamp).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

    #[test]
    fn what_could_not_be_read_is_tried_again_though_no_file_has_changed() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("token");
        std::fs::write(&file, "1").unwrap();
        let reads = Arc::new(AtomicU32::new(0));
        let counted = reads.clone();
        // The second time it fails, as where too many files are open.
        let read = move || match counted.fetch_add(1, Relaxed) {
            1 => Err(anyhow::anyhow!("too many open files")),
            n => Ok(n),
        };
        let mut held = Held::new(Files::Token, [file.clone()], read).unwrap();
        let (latest, stats) = (held.latest(), Stats::default());
        std::fs::write(&file, "22").unwrap();
        held.look(&stats);
        assert_eq!(*latest.borrow(), 0);
        held.look(&stats);
        assert_eq!(*latest.borrow(), 2);
        held.look(&stats);
        assert_eq!(reads.load(Relaxed), 3, "nothing has changed");
    }
}
