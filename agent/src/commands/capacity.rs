//! `geophone capacity`.

use super::say;
use crate::cli;
use crate::error::{Context as _, Error, Result};
use crate::score::csv::Table;
use crate::ui::print::table;
use agent_score::capacity::{self, Capacity, DAYS, Exhaustion, Forecast, Interval};
use std::fmt::Write as _;

/// Says where the series of a file leads.
pub fn capacity(options: &cli::Capacity) -> Result<()> {
    let read = Table::read(&options.csv)?;
    let series: Vec<(i64, f64)> = read.rows.iter().map(|row| (row.at, row.value)).collect();
    let found = capacity::forecast(&series, options.limit);
    let found = found.map_err(|e| Error::new(format_args!("{}: {e}", options.csv.display())))?;
    if options.json {
        return say(&serde_json::to_string_pretty(&found).context("JSON")?);
    }
    say(text(&found, options.limit).trim_end())
}

/// Four digits, as many as an interval is worth.
fn number(value: f64) -> String {
    let digits = (3 - value.abs().max(1e-12).log10().floor() as i32).clamp(0, 9);
    let text = format!("{value:.*}", digits as usize);
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}

fn interval(interval: &Interval) -> String {
    let [value, lower, upper] = [interval.value, interval.lower, interval.upper].map(number);
    format!("{value} ({lower} to {upper})")
}

fn exhaustion(forecast: &Forecast) -> String {
    match forecast.exhaustion {
        None => "-".to_owned(),
        Some(Exhaustion::Reached) => "now".to_owned(),
        Some(Exhaustion::NotWithin(days)) => format!("not in {} days", number(days)),
        Some(Exhaustion::In {
            days,
            earliest,
            latest,
        }) => {
            let latest = latest.map_or("perhaps never".to_owned(), number);
            format!("{} days ({} to {latest})", number(days), number(earliest))
        }
    }
}

fn text(found: &Capacity, limit: Option<f64>) -> String {
    let mut text = format!("{} days seen, {} now\n\n", number(found.days), number(found.now));
    let row = |f: &Forecast| {
        let not_enough = || "not enough data".to_owned();
        let values = f
            .values
            .iter()
            .map(|v| v.as_ref().map_or_else(not_enough, interval));
        let head = [
            f.method.name().to_owned(),
            interval(&f.per_day),
            format!("{:.3}", f.r_squared),
        ];
        head.into_iter()
            .chain(values)
            .chain([exhaustion(f)])
            .collect::<Vec<_>>()
    };
    let rows: Vec<Vec<String>> = found.forecasts.iter().map(row).collect();
    let days = DAYS.map(|days| format!("IN {days} DAYS"));
    let [a, b, c] = days.each_ref().map(String::as_str);
    text += &table(&["FIT", "A DAY", ">R2", a, b, c, "LIMIT REACHED"], &rows);
    let (Some(best), Some(limit)) = (found.best(), limit) else {
        return text;
    };
    let name = best.method.name();
    let growth = interval(&best.per_day);
    let limit = number(limit);
    let _ = match best.exhaustion {
        Some(Exhaustion::Reached) => writeln!(text, "\n{limit} is reached already"),
        Some(Exhaustion::In { earliest, .. }) => writeln!(
            text,
            "\n{limit} is reached in {} by {name}, at {growth} a day: act within {} days",
            exhaustion(best),
            number(earliest.floor())
        ),
        _ => writeln!(
            text,
            "\n{limit} is {} by {name}, at {growth} a day; more days of data see further",
            exhaustion(best).replace("not in", "not reached within")
        ),
    };
    text
}
