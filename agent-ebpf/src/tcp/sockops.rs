//! The fallback: one program on the socket operations of the whole cgroup tree. It reads the stable context only, so
//! it needs no kernel types. It costs more per event (1.07 × CPU per request against 1.02 × by A/B,
//! research/performance.md §4b), knows no process start times, and cannot tell fast retransmits from tail loss probes.

use super::conn::{self, Conn, flag, sample};
use super::pair;
use crate::account::{self, add, bump, exchange, exchange32};
use crate::emit::{emit, header};
use crate::settings::{SOCKOPS_HAS_CURRENT, switch, switch_value};
use agent_common::account::{Account, program, reason};
use agent_common::tcp::{FlowRecord, PairCells, SLOT_NONE, SubjectKey, counter, series};
use agent_common::wire::kind;
use aya_ebpf::{
    EbpfContext as _,
    bindings::bpf_sock_ops,
    helpers::{
        bpf_get_current_cgroup_id, bpf_get_current_pid_tgid, bpf_get_netns_cookie, bpf_get_socket_cookie,
        bpf_ktime_get_boot_ns,
    },
    macros::sock_ops,
    programs::SockOpsContext,
};

// include/uapi/linux/bpf.h, BPF_SOCK_OPS_*.
const CONNECT: u32 = 3;
const ACTIVE_ESTABLISHED: u32 = 4;
const PASSIVE_ESTABLISHED: u32 = 5;
const RTO: u32 = 8;
const RETRANSMIT: u32 = 9;
const STATE: u32 = 10;
const LISTEN: u32 = 11;
const RTT: u32 = 12;
/// RTO, RETRANS, STATE and RTT callbacks.
const CALLBACKS: i32 = 15;
const CLOSE: u32 = 7;
const SYN_SENT: u32 = 2;
const AF_INET6: u32 = 10;
/// The context has no clock: counters are flushed every so many samples, and at close.
const FLUSH_EVERY: u32 = 64;

/// Socket operations of every cgroup.
#[sock_ops]
pub fn tcp_sockops(ctx: SockOpsContext) -> u32 {
    let Some(account) = account::of(program::TCP_SOCKOPS) else {
        return 1;
    };
    bump(&mut account.seen);
    let op = ctx.op();
    // SAFETY: the context is valid; the verifier checks the access.
    let sk = unsafe { (*ctx.ops).__bindgen_anon_2.sk };
    let wanted = matches!(
        op,
        CONNECT | ACTIVE_ESTABLISHED | PASSIVE_ESTABLISHED | RTO | RETRANSMIT | STATE | LISTEN | RTT
    );
    if !wanted || sk.is_null() {
        bump(&mut account.filtered);
        return 1;
    }
    let Some(conn) = conn::get_or_new(sk as *const u8) else {
        bump(&mut account.dropped[reason::NO_STORAGE]);
        return 1;
    };
    match op {
        CONNECT | LISTEN => {
            super::release(conn);
            let comm = if SOCKOPS_HAS_CURRENT.load() != 0 {
                crate::kernel::current_comm()
            } else {
                [0; 16]
            };
            conn.reset(subject(&ctx), comm);
            conn.started = conn::clock();
            if op == CONNECT {
                let _ = ctx.set_cb_flags(CALLBACKS);
            }
            bump(&mut account.aggregated);
        }
        ACTIVE_ESTABLISHED | PASSIVE_ESTABLISHED => {
            established(account, conn, &ctx, op == PASSIVE_ESTABLISHED)
        }
        RTO => {
            // The retransmission that follows is the timeout's.
            conn.timeout = 1;
            bump(&mut account.aggregated);
        }
        STATE => state(account, conn, &ctx),
        _ => with_cells(account, conn, &ctx, op),
    }
    1
}

#[inline(always)]
fn subject(ctx: &SockOpsContext) -> SubjectKey {
    // SAFETY: no preconditions.
    let netns = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    if SOCKOPS_HAS_CURRENT.load() == 0 {
        // The verifier knows the constant and does not look at what follows.
        return SubjectKey {
            cgroup: 0,
            start: 0,
            tgid: 0,
            netns: netns as u32,
        };
    }
    // SAFETY: no preconditions; connect and listen run in the process that asks for them.
    let cgroup = unsafe { bpf_get_current_cgroup_id() };
    let tgid = if cgroup > 1 {
        0
    } else {
        (bpf_get_current_pid_tgid() >> 32) as u32
    };
    SubjectKey {
        cgroup,
        start: 0,
        tgid,
        netns: netns as u32,
    }
}

