//! What geophone itself costs: its programs, its maps, its process.
//!
//! The kernel's statistics (BPF_ENABLE_STATS) add 70 ns to every event and see neither their own two clock reads nor
//! the dispatch of the hook. So they are on for a tenth of a second in ten, the floor of an empty program is taken
//! off, the dispatch is added, and the result is multiplied by the runs that the programs count themselves.
//!
//! Without the right to turn them on (CAP_SYS_ADMIN) and until a program has run a few times while they were, its time is not
//! known and has no series. The governor must go by something all the same: it takes `ASSUMED_NANOS`.

use crate::aggregate::{Family, Kind, Labels, Metric, Series, Value, label};
use crate::bpf::{Engine, Verdict, host};
use crate::probes::Fill;
use agent_common::account::{Account, program, reason};
use nix::time::{ClockId, clock_gettime};
use std::collections::HashMap;
use std::mem::offset_of;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Program time.
pub static RUN_SECONDS: Metric = Metric::stable(
    "geophone_program_run_seconds_total",
    "geophone.program.run.time",
    "s",
    Kind::Counter,
    &[&label::PROGRAM],
    "CPU time spent in an eBPF program and its dispatch: its own count of runs times a measured cost per run; no series until that is known",
);
/// Program runs.
pub static RUNS: Metric = Metric::stable(
    "geophone_program_runs_total",
    "geophone.program.runs",
    "{run}",
    Kind::Counter,
    &[&label::PROGRAM],
    "Runs of an eBPF program",
);
/// Program states.
pub static PROGRAM_INFO: Metric = Metric::stable(
    "geophone_program_info",
    "geophone.program.info",
    "1",
    Kind::Gauge,
    &[&label::PROGRAM, &label::PROBE, &label::HOOK, &label::STATE],
    "1 = the program is in this state: attached, unsupported, broken or off; geophone check says why",
);
/// Map memory.
pub static MAP_MEMORY: Metric = Metric::stable(
    "geophone_map_memory_bytes",
    "geophone.map.memory",
    "By",
    Kind::Gauge,
    &[&label::MAP],
    "Kernel memory of an eBPF map",
);
/// Entries of maps.
pub static MAP_USED: Metric = Metric::experimental(
    "geophone_map_used",
    "geophone.map.usage",
    "{entry}",
    Kind::Gauge,
    &[&label::MAP],
    "Entries of an eBPF map that are somebody's, of the maps whose size is set; what finds no room counts as other",
);
/// How many there may be.
pub static MAP_LIMIT: Metric = Metric::experimental(
    "geophone_map_limit",
    "geophone.map.limit",
    "{entry}",
    Kind::Gauge,
    &[&label::MAP],
    "How many there may be: PAIRS by limits.memory or limits.pairs, DROPS by limits.drop_keys, TUNNELS by limits.tunnels",
);
/// CPU.
pub static CPU: Metric = Metric::stable(
    "geophone_agent_cpu_seconds_total",
    "process.cpu.time",
    "s",
    Kind::Counter,
    &[],
    "CPU time of the agent's process, without its eBPF programs",
);
/// Memory.
pub static MEMORY: Metric = Metric::stable(
    "geophone_agent_memory_bytes",
    "process.memory.usage",
    "By",
    Kind::Gauge,
    &[],
    "Resident memory of the agent's process",
);

/// All of them.
pub const METRICS: &[&Metric] = &[
    &RUN_SECONDS,
    &RUNS,
    &PROGRAM_INFO,
    &MAP_MEMORY,
    &MAP_USED,
    &MAP_LIMIT,
    &CPU,
    &MEMORY,
];

/// Dispatch of a BTF tracepoint, ns: what the tracepoint spends around an empty program, measured with a counting body
/// (47–49 ns on 6.18).
pub const DISPATCH_NANOS: f64 = 48.0;
/// What a run is taken to cost as long as nobody knows: more than most, so that the budget is rather kept than broken.
const ASSUMED_NANOS: f64 = 250.0;
/// Runs that a price is made of at least: fewer are cold, and say more of the caches than of the program.
const FEW_RUNS: u64 = 5;
const MEASURE_FOR: Duration = Duration::from_millis(100);
/// Pause before the next measurement while programs have no price, doubled with each up to the usual one: to switch the
/// statistics patches the kernel's code and stops every CPU for it.
const MEASURE_FIRST: Duration = Duration::from_secs(1);
const MEASURE_EVERY: Duration = Duration::from_secs(10);

