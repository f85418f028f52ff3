//! An objective as a file of Prometheus rules.
//!
//! Each `interval` the rules record how many events there were and how many were bad, as the rates of five minutes tell it.
//! All windows are sums of these, so that an hour with much traffic counts more than one with little; a month is a few
//! thousand numbers, not all samples of all counters; and what was not seen is in none of them.

use crate::definition::{Fault, Slo, twice};
use crate::indicator::Indicator;
use crate::template;
use crate::window::{DAY, HOUR, Window, short};
use agent_rules::file::{GroupFile, quoted};
use agent_store::series::Millis;
use std::fmt::Write as _;

/// Name of all alerts.
pub const ALERT: &str = "GeophoneSloBurn";
/// The beginning of the names of all series that these rules make.
pub const PREFIX: &str = "geophone_slo_";
/// Names of the series that all windows are sums of: who keeps these knows every share and every budget.
#[must_use]
pub fn events() -> [String; 3] {
    ["bad_events", "total_events", "covered_seconds"].map(|name| format!("{PREFIX}{name}"))
}
/// How long the rates that events are counted by look back, in milliseconds.
pub const RATES: Millis = 300_000;
/// Windows whose share is recorded for every objective that is not shorter, in milliseconds.
const WINDOWS: [Millis; 7] = [RATES, 6 * RATES, HOUR, 2 * HOUR, 6 * HOUR, DAY, 3 * DAY];
/// Longer windows are looked at more rarely.
const FAST: Millis = 6 * HOUR;
/// But at least this often: a value is there for five minutes.
const SLOWEST: Millis = 240_000;
/// So often within a window.
const LOOKS: Millis = 8640;
const RUNBOOK: &str = "https://github.com/geophone/geophone/blob/main/docs/slo.md#when-a-budget-burns";

/// Two windows, in both of which a budget must burn this fast before it is told: the long one says that it matters, the
/// short one that it still does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Burn {
    /// Times faster than the budget allows: at this pace `share` of it is gone within the long window.
    pub factor: f64,
    /// The part of the objective's budget.
    pub share: f64,
    /// The long window, in milliseconds.
    pub long: Millis,
    /// The short one; the same where none is shorter.
    pub short: Millis,
    /// How bad it is.
    pub severity: &'static str,
}

/// Share of the budget, long and short window: Google's SRE workbook, chapter 5, table 5-8, and a last one for what lasts for
/// days.
const ROWS: [(f64, Millis, Millis, &str); 4] = [
    (0.02, HOUR, RATES, "critical"),
    (0.05, 6 * HOUR, 6 * RATES, "critical"),
    (0.1, DAY, 2 * HOUR, "warning"),
    (0.1, 3 * DAY, 6 * HOUR, "warning"),
];

/// The one of a window so short that none of those would be faster than it allows; the first that would be.
const BRIEF: [(f64, Millis, Millis, &str); 3] = [
    (0.1, HOUR, RATES, "critical"),
    (0.1, 6 * RATES, RATES, "critical"),
    (0.1, RATES, RATES, "critical"),
];

/// The last one of every window: whatever burns faster than the budget allows would empty it, so it is told before. The first
/// whose long window is a tenth of the objective's at least; shorter ones are at the mercy of a moment.
const LAST: [(Millis, Millis); 5] = [
    (6 * RATES, RATES),
    (HOUR, RATES),
    (6 * HOUR, 6 * RATES),
    (DAY, 2 * HOUR),
    (3 * DAY, 6 * HOUR),
];

/// One that is so near to it says the same as the last.
const NEAR: f64 = 1.1;

