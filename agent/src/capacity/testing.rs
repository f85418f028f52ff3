//! Resources with a known trend.

use super::history::Key;
use super::report::{self, Resource};

const START: i64 = 1_760_000_000_000;
const HOUR: i64 = 3_600_000;

/// One that has grown by `per_day` for twenty days and is at `used` now.
pub fn resource(resource: &str, name: &str, used: f64, limit: f64, per_day: f64) -> Resource {
    let hours = 0..20 * 24_i64;
    let last = hours.end - 1;
    let series: Vec<(i64, f64)> = hours
        .map(|hour| {
            let value = used - per_day * (last - hour) as f64 / 24.0;
            (START + hour * HOUR, value)
        })
        .collect();
    of(resource, name, used, limit, &series)
}

/// Growth by 1 a day from 50 on, under a noise of 3 that is the same each time: of three days the steepest line that is believed is half
/// as steep again.
pub fn unsure(hour: f64) -> f64 {
    50.0 + hour / 24.0 + 3.0 * (0.71 * hour * hour).sin()
}

/// One that has grown so for three days, in thousand millions.
pub fn noisy(resource: &str, name: &str, limit: f64) -> Resource {
    let value = |hour: i64| (START + hour * HOUR, 1e9 * unsure(hour as f64));
    let series: Vec<(i64, f64)> = (0..72).map(value).collect();
    of(resource, name, 53e9, limit, &series)
}

fn of(resource: &str, name: &str, used: f64, limit: f64, series: &[(i64, f64)]) -> Resource {
    let key = Key {
        instance: "n".to_owned(),
        resource: resource.to_owned(),
        name: name.to_owned(),
    };
    report::resource(&key, Some(used), Some(limit), Some(series))
}
