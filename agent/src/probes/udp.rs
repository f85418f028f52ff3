//! Probe `udp`: datagrams and bytes of every subject.
//!
//! | program | hook | gives |
//! |---|---|---|
//! | `udp_ingress` | cgroup_skb/ingress | what sockets receive, before their queues |
//! | `udp_egress` | cgroup_skb/egress | what they send; on hosts without cgroups of version 2 also whose they are |
//! | `udp_create` | cgroup/sock_create | there: whose sockets are that only receive |
//!
//! Full receive queues are told by probe `drops` (`geophone_drops_udp_queue_failures_total`), and so are checksum errors
//! (`geophone_drops_packets_total{reason="UDP_CSUM"}`).

use super::totals::Totals;
use super::{Context, Probe, entries, relieve_packets};
use crate::aggregate::{Family, Kind, Labels, Metric, Series, Stability, Value, label};
use crate::bpf::KernelMap;
use crate::bpf::fields::Group;
use crate::bpf::{Hook, Spec};
use crate::error::{Context as _, Result};
use crate::identity::Name;
use agent_common::account::program;
use agent_common::tcp::SubjectKey;
use agent_common::udp::{UdpValue, direction};
use agent_common::wire::Wire;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

/// Rows of processes are given back after this many ticks without a datagram.
const IDLE: u32 = 60;
/// As [`IDLE`], for a cgroup: they come and go more slowly.
const CGROUP_IDLE: u32 = 600;

static PROGRAMS: [Spec; 3] = [
    Spec {
        name: "udp_create",
        probe: "udp",
        account: program::UDP_CREATE,
        hook: Hook::SockCreate,
        needs: &[Group::Task],
        required: false,
        remedy: "without it sockets that only receive belong to nobody where cgroups do not tell",
    },
    Spec {
        name: "udp_egress",
        probe: "udp",
        account: program::UDP_EGRESS,
        hook: Hook::SkbEgress,
        needs: &[Group::Task],
        required: true,
        remedy: "needs a cgroup2 hierarchy, mounted or mountable, and a kernel with BTF",
    },
    Spec {
        name: "udp_ingress",
        probe: "udp",
        account: program::UDP_INGRESS,
        hook: Hook::SkbIngress,
        needs: &[Group::Task],
        required: true,
        remedy: "needs a cgroup2 hierarchy, mounted or mountable, and a kernel with BTF",
    },
];

/// Datagrams.
pub static DATAGRAMS: Metric = Metric {
    name: "geophone_udp_datagrams_total",
    otlp: "geophone.udp.datagrams",
    unit: "{datagram}",
    kind: Kind::Counter,
    help: "UDP datagrams that sockets sent, or that came to them, those that a full receive queue then refused included",
    labels: &[&label::SUBJECT, &label::DIRECTION],
    stability: Stability::Experimental,
};
/// Bytes.
pub static BYTES: Metric = Metric {
    name: "geophone_udp_bytes_total",
    otlp: "geophone.udp.io",
    unit: "By",
    kind: Kind::Counter,
    help: "Payload of these datagrams",
    labels: DATAGRAMS.labels,
    stability: Stability::Experimental,
};

/// All of them.
pub const METRICS: &[&Metric] = &[&DATAGRAMS, &BYTES];

/// What the configuration says.
#[derive(Clone, Debug)]
pub struct Options {
    /// Most series; what is beyond goes to `other`.
    pub max_series: usize,
}

/// A subject as the kernel counts it.
struct Row {
    last: UdpValue,
    total: usize,
    idle: u32,
}

struct Total {
    labels: [Arc<Labels>; direction::COUNT],
    datagrams: [u64; direction::COUNT],
    bytes: [u64; direction::COUNT],
}

/// The probe.
pub struct Udp {
    subjects: Option<KernelMap>,
    rows: HashMap<SubjectKey, Row>,
    totals: Totals<Name, Total>,
}

const NOTHING: UdpValue = UdpValue {
    datagrams: [0; direction::COUNT],
    bytes: [0; direction::COUNT],
    comm: [0; 16],
};

impl Udp {
    /// A probe that is not attached yet.
    pub fn new(options: Options) -> Self {
        Self {
            // One for each direction.
            totals: Totals::new((options.max_series / 2).saturating_sub(1)),
            subjects: None,
            rows: HashMap::new(),
        }
    }

