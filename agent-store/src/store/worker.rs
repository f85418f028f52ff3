//! The threads that write the log and tidy up: two, because a merge takes seconds, and the log must not wait for it.

use super::Inner;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

/// Between two looks at what is due: a full disk heals within this, a block is written, old ones go.
pub(super) const UPKEEP: Duration = Duration::from_secs(5);

pub(super) struct Worker {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Worker {
    /// Starts both; what is due is looked at every `upkeep`.
    pub(super) fn start(inner: &Arc<Inner>, upkeep: Duration) -> Result<Self, String> {
        let mut worker = Self {
            stop: Arc::default(),
            threads: Vec::with_capacity(2),
        };
        let started = worker
            .spawn("store-log", inner, pause(inner), |inner| {
                inner.sync();
                pause(inner)
            })
            .and_then(|()| {
                worker.spawn("store-upkeep", inner, upkeep, move |inner| {
                    inner.maintain();
                    upkeep
                })
            });
        match started {
            Ok(()) => Ok(worker),
            Err(error) => {
                worker.stop();
                Err(format!("cannot start the store's threads: {error}"))
            }
        }
    }

    /// Starts a thread that takes a turn after each pause; a turn tells how long the next one is.
    fn spawn(
        &mut self,
        name: &str,
        inner: &Arc<Inner>,
        mut pause: Duration,
        turn: impl Fn(&Inner) -> Duration + Send + 'static,
    ) -> std::io::Result<()> {
        let (inner, stop): (Weak<Inner>, _) = (Arc::downgrade(inner), self.stop.clone());
        let thread = std::thread::Builder::new().name(name.into()).spawn(move || {
            loop {
                std::thread::park_timeout(pause);
                if stop.load(Ordering::Acquire) {
                    return;
                }
                let Some(inner) = inner.upgrade() else { return };
                pause = turn(&inner);
            }
        })?;
        self.threads.push(thread);
        Ok(())
    }

    pub(super) fn stop(self) {
        self.stop.store(true, Ordering::Release);
        for thread in &self.threads {
            thread.thread().unpark();
        }
        for thread in self.threads {
            // A panic there has been printed; what it left undone the log has.
            let _ = thread.join();
        }
    }
}

/// Until the log is written again: sooner than its interval when that failed, so that it heals when there is room again.
pub(super) fn pause(inner: &Inner) -> Duration {
    let interval = inner.settings.sync_interval.max(Duration::from_millis(10));
    if inner.waiting.load(Ordering::Relaxed) > 0 {
        interval.min(UPKEEP)
    } else {
        interval
    }
}
