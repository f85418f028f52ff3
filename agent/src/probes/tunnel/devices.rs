//! Which devices carry tunnels: asked of rtnetlink, of the kernel's IPsec states and of the UDP sockets.

use crate::bpf::tc::Way;
use crate::config::Glob;
use crate::error::{Context as _, Result};
use crate::rtnetlink::Rtnetlink;
use agent_common::tunnel::kind;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    InfoData, InfoGeneve, InfoGre, InfoGre6, InfoIpTunnel, InfoKind, InfoVti, InfoVxlan, InfoXfrm,
    LinkAttribute, LinkInfo, LinkLayerType, LinkMessage,
};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// A device that packets of tunnels pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Underlay {
    /// Its name.
    pub name: String,
    /// Its packets begin with an Ethernet header, and not with that of IP.
    pub ethernet: bool,
}

impl Underlay {
    /// The program for its packets.
    pub fn program(&self, way: Way) -> &'static str {
        match (way, self.ethernet) {
            (Way::Ingress, true) => "tunnel_ingress",
            (Way::Egress, true) => "tunnel_egress",
            (Way::Ingress, false) => "tunnel_ingress_ip",
            (Way::Egress, false) => "tunnel_egress_ip",
        }
    }
}

/// What was found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// By interface index.
    pub underlays: BTreeMap<u32, Underlay>,
    /// UDP ports of devices that do not use the usual ones.
    pub ports: BTreeMap<u16, u8>,
}

/// A device.
#[derive(Debug)]
struct Device {
    index: u32,
    name: String,
    up: bool,
    loopback: bool,
    ethernet: bool,
    /// The device below a VLAN or the like.
    lower: Option<u32>,
    tunnel: Option<Tunnel>,
}

/// What a tunnel device says of its way.
#[derive(Debug, Default)]
struct Tunnel {
    link: Option<u32>,
    local: Option<IpAddr>,
    remote: Option<IpAddr>,
    port: Option<(u16, u8)>,
}

/// Finds the devices. `ports` are the UDP ports that carry tunnels, `named` the patterns of devices that are wanted in
/// any case, `always` = as if there were a tunnel of unknown way.
pub fn find(rtnetlink: &Rtnetlink, ports: &BTreeMap<u16, u8>, named: &[Glob], always: bool) -> Result<Found> {
    let links = rtnetlink.dump(RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
    let devices: Vec<Device> = links
        .iter()
        .filter_map(|message| match message {
            RouteNetlinkMessage::NewLink(link) => device(link),
            _ => None,
        })
        .collect();
    let mut found = Found::default();
    let mut wanted = BTreeSet::new();
    let mut anywhere = always;
    let mut holders: Option<Vec<(u32, IpAddr)>> = None;
    // Fallback devices such as tunl0 are there wherever the module is loaded; those that are down carry nothing.
    let tunnels = devices.iter().filter(|d| d.up).filter_map(|d| d.tunnel.as_ref());
    let mut ways: Vec<(Option<u32>, Option<IpAddr>, Option<IpAddr>)> = Vec::new();
    for tunnel in tunnels {
        found.ports.extend(tunnel.port);
        ways.push((tunnel.link, tunnel.local, tunnel.remote));
    }
    ways.extend(ipsec().into_iter().map(|remote| (None, None, Some(remote))));
    ways.extend(
        sockets()
            .into_iter()
            .filter(|(_, port)| ports.contains_key(port))
            .map(|(address, _)| (None, address, None)),
    );
    for (link, local, remote) in ways {
        if let Some(link) = link {
            wanted.insert(link);
        } else if let Some(remote) = remote.filter(|r| !r.is_unspecified() && !r.is_multicast()) {
            // No route: nothing passes anywhere.
            wanted.extend(route(rtnetlink, remote).ok().flatten());
        } else if let Some(local) = local.filter(|l| !l.is_unspecified()) {
            if holders.is_none() {
                holders = Some(addresses(rtnetlink)?);
            }
            let holders = holders.iter().flatten();
            wanted.extend(holders.filter(|(_, a)| *a == local).map(|(index, _)| *index));
        } else {
            anywhere = true;
        }
    }
    if anywhere {
        let holders = match holders {
            Some(holders) => holders,
            None => addresses(rtnetlink)?,
        };
        wanted.extend(holders.into_iter().map(|(index, _)| index));
    }
    for device in devices {
        let asked = named.iter().any(|pattern| pattern.matches(&device.name));
        // A tunnel device is an underlay only where another tunnel says so.
        let carries = wanted.contains(&device.index) && !device.loopback && device.up;
        let own = anywhere && device.tunnel.is_some();
        // Its packets pass the lower device as well, and would be counted twice.
        let below = device.lower.is_some_and(|lower| wanted.contains(&lower));
        if asked || carries && !own && !below {
            let underlay = Underlay {
                name: device.name,
                ethernet: device.ethernet,
            };
            found.underlays.insert(device.index, underlay);
        }
    }
    Ok(found)
}

fn device(message: &LinkMessage) -> Option<Device> {
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
        tunnel: kind.and_then(|kind| tunnel(kind, data, parent, ethernet)),
    })
}

