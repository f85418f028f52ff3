//! What programs cost, by BPF_PROG_TEST_RUN; see agent-ebpf/src/bench.rs.

use super::Engine;
use super::{KernelMap, sys};
use crate::error::{Context as _, Error, Result};
use agent_common::tunnel::{END_ROWS, EndKey};
use agent_common::wire::Wire as _;
use aya::maps::{MapData, ProgramArray};
use aya::programs::{Program, ProgramError, ProgramFd, TestRun as _, TestRunOptions};
use std::collections::BTreeMap;
use std::os::fd::AsFd as _;
use std::time::Duration;

/// Longer than what a test run puts an Ethernet header on.
const PACKET: [u8; 64] = [0; 64];

impl Engine {
    /// Runs that the kernel skipped because the program was already running on that CPU, by account.
    pub fn recursion_misses(&self) -> BTreeMap<usize, u64> {
        let mut out = BTreeMap::new();
        for (name, account) in &self.known {
            let program = self.program(name);
            if let Some(Ok(fd)) = program.map(|p| p.fd())
                && let Some(misses) = sys::recursion_misses(fd.as_fd())
            {
                *out.entry(*account).or_default() += misses;
            }
        }
        out
    }

    /// (program, run time in ns, runs) as the kernel counts them while statistics are on; a program may come twice.
    pub fn run_times(&self) -> Vec<(&str, u64, u64)> {
        // What an entry jumps to runs in the entry's time.
        let entries = self.entries.iter().map(|((_, name), p)| (*name, p.info()));
        self.ebpf
            .iter()
            .flat_map(aya::Ebpf::programs)
            .map(|(name, p)| (name, p.info()))
            .chain(entries)
            .filter_map(|(name, info)| Some((self.first(name).unwrap_or(name), info.ok()?)))
            .map(|(name, info)| {
                let nanos = u64::try_from(info.run_time().as_nanos()).unwrap_or(u64::MAX);
                (name, nanos, info.run_count())
            })
            .collect()
    }

    /// Run time of an empty program in ns, as the kernel's statistics see it: the floor of all other figures.
    pub fn calibrate(&mut self) -> Option<f64> {
        self.test_run("floor", 20_000)?;
        let stats = aya::sys::enable_stats(aya::sys::Stats::RunTime).ok()?;
        let info = |e: &Self| {
            Some((
                e.program("floor")?.info().ok()?.run_time(),
                e.program("floor")?.info().ok()?.run_count(),
            ))
        };
        let before = info(self)?;
        self.test_run("floor", 20_000)?;
        let after = info(self)?;
        drop(stats);
        let runs = after.1.saturating_sub(before.1);
        (runs > 0).then(|| after.0.saturating_sub(before.0).as_nanos() as f64 / runs as f64)
    }

    /// Runs a program that attaches to nothing.
    pub fn test_run(&mut self, name: &str, repeat: u32) -> Option<Duration> {
        self.run_packet(name, &PACKET, repeat).ok()
    }

    /// Runs a program with a packet, so many times; returns the mean of one.
    pub fn run_packet(&mut self, name: &str, packet: &[u8], repeat: u32) -> Result<Duration> {
        self.load_program(name)?;
        let options = TestRunOptions {
            data_in: Some(packet),
            repeat,
            ..Default::default()
        };
        match self.program(name) {
            Some(Program::SchedClassifier(p)) => p.test_run(options),
            Some(Program::CgroupSkb(p)) => p.test_run(options),
            Some(Program::Xdp(p)) => p.test_run(options),
            _ => return Err(Error::new(format_args!("{name} takes no packets"))),
        }
        .map(|result| result.duration)
        .context(format_args!("BPF_PROG_TEST_RUN of {name}"))
    }

