//! What a span came to: shares, budgets, when objectives were not met, and what would have been told.

use super::super::store::moment;
use super::super::{query, say};
use super::now::objectives;
use super::{of, of_several, percent, shown};
use crate::cli::{SloFormat, SloSpan};
use crate::config::Config;
use crate::error::{Context as _, Result};
use crate::memory;
use crate::ui::print::{Reply, table};
use agent_slo::indicator::{EVENTS, TIME};
use agent_slo::ledger::{Ledger, Sums, Tick, Told, Violation};
use agent_slo::rules::PREFIX;
use agent_slo::{Window, budget};
use agent_store::series::Millis;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

const DAY: Millis = 86_400_000;
/// So much is asked for at a time: of an `interval` of a second 65,000 samples a series, within what a query may look at.
const CHUNK: Millis = DAY / 4;
/// Violations and alerts of a series that a table shows, the worst first; JSON has all.
const SHOWN: usize = 20;

/// What a span of one series of an objective came to.
#[derive(Debug)]
pub(super) struct Account {
    name: String,
    of: Vec<(String, String)>,
    objective: f64,
    /// Judged by time.
    of_time: bool,
    from: Millis,
    to: Millis,
    /// How much time the budget is of: the span, or the window that it is a part of.
    whole: Millis,
    sums: Sums,
    violations: Vec<Violation>,
    told: Vec<Told>,
}

impl Account {
    /// Over a span, for an objective whose window is so long at most, judged by time or by events.
    pub fn new(
        name: &str,
        of: Vec<(String, String)>,
        (objective, reach, of_time): (f64, Millis, bool),
        ledger: &Ledger,
        (from, to): (Millis, Millis),
    ) -> Self {
        let left = budget(objective);
        // A tick is of the time before it, so that of the beginning is no part of the span.
        let begin = from + 1;
        Self {
            name: name.to_owned(),
            of,
            objective,
            of_time,
            from,
            to,
            whole: to - from,
            sums: ledger.sums(begin, to),
            violations: ledger.violations(begin, to, left),
            told: ledger.told(begin, to, left, reach),
        }
    }

    /// Of a window so long, which may end later than the span.
    pub fn within(self, whole: Millis) -> Self {
        Self { whole, ..self }
    }

    /// What part of the span's budget so many bad ones are: of the events that were seen, or of the time of the whole span.
    fn part(&self, bad: f64) -> Option<f64> {
        let all = match self.of_time {
            true => self.whole as f64 / 1000.0,
            false => self.sums.total,
        };
        (self.sums.total > 0.0).then(|| bad / (budget(self.objective) * all))
    }

    /// Whether no more was bad than may be. Not known of a span of time of which too much of what was seen was bad, but not so much
    /// that the rest could not make good for it.
    fn met(&self) -> Option<bool> {
        let (share, part) = (self.sums.share()?, self.part(self.sums.bad)?);
        // A budget is a difference, which ends in a digit or two of nothing.
        let is_left = part <= 1.0 + 1e-9;
        match share >= self.objective {
            true => Some(true),
            false if self.of_time && is_left => None,
            false => Some(is_left),
        }
    }

    fn indicator(&self) -> &'static str {
        if self.of_time { TIME } else { EVENTS }
    }

    fn known(&self) -> f64 {
        (self.sums.seconds * 1000.0 / self.whole.max(1) as f64).min(1.0)
    }

    fn worst(&self) -> Option<&Violation> {
        self.violations.iter().max_by(|a, b| a.worst.total_cmp(&b.worst))
    }

    fn row(&self, several: bool) -> Vec<String> {
        let share = self.sums.share();
        let part = self.part(self.sums.bad);
        vec![
            self.name.clone(),
            shown(&self.of, several),
            percent(self.objective),
            share.map_or_else(|| "-".to_owned(), percent),
            match self.met() {
                Some(true) => "yes",
                Some(false) => "no",
                None => "-",
            }
            .to_owned(),
            amount(self.sums.bad),
            amount(self.sums.total),
            part.map_or_else(|| "-".to_owned(), |part| format!("{:.1} %", part * 100.0)),
            format!("{:.1} %", self.known() * 100.0),
            self.violations.len().to_string(),
            self.worst()
                .map_or_else(|| "-".to_owned(), |one| format!("{:.1}", one.worst)),
        ]
    }

    pub fn json(&self) -> Value {
        let of: BTreeMap<&str, &str> = self.of.iter().map(|(name, value)| (&**name, &**value)).collect();
        let violations = self.violations.iter().map(|one| {
            json!({
                "start": moment(one.start), "end": (!one.lasts).then(|| moment(one.end)), "worst_burn": one.worst,
                "worst_at": moment(one.worst_at), "bad": one.bad, "budget_consumed": self.part(one.bad),
            })
        });
        let told = self.told.iter().map(|one| {
            json!({
                "factor": one.burn.factor, "severity": one.burn.severity, "start": moment(one.start),
                "end": moment(one.end),
            })
        });
        json!({
            "slo": self.name, "of": of, "objective": self.objective, "indicator": self.indicator(), "from": moment(self.from.max(0)), "to": moment(self.to),
            "sli": self.sums.share(), "met": self.met(), "bad": self.sums.bad,
            "total": self.sums.total, "budget_consumed": self.part(self.sums.bad),
            "budget_remaining": self.part(self.sums.bad).map(|part| 1.0 - part), "coverage": self.known(),
            "violations": violations.collect::<Vec<_>>(), "alerts": told.collect::<Vec<_>>(),
        })
    }
}

