//! What the agent gives up once everything is attached: capabilities, system calls.
//!
//! The lists and what needs what are the crate agent-confine's; bpf/privileges.rs does it to the threads.

mod files;
mod metrics;

pub use metrics::{METRICS, StatsCollect};

use crate::bpf::{host, privileges};
use crate::config::{Config, TunnelUse};
use crate::identity::{kubernetes, runtimes};
use crate::mountinfo;
use agent_confine::filter::{self, Allowed};
use agent_confine::{Capability, Kept, Needs, capability, keep};
use serde::Serialize;

/// A capability that is held, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Reason {
    /// Such as `CAP_BPF`.
    pub capability: String,
    /// What for.
    pub why: &'static str,
}

/// What has become of it, as `/api/v1/status` tells it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Confinement {
    /// What is kept, and what for.
    pub kept: Vec<Reason>,
    /// What was held at the start and is no more.
    pub given_up: Vec<String>,
    /// Capabilities were given up, on all threads.
    pub capabilities_dropped: bool,
    /// The filter of system calls is there, on all threads.
    pub seccomp: bool,
}

/// What goes on after the start, as far as it takes capabilities.
pub fn needs(config: &Config) -> Needs {
    let p = &config.probes;
    let stacks = p.profile.enabled;
    let forwards = p.path.enabled && !p.path.forwarded.devices.is_empty();
    let tunnels = p.tunnel.enabled != TunnelUse::Off;
    let others = files::of_others(config);
    let per_packet = p.dns.enabled || p.udp.enabled;
    Needs {
        devices: tunnels || forwards,
        backends: kubernetes::is_wanted(config) && config.kubernetes.peers.is_any(),
        namespaces: tunnels && !p.tunnel.namespaces.is_empty(),
        relieves: config.budget.enabled && (p.tcp.enabled || per_packet),
        relieves_cgroups: config.budget.enabled && per_packet,
        stacks,
        kernel_names: stacks || p.drops.enabled,
        file_systems: p.node.enabled,
        traces: p.path.enabled && !p.path.active.peers.is_empty(),
        measures: !host::bpf_stats_are_on(),
        // It may be turned off at any time, if it is not.
        maps_are_guarded: !host::kernel_at_least(5, 19),
        maps_are_locked: !host::kernel_at_least(5, 11),
        host_files: runtimes::host_root().is_some(),
        processes_are_hidden: mountinfo::hides_processes(),
        reads_of_others: others.to_read,
        writes_of_others: others.to_write,
    }
}

/// What would be kept, with what this process holds now.
pub fn kept(config: &Config) -> Vec<Kept> {
    keep(host::permitted_capabilities(), &needs(config))
}

/// Gives up what these settings do not need. To be called when everything is attached and opened. Whatever does not work is
/// told in the log, and the agent goes on.
pub fn apply(config: &Config) -> Confinement {
    let held = host::permitted_capabilities();
    let mut out = Confinement::default();
    if config.security.drop_capabilities {
        let kept = kept(config);
        let mask = capability::mask(&kept);
        match privileges::keep_only(mask) {
            Ok(()) => {
                out.capabilities_dropped = true;
                out.given_up = Capability::all(held & !mask).map(Capability::name).collect();
                out.kept = kept.iter().map(reason).collect();
            }
            Err(e) => tracing::warn!(
                "security.drop_capabilities: {e}; the agent keeps what it was given, which is to have no more than docs/security.md tells"
            ),
        }
    }
    if !out.capabilities_dropped {
        out.kept = given(held);
    }
    if config.security.seccomp {
        let allowed = Allowed {
            stacks: config.probes.profile.enabled,
            namespaces: !config.probes.tunnel.namespaces.is_empty(),
        };
        match privileges::handle_refused()
            .map_err(|e| e.to_string())
            .and_then(|()| filter::apply(allowed))
        {
            Ok(()) => out.seccomp = true,
            Err(e) => {
                tracing::warn!("security.seccomp: {e}; the agent goes on without a filter of system calls")
            }
        }
    }
    tracing::info!("{}", out.told());
    out
}

/// For the process that reads symbols, files of whatever runs on the machine: it may read, and do nothing else. What does not
/// work is no reason not to read; the error says what, in one line, and why.
pub fn reader() -> Result<(), String> {
    // First: the agent's own filter is there already.
    let handled = privileges::handle_refused().map_err(|e| e.to_string());
    let mask = capability::READER.iter().fold(0, |mask, one| mask | one.bit());
    let lowered = privileges::keep_only(mask).map_err(|e| format!("it keeps capabilities: {e}"));
    // Without its handler a refused call would be its end.
    let filtered = handled.and_then(|()| filter::apply_reader());
    let filtered = filtered.map_err(|e| format!("its system calls are not filtered: {e}"));
    let failed: Vec<String> = [lowered, filtered].into_iter().filter_map(Result::err).collect();
    match failed.is_empty() {
        true => Ok(()),
        false => Err(failed.join("; ")),
    }
}

