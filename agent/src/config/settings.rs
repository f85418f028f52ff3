//! The settings tree. The documentation of each field is the user's: `default_yaml` and docs/config.md are made of it.

use super::alerting::AlertingSettings;
use super::anomaly::AnomalySettings;
use super::capacity::CapacitySettings;
use super::health::HealthSettings;
use super::kubernetes::KubernetesSettings;
use super::labels::LabelRule;
use super::path::PathProbe;
use super::profile::ProfileProbe;
use super::record::RecordSettings;
use super::rules::RulesSettings;
use super::security::SecuritySettings;
use super::store::StoreSettings;
use super::tunnel::TunnelProbe;
use super::units::{Bytes, Glob, HumanDuration};
use crate::api::settings::ApiSettings;
use crate::export::{otlp::settings::OtlpSettings, remote_write::RemoteWriteSettings};
use crate::identity::PeerSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::{borrow::Cow, collections::BTreeMap, fmt};

/// All settings of geophone.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Cloud region of this host, e.g. `eu-central-1`; exported as `cloud.region`.
    pub region: String,
    /// Availability zone of this host; exported as `cloud.availability_zone`.
    pub zone: String,
    /// Name of this host, exported as `host.name`; empty = what the kernel calls it.
    pub host: String,
    /// Further resource attributes of everything that is exported. At most 64.
    #[schemars(example = attributes_example())]
    pub attributes: BTreeMap<String, String>,
    /// Addresses that have a name, a region and a zone. The longest prefix wins. What no prefix covers is `loopback`,
    /// `private` or `public`.
    #[schemars(example = peers_example())]
    pub peers: Vec<PeerSettings>,
    /// Names of pods and their workloads, from the Kubernetes API.
    pub kubernetes: KubernetesSettings,
    /// What is observed.
    pub probes: Probes,
    /// Bounds that are set before anything runs. What does not fit is counted in `other`, never lost.
    pub limits: Limits,
    /// Labels that series of some metrics do without, wherever they go: scrapes, OTLP, remote write, the store, and so rules, health
    /// and anomalies, which then know nothing of them. Views, as of `geophone top`, are of what is left too. Series that differ in
    /// nothing else become one, the sum of all; gauges but those of open connections and requests (`geophone_tcp_connections`,
    /// `geophone_block_in_flight`, `geophone_kubernetes_backend_connections`) have no sum and keep their labels. A label stays if
    /// all rules for the metric let it; `geophone check --cardinality` says what each costs.
    #[schemars(example = super::labels::example())]
    pub labels: Vec<LabelRule>,
    /// What the agent may cost. Over it, it lowers sampling step by step and says so.
    pub budget: Budget,
    /// What the agent remembers of its own series, so that it can be asked in PromQL.
    pub store: StoreSettings,
    /// Health of subjects, peers, zones, regions and this node, 0 to 100.
    pub health: HealthSettings,
    /// Service level objectives: what share of something must be good over a window; `geophone slo` shows them.
    #[schemars(example = crate::score::slo::example())]
    pub slos: Vec<agent_slo::Definition>,
    /// Files with more of them, as OpenSLO v1 has them. One that has a mistake is left out, and the log says where it is.
    pub slo_files: Vec<std::path::PathBuf>,
    /// Forecasts of what runs out.
    pub capacity: CapacitySettings,
    /// Series that are watched for anomalies.
    pub anomaly: AnomalySettings,
    /// Rules of Prometheus, evaluated over what the agent remembers.
    pub rules: RulesSettings,
    /// Who is told of alerts, by the agent itself. The names are Alertmanager's. Without receivers nobody is told.
    pub alerting: AlertingSettings,
    /// Recordings that the agent makes by itself.
    pub record: RecordSettings,
    /// HTTP: metrics, health and the API.
    pub api: ApiSettings,
    /// Where metrics are sent, besides being served by the API.
    pub export: Export,
    /// What the agent gives up once it has started.
    pub security: SecuritySettings,
    /// The agent's own log, to standard error.
    pub log: Log,
}

