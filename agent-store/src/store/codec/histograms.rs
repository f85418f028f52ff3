//! A column of native histograms. A row that equals the one before is only counted. Of the others each bucket is a column of
//! its own: its growth from row to row, which is mostly zero; all of them in one pack, so that a bucket costs no header.

use super::super::bytes::{Reader, put_f64, put_int, put_uint};
use super::floats::{self, whole};
use super::{Effort, MAX_NUMBERS, pack, unpack};
use crate::histogram::Histogram;
use crate::series::is_stale;
use pco::{DeltaSpec, ModeSpec};
use std::ops::Range;
use std::sync::Arc;

const GROWTH: u8 = 0;
const FLOATS: u8 = 1;

/// What seldom changes from row to row.
pub(in super::super) fn shape(row: &Histogram) -> (i8, u64, bool) {
    (row.schema, row.zero_threshold.to_bits(), row.is_gauge)
}

/// Equal bit for bit: two markers of staleness are the same row, though a NaN is not equal to itself.
pub(in super::super) fn same(a: &Histogram, b: &Histogram) -> bool {
    a.sum.to_bits() == b.sum.to_bits()
        && a.count.to_bits() == b.count.to_bits()
        && a.zero_count.to_bits() == b.zero_count.to_bits()
        && shape(a) == shape(b)
        && a.positive == b.positive
        && a.negative == b.negative
}

pub(in super::super) fn encode(values: &[Arc<Histogram>], effort: Effort, out: &mut Vec<u8>) {
    let mut rows: Vec<&Histogram> = Vec::new();
    let mut repeats: Vec<f64> = Vec::new();
    for value in values {
        match (rows.last(), repeats.last_mut()) {
            (Some(last), Some(times)) if same(last, value) => *times += 1.0,
            _ => {
                rows.push(value);
                repeats.push(1.0);
            }
        }
    }
    put_uint(out, rows.len() as u64);
    column(out, &repeats, effort);

    let mut shapes: Vec<(i8, u64, bool)> = Vec::new();
    let kinds: Vec<f64> = rows
        .iter()
        .map(|row| {
            let at = shapes
                .iter()
                .position(|known| *known == shape(row))
                .unwrap_or_else(|| {
                    shapes.push(shape(row));
                    shapes.len() - 1
                });
            at as f64
        })
        .collect();
    put_uint(out, shapes.len() as u64);
    for (schema, threshold, is_gauge) in shapes {
        put_int(out, schema.into());
        put_f64(out, f64::from_bits(threshold));
        out.push(is_gauge.into());
    }
    column(out, &kinds, effort);

    let zero: Vec<f64> = rows.iter().map(|row| row.zero_count).collect();
    let sum: Vec<f64> = rows.iter().map(|row| row.sum).collect();
    // What the buckets do not explain of the count: nothing, but for NaN values.
    let more: Vec<f64> = rows.iter().map(|row| row.count - in_buckets(row)).collect();
    let exact = rows.iter().zip(&more).all(|(row, more)| {
        whole(row.count).is_some() && (in_buckets(row) + more).to_bits() == row.count.to_bits()
    });
    column(out, &zero, effort);
    column(out, &sum, effort);
    out.push(exact.into());
    if exact {
        column(out, &more, effort);
    } else {
        column(out, &rows.iter().map(|row| row.count).collect::<Vec<_>>(), effort);
    }
    let positive: Vec<&[(i32, f64)]> = rows.iter().map(|row| row.positive.as_slice()).collect();
    let negative: Vec<&[(i32, f64)]> = rows.iter().map(|row| row.negative.as_slice()).collect();
    buckets(out, &positive, effort);
    buckets(out, &negative, effort);
}

fn in_buckets(row: &Histogram) -> f64 {
    row.positive
        .iter()
        .chain(&row.negative)
        .map(|(_, count)| count)
        .sum::<f64>()
        + row.zero_count
}

fn column(out: &mut Vec<u8>, values: &[f64], effort: Effort) {
    let mut column = Vec::new();
    floats::encode(values, effort, &mut column);
    put_uint(out, column.len() as u64);
    out.append(&mut column);
}

