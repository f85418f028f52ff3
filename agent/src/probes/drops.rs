//! Probe `drops`: every packet that the kernel gives up, with the kernel's own reason.
//!
//! | program | hook | gives |
//! |---|---|---|
//! | `drops_kfree` | tp_btf/kfree_skb | packets by reason, protocol, device, direction and owner; records |
//! | `drops_udp_queue` | tp_btf/udp_fail_queue_rcv_skb | datagrams that found their socket's queue full, by owner |

use super::{Context, Probe};
use crate::aggregate::{Family, Kind, Labels, Metric, Series, Stability, Value, label};
use crate::bpf::fields::Group;
use crate::bpf::sys::{self, MappedArray};
use crate::bpf::{Hook, Spec};
use crate::error::{Context as _, Result};
use crate::identity::symbols::Symbols;
use crate::probes::tcp::flow::address;
use crate::records::{DroppedPacket, Record};
use agent_common::account::{Account, program};
use agent_common::drops::{DropKey, DropRecord, DropValue, direction};
use agent_common::tcp::SubjectKey;
use agent_common::wire::{Wire, kind};
use aya::maps::MapData;
use std::collections::HashMap;
use std::mem::offset_of;
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::sync::Arc;

const NEEDS: &[Group] = &[Group::Sock, Group::Skb, Group::Dev];

static KFREE: Spec = Spec {
    name: "drops_kfree",
    probe: "drops",
    account: program::DROPS_KFREE,
    hook: Hook::TpBtf("kfree_skb"),
    needs: NEEDS,
    required: true,
    remedy: "needs a kernel with BTF; reasons came with 5.17",
};
static UDP_QUEUE: Spec = Spec {
    name: "drops_udp_queue",
    probe: "drops",
    account: program::DROPS_UDP_QUEUE,
    hook: Hook::TpBtf("udp_fail_queue_rcv_skb"),
    needs: NEEDS,
    required: false,
    remedy: "without it receive-queue failures are seen only under their drop reasons",
};

/// Dropped packets.
pub static PACKETS: Metric = Metric {
    name: "geophone_drops_packets_total",
    otlp: "geophone.drops.packets",
    unit: "{packet}",
    kind: Kind::Counter,
    help: "Packets that the kernel gave up, by its own reason (skb_drop_reason)",
    labels: &[
        &label::REASON,
        &label::PROTOCOL,
        &label::DEVICE,
        &label::DIRECTION,
        &label::SUBJECT,
    ],
    stability: Stability::Stable,
};
/// Dropped bytes.
pub static BYTES: Metric = Metric {
    name: "geophone_drops_bytes_total",
    otlp: "geophone.drops.io",
    unit: "By",
    kind: Kind::Counter,
    help: "Bytes in the packets that the kernel gave up",
    labels: PACKETS.labels,
    stability: Stability::Stable,
};
/// UDP queue failures.
pub static UDP_QUEUE_FAILURES: Metric = Metric {
    name: "geophone_drops_udp_queue_failures_total",
    otlp: "geophone.drops.udp_queue_failures",
    unit: "{packet}",
    kind: Kind::Counter,
    help: "UDP datagrams that found their socket's receive queue full; each is also in geophone_drops_packets_total",
    labels: &[&label::SUBJECT],
    stability: Stability::Stable,
};

/// All of them.
pub const METRICS: &[&Metric] = &[&PACKETS, &BYTES, &UDP_QUEUE_FAILURES];

/// What the configuration says.
#[derive(Clone, Debug)]
pub struct Options {
    /// Records a second, shared out over the CPUs; the packets beyond are counted but not told.
    pub records_per_second: u64,
    /// Most series; what is beyond goes to `other`.
    pub max_series: usize,
}

struct Total {
    labels: Arc<Labels>,
    packets: u64,
    bytes: u64,
}

