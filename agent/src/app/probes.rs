//! From the settings to the probes, and to the sizes of their maps.

use crate::bpf::{Sizes, host};
use crate::config::{Config, Pairs, RttSource, TunnelUse};
use crate::identity::{Peers, kubernetes};
use crate::probes::{Probe, block, cgroup, dns, drops, netdev, node, path, profile, sched, tcp, tunnel, udp};
use agent_common::tcp::PairCells;

/// Time series that a pair of subject and peer typically has.
const SERIES_PER_PAIR: usize = 20;

/// Sizes of the maps: the cells take the configured memory, whatever the number of CPUs.
pub fn sizes(config: &Config, peers: &Peers) -> Sizes {
    let cpus = host::possible_cpus();
    let shards = cpus.next_power_of_two().min(8);
    let row = size_of::<PairCells>() as u64 * u64::from(shards);
    let slots = match config.limits.pairs {
        Pairs::Auto => (config.limits.memory.get() / row).clamp(64, 65_536) as u32,
        Pairs::Count(n) => n,
    };
    let profile = &config.probes.profile;
    Sizes {
        ring_bytes: u32::try_from(config.limits.ring_bytes.get()).unwrap_or(1 << 28),
        slots: slots + 1,
        shards,
        drop_keys: config.limits.drop_keys,
        prefixes: peers.prefixes().count() as u32 + kubernetes::addresses(config),
        tunnels: if config.probes.tunnel.enabled == TunnelUse::Off {
            1
        } else {
            config.limits.tunnels + 1
        },
        paths: config.probes.path.enabled && config.probes.tcp.enabled,
        dns_names: config.probes.dns.names > 0,
        sched: config.probes.sched.enabled,
        profile_hz: if profile.enabled { profile.hz } else { 0 },
        fault_period: u64::from(profile.fault_period),
        off_cpu: profile.enabled && (profile.off_cpu || profile.locks),
        locks: profile.enabled && profile.locks,
        unwind_shards: if profile.enabled {
            (profile.table_memory.get() >> 20) as u32
        } else {
            0
        },
    }
}

/// The probes that the configuration asks for.
pub fn probes(config: &Config) -> Vec<Box<dyn Probe>> {
    let series = config.limits.series as usize;
    let p = &config.probes;
    let mut out: Vec<Box<dyn Probe>> = Vec::new();
    if p.tcp.enabled {
        out.push(Box::new(tcp::Tcp::new(tcp::Options {
            flows: p.tcp.flows,
            flows_always: p.tcp.flows_always,
            sweep_interval: p.tcp.sweep_interval.get(),
            max_pairs: (series / SERIES_PER_PAIR).max(8),
            paths: p.path.enabled,
            spans: spans(config),
            source: match p.tcp.rtt_source {
                RttSource::Auto | RttSource::TcpProbe => tcp::Source::Auto,
                RttSource::SockOps => tcp::Source::SockOps,
                RttSource::Sweep => tcp::Source::Sweep,
            },
        })));
    }
    if p.drops.enabled {
        out.push(Box::new(drops::Drops::new(drops::Options {
            records_per_second: u64::from(p.drops.records_per_second),
            max_series: (series / 10).max(16),
        })));
    }
    if p.dns.enabled {
        out.push(Box::new(dns::Dns::new(dns::Options {
            timeout: p.dns.timeout.get(),
            names: p.dns.names as usize,
            max_series: (series / 10).max(16),
        })));
    }
    if p.udp.enabled {
        out.push(Box::new(udp::Udp::new(udp::Options {
            max_series: (series / 10).max(16),
        })));
    }
    if p.netdev.enabled {
        out.push(Box::new(netdev::Netdev::new(netdev::Options {
            exclude: p.netdev.exclude.clone(),
            max_devices: (series / 20).max(16),
        })));
    }
    if p.node.enabled {
        out.push(Box::new(node::Node::new(node::Options {
            max_devices: (series / 20).max(16),
        })));
    }
    if p.cgroup.enabled {
        out.push(Box::new(cgroup::Cgroup::new(cgroup::Options {
            interval: p.cgroup.interval.get(),
            max_series: (series / 5).max(16),
        })));
    }
    if p.tunnel.enabled != TunnelUse::Off {
        out.push(Box::new(tunnel::Tunnel::new(tunnels(config))));
    }
    if p.path.enabled {
        // The configuration has been checked: its targets are good.
        let targets = path::target::targets(config).unwrap_or_default();
        out.push(Box::new(path::Path::new(path::Options {
            targets,
            interval: p.path.active.interval.get(),
            protocol: p.path.active.protocol,
            port: p.path.active.port,
            devices: p.path.forwarded.devices.clone(),
            max_series: (series / 10).max(16),
        })));
    }
    if p.block.enabled {
        out.push(Box::new(block::Block::new(block::Options {
            max_series: (series / 10).max(16),
        })));
    }
    if p.sched.enabled {
        out.push(Box::new(sched::Sched::new(sched::Options {
            max_series: (series / 10).max(16),
        })));
    }
    if p.profile.enabled {
        out.push(Box::new(profile::Profile::new(profile::Options {
            hz: p.profile.hz,
            fault_period: u64::from(p.profile.fault_period),
            store_bytes: usize::try_from(p.profile.store_memory.get()).unwrap_or(usize::MAX),
            kinds: p.profile.kinds(),
            names: p.profile.names(),
            waker: p.profile.off_cpu_waker,
            off_cpu_threshold: p.profile.off_cpu_threshold.get(),
            lock_threshold: p.profile.lock_threshold.get(),
        })));
    }
    out
}

/// Which connections are told as spans.
fn spans(config: &Config) -> Option<tcp::span::Options> {
    let traces = &config.export.otlp.traces;
    let wanted = traces.enabled && config.export.otlp.endpoint.is_some();
    wanted.then(|| tcp::span::Options {
        share: traces.share,
        errors: traces.errors,
        slow: traces.slow,
        per_second: u64::from(traces.per_second),
    })
}

/// What probe `tunnel` is to do.
pub fn tunnels(config: &Config) -> tunnel::Options {
    let tunnel = &config.probes.tunnel;
    tunnel::Options {
        always: tunnel.enabled == TunnelUse::On,
        devices: tunnel.devices.clone(),
        namespaces: tunnel.namespaces.clone(),
        ports: tunnel.ports.by_port(),
        inner_pairs: tunnel.inner_pairs as usize,
        max_tunnels: config.limits.tunnels as usize + 1,
    }
}
