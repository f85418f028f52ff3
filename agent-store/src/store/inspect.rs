//! What a store holds, and whether it is whole.

use super::block::read::Block;
use super::block::{Kind, SERIES_GROUP};
use super::gather::append;
use super::log::{self, Listener};
use super::logfile::{numbered, path};
use super::{Store, Value, read};
use crate::histogram::Histogram;
use crate::labels::Labels;
use crate::series::{Column, Millis};
use std::collections::HashSet;
use std::sync::Arc;

/// A block, as `info` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockInfo {
    /// The number in its file's name.
    pub id: u64,
    /// Its first sample.
    pub from: Millis,
    /// Its last sample.
    pub to: Millis,
    /// Milliseconds between samples of a rollup; 0 for samples as they came.
    pub step: Millis,
    /// How many series it has.
    pub series: u64,
    /// How many samples; those of rollups are counted once.
    pub samples: u64,
    /// Its size.
    pub bytes: u64,
}

/// A store, as `info` shows it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Info {
    /// Different series in all.
    pub series: usize,
    /// Samples in all.
    pub samples: u64,
    /// Bytes of all blocks.
    pub bytes: u64,
    /// The first and the last sample; `None` when there is none.
    pub span: Option<(Millis, Millis)>,
    /// Ordered by time.
    pub blocks: Vec<BlockInfo>,
}

impl Info {
    /// Bytes per sample of what is in blocks; NaN when nothing is.
    pub fn bytes_per_sample(&self) -> f64 {
        self.bytes as f64 / self.blocks.iter().map(|block| block.samples).sum::<u64>() as f64
    }
}

/// What `verify` found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Parts that were checked.
    pub parts: u64,
    /// Each part that is damaged, by file and what it is.
    pub damaged: Vec<String>,
}

struct Deaf;

impl Listener for Deaf {
    fn series(&mut self, _: u32, _: Labels) {}
    fn tick(&mut self, _: Millis, _: Vec<(u32, Value)>) {}
}

impl Store {
    /// What it holds; reads the index of all blocks.
    pub fn info(&self) -> Info {
        let mut info = Info {
            samples: self.stats().samples,
            ..Info::default()
        };
        let mut series: HashSet<u128> = HashSet::new();
        let mut times: Vec<Millis> = Vec::new();
        let view = {
            let live = read(&self.inner.live);
            live.head.each(&[], |_, id, held| {
                if !held.is_empty() {
                    series.insert(id);
                }
            });
            times.extend(live.head.axis.first().into_iter().chain(live.head.axis.last()));
            self.inner.view()
        };
        for frozen in &view.frozen {
            series.extend(frozen.series.iter().map(|(_, id, _)| *id));
            times.extend(frozen.axis.first().into_iter().chain(frozen.axis.last()));
        }
        for block in &view.blocks {
            let summary = &block.summary;
            info.bytes += block.size;
            times.extend([summary.from, summary.to]);
            info.blocks.push(BlockInfo {
                id: block.id,
                from: summary.from,
                to: summary.to,
                step: summary.step,
                series: summary.series,
                samples: summary.samples,
                bytes: block.size,
            });
            for group in 0..block.groups() {
                match block.group(group) {
                    Ok(entries) => series.extend(entries.iter().map(|entry| entry.fingerprint)),
                    Err(error) => self.inner.counters.damage(block.id, &error),
                }
            }
        }
        info.series = series.len();
        info.span = times.iter().min().copied().zip(times.iter().max().copied());
        info
    }

    /// Reads everything that is on disk and checks it: checksums, and that columns decode to what the index says.
    pub fn verify(&self) -> Verified {
        let mut verified = Verified::default();
        for block in &self.inner.view().blocks {
            let before = verified.damaged.len();
            verify(block, &mut verified);
            for finding in verified.damaged.iter_mut().skip(before) {
                *finding = format!("block {:010}: {finding}", block.id);
            }
        }
        let Some(directory) = &self.inner.directory else {
            return verified;
        };
        for segment in numbered(directory, "log").unwrap_or_default() {
            // One that is gone by now is in a block.
            let Ok(bytes) = std::fs::read(path(directory, segment)) else {
                continue;
            };
            let damage = log::replay(&bytes, &mut Deaf);
            verified.parts += 1;
            if damage.places > 0 {
                verified
                    .damaged
                    .push(format!("log {segment:010}: {} places are damaged", damage.places));
            }
        }
        verified
    }
}

fn verify(block: &Block, verified: &mut Verified) {
    let main: Arc<[Millis]> = match block.main() {
        Ok(main) => main,
        Err(error) => return verified.damaged.push(error.to_string()),
    };
    for group in 0..block.groups() {
        verified.parts += 1;
        let entries = match block.group(group) {
            Ok(entries) => entries,
            Err(error) => {
                verified
                    .damaged
                    .push(format!("{error}, series from number {}", group * SERIES_GROUP));
                continue;
            }
        };
        for entry in &entries {
            let chunks: Vec<_> = entry.columns.iter().map(|column| column.chunk).collect();
            let mut bad = 0;
            block.chunks(&chunks, |at, data| {
                verified.parts += 1;
                let good = entry.columns.get(at).zip(data.ok()).and_then(|(column, data)| {
                    let axis = match column.axis {
                        None => main.clone(),
                        Some(axis) => block.axis(axis).ok()?.into(),
                    };
                    let all = (Millis::MIN, Millis::MAX);
                    if column.kind == Kind::Histogram {
                        append(column, &axis, data, all, &mut Column::<Arc<Histogram>>::default())
                    } else {
                        append(column, &axis, data, all, &mut Column::<f64>::default())
                    }
                });
                bad += u64::from(good.is_none());
            });
            if bad > 0 {
                let labels = block.labels(entry, &mut super::block::find::Pairs::default());
                let mut name = String::new();
                match labels {
                    Ok(labels) => super::text::put_labels(&mut name, &labels),
                    Err(_) => name.push_str("a series without readable labels"),
                }
                verified
                    .damaged
                    .push(format!("{bad} columns of {name} are damaged"));
            }
        }
    }
    match block.check_index() {
        Ok(parts) => verified.parts += parts,
        Err(error) => verified.damaged.push(error.to_string()),
    }
}