/// The alerts of an objective that leaves this budget over a window so long at most. Those are left out whose factor is below 1,
/// as what burns slower leaves something, and those that would need more than everything to fail. One of factor 1 is always
/// there: nothing empties a budget unseen.
#[must_use]
pub fn burns(budget: f64, reach: Millis) -> Vec<Burn> {
    let of = |&(share, long, short, severity): &(f64, Millis, Millis, &'static str)| {
        // 0.02 * 720 is 14.400000000000002.
        let factor = (share * reach as f64 / long as f64 * 1e4).round() / 1e4;
        (factor >= 1.0).then_some(Burn {
            factor,
            share,
            long,
            short,
            severity,
        })
    };
    let mut all: Vec<Burn> = ROWS.iter().filter_map(of).collect();
    if all.is_empty() {
        all.extend(BRIEF.iter().find_map(of));
    }
    all.retain(|burn| burn.factor * budget < 1.0);
    if all.iter().all(|burn| burn.factor > 1.0) {
        let (long, short) = LAST
            .into_iter()
            .find(|(long, _)| long * 10 >= reach)
            .unwrap_or((3 * DAY, 6 * HOUR));
        all.retain(|burn| burn.factor >= NEAR || burn.long != long);
        all.push(Burn {
            factor: 1.0,
            share: long as f64 / reach as f64,
            long,
            short,
            severity: "warning",
        });
    }
    all
}

/// The file of rules for these objectives; an error names the objective, the line of the file that would be wrong, and why.
pub fn write(slos: &[Slo]) -> Result<String, Fault> {
    if let Some(name) = twice(slos) {
        return Err(Fault::new(
            "name",
            format!("{name}: there are two of this name, give one another"),
        ));
    }
    let mut out = String::from(
        "# Written by `geophone slo rules`; the agent evaluates the same over its store. What each series means is in\n\
         # docs/slo.md. Scrape at least every two minutes: rates are those of five.\n",
    );
    let at_once = |slo: &&Slo| matches!(&slo.indicator, Indicator::Time { query, .. } if query.contains(template::AT_ONCE));
    for Slo { name, .. } in slos.iter().filter(at_once) {
        let _ = writeln!(
            out,
            "# Every 20 s or more often for {name}: rates are those of a minute."
        );
    }
    out.push_str(if slos.is_empty() {
        "groups: []\n"
    } else {
        "groups:\n"
    });
    for slo in slos {
        out.push_str(&groups(slo)?);
    }
    Ok(out)
}

/// The groups of one objective.
pub fn groups(slo: &Slo) -> Result<String, Fault> {
    checked(slo).map(|(text, _)| text)
}

/// The same, as they are evaluated.
pub fn parsed(slo: &Slo) -> Result<Vec<GroupFile>, Fault> {
    checked(slo).map(|(_, groups)| groups)
}

fn checked(slo: &Slo) -> Result<(String, Vec<GroupFile>), Fault> {
    let text = Writer::new(slo).write();
    match agent_rules::file::parse(&slo.name, &format!("groups:\n{text}")) {
        Ok(groups) => Ok((text, groups)),
        Err(faults) => {
            let first = faults.first().map(ToString::to_string).unwrap_or_default();
            Err(Fault::new("name", format!("its rules are not right: {first}")))
        }
    }
}

struct Writer<'a> {
    slo: &'a Slo,
    out: String,
}

impl<'a> Writer<'a> {
    fn new(slo: &'a Slo) -> Self {
        Self {
            slo,
            out: String::new(),
        }
    }

    /// One of our series, of this objective.
    fn of(&self, name: &str, more: &str) -> String {
        format!("{PREFIX}{name}{{slo=\"{}\"{more}}}", self.slo.name)
    }

