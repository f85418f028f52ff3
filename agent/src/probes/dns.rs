//! Probe `dns`: how long lookups take, and how they fail, as the clients of this machine see it.
//!
//! | program | hook | gives |
//! |---|---|---|
//! | `dns_egress` | cgroup_skb/egress | queries to port 53, over UDP and TCP; names, when asked for |
//! | `dns_ingress` | cgroup_skb/ingress | their answers: latency, rcode, truncation |
//!
//! What waits for an answer for too long is taken out of the kernel's table here, and counted.

mod names;
mod table;

use super::{Context, Probe, entries, histograms, relieve_packets};
use crate::aggregate::{Family, Kind, Label, Metric, Stability, label};
use crate::bpf::KernelMap;
use crate::bpf::fields::Group;
use crate::bpf::sys::MappedArray;
use crate::bpf::{Hook, Spec};
use crate::error::{Context as _, Result};
use crate::records::Record;
use agent_common::account::program;
use agent_common::dns::{
    DnsAnswerKey, DnsCounters, DnsPending, DnsPendingKey, DnsRecord, DnsServerKey, Question,
};
use agent_common::histogram::Histogram;
use agent_common::wire::{Wire, kind};
use names::Names;
use std::time::Duration;
use table::Table;

static PROGRAMS: [Spec; 2] = [
    // The answers first: a query without its answer would be a timeout.
    Spec {
        name: "dns_ingress",
        probe: "dns",
        account: program::DNS_INGRESS,
        hook: Hook::SkbIngress,
        needs: &[],
        required: true,
        remedy: "needs a cgroup2 hierarchy, mounted or mountable",
    },
    Spec {
        name: "dns_egress",
        probe: "dns",
        account: program::DNS_EGRESS,
        hook: Hook::SkbEgress,
        needs: &[Group::Task],
        required: true,
        remedy: "needs a cgroup2 hierarchy, mounted or mountable, and a kernel with BTF",
    },
];

static SERVER: Label = Label {
    prometheus: "server",
    otlp: "server.address",
    help: "Address of the DNS server that was asked",
};
static RCODE: Label = Label {
    prometheus: "rcode",
    otlp: "geophone.dns.rcode",
    help: "Code of the answer: NOERROR, NXDOMAIN, SERVFAIL …",
};
static NAME: Label = Label {
    prometheus: "name",
    otlp: "dns.question.name",
    help: "Name that is asked for",
};
static QTYPE: Label = Label {
    prometheus: "qtype",
    otlp: "geophone.dns.qtype",
    help: "Type of record that is asked for: A, AAAA …",
};

/// Latency.
pub static LOOKUP: Metric = Metric {
    name: "geophone_dns_lookup_seconds",
    otlp: "dns.lookup.duration",
    unit: "s",
    kind: Kind::Histogram,
    help: "Time from a query to its answer, at the socket of who asked; a query that was sent again counts from the first time",
    labels: &[&label::SUBJECT, &SERVER, &RCODE],
    stability: Stability::Experimental,
};
/// Queries.
pub static QUERIES: Metric = Metric {
    name: "geophone_dns_queries_total",
    otlp: "geophone.dns.queries",
    unit: "{query}",
    kind: Kind::Counter,
    help: "Queries sent, repeated ones included",
    labels: &[&label::SUBJECT, &SERVER, &label::PROTOCOL],
    stability: Stability::Experimental,
};
/// Repetitions.
pub static REPEATED: Metric = Metric {
    name: "geophone_dns_repeated_queries_total",
    otlp: "geophone.dns.repeated_queries",
    unit: "{query}",
    kind: Kind::Counter,
    help: "Queries over UDP that were sent again by the same socket while the first one had no answer yet",
    labels: &[&label::SUBJECT, &SERVER],
    stability: Stability::Experimental,
};
/// Timeouts.
pub static TIMEOUTS: Metric = Metric {
    name: "geophone_dns_timeouts_total",
    otlp: "geophone.dns.timeouts",
    unit: "{query}",
    kind: Kind::Counter,
    help: "Queries that had no answer within probes.dns.timeout; with its repetitions a query is one",
    labels: &[&label::SUBJECT, &SERVER],
    stability: Stability::Experimental,
};
/// Truncated answers.
pub static TRUNCATED: Metric = Metric {
    name: "geophone_dns_truncated_total",
    otlp: "geophone.dns.truncated",
    unit: "{answer}",
    kind: Kind::Counter,
    help: "Answers that were cut to fit into a datagram",
    labels: &[&label::SUBJECT, &SERVER],
    stability: Stability::Experimental,
};
/// The busiest names.
pub static NAMES: Metric = Metric {
    name: "geophone_dns_busiest_names",
    otlp: "geophone.dns.busiest_names",
    unit: "{query}",
    kind: Kind::Gauge,
    help: "Queries of the last full minute, for the names that were asked for most (probes.dns.names of them)",
    labels: &[&NAME, &QTYPE],
    stability: Stability::Experimental,
};

/// All of them.
pub const METRICS: &[&Metric] = &[&LOOKUP, &QUERIES, &REPEATED, &TIMEOUTS, &TRUNCATED, &NAMES];

