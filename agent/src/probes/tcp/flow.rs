//! Flow records, from the kernel's form to everybody's.

use crate::aggregate::labels::text;
use crate::probes::Context;
use crate::records::Flow;
use agent_common::tcp::{CLIENT, END_REASONS, FlowRecord, ROLES, SERVER, end_reason};
use agent_common::trace::{self, trace_id};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// `TCP_CLOSE`.
const CLOSE: u8 = 7;

/// A record with its names.
pub fn flow(r: &FlowRecord, context: &mut Context<'_>) -> Flow {
    let subject = context.identity.subject(&r.subject, &r.comm);
    let peer = context.peers.get(r.peer);
    let micros = |v: u32| (v != 0 && v != u32::MAX).then(|| f64::from(v) / 1e6);
    let event = match (r.state, r.established) {
        (7, 1) => "closed",
        (7, _) => "failed",
        _ => "open",
    };
    Flow {
        time: r.time.wrapping_add(context.boot_to_unix) as f64 / 1e9,
        event: event.into(),
        state: state_name(r.old_state).into(),
        role: ROLES.get(r.role as usize).copied().unwrap_or("unknown").into(),
        error: END_REASONS
            .get(end_reason(r.error))
            .copied()
            .unwrap_or("other")
            .into(),
        subject: subject.label.clone(),
        process: text(&r.comm),
        pid: r.subject.tgid,
        local: address(r.local, r.local_port),
        remote: address(r.remote, r.remote_port),
        peer: peer.name.clone(),
        peer_region: peer.region.clone(),
        peer_zone: peer.zone.clone(),
        duration: (r.established == 1 && r.duration != 0).then(|| r.duration as f64 / 1e9),
        connect: micros(r.connect),
        rtt: micros(r.srtt),
        rtt_min: micros(r.rtt_min),
        rtt_var: micros(r.rtt_var),
        bytes_received: r.bytes_in,
        bytes_sent: r.bytes_out,
        segments_received: r.segments_in,
        segments_sent: r.segments_out,
        retransmits: r.retransmits,
        spurious: r.spurious,
        cwnd: r.cwnd,
        cookie: r.cookie,
        trace_id: seed(r).map_or_else(String::new, |seed| format!("{:032x}", trace_id(seed))),
    }
}

/// What the ids of the connection are made of, if both of its ends know it.
pub fn seed(r: &FlowRecord) -> Option<u64> {
    // Of one that is open, the sequence numbers of its beginning are nobody else's business, not even as what is made of them.
    if r.established == 0 || r.state != CLOSE {
        return None;
    }
    // 0 is a number as good as any, but where nothing is known both are.
    match (r.role, r.isn, r.isn_remote) {
        (_, 0, 0) => None,
        (CLIENT, own, other) => Some(trace::seed(own, other)),
        (SERVER, own, other) => Some(trace::seed(other, own)),
        _ => None,
    }
}

/// An address of the kernel side: IPv4 leaves its mapping.
pub fn address(bytes: [u8; 16], port: u16) -> SocketAddr {
    let v6 = Ipv6Addr::from(bytes);
    SocketAddr::new(v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4), port)
}

/// Name of a TCP state, as include/net/tcp_states.h has it.
pub const fn state_name(state: u8) -> &'static str {
    match state {
        1 => "ESTABLISHED",
        2 => "SYN_SENT",
        3 => "SYN_RECV",
        4 => "FIN_WAIT1",
        5 => "FIN_WAIT2",
        6 => "TIME_WAIT",
        7 => "CLOSE",
        8 => "CLOSE_WAIT",
        9 => "LAST_ACK",
        10 => "LISTEN",
        11 => "CLOSING",
        _ => "UNKNOWN",
    }
}