    /// Runs a program on devices once over a packet; returns its action, `None` if the kernel does not take this for a
    /// packet.
    pub fn classify(&mut self, name: &str, packet: &[u8]) -> Result<Option<i32>> {
        let Some(Program::SchedClassifier(program)) = self.program(name) else {
            return Err(Error::new(format_args!("{name} is no program on devices")));
        };
        let options = TestRunOptions {
            data_in: Some(packet),
            ..Default::default()
        };
        match program.test_run(options) {
            Ok(result) => Ok(Some(result.return_value.cast_signed())),
            Err(ProgramError::SyscallError(e)) if e.io_error.raw_os_error() == Some(libc::EINVAL) => Ok(None),
            Err(e) => Err(e).context(format_args!("BPF_PROG_TEST_RUN of {name}")),
        }
    }

    fn load_program(&mut self, name: &str) -> Result<ProgramFd> {
        let program = self.program_mut(name);
        let program = program.context(format_args!("the object has no program {name}"))?;
        let loaded = match program {
            Program::SchedClassifier(p) => p.load(),
            Program::CgroupSkb(p) => p.load(),
            Program::Xdp(p) => p.load(),
            _ => Ok(()),
        };
        match loaded {
            Ok(()) | Err(ProgramError::AlreadyLoaded) => {}
            Err(e) => return Err(Error::new(format_args!("loading {name}: {e}"))),
        }
        let fd = program.fd().context(format_args!("program {name}"))?;
        fd.try_clone().context(format_args!("program {name}"))
    }
}

/// Sends packets through programs of the probes `tunnel`, `dns` and `udp`, each with the next sequence number.
pub struct Packets {
    engine: Engine,
    next: ProgramArray<MapData>,
    sequence: KernelMap,
    /// Programs that are loaded later need their descriptors.
    _kept: (KernelMap, [KernelMap; 2]),
}

impl Packets {
    /// As if probe `tunnel` were on, with the usual ports.
    pub fn new(mut engine: Engine) -> Result<Self> {
        let free = engine.take_data("TUNNEL_FREE")?;
        for slot in 1..engine.sizes.tunnels {
            free.push(slot).context("map TUNNEL_FREE")?;
        }
        let ports = engine.take_data("TUNNEL_PORTS")?;
        let mut table = vec![0u8; 1 << 16];
        for (port, kind) in agent_common::tunnel::PORTS {
            if let Some(place) = table.get_mut(usize::from(port)) {
                *place = kind;
            }
        }
        ports
            .update(&0u32.to_ne_bytes(), &table)
            .context("map TUNNEL_PORTS")?;
        let ends = engine.take_data("TUNNEL_ENDS")?;
        // Rows are made by what comes in as well.
        for end in agent_common::tunnel::corpus::ends() {
            let mut key = Vec::with_capacity(EndKey::SIZE);
            end.encode(&mut key);
            ends.update(&key, &END_ROWS.to_ne_bytes())
                .context("map TUNNEL_ENDS")?;
        }
        Ok(Self {
            next: ProgramArray::try_from(engine.take_map("BENCH_NEXT")?).context("map BENCH_NEXT")?,
            sequence: engine.take_data("BENCH_SEQUENCE")?,
            engine,
            _kept: (free, [ports, ends]),
        })
    }

    /// Runs a classifier by way of `numbered`, which counts up the number at (offset, bytes); returns the mean of one.
    pub fn run(
        &mut self,
        program: &str,
        packet: &[u8],
        sequence: Option<(u32, u32)>,
        repeat: u32,
    ) -> Result<Duration> {
        let fd = self.engine.load_program(program)?;
        self.next.set(0, &fd, 0).context("map BENCH_NEXT")?;
        let (offset, width) = sequence.unwrap_or_default();
        let value = [offset.to_ne_bytes(), width.to_ne_bytes()].concat();
        self.sequence
            .update(&0u32.to_ne_bytes(), &value)
            .context("map BENCH_SEQUENCE")?;
        self.engine.run_packet("numbered", packet, repeat)
    }

    /// Runs a program of sockets' packets; returns the mean of one.
    pub fn run_socket(&mut self, program: &str, packet: &[u8], repeat: u32) -> Result<Duration> {
        self.engine.run_packet(program, packet, repeat)
    }

    /// For the accounts.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }
}
