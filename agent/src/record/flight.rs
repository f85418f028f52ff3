//! The flight recorder: an agent that always records, to a ring on disk, and what is made of it when somebody asks or an
//! alert begins to fire.
//!
//! What it costs is bounded: a second's records by [`super::tape`], the bytes on disk by [`Segments`] and [`make_room`], what
//! is written anew by ten seconds at least from one segment to the next. It has no record made that nobody else asks for.

use super::segments::{Dumped, Segments, dump, remove};
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
        let segments = Segments::open(&directory, meta, keep, most)?;
        let output = Output::segments(segments, keep / SEGMENTS, most / u64::from(SEGMENTS))?;
        let tape = Arc::new(Tape::new(output));
        let dumps: Arc<Dumps> = Arc::default();
        let alerts = if settings.dump_on_alert {
            let (sender, receiver) = channel();
            let (own, counters) = (directory.clone(), dumps.clone());
            let of = Arc::downgrade(&tape);
            std::thread::Builder::new()
                .name("flight-dump".into())
                .spawn(move || on_alerts(&own, most, &of, &receiver, &counters))
                .context("starting the thread that dumps")?;
            Some(sender)
        } else {
            None
        };
        Ok(Self {
            directory,
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
        dump(&self.directory, 0, out)
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

/// Writes a dump for what comes, and for what has come within a minute another.
fn on_alerts(directory: &Path, most: u64, tape: &Weak<Tape>, alerts: &Receiver<String>, counters: &Dumps) {
    while let Ok(first) = alerts.recv() {
        let began = Instant::now();
        // The second in which it began to fire is the one that is wanted most.
        while began.elapsed() < DISK && tape.upgrade().is_some_and(|tape| tape.stats().waiting > 0) {
            std::thread::sleep(Duration::from_millis(10));
        }
        // Rules are evaluated group by group: what fires at the same time is told at once.
        let others = alerts.try_iter().count();
        match dump_for(directory, most, &first) {
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

/// Dumps to a file of an alert's name.
fn dump_for(directory: &Path, most: u64, alert: &str) -> Result<(PathBuf, Dumped)> {
    let ring: u64 = super::segments::list(directory)
        .context(directory.display())?
        .iter()
        .map(|segment| segment.bytes)
        .sum();
    make_room(directory, most.saturating_sub(ring)).context(directory.display())?;
    let name: String = alert
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
        .take(LONGEST_NAME)
        .collect();
    let seconds = unix_nanos() / 1_000_000_000;
    let path = directory.join(format!("{ALERT}{seconds}-{name}.{ENDING}"));
    let part = path.with_extension("part");
    let written = write(directory, most, &part).and_then(|dumped| {
        fs::rename(&part, &path).context(path.display())?;
        Ok(dumped)
    });
    if written.is_err() {
        let _ = remove(&part);
    }
    Ok((path, written?))
}

fn write(directory: &Path, most: u64, path: &Path) -> Result<Dumped> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .context(path.display())?;
    let mut out = BufWriter::new(Limited { file, left: most });
    let dumped = dump(directory, 0, &mut out)?;
    let file = out.into_inner().map_err(|e| Error::new(e.error()))?.file;
    file.sync_all().context(path.display())?;
    Ok(dumped)
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
            found.push((path, meta.len()));
        }
    }
    // The time in the name has ten digits until 2286.
    found.sort();
    Ok(found)
}

/// Removes the oldest dumps of alerts until they have no more than so many bytes.
fn make_room(directory: &Path, most: u64) -> io::Result<()> {
    let dumps = alert_dumps(directory)?;
    let mut bytes: u64 = dumps.iter().map(|(_, bytes)| bytes).sum();
    for (path, length) in dumps {
        let is_part = path.extension().is_some_and(|e| e != ENDING);
        if bytes > most || is_part {
            remove(&path)?;
            bytes -= length;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Bytes;
    use crate::record::format::{self, Step};
    use crate::record::segments::list;
    use crate::record::{Clock, Replay};

    fn meta() -> Meta {
        Meta {
            geophone: "test".into(),
            layout: agent_common::wire::LAYOUT,
            kernel: String::new(),
            host: "h".into(),
            start_unix_nanos: 7,
            settings: serde_json::json!({"probes": {"tunnel": {"enabled": false}}}),
            left_out: Vec::new(),
        }
    }

    fn settings(directory: &Path) -> FlightSettings {
        FlightSettings {
            minutes: 2,
            directory: directory.to_owned(),
            max_size: Bytes::mib(16),
            dump_on_alert: true,
        }
    }

    fn until(what: &str, mut is: impl FnMut() -> bool) {
        let began = Instant::now();
        while !is() {
            assert!(began.elapsed() < Duration::from_secs(20), "{what} did not come");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn second(start: Instant, n: u64) -> Clock {
        Clock {
            now: start + Duration::from_secs(n),
            unix_nanos: (1_700_000_000 + n) * 1_000_000_000,
            boot_to_unix: 0,
        }
    }

    fn run(flight: &Flight, seconds: std::ops::Range<u64>) {
        let start = Instant::now();
        if seconds.start == 0 {
            flight.tape.fact("engine_error", b"\"none here\"".to_vec());
            flight.tape.end(Step::Attach, &second(start, 0), &[]);
        }
        for n in seconds {
            flight.tape.fact("second", n.to_string().into_bytes());
            flight.tape.end(Step::Tick, &second(start, n), &[]);
            until("the disk", || flight.stats().waiting == 0);
        }
    }

    fn ticks(dump: &[u8]) -> Vec<u64> {
        let mut replay = Replay::new(dump, Path::new("dump")).unwrap();
        let mut out = Vec::new();
        while let Some(snapshot) = replay.tick().unwrap() {
            out.push(snapshot.unix_nanos / 1_000_000_000 - 1_700_000_000);
        }
        let left_out = replay.left_out().unwrap();
        assert!(left_out.ends_with("none here"), "{left_out}");
        out
    }

    #[test]
    fn the_last_minutes_are_dumped_and_replayed_and_each_segment_alone() {
        let scratch = tempfile::tempdir().unwrap();
        let flight = Flight::open(&settings(scratch.path()), meta()).unwrap();
        run(&flight, 0..300);
        let mut out = Vec::new();
        flight.dump(&mut out).unwrap();
        let seen = ticks(&out);
        let expected: Vec<u64> = (seen[0]..300).collect();
        assert_eq!(seen, expected, "seconds are missing");
        assert!((120..=144).contains(&seen.len()), "{} s", seen.len());
        let stats = flight.stats();
        assert_eq!(
            (stats.ticks, stats.written.ticks, stats.waiting, stats.lost),
            (300, 300, 0, 0)
        );
        let mut all = Vec::new();
        for segment in list(scratch.path()).unwrap() {
            all.extend(ticks(&fs::read(&segment.path).unwrap()));
        }
        assert_eq!(all, seen);
    }

    /// The last segment is cut at each of its bytes, as by a crash: what is before it and what is whole of it is there.
    #[test]
    fn a_crash_at_any_byte_of_the_last_segment_leaves_the_rest() {
        let scratch = tempfile::tempdir().unwrap();
        let flight = Flight::open(&settings(scratch.path()), meta()).unwrap();
        run(&flight, 0..17);
        drop(flight);
        let last = list(scratch.path()).unwrap().pop().unwrap().path;
        let whole = fs::read(&last).unwrap();
        let mut most = 0;
        for end in 0..=whole.len() {
            fs::write(&last, whole.get(..end).unwrap()).unwrap();
            let mut out = Vec::new();
            dump(scratch.path(), 0, &mut out).unwrap();
            let seen = ticks(&out);
            assert!(seen.len() >= most.max(13), "cut at {end}: {seen:?}");
            most = seen.len();
            assert_eq!(seen, (0..most as u64).collect::<Vec<_>>());
        }
        assert_eq!(most, 17);
    }

    #[test]
    fn what_the_disk_does_not_take_is_counted_and_it_goes_on_by_itself() {
        let scratch = tempfile::tempdir().unwrap();
        let flight = Flight::open(&settings(scratch.path()), meta()).unwrap();
        run(&flight, 0..20);
        // A second that no reader would take.
        let huge = vec![b' '; format::LONGEST + 1];
        flight.tape.fact("huge", huge);
        run(&flight, 20..40);
        let stats = flight.stats();
        assert_eq!(stats.waiting, 0);
        assert!(stats.lost > 0, "{stats:?}");
        // What is told anew is no longer too long.
        flight.tape.fact("huge", b"1".to_vec());
        run(&flight, 40..60);
        let after = flight.stats();
        assert_eq!(
            (after.ticks, after.written.ticks + after.lost),
            (60, 60),
            "{after:?}"
        );
        assert!(after.written.ticks > stats.written.ticks, "{after:?}");
        let mut out = Vec::new();
        flight.dump(&mut out).unwrap();
        let mut replay = Replay::new(&out, Path::new("dump")).unwrap();
        let mut replayed = 0;
        while replay.tick().unwrap().is_some() {
            replayed += 1;
        }
        assert_eq!(replayed, after.written.ticks);
        let lost = after.lost;
        let told = replay.left_out().unwrap();
        assert!(
            told.contains(&format!("{lost} ticks were never written")),
            "{told}"
        );
    }

    #[test]
    fn an_alert_dumps_and_what_alerts_have_dumped_is_bounded() {
        let scratch = tempfile::tempdir().unwrap();
        let flight = Flight::open(&settings(scratch.path()), meta()).unwrap();
        run(&flight, 0..10);
        flight.alert("../High loss");
        flight.alert("Another");
        until("the dump", || flight.dumps() == (1, 0));
        let dumps = alert_dumps(scratch.path()).unwrap();
        let name = dumps[0].0.file_name().unwrap().to_str().unwrap();
        assert!(name.ends_with("-___High_loss.geophone"), "{name}");
        assert_eq!(
            ticks(&fs::read(&dumps[0].0).unwrap()),
            (0..10).collect::<Vec<_>>()
        );

        let most = dumps[0].1 * 5 / 2;
        for n in 0..6 {
            dump_for(scratch.path(), most + flight.on_disk().0, &format!("a{n}")).unwrap();
            let (_, dumped) = flight.on_disk();
            assert!(dumped <= most + flight.on_disk().0, "{dumped} bytes");
        }
        let names = alert_dumps(scratch.path()).unwrap();
        assert!((2..=3).contains(&names.len()), "{names:?}");
    }
}
