//! `geophone replay`.

use super::scores::Scores;
use super::{exposition, rules};
use crate::api::json::SnapshotView;
use crate::cli;
use crate::config::Config;
use crate::error::{Context as _, Error, Result};
use crate::memory::{Memory, Recorder};
use crate::record::Replay;
use crate::stacks::store::Query;
use crate::stacks::{Format, Stacks};
use agent_store::store::{Place, Stats};
use serde_json::Value;
use std::fs::File;
use std::io::{BufWriter, Write, stdout};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// Ticks after which a replay has its store make blocks of what is complete.
const TICKS_TO_A_BLOCK: u64 = 60;

/// Plays a recording, and writes what was asked for. The same file and the same questions give the same bytes.
pub fn replay(config: &Config, options: &cli::Replay) -> Result<()> {
    if options.json && options.rules.is_empty() && !options.scores {
        return Err(Error::usage("--json: is for --rules and --scores"));
    }
    if options.baseline.is_some() && options.rules.is_empty() && !options.scores {
        return Err(Error::usage("--baseline: is for --rules and --scores"));
    }
    // What is written may not take the place of what is read.
    for (flag, file) in [("--output", &options.output), ("--profile", &options.profile)] {
        if file.as_deref().is_some_and(|file| is_same(file, &options.file)) {
            return Err(Error::usage(format_args!(
                "{flag} {}: is the recording itself; name another file",
                options.file.display()
            )));
        }
    }
    let groups = rules::groups(&options.rules)?;
    let mut replay = Replay::open(&options.file)?;
    let mut out: Box<dyn Write> = match &options.output {
        Some(file) => Box::new(BufWriter::new(File::create(file).context(file.display())?)),
        None => Box::new(BufWriter::new(stdout().lock())),
    };
    // The recording's name of the host; how rules are evaluated and what is watched is today's question.
    let mut asked = config.clone();
    asked.host.clone_from(&replay.meta().host);
    let store = match &options.directory {
        Some(directory) => Some(Memory::replayed(
            Place::Directory(directory.clone()),
            &config.store,
        )?),
        // What rules and scores look at has to be somewhere.
        None if !options.rules.is_empty() || options.scores => {
            Some(Memory::replayed(Place::Memory, &config.store)?)
        }
        None => None,
    };
    let store = store.map(Arc::new);
    let mut scores = match &store {
        // An alert that looks at a score must not be silent for want of it.
        Some(memory) if options.scores || rules::need_scores(&groups) => {
            let began = replay.meta().start_unix_nanos;
            Some(Scores::new(&asked, memory, began, options.baseline.as_deref())?)
        }
        _ => None,
    };
    let mut recorder = Recorder::new(&replay.config().host_name());
    let (began, mut first) = (Instant::now(), None);
    let (mut last, mut ticks) = (None, 0u64);
    while let Some(mut snapshot) = replay.tick()? {
        if options.real_time {
            // Not by the clock, which may have been set in between.
            let first = *first.get_or_insert(replay.elapsed());
            let due = replay.elapsed().saturating_sub(first);
            std::thread::sleep(due.saturating_sub(began.elapsed()));
        }
        if let Some(scores) = &mut scores {
            scores.add(&mut snapshot.families);
        }
        if let Some(memory) = &store {
            let at = memory.step(&mut recorder, &snapshot);
            if let Some(scores) = &scores {
                scores.evaluate(at);
            }
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
    if options.profile.is_some() {
        profile(options, replay.stacks(), last.unix_nanos)?;
    }
    let mut past = None;
    if let Some(memory) = &store {
        recorder.end(memory.store());
        memory.store().sync();
        memory.store().maintain();
        let stats = memory.stats();
        refused(&stats)?;
        let mut answers = Vec::new();
        let mut whole = serde_json::Map::new();
        if let Some(scores) = scores.as_ref().filter(|_| options.scores) {
            let report = scores.report(memory)?;
            if options.json {
                whole.extend(report.json());
            } else if !options.ticks {
                answers.push(report.text());
            }
        }
        if !options.rules.is_empty() {
            let (text, came_to) = rules::replayed(&asked, memory, groups, options.json)?;
            match serde_json::from_str(&text) {
                Ok(Value::Object(alerts)) if options.json => whole.extend(alerts),
                _ => answers.push(text),
            }
            past = Some(came_to);
        }
        if !whole.is_empty() {
            let text = serde_json::to_string_pretty(&Value::Object(whole)).context("JSON")?;
            answers.push(text);
        }
        if !answers.is_empty() {
            writeln!(out, "{}", answers.join("\n\n")).context("writing")?;
        }
    }
    if !options.ticks && past.is_none() && scores.is_none() && options.profile.is_none() {
        out.write_all(&exposition(&last)).context("writing")?;
    }
    out.flush().context("writing")?;
    past.map_or(Ok(()), |past| rules::failures(&past))
}

/// What a store did not take, and what helps.
fn refused(stats: &Stats) -> Result<()> {
    let no_room = stats.lost + stats.series_refused;
    if no_room > 0 {
        return Err(Error::new(format_args!(
            "{no_room} samples or series found no room; raise store.memory, or replay into an empty --store DIRECTORY"
        )));
    }
    if stats.refused > 0 {
        return Err(Error::new(format_args!(
            "{} samples are of a time at which the store has another already, or that no clock has had: replay into an empty --store DIRECTORY; if it was, the recording is damaged",
            stats.refused
        )));
    }
    Ok(())
}

/// Whether two paths lead to the same file.
fn is_same(one: &Path, other: &Path) -> bool {
    let number = |path: &Path| std::fs::metadata(path).map(|file| (file.dev(), file.ino())).ok();
    number(one).is_some_and(|one| Some(one) == number(other))
}

/// Writes the stacks of the recording, of its last hour at most.
fn profile(options: &cli::Replay, stacks: Option<Arc<Stacks>>, now: u64) -> Result<()> {
    let Some(file) = &options.profile else {
        return Ok(());
    };
    let number = options.kind.number();
    let stacks = stacks.filter(|stacks| stacks.takes(number));
    let stacks = stacks.ok_or_else(|| {
        Error::new(format_args!(
            "{}: has no such stacks: probe profile was off when it was made, or did not take them",
            options.file.display()
        ))
    })?;
    let query = Query {
        sample: number,
        ..Query::default()
    };
    // The command line was refused if the file's name says nothing.
    let format = Format::of(file).unwrap_or_default();
    std::fs::write(file, stacks.answer_at(now, &query, format)?).context(file.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_store_did_not_take_is_said_with_its_own_reason() {
        let said = |stats: &Stats| refused(stats).err().map(|error| error.to_string());
        let mut stats = Stats::default();
        assert_eq!(said(&stats), None);
        stats.refused = 3;
        assert!(said(&stats).unwrap().starts_with("3 samples are of a time"));
        stats.series_refused = 2;
        assert!(said(&stats).unwrap().contains("raise store.memory"));
    }

    #[test]
    fn a_file_is_known_by_any_of_its_names() {
        let directory = tempfile::tempdir().unwrap();
        let [one, link, other] = ["one", "link", "other"].map(|name| directory.path().join(name));
        std::fs::write(&one, "").unwrap();
        std::os::unix::fs::symlink(&one, &link).unwrap();
        assert!(is_same(&one, &link) && !is_same(&one, &other) && !is_same(&other, &other));
        std::fs::write(&other, "").unwrap();
        assert!(!is_same(&one, &other));
    }
}
