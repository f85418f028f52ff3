//! What runs beside the workload: nothing, geophone, or another tool with the same job.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde::Serialize;

use super::child::{Child, Program, free_port, pause};
use super::metrics::{Page, Scraper, get};
use super::proc::{Memory, cpu_seconds, memory, tree};
use super::stats::median;
use super::vxlan;

/// The same job in bpftrace: RTT histogram, retransmits and drops by reason, printed once a second.
const BPFTRACE: &str = "tracepoint:tcp:tcp_probe { @rtt = hist(args->srtt); } \
     tracepoint:tcp:tcp_retransmit_skb { @retransmits = count(); } \
     tracepoint:skb:kfree_skb { @drops[args->reason] = count(); } \
     interval:s:1 { print(@rtt); print(@retransmits); print(@drops); }";

/// bpftrace wants tracefs below debugfs, which this machine may not have mounted: in a mount namespace of its own.
const WITH_TRACEFS: &str = "mount -t debugfs none /sys/kernel/debug; \
     mount -t tracefs none /sys/kernel/debug/tracing; exec bpftrace -e \"$0\"";

/// What runs beside the workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A process that sleeps: what differs then is noise.
    Null,
    /// geophone as it comes.
    Geophone,
    /// geophone that keeps no budget, so that nothing is given up under load.
    Unbounded,
    /// geophone that makes its records though nobody listens.
    Telling,
    /// geophone without probe `tunnel`, and without a budget.
    NoTunnels,
    /// Probe `tunnel`: geophone with it, compared with [`Subject::NoTunnels`].
    Tunnels,
    /// geophone that takes stacks, and without a budget; compared with [`Subject::Unbounded`].
    Stacks {
        /// A second and CPU.
        hz: u32,
    },
    /// `perf record`, stacks by frame pointers.
    Perf,
    /// A bpftrace script of the same job.
    Bpftrace,
    /// pmacctd, which counts the underlay's packets by addresses and ports.
    Pmacctd,
    /// softflowd, which counts them by flow.
    Softflowd,
    /// prometheus-node-exporter.
    NodeExporter,
}

impl Subject {
    /// Name in the table.
    pub fn name(self) -> &'static str {
        match self {
            Self::Null => "null (sleep)",
            Self::Geophone => "geophone",
            Self::Unbounded => "geophone, no budget",
            Self::Telling => "geophone, all records",
            Self::NoTunnels => "geophone without tunnel",
            Self::Tunnels => "probe tunnel alone",
            Self::Stacks { hz: 49 } => "stacks at 49 Hz",
            Self::Stacks { hz: 99 } => "stacks at 99 Hz",
            Self::Stacks { .. } => "stacks",
            Self::Perf => "perf record -F 99 -a -g",
            Self::Bpftrace => "bpftrace",
            Self::Pmacctd => "pmacctd",
            Self::Softflowd => "softflowd",
            Self::NodeExporter => "node_exporter",
        }
    }

    /// The most that CPU per operation may be with it, as a ratio.
    pub fn target(self) -> Option<f64> {
        match self {
            Self::Geophone | Self::Unbounded => Some(1.03),
            Self::Tunnels | Self::Stacks { .. } => Some(1.02),
            _ => None,
        }
    }

    /// What it is compared with, if not with nothing.
    pub fn base(self) -> Option<Self> {
        match self {
            Self::Tunnels => Some(Self::NoTunnels),
            Self::Stacks { .. } => Some(Self::Unbounded),
            _ => None,
        }
    }
}

/// Where things are.
pub struct Place {
    /// The agent's binary.
    pub agent: PathBuf,
    /// For logs and configurations.
    pub scratch: PathBuf,
}

/// A running subject.
pub struct Beside {
    child: Child,
    port: Option<u16>,
    scraper: Option<Scraper>,
}

/// What it has used in a measurement.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Usage {
    /// CPU seconds per second.
    pub cpu: f64,
    /// Memory of the process at the end.
    pub memory: Memory,
    /// Memory of the eBPF maps.
    pub maps: f64,
    /// Step of the governor at the end.
    pub level: f64,
    /// Series that it exposes.
    pub series: usize,
    /// Time of a scrape, seen from outside, ms.
    pub scrape_millis: f64,
    /// Scrapes that failed.
    pub scrape_errors: usize,
}

/// CPU so far, to be compared with later.
pub struct Mark(Instant, f64);

