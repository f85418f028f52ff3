//! Reading that may never end. A page of a process's memory may be a file system's that answers when it likes (FUSE), or a
//! handler's of page faults. So it is read on a thread of its own and waited for only so long. One that hangs is
//! left alone, and so is whose fault it is until it is back; the others get another thread, unless too many hang. Whoever was
//! slow is left alone for twenty times as long as it took: nobody has more than a twenty-first of the time.

use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Weak};
use std::thread::Builder;
use std::time::{Duration, Instant};

/// Threads of one kind that may hang.
const HANGING: usize = 16;

/// What takes longer than this, which a thread that only waits for a CPU does not, is paid for …
const SLOW: Duration = Duration::from_millis(100);
/// … with so many times of it in which the same one's is left alone.
const REST: u32 = 20;

type Work = Box<dyn FnOnce() + Send>;

/// Does what may hang; `K` is who is to blame if it does.
pub struct Aside<K> {
    name: &'static str,
    patience: Duration,
    worker: Option<Worker>,
    /// Who hangs or was slow, what lives while it hangs, and when it may be asked again.
    hanging: Vec<(K, Weak<()>, Instant)>,
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
        let start = Instant::now();
        self.hanging
            .retain(|(_, lives, until)| lives.strong_count() > 0 || start < *until);
        let hanging = self
            .hanging
            .iter()
            .filter(|(_, lives, _)| lives.strong_count() > 0);
        if hanging.count() >= HANGING || self.hanging.iter().any(|(known, ..)| *known == key) {
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
        let took = start.elapsed();
        let lives = match result {
            Some(_) => None,
            None => self.worker.take().map(|worker| worker.lives),
        };
        if result.is_none() || took > SLOW {
            let until = Instant::now() + REST * took;
            self.hanging.push((key, lives.unwrap_or_default(), until));
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
    fn who_was_slow_rests() {
        let mut aside = Aside::new("test", Duration::from_secs(5));
        let slow = || std::thread::sleep(Duration::from_millis(150));
        assert_eq!(aside.run(1, slow), Some(()));
        assert_eq!(aside.run(1, || ()), None);
        assert_eq!(aside.run(2, || ()), Some(()));
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
