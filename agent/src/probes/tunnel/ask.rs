//! What the kernel says of routes, addresses, sockets, IPsec and WireGuard, in the namespace of the thread that asks.

use crate::error::Result;
use crate::rtnetlink::{self, Rtnetlink};
use netlink_packet_core::{NLA_HEADER_SIZE, NLM_F_DUMP, NLM_F_REQUEST, NlaBuffer, NlasIterator, parse_u16};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use std::collections::BTreeSet;
use std::net::IpAddr;

/// The device by which packets to an address leave.
pub(super) fn route(rtnetlink: &Rtnetlink, to: IpAddr) -> Result<Option<u32>> {
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

/// Destinations of the kernel's IPsec states that have no device of their own.
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
    const FAMILY: usize = 212;
    let mut out = BTreeSet::new();
    let flags = NLM_F_REQUEST | NLM_F_DUMP;
    rtnetlink::ask(NETLINK_XFRM, XFRM_MSG_GETSA, flags, &[], |kind, body| {
        let state = || {
            let family = u16::from_ne_bytes(body.get(FAMILY..FAMILY + 2)?.try_into().ok()?);
            let address = body.get(DADDR..DADDR + 16)?;
            Some(if i32::from(family) == libc::AF_INET {
                IpAddr::from(<[u8; 4]>::try_from(address.get(..4)?).ok()?)
            } else {
                IpAddr::from(<[u8; 16]>::try_from(address).ok()?)
            })
        };
        out.extend(state().filter(|_| kind == XFRM_MSG_NEWSA));
        true
    })?;
    Ok(out)
}

/// UDP port of the kernel's WireGuard of this interface index: generic netlink, include/uapi/linux/wireguard.h.
pub(super) fn wireguard_port(index: u32) -> Result<Option<u16>> {
    const NETLINK_GENERIC: isize = 16;
    const GENL_ID_CTRL: u16 = 16;
    const CTRL_CMD_GETFAMILY: u8 = 3;
    const CTRL_ATTR_FAMILY_ID: u16 = 1;
    const CTRL_ATTR_FAMILY_NAME: u16 = 2;
    const WG_CMD_GET_DEVICE: u8 = 0;
    const WGDEVICE_A_IFINDEX: u16 = 1;
    const WGDEVICE_A_LISTEN_PORT: u16 = 6;
    // The first answer has it. The others are about peers, and nobody reads them.
    let first = |kind, flags, body: &[u8], wanted| -> Result<Option<u16>> {
        let mut found = None;
        rtnetlink::ask(NETLINK_GENERIC, kind, flags, body, |_, answer| {
            let attributes = answer.get(GENERIC_HEADER..).unwrap_or_default();
            found = NlasIterator::new(attributes)
                .flatten()
                .find(|a| a.kind() == wanted)
                .and_then(|a| parse_u16(a.value()).ok());
            false
        })?;
        Ok(found)
    };
    let family = request(CTRL_CMD_GETFAMILY, CTRL_ATTR_FAMILY_NAME, b"wireguard\0");
    let Some(family) = first(GENL_ID_CTRL, NLM_F_REQUEST, &family, CTRL_ATTR_FAMILY_ID)? else {
        return Ok(None);
    };
    let device = request(WG_CMD_GET_DEVICE, WGDEVICE_A_IFINDEX, &index.to_ne_bytes());
    let flags = NLM_F_REQUEST | NLM_F_DUMP;
    let port = first(family, flags, &device, WGDEVICE_A_LISTEN_PORT)?;
    // 0 = it has no socket yet.
    Ok(port.filter(|port| *port != 0))
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

    /// The kernel knows its own controller by the same words.
    #[test]
    fn a_family_that_is_not_there_is_an_error() {
        assert!(wireguard_port(u32::MAX).is_err());
    }
}
