//! Where a tape goes: a file. A thread of its own writes, so that a slow disk delays no tick.

use super::format::{self, Meta};
use crate::error::{Context as _, Error, Result};
use std::fs::File;
use std::io::{self, Seek as _, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

/// Seconds that may wait for the disk.
const BEHIND: usize = 32;

/// What has been written.
#[derive(Clone, Copy, Debug, Default)]
pub struct Written {
    /// Bytes of chunks.
    pub bytes: u64,
    /// Ticks that are in them.
    pub ticks: u64,
}

struct Order {
    chunk: Vec<u8>,
    /// It begins anew; else it is a tick, and differences to what was before it.
    anew: bool,
}

/// Where chunks go.
pub struct Output {
    sender: Option<SyncSender<Order>>,
    thread: Option<JoinHandle<io::Result<Written>>>,
    /// A chunk was lost since the last look.
    broken: Arc<AtomicBool>,
}

impl Output {
    /// One file.
    pub fn file(path: &Path, meta: &Meta) -> Result<Self> {
        let mut file = File::create(path).context(path.display())?;
        file.write_all(&format::head(meta)).context(path.display())?;
        let (sender, receiver) = sync_channel(BEHIND);
        let broken: Arc<AtomicBool> = Arc::default();
        let shared = broken.clone();
        let thread = std::thread::Builder::new()
            .name("recorder".into())
            .spawn(move || {
                let written = write(&receiver, &shared, |chunk| append(&mut file, chunk));
                file.sync_all().map(|()| written)
            })
            .context("starting the recorder's thread")?;
        Ok(Self {
            sender: Some(sender),
            thread: Some(thread),
            broken,
        })
    }

    /// Hands a chunk over; false = it, or one before it, did not get there.
    pub(super) fn write(&self, chunk: Vec<u8>, anew: bool) -> bool {
        let broken = self.broken.swap(false, Relaxed) && !anew;
        let sender = self.sender.as_ref().filter(|_| !broken);
        sender.is_some_and(|sender| sender.try_send(Order { chunk, anew }).is_ok())
    }

    /// Waits until all is on the disk.
    pub(super) fn finish(&mut self) -> Result<Written> {
        self.sender = None;
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(written)) => written.context("writing the recording"),
            Some(Err(_panic)) => Err(Error::new("the recorder's thread has panicked")),
            None => Ok(Written::default()),
        }
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
fn write(
    orders: &Receiver<Order>,
    broken: &AtomicBool,
    mut append: impl FnMut(&[u8]) -> io::Result<()>,
) -> Written {
    let (mut written, mut fails) = (Written::default(), false);
    for Order { chunk, anew } in orders {
        if fails && !anew {
            continue;
        }
        match append(&chunk) {
            Ok(()) => {
                fails = false;
                written.bytes += chunk.len() as u64;
                written.ticks += u64::from(!anew);
            }
            Err(e) => {
                broken.store(true, Relaxed);
                if !std::mem::replace(&mut fails, true) {
                    tracing::warn!("recording: {e}; what cannot be written is left out and counted");
                }
            }
        }
    }
    written
}

/// Appends a chunk, or nothing: half a chunk would end the file for every reader.
fn append(file: &mut File, chunk: &[u8]) -> io::Result<()> {
    let before = file.stream_position()?;
    file.write_all(chunk).inspect_err(|_| {
        let _ = file.set_len(before);
        let _ = file.seek(io::SeekFrom::Start(before));
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_follows_a_lost_chunk_until_one_begins_anew() {
        let (sender, orders) = sync_channel(8);
        for (chunk, anew) in [(1, false), (2, false), (3, false), (4, true), (5, false)] {
            let chunk = vec![chunk];
            sender.send(Order { chunk, anew }).unwrap();
        }
        drop(sender);
        let (mut file, broken) = (Vec::new(), AtomicBool::new(false));
        let written = write(&orders, &broken, |chunk| {
            if chunk == [2] {
                return Err(io::ErrorKind::StorageFull.into());
            }
            file.extend_from_slice(chunk);
            Ok(())
        });
        assert_eq!(file, [1, 4, 5]);
        assert_eq!((written.bytes, written.ticks), (3, 2));
        assert!(broken.into_inner());
    }
}
