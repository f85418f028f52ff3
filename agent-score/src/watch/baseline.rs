//! What has been learned, as bytes that outlive a restart: a head with a checksum, and behind it the state.
//!
//! A baseline is that of a query: one whose query, or whose interval, is another by now is left out.

use super::anomaly::{Kept, Labelled};
use super::entities::Entity;
use super::signals::Key;
use super::waiting::Waiting;
use super::{Anomaly, Watched, Watcher};
use crate::anomaly::{Millis, Series};
use agent_store::labels::Labels;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

/// The first bytes of it: what it is, and the form of the rest.
const MAGIC: &[u8; 8] = b"GPHBASE\x04";
/// Behind it the length of the state, and its checksum.
const HEAD: usize = MAGIC.len() + 8 + 4;

/// Why bytes are no baseline that can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Written by another version, or no baseline at all.
    Foreign,
    /// Cut, or changed since it was written.
    Damaged(String),
    /// Learned at another interval, in milliseconds.
    Interval(Millis),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Foreign => f.write_str("no baseline of this version"),
            Self::Damaged(why) => write!(f, "damaged: {why}"),
            Self::Interval(was) => write!(f, "learned at another anomaly.interval, {was} ms"),
        }
    }
}

/// What could be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Series whose baseline goes on.
    pub series: usize,
    /// Series that were left out, because their watch is another one by now, or is not there any more, or there is no room.
    pub left_out: usize,
}

/// An anomaly, and since when it waits to be told, by time of the evaluation; `None` = it was told.
#[derive(Serialize, Deserialize)]
struct Saved<A> {
    #[serde(flatten)]
    anomaly: A,
    #[serde(default)]
    waits: Option<Millis>,
}

#[derive(Deserialize)]
struct State {
    interval: Millis,
    watches: Vec<WatchState>,
    entities: BTreeMap<Key, Entity>,
    work: BTreeMap<Key, f64>,
    /// As JSON: it is what is told, and may have more fields one day.
    anomalies: Vec<u8>,
}

#[derive(Deserialize)]
struct WatchState {
    name: String,
    expr: String,
    zero: Option<Box<Series>>,
    series: Vec<SeriesState>,
}

#[derive(Deserialize)]
struct SeriesState {
    labels: Labelled,
    state: Box<Series>,
    at: Millis,
    seen: Millis,
    active: Option<u64>,
}

/// The same, field by field, of what is there: a copy of all series would be tens of megabytes.
#[derive(Serialize)]
struct StateRef<'a> {
    interval: Millis,
    watches: Vec<WatchRef<'a>>,
    entities: &'a BTreeMap<Key, Entity>,
    work: &'a BTreeMap<Key, f64>,
    anomalies: Vec<u8>,
}

/// See [`WatchState`].
#[derive(Serialize)]
struct WatchRef<'a> {
    name: &'a str,
    expr: &'a str,
    zero: Option<&'a Series>,
    series: Vec<SeriesRef<'a>>,
}

/// See [`SeriesState`].
#[derive(Serialize)]
struct SeriesRef<'a> {
    labels: BTreeMap<&'a str, &'a str>,
    state: &'a Series,
    at: Millis,
    seen: Millis,
    active: Option<u64>,
}

impl Watcher {
    /// All that has been learned.
    pub fn save(&self) -> Result<Vec<u8>, String> {
        let watches = self.watches.iter().map(|watch| {
            let series = watch.series.iter().map(|(labels, series)| SeriesRef {
                labels: labels.iter().map(|(n, v)| (&**n, &**v)).collect(),
                state: &series.state,
                at: series.at,
                seen: series.seen,
                active: series.active,
            });
            WatchRef {
                name: &watch.definition.name,
                expr: &watch.definition.expr,
                zero: watch.zero.as_deref(),
                series: series.collect(),
            }
        });
        let anomalies = self.anomalies().map(|anomaly| Saved {
            anomaly: Arc::as_ref(anomaly),
            waits: self.waiting.since(anomaly.id),
        });
        let anomalies: Vec<Saved<&Anomaly>> = anomalies.collect();
        let state = StateRef {
            interval: self.settings.interval,
            watches: watches.collect(),
            entities: &self.entities.all,
            work: &self.entities.work,
            anomalies: serde_json::to_vec(&anomalies).map_err(|e| e.to_string())?,
        };
        let mut out = postcard::to_extend(&state, vec![0; HEAD]).map_err(|e| e.to_string())?;
        let (head, body) = out.split_at_mut(HEAD);
        let length = (body.len() as u64).to_le_bytes();
        let sum = crc32fast::hash(body).to_le_bytes();
        head.copy_from_slice(&[MAGIC.as_slice(), &length, &sum].concat());
        Ok(out)
    }