    fn write(mut self) -> String {
        let slo = self.slo;
        let reach = slo.window.reach();
        // The objective's own window is recorded anyway; the latest day is not the day of the calendar.
        let rolling = matches!(slo.window, Window::Rolling(_));
        let (fast, slow): (Vec<Millis>, Vec<Millis>) = WINDOWS
            .iter()
            .filter(|window| **window < reach || **window == reach && !rolling)
            .partition(|window| **window <= FAST);
        self.group("", slo.interval);
        self.events();
        self.shares(&fast);
        if reach <= FAST {
            self.whole();
            self.alerts(&[&fast[..], &[reach]].concat());
            return self.out;
        }
        self.alerts(&fast);
        let often = (reach / LOOKS / 1000 * 1000).clamp(slo.interval, SLOWEST);
        // No name of an objective has a slash, so no other has this group.
        self.group("/slow", often);
        self.shares(&slow);
        self.whole();
        let whole: &[Millis] = if rolling { &[reach] } else { &[] };
        self.alerts(&[&slow[..], whole].concat());
        self.out
    }

    fn group(&mut self, suffix: &str, interval: Millis) {
        let _ = writeln!(
            self.out,
            "  - name: geophone-slo-{}{suffix}\n    interval: {}\n    rules:",
            self.slo.name,
            short(interval)
        );
    }

    /// What happened in an interval.
    fn events(&mut self) {
        let slo = self.slo;
        let seconds = slo.interval as f64 / 1000.0;
        let window = short(RATES);
        // Which period of the calendar it belongs to is a label: a sum over the period is one over these series.
        let period = |expr: String| match slo.window.period() {
            Some(period) => {
                format!("({expr}) * on () group_left (period) count_values(\"period\", {period})")
            }
            None => expr,
        };
        // All of it counts only where it is known how much was bad: a query that fails must not look like success.
        let fresh = |series: &str| format!("(timestamp({0}) == time())", self.of(series, ""));
        let total = format!("(({}) >= 0)", slo.indicator.total(&window));
        // What is no number is not known either: one NaN in a sum over a window would make all of it NaN, and its alerts dumb.
        let bad = format!("(({}) >= 0) * {seconds}", slo.indicator.bad(&window, &total));
        let (bad, total) = (period(bad), period(format!("{total} * {seconds}")));
        let total = format!("({total}) and ignoring (slo) {}", fresh("bad_events"));
        let covered = format!(
            "clamp({} and {}, {seconds}, {seconds})",
            self.of("total_events", ""),
            fresh("total_events")
        );
        self.record("bad_events", &bad, &[]);
        self.record("total_events", &total, &[]);
        self.record("covered_seconds", &covered, &[]);
    }

    /// The sum of one of these over a window.
    fn sum(&self, series: &str, window: Millis) -> String {
        let series = self.of(series, "");
        match self.slo.window {
            Window::Rolling(_) => format!("sum_over_time({series}[{}])", short(window)),
            _ => format!(
                "sum without (period) (sum_over_time({series}[{}]))",
                short(window)
            ),
        }
    }

    /// The same over the objective's own window.
    fn sum_of_all(&self, series: &str) -> String {
        let reach = self.slo.window.reach();
        match self.slo.window.period() {
            None => self.sum(series, reach),
            Some(period) => format!(
                "sum without (period) (sum_over_time({}[{}]) and on (period) count_values(\"period\", {period}))",
                self.of(series, ""),
                short(reach)
            ),
        }
    }

    /// The shares that were good over windows.
    fn shares(&mut self, windows: &[Millis]) {
        for window in windows {
            self.share(*window);
        }
    }

    /// That of the shortest window is what the rates say, which look as far back.
    fn share(&mut self, window: Millis) {
        let (bad, total) = if window <= RATES {
            let now = |series: &str| match self.slo.window {
                Window::Rolling(_) => self.of(series, ""),
                _ => format!("sum without (period) ({})", self.of(series, "")),
            };
            (now("bad_events"), now("total_events"))
        } else {
            (self.sum("bad_events", window), self.sum("total_events", window))
        };
        self.ratio(&short(window), &bad, &total);
    }

    /// The share, and how fast it burns the budget.
    fn ratio(&mut self, name: &str, bad: &str, total: &str) {
        let window = [("window", name)];
        self.record(
            "sli_ratio",
            &format!("clamp(1 - {bad} / ({total} > 0), 0, 1)"),
            &window,
        );
        let share = self.of("sli_ratio", &format!(",window=\"{name}\""));
        self.record(
            "burn_rate",
            &format!("(1 - {share}) / {}", self.slo.budget()),
            &window,
        );
    }