/// A number of events or seconds, of which rates know a part.
fn amount(number: f64) -> String {
    let digits = usize::from(number < 10.0 && number > 0.0);
    format!("{number:.digits$}")
}

fn lasting(from: Millis, to: Millis) -> String {
    let seconds = Duration::from_secs(((to - from) / 1000).max(1).unsigned_abs());
    humantime::format_duration(seconds).to_string()
}

/// Headings and rows.
type Sheet = (&'static [&'static str], Vec<Vec<String>>);

/// Says them all.
pub(super) fn written(accounts: &[Account], format: SloFormat) -> Result<String> {
    if format == SloFormat::Json {
        let all: Vec<Value> = accounts.iter().map(Account::json).collect();
        return serde_json::to_string_pretty(&all).context("JSON");
    }
    let several = of_several(accounts.iter().map(|account| &*account.of));
    let mut out = String::new();
    if let Some(first) = accounts.first() {
        let _ = writeln!(
            out,
            "From {} to {}\n",
            moment(first.from.max(0)),
            moment(first.to)
        );
    }
    let heads: &[&str] = &[
        "SLO",
        "OF",
        ">OBJECTIVE",
        ">SLI",
        "MET",
        ">BAD",
        ">ALL",
        ">BUDGET USED",
        ">KNOWN",
        ">VIOLATIONS",
        ">WORST BURN",
    ];
    out += &sheet(
        &(
            heads,
            accounts.iter().map(|account| account.row(several)).collect(),
        ),
        format,
    );
    let mut rows = Vec::new();
    for account in accounts {
        let mut worst: Vec<&Violation> = account.violations.iter().collect();
        worst.sort_by(|a, b| b.bad.total_cmp(&a.bad));
        for one in worst.into_iter().take(SHOWN) {
            rows.push(vec![
                account.name.clone(),
                shown(&account.of, several),
                moment(one.start),
                if one.lasts {
                    "still".to_owned()
                } else {
                    lasting(one.start, one.end)
                },
                format!("{:.1}", one.worst),
                amount(one.bad),
                account
                    .part(one.bad)
                    .map_or_else(String::new, |part| format!("{:.1} %", part * 100.0)),
            ]);
        }
    }
    let heads: &[&str] = &[
        "SLO",
        "OF",
        "NOT MET SINCE",
        "FOR",
        ">WORST BURN",
        ">BAD",
        ">BUDGET USED",
    ];
    part(&mut out, &(heads, rows), format);
    let mut rows = Vec::new();
    for account in accounts {
        for one in account.told.iter().take(SHOWN) {
            rows.push(vec![
                account.name.clone(),
                shown(&account.of, several),
                one.burn.factor.to_string(),
                one.burn.severity.to_owned(),
                moment(one.start),
                lasting(one.start, one.end),
            ]);
        }
    }
    part(
        &mut out,
        &(&["SLO", "OF", ">ALERT", "SEVERITY", "FROM", "FOR"], rows),
        format,
    );
    if accounts.iter().any(|account| account.known() < 0.995) {
        out += "\nKNOWN is the part of the span that was seen; what was not is in none of the numbers, but for the budgets of values, which are of the whole span\n";
    }
    Ok(out)
}

fn part(out: &mut String, found: &Sheet, format: SloFormat) {
    if !found.1.is_empty() {
        out.push('\n');
        out.push_str(&sheet(found, format));
    }
}

