//! Makes blocks of what the head held, and blocks of blocks: series by series, so that memory holds one and the index.

use super::block::find::Pairs;
use super::block::read::Block;
use super::block::write::{Numbers, Part, Place, Writer};
use super::block::{Column as Stored, Entry, Kind, Run, damaged, runs_on};
use super::gather::{Coded, append, order};
use super::head::Frozen;
use super::rollup::roll;
use crate::histogram::Histogram;
use crate::labels::Labels;
use crate::series::{Column, Millis};
use std::io::{self, Write};
use std::sync::Arc;

/// Columns of one series, as the kinds of a block have them.
#[derive(Debug, Default)]
pub(super) struct Columns {
    pub(super) floats: Column<f64>,
    pub(super) histograms: Column<Arc<Histogram>>,
    /// Min, max, sum, count.
    pub(super) rolled: [Column<f64>; 4],
}

pub(super) const ROLLED: [Kind; 4] = [Kind::Min, Kind::Max, Kind::Sum, Kind::Count];

impl Columns {
    fn of(&mut self, kind: Kind) -> &mut Column<f64> {
        let [min, max, sum, count] = &mut self.rolled;
        match kind {
            Kind::Min => min,
            Kind::Max => max,
            Kind::Sum => sum,
            Kind::Count => count,
            Kind::Float | Kind::Histogram => &mut self.floats,
        }
    }

    /// Writes the series, if it has a sample.
    pub(super) fn write<W: Write>(
        &self,
        writer: &mut Writer<W>,
        labels: &Labels,
        main: &[Millis],
    ) -> io::Result<()> {
        let histograms = Numbers::Histograms(&self.histograms.values);
        let mut all = vec![
            float(Kind::Float, &self.floats),
            (Kind::Histogram, self.histograms.times.as_slice(), histograms),
        ];
        let rolled = ROLLED.iter().zip(&self.rolled);
        all.extend(rolled.map(|(kind, column)| float(*kind, column)));
        all.retain(|(_, times, _)| !times.is_empty());
        let runs: Vec<Option<Vec<Run>>> = all.iter().map(|(_, times, _)| runs_on(main, times)).collect();
        let parts: Vec<Part<'_>> = all
            .iter()
            .zip(&runs)
            .map(|((kind, times, numbers), runs)| Part {
                kind: *kind,
                place: runs.as_ref().map_or(Place::Own(times), |runs| Place::Main(runs)),
                numbers: *numbers,
            })
            .collect();
        if parts.is_empty() {
            Ok(())
        } else {
            writer.add(labels, &parts)
        }
    }
}

fn float(kind: Kind, column: &Column<f64>) -> (Kind, &[Millis], Numbers<'_>) {
    (kind, &column.times, Numbers::Floats(&column.values))
}

/// Writes what the head held.
pub(super) fn write_frozen<W: Write>(frozen: &Frozen, writer: &mut Writer<W>) -> io::Result<()> {
    for (labels, _, held) in &frozen.series {
        let mut parts = Vec::with_capacity(1);
        if !held.floats.values.is_empty() {
            let (place, numbers) = (
                Place::Main(&held.floats.runs),
                Numbers::Floats(&held.floats.values),
            );
            parts.push(Part {
                kind: Kind::Float,
                place,
                numbers,
            });
        }
        if !held.histograms.values.is_empty() {
            let place = Place::Main(&held.histograms.runs);
            parts.push(Part {
                kind: Kind::Histogram,
                place,
                numbers: Numbers::Histograms(&held.histograms.values),
            });
        }
        writer.add(labels, &parts)?;
    }
    Ok(())
}

/// The series of a block, in order.
struct Walk<'a> {
    block: &'a Block,
    group: usize,
    entries: std::vec::IntoIter<Entry>,
    pairs: Pairs,
    next: Option<(Labels, Entry)>,
    main: Arc<[Millis]>,
}

impl<'a> Walk<'a> {
    fn new(block: &'a Block) -> Result<Self, Stop> {
        let mut walk = Self {
            block,
            group: 0,
            entries: Vec::new().into_iter(),
            pairs: Pairs::default(),
            next: None,
            main: block.main().map_err(|error| Stop::Unread(block.id, error))?,
        };
        walk.step()?;
        Ok(walk)
    }

    fn step(&mut self) -> Result<(), Stop> {
        self.advance().map_err(|error| Stop::Unread(self.block.id, error))
    }

