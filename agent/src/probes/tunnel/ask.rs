//! What the kernel says of routes, addresses, sockets, IPsec and WireGuard, in the namespace of the thread that asks.

use crate::error::Result;
use crate::rtnetlink::{self, Rtnetlink};
use netlink_packet_core::{
    NLA_HEADER_SIZE, NLM_F_DUMP, NLM_F_REQUEST, NlaBuffer, NlasIterator, parse_u16, parse_u32,
};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteFlags, RouteMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Addresses that are nobody's (RFC 5737, RFC 3849): what leads there leads to all the world.
const ANYBODY: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
];

/// The devices of the default routes. One lookup a family: the table of a router may have a million routes.
pub(in crate::probes) fn default_routes(rtnetlink: &Rtnetlink, mark: u32) -> BTreeSet<u32> {
    let found = ANYBODY.map(|to| routes(rtnetlink, to, mark).unwrap_or_default());
    found.into_iter().flatten().collect()
}

/// The devices by which packets to an address may leave: of a route with several next hops each. None = no route. `mark`
/// is that of the packets, 0 = none.
pub(super) fn routes(rtnetlink: &Rtnetlink, to: IpAddr, mark: u32) -> Result<BTreeSet<u32>> {
    // The route itself, and not what came out of one lookup. Of next hops that are objects it may tell none (sysctl
    // nexthop_compat_mode): then the lookup has one of them.
    let whole = route(rtnetlink, to, mark, RouteFlags::FibMatch)?;
    if whole.is_empty() {
        return route(rtnetlink, to, mark, RouteFlags::empty());
    }
    Ok(whole)
}

fn route(rtnetlink: &Rtnetlink, to: IpAddr, mark: u32, flags: RouteFlags) -> Result<BTreeSet<u32>> {
    let mut request = RouteMessage::default();
    (
        request.header.address_family,
        request.header.destination_prefix_length,
    ) = match to {
        IpAddr::V4(_) => (AddressFamily::Inet, 32),
        IpAddr::V6(_) => (AddressFamily::Inet6, 128),
    };
    request.header.flags = flags;
    request
        .attributes
        .push(RouteAttribute::Destination(RouteAddress::from(to)));
    if mark != 0 {
        request.attributes.push(RouteAttribute::Mark(mark));
    }
    let answer = rtnetlink.get(RouteNetlinkMessage::GetRoute(request))?;
    let mut out = BTreeSet::new();
    for message in answer {
        let RouteNetlinkMessage::NewRoute(route) = message else {
            continue;
        };
        for attribute in route.attributes {
            match attribute {
                RouteAttribute::Oif(index) => out.extend([index]),
                RouteAttribute::MultiPath(hops) => out.extend(hops.iter().map(|hop| hop.interface_index)),
                _ => {}
            }
        }
    }
    Ok(out)
}

/// An entry of a forwarding table: to whom frames are sent.
pub(super) struct Forward {
    /// Index of the device.
    pub device: u32,
    pub to: IpAddr,
    /// Somebody has configured it; else the kernel has learned it of a packet, which may be forged.
    pub told: bool,
}

/// The forwarding tables of all VXLAN devices.
pub(super) fn forwards(rtnetlink: &Rtnetlink) -> Result<Vec<Forward>> {
    let mut request = NeighbourMessage::default();
    request.header.family = AddressFamily::Bridge;
    let answer = rtnetlink.dump(RouteNetlinkMessage::GetNeighbour(request))?;
    let entry = |message: &RouteNetlinkMessage| {
        let RouteNetlinkMessage::NewNeighbour(entry) = message else {
            return None;
        };
        let to = entry.attributes.iter().find_map(|a| match a {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(a)) => Some(IpAddr::from(*a)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(a)) => Some(IpAddr::from(*a)),
            NeighbourAttribute::Destination(NeighbourAddress::Other(bytes)) => address(bytes),
            _ => None,
        })?;
        let header = &entry.header;
        Some(Forward {
            device: header.ifindex,
            to,
            told: matches!(header.state, NeighbourState::Permanent | NeighbourState::Noarp)
                || header.flags.contains(NeighbourFlags::ExtLearned),
        })
    };
    Ok(answer.iter().filter_map(entry).collect())
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        16 => Some(IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?)),
        _ => None,
    }
}