    /// The share over the objective's own window, and what it leaves.
    fn whole(&mut self) {
        let slo = self.slo;
        let name = slo.window.name();
        let (bad, total) = (self.sum_of_all("bad_events"), self.sum_of_all("total_events"));
        self.ratio(&name, &bad, &total);
        let covered = self.sum_of_all("covered_seconds");
        // Of the whole window, also of one that has only begun: the first failure of a month says little of the month.
        let seconds = slo.window.seconds();
        let coverage = match slo.window {
            Window::Month => format!("clamp_max({covered} / on () group_left () {seconds}, 1)"),
            _ => format!("clamp_max({covered} / {seconds}, 1)"),
        };
        self.record("coverage_ratio", &coverage, &[]);
        let share = self.of("sli_ratio", &format!(",window=\"{name}\""));
        let consumed = match slo.indicator {
            Indicator::Events { .. } => format!("sum without (window) ((1 - {share}) / {})", slo.budget()),
            // How long the window is, is known from the beginning.
            Indicator::Time { .. } => match slo.window {
                Window::Month => format!("{bad} / on () group_left () ({seconds} * {})", slo.budget()),
                window => format!("{bad} / {}", slo.budget() * window.reach() as f64 / 1000.0),
            },
        };
        self.record("budget_consumed_ratio", &consumed, &[]);
        let consumed = self.of("budget_consumed_ratio", "");
        self.record("budget_remaining_ratio", &format!("1 - {consumed}"), &[]);
        self.record(
            "objective_ratio",
            &format!("vector({})", slo.objective),
            &[("indicator", slo.indicator.kind()), ("window", &name)],
        );
    }

    /// The alerts whose long window is one of these.
    fn alerts(&mut self, windows: &[Millis]) {
        let (budget, reach) = (self.slo.budget(), self.slo.window.reach());
        for burn in burns(budget, reach) {
            if windows.contains(&burn.long) {
                self.alert(burn);
            }
        }
    }

    fn alert(&mut self, burn: Burn) {
        let slo = self.slo;
        let (factor, long, brief) = (burn.factor, short(burn.long), short(burn.short));
        let fast = |window: &str| {
            format!(
                "{} > {factor}",
                self.of("burn_rate", &format!(",window=\"{window}\""))
            )
        };
        let (expr, spans) = match burn.long == burn.short {
            true => (fast(&long), format!("over the last {long}")),
            false => (
                format!("{} and ignoring (window) {}", fast(&long), fast(&brief)),
                format!("over the last {long} and still over the last {brief}"),
            ),
        };
        let hours = slo.window.reach() as f64 / factor / HOUR as f64;
        let gone = match hours < 1.0 {
            true => format!("{} min", (hours * 60.0).round()),
            false => format!("{} h", hours.round()),
        };
        let part = (burn.share * 1e3).round() / 10.0;
        let _ = writeln!(self.out, "      - alert: {ALERT}");
        self.expr(&expr);
        let _ = writeln!(
            self.out,
            "        labels:\n          slo: {}\n          severity: {}\n          factor: \"{factor}\"",
            quoted(&slo.name),
            burn.severity
        );
        if !slo.service.is_empty() {
            let _ = writeln!(self.out, "          service: {}", quoted(&harmless(&slo.service)));
        }
        for (label, value) in &slo.labels {
            let _ = writeln!(self.out, "          {label}: {}", quoted(&harmless(value)));
        }
        let summary = format!(
            "{} burns its error budget {{{{ $value | printf \"%.1f\" }}}} times too fast",
            slo.name
        );
        let description = format!(
            "More than {factor} times the errors that {} allow, {spans}; \
             at {factor} times {part} % of the budget are gone in {long}, all of it in {gone}.",
            slo.target()
        );
        let _ = writeln!(
            self.out,
            "        annotations:\n          summary: {}\n          description: {}\n          runbook_url: {RUNBOOK}",
            quoted(&summary),
            quoted([description, harmless(&slo.description)].join(" ").trim_end())
        );
    }