/// Cost of one program.
#[derive(Clone, Debug, Default)]
struct ProgramCost {
    runs: u64,
    seconds: f64,
    /// ns a run, floor off, dispatch on; `None` = not measured yet.
    nanos: Option<f64>,
    /// Runs that are not in `seconds`, because there was no price yet.
    unpriced: u64,
    /// Runs behind that figure, older ones counting less.
    weight: f64,
    /// Run time in ns and runs of measurements that were too few to say anything.
    gathered: (u64, u64),
}

impl ProgramCost {
    /// Takes what a measurement has brought.
    fn learn(&mut self, nanos: u64, runs: u64, floor: f64) {
        self.gathered = (self.gathered.0 + nanos, self.gathered.1 + runs);
        if self.gathered.1 < FEW_RUNS {
            return;
        }
        let (nanos, runs) = std::mem::take(&mut self.gathered);
        let runs = runs as f64;
        let net = (nanos as f64 / runs - floor).max(1.0) + DISPATCH_NANOS;
        // By the number of runs, the past fading by half each time: a cold handful says little.
        let past = self.weight / 2.0;
        self.weight = past + runs;
        self.nanos = Some((self.nanos.unwrap_or(net) * past + net * runs) / self.weight);
    }
}

/// The kernel's statistics are on.
struct Measuring {
    /// They go off with this descriptor; `None` = they are on for everybody (kernel.bpf_stats_enabled).
    _stats: Option<OwnedFd>,
    since: Instant,
    /// Run time in ns and runs of each program, when it began.
    before: Times,
}

/// Run time in ns and runs, in the order of `Cost::programs`; 0 = it is not loaded.
type Times = Vec<(u64, u64)>;

