//! What every series was at the moment at which a recording begins that begins in the middle of an agent's life.
//!
//! What the maps hold then is not what the series were: a row has had other owners before, and a row that was given back
//! has left its count in a series. So the agent's own values are written down as well ([`put`]), and a replay adds to
//! them what has grown since. Gauges need no such thing: they are what they are now.

use super::format::{Reader, bytes, varint};
use crate::aggregate::{Family, HistogramValue, Labels, Series, Value};
use std::collections::HashMap;
use std::sync::Arc;

/// Kinds of a value.
mod kind {
    pub const COUNTER: u8 = 0;
    pub const COUNTER_F: u8 = 1;
    pub const HISTOGRAM: u8 = 2;
}

/// Writes the counters and histograms of a snapshot.
pub(super) fn put(out: &mut Vec<u8>, families: &[Family]) {
    for family in families {
        for series in &family.series {
            let mut value = Vec::new();
            match &series.value {
                Value::Gauge(_) => continue,
                Value::Counter(count) => {
                    value.push(kind::COUNTER);
                    varint(&mut value, *count);
                }
                Value::CounterF(sum) => {
                    value.push(kind::COUNTER_F);
                    varint(&mut value, sum.to_bits());
                }
                Value::Histogram(histogram) => {
                    value.push(kind::HISTOGRAM);
                    put_histogram(&mut value, histogram);
                }
            }
            bytes(out, family.metric.name.as_bytes());
            bytes(out, series.labels.text.as_bytes());
            varint(out, series.labels.start_unix_nanos);
            bytes(out, &value);
        }
    }
}

fn put_histogram(out: &mut Vec<u8>, histogram: &HistogramValue) {
    varint(out, histogram.zero);
    varint(out, histogram.sum.to_bits());
    for extreme in [histogram.min, histogram.max] {
        varint(out, extreme.map_or(f64::NAN, |value| value).to_bits());
    }
    histogram.cells.iter().for_each(|count| varint(out, *count));
}

fn histogram(r: &mut Reader<'_>) -> Option<HistogramValue> {
    let zero = r.varint()?;
    let sum = f64::from_bits(r.varint()?);
    let mut extreme = || Some(Some(f64::from_bits(r.varint()?)).filter(|value| !value.is_nan()));
    let (min, max) = (extreme()?, extreme()?);
    let mut cells = Vec::new();
    while !r.0.is_empty() {
        cells.push(r.varint()?);
    }
    let count = cells.iter().fold(zero, |sum, count| sum.wrapping_add(*count));
    Some(HistogramValue {
        zero,
        cells,
        count,
        sum,
        min,
        max,
        exemplars: Vec::new(),
    })
}

fn value(mut r: Reader<'_>) -> Option<Value> {
    Some(match r.byte()? {
        kind::COUNTER => Value::Counter(r.varint()?),
        kind::COUNTER_F => Value::CounterF(f64::from_bits(r.varint()?)),
        kind::HISTOGRAM => Value::Histogram(Arc::new(histogram(&mut r)?)),
        _ => return None,
    })
}

/// A series whose replayed value is not the agent's: theirs grow alike.
struct Offset {
    /// What the agent said then.
    told: Option<(u64, Value)>,
    /// What the replay came to from the same moment.
    zero: Option<Value>,
    /// The labels with the agent's time of beginning.
    labels: Option<Arc<Labels>>,
}

/// By metric and labels.
#[derive(Default)]
pub(super) struct Offsets(HashMap<String, HashMap<String, Offset>>);

impl Offsets {
    /// What the agent said, of what [`put`] wrote; `None` = it is damaged.
    pub(super) fn read(mut r: Reader<'_>) -> Option<Self> {
        let mut all = Self::default();
        while !r.0.is_empty() {
            let (metric, labels, start) = (r.text()?, r.text()?, r.varint()?);
            all.at(metric, labels).told = Some((start, value(Reader(r.bytes()?))?));
        }
        Some(all)
    }

    fn at(&mut self, metric: &str, labels: &str) -> &mut Offset {
        let of = self.0.entry(metric.to_owned()).or_default();
        of.entry(labels.to_owned()).or_insert(Offset {
            told: None,
            zero: None,
            labels: None,
        })
    }

    /// What a replay comes to from the same moment.
    pub(super) fn begin(&mut self, families: &[Family]) {
        for family in families {
            for series in &family.series {
                self.at(family.metric.name, &series.labels.text).zero = Some(series.value.clone());
            }
        }
    }

    /// Makes of what a replay comes to what the agent said.
    pub(super) fn apply(&mut self, families: &mut [Family]) {
        for family in families {
            let Some(of) = self.0.get_mut(family.metric.name) else {
                continue;
            };
            for series in &mut family.series {
                let gone = of.get_mut(&series.labels.text).is_some_and(|o| !o.apply(series));
                if gone {
                    of.remove(&series.labels.text);
                }
            }
        }
    }
}

