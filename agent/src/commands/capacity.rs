//! `geophone capacity`: what runs out, and when; of the running agent, of a store, or of any series in a file.

use super::remote::Remote;
use super::{say, terminal_width};
use crate::capacity::words::{amount, growth, when};
use crate::capacity::{self, Report, Resource};
use crate::cli;
use crate::config::Config;
use crate::error::{Context as _, Error, Result};
use crate::score::csv::Table;
use crate::ui::print::table;
use crate::ui::units::{percent, span};
use agent_score::capacity::{Capacity, DAYS, Exhaustion, Forecast, Interval, forecast};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

/// Says where the series of a file leads.
pub fn capacity_of_file(options: &cli::Capacity, file: &Path) -> Result<()> {
    let read = Table::read(file)?;
    let series: Vec<(i64, f64)> = read.rows.iter().map(|row| (row.at, row.value)).collect();
    let found = forecast(&series, options.limit);
    let found = found.map_err(|e| Error::new(format_args!("{}: {e}", file.display())))?;
    if options.json {
        return say(&serde_json::to_string_pretty(&found).context("JSON")?);
    }
    say(text(&found, options.limit).trim_end())
}

/// Says where everything that can run out is going.
pub async fn capacity(config: &Config, options: &cli::Capacity) -> Result<()> {
    let mut report = match &options.directory {
        Some(directory) => capacity::of_store(directory, &config.store)?,
        None => ask(config).await?,
    };
    if let Some(name) = &options.name {
        report.resources.retain(|one| one.is_called(name));
        if report.resources.is_empty() {
            return Err(Error::new(format_args!(
                "{name}: nothing that can run out is called so; `geophone capacity` shows what is"
            )));
        }
    }
    if options.json {
        return say(&serde_json::to_string_pretty(&report).context("JSON")?);
    }
    if options.name.is_some() {
        let texts: Vec<String> = report.resources.iter().map(explain).collect();
        return say(texts.join("\n").trim_end());
    }
    say(overview(&report).trim_end())
}

async fn ask(config: &Config) -> Result<Report> {
    let Some(remote) = Remote::find(config).await? else {
        return Err(Error::new(
            "no agent answers; start one, say where with --listen, or read a store with --store DIR",
        ));
    };
    remote.json("/api/v1/capacity").await
}

/// A line for each resource whose limit is known.
fn overview(report: &Report) -> String {
    let (known, unknown): (Vec<&Resource>, Vec<&Resource>) =
        report.resources.iter().partition(|one| one.limit.is_some());
    let instances: BTreeSet<&str> = known.iter().map(|one| one.instance.as_str()).collect();
    let rows: Vec<Vec<String>> = known.iter().map(|one| row(one, instances.len() > 1)).collect();
    let days = DAYS.map(|days| format!("IN {days} DAYS"));
    let [a, b, c] = days.each_ref().map(String::as_str);
    let heads = [
        "RESOURCE",
        ">USED",
        ">OF",
        ">%",
        ">A DAY",
        a,
        b,
        c,
        ">R2",
        "EXHAUSTED",
    ];
    let lines = table(&heads, &rows);
    let width = terminal_width();
    let lines: Vec<String> = lines
        .lines()
        .map(|line| line.chars().take(width).collect())
        .collect();
    let mut text = format!("{}\n\n{}\n", lines.join("\n"), report.bottleneck);
    if report.left_out > 0 {
        let _ = writeln!(
            text,
            "{} have no forecast: others of their kind are fuller, or fill up faster",
            report.left_out
        );
    }
    if !unknown.is_empty() {
        let names: Vec<String> = unknown.iter().map(|one| one.title()).collect();
        let _ = writeln!(
            text,
            "no limit is known of {}: nothing is foretold of what cannot run out",
            names.join(", ")
        );
    }
    text
}