/// Measures.
pub struct Cost {
    start: u64,
    floor: f64,
    measuring: Option<Measuring>,
    /// When the next measurement is due.
    next: Option<Instant>,
    /// Pause after it, and how many programs had no price.
    pause: (Duration, usize),
    complained: bool,
    programs: Vec<(&'static str, usize, ProgramCost)>,
    labels: HashMap<String, Arc<Labels>>,
    /// CPU seconds of the process.
    pub cpu: f64,
    /// Resident bytes.
    pub memory: u64,
}

impl Cost {
    /// `floor` is the run time of an empty program in ns ([`Engine::calibrate`]), `programs` are (name, account).
    pub fn new(floor: f64, programs: Vec<(&'static str, usize)>, unix_nanos: u64) -> Self {
        Self {
            start: unix_nanos,
            floor,
            measuring: None,
            next: None,
            pause: (MEASURE_FIRST, 0),
            complained: false,
            programs: programs
                .into_iter()
                .map(|(n, a)| (n, a, ProgramCost::default()))
                .collect(),
            labels: HashMap::new(),
            cpu: 0.0,
            memory: 0,
        }
    }

    /// CPU seconds of all programs so far, but for the iterators: those run in the agent's own time.
    pub fn program_seconds(&self) -> f64 {
        let own = [program::TCP_SWEEP, program::TCP_ADOPT, program::SCHED_SWEEP];
        self.programs
            .iter()
            .filter(|(_, a, _)| !own.contains(a))
            .map(|(_, _, c)| c.seconds + c.unpriced as f64 * ASSUMED_NANOS / 1e9)
            .sum()
    }

    /// Programs that have run and have no price yet are measured soon, but not for ever: some run once an hour.
    fn rest(&mut self, engine: &Engine) -> Duration {
        let unknown = self
            .programs
            .iter()
            .filter(|(_, account, cost)| cost.nanos.is_none() && runs(engine, *account) >= FEW_RUNS)
            .count();
        let (last, before) = self.pause;
        let next = if unknown > before {
            MEASURE_FIRST
        } else if unknown > 0 {
            (2 * last).min(MEASURE_EVERY)
        } else {
            MEASURE_EVERY
        };
        self.pause = (next, unknown);
        next
    }

    /// Turns the statistics on, if that is allowed.
    fn begin(&mut self, now: Instant, before: Times) {
        let stats = match aya::sys::enable_stats(aya::sys::Stats::RunTime) {
            Ok(stats) => Some(stats),
            Err(_) if host::bpf_stats_are_on() => None,
            Err(e) => {
                if !std::mem::replace(&mut self.complained, true) {
                    tracing::warn!(
                        "the cost of the programs cannot be measured: {e}; it has no series, and the budget takes {ASSUMED_NANOS} \
                         ns a run; give the process CAP_SYS_ADMIN, or set kernel.bpf_stats_enabled=1"
                    );
                }
                return;
            }
        };
        self.measuring = Some(Measuring {
            _stats: stats,
            since: now,
            before,
        });
    }

    /// How long each program has run.
    fn times(&self, engine: &Engine) -> Times {
        let mut times = vec![(0, 0); self.programs.len()];
        for (name, time, runs) in engine.run_times() {
            let place = self.programs.iter().position(|(known, ..)| *known == name);
            if let Some(sum) = place.and_then(|place| times.get_mut(place)) {
                *sum = (sum.0 + time, sum.1 + runs);
            }
        }
        times
    }

    /// Turns the statistics on and off. Whether it wants to be called again within a tenth of a second.
    pub fn poll(&mut self, engine: &Engine, now: Instant) -> bool {
        match self.measuring.take() {
            Some(m) if now.duration_since(m.since) < MEASURE_FOR => self.measuring = Some(m),
            // With this the statistics are off again.
            Some(Measuring { before, .. }) => {
                let (after, floor) = (self.times(engine), self.floor);
                for ((_, _, cost), (b, a)) in self.programs.iter_mut().zip(before.iter().zip(after)) {
                    cost.learn(a.0.saturating_sub(b.0), a.1.saturating_sub(b.1), floor);
                }
                self.next = Some(now + self.rest(engine));
            }
            None if self.next.is_none_or(|next| now >= next) => {
                self.next = Some(now + MEASURE_EVERY);
                let before = self.times(engine);
                self.begin(now, before);
            }
            None => {}
        }
        self.measuring.is_some()
    }

    /// Once a second.
    pub fn tick(&mut self, engine: Option<&Engine>) {
        self.cpu = clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID)
            .map_or(self.cpu, |t| t.tv_sec() as f64 + t.tv_nsec() as f64 / 1e9);
        self.memory = resident();
        let Some(engine) = engine else { return };
        for (_, account, cost) in &mut self.programs {
            let runs = runs(engine, *account);
            let new = runs.saturating_sub(cost.runs);
            match cost.nanos {
                Some(nanos) => {
                    cost.seconds += new as f64 * nanos / 1e9;
                    cost.runs = runs;
                    cost.unpriced = 0;
                }
                None => cost.unpriced = new,
            }
        }
    }

    fn labels(&mut self, metric: &'static Metric, values: &[&str]) -> Arc<Labels> {
        let start = self.start;
        self.labels
            .entry(format!("{} {}", metric.name, values.join(" ")))
            .or_insert_with(|| Arc::new(Labels::new(metric.labels, values, false, start)))
            .clone()
    }