/// The probe.
pub struct Drops {
    options: Options,
    drops: Option<MapData>,
    udp_queue: Option<MapData>,
    tokens: Option<MappedArray>,
    reasons: HashMap<u32, String>,
    symbols: Symbols,
    totals: Vec<Total>,
    by_values: HashMap<[String; 5], usize>,
    last: HashMap<DropKey, (usize, u64, u64)>,
    udp: Vec<(Arc<Labels>, u64)>,
    level: u32,
    listened: bool,
    seen: u64,
}

impl Drops {
    /// A probe that is not attached yet.
    pub fn new(options: Options) -> Self {
        Self {
            options,
            drops: None,
            udp_queue: None,
            tokens: None,
            reasons: HashMap::new(),
            symbols: Symbols::new("/proc/kallsyms", "/proc/modules"),
            totals: Vec::new(),
            by_values: HashMap::new(),
            last: HashMap::new(),
            udp: Vec::new(),
            level: 0,
            listened: false,
            seen: u64::MAX,
        }
    }

    fn reason(&self, value: u32) -> String {
        match self.reasons.get(&value) {
            Some(name) => name.clone(),
            // Upper half: the subsystem (include/net/dropreason.h), whose names are not in the kernel's enum.
            None if value >> 16 != 0 => format!("SUBSYSTEM_{}_{}", value >> 16, value & 0xffff),
            None => format!("REASON_{value}"),
        }
    }

    fn index(&mut self, key: &DropKey, value: &DropValue, context: &mut Context<'_>) -> usize {
        let other = *key == DropKey::OTHER;
        let values = if other {
            [
                "other".into(),
                String::new(),
                String::new(),
                String::new(),
                String::new(),
            ]
        } else {
            [
                self.reason(key.reason),
                protocol(key.ethertype, key.protocol),
                text(&value.device),
                direction_name(key.direction).to_owned(),
                subject(&key.subject, context),
            ]
        };
        if let Some(&index) = self.by_values.get(&values) {
            return index;
        }
        let (values, overflow) = if other || self.totals.len() >= self.options.max_series {
            (
                [
                    "other".into(),
                    String::new(),
                    String::new(),
                    String::new(),
                    String::new(),
                ],
                true,
            )
        } else {
            (values, false)
        };
        if let Some(&index) = self.by_values.get(&values) {
            return index;
        }
        let refs: Vec<&str> = values.iter().map(String::as_str).collect();
        let labels = Arc::new(Labels::new(PACKETS.labels, &refs, overflow, context.series_start));
        self.totals.push(Total {
            labels,
            packets: 0,
            bytes: 0,
        });
        self.by_values.insert(values, self.totals.len() - 1);
        self.totals.len() - 1
    }

    fn fill_tokens(&self, context: &Context<'_>) {
        let Some(tokens) = &self.tokens else { return };
        let cpus = context.engine.as_deref().map_or(0, |e| e.cpus as usize);
        // Without listeners no record is made: each is counted as left out.
        let wanted = if self.listened {
            self.options.records_per_second
        } else {
            0
        };
        let limit = wanted >> self.level.min(16);
        for cpu in 0..cpus {
            tokens.set_u64(cpu, 0, limit.div_ceil(cpus as u64));
        }
    }
}

