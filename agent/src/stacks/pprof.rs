//! profile.proto (github.com/google/pprof), what most viewers of profiles read.

use super::build_id;
use super::frames::{self, waker};
use super::image::KERNEL_START;
use super::store::{Place, Row, Store, Window};
use crate::error::{Context as _, Result};
use agent_common::profile::sample;
use flate2::Compression;
use flate2::write::GzEncoder;
use prost::Message as _;
use std::collections::HashMap;
use std::hash::Hash;
use std::io::Write as _;

/// `perftools.profiles.Profile`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Profile {
    /// What the values of a sample are.
    #[prost(message, repeated, tag = "1")]
    pub sample_type: Vec<ValueType>,
    /// Stacks.
    #[prost(message, repeated, tag = "2")]
    pub sample: Vec<Sample>,
    /// Files.
    #[prost(message, repeated, tag = "3")]
    pub mapping: Vec<Mapping>,
    /// Addresses.
    #[prost(message, repeated, tag = "4")]
    pub location: Vec<Location>,
    /// Functions.
    #[prost(message, repeated, tag = "5")]
    pub function: Vec<Function>,
    /// All strings; the first is empty.
    #[prost(string, repeated, tag = "6")]
    pub string_table: Vec<String>,
    /// When it begins, ns since the Unix epoch.
    #[prost(int64, tag = "9")]
    pub time_nanos: i64,
    /// How long it is.
    #[prost(int64, tag = "10")]
    pub duration_nanos: i64,
    /// What the period is of.
    #[prost(message, optional, tag = "11")]
    pub period_type: Option<ValueType>,
    /// What lies between two samples.
    #[prost(int64, tag = "12")]
    pub period: i64,
}

/// A kind of value and its unit, both in the table of strings.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct ValueType {
    /// What.
    #[prost(int64, tag = "1")]
    pub r#type: i64,
    /// In what.
    #[prost(int64, tag = "2")]
    pub unit: i64,
}

/// A stack, innermost first.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Sample {
    /// Addresses.
    #[prost(uint64, repeated, tag = "1")]
    pub location_id: Vec<u64>,
    /// One of each type.
    #[prost(int64, repeated, tag = "2")]
    pub value: Vec<i64>,
    /// Whose it is.
    #[prost(message, repeated, tag = "3")]
    pub label: Vec<Label>,
}

/// A word on a sample.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Label {
    /// Its name.
    #[prost(int64, tag = "1")]
    pub key: i64,
    /// Its value, a string.
    #[prost(int64, tag = "2")]
    pub str: i64,
    /// Its value, a number.
    #[prost(int64, tag = "3")]
    pub num: i64,
}

/// A file.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Mapping {
    /// From 1.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// First address.
    #[prost(uint64, tag = "2")]
    pub memory_start: u64,
    /// Address behind the last.
    #[prost(uint64, tag = "3")]
    pub memory_limit: u64,
    /// Where the first address lies in the file.
    #[prost(uint64, tag = "4")]
    pub file_offset: u64,
    /// Name of the file.
    #[prost(int64, tag = "5")]
    pub filename: i64,
    /// Its build id.
    #[prost(int64, tag = "6")]
    pub build_id: i64,
    /// The names are there already.
    #[prost(bool, tag = "7")]
    pub has_functions: bool,
}

/// An address.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Location {
    /// From 1.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// Its file; 0 = none.
    #[prost(uint64, tag = "2")]
    pub mapping_id: u64,
    /// As in the file, before relocation.
    #[prost(uint64, tag = "3")]
    pub address: u64,
    /// Its functions: those that were inlined first, innermost first.
    #[prost(message, repeated, tag = "4")]
    pub line: Vec<Line>,
}

/// A function at an address.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Line {
    /// Which.
    #[prost(uint64, tag = "1")]
    pub function_id: u64,
    /// Its line; 0 = not known.
    #[prost(int64, tag = "2")]
    pub line: i64,
}

/// A function.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Function {
    /// From 1.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// As a person reads it.
    #[prost(int64, tag = "2")]
    pub name: i64,
    /// As the system calls it.
    #[prost(int64, tag = "3")]
    pub system_name: i64,
    /// File that it was written in; may be empty.
    #[prost(int64, tag = "4")]
    pub filename: i64,
    /// Its first line; 0 = not known.
    #[prost(int64, tag = "5")]
    pub start_line: i64,
}

