//! A program at the ticks of each CPU's clock.

use super::{Engine, host};
use aya::programs::perf_event::{
    PerfEventConfig, PerfEventLinkId, PerfEventScope, SamplePolicy, SoftwareEvent,
};
use aya::programs::{PerfEvent, ProgramError};

/// Attaches to the clock of one CPU.
pub(super) fn attach(program: &mut PerfEvent, cpu: u32, hz: u32) -> Result<PerfEventLinkId, ProgramError> {
    program.attach(
        PerfEventConfig::Software(SoftwareEvent::CpuClock),
        PerfEventScope::AllProcessesOneCpu { cpu },
        // The kernel makes a period of a frequency anyway; so the value of a sample is exact.
        SamplePolicy::Period(1_000_000_000 / u64::from(hz.max(1))),
        false,
    )
}

impl Engine {
    /// Attaches a program to the CPUs that have come, and detaches it from those that are gone: an event of a CPU that went
    /// offline stays silent when it comes back. To be ticked at another rate, all are attached anew. Returns on how many
    /// it is.
    pub fn follow_clocks(&mut self, program: &str, hz: u32) -> usize {
        let online = host::cpus_online();
        let anew = hz != self.sizes.profile_hz;
        let unchanged =
            !anew && online.len() == self.clocks.len() && online.iter().all(|c| self.clocks.contains_key(c));
        let loaded = self
            .ebpf
            .program_mut(program)
            .and_then(|p| <&mut PerfEvent>::try_from(p).ok());
        let Some(program) = loaded.filter(|_| !unchanged) else {
            return self.clocks.len();
        };
        self.sizes.profile_hz = hz;
        let gone: Vec<u32> = self
            .clocks
            .keys()
            .copied()
            .filter(|c| anew || !online.contains(c))
            .collect();
        for cpu in gone {
            if let Some(link) = self.clocks.remove(&cpu) {
                let _ = program.detach(link);
            }
        }
        for cpu in online {
            if !self.clocks.contains_key(&cpu)
                && let Ok(link) = attach(program, cpu, hz)
            {
                self.clocks.insert(cpu, link);
            }
        }
        self.clocks.len()
    }
}
