//! The thread that makes places of addresses: it looks at processes as they are first sampled, and has their tables loaded.
//!
//! A sample of a process that nobody has looked at waits until that is done, right here; so the first one has names too,
//! and what waits is bounded by the channel.

use super::Stacks;
use super::image::{Binary, Image};
use super::jit::Jits;
use super::loader::{self, Loader};
use super::reasons::{self, Reasons};
use super::store::{Count, Place, Who};
use super::wakers::{Waker, Wakers};
use crate::error::{Context as _, Result};
use agent_common::profile::{StackHead, end, off, sample};
use nix::time::{ClockId, clock_gettime};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::thread::Thread;
use std::time::{Duration, Instant};

/// Samples that wait: at 99 Hz those of ten seconds of twenty busy CPUs.
const WAITING: usize = 16_384;
/// Processes that are looked at in a second; each takes about half a millisecond once its files are known.
const LOOKS: u32 = 100;
/// A process whose stacks end outside of all mappings is looked at again after this time; if it is as before, after twice
/// of it …
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// … up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Samples are looked for so often.
const LOOK: Duration = Duration::from_millis(100);
/// Processes that are remembered.
const REMEMBERED: usize = 8192;

/// A sample as it comes from the kernel.
pub struct Sample {
    /// Its head.
    pub head: StackHead,
    /// Addresses: those of the kernel, then those of the user, innermost first.
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

/// The way to the thread. A sample does not wake it, which costs more than all else that is done with one: it looks ten times a
/// second, and at once when a process is new.
pub struct Feed {
    messages: SyncSender<Message>,
    thread: Thread,
}

impl Feed {
    /// Hands on a message unless too many are waiting.
    pub fn try_send(&self, message: Message) -> std::result::Result<(), TrySendError<Message>> {
        let is_urgent = match &message {
            Message::Sample(sample) => matches!(sample.head.end, end::UNKNOWN_PROCESS | end::NO_MAPPING),
            Message::Sync(_) => true,
        };
        let sent = self.messages.try_send(message);
        if is_urgent || sent.is_err() {
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
    fn places(&mut self, head: &StackHead, kernel: &[u64], user: &[u64], now: Instant) -> Waker {
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
            resolve(head.end, user, image, &mut places, &mut binaries);
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
    fn remember(&mut self, head: &StackHead, kernel: &[u64], user: &[u64], now: Instant) {
        let (name, stack) = match self.reasons.interrupt(kernel) {
            Some(frames) => {
                let frames = kernel.iter().take(frames).enumerate();
                let places = frames.map(|(i, address)| Place::Kernel(call(i, *address)));
                (*b"[interrupt]\0\0\0\0\0", (places.collect(), Vec::new()))
            }
            None => (head.comm, self.places(head, kernel, user, now)),
        };
        let (mut places, binaries): Waker = stack;
        places.insert(0, Place::Waker(name));
        let (number, thread) = (head.detail as u32, (head.detail >> 32) as u32);
        self.wakers.add((thread, number), (places, binaries));
    }

    fn take(&mut self, sample: &Sample, now: Instant) {
        let head = &sample.head;
        let (kernel, user) = sample
            .frames
            .split_at(usize::from(head.kernel).min(sample.frames.len()));
        if head.sample == sample::WAKER {
            return self.remember(head, kernel, user, now);
        }
        let (mut places, mut binaries) = self.places(head, kernel, user, now);
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

    /// The mappings of the process, looked at anew if they cannot be those that the sample is of.
    fn image(&mut self, head: &StackHead, user: &[u64], now: Instant) -> Option<Arc<Image>> {
        let (tgid, start) = (head.subject.tgid, head.subject.start);
        let known = self.seen.get(&tgid).filter(|seen| seen.start == start);
        if let Some(seen) = known {
            let fits = match head.end {
                // Taken before it was looked at, or because it has become another program since.
                end::UNKNOWN_PROCESS => head.time <= seen.looked,
                end::NO_MAPPING => false,
                _ => true,
            };
            let leaf = user.first().copied().unwrap_or_default();
            let fits = fits
                && seen
                    .image
                    .as_ref()
                    .is_some_and(|image| image.find(leaf).is_some());
            if fits || now < seen.next {
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

/// The innermost address is where the thread was; the others are where calls return to, and the call is before that.
const fn call(frame: usize, address: u64) -> u64 {
    address.saturating_sub(if frame == 0 { 0 } else { 1 })
}

fn resolve(why: u8, user: &[u64], image: &Image, places: &mut Vec<Place>, binaries: &mut Vec<Arc<Binary>>) {
    for (i, address) in user.iter().enumerate() {
        let address = call(i, *address);
        let located = image.find(address);
        let place = match located.map(|l| (l, &l.binary)) {
            Some((located, Some(binary))) => match binary.table.bias(located.start, located.offset) {
                Some(bias) => {
                    if !binaries.iter().any(|known| known.id == binary.id) {
                        binaries.push(binary.clone());
                    }
                    Place::Binary(
                        binary.id,
                        address.wrapping_sub(bias).wrapping_add(binary.table.base),
                    )
                }
                None => Place::Unknown(address),
            },
            Some((_, None)) => Place::Anonymous(address),
            None => Place::Unknown(address),
        };
        places.push(place);
        // Before anybody had looked at the process frame pointers were followed. Where the code has none, only the innermost
        // frame is true.
        let has_rows = located
            .and_then(|l| l.binary.as_ref())
            .is_some_and(|b| !b.table.by_frame_pointer && b.fault.is_empty());
        if why == end::UNKNOWN_PROCESS && (has_rows || matches!(place, Place::Unknown(_))) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::image::{Located, Open};
    use super::super::table::{Segment, Table};
    use super::*;
    use std::path::PathBuf;

    fn binary(id: u32, by_frame_pointer: bool) -> Arc<Binary> {
        Arc::new(Binary {
            id,
            path: PathBuf::from("/bin/x"),
            file: Open::default(),
            build_id: String::new(),
            table: Table {
                base: 0x40_0000,
                segments: vec![Segment {
                    offset: 0x1000,
                    size: 0x2000,
                    address: 0x40_1000,
                }],
                by_frame_pointer,
                ..Table::default()
            },
            fault: String::new(),
            perf_map: None,
        })
    }

    fn image(by_frame_pointer: bool) -> Image {
        let located = |start, binary| Located {
            start,
            end: start + 0x2000,
            offset: 0x1000,
            binary,
        };
        Image {
            tgid: 1,
            start: 1,
            mappings: vec![
                located(0x5000_1000, Some(binary(7, by_frame_pointer))),
                located(0x7000_0000, None),
            ],
        }
    }

    fn places(why: u8, by_frame_pointer: bool, user: &[u64]) -> Vec<Place> {
        let (mut places, mut binaries) = (Vec::new(), Vec::new());
        resolve(why, user, &image(by_frame_pointer), &mut places, &mut binaries);
        places
    }

    #[test]
    fn addresses_are_those_of_the_file_and_callers_those_of_the_call() {
        assert_eq!(
            places(
                end::COMPLETE,
                false,
                &[0x5000_1234, 0x5000_1300, 0x7000_0010, 0x10]
            ),
            [
                Place::Binary(7, 0x40_1234),
                Place::Binary(7, 0x40_12ff),
                Place::Anonymous(0x7000_000f),
                Place::Unknown(0xf)
            ]
        );
    }

    #[test]
    fn without_tables_only_frame_pointers_that_are_there_are_believed() {
        let user = [0x5000_1234, 0x5000_1300, 0x5000_1400];
        assert_eq!(
            places(end::UNKNOWN_PROCESS, false, &user),
            [Place::Binary(7, 0x40_1234)]
        );
        assert_eq!(places(end::UNKNOWN_PROCESS, true, &user).len(), 3);
    }
}
