//! Plays a recording: the same collector, without a kernel.

use super::base::Offsets;
use super::format::{Meta, Reader, Step};
use super::reader::Chunks;
use super::{Past, Source};
use crate::aggregate::{Family, Fold, Snapshot};
use crate::app;
use crate::collector::Collector;
use crate::config::{Config, TunnelUse};
use crate::error::{Context as _, Error, Result};
use crate::identity::names::Names;
use crate::stacks::Stacks;
use std::path::Path;
use std::sync::Arc;

/// A recording that is being played.
pub struct Replay<'a> {
    chunks: Chunks<'a>,
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
    /// Ticks that were given.
    ticks: u64,
}

impl<'a> Replay<'a> {
    /// Of a file's content. The settings are those of the recording.
    pub fn new(content: &'a [u8], path: &Path) -> Result<Self> {
        let chunks = Chunks::new(content, path)?;
        let config = settings(chunks.meta()).context(path.display())?;
        let fold = Fold::new(&config.labels, chunks.meta().start_unix_nanos);
        Ok(Self {
            chunks,
            past: Arc::new(Past::new()),
            collector: None,
            fold,
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
        if self.chunks.rest() > 0 {
            all.push(format!(
                "the last {} bytes are damaged or cut off (from byte {} on)",
                self.chunks.rest(),
                self.chunks.at()
            ));
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
        (!all.is_empty()).then(|| all.join("; "))
    }
}

/// The order of series is that of hashes in some probes; in what a replay says it is that of their labels.
fn sort(family: &mut Family) {
    family.series.sort_by(|a, b| a.labels.text.cmp(&b.labels.text));
}

fn settings(meta: &Meta) -> Result<Config> {
    let mut config = Config::parse("settings", &meta.settings.to_string()).map_err(Error::new)?;
    config.host.clone_from(&meta.host);
    for probe in &meta.left_out {
        match probe.as_str() {
            "profile" => config.probes.profile.enabled = false,
            "tunnel" => config.probes.tunnel.enabled = TunnelUse::Off,
            _ => {}
        }
    }
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::format::{self, bytes, tag, varint};

    #[test]
    fn a_recording_without_a_kernel_side_says_why() {
        let meta = Meta {
            geophone: String::new(),
            layout: agent_common::wire::LAYOUT,
            kernel: String::new(),
            host: "h".into(),
            start_unix_nanos: 0,
            settings: serde_json::json!({}),
            left_out: Vec::new(),
        };
        let mut frames = vec![tag::FACT];
        bytes(&mut frames, b"engine_error");
        bytes(&mut frames, b"\"no right to\"");
        for step in [Step::Attach, Step::Tick] {
            frames.push(tag::STEP);
            [step.number(), 0, 0, 0]
                .iter()
                .for_each(|number| varint(&mut frames, *number));
        }
        let content = [format::head(&meta), format::chunk(&frames)].concat();
        let mut replay = Replay::new(&content, Path::new("f")).unwrap();
        assert!(replay.tick().unwrap().is_some());
        assert!(
            replay
                .left_out()
                .unwrap()
                .ends_with("no kernel side: no right to")
        );
    }
}
