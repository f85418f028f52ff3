//! Headers, put together by hand.

use super::alloc::vec;
use super::alloc::vec::Vec;

/// An Ethernet frame.
pub fn ethernet(ethertype: u16, payload: &[u8]) -> Vec<u8> {
    vlan(&[], ethertype, payload)
}

/// An Ethernet frame with VLAN tags (EtherType, id).
pub fn vlan(tags: &[(u16, u16)], ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
    for (tag, id) in tags {
        out.extend(tag.to_be_bytes());
        out.extend(id.to_be_bytes());
    }
    out.extend(ethertype.to_be_bytes());
    out.extend(payload);
    out
}

/// A frame filled up to the link's shortest.
pub fn padded(mut frame: Vec<u8>, len: usize) -> Vec<u8> {
    if frame.len() < len {
        frame.resize(len, 0);
    }
    frame
}

/// An IPv4 packet from 192.0.2.1 to 192.0.2.2.
pub fn ipv4(protocol: u8, payload: &[u8]) -> Vec<u8> {
    ipv4_with(protocol, &[], 0, payload)
}

/// An IPv4 packet with options and the field of flags and fragment offset.
pub fn ipv4_with(protocol: u8, options: &[u8], fragment: u16, payload: &[u8]) -> Vec<u8> {
    let header = 20 + options.len();
    let mut out = vec![0x40 | (header / 4) as u8, 0];
    out.extend(((header + payload.len()) as u16).to_be_bytes());
    out.extend([0, 7]);
    out.extend(fragment.to_be_bytes());
    out.extend([64, protocol, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2]);
    out.extend(options);
    out.extend(payload);
    out
}

/// An IPv6 packet from 2001:db8::1 to 2001:db8::2.
pub fn ipv6(next: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![0x60, 0, 0, 0];
    out.extend((payload.len() as u16).to_be_bytes());
    out.extend([next, 64]);
    for last in [1, 2] {
        out.extend([0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]);
    }
    out.extend(payload);
    out
}

/// IPv6 extension headers that name each other and then the payload's protocol, each with `more` units of 8 bytes less 4.
pub fn extended(next: &[u8], more: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for protocol in next {
        out.extend([*protocol, more / 4]);
        out.resize(out.len() + 6 + more as usize / 4 * 8, 0);
    }
    out.extend(payload);
    out
}

/// A fragment header; the offset in units of 8 bytes.
pub fn fragment6(next: u8, offset: u16, more: bool, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![next, 0];
    out.extend((offset << 3 | more as u16).to_be_bytes());
    out.extend([0, 0, 0, 1]);
    out.extend(payload);
    out
}

/// Ethernet and IPv4.
pub fn eth4(protocol: u8, payload: &[u8]) -> Vec<u8> {
    ethernet(0x0800, &ipv4(protocol, payload))
}

/// Ethernet and IPv6.
pub fn eth6(next: u8, payload: &[u8]) -> Vec<u8> {
    ethernet(0x86dd, &ipv6(next, payload))
}

/// A UDP datagram.
pub fn udp(source: u16, destination: u16, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend(source.to_be_bytes());
    out.extend(destination.to_be_bytes());
    out.extend(((8 + payload.len()) as u16).to_be_bytes());
    out.extend([0, 0]);
    out.extend(payload);
    out
}

fn segment(len: usize) -> Vec<u8> {
    let mut out = vec![
        0x9c, 0x40, 0, 80, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 1, 0, 0, 0, 0, 0,
    ];
    out.resize(20 + len, 0x41);
    out
}

/// A TCP segment with timestamps.
pub fn segment_with(ports: (u16, u16), timestamps: (u32, u32), len: usize) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend(ports.0.to_be_bytes());
    out.extend(ports.1.to_be_bytes());
    out.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x80, 0x10, 1, 0, 0, 0, 0, 0, 1, 1, 8, 10]);
    out.extend(timestamps.0.to_be_bytes());
    out.extend(timestamps.1.to_be_bytes());
    out.resize(32 + len, 0x41);
    out
}

/// A TCP segment of `len` bytes over IPv4.
pub fn tcp(len: usize) -> Vec<u8> {
    ipv4(6, &segment(len))
}

/// A TCP segment of `len` bytes over IPv6.
pub fn tcp6(len: usize) -> Vec<u8> {
    ipv6(6, &segment(len))
}

/// A VXLAN datagram to the port of RFC 7348.
pub fn vxlan(vni: u32, frame: &[u8]) -> Vec<u8> {
    udp(33000, 4789, &vxlan_header(8, 0, vni, frame))
}

/// The header of VXLAN and VXLAN-GPE.
pub fn vxlan_header(flags: u8, next: u8, vni: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![flags, 0, 0, next];
    out.extend((vni << 8).to_be_bytes());
    out.extend(payload);
    out
}

/// A Geneve datagram; options in multiples of four bytes.
pub fn geneve(ethertype: u16, vni: u32, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut out = vec![(options.len() / 4) as u8, 0];
    out.extend(ethertype.to_be_bytes());
    out.extend((vni << 8).to_be_bytes());
    out.extend(options);
    out.extend(payload);
    udp(33000, 6081, &out)
}

/// A GRE packet.
pub fn gre(
    ethertype: u16,
    key: Option<u32>,
    sequence: Option<u32>,
    checksum: bool,
    payload: &[u8],
) -> Vec<u8> {
    let flags = (checksum as u8) << 7 | (key.is_some() as u8) << 5 | (sequence.is_some() as u8) << 4;
    let mut out = vec![flags, 0];
    out.extend(ethertype.to_be_bytes());
    if checksum {
        out.extend([0; 4]);
    }
    for field in [key, sequence].into_iter().flatten() {
        out.extend(field.to_be_bytes());
    }
    out.extend(payload);
    out
}

/// A WireGuard message of `len` bytes: type, first index, second index of a response, counter of data.
pub fn wireguard(message: u8, len: usize, first: u32, second: u32, counter: u64) -> Vec<u8> {
    let mut out = vec![message, 0, 0, 0];
    out.extend(first.to_le_bytes());
    if message == 4 {
        out.extend(counter.to_le_bytes());
    } else {
        out.extend(second.to_le_bytes());
    }
    out.resize(len, 0xc1);
    out
}