/// The way of a tunnel device; `None` = it is no tunnel.
fn tunnel(kind: &InfoKind, data: Option<&InfoData>, parent: Option<u32>, ethernet: bool) -> Option<Tunnel> {
    let mut t = Tunnel {
        link: parent,
        ..Tunnel::default()
    };
    match (kind, data) {
        (_, Some(InfoData::Vxlan(infos))) => {
            let mut port = 0;
            let mut gpe = false;
            for info in infos {
                match info {
                    InfoVxlan::Link(index) => t.link = Some(*index).filter(|i| *i != 0).or(t.link),
                    InfoVxlan::Local(a) => t.local = Some((*a).into()),
                    InfoVxlan::Local6(a) => t.local = Some((*a).into()),
                    InfoVxlan::Group(a) => t.remote = Some((*a).into()),
                    InfoVxlan::Group6(a) => t.remote = Some((*a).into()),
                    InfoVxlan::Port(p) => port = *p,
                    InfoVxlan::Gpe => gpe = true,
                    _ => {}
                }
            }
            let kind = if gpe { kind::VXLAN_GPE } else { kind::VXLAN };
            t.port = (port != 0).then_some((port, kind));
        }
        (_, Some(InfoData::Geneve(infos))) => {
            for info in infos {
                match info {
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
        (
            InfoKind::Tun
            | InfoKind::Vxlan
            | InfoKind::Geneve
            | InfoKind::GreTun
            | InfoKind::GreTap
            | InfoKind::GreTun6
            | InfoKind::GreTap6
            | InfoKind::IpIp
            | InfoKind::SitTun
            | InfoKind::Ip6Tnl
            | InfoKind::Wireguard
            | InfoKind::Xfrm
            | InfoKind::Vti
            | InfoKind::Vti6,
            _,
        ) => {}
        _ => return None,
    }
    Some(t)
}

/// The device by which packets to an address leave.
fn route(rtnetlink: &Rtnetlink, to: IpAddr) -> Result<Option<u32>> {
    let mut request = RouteMessage::default();
    (
        request.header.address_family,
        request.header.destination_prefix_length,
    ) = match to {
        IpAddr::V4(_) => (AddressFamily::Inet, 32),
        IpAddr::V6(_) => (AddressFamily::Inet6, 128),
    };
    request
        .attributes
        .push(RouteAttribute::Destination(RouteAddress::from(to)));
    let answer = rtnetlink.get(RouteNetlinkMessage::GetRoute(request))?;
    Ok(answer.iter().find_map(|message| match message {
        RouteNetlinkMessage::NewRoute(route) => route.attributes.iter().find_map(|a| match a {
            RouteAttribute::Oif(index) => Some(*index),
            _ => None,
        }),
        _ => None,
    }))
}

/// Addresses of all devices.
fn addresses(rtnetlink: &Rtnetlink) -> Result<Vec<(u32, IpAddr)>> {
    let answer = rtnetlink.dump(RouteNetlinkMessage::GetAddress(AddressMessage::default()))?;
    let own = |message: &RouteNetlinkMessage| {
        let RouteNetlinkMessage::NewAddress(address) = message else {
            return None;
        };
        // Of a point-to-point link, `Address` is the other end's.
        let find = |want_local: bool| {
            address.attributes.iter().find_map(|a| match a {
                AddressAttribute::Local(a) if want_local => Some(*a),
                AddressAttribute::Address(a) if !want_local => Some(*a),
                _ => None,
            })
        };
        let found = find(true).or_else(|| find(false))?;
        let link_local = matches!(found, IpAddr::V6(a) if a.is_unicast_link_local());
        (!link_local).then_some((address.header.index, found))
    };
    Ok(answer.iter().filter_map(own).collect())
}

/// Bound UDP sockets of this namespace: address (`None` = all), port. The kernel's own sockets are among them.
fn sockets() -> BTreeSet<(Option<IpAddr>, u16)> {
    let mut out = BTreeSet::new();
    for file in ["/proc/thread-self/net/udp", "/proc/thread-self/net/udp6"] {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        out.extend(text.lines().skip(1).filter_map(socket));
    }
    out
}

/// A line of /proc/net/udp: the address is in words of the machine's byte order.
fn socket(line: &str) -> Option<(Option<IpAddr>, u16)> {
    let mut words = line.split_whitespace();
    let (address, port) = words.nth(1)?.split_once(':')?;
    // Unconnected (TCP_CLOSE): a resolver's socket may be given such a port by chance, the end of a tunnel talks to many.
    if words.nth(1)? != "07" {
        return None;
    }
    let mut bytes = Vec::with_capacity(16);
    for word in 0..address.len() / 8 {
        let word = u32::from_str_radix(address.get(8 * word..8 * word + 8)?, 16).ok()?;
        bytes.extend(word.to_ne_bytes());
    }
    let address = match bytes.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?),
        _ => IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?).to_canonical(),
    };
    let port = u16::from_str_radix(port, 16).ok()?;
    Some(((!address.is_unspecified()).then_some(address), port))
}

