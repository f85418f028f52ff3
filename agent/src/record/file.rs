//! Where a tape goes: a file, or a ring of segments. A thread of its own writes, so that a slow disk delays no tick.

use super::format::{self, Meta};
use super::ring::Ring;
use crate::error::{Context as _, Result};
use std::fs::File;
use std::io::{self, Seek as _, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Seconds that may wait for the disk.
const BEHIND: usize = 32;

/// What has been written.
#[derive(Clone, Copy, Debug, Default)]
pub struct Written {
    /// Bytes, ever.
    pub bytes: u64,
    /// Chunks that did not get to the disk.
    pub lost: u64,
}

#[derive(Default)]
struct Counters {
    bytes: AtomicU64,
    lost: AtomicU64,
    /// A chunk was lost since the last look.
    broken: AtomicBool,
}

struct Order {
    chunk: Vec<u8>,
    /// It begins a segment, at this time.
    begins: Option<u64>,
}

/// Where chunks go.
pub struct Output {
    sender: Option<SyncSender<Order>>,
    thread: Option<JoinHandle<()>>,
    counters: Arc<Counters>,
    /// Length of a segment.
    segment: Option<Duration>,
    began: Option<Instant>,
}

/// What is written to.
pub(super) enum Place {
    /// One file.
    File(File),
    /// The flight recorder.
    Ring(Box<Ring>),
}

impl Output {
    /// One file.
    pub fn file(path: &Path, meta: &Meta) -> Result<Self> {
        let mut file = File::create(path).context(path.display())?;
        file.write_all(&format::head(meta)).context(path.display())?;
        Self::start(Place::File(file), None)
    }

    /// A ring of segments; see [`Ring`].
    pub fn ring(ring: Ring) -> Result<Self> {
        let segment = ring.segment();
        Self::start(Place::Ring(Box::new(ring)), Some(segment))
    }

    fn start(place: Place, segment: Option<Duration>) -> Result<Self> {
        let (sender, receiver) = sync_channel(BEHIND);
        let counters: Arc<Counters> = Arc::default();
        let shared = counters.clone();
        let thread = std::thread::Builder::new()
            .name("recorder".into())
            .spawn(move || write(place, &receiver, &shared))
            .context("starting the recorder's thread")?;
        Ok(Self {
            sender: Some(sender),
            thread: Some(thread),
            counters,
            segment,
            began: None,
        })
    }

    /// Whether it is time for a new segment.
    pub(super) fn turns(&mut self, now: Instant) -> bool {
        let Some(segment) = self.segment else { return false };
        let began = *self.began.get_or_insert(now);
        let turns = now.saturating_duration_since(began) >= segment;
        if turns {
            self.began = Some(now);
        }
        turns
    }

    /// Hands a chunk over; false = it, or one before it, did not get there.
    pub(super) fn write(&mut self, chunk: Vec<u8>, begins: Option<u64>) -> bool {
        let Some(sender) = &self.sender else { return false };
        let broken = self.counters.broken.swap(false, Relaxed) && begins.is_none();
        let taken = !broken && sender.try_send(Order { chunk, begins }).is_ok();
        if !taken {
            self.counters.lost.fetch_add(1, Relaxed);
        }
        taken
    }

    pub(super) fn written(&self) -> Written {
        Written {
            bytes: self.counters.bytes.load(Relaxed),
            lost: self.counters.lost.load(Relaxed),
        }
    }

    /// Waits until all is on the disk.
    pub(super) fn finish(&mut self) -> Written {
        self.sender = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the recorder's thread has panicked");
        }
        self.written()
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        self.finish();
    }
}

fn write(mut place: Place, orders: &Receiver<Order>, counters: &Counters) {
    let mut fails = false;
    for order in orders {
        let result = match &mut place {
            Place::File(file) => append(file, &order.chunk),
            Place::Ring(ring) => ring.write(&order.chunk, order.begins),
        };
        match result {
            Ok(()) => {
                fails = false;
                counters.bytes.fetch_add(order.chunk.len() as u64, Relaxed);
            }
            Err(e) => {
                counters.lost.fetch_add(1, Relaxed);
                counters.broken.store(true, Relaxed);
                if !std::mem::replace(&mut fails, true) {
                    tracing::warn!("recording: {e}; what cannot be written is left out and counted");
                }
            }
        }
    }
    let synced = match &place {
        Place::File(file) => file.sync_all(),
        Place::Ring(ring) => ring.sync(),
    };
    if let Err(e) = synced {
        tracing::warn!("recording: {e}");
    }
}

/// Appends a chunk, or nothing: half a chunk would end the file for every reader.
pub(super) fn append(file: &mut File, chunk: &[u8]) -> io::Result<()> {
    let before = file.stream_position()?;
    file.write_all(chunk).inspect_err(|_| {
        let _ = file.set_len(before);
        let _ = file.seek(io::SeekFrom::Start(before));
    })
}