impl Beside {
    /// Starts it and waits until it works. What exports metrics is asked for them once a second.
    pub fn start(subject: Subject, place: &Place) -> Result<Self> {
        let scratch: &Path = &place.scratch;
        let agent = place.agent.display().to_string();
        let port = match subject {
            Subject::Geophone
            | Subject::Unbounded
            | Subject::Telling
            | Subject::NoTunnels
            | Subject::Tunnels
            | Subject::Stacks { .. } => Some(free_port(19_779)?),
            Subject::NodeExporter => Some(free_port(19_100)?),
            Subject::Null | Subject::Perf | Subject::Bpftrace | Subject::Pmacctd | Subject::Softflowd => None,
        };
        let listen = format!("127.0.0.1:{}", port.unwrap_or_default());
        // Not where the machine's own agent has it.
        let store = format!("store.directory={}", scratch.join("remembered").display());
        let run = [
            agent.as_str(),
            "run",
            "--set",
            store.as_str(),
            "--log",
            "warn",
            "--listen",
            listen.as_str(),
        ];
        let program = match subject {
            Subject::Null => Program::new(["sleep", "infinity"]),
            Subject::Geophone => Program::new(run),
            Subject::Unbounded | Subject::Tunnels => {
                Program::new(run.into_iter().chain(["--set", "budget.enabled=false"]))
            }
            Subject::Stacks { hz } => {
                let hz = format!("probes.profile.hz={hz}");
                let sets = [
                    "--set",
                    "budget.enabled=false",
                    "--set",
                    "probes.profile.enabled=true",
                    "--set",
                    hz.as_str(),
                ];
                Program::new(run.into_iter().chain(sets))
            }
            Subject::Perf => {
                let file = scratch.join("perf.data").display().to_string();
                let words = [
                    "perf",
                    "record",
                    "-q",
                    "-e",
                    "cpu-clock",
                    "-F",
                    "99",
                    "-a",
                    "-g",
                    "-o",
                    &file,
                ];
                Program::new(words)
            }
            Subject::Telling => {
                Program::new(run.into_iter().chain(["--set", "probes.tcp.flows_always=true"]))
            }
            Subject::NoTunnels => {
                let sets = [
                    "--set",
                    "budget.enabled=false",
                    "--set",
                    "probes.tunnel.enabled=false",
                ];
                Program::new(run.into_iter().chain(sets))
            }
            Subject::Pmacctd => Program::new([
                "pmacctd",
                "-i",
                vxlan::UNDERLAY,
                "-P",
                "memory",
                "-p",
                &scratch.join("pmacct.pipe").display().to_string(),
                "-c",
                "src_host,dst_host,src_port,dst_port,proto",
            ]),
            Subject::Softflowd => Program::new([
                "softflowd",
                "-d",
                "-i",
                vxlan::UNDERLAY,
                "-c",
                &scratch.join("softflowd.ctl").display().to_string(),
                "-p",
                &scratch.join("softflowd.pid").display().to_string(),
            ]),
            Subject::Bpftrace => Program::new(["unshare", "--mount", "sh", "-c", WITH_TRACEFS, BPFTRACE]),
            Subject::NodeExporter => Program::new([
                "prometheus-node-exporter",
                &format!("--web.listen-address={listen}"),
            ]),
        };
        let mut child = program.start(scratch)?;
        let limit = Duration::from_secs(30);
        match (subject, port) {
            (Subject::Bpftrace, _) => child.wait_until(limit, |c| c.output().contains("Attaching"))?,
            (Subject::NodeExporter, Some(port)) => {
                child.wait_until(limit, |_| get(port, "/metrics").is_ok())?
            }
            (_, Some(port)) => child.wait_until(limit, |_| get(port, "/readyz").is_ok())?,
            _ => {}
        }
        let scraper = port.map(Scraper::start);
        // Start-up is over after that, and the agent has measured its programs for the first time.
        pause(Duration::from_millis(if subject == Subject::Null {
            300
        } else {
            2500
        }))?;
        child.check()?;
        Ok(Self { child, port, scraper })
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// CPU seconds so far.
    pub fn cpu(&self) -> f64 {
        tree(self.pid()).into_iter().map(cpu_seconds).sum()
    }

    /// Metrics, asked for now.
    pub fn page(&self) -> Result<Page> {
        self.port
            .map_or_else(|| Ok(Page::default()), |port| get(port, "/metrics").map(Page))
    }

    /// Times of all scrapes so far, ms.
    pub fn scrapes(&self) -> Vec<f64> {
        self.scraper.as_ref().map(|s| s.state().1).unwrap_or_default()
    }

    /// A page of its API.
    pub fn get(&self, path: &str) -> Result<String> {
        get(self.port.context("it has no API")?, path)
    }

    /// Begins a measurement.
    pub fn mark(&self) -> Mark {
        Mark(Instant::now(), self.cpu())
    }

    /// Ends a measurement.
    pub fn usage(&mut self, mark: &Mark) -> Result<Usage> {
        self.child.check()?;
        let (page, millis, scrape_errors) = self.scraper.as_ref().map(Scraper::state).unwrap_or_default();
        Ok(Usage {
            cpu: (self.cpu() - mark.1) / mark.0.elapsed().as_secs_f64(),
            memory: memory(self.pid()),
            maps: page.sum("geophone_map_memory_bytes"),
            level: page.sum("geophone_governor_level"),
            series: page.len(),
            scrape_millis: median(&millis),
            scrape_errors,
        })
    }

    /// Stops it.
    pub fn stop(mut self) -> Result<()> {
        self.scraper = None;
        self.child.check()?;
        self.child.stop();
        // The kernel frees programs and maps a little later.
        pause(Duration::from_millis(400))
    }
}
