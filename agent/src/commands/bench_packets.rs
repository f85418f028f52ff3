//! `geophone bench-packets`: what a packet of each kind costs in the programs that look at packets.
//!
//! Each program is run by BPF_PROG_TEST_RUN with a packet of each kind, in batches, every kind in turn; the best batch
//! counts, less the best of an empty program. Only the program's own code is in it: neither the hook nor cold caches.

use crate::accounting;
use crate::app;
use crate::bpf::{Engine, measure::Packets};
use crate::config::{Config, TunnelUse};
use crate::error::{Context as _, Error, Result};
use crate::identity::Peers;
use crate::record::Source;
use agent_common::account::{Account, program};
use agent_common::tunnel::corpus::{
    eth4, eth6, ethernet, geneve, gre, ipv4, ipv4_with, ipv6, segment_with, udp, vlan, vxlan, wireguard,
};
use serde::Serialize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Packets of a batch: short enough that some batch is not interrupted.
const BATCH: u32 = 4000;
/// Packets that make rows and windows, and are not timed.
const WARM: u32 = 200;

/// Which target a packet has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Plain,
    Tunnel,
    Socket,
}

/// A packet that is measured.
struct Case {
    program: &'static str,
    account: usize,
    name: &'static str,
    bytes: Vec<u8>,
    /// Offset and bytes of its sequence number.
    sequence: Option<(u32, u32)>,
    kind: Kind,
    best: Duration,
}

/// What a packet costs.
#[derive(Debug, Serialize)]
struct Found {
    program: &'static str,
    packet: &'static str,
    kind: Kind,
    /// ns net of the empty program.
    nanos: f64,
}

/// The TCP segment that most packets are: 1,000 bytes and timestamps of which nothing is to be learned.
fn segment() -> Vec<u8> {
    segment_with((40000, 443), (0x1001, 0x2001), 1000)
}

/// Packets that are of no tunnel.
fn plain() -> Vec<(&'static str, Vec<u8>)> {
    let icmp = [8, 0, 0, 0, 0, 1, 0, 1, 9, 9, 9, 9, 9, 9, 9, 9];
    let dns = udp(40000, 53, &[0; 64]);
    vec![
        ("TCP", eth4(6, &segment())),
        ("TCP over IPv6", eth6(6, &segment())),
        (
            "TCP behind a VLAN tag",
            vlan(&[(0x8100, 5)], 0x0800, &ipv4(6, &segment())),
        ),
        ("UDP", eth4(17, &dns)),
        ("UDP over IPv6", eth6(17, &dns)),
        (
            "UDP behind IP options",
            ethernet(0x0800, &ipv4_with(17, &[1; 12], 0, &dns)),
        ),
        (
            "UDP, a later fragment",
            ethernet(0x0800, &ipv4_with(17, &[], 0x00b9, &[0; 64])),
        ),
        ("ICMP", eth4(1, &icmp)),
        ("ICMPv6", eth6(58, &icmp)),
        ("ARP", ethernet(0x0806, &[0; 46])),
    ]
}

/// Name, bytes, and where the sequence number is.
type Named = (&'static str, Vec<u8>, Option<(u32, u32)>);

/// Packets of tunnels.
fn tunnels() -> Vec<Named> {
    let packet = ipv4(6, &segment());
    let frame = ethernet(0x0800, &packet);
    let frame6 = ethernet(0x86dd, &ipv6(6, &segment()));
    let datagram = ethernet(0x0800, &ipv4(17, &udp(40000, 9000, &[0; 1000])));
    // Every sixteenth value of the timestamps is followed.
    let timed = ethernet(
        0x0800,
        &ipv4(6, &segment_with((40000, 443), (0x1000, 0x2000), 1000)),
    );
    let option = [1, 2, 0x80, 1, 0, 0, 0, 0];
    let mut ah = vec![4, 4, 0, 0, 0, 0, 4, 0xd2, 0, 0, 0, 9];
    ah.extend([0; 12]);
    ah.extend(&packet);
    let mut esp = vec![0, 0, 0x10, 0, 0, 0, 0, 5];
    esp.extend([0xaa; 1000]);
    let mut openvpn = vec![9 << 3, 0, 0, 1];
    openvpn.extend([0x55; 1000]);
    let data = wireguard(4, 1040, 0x22, 0, 1);
    let in_udp = |payload: &[u8]| eth4(17, &udp(4500, 4500, payload));
    let to = |port: u16, payload: &[u8]| eth4(17, &udp(40000, port, payload));
    vec![
        ("VXLAN", eth4(17, &vxlan(42, &frame)), None),
        (
            "VXLAN, TCP with a timestamp that is followed",
            eth4(17, &vxlan(42, &timed)),
            None,
        ),
        ("VXLAN of UDP", eth4(17, &vxlan(42, &datagram)), None),
        ("VXLAN over IPv6, of IPv6", eth6(17, &vxlan(43, &frame6)), None),
        ("Geneve", eth4(17, &geneve(0x6558, 77, &[], &frame)), None),
        (
            "Geneve with an option",
            eth4(17, &geneve(0x6558, 78, &option, &frame)),
            None,
        ),
        ("GRE", eth4(47, &gre(0x0800, None, None, false, &packet)), None),
        (
            "GRE with sequence",
            eth4(47, &gre(0x0800, Some(3), Some(1), false, &packet)),
            Some((42, 4)),
        ),
        (
            "gretap with sequence",
            eth4(47, &gre(0x6558, Some(4), Some(1), false, &frame)),
            Some((42, 4)),
        ),
        ("IPIP", eth4(4, &packet), None),
        ("SIT", eth4(41, &ipv6(6, &segment())), None),
        ("IPv6 in IPv6", eth6(41, &ipv6(6, &segment())), None),
        ("WireGuard", to(51820, &data), Some((50, 8))),
        (
            "WireGuard over IPv6",
            eth6(17, &udp(40000, 51820, &data)),
            Some((70, 8)),
        ),
        ("ESP", eth4(50, &esp), Some((38, 4))),
        ("ESP in UDP", in_udp(&esp), Some((46, 4))),
        ("AH", eth4(51, &ah), Some((42, 4))),
        ("OpenVPN", to(1194, &openvpn), None),
    ]
}

fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    let mut add = |program, account, name, bytes: &[u8], sequence, kind| {
        all.push(Case {
            program,
            account,
            name,
            bytes: bytes.to_vec(),
            sequence,
            kind,
            best: Duration::MAX,
        });
    };
    for (program, account) in [
        ("tunnel_ingress", program::TUNNEL_INGRESS),
        ("tunnel_egress", program::TUNNEL_EGRESS),
    ] {
        for (name, bytes) in plain() {
            add(program, account, name, &bytes, None, Kind::Plain);
        }
        for (name, bytes, sequence) in tunnels() {
            add(program, account, name, &bytes, sequence, Kind::Tunnel);
        }
    }
    for (program, account) in [
        ("dns_ingress", program::DNS_INGRESS),
        ("dns_egress", program::DNS_EGRESS),
        ("udp_ingress", program::UDP_INGRESS),
        ("udp_egress", program::UDP_EGRESS),
    ] {
        add(program, account, "TCP", &eth4(6, &segment()), None, Kind::Socket);
        let datagram = udp(40000, 9000, &[0; 64]);
        add(program, account, "UDP", &eth4(17, &datagram), None, Kind::Socket);
        add(
            program,
            account,
            "UDP over IPv6",
            &eth6(17, &datagram),
            None,
            Kind::Socket,
        );
    }
    all
}

