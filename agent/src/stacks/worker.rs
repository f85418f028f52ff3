//! The thread that makes places of addresses: it looks at processes as they are first sampled, and has their tables loaded.
//!
//! A sample of a process that nobody has looked at waits until that is done, right here; so the first one has names too,
//! and what waits is bounded by the channel.

use super::Stacks;
use super::image::Image;
use super::jit::Jits;
use super::loader::{self, Loader};
use super::python::{Codes, Frame};
use super::reasons::{self, Reasons};
use super::resolve::{call, resolve, split_at};
use super::store::{Count, Place, Who};
use super::wakers::{Waker, Wakers};
use crate::error::{Context as _, Result};
use agent_common::profile::{RUNS_PYTHON, StackHead, end, off, python, sample};
use nix::time::{ClockId, clock_gettime};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::thread::Thread;
use std::time::{Duration, Instant};

/// Samples that wait: at 99 Hz those of ten seconds of twenty busy CPUs.
const WAITING: usize = 16_384;
/// After so many it is woken, before all places are taken.
const MANY: usize = WAITING / 4;
/// Processes that are looked at in a second; each takes about half a millisecond once its files are known.
const LOOKS: u32 = 100;
/// A process whose stacks end where nothing is known (outside of all mappings, or without a row) is looked at again after this
/// time; if it is as before, after twice of it …
const FIRST_PAUSE: Duration = Duration::from_millis(5);
/// … up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Samples are looked for so often.
const LOOK: Duration = Duration::from_millis(250);
/// Processes that are remembered.
const REMEMBERED: usize = 8192;

/// A sample as it comes from the kernel.
pub struct Sample {
    /// Its head.
    pub head: StackHead,
    /// What is behind the head.
    pub frames: Vec<u64>,
    /// Whose it is.
    pub who: Who,
    /// When it was taken, ns since the Unix epoch.
    pub time: u64,
}

/// What the thread is told.
pub enum Message {
    /// A sample.
    Sample(Box<Sample>),
    /// Answer when all that was told before is done.
    Sync(Sender<()>),
}

/// The way to the thread. A sample does not wake it, which costs more than all else that is done with one: it looks as
/// often as the ring is looked at, and at once when a process is new.
pub struct Feed {
    messages: SyncSender<Message>,
    thread: Thread,
    sent: AtomicUsize,
}

impl Feed {
    /// Hands on a message unless too many are waiting.
    pub fn try_send(&self, message: Message) -> std::result::Result<(), TrySendError<Message>> {
        let is_urgent = match &message {
            Message::Sample(sample) => matches!(sample.head.end, end::UNKNOWN_PROCESS | end::NO_MAPPING),
            Message::Sync(_) => true,
        };
        let sent = self.messages.try_send(message);
        let many = self.sent.fetch_add(1, Ordering::Relaxed) % MANY == MANY - 1;
        if is_urgent || many || sent.is_err() {
            self.thread.unpark();
        }
        sent
    }
}

struct Seen {
    start: u64,
    image: Option<Arc<Image>>,
    /// When it was looked at, ns since boot.
    looked: u64,
    /// Whether the kernel can unwind it since.
    published: bool,
    /// Not again before this time.
    next: Instant,
    pause: Duration,
}

struct Worker {
    stacks: Arc<Stacks>,
    loader: Loader,
    jits: Jits,
    reasons: Reasons,
    wakers: Wakers,
    codes: Codes,
    seen: HashMap<u32, Seen>,
    /// Gone when it was last looked for.
    gone: Vec<u32>,
    looks: u32,
    second: Instant,
}

/// Starts the thread. It ends when the sender is dropped.
pub fn start(stacks: Arc<Stacks>, loader: Loader) -> Result<Feed> {
    let (sender, receiver) = sync_channel(WAITING);
    let worker = Worker {
        stacks,
        loader,
        jits: Jits::default(),
        reasons: Reasons::new(),
        wakers: Wakers::default(),
        codes: Codes::default(),
        seen: HashMap::new(),
        gone: Vec::new(),
        looks: LOOKS,
        second: Instant::now(),
    };
    let thread = std::thread::Builder::new()
        .name("stacks".into())
        .spawn(move || worker.run(&receiver))
        .context("starting the thread that loads unwind tables")?;
    Ok(Feed {
        messages: sender,
        thread: thread.thread().clone(),
        sent: AtomicUsize::new(0),
    })
}