fn attributes_example() -> BTreeMap<String, String> {
    [
        ("deployment.environment.name", "production"),
        ("service.namespace", "shop"),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into()
}

fn peers_example() -> Vec<PeerSettings> {
    let peer = |name: &str, zone: &str, cidr: &str| PeerSettings {
        name: name.to_owned(),
        region: "eu-central-1".to_owned(),
        zone: zone.to_owned(),
        cidrs: cidr.parse().into_iter().collect(),
    };
    vec![
        peer("database", "eu-central-1a", "10.1.2.0/24"),
        peer("cache", "eu-central-1b", "2001:db8:2::/48"),
    ]
}

/// What is observed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Probes {
    /// Latency, retransmits, resets and life of TCP connections.
    pub tcp: TcpProbe,
    /// Dropped packets, by reason and place.
    pub drops: DropsProbe,
    /// Latency and failures of DNS lookups. Off by default: its programs run for every packet of every socket.
    pub dns: DnsProbe,
    /// UDP datagrams and bytes. Off by default: its programs run for every packet of every socket.
    pub udp: UdpProbe,
    /// Traffic, errors and speed of network interfaces.
    pub netdev: NetdevProbe,
    /// What can run out on this machine, and how much of it is used.
    pub node: NodeProbe,
    /// What each container and unit may use, uses and waits for, as its cgroup says.
    pub cgroup: CgroupProbe,
    /// What passes through tunnels, what is lost below them, and whether they are alive.
    pub tunnel: TunnelProbe,
    /// The way to the peers: hop count, path MTU, congestion marks, changes of the route.
    pub path: PathProbe,
    /// Latency, bytes and errors of requests to block devices. Off by default.
    pub block: BlockProbe,
    /// Waiting for a CPU, switches, CPU time. Off by default: its program runs at every switch from a thread to another.
    pub sched: SchedProbe,
    /// Where the time goes: stacks of what runs, with and without frame pointers. Off by default.
    pub profile: ProfileProbe,
}

/// Probe `tcp`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TcpProbe {
    /// Whether the probe runs.
    pub enabled: bool,
    /// Where round-trip times come from.
    pub rtt_source: RttSource,
    /// Whether each connection is told, at its close and every 10 s of its life.
    pub flows: bool,
    /// Send these records also while nobody listens to them. They are then only counted.
    pub flows_always: bool,
    /// Time between two sweeps over all sockets: for `rtt_source: sweep`, and for counters of idle connections.
    #[schemars(extend("x-minimum" = "1s", "x-maximum" = "1h"))]
    pub sweep_interval: HumanDuration,
}

impl Default for TcpProbe {
    fn default() -> Self {
        Self {
            enabled: true,
            rtt_source: RttSource::Auto,
            flows: true,
            flows_always: false,
            sweep_interval: HumanDuration::from_secs(10),
        }
    }
}

/// Where round-trip times come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RttSource {
    /// The cheapest that this kernel can do.
    #[default]
    Auto,
    /// The tracepoint `tcp_probe`, at each segment received.
    TcpProbe,
    /// The callback of sock_ops, at each sample of the kernel.
    SockOps,
    /// The latest sample of each socket, once per sweep: costs nothing per packet.
    Sweep,
}

/// Probe `drops`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DropsProbe {
    /// Whether the probe runs.
    pub enabled: bool,
    /// Most records per second that tell a single drop; all drops are counted, 0 = count only.
    #[schemars(range(min = 0, max = 1_000_000))]
    pub records_per_second: u32,
}

impl Default for DropsProbe {
    fn default() -> Self {
        Self {
            enabled: true,
            records_per_second: 1000,
        }
    }
}

/// Probe `dns`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DnsProbe {
    /// Whether the probe runs. It looks at each packet that a socket sends or receives, TCP included.
    pub enabled: bool,
    /// A query that has no answer after this time has timed out.
    #[schemars(extend("x-minimum" = "1s", "x-maximum" = "1m"))]
    pub timeout: HumanDuration,
    /// So many of the names that are asked for most are exported; 0 = no name leaves the kernel, for privacy.
    #[schemars(range(min = 0, max = 100))]
    pub names: u32,
}

impl Default for DnsProbe {
    fn default() -> Self {
        Self {
            enabled: false,
            timeout: HumanDuration::from_secs(5),
            names: 0,
        }
    }
}

/// Probe `udp`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct UdpProbe {
    /// Whether the probe runs. It looks at each packet that a socket sends or receives, TCP included.
    pub enabled: bool,
}

/// Probe `block`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BlockProbe {
    /// Whether the probe runs.
    pub enabled: bool,
}

/// Probe `sched`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SchedProbe {
    /// Whether the probe runs. It looks at each switch from one thread to another.
    pub enabled: bool,
}

/// Probe `node`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct NodeProbe {
    /// Whether the probe runs.
    pub enabled: bool,
}

impl Default for NodeProbe {
    fn default() -> Self {
        Self { enabled: true }
    }
}

/// Probe `cgroup`. Needs cgroups of version 2.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CgroupProbe {
    /// Whether the probe runs.
    pub enabled: bool,
    /// Time from one reading of a cgroup to the next; up to 30 s where there are so many that reading them takes a thousandth of it.
    #[schemars(extend("x-minimum" = "1s", "x-maximum" = "30s"))]
    pub interval: HumanDuration,
}

