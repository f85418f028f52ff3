//! The log's segments on disk.

use super::log::{MAGIC, Pending, leave};
use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Writes segments. What cannot be written waits, and is written again from where the last success ended.
#[derive(Default)]
pub(super) struct LogFile {
    pub(super) current: Option<Segment>,
    waiting: VecDeque<Pending>,
}

pub(super) struct Segment {
    number: u64,
    pub(super) file: File,
    len: u64,
    /// Samples that were written since the last sync.
    unsynced: u64,
}

/// Why the log was not written.
pub(super) struct Failed {
    pub(super) error: io::Error,
    /// A segment that must not be gone on with, and how many samples of it may be lost.
    pub(super) doubtful: Option<(u64, u64)>,
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self {
            error,
            doubtful: None,
        }
    }
}

pub(super) fn path(directory: &Path, segment: u64) -> PathBuf {
    directory.join(format!("{segment:010}.log"))
}

/// The numbers of the files with this ending, ascending.
pub(super) fn numbered(directory: &Path, ending: &str) -> io::Result<Vec<u64>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == ending)
            && let Some(number) = path.file_stem().and_then(|stem| stem.to_str()?.parse().ok())
        {
            found.push(number);
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// Makes the names of a directory durable.
pub(super) fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

impl LogFile {
    pub(super) fn waiting_bytes(&self) -> usize {
        self.waiting.iter().map(|pending| pending.bytes.len()).sum()
    }

    pub(super) fn segment_bytes(&self) -> u64 {
        self.current.as_ref().map_or(0, |segment| segment.len)
    }

    /// Gives up what waits; tells how many samples that was.
    pub(super) fn give_up(&mut self) -> u64 {
        std::mem::take(&mut self.waiting)
            .iter()
            .map(|pending| pending.samples)
            .sum()
    }

    /// Syncs what was written. When that fails, the kernel has forgotten what it could not write, and the next sync succeeds
    /// without it: the segment is left, and all of it that was not synced is doubtful.
    fn sync(&mut self) -> Result<(), Failed> {
        let Some(current) = &mut self.current else {
            return Ok(());
        };
        let Err(error) = current.file.sync_data() else {
            current.unsynced = 0;
            return Ok(());
        };
        let (number, unsynced) = (current.number, current.unsynced);
        self.current = None;
        // What continues it is not understood without it.
        let samples = unsynced + leave(&mut self.waiting, number);
        Err(Failed {
            error,
            doubtful: Some((number, samples)),
        })
    }

    /// Writes and syncs what is new and what still waits.
    pub(super) fn write(&mut self, directory: &Path, new: VecDeque<Pending>) -> Result<(), Failed> {
        self.waiting.extend(new);
        while let Some(segment) = self.waiting.front().map(|pending| pending.segment) {
            if self
                .current
                .as_ref()
                .is_none_or(|current| current.number != segment)
            {
                self.sync()?;
                let name = path(directory, segment);
                let file = OpenOptions::new()
                    .write(true)
                    .create(true)
                    .truncate(true)
                    .open(&name)?;
                file.write_all_at(MAGIC, 0)?;
                if let Err(error) = sync_directory(directory) {
                    // Its name is as doubtful as a segment's bytes: the next attempt makes a new one.
                    let _ = std::fs::remove_file(&name);
                    return Err(error.into());
                }
                self.current = Some(Segment {
                    number: segment,
                    file,
                    len: MAGIC.len() as u64,
                    unsynced: 0,
                });
            }
            let (Some(current), Some(pending)) = (&mut self.current, self.waiting.front()) else {
                break;
            };
            if let Err(error) = current.file.write_all_at(&pending.bytes, current.len) {
                // Half a record would hide what is written behind it until the next start; room comes back, too.
                let _ = current.file.set_len(current.len);
                return Err(error.into());
            }
            current.len += pending.bytes.len() as u64;
            current.unsynced += pending.samples;
            self.waiting.pop_front();
        }
        self.sync()
    }
}
