//! How a program is declared, and how large the maps are.

use super::fields::Group;
use serde::{Deserialize, Serialize};

/// Where a program hooks in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// BTF tracepoint.
    TpBtf(&'static str),
    /// End of a kernel function.
    Fexit(&'static str),
    /// Beginning of a kernel function, whatever the compiler has hung on its name (`.isra.0`).
    Kprobe(&'static str),
    /// Iterator over the elements of a map, run when asked.
    IterMap(&'static str),
    /// Iterator over all open files, run when asked.
    IterFiles,
    /// Iterator over all threads, run when asked.
    IterTasks,
    /// Socket operations of a cgroup tree.
    SockOps,
    /// Packets of devices; see [`super::tc`]. Attaching loads, the devices follow.
    Tc(super::tc::Way),
    /// Packets that the sockets of a cgroup tree receive.
    SkbIngress,
    /// Packets that they send.
    SkbEgress,
    /// New sockets of a cgroup tree.
    SockCreate,
    /// The clock of each CPU; see [`super::clock`].
    PerfClock,
    /// Page faults on each CPU; see [`super::clock`].
    PerfFaults,
}

impl Hook {
    /// As the table shows it.
    pub fn describe(self) -> String {
        match self {
            Self::TpBtf(name) => format!("tp_btf/{name}"),
            Self::Fexit(name) => format!("fexit/{name}"),
            Self::Kprobe(name) => format!("kprobe/{name}"),
            Self::IterMap(_) => "iter/bpf_sk_storage_map".into(),
            Self::IterFiles => "iter/task_file".into(),
            Self::IterTasks => "iter/task".into(),
            Self::SockOps => "sock_ops".into(),
            Self::Tc(way) => format!("{}/{}", super::tc::mechanism(), way.as_str()),
            Self::SkbIngress => "cgroup_skb/ingress".into(),
            Self::SkbEgress => "cgroup_skb/egress".into(),
            Self::SockCreate => "cgroup/sock_create".into(),
            Self::PerfClock => "perf_event/cpu-clock".into(),
            Self::PerfFaults => "perf_event/page-faults".into(),
        }
    }
}

/// Declaration of a program, beside its probe.
pub struct Spec {
    /// Function in the object.
    pub name: &'static str,
    /// Probe.
    pub probe: &'static str,
    /// Its account.
    pub account: usize,
    /// Where it hooks in.
    pub hook: Hook,
    /// Kernel fields that it reads.
    pub needs: &'static [Group],
    /// Nothing else does its work.
    pub required: bool,
    /// What is missing without it, and what would help.
    pub remedy: &'static str,
}

/// Sizes, fixed before anything runs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Sizes {
    /// Ring buffer in bytes, a power of two.
    pub ring_bytes: u32,
    /// Rows of pairs, `other` included.
    pub slots: u32,
    /// Shards of each row, a power of two.
    pub shards: u32,
    /// Keys of dropped packets.
    pub drop_keys: u32,
    /// Prefixes.
    pub prefixes: u32,
    /// Tunnels, `other` included.
    pub tunnels: u32,
    /// Probe `path` is on: `tcp_probe` looks at the way of each connection.
    pub paths: bool,
    /// The names that are asked for in DNS are told.
    pub dns_names: bool,
    /// Probe `sched` is on.
    pub sched: bool,
    /// Stacks per second and CPU; 0 = none are taken of the CPUs.
    pub profile_hz: u32,
    /// Page faults that are one sample.
    pub fault_period: u64,
    /// Threads off their CPU are followed.
    pub off_cpu: bool,
    /// Locks of the kernel are.
    pub locks: bool,
    /// Shards of unwind tables, 1 MiB each.
    pub unwind_shards: u32,
}

impl Sizes {
    /// Cells of `TUNNEL_INNER`, a power of two; half of them free when each tunnel has four pairs inside.
    pub fn tunnel_inner(&self) -> u32 {
        (self.tunnels * 4).next_power_of_two()
    }
}
