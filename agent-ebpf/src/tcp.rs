//! Probe `tcp`: latency, loss and life of every connection. See agent/src/probes/tcp.rs for what it exports.

mod conn;
mod pair;
mod sockops;

use crate::account::{self, add, bump};
use crate::emit::{emit, header};
use crate::kernel::{self, Ptr};
use crate::settings::{HOME_NETNS, switch, switch_value};
use agent_common::account::{Account, program, reason};
use agent_common::tcp::{FlowRecord, SLOT_NONE, SubjectKey, counter, end_reason, home, series};
use agent_common::wire::kind;
use aya_ebpf::{
    helpers::{bpf_get_prandom_u32, bpf_ktime_get_boot_ns, bpf_ktime_get_ns, generated::bpf_sock_from_file},
    macros::{btf_tracepoint, fexit},
    programs::{BtfTracePointContext, FExitContext},
};
use conn::{Conn, flag, flush, sample, windows};
use core::ffi::c_void;

const ESTABLISHED: u8 = 1;
const SYN_SENT: u8 = 2;
const SYN_RECV: u8 = 3;
const TIME_WAIT: u8 = 6;
const CLOSE: u8 = 7;
const LISTEN: u8 = 10;
const NEW_SYN_RECV: u8 = 12;
const IPPROTO_TCP: u16 = 6;
const CLIENT: u32 = 0;
const SERVER: u32 = 1;

/// Counters are flushed when this much of the socket's clock has passed, µs.
const FLUSH_EVERY: u64 = 1_000_000;
/// A connection is silent when nothing has happened for this time, µs.
const SILENT: u64 = 100_000;
/// Long connections are told this often, µs.
const RECORD_EVERY: u64 = 9_500_000;

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
    if now.wrapping_sub(conn.last_flush) >= FLUSH_EVERY {
        conn.last_flush = now;
        flush(conn, cells, tp);
    }
    0
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
                // SAFETY: no preconditions.
                conn.started = unsafe { bpf_ktime_get_boot_ns() };
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
    // SAFETY: no preconditions.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    if old == SYN_RECV {
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
        if conn.started != 0 {
            conn.connect = (now.wrapping_sub(conn.started) / 1000) as u32;
            pair::record(cells, series::CONNECT, conn.connect);
        }
    }
    // The handshake is a sample as well: the kernel has just made its first estimate of it.
    let srtt = kernel::srtt8(tp) >> 3;
    if srtt != 0 {
        conn.last_sample = kernel::rack_mstamp(tp);
        sample(conn, cells, srtt);
    }
    conn.last_flush = kernel::activity(tp);
    conn.last_record = conn.last_flush;
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
    if old == SYN_RECV {
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
    if switch_value(switch::FLOW_RECORDS) != 0 {
        tell(account, program::TCP_STATE, conn, sk, tp, old, CLOSE, error);
    }
    release(conn);
}

/// Lets go of the row.
#[inline(always)]
fn release(conn: &mut Conn) {
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
fn adopt(
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

#[inline(always)]
#[expect(
    clippy::too_many_arguments,
    reason = "inlined into two places; a struct would be copied on a 512-byte stack"
)]
fn tell(
    account: &mut Account,
    program: usize,
    conn: &Conn,
    sk: Ptr,
    tp: Ptr,
    old: u8,
    state: u8,
    error: u32,
) {
    // SAFETY: no preconditions.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    emit::<FlowRecord>(account, |r| {
        // SAFETY: `r` is a reserved record of the right size; every field is written, there is no padding.
        let r = unsafe { &mut *r };
        r.header = header::<FlowRecord>(kind::TCP_FLOW, program);
        r.time = now;
        r.duration = if conn.established == 0 {
            0
        } else {
            now.wrapping_sub(conn.established)
        };
        r.subject = conn.subject;
        r.cookie = kernel::cookie(sk);
        r.bytes_in = kernel::bytes_received(tp);
        r.bytes_out = kernel::bytes_sent(tp).wrapping_sub(kernel::bytes_retrans(tp));
        r.local = kernel::local(sk);
        r.remote = kernel::remote(sk);
        r.local_port = u16::from_be(kernel::local_port_be(tp));
        r.remote_port = u16::from_be(kernel::remote_port_be(sk));
        r.peer = conn.peer;
        r.segments_in = kernel::segs_in(tp);
        r.segments_out = kernel::segs_out(tp);
        r.retransmits = kernel::total_retrans(tp);
        r.spurious = kernel::dsack_dups(tp);
        r.srtt = kernel::srtt8(tp) >> 3;
        r.rtt_min = kernel::rtt_min(tp);
        r.rtt_var = kernel::mdev4(tp) >> 2;
        r.cwnd = kernel::cwnd(tp);
        r.connect = conn.connect;
        r.error = error;
        r.role = conn.role as u8;
        r.state = state;
        r.old_state = old;
        r.established = (conn.flags & flag::ESTABLISHED) as u8;
        r.slot = conn.slot();
        r.comm = conn.comm;
    });
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
    let slot = pair::slot(account, &subject, pair::peer(kernel::remote(request)), &comm);
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