fn sheet((heads, rows): &Sheet, format: SloFormat) -> String {
    if format == SloFormat::Table {
        return table(heads, rows);
    }
    let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    let mut out = line(
        heads
            .iter()
            .map(|head| head.trim_start_matches('>').to_lowercase())
            .collect(),
    );
    let rule = |head: &&str| if head.starts_with('>') { "---:" } else { "---" }.to_owned();
    out += &line(heads.iter().map(rule).collect());
    for row in rows {
        // Labels may say anything.
        let harmless = |cell: &String| {
            let cell: String = cell.chars().filter(|c| !c.is_control()).collect();
            cell.replace('\\', "\\\\")
                .replace('|', "\\|")
                .replace('<', "&lt;")
        };
        out += &line(row.iter().map(harmless).collect());
    }
    out
}

/// `geophone slo report`.
pub(super) async fn report(config: &Config, span: SloSpan, format: SloFormat) -> Result<()> {
    let to = memory::now();
    let days = match span {
        SloSpan::Day => 1,
        SloSpan::Week => 7,
        SloSpan::Month => 30,
    };
    let from = to - days * DAY;
    let mut accounts = Vec::new();
    for one in objectives(config).await? {
        let reach = Window::named(&one.window).map_or(Millis::MAX, |window| window.reach());
        // The alerts of the first hours look back as well.
        let begin = from - 3 * DAY;
        for (of, ticks) in ticks(config, &one.name, begin, to).await? {
            let ledger = Ledger::new(ticks, 0);
            let account = Account::new(
                &one.name,
                of,
                (one.objective, reach, one.of_time),
                &ledger,
                (from, to),
            );
            if account.sums.seconds > 0.0 {
                accounts.push(account);
            }
        }
    }
    if accounts.is_empty() {
        return say("nothing was seen in this time that an objective is about");
    }
    say(written(&accounts, format)?.trim_end())
}

/// What the rules recorded of an objective, by series.
async fn ticks(
    config: &Config,
    name: &str,
    from: Millis,
    to: Millis,
) -> Result<BTreeMap<Vec<(String, String)>, Vec<Tick>>> {
    let mut found: BTreeMap<Vec<(String, String)>, BTreeMap<Millis, Tick>> = BTreeMap::new();
    let asked = format!(
        "{{__name__=~\"{PREFIX}(bad_events|total_events|covered_seconds)\",slo={name:?}}}[{}s]",
        CHUNK / 1000
    );
    let mut end = to;
    while end > from {
        let reply = Reply::read(query::at(config, &asked, end).await?.as_bytes())?;
        for row in reply.rows() {
            let series = found.entry(of(row)).or_default();
            let metric = row.metric.get("__name__").map_or("", String::as_str);
            for (at, value) in row.numbers().filter(|(at, _)| *at >= from) {
                let tick = series.entry(at).or_insert(Tick {
                    at,
                    // Without it nothing is known of the tick, and it is left out.
                    bad: f64::NAN,
                    ..Tick::default()
                });
                match metric.strip_prefix(PREFIX) {
                    Some("bad_events") => tick.bad = value,
                    Some("total_events") => tick.total = value,
                    _ => tick.seconds = value,
                }
            }
        }
        end -= CHUNK;
    }
    let all = found
        .into_iter()
        .map(|(of, ticks)| (of, ticks.into_values().collect()));
    Ok(all.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Cause: an hour of a day was seen, a tenth of it bad, at an objective of 99 %. Seen: of events that is ten times their budget; of
    /// time it is 2 parts of 5 of what the day may have. A host is named only beside another.
    #[test]
    fn a_budget_is_of_the_events_seen_or_of_the_time_of_the_span() {
        let tick = |at| Tick {
            at: at * 60_000,
            bad: 6.0,
            total: 60.0,
            seconds: 60.0,
        };
        let ledger = Ledger::new((1..=60_i64).map(tick).collect::<Vec<_>>(), 0);
        let of = |of_time, host: &str| {
            let of = vec![("instance".to_owned(), host.to_owned())];
            Account::new("web", of, (0.99, DAY, of_time), &ledger, (0, DAY))
        };
        let (events, time) = (of(false, "a"), of(true, "a"));
        let used = |one: &Account| (one.part(one.sums.bad).unwrap() * 1000.0).round() / 1000.0;
        assert_eq!((used(&events), events.met()), (10.0, Some(false)));
        assert_eq!(
            (used(&time), time.met()),
            (0.417, None),
            "90 % of an hour, of a day"
        );
        let said = |all: &[Account]| written(all, SloFormat::Table).unwrap();
        assert!(said(&[events, time]).contains("41.7 %"));
        assert!(!said(&[of(true, "a")]).contains("instance="));
        assert!(said(&[of(true, "a"), of(true, "b")]).contains("instance=b"));
    }
}
