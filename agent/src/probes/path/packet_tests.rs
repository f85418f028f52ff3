use super::*;
use PathProtocol::{Icmp, Tcp, Udp};

fn flow(protocol: PathProtocol, v4: bool, first: u32) -> Flow {
    let (source, target) = if v4 {
        ("10.1.2.3", "10.9.9.9")
    } else {
        ("2001:db8::7", "2001:db8:9::9")
    };
    Flow {
        protocol,
        source: source.parse().unwrap(),
        target: target.parse().unwrap(),
        own: 0x8123,
        port: 443,
        first,
    }
}

/// Each protocol over each family; numbers near the end of 16 and of 32 bits.
fn flows() -> Vec<Flow> {
    let all = [Icmp, Udp, Tcp].into_iter().flat_map(|p| [(p, true), (p, false)]);
    all.flat_map(|(p, v4)| [1, 0x1234_ffe0, u32::MAX - 9].map(|first| flow(p, v4, first)))
        .collect()
}

fn header(flow: &Flow) -> usize {
    if flow.target.is_ipv4() { 20 } else { 40 }
}

/// An error of ICMP that quotes so many bytes of the packet.
fn error(flow: &Flow, kind: u8, code: u8, packet: &[u8], quoted: usize) -> Vec<u8> {
    let mut message = vec![kind, code, 0, 0, 0, 0, 0, 0];
    message.extend(packet.iter().take(quoted));
    if flow.target.is_ipv4() {
        let sum = !fold(sum(&message));
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        let mut out = vec![0x46, 0, 0, 0, 0, 0, 0, 0, 64, 1];
        out.resize(24, 0);
        out.extend(message);
        out
    } else {
        message
    }
}

fn expired(flow: &Flow, packet: &[u8], quoted: usize) -> Vec<u8> {
    let kind = if flow.target.is_ipv4() { 11 } else { 3 };
    error(flow, kind, 0, packet, quoted)
}

const ROUTER: &str = "192.0.2.1";

#[test]
fn what_routers_hash_is_the_same_in_all_packets() {
    for flow in flows() {
        let hashed = |number: u16| {
            let packet = flow.packet(number, (number % 32) as u8 + 1);
            let (ip, transport) = packet.split_at(header(&flow));
            let addresses = if flow.target.is_ipv4() {
                &ip[12..]
            } else {
                &ip[8..]
            };
            let label = if flow.target.is_ipv4() { &ip[..2] } else { &ip[..4] };
            // Ports, or type, code and checksum of ICMP with its identifier.
            let first = if flow.protocol == Icmp {
                &transport[..6]
            } else {
                &transport[..4]
            };
            (label.to_vec(), addresses.to_vec(), first.to_vec(), packet.len())
        };
        let mut seen = std::collections::HashSet::new();
        for number in 0..200 {
            assert_eq!(hashed(number), hashed(0), "{flow:?} {number}");
            let packet = flow.packet(number, 9);
            assert!(
                seen.insert(packet[header(&flow)..header(&flow) + 8].to_vec()),
                "{flow:?} {number}"
            );
        }
    }
}

#[test]
fn checksums_are_right_whatever_the_number() {
    for flow in flows() {
        for number in 0..=u16::MAX {
            let transport = flow.transport(number);
            let pseudo = if flow.number() == ICMP {
                0
            } else {
                flow.pseudo(transport.len())
            };
            assert_eq!(fold(pseudo + sum(&transport)), 0xffff, "{flow:?} {number}");
        }
    }
}

#[test]
fn lengths_and_ttl_are_where_they_belong() {
    let v4 = flow(Udp, true, 1).packet(0, 7);
    assert_eq!(
        (usize::from(pair(&v4, 2).unwrap()), v4[8], v4[9]),
        (v4.len(), 7, UDP)
    );
    assert_eq!(usize::from(pair(&v4, 24).unwrap()), v4.len() - 20);
    let v6 = flow(Icmp, false, 1).packet(0, 7);
    assert_eq!(
        (usize::from(pair(&v6, 4).unwrap()), v6[6], v6[7]),
        (v6.len() - 40, ICMPV6, 7)
    );
}

