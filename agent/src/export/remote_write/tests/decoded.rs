//! The messages of both versions, by their definitions.

use crate::export::push::Part;
use prost::Message as _;
use std::collections::BTreeSet;

/// Labels, value and time of an exemplar.
pub(super) type Told = (Vec<(String, String)>, f64, i64);

/// Both versions, after symbols are resolved.
#[derive(Debug, Default)]
pub(super) struct Series {
    pub(super) labels: Vec<(String, String)>,
    pub(super) samples: Vec<Sample>,
    pub(super) histograms: Vec<Histogram>,
    /// Type, help and unit.
    pub(super) metadata: Option<(i32, String, String)>,
    pub(super) exemplars: Vec<Told>,
}

#[derive(prost::Message)]
pub(super) struct FirstExemplar {
    #[prost(message, repeated, tag = "1")]
    pub(super) labels: Vec<Label>,
    #[prost(double, tag = "2")]
    pub(super) value: f64,
    #[prost(int64, tag = "3")]
    pub(super) timestamp: i64,
}

#[derive(prost::Message)]
pub(super) struct SecondExemplar {
    #[prost(uint32, repeated, tag = "1")]
    pub(super) labels: Vec<u32>,
    #[prost(double, tag = "2")]
    pub(super) value: f64,
    #[prost(int64, tag = "3")]
    pub(super) timestamp: i64,
}

#[derive(prost::Message)]
pub(super) struct First {
    #[prost(message, repeated, tag = "1")]
    pub(super) series: Vec<FirstSeries>,
}

#[derive(prost::Message)]
pub(super) struct FirstSeries {
    #[prost(message, repeated, tag = "1")]
    pub(super) labels: Vec<Label>,
    #[prost(message, repeated, tag = "2")]
    pub(super) samples: Vec<Sample>,
    #[prost(message, repeated, tag = "3")]
    pub(super) exemplars: Vec<FirstExemplar>,
    #[prost(message, repeated, tag = "4")]
    pub(super) histograms: Vec<Histogram>,
}

#[derive(prost::Message)]
pub(super) struct Label {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, tag = "2")]
    pub(super) value: String,
}

#[derive(prost::Message)]
pub(super) struct Second {
    #[prost(string, repeated, tag = "4")]
    pub(super) symbols: Vec<String>,
    #[prost(message, repeated, tag = "5")]
    pub(super) series: Vec<SecondSeries>,
}

#[derive(prost::Message)]
pub(super) struct SecondSeries {
    #[prost(uint32, repeated, tag = "1")]
    pub(super) labels: Vec<u32>,
    #[prost(message, repeated, tag = "2")]
    pub(super) samples: Vec<Sample>,
    #[prost(message, repeated, tag = "3")]
    pub(super) histograms: Vec<Histogram>,
    #[prost(message, repeated, tag = "4")]
    pub(super) exemplars: Vec<SecondExemplar>,
    #[prost(message, optional, tag = "5")]
    pub(super) metadata: Option<Metadata>,
}

#[derive(prost::Message)]
pub(super) struct Metadata {
    #[prost(int32, tag = "1")]
    pub(super) kind: i32,
    #[prost(uint32, tag = "3")]
    pub(super) help: u32,
    #[prost(uint32, tag = "4")]
    pub(super) unit: u32,
}

#[derive(Clone, prost::Message)]
pub(super) struct Sample {
    #[prost(double, tag = "1")]
    pub(super) value: f64,
    #[prost(int64, tag = "2")]
    pub(super) timestamp: i64,
    #[prost(int64, tag = "3")]
    pub(super) start: i64,
}

#[derive(Clone, prost::Message)]
pub(super) struct Histogram {
    #[prost(uint64, optional, tag = "1")]
    pub(super) count: Option<u64>,
    #[prost(double, tag = "3")]
    pub(super) sum: f64,
    #[prost(sint32, tag = "4")]
    pub(super) schema: i32,
    #[prost(double, tag = "5")]
    pub(super) zero_threshold: f64,
    #[prost(uint64, optional, tag = "6")]
    pub(super) zero_count: Option<u64>,
    #[prost(message, repeated, tag = "11")]
    pub(super) spans: Vec<Span>,
    #[prost(sint64, repeated, tag = "12")]
    pub(super) deltas: Vec<i64>,
    #[prost(int64, tag = "15")]
    pub(super) timestamp: i64,
    #[prost(int64, tag = "17")]
    pub(super) start: i64,
}

#[derive(Clone, prost::Message)]
pub(super) struct Span {
    #[prost(sint32, tag = "1")]
    pub(super) offset: i32,
    #[prost(uint32, tag = "2")]
    pub(super) length: u32,
}

pub(super) fn decode(protocol: u8, part: &Part) -> Vec<Series> {
    let body = snap::raw::Decoder::new().decompress_vec(&part.body).unwrap();
    let series: Vec<Series> = if protocol == 1 {
        let all = First::decode(body.as_slice()).unwrap().series.into_iter();
        all.map(|s| Series {
            labels: s.labels.into_iter().map(|l| (l.name, l.value)).collect(),
            samples: s.samples,
            histograms: s.histograms,
            metadata: None,
            exemplars: s
                .exemplars
                .into_iter()
                .map(|e| {
                    (
                        e.labels.into_iter().map(|l| (l.name, l.value)).collect(),
                        e.value,
                        e.timestamp,
                    )
                })
                .collect(),
        })
        .collect()
    } else {
        let request = Second::decode(body.as_slice()).unwrap();
        let symbols = &request.symbols;
        assert_eq!(symbols[0], "");
        assert_eq!(symbols.iter().collect::<BTreeSet<_>>().len(), symbols.len());
        let of = |at: u32| symbols[at as usize].clone();
        let all = request.series.into_iter();
        all.map(|s| Series {
            labels: s.labels.chunks(2).map(|l| (of(l[0]), of(l[1]))).collect(),
            samples: s.samples,
            histograms: s.histograms,
            metadata: s.metadata.map(|m| (m.kind, of(m.help), of(m.unit))),
            exemplars: s
                .exemplars
                .into_iter()
                .map(|e| {
                    (
                        e.labels.chunks(2).map(|l| (of(l[0]), of(l[1]))).collect(),
                        e.value,
                        e.timestamp,
                    )
                })
                .collect(),
        })
        .collect()
    };
    let points: usize = series.iter().map(|s| s.samples.len() + s.histograms.len()).sum();
    assert_eq!(points as u64, part.points);
    for one in &series {
        let names: Vec<_> = one.labels.iter().map(|(name, _)| name).collect();
        assert!(
            names.is_sorted() && names.iter().all(|name| !name.is_empty()),
            "{names:?}"
        );
        assert!(one.labels.iter().all(|(_, value)| !value.is_empty()));
        assert!(one.samples.is_empty() != one.histograms.is_empty());
    }
    series
}
