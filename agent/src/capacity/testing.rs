//! Resources with a known trend.

use super::history::Key;
use super::report::{self, Resource};

/// One that has grown by `per_day` for twenty days and is at `used` now.
pub fn resource(resource: &str, name: &str, used: f64, limit: f64, per_day: f64) -> Resource {
    let hours = 0..20 * 24_i64;
    let last = hours.end - 1;
    let series: Vec<(i64, f64)> = hours
        .map(|hour| {
            let value = used - per_day * (last - hour) as f64 / 24.0;
            (1_760_000_000_000 + hour * 3_600_000, value)
        })
        .collect();
    let key = Key {
        instance: "n".to_owned(),
        resource: resource.to_owned(),
        name: name.to_owned(),
    };
    report::resource(&key, Some(used), Some(limit), Some(&series))
}