/// Addresses of all devices.
pub(in crate::probes) fn addresses(rtnetlink: &Rtnetlink) -> Result<Vec<(u32, IpAddr)>> {
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
pub(super) fn sockets() -> BTreeSet<(Option<IpAddr>, u16)> {
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

/// Both ends of the kernel's IPsec states that have no device of their own; which of the two is ours they do not say.
pub(super) fn ipsec() -> BTreeSet<IpAddr> {
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
    const DADDR: usize = 56;
    const SADDR: usize = 76;
    const FAMILY: usize = 212;
    let mut out = BTreeSet::new();
    let flags = NLM_F_REQUEST | NLM_F_DUMP;
    rtnetlink::ask(NETLINK_XFRM, XFRM_MSG_GETSA, flags, &[], |kind, body| {
        let end = |at: usize| {
            let family = u16::from_ne_bytes(body.get(FAMILY..FAMILY + 2)?.try_into().ok()?);
            let length = if i32::from(family) == libc::AF_INET { 4 } else { 16 };
            address(body.get(at..at + length)?)
        };
        if kind == XFRM_MSG_NEWSA {
            out.extend([DADDR, SADDR].into_iter().filter_map(end));
        }
        true
    })?;
    Ok(out)
}

/// What the kernel's WireGuard says of a device.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Wireguard {
    /// Port of its socket; `None` = it has none yet.
    pub port: Option<u16>,
    /// Mark of its packets, by which they may be routed; 0 = none.
    pub mark: u32,
    /// Addresses of its peers.
    pub ends: Vec<IpAddr>,
    /// A peer has no address until it has been heard.
    pub unheard: bool,
}

/// Asks the kernel's WireGuard of this interface index. Generic netlink, include/uapi/linux/wireguard.h.
pub(super) fn wireguard(index: u32) -> Result<Wireguard> {
    const NETLINK_GENERIC: isize = 16;
    const GENL_ID_CTRL: u16 = 16;
    const CTRL_CMD_GETFAMILY: u8 = 3;
    const CTRL_ATTR_FAMILY_ID: u16 = 1;
    const CTRL_ATTR_FAMILY_NAME: u16 = 2;
    const WG_CMD_GET_DEVICE: u8 = 0;
    const WGDEVICE_A_IFINDEX: u16 = 1;
    const WGDEVICE_A_LISTEN_PORT: u16 = 6;
    const WGDEVICE_A_FWMARK: u16 = 7;
    const WGDEVICE_A_PEERS: u16 = 8;
    const WGPEER_A_ENDPOINT: u16 = 4;
    let mut found: Option<u16> = None;
    let request_family = request(CTRL_CMD_GETFAMILY, CTRL_ATTR_FAMILY_NAME, b"wireguard\0");
    rtnetlink::ask(
        NETLINK_GENERIC,
        GENL_ID_CTRL,
        NLM_F_REQUEST,
        &request_family,
        |_, answer| {
            found = attribute(generic(answer), CTRL_ATTR_FAMILY_ID).and_then(|id| parse_u16(id).ok());
            false
        },
    )?;
    let mut out = Wireguard::default();
    let Some(family) = found else {
        return Ok(out);
    };
    let device = request(WG_CMD_GET_DEVICE, WGDEVICE_A_IFINDEX, &index.to_ne_bytes());
    // Many peers are told in several answers.
    rtnetlink::ask(
        NETLINK_GENERIC,
        family,
        NLM_F_REQUEST | NLM_F_DUMP,
        &device,
        |_, answer| {
            let answer = generic(answer);
            // 0 = it has no socket yet.
            let port = || parse_u16(attribute(answer, WGDEVICE_A_LISTEN_PORT)?).ok();
            out.port = out.port.or_else(|| port().filter(|port| *port != 0));
            let mark = || parse_u32(attribute(answer, WGDEVICE_A_FWMARK)?).ok();
            out.mark = mark().unwrap_or(out.mark);
            let peers = attribute(answer, WGDEVICE_A_PEERS).unwrap_or_default();
            for peer in NlasIterator::new(peers).flatten() {
                match attribute(peer.value(), WGPEER_A_ENDPOINT).and_then(endpoint) {
                    Some(end) => out.ends.push(end),
                    None => out.unheard = true,
                }
            }
            true
        },
    )?;
    Ok(out)
}

/// What follows the header of generic netlink.
fn generic(answer: &[u8]) -> &[u8] {
    answer.get(GENERIC_HEADER..).unwrap_or_default()
}

fn attribute(attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    let mut all = NlasIterator::new(attributes).flatten();
    let found = all.find(|a| a.kind() == wanted)?;
    let end = NLA_HEADER_SIZE + found.value_length();
    found.into_inner().get(NLA_HEADER_SIZE..end)
}

/// The address of a `struct sockaddr_in` or `sockaddr_in6`.
fn endpoint(socket: &[u8]) -> Option<IpAddr> {
    let family = u16::from_ne_bytes(socket.get(..2)?.try_into().ok()?);
    match i32::from(family) {
        libc::AF_INET => address(socket.get(4..8)?),
        libc::AF_INET6 => address(socket.get(8..24)?),
        _ => None,
    }
}

/// `struct genlmsghdr`.
const GENERIC_HEADER: usize = 4;

/// A command with one attribute.
fn request(command: u8, attribute: u16, value: &[u8]) -> Vec<u8> {
    const VERSION: u8 = 1;
    let length = NLA_HEADER_SIZE + value.len();
    let mut body = vec![0; GENERIC_HEADER + length.next_multiple_of(4)];
    let (header, rest) = body.split_at_mut(GENERIC_HEADER);
    header.copy_from_slice(&[command, VERSION, 0, 0]);
    let mut buffer = NlaBuffer::new(rest);
    buffer.set_kind(attribute);
    buffer.set_length(length as u16);
    buffer.value_mut().copy_from_slice(value);
    body
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

    #[test]
    fn a_request_of_generic_netlink() {
        let family = request(3, 2, b"wireguard\0");
        assert_eq!(family.get(..8), Some([3, 1, 0, 0, 14, 0, 2, 0].as_slice()));
        assert_eq!(family.get(8..), Some(b"wireguard\0\0\0".as_slice()));
    }

    #[test]
    fn ends_of_peers() {
        let mut v4 = vec![0; 16];
        v4[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
        v4[2..8].copy_from_slice(&[0xca, 0x6c, 10, 0, 0, 2]);
        assert_eq!(endpoint(&v4), "10.0.0.2".parse().ok());
        let mut v6 = vec![0; 28];
        v6[..2].copy_from_slice(&(libc::AF_INET6 as u16).to_ne_bytes());
        v6[23] = 7;
        assert_eq!(endpoint(&v6), "::7".parse().ok());
        assert_eq!(endpoint(&v4[..6]), None);
    }

    /// The kernel knows its own controller by the same words.
    #[test]
    fn a_family_that_is_not_there_is_an_error() {
        assert!(wireguard(u32::MAX).is_err());
    }
}