fn row(one: &Resource, with_instance: bool) -> Vec<String> {
    let title = match with_instance {
        true => format!("{} {}", one.instance, one.title()),
        false => one.title(),
    };
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let best = one.forecast.as_ref().and_then(Capacity::best);
    let value = |at: usize| {
        let value = (*best?.values.get(at)?)?;
        let share = |value: f64| one.limit.map(|limit| value.max(0.0) / limit * 100.0);
        let [middle, lower, upper] = [value.value, value.lower, value.upper].map(share);
        Some(format!("{:.0}% ({:.0} to {:.0})", middle?, lower?, upper?))
    };
    let unit = one.unit.as_str();
    // "not enough data", or "left out".
    let why = one.not_enough.as_deref().unwrap_or_default();
    let without = why.split([':', ',']).next().unwrap_or_default();
    vec![
        title,
        or_none(one.used.map(|used| amount(unit, used))),
        or_none(one.limit.map(|limit| amount(unit, limit))),
        or_none(one.utilization.map(percent)),
        or_none(best.map(|best| growth(unit, best.per_day.value))),
        or_none(value(0)),
        or_none(value(1)),
        or_none(value(2)),
        or_none(best.map(|best| format!("{:.2}", best.r_squared))),
        best.and_then(|best| best.exhaustion)
            .map_or_else(|| without.to_owned(), |exhaustion| when(&exhaustion)),
    ]
}

/// Everything of one.
fn explain(one: &Resource) -> String {
    let mut text = format!("{} on {}\n", one.title(), one.instance);
    if let Some(found) = &one.forecast {
        let unit = one.unit.as_str();
        let seen = span(found.days * 86_400.0);
        let now = amount(unit, found.now);
        let since = found.changed.map_or_else(String::new, |days| {
            let since = span(days * 86_400.0);
            format!(", another course for {since}, of which the fits are")
        });
        text += &format!("{seen} seen, {now} now{since}\n\n");
        text += &fits(found, &|value| amount(unit, value), &|value| growth(unit, value));
        text.push('\n');
    }
    text + &one.recommendation + "\n"
}

/// Four digits, as many as an interval is worth, however small it is: 3e-10 a day was told as 0.
fn number(value: f64) -> String {
    if value != 0.0 && value.abs() < 1e-6 {
        return format!("{value:.3e}");
    }
    let digits = (3 - value.abs().max(1e-6).log10().floor() as i32).clamp(0, 9);
    let text = format!("{value:.*}", digits as usize);
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}

fn interval(interval: &Interval, show: &dyn Fn(f64) -> String) -> String {
    let [value, lower, upper] = [interval.value, interval.lower, interval.upper].map(show);
    format!("{value} ({lower} to {upper})")
}

