//! Numbers for people, as Prometheus' templates write them.

use super::number::float;

fn short(value: f64) -> String {
    float(value, 'g', Some(4))
}

const LARGE: [&str; 8] = ["k", "M", "G", "T", "P", "E", "Z", "Y"];
const SMALL: [&str; 8] = ["m", "u", "n", "p", "f", "a", "z", "y"];
const BINARY: [&str; 8] = ["ki", "Mi", "Gi", "Ti", "Pi", "Ei", "Zi", "Yi"];

/// Divides until less than one `step` is left.
fn down(mut value: f64, step: f64, prefixes: [&'static str; 8]) -> String {
    let mut prefix = "";
    for next in prefixes {
        if value.abs() < step {
            break;
        }
        prefix = next;
        value /= step;
    }
    format!("{}{prefix}", short(value))
}

fn up(mut value: f64) -> String {
    let mut prefix = "";
    for next in SMALL {
        if value.abs() >= 1.0 {
            break;
        }
        prefix = next;
        value *= 1000.0;
    }
    format!("{}{prefix}", short(value))
}

pub(super) fn humanize(value: f64) -> String {
    if value == 0.0 || !value.is_finite() {
        short(value)
    } else if value.abs() >= 1.0 {
        down(value, 1000.0, LARGE)
    } else {
        up(value)
    }
}

pub(super) fn binary(value: f64) -> String {
    if value.abs() <= 1.0 || !value.is_finite() {
        short(value)
    } else {
        down(value, 1024.0, BINARY)
    }
}

pub(super) fn percentage(value: f64) -> String {
    format!("{}%", short(value * 100.0))
}

pub(super) fn duration(value: f64) -> String {
    if !value.is_finite() {
        return short(value);
    }
    if value == 0.0 {
        return format!("{}s", short(value));
    }
    if value.abs() < 1.0 {
        return format!("{}s", up(value));
    }
    let sign = if value < 0.0 { "-" } else { "" };
    let whole = value.abs() as u64;
    let (days, hours, minutes, seconds) = (whole / 86_400, whole / 3600 % 24, whole / 60 % 60, whole % 60);
    if days > 0 {
        format!("{sign}{days}d {hours}h {minutes}m {seconds}s")
    } else if hours > 0 {
        format!("{sign}{hours}h {minutes}m {seconds}s")
    } else if minutes > 0 {
        format!("{sign}{minutes}m {seconds}s")
    } else {
        format!("{sign}{}s", short(value.abs()))
    }
}

/// `1970-01-01 00:01:00.5 +0000 UTC`, to the millisecond.
pub(super) fn timestamp(value: f64) -> String {
    if !value.is_finite() {
        return short(value);
    }
    let millis = (value * 1000.0) as i64;
    let (day, within) = (millis.div_euclid(86_400_000), millis.rem_euclid(86_400_000));
    let (year, month, day) = agent_store::promql::civil(day);
    let seconds = within / 1000;
    let fraction = match within % 1000 {
        0 => String::new(),
        millis => format!(".{millis:03}").trim_end_matches('0').to_owned(),
    };
    format!(
        "{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}{fraction} +0000 UTC",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60
    )
}
