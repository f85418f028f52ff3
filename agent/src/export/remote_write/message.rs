//! The messages of both versions, by hand: `prometheus.WriteRequest` and `io.prometheus.write.v2.Request`, each compressed
//! by snappy.
//!
//! Sources: <https://prometheus.io/docs/specs/prw/remote_write_spec_2_0/> (2.0-rc.4) and prompb/ in Prometheus' repository.

use crate::aggregate::{Exemplar, HistogramValue, Kind, Metric};
use crate::export::prometheus::{ZERO_THRESHOLD, proto, text};
use crate::export::push::Part;
use crate::export::wire::{
    SPAN_ID, TRACE_ID, VARINT, bytes, close, close_small, double, ids, labels, open, open_small, tag, uint,
    varint, zigzag,
};
use agent_common::histogram::SCALE;
use agent_store::labels::Labels;
use agent_store::series::STALE;
use std::collections::HashMap;

/// A request is ended when it has grown to this size, before it is packed: some thousands of samples.
const LIMIT: usize = 1 << 20;

/// One sample of one series.
pub(super) struct Row<'a> {
    pub(super) metric: &'static Metric,
    pub(super) identity: &'a Labels,
    /// When the series began, ms since the Unix epoch.
    pub(super) start: i64,
    pub(super) time: i64,
    pub(super) point: Point<'a>,
    /// Those that have not been sent.
    pub(super) exemplars: Vec<&'a Exemplar>,
}

/// Its value.
pub(super) enum Point<'a> {
    Number(f64),
    Histogram(&'a HistogramValue),
    /// The series has ended, which was of histograms.
    HistogramEnded,
}

/// Strings of a request of version 2, each once; the first is empty.
#[derive(Default)]
struct Symbols {
    known: HashMap<String, u64>,
    encoded: Vec<u8>,
}

impl Symbols {
    fn of(&mut self, text: &str) -> u64 {
        if self.known.is_empty() {
            self.add("");
        }
        match self.known.get(text) {
            Some(at) => *at,
            None => self.add(text),
        }
    }

    fn add(&mut self, text: &str) -> u64 {
        let at = self.known.len() as u64;
        self.known.insert(text.to_owned(), at);
        bytes(&mut self.encoded, 4, text.as_bytes());
        at
    }
}

/// A message that grows, and is cut into requests.
pub(super) struct Message {
    protocol: u8,
    symbols: Symbols,
    series: Vec<u8>,
    points: u64,
    limit: usize,
    parts: Vec<Part>,
}

impl Message {
    pub(super) fn new(protocol: u8) -> Self {
        Self::limited(protocol, LIMIT)
    }

    pub(super) fn limited(protocol: u8, limit: usize) -> Self {
        Self {
            protocol,
            symbols: Symbols::default(),
            series: Vec::new(),
            points: 0,
            limit,
            parts: Vec::new(),
        }
    }

    /// Adds a sample.
    pub(super) fn push(&mut self, row: &Row<'_>) {
        match self.protocol {
            1 => self.first(row),
            _ => self.second(row),
        }
        self.points += 1;
        if self.series.len() + self.symbols.encoded.len() >= self.limit {
            self.cut();
        }
    }

    /// The requests.
    pub(super) fn finish(mut self) -> Vec<Part> {
        self.cut();
        self.parts
    }

    fn cut(&mut self) {
        if self.points == 0 {
            return;
        }
        let Symbols {
            encoded: mut body, ..
        } = std::mem::take(&mut self.symbols);
        body.append(&mut self.series);
        // It fails on what is longer than 4 GiB only.
        let body = snap::raw::Encoder::new().compress_vec(&body).unwrap_or_default();
        self.parts.push(Part {
            body: body.into(),
            points: std::mem::take(&mut self.points),
        });
    }

    /// `TimeSeries timeseries = 1`.
    fn first(&mut self, row: &Row<'_>) {
        let out = &mut self.series;
        let series = open(out, 1);
        labels(out, 1, row.identity);
        point(row, 2, 4, None, out);
        for one in &row.exemplars {
            let exemplar = open_small(out, 3);
            ids(out, one);
            measured(one, out);
            close_small(out, exemplar);
        }
        close(out, series);
    }

    /// `TimeSeries timeseries = 5`.
    fn second(&mut self, row: &Row<'_>) {
        let (symbols, out) = (&mut self.symbols, &mut self.series);
        let series = open(out, 5);
        let references = open_small(out, 1);
        for (name, value) in row.identity.iter() {
            varint(out, symbols.of(name));
            varint(out, symbols.of(value));
        }
        close_small(out, references);
        let counts = row.metric.kind != Kind::Gauge;
        point(row, 2, 3, counts.then_some(row.start), out);
        for one in &row.exemplars {
            let exemplar = open_small(out, 4);
            let references = open_small(out, 1);
            for text in [TRACE_ID, &one.trace(), SPAN_ID, &one.span()] {
                varint(out, symbols.of(text));
            }
            close_small(out, references);
            measured(one, out);
            close_small(out, exemplar);
        }
        let metadata = open_small(out, 5);
        let kind = match row.metric.kind {
            Kind::Counter => 1,
            Kind::Gauge => 2,
            Kind::Histogram => 3,
        };
        uint(out, 1, kind);
        uint(out, 3, symbols.of(row.metric.help));
        uint(out, 4, symbols.of(text::unit(row.metric).unwrap_or_default()));
        close_small(out, metadata);
        close(out, series);
    }
}

/// Value and time of an `Exemplar`, which both versions have in the same fields.
fn measured(one: &Exemplar, out: &mut Vec<u8>) {
    double(out, 2, one.value);
    uint(out, 3, one.unix_nanos / 1_000_000);
}

/// A `Sample` or a `Histogram`, each in its field; `start` is `start_timestamp` of version 2, which 0 leaves out.
fn point(row: &Row<'_>, sample: u8, histogram: u8, start: Option<i64>, out: &mut Vec<u8>) {
    let empty = HistogramValue {
        sum: STALE,
        ..HistogramValue::default()
    };
    let value = match &row.point {
        Point::Histogram(value) => *value,
        Point::HistogramEnded => &empty,
        Point::Number(value) => {
            let at = open_small(out, sample);
            double(out, 1, *value);
            uint(out, 2, row.time as u64);
            started(start, &[tag(3, VARINT)], out);
            close_small(out, at);
            return;
        }
    };
    let at = open_small(out, histogram);
    uint(out, 1, value.count);
    double(out, 3, value.sum);
    uint(out, 4, zigzag(i64::from(SCALE)));
    double(out, 5, ZERO_THRESHOLD);
    uint(out, 6, value.zero);
    proto::buckets(&value.cells, 11, 12, out);
    uint(out, 15, row.time as u64);
    // The tag of field 17 takes two bytes.
    started(start, &[0x88, 1], out);
    close_small(out, at);
}

fn started(start: Option<i64>, tag: &[u8], out: &mut Vec<u8>) {
    if let Some(start) = start.filter(|start| *start > 0) {
        out.extend_from_slice(tag);
        varint(out, start as u64);
    }
}
