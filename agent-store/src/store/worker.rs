//! The thread that writes and tidies up.

use super::Inner;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Between two looks at what is due: a full disk heals within this, a block is written, old ones go.
const UPKEEP: Duration = Duration::from_secs(5);

pub(super) struct Worker {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Worker {
    pub(super) fn start(inner: &Arc<Inner>) -> Result<Self, String> {
        let stop = Arc::new(AtomicBool::new(false));
        let (inner, stopped) = (Arc::downgrade(inner), stop.clone());
        let thread = std::thread::Builder::new()
            .name("store".into())
            .spawn(move || run(&inner, &stopped))
            .map_err(|error| format!("cannot start the store's thread: {error}"))?;
        Ok(Self { stop, thread })
    }

    pub(super) fn stop(self) {
        self.stop.store(true, Ordering::Release);
        self.thread.thread().unpark();
        // A panic there has been printed; what it left undone the log has.
        let _ = self.thread.join();
    }
}

fn run(inner: &Weak<Inner>, stop: &AtomicBool) {
    let mut looked = Instant::now();
    while !stop.load(Ordering::Acquire) {
        let Some(inner) = inner.upgrade() else { return };
        inner.sync();
        if looked.elapsed() >= UPKEEP {
            inner.maintain();
            looked = Instant::now();
        }
        let interval = inner.settings.sync_interval.max(Duration::from_millis(10));
        drop(inner);
        std::thread::park_timeout(interval);
    }
}
