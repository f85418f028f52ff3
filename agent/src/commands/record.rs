//! `geophone record`.

use super::store::moment;
use super::{explain, exposition, over, say};
use crate::app::{self, Running};
use crate::cli;
use crate::config::Config;
use crate::error::{Context as _, Error, Result};
use crate::identity::kubernetes;
use crate::record::{self, Meta, Output, Source};
use crate::ui::units::bytes;
use std::io::BufWriter;
use std::path::{Path, PathBuf};

/// `geophone record`: an agent of its own, because a recording begins with the attaching of the programs; or a dump of the
/// flight recorder.
pub async fn record(config: &Config, btf: Option<PathBuf>, options: &cli::Record) -> Result<()> {
    if let Some(file) = &options.dump {
        return dump(config, file, options.back);
    }
    let Some(file) = &options.file else {
        return Err(Error::usage("FILE: which file is to be written?"));
    };
    let (config, names) = kubernetes::start(config)?;
    let meta = Meta::now(&config)?;
    let source = Source::to(Output::file(file, &meta)?);
    let collector = app::collector_of(&config, btf, source.clone(), names)?;
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
    let left_out = source.tape().map_or(0, |tape| tape.stats().records_left_out);
    if left_out > 0 {
        text += &format!("; {left_out} samples of stacks were too many or too late and are not in it");
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
    let dumped = record::dump(&config.record.flight.directory, record::Of::Back(back), &mut out)
        .inspect_err(|_| {
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