/// What is measured must be what is meant: every packet of a tunnel counted, every other one left.
fn check(case: &Case, runs: u64, before: &Account, after: &Account) -> Result<()> {
    let counted = match case.kind {
        Kind::Tunnel => after.aggregated - before.aggregated,
        Kind::Plain => after.filtered - before.filtered,
        Kind::Socket => runs,
    };
    if after.seen - before.seen == runs && counted == runs {
        return Ok(());
    }
    Err(Error::new(format_args!(
        "{}: {}: {counted} of {runs} packets were taken for what they are",
        case.program, case.name
    )))
}

/// As the program has done with its copy.
fn count_up(packet: &mut [u8], offset: u32, width: u32, by: u32) {
    let at = offset as usize;
    if width == 4 {
        if let Some(Ok(number)) = packet.get_mut(at..at + 4).map(<&mut [u8; 4]>::try_from) {
            *number = u32::from_be_bytes(*number).wrapping_add(by).to_be_bytes();
        }
    } else if let Some(Ok(number)) = packet.get_mut(at..at + 8).map(<&mut [u8; 8]>::try_from) {
        *number = u64::from_le_bytes(*number)
            .wrapping_add(u64::from(by))
            .to_le_bytes();
    }
}

/// Runs it and prints what it found as JSON.
pub fn bench_packets(config: &Config, btf: Option<PathBuf>, rounds: u32) -> Result<ExitCode> {
    let mut config = config.clone();
    config.probes.tunnel.enabled = TunnelUse::Auto;
    let peers = Peers::new(&config.peers, &config.region, &config.zone).context("peers")?;
    let mut packets = Packets::new(Engine::load(btf, app::sizes(&config, &peers), &Source::Kernel)?)?;
    let mut cases = cases();
    let any = eth4(6, &segment());
    let (mut empty, mut empty_socket) = (Duration::MAX, Duration::MAX);
    for round in 0..=rounds {
        let repeat = if round == 0 { WARM } else { BATCH };
        let run = packets.run("calibrate", &any, None, repeat)?;
        let socket = packets.run_socket("calibrate_skb", &any, repeat)?;
        if round > 0 {
            empty = empty.min(run);
            empty_socket = empty_socket.min(socket);
        }
        for case in &mut cases {
            let before = accounting::read(packets.engine(), &[case.account]);
            let run = if case.kind == Kind::Socket {
                packets.run_socket(case.program, &case.bytes, repeat)?
            } else {
                packets.run(case.program, &case.bytes, case.sequence, repeat)?
            };
            let after = accounting::read(packets.engine(), &[case.account]);
            check(case, u64::from(repeat), &before, &after)?;
            if let Some((offset, width)) = case.sequence {
                count_up(&mut case.bytes, offset, width, repeat);
            }
            if round > 0 {
                case.best = case.best.min(run);
            }
        }
    }
    let found: Vec<Found> = cases
        .iter()
        .map(|case| {
            let floor = if case.kind == Kind::Socket {
                empty_socket
            } else {
                empty
            };
            Found {
                program: case.program,
                packet: case.name,
                kind: case.kind,
                nanos: case.best.as_nanos() as f64 - floor.as_nanos() as f64,
            }
        })
        .collect();
    let told = serde_json::json!({
            "empty_nanos": empty.as_nanos() as f64,
            "empty_socket_nanos": empty_socket.as_nanos() as f64,
            "batch": BATCH,
            "rounds": rounds,
            "packets": found,
    });
    super::say(&told.to_string()).map(|()| ExitCode::SUCCESS)
}
