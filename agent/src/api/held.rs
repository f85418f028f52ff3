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
        if now == self.seen {
            return;
        }
        self.seen = now;
        let name = self.files.setting();
        let taken = (self.read)();
        stats.outdated(self.files, taken.is_err());
        match taken {
            Ok(value) => {
                self.value.send_replace(value);
                tracing::info!("{name}: changed, and read again");
            }
            Err(error) => tracing::warn!("{error:#}; what {name} held before is used on"),
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
