//! Probe `drops`: every packet that the kernel gives up, with the kernel's own reason.
//!
//! | program | hook | gives |
//! |---|---|---|
//! | `drops_kfree` | tp_btf/kfree_skb | packets by reason, protocol, device, direction and owner; records |
//! | `drops_udp_queue` | tp_btf/udp_fail_queue_rcv_skb | datagrams that found their socket's queue full, by owner |

mod table;

use super::{Context, Fill, Probe, entries};
use crate::aggregate::labels::text;
use crate::aggregate::{Family, Further, Kind, Labels, Metric, Series, Stability, Value, label};
use crate::bpf::KernelMap;
use crate::bpf::fields::Group;
use crate::bpf::sys::MappedArray;
use crate::bpf::{Hook, Sizes, Spec};
use crate::error::{Context as _, Result};
use crate::identity::symbols::Symbols;
use crate::identity::{Name, Subject};
use crate::probes::tcp::flow::address;
use crate::records::{DroppedPacket, Record};
use agent_common::account::{Account, program};
use agent_common::drops::{DropKey, DropRecord, DropValue, direction};
use agent_common::tcp::SubjectKey;
use agent_common::wire::{Wire, kind};
use std::collections::HashMap;
use std::mem::offset_of;
use std::net::SocketAddr;
use std::sync::Arc;
use table::{Table, Total};

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

/// The probe.
pub struct Drops {
    options: Options,
    drops: Option<KernelMap>,
    udp_queue: Option<KernelMap>,
    tokens: Option<MappedArray>,
    reasons: HashMap<u32, String>,
    symbols: Symbols,
    /// reason, protocol, device, direction; subject.
    table: Table<DropKey, ([String; 4], Name)>,
    udp: Table<SubjectKey, Name>,
    level: u32,
    listened: bool,
    seen: u64,
}

impl Drops {
    /// A probe that is not attached yet.
    pub fn new(options: Options) -> Self {
        Self {
            table: Table::new(options.max_series.saturating_sub(1)),
            udp: Table::new(options.max_series.saturating_sub(1)),
            options,
            drops: None,
            udp_queue: None,
            tokens: None,
            reasons: HashMap::new(),
            symbols: Symbols::new("/proc/kallsyms", "/proc/modules"),
            level: 0,
            listened: false,
            seen: u64::MAX,
        }
    }

    fn reason(&self, value: u32) -> String {
        reason(&self.reasons, value)
    }

    /// The series of a row; `None`: its subject has no final name yet.
    fn place(&mut self, key: &DropKey, value: &DropValue, context: &mut Context<'_>) -> Option<usize> {
        let name = if *key == DropKey::OTHER {
            None
        } else {
            let what = [
                self.reason(key.reason),
                protocol(key.ethertype, key.protocol),
                text(&value.device),
                direction_name(key.direction).to_owned(),
            ];
            Some((what, name(&key.subject, context)?))
        };
        let ([reason, protocol, device, direction], subject) = name.clone().unwrap_or_default();
        Some(self.table.totals.place(name, context.now, |other| {
            if other {
                return total(&PACKETS, &["other"], &Further::default(), other, context);
            }
            let values = [&reason, &protocol, &device, &direction, &subject.label].map(String::as_str);
            total(&PACKETS, &values, &subject.further, other, context)
        }))
    }

    fn read(&mut self, context: &mut Context<'_>) -> Result<()> {
        let Some(drops) = &self.drops else { return Ok(()) };
        for key in drops.vanished() {
            self.table.forget(&key);
        }
        let mut found = entries::<DropKey, DropValue>(drops)?;
        found.retain(|(_, value)| value.packets > 0);
        for (key, value) in found {
            let place = if self.table.knows(&key) {
                0
            } else {
                match self.place(&key, &value, context) {
                    Some(place) => place,
                    None => {
                        self.seen = u64::MAX;
                        continue;
                    }
                }
            };
            let [packets, _] = self
                .table
                .take(key, [value.packets, value.bytes], context.now, place);
            if key.ifindex != 0 && key.netns != 0 && packets > 0 {
                let device = context.device_drops.entry((key.netns, key.ifindex)).or_default();
                *device.entry(self.reason(key.reason)).or_default() += packets;
            }
        }
        let Some(queue) = &self.udp_queue else {
            return Ok(());
        };
        for key in queue.vanished() {
            self.udp.forget(&key);
        }
        let mut found = Vec::new();
        queue.for_each(SubjectKey::SIZE, 8, |key, value| {
            found.extend(SubjectKey::decode(key).zip(counter(value)));
        })?;
        for (key, now) in found.into_iter().filter(|(_, [packets, _])| *packets > 0) {
            let place = if self.udp.knows(&key) {
                0
            } else {
                let name = if key == SubjectKey::NOBODY {
                    None
                } else if let Some(name) = name(&key, context) {
                    Some(name)
                } else {
                    self.seen = u64::MAX;
                    continue;
                };
                let of = name.clone().unwrap_or_default();
                self.udp.totals.place(name, context.now, |other| {
                    let label = if other { "other" } else { &of.label };
                    total(&UDP_QUEUE_FAILURES, &[label], &of.further, other, context)
                })
            };
            self.udp.take(key, now, context.now, place);
        }
        Ok(())
    }