    fn record(&mut self, name: &str, expr: &str, labels: &[(&str, &str)]) {
        let _ = writeln!(self.out, "      - record: {PREFIX}{name}");
        self.expr(expr);
        let _ = writeln!(
            self.out,
            "        labels:\n          slo: {}",
            quoted(&self.slo.name)
        );
        for (label, value) in labels {
            let _ = writeln!(self.out, "          {label}: {}", quoted(value));
        }
    }

    /// As it is where it can be read so.
    fn expr(&mut self, expr: &str) {
        if !expr.chars().all(|c| c == '\n' || (' '..='~').contains(&c)) {
            let _ = writeln!(self.out, "        expr: {}", quoted(expr));
            return;
        }
        self.out.push_str("        expr: |-\n");
        for line in expr.lines() {
            let _ = writeln!(self.out, "          {line}");
        }
    }
}

/// A text in which nothing is a template.
fn harmless(text: &str) -> String {
    text.replace("{{", "{{ \"{{\" }}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors_are_those_of_the_window() {
        let of = |reach: Millis, budget: f64| -> Vec<(f64, Millis)> {
            let all = burns(budget, reach);
            all.iter().map(|burn| (burn.factor, burn.long / HOUR)).collect()
        };
        assert_eq!(of(30 * DAY, 0.001), [(14.4, 1), (6.0, 6), (3.0, 24), (1.0, 72)]);
        assert_eq!(of(28 * DAY, 0.001), [(13.44, 1), (5.6, 6), (2.8, 24), (1.0, 72)]);
        assert_eq!(of(7 * DAY, 0.001), [(3.36, 1), (1.4, 6), (1.0, 24)]);
        assert_eq!(
            of(366 * DAY, 0.01),
            [(73.2, 6), (36.6, 24), (12.2, 72), (1.0, 72)]
        );
        // That of a month of 31 days would be 1.0333.
        assert_eq!(of(31 * DAY, 0.001), [(14.88, 1), (6.2, 6), (3.1, 24), (1.0, 72)]);
        // More than everything would have to fail.
        assert_eq!(of(30 * DAY, 0.1), [(6.0, 6), (3.0, 24), (1.0, 72)]);
        assert_eq!(of(30 * DAY, 0.99), [(1.0, 72)]);
        assert_eq!(of(366 * DAY, 0.1), [(1.0, 72)]);
        assert_eq!(of(DAY, 0.5), [(1.0, 6)]);
        // Of short ones a tenth, within what is a tenth of them at most.
        assert_eq!(of(DAY, 0.01), [(2.4, 1), (1.0, 6)]);
        assert_eq!(of(6 * HOUR, 0.01), [(1.2, 0), (1.0, 1)]);
        assert_eq!(of(HOUR, 0.01), [(1.2, 0), (1.0, 0)]);
        for hours in 1..=8784 {
            let reach = hours * HOUR;
            let all = burns(0.000_001, reach);
            assert_eq!(all.last().map(|burn| burn.factor), Some(1.0), "{hours}");
            for (at, burn) in all.iter().enumerate() {
                let mut others = all[..at].iter();
                assert!(
                    others.all(|other| other.factor > burn.factor && other.long <= burn.long),
                    "{hours}: {all:?}"
                );
                assert!(
                    burn.factor >= 1.0 && burn.long < reach && burn.short <= burn.long,
                    "{hours}: {burn:?}"
                );
                let gone = burn.factor * burn.long as f64 / reach as f64;
                assert!((gone / burn.share - 1.0).abs() < 1e-4, "{hours}: {burn:?}");
            }
        }
    }
}
