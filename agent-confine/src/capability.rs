//! Capabilities by name, and which of them what takes after the start.

/// A capability of Linux: its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Capability(pub u8);

/// Names by number, as <linux/capability.h> has them, without `CAP_`.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

impl Capability {
    /// Files of others, to write.
    pub const DAC_OVERRIDE: Self = Self(1);
    /// Files of others, to read.
    pub const DAC_READ_SEARCH: Self = Self(2);
    /// Programs on devices and cgroups, WireGuard.
    pub const NET_ADMIN: Self = Self(12);
    /// Raw sockets.
    pub const NET_RAW: Self = Self(13);
    /// `/proc` of others.
    pub const SYS_PTRACE: Self = Self(19);
    /// Much.
    pub const SYS_ADMIN: Self = Self(21);
    /// Locked memory without limit, before 5.11.
    pub const SYS_RESOURCE: Self = Self(24);
    /// Addresses in `/proc/kallsyms`.
    pub const SYSLOG: Self = Self(34);
    /// Programs that read kernel memory, perf events.
    pub const PERFMON: Self = Self(38);
    /// Maps and programs.
    pub const BPF: Self = Self(39);
    /// `/proc/PID/map_files`.
    pub const CHECKPOINT_RESTORE: Self = Self(40);

    /// Such as `CAP_BPF`; of one that this does not know, its number.
    pub fn name(self) -> String {
        match NAMES.get(usize::from(self.0)) {
            Some(name) => format!("CAP_{name}"),
            None => format!("CAP_{}", self.0),
        }
    }

    /// The bit of a mask.
    pub const fn bit(self) -> u64 {
        1 << self.0
    }

    /// Those of a mask, by number.
    pub fn all(mask: u64) -> impl Iterator<Item = Self> {
        (0..64).map(Self).filter(move |one| mask & one.bit() != 0)
    }
}

/// What the process keeps that reads symbols: it opens files of others, and looks at other processes.
pub const READER: [Capability; 3] = [
    Capability::DAC_READ_SEARCH,
    Capability::SYS_PTRACE,
    Capability::CHECKPOINT_RESTORE,
];

/// What goes on after the start, as far as it takes capabilities.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Programs are put on devices that come later: tunnels, forwarded connections.
    pub devices: bool,
    /// Other network namespaces are entered.
    pub namespaces: bool,
    /// It is asked which endpoint of a service NAT has chosen.
    pub backends: bool,
    /// What the budget takes away under load is loaded and attached again.
    pub relieves: bool,
    /// That of cgroups as well.
    pub relieves_cgroups: bool,
    /// Stacks are taken: perf events of CPUs that come, tables of programs that start.
    pub stacks: bool,
    /// Functions of the kernel are named: places of drops, frames of stacks.
    pub kernel_names: bool,
    /// Use of file systems is told, of those as well that are mounted where only others may go.
    pub file_systems: bool,
    /// Ways to peers are traced.
    pub traces: bool,
    /// The run time of programs is measured by switching the kernel's statistics on.
    pub measures: bool,
    /// Linux before 5.19 asks for `BPF` at each look into a map, where unprivileged use is off.
    pub maps_are_guarded: bool,
    /// Linux before 5.11, where maps count as locked memory.
    pub maps_are_locked: bool,
    /// Names of containers are read through the root of the first process.
    pub host_files: bool,
    /// `/proc` shows processes of others to nobody but who may trace them (`hidepid`).
    pub processes_are_hidden: bool,
    /// A file or directory of the settings can only be read by its owner, who is somebody else.
    pub reads_of_others: bool,
    /// A directory that is written to is somebody else's.
    pub writes_of_others: bool,
}

/// A capability that is kept, and what for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Which.
    pub capability: Capability,
    /// What for, for people: one need of perhaps several.
    pub why: &'static str,
}

