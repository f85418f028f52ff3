//! The flight recorder's ring on disk: segments in a directory, bounded by age and by bytes. Each begins with everything and
//! can be replayed alone; a dump is those of one agent, one behind the other.

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
    /// Oldest first; the last is written to if `file` is open.
    all: VecDeque<Segment>,
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
        let all = list(directory).context(directory.display())?;
        Ok(Self {
            directory: directory.to_owned(),
            meta,
            keep,
            most,
            all: all.into(),
            file: None,
            synced: Instant::now(),
            _lock: lock,
        })
    }

    fn begin(&mut self, at: u64) -> io::Result<()> {
        self.sync()?;
        self.file = None;
        // A clock that was set back must not make two of one name, or another order.
        let began = self.all.back().map_or(at, |last| at.max(last.began + 1));
        self.tidy(began)?;
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
        self.all.push_back(Segment {
            began,
            path,
            bytes: head.len() as u64,
        });
        Ok(())
    }

    /// Removes what has ended before the time that is kept.
    fn tidy(&mut self, now: u64) -> io::Result<()> {
        let oldest = now.saturating_sub(self.keep.as_nanos() as u64);
        while self.all.get(1).is_some_and(|next| next.began <= oldest) {
            self.remove_oldest()?;
        }
        Ok(())
    }

    fn remove_oldest(&mut self) -> io::Result<()> {
        if let Some(oldest) = self.all.front() {
            remove(&oldest.path)?;
            self.all.pop_front();
        }
        Ok(())
    }

    /// Removes the oldest until so many more bytes fit.
    fn make_room(&mut self, bytes: u64) -> io::Result<()> {
        let closed = |all: &VecDeque<Segment>, open: bool| all.len() > usize::from(open);
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
    fn append(&mut self, chunk: &[u8], anew: bool, at: u64) -> io::Result<()> {
        if anew || self.file.is_none() {
            self.begin(at)?;
        }
        self.make_room(chunk.len() as u64)?;
        let (Some(file), Some(last)) = (&mut self.file, self.all.back_mut()) else {
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

fn total(all: &VecDeque<Segment>) -> u64 {
    all.iter().map(|segment| segment.bytes).sum()
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

/// Writes what the flight recorder in a directory has of an agent, as one recording: `back` = 0 is the latest agent, 1 the one
/// before. That agent may be running. A segment that is damaged or cut gives what is whole of it.
pub fn dump(directory: &Path, back: usize, out: &mut dyn Write) -> Result<Dumped> {
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
    let Some(at) = runs.len().checked_sub(back + 1) else {
        return Err(Error::new(format_args!(
            "{}: {} agents have recorded here; record.flight.minutes says how long one remembers",
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
        let mut chunks = Chunks::new(&content, &path)?;
        let begin = chunks.at();
        while chunks.pass() {}
        let whole = content.get(begin..chunks.at()).unwrap_or_default();
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
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn meta(start: u64) -> Meta {
        Meta {
            geophone: "test".into(),
            layout: agent_common::wire::LAYOUT,
            kernel: String::new(),
            host: "h".into(),
            start_unix_nanos: start,
            settings: serde_json::json!({}),
            left_out: Vec::new(),
        }
    }

    fn open(directory: &Path, start: u64, keep: u64, most: u64) -> Segments {
        Segments::open(directory, meta(start), Duration::from_secs(keep), most).unwrap()
    }

    fn names(directory: &Path) -> Vec<u64> {
        list(directory)
            .unwrap()
            .iter()
            .map(|s| s.began / SECOND)
            .collect()
    }

    fn chunk(second: u64) -> Vec<u8> {
        format::chunk(format!("the frames of second {second}").as_bytes())
    }

    fn frames(recording: &[u8]) -> Vec<String> {
        let chunks = Chunks::new(recording, Path::new("dump")).unwrap();
        chunks.map(|frames| String::from_utf8(frames).unwrap()).collect()
    }

    fn dumped(directory: &Path, back: usize) -> Vec<u8> {
        let mut out = Vec::new();
        let dumped = dump(directory, back, &mut out).unwrap();
        assert_eq!(dumped.bytes, out.len() as u64);
        out
    }

    #[test]
    fn what_is_kept_is_the_last_seconds_and_a_segment_more() {
        let scratch = tempfile::tempdir().unwrap();
        let mut ring = open(scratch.path(), 1, 20, 1 << 20);
        for second in 0..100 {
            ring.append(&chunk(second), second % 5 == 0, second * SECOND)
                .unwrap();
            let first = names(scratch.path())[0];
            let reaches = second - first;
            assert!(
                second < 25 || (20..25).contains(&reaches),
                "{reaches} s at {second}"
            );
        }
        let dump = dumped(scratch.path(), 0);
        let expected: Vec<String> = (75..100).map(|s| format!("the frames of second {s}")).collect();
        assert_eq!(frames(&dump), expected);
    }

    #[test]
    fn no_more_bytes_than_allowed_lie_on_the_disk_at_any_time() {
        let scratch = tempfile::tempdir().unwrap();
        let most = 4096;
        let mut ring = open(scratch.path(), 1, 1_000_000, most);
        for second in 0..1000 {
            ring.append(&chunk(second), second % 7 == 0, second * SECOND)
                .unwrap();
            let on_disk: u64 = list(scratch.path()).unwrap().iter().map(|s| s.bytes).sum();
            assert!(on_disk <= most && on_disk == total(&ring.all), "{on_disk} bytes");
        }
        assert!(frames(&dumped(scratch.path(), 0)).len() > 14);
        // One that cannot fit is lost; what begins anew goes on.
        let huge = format::chunk(
            &(0..most)
                .flat_map(|n| n.wrapping_mul(0x9e37_79b9).to_le_bytes())
                .collect::<Vec<u8>>(),
        );
        assert!(ring.append(&huge, false, 1001 * SECOND).is_err());
        ring.append(&chunk(1002), true, 1002 * SECOND).unwrap();
        assert_eq!(
            frames(&dumped(scratch.path(), 0)).last().unwrap(),
            "the frames of second 1002"
        );
    }

    #[test]
    fn a_crash_at_any_byte_costs_what_was_not_whole_and_the_next_agent_goes_on() {
        let scratch = tempfile::tempdir().unwrap();
        let mut ring = open(scratch.path(), 1, 1000, 1 << 20);
        for second in 0..6 {
            ring.append(&chunk(second), second % 3 == 0, second * SECOND)
                .unwrap();
        }
        let last = ring.all.back().unwrap().path.clone();
        drop(ring);
        let whole = fs::read(&last).unwrap();
        let head = format::head(&meta(1)).len();
        let each = chunk(3).len();
        for end in 0..=whole.len() {
            fs::write(&last, whole.get(..end).unwrap()).unwrap();
            let kept = 3 + end.saturating_sub(head) / each;
            let dump = dumped(scratch.path(), 0);
            assert_eq!(frames(&dump).len(), kept, "cut at byte {end} of {}", whole.len());
            assert_eq!(dump, dumped(scratch.path(), 0));
        }
        fs::write(&last, whole.get(..whole.len() - 1).unwrap()).unwrap();
        let mut next = open(scratch.path(), 2, 1000, 1 << 20);
        next.append(&chunk(9), false, 9 * SECOND).unwrap();
        assert_eq!(frames(&dumped(scratch.path(), 0)), ["the frames of second 9"]);
        assert_eq!(
            frames(&dumped(scratch.path(), 1)).len(),
            5,
            "the agent that crashed"
        );
        assert!(dump(scratch.path(), 2, &mut Vec::new()).is_err());
    }

    #[test]
    fn a_clock_that_is_set_back_disturbs_no_order() {
        let scratch = tempfile::tempdir().unwrap();
        let mut ring = open(scratch.path(), 1, 1000, 1 << 20);
        for (n, at) in [50, 60, 10, 20, 70].into_iter().enumerate() {
            ring.append(&chunk(n as u64), true, at * SECOND).unwrap();
        }
        let expected: Vec<String> = (0..5).map(|s| format!("the frames of second {s}")).collect();
        assert_eq!(frames(&dumped(scratch.path(), 0)), expected);
    }

    #[test]
    fn two_agents_do_not_share_a_directory() {
        let scratch = tempfile::tempdir().unwrap();
        let _one = open(scratch.path(), 1, 1000, 1 << 20);
        let two = Segments::open(scratch.path(), meta(2), Duration::from_secs(1), 1 << 20);
        assert!(
            two.err()
                .unwrap()
                .to_string()
                .contains("another agent records here")
        );
    }
}
