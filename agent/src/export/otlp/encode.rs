//! Snapshots as `ExportMetricsServiceRequest`. Attributes were encoded when the series began and are copied.
//!
//! Source: <https://github.com/open-telemetry/opentelemetry-proto/tree/v1.7.0/opentelemetry/proto/metrics/v1>.

use super::previous::Previous;
use super::settings::Temporality;
use crate::aggregate::{Exemplar, Family, HistogramValue, Kind, Labels, Metric, Resource, Snapshot, Value};
use crate::export::push::Part;
use crate::export::spare::Spare;
use crate::export::wire::{
    BYTES, FIXED64, bytes, close, close_small, double, fixed64, fixed64_field, nested, open, open_small, tag,
    uint, varint, zigzag,
};
use agent_common::histogram::{FIRST_INDEX, SCALE};

/// A request is ended when it has grown to this size: collectors refuse more than 4 MiB by default.
const LIMIT: usize = 3 << 20;

/// Encodes a snapshot; `previous` is the one exported before, for deltas.
pub fn encode(
    snapshot: &Snapshot,
    temporality: Temporality,
    previous: Option<&Snapshot>,
    spare: &Spare,
) -> Vec<Part> {
    encode_limited(snapshot, temporality, previous, spare, LIMIT)
}

fn encode_limited(
    snapshot: &Snapshot,
    temporality: Temporality,
    previous: Option<&Snapshot>,
    spare: &Spare,
    limit: usize,
) -> Vec<Part> {
    let head = head(&snapshot.resource);
    let mut writer = Writer {
        out: Vec::new(),
        spare,
        head: &head,
        temporality: match temporality {
            Temporality::Delta => 1,
            Temporality::Cumulative => 2,
        },
        now: snapshot.unix_nanos,
        before: previous.map_or(0, |previous| previous.unix_nanos),
        limit,
        expected: snapshot.families.iter().map(size).sum(),
        nested: None,
        points: 0,
        parts: Vec::new(),
    };
    for family in &snapshot.families {
        let mut before = match temporality {
            Temporality::Cumulative => None,
            Temporality::Delta => Some(Previous::new(family, previous)),
        };
        writer.family(family, &mut before);
    }
    writer.end_part();
    writer.parts
}

/// Attributes of the machine. What is configured wins over what we found out: a key must not come twice.
pub(super) fn attributes(resource: &Resource) -> Vec<(&str, &str)> {
    let own = [
        ("service.name", "geophone"),
        ("service.version", env!("CARGO_PKG_VERSION")),
        ("host.name", &resource.host),
        ("cloud.region", &resource.region),
        ("cloud.availability_zone", &resource.zone),
        ("os.type", "linux"),
    ];
    let configured = resource.attributes.iter().map(|(k, v)| (k.as_str(), v.as_str()));
    let overridden = |key: &str| resource.attributes.iter().any(|(k, _)| k == key);
    own.into_iter()
        .filter(|(key, value)| !value.is_empty() && !overridden(key))
        .chain(configured)
        .collect()
}

/// `Resource resource = 1` of `ResourceMetrics`, encoded.
fn head(resource: &Resource) -> Vec<u8> {
    let mut out = Vec::new();
    let start = open(&mut out, 1);
    for (key, value) in attributes(resource) {
        let attribute = open(&mut out, 1);
        bytes(&mut out, 1, key.as_bytes());
        let any = open(&mut out, 2);
        bytes(&mut out, 1, value.as_bytes());
        close(&mut out, any);
        close(&mut out, attribute);
    }
    close(&mut out, start);
    out
}

/// Messages that are open around the metrics: `ResourceMetrics`, `ScopeMetrics`.
struct Writer<'a> {
    out: Vec<u8>,
    spare: &'a Spare,
    head: &'a [u8],
    temporality: u64,
    now: u64,
    /// Time of the last export.
    before: u64,
    limit: usize,
    /// About the size of what is not written yet.
    expected: usize,
    nested: Option<[usize; 2]>,
    points: u64,
    parts: Vec<Part>,
}

