//! What the workers do: log, blocks, merging, rolling up, removing.

use super::block::Summary;
use super::block::read::{Block, Data};
use super::block::write::Writer;
use super::codec::Effort;
use super::logfile::{numbered, path, sync_directory};
use super::open::{block_path, is_damage};
use super::rewrite::{self, Stop};
use super::settings::{MERGED, MOST_SAMPLES, SPARSE, millis};
use super::stats::{Place, add};
use super::{Inner, UNWRITTEN, View, lock, read, write};
use crate::series::Millis;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// What a series takes in the index of a block that is being written, about.
const SERIES_BYTES: u64 = 250;
/// So many blocks of a span are merged before the span is over.
const MANY: usize = 16;

#[derive(Default)]
pub(super) struct Upkeep {
    /// What cannot be merged or rolled up: together it is too large, or what comes of it cannot be read.
    left: HashSet<Vec<u64>>,
    /// Blocks that cannot be read: they stay as they are, and the others are merged without them.
    unread: HashSet<u64>,
    /// Whether a block has nothing but what is kept for longer.
    pub(super) lasting: HashMap<u64, bool>,
}

/// Blocks that become one.
struct Job {
    blocks: Vec<Arc<Block>>,
    step: Option<Millis>,
}

pub(super) enum Sink {
    File(BufWriter<File>),
    Memory(Vec<u8>),
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::File(file) => file.write(bytes),
            Self::Memory(all) => all.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::File(file) => file.flush(),
            Self::Memory(_) => Ok(()),
        }
    }
}

impl Inner {
    pub(super) fn sync(&self) {
        let Some(directory) = &self.directory else { return };
        let mut file = lock(&self.log_file);
        let Some(pending) = write(&self.live).log.as_mut().map(super::log::Log::take) else {
            return;
        };
        if let Err(failed) = file.write(directory, pending) {
            self.counters.failed("the log", &failed.error);
            if let Some((segment, samples)) = failed.doubtful
                && let Some(log) = &mut write(&self.live).log
            {
                add(&self.counters.unlogged, samples + log.leave(segment));
            }
        }
        if file.waiting_bytes() > UNWRITTEN
            && let Some(log) = &mut write(&self.live).log
        {
            add(&self.counters.unlogged, file.give_up() + log.give_up());
        }
        self.waiting.store(file.waiting_bytes(), Ordering::Relaxed);
        self.segment_bytes.store(file.segment_bytes(), Ordering::Relaxed);
    }

    pub(super) fn maintain(&self) {
        if matches!(self.place, Place::ReadOnly(_)) {
            return;
        }
        let mut upkeep = lock(&self.upkeep);
        self.write_frozen();
        self.remove_logs();
        while let Some(job) = self.plan(&upkeep) {
            let ids: Vec<u64> = job.blocks.iter().map(|block| block.id).collect();
            match self.run(&job) {
                Ok(()) => {}
                Err(Stop::Failed(error)) => {
                    self.counters.failed("a merged block", &error);
                    if !is_damage(&error) {
                        break;
                    }
                    upkeep.left.insert(ids);
                }
                Err(Stop::Unread(id, error)) => {
                    self.counters.damage(id, &error);
                    upkeep.unread.insert(id);
                }
                Err(Stop::TooMuch) => {
                    upkeep.left.insert(ids);
                }
            }
        }
        self.retain(&mut upkeep);
    }

    fn write_frozen(&self) {
        while let Some(frozen) = self.view().frozen.first().cloned() {
            let summary = Summary {
                logs: frozen.logs,
                ..Summary::default()
            };
            let built = self.build(summary, frozen.axis.clone(), Effort::Fast, |writer| {
                Ok(rewrite::write_frozen(&frozen, writer)?)
            });
            match built {
                Ok(block) => self.replace(|view| {
                    view.frozen.retain(|other| !Arc::ptr_eq(other, &frozen));
                    view.blocks.push(block);
                }),
                Err(Stop::Failed(error)) => return self.counters.failed("a block", &error),
                Err(Stop::TooMuch | Stop::Unread(..)) => return,
            }
        }
    }

