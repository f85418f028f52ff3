//! Where everything that can run out stands, and what runs out first.

use super::history::{Entry, History, Key};
use super::words;
use agent_score::capacity::{Capacity, Exhaustion, forecast_use};
use agent_store::series::Millis;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, UNIX_EPOCH};

/// What fills up and does no harm: swap stays full, a connection that finds no room among those that wait for their end is closed
/// at once, and what finds no room in a map of ours is counted as `other`.
const HARMLESS: [&str; 3] = ["swap", "tcp_time_wait", "map"];
/// What people use goes up and down with the day, connections, memory and threads as well as CPU, and must be seen for so many days
/// before its trend is told; what only fills up for one.
const STEADY: [&str; 3] = ["filesystem", "inodes", "map"];
const STEADY_SEEN: f64 = 1.0;
const SEEN: f64 = 3.0;
/// So many of a kind get a forecast, half of them as the fullest and half as the first to be full if they go on as they have: of
/// hundreds of interfaces or listen queues nobody reads them all.
const FORETOLD: usize = 32;

/// Everything that can run out.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// As of when.
    pub at: String,
    /// What runs out first comes first, by the trend; then what may, by the early end of its interval; then the fullest.
    pub resources: Vec<Resource>,
    /// What runs out first, in a sentence.
    pub bottleneck: String,
    /// Those with a limit that have no forecast because others of their kind are fuller, or fill up faster.
    #[serde(default)]
    pub left_out: usize,
}

/// One of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Resource {
    /// Of which node.
    pub instance: String,
    /// What, e.g. `filesystem`.
    pub resource: String,
    /// Which one, e.g. `vda1`; empty where there is one only.
    pub name: String,
    /// Unit of `used` and `limit`: `cores`, `By`, `By/s`, or empty for pieces.
    pub unit: String,
    /// What is used now, a mean of the latest minute.
    pub used: Option<f64>,
    /// How much there is; none where nobody says.
    pub limit: Option<f64>,
    /// `used` of `limit`.
    pub utilization: Option<f64>,
    /// Trend, and values of 30, 60 and 90 days.
    pub forecast: Option<Capacity>,
    /// Why there is none.
    pub not_enough: Option<String>,
    /// What to do, with the numbers that say so.
    pub recommendation: String,
}

impl Resource {
    fn exhaustion(&self) -> Option<Exhaustion> {
        self.forecast.as_ref()?.best()?.exhaustion
    }

    /// Days until it runs out: by the trend, and at the latest.
    pub fn days(&self) -> Option<(f64, Option<f64>)> {
        match self.exhaustion()? {
            Exhaustion::Reached => Some((0.0, Some(0.0))),
            Exhaustion::In { days, latest, .. } => Some((days, latest)),
            Exhaustion::NotWithin { .. } => None,
        }
    }

    /// Days until it runs out at the earliest, also where the trend does not get there within what can be seen.
    pub fn earliest(&self) -> Option<f64> {
        match self.exhaustion()? {
            Exhaustion::Reached => Some(0.0),
            Exhaustion::In { earliest, .. } => Some(earliest),
            Exhaustion::NotWithin { earliest, .. } => earliest,
        }
    }

    /// Growth in a day, as a share of the limit.
    pub fn growth(&self) -> Option<f64> {
        let per_day = self.forecast.as_ref()?.best()?.per_day.value;
        self.limit.map(|limit| per_day / limit)
    }

    /// As people call it.
    pub fn title(&self) -> String {
        format!("{} {}", self.resource, self.name).trim_end().to_owned()
    }

    /// Whether a user who says `name` means it.
    pub fn is_called(&self, name: &str) -> bool {
        self.resource == name
            || self.name == name
            || self.title() == name
            || format!("{}/{}", self.resource, self.name) == name
    }
}