impl Writer<'_> {
    fn begin_part(&mut self) {
        if self.nested.is_some() {
            return;
        }
        // One allocation: growing by doubling takes longer than all the encoding.
        self.out = self.spare.take(self.expected.min(self.limit) + 4096);
        let out = &mut self.out;
        let resource = open(out, 1);
        out.extend_from_slice(self.head);
        let scope = open(out, 2);
        let name = open_small(out, 1);
        bytes(out, 1, b"geophone");
        bytes(out, 2, env!("CARGO_PKG_VERSION").as_bytes());
        close_small(out, name);
        self.nested = Some([resource, scope]);
    }

    fn end_part(&mut self) {
        let Some([resource, scope]) = self.nested.take() else {
            return;
        };
        close(&mut self.out, scope);
        close(&mut self.out, resource);
        let body = self.spare.lend(std::mem::take(&mut self.out));
        self.expected = self.expected.saturating_sub(body.len());
        self.parts.push(Part {
            body,
            points: std::mem::take(&mut self.points),
        });
    }

    /// Writes a family, in as many parts as it needs.
    fn family(&mut self, family: &Family, previous: &mut Option<Previous>) {
        let mut rest = family.series.iter().enumerate().peekable();
        while rest.peek().is_some() {
            self.begin_part();
            let (metric, data) = self.begin_metric(family.metric);
            for (i, series) in rest.by_ref() {
                let before = match previous {
                    Some(previous) => previous.find(i, &series.labels),
                    None => None,
                };
                let (start, before) = match before {
                    Some((time, value)) => (time, Some(value)),
                    None => (series.labels.start_unix_nanos, None),
                };
                let written = match (&series.value, family.metric.kind) {
                    (Value::Histogram(now), Kind::Histogram) => {
                        let before = match before {
                            Some(Value::Histogram(before)) => Some(before.as_ref()),
                            _ => None,
                        };
                        self.histogram(&series.labels, start, now, before, previous.is_some());
                        true
                    }
                    (Value::Histogram(_), _) | (_, Kind::Histogram) => false,
                    (value, kind) => {
                        let before = before.filter(|_| kind == Kind::Counter);
                        self.number(&series.labels, start, value, before);
                        true
                    }
                };
                self.points += u64::from(written);
                if self.out.len() >= self.limit {
                    break;
                }
            }
            self.end_metric(family.metric, metric, data);
            if self.out.len() >= self.limit {
                self.end_part();
            }
        }
    }

    fn begin_metric(&mut self, metric: &Metric) -> (usize, usize) {
        let out = &mut self.out;
        let start = open(out, 2);
        bytes(out, 1, metric.otlp.as_bytes());
        bytes(out, 2, metric.help.as_bytes());
        bytes(out, 3, metric.unit.as_bytes());
        let data = match metric.kind {
            Kind::Gauge => 5,
            Kind::Counter => 7,
            Kind::Histogram => 10,
        };
        (start, open(out, data))
    }

    fn end_metric(&mut self, metric: &Metric, start: usize, data: usize) {
        let out = &mut self.out;
        if metric.kind != Kind::Gauge {
            uint(out, 2, self.temporality);
        }
        if metric.kind == Kind::Counter {
            uint(out, 3, 1);
        }
        close(out, data);
        close(out, start);
    }

    fn number(&mut self, labels: &Labels, start: u64, value: &Value, before: Option<&Value>) {
        let value = match (value, before) {
            (Value::Counter(now), before) => {
                let before = if let Some(Value::Counter(before)) = before {
                    *before
                } else {
                    0
                };
                fixed64_field(6, now.saturating_sub(before).min(i64::MAX as u64))
            }
            (Value::CounterF(now), Some(Value::CounterF(before))) => {
                fixed64_field(4, (now - before).max(0.0).to_bits())
            }
            (Value::CounterF(now) | Value::Gauge(now), _) => fixed64_field(4, now.to_bits()),
            (Value::Histogram(_), _) => return,
        };
        let mut head = [0; 30];
        head[3..12].copy_from_slice(&fixed64_field(2, start.min(self.now)));
        head[12..21].copy_from_slice(&fixed64_field(3, self.now));
        head[21..].copy_from_slice(&value);
        nested(&mut self.out, 1, head, &labels.otlp);
    }

    fn histogram(
        &mut self,
        labels: &Labels,
        start: u64,
        now: &HistogramValue,
        before: Option<&HistogramValue>,
        delta: bool,
    ) {
        let difference = before.map(|before| now.since(before));
        let value = difference.as_ref().unwrap_or(now);
        let out = &mut self.out;
        let point = open_small(out, 1);
        retagged(out, &labels.otlp);
        fixed64(out, 2, start.min(self.now));
        fixed64(out, 3, self.now);
        fixed64(out, 4, value.count);
        double(out, 5, value.sum);
        uint(out, 6, zigzag(i64::from(SCALE)));
        fixed64(out, 7, value.zero);
        positive(out, &value.cells);
        // Of a difference: a connection's handshake may have been counted long ago.
        let new = value.exemplars.iter().filter(|one| one.placed > self.before);
        let new = new.filter(|one| !delta || value.is_in(one.octave()));
        new.for_each(|one| exemplar(out, one));
        // They hold for the life of the series, not for what came since the last export.
        if !delta {
            if let Some(min) = value.min {
                double(out, 12, min);
            }
            if let Some(max) = value.max {
                double(out, 13, max);
            }
        }
        close_small(out, point);
    }
}

