//! Settings of probe `path`.

use super::units::{Glob, HumanDuration};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Probe `path`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PathProbe {
    /// Whether the probe runs. What it sees of TCP connections it sees through probe `tcp`, without a packet of its own.
    pub enabled: bool,
    /// Probes that are sent, hop by hop; none unless peers are named here.
    pub active: ActivePath,
    /// Round-trip times of TCP connections that this host only forwards.
    pub forwarded: ForwardedPath,
}

impl Default for PathProbe {
    fn default() -> Self {
        Self {
            enabled: true,
            active: ActivePath::default(),
            forwarded: ForwardedPath::default(),
        }
    }
}

/// Round-trip times of TCP connections that this host only forwards.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ForwardedPath {
    /// Devices on which they are measured, by pattern: `*` stands for any characters, `?` for one. Each packet of such a
    /// device is looked at; empty = none is. Where addresses are translated, name the inner device.
    #[schemars(example = ["eth1", "veth*"])]
    pub devices: Vec<Glob>,
}

/// Probes that are sent, hop by hop.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ActivePath {
    /// Peers to which probes are sent: the name of a peer whose prefixes are single addresses, or `name=address` with
    /// an address inside the peer's prefix. At most 16 addresses. Empty = no probe is ever sent.
    #[schemars(example = ["database=10.1.2.3"])]
    pub peers: Vec<String>,
    /// Time between two traces of an address. A trace is three rounds of one packet a hop, half a second apart.
    #[schemars(extend("x-minimum" = "10s", "x-maximum" = "1h"))]
    pub interval: HumanDuration,
    /// What is sent.
    pub protocol: PathProtocol,
    /// Destination port, for `udp` and `tcp`.
    #[schemars(range(min = 1, max = 65_535))]
    pub port: u16,
}

impl Default for ActivePath {
    fn default() -> Self {
        Self {
            peers: Vec::new(),
            interval: HumanDuration::from_secs(60),
            protocol: PathProtocol::Udp,
            port: 33_434,
        }
    }
}

/// What active probes are. All probes to an address are one flow: routers that balance by flow send them the same way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PathProtocol {
    /// Datagrams.
    #[default]
    Udp,
    /// Echo requests: they pass most firewalls.
    Icmp,
    /// Connection requests, never completed: they pass where the service does. Name its port.
    Tcp,
}
