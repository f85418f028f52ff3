//! Probe `tcp`: latency, loss and life of every connection. See agent/src/probes/tcp.rs for what it exports.

mod conn;
mod flow;
mod pair;
mod path;
mod reset;
mod sockops;
mod span;
mod sweep;

use crate::account::{self, add, bump};
use crate::kernel::{self, Ptr};
use crate::settings::{HOME_NETNS, switch, switch_value};
use agent_common::account::{Account, program, reason};
use agent_common::tcp::{SLOT_NONE, SubjectKey, counter, end_reason, home, series};
use agent_common::trace::why;
use aya_ebpf::{
    helpers::bpf_get_prandom_u32,
    macros::{btf_tracepoint, fexit},
    programs::{BtfTracePointContext, FExitContext},
};
pub use conn::SocketStorage;
use conn::{Conn, flag, flush, sample, windows};
use flow::tell;
pub use pair::peer;

pub(super) const ESTABLISHED: u8 = 1;
pub(super) const SYN_SENT: u8 = 2;
const SYN_RECV: u8 = 3;
pub(super) const TIME_WAIT: u8 = 6;
pub(super) const CLOSE: u8 = 7;
pub(super) const LISTEN: u8 = 10;
pub(super) const NEW_SYN_RECV: u8 = 12;
pub(super) const IPPROTO_TCP: u16 = 6;
const CLIENT: u32 = agent_common::tcp::CLIENT as u32;
pub(super) const SERVER: u32 = agent_common::tcp::SERVER as u32;

/// Counters are flushed when this much of the socket's clock has passed, µs.
const FLUSH_EVERY: u64 = 1_000_000;
/// A connection is silent when nothing has happened for this time, µs.
pub(super) const SILENT: u64 = 100_000;
/// Long connections are told this often, µs.
pub(super) const RECORD_EVERY: u64 = 9_500_000;

/// Each segment received on an established connection. An RTT sample is taken when the previous acknowledgement
/// made one: at this point of the kernel's receive path the sample of this segment is not made yet. The last sample
/// of a connection is taken by the sweep or at close.
#[btf_tracepoint(function = "tcp_probe")]
pub fn tcp_probe(ctx: BtfTracePointContext) -> i32 {
    let (sk, skb): (Ptr, Ptr) = (ctx.arg(0), ctx.arg(1));
    let Some(account) = account::of(program::TCP_PROBE) else {
        return 0;
    };
    bump(&mut account.seen);
    let Some(tp) = kernel::tcp_sock(sk) else {
        bump(&mut account.dropped[reason::NO_SOCKET]);
        return 0;
    };
    // Nothing is acknowledged: pure data of a download. Half of all segments, and the cheapest way out.
    if kernel::skb_ack(skb) == kernel::snd_una(tp) {
        // A window that has closed is seen here or not at all: what a closed window lets through, probes, their answers
        // and the update that ends it, acknowledges nothing.
        if kernel::snd_wnd(tp) == 0 || kernel::rcv_wnd(tp) == 0 {
            closed_windows(sk, tp);
        }
        bump(&mut account.filtered);
        return 0;
    }
    let mask = switch_value(switch::RTT_SAMPLE_MASK);
    // By chance and not by number: requests and answers alternate, and every second segment is always of one side.
    // SAFETY: no preconditions.
    if mask != 0 && unsafe { bpf_get_prandom_u32() } as u64 & mask != 0 {
        bump(&mut account.sampled);
        return 0;
    }
    let conn = match conn::get(sk) {
        Some(conn) => conn,
        None => match adopt(account, sk, tp, (0, 0), [0; 16]) {
            Some(conn) => conn,
            None => return 0,
        },
    };
    let stamp = kernel::rack_mstamp(tp);
    let Some(cells) = pair::cells(conn.slot()) else {
        bump(&mut account.dropped[reason::MAP_FULL]);
        return 0;
    };
    if stamp == conn.last_sample {
        bump(&mut account.filtered);
    } else {
        conn.last_sample = stamp;
        sample(conn, cells, kernel::rack_rtt(tp));
        bump(&mut account.aggregated);
    }
    windows(conn, cells, tp);
    let now = kernel::activity(tp);
    let due = now.wrapping_sub(conn.last_flush) >= FLUSH_EVERY;
    if due {
        conn.last_flush = now;
        flush(conn, cells, tp);
    }
    // The first acknowledgement shows the way already, also of connections that live less than a second.
    if due || path::is_unseen(conn) {
        path::look(account, conn, cells, sk, tp, skb);
    }
    0
}