impl Probe for Drops {
    fn name(&self) -> &'static str {
        "drops"
    }

    fn accounts(&self) -> &'static [usize] {
        &[program::DROPS_KFREE, program::DROPS_UDP_QUEUE]
    }

    fn attach(&mut self, context: &mut Context<'_>) -> Result<()> {
        let Some(engine) = context.engine.as_deref_mut() else {
            return Ok(());
        };
        self.reasons = std::mem::take(&mut engine.drop_reasons);
        let tokens = engine.take_data("DROP_TOKENS")?;
        self.tokens = Some(MappedArray::new(tokens.fd(), 8, engine.cpus as usize)?);
        // The rows that take what finds no room; see agent-ebpf/src/drops.rs.
        let drops = engine.take_data("DROPS")?;
        sys::update(drops.fd().as_fd(), &[0; DropKey::SIZE], &[0; DropValue::SIZE]).context("map DROPS")?;
        let udp = engine.take_data("UDP_QUEUE")?;
        sys::update(udp.fd().as_fd(), &[0; SubjectKey::SIZE], &[0; 8]).context("map UDP_QUEUE")?;
        self.drops = Some(drops);
        self.udp_queue = Some(udp);
        engine.attach(&KFREE);
        engine.attach(&UDP_QUEUE);
        self.fill_tokens(context);
        Ok(())
    }

    fn kinds(&self) -> &'static [u8] {
        &[kind::DROP]
    }

    fn record(&mut self, _kind: u8, bytes: &[u8], context: &mut Context<'_>) -> Option<Option<Record>> {
        let r = DropRecord::decode(bytes)?;
        if !context.listened {
            return Some(None);
        }
        let read =
            |a: [u8; 16], port: u16| -> Option<SocketAddr> { (a != [0; 16]).then(|| address(a, port)) };
        Some(Some(Record::Drop(Box::new(DroppedPacket {
            time: r.time.wrapping_add(context.boot_to_unix) as f64 / 1e9,
            reason: self.reason(r.key.reason),
            location: self.symbols.name(r.key.location),
            protocol: protocol(r.key.ethertype, r.key.protocol),
            direction: direction_name(r.key.direction).to_owned(),
            device: text(&r.device),
            subject: subject(&r.key.subject, context),
            source: read(r.source, r.source_port),
            destination: read(r.destination, r.destination_port),
            bytes: r.len,
        }))))
    }

    fn tick(&mut self, context: &mut Context<'_>) {
        self.fill_tokens(context);
        self.symbols.rest();
        let seen = context.engine.as_deref().map_or(0, |engine| {
            self.accounts()
                .iter()
                .flat_map(|p| (0..engine.cpus as usize).map(move |cpu| p * engine.cpus as usize + cpu))
                .map(|row| engine.accounts.u64_at(row, offset_of!(Account, aggregated)))
                .sum()
        });
        if seen == self.seen {
            return;
        }
        self.seen = seen;
        let mut found = Vec::new();
        if let Some(data) = &self.drops
            && let Err(e) = sys::for_each(data.fd().as_fd(), DropKey::SIZE, DropValue::SIZE, |key, value| {
                found.extend(DropKey::decode(key).zip(DropValue::decode(value)));
            })
        {
            tracing::warn!("probe drops: {e}");
        }
        for (key, value) in found.into_iter().filter(|(_, v)| v.packets > 0) {
            let (index, packets, bytes) = match self.last.get(&key) {
                Some(&last) => last,
                None => (self.index(&key, &value, context), 0, 0),
            };
            if key.ifindex != 0 && key.netns != 0 {
                let device = context.device_drops.entry((key.netns, key.ifindex)).or_default();
                *device.entry(self.reason(key.reason)).or_default() += value.packets.wrapping_sub(packets);
            }
            if let Some(total) = self.totals.get_mut(index) {
                total.packets += value.packets.wrapping_sub(packets);
                total.bytes += value.bytes.wrapping_sub(bytes);
            }
            self.last.insert(key, (index, value.packets, value.bytes));
        }
        let mut by_subject: HashMap<String, u64> = HashMap::new();
        if let Some(data) = &self.udp_queue {
            let _ = sys::for_each(data.fd().as_fd(), SubjectKey::SIZE, 8, |key, value| {
                let packets = value.try_into().map(u64::from_ne_bytes).unwrap_or(0);
                if let Some(key) = SubjectKey::decode(key).filter(|_| packets > 0) {
                    let name = if key == SubjectKey::NOBODY {
                        "other".to_owned()
                    } else {
                        subject(&key, context)
                    };
                    *by_subject.entry(name).or_default() += packets;
                }
            });
        }
        for (name, packets) in by_subject {
            match self.udp.iter_mut().find(|(l, _)| l.subject() == name) {
                Some((_, total)) => *total = packets.max(*total),
                None => {
                    let labels = Labels::new(
                        UDP_QUEUE_FAILURES.labels,
                        &[&name],
                        name == "other",
                        context.series_start,
                    );
                    self.udp.push((Arc::new(labels), packets));
                }
            }
        }
    }

    fn listen(&mut self, listened: bool, context: &mut Context<'_>) {
        self.listened = listened;
        self.fill_tokens(context);
    }

    fn relieve(&mut self, level: u32, _context: &mut Context<'_>) {
        self.level = level;
    }

    fn collect(&mut self, out: &mut Vec<Family>) {
        let series = |value: fn(&Total) -> u64| -> Vec<Series> {
            self.totals
                .iter()
                .map(|t| Series {
                    labels: t.labels.clone(),
                    value: Value::Counter(value(t)),
                })
                .collect()
        };
        out.push(Family {
            metric: &PACKETS,
            series: series(|t| t.packets),
        });
        out.push(Family {
            metric: &BYTES,
            series: series(|t| t.bytes),
        });
        let series = self
            .udp
            .iter()
            .map(|(l, n)| Series {
                labels: l.clone(),
                value: Value::Counter(*n),
            })
            .collect();
        out.push(Family {
            metric: &UDP_QUEUE_FAILURES,
            series,
        });
    }
}

