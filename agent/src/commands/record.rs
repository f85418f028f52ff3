//! `geophone record` and `geophone replay`.

use super::{explain, over, say};
use crate::aggregate::Snapshot;
use crate::api::json::SnapshotView;
use crate::app::{self, Running};
use crate::bpf::host;
use crate::cli;
use crate::config::Config;
use crate::error::{Context as _, Error, Result};
use crate::export::prometheus::{self, Format};
use crate::memory::{Memory, Recorder};
use crate::probes::unix_nanos;
use crate::record::{self, Meta, Output, Replay, Source};
use crate::ui::units::bytes;
use agent_common::wire::LAYOUT;
use serde_json::Value;
use std::io::{BufWriter, Write, stdout};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Settings that decide what is read and how it is named. None of them is a secret.
const SETTINGS: [&str; 6] = ["region", "zone", "attributes", "peers", "probes", "limits"];

/// What a recording that begins now is of.
fn meta(config: &Config) -> Result<Meta> {
    let mut settings = serde_json::to_value(config).context("settings")?;
    if let Value::Object(all) = &mut settings {
        all.retain(|key, _| SETTINGS.contains(&key.as_str()));
    }
    let on = app::probes(config);
    let is_left_out = |name: &&str| record::LEFT_OUT.contains(name);
    Ok(Meta {
        geophone: env!("CARGO_PKG_VERSION").into(),
        layout: LAYOUT,
        kernel: host::kernel_release(),
        host: config.host_name(),
        start_unix_nanos: unix_nanos(),
        settings,
        left_out: on
            .iter()
            .map(|p| p.name())
            .filter(is_left_out)
            .map(str::to_owned)
            .collect(),
    })
}

/// `geophone record`: an agent of its own, because a recording begins with the attaching of the programs.
pub async fn record(config: &Config, btf: Option<PathBuf>, options: &cli::Record) -> Result<()> {
    let meta = meta(config)?;
    let left_out = meta.left_out.join(", ");
    let source = Source::to(Output::file(&options.file, &meta)?);
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
            options.file.display(),
            last.tick
        ))),
    }
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
    let store = options
        .directory
        .as_ref()
        .map(|directory| Memory::replayed(directory, &config.store))
        .transpose()?;
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
    if let (Some(memory), Some(directory)) = (&store, &options.directory) {
        recorder.end(memory.store());
        memory.store().sync();
        memory.store().maintain();
        let stats = memory.stats();
        let lost = stats.lost + stats.refused + stats.series_refused;
        if lost > 0 {
            return Err(Error::new(format_args!(
                "--store {}: {lost} samples or series found no room; raise store.memory and replay into an empty directory",
                directory.display()
            )));
        }
    }
    if !options.ticks {
        out.write_all(&exposition(&last)).context("writing")?;
    }
    out.flush().context("writing")
}
