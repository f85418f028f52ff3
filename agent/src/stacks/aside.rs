//! Reading that may never end. A page of a process's memory may be a file system's that answers when it likes (FUSE), or a
//! handler's of page faults. So it is read on a thread of its own and waited for only so long. One that hangs is
//! left alone, and so is whose fault it is until it is back; the others get another thread, unless too many hang.

use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Weak};
use std::thread::Builder;
use std::time::Duration;

/// Threads of one kind that may hang.
const HANGING: usize = 16;

type Work = Box<dyn FnOnce() + Send>;

/// Does what may hang; `K` is who is to blame if it does.
pub struct Aside<K> {
    name: &'static str,
    patience: Duration,
    worker: Option<Worker>,
    hanging: Vec<(K, Weak<()>)>,
}

struct Worker {
    work: Sender<Work>,
    /// Is gone when the thread is.
    lives: Weak<()>,
}

impl<K: PartialEq> Aside<K> {
    /// On threads of this name, each waited for so long.
    pub const fn new(name: &'static str, patience: Duration) -> Self {
        Self {
            name,
            patience,
            worker: None,
            hanging: Vec::new(),
        }
    }

    /// Does it. `None` = it is not done in time, or something of the same key, or too much, hangs still.
    pub fn run<T: Send + 'static>(&mut self, key: K, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        self.hanging.retain(|(_, lives)| lives.strong_count() > 0);
        if self.hanging.len() >= HANGING || self.hanging.iter().any(|(known, _)| *known == key) {
            return None;
        }
        if self.worker.is_none() {
            self.worker = Worker::start(self.name);
        }
        let (done, result) = channel();
        let work = Box::new(move || {
            let _ = done.send(work());
        });
        self.worker.as_ref()?.work.send(work).ok()?;
        let result = result.recv_timeout(self.patience).ok();
        if result.is_none()
            && let Some(worker) = self.worker.take()
        {
            self.hanging.push((key, worker.lives));
        }
        result
    }
}

impl Worker {
    fn start(name: &str) -> Option<Self> {
        let (sender, receiver) = channel::<Work>();
        let token = Arc::new(());
        let lives = Arc::downgrade(&token);
        let thread = Builder::new().name(name.into()).spawn(move || {
            receiver.iter().for_each(|work| work());
            drop(token);
        });
        thread.is_ok().then_some(Self { work: sender, lives })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn what_hangs_is_left_alone_until_it_is_back() {
        let mut aside = Aside::new("test", Duration::from_millis(200));
        assert_eq!(aside.run(1, || 7), Some(7));
        let (release, wait) = channel::<()>();
        let start = Instant::now();
        assert_eq!(aside.run(1, move || wait.recv().is_ok()), None);
        let took = start.elapsed();
        assert!(took >= Duration::from_millis(200), "{took:?}");
        assert_eq!(aside.run(1, || 7), None, "it is the same one's");
        assert_eq!(aside.run(2, || 7), Some(7));
        release.send(()).unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while aside.run(1, || 7).is_none() {
            assert!(Instant::now() < deadline, "it is back");
        }
    }

    #[test]
    fn no_more_than_so_many_hang() {
        let mut aside = Aside::new("test", Duration::from_millis(1));
        let mut held = Vec::new();
        for key in 0..HANGING {
            let (release, wait) = channel::<()>();
            held.push(release);
            assert_eq!(aside.run(key, move || wait.recv().is_ok()), None);
        }
        assert_eq!(aside.run(HANGING, || 7), None);
        drop(held);
        let deadline = Instant::now() + Duration::from_secs(10);
        aside.patience = Duration::from_secs(5);
        while aside.run(HANGING, || 7).is_none() {
            assert!(Instant::now() < deadline, "they are back");
        }
    }
}
