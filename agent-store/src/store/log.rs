//! The log: every tick, written and synced within the interval, until a block holds it. A segment begins when a head does.
//!
//! ```text
//! record: A5 5A | length | crc | payload
//! series: 1 | slot | labels                      before the series' first sample in a segment
//! tick:   2 | time | key | n | n × (slot, value)   values as what differs from the last tick's; a key differs from nothing
//! ```

use super::bytes::{Reader, put_f64, put_int, put_labels, put_uint};
use super::codec::histograms::same;
use super::head::{SeriesRef, Value};
use crate::histogram::Histogram;
use crate::labels::Labels;
use crate::series::Millis;
use std::collections::VecDeque;
use std::sync::Arc;

pub(super) const MAGIC: &[u8; 8] = b"gphlog01";
const MARK: [u8; 2] = [0xa5, 0x5a];
/// Mark, length, crc.
const HEADER: usize = 10;
const SERIES: u8 = 1;
const TICK: u8 = 2;
/// After so many ticks values are written in full, so that damage costs no more than these.
const KEY_EVERY: u32 = 60;
const HISTOGRAM: u8 = 0xa0;
const SAME_HISTOGRAM: u8 = 0xa1;

/// The last value of a series in a segment.
#[derive(Clone, Debug, Default)]
struct Last {
    generation: Option<u32>,
    bits: u64,
    histogram: Option<Arc<Histogram>>,
}

/// Bytes for a segment that are not written yet.
pub(super) struct Pending {
    pub(super) segment: u64,
    pub(super) bytes: Vec<u8>,
    pub(super) samples: u64,
}

/// Takes out what continues a segment that is not gone on with; tells how many samples that was.
pub(super) fn leave(queue: &mut VecDeque<Pending>, segment: u64) -> u64 {
    let mut samples = 0;
    queue.retain(|pending| {
        let continues = pending.segment == segment;
        samples += if continues { pending.samples } else { 0 };
        !continues
    });
    samples
}

/// The log's end in memory.
pub(super) struct Log {
    pub(super) segment: u64,
    last: Vec<Last>,
    ticks: u32,
    queue: VecDeque<Pending>,
    record: Vec<u8>,
}

impl Log {
    pub(super) fn new(segment: u64) -> Self {
        Self {
            segment,
            last: Vec::new(),
            ticks: 0,
            queue: VecDeque::new(),
            record: Vec::new(),
        }
    }

    /// Begins a segment.
    pub(super) fn rotate(&mut self) {
        self.segment += 1;
        self.restart();
    }

    /// Forgets what was written, so that what follows is understood without it.
    fn restart(&mut self) {
        self.last.clear();
        self.ticks = 0;
    }

    fn pending(&mut self) -> Option<&mut Pending> {
        if self.queue.back().is_none_or(|last| last.segment != self.segment) {
            self.queue.push_back(Pending {
                segment: self.segment,
                bytes: Vec::new(),
                samples: 0,
            });
        }
        self.queue.back_mut()
    }

    fn put(&mut self, samples: u64) {
        let record = std::mem::take(&mut self.record);
        if let Some(pending) = self.pending() {
            pending.bytes.extend_from_slice(&MARK);
            pending
                .bytes
                .extend_from_slice(&(record.len() as u32).to_le_bytes());
            pending
                .bytes
                .extend_from_slice(&crc32fast::hash(&record).to_le_bytes());
            pending.bytes.extend_from_slice(&record);
            pending.samples += samples;
        }
        self.record = record;
    }