/// Reads an address of a context, IPv4 mapped. Both fields are read, then one is chosen: LLVM would turn a choice of loads into
/// one load at a chosen offset, which the verifier refuses on a context.
macro_rules! address {
    ($ctx:ident, $v6:ident, $v4:ident) => {{
        // SAFETY: the context is valid; volatile keeps the loads at the width that the verifier converts.
        let (v6, v4) = unsafe {
            let ops: *const bpf_sock_ops = $ctx.ops;
            let a = (&raw const (*ops).$v6).cast::<u32>();
            (
                [
                    a.read_volatile(),
                    a.add(1).read_volatile(),
                    a.add(2).read_volatile(),
                    a.add(3).read_volatile(),
                ],
                (&raw const (*ops).$v4).read_volatile(),
            )
        };
        let words = if $ctx.family() == AF_INET6 {
            v6
        } else {
            [0, 0, 0xffff_0000, v4]
        };
        // SAFETY: same size, no invalid values.
        unsafe { core::mem::transmute::<[u32; 4], [u8; 16]>(words) }
    }};
}

#[inline(always)]
fn remote(ctx: &SockOpsContext) -> [u8; 16] {
    address!(ctx, remote_ip6, remote_ip4)
}

#[inline(always)]
fn local(ctx: &SockOpsContext) -> [u8; 16] {
    address!(ctx, local_ip6, local_ip4)
}

#[inline(always)]
fn established(account: &mut Account, conn: &mut Conn, ctx: &SockOpsContext, passive: bool) {
    let _ = ctx.set_cb_flags(CALLBACKS);
    let now = conn::clock();
    if passive {
        let (subject, comm) = (conn.subject, conn.comm);
        conn.reset(subject, comm);
        conn.role = 1;
    }
    conn.established = now;
    conn.flags |= flag::ESTABLISHED;
    conn.peer = pair::peer(remote(ctx));
    conn.attach_to(account);
    let Some(cells) = pair::cells(conn.slot()) else {
        bump(&mut account.dropped[reason::MAP_FULL]);
        return;
    };
    if passive {
        bump(&mut cells.counters[counter::OPENED + 1]);
    } else {
        bump(&mut cells.counters[counter::OPENED]);
        if conn.started != 0 {
            conn.connect = now.wrapping_sub(conn.started) as u32;
            pair::record(cells, series::CONNECT, conn.connect);
        }
    }
    bump(&mut account.aggregated);
}

#[inline(always)]
fn state(account: &mut Account, conn: &mut Conn, ctx: &SockOpsContext) {
    if ctx.arg(1) != CLOSE {
        bump(&mut account.filtered);
        return;
    }
    let old = ctx.arg(0);
    if conn.slot() == SLOT_NONE {
        conn.peer = pair::peer(remote(ctx));
        conn.attach_to(account);
    }
    let Some(cells) = pair::cells(conn.slot()) else {
        bump(&mut account.dropped[reason::MAP_FULL]);
        return;
    };
    flush(conn, cells, ctx, old);
    // The context has no error: a connection that never came about failed for another reason.
    let index = match (conn.flags & flag::ESTABLISHED != 0, conn.role) {
        (true, 1) => counter::CLOSED + 6,
        (true, _) => counter::CLOSED,
        (false, _) if old == SYN_SENT => counter::FAILED + 5,
        (false, _) => counter::FAILED + 11,
    };
    // SAFETY: all four are within the counters.
    bump(unsafe { cells.counters.get_unchecked_mut(index) });
    bump(&mut account.aggregated);
    if switch_value(switch::FLOW_RECORDS) != 0 {
        tell(account, conn, ctx, old);
    }
    super::release(conn);
}

#[inline(always)]
fn with_cells(account: &mut Account, conn: &mut Conn, ctx: &SockOpsContext, op: u32) {
    let Some(cells) = pair::cells(conn.slot()) else {
        // A retransmitted SYN: there is no row before the connection is established.
        bump(&mut account.filtered);
        return;
    };
    if op == RETRANSMIT {
        let timeout = conn.timeout != 0;
        conn.timeout = 0;
        let index = counter::RETRANSMITS + if timeout { 2 } else { 0 };
        // SAFETY: RETRANSMITS + 2 is within the counters.
        add(
            unsafe { cells.counters.get_unchecked_mut(index) },
            ctx.arg(1) as u64,
        );
        bump(&mut account.aggregated);
        return;
    }
    // Since 6.10 the callback brings the raw sample; before, the smoothed time is all there is.
    let raw = ctx.arg(0);
    // SAFETY: the context is valid.
    let smoothed = unsafe { (*ctx.ops).srtt_us } >> 3;
    let micros = if raw != 0 { raw } else { smoothed };
    sample(conn, cells, micros);
    conn.listen_drops += 1;
    if conn.listen_drops.is_multiple_of(FLUSH_EVERY) {
        flush(conn, cells, ctx, 0);
    }
    bump(&mut account.aggregated);
}