/// What the configuration says.
#[derive(Clone, Debug)]
pub struct Options {
    /// A query has timed out after this time.
    pub timeout: Duration,
    /// Names to export; 0 = none are told.
    pub names: usize,
    /// Most series; what is beyond goes to `other`.
    pub max_series: usize,
}

/// The kernel's tables.
struct Maps {
    pending: KernelMap,
    servers: KernelMap,
    answers: KernelMap,
    tokens: MappedArray,
}

/// The probe.
pub struct Dns {
    options: Options,
    maps: Option<Maps>,
    table: Table,
    names: Names,
    level: u32,
}

impl Dns {
    /// A probe that is not attached yet.
    pub fn new(options: Options) -> Self {
        Self {
            table: Table::new(options.max_series),
            names: Names::new(options.names),
            options,
            maps: None,
            level: 0,
        }
    }
}

impl Probe for Dns {
    fn name(&self) -> &'static str {
        "dns"
    }

    fn accounts(&self) -> &'static [usize] {
        &[program::DNS_INGRESS, program::DNS_EGRESS]
    }

    fn attach(&mut self, context: &mut Context<'_>) -> Result<()> {
        let Some(engine) = context.engine.as_deref_mut() else {
            return Ok(());
        };
        let maps = Maps {
            pending: engine.take_data("DNS_PENDING")?,
            servers: engine.take_data("DNS_SERVERS")?,
            answers: engine.take_data("DNS_ANSWERS")?,
            tokens: engine.take_array("DNS_TOKENS", 8, engine.cpus as usize)?,
        };
        // The rows that take what finds no room; see agent-ebpf/src/dns.rs.
        maps.servers
            .update(&[0; DnsServerKey::SIZE], &[0; DnsCounters::SIZE])
            .context("map DNS_SERVERS")?;
        maps.answers
            .update(&[0; DnsAnswerKey::SIZE], &[0; size_of::<Histogram>()])
            .context("map DNS_ANSWERS")?;
        for spec in &PROGRAMS {
            engine.attach(spec);
        }
        self.maps = Some(maps);
        Ok(())
    }

    fn kinds(&self) -> &'static [u8] {
        &[kind::DNS]
    }

    fn record(&mut self, _kind: u8, bytes: &[u8], _context: &mut Context<'_>) -> Option<Option<Record>> {
        let record = DnsRecord::decode(bytes)?;
        let question = record.question.get(..record.len as usize)?;
        // What is no name is of no use, but the record is good.
        if let Some(question) = Question::read(question) {
            self.names.add(question.name(), question.qtype);
        }
        Some(None)
    }

    fn tick(&mut self, context: &mut Context<'_>) {
        if let Err(e) = self.read(context) {
            tracing::warn!("probe dns: {e}");
        }
        self.names.tick(context.series_start);
    }

    fn relieve(&mut self, level: u32, context: &mut Context<'_>) {
        self.level = level;
        if relieve_packets(level, &PROGRAMS, context) {
            self.forget();
        }
    }

    fn collect(&mut self, out: &mut Vec<Family>) {
        self.table.collect(out);
        out.push(Family {
            metric: &NAMES,
            series: self.names.series(),
        });
    }
}

impl Dns {
    /// Takes out all that waits: nobody will see the answers, and none is no timeout.
    fn forget(&self) {
        let Some(maps) = &self.maps else { return };
        match entries::<DnsPendingKey, DnsPending>(&maps.pending) {
            Ok(waiting) => {
                for (key, _) in waiting {
                    let _ = maps.pending.remove(&encode(&key));
                }
            }
            Err(e) => tracing::warn!("probe dns: {e}"),
        }
    }

    fn read(&mut self, context: &mut Context<'_>) -> Result<()> {
        let Some(maps) = &self.maps else { return Ok(()) };
        if self.options.names > 0 {
            let cpus = context.engine.as_deref().map_or(0, |e| e.cpus as usize);
            let limit = (names::PER_SECOND >> self.level).div_ceil(cpus as u64);
            for cpu in 0..cpus {
                maps.tokens.set_u64(cpu, 0, limit);
            }
        }
        self.table
            .forget(&maps.servers.vanished(), &maps.answers.vanished());
        // Counters first: they bring the names of processes.
        for (key, value) in entries::<DnsServerKey, DnsCounters>(&maps.servers)? {
            self.table.counters(key, &value, context);
        }
        for (key, value) in histograms::entries::<DnsAnswerKey>(&maps.answers)? {
            self.table.answers(key, value, context);
        }
        self.table.recycle(context.now, &maps.servers, &maps.answers);
        let now = context.unix_nanos.wrapping_sub(context.boot_to_unix);
        for (key, value) in entries::<DnsPendingKey, DnsPending>(&maps.pending)? {
            let waited = Duration::from_nanos(now.saturating_sub(value.time));
            if waited < self.options.timeout {
                continue;
            }
            let pair = DnsServerKey {
                subject: value.subject,
                server: key.server,
            };
            let Some(total) = self.table.pair(&pair, context) else {
                continue;
            };
            // The kernel takes it out when the answer comes; only one of the two succeeds.
            if maps.pending.remove(&encode(&key)).is_ok() {
                self.table.timed_out(total);
            }
        }
        Ok(())
    }
}

fn encode(value: &impl Wire) -> Vec<u8> {
    let mut bytes = Vec::new();
    value.encode(&mut bytes);
    bytes
}