    /// Builds a block and opens it: written beside its name, synced, read, renamed.
    pub(super) fn build(
        &self,
        summary: Summary,
        main: Arc<[Millis]>,
        effort: Effort,
        fill: impl FnOnce(&mut Writer<&mut Sink>) -> Result<(), Stop>,
    ) -> Result<Arc<Block>, Stop> {
        let id = self.next_block.fetch_add(1, Ordering::Relaxed);
        let Some(directory) = &self.directory else {
            let mut sink = Sink::Memory(Vec::new());
            Self::fill(&mut sink, summary, main, effort, fill)?;
            let bytes = if let Sink::Memory(bytes) = sink {
                bytes
            } else {
                Vec::new()
            };
            return Ok(Arc::new(Block::open(id, Data::Memory(bytes))?));
        };
        let name = block_path(directory, id);
        let temporary = name.with_extension("tmp");
        let write = || -> Result<Block, Stop> {
            let mut sink = Sink::File(BufWriter::with_capacity(1 << 18, File::create(&temporary)?));
            Self::fill(&mut sink, summary, main, effort, fill)?;
            if let Sink::File(file) = sink {
                file.into_inner()
                    .map_err(io::IntoInnerError::into_error)?
                    .sync_all()?;
            }
            let block = Block::open(id, Data::File(File::open(&temporary)?))?;
            std::fs::rename(&temporary, &name)?;
            sync_directory(directory)?;
            Ok(block)
        };
        match write() {
            Ok(block) => Ok(Arc::new(block)),
            Err(stop) => {
                // One that may have its name, but not for sure, would be there twice once it is tried again.
                let _ = std::fs::remove_file(&temporary).or_else(|_| std::fs::remove_file(&name));
                Err(stop)
            }
        }
    }

    fn fill(
        sink: &mut Sink,
        summary: Summary,
        main: Arc<[Millis]>,
        effort: Effort,
        fill: impl FnOnce(&mut Writer<&mut Sink>) -> Result<(), Stop>,
    ) -> Result<(), Stop> {
        let mut writer = Writer::new(sink, main, effort, summary)?;
        fill(&mut writer)?;
        Ok(writer.finish()?)
    }

    pub(super) fn replace(&self, change: impl FnOnce(&mut View)) {
        let mut view = write(&self.view);
        let mut next = View::clone(&view);
        change(&mut next);
        next.blocks.sort_by_key(|block| (block.summary.from, block.id));
        *view = Arc::new(next);
    }

    /// Removes logs that blocks hold, but for the latest: were its block lost, it would come back from there.
    fn remove_logs(&self) {
        let Some(directory) = &self.directory else { return };
        let view = self.view();
        let held: Vec<(u64, u64)> = view.blocks.iter().map(|block| block.summary.logs).collect();
        let Some((latest, _)) = held
            .iter()
            .filter(|logs| logs.0 <= logs.1)
            .max_by_key(|logs| logs.1)
        else {
            return;
        };
        for segment in numbered(directory, "log").unwrap_or_default() {
            if segment < *latest && held.iter().any(|logs| (logs.0..=logs.1).contains(&segment)) {
                let _ = std::fs::remove_file(path(directory, segment));
            }
        }
    }

    /// The time from which age is counted.
    pub(super) fn newest(&self, view: &View) -> Millis {
        let live = read(&self.live).newest();
        if live != Millis::MIN {
            return live;
        }
        view.blocks
            .iter()
            .map(|block| block.summary.to)
            .max()
            .unwrap_or(Millis::MIN)
    }

    pub(super) fn keeps(&self) -> (Millis, Millis) {
        let keep = millis(self.settings.keep);
        (keep, millis(self.settings.keep_rollups).max(keep))
    }