    /// Goes on with what was learned before. What cannot be used is learned anew.
    pub fn restore(&mut self, bytes: &[u8]) -> Result<Report, Fault> {
        let state = read(bytes)?;
        let anomalies: Vec<Saved<Anomaly>> = serde_json::from_slice(&state.anomalies)
            .map_err(|e| Fault::Damaged(format!("anomalies: {e}")))?;
        self.waiting = Waiting::default();
        for saved in &anomalies {
            // Else it would be told to be over, and never that it has begun.
            if let Some(began) = saved.waits {
                self.waiting.add(saved.anomaly.id, began);
            }
        }
        self.kept = Kept::restored(anomalies.into_iter().map(|saved| saved.anomaly).collect());
        let all = state.watches.iter().flat_map(|watch| &watch.series);
        let latest = all.map(|series| series.at).max().unwrap_or_default();
        self.latest = latest;
        if state.interval != self.settings.interval {
            self.kept.give_up(
                |_| true,
                latest,
                "anomaly.interval is another one now, and everything is learned anew",
            );
            return Err(Fault::Interval(state.interval));
        }
        let mut goes_on = BTreeSet::new();
        let mut report = Report::default();
        for saved in state.watches {
            let watch = self
                .watches
                .iter_mut()
                .find(|watch| watch.definition.name == saved.name && watch.definition.expr == saved.expr);
            let Some(watch) = watch else {
                report.left_out += saved.series.len();
                continue;
            };
            if let (Some(zero), Some(mut known)) = (&mut watch.zero, saved.zero)
                && known.set(watch.settings)
            {
                *zero = known;
            }
            for mut series in saved.series {
                let fits = report.series < self.settings.most_series && series.state.set(watch.settings);
                if !fits {
                    report.left_out += 1;
                    continue;
                }
                report.series += 1;
                let active = series.active.filter(|number| self.kept.is_open(*number));
                goes_on.extend(active);
                let watched = Watched {
                    at: series.at,
                    seen: series.seen,
                    active,
                    ..Watched::new(series.state, series.at)
                };
                watch.series.insert(Labels::new(series.labels), watched);
            }
        }
        let places = self.settings.most_entities;
        self.entities.work = state.work;
        for (key, mut entity) in state.entities {
            if self.entities.all.len() < places {
                entity.active = entity.active.filter(|number| self.kept.is_open(*number));
                goes_on.extend(entity.active);
                self.entities.all.insert(key, entity);
            }
        }
        self.kept.give_up(
            |number| !goes_on.contains(&number),
            latest,
            "its series is not watched any more",
        );
        Ok(report)
    }
}

fn read(bytes: &[u8]) -> Result<State, Fault> {
    let (magic, rest) = bytes.split_at_checked(MAGIC.len()).ok_or(Fault::Foreign)?;
    if magic != MAGIC {
        return Err(Fault::Foreign);
    }
    let cut = || Fault::Damaged("it is cut".to_owned());
    let (length, rest) = rest.split_first_chunk::<8>().ok_or_else(cut)?;
    let (sum, body) = rest.split_first_chunk::<4>().ok_or_else(cut)?;
    if body.len() as u64 != u64::from_le_bytes(*length) {
        return Err(cut());
    }
    if crc32fast::hash(body) != u32::from_le_bytes(*sum) {
        return Err(Fault::Damaged("its checksum is wrong".to_owned()));
    }
    postcard::from_bytes(body).map_err(|e| Fault::Damaged(e.to_string()))
}
