//! What rtnetlink says of a device: whether it is a tunnel, and which way that one takes.

use agent_common::tunnel::kind;
use netlink_packet_route::link::{
    InfoData, InfoGeneve, InfoGre, InfoGre6, InfoIpTunnel, InfoKind, InfoVti, InfoVxlan, InfoXfrm,
    LinkAttribute, LinkInfo, LinkLayerType, LinkMessage,
};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// A device.
#[derive(Debug)]
pub(super) struct Device {
    pub index: u32,
    pub name: String,
    pub up: bool,
    pub loopback: bool,
    pub ethernet: bool,
    /// The device below a VLAN or the like.
    pub lower: Option<u32>,
    pub tunnel: Option<Tunnel>,
    /// It is the kernel's WireGuard.
    pub wireguard: bool,
}

/// Name of a kind. As a type of its own: what is read does not live as long.
type Kind = &'static str;

/// What a tunnel device says of its way.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Tunnel {
    /// As the packets' rows call it, see [`kind::NAMES`]; a tun device says only that it is one.
    #[serde(deserialize_with = "known")]
    pub kind: Kind,
    /// VNI or key, if there is one for all its packets.
    pub id: Option<u32>,
    pub link: Option<u32>,
    pub local: Option<IpAddr>,
    pub remote: Option<IpAddr>,
    pub port: Option<(u16, u8)>,
}

/// What a tun device is called.
const TUN: &str = "tun";

/// The name of a kind, of a recording.
fn known<'d, D: serde::Deserializer<'d>>(of: D) -> Result<&'static str, D::Error> {
    let told = String::deserialize(of)?;
    let mut names = kind::NAMES.iter().copied().chain([TUN]);
    let unknown = || serde::de::Error::custom(format_args!("no kind of tunnel: {told}"));
    names.find(|name| *name == told).ok_or_else(unknown)
}