/// A need, the capability that it takes, and why in words.
type Rule = (fn(&Needs) -> bool, Capability, &'static str);

/// What takes which; of several reasons for one the first is told.
const RULES: &[Rule] = &[
    (
        |n| n.devices,
        Capability::BPF,
        "programs of devices that come later",
    ),
    (
        |n| n.stacks,
        Capability::BPF,
        "tables of programs that start later",
    ),
    (
        |n| n.relieves,
        Capability::BPF,
        "programs that the budget takes away for a while",
    ),
    (
        |n| n.maps_are_guarded,
        Capability::BPF,
        "reading maps, before Linux 5.19",
    ),
    (
        |n| n.devices,
        Capability::PERFMON,
        "programs of devices that come later",
    ),
    (
        |n| n.stacks,
        Capability::PERFMON,
        "perf events of CPUs that come later",
    ),
    (
        |n| n.relieves,
        Capability::PERFMON,
        "programs that the budget takes away for a while",
    ),
    (
        |n| n.devices,
        Capability::NET_ADMIN,
        "devices that come later, WireGuard's peers",
    ),
    (
        |n| n.backends,
        Capability::NET_ADMIN,
        "endpoints behind services, from the kernel's connection tracking",
    ),
    (
        |n| n.relieves_cgroups,
        Capability::NET_ADMIN,
        "programs of cgroups that the budget takes away for a while",
    ),
    (
        |n| n.stacks,
        Capability::SYS_PTRACE,
        "stacks of other users' processes",
    ),
    (
        |n| n.namespaces,
        Capability::SYS_PTRACE,
        "network namespaces of other users' processes",
    ),
    (
        |n| n.host_files,
        Capability::SYS_PTRACE,
        "names of containers, from the host's files",
    ),
    (
        |n| n.processes_are_hidden,
        Capability::SYS_PTRACE,
        "names of processes, as /proc has hidepid",
    ),
    (
        |n| n.stacks,
        Capability::DAC_READ_SEARCH,
        "programs that only their owners may read",
    ),
    (
        |n| n.namespaces,
        Capability::DAC_READ_SEARCH,
        "network namespaces in directories of others",
    ),
    (
        |n| n.file_systems,
        Capability::DAC_READ_SEARCH,
        "file systems in directories of others",
    ),
    (
        |n| n.reads_of_others,
        Capability::DAC_READ_SEARCH,
        "files of the settings that are somebody else's",
    ),
    (
        |n| n.writes_of_others,
        Capability::DAC_OVERRIDE,
        "a directory of the settings that is somebody else's",
    ),
    (
        |n| n.stacks,
        Capability::CHECKPOINT_RESTORE,
        "programs that were replaced while they run",
    ),
    (
        |n| n.kernel_names,
        Capability::SYSLOG,
        "names of the kernel's functions",
    ),
    (|n| n.traces, Capability::NET_RAW, "traces"),
    (
        |n| n.namespaces,
        Capability::SYS_ADMIN,
        "other network namespaces (probes.tunnel.namespaces)",
    ),
    (
        |n| n.measures,
        Capability::SYS_ADMIN,
        "measuring what the programs cost; kernel.bpf_stats_enabled=1 does without",
    ),
    (
        |n| n.maps_are_locked && n.stacks,
        Capability::SYS_RESOURCE,
        "maps that are made later, before Linux 5.11",
    ),
];

/// What is kept of the capabilities in `held`, a mask, in the order of their numbers; the rest is to be given up.
pub fn keep(held: u64, needs: &Needs) -> Vec<Kept> {
    let mut out: Vec<Kept> = Vec::new();
    for (is_needed, capability, why) in RULES {
        let is_new = out.iter().all(|kept| kept.capability != *capability);
        if held & capability.bit() != 0 && is_new && is_needed(needs) {
            out.push(Kept {
                capability: *capability,
                why,
            });
        }
    }
    out.sort_by_key(|kept| kept.capability);
    out
}

/// The capabilities of a list as a mask.
pub fn mask(kept: &[Kept]) -> u64 {
    kept.iter().fold(0, |mask, kept| mask | kept.capability.bit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(held: u64, needs: &Needs) -> Vec<String> {
        keep(held, needs)
            .iter()
            .map(|kept| kept.capability.name())
            .collect()
    }

    #[test]
    fn names_are_those_of_the_kernel() {
        for (number, name) in [
            (1, "DAC_OVERRIDE"),
            (12, "NET_ADMIN"),
            (21, "SYS_ADMIN"),
            (34, "SYSLOG"),
            (38, "PERFMON"),
            (40, "CHECKPOINT_RESTORE"),
        ] {
            assert_eq!(Capability(number).name(), format!("CAP_{name}"));
        }
        assert_eq!(Capability(63).name(), "CAP_63");
        assert_eq!(
            Capability::all(1 << 39 | 1 << 12).collect::<Vec<_>>(),
            [Capability::NET_ADMIN, Capability::BPF]
        );
    }

    #[test]
    fn nothing_is_kept_that_nothing_needs() {
        assert!(keep(u64::MAX, &Needs::default()).is_empty());
        let tunnels = Needs {
            devices: true,
            ..Needs::default()
        };
        assert_eq!(
            names(u64::MAX, &tunnels),
            ["CAP_NET_ADMIN", "CAP_PERFMON", "CAP_BPF"]
        );
        let drops = Needs {
            kernel_names: true,
            ..Needs::default()
        };
        assert_eq!(names(u64::MAX, &drops), ["CAP_SYSLOG"]);
        let backends = Needs {
            backends: true,
            ..Needs::default()
        };
        assert_eq!(names(u64::MAX, &backends), ["CAP_NET_ADMIN"]);
    }

    #[test]
    fn nothing_is_kept_that_is_not_held() {
        let all = Needs {
            devices: true,
            namespaces: true,
            backends: true,
            relieves: true,
            relieves_cgroups: true,
            stacks: true,
            kernel_names: true,
            file_systems: true,
            traces: true,
            measures: true,
            maps_are_guarded: true,
            maps_are_locked: true,
            host_files: true,
            processes_are_hidden: true,
            reads_of_others: true,
            writes_of_others: true,
        };
        assert!(keep(0, &all).is_empty());
        let held = Capability::BPF.bit() | Capability::NET_RAW.bit() | 1;
        let kept = keep(held, &all);
        assert_eq!(mask(&kept), held & !1, "CHOWN is for nothing");
        // Each rule is for a need: none is kept by all needs and by no single one.
        assert_eq!(mask(&keep(u64::MAX, &all)).count_ones(), 11);
    }
}