    /// Writes a tick; `labels` tells those of a series.
    pub(super) fn tick<'a>(
        &mut self,
        time: Millis,
        samples: &[(SeriesRef, Value)],
        labels: impl Fn(SeriesRef) -> Option<&'a Labels>,
    ) {
        for (series, _) in samples {
            let slot = series.slot as usize;
            if self
                .last
                .get(slot)
                .is_some_and(|last| last.generation == Some(series.generation))
            {
                continue;
            }
            let Some(labels) = labels(*series) else { continue };
            if self.last.len() <= slot {
                self.last.resize(slot + 1, Last::default());
            }
            if let Some(last) = self.last.get_mut(slot) {
                *last = Last {
                    generation: Some(series.generation),
                    ..Last::default()
                };
            }
            self.record.clear();
            self.record.push(SERIES);
            put_uint(&mut self.record, series.slot.into());
            put_labels(&mut self.record, labels);
            self.put(0);
        }
        let key = self.ticks.is_multiple_of(KEY_EVERY);
        self.ticks += 1;
        if key {
            self.last
                .iter_mut()
                .for_each(|last| (last.bits, last.histogram) = (0, None));
        }
        let mut record = std::mem::take(&mut self.record);
        record.clear();
        record.push(TICK);
        put_int(&mut record, time);
        record.push(key.into());
        put_uint(&mut record, samples.len() as u64);
        let mut before = -1;
        for (series, value) in samples {
            put_int(&mut record, i64::from(series.slot) - before - 1);
            before = i64::from(series.slot);
            let mut unknown = Last::default();
            let last = self.last.get_mut(series.slot as usize).unwrap_or(&mut unknown);
            put_value(&mut record, value, last);
        }
        self.record = record;
        self.put(samples.len() as u64);
    }

    /// Leaves a segment that cannot be gone on with; tells how many samples waited for it.
    pub(super) fn leave(&mut self, segment: u64) -> u64 {
        if self.segment == segment {
            self.rotate();
        }
        leave(&mut self.queue, segment)
    }

    /// What is to be written.
    pub(super) fn take(&mut self) -> VecDeque<Pending> {
        std::mem::take(&mut self.queue)
    }

    pub(super) fn queued(&self) -> usize {
        self.queue.iter().map(|pending| pending.bytes.len()).sum()
    }

    /// Gives up what waits; tells how many samples that was.
    pub(super) fn give_up(&mut self) -> u64 {
        self.restart();
        self.take().iter().map(|pending| pending.samples).sum()
    }
}

fn put_value(out: &mut Vec<u8>, value: &Value, last: &mut Last) {
    match value {
        Value::Float(value) => {
            let differs = value.to_bits() ^ last.bits;
            last.bits = value.to_bits();
            let zeros = if differs == 0 {
                0
            } else {
                differs.trailing_zeros() / 8
            };
            let shifted = differs >> (zeros * 8);
            let len = (8 - shifted.leading_zeros() / 8) as usize;
            out.push((len as u8) << 4 | zeros as u8);
            out.extend_from_slice(shifted.to_le_bytes().get(..len).unwrap_or_default());
        }
        Value::Histogram(value) => {
            if last.histogram.as_ref().is_some_and(|last| same(last, value)) {
                out.push(SAME_HISTOGRAM);
                return;
            }
            last.histogram = Some(value.clone());
            out.push(HISTOGRAM);
            put_int(out, value.schema.into());
            out.push(value.is_gauge.into());
            for number in [value.zero_threshold, value.zero_count, value.count, value.sum] {
                put_f64(out, number);
            }
            for buckets in [&value.positive, &value.negative] {
                put_uint(out, buckets.len() as u64);
                let mut before = 0;
                for (index, count) in buckets {
                    put_int(out, i64::from(*index) - before);
                    before = i64::from(*index);
                    put_f64(out, *count);
                }
            }
        }
    }
}

fn value(reader: &mut Reader<'_>, last: &mut Last) -> Option<Value> {
    let tag = reader.byte()?;
    if tag == SAME_HISTOGRAM {
        return last.histogram.clone().map(Value::Histogram);
    }
    if tag != HISTOGRAM {
        let (len, zeros) = (usize::from(tag >> 4), tag & 0xf);
        let mut bytes = [0; 8];
        bytes.get_mut(..len)?.copy_from_slice(reader.bytes(len)?);
        last.bits ^= u64::from_le_bytes(bytes).checked_shl(u32::from(zeros) * 8)?;
        return Some(Value::Float(f64::from_bits(last.bits)));
    }
    let mut row = Histogram {
        schema: i8::try_from(reader.int()?).ok()?,
        ..Histogram::default()
    };
    row.is_gauge = reader.byte()? != 0;
    for number in [
        &mut row.zero_threshold,
        &mut row.zero_count,
        &mut row.count,
        &mut row.sum,
    ] {
        *number = reader.f64()?;
    }
    for buckets in [&mut row.positive, &mut row.negative] {
        let mut before = 0i64;
        for _ in 0..reader.uint()? {
            before = before.checked_add(reader.int()?)?;
            buckets.push((i32::try_from(before).ok()?, reader.f64()?));
        }
    }
    let row = Arc::new(row);
    last.histogram = Some(row.clone());
    Some(Value::Histogram(row))
}

