//! A connection as a record: at its close, and every ten seconds of its life.

use super::conn::{self, Conn, flag};
use super::{CLOSE, span};
use crate::emit::{emit, header};
use crate::kernel::{self, Ptr};
use agent_common::account::Account;
use agent_common::tcp::FlowRecord;
use agent_common::wire::kind;
use aya_ebpf::helpers::bpf_ktime_get_boot_ns;

/// Tells it, with the state that it comes from and the one that it is in.
#[inline(always)]
#[expect(
    clippy::too_many_arguments,
    reason = "inlined into two places; a struct would be copied on a 512-byte stack"
)]
pub(super) fn tell(
    account: &mut Account,
    program: usize,
    conn: &Conn,
    sk: Ptr,
    tp: Ptr,
    old: u8,
    state: u8,
    error: u32,
    traced: u32,
) {
    // SAFETY: no preconditions.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    emit::<FlowRecord>(account, |r| {
        // SAFETY: `r` is a reserved record of the right size; every field is written, there is no padding.
        let r = unsafe { &mut *r };
        r.header = header::<FlowRecord>(kind::TCP_FLOW, program);
        r.time = now;
        let since = if conn.established == 0 {
            conn.started
        } else {
            conn.established
        };
        r.duration = if since == 0 {
            0
        } else {
            conn::clock().wrapping_sub(since) * 1000
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
        r.rtt_max = conn.max_rtt;
        // Of an open connection they are nobody's business, not even a recording's.
        (r.isn, r.isn_remote) = if state == CLOSE {
            span::isns(conn, tp)
        } else {
            (0, 0)
        };
        r.traced = traced;
        r.error = error;
        r.role = conn.role as u8;
        r.state = state;
        r.old_state = old;
        r.established = (conn.flags & flag::ESTABLISHED) as u8;
        r.slot = conn.slot();
        r.comm = conn.comm;
    });
}
