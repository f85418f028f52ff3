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
    let ended = {
        let (end, mut snapshots) = (over(options.duration), running.snapshots.clone());
        tokio::pin!(end);
        loop {
            tokio::select! {
                result = &mut end => break result,
                changed = snapshots.changed() => if changed.is_err() || !running.alive() {
                    break Err(Error::new("the collector has ended by itself; its last words are in the log"));
                }
            }
        }
    };
    let last = running.stop();
    if let Some(file) = &options.exposition {
        std::fs::write(file, exposition(&last)).context(file.display())?;
    }
    let written = source
        .tape()
        .map(|tape| tape.finish())
        .transpose()
        .context(file.display())?
        .unwrap_or_default();
    let mut text = format!("{} ticks in {}", written.ticks, bytes(written.bytes as f64));
    let left_out = source.tape().map_or(0, |tape| tape.stats().records_left_out);
    if left_out > 0 {
        text += &format!("; {left_out} samples of stacks were too many or too late and are not in it");
    }
    say(&text)?;
    ended?;
    match last.tick.saturating_sub(written.ticks) {
        0 => Ok(()),
        lost => Err(Error::new(format_args!(
            "{}: {lost} of {} ticks could not be written",
            file.display(),
            last.tick
        ))),
    }
}

/// The directory is read, not the agent asked: what happened before it crashed is there as well. What the file was before is there
/// until the dump is whole.
fn dump(config: &Config, file: &Path, back: usize) -> Result<()> {
    let is_other = std::fs::metadata(file).is_ok_and(|kind| !kind.is_file());
    let part = match is_other {
        // A pipe, or standard output.
        true => file.to_owned(),
        false => part_of(file),
    };
    let mut out = BufWriter::new(record::private(&part).context(part.display())?);
    let dumped = record::dump(&config.record.flight.directory, record::Of::Back(back), &mut out);
    let dumped = dumped.and_then(|dumped| match is_other {
        true => Ok(dumped),
        false => std::fs::rename(&part, file)
            .map(|()| dumped)
            .context(file.display()),
    });
    let dumped = dumped.inspect_err(|_| {
        if !is_other {
            let _ = std::fs::remove_file(&part);
        }
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

/// Beside a file.
fn part_of(file: &Path) -> PathBuf {
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    file.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Cause: a dump of nothing, to a file that is there. Seen: an error, and the file as it was.
    #[test]
    fn a_dump_that_fails_leaves_what_was_there() {
        let directory = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        config.record.flight.directory = directory.path().join("none");
        let file = directory.path().join("kept");
        std::fs::write(&file, "kept").unwrap();
        let error = dump(&config, &file, 0).unwrap_err().to_string();
        assert!(error.contains("record.flight.directory"), "{error}");
        assert_eq!(std::fs::read(&file).unwrap(), b"kept");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