/// Each RST sent: by a socket of its own accord (no packet), or in answer to a segment (the packet).
#[btf_tracepoint(function = "tcp_send_reset")]
pub fn tcp_send_reset(ctx: BtfTracePointContext) -> i32 {
    let Some(account) = account::of(program::TCP_SEND_RESET) else {
        return 0;
    };
    bump(&mut account.seen);
    let answer = !kernel::argument_is_null(&ctx, 1);
    let mut netns = 0;
    let mut peer = 0;
    if !kernel::argument_is_null(&ctx, 0) {
        let sk: Ptr = ctx.arg(0);
        if sk.is_null() {
            bump(&mut account.dropped[reason::NO_SOCKET]);
            return 0;
        }
        if !matches!(kernel::state(sk), TIME_WAIT | NEW_SYN_RECV | LISTEN) {
            return reset(account, sk, counter::RESETS_OUT, answer);
        }
        netns = kernel::netns(sk);
        if kernel::state(sk) != LISTEN {
            peer = pair::peer(kernel::remote(sk));
        }
    } else if answer {
        let skb: Ptr = ctx.arg(1);
        if !skb.is_null()
            && let Some(dev) = kernel::device(skb)
        {
            netns = kernel::dev_netns(dev);
        }
    }
    let subject = SubjectKey {
        cgroup: 0,
        start: 0,
        tgid: 0,
        netns,
    };
    let slot = pair::slot(account, &subject, peer, &[0; 16]);
    if let Some(cells) = pair::cells(slot) {
        bump(&mut cells.counters[counter::RESETS_OUT]);
        bump(&mut account.aggregated);
    } else {
        bump(&mut account.dropped[reason::MAP_FULL]);
    }
    if netns == HOME_NETNS.load() {
        pair::home(home::RESETS_OUT, 1);
        // A segment that no socket counts.
        pair::home(home::SEGMENTS_OUT, 1);
    }
    0
}

/// Each RST received for a socket.
#[btf_tracepoint(function = "tcp_receive_reset")]
pub fn tcp_receive_reset(ctx: BtfTracePointContext) -> i32 {
    let sk: Ptr = ctx.arg(0);
    let Some(account) = account::of(program::TCP_RECEIVE_RESET) else {
        return 0;
    };
    bump(&mut account.seen);
    reset(account, sk, counter::RESETS_IN, false)
}

#[inline(always)]
fn reset(account: &mut Account, sk: Ptr, index: usize, answer: bool) -> i32 {
    let Some(tp) = kernel::tcp_sock(sk) else {
        bump(&mut account.dropped[reason::NO_SOCKET]);
        return 0;
    };
    let closed = kernel::state(sk) == CLOSE;
    let conn = match conn::get(sk) {
        Some(conn) => conn,
        None => match adopt(account, sk, tp, (0, 0), [0; 16]) {
            Some(conn) => conn,
            None => return 0,
        },
    };
    // A socket that closes by a reset is closed first: it has let go of its row and must not take another.
    let slot = if closed && conn.slot() == SLOT_NONE {
        pair::slot(account, &conn.subject, conn.peer, &conn.comm)
    } else {
        conn.attach(account, sk);
        conn.slot()
    };
    let Some(cells) = pair::cells(slot) else {
        bump(&mut account.dropped[reason::MAP_FULL]);
        return 0;
    };
    bump(&mut cells.counters[index]);
    if index == counter::RESETS_OUT && conn.subject.netns == HOME_NETNS.load() {
        pair::home(home::RESETS_OUT, 1);
        if answer || closed {
            // Sent for the socket by another, or after its last flush.
            pair::home(home::SEGMENTS_OUT, 1);
        }
    }
    bump(&mut account.aggregated);
    0
}

#[inline(always)]
fn context_pointer(ctx: *mut c_void, index: usize) -> Ptr {
    // SAFETY: the verifier checks iterator contexts at constant offsets.
    unsafe { ctx.cast::<Ptr>().add(index).read_volatile() }
}

