//! The agent's own cost, and what became of every event.

use super::meter::{Clock, Meter, label, number, sum};
use super::{Account, Cost, Coverage, Loss, ProgramRow};
use crate::aggregate::{Series, Snapshot};
use std::collections::{BTreeMap, HashMap};

fn series<'a>(snapshot: &'a Snapshot, metric: &str) -> impl Iterator<Item = &'a Series> {
    snapshot.family(metric).into_iter().flat_map(|f| &f.series)
}

fn single(snapshot: &Snapshot, metric: &str) -> Option<f64> {
    series(snapshot, metric).next().map(number)
}

/// Meters of the agent itself.
#[derive(Debug, Default)]
pub(super) struct Own {
    cpu: Meter,
    /// Seconds and runs by program.
    programs: BTreeMap<String, (Meter, Meter)>,
    /// By metric and labels.
    events: HashMap<(&'static str, String), Meter>,
}

impl Own {
    /// Cost as of a snapshot.
    pub fn cost(&mut self, snapshot: &Snapshot, uptime: f64, clock: &Clock) -> Cost {
        let cpu = series(snapshot, "geophone_agent_cpu_seconds_total").next();
        if let Some(series) = cpu {
            self.cpu.update(number(series), &series.labels, clock);
        }
        for series in series(snapshot, "geophone_program_run_seconds_total") {
            let (seconds, _) = self
                .programs
                .entry(label(&series.labels, "program").to_owned())
                .or_default();
            seconds.update(number(series), &series.labels, clock);
        }
        for series in series(snapshot, "geophone_program_runs_total") {
            let (_, runs) = self
                .programs
                .entry(label(&series.labels, "program").to_owned())
                .or_default();
            runs.update(number(series), &series.labels, clock);
        }
        let mut programs: Vec<ProgramRow> = self
            .programs
            .iter()
            .map(|(name, (seconds, runs))| program(name, seconds, runs, clock))
            .collect();
        programs.sort_by(|a, b| {
            b.cpu
                .total_cmp(&a.cpu)
                .then_with(|| b.seconds.total_cmp(&a.seconds))
        });
        let life = (uptime > 0.0).then(|| self.cpu.total / uptime);
        Cost {
            cpu: cpu.and(if clock.previous.is_some() {
                Some(self.cpu.rate(clock))
            } else {
                life
            }),
            cpu_seconds: self.cpu.total,
            memory_bytes: single(snapshot, "geophone_agent_memory_bytes"),
            map_bytes: sum(series(snapshot, "geophone_map_memory_bytes").map(number)),
            bpf: sum(programs.iter().map(|p| p.cpu)),
            bpf_seconds: sum(programs.iter().map(|p| p.seconds)),
            programs,
            governor_level: single(snapshot, "geophone_governor_level"),
        }
    }

    fn event(&mut self, metric: &'static str, series: &Series, clock: &Clock) -> (u64, f64) {
        let meter = self
            .events
            .entry((metric, series.labels.text.clone()))
            .or_default();
        meter.update(number(series), &series.labels, clock);
        (meter.total as u64, meter.rate(clock))
    }

    /// Accounts as of a snapshot, by probe.
    pub fn accounts(&mut self, snapshot: &Snapshot, clock: &Clock) -> Vec<Account> {
        let mut accounts: BTreeMap<String, Account> = BTreeMap::new();
        let mut of = |series: &Series, change: &mut dyn FnMut(&mut Account)| {
            let probe = label(&series.labels, "probe");
            change(accounts.entry(probe.to_owned()).or_default());
        };
        for series in series(snapshot, "geophone_events_total") {
            let (total, rate) = self.event("events", series, clock);
            of(series, &mut |account| match label(&series.labels, "stage") {
                "seen" => (account.seen, account.rate) = (account.seen + total, account.rate + rate),
                "filtered" => account.filtered += total,
                "sampled" => account.sampled += total,
                "delivered" => account.delivered += total,
                "in_flight" => account.in_flight += total,
                _ => {}
            });
        }
        for series in series(snapshot, "geophone_events_dropped_total") {
            let (total, rate) = self.event("dropped", series, clock);
            let value = |name| label(&series.labels, name).to_owned();
            let loss = Loss {
                stage: value("stage"),
                reason: value("reason"),
                total,
                rate,
            };
            if total > 0 {
                of(series, &mut |account| account.dropped.push(loss.clone()));
            }
        }
        for series in series(snapshot, "geophone_events_in_flight") {
            of(series, &mut |account| {
                account.in_flight = number(series).max(0.0) as u64
            });
        }
        for series in series(snapshot, "geophone_events_unaccounted") {
            of(series, &mut |account| account.unaccounted += number(series));
        }
        if snapshot.family("geophone_events_unaccounted").is_none() {
            for a in accounts.values_mut() {
                let known = a.filtered + a.sampled + a.delivered + a.in_flight + a.lost();
                a.unaccounted = a.seen as f64 - known as f64;
            }
        }
        accounts
            .into_iter()
            .map(|(probe, account)| Account { probe, ..account })
            .collect()
    }
}

fn program(name: &str, seconds: &Meter, runs: &Meter, clock: &Clock) -> ProgramRow {
    let nanos = |seconds: f64, runs: f64| (runs > 0.0).then(|| seconds * 1e9 / runs);
    ProgramRow {
        program: name.to_owned(),
        cpu: seconds.rate(clock),
        runs_rate: runs.rate(clock),
        seconds: seconds.total,
        runs: runs.total as u64,
        nanos_per_run: nanos(seconds.delta, runs.delta).or_else(|| nanos(seconds.total, runs.total)),
    }
}

/// Coverage as of a snapshot.
pub(super) fn coverage(snapshot: &Snapshot) -> Vec<Coverage> {
    series(snapshot, "geophone_coverage_ratio")
        .map(|s| Coverage {
            metric: label(&s.labels, "metric").to_owned(),
            ratio: number(s),
        })
        .filter(|c| c.ratio.is_finite())
        .collect()
}
