//! `geophone slo --csv`: the same over the lines of a file.

use super::super::say;
use super::report::{Account, written};
use crate::cli::{self, SloFormat};
use crate::error::{Error, Result};
use crate::score::csv::{Row, Table};
use agent_slo::ledger::{Ledger, Tick};
use agent_slo::rules::RATES;
use agent_slo::{Window, checked_objective};
use agent_store::series::Millis;
use std::path::Path;

/// A gap of more than so many steps is time of which nothing is known.
const STEPS: Millis = 2;

/// Judges the lines of a file.
pub(super) fn judge(file: &Path, judge: &cli::SloJudge, json: bool) -> Result<()> {
    let account = account(file, judge)?;
    let format = if json { SloFormat::Json } else { SloFormat::Table };
    say(written(&[account], format)?.trim_end())
}

fn account(file: &Path, judge: &cli::SloJudge) -> Result<Account> {
    let objective =
        checked_objective(judge.objective).map_err(|why| Error::usage(format_args!("--{why}")))?;
    let window = Window::parse(&judge.over).map_err(|why| Error::usage(format_args!("--over: {why}")))?;
    let table = Table::with_third(file)?;
    let of_time = table.rows.first().is_some_and(|row| row.third.is_none());
    let ticks = ticks(file, &table, judge)?;
    // A burn rate of the moment looks at five minutes, or at a line where these are rarer.
    let step = (table.step() * 1000.0) as Millis;
    let ledger = Ledger::new(ticks, RATES.max(step));
    let Some((first, last)) = ledger.span() else {
        return Err(Error::new(format_args!("{}: no value", file.display())));
    };
    // The budget of time is that of the whole window, as it is to the agent: at 99.9 % ten bad minutes are 333 % of what 50 hours may have,
    // and 23 % of what 30 days may.
    let begin = window.begin_of_last(last);
    let (from, whole) = match of_time {
        true => (begin, window.whole(last)),
        false => {
            let from = begin.max(first - step);
            (from, last - from)
        }
    };
    let name = file.file_name().unwrap_or(file.as_os_str()).to_string_lossy();
    Ok(Account::new(
        &name,
        Vec::new(),
        (objective, window.reach(), of_time),
        &ledger,
        (from, last),
    )
    .within(whole))
}

fn ticks(file: &Path, table: &Table, judge: &cli::SloJudge) -> Result<Vec<Tick>> {
    let wrong = |row: &Row, what: &str| {
        Err(Error::new(format_args!(
            "{}: at {}: {what}",
            file.display(),
            row.timestamp
        )))
    };
    let step = (table.step() * 1000.0).max(1.0) as Millis;
    let counts = table.rows.first().is_some_and(|row| row.third.is_some());
    if counts && (judge.at_most.is_some() || judge.at_least.is_some()) {
        return Err(Error::usage(
            "--at-most, --at-least: for timestamp,value; the lines are timestamp,good,total",
        ));
    }
    let mut last: Option<Millis> = None;
    let mut ticks = Vec::new();
    for row in &table.rows {
        // Behind a gap a line is evidence of itself, and of nothing before it.
        let since = last.map_or(step, |last| row.at - last);
        let since = if since > STEPS * step { step } else { since };
        last = Some(row.at);
        let seconds = since as f64 / 1000.0;
        let (bad, total) = match row.third {
            Some(_) if !counts => return wrong(row, "three columns, where the first line has two"),
            None if counts => return wrong(row, "two columns, where the first line has three"),
            Some(total) if row.value > total || row.value < 0.0 => {
                return wrong(
                    row,
                    "good is not between 0 and total; the columns are timestamp,good,total",
                );
            }
            Some(total) => (total - row.value, total),
            None => {
                let good = match (judge.at_most, judge.at_least) {
                    (Some(limit), _) if !row.value.is_nan() => f64::from(row.value <= limit),
                    (_, Some(limit)) if !row.value.is_nan() => f64::from(row.value >= limit),
                    (None, None) if !(0.0..=1.0).contains(&row.value) && !row.value.is_nan() => {
                        return wrong(
                            row,
                            "the value is no share, 0 to 1; say which is good by --at-most or --at-least",
                        );
                    }
                    _ => row.value,
                };
                (seconds * (1.0 - good), seconds)
            }
        };
        ticks.push(Tick {
            at: row.at,
            bad,
            total,
            seconds,
        });
    }
    Ok(ticks)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Cause: 50 hours of lines, of which ten minutes are bad, at 99.9 % over 30 days. Seen: of values 600 of the 2,592 seconds that 30 days
    /// may have, and no verdict, as the rest could still make good for it; of events the budget of those that there were.
    #[test]
    fn a_budget_of_time_is_of_the_whole_window() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let judged = |line: &dyn Fn(bool) -> String, over: &str, at_least| {
            let lines = (0..3000_u32).map(|minute| {
                let bad = (1000..1010).contains(&minute);
                format!("{},{}\n", 1_700_000_040 + minute * 60, line(bad))
            });
            std::fs::write(file.path(), lines.collect::<String>()).unwrap();
            let asked = cli::SloJudge {
                objective: 99.9,
                over: over.to_owned(),
                at_most: None,
                at_least,
            };
            account(file.path(), &asked).unwrap().json()
        };
        let used = |one: &serde_json::Value| (one["budget_consumed"].as_f64().unwrap() * 1e4).round() / 1e4;
        let value = |bad: bool| u8::from(!bad).to_string();
        let found = judged(&value, "30d", Some(1.0));
        assert_eq!((used(&found), &found["met"]), (0.2315, &serde_json::Value::Null));
        assert_eq!(
            (&found["bad"], &found["objective"]),
            (&600.0.into(), &0.999.into())
        );
        let coverage = found["coverage"].as_f64().unwrap();
        assert!((coverage - 50.0 / 720.0).abs() < 1e-9, "{coverage}");
        // November has 30 days as well.
        assert_eq!(used(&judged(&value, "month", Some(1.0))), 0.2315);
        let found = judged(&|bad| format!("{},1", u8::from(!bad)), "30d", None);
        assert_eq!((used(&found), &found["met"]), (3.3333, &false.into()));
    }
}