/// A window is closed. Not inlined: it is rare, and the registers that it needs are not.
#[inline(never)]
fn closed_windows(sk: Ptr, tp: Ptr) {
    if let Some(conn) = conn::get(sk)
        && let Some(cells) = pair::cells(conn.slot())
    {
        windows(conn, cells, tp);
    }
}

/// Every change of a connection's state.
#[btf_tracepoint(function = "inet_sock_set_state")]
pub fn tcp_state(ctx: BtfTracePointContext) -> i32 {
    let sk: Ptr = ctx.arg(0);
    let (old, new): (i32, i32) = (ctx.arg(1), ctx.arg(2));
    let (old, new) = (old as u8, new as u8);
    let Some(account) = account::of(program::TCP_STATE) else {
        return 0;
    };
    bump(&mut account.seen);
    let interesting = matches!(new, ESTABLISHED | SYN_SENT | LISTEN | CLOSE);
    if !interesting || kernel::protocol(sk) != IPPROTO_TCP {
        bump(&mut account.filtered);
        return 0;
    }
    match new {
        SYN_SENT | LISTEN => {
            let Some(conn) = conn::get_or_new(sk) else {
                bump(&mut account.dropped[reason::NO_STORAGE]);
                return 0;
            };
            release(conn);
            conn.reset(pair::subject(sk, kernel::current()), kernel::process_comm());
            if new == SYN_SENT {
                conn.started = conn::clock();
                conn.role = CLIENT;
                if conn.subject.netns == HOME_NETNS.load() {
                    pair::home(home::ACTIVE_OPENS, 1);
                }
            }
            bump(&mut account.aggregated);
        }
        ESTABLISHED => established(account, sk, old),
        _ => closed(account, sk, old),
    }
    0
}

#[inline(always)]
fn established(account: &mut Account, sk: Ptr, old: u8) {
    let (Some(tp), Some(conn)) = (kernel::tcp_sock(sk), conn::get_or_new(sk)) else {
        bump(&mut account.dropped[reason::NO_STORAGE]);
        return;
    };
    // The segment that establishes it has just been stamped.
    let now = kernel::activity(tp);
    // A socket that has connected to itself, or to one that connects to it at the same time, comes from here as well.
    if old == SYN_RECV && conn.started == 0 {
        // The storage was cloned from the listener: it says who listens and nothing else.
        release(conn);
        let (mut subject, comm) = (conn.subject, conn.comm);
        if subject.netns == 0 {
            subject = pair::subject(sk, (0, 0));
        }
        conn.reset(subject, comm);
        conn.role = SERVER;
        // SYN-ACKs that were sent again are the listener's; the kernel hands their number on to the child.
        conn.retrans = kernel::total_retrans(tp);
        conn.typed = conn.retrans;
        if conn.subject.netns == HOME_NETNS.load() {
            pair::home(home::PASSIVE_OPENS, 1);
            // The SYN-ACK was sent by the request socket, which this one has not counted.
            pair::home(home::SEGMENTS_OUT, 1);
        }
    }
    conn.established = now;
    conn.flags |= flag::ESTABLISHED;
    conn.attach(account, sk);
    let Some(cells) = pair::cells(conn.slot()) else {
        bump(&mut account.dropped[reason::MAP_FULL]);
        return;
    };
    if conn.role == SERVER {
        bump(&mut cells.counters[counter::OPENED + 1]);
    } else {
        bump(&mut cells.counters[counter::OPENED]);
        // A socket that is made as it was elsewhere (TCP_REPAIR) has heard nothing: its clock stands before its start.
        if conn.started != 0 && now >= conn.started {
            conn.connect = now.wrapping_sub(conn.started) as u32;
            pair::record(cells, series::CONNECT, conn.connect);
        }
    }
    // The handshake is a sample as well: the kernel has just made its first estimate of it.
    let srtt = kernel::srtt8(tp) >> 3;
    if srtt != 0 {
        conn.last_sample = kernel::rack_mstamp(tp);
        sample(conn, cells, srtt);
    }
    conn.last_flush = now;
    conn.last_record = now;
    bump(&mut account.aggregated);
}