    fn recycle(&mut self, context: &Context<'_>) -> Result<()> {
        if let Some(map) = &self.drops {
            let read = |value: &[u8]| DropValue::decode(value).map(|v| [v.packets, v.bytes]);
            self.table
                .recycle(map, DropValue::SIZE, &DropKey::OTHER, context, read)?;
        }
        if let Some(map) = &self.udp_queue {
            self.udp.recycle(map, 8, &SubjectKey::NOBODY, context, counter)?;
        }
        Ok(())
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
        self.reasons = engine.drop_reasons.clone();
        self.tokens = Some(engine.take_array("DROP_TOKENS", 8, engine.cpus as usize)?);
        // The rows that take what finds no room; see agent-ebpf/src/drops.rs.
        let drops = engine.take_data("DROPS")?;
        drops
            .update(&[0; DropKey::SIZE], &[0; DropValue::SIZE])
            .context("map DROPS")?;
        let udp = engine.take_data("UDP_QUEUE")?;
        udp.update(&[0; SubjectKey::SIZE], &[0; 8])
            .context("map UDP_QUEUE")?;
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
            subject: subject(&r.key.subject, context).map_or_else(String::new, |s| s.label.clone()),
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
        let result = if seen == self.seen {
            Ok(())
        } else {
            // Reading takes it back if something waits for a name.
            self.seen = seen;
            self.read(context)
        };
        if let Err(e) = result.and_then(|()| self.recycle(context)) {
            tracing::warn!("probe drops: {e}");
        }
    }

    fn listen(&mut self, listened: bool, context: &mut Context<'_>) {
        self.listened = listened;
        self.fill_tokens(context);
    }

    fn relieve(&mut self, level: u32, _context: &mut Context<'_>) {
        self.level = level;
    }

    fn fill(&self, sizes: &Sizes) -> Vec<Fill> {
        vec![Fill {
            map: "DROPS",
            used: self.table.used(),
            most: sizes.drop_keys as usize,
        }]
    }

    fn collect(&mut self, out: &mut Vec<Family>) {
        fn series<'a>(totals: impl Iterator<Item = &'a Total>, i: usize) -> Vec<Series> {
            let series = totals.map(|t| Series {
                labels: t.labels.clone(),
                value: Value::Counter(t.values[i]),
            });
            series.collect()
        }
        for (i, metric) in [&PACKETS, &BYTES].into_iter().enumerate() {
            out.push(Family {
                metric,
                series: series(self.table.totals.iter(), i),
            });
        }
        out.push(Family {
            metric: &UDP_QUEUE_FAILURES,
            series: series(self.udp.totals.iter(), 0),
        });
    }
}

/// The name of a reason.
pub fn reason(names: &HashMap<u32, String>, value: u32) -> String {
    match names.get(&value) {
        Some(name) => name.clone(),
        // Upper half: the subsystem (include/net/dropreason.h), whose names are not in the kernel's enum.
        None if value >> 16 != 0 => format!("SUBSYSTEM_{}_{}", value >> 16, value & 0xffff),
        None => format!("REASON_{value}"),
    }
}

fn total(
    metric: &'static Metric,
    values: &[&str],
    further: &Further,
    other: bool,
    context: &Context<'_>,
) -> Total {
    // What has no room of its own is nobody's.
    let further = if other { &Further::default() } else { further };
    let start = context.series_start;
    Total {
        labels: Arc::new(Labels::of(metric.labels, values, further, other, start)),
        values: [0; 2],
    }
}

/// A value that is one counter.
fn counter(value: &[u8]) -> Option<[u64; 2]> {
    Some([u64::from_ne_bytes(value.try_into().ok()?), 0])
}

/// Whose a row is; `None`: there is no final name yet, and what it counts waits.
fn name(key: &SubjectKey, context: &mut Context<'_>) -> Option<Name> {
    let Some(subject) = subject(key, context) else {
        return Some(Name::default());
    };
    (subject.fixed || context.last).then(|| subject.name())
}

/// `None`: no socket, or only a namespace: nobody in particular.
fn subject(key: &SubjectKey, context: &mut Context<'_>) -> Option<Arc<Subject>> {
    let is_somebody = key.tgid != 0 || key.cgroup > 1;
    is_somebody.then(|| context.identity.subject(key, &[0; 16]))
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
