//! Label values of one series, encoded once for every exporter.

use super::further::Further;
use super::metric::{Label, label};
use bytes::BufMut as _;
use std::fmt::Write as _;

/// The identity of a series. Made once; every scrape copies the finished encodings.
#[derive(Debug)]
pub struct Labels {
    /// Values with their declarations, empty values left out.
    pub values: Vec<(&'static Label, String)>,
    /// The series takes what found no room of its own.
    pub overflow: bool,
    /// When the series began, ns since the Unix epoch: its counters were zero then.
    pub start_unix_nanos: u64,
    /// Prometheus text without the braces: `a="b",c="d"`; empty when there are no labels.
    pub text: String,
    /// Prometheus protobuf: `repeated LabelPair label = 1` of `io.prometheus.client.Metric`, tags included.
    pub proto: Vec<u8>,
    /// OTLP: `repeated KeyValue attributes = 7` of `NumberDataPoint`, tags included. One piece, because five small ones
    /// cost ten times as much to copy: they lie scattered.
    pub otlp: Vec<u8>,
    /// Those of the values that the metric does not declare: they are the subject's.
    pub further: Further,
    /// Names of labels that it does without, because the configuration says so.
    pub left_out: Vec<&'static str>,
}

/// Longest label value in bytes; the rest is cut and replaced by `…`.
pub const MAX_VALUE: usize = 128;

impl Labels {
    /// Encodes the labels. `values` are in the order of `declared`; empty ones are left out.
    pub fn new(declared: &[&'static Label], values: &[&str], overflow: bool, start_unix_nanos: u64) -> Self {
        Self::of(declared, values, &Further::default(), overflow, start_unix_nanos)
    }

    /// As [`Self::new`], of a subject that has further labels.
    pub fn of(
        declared: &[&'static Label],
        values: &[&str],
        further: &Further,
        overflow: bool,
        start_unix_nanos: u64,
    ) -> Self {
        let own = declared.iter().zip(values).map(|(label, value)| (*label, *value));
        let others = further.iter().map(|(label, value)| (*label, value.as_str()));
        let values: Vec<(&'static Label, String)> = own
            .chain(others)
            .filter(|(_, value)| !value.is_empty())
            .map(|(label, value)| (label, clean(value)))
            .collect();
        Self::encode(values, further.clone(), overflow, start_unix_nanos)
    }

    /// The same without the labels of these names, of a series that began then.
    pub fn without(&self, names: &[&'static str], start_unix_nanos: u64) -> Self {
        let stays = |label: &Label| !names.contains(&label.prometheus);
        let values = self.values.iter().filter(|(label, _)| stays(label));
        let further = self.further.iter().filter(|(label, _)| stays(label));
        let further = Further::new(further.cloned());
        let mut rest = Self::encode(
            values.cloned().collect(),
            further,
            self.overflow,
            start_unix_nanos,
        );
        rest.left_out = self.left_out.iter().chain(names).copied().collect();
        rest
    }

    fn encode(
        values: Vec<(&'static Label, String)>,
        further: Further,
        overflow: bool,
        start_unix_nanos: u64,
    ) -> Self {
        let mut out = Self {
            values,
            overflow,
            start_unix_nanos,
            text: String::new(),
            proto: Vec::new(),
            otlp: Vec::new(),
            further,
            left_out: Vec::new(),
        };
        for (label, value) in &out.values {
            if !out.text.is_empty() {
                out.text.push(',');
            }
            let _ = write!(out.text, "{}=\"{}\"", label.prometheus, escape(value));
            label_pair(&mut out.proto, label.prometheus, value);
            field(&mut out.otlp, 7, &key_value(label.otlp, value));
        }
        if overflow {
            if !out.text.is_empty() {
                out.text.push(',');
            }
            out.text.push_str("otel_metric_overflow=\"true\"");
            label_pair(&mut out.proto, "otel_metric_overflow", "true");
            // AnyValue { bool_value = 2: true }
            let mut encoded = Vec::new();
            field(&mut encoded, 1, b"otel.metric.overflow");
            field(&mut encoded, 2, &[0x10, 1]);
            field(&mut out.otlp, 7, &encoded);
        }
        out
    }

    /// Value of a label, if the series has it.
    pub fn get(&self, label: &Label) -> Option<&str> {
        self.values
            .iter()
            .find(|(l, _)| *l == label)
            .map(|(_, v)| v.as_str())
    }

    /// Value of the subject label, or `""`.
    pub fn subject(&self) -> &str {
        self.get(&label::SUBJECT).unwrap_or("")
    }

    /// Value of the peer label, or `""`.
    pub fn peer(&self) -> &str {
        self.get(&label::PEER).unwrap_or("")
    }
}

/// Replaces control and bidirectional formatting characters, which terminals obey, and cuts what is too long.
pub fn clean(value: &str) -> String {
    let mut out = String::with_capacity(value.len().min(MAX_VALUE));
    for c in value.chars().map(harmless) {
        if out.len() + c.len_utf8() > MAX_VALUE - '…'.len_utf8() {
            out.push('…');
            return out;
        }
        out.push(c);
    }
    out
}

/// A string of the kernel, up to its first NUL, made harmless.
pub fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    clean(&String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()))
}

/// As [`clean`], of any length.
pub fn printable(value: &str) -> String {
    value.chars().map(harmless).collect()
}

fn harmless(c: char) -> char {
    match c {
        '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => '\u{fffd}',
        c if c.is_control() => '\u{fffd}',
        c => c,
    }
}

/// Escapes a label value as the Prometheus text formats ask.
fn escape(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

/// Appends a length-delimited protobuf field.
pub fn field(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    varint(out, u64::from(number << 3 | 2));
    varint(out, bytes.len() as u64);
    out.put_slice(bytes);
}

/// Appends a protobuf varint.
pub fn varint(out: &mut Vec<u8>, mut v: u64) {
    while v >= 0x80 {
        out.push(v as u8 | 0x80);
        v >>= 7;
    }
    out.push(v as u8);
}

fn label_pair(out: &mut Vec<u8>, name: &str, value: &str) {
    let mut pair = Vec::new();
    field(&mut pair, 1, name.as_bytes());
    field(&mut pair, 2, value.as_bytes());
    field(out, 1, &pair);
}

fn key_value(key: &str, value: &str) -> Vec<u8> {
    let mut any = Vec::new();
    field(&mut any, 1, value.as_bytes());
    let mut out = Vec::new();
    field(&mut out, 1, key.as_bytes());
    field(&mut out, 2, &any);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_values_are_harmless() {
        let labels = Labels::new(
            &[&label::SUBJECT, &label::PEER],
            &["a\n\"b\\\u{1b}[2J\u{202e}", &"x".repeat(500)],
            true,
            0,
        );
        assert!(
            labels
                .text
                .starts_with("subject=\"a\u{fffd}\\\"b\\\\\u{fffd}[2J\u{fffd}\",peer=\"xxx")
        );
        assert!(labels.text.ends_with("otel_metric_overflow=\"true\""));
        assert!(labels.peer().len() <= MAX_VALUE && labels.peer().ends_with('…'));
        assert_eq!(text(b"a\n\xff\0rest\0"), "a\u{fffd}\u{fffd}");
        assert_eq!(text(b"whole"), "whole");
    }

    #[test]
    fn the_otlp_encoding_is_what_the_official_types_decode() {
        use prost::Message as _;
        let labels = Labels::new(&[&label::DEVICE], &["eth0"], true, 0);
        let decoded =
            opentelemetry_proto::tonic::metrics::v1::NumberDataPoint::decode(labels.otlp.as_slice());
        let decoded = decoded.unwrap().attributes;
        assert_eq!(decoded[0].key, "network.interface.name");
        assert!(format!("{:?}", decoded[0].value).contains("eth0"));
        assert!(format!("{:?}", decoded[1].value).contains("BoolValue(true)"));
    }
}