fn since_boot() -> u64 {
    clock_gettime(ClockId::CLOCK_BOOTTIME)
        .map_or(0, |t| t.tv_sec() as u64 * 1_000_000_000 + t.tv_nsec() as u64)
}

impl Worker {
    fn run(mut self, receiver: &Receiver<Message>) {
        // Above that of names: until a process has been looked at, its stacks are short.
        crate::bpf::host::low_priority(5);
        loop {
            let message = receiver.try_recv();
            let now = Instant::now();
            if now.duration_since(self.second) >= Duration::from_secs(1) {
                self.second = now;
                self.looks = LOOKS;
                self.tidy(now);
            }
            match message {
                Ok(Message::Sample(sample)) => {
                    self.take(&sample, now);
                    self.stacks.counts.taken.fetch_add(1, Ordering::Relaxed);
                }
                Ok(Message::Sync(done)) => {
                    self.tell();
                    let _ = done.send(());
                }
                Err(TryRecvError::Empty) => std::thread::park_timeout(LOOK),
                Err(TryRecvError::Disconnected) => return,
            }
        }
    }

    fn tidy(&mut self, now: Instant) {
        match self.loader.tidy(now) {
            // Samples of a process that has just ended may still be on their way: its image goes a round later.
            Ok(Some(gone)) => {
                for tgid in std::mem::replace(&mut self.gone, gone) {
                    if !self.loader.knows(tgid) {
                        self.seen.remove(&tgid);
                    }
                }
            }
            Ok(None) => {}
            Err(e) => tracing::warn!("probe profile: {e}"),
        }
        self.reasons.rest();
        if self.seen.len() > REMEMBERED {
            self.seen.clear();
        }
        self.jits.tidy(now, |tgid| self.seen.contains_key(&tgid));
        self.tell();
    }

    fn tell(&self) {
        let stats = self.loader.stats();
        self.stacks.tell(loader::Stats {
            open: stats.open + self.jits.open(),
            ..stats
        });
    }

    /// Where the frames of a sample are, and the files that they are in.
    fn places(&mut self, head: &StackHead, kernel: &[u64], rest: &[u64], now: Instant) -> Waker {
        let (python, user) = split_at(rest, 2 * usize::from(head.python));
        let image = if user.is_empty() {
            None
        } else {
            self.image(head, user, now)
        };
        let (mut places, mut binaries) = (Vec::with_capacity(kernel.len() + user.len() + 1), Vec::new());
        for (i, address) in kernel.iter().enumerate() {
            places.push(Place::Kernel(call(i, *address)));
        }
        if let Some(image) = &image {
            let runs = self.python(head, image, python, now);
            resolve(head.end, user, runs, image, &mut places, &mut binaries);
        }
        let is_whole = head.end == end::COMPLETE && (user.is_empty() || image.is_some());
        if !is_whole {
            let why = if image.is_none() {
                end::UNKNOWN_PROCESS
            } else {
                head.end
            };
            places.push(Place::Cut(why));
        }
        (places, binaries)
    }

    /// Keeps who ended a wait until the waiter tells of it. What an interrupt interrupts has not ended anything.
    fn remember(&mut self, head: &StackHead, kernel: &[u64], rest: &[u64], now: Instant) {
        let (name, stack) = match self.reasons.interrupt(kernel) {
            Some(frames) => {
                let frames = kernel.iter().take(frames).enumerate();
                let places = frames.map(|(i, address)| Place::Kernel(call(i, *address)));
                (*b"[interrupt]\0\0\0\0\0", (places.collect(), Vec::new()))
            }
            None => (head.comm, self.places(head, kernel, rest, now)),
        };
        let (mut places, binaries): Waker = stack;
        places.insert(0, Place::Waker(name));
        let (number, thread) = (head.detail as u32, (head.detail >> 32) as u32);
        self.wakers.add((thread, number), (places, binaries));
    }

