//! `geophone record` and `geophone replay`.

use super::store::moment;
use super::{explain, over, rules, say};
use crate::aggregate::Snapshot;
use crate::api::json::SnapshotView;
use crate::app::{self, Running};
use crate::cli;
use crate::config::Config;
use crate::error::{Context as _, Error, Result};
use crate::export::prometheus::{self, Format};
use crate::memory::{Memory, Recorder};
use crate::record::{self, Meta, Output, Replay, Source};
use crate::ui::units::bytes;
use agent_store::store::Place;
use std::io::{BufWriter, Write, stdout};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// `geophone record`: an agent of its own, because a recording begins with the attaching of the programs; or a dump of the
/// flight recorder.
pub async fn record(config: &Config, btf: Option<PathBuf>, options: &cli::Record) -> Result<()> {
    if let Some(file) = &options.dump {
        return dump(config, file, options.back);
    }
    let Some(file) = &options.file else {
        return Err(Error::usage("FILE: which file is to be written?"));
    };
    let meta = Meta::now(config)?;
    let left_out = meta.left_out.join(", ");
    let source = Source::to(Output::file(file, &meta)?);
    let collector = app::collector_of(config, btf, source.clone())?;
    let mut running = Running::start(collector, Vec::new())?;
    let _ = running.snapshots.wait_for(|s| s.tick > 0).await;
    explain(&running);
    over(options.duration).await?;
    let last = running.stop();
    if let Some(file) = &options.exposition {
        std::fs::write(file, exposition(&last)).context(file.display())?;
    }
    let written = source
        .tape()
        .map(|tape| tape.finish())
        .transpose()?
        .unwrap_or_default();
    let mut text = format!("{} ticks in {}", written.ticks, bytes(written.bytes as f64));
    if !left_out.is_empty() {
        text += &format!("; not recorded: probes {left_out}");
    }
    say(&text)?;
    match last.tick.saturating_sub(written.ticks) {
        0 => Ok(()),
        lost => Err(Error::new(format_args!(
            "{}: {lost} of {} ticks could not be written",
            file.display(),
            last.tick
        ))),
    }
}

/// The directory is read, not the agent asked: what happened before it crashed is there as well.
fn dump(config: &Config, file: &Path, back: usize) -> Result<()> {
    let mut out = BufWriter::new(std::fs::File::create(file).context(file.display())?);
    let dumped = record::dump(&config.record.flight.directory, back, &mut out).inspect_err(|_| {
        let _ = std::fs::remove_file(file);
    })?;
    let began = moment((dumped.began / 1_000_000) as i64);
    let mut text = format!("{} from {began} on", bytes(dumped.bytes as f64));
    if dumped.earlier > 0 {
        text += &format!(
            "; {} earlier agents have recorded here too: --back {}",
            dumped.earlier,
            back + 1
        );
    }
    say(&text)
}

fn exposition(snapshot: &Snapshot) -> Vec<u8> {
    let mut out = Vec::new();
    prometheus::encode(snapshot, Format::Text, &mut out);
    out
}

/// Ticks after which a replay has its store make blocks of what is complete.
const TICKS_TO_A_BLOCK: u64 = 60;

/// `geophone replay`.
pub fn replay(config: &Config, options: &cli::Replay) -> Result<()> {
    let content = std::fs::read(&options.file).context(options.file.display())?;
    let mut replay = Replay::new(&content, &options.file)?;
    let mut out: Box<dyn Write> = match &options.output {
        Some(file) => Box::new(BufWriter::new(
            std::fs::File::create(file).context(file.display())?,
        )),
        None => Box::new(BufWriter::new(stdout().lock())),
    };
    let store = match &options.directory {
        Some(directory) => Some(Memory::replayed(
            Place::Directory(directory.clone()),
            &config.store,
        )?),
        // What rules look at has to be somewhere.
        None if !options.rules.is_empty() => Some(Memory::replayed(Place::Memory, &config.store)?),
        None => None,
    };
    let mut recorder = Recorder::new(&replay.config().host_name());
    let (began, mut first) = (Instant::now(), None);
    let (mut last, mut ticks) = (None, 0u64);
    while let Some(snapshot) = replay.tick()? {
        if options.real_time {
            let first = *first.get_or_insert(snapshot.unix_nanos);
            let due = began + Duration::from_nanos(snapshot.unix_nanos.saturating_sub(first));
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        if let Some(memory) = &store {
            recorder.record(&snapshot, memory.store());
            ticks += 1;
            // The store's own thread does it each five seconds of real time, in which a replay makes hours.
            if ticks % TICKS_TO_A_BLOCK == 0 {
                memory.store().maintain();
            }
        }
        if options.ticks {
            serde_json::to_writer(&mut out, &SnapshotView::from(&snapshot)).context("JSON")?;
            out.write_all(b"\n").context("writing")?;
        }
        last = Some(snapshot);
    }
    if let Some(left_out) = replay.left_out() {
        let _ = writeln!(
            std::io::stderr(),
            "geophone: {}: {left_out}",
            options.file.display()
        );
    }
    let Some(last) = last else {
        return Err(Error::new(format_args!(
            "{}: has not one whole tick",
            options.file.display()
        )));
    };
    let mut past = None;
    if let Some(memory) = &store {
        recorder.end(memory.store());
        memory.store().sync();
        memory.store().maintain();
        let stats = memory.stats();
        let lost = stats.lost + stats.refused + stats.series_refused;
        if lost > 0 {
            return Err(Error::new(format_args!(
                "{lost} samples or series found no room; raise store.memory, or replay into an empty --store DIRECTORY"
            )));
        }
        if !options.rules.is_empty() {
            // The recording's names of the host; how rules are evaluated is today's question.
            let mut config = config.clone();
            config.host.clone_from(&replay.meta().host);
            let (text, came_to) = rules::replayed(&config, memory, &options.rules, options.json)?;
            writeln!(out, "{text}").context("writing")?;
            past = Some(came_to);
        }
    }
    if !options.ticks && past.is_none() {
        out.write_all(&exposition(&last)).context("writing")?;
    }
    out.flush().context("writing")?;
    past.map_or(Ok(()), |past| rules::failures(&past))
}