    /// The series of a subject; `None` is `other`.
    fn total(&mut self, name: Option<Name>, context: &Context<'_>) -> usize {
        self.totals.place(name.clone(), context.now, |other| {
            let name = name.filter(|_| !other).unwrap_or_else(|| Name::plain("other"));
            Total {
                labels: ["receive", "transmit"].map(|d| {
                    Arc::new(Labels::of(
                        DATAGRAMS.labels,
                        &[&name.label, d],
                        &name.further,
                        other,
                        context.series_start,
                    ))
                }),
                datagrams: [0; direction::COUNT],
                bytes: [0; direction::COUNT],
            }
        })
    }

    /// Adds what is new. A row whose owner has no final name yet waits.
    fn read(&mut self, key: SubjectKey, value: UdpValue, context: &mut Context<'_>) {
        let (last, total) = match self.rows.get(&key) {
            Some(row) => (row.last, row.total),
            None => {
                if value.datagrams == NOTHING.datagrams {
                    return;
                }
                let total = if key == SubjectKey::NOBODY {
                    self.total(None, context)
                } else {
                    let subject = context.identity.subject(&key, &value.comm);
                    if !subject.fixed && !context.last {
                        return;
                    }
                    self.total(Some(subject.name()), context)
                };
                (NOTHING, total)
            }
        };
        if let Some(total) = self.totals.get_mut(total) {
            for d in 0..direction::COUNT {
                total.datagrams[d] += value.datagrams[d].wrapping_sub(last.datagrams[d]);
                total.bytes[d] += value.bytes[d].wrapping_sub(last.bytes[d]);
            }
        }
        let still = last.datagrams == value.datagrams;
        let row = self.rows.entry(key).or_insert(Row { last, total, idle: 0 });
        row.last = value;
        row.idle = if still { row.idle.saturating_add(1) } else { 0 };
    }

    /// Gives rows back whose processes have been silent: most of them are gone. One that is not makes itself a new one.
    fn recycle(&mut self, now: Instant) {
        let Some(subjects) = &self.subjects else { return };
        self.rows.retain(|key, row| {
            let patience = match key.tgid {
                _ if *key == SubjectKey::NOBODY => return true,
                0 => CGROUP_IDLE,
                _ => IDLE,
            };
            if row.idle < patience {
                return true;
            }
            let mut bytes = Vec::with_capacity(SubjectKey::SIZE);
            key.encode(&mut bytes);
            subjects.remove(&bytes).is_err()
        });
        self.totals.end(now, self.rows.values().map(|row| row.total));
    }
}

impl Probe for Udp {
    fn name(&self) -> &'static str {
        "udp"
    }

    fn accounts(&self) -> &'static [usize] {
        &[program::UDP_INGRESS, program::UDP_EGRESS, program::UDP_CREATE]
    }

    fn attach(&mut self, context: &mut Context<'_>) -> Result<()> {
        let Some(engine) = context.engine.as_deref_mut() else {
            return Ok(());
        };
        let subjects = engine.take_data("UDP_SUBJECTS")?;
        // The row that takes what finds no room; see agent-ebpf/src/udp.rs.
        subjects
            .update(&[0; SubjectKey::SIZE], &[0; UdpValue::SIZE])
            .context("map UDP_SUBJECTS")?;
        self.subjects = Some(subjects);
        for spec in &PROGRAMS {
            engine.attach(spec);
        }
        Ok(())
    }

    fn tick(&mut self, context: &mut Context<'_>) {
        let found = self.subjects.as_ref().map(|map| {
            for key in map.vanished() {
                self.rows.remove(&key);
            }
            entries::<SubjectKey, UdpValue>(map)
        });
        match found {
            Some(Ok(found)) => {
                for (key, value) in found {
                    self.read(key, value, context);
                }
            }
            Some(Err(e)) => tracing::warn!("probe udp: {e}"),
            None => {}
        }
        self.recycle(context.now);
    }

    fn relieve(&mut self, level: u32, context: &mut Context<'_>) {
        // `udp_create` runs once a socket, and nobody else knows whose the sockets of the meantime are.
        relieve_packets(level, &PROGRAMS[1..], context);
    }

    fn collect(&mut self, out: &mut Vec<Family>) {
        let series = |value: fn(&Total) -> &[u64; direction::COUNT]| -> Vec<Series> {
            self.totals
                .iter()
                .flat_map(|t| t.labels.iter().zip(value(t)))
                .map(|(labels, n)| Series {
                    labels: labels.clone(),
                    value: Value::Counter(*n),
                })
                .collect()
        };
        out.push(Family {
            metric: &DATAGRAMS,
            series: series(|t| &t.datagrams),
        });
        out.push(Family {
            metric: &BYTES,
            series: series(|t| &t.bytes),
        });
    }
}