    fn plan(&self, upkeep: &Upkeep) -> Option<Job> {
        let view = self.view();
        let newest = self.newest(&view);
        let (keep, keep_rollups) = self.keeps();
        let step = millis(self.settings.rollup_step).max(1);
        let old = view.blocks.iter().find(|block| {
            block.summary.step == 0
                && keep_rollups > keep
                && block.summary.to < newest.saturating_sub(keep)
                && !upkeep.left.contains(&vec![block.id])
                && !upkeep.unread.contains(&block.id)
        });
        if let Some(old) = old {
            return Some(Job {
                blocks: vec![old.clone()],
                step: Some(step),
            });
        }
        let most = self.settings.memory as u64 / 4 / SERIES_BYTES;
        for span in [MERGED, SPARSE] {
            let mut groups: BTreeMap<(Millis, Millis), Vec<Arc<Block>>> = BTreeMap::new();
            for block in &view.blocks {
                let summary = &block.summary;
                if summary.from.div_euclid(span) == summary.to.div_euclid(span) {
                    groups
                        .entry((summary.step, summary.from.div_euclid(span)))
                        .or_default()
                        .push(block.clone());
                }
            }
            for ((_, number), group) in groups {
                if group.len() < 2 || newest.div_euclid(span) == number && group.len() < MANY {
                    continue;
                }
                if span == SPARSE {
                    let samples: u64 = group.iter().map(|block| block.summary.samples).sum();
                    let series = group
                        .iter()
                        .map(|block| block.summary.series)
                        .max()
                        .unwrap_or_default();
                    if newest.div_euclid(span) == number || samples > MOST_SAMPLES * series {
                        continue;
                    }
                }
                if let Some(blocks) = fitting(&group, most, upkeep) {
                    return Some(Job { blocks, step: None });
                }
            }
        }
        None
    }

    fn run(&self, job: &Job) -> Result<(), Stop> {
        let logged = job
            .blocks
            .iter()
            .map(|block| block.summary.logs)
            .filter(|logs| logs.0 <= logs.1);
        let summary = Summary {
            step: job
                .step
                .or(job.blocks.first().map(|block| block.summary.step))
                .unwrap_or_default(),
            logs: logged
                .reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)))
                .unwrap_or((1, 0)),
            replaces: job.blocks.iter().map(|block| block.id).collect(),
            ..Summary::default()
        };
        let replaces = summary.replaces.clone();
        let main = rewrite::main_axis(&job.blocks, job.step)?;
        let mut damaged = 0;
        let block = self.build(summary, main.clone(), Effort::Full, |writer| {
            damaged = rewrite::merge(
                &job.blocks,
                job.step,
                None,
                &main,
                self.settings.memory / 4,
                writer,
            )?;
            Ok(())
        })?;
        if damaged > 0 {
            add(&self.counters.damaged, damaged);
            self.counters.find(format!(
                "blocks {replaces:?}: {damaged} columns were damaged and are left out"
            ));
        }
        self.replace(|view| {
            view.blocks.retain(|block| !replaces.contains(&block.id));
            view.blocks.push(block);
        });
        self.remove(&replaces);
        Ok(())
    }

    pub(super) fn remove(&self, ids: &[u64]) {
        for id in ids {
            if let Some(directory) = &self.directory {
                let _ = std::fs::remove_file(block_path(directory, *id));
            }
        }
    }
}

/// Neighbours that can be read, and whose index fits in memory together.
fn fitting(group: &[Arc<Block>], most: u64, upkeep: &Upkeep) -> Option<Vec<Arc<Block>>> {
    for start in 0..group.len() {
        let mut series = 0;
        let run: Vec<Arc<Block>> = group
            .iter()
            .skip(start)
            .take_while(|block| {
                series += block.summary.series;
                series <= most && !upkeep.unread.contains(&block.id)
            })
            .cloned()
            .collect();
        if run.len() >= 2
            && !upkeep
                .left
                .contains(&run.iter().map(|block| block.id).collect::<Vec<_>>())
        {
            return Some(run);
        }
    }
    None
}
