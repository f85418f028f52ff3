//! The packets of a trace, and what answers say of them. Pure.
//!
//! All packets of a target are one flow to every router on the way (Paris traceroute, Augustin et al., IMC 2006): what
//! routers hash, the addresses, the protocol, the ports, type, code and checksum of ICMP and IPv6's flow label, is the
//! same in each. They are told apart by what is not hashed and yet lies within the eight bytes that every router quotes
//! (RFC 792): the sequence of an echo request, the checksum of a datagram, the sequence number of a connection request.
//! Two bytes of payload make good for what the number does to the sum.

use crate::config::PathProtocol;
use agent_common::udp::{TCP, UDP};
use std::net::IpAddr;

const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
/// Checksum of all echo requests.
const CHECKSUM: u16 = 0x6e0f;
/// Payload, so that whoever finds such a packet knows whose it is.
const MARK: &[u8] = b"geophone path!";

/// One flow, and the numbers of a trace's packets in it.
#[derive(Clone, Debug)]
pub struct Flow {
    /// What is sent.
    pub protocol: PathProtocol,
    /// From where.
    pub source: IpAddr,
    /// To where; of the same family.
    pub target: IpAddr,
    /// Source port; the identifier of echo requests.
    pub own: u16,
    /// Destination port.
    pub port: u16,
    /// What the packets are numbered from. By chance in each trace: who has not seen the packets cannot answer them.
    pub first: u32,
}

/// What an answer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// A router has let the packet expire.
    Router,
    /// The packet has arrived.
    Arrived,
    /// The packet may go no further.
    Refused,
}

/// What came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The answer to the packet of this number.
    To(u16, Meaning),
    /// It is about our flow and about none of its packets.
    Foreign,
    /// It is about something else.
    Other,
}

impl Flow {
    /// The whole packet, from its IP header.
    pub fn packet(&self, number: u16, ttl: u8) -> Vec<u8> {
        let transport = self.transport(number);
        let length = transport.len() as u16;
        let mut out = Vec::with_capacity(80);
        match (self.source, self.target) {
            (IpAddr::V6(source), IpAddr::V6(target)) => {
                // The label is never zero: routers would make up one of their own.
                out.extend((0x6001_0000 | u32::from(self.own)).to_be_bytes());
                out.extend(length.to_be_bytes());
                out.extend([self.number(), ttl]);
                out.extend(source.octets());
                out.extend(target.octets());
            }
            _ => {
                out.extend([0x45, 0]);
                out.extend((20 + length).to_be_bytes());
                // The kernel fills in identification and checksum. Not to be fragmented.
                out.extend([0, 0, 0x40, 0, ttl, self.number(), 0, 0]);
                out.extend(octets(self.source));
                out.extend(octets(self.target));
            }
        }
        out.extend(transport);
        out
    }

    /// The protocol's number.
    fn number(&self) -> u8 {
        match (self.protocol, self.target) {
            (PathProtocol::Icmp, IpAddr::V4(_)) => ICMP,
            (PathProtocol::Icmp, IpAddr::V6(_)) => ICMPV6,
            (PathProtocol::Udp, _) => UDP,
            (PathProtocol::Tcp, _) => TCP,
        }
    }

    fn transport(&self, number: u16) -> Vec<u8> {
        let (own, port) = (self.own.to_be_bytes(), self.port.to_be_bytes());
        let short = (self.first as u16).wrapping_add(number);
        let mut out = Vec::with_capacity(32);
        // Where the two bytes are that make the sum right.
        let place = match self.protocol {
            PathProtocol::Icmp => {
                out.extend([if self.target.is_ipv4() { 8 } else { 128 }, 0]);
                out.extend(CHECKSUM.to_be_bytes());
                out.extend(own);
                out.extend(short.to_be_bytes());
                out.extend([0, 0]);
                out.extend(MARK);
                8
            }
            PathProtocol::Udp => {
                out.extend(own);
                out.extend(port);
                out.extend((8 + 2 + MARK.len() as u16).to_be_bytes());
                out.extend(short.to_be_bytes());
                out.extend([0, 0]);
                out.extend(MARK);
                8
            }
            PathProtocol::Tcp => {
                out.extend(own);
                out.extend(port);
                out.extend(self.first.wrapping_add(number.into()).to_be_bytes());
                // Nothing acknowledged, six words of header, SYN, a window; checksum and urgent pointer; MSS 1220.
                out.extend([0, 0, 0, 0, 0x60, 2, 0xfa, 0xf0, 0, 0, 0, 0, 2, 4, 4, 0xc4]);
                16
            }
        };
        let pseudo = if self.number() == ICMP {
            0
        } else {
            self.pseudo(out.len())
        };
        let rest = !fold(pseudo + sum(&out));
        if let Some(at) = out.get_mut(place..place + 2) {
            at.copy_from_slice(&rest.to_be_bytes());
        }
        out
    }

    /// Sum of the pseudo header.
    fn pseudo(&self, length: usize) -> u32 {
        sum(&octets(self.source)) + sum(&octets(self.target)) + u32::from(self.number()) + length as u32
    }