fn subject(key: &SubjectKey, context: &mut Context<'_>) -> String {
    // No socket, or only a namespace: nobody in particular.
    if key.tgid == 0 && key.cgroup <= 1 {
        return String::new();
    }
    context.identity.subject(key, &[0; 16]).label.clone()
}

const fn direction_name(value: u8) -> &'static str {
    match value {
        direction::RECEIVE => "receive",
        direction::TRANSMIT => "transmit",
        _ => "",
    }
}

/// Transport, where there is one, else the network protocol.
fn protocol(ethertype: u16, ip: u8) -> String {
    match (ethertype, ip) {
        (0x0800 | 0x86dd, 6) => "tcp".into(),
        (0x0800 | 0x86dd, 17) => "udp".into(),
        (0x0800 | 0x86dd, 1) => "icmp".into(),
        (0x0800 | 0x86dd, 58) => "icmpv6".into(),
        (0x0800 | 0x86dd, 2) => "igmp".into(),
        (0x0800 | 0x86dd, 47) => "gre".into(),
        (0x0800 | 0x86dd, 50) => "esp".into(),
        (0x0800 | 0x86dd, 132) => "sctp".into(),
        (0x0800, 0) => "ipv4".into(),
        (0x86dd, 0) => "ipv6".into(),
        (0x0800 | 0x86dd, n) => format!("ip_{n}"),
        (0x0806, _) => "arp".into(),
        (0x88cc, _) => "lldp".into(),
        (0, _) => "unknown".into(),
        (n, _) => format!("ethertype_{n:#06x}"),
    }
}

fn text(bytes: &[u8; 16]) -> String {
    let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    crate::aggregate::labels::clean(&String::from_utf8_lossy(bytes.get(..end).unwrap_or(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocols_have_names() {
        assert_eq!(protocol(0x0800, 6), "tcp");
        assert_eq!(protocol(0x86dd, 58), "icmpv6");
        assert_eq!(protocol(0x0806, 0), "arp");
        assert_eq!(protocol(0x0800, 200), "ip_200");
        assert_eq!(protocol(0x1234, 0), "ethertype_0x1234");
    }

    #[test]
    fn reasons_that_this_kernel_does_not_name_are_numbers() {
        let mut drops = Drops::new(Options {
            records_per_second: 1,
            max_series: 10,
        });
        drops.reasons.insert(3, "NO_SOCKET".into());
        assert_eq!(drops.reason(3), "NO_SOCKET");
        assert_eq!(drops.reason(9999), "REASON_9999");
        assert_eq!(drops.reason(0x0002_0005), "SUBSYSTEM_2_5");
    }
}