fn exhaustion(forecast: &Forecast) -> String {
    match forecast.exhaustion {
        None => "-".to_owned(),
        Some(Exhaustion::Reached) => "now".to_owned(),
        Some(Exhaustion::NotWithin { days, earliest }) => {
            let perhaps =
                earliest.map_or_else(String::new, |early| format!(", perhaps in {}", number(early)));
            format!("not in {} days{perhaps}", number(days))
        }
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

/// A line for each fit; how values and their growth are shown.
fn fits(found: &Capacity, show: &dyn Fn(f64) -> String, grown: &dyn Fn(f64) -> String) -> String {
    let row = |f: &Forecast| {
        let not_enough = || "not enough data".to_owned();
        let values = f.values.iter();
        let values = values.map(|v| v.as_ref().map_or_else(not_enough, |value| interval(value, show)));
        let head = [
            f.method.name().to_owned(),
            interval(&f.per_day, grown),
            format!("{:.3}", f.r_squared),
        ];
        let row = head.into_iter().chain(values).chain([exhaustion(f)]);
        row.collect::<Vec<_>>()
    };
    let rows: Vec<Vec<String>> = found.forecasts.iter().map(row).collect();
    let days = DAYS.map(|days| format!("IN {days} DAYS"));
    let [a, b, c] = days.each_ref().map(String::as_str);
    table(&["FIT", "A DAY", ">R2", a, b, c, "LIMIT REACHED"], &rows)
}

fn text(found: &Capacity, limit: Option<f64>) -> String {
    let since = found.changed.map_or_else(String::new, |days| {
        format!(
            ", another course for {} days, of which the fits are",
            number(days)
        )
    });
    let mut text = format!(
        "{} days seen, {} now{since}\n\n",
        number(found.days),
        number(found.now)
    );
    text += &fits(found, &number, &number);
    let (Some(best), Some(bound)) = (found.best(), limit) else {
        return text;
    };
    let name = best.method.name();
    let growth = interval(&best.per_day, &number);
    let limit = number(bound);
    let _ = match best.exhaustion {
        Some(Exhaustion::Reached) => writeln!(text, "\n{limit} is reached already"),
        Some(Exhaustion::In { earliest, .. }) => writeln!(
            text,
            "\n{limit} is reached in {} by {name}, at {growth} a day: act within {} days",
            exhaustion(best),
            number(earliest.floor())
        ),
        // It was usual before, so it may be a floor: which side is full is for the reader to say.
        Some(Exhaustion::NotWithin { .. }) if found.now > bound && best.per_day.value > 0.0 => writeln!(
            text,
            "\n{limit} was passed, and by {name} it goes on from there, at {growth} a day: what fills up to {limit} is exhausted"
        ),
        Some(Exhaustion::NotWithin { days, earliest }) => writeln!(
            text,
            "\n{limit} is not reached within {} days by {name}, at {growth} a day{}; more days of data see further",
            number(days),
            earliest.map_or_else(String::new, |early| format!(
                ", but may be in {} at the earliest",
                number(early)
            ))
        ),
        None => Ok(()),
    };
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capacity::testing::unsure;

    /// Cause: three days of a growth under noise, whose trend is at the limit in 39 days and can be seen for 30, and a limit that is
    /// farther away. Seen: of the first when it may be reached, in words and as JSON; of the other nothing of the kind.
    #[test]
    fn what_may_be_reached_is_told_beside_what_the_trend_says() {
        let of = |limit: f64| {
            let hours = 0..72_i64;
            let series: Vec<(i64, f64)> = hours
                .map(|hour| (hour * 3_600_000, unsure(hour as f64)))
                .collect();
            forecast(&series, Some(limit)).unwrap()
        };
        let near = of(92.0);
        let told = text(&near, Some(92.0));
        for words in [
            "not in 29.58 days, perhaps in 2",
            "92 is not reached within 29.58 days by ",
            "but may be in 2",
        ] {
            assert!(told.contains(words), "no {words:?} in\n{told}");
        }
        let json = serde_json::to_value(near.best().unwrap()).unwrap();
        let early = json["exhaustion"]["not_within"]["earliest"].as_f64();
        assert!(early.is_some_and(|days| (20.0..29.0).contains(&days)), "{json}");
        let told = text(&of(1000.0), Some(1000.0));
        assert!(
            told.contains("1000 is not reached within 29.58 days") && !told.contains("may be"),
            "{told}"
        );
    }

    /// Cause: growths of all sizes. Seen: four digits of each, and of nothing none.
    #[test]
    fn what_is_small_is_told_with_its_digits() {
        let told = [0.0, 3.25e-10, -1.0 / 3.0e7, 0.000_012_344, 0.25, 1234.0].map(number);
        let wanted = ["0", "3.250e-10", "-3.333e-8", "0.00001234", "0.25", "1234"];
        assert_eq!(told, wanted.map(str::to_owned));
    }

    /// Cause: twenty days of growth, and ten of none. Seen: since when, and that 100 is not reached.
    #[test]
    fn what_takes_another_course_is_told_to() {
        let value = |hour: i64| 25.0 + 0.125 * hour.min(480) as f64;
        let series: Vec<(i64, f64)> = (0..720_i64)
            .map(|hour| (hour * 3_600_000, value(hour) + 0.1 * unsure(hour as f64).sin()))
            .collect();
        let told = text(&forecast(&series, Some(100.0)).unwrap(), Some(100.0));
        let days = told.split_once("another course for ").map(|(_, rest)| rest);
        let days = days.and_then(|rest| {
            rest.split_once(" days, of which the fits are")?
                .0
                .parse::<f64>()
                .ok()
        });
        assert!(days.is_some_and(|days| (9.0..11.0).contains(&days)), "{told}");
        assert!(told.contains("100 is not reached within"), "{told}");
    }

    /// Cause: ten days of what rises from 80 to 128, and of what falls from 50 to 40. Seen: that 100 was passed; of the other that
    /// 100 is not reached.
    #[test]
    fn a_limit_that_was_passed_is_no_limit_that_is_not_reached() {
        let told = |first: f64, hourly: f64| {
            let series: Vec<(i64, f64)> = (0..240_i64)
                .map(|hour| (hour * 3_600_000, first + hourly * hour as f64))
                .collect();
            text(&forecast(&series, Some(100.0)).unwrap(), Some(100.0))
        };
        let (rises, falls) = (told(80.0, 0.2), told(50.0, -0.04));
        assert!(rises.contains("100 was passed"), "{rises}");
        assert!(
            falls.contains("100 is not reached within") && !falls.contains("passed"),
            "{falls}"
        );
    }
}