    /// Appends the families.
    pub fn collect(&mut self, engine: Option<&Engine>, fills: &[Fill], out: &mut Vec<Family>) {
        let (mut used, mut limits) = (Vec::new(), Vec::new());
        for Fill { map, used: now, most } in fills {
            let labels = self.labels(&MAP_USED, &[map]);
            let gauge = |value: usize| Series {
                labels: labels.clone(),
                value: Value::Gauge(value as f64),
            };
            used.push(gauge(*now));
            limits.push(gauge(*most));
        }
        for (metric, series) in [(&MAP_USED, used), (&MAP_LIMIT, limits)] {
            out.push(Family { metric, series });
        }
        let (mut seconds, mut runs_of) = (Vec::new(), Vec::new());
        for place in 0..self.programs.len() {
            let Some((name, account, known)) = self
                .programs
                .get(place)
                .map(|(name, account, cost)| (*name, *account, cost.nanos.map(|_| cost.seconds)))
            else {
                break;
            };
            let runs = engine.map_or(0, |e| runs(e, account));
            if runs == 0 {
                continue;
            }
            let labels = self.labels(&RUNS, &[name]);
            if let Some(known) = known {
                seconds.push(Series {
                    labels: labels.clone(),
                    value: Value::CounterF(known),
                });
            }
            runs_of.push(Series {
                labels,
                value: Value::Counter(runs),
            });
        }
        out.push(Family {
            metric: &RUN_SECONDS,
            series: seconds,
        });
        out.push(Family {
            metric: &RUNS,
            series: runs_of,
        });
        let verdicts: Vec<Verdict> = engine.map(|e| e.verdicts.clone()).unwrap_or_default();
        let series = verdicts
            .iter()
            .map(|v| Series {
                labels: self.labels(&PROGRAM_INFO, &[&v.program, &v.probe, &v.hook, v.state.as_str()]),
                value: Value::Gauge(1.0),
            })
            .collect();
        out.push(Family {
            metric: &PROGRAM_INFO,
            series,
        });
        let maps = engine.map(|e| e.map_memory.clone()).unwrap_or_default();
        let series = maps
            .iter()
            .map(|(name, bytes)| Series {
                labels: self.labels(&MAP_MEMORY, &[name]),
                value: Value::Gauge(*bytes as f64),
            })
            .collect();
        out.push(Family {
            metric: &MAP_MEMORY,
            series,
        });
        let labels = self.labels(&CPU, &[]);
        out.push(Family {
            metric: &CPU,
            series: vec![Series {
                labels: labels.clone(),
                value: Value::CounterF(self.cpu),
            }],
        });
        out.push(Family {
            metric: &MEMORY,
            series: vec![Series {
                labels,
                value: Value::Gauge(self.memory as f64),
            }],
        });
    }
}

/// Runs of a program by its own account: events, without the records that it wanted to send.
fn runs(engine: &Engine, account: usize) -> u64 {
    let sum = |byte: usize| -> u64 {
        (0..engine.cpus as usize)
            .map(|cpu| engine.accounts.u64_at(account * engine.cpus as usize + cpu, byte))
            .sum()
    };
    let mut records =
        sum(offset_of!(Account, emitted)) + sum(offset_of!(Account, dropped) + 8 * reason::RING_FULL);
    if account == program::DROPS_KFREE || account == program::DNS_EGRESS {
        // A record that the rate limit leaves out is counted as seen and sampled.
        records += sum(offset_of!(Account, sampled));
    }
    sum(offset_of!(Account, seen)).saturating_sub(records)
}

fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kibibytes = text.lines().find_map(|line| {
        line.strip_prefix("VmRSS:")?
            .trim()
            .strip_suffix("kB")?
            .trim()
            .parse()
            .ok()
    });
    kibibytes.unwrap_or(0u64) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_price_is_made_of_enough_runs() {
        let mut cost = ProgramCost::default();
        cost.learn(800, 4, 70.0);
        assert_eq!(cost.nanos, None, "four runs say nothing");
        cost.learn(200, 1, 70.0);
        assert_eq!(cost.nanos, Some(200.0 - 70.0 + DISPATCH_NANOS));
        // A thousand runs outweigh the past, and an empty measurement changes nothing.
        cost.learn(100_000, 1000, 70.0);
        cost.learn(0, 0, 70.0);
        let nanos = cost.nanos.unwrap();
        assert!((nanos - (30.0 + DISPATCH_NANOS)).abs() < 1.0, "{nanos}");
    }

    #[test]
    fn ones_own_memory_is_some() {
        assert!((1 << 20..1 << 33).contains(&resident()), "{}", resident());
    }
}
