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
use std::io::{self, BufWriter};
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
    // A link is written through, not replaced.
    let file = &std::fs::canonicalize(file).unwrap_or_else(|_| file.to_owned());
    let is_other = std::fs::metadata(file).is_ok_and(|kind| !kind.is_file());
    let (part, out) = match is_other {
        // A pipe, or standard output.
        true => (file.to_owned(), record::private(file)),
        false => {
            let part = part_of(file);
            let out = record::private_new(&part);
            (part, out)
        }
    };
    let mut out = BufWriter::new(out.context(part.display())?);
    let dumped = record::dump(&config.record.flight.directory, record::Of::Back(back), &mut out);
    let dumped = dumped.and_then(|dumped| {
        let whole = out.into_inner().map_err(io::IntoInnerError::into_error);
        let put = whole.and_then(|out| match is_other {
            true => Ok(()),
            // The name is that of the dump once all of it is on the disk.
            false => out.sync_all().and_then(|()| std::fs::rename(&part, file)),
        });
        put.map(|()| dumped).context(file.display())
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

/// Beside a file; nobody knows the name before.
fn part_of(file: &Path) -> PathBuf {
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{:016x}.part", rand::random::<u64>()));
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

    /// Cause: a dump to a link. Seen: where it leads is what is written, by nobody else to be read, and the link stays.
    #[test]
    fn a_dump_is_written_through_a_link() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        let ring = directory.path().join("ring");
        std::fs::create_dir(&ring).unwrap();
        config.record.flight.directory = ring;
        config.record.flight.minutes = 2;
        let (source, flight) = record::Flight::start(&config).unwrap();
        let clock = record::Clock {
            now: std::time::Instant::now(),
            unix_nanos: 1,
            boot_to_unix: 0,
        };
        let tape = source.tape().unwrap();
        tape.end(record::Step::Attach, &clock, &[]);
        tape.end(record::Step::Tick, &clock, &[]);
        flight.unwrap().finish();
        let (file, link) = (directory.path().join("dump"), directory.path().join("link"));
        std::fs::write(&file, "before").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        dump(&config, &link, 0).unwrap();
        assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
        assert!(std::fs::read(&file).unwrap().starts_with(record::format::MAGIC));
        let mode = std::fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 3);
    }
}
