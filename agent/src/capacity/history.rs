//! What a store remembers of everything that can run out, reduced as it is read: weeks of it are never in memory.

use crate::error::{Error, Result};
use crate::memory::Memory;
use agent_score::capacity::{Points, Reduce};
use agent_store::labels::{Labels, NAME};
use agent_store::series::{Matcher, Millis, Refusal, Source as _};
use std::collections::{BTreeMap, BTreeSet};

const DAY: Millis = 86_400_000;
/// So much of a series is read at once: of what is kept at a second, and of older rollups.
const SLICES: (Millis, Millis) = (DAY / 4, DAY);
/// The past of so many that were not there before is read at a time, some thousand reads of the disk each; that of others next time.
const PASTS: usize = 16;
/// What had no sample for so long is not there any more.
pub const GONE: Millis = 600_000;

/// A metric of which something runs out.
struct Source {
    used: &'static str,
    limit: &'static str,
    reduce: Reduce,
    /// What runs out, from the labels of a series: the resource, and its name.
    key: fn(&Labels) -> (String, String),
    /// The labels that a limit shares with what is used of it.
    shared: &'static [&'static str],
    /// What has no limit is nobody's concern.
    limited: bool,
}

impl Source {
    fn shared(&self, labels: &Labels) -> Vec<String> {
        let shared = self.shared.iter();
        shared.map(|label| labels.get(label).to_owned()).collect()
    }
}

const SOURCES: &[Source] = &[
    Source {
        used: "geophone_node_used",
        limit: "geophone_node_limit",
        reduce: Reduce::Mean,
        key: |labels| (labels.get("resource").to_owned(), labels.get("device").to_owned()),
        shared: &["instance", "resource", "device"],
        limited: false,
    },
    Source {
        used: "geophone_cgroup_used",
        limit: "geophone_cgroup_limit",
        reduce: Reduce::Mean,
        key: |labels| {
            (
                labels.get("resource").to_owned(),
                labels.get("subject").to_owned(),
            )
        },
        shared: &["instance", "resource", "subject"],
        limited: true,
    },
    Source {
        used: "geophone_netdev_bytes_total",
        limit: "geophone_netdev_speed_bytes",
        reduce: Reduce::Rate,
        key: |labels| {
            let name = format!("{} {}", labels.get("device"), labels.get("direction"));
            ("interface".to_owned(), name)
        },
        shared: &["instance", "device"],
        limited: false,
    },
    Source {
        used: "geophone_map_used",
        limit: "geophone_map_limit",
        reduce: Reduce::Mean,
        key: |labels| ("map".to_owned(), labels.get("map").to_owned()),
        shared: &["instance", "map"],
        limited: false,
    },
];

/// Of whom, what, and which one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    pub instance: String,
    pub resource: String,
    pub name: String,
}

/// What is remembered of one.
pub struct Entry {
    pub points: Points,
    /// As it is now.
    pub limit: Option<f64>,
    /// Which of the sources it is of.
    source: usize,
    /// The labels that its limit has as well.
    shared: Vec<String>,
}

/// What is remembered.
pub struct History {
    /// Of this instance only.
    instance: Option<String>,
    /// How far back.
    keep: Millis,
    /// Read up to here.
    until: Option<Millis>,
    /// How many more pasts may be read this time.
    pasts: usize,
    pub entries: BTreeMap<Key, Entry>,
}

impl History {
    /// Nothing yet; of one instance, or of all that the store has.
    pub fn new(instance: Option<String>, keep: Millis) -> Self {
        Self {
            instance,
            keep,
            until: None,
            pasts: PASTS,
            entries: BTreeMap::new(),
        }
    }

    /// Reads what is new up to a time; what is kept at full resolution is younger than `retention`.
    pub fn read(&mut self, memory: &Memory, to: Millis, retention: Millis) -> Result<()> {
        let first = to - self.keep;
        // What is met for the first time, or was gone, has a past as well.
        let past = self.until.map(|_| (first, to - retention));
        self.pasts = PASTS;
        let from = self.until.map_or(first, |until| until + 1);
        for (from, end) in slices((from, to), to - retention) {
            for at in 0..SOURCES.len() {
                self.slice(memory, at, (from, end), past).map_err(failed)?;
            }
            self.until = Some(end);
        }
        self.limits(memory, to).map_err(failed)?;
        self.entries.retain(|_, entry| {
            entry.points.forget(to - self.keep);
            entry.points.last().is_some_and(|last| last >= to - GONE)
        });
        Ok(())
    }