    fn advance(&mut self) -> io::Result<()> {
        loop {
            if let Some(entry) = self.entries.next() {
                self.next = Some((self.block.labels(&entry, &mut self.pairs)?, entry));
                return Ok(());
            }
            if self.group >= self.block.groups() {
                self.next = None;
                return Ok(());
            }
            self.entries = self.block.group(self.group)?.into_iter();
            self.group += 1;
        }
    }

    /// Appends an entry's columns; tells how many are damaged. One that the disk does not give may come back: then nothing is
    /// merged, so that it is not lost for good.
    fn columns(&self, entry: &Entry, into: &mut Columns) -> Result<u64, Stop> {
        let mut damaged = 0;
        let mut unread = None;
        let chunks: Vec<_> = entry.columns.iter().map(|column| column.chunk).collect();
        self.block.chunks(&chunks, |at, data| {
            let done = data.and_then(|data| match entry.columns.get(at) {
                Some(column) => self.column(column, data, into),
                None => Ok(()),
            });
            match done {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::InvalidData => damaged += 1,
                Err(error) => unread = Some(error),
            }
        });
        match unread {
            Some(error) => Err(Stop::Unread(self.block.id, error)),
            None => Ok(damaged),
        }
    }

    fn column(&self, column: &Stored, data: &[u8], into: &mut Columns) -> io::Result<()> {
        let axis: Arc<[Millis]> = match column.axis {
            None => self.main.clone(),
            Some(axis) => self.block.axis(axis)?.into(),
        };
        let done = if column.kind == Kind::Histogram {
            all(column, &axis, data, &mut into.histograms)
        } else {
            all(column, &axis, data, into.of(column.kind))
        };
        done.ok_or_else(|| damaged("a column"))
    }
}

fn all<T: Coded>(column: &Stored, axis: &[Millis], data: &[u8], into: &mut Column<T>) -> Option<()> {
    append(column, axis, data, (Millis::MIN, Millis::MAX), into)
}

/// Why blocks were not merged.
pub(super) enum Stop {
    /// The index would not fit in memory.
    TooMuch,
    /// A block, by its number, cannot be read.
    Unread(u64, io::Error),
    /// The new one cannot be written.
    Failed(io::Error),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Failed(error)
    }
}

/// The main axis of a block that is made of these.
pub(super) fn main_axis(blocks: &[Arc<Block>], step: Option<Millis>) -> Result<Arc<[Millis]>, Stop> {
    let mut times = Vec::new();
    for block in blocks {
        let main = block.main().map_err(|error| Stop::Unread(block.id, error))?;
        times.extend_from_slice(&main);
    }
    times.sort_unstable();
    times.dedup();
    if let Some(step) = step {
        times = times
            .chunk_by(|a, b| a.div_euclid(step) == b.div_euclid(step))
            .filter_map(|c| c.last().copied())
            .collect();
    }
    Ok(times.into())
}

/// Writes the series of some blocks into one, rolled up to a step if one is given; tells how many columns were damaged. If only
/// some names are wanted, then without their min, max, sum and count, which take four times as much as they do.
pub(super) fn merge<W: Write>(
    blocks: &[Arc<Block>],
    step: Option<Millis>,
    only: Option<&[String]>,
    main: &[Millis],
    most: usize,
    writer: &mut Writer<W>,
) -> Result<u64, Stop> {
    let mut walks = blocks
        .iter()
        .map(|block| Walk::new(block))
        .collect::<Result<Vec<_>, Stop>>()?;
    let mut damaged = 0;
    loop {
        let least = walks
            .iter()
            .filter_map(|walk| walk.next.as_ref())
            .map(|(labels, _)| labels)
            .min()
            .cloned();
        let Some(labels) = least else { return Ok(damaged) };
        let is_wanted = only.is_none_or(|names| names.iter().any(|name| name == labels.name()));
        let mut columns = Columns::default();
        for walk in &mut walks {
            if walk.next.as_ref().is_some_and(|(next, _)| *next == labels)
                && let Some((_, entry)) = walk.next.take()
            {
                if is_wanted {
                    damaged += walk.columns(&entry, &mut columns)?;
                }
                walk.step()?;
            }
        }
        if only.is_some() {
            columns.rolled = Default::default();
        }
        order(&mut columns.floats);
        order(&mut columns.histograms);
        columns.rolled.iter_mut().for_each(order);
        if let Some(step) = step {
            columns = roll(&columns, step);
        }
        columns.write(writer, &labels, main)?;
        if writer.index_bytes() > most {
            return Err(Stop::TooMuch);
        }
    }
}