impl Offset {
    /// False: the series has begun anew since, in the agent as well.
    fn apply(&mut self, series: &mut Series) -> bool {
        let value = match (&series.value, &self.zero, self.told.as_ref().map(|told| &told.1)) {
            (Value::Counter(now), zero, told) => {
                let of = |value: Option<&Value>| match value {
                    Some(Value::Counter(count)) => *count,
                    _ => 0,
                };
                now.checked_sub(of(zero.as_ref()))
                    .map(|grown| Value::Counter(grown.wrapping_add(of(told))))
            }
            (Value::CounterF(now), zero, told) => {
                let of = |value: Option<&Value>| match value {
                    Some(Value::CounterF(sum)) => *sum,
                    _ => 0.0,
                };
                let grown = now - of(zero.as_ref());
                (grown >= 0.0).then(|| Value::CounterF(grown + of(told)))
            }
            (Value::Histogram(now), zero, told) => {
                let none = HistogramValue::default();
                let of = |value: Option<&'_ Value>| match value {
                    Some(Value::Histogram(histogram)) => histogram.clone(),
                    _ => Arc::new(none.clone()),
                };
                let (zero, told) = (of(zero.as_ref()), of(told));
                (now.count >= zero.count).then(|| {
                    let mut all = now.since(&zero);
                    if all.count == 0 {
                        return Value::Histogram(told);
                    }
                    (all.min, all.max) = (now.min, now.max);
                    all.add(&told);
                    Value::Histogram(Arc::new(all))
                })
            }
            (Value::Gauge(_), ..) => return true,
        };
        let Some(value) = value else { return false };
        series.value = value;
        if let Some((start, _)) = &self.told {
            let own = &series.labels;
            let labels = self.labels.get_or_insert_with(|| {
                Arc::new(Labels {
                    values: own.values.clone(),
                    overflow: own.overflow,
                    start_unix_nanos: *start,
                    text: own.text.clone(),
                    proto: own.proto.clone(),
                    otlp: own.otlp.clone(),
                    further: own.further.clone(),
                    left_out: own.left_out.clone(),
                })
            });
            series.labels = labels.clone();
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aggregate::label;
    use crate::probes::{block, sched};

    fn labels(start: u64) -> Arc<Labels> {
        Arc::new(Labels::new(&[&label::SUBJECT], &["nginx"], false, start))
    }

    fn families(start: u64, counter: u64, seconds: f64, micros: &[u32]) -> Vec<Family> {
        let mut histogram = HistogramValue::default();
        for micros in micros {
            let cell = agent_common::histogram::cell(agent_common::histogram::from_micros(*micros));
            histogram.add_cell(cell, 1);
            let seconds = f64::from(*micros) / 1e6;
            histogram.sum += seconds;
            histogram.min = Some(histogram.min.map_or(seconds, |m| m.min(seconds)));
            histogram.max = Some(histogram.max.map_or(seconds, |m| m.max(seconds)));
        }
        let one = |metric, value| Family {
            metric,
            series: vec![Series {
                labels: labels(start),
                value,
            }],
        };
        vec![
            one(&block::BYTES, Value::Counter(counter)),
            one(&sched::CPU, Value::CounterF(seconds)),
            one(&block::IO, Value::Histogram(Arc::new(histogram))),
            one(&block::IN_FLIGHT, Value::Gauge(counter as f64)),
        ]
    }

    fn offsets(told: &[Family], zero: &[Family]) -> Offsets {
        let mut out = Vec::new();
        put(&mut out, told);
        let mut offsets = Offsets::read(Reader(&out)).unwrap();
        offsets.begin(zero);
        offsets
    }

    /// The agent: 100 of which 30 were another owner's. The replay: what the row holds, 70.
    #[test]
    fn a_replay_says_what_the_agent_said_from_there_on() {
        let told = families(5, 100, 2.5, &[10, 10, 3000]);
        let mut offsets = offsets(&told, &families(9, 70, 2.0, &[10, 3000]));
        for (grown, micros) in [(0, &[10, 3000][..]), (7, &[10, 3000, 4, 50_000])] {
            let mut now = families(9, 70 + grown, 2.0 + grown as f64, micros);
            offsets.apply(&mut now);
            let Value::Counter(count) = now[0].series[0].value else {
                panic!()
            };
            assert_eq!(count, 100 + grown);
            let Value::CounterF(sum) = now[1].series[0].value else {
                panic!()
            };
            assert!((sum - 2.5 - grown as f64).abs() < 1e-9);
            let Value::Histogram(histogram) = &now[2].series[0].value else {
                panic!()
            };
            assert_eq!(histogram.count as usize, micros.len() + 1);
            assert_eq!(histogram.min, Some(if grown == 0 { 1e-5 } else { 4e-6 }));
            assert_eq!(histogram.max, Some(if grown == 0 { 3e-3 } else { 5e-2 }));
            let Value::Gauge(gauge) = now[3].series[0].value else {
                panic!()
            };
            assert_eq!(gauge as u64, 70 + grown);
            assert_eq!(
                now[0].series[0].labels.start_unix_nanos, 5,
                "it began when the agent's did"
            );
        }
    }

    #[test]
    fn a_series_that_began_anew_is_left_alone() {
        let mut offsets = offsets(&families(5, 100, 2.5, &[10]), &families(9, 70, 2.0, &[10]));
        for count in [3, 90] {
            let mut now = families(20, count, 0.1, &[]);
            offsets.apply(&mut now);
            let Value::Counter(seen) = now[0].series[0].value else {
                panic!()
            };
            assert_eq!((seen, now[0].series[0].labels.start_unix_nanos), (count, 20));
        }
    }

    #[test]
    fn what_is_cut_is_refused() {
        let mut out = Vec::new();
        put(&mut out, &families(5, 100, 2.5, &[10, 3000]));
        let whole = (0..=out.len())
            .filter(|end| Offsets::read(Reader(out.get(..*end).unwrap())).is_some_and(|o| o.0.len() == 3));
        assert_eq!(whole.collect::<Vec<_>>(), [out.len()]);
    }
}
