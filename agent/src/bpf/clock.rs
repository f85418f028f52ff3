//! Programs at events of each CPU: the ticks of its clock, page faults.

use super::{Engine, Hook, Spec, host};
use agent_common::account::Account;
use aya::programs::perf_event::{
    PerfEventConfig, PerfEventLinkId, PerfEventScope, SamplePolicy, SoftwareEvent,
};
use aya::programs::{PerfEvent, ProgramError};
use std::collections::HashMap;
use std::mem::offset_of;
use std::time::Instant;

/// The time between two ticks, ns.
pub fn period(hz: u32) -> u64 {
    1_000_000_000 / u64::from(hz.max(1))
}

/// A clock that has not ticked in the time of so many ticks stands still.
const TICKS: u128 = 5;

/// Where a program is attached.
pub(super) struct Attached {
    hook: Hook,
    period: u64,
    cpus: HashMap<u32, Vec<PerfEventLinkId>>,
    /// Of [`agent_common::account::program`].
    account: usize,
    /// Runs of each CPU, and when they were looked at.
    runs: HashMap<u32, u64>,
    looked: Instant,
}

impl Attached {
    /// Attaches to the events of all CPUs; `period` = how many of them are one run, of the clock ns.
    pub(super) fn new(program: &mut PerfEvent, spec: &Spec, period: u64) -> Result<Self, ProgramError> {
        let mut cpus = HashMap::new();
        for cpu in host::cpus_online() {
            cpus.insert(cpu, attach(program, spec.hook, period, cpu)?);
        }
        Ok(Self {
            hook: spec.hook,
            period,
            cpus,
            account: spec.account,
            runs: HashMap::new(),
            looked: Instant::now(),
        })
    }

    /// CPUs whose clock stands still. One that went and came back between two looks is online as before, and its event is
    /// silent; that of an idle CPU is not. `runs` says how often the program has run on one.
    fn silent(&mut self, runs: impl Fn(u32) -> u64) -> Vec<u32> {
        let since = self.looked.elapsed();
        let is_due = u128::from(self.period) * TICKS < since.as_nanos();
        if self.hook != Hook::PerfClock || !is_due {
            return Vec::new();
        }
        self.looked = Instant::now();
        let last = std::mem::take(&mut self.runs);
        self.runs = self.cpus.keys().map(|cpu| (*cpu, runs(*cpu))).collect();
        let stands = |(cpu, runs): (&u32, &u64)| (last.get(cpu) == Some(runs)).then_some(*cpu);
        self.runs.iter().filter_map(stands).collect()
    }
}

fn attach(
    program: &mut PerfEvent,
    hook: Hook,
    period: u64,
    cpu: u32,
) -> Result<Vec<PerfEventLinkId>, ProgramError> {
    let events: &[(SoftwareEvent, u64)] = match hook {
        // A program is told the period and not the event: see `profile_fault`.
        Hook::PerfFaults => &[
            (SoftwareEvent::PageFaultsMin, period.max(2)),
            (SoftwareEvent::PageFaultsMaj, 1),
        ],
        _ => &[(SoftwareEvent::CpuClock, period)],
    };
    let scope = PerfEventScope::AllProcessesOneCpu { cpu };
    let attach = |(event, period): &(SoftwareEvent, u64)| {
        // The kernel makes a period of a frequency anyway; so the value of a sample is exact.
        let policy = SamplePolicy::Period(*period);
        program.attach(PerfEventConfig::Software(*event), scope, policy, false)
    };
    events.iter().map(attach).collect()
}

impl Engine {
    /// Attaches a program to the CPUs that have come, and detaches it from those that are gone: an event of a CPU that went
    /// offline stays silent when it comes back, be it between two looks. To run at another period, it is attached anew to
    /// all. Returns on how many it is.
    pub fn follow_cpus(&mut self, program: &str, period: u64) -> usize {
        let Some(attached) = self.events.get_mut(program) else {
            return 0;
        };
        let online = host::cpus_online();
        let anew = period != attached.period;
        let (account, all) = (attached.account, self.cpus as usize);
        let silent = attached.silent(|cpu| {
            let row = account * all + cpu as usize;
            self.accounts.u64_at(row, offset_of!(Account, seen))
        });
        let cpus = &mut attached.cpus;
        let is_known = |c: &u32| cpus.contains_key(c);
        let unchanged =
            !anew && silent.is_empty() && online.len() == cpus.len() && online.iter().all(is_known);
        let loaded = self
            .ebpf
            .as_mut()
            .and_then(|ebpf| ebpf.program_mut(program))
            .and_then(|p| <&mut PerfEvent>::try_from(p).ok());
        let Some(program) = loaded.filter(|_| !unchanged) else {
            return cpus.len();
        };
        attached.period = period;
        let gone: Vec<u32> = cpus
            .keys()
            .copied()
            .filter(|c| anew || silent.contains(c) || !online.contains(c))
            .collect();
        for link in gone.iter().filter_map(|cpu| cpus.remove(cpu)).flatten() {
            let _ = program.detach(link);
        }
        for cpu in online {
            if !cpus.contains_key(&cpu)
                && let Ok(links) = attach(program, attached.hook, period, cpu)
            {
                cpus.insert(cpu, links);
            }
        }
        cpus.len()
    }
}