    fn take(&mut self, sample: &Sample, now: Instant) {
        let head = &sample.head;
        let (kernel, rest) = split_at(&sample.frames, usize::from(head.kernel));
        if head.sample == sample::WAKER {
            return self.remember(head, kernel, rest, now);
        }
        let (mut places, mut binaries) = self.places(head, kernel, rest, now);
        let number = head.detail as u32;
        if head.sample == sample::OFF_CPU && number != 0 {
            match self.wakers.take((head.tid, number)) {
                Some((waker, files)) => {
                    places.extend(waker);
                    binaries.extend(files);
                }
                None => {
                    self.stacks.counts.wakers.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        let count = Count {
            samples: 1,
            value: head.value,
        };
        let mut who = sample.who.clone();
        match head.sample {
            sample::OFF_CPU => who.label = self.reasons.off_cpu(head.detail, kernel).into(),
            sample::LOCK => who.label = reasons::lock(head.detail).into(),
            _ => {}
        }
        let mut store = self.stacks.store();
        // Whoever waits for a futex is off the CPU, and waits for a lock.
        let is_futex = head.detail & off::WHY == off::FUTEX;
        if is_futex && head.sample == sample::OFF_CPU && self.stacks.takes(sample::LOCK) {
            let who = Who {
                sample: sample::LOCK,
                label: reasons::lock(head.detail).into(),
                ..who.clone()
            };
            store.add(sample.time, who, &places, &binaries, count);
        }
        store.add(sample.time, who, &places, &binaries, count);
    }

    /// The frames of Python; what they are called is told to the store.
    fn python(&mut self, head: &StackHead, image: &Image, words: &[u64], now: Instant) -> Vec<Frame> {
        let Some(process) = image.python.as_ref().filter(|_| head.python_end != python::NONE) else {
            return Vec::new();
        };
        let key = (head.subject.tgid, head.subject.start);
        let (frames, functions) = self.codes.frames(key, process, words, head.python_end, now);
        for (count, lost) in self.stacks.counts.python.iter().zip(self.codes.lost) {
            count.store(lost, Ordering::Relaxed);
        }
        self.stacks.store().functions.learn(functions);
        frames
    }

    /// The mappings of the process, looked at anew if they cannot be those that the sample is of.
    fn image(&mut self, head: &StackHead, user: &[u64], now: Instant) -> Option<Arc<Image>> {
        let (tgid, start) = (head.subject.tgid, head.subject.start);
        let known = self.seen.get(&tgid).filter(|seen| seen.start == start);
        if let Some(seen) = known {
            let fits = match head.end {
                // Taken before it was looked at, or because it has become another program since.
                end::UNKNOWN_PROCESS => head.time <= seen.looked,
                // Without a row the caller is guessed, and one outside of all mappings is taken for a wrong guess: so it is
                // as well in a program that was looked at before its libraries were mapped.
                end::NO_MAPPING | end::NO_ROW => false,
                _ => true,
            };
            let leaf = user.first().copied().unwrap_or_default() & !RUNS_PYTHON;
            let fits = fits
                && seen
                    .image
                    .as_ref()
                    .is_some_and(|image| image.find(leaf).is_some());
            // The kernel has forgotten what it was told: the process has become another program, which need not wait.
            let is_another = head.end == end::UNKNOWN_PROCESS && seen.published && head.time > seen.looked;
            if fits || (now < seen.next && !is_another) {
                return seen.image.clone();
            }
        }
        if self.looks == 0 {
            return known.and_then(|seen| seen.image.clone());
        }
        self.looks -= 1;
        self.stacks.counts.looked.fetch_add(1, Ordering::Relaxed);
        let image = self.loader.load(tgid, start, now).unwrap_or_else(|e| {
            tracing::warn!("probe profile: process {tgid}: {e}");
            None
        });
        let image = image.map(|mut image| {
            self.jits.place(&mut image, now);
            image
        });
        let before = self.seen.remove(&tgid).filter(|seen| seen.start == start);
        let pause = match &before {
            Some(before) if same(before.image.as_deref(), image.as_ref()) => {
                (before.pause * 2).min(LONGEST_PAUSE)
            }
            _ => FIRST_PAUSE,
        };
        let image = image.map(Arc::new);
        let seen = Seen {
            start,
            // Of a process that has just ended, what was known of it.
            image: image.clone().or_else(|| before.and_then(|before| before.image)),
            looked: since_boot(),
            published: self.loader.published(tgid) == Some(now),
            next: now + pause,
            pause,
        };
        let image = seen.image.clone();
        self.seen.insert(tgid, seen);
        image
    }
}

fn same(a: Option<&Image>, b: Option<&Image>) -> bool {
    let bounds = |image: &Image| {
        image
            .mappings
            .iter()
            .map(|m| (m.start, m.end))
            .collect::<Vec<_>>()
    };
    a.map(bounds) == b.map(bounds)
}