/// All tracked sockets, in every namespace: takes the last sample and the counters of those that fell silent, and
/// tells of long connections. Costs as many steps as there are sockets, not a walk over the kernel's hash table
/// (2.5 ms each time).
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/bpf_sk_storage_map")]
pub fn tcp_sweep(ctx: *mut c_void) -> i32 {
    let sk = context_pointer(ctx, 2);
    if sk.is_null() {
        return 0;
    }
    let Some(account) = account::of(program::TCP_SWEEP) else {
        return 0;
    };
    bump(&mut account.seen);
    let (Some(tp), Some(conn)) = (kernel::tcp_sock(sk), conn::get(sk)) else {
        bump(&mut account.filtered);
        return 0;
    };
    let state = kernel::state(sk);
    if state == LISTEN {
        listener(account, conn, sk);
        return 0;
    }
    let slot = conn.slot();
    if slot == SLOT_NONE || state == CLOSE {
        bump(&mut account.filtered);
        return 0;
    }
    let Some(cells) = pair::cells(slot) else {
        bump(&mut account.dropped[reason::MAP_FULL]);
        return 0;
    };
    let now = kernel::activity(tp);
    // A busy connection takes its own samples. One that has been silent for a tenth of a second cannot race with them.
    let stamp = kernel::rack_mstamp(tp);
    if stamp != conn.last_sample {
        // SAFETY: no preconditions.
        let clock = unsafe { bpf_ktime_get_ns() } / 1000;
        if clock.wrapping_sub(now) > SILENT || switch_value(switch::SWEEP_SAMPLES) != 0 {
            conn.last_sample = stamp;
            sample(conn, cells, kernel::rack_rtt(tp));
        }
    }
    if now != conn.last_flush {
        conn.last_flush = now;
        flush(conn, cells, tp);
    }
    windows(conn, cells, tp);
    bump(&mut account.aggregated);
    if now.wrapping_sub(conn.last_record) >= RECORD_EVERY && switch_value(switch::FLOW_RECORDS) != 0 {
        conn.last_record = now;
        tell(account, program::TCP_SWEEP, conn, sk, tp, state, state, 0);
    }
    0
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
    // SAFETY: no preconditions.
    let waited = unsafe { bpf_ktime_get_boot_ns() }.wrapping_sub(conn.established) / 1000;
    match pair::cells(conn.slot()) {
        Some(cells) => {
            pair::record(cells, series::ACCEPT, waited.min(u32::MAX as u64) as u32);
            bump(&mut account.aggregated);
        }
        None => bump(&mut account.filtered),
    }
    0
}

/// What a listening socket had to refuse: its accept queue was full, or memory was short.
#[inline(always)]
fn listener(account: &mut Account, conn: &mut Conn, sk: Ptr) {
    let drops = kernel::drops(sk);
    let new = drops.wrapping_sub(account::exchange32(&mut conn.listen_drops, drops));
    if new == 0 {
        bump(&mut account.filtered);
        return;
    }
    let slot = pair::slot(account, &conn.subject, 0, &conn.comm);
    match pair::cells(slot) {
        Some(cells) => {
            add(&mut cells.counters[counter::LISTEN_DROPS], new as u64);
            bump(&mut account.aggregated);
        }
        None => bump(&mut account.dropped[reason::MAP_FULL]),
    }
}

/// All open files of all processes: finds the TCP sockets that are older than the agent, and who owns them.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task_file")]
pub fn tcp_adopt(ctx: *mut c_void) -> i32 {
    let (task, file) = (context_pointer(ctx, 1), context_pointer(ctx, 3));
    if task.is_null() || file.is_null() {
        return 0;
    }
    // SAFETY: the helper checks that the file is a socket.
    let socket = unsafe { bpf_sock_from_file(file as *mut _) } as Ptr;
    if socket.is_null() {
        return 0;
    }
    let sk = kernel::socket_sk(socket);
    if sk.is_null() || kernel::protocol(sk) != IPPROTO_TCP {
        return 0;
    }
    let Some(account) = account::of(program::TCP_ADOPT) else {
        return 0;
    };
    bump(&mut account.seen);
    let state = kernel::state(sk);
    let Some(tp) = kernel::tcp_sock(sk) else {
        bump(&mut account.filtered);
        return 0;
    };
    if conn::get(sk).is_some() || state == CLOSE {
        bump(&mut account.filtered);
        return 0;
    }
    let process = (kernel::task_tgid(task), kernel::task_start(task));
    let comm = kernel::task_comm(task);
    if state == LISTEN || state == SYN_SENT {
        let Some(conn) = conn::get_or_new(sk) else {
            bump(&mut account.dropped[reason::NO_STORAGE]);
            return 0;
        };
        conn.reset(pair::subject(sk, process), comm);
        conn.listen_drops = kernel::drops(sk);
        bump(&mut account.aggregated);
        return 0;
    }
    if adopt(account, sk, tp, process, comm).is_some() {
        bump(&mut account.aggregated);
    }
    0
}