#[inline(always)]
fn flush(conn: &mut Conn, cells: &mut PairCells, ctx: &SockOpsContext, old: u32) {
    // SAFETY: the context is valid; each field is read at its own width.
    let (segs_in, segs_out, bytes_in, bytes_out) = unsafe {
        let ops: *const bpf_sock_ops = ctx.ops;
        (
            (&raw const (*ops).segs_in).read_volatile(),
            (&raw const (*ops).segs_out).read_volatile(),
            (&raw const (*ops).bytes_received).read_volatile(),
            (&raw const (*ops).bytes_acked).read_volatile(),
        )
    };
    let (bytes_in, bytes_out) = payload(conn, old, bytes_in, bytes_out);
    add(
        &mut cells.counters[counter::SEGMENTS_IN],
        segs_in.wrapping_sub(exchange32(&mut conn.segs_in, segs_in)) as i32 as u64,
    );
    add(
        &mut cells.counters[counter::SEGMENTS_OUT],
        segs_out.wrapping_sub(exchange32(&mut conn.segs_out, segs_out)) as i32 as u64,
    );
    add(
        &mut cells.counters[counter::BYTES_IN],
        bytes_in.wrapping_sub(exchange(&mut conn.bytes_in, bytes_in)),
    );
    add(
        &mut cells.counters[counter::BYTES_OUT],
        bytes_out.wrapping_sub(exchange(&mut conn.bytes_out, bytes_out)),
    );
}

/// The kernel counts sequence space: a SYN that was acknowledged (a client's), and the FIN of each side, of which the
/// state before the close tells. 0 = the connection goes on.
#[inline(always)]
fn payload(conn: &Conn, old: u32, bytes_in: u64, bytes_out: u64) -> (u64, u64) {
    let syn = (conn.role == 0) as u64;
    // FIN_WAIT2 = 5, TIME_WAIT = 6, LAST_ACK = 9, CLOSING = 11: ours is acknowledged; CLOSE_WAIT = 8: theirs came.
    let ours = matches!(old, 5 | 6 | 9 | 11) as u64;
    let theirs = matches!(old, 5 | 6 | 8 | 9 | 11) as u64;
    (
        bytes_in.saturating_sub(theirs),
        bytes_out.saturating_sub(syn + ours),
    )
}

#[inline(always)]
fn tell(account: &mut Account, conn: &Conn, ctx: &SockOpsContext, old: u32) {
    // SAFETY: no preconditions.
    let (now, cookie) = unsafe { (bpf_ktime_get_boot_ns(), bpf_get_socket_cookie(ctx.as_ptr())) };
    emit::<FlowRecord>(account, |r| {
        // SAFETY: `r` is a reserved record of the right size, every field is written; the context is valid.
        let (r, ops) = unsafe { (&mut *r, ctx.ops.cast_const()) };
        macro_rules! read {
            ($field:ident) => {
                // SAFETY: as above; volatile keeps the width.
                unsafe { (&raw const (*ops).$field).read_volatile() }
            };
        }
        r.header = header::<FlowRecord>(kind::TCP_FLOW, program::TCP_SOCKOPS);
        r.time = now;
        r.duration = if conn.established == 0 {
            0
        } else {
            conn::clock().wrapping_sub(conn.established) * 1000
        };
        r.subject = conn.subject;
        r.cookie = cookie;
        (r.bytes_in, r.bytes_out) = payload(conn, old, read!(bytes_received), read!(bytes_acked));
        r.local = local(ctx);
        r.remote = remote(ctx);
        r.local_port = read!(local_port) as u16;
        r.remote_port = u32::from_be(read!(remote_port)) as u16;
        r.peer = conn.peer;
        r.segments_in = read!(segs_in);
        r.segments_out = read!(segs_out);
        r.retransmits = read!(total_retrans);
        r.spurious = 0;
        r.srtt = read!(srtt_us) >> 3;
        r.rtt_min = read!(rtt_min);
        r.rtt_var = 0;
        r.cwnd = read!(snd_cwnd);
        r.connect = conn.connect;
        r.rtt_max = conn.max_rtt;
        // The context has no sequence numbers that were there at the start.
        (r.isn, r.isn_remote, r.traced) = (0, 0, 0);
        r.error = 0;
        r.role = conn.role as u8;
        r.state = CLOSE as u8;
        r.old_state = old as u8;
        r.established = (conn.flags & flag::ESTABLISHED) as u8;
        r.slot = conn.slot();
        r.comm = conn.comm;
    });
}
