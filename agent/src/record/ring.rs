//! The flight recorder: segments in a directory, bounded by time and by bytes. Each begins with everything and can be read
//! alone; a dump is some of them in one file.

use super::file::append;
use super::format::{self, CHUNK_HEAD, HEAD, Meta};
use super::reader::Chunks;
use crate::error::{Context as _, Error, Result};
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Segments that the time is divided into: what is kept is at most a tenth too long.
const SEGMENTS: u32 = 10;
/// Ending of their names.
const ENDING: &str = "geophone";

/// Segments in a directory.
pub struct Ring {
    directory: PathBuf,
    meta: Meta,
    keep: Duration,
    bytes: u64,
    file: Option<File>,
    /// Bytes of the segment that is being written.
    written: u64,
}

impl Ring {
    /// In this directory, which is made if it is not there.
    pub fn new(directory: &Path, meta: Meta, keep: Duration, bytes: u64) -> Result<Self> {
        fs::create_dir_all(directory).context(directory.display())?;
        Ok(Self {
            directory: directory.to_owned(),
            meta,
            keep,
            bytes,
            file: None,
            written: 0,
        })
    }

    pub(super) fn segment(&self) -> Duration {
        (self.keep / SEGMENTS).max(Duration::from_secs(1))
    }

    pub(super) fn write(&mut self, chunk: &[u8], begins: Option<u64>) -> io::Result<()> {
        if begins.is_some() || self.file.is_none() {
            let at = begins.unwrap_or(self.meta.start_unix_nanos);
            self.tidy(at)?;
            let path = self.directory.join(format!("{at:020}.{ENDING}"));
            let mut file = File::create(path)?;
            file.write_all(&format::head(&self.meta))?;
            self.file = Some(file);
            self.written = 0;
        }
        // A segment that grows beyond its share waits for the next; what came before goes first.
        self.written += chunk.len() as u64;
        if self.written > self.bytes / 2 {
            self.written = chunk.len() as u64;
            self.tidy(u64::MAX)?;
        }
        match &mut self.file {
            Some(file) => append(file, chunk),
            None => Ok(()),
        }
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.as_ref().map_or(Ok(()), File::sync_all)
    }

    /// Removes what is too old at this time, and the oldest beyond the bytes.
    fn tidy(&self, at: u64) -> io::Result<()> {
        let segments = segments(&self.directory)?;
        let mut bytes = 0;
        let oldest = at.saturating_sub(self.keep.as_nanos() as u64);
        let mut next = u64::MAX;
        for (began, path) in segments.into_iter().rev() {
            bytes += fs::metadata(&path).map_or(0, |m| m.len());
            // It ends where the next begins.
            if at != u64::MAX && next < oldest || bytes > self.bytes {
                fs::remove_file(path)?;
            }
            next = began;
        }
        Ok(())
    }
}

/// The segments of a directory by the time at which they begin.
fn segments(directory: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path.file_stem().and_then(|s| s.to_str());
        if path.extension().is_some_and(|e| e == ENDING)
            && let Some(began) = name.and_then(|n| n.parse().ok())
        {
            found.push((began, path));
        }
    }
    found.sort();
    Ok(found)
}

/// Writes what the flight recorder in a directory has of its latest agent to one file; how many bytes. The agent may run.
pub fn dump(directory: &Path, to: &Path) -> Result<u64> {
    let segments = segments(directory).context(directory.display())?;
    let mut parts: Vec<(Meta, Vec<u8>)> = Vec::new();
    for (_, path) in segments.iter().rev() {
        let content = match fs::read(path) {
            Ok(content) => content,
            // It has just become too old.
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(e).context(path.display()),
        };
        let mut chunks = Chunks::new(&content, path)?;
        let meta = chunks.meta().clone();
        if parts
            .first()
            .is_some_and(|(newest, _)| newest.start_unix_nanos != meta.start_unix_nanos)
        {
            break;
        }
        let begin = chunks.at();
        while chunks.next().is_some() {}
        let whole = content.get(begin..chunks.at()).unwrap_or_default();
        parts.push((meta, whole.to_vec()));
    }
    let Some((meta, _)) = parts.first() else {
        return Err(Error::new(format_args!(
            "{}: nothing has been recorded; record.keep says how long the agent remembers",
            directory.display()
        )));
    };
    let mut out = format::head(meta);
    debug_assert!(out.len() > HEAD + CHUNK_HEAD);
    for (_, whole) in parts.iter().rev() {
        out.extend_from_slice(whole);
    }
    fs::write(to, &out).context(to.display())?;
    Ok(out.len() as u64)
}