#[test]
fn an_error_is_matched_by_what_it_quotes() {
    let router = ROUTER.parse().unwrap();
    for flow in flows() {
        for number in [0, 1, 95] {
            let packet = flow.packet(number, 1);
            for quoted in [header(&flow) + 8, packet.len()] {
                let answer = flow.icmp(router, &expired(&flow, &packet, quoted));
                assert_eq!(answer, Answer::To(number, Meaning::Router), "{flow:?} {number}");
            }
            for cut in 0..header(&flow) + 8 {
                assert_eq!(
                    flow.icmp(router, &expired(&flow, &packet, cut)),
                    Answer::Other,
                    "{flow:?} {cut}"
                );
            }
            let (v4, (unreachable, port, host)) = (
                flow.target.is_ipv4(),
                if flow.target.is_ipv4() {
                    (3, 3, 1)
                } else {
                    (1, 4, 0)
                },
            );
            let says = |from, code| flow.icmp(from, &error(&flow, unreachable, code, &packet, packet.len()));
            // Of other packets than UDP a firewall says so.
            let meaning = if flow.protocol == Udp {
                Meaning::Arrived
            } else {
                Meaning::Refused
            };
            assert_eq!(says(router, port), Answer::To(number, meaning), "{flow:?}");
            assert_eq!(says(router, host), Answer::To(number, Meaning::Refused), "{v4}");
            assert_eq!(
                says(flow.target, host),
                Answer::To(number, Meaning::Arrived),
                "{v4}"
            );
        }
    }
}

#[test]
fn nothing_else_is_an_answer() {
    let router = ROUTER.parse().unwrap();
    for flow in flows() {
        let packet = flow.packet(3, 1);
        let own = header(&flow) + if flow.protocol == Icmp { 4 } else { 0 };
        for byte in 0..header(&flow) + 8 {
            let mut changed = packet.clone();
            changed[byte] ^= 0x40;
            let answer = flow.icmp(router, &expired(&flow, &changed, packet.len()));
            let v4 = flow.target.is_ipv4();
            // Class, length, identification, flags, TTL and checksum change on the way, or are filled in on it.
            let free = if v4 {
                (1..9).contains(&byte) || (10..12).contains(&byte)
            } else {
                (1..6).contains(&byte) || byte == 7
            };
            // Of 16 bits any other number is the number of another packet; whether it was sent the trace knows.
            let sequence = byte >= header(&flow) + 6 && flow.protocol != Tcp || byte == header(&flow) + 7;
            let wanted = match byte {
                _ if free => matches!(answer, Answer::To(3, _)),
                0 => answer == Answer::Other || answer == Answer::Foreign,
                _ if byte < header(&flow) || byte / 2 == own / 2 => answer == Answer::Other,
                _ if sequence => matches!(answer, Answer::To(n, _) if n != 3) || answer == Answer::Foreign,
                _ => {
                    matches!(answer, Answer::Foreign)
                        || flow.protocol == Tcp && answer != Answer::To(3, Meaning::Router)
                }
            };
            assert!(wanted, "{flow:?} byte {byte}: {answer:?}");
        }
        if flow.target.is_ipv4() {
            let mut broken = expired(&flow, &packet, packet.len());
            *broken.last_mut().unwrap() ^= 1;
            assert_eq!(flow.icmp(router, &broken), Answer::Other);
        }
    }
}

#[test]
fn an_echo_comes_from_the_target_as_it_was_sent() {
    for v4 in [true, false] {
        let flow = flow(Icmp, v4, 0xffff_fffe);
        let mut reply = flow.packet(5, 1).split_off(if v4 { 0 } else { 40 });
        let at = if v4 { 20 } else { 0 };
        reply[at] = if v4 { 0 } else { 129 };
        if v4 {
            reply[at + 2..at + 4].copy_from_slice(&[0, 0]);
            let sum = !fold(sum(&reply[at..]));
            reply[at + 2..at + 4].copy_from_slice(&sum.to_be_bytes());
        }
        assert_eq!(flow.icmp(flow.target, &reply), Answer::To(5, Meaning::Arrived));
        assert_eq!(flow.icmp(ROUTER.parse().unwrap(), &reply), Answer::Other);
        if !v4 {
            *reply.last_mut().unwrap() ^= 1;
            assert_eq!(flow.icmp(flow.target, &reply), Answer::Foreign);
        }
    }
}

#[test]
fn a_segment_acknowledges_the_request() {
    for v4 in [true, false] {
        let flow = flow(Tcp, v4, 0xffff_fff0);
        let segment = |flags: u8, ack: u32| {
            let mut out = vec![0; if v4 { 20 } else { 0 }];
            if let Some(first) = out.first_mut() {
                *first = 0x45;
            }
            out.extend(flow.port.to_be_bytes());
            out.extend(flow.own.to_be_bytes());
            out.extend([0; 4]);
            out.extend(ack.to_be_bytes());
            out.extend([0x50, flags, 0, 0, 0, 0, 0, 0]);
            out
        };
        let ack = flow.first.wrapping_add(0x21);
        for flags in [0x12, 0x14] {
            let answer = flow.tcp(flow.target, &segment(flags, ack));
            assert_eq!(answer, Answer::To(0x20, Meaning::Arrived));
        }
        assert_eq!(flow.tcp(flow.target, &segment(0x10, ack)), Answer::Foreign);
        assert_eq!(flow.tcp(flow.target, &segment(0x12, flow.first)), Answer::Foreign);
        assert_eq!(
            flow.tcp(ROUTER.parse().unwrap(), &segment(0x12, ack)),
            Answer::Other
        );
    }
}
