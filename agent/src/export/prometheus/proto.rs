//! Length-delimited `io.prometheus.client.MetricFamily` with native histograms, schema 3, beside the classic buckets.
//!
//! Source: <https://github.com/prometheus/client_model/blob/master/io/prometheus/client/metrics.proto>. A native
//! bucket `i` ends at `2^(i/8)` and an OTel bucket `i` begins there, hence one is added to the index.

use super::{Exemplars, FIRST_BOUND, TARGET_INFO, classic, target_labels};
use crate::aggregate::{Exemplar, Family, HistogramValue, Kind, Metric, Snapshot, Value};
use crate::export::wire::{
    BYTES, bytes, close, close_small, double, fixed64, ids, open_bare, open_small, tag, uint, varint, zigzag,
};
use agent_common::histogram::{FIRST_INDEX, SCALE};

/// Width of the zero bucket. Above zero, because that is how Prometheus knows an empty native histogram; as small as
/// client_golang has it, because our zero bucket holds only zeros.
pub const ZERO_THRESHOLD: f64 = 2.938_735_877_055_719e-39;

const COUNTER: u64 = 0;
const GAUGE: u64 = 1;
const HISTOGRAM: u64 = 4;

/// Appends the whole exposition.
pub fn encode(snapshot: &Snapshot, out: &mut Vec<u8>) {
    let start = open_family(&TARGET_INFO, out);
    let metric = open_small(out, 4);
    out.extend_from_slice(&target_labels(snapshot).proto);
    simple(out, 2, 1.0);
    close_small(out, metric);
    close(out, start);
    for family in snapshot.families.iter().filter(|f| !f.series.is_empty()) {
        encode_family(family, out);
    }
}

fn open_family(metric: &Metric, out: &mut Vec<u8>) -> usize {
    let start = open_bare(out);
    bytes(out, 1, metric.name.as_bytes());
    bytes(out, 2, metric.help.as_bytes());
    let kind = match metric.kind {
        Kind::Counter => COUNTER,
        Kind::Gauge => GAUGE,
        Kind::Histogram => HISTOGRAM,
    };
    uint(out, 3, kind);
    start
}

fn encode_family(family: &Family, out: &mut Vec<u8>) {
    let start = open_family(family.metric, out);
    for series in &family.series {
        let metric = open_small(out, 4);
        out.extend_from_slice(&series.labels.proto);
        match &series.value {
            Value::Counter(v) => simple(out, 3, *v as f64),
            Value::CounterF(v) => simple(out, 3, *v),
            Value::Gauge(v) => simple(out, 2, *v),
            Value::Histogram(histogram) => encode_histogram(histogram, out),
        }
        close_small(out, metric);
    }
    close(out, start);
}

/// Counter and gauge messages hold one double.
fn simple(out: &mut Vec<u8>, number: u8, v: f64) {
    out.extend_from_slice(&[tag(number, BYTES), 9]);
    double(out, 1, v);
}

fn encode_histogram(histogram: &HistogramValue, out: &mut Vec<u8>) {
    let start = open_small(out, 7);
    uint(out, 1, histogram.count);
    double(out, 2, histogram.sum);
    let mut exemplars = Exemplars::new(histogram.exemplars.iter().collect());
    for (k, count) in (FIRST_BOUND..).zip(classic(histogram)) {
        bucket(out, count, f64::from(k).exp2(), exemplars.up_to(k));
    }
    bucket(out, histogram.count, f64::INFINITY, exemplars.up_to(i32::MAX));
    uint(out, 5, zigzag(i64::from(SCALE)));
    double(out, 6, ZERO_THRESHOLD);
    uint(out, 7, histogram.zero);
    buckets(&histogram.cells, 12, 13, out);
    for one in &histogram.exemplars {
        // `Exemplar exemplars = 16`, whose tag takes two bytes, and as many for the length as `open_small` leaves.
        out.extend_from_slice(&[0x82, 1, 0, 0]);
        let start = out.len();
        exemplar(out, one);
        close_small(out, start);
    }
    close_small(out, start);
}

/// Spans and deltas of the native buckets, in these two fields: other messages have them elsewhere.
pub(in crate::export) fn buckets(cells: &[u64], spans_field: u8, deltas_field: u8, out: &mut Vec<u8>) {
    let spans = spans(cells);
    for (offset, cells) in &spans {
        let span = open_small(out, spans_field);
        uint(out, 1, zigzag(i64::from(*offset)));
        uint(out, 2, cells.len() as u64);
        close_small(out, span);
    }
    if !spans.is_empty() {
        let deltas = open_small(out, deltas_field);
        let mut last = 0i64;
        for &count in spans.iter().flat_map(|(_, cells)| cells.iter()) {
            let count = count as i64;
            varint(out, zigzag(count.wrapping_sub(last)));
            last = count;
        }
        close_small(out, deltas);
    }
}

fn bucket(out: &mut Vec<u8>, count: u64, bound: f64, one: Option<&Exemplar>) {
    if let Some(one) = one {
        let start = open_small(out, 3);
        uint(out, 1, count);
        fixed64(out, 2, bound.to_bits());
        let inner = open_small(out, 3);
        exemplar(out, one);
        close_small(out, inner);
        close_small(out, start);
        return;
    }
    let start = out.len();
    out.extend_from_slice(&[tag(3, BYTES), 0]);
    uint(out, 1, count);
    fixed64(out, 2, bound.to_bits());
    // At most 1 + 10 + 9 bytes.
    let length = (out.len() - start - 2) as u8;
    if let Some(at) = out.get_mut(start + 1) {
        *at = length;
    }
}

/// The fields of an `Exemplar`.
fn exemplar(out: &mut Vec<u8>, one: &Exemplar) {
    ids(out, one);
    double(out, 2, one.value);
    let time = open_small(out, 3);
    uint(out, 1, one.unix_nanos / 1_000_000_000);
    uint(out, 2, one.unix_nanos % 1_000_000_000);
    close_small(out, time);
}

/// Runs of cells in use, each with its distance from the end of the one before; the first from bucket 0. Gaps of up
/// to two empty cells are kept inside a run: a new span costs more.
fn spans(cells: &[u64]) -> Vec<(i32, &[u64])> {
    let mut out = Vec::new();
    let mut end_of_last = 0;
    let mut at = 0;
    while let Some(start) = cells.iter().skip(at).position(|&c| c > 0).map(|p| p + at) {
        let mut end = start + 1;
        while let Some(gap) = cells.iter().skip(end).take(3).position(|&c| c > 0) {
            end += gap + 1;
        }
        let index = start as i32 + FIRST_INDEX + 1;
        out.push((index - end_of_last, cells.get(start..end).unwrap_or_default()));
        end_of_last = index + (end - start) as i32;
        at = end;
    }
    out
}

#[cfg(test)]
#[path = "proto_tests.rs"]
mod tests;