    fn named(&self, name: &str) -> Vec<Matcher> {
        let instance = self.instance.iter();
        let instance = instance.map(|instance| Matcher::equal("instance", instance));
        [Matcher::equal(NAME, name)].into_iter().chain(instance).collect()
    }

    /// One series at a time: all of them would be tens of megabytes.
    fn slice(
        &mut self,
        memory: &Memory,
        at: usize,
        (from, to): (Millis, Millis),
        past: Option<(Millis, Millis)>,
    ) -> std::result::Result<(), Refusal> {
        let Some(source) = SOURCES.get(at) else {
            return Ok(());
        };
        let limits = || memory.limits(memory.timeout());
        let all = memory
            .store()
            .series(&self.named(source.used), from, to, &limits())?;
        let limits_of = match source.limited {
            true => memory
                .store()
                .series(&self.named(source.limit), from, to, &limits())?,
            false => Vec::new(),
        };
        let limited: BTreeSet<Vec<String>> = limits_of.iter().map(|labels| source.shared(labels)).collect();
        for labels in all {
            if source.limited && !limited.contains(&source.shared(&labels)) {
                continue;
            }
            let (resource, name) = (source.key)(&labels);
            let largest = resource == "listen_queue";
            let reduce = if largest { Reduce::Largest } else { source.reduce };
            let pairs = labels.iter().map(|(label, value)| Matcher::equal(label, value));
            let mut matchers: Vec<Matcher> = pairs.collect();
            if largest {
                matchers.push(Matcher::equal(agent_store::store::ROLLUP, "max"));
            }
            let key = Key {
                instance: labels.get("instance").to_owned(),
                resource,
                name,
            };
            let mut fresh = (!self.entries.contains_key(&key)).then(|| Entry {
                points: Points::new(reduce),
                limit: None,
                source: at,
                shared: source.shared(&labels),
            });
            let before = past.filter(|_| fresh.is_some());
            if before.is_some() {
                let Some(left) = self.pasts.checked_sub(1) else {
                    continue;
                };
                self.pasts = left;
            }
            let before = before.map(|(first, full)| slices((first, from - 1), full));
            for (from, to) in before.into_iter().flatten().chain([(from, to)]) {
                let found = memory.store().select(&matchers, from, to, &limits())?;
                let Some(entry) = fresh.as_mut().or_else(|| self.entries.get_mut(&key)) else {
                    continue;
                };
                // Others may have these labels and more.
                for series in found.iter().filter(|series| {
                    let more = usize::from(largest);
                    series.labels.len() == labels.len() + more
                }) {
                    let floats = &series.samples.floats;
                    for (at, value) in floats.times.iter().zip(&floats.values) {
                        entry.points.add(*at, *value);
                    }
                }
            }
            // Whole or not at all: what was cut short is read again.
            if let Some(entry) = fresh {
                self.entries.insert(key, entry);
            }
        }
        Ok(())
    }

    fn limits(&mut self, memory: &Memory, to: Millis) -> std::result::Result<(), Refusal> {
        for (at, source) in SOURCES.iter().enumerate() {
            let bounds = memory.limits(memory.timeout());
            let matchers = self.named(source.limit);
            let found = memory.store().select(&matchers, to - GONE, to, &bounds)?;
            let latest = found.iter().filter_map(|series| {
                // The end of a series is no number.
                let values = &series.samples.floats.values;
                let value = values.iter().rfind(|value| value.is_finite())?;
                (*value > 0.0).then(|| (source.shared(&series.labels), *value))
            });
            let latest: BTreeMap<Vec<String>, f64> = latest.collect();
            for entry in self.entries.values_mut().filter(|entry| entry.source == at) {
                entry.limit = latest.get(&entry.shared).copied();
            }
        }
        Ok(())
    }
}

/// A span in parts that may be read at once; what is kept at full resolution is younger than `full`.
fn slices((mut from, to): (Millis, Millis), full: Millis) -> impl Iterator<Item = (Millis, Millis)> {
    std::iter::from_fn(move || {
        let begin = (from <= to).then_some(from)?;
        let length = if begin < full - DAY { SLICES.1 } else { SLICES.0 };
        let end = (begin + length - 1).min(to);
        from = end + 1;
        Some((begin, end))
    })
}

fn failed(why: Refusal) -> Error {
    let why = match why {
        Refusal::TimedOut => "the query took longer than store.query_timeout".to_owned(),
        Refusal::TooMany(what) | Refusal::Senseless(what) | Refusal::Failed(what) => what,
    };
    Error::new(format_args!("capacity: the store cannot be read: {why}"))
}