fn buckets(out: &mut Vec<u8>, rows: &[&[(i32, f64)]], effort: Effort) {
    let mut indexes: Vec<i32> = rows
        .iter()
        .flat_map(|row| row.iter().map(|(index, _)| *index))
        .collect();
    indexes.sort_unstable();
    indexes.dedup();
    put_uint(out, indexes.len() as u64);
    let mut before = 0;
    for index in &indexes {
        put_int(out, i64::from(*index) - before);
        before = i64::from(*index);
    }
    if indexes.is_empty() {
        return;
    }
    let mut counts = vec![0.0; indexes.len() * rows.len()];
    for (at, row) in rows.iter().enumerate() {
        for (index, count) in *row {
            if let Ok(bucket) = indexes.binary_search(index)
                && let Some(cell) = counts.get_mut(bucket * rows.len() + at)
            {
                *cell = *count;
            }
        }
    }
    let integers: Option<Vec<i64>> = counts.iter().map(|count| whole(*count)).collect();
    if let Some(mut integers) = integers {
        for bucket in integers.chunks_exact_mut(rows.len()) {
            let mut before = 0;
            for cell in bucket {
                (*cell, before) = (*cell - before, *cell);
            }
        }
        out.push(GROWTH);
        let mut packed = Vec::new();
        pack(&integers, effort, DeltaSpec::NoOp, ModeSpec::Classic, &mut packed);
        put_uint(out, packed.len() as u64);
        out.append(&mut packed);
    } else {
        out.push(FLOATS);
        column(out, &counts, effort);
    }
}

/// The columns of a column.
struct Rows {
    count: usize,
    /// How many values each stands for.
    repeats: Vec<f64>,
    shapes: Vec<(i8, f64, bool)>,
    /// Which of the shapes each has.
    kinds: Vec<f64>,
    zero: Vec<f64>,
    sum: Vec<f64>,
    /// Of all buckets; if `is_more`, beyond what is in them.
    counts: Vec<f64>,
    is_more: bool,
    positive: Buckets,
    negative: Buckets,
}

impl Rows {
    fn read(data: &[u8], n: usize) -> Option<Self> {
        let mut reader = Reader::new(data);
        let count = reader.size()?;
        if n > MAX_NUMBERS || count > n {
            return None;
        }
        let repeats = read_column(&mut reader, count)?;
        let mut shapes = Vec::new();
        for _ in 0..reader.size()?.min(count) {
            shapes.push((
                i8::try_from(reader.int()?).ok()?,
                reader.f64()?,
                reader.byte()? != 0,
            ));
        }
        Some(Self {
            count,
            repeats,
            shapes,
            kinds: read_column(&mut reader, count)?,
            zero: read_column(&mut reader, count)?,
            sum: read_column(&mut reader, count)?,
            is_more: reader.byte()? != 0,
            counts: read_column(&mut reader, count)?,
            positive: read_buckets(&mut reader, count)?,
            negative: read_buckets(&mut reader, count)?,
        })
    }

    fn row(&self, at: usize) -> Option<Histogram> {
        let (schema, zero_threshold, is_gauge) = *self.shapes.get(*self.kinds.get(at)? as usize)?;
        let mut row = Histogram {
            schema,
            zero_threshold,
            zero_count: *self.zero.get(at)?,
            count: *self.counts.get(at)?,
            sum: *self.sum.get(at)?,
            positive: self.positive.row(at, self.count),
            negative: self.negative.row(at, self.count),
            is_gauge,
        };
        if self.is_more {
            row.count += in_buckets(&row);
        }
        Some(row)
    }

    /// The row that a value is in.
    fn of(&self, value: usize) -> Option<usize> {
        let mut end = 0;
        self.repeats.iter().position(|times| {
            end += *times as usize;
            end > value
        })
    }

    /// Whether from one row to the next nothing has fallen, ended or changed its shape. Where `counts` are what is beyond the buckets they
    /// may not fall either, which is more than is asked for.
    fn grows(&self, rows: Range<usize>) -> Option<bool> {
        let rises = |column: &[f64]| Some(column.get(rows.clone())?.is_sorted());
        let is_one = self
            .kinds
            .get(rows.clone())?
            .windows(2)
            .all(|pair| pair[0] == pair[1]);
        let ends = self.sum.get(rows.clone())?.iter().any(|sum| is_stale(*sum));
        let buckets = [&self.positive, &self.negative];
        let mut all = buckets
            .iter()
            .flat_map(|buckets| buckets.counts.chunks_exact(self.count.max(1)));
        Some(
            is_one
                && !ends
                && rises(&self.zero)?
                && rises(&self.counts)?
                && all.all(|bucket| rises(bucket) == Some(true)),
        )
    }
}

/// The first and the last of the values `range` of the `n` of a column; `Some(None)`: they do not only grow.
#[allow(clippy::option_option, reason = "no answer, and that there is none")]
pub(in super::super) fn ends(
    data: &[u8],
    n: usize,
    range: Range<usize>,
) -> Option<Option<(Arc<Histogram>, Arc<Histogram>)>> {
    let rows = Rows::read(data, n)?;
    let (first, last) = (rows.of(range.start)?, rows.of(range.end.checked_sub(1)?)?);
    if !rows.grows(first..last + 1)? {
        return Some(None);
    }
    Some(Some((Arc::new(rows.row(first)?), Arc::new(rows.row(last)?))))
}

