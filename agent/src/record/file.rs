//! Where a tape goes: a file, or the segments of the flight recorder. A thread of its own writes, so that a slow disk delays
//! no tick.

use super::Clock;
use super::format::{self, Meta};
use super::segments::Segments;
use crate::error::{Context as _, Error, Result};
use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Seek as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Seconds that may wait for the disk.
const BEHIND: usize = 32;
/// At least so much time lies between two chunks that begin anew: each has everything in it.
const LEAST: Duration = Duration::from_secs(10);

/// What has been written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Bytes of chunks.
    pub bytes: u64,
    /// Ticks that are in them.
    pub ticks: u64,
    /// Ticks that the disk did not take.
    pub lost: u64,
}

#[derive(Default)]
struct Shared {
    bytes: AtomicU64,
    ticks: AtomicU64,
    lost: AtomicU64,
    /// A chunk was lost since the last look.
    broken: AtomicBool,
    /// Orders that are not carried out yet.
    waiting: AtomicU64,
}

struct Order {
    chunk: Vec<u8>,
    /// It begins anew; else it is a tick, and differences to what was before it.
    anew: bool,
    /// When it was made.
    at: Clock,
}

/// What is written to.
pub(super) trait Place: Send {
    /// Appends a chunk or nothing. `anew`, `at`: as of the order.
    fn append(&mut self, chunk: &[u8], anew: bool, at: &Clock) -> io::Result<()>;
    /// Makes it safe from a power cut.
    fn sync(&mut self) -> io::Result<()>;
}

impl Place for File {
    fn append(&mut self, chunk: &[u8], _: bool, _: &Clock) -> io::Result<()> {
        append(self, chunk)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_all()
    }
}

/// When the flight recorder's next segment begins.
struct Turns {
    length: Duration,
    bytes: u64,
    began: Option<Instant>,
    written: u64,
}

/// Where chunks go.
pub struct Output {
    sender: Option<SyncSender<Order>>,
    thread: Option<JoinHandle<io::Result<()>>>,
    shared: Arc<Shared>,
    turns: Option<Turns>,
    /// When a chunk that begins anew was made last.
    anew: Option<Instant>,
}

impl Output {
    /// One file.
    pub fn file(path: &Path, meta: &Meta) -> Result<Self> {
        let mut file = private(path).context(path.display())?;
        file.write_all(&format::head(meta)).context(path.display())?;
        Self::start(file, None)
    }

    /// The flight recorder's: a segment of this length, or of so many bytes, after the other.
    pub(super) fn segments(segments: Segments, length: Duration, bytes: u64) -> Result<Self> {
        let turns = Turns {
            length,
            bytes,
            began: None,
            written: 0,
        };
        Self::start(segments, Some(turns))
    }

    fn start(mut place: impl Place + 'static, turns: Option<Turns>) -> Result<Self> {
        let (sender, receiver) = sync_channel(BEHIND);
        let shared: Arc<Shared> = Arc::default();
        let own = shared.clone();
        let thread = std::thread::Builder::new()
            .name("recorder".into())
            .spawn(move || {
                write(&receiver, &own, &mut place);
                place.sync()
            })
            .context("starting the recorder's thread")?;
        Ok(Self {
            sender: Some(sender),
            thread: Some(thread),
            shared,
            turns,
            anew: None,
        })
    }

    /// Whether it is one file, which somebody has asked for.
    pub(super) fn is_file(&self) -> bool {
        self.turns.is_none()
    }

    /// Whether it is time for the next segment.
    pub(super) fn turns(&self, now: Instant) -> bool {
        self.turns.as_ref().is_some_and(|turns| {
            let age = turns
                .began
                .map_or(Duration::ZERO, |began| now.saturating_duration_since(began));
            age >= turns.length || turns.written >= turns.bytes && age >= LEAST
        })
    }

    /// Whether a chunk that begins anew may be made now: it costs what a hundred others do.
    pub(super) fn may_begin(&mut self, now: Instant) -> bool {
        let last = self.anew;
        let may = last.is_none_or(|last| now.saturating_duration_since(last) >= LEAST);
        if may {
            self.anew = Some(now);
        }
        may
    }

    /// Hands a chunk over that was made now; false = it, or one before it, did not get there.
    pub(super) fn write(&mut self, chunk: Vec<u8>, anew: bool, at: &Clock) -> bool {
        if let Some(turns) = &mut self.turns {
            if anew || turns.began.is_none() {
                (turns.began, turns.written) = (Some(at.now), 0);
            }
            turns.written += chunk.len() as u64;
        }
        let broken = self.shared.broken.swap(false, Relaxed) && !anew;
        let Some(sender) = self.sender.as_ref().filter(|_| !broken) else {
            return false;
        };
        let ticks = u64::from(!anew);
        self.shared.waiting.fetch_add(ticks, Relaxed);
        let order = Order { chunk, anew, at: *at };
        let taken = sender.try_send(order).is_ok();
        if !taken {
            self.shared.waiting.fetch_sub(ticks, Relaxed);
        }
        taken
    }

