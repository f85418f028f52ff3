//! Plays a recording: the same collector, without a kernel.

use super::base::Offsets;
use super::format::{Meta, Reader, Step};
use super::reader::Chunks;
use super::{Past, Source, meta};
use crate::aggregate::labels::printable;
use crate::aggregate::{Family, Fold, Snapshot};
use crate::app;
use crate::collector::Collector;
use crate::config::{Config, TunnelUse};
use crate::error::{Context as _, Error, Result};
use crate::identity::names::Names;
use crate::stacks::Stacks;
use std::fs::File;
use std::io::{BufReader, Read};
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// A recording that is being played.
pub struct Replay<R> {
    chunks: Chunks<R>,
    past: Arc<Past>,
    collector: Option<Collector>,
    config: Config,
    frames: Vec<u8>,
    /// Where in `frames` the next step begins.
    at: usize,
    damage: Option<String>,
    /// Where the recording does not begin with the agent: the difference to what the agent said.
    offsets: Option<Offsets>,
    /// Labels that the agent left out.
    fold: Fold,
    /// Rules of its settings that name what this version does not have.
    unknown_rules: usize,
    /// Ticks that were given.
    ticks: u64,
}

impl Replay<BufReader<File>> {
    /// Of a file, which is read as it is played.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).context(path.display())?;
        let kind = file.metadata().context(path.display())?;
        if kind.is_dir() || kind.file_type().is_char_device() || kind.file_type().is_block_device() {
            let why = "is no file; `geophone record FILE` makes a recording";
            return Err(Error::new(format_args!("{}: {why}", path.display())));
        }
        let length = kind.is_file().then_some(kind.len());
        Self::of(BufReader::with_capacity(1 << 20, file), length, path)
    }
}

impl<'a> Replay<&'a [u8]> {
    /// Of a file's content.
    pub fn new(content: &'a [u8], path: &Path) -> Result<Self> {
        Self::of(content, Some(content.len() as u64), path)
    }
}

impl<R: Read> Replay<R> {
    /// Of what a source has. The settings are those of the recording.
    fn of(source: R, length: Option<u64>, path: &Path) -> Result<Self> {
        let chunks = Chunks::new(source, length, path)?;
        let (config, unknown_rules) = settings(chunks.meta()).context(path.display())?;
        let fold = Fold::new(&config.labels, chunks.meta().start_unix_nanos);
        Ok(Self {
            chunks,
            past: Arc::new(Past::new()),
            collector: None,
            fold,
            unknown_rules,
            config,
            frames: Vec::new(),
            at: 0,
            damage: None,
            offsets: None,
            ticks: 0,
        })
    }

    /// What it is of.
    pub fn meta(&self) -> &Meta {
        self.chunks.meta()
    }

    /// Its settings.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// How long after the recording began the latest step was, whatever was done to the clock meanwhile.
    pub fn elapsed(&self) -> Duration {
        self.past.elapsed()
    }

    /// The snapshot of the next tick; `None` = it is over.
    pub fn tick(&mut self) -> Result<Option<Snapshot>> {
        loop {
            let Some(step) = self.step() else { return Ok(None) };
            if self.collector.is_none() {
                let source = Source::Recorded(self.past.clone());
                self.collector = Some(app::collector_of(&self.config, None, source, Names::default())?);
            }
            let Some(collector) = &mut self.collector else {
                return Ok(None);
            };
            match step {
                Step::Attach => {}
                Step::Drain => drop(collector.drain(false, drop)),
                Step::Begin => {
                    if let Some(mut offsets) = self.past.jumped() {
                        offsets.begin(&collector.tick(&mut [], false).families);
                        self.offsets = Some(offsets);
                    }
                }
                Step::Tick | Step::Last => {
                    let mut snapshot = collector.tick(&mut [], step == Step::Last);
                    if let Some(offsets) = &mut self.offsets {
                        offsets.apply(&mut snapshot.families);
                    }
                    self.fold.apply(&mut snapshot.families);
                    snapshot.families.iter_mut().for_each(sort);
                    self.ticks += 1;
                    snapshot.tick = self.ticks;
                    return Ok(Some(snapshot));
                }
            }
        }
    }

    fn step(&mut self) -> Option<Step> {
        loop {
            let mut reader = Reader(self.frames.get(self.at..).unwrap_or_default());
            match self.past.advance(&mut reader) {
                Ok(Some(step)) => {
                    self.at = self.frames.len() - reader.0.len();
                    return Some(step);
                }
                Ok(None) => {}
                Err(tag) => {
                    self.damage = Some(format!("a frame of kind {tag} makes no sense"));
                    return None;
                }
            }
            if !self.chunks.read(&mut self.frames) {
                self.frames.clear();
                self.at = 0;
                return None;
            }
            self.at = 0;
        }
    }

    /// The stacks that it has, if any were taken.
    pub fn stacks(&self) -> Option<Arc<Stacks>> {
        self.collector.as_ref().and_then(Collector::stacks)
    }

