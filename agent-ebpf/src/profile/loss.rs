//! The stacks of lost packets: where the kernel gave them up, and why it sent segments again.
//!
//! Most of it happens in softirqs, where whoever runs has nothing to do with the packet: then the socket says whose it is,
//! and there is no user stack.

use super::{Sample, chance, take};
use crate::account::{self, bump};
use crate::drops;
use crate::kernel::{self, Ptr};
use crate::settings::{RETRANSMIT_HAS_ERROR, THREAD_SIZE};
use crate::tcp;
use agent_common::account::{program, reason};
use agent_common::drops::direction;
use agent_common::profile::{detail, retransmit, sample};
use agent_common::tcp::SubjectKey;
use aya_ebpf::{
    EbpfContext as _,
    helpers::{bpf_get_current_cgroup_id, generated::bpf_get_current_task_btf},
    macros::{btf_tracepoint, map},
    maps::PerCpuArray,
    programs::BtfTracePointContext,
};

/// For [`is_in_thread`].
#[map]
static PROFILE_ADDRESS: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// Every packet that is freed as dropped.
#[btf_tracepoint(function = "kfree_skb")]
pub fn profile_drop(ctx: BtfTracePointContext) -> i32 {
    let skb: Ptr = ctx.arg(0);
    let why: u32 = ctx.arg(2);
    let Some(account) = account::of(program::PROFILE_DROP) else {
        return 0;
    };
    bump(&mut account.seen);
    let Some(lost) = drops::lost(skb, why) else {
        bump(&mut account.filtered);
        return 0;
    };
    let Some(shift) = chance(sample::DROP) else {
        bump(&mut account.sampled);
        return 0;
    };
    let whose = drops::owner(&ctx, skb);
    let peer = peer_of(skb, lost.ethertype, lost.direction);
    let is_senders = lost.direction == direction::TRANSMIT && is_running(&whose.0) && is_in_thread(&ctx);
    let sample = Sample {
        program: program::PROFILE_DROP,
        kind: sample::DROP,
        value: 1 << shift,
        detail: detail(why, peer),
        user: None,
        whose: if is_senders { None } else { Some(whose) },
    };
    take(account, ctx.as_ptr(), sample);
    0
}

/// Peer id of the other side. Not inlined: before 6.13 a program and the unwinder share 512 bytes of stack.
#[inline(never)]
fn peer_of(skb: Ptr, ethertype: u16, direction: u8) -> u32 {
    tcp::peer(drops::far_end(skb, ethertype, direction))
}

/// Each segment that is sent again, but SYN-ACKs: those are no socket's yet.
#[btf_tracepoint(function = "tcp_retransmit_skb")]
pub fn profile_retransmit(ctx: BtfTracePointContext) -> i32 {
    let (sk, skb): (Ptr, Ptr) = (ctx.arg(0), ctx.arg(1));
    let Some(account) = account::of(program::PROFILE_RETRANSMIT) else {
        return 0;
    };
    bump(&mut account.seen);
    // Since 6.17 tries that failed are told as well.
    if RETRANSMIT_HAS_ERROR.load() != 0 && ctx.arg::<i32>(2) != 0 {
        bump(&mut account.filtered);
        return 0;
    }
    let Some(tp) = kernel::tcp_sock(sk) else {
        bump(&mut account.dropped[reason::NO_SOCKET]);
        return 0;
    };
    let Some(shift) = chance(sample::RETRANSMIT) else {
        bump(&mut account.sampled);
        return 0;
    };
    let whose = tcp::owner(sk);
    let peer = tcp::peer(kernel::remote(sk));
    // As probe tcp tells them apart.
    let why = match kernel::ca_state(tp) {
        3 => retransmit::FAST,
        4 => retransmit::TIMEOUT,
        _ => retransmit::TAIL_LOSS_PROBE,
    };
    let is_senders = is_running(&whose.0) && is_in_thread(&ctx);
    let sample = Sample {
        program: program::PROFILE_RETRANSMIT,
        kind: sample::RETRANSMIT,
        value: kernel::skb_segs(skb) << shift,
        detail: detail(why, peer),
        user: None,
        whose: if is_senders { None } else { Some(whose) },
    };
    take(account, ctx.as_ptr(), sample);
    0
}

/// Whether the owner of a socket runs here: the process, or as far as the socket tells its cgroup.
#[inline(always)]
fn is_running(owner: &SubjectKey) -> bool {
    let (tgid, start) = kernel::current();
    if owner.tgid != 0 {
        return owner.tgid == tgid && owner.start == start;
    }
    // SAFETY: no preconditions.
    tgid != 0 && unsafe { bpf_get_current_cgroup_id() } == owner.cgroup
}

/// Whether this is the thread's own doing: softirqs and interrupts have stacks of their own, except in a thread of
/// ksoftirqd, which nobody's packets belong to either. The tracepoint's arguments lie on the stack that is in use.
#[inline(always)]
fn is_in_thread(ctx: &BtfTracePointContext) -> bool {
    // A pointer to the verifier, and out of memory a number.
    let Some(cell) = PROFILE_ADDRESS.get_ptr_mut(0) else {
        return false;
    };
    // SAFETY: valid for the program's run. A softirq that comes between the two leaves an address of its own stack: then
    // the packet is nobody's here.
    let address = unsafe {
        cell.cast::<*mut core::ffi::c_void>().write_volatile(ctx.as_ptr());
        cell.read_volatile()
    };
    // SAFETY: no preconditions.
    let task = unsafe { bpf_get_current_task_btf() } as Ptr;
    address.wrapping_sub(kernel::task_stack(task)) < THREAD_SIZE.load()
}