    /// What is on the disk, and how many ticks are on their way there.
    pub(super) fn written(&self) -> (Written, u64) {
        let waiting = self.shared.waiting.load(Relaxed);
        let written = Written {
            bytes: self.shared.bytes.load(Relaxed),
            ticks: self.shared.ticks.load(Relaxed),
            lost: self.shared.lost.load(Relaxed),
        };
        (written, waiting)
    }

    /// Waits until all is on the disk.
    pub(super) fn finish(&mut self) -> Result<Written> {
        self.sender = None;
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(synced)) => synced.context("writing the recording")?,
            Some(Err(_panic)) => return Err(Error::new("the recorder's thread has panicked")),
            None => {}
        }
        Ok(self.written().0)
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if let Err(e) = self.finish() {
            tracing::error!("{e}");
        }
    }
}

/// Writes what comes. What follows a chunk that could not be written are differences to it: they go as well, until one
/// begins anew.
fn write(orders: &Receiver<Order>, shared: &Shared, place: &mut impl Place) {
    let mut fails = false;
    for Order { chunk, anew, at } in orders {
        let ticks = u64::from(!anew);
        let result = if fails && !anew {
            Ok(false)
        } else {
            place.append(&chunk, anew, &at).map(|()| true)
        };
        match result {
            Ok(true) => {
                fails = false;
                shared.bytes.fetch_add(chunk.len() as u64, Relaxed);
                shared.ticks.fetch_add(ticks, Relaxed);
            }
            Ok(false) => drop(shared.lost.fetch_add(ticks, Relaxed)),
            Err(e) => {
                shared.lost.fetch_add(ticks, Relaxed);
                shared.broken.store(true, Relaxed);
                if !std::mem::replace(&mut fails, true) {
                    tracing::warn!("recording: {e}; what cannot be written is left out and counted");
                }
            }
        }
        shared.waiting.fetch_sub(ticks, Relaxed);
    }
}

/// A file to write a recording to. Addresses and names are in it: nobody's but ours, also where it was there before.
pub fn private(path: &Path) -> io::Result<File> {
    let mut open = OpenOptions::new();
    let file = open
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)?;
    let known = file.metadata()?;
    if known.is_file() {
        // Before anything of it is gone: a file of somebody else's may be ours to write and not to close to others.
        if known.permissions().mode() & 0o077 != 0 {
            file.set_permissions(Permissions::from_mode(0o600))?;
        }
        file.set_len(0)?;
    }
    Ok(file)
}

/// The same where nothing is, not even a link.
pub fn private_new(path: &Path) -> io::Result<File> {
    let mut open = OpenOptions::new();
    open.write(true)
        .create_new(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
}

/// Appends a chunk, or nothing: half a chunk would end the file for every reader.
pub(super) fn append(file: &mut File, chunk: &[u8]) -> io::Result<()> {
    let before = file.stream_position()?;
    file.write_all(chunk).inspect_err(|_| {
        let _ = file.set_len(before);
        let _ = file.seek(io::SeekFrom::Start(before));
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Refuses one chunk, as a full disk does.
    #[derive(Default)]
    struct Full(Vec<u8>);

    impl Place for Full {
        fn append(&mut self, chunk: &[u8], _: bool, _: &Clock) -> io::Result<()> {
            if chunk == [2] {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.0.extend_from_slice(chunk);
            Ok(())
        }

        fn sync(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Cause: a recording to a file that others may read. Seen: afterwards they may not; a new one takes the place of none.
    #[test]
    fn a_recording_is_nobody_elses() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f");
        std::fs::write(&path, "before").unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        let file = private(&path).unwrap();
        let meta = file.metadata().unwrap();
        assert_eq!((meta.permissions().mode() & 0o777, meta.len()), (0o600, 0));
        assert!(private(Path::new("/dev/null")).is_ok());
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(directory.path().join("nowhere"), &link).unwrap();
        for taken in [&path, &link] {
            let error = private_new(taken).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::AlreadyExists, "{taken:?}");
        }
    }

    #[test]
    fn nothing_follows_a_lost_chunk_until_one_begins_anew() {
        let (sender, orders) = sync_channel(8);
        for (chunk, anew) in [(1, false), (2, false), (3, false), (4, true), (5, false)] {
            let chunk = vec![chunk];
            let at = Clock::read();
            sender.send(Order { chunk, anew, at }).unwrap();
        }
        drop(sender);
        let (mut place, shared) = (Full::default(), Shared::default());
        shared.waiting.store(4, Relaxed);
        write(&orders, &shared, &mut place);
        assert_eq!(place.0, [1, 4, 5]);
        assert_eq!((shared.bytes.into_inner(), shared.ticks.into_inner()), (3, 2));
        assert_eq!((shared.waiting.into_inner(), shared.lost.into_inner()), (0, 2));
        assert!(shared.broken.into_inner());
    }
}