/// Attributes are field 7 of a `NumberDataPoint` and field 1 of an `ExponentialHistogramDataPoint`.
fn retagged(out: &mut Vec<u8>, attributes: &[u8]) {
    let mut at = out.len();
    out.extend_from_slice(attributes);
    while let Some(tag_byte) = out.get_mut(at) {
        *tag_byte = tag(1, BYTES);
        let (mut length, mut shift) = (0, 0);
        loop {
            at += 1;
            let Some(&byte) = out.get(at) else { return };
            length |= usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 || shift > 28 {
                break;
            }
        }
        at += 1 + length;
    }
}

/// About the size of a family, judged by its first series; a fifth more, because they differ.
fn size(family: &Family) -> usize {
    let Some(first) = family.series.first() else {
        return 0;
    };
    let attributes = first.labels.otlp.len();
    let value = match &first.value {
        Value::Histogram(histogram) => 80 + histogram.cells.len(),
        _ => 30,
    };
    (attributes + value) * family.series.len() * 6 / 5 + 256
}

/// `Buckets positive = 8`, without the empty ends.
fn positive(out: &mut Vec<u8>, cells: &[u64]) {
    let Some(first) = cells.iter().position(|&c| c > 0) else {
        return;
    };
    let last = cells.iter().rposition(|&c| c > 0).unwrap_or(first);
    let buckets = open_small(out, 8);
    uint(out, 1, zigzag(i64::from(FIRST_INDEX) + first as i64));
    let counts = open_small(out, 2);
    for &count in cells.get(first..=last).unwrap_or_default() {
        varint(out, count);
    }
    close_small(out, counts);
    close_small(out, buckets);
}

/// `Exemplar exemplars = 11`.
fn exemplar(out: &mut Vec<u8>, one: &Exemplar) {
    let start = open_small(out, 11);
    fixed64(out, 2, one.unix_nanos);
    double(out, 3, one.value);
    bytes(out, 4, &one.span_id.to_be_bytes());
    bytes(out, 5, &one.trace_id.to_be_bytes());
    close_small(out, start);
}

/// The tag bytes above are one byte each.
const _: () = assert!(tag(13, FIXED64) < 0x80);

#[cfg(test)]
#[path = "encode_tests.rs"]
mod tests;
