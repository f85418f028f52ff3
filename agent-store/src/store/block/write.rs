//! Writes a block.

use super::super::bytes::{put_int, put_str, put_uint};
use super::super::codec::{Effort, floats, histograms, times};
use super::{
    Axis, Column, Extent, Footer, Kind, MAGIC, PAIR_GROUP, Run, SERIES_GROUP, Summary, fingerprint, put_axis,
    put_extent,
};
use crate::histogram::Histogram;
use crate::labels::Labels;
use crate::series::Millis;
use std::collections::HashMap;
use std::io::{self, Write};
use std::sync::Arc;

/// When a column's samples were.
#[derive(Clone, Copy)]
pub(in super::super) enum Place<'a> {
    Main(&'a [Run]),
    Own(&'a [Millis]),
}

#[derive(Clone, Copy)]
pub(in super::super) enum Numbers<'a> {
    Floats(&'a [f64]),
    Histograms(&'a [Arc<Histogram>]),
}

/// A column to be written.
pub(in super::super) struct Part<'a> {
    pub(in super::super) kind: Kind,
    pub(in super::super) place: Place<'a>,
    pub(in super::super) numbers: Numbers<'a>,
}

/// Name and value.
type Pair = (Arc<str>, Arc<str>);

/// Takes series in the order of their labels; the index stays in memory until the end.
pub(in super::super) struct Writer<W: Write> {
    out: W,
    offset: u64,
    effort: Effort,
    main: Axis,
    main_times: Arc<[Millis]>,
    own: (Vec<Millis>, Axis),
    pairs: HashMap<Pair, u32>,
    entries: Vec<Draft>,
    summary: Summary,
    chunk: Vec<u8>,
}

struct Draft {
    fingerprint: u128,
    /// By the number of their first use; ordered only at the end.
    pairs: Vec<u32>,
    columns: Vec<u8>,
}

impl<W: Write> Writer<W> {
    pub(in super::super) fn new(
        mut out: W,
        main_times: Arc<[Millis]>,
        effort: Effort,
        summary: Summary,
    ) -> io::Result<Self> {
        out.write_all(MAGIC)?;
        let mut writer = Self {
            out,
            offset: MAGIC.len() as u64,
            effort,
            main: Axis::default(),
            main_times: Arc::from([]),
            own: (Vec::new(), Axis::default()),
            pairs: HashMap::new(),
            entries: Vec::new(),
            summary: Summary {
                from: Millis::MAX,
                to: Millis::MIN,
                series: 0,
                samples: 0,
                ..summary
            },
            chunk: Vec::new(),
        };
        writer.main = writer.axis(&main_times)?;
        writer.main_times = main_times;
        Ok(writer)
    }

    /// About what the index takes in memory.
    pub(in super::super) fn index_bytes(&self) -> usize {
        self.entries.len() * 160 + self.pairs.len() * 120
    }

    pub(in super::super) fn add(&mut self, labels: &Labels, parts: &[Part<'_>]) -> io::Result<()> {
        let mut columns = Vec::new();
        put_uint(&mut columns, parts.len() as u64);
        for part in parts {
            let column = self.column(part)?;
            put_column(&mut columns, &column);
        }
        let mut pairs = Vec::with_capacity(labels.len());
        for (name, value) in labels.iter() {
            let next = self.pairs.len() as u32;
            pairs.push(*self.pairs.entry((name.clone(), value.clone())).or_insert(next));
        }
        self.summary.series += 1;
        self.entries.push(Draft {
            fingerprint: fingerprint(labels),
            pairs,
            columns,
        });
        Ok(())
    }

    fn column(&mut self, part: &Part<'_>) -> io::Result<Column> {
        let (axis, runs) = match part.place {
            Place::Main(runs) => (None, runs.to_vec()),
            Place::Own(times) => {
                if self.own.0 != times {
                    self.own = (times.to_vec(), self.axis(times)?);
                }
                (
                    Some(self.own.1),
                    vec![Run {
                        start: 0,
                        len: times.len() as u32,
                    }],
                )
            }
        };
        let on = if axis.is_some() {
            self.own.0.as_slice()
        } else {
            &self.main_times
        };
        if let (Some(first), Some(last)) = (runs.first(), runs.last()) {
            let first = on.get(first.start as usize).copied().unwrap_or(Millis::MAX);
            let last = on
                .get((last.start + last.len) as usize - 1)
                .copied()
                .unwrap_or(Millis::MIN);
            self.summary.from = self.summary.from.min(first);
            self.summary.to = self.summary.to.max(last);
        }
        let mut chunk = std::mem::take(&mut self.chunk);
        chunk.clear();
        let n = match part.numbers {
            Numbers::Floats(values) => {
                floats::encode(values, self.effort, &mut chunk);
                values.len()
            }
            Numbers::Histograms(values) => {
                histograms::encode(values, self.effort, &mut chunk);
                values.len()
            }
        };
        if matches!(part.kind, Kind::Float | Kind::Histogram) {
            self.summary.samples += n as u64;
        }
        let at = self.put(&chunk);
        self.chunk = chunk;
        Ok(Column {
            kind: part.kind,
            n: n as u32,
            axis,
            runs,
            chunk: at?,
        })
    }

    fn axis(&mut self, list: &[Millis]) -> io::Result<Axis> {
        let mut bytes = Vec::new();
        times::encode(list, &mut bytes);
        Ok(Axis {
            at: self.put(&bytes)?,
            n: list.len() as u32,
        })
    }

    /// Writes bytes after their checksum.
    fn put(&mut self, bytes: &[u8]) -> io::Result<Extent> {
        self.out.write_all(&crc32fast::hash(bytes).to_le_bytes())?;
        self.out.write_all(bytes)?;
        let extent = Extent {
            offset: self.offset,
            len: bytes.len() as u32 + 4,
        };
        self.offset += u64::from(extent.len);
        Ok(extent)
    }

    /// Writes the index and the footer; syncs nothing.
    pub(in super::super) fn finish(mut self) -> io::Result<()> {
        let mut names: Vec<(Pair, u32)> = std::mem::take(&mut self.pairs).into_iter().collect();
        names.sort_unstable();
        let mut order = vec![0u32; names.len()];
        for (at, (_, draft)) in names.iter().enumerate() {
            if let Some(place) = order.get_mut(*draft as usize) {
                *place = at as u32;
            }
        }
        let mut postings: Vec<Vec<u32>> = vec![Vec::new(); names.len()];
        let mut entries = std::mem::take(&mut self.entries);
        for (series, entry) in entries.iter_mut().enumerate() {
            for pair in &mut entry.pairs {
                *pair = order.get(*pair as usize).copied().unwrap_or_default();
                if let Some(list) = postings.get_mut(*pair as usize) {
                    list.push(series as u32);
                }
            }
        }
        let mut directory = Vec::new();
        put_uint(&mut directory, entries.chunks(SERIES_GROUP).len() as u64);
        for group in entries.chunks(SERIES_GROUP) {
            let mut bytes = Vec::new();
            for entry in group {
                bytes.extend_from_slice(&entry.fingerprint.to_le_bytes());
                put_list(&mut bytes, &entry.pairs);
                bytes.extend_from_slice(&entry.columns);
            }
            let at = self.put(&bytes)?;
            put_extent(&mut directory, at);
        }
        drop(entries);
        let mut lists = Vec::with_capacity(names.len());
        for list in postings {
            let mut bytes = Vec::new();
            put_list(&mut bytes, &list);
            lists.push(self.put(&bytes)?);
        }
        let pairs: Vec<_> = names.into_iter().map(|(pair, _)| pair).zip(lists).collect();
        put_uint(&mut directory, pairs.chunks(PAIR_GROUP).len() as u64);
        for group in pairs.chunks(PAIR_GROUP) {
            let mut bytes = Vec::new();
            for ((name, value), list) in group {
                put_str(&mut bytes, name);
                put_str(&mut bytes, value);
                put_extent(&mut bytes, *list);
            }
            let at = self.put(&bytes)?;
            if let Some(((name, value), _)) = group.first() {
                put_str(&mut directory, name);
                put_str(&mut directory, value);
                put_extent(&mut directory, at);
            }
        }
        let footer = Footer {
            summary: self.summary.clone(),
            main: self.main,
            directory: self.put(&directory)?,
        };
        let mut bytes = Vec::new();
        footer.put(&mut bytes);
        let len = bytes.len() as u32;
        bytes.extend_from_slice(&len.to_le_bytes());
        let crc = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes.extend_from_slice(MAGIC);
        self.out.write_all(&bytes)?;
        self.out.flush()
    }
}

/// A rising list.
fn put_list(out: &mut Vec<u8>, list: &[u32]) {
    put_uint(out, list.len() as u64);
    let mut before = 0;
    for number in list {
        put_int(out, i64::from(*number) - before);
        before = i64::from(*number);
    }
}

fn put_column(out: &mut Vec<u8>, column: &Column) {
    out.push(column.kind as u8);
    put_uint(out, column.n.into());
    out.push(column.axis.is_some().into());
    if let Some(axis) = column.axis {
        put_axis(out, axis);
    }
    put_uint(out, column.runs.len() as u64);
    let mut end = 0;
    for run in &column.runs {
        put_uint(out, (run.start - end).into());
        put_uint(out, run.len.into());
        end = run.start + run.len;
    }
    put_extent(out, column.chunk);
}