    /// What could not be played, in one line; `None` = it was whole.
    pub fn left_out(&self) -> Option<String> {
        let mut all = Vec::new();
        if let Some(collector) = &self.collector
            && !collector.engine_error.is_empty()
        {
            all.push(collector.engine_error.clone());
        }
        if let Some(damage) = &self.damage {
            all.push(format!("{damage}, nothing after it was read"));
        }
        let at = self.chunks.at();
        match self.chunks.rest() {
            Some(0) => {}
            // It was not read, and nobody knows whether it is damaged.
            _ if self.damage.is_some() => {}
            Some(rest) => all.push(format!(
                "the last {rest} bytes are damaged or cut off (from byte {at} on)"
            )),
            None => all.push(format!("what follows byte {at} is damaged or cut off")),
        }
        match self.past.missing() {
            0 => {}
            1 => all.push("1 tick was never written".into()),
            n => all.push(format!("{n} ticks were never written")),
        }
        if !self.meta().left_out.is_empty() {
            all.push(format!(
                "not recorded: probes {}",
                self.meta().left_out.join(", ")
            ));
        }
        match self.unknown_rules {
            0 => {}
            1 => all.push(
                "1 rule of its labels names what this version does not have, and was passed over".into(),
            ),
            n => all.push(format!(
                "{n} rules of its labels name what this version does not have, and were passed over"
            )),
        }
        // It may quote the file.
        (!all.is_empty()).then(|| printable(&all.join("; ")))
    }
}

/// The order of series is that of hashes in some probes; in what a replay says it is that of their labels.
fn sort(family: &mut Family) {
    family.series.sort_by(|a, b| a.labels.text.cmp(&b.labels.text));
}

