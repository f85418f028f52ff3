//! Where everything that can run out stands, and what runs out first.

use super::history::{History, Key};
use super::words;
use agent_score::capacity::{Capacity, Exhaustion, forecast_use};
use agent_store::series::Millis;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::{Duration, UNIX_EPOCH};

/// What fills up and does no harm: swap stays full, a connection that finds no room among those that wait for their end is closed
/// at once, and what finds no room in a map of ours is counted as `other`.
const HARMLESS: [&str; 3] = ["swap", "tcp_time_wait", "map"];
/// What goes up and down with the day must be seen for so many days before its trend is told, and all else for one.
const DAILY: [&str; 2] = ["cpu", "interface"];
const DAILY_SEEN: f64 = 3.0;
const SEEN: f64 = 1.0;
/// So many of a kind, the fullest, get a forecast: of hundreds of interfaces or listen queues nobody reads them all.
const FORETOLD: usize = 32;

/// Everything that can run out.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// As of when.
    pub at: String,
    /// What runs out first comes first; then the fullest.
    pub resources: Vec<Resource>,
    /// What runs out first, in a sentence.
    pub bottleneck: String,
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
    /// Days until it runs out: by the trend, at the earliest, at the latest.
    pub fn days(&self) -> Option<(f64, f64, Option<f64>)> {
        match self.forecast.as_ref()?.best()?.exhaustion? {
            Exhaustion::Reached => Some((0.0, 0.0, Some(0.0))),
            Exhaustion::In {
                days,
                earliest,
                latest,
            } => Some((days, earliest, latest)),
            Exhaustion::NotWithin(_) => None,
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

/// Of all that is remembered, as of a time. Without a limit there is no forecast, and of a kind the fullest have one.
pub fn report(history: &History, at: Millis) -> Report {
    let mut fullest: Vec<_> = history
        .entries
        .iter()
        .map(|(key, entry)| {
            let used = entry.points.now();
            let fill = used.zip(entry.limit).map_or(-1.0, |(used, limit)| used / limit);
            (key, entry, used, fill)
        })
        .collect();
    fullest.sort_by(|a, b| b.3.total_cmp(&a.3));
    let mut of_kind: BTreeMap<(&str, &str, bool), usize> = BTreeMap::new();
    let mut resources: Vec<Resource> = fullest
        .into_iter()
        .map(|(key, entry, used, _)| {
            // The node's own are few, and not to be lost among those of its containers.
            let kind = (key.instance.as_str(), key.resource.as_str(), key.name.is_empty());
            let place = of_kind.entry(kind).or_default();
            *place += 1;
            let series = (*place <= FORETOLD && entry.limit.is_some()).then(|| entry.points.series());
            resource(key, used, entry.limit, series.as_deref())
        })
        .collect();
    let days = |one: &Resource| one.days().map_or(f64::INFINITY, |(days, ..)| days);
    let fill = |one: &Resource| one.utilization.unwrap_or(-1.0);
    resources.sort_by(|a, b| days(a).total_cmp(&days(b)).then(fill(b).total_cmp(&fill(a))));
    let first = resources
        .iter()
        .find(|one| !HARMLESS.contains(&one.resource.as_str()) && one.limit.is_some());
    let at = UNIX_EPOCH + Duration::from_millis(at.unsigned_abs());
    Report {
        at: humantime::format_rfc3339_seconds(at).to_string(),
        bottleneck: words::bottleneck(first),
        resources,
    }
}

pub(super) fn resource(
    key: &Key,
    used: Option<f64>,
    limit: Option<f64>,
    series: Option<&[(Millis, f64)]>,
) -> Resource {
    let daily = DAILY.contains(&key.resource.as_str());
    let least = if daily { DAILY_SEEN } else { SEEN };
    let found = match (limit, series) {
        (None, _) => Err("no limit is known".to_owned()),
        (_, None) => Err(format!("{FORETOLD} of its kind are fuller")),
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