/// Appends the `n` values of a column.
pub(in super::super) fn decode(data: &[u8], n: usize, into: &mut Vec<Arc<Histogram>>) -> Option<()> {
    let rows = Rows::read(data, n)?;
    let end = into.len() + n;
    for at in 0..rows.count {
        let times = (*rows.repeats.get(at)? as usize).min(end - into.len());
        into.extend(std::iter::repeat_n(Arc::new(rows.row(at)?), times));
    }
    (into.len() == end).then_some(())
}

fn read_column(reader: &mut Reader<'_>, n: usize) -> Option<Vec<f64>> {
    let size = reader.size()?;
    let mut values = Vec::with_capacity(n);
    floats::decode(reader.bytes(size)?, n, &mut values)?;
    Some(values)
}

struct Buckets {
    indexes: Vec<i32>,
    /// Bucket by bucket.
    counts: Vec<f64>,
}

impl Buckets {
    fn row(&self, at: usize, rows: usize) -> Vec<(i32, f64)> {
        let count = |bucket: usize| self.counts.get(bucket * rows + at).copied().unwrap_or_default();
        let filled =
            |(bucket, index): (usize, &i32)| Some((*index, count(bucket))).filter(|(_, c)| *c != 0.0);
        self.indexes.iter().enumerate().filter_map(filled).collect()
    }
}

fn read_buckets(reader: &mut Reader<'_>, rows: usize) -> Option<Buckets> {
    let n = reader.size()?;
    if n.checked_mul(rows)? > MAX_NUMBERS {
        return None;
    }
    let mut indexes = Vec::with_capacity(n);
    let mut before = 0i64;
    for _ in 0..n {
        before = before.checked_add(reader.int()?)?;
        indexes.push(i32::try_from(before).ok()?);
    }
    if indexes.is_empty() {
        return Some(Buckets {
            indexes,
            counts: Vec::new(),
        });
    }
    let counts = if reader.byte()? == FLOATS {
        read_column(reader, n * rows)?
    } else {
        let size = reader.size()?;
        let mut growth = vec![0i64; n * rows];
        unpack(reader.bytes(size)?, &mut growth)?;
        let mut counts = Vec::with_capacity(growth.len());
        for bucket in growth.chunks_exact(rows) {
            let mut sum = 0i64;
            counts.extend(bucket.iter().map(|more| {
                sum = sum.wrapping_add(*more);
                sum as f64
            }));
        }
        counts
    };
    Some(Buckets { indexes, counts })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::series::STALE;
    use rand::{Rng, SeedableRng};

    fn round(values: &[Arc<Histogram>]) -> usize {
        let mut out = Vec::new();
        encode(values, Effort::Full, &mut out);
        let mut back = Vec::new();
        decode(&out, values.len(), &mut back).unwrap();
        assert!(back.iter().zip(values).all(|(a, b)| same(a, b)));
        out.len()
    }

    fn latencies(n: usize, busy: impl Fn(usize) -> bool) -> Vec<Arc<Histogram>> {
        let mut rng = rand::rngs::StdRng::seed_from_u64(1);
        let mut row = Histogram {
            schema: 3,
            zero_threshold: 1e-6,
            ..Histogram::default()
        };
        let mut counts = [0.0f64; 40];
        (0..n)
            .map(|at| {
                for _ in 0..if busy(at) { 20 } else { 0 } {
                    let bucket: usize = (0..10).map(|_| rng.random_range(0..4)).sum();
                    counts[bucket] += 1.0;
                    row.count += 1.0;
                    row.sum += bucket as f64 * 1e-3;
                }
                let filled = counts.iter().enumerate().filter(|(_, c)| **c > 0.0);
                row.positive = filled.map(|(i, c)| (i as i32 - 70, *c)).collect();
                Arc::new(row.clone())
            })
            .collect()
    }

    #[test]
    fn histograms_come_back_and_idle_ones_cost_nothing() {
        assert!(round(&latencies(600, |_| true)) < 600 * 24);
        assert!(round(&latencies(600, |at| at % 100 == 0)) < 600 * 2);
        let mut values = latencies(50, |_| true);
        values.push(Arc::new(Histogram {
            sum: STALE,
            ..Histogram::default()
        }));
        values.push(Arc::new(Histogram {
            schema: -4,
            count: 7.5,
            zero_count: 0.25,
            sum: f64::INFINITY,
            negative: vec![(i32::MIN, 1.5), (i32::MAX, 2.0)],
            is_gauge: true,
            ..Histogram::default()
        }));
        values.push(values[3].clone());
        round(&values);
        round(&[]);
    }

    #[test]
    fn bytes_that_are_cut_are_refused() {
        let mut good = Vec::new();
        let values = latencies(20, |_| true);
        encode(&values, Effort::Full, &mut good);
        for end in 0..good.len() {
            let cut = decode(&good[..end], values.len(), &mut Vec::new());
            assert!(cut.is_none(), "{end} of {}", good.len());
        }
    }
}