/// What a segment tells.
pub(super) trait Listener {
    fn series(&mut self, slot: u32, labels: Labels);
    fn tick(&mut self, time: Millis, samples: Vec<(u32, Value)>);
}

/// What was wrong with a segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Damage {
    /// Places in the middle that are not records.
    pub(super) places: usize,
    /// Whether it ends within a record: the last write did not come to its end.
    pub(super) torn: bool,
    /// Ticks that cannot be read because something before them is missing.
    pub(super) ticks: usize,
}

fn record(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let (mark, rest) = bytes.split_first_chunk::<2>()?;
    let (len, rest) = rest.split_first_chunk::<4>()?;
    let (crc, rest) = rest.split_first_chunk::<4>()?;
    let payload = rest.get(..u32::from_le_bytes(*len) as usize)?;
    (*mark == MARK && crc32fast::hash(payload) == u32::from_le_bytes(*crc))
        .then_some((payload, HEADER + payload.len()))
}

/// Reads a segment, and goes on behind what is damaged.
pub(super) fn replay(bytes: &[u8], listener: &mut impl Listener) -> Damage {
    let mut damage = Damage::default();
    let mut last: Vec<Last> = Vec::new();
    // Whether values since the last key are complete.
    let mut whole = false;
    let mut rest = bytes.strip_prefix(MAGIC).unwrap_or(bytes);
    while !rest.is_empty() {
        let Some((payload, size)) = record(rest) else {
            whole = false;
            let next = (1..rest.len()).find(|at| rest.get(*at..).is_some_and(|rest| record(rest).is_some()));
            let Some(next) = next else {
                damage.torn = true;
                break;
            };
            damage.places += 1;
            rest = rest.get(next..).unwrap_or_default();
            continue;
        };
        rest = rest.get(size..).unwrap_or_default();
        let mut reader = Reader::new(payload);
        match reader.byte() {
            Some(SERIES) => {
                if let (Some(slot), Some(labels)) = (reader.u32(), reader.labels()) {
                    if let Some(last) = last.get_mut(slot as usize) {
                        *last = Last::default();
                    }
                    listener.series(slot, labels);
                }
            }
            Some(TICK) => {
                let parsed = tick(&mut reader, &mut last, &mut whole);
                match parsed {
                    Some((time, samples)) => listener.tick(time, samples),
                    None => damage.ticks += 1,
                }
            }
            _ => damage.places += 1,
        }
    }
    damage
}

type Tick = (Millis, Vec<(u32, Value)>);

fn tick(reader: &mut Reader<'_>, last: &mut Vec<Last>, whole: &mut bool) -> Option<Tick> {
    let time = reader.int()?;
    let key = reader.byte()? != 0;
    *whole |= key;
    if !*whole {
        return None;
    }
    if key {
        last.iter_mut().for_each(|last| *last = Last::default());
    }
    let n = reader.size()?;
    let mut samples = Vec::with_capacity(n.min(1 << 20));
    let mut before = -1i64;
    for _ in 0..n {
        before = before.checked_add(reader.int()?)?.checked_add(1)?;
        let slot = u32::try_from(before).ok().filter(|slot| *slot < 1 << 26)?;
        if last.len() <= slot as usize {
            last.resize(slot as usize + 1, Last::default());
        }
        samples.push((slot, value(reader, last.get_mut(slot as usize)?)?));
    }
    Some((time, samples))
}
