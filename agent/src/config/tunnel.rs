//! Settings of probe `tunnel`.

use super::units::Glob;
use agent_common::tunnel::{PORTS, kind};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

/// Probe `tunnel`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TunnelProbe {
    /// `auto` = as soon as there is a tunnel: its underlay device is watched, and where there is none nothing is
    /// attached. `true` = every device that holds an address is watched in any case. `false` = never.
    pub enabled: TunnelUse,
    /// Underlay devices to watch in any case, by pattern: `*` stands for any characters, `?` for one.
    #[schemars(example = ["eth0", "bond*"])]
    pub devices: Vec<Glob>,
    /// Other network namespaces to look at: names below /run/netns or paths, the last part by pattern. New ones are found,
    /// and gone ones let go, within 5 s. The ports below, and those of the devices that are found, hold in all of them.
    #[schemars(example = ["blue", "cni-*", "/run/docker/netns/*"])]
    pub namespaces: Vec<Glob>,
    /// UDP ports that carry tunnels. A bound socket of one of them makes its device an underlay.
    pub ports: TunnelPorts,
    /// Pairs of addresses inside of each tunnel that have series of their own; the others share one.
    #[schemars(range(min = 0, max = 1000))]
    pub inner_pairs: u32,
}

impl Default for TunnelProbe {
    fn default() -> Self {
        Self {
            enabled: TunnelUse::Auto,
            devices: Vec::new(),
            namespaces: Vec::new(),
            ports: TunnelPorts::default(),
            inner_pairs: 5,
        }
    }
}

/// UDP ports by kind of tunnel. Ports of VXLAN, Geneve and WireGuard devices are known without being named here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TunnelPorts {
    /// VXLAN.
    pub vxlan: Vec<u16>,
    /// VXLAN with a protocol field (GPE).
    pub vxlan_gpe: Vec<u16>,
    /// Geneve.
    pub geneve: Vec<u16>,
    /// WireGuard of a program; the kernel's tells its port.
    pub wireguard: Vec<u16>,
    /// OpenVPN over UDP.
    pub openvpn: Vec<u16>,
    /// ESP in UDP (NAT traversal).
    pub esp_udp: Vec<u16>,
}

impl Default for TunnelPorts {
    fn default() -> Self {
        let of = |kind| {
            let ports = PORTS.iter().filter(|(_, k)| *k == kind);
            ports.map(|(port, _)| *port).collect()
        };
        Self {
            vxlan: of(kind::VXLAN),
            vxlan_gpe: of(kind::VXLAN_GPE),
            geneve: of(kind::GENEVE),
            wireguard: of(kind::WIREGUARD),
            openvpn: of(kind::OPENVPN),
            esp_udp: of(kind::ESP_UDP),
        }
    }
}

impl TunnelPorts {
    /// Port → kind.
    pub fn by_port(&self) -> BTreeMap<u16, u8> {
        [
            (&self.vxlan, kind::VXLAN),
            (&self.vxlan_gpe, kind::VXLAN_GPE),
            (&self.geneve, kind::GENEVE),
            (&self.wireguard, kind::WIREGUARD),
            (&self.openvpn, kind::OPENVPN),
            (&self.esp_udp, kind::ESP_UDP),
        ]
        .into_iter()
        .flat_map(|(ports, kind)| ports.iter().map(move |port| (*port, kind)))
        .collect()
    }
}

/// Whether tunnels are watched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TunnelUse {
    /// Where there are any.
    #[default]
    Auto,
    /// As if there were some.
    On,
    /// Not.
    Off,
}

impl Serialize for TunnelUse {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str("auto"),
            Self::On => serializer.serialize_bool(true),
            Self::Off => serializer.serialize_bool(false),
        }
    }
}

impl<'de> Deserialize<'de> for TunnelUse {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = TunnelUse;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("auto, true or false")
            }

            fn visit_bool<E: de::Error>(self, on: bool) -> Result<TunnelUse, E> {
                Ok(if on { TunnelUse::On } else { TunnelUse::Off })
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<TunnelUse, E> {
                match text {
                    "auto" => Ok(TunnelUse::Auto),
                    "true" => Ok(TunnelUse::On),
                    "false" => Ok(TunnelUse::Off),
                    _ => Err(E::custom("expected auto, true or false")),
                }
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl JsonSchema for TunnelUse {
    fn schema_name() -> Cow<'static, str> {
        "TunnelUse".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "oneOf": [{ "const": "auto" }, { "type": "boolean" }] })
    }

    fn inline_schema() -> bool {
        true
    }
}