    /// What a message of ICMP is to us, as a raw socket gives it: IPv4 with its header, IPv6 without.
    pub fn icmp(&self, from: IpAddr, bytes: &[u8]) -> Answer {
        let v4 = self.target.is_ipv4();
        let Some(message) = payload(v4, bytes) else {
            return Answer::Other;
        };
        // The kernel hands out IPv4's before it looks at their checksum.
        if v4 && fold(sum(message)) != 0xffff {
            return Answer::Other;
        }
        let &[kind, code, ..] = message else {
            return Answer::Other;
        };
        let quoted = message.get(8..).unwrap_or_default();
        let arrived = from == self.target;
        let is_udp = self.protocol == PathProtocol::Udp;
        match (v4, kind) {
            (true, 0) | (false, 129) => self.echo(from, message),
            (true, 11) | (false, 3) if code == 0 => self.quoted(quoted, Meaning::Router),
            // Protocol or port unreachable: the host says so, from whatever address. But of a port only UDP is told so by a
            // host; of other packets a firewall on the way says it when it rejects them.
            (true, 3) if arrived || code == 2 || is_udp && code == 3 => self.quoted(quoted, Meaning::Arrived),
            (false, 1) if arrived || is_udp && code == 4 => self.quoted(quoted, Meaning::Arrived),
            (true, 3) | (false, 1) => self.quoted(quoted, Meaning::Refused),
            _ => Answer::Other,
        }
    }

    fn echo(&self, from: IpAddr, message: &[u8]) -> Answer {
        let (Some(id), Some(sequence)) = (pair(message, 4), pair(message, 6)) else {
            return Answer::Other;
        };
        if self.protocol != PathProtocol::Icmp || from != self.target || id != self.own {
            return Answer::Other;
        }
        let number = sequence.wrapping_sub(self.first as u16);
        if message.get(8..) == self.transport(number).get(8..) {
            Answer::To(number, Meaning::Arrived)
        } else {
            Answer::Foreign
        }
    }

    /// The packet that an error quotes: at least its first eight bytes must be those of one of ours. What follows may
    /// have been changed on the way (MSS).
    fn quoted(&self, bytes: &[u8], meaning: Meaning) -> Answer {
        let v4 = self.target.is_ipv4();
        let (protocol, source, target, width) = if v4 { (9, 12, 16, 4) } else { (6, 8, 24, 16) };
        let is = |at: usize, address: IpAddr| bytes.get(at..at + width) == Some(octets(address).as_slice());
        let version = if v4 { 4 } else { 6 };
        if bytes.first().is_none_or(|b| b >> 4 != version)
            || bytes.get(protocol) != Some(&self.number())
            || !is(source, self.source)
            || !is(target, self.target)
        {
            return Answer::Other;
        }
        let header = if v4 { header_length(bytes) } else { 40 };
        let Some(transport) = bytes.get(header..header + 8) else {
            return Answer::Other;
        };
        let (own, number) = match self.protocol {
            PathProtocol::Icmp => (4, pair(transport, 6).map(|n| n.wrapping_sub(self.first as u16))),
            PathProtocol::Udp => (0, pair(transport, 6).map(|n| n.wrapping_sub(self.first as u16))),
            PathProtocol::Tcp => (0, word(transport, 4).and_then(|n| self.long(n))),
        };
        if pair(transport, own) != Some(self.own) {
            return Answer::Other;
        }
        match number {
            Some(number) if self.transport(number).starts_with(transport) => Answer::To(number, meaning),
            _ => Answer::Foreign,
        }
    }

    fn long(&self, sequence: u32) -> Option<u16> {
        u16::try_from(sequence.wrapping_sub(self.first)).ok()
    }

    /// What a segment of TCP is to us, as a raw socket gives it.
    pub fn tcp(&self, from: IpAddr, bytes: &[u8]) -> Answer {
        let Some(segment) = payload(self.target.is_ipv4(), bytes) else {
            return Answer::Other;
        };
        if from != self.target || pair(segment, 0) != Some(self.port) || pair(segment, 2) != Some(self.own) {
            return Answer::Other;
        }
        const SYN_ACK: u8 = 0x12;
        const RST_ACK: u8 = 0x14;
        // An accepted or a refused connection; either acknowledges the request.
        let answers = segment
            .get(13)
            .is_some_and(|flags| matches!(flags & 0x17, SYN_ACK | RST_ACK));
        match word(segment, 8).and_then(|ack| self.long(ack.wrapping_sub(1))) {
            Some(number) if answers => Answer::To(number, Meaning::Arrived),
            _ => Answer::Foreign,
        }
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

fn header_length(packet: &[u8]) -> usize {
    packet.first().map_or(0, |b| usize::from(b & 15) * 4).max(20)
}

fn payload(v4: bool, bytes: &[u8]) -> Option<&[u8]> {
    if v4 {
        bytes.get(header_length(bytes)..)
    } else {
        Some(bytes)
    }
}

fn pair(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// Sum of 16-bit words, as checksums add them (RFC 1071).
fn sum(bytes: &[u8]) -> u32 {
    let word = |pair: &[u8]| match *pair {
        [high, low] => u32::from(high) << 8 | u32::from(low),
        [high] => u32::from(high) << 8,
        _ => 0,
    };
    bytes.chunks(2).map(word).sum()
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
#[path = "packet_tests.rs"]
mod tests;