/// Destinations of the kernel's IPsec states that have no device of their own.
fn ipsec() -> BTreeSet<IpAddr> {
    // Opening the socket would have the kernel load xfrm_user, or look for it each time. Where it is, its own socket is
    // listed.
    let sockets = std::fs::read_to_string("/proc/thread-self/net/netlink").unwrap_or_default();
    if !sockets
        .lines()
        .skip(1)
        .any(|line| line.split_ascii_whitespace().nth(1) == Some("6"))
    {
        return BTreeSet::new();
    }
    ask_xfrm().unwrap_or_default()
}

/// Dumps the states by NETLINK_XFRM; offsets are those of `struct xfrm_usersa_info` (include/uapi/linux/xfrm.h).
fn ask_xfrm() -> Result<BTreeSet<IpAddr>> {
    const NETLINK_XFRM: isize = 6;
    const XFRM_MSG_GETSA: u16 = 0x12;
    const XFRM_MSG_NEWSA: u16 = 0x10;
    const NLM_F_REQUEST_DUMP: u16 = 0x301;
    const HEADER: usize = 16;
    const DADDR: usize = 56;
    const FAMILY: usize = 212;
    let mut socket = netlink_sys::Socket::new(NETLINK_XFRM).context("xfrm: socket")?;
    socket.bind_auto().context("xfrm: bind")?;
    let mut request = Vec::with_capacity(HEADER);
    request.extend(16u32.to_ne_bytes());
    request.extend(XFRM_MSG_GETSA.to_ne_bytes());
    request.extend(NLM_F_REQUEST_DUMP.to_ne_bytes());
    request.extend([0; 8]);
    socket
        .send_to(&request, &netlink_sys::SocketAddr::new(0, 0), 0)
        .context("xfrm: send")?;
    let mut out = BTreeSet::new();
    let mut buffer = Vec::with_capacity(1 << 16);
    loop {
        buffer.clear();
        socket.recv(&mut buffer, 0).context("xfrm: receive")?;
        let mut rest = buffer.as_slice();
        while rest.len() >= HEADER {
            let word = |at: usize, size: usize| rest.get(at..at + size);
            let length = word(0, 4)
                .and_then(|b| b.try_into().ok())
                .map_or(0, u32::from_ne_bytes);
            let kind = word(4, 2)
                .and_then(|b| b.try_into().ok())
                .map_or(0, u16::from_ne_bytes);
            if kind != XFRM_MSG_NEWSA || (length as usize) < HEADER {
                // Done, or an error: there is no IPsec.
                return Ok(out);
            }
            let family = word(HEADER + FAMILY, 2)
                .and_then(|b| b.try_into().ok())
                .map_or(0, u16::from_ne_bytes);
            let address = word(HEADER + DADDR, 16).and_then(|b| {
                Some(if i32::from(family) == libc::AF_INET {
                    IpAddr::from(<[u8; 4]>::try_from(b.get(..4)?).ok()?)
                } else {
                    IpAddr::from(<[u8; 16]>::try_from(b).ok()?)
                })
            });
            out.extend(address);
            rest = rest
                .get((length as usize).next_multiple_of(4)..)
                .unwrap_or_default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_proc_net_udp() {
        let line =
            |address| format!("  12: {address} 00000000:0000 07 00000000:00000000 00:00000000 00000000");
        assert_eq!(socket(&line("00000000:CA6C")), Some((None, 51820)));
        let ten: IpAddr = "10.0.0.1".parse().unwrap();
        assert_eq!(socket(&line("0100000A:12B5")), Some((Some(ten), 4789)));
        assert_eq!(
            socket(&line("0000000000000000FFFF00000100000A:12B5")),
            Some((Some(ten), 4789))
        );
        assert_eq!(socket(&line("xyz:12B5")), None);
        assert_eq!(socket("sl local_address"), None);
    }
}