fn reason(kept: &Kept) -> Reason {
    Reason {
        capability: kept.capability.name(),
        why: kept.why,
    }
}

/// In one line: what is kept and why, or that it is nothing.
fn sentence(kept: &[Reason]) -> String {
    if kept.is_empty() {
        return "no capability".into();
    }
    let parts: Vec<String> = kept
        .iter()
        .map(|kept| format!("{} ({})", kept.capability, kept.why))
        .collect();
    parts.join(", ")
}

/// What would be kept, and what for, as `geophone check` says it beforehand.
pub fn foretold(config: &Config) -> Vec<Reason> {
    if config.security.drop_capabilities {
        kept(config).iter().map(reason).collect()
    } else {
        given(host::permitted_capabilities())
    }
}

/// Those of a mask, of which none is given up.
fn given(held: u64) -> Vec<Reason> {
    let reason = |capability: Capability| Reason {
        capability: capability.name(),
        why: "was given",
    };
    Capability::all(held).map(reason).collect()
}

impl Confinement {
    /// In one line, for the log.
    fn told(&self) -> String {
        let filter = if self.seccomp {
            "system calls are filtered"
        } else {
            "system calls are not filtered"
        };
        let given_up = match self.given_up.len() {
            _ if !self.capabilities_dropped => "nothing is given up".to_owned(),
            0 => "there was nothing to give up".to_owned(),
            many => format!("{many} given up"),
        };
        format!(
            "privileges from now on: {}; {given_up}; {filter}",
            sentence(&self.kept)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use agent_confine::keep;

    fn settled(change: impl FnOnce(&mut Config)) -> Vec<String> {
        let mut config = Config::default();
        change(&mut config);
        let needs = Needs {
            // What depends on the machine.
            measures: false,
            maps_are_guarded: false,
            maps_are_locked: false,
            host_files: false,
            processes_are_hidden: false,
            reads_of_others: false,
            writes_of_others: false,
            ..needs(&config)
        };
        keep(u64::MAX, &needs)
            .iter()
            .map(|kept| kept.capability.name())
            .collect()
    }

    #[test]
    fn what_is_off_needs_nothing() {
        let off = settled(|config| {
            config.budget.enabled = false;
            config.probes.tunnel.enabled = TunnelUse::Off;
            config.probes.drops.enabled = false;
            config.probes.node.enabled = false;
        });
        assert!(off.is_empty(), "{off:?}");
        let back = settled(|config| {
            config.probes.tunnel.enabled = TunnelUse::Off;
            config.probes.drops.enabled = false;
            config.probes.node.enabled = false;
        });
        assert_eq!(back, ["CAP_PERFMON", "CAP_BPF"]);
        let back = settled(|config| {
            config.probes.tunnel.enabled = TunnelUse::Off;
            config.probes.udp.enabled = true;
        });
        assert!(back.contains(&"CAP_NET_ADMIN".to_owned()), "{back:?}");
    }

    #[test]
    fn each_setting_keeps_what_it_takes() {
        let tunnels = settled(|config| {
            config.probes.drops.enabled = false;
            config.probes.node.enabled = false;
        });
        assert_eq!(tunnels, ["CAP_NET_ADMIN", "CAP_PERFMON", "CAP_BPF"]);
        let stacks = settled(|config| {
            config.probes.tunnel.enabled = TunnelUse::Off;
            config.probes.profile.enabled = true;
        });
        for name in [
            "CAP_SYS_PTRACE",
            "CAP_DAC_READ_SEARCH",
            "CAP_SYSLOG",
            "CAP_PERFMON",
            "CAP_BPF",
        ] {
            assert!(stacks.iter().any(|kept| kept == name), "{name}: {stacks:?}");
        }
        assert!(!stacks.iter().any(|kept| kept == "CAP_NET_ADMIN"));
    }

    #[test]
    fn it_is_said_in_one_line() {
        let mut confinement = Confinement {
            kept: vec![Reason {
                capability: "CAP_SYSLOG".into(),
                why: "names",
            }],
            given_up: vec!["CAP_CHOWN".into()],
            capabilities_dropped: true,
            seccomp: true,
        };
        assert_eq!(
            confinement.told(),
            "privileges from now on: CAP_SYSLOG (names); 1 given up; system calls are filtered"
        );
        confinement.kept.clear();
        confinement.seccomp = false;
        assert_eq!(
            confinement.told(),
            "privileges from now on: no capability; 1 given up; system calls are not filtered"
        );
    }
}