impl Default for CgroupProbe {
    fn default() -> Self {
        Self {
            enabled: true,
            interval: HumanDuration::from_secs(15),
        }
    }
}

/// Probe `netdev`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct NetdevProbe {
    /// Whether the probe runs.
    pub enabled: bool,
    /// Interfaces to leave out, by pattern: `*` stands for any characters, `?` for one.
    #[schemars(example = ["veth*", "docker?"])]
    pub exclude: Vec<Glob>,
}

impl Default for NetdevProbe {
    fn default() -> Self {
        Self {
            enabled: true,
            exclude: Vec::new(),
        }
    }
}

/// Bounds that are set before anything runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Most series, by the share of each probe: a pair of subject and peer counts as 20 (most have fewer, one that has seen
    /// everything has about 60), drops, lookups and datagrams take a tenth each, cgroups a fifth (a subject counts as 8), an interface counts as 20. Further ones are
    /// counted in `other`. Tunnels have their own bound.
    #[schemars(range(min = 100, max = 1_000_000))]
    pub series: u32,
    /// Most pairs of subject and peer in the kernel; `auto` = as many as `memory` holds.
    pub pairs: Pairs,
    /// Most different kinds of drop (reason, place, protocol, interface, subject) in the kernel.
    #[schemars(range(min = 64, max = 65_536))]
    pub drop_keys: u32,
    /// Most tunnels that have a row in the kernel; further ones are counted in `other`. Each takes about 8 KB.
    #[schemars(range(min = 1, max = 65_536))]
    pub tunnels: u32,
    /// Size of the ring between kernel and agent; a power of two.
    #[schemars(extend("x-minimum" = "64KiB", "x-maximum" = "256MiB", "x-power-of-two" = true))]
    pub ring_bytes: Bytes,
    /// Most memory for the counters and histograms of pairs.
    #[schemars(extend("x-minimum" = "1MiB", "x-maximum" = "1GiB"))]
    pub memory: Bytes,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            series: 10_000,
            pairs: Pairs::Auto,
            drop_keys: 4096,
            tunnels: 256,
            ring_bytes: Bytes::mib(2),
            memory: Bytes::mib(8),
        }
    }
}

/// A number of pairs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pairs {
    /// As many as the memory holds.
    #[default]
    Auto,
    /// So many.
    Count(u32),
}

impl Serialize for Pairs {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str("auto"),
            Self::Count(count) => serializer.serialize_u32(*count),
        }
    }
}

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Pairs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("auto or a whole number from 64 to 65536")
            }

            fn visit_u64<E: de::Error>(self, count: u64) -> Result<Pairs, E> {
                let count = u32::try_from(count).ok();
                count
                    .map(Pairs::Count)
                    .ok_or_else(|| E::custom("expected auto or a whole number from 64 to 65536"))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Pairs, E> {
                match text {
                    "auto" => Ok(Pairs::Auto),
                    _ => Err(E::custom("expected auto or a whole number from 64 to 65536")),
                }
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl JsonSchema for Pairs {
    fn schema_name() -> Cow<'static, str> {
        "Pairs".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "oneOf": [{ "const": "auto" }, { "type": "integer", "minimum": 64, "maximum": 65_536 }] })
    }

    fn inline_schema() -> bool {
        true
    }
}

/// What the agent may cost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Budget {
    /// Whether the agent keeps the budget; it states its cost in any case.
    pub enabled: bool,
    /// CPU time of all cores of this machine, agent and probes together, in percent.
    #[schemars(range(min = 0.05, max = 100.0))]
    pub cpu_percent: f64,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            enabled: true,
            cpu_percent: 0.5,
        }
    }
}

/// Where metrics are sent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Export {
    /// An OTLP receiver; without an endpoint nothing is sent.
    pub otlp: OtlpSettings,
    /// A receiver of Prometheus' remote write; without a URL nothing is sent.
    pub remote_write: RemoteWriteSettings,
}

/// The agent's own log.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// The least important messages that are written.
    pub level: LogLevel,
    /// How they are written.
    pub format: LogFormat,
}

/// Importance of a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogLevel {
    /// Something asked for does not work.
    Error,
    /// Something may be missing.
    Warn,
    /// What the agent does.
    #[default]
    Info,
    /// How it does it.
    Debug,
    /// Everything.
    Trace,
}

/// Form of a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// A line to read.
    #[default]
    Text,
    /// A JSON object per line.
    Json,
}
