//! The log's segments on disk.

use super::log::{MAGIC, Pending};
use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Writes segments. What cannot be written waits, and is written again from where the last success ended.
#[derive(Default)]
pub(super) struct LogFile {
    current: Option<(u64, File, u64)>,
    waiting: VecDeque<Pending>,
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
        self.current.as_ref().map_or(0, |(_, _, len)| *len)
    }

    /// Gives up what waits; tells how many samples that was.
    pub(super) fn give_up(&mut self) -> u64 {
        std::mem::take(&mut self.waiting)
            .iter()
            .map(|pending| pending.samples)
            .sum()
    }

    /// Writes and syncs what is new and what still waits.
    pub(super) fn write(&mut self, directory: &Path, new: VecDeque<Pending>) -> io::Result<()> {
        self.waiting.extend(new);
        while let Some(pending) = self.waiting.front() {
            if self
                .current
                .as_ref()
                .is_none_or(|(segment, ..)| *segment != pending.segment)
            {
                if let Some((_, file, _)) = &self.current {
                    file.sync_data()?;
                }
                let name = path(directory, pending.segment);
                let file = OpenOptions::new()
                    .write(true)
                    .create(true)
                    .truncate(true)
                    .open(&name)?;
                file.write_all_at(MAGIC, 0)?;
                sync_directory(directory)?;
                self.current = Some((pending.segment, file, MAGIC.len() as u64));
            }
            let Some((_, file, len)) = &mut self.current else {
                break;
            };
            if let Err(error) = file.write_all_at(&pending.bytes, *len) {
                // Half a record would hide what is written behind it until the next start; room comes back, too.
                let _ = file.set_len(*len);
                return Err(error);
            }
            *len += pending.bytes.len() as u64;
            self.waiting.pop_front();
        }
        self.current
            .as_ref()
            .map_or(Ok(()), |(_, file, _)| file.sync_data())
    }
}