/// Only those that an agent writes down: a file has no say in what else is done here.
fn settings(meta: &Meta) -> Result<(Config, usize)> {
    let mut settings = meta.settings.clone();
    meta::only_recorded(&mut settings);
    let unknown_rules = meta::only_known_rules(&mut settings);
    let mut config = Config::parse("settings", &settings.to_string()).map_err(Error::new)?;
    config.host.clone_from(&meta.host);
    for probe in &meta.left_out {
        match probe.as_str() {
            "profile" => config.probes.profile.enabled = false,
            "tunnel" => config.probes.tunnel.enabled = TunnelUse::Off,
            _ => {}
        }
    }
    Ok((config, unknown_rules))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::format::{self, bytes, tag, varint};

    fn meta(settings: serde_json::Value) -> Meta {
        Meta {
            geophone: "9\u{1b}[2J".into(),
            layout: agent_common::wire::LAYOUT,
            kernel: String::new(),
            host: "h".into(),
            start_unix_nanos: 0,
            settings,
            left_out: Vec::new(),
        }
    }

    /// A step at a time since the recording began, at a time of the clock, ns.
    fn step(frames: &mut Vec<u8>, step: Step, since: u64, unix_nanos: u64) {
        frames.push(tag::STEP);
        [step.number(), since, unix_nanos, 0]
            .iter()
            .for_each(|number| varint(frames, *number));
    }

    fn recording() -> Vec<u8> {
        let mut frames = vec![tag::FACT];
        bytes(&mut frames, b"engine_error");
        bytes(&mut frames, b"\"no right to\"");
        step(&mut frames, Step::Attach, 0, 0);
        step(&mut frames, Step::Tick, 0, 0);
        let first = format::chunk(&frames);
        // The clock was set forth by a day.
        let mut frames = Vec::new();
        step(&mut frames, Step::Tick, 1_000_000_000, 86_400_000_000_000);
        [
            format::head(&meta(serde_json::json!({}))),
            first,
            format::chunk(&frames),
        ]
        .concat()
    }

    #[test]
    fn a_recording_without_a_kernel_side_says_why() {
        let content = recording();
        let mut replay = Replay::new(&content, Path::new("f")).unwrap();
        assert!(replay.tick().unwrap().is_some());
        assert_eq!(replay.elapsed(), Duration::ZERO);
        assert!(replay.tick().unwrap().is_some());
        assert_eq!(replay.elapsed(), Duration::from_secs(1), "not a day");
        assert!(replay.tick().unwrap().is_none());
        assert!(
            replay
                .left_out()
                .unwrap()
                .ends_with("no kernel side: no right to")
        );
    }

    /// Cause: a recording that ends anywhere, as a file and as a stream. Seen: what is whole of it is played, and the rest is named.
    #[test]
    fn what_is_cut_is_named_also_where_nobody_knows_how_long_it_was() {
        let content = recording();
        let head = format::head(&meta(serde_json::json!({}))).len();
        let mut chunks = Chunks::new(content.as_slice(), None, Path::new("f")).unwrap();
        assert!(chunks.pass());
        let whole = [head, chunks.at() as usize, content.len()];
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f");
        for end in head..=content.len() {
            let part = content.get(..end).unwrap();
            std::fs::write(&path, part).unwrap();
            let mut file = Replay::open(&path).unwrap();
            let mut stream = Replay::of(part, None, &path).unwrap();
            let mut played = 0;
            while file.tick().unwrap().is_some() {
                assert!(stream.tick().unwrap().is_some());
                played += 1;
            }
            assert!(stream.tick().unwrap().is_none());
            let (file, stream) = (file.left_out(), stream.left_out());
            let cut = |said: &Option<String>| said.as_ref().is_some_and(|said| said.contains("cut off"));
            let is_whole = whole.contains(&end);
            assert_eq!(
                (cut(&file), cut(&stream)),
                (!is_whole, !is_whole),
                "{end}: {file:?} {stream:?}"
            );
            let ticks = whole.iter().skip(1).filter(|whole| **whole <= end).count();
            assert_eq!(played, ticks, "{end}");
        }
    }

    /// Cause: the last frame makes no sense. Seen: that is said, and not that what follows it, which is nothing, is damaged.
    #[test]
    fn behind_a_frame_that_makes_no_sense_nothing_is_named() {
        let content = [recording(), format::chunk(&[99])].concat();
        for length in [None, Some(content.len() as u64)] {
            let mut replay = Replay::of(content.as_slice(), length, Path::new("f")).unwrap();
            while replay.tick().unwrap().is_some() {}
            let said = replay.left_out().unwrap();
            assert!(said.contains("a frame of kind 99 makes no sense"), "{said}");
            assert!(!said.contains("cut off"), "{said}");
        }
    }

    #[test]
    fn what_is_no_recording_is_refused_in_one_line() {
        let said = |path: &str| Replay::open(Path::new(path)).err().unwrap().to_string();
        assert!(said("/dev/zero").contains("is no file"), "{}", said("/dev/zero"));
        assert!(said("/").contains("is no file"));
        assert!(said("/proc/self/cmdline").contains("is no recording"));
        let mut other = meta(serde_json::json!({}));
        other.layout ^= 1;
        let head = format::head(&other);
        let said = Replay::new(&head, Path::new("f")).err().unwrap().to_string();
        assert!(said.contains("replay it with geophone 9\u{fffd}[2J"), "{said}");
    }

    /// Cause: an agent that leaves a label out, and rules of another version. Seen: a replay leaves it out as the agent did, and
    /// passes over what it does not know.
    #[test]
    fn labels_that_the_agent_left_out_are_left_out() {
        let links = |frames: &mut Vec<u8>, bytes_in: &[u64]| {
            let one = |(i, n): (usize, &u64)| {
                let counts = [[*n, 0], [0; 2], [0; 2], [0; 2]];
                serde_json::json!({ "index": i + 1, "name": format!("eth{i}"), "up": true, "counts": counts })
            };
            let all: Vec<_> = bytes_in.iter().enumerate().map(one).collect();
            frames.push(tag::FACT);
            bytes(frames, b"links");
            bytes(frames, serde_json::Value::from(all).to_string().as_bytes());
        };
        let settings = serde_json::json!({ "labels": [
            { "metrics": "geophone_netdev_bytes_total", "exclude": ["device"] },
            { "metrics": "geophone_of_tomorrow", "exclude": ["device"] },
            { "metrics": "geophone_netdev_*", "exclude": ["of_tomorrow"] },
            { "metrics": "geophone_netdev_*", "only": ["device"] },
        ]});
        let mut frames = Vec::new();
        links(&mut frames, &[100, 20]);
        step(&mut frames, Step::Attach, 0, 0);
        step(&mut frames, Step::Tick, 0, 0);
        links(&mut frames, &[103, 24, 5_000]);
        step(&mut frames, Step::Tick, 1_000_000_000, 1_000_000_000);
        let content = [format::head(&meta(settings)), format::chunk(&frames)].concat();
        let mut replay = Replay::new(&content, Path::new("f")).unwrap();
        let mut received = || {
            let snapshot = replay.tick().unwrap().unwrap();
            let family = snapshot.family("geophone_netdev_bytes_total").unwrap();
            let told = family.series.iter().map(|series| match series.value {
                crate::aggregate::Value::Counter(n) => (series.labels.text.clone(), n),
                _ => unreachable!(),
            });
            told.collect::<Vec<_>>()
        };
        let both = |n| {
            [
                ("direction=\"receive\"".to_owned(), n),
                ("direction=\"transmit\"".to_owned(), 0),
            ]
        };
        assert_eq!(received(), both(120));
        assert_eq!(
            received(),
            both(127),
            "an interface that comes later brings nothing with it"
        );
        let said = replay.left_out().unwrap();
        assert!(said.contains("3 rules of its labels name what"), "{said}");
    }

    /// Cause: a file with settings that no agent writes down. Seen: they are none of a replay.
    #[test]
    fn a_file_has_no_say_in_what_else_is_done_here() {
        let settings = serde_json::json!({
            "region": "eu", "store": { "directory": "/etc" }, "api": { "listen": "0.0.0.0:1" }, "nonsense": 1,
        });
        let (config, _) = super::settings(&meta(settings)).unwrap();
        assert_eq!(config.region, "eu");
        assert_eq!(config.store, Config::default().store);
        assert_eq!(config.api, Config::default().api);
    }
}
