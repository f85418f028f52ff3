//! Where everything that can run out stands, and what runs out first.

use super::history::{History, Key};
use super::words;
use agent_score::capacity::{Capacity, Exhaustion, forecast_use};
use agent_store::series::Millis;
use serde::{Deserialize, Serialize};
use std::time::{Duration, UNIX_EPOCH};

/// What fills up and does no harm: swap stays full, and a connection that finds no room among those that wait for their end is
/// closed at once.
const HARMLESS: [&str; 2] = ["swap", "tcp_time_wait"];

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

/// Of all that is remembered, as of a time.
pub fn report(history: &History, at: Millis) -> Report {
    let mut resources: Vec<Resource> = history
        .entries
        .iter()
        .map(|(key, entry)| resource(key, entry.points.now(), entry.limit, &entry.points.series()))
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
    series: &[(Millis, f64)],
) -> Resource {
    let (forecast, not_enough) = match forecast_use(series, limit) {
        Ok(found) => (Some(found), None),
        Err(why) => (None, Some(why.to_string())),
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
