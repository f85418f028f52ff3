//! The flight recorder's ring on disk: segments in a directory, bounded by age and by bytes. Each begins with everything and
//! can be replayed alone; a dump is those of one agent, one behind the other.

use super::Clock;
use super::file::{Place, append};
use super::format::{self, Meta};
use super::reader::Chunks;
use crate::error::{Context as _, Error, Result};
use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Ending of their names.
const ENDING: &str = "segment";
/// So often what was written is made safe from a power cut.
const SYNC: Duration = Duration::from_secs(10);

/// A segment on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    /// When it begins, ns since the epoch.
    pub began: u64,
    /// Its file.
    pub path: PathBuf,
    /// Its length.
    pub bytes: u64,
}

/// Segments in a directory that are written to.
pub struct Segments {
    directory: PathBuf,
    meta: Meta,
    keep: Duration,
    /// Most bytes of all.
    most: u64,
    /// Oldest first, with the moments at which they began; the last is written to if `file` is open. The clock of the names may
    /// be set back or forth, and says nothing of their age.
    all: VecDeque<(Segment, Instant)>,
    file: Option<File>,
    synced: Instant,
    /// Held as long as this agent has the directory.
    _lock: File,
}

impl Segments {
    /// In this directory, which is made if it is not there. One agent at a time may have it.
    pub fn open(directory: &Path, meta: Meta, keep: Duration, most: u64) -> Result<Self> {
        // Addresses and names are in it: nobody's but ours.
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .context(directory.display())?;
        let lock = lock(&directory.join("lock"))?;
        let now = Clock::read();
        let all = list(directory).context(directory.display())?.into_iter();
        let all = all.map(|segment| {
            // Those of earlier agents: by the clock, but none is older than what is kept, and none is of tomorrow.
            let age = now.unix_nanos.saturating_sub(segment.began);
            let began = now.now.checked_sub(Duration::from_nanos(age).min(keep));
            (segment, began.unwrap_or(now.now))
        });
        Ok(Self {
            directory: directory.to_owned(),
            meta,
            keep,
            most,
            all: all.collect(),
            file: None,
            synced: Instant::now(),
            _lock: lock,
        })
    }

    fn begin(&mut self, at: &Clock) -> io::Result<()> {
        self.sync()?;
        self.file = None;
        // A clock that was set back must not make two of one name, or another order.
        let last = self.all.back().map_or(0, |(last, _)| last.began + 1);
        let began = at.unix_nanos.max(last);
        self.tidy(at.now)?;
        let head = format::head(&self.meta);
        self.make_room(head.len() as u64)?;
        let path = self.directory.join(format!("{began:020}.{ENDING}"));
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        file.write_all(&head).inspect_err(|_| {
            // Without its head it says nothing.
            let _ = fs::remove_file(&path);
        })?;
        self.file = Some(file);
        let segment = Segment {
            began,
            path,
            bytes: head.len() as u64,
        };
        self.all.push_back((segment, at.now));
        Ok(())
    }

    /// Removes what has ended before the time that is kept.
    fn tidy(&mut self, now: Instant) -> io::Result<()> {
        let keep = self.keep;
        let is_old = |began: Instant| now.saturating_duration_since(began) >= keep;
        while self.all.get(1).is_some_and(|(_, began)| is_old(*began)) {
            self.remove_oldest()?;
        }
        Ok(())
    }

    fn remove_oldest(&mut self) -> io::Result<()> {
        if let Some((oldest, _)) = self.all.front() {
            remove(&oldest.path)?;
            self.all.pop_front();
        }
        Ok(())
    }

    /// Removes the oldest until so many more bytes fit.
    fn make_room(&mut self, bytes: u64) -> io::Result<()> {
        let closed = |all: &VecDeque<(Segment, Instant)>, open: bool| all.len() > usize::from(open);
        while total(&self.all) + bytes > self.most {
            if !closed(&self.all, self.file.is_some()) {
                return Err(io::Error::other(
                    "one segment is larger than half of record.flight.max_size; raise it",
                ));
            }
            self.remove_oldest()?;
        }
        Ok(())
    }
}

impl Place for Segments {
    fn append(&mut self, chunk: &[u8], anew: bool, at: &Clock) -> io::Result<()> {
        if anew || self.file.is_none() {
            self.begin(at)?;
        }
        self.make_room(chunk.len() as u64)?;
        let (Some(file), Some((last, _))) = (&mut self.file, self.all.back_mut()) else {
            return Ok(());
        };
        append(file, chunk)?;
        last.bytes += chunk.len() as u64;
        // What is written is there, as long as the machine is.
        if self.synced.elapsed() >= SYNC
            && let Err(e) = self.sync()
        {
            tracing::warn!("flight recorder: cannot sync: {e}; a power cut would cost more than ten seconds");
        }
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        self.synced = Instant::now();
        self.file.as_ref().map_or(Ok(()), File::sync_data)
    }
}

fn total(all: &VecDeque<(Segment, Instant)>) -> u64 {
    all.iter().map(|(segment, _)| segment.bytes).sum()
}