#[inline(always)]
fn closed(account: &mut Account, sk: Ptr, old: u8) {
    let (Some(tp), Some(conn)) = (kernel::tcp_sock(sk), conn::get(sk)) else {
        // A socket that never connected, or that was opened before the agent and never spoke.
        bump(&mut account.filtered);
        return;
    };
    if old == LISTEN || old == CLOSE {
        bump(&mut account.filtered);
        return;
    }
    conn.attach(account, sk);
    let Some(cells) = pair::cells(conn.slot()) else {
        bump(&mut account.dropped[reason::MAP_FULL]);
        return;
    };
    let error = kernel::error(sk);
    let is_established = conn.flags & flag::ESTABLISHED != 0;
    if old == SYN_RECV && conn.started == 0 {
        conn.role = SERVER;
    }
    let role = if conn.role == SERVER {
        6
    } else if conn.role == CLIENT || !is_established {
        0
    } else {
        12
    };
    let base = if is_established {
        counter::CLOSED
    } else {
        counter::FAILED
    };
    // SAFETY: CLOSED + 18 and FAILED + 12 are within the counters.
    bump(unsafe { cells.counters.get_unchecked_mut(base + role + end_reason(error)) });
    if is_established && kernel::rack_mstamp(tp) != conn.last_sample {
        conn.last_sample = kernel::rack_mstamp(tp);
        sample(conn, cells, kernel::rack_rtt(tp));
    }
    flush(conn, cells, tp);
    bump(&mut account.aggregated);
    let traced = span::why(account, conn, tp, error);
    if traced != why::NOT || switch_value(switch::FLOW_RECORDS) != 0 {
        tell(
            account,
            program::TCP_STATE,
            conn,
            sk,
            tp,
            old,
            CLOSE,
            error,
            traced,
        );
    }
    release(conn);
}

/// Lets go of the row.
#[inline(always)]
pub(super) fn release(conn: &mut Conn) {
    let slot = conn.slot();
    if slot == SLOT_NONE {
        return;
    }
    conn.slot_plus_one = 0;
    if let Some(cells) = pair::cells(slot) {
        bump(&mut cells.counters[counter::RELEASED]);
    }
}

/// Takes up a connection that is older than the agent.
#[inline(always)]
pub(super) fn adopt(
    account: &mut Account,
    sk: Ptr,
    tp: Ptr,
    process: (u32, u64),
    comm: [u8; 16],
) -> Option<&'static mut Conn> {
    // SAFETY: all zeros is a valid Conn.
    let mut initial: Conn = unsafe { core::mem::zeroed() };
    initial.baseline(tp);
    initial.subject = pair::subject(sk, process);
    initial.comm = comm;
    let Some(conn) = conn::get_or(sk, &mut initial) else {
        bump(&mut account.dropped[reason::NO_STORAGE]);
        return None;
    };
    if conn.attach(account, sk)
        && let Some(cells) = pair::cells(conn.slot())
    {
        bump(&mut cells.counters[counter::ADOPTED]);
    }
    Some(conn)
}

/// Each retransmission, by the state of the congestion control that asked for it. How many segments it was is what the
/// socket has counted since the last one: since 6.17 the kernel also traces tries that it gave up before counting.
#[btf_tracepoint(function = "tcp_retransmit_skb")]
pub fn tcp_retransmit(ctx: BtfTracePointContext) -> i32 {
    let (sk, skb): (Ptr, Ptr) = (ctx.arg(0), ctx.arg(1));
    let Some(account) = account::of(program::TCP_RETRANSMIT) else {
        return 0;
    };
    bump(&mut account.seen);
    let Some(tp) = kernel::tcp_sock(sk) else {
        bump(&mut account.dropped[reason::NO_SOCKET]);
        return 0;
    };
    let (conn, segments) = match conn::get(sk) {
        Some(conn) => {
            let total = kernel::total_retrans(tp);
            let before = account::exchange32(&mut conn.typed, total);
            (conn, total.wrapping_sub(before) as i32 as u64)
        }
        None => match adopt(account, sk, tp, (0, 0), [0; 16]) {
            Some(conn) => (conn, kernel::skb_segs(skb)),
            None => return 0,
        },
    };
    if segments == 0 {
        bump(&mut account.filtered);
        return 0;
    }
    conn.attach(account, sk);
    let Some(cells) = pair::cells(conn.slot()) else {
        bump(&mut account.dropped[reason::MAP_FULL]);
        return 0;
    };
    // TCP_CA_Recovery = 3, TCP_CA_Loss = 4; a retransmission in any other state is a tail loss probe.
    let index = match kernel::ca_state(tp) {
        3 => counter::RETRANSMITS,
        4 => counter::RETRANSMITS + 2,
        _ => counter::RETRANSMITS + 1,
    };
    // SAFETY: RETRANSMITS + 2 is within the counters.
    add(unsafe { cells.counters.get_unchecked_mut(index) }, segments);
    if conn.subject.netns == HOME_NETNS.load() {
        pair::home(home::RETRANSMITS, segments);
    }
    bump(&mut account.aggregated);
    0
}