/// Numbers things as they come, from 1.
struct Numbers<K>(HashMap<K, u64>);

impl<K: Eq + Hash> Numbers<K> {
    fn of(&mut self, key: K) -> (u64, bool) {
        let next = self.0.len() as u64 + 1;
        let number = *self.0.entry(key).or_insert(next);
        (number, number == next)
    }
}

#[derive(Default)]
struct Strings {
    table: Vec<String>,
    places: HashMap<String, i64>,
}

impl Strings {
    fn of(&mut self, text: &str) -> i64 {
        if let Some(&place) = self.places.get(text) {
            return place;
        }
        let place = self.table.len() as i64;
        self.table.push(text.to_owned());
        self.places.insert(text.to_owned(), place);
        place
    }
}

/// Where the mapping of the kernel is kept among those of files, whose numbers begin with 1.
const KERNEL: u32 = 0;

/// The profile as a message.
pub fn profile(store: &Store, rows: &[Row], sample: u8, window: Window) -> Profile {
    let mut strings = Strings::default();
    strings.of("");
    let (samples, count) = (strings.of("samples"), strings.of("count"));
    let kind = usize::from(sample);
    let of = |names: &[&'static str]| names.get(kind).copied().unwrap_or_default();
    let value = ValueType {
        r#type: strings.of(of(&sample::NAMES)),
        unit: strings.of(of(&sample::UNITS)),
    };
    let mut out = Profile {
        sample_type: vec![
            ValueType {
                r#type: samples,
                unit: count,
            },
            value,
        ],
        period_type: Some(value),
        ..Profile::default()
    };
    let (mut mappings, mut locations, mut functions) = (
        Numbers(HashMap::new()),
        Numbers(HashMap::new()),
        Numbers(HashMap::new()),
    );
    let mut total = super::store::Count::default();
    for row in rows {
        total.samples += row.count.samples;
        total.value += row.count.value;
        let mut location_id = Vec::with_capacity(row.frames.len());
        for frame in row.frames.iter() {
            let (id, is_new) = locations.of(*frame);
            location_id.push(id);
            if !is_new {
                continue;
            }
            // Without a name whoever reads it can find one, by build id and address.
            let python = store.python(*frame);
            let names = python.map_or_else(
                || frames::functions(store, *frame),
                |(f, _)| vec![f.name.to_string()],
            );
            let mut line = Vec::new();
            for name in names {
                let name = strings.of(&name);
                let filename = python.map_or(0, |(function, _)| strings.of(&function.file));
                let start_line = python.map_or(0, |(function, _)| i64::from(function.line));
                let (function_id, is_new) = functions.of((name, filename, start_line));
                if is_new {
                    out.function.push(Function {
                        id: function_id,
                        name,
                        system_name: name,
                        filename,
                        start_line,
                    });
                }
                line.push(Line {
                    function_id,
                    line: python.map_or(0, |(_, line)| i64::from(line)),
                });
            }
            let (file, address) = match store.frame(*frame).map(|(place, _)| place) {
                Some(Place::Kernel(address)) => (Some((KERNEL, KERNEL_START)), address),
                Some(Place::Binary(id, address)) => {
                    let segment = store.binary(id).map(|b| b.segment(address).address);
                    (segment.map(|segment| (id, segment)), address)
                }
                Some(Place::Anonymous(address) | Place::Unknown(address)) => (None, address),
                Some(Place::Cut(_) | Place::Python(..) | Place::Waker(_)) | None => (None, 0),
            };
            let mapping_id = file.map_or(0, |key| {
                let (id, is_new) = mappings.of(key);
                if is_new {
                    out.mapping.push(mapping(store, id, key.0, address, &mut strings));
                }
                if let Some(mapping) = out.mapping.get_mut(id as usize - 1) {
                    mapping.has_functions |= !line.is_empty();
                }
                id
            });
            out.location.push(Location {
                id,
                mapping_id,
                address,
                line,
            });
        }
        let mut label = Vec::new();
        for (key, value) in [
            ("subject", &row.who.subject),
            ("process", &row.who.process),
            ("thread", &row.who.thread),
            ("container_id", &row.who.container),
            ("label", &row.who.label),
        ] {
            if !value.is_empty() {
                label.push(Label {
                    key: strings.of(key),
                    str: strings.of(value),
                    num: 0,
                });
            }
        }
        if let Some((name, frames)) = waker(store, row) {
            for (key, value) in [("waker", name), ("waker_stack", frames.join(";"))] {
                label.push(Label {
                    key: strings.of(key),
                    str: strings.of(&value),
                    num: 0,
                });
            }
        }
        label.push(Label {
            key: strings.of("pid"),
            str: 0,
            num: i64::from(row.who.pid),
        });
        out.sample.push(Sample {
            location_id,
            value: vec![row.count.samples as i64, row.count.value as i64],
            label,
        });
    }
    out.time_nanos = window.from as i64;
    out.duration_nanos = (window.to - window.from) as i64;
    out.period = (total.value / total.samples.max(1)) as i64;
    out.string_table = strings.table;
    out
}

/// The part of a file that an address lies in, as it is in the file: addresses are not relocated.
fn mapping(store: &Store, id: u64, file: u32, address: u64, strings: &mut Strings) -> Mapping {
    let Some(binary) = store.binary(file).filter(|_| file != KERNEL) else {
        return Mapping {
            id,
            memory_start: KERNEL_START,
            memory_limit: u64::MAX,
            filename: strings.of("[kernel.kallsyms]"),
            build_id: strings.of(&build_id::kernel()),
            ..Mapping::default()
        };
    };
    let segment = binary.segment(address);
    Mapping {
        id,
        memory_start: segment.address,
        memory_limit: segment.address.saturating_add(segment.size),
        file_offset: segment.offset,
        filename: strings.of(&binary.path.to_string_lossy()),
        build_id: strings.of(&binary.build_id),
        has_functions: false,
    }
}

/// Gzipped, as files of this format are.
pub fn encode(store: &Store, rows: &[Row], sample: u8, window: Window) -> Result<Vec<u8>> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(&profile(store, rows, sample, window).encode_to_vec())
        .context("gzip")?;
    gzip.finish().context("gzip")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stacks::store::{Count, Query, Who};

    #[test]
    fn every_number_leads_somewhere_and_the_sums_are_the_same() {
        let mut store = Store::new(1 << 20);
        let who = |pid| Who {
            subject: "web".into(),
            process: "nginx".into(),
            pid,
            thread: "worker".into(),
            container: "".into(),
            cgroup: "".into(),
            sample: 0,
            label: "".into(),
        };
        let count = Count {
            samples: 3,
            value: 30,
        };
        let (main, leaf) = (Place::Binary(9, 0x10), Place::Binary(9, 0x20));
        store.add(0, who(1), &[leaf, main], &[], count);
        store.add(0, who(2), &[Place::Kernel(u64::MAX - 5), leaf, main], &[], count);
        store.name(main, "main");
        store.name(leaf, "leaf");
        let window = Window { from: 5, to: 15 };
        let made = profile(&store, &store.query(&Query::default()), 0, window);
        assert_eq!((made.time_nanos, made.duration_nanos), (5, 10));
        let text = |i: i64| made.string_table.get(i as usize).unwrap().as_str();
        assert_eq!(text(0), "");
        let names: Vec<Vec<&str>> = made
            .sample
            .iter()
            .map(|sample| {
                let name = |id: &u64| {
                    let location = made.location.iter().find(|l| l.id == *id).unwrap();
                    let id = location.mapping_id;
                    assert!(id == 0 || made.mapping.iter().any(|m| m.id == id));
                    let Some(line) = location.line.first() else {
                        return "";
                    };
                    text(
                        made.function
                            .iter()
                            .find(|f| f.id == line.function_id)
                            .unwrap()
                            .name,
                    )
                };
                sample.location_id.iter().map(name).collect()
            })
            .collect();
        assert_eq!(names, [vec!["leaf", "main"], vec!["", "leaf", "main"]]);
        let sum = |at: usize| made.sample.iter().map(|s| s.value.get(at).unwrap()).sum::<i64>();
        assert_eq!((sum(0), sum(1), made.period), (6, 60, 10));
        assert_eq!(
            (made.location.len(), made.mapping.len()),
            (3, 1),
            "nobody knows the file"
        );
        let label = made.sample.first().unwrap().label.first().unwrap();
        assert_eq!((text(label.key), text(label.str)), ("subject", "web"));
    }
}
