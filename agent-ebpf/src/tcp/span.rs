//! Which connections are told as spans, and the numbers of which the ids of their traces are made.

use super::SERVER;
use super::conn::{self, Conn, flag};
use crate::account::bump;
use crate::emit::take_shared_token;
use crate::kernel::{self, Ptr};
use crate::settings::{switch, switch_value};
use agent_common::account::Account;
use agent_common::trace::{flag as trace, is_chosen, seed, why};
use aya_ebpf::{macros::map, maps::Array};

/// `BPF_F_MMAPABLE`.
const MMAPABLE: u32 = 1 << 10;

/// Spans that may still be told in this second, all CPUs together; see [`take_shared_token`].
#[map]
static TRACE_TOKENS: Array<u64> = Array::with_max_entries(1, MMAPABLE);

/// Initial sequence numbers of this end and of the other, from the counters of sequence space (RFC 4898) that have run with
/// them since. A client's begins with its SYN (`tcp_connect_init`), a server's behind its SYN-ACK
/// (`tcp_create_openreq_child`), and both count the other's from behind its SYN. 0 = not known.
#[inline(always)]
pub fn isns(conn: &Conn, tp: Ptr) -> (u32, u32) {
    // Of connections that are older than the agent nobody knows the role, and so not where counting began.
    if conn.flags & flag::ADOPTED != 0 {
        return (0, 0);
    }
    let own = kernel::snd_una(tp)
        .wrapping_sub(kernel::sequence_acked(tp) as u32)
        .wrapping_sub((conn.role == SERVER) as u32);
    if conn.flags & flag::ESTABLISHED == 0 {
        return (own, 0);
    }
    let other = kernel::rcv_nxt(tp)
        .wrapping_sub(kernel::sequence_received(tp) as u32)
        .wrapping_sub(1);
    (own, other)
}

/// Why a connection that ends is told as a span.
#[inline(always)]
pub fn why(account: &mut Account, conn: &Conn, tp: Ptr, error: u32) -> u32 {
    let flags = switch_value(switch::TRACES);
    // What was open before the agent has no beginning, and so no span.
    if flags & trace::ON == 0 || conn.flags & flag::ADOPTED != 0 || conn.started | conn.established == 0 {
        return why::NOT;
    }
    let (own, other) = isns(conn, tp);
    let seed = if conn.role == SERVER {
        seed(other, own)
    } else {
        seed(own, other)
    };
    let slow = switch_value(switch::TRACE_SLOW);
    // Who gives up waiting for an answer closes without an error: that is how most attempts fail.
    let (is_failed, waited) = if conn.flags & flag::ESTABLISHED == 0 {
        (true, conn::clock().wrapping_sub(conn.started))
    } else {
        (error != 0, conn.connect as u64)
    };
    let why = if is_failed && flags & trace::ERRORS != 0 {
        why::ERROR
    } else if slow != 0 && (waited >= slow || conn.max_rtt as u64 >= slow) {
        why::SLOW
    } else if is_chosen(seed, switch_value(switch::TRACE_THRESHOLD)) {
        why::CHANCE
    } else {
        return why::NOT;
    };
    if take_shared_token(&TRACE_TOKENS) {
        return why;
    }
    bump(&mut account.seen);
    bump(&mut account.sampled);
    why::NOT
}