/// Whose trends are computed.
fn foretold(history: &History) -> BTreeSet<&Key> {
    let limited = history.entries.iter().filter_map(|(key, entry)| {
        let limit = entry.limit?;
        let room = 1.0 - entry.points.now().unwrap_or_default() / limit;
        let growth = entry.points.growth().unwrap_or_default() / limit;
        let until_full = if growth > 0.0 {
            room / growth
        } else {
            f64::INFINITY
        };
        Some((key, room, until_full))
    });
    let mut all: Vec<_> = limited.collect();
    all.sort_by(|a, b| a.1.total_cmp(&b.1));
    let mut of_kind: BTreeMap<(&str, &str, bool), usize> = BTreeMap::new();
    let mut chosen = BTreeSet::new();
    for most in [FORETOLD / 2, FORETOLD] {
        for (key, ..) in &all {
            // The node's own are few, and not to be lost among those of its containers.
            let kind = (key.instance.as_str(), key.resource.as_str(), key.name.is_empty());
            let count = of_kind.entry(kind).or_default();
            *count += usize::from(*count < most && chosen.insert(*key));
        }
        // What does not grow stays in the order of its fullness.
        all.sort_by(|a, b| a.2.total_cmp(&b.2));
    }
    chosen
}

/// Of all that is remembered, as of a time. Without a limit there is no forecast, and of a kind with many not all have one.
pub fn report(history: &History, at: Millis) -> Report {
    let foretold = foretold(history);
    let mut left_out = 0;
    let of = |(key, entry): (&Key, &Entry)| {
        let series = foretold.contains(key).then(|| entry.points.series());
        left_out += usize::from(series.is_none() && entry.limit.is_some());
        resource(key, entry.points.now(), entry.limit, series.as_deref())
    };
    let mut resources: Vec<Resource> = history.entries.iter().map(of).collect();
    let days = |one: &Resource| one.days().map_or(f64::INFINITY, |(days, _)| days);
    let earliest = |one: &Resource| one.earliest().unwrap_or(f64::INFINITY);
    let fill = |one: &Resource| one.utilization.unwrap_or(-1.0);
    resources.sort_by(|a, b| {
        let trend = days(a).total_cmp(&days(b));
        // What is nearly full is more certain than what the end of an interval says of what is not.
        let nearly = |one: &Resource| fill(one) >= words::NEARLY_FULL;
        let early = || {
            nearly(b)
                .cmp(&nearly(a))
                .then_with(|| earliest(a).total_cmp(&earliest(b)))
        };
        trend.then_with(early).then_with(|| fill(b).total_cmp(&fill(a)))
    });
    let first = resources
        .iter()
        .find(|one| !HARMLESS.contains(&one.resource.as_str()) && one.limit.is_some());
    let at = UNIX_EPOCH + Duration::from_millis(at.unsigned_abs());
    Report {
        at: humantime::format_rfc3339_seconds(at).to_string(),
        bottleneck: words::bottleneck(first),
        resources,
        left_out,
    }
}

pub(super) fn resource(
    key: &Key,
    used: Option<f64>,
    limit: Option<f64>,
    series: Option<&[(Millis, f64)]>,
) -> Resource {
    let steady = STEADY.contains(&key.resource.as_str());
    let least = if steady { STEADY_SEEN } else { SEEN };
    let found = match (limit, series) {
        (None, _) => Err("no limit is known".to_owned()),
        (_, None) => Err(format!(
            "left out, as {FORETOLD} of its kind are fuller or fill up faster"
        )),
        (Some(limit), Some(series)) => forecast_use(series, limit, least).map_err(|why| why.to_string()),
    };
    let (forecast, not_enough) = match found {
        Ok(found) => (Some(found), None),
        Err(why) => (None, Some(why)),
    };
    let mut one = Resource {
        instance: key.instance.clone(),
        unit: unit(&key.resource).to_owned(),
        resource: key.resource.clone(),
        name: key.name.clone(),
        used,
        limit,
        utilization: used.zip(limit).map(|(used, limit)| used / limit),
        forecast,
        not_enough,
        recommendation: String::new(),
    };
    one.recommendation = words::recommendation(&one);
    one
}

fn unit(resource: &str) -> &'static str {
    match resource {
        "cpu" => "cores",
        "memory" | "swap" | "tcp_memory" | "filesystem" => "By",
        "interface" => "By/s",
        _ => "",
    }
}