/// Each SYN-ACK sent again, on the listener's account.
#[btf_tracepoint(function = "tcp_retransmit_synack")]
pub fn tcp_synack(ctx: BtfTracePointContext) -> i32 {
    let (sk, request): (Ptr, Ptr) = (ctx.arg(0), ctx.arg(1));
    let Some(account) = account::of(program::TCP_SYNACK) else {
        return 0;
    };
    bump(&mut account.seen);
    let (subject, comm) = owner(sk);
    // A request socket begins with a sock_common, whose address fields are the requester's.
    let slot = pair::slot(account, &subject, peer(kernel::remote(request)), &comm);
    if let Some(cells) = pair::cells(slot) {
        bump(&mut cells.counters[counter::RETRANSMITS + 3]);
        bump(&mut account.aggregated);
    } else {
        bump(&mut account.dropped[reason::MAP_FULL]);
    }
    if subject.netns == HOME_NETNS.load() {
        pair::home(home::RETRANSMITS, 1);
        pair::home(home::SEGMENTS_OUT, 1);
    }
    0
}

/// Who owns a socket: what was remembered, else what the socket itself says.
#[inline(always)]
pub fn owner(sk: Ptr) -> (SubjectKey, [u8; 16]) {
    match conn::get(sk) {
        Some(conn) if conn.subject.netns != 0 => (conn.subject, conn.comm),
        _ => (pair::subject(sk, (0, 0)), [0; 16]),
    }
}

/// Who owns a socket, as far as it is remembered.
#[inline(always)]
pub fn remembered(sk: Ptr) -> Option<SubjectKey> {
    conn::get(sk).map(|conn| conn.subject)
}

/// Name of the process that is remembered.
#[inline(always)]
pub fn remembered_comm(sk: Ptr) -> [u8; 16] {
    conn::get(sk).map_or([0; 16], |conn| conn.comm)
}

/// Each connection that an application takes from a listener: how long it waited there. The result of the function
/// comes after its parameters, of which 6.10 and later have two; a chosen offset into the context would not load.
#[fexit(function = "inet_csk_accept")]
pub fn tcp_accept2(ctx: FExitContext) -> i32 {
    accepted(ctx.arg(2))
}

/// As `tcp_accept2`, for the four parameters of older kernels.
#[fexit(function = "inet_csk_accept")]
pub fn tcp_accept4(ctx: FExitContext) -> i32 {
    accepted(ctx.arg(4))
}

#[inline(always)]
fn accepted(sk: Ptr) -> i32 {
    let Some(account) = account::of(program::TCP_ACCEPT) else {
        return 0;
    };
    bump(&mut account.seen);
    if sk.is_null() {
        bump(&mut account.filtered);
        return 0;
    }
    let Some(conn) = conn::get(sk) else {
        bump(&mut account.filtered);
        return 0;
    };
    if conn.established == 0 || conn.role != SERVER {
        bump(&mut account.filtered);
        return 0;
    }
    let waited = conn::clock().wrapping_sub(conn.established);
    match pair::cells(conn.slot()) {
        Some(cells) => {
            pair::record(cells, series::ACCEPT, waited.min(u32::MAX as u64) as u32);
            bump(&mut account.aggregated);
        }
        None => bump(&mut account.filtered),
    }
    0
}
