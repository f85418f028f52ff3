//! The flight recorder: an agent that always records, to a ring on disk, and what is made of it when somebody asks or an
//! alert begins to fire.
//!
//! What it costs is bounded: a second's records by [`super::tape`], the bytes on disk by [`Segments`] and [`make_room`], what
//! is written anew by ten seconds at least from one segment to the next. It has no record made that nobody else asks for.

use super::segments::{Dumped, Of, Segments, clear, dump, remove};
use super::{Meta, Output, Source, Stats, Tape};
use crate::config::{Config, FlightSettings};
use crate::error::{Context as _, Error, Result};
use crate::probes::unix_nanos;
use std::fs::{self, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// Segments that the time is divided into: what is kept is at most a tenth too long.
const SEGMENTS: u32 = 10;
/// From one dump of alerts to the next: all that begin to fire between are in the next.
const PAUSE: Duration = Duration::from_secs(60);
/// So long a dump waits for what the disk has still to take.
const DISK: Duration = Duration::from_secs(5);
/// What is kept of a recorder that is off: so long somebody may still want to know what happened.
const LEFT: Duration = Duration::from_secs(24 * 3600);
/// Dumps of alerts, at most; on an idle machine each has few bytes.
const MOST_DUMPS: usize = 100;
/// Ending of dumps.
const ENDING: &str = "geophone";
/// Beginning of the names of those that alerts have made.
const ALERT: &str = "alert-";
/// Longest part of a file's name that is an alert's.
const LONGEST_NAME: usize = 64;

/// Dumps that alerts have asked for.
#[derive(Debug, Default)]
struct Dumps {
    written: AtomicU64,
    failed: AtomicU64,
}

/// A running flight recorder.
pub struct Flight {
    directory: PathBuf,
    /// Which of those who have recorded there this is.
    own: Of,
    tape: Arc<Tape>,
    dumps: Arc<Dumps>,
    /// Alerts that have begun to fire; `None` = nothing is done about them.
    alerts: Option<Sender<String>>,
}

impl Flight {
    /// What the configuration wants: the kernel, and a recorder if it is on.
    pub fn start(config: &Config) -> Result<(Source, Option<Arc<Self>>)> {
        let settings = &config.record.flight;
        if settings.minutes == 0 {
            tidy(&settings.directory)?;
            return Ok((Source::Kernel, None));
        }
        let meta = Meta::now(config)?;
        let flight = Self::open(settings, meta).context("record.flight")?;
        Ok((Source::Recording(flight.tape.clone()), Some(Arc::new(flight))))
    }

    fn open(settings: &FlightSettings, meta: Meta) -> Result<Self> {
        let keep = Duration::from_secs(60 * u64::from(settings.minutes));
        let most = settings.max_size.get() / 2;
        let directory = settings.directory.clone();
        let own = Of::Began(meta.start_unix_nanos);
        let segments = Segments::open(&directory, meta, keep, most)?;
        let output = Output::segments(segments, keep / SEGMENTS, most / u64::from(SEGMENTS))?;
        let tape = Arc::new(Tape::new(output));
        let dumps: Arc<Dumps> = Arc::default();
        let alerts = if settings.dump_on_alert {
            let (sender, receiver) = channel();
            let (place, counters) = (directory.clone(), dumps.clone());
            let of = Arc::downgrade(&tape);
            std::thread::Builder::new()
                .name("flight-dump".into())
                .spawn(move || {
                    on_alerts(
                        &Ring {
                            directory: place,
                            own,
                            most,
                        },
                        &of,
                        &receiver,
                        &counters,
                    )
                })
                .context("starting the thread that dumps")?;
            Some(sender)
        } else {
            None
        };
        Ok(Self {
            directory,
            own,
            tape,
            dumps,
            alerts,
        })
    }

    /// An alert has begun to fire. Returns at once.
    pub fn alert(&self, name: &str) {
        if let Some(alerts) = &self.alerts {
            // The thread ends with this value only.
            let _ = alerts.send(name.to_owned());
        }
    }

    /// Writes what it has of this agent, as one recording.
    pub fn dump(&self, out: &mut dyn Write) -> Result<Dumped> {
        dump(&self.directory, self.own, out)
    }

    /// Waits until all is on the disk. It records no further.
    pub fn finish(&self) {
        if let Err(e) = self.tape.finish() {
            tracing::error!("record.flight: {e}");
        }
    }

    /// What became of what was recorded.
    pub fn stats(&self) -> Stats {
        self.tape.stats()
    }

    /// Dumps for alerts: written, and failed.
    pub fn dumps(&self) -> (u64, u64) {
        (self.dumps.written.load(Relaxed), self.dumps.failed.load(Relaxed))
    }

    /// Bytes on disk: the ring, and what alerts have dumped.
    pub fn on_disk(&self) -> (u64, u64) {
        let ring = super::segments::list(&self.directory).unwrap_or_default();
        let dumps = alert_dumps(&self.directory).unwrap_or_default();
        (
            ring.iter().map(|segment| segment.bytes).sum(),
            dumps.iter().map(|(_, bytes)| bytes).sum(),
        )
    }
}

/// Removes what a recorder that is off by now has left, now or when it is old.
fn tidy(directory: &Path) -> Result<()> {
    let left = clear(directory, LEFT).unwrap_or_else(|e| {
        tracing::warn!("record.flight is off, and what it has left cannot be removed: {e}");
        None
    });
    let Some(left) = left else { return Ok(()) };
    tracing::info!(
        "record.flight is off; what it has left in {} goes in {} h, geophone record --dump saves it",
        directory.display(),
        left.as_secs().div_ceil(3600)
    );
    let directory = directory.to_owned();
    let wait = move || {
        let mut left = Some(left);
        while let Some(pause) = left {
            std::thread::sleep(pause);
            left = clear(&directory, LEFT).unwrap_or_default();
        }
    };
    std::thread::Builder::new()
        .name("flight-tidy".into())
        .spawn(wait)
        .context("starting the thread that removes what the flight recorder has left")?;
    Ok(())
}

/// What dumps are made of.
struct Ring {
    directory: PathBuf,
    own: Of,
    /// Most bytes of all dumps.
    most: u64,
}

/// Writes a dump for what comes, and for what has come within a minute another.
fn on_alerts(ring: &Ring, tape: &Weak<Tape>, alerts: &Receiver<String>, counters: &Dumps) {
    while let Ok(first) = alerts.recv() {
        let began = Instant::now();
        // The second in which it began to fire is the one that is wanted most.
        while began.elapsed() < DISK && tape.upgrade().is_some_and(|tape| tape.stats().waiting > 0) {
            std::thread::sleep(Duration::from_millis(10));
        }
        // Rules are evaluated group by group: what fires at the same time is told at once.
        let others = alerts.try_iter().count();
        match ring.dump_for(&first) {
            Ok((path, dumped)) => {
                counters.written.fetch_add(1, Relaxed);
                let others = if others > 0 {
                    format!(" and {others} more")
                } else {
                    String::new()
                };
                tracing::info!(
                    "alert {first}{others}: the minutes before are in {}, {} bytes; geophone replay reads them",
                    path.display(),
                    dumped.bytes
                );
            }
            Err(e) => {
                counters.failed.fetch_add(1, Relaxed);
                tracing::error!("alert {first}: the minutes before could not be dumped: {e}");
            }
        }
        std::thread::sleep(PAUSE.saturating_sub(began.elapsed()));
    }
}

impl Ring {
    /// Dumps to a file of an alert's name.
    fn dump_for(&self, alert: &str) -> Result<(PathBuf, Dumped)> {
        let Self { directory, most, .. } = self;
        let ring: u64 = super::segments::list(directory)
            .context(directory.display())?
            .iter()
            .map(|segment| segment.bytes)
            .sum();
        make_room(directory, most.saturating_sub(ring), MOST_DUMPS - 1).context(directory.display())?;
        let name: String = alert
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
            .take(LONGEST_NAME)
            .collect();
        let seconds = unix_nanos() / 1_000_000_000;
        let path = directory.join(format!("{ALERT}{seconds}-{name}.{ENDING}"));
        let part = path.with_extension("part");
        let written = self.write(&part).and_then(|dumped| {
            fs::rename(&part, &path).context(path.display())?;
            // The ring has grown meanwhile.
            make_room(directory, *most, MOST_DUMPS).context(directory.display())?;
            Ok(dumped)
        });
        if written.is_err() {
            let _ = remove(&part);
        }
        Ok((path, written?))
    }

    fn write(&self, path: &Path) -> Result<Dumped> {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(path)
            .context(path.display())?;
        let left = self.most;
        let mut out = BufWriter::new(Limited { file, left });
        let dumped = dump(&self.directory, self.own, &mut out)?;
        let file = out.into_inner().map_err(|e| Error::new(e.error()))?.file;
        file.sync_all().context(path.display())?;
        Ok(dumped)
    }
}

/// The ring grows while it is read; what is allowed does not.
struct Limited {
    file: fs::File,
    left: u64,
}

impl Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
        if most == 0 && !bytes.is_empty() {
            // What follows a chunk that is cut is left out by every reader, and named.
            return Ok(bytes.len());
        }
        let written = self.file.write(bytes.get(..most).unwrap_or_default())?;
        self.left -= written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Dumps that alerts have made, the oldest first, with their bytes; those that were not finished too.
fn alert_dumps(directory: &Path) -> io::Result<Vec<(PathBuf, u64)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        if name.is_some_and(|name| name.starts_with(ALERT))
            && let Ok(meta) = fs::metadata(&path)
        {
            found.push((meta.modified()?, path, meta.len()));
        }
    }
    found.sort();
    Ok(found.into_iter().map(|(_, path, bytes)| (path, bytes)).collect())
}

/// Removes the oldest dumps of alerts until they are no more than so many, with no more than so many bytes.
fn make_room(directory: &Path, most: u64, most_dumps: usize) -> io::Result<()> {
    let dumps = alert_dumps(directory)?;
    let mut count = dumps.len();
    let mut bytes: u64 = dumps.iter().map(|(_, bytes)| bytes).sum();
    for (path, length) in dumps {
        let is_part = path.extension().is_some_and(|e| e != ENDING);
        if bytes > most || count > most_dumps || is_part {
            remove(&path)?;
            bytes -= length;
            count -= 1;
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "flight_tests.rs"]
mod tests;