fn lock(path: &Path) -> Result<File> {
    let mut open = OpenOptions::new();
    open.write(true).create(true).truncate(false).mode(0o600);
    let file = open.open(path).context(path.display())?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::new(format_args!(
            "{}: another agent records here; stop it, or name another record.flight.directory",
            path.display()
        ))),
        Err(TryLockError::Error(e)) => Err(e).context(path.display()),
    }
}

/// Removes a file that may be gone already.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// The segments of a directory by the time at which they begin.
pub(super) fn list(directory: &Path) -> io::Result<Vec<Segment>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path.file_stem().and_then(|s| s.to_str());
        if path.extension().is_some_and(|e| e == ENDING)
            && let Some(began) = name.and_then(|n| n.parse().ok())
        {
            // It may have become too old just now.
            let Ok(bytes) = fs::metadata(&path).map(|m| m.len()) else {
                continue;
            };
            found.push(Segment { began, path, bytes });
        }
    }
    found.sort_by_key(|segment| segment.began);
    Ok(found)
}

/// What a dump has in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dumped {
    /// Its length, bytes.
    pub bytes: u64,
    /// When it begins, ns since the epoch.
    pub began: u64,
    /// Agents that have recorded before this one and are still in the ring.
    pub earlier: usize,
}

/// Which agent of a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    /// 0 = the latest, 1 = the one before.
    Back(usize),
    /// The one that began then, ns since the epoch.
    Began(u64),
}

/// Removes the segments of a ring that nobody writes to, unless the youngest was written to within so long a time. Returns when
/// they may go, if there are any left.
pub(super) fn clear(directory: &Path, after: Duration) -> Result<Option<Duration>> {
    let Ok(all) = list(directory) else { return Ok(None) };
    if all.is_empty() {
        return Ok(None);
    }
    let Ok(_lock) = lock(&directory.join("lock")) else {
        return Ok(None);
    };
    let written = all
        .iter()
        .filter_map(|segment| fs::metadata(&segment.path).ok()?.modified().ok());
    let ages = written.map(|at| at.elapsed().unwrap_or_default());
    let left = after.saturating_sub(ages.min().unwrap_or_default());
    if left > Duration::ZERO {
        return Ok(Some(left));
    }
    for segment in all {
        remove(&segment.path).context(segment.path.display())?;
    }
    Ok(None)
}

/// Writes what the flight recorder in a directory has of an agent, as one recording. That agent may be running. A segment that
/// is damaged or cut gives what is whole of it.
pub fn dump(directory: &Path, of: Of, out: &mut dyn Write) -> Result<Dumped> {
    let segments =
        list(directory).context(format_args!("record.flight.directory {}", directory.display()))?;
    let mut runs: Vec<(Meta, Vec<PathBuf>)> = Vec::new();
    for Segment { path, .. } in segments {
        // What a crash left without a head, or what is too old by now, has nothing to say.
        let Ok(meta) = File::open(&path)
            .map_err(Error::new)
            .and_then(|mut file| Meta::read(&mut file, &path))
        else {
            continue;
        };
        match runs.last_mut() {
            Some((last, paths)) if last.start_unix_nanos == meta.start_unix_nanos => paths.push(path),
            _ => runs.push((meta, vec![path])),
        }
    }
    let found = match of {
        Of::Back(back) => runs.len().checked_sub(back + 1),
        Of::Began(began) => runs.iter().position(|(meta, _)| meta.start_unix_nanos == began),
    };
    let Some(at) = found else {
        let why = match of {
            Of::Back(_) => "record.flight.minutes says how long one remembers",
            Of::Began(_) => "this one has written nothing yet",
        };
        return Err(Error::new(format_args!(
            "{}: {} agents have recorded here; {why}",
            directory.display(),
            runs.len()
        )));
    };
    let (meta, paths) = runs.swap_remove(at);
    let to = |e: io::Error| {
        if e.kind() == io::ErrorKind::BrokenPipe {
            Error::closed()
        } else {
            Error::new(format_args!("writing the dump: {e}"))
        }
    };
    let head = format::head(&meta);
    out.write_all(&head).map_err(to)?;
    let mut dumped = Dumped {
        bytes: head.len() as u64,
        began: meta.start_unix_nanos,
        earlier: at,
    };
    let mut is_first = true;
    for path in paths {
        let content = match fs::read(&path) {
            Ok(content) => content,
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(e).context(path.display()),
        };
        let mut chunks = Chunks::new(content.as_slice(), None, &path)?;
        let begin = chunks.at() as usize;
        while chunks.pass() {}
        let whole = content.get(begin..chunks.at() as usize).unwrap_or_default();
        if std::mem::take(&mut is_first) {
            let name = path.file_stem().and_then(|s| s.to_str());
            dumped.began = name.and_then(|n| n.parse().ok()).unwrap_or(dumped.began);
        }
        out.write_all(whole).map_err(to)?;
        dumped.bytes += whole.len() as u64;
    }
    out.flush().map_err(to)?;
    Ok(dumped)
}

#[cfg(test)]
#[path = "segments_tests.rs"]
mod tests;