/// A device, if it has a name.
pub(super) fn device(message: &LinkMessage) -> Option<Device> {
    const IFF_UP: u32 = 1;
    let mut name = None;
    let mut parent = None;
    let (mut kind, mut data) = (None, None);
    let mut foreign = false;
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(n) => name = Some(n.clone()),
            LinkAttribute::Link(index) => parent = Some(*index).filter(|i| *i != 0),
            LinkAttribute::LinkNetNsId(_) => foreign = true,
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    match info {
                        LinkInfo::Kind(k) => kind = Some(k),
                        LinkInfo::Data(d) => data = Some(d),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    // An index of another namespace says nothing here.
    let parent = parent.filter(|_| !foreign);
    let stacked = matches!(kind, Some(InfoKind::Vlan | InfoKind::MacVlan | InfoKind::IpVlan));
    let layer = message.header.link_layer_type;
    let ethernet = matches!(layer, LinkLayerType::Ether | LinkLayerType::Loopback);
    Some(Device {
        index: message.header.index,
        name: name?,
        up: message.header.flags.bits() & IFF_UP != 0,
        loopback: layer == LinkLayerType::Loopback,
        ethernet,
        lower: parent.filter(|_| stacked),
        wireguard: matches!(kind, Some(InfoKind::Wireguard)),
        tunnel: kind.and_then(|kind| tunnel(kind, data, parent, ethernet)),
    })
}

/// The way of a tunnel device; `None` = it is no tunnel.
fn tunnel(kind: &InfoKind, data: Option<&InfoData>, parent: Option<u32>, ethernet: bool) -> Option<Tunnel> {
    let mut t = Tunnel {
        kind: name(kind)?,
        link: parent,
        ..Tunnel::default()
    };
    match (kind, data) {
        (_, Some(InfoData::Vxlan(infos))) => {
            let mut port = 0;
            let (mut gpe, mut each) = (false, false);
            for info in infos {
                match info {
                    InfoVxlan::Id(id) => t.id = Some(*id),
                    InfoVxlan::Link(index) => t.link = Some(*index).filter(|i| *i != 0).or(t.link),
                    InfoVxlan::Local(a) => t.local = Some((*a).into()),
                    InfoVxlan::Local6(a) => t.local = Some((*a).into()),
                    InfoVxlan::Group(a) => t.remote = Some((*a).into()),
                    InfoVxlan::Group6(a) => t.remote = Some((*a).into()),
                    InfoVxlan::Port(p) => port = *p,
                    InfoVxlan::Gpe => gpe = true,
                    // Each packet has an id of its own, and the device none.
                    InfoVxlan::CollectMetadata(on) => each = *on,
                    _ => {}
                }
            }
            let kind = if gpe { kind::VXLAN_GPE } else { kind::VXLAN };
            t.kind = kind::NAMES.get(kind as usize).copied().unwrap_or(t.kind);
            t.port = (port != 0).then_some((port, kind));
            t.id = t.id.filter(|_| !each);
        }
        (_, Some(InfoData::Geneve(infos))) => {
            let each = infos.iter().any(|i| matches!(i, InfoGeneve::CollectMetadata));
            for info in infos {
                match info {
                    InfoGeneve::Id(id) => t.id = Some(*id).filter(|_| !each),
                    InfoGeneve::Remote(a) => t.remote = Some((*a).into()),
                    InfoGeneve::Remote6(a) => t.remote = Some((*a).into()),
                    InfoGeneve::Port(p) => t.port = (*p != 0).then_some((*p, kind::GENEVE)),
                    _ => {}
                }
            }
        }
        (_, Some(InfoData::GreTun(infos) | InfoData::GreTap(infos) | InfoData::ErSpan(infos))) => {
            for info in infos {
                match info {
                    // Without a key it is 0, and 0 is hardly ever one.
                    InfoGre::OKey(key) => t.id = Some(*key).filter(|key| *key != 0),
                    InfoGre::Link(index) => t.link = Some(*index).filter(|i| *i != 0).or(t.link),
                    InfoGre::Local(a) => t.local = Some((*a).into()),
                    InfoGre::Remote(a) => t.remote = Some((*a).into()),
                    _ => {}
                }
            }
        }
        (_, Some(InfoData::GreTun6(infos) | InfoData::GreTap6(infos) | InfoData::Ip6ErSpan(infos))) => {
            for info in infos {
                match info {
                    InfoGre6::OKey(key) => t.id = Some(*key).filter(|key| *key != 0),
                    InfoGre6::Link(index) => t.link = Some(*index).filter(|i| *i != 0).or(t.link),
                    InfoGre6::Local(a) => t.local = Some((*a).into()),
                    InfoGre6::Remote(a) => t.remote = Some((*a).into()),
                    _ => {}
                }
            }
        }
        (_, Some(InfoData::IpTunnel(infos))) => {
            for info in infos {
                match info {
                    InfoIpTunnel::Link(index) => t.link = Some(*index).filter(|i| *i != 0).or(t.link),
                    InfoIpTunnel::Local(a) => t.local = Some(*a),
                    InfoIpTunnel::Remote(a) => t.remote = Some(*a),
                    _ => {}
                }
            }
        }
        (_, Some(InfoData::Vti(infos))) => {
            for info in infos {
                match info {
                    InfoVti::Link(index) => t.link = Some(*index).filter(|i| *i != 0).or(t.link),
                    InfoVti::Local(a) => t.local = Some(*a),
                    InfoVti::Remote(a) => t.remote = Some(*a),
                    _ => {}
                }
            }
        }
        (_, Some(InfoData::Xfrm(infos))) => {
            for info in infos {
                if let InfoXfrm::Link(index) = info {
                    t.link = Some(*index).filter(|i| *i != 0).or(t.link);
                }
            }
        }
        // A tap, which is Ethernet, is the cable of a virtual machine.
        (InfoKind::Tun, _) if ethernet => return None,
        _ => {}
    }
    Some(t)
}

/// What the packets of such a device are called; `None` = it is no tunnel.
fn name(kind: &InfoKind) -> Option<&'static str> {
    let kind = match kind {
        InfoKind::Tun => return Some(TUN),
        InfoKind::Vxlan => kind::VXLAN,
        InfoKind::Geneve => kind::GENEVE,
        InfoKind::GreTun | InfoKind::GreTap | InfoKind::GreTun6 | InfoKind::GreTap6 => kind::GRE,
        InfoKind::ErSpan | InfoKind::Ip6ErSpan => kind::GRE,
        InfoKind::IpIp => kind::IPIP,
        InfoKind::SitTun => kind::SIT,
        InfoKind::Ip6Tnl => kind::IP6TNL,
        InfoKind::Wireguard => kind::WIREGUARD,
        InfoKind::Xfrm | InfoKind::Vti | InfoKind::Vti6 => kind::ESP,
        _ => return None,
    };
    kind::NAMES.get(kind as usize).copied()
}
