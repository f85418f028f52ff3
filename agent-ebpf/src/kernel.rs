//! The running kernel's structures, read through offsets that userspace takes from its BTF.
//!
//! aya has no CO-RE for Rust. An offset in frozen `.rodata` is a constant to the verifier, so a load at
//! `typed pointer + offset` is checked against the kernel's own BTF and costs one instruction
//! (132 ns for seven fields, against 380 by `bpf_probe_read_kernel`).

use crate::settings::{PROBE_READS, SYS_FUTEX};
use aya_ebpf::{
    EbpfContext as _, Global,
    helpers::{
        bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_probe_read_kernel,
        generated::{bpf_get_current_task_btf, bpf_get_socket_cookie, bpf_skc_to_tcp_sock},
    },
    programs::BtfTracePointContext,
};

/// Offsets in bytes; `u32::MAX` = the kernel has no such field. Userspace fills them by these names.
macro_rules! offsets {
    ($($name:ident)*) => {$(
        #[unsafe(no_mangle)]
        static $name: Global<u32> = Global::new(u32::MAX);
    )*};
}

offsets! {
    SOCK_FAMILY SOCK_STATE SOCK_DADDR SOCK_SADDR SOCK_DADDR6 SOCK_SADDR6 SOCK_DPORT SOCK_NET
    SOCK_PROTOCOL SOCK_FLAGS SOCK_DROPS SOCK_ERR SOCK_CGROUP
    TCP_SPORT TCP_SRTT TCP_MDEV TCP_MSTAMP TCP_SND_UNA TCP_SND_WND TCP_RCV_WND TCP_RCV_NXT TCP_SND_CWND TCP_RTT_MIN
    TCP_SEGS_IN TCP_SEGS_OUT TCP_BYTES_RECEIVED TCP_BYTES_ACKED TCP_BYTES_SENT TCP_BYTES_RETRANS TCP_DSACK_DUPS TCP_TOTAL_RETRANS
    TCP_RACK_MSTAMP TCP_RACK_RTT TCP_CA_STATE TCP_PMTU TCP_RECEIVED_CE TCP_DELIVERED_CE
    SKB_CB_ACK_SEQ SKB_CB_SEGS SKB_LEN SKB_DEV SKB_IIF SKB_PROTOCOL SKB_HEAD SKB_NETWORK SKB_SK
    DEV_IFINDEX DEV_NAME DEV_NET
    NET_INUM CGROUP_KN KN_ID
    TASK_LEADER TASK_START TASK_TGID TASK_COMM TASK_PID TASK_MM TASK_STACK
    TASK_THREAD_POINTER
    TASK_BORN TASK_FLAGS TASK_CGROUPS CSS_CGROUP TASK_ON_CPU TASK_EXIT
    TASK_EXEC TASK_DELAY TASK_ARRIVALS TASK_VOLUNTARY TASK_INVOLUNTARY
    REGS_IP REGS_SP REGS_FP REGS_LR REGS_SYSCALL
    SOCKET_SK
    RQ_QUEUE RQ_OP RQ_FLAGS RQ_LEN RQ_START QUEUE_DISK DISK_MAJOR DISK_MINOR
}

/// A typed kernel pointer, as the verifier tracks it.
pub type Ptr = *const u8;

#[inline(always)]
fn load<T: Copy>(base: Ptr, offset: &Global<u32>) -> T {
    // SAFETY: the verifier checks base + constant against the BTF type and handles faults; volatile keeps LLVM from
    // merging loads into ones that the verifier refuses.
    unsafe { base.add(offset.load() as usize).cast::<T>().read_volatile() }
}

/// A field whose address is taken, for probe reads.
#[inline(always)]
fn address(base: Ptr, offset: &Global<u32>) -> Ptr {
    // SAFETY: only computes an address.
    unsafe { base.add(offset.load() as usize) }
}

/// A field that not every kernel has: zero without it. The verifier knows the constant and drops the load.
#[inline(always)]
fn load_if_there(base: Ptr, offset: &Global<u32>) -> u32 {
    if offset.load() == u32::MAX {
        return 0;
    }
    load(base, offset)
}

macro_rules! getters {
    ($($(#[$meta:meta])* $name:ident: $ty:ty = $offset:ident;)*) => {$(
        $(#[$meta])*
        #[inline(always)]
        pub fn $name(base: Ptr) -> $ty {
            load(base, &$offset)
        }
    )*};
}

getters! {
    /// `sk->sk_family`.
    family: u16 = SOCK_FAMILY;
    /// `sk->sk_state`.
    state: u8 = SOCK_STATE;
    /// `inet->inet_sport` of a `tcp_sock`: local port, network order. `sk->sk_num` is already zero when a socket closes.
    local_port_be: u16 = TCP_SPORT;
    /// `sk->sk_dport`, network order.
    remote_port_be: u16 = SOCK_DPORT;
    /// `sk->sk_protocol`.
    protocol: u16 = SOCK_PROTOCOL;
    /// `sk->sk_drops`.
    drops: u32 = SOCK_DROPS;
    /// `sk->sk_err`.
    error: u32 = SOCK_ERR;
    /// `tp->srtt_us`: smoothed RTT, 1/8 µs.
    srtt8: u32 = TCP_SRTT;
    /// `tp->mdev_us`: mean deviation, 1/4 µs.
    mdev4: u32 = TCP_MDEV;
    /// `tp->tcp_mstamp`: time of the last activity, µs.
    activity: u64 = TCP_MSTAMP;
    /// `tp->snd_una`.
    snd_una: u32 = TCP_SND_UNA;
    /// `tp->snd_wnd`: the window the peer gives us.
    snd_wnd: u32 = TCP_SND_WND;
    /// `tp->rcv_wnd`: the window we give the peer.
    rcv_wnd: u32 = TCP_RCV_WND;
    /// `tp->rcv_nxt`: the next byte that we expect.
    rcv_nxt: u32 = TCP_RCV_NXT;
    /// `tp->snd_cwnd`.
    cwnd: u32 = TCP_SND_CWND;
    /// `tp->rtt_min`, best of the window, µs.
    rtt_min: u32 = TCP_RTT_MIN;
    /// `tp->segs_in`.
    segs_in: u32 = TCP_SEGS_IN;
    /// `tp->segs_out`.
    segs_out: u32 = TCP_SEGS_OUT;
    /// `sk->sk_flags`.
    flags: u64 = SOCK_FLAGS;
    /// `tp->bytes_received`: sequence space, a FIN included.
    sequence_received: u64 = TCP_BYTES_RECEIVED;
    /// `tp->bytes_acked`: sequence space, a client's SYN and a FIN included.
    sequence_acked: u64 = TCP_BYTES_ACKED;
    /// `tp->bytes_sent`.
    bytes_sent: u64 = TCP_BYTES_SENT;
    /// `tp->bytes_retrans`.
    bytes_retrans: u64 = TCP_BYTES_RETRANS;
    /// `tp->dsack_dups`.
    dsack_dups: u32 = TCP_DSACK_DUPS;
    /// `tp->total_retrans`.
    total_retrans: u32 = TCP_TOTAL_RETRANS;
    /// `tp->rack.mstamp`: when the segment was sent whose delivery gave the last sample.
    rack_mstamp: u64 = TCP_RACK_MSTAMP;
    /// `tp->rack.rtt_us`: the last raw RTT sample.
    rack_rtt: u32 = TCP_RACK_RTT;
    /// `skb->len`.
    skb_len: u32 = SKB_LEN;
    /// `skb->skb_iif`: the interface it came in by, 0 when made here.
    skb_iif: u32 = SKB_IIF;
    /// `skb->protocol`, network order.
    skb_protocol_be: u16 = SKB_PROTOCOL;
    /// `skb->head`.
    skb_head: Ptr = SKB_HEAD;
    /// `skb->network_header`.
    skb_network: u16 = SKB_NETWORK;
    /// `skb->sk`.
    skb_sk: Ptr = SKB_SK;
    /// `dev->ifindex`.
    ifindex: u32 = DEV_IFINDEX;
    /// `task->start_boottime`: of the thread, ns since boot.
    task_born: u64 = TASK_BORN;
    /// `task->flags`.
    task_flags: u32 = TASK_FLAGS;
    /// `task->cgroups`: changes when the thread goes to another cgroup.
    task_cgroups: Ptr = TASK_CGROUPS;
    /// `task->on_cpu`.
    task_on_cpu: u32 = TASK_ON_CPU;
    /// `task->exit_state`.
    task_exit: u32 = TASK_EXIT;
    /// `task->se.sum_exec_runtime`: time on a CPU, ns.
    task_exec: u64 = TASK_EXEC;
    /// `task->sched_info.run_delay`: time that it waited for a CPU, ns.
    task_delay: u64 = TASK_DELAY;
    /// `task->sched_info.pcount`: how often it got one.
    task_arrivals: u64 = TASK_ARRIVALS;
    /// `task->nvcsw`.
    task_voluntary: u64 = TASK_VOLUNTARY;
    /// `task->nivcsw`.
    task_involuntary: u64 = TASK_INVOLUNTARY;
    /// `file->private_data`'s `socket->sk`.
    socket_sk: Ptr = SOCKET_SK;
    /// `rq->cmd_flags`: operation and flags.
    request_op: u32 = RQ_OP;
    /// `rq->rq_flags`.
    request_flags: u32 = RQ_FLAGS;
    /// `rq->__data_len`: bytes that are left.
    request_len: u32 = RQ_LEN;
    /// `rq->start_time_ns`, of the monotonic clock; 0 = not noted.
    request_start: u64 = RQ_START;
    /// `disk->major`.
    disk_major: u32 = DISK_MAJOR;
    /// `disk->first_minor`.
    disk_minor: u32 = DISK_MINOR;
}

/// Whether an argument of a tracepoint is NULL, asked of the number and not of the typed pointer: from 6.5 to 6.12 the
/// verifier takes such pointers for never NULL, removes the check and loads without fault handling: a RST from a closed
/// port would be a panic. Fixed by "bpf: Augment raw_tp arguments with PTR_MAYBE_NULL" (6.13, backported).
#[inline(always)]
pub fn argument_is_null(ctx: &BtfTracePointContext, index: usize) -> bool {
    // LLVM must not know where this address comes from: it would load the typed argument through it as well, and the
    // verifier refuses loads through a context pointer that has been added to.
    let context = core::hint::black_box(ctx.as_ptr());
    // SAFETY: reads the context's own slot; the helper copes with any address.
    let value = unsafe { bpf_probe_read_kernel(context.cast::<u64>().add(index)) };
    value.unwrap_or(0) == 0
}

/// The device of a packet, if it is one. The field shares its place with others (`rbnode`, `dev_scratch`), so in TCP's
/// out-of-order queue and UDP's receive queue it holds something else: only what looks like a device is taken.
#[inline(always)]
pub fn device(skb: Ptr) -> Option<Ptr> {
    let dev: Ptr = load(skb, &SKB_DEV);
    // Namespaces are numbered from 0xf0000000 (PROC_DYNAMIC_FIRST), the initial one from just below since 6.17.
    let looks_right = !dev.is_null() && dev_netns(dev) >= 0xefff_ff00 && (1..1 << 24).contains(&ifindex(dev));
    if looks_right { Some(dev) } else { None }
}

/// `inet_connection_sock.icsk_ca_state`, a bit field of five bits.
#[inline(always)]
pub fn ca_state(tp: Ptr) -> u8 {
    load::<u8>(tp, &TCP_CA_STATE) & 0x1f
}

/// `TCP_SKB_CB(skb)->ack_seq`, byte by byte: `skb->cb` is an array of char to the verifier.
#[inline(always)]
pub fn skb_ack(skb: Ptr) -> u32 {
    let at = |i: usize| -> u32 {
        // SAFETY: as in `load`.
        unsafe { address(skb, &SKB_CB_ACK_SEQ).add(i).read_volatile() as u32 }
    };
    at(0) | at(1) << 8 | at(2) << 16 | at(3) << 24
}

/// `TCP_SKB_CB(skb)->tcp_gso_segs`: segments in the buffer.
#[inline(always)]
pub fn skb_segs(skb: Ptr) -> u64 {
    let at = |i: usize| -> u64 {
        // SAFETY: as in `load`.
        unsafe { address(skb, &SKB_CB_SEGS).add(i).read_volatile() as u64 }
    };
    (at(0) | at(1) << 8).max(1)
}

/// TTL or hop limit of a received packet; 0 = not known. `skb->head` is a mere number to the verifier, so this is a
/// probe read: callers ask [`crate::settings::PROBE_READS`]' leave, which lockdown may refuse.
#[inline(always)]
pub fn skb_ttl(skb: Ptr) -> u8 {
    if PROBE_READS.load() == 0 {
        return 0;
    }
    // SAFETY: only computes an address; the probe read copes with any.
    let at = unsafe { skb_head(skb).add(skb_network(skb) as usize) };
    // SAFETY: the helper copes with any address.
    match unsafe { bpf_probe_read_kernel(at.cast::<[u8; 9]>()) } {
        Ok(h) if h[0] >> 4 == 4 => h[8],
        Ok(h) if h[0] >> 4 == 6 => h[7],
        _ => 0,
    }
}

/// `inet_connection_sock.icsk_pmtu_cookie`: path MTU that the segment size follows.
#[inline(always)]
pub fn path_mtu(tp: Ptr) -> u32 {
    load_if_there(tp, &TCP_PMTU)
}

/// `tp->received_ce`: segments received with a congestion mark. Since 6.17.
#[inline(always)]
pub fn received_ce(tp: Ptr) -> u32 {
    load_if_there(tp, &TCP_RECEIVED_CE)
}

/// `tp->delivered_ce`: segments delivered whose acknowledgement tells of a congestion mark.
#[inline(always)]
pub fn delivered_ce(tp: Ptr) -> u32 {
    load_if_there(tp, &TCP_DELIVERED_CE)
}

/// Payload bytes received in order.
#[inline(always)]
pub fn bytes_received(tp: Ptr) -> u64 {
    // SOCK_DONE (enum sock_flags, bit 1): tcp_fin() has been here, and the FIN is counted.
    sequence_received(tp).wrapping_sub(flags(tp) >> 1 & 1)
}

/// The `tcp_sock` of a socket; `None` for request, time-wait and other sockets.
#[inline(always)]
pub fn tcp_sock(sk: Ptr) -> Option<Ptr> {
    // SAFETY: the helper checks the socket.
    let tp = unsafe { bpf_skc_to_tcp_sock(sk as *mut _) } as Ptr;
    if tp.is_null() { None } else { Some(tp) }
}

/// Socket cookie: asking for it makes it.
#[inline(always)]
pub fn cookie(sk: Ptr) -> u64 {
    // SAFETY: the verifier checks the socket.
    unsafe { bpf_get_socket_cookie(sk as *mut _) }
}

/// `rq->q->disk`; NULL where there is none.
#[inline(always)]
pub fn request_disk(rq: Ptr) -> Ptr {
    let queue: Ptr = load(rq, &RQ_QUEUE);
    load(queue, &QUEUE_DISK)
}

/// Inode number of the socket's network namespace.
#[inline(always)]
pub fn netns(sk: Ptr) -> u32 {
    let net: Ptr = load(sk, &SOCK_NET);
    load(net, &NET_INUM)
}

/// Inode number of the device's network namespace.
#[inline(always)]
pub fn dev_netns(dev: Ptr) -> u32 {
    let net: Ptr = load(dev, &DEV_NET);
    load(net, &NET_INUM)
}

/// Address of `dev->name`.
#[inline(always)]
pub fn dev_name(dev: Ptr) -> Ptr {
    address(dev, &DEV_NAME)
}

/// cgroup v2 id of the socket.
#[inline(always)]
pub fn cgroup(sk: Ptr) -> u64 {
    let cgroup: Ptr = load(sk, &SOCK_CGROUP);
    let kn: Ptr = load(cgroup, &CGROUP_KN);
    load(kn, &KN_ID)
}

const AF_INET6: u16 = 10;

#[inline(always)]
fn address16(sk: Ptr, v4: &Global<u32>, v6: &Global<u32>) -> [u8; 16] {
    let words: [u32; 4] = if family(sk) == AF_INET6 {
        let at = |i: usize| -> u32 {
            // SAFETY: as in `load`.
            unsafe { address(sk, v6).add(4 * i).cast::<u32>().read_volatile() }
        };
        [at(0), at(1), at(2), at(3)]
    } else {
        [0, 0, 0xffff_0000, load(sk, v4)]
    };
    // SAFETY: same size, no invalid values. BPF here is little-endian, addresses stay in network order in memory.
    unsafe { core::mem::transmute(words) }
}

/// Remote address, IPv4 mapped.
#[inline(always)]
pub fn remote(sk: Ptr) -> [u8; 16] {
    address16(sk, &SOCK_DADDR, &SOCK_DADDR6)
}

/// Local address, IPv4 mapped.
#[inline(always)]
pub fn local(sk: Ptr) -> [u8; 16] {
    address16(sk, &SOCK_SADDR, &SOCK_SADDR6)
}

/// The running process: (tgid, start time of its leader in ns since boot).
#[inline(always)]
pub fn current() -> (u32, u64) {
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    // SAFETY: the helper has no preconditions.
    let task = unsafe { bpf_get_current_task_btf() } as Ptr;
    (tgid, task_start(task))
}

/// Start time of a task's process.
#[inline(always)]
pub fn task_start(task: Ptr) -> u64 {
    let leader: Ptr = load(task, &TASK_LEADER);
    load(leader, &TASK_START)
}

/// Process id of a task.
#[inline(always)]
pub fn task_tgid(task: Ptr) -> u32 {
    load(task, &TASK_TGID)
}

/// Id of a thread.
#[inline(always)]
pub fn task_tid(task: Ptr) -> u32 {
    load(task, &TASK_PID)
}

/// cgroup v2 id of a `css_set`, which is what [`task_cgroups`] gives.
#[inline(always)]
pub fn css_cgroup(set: Ptr) -> u64 {
    let cgroup: Ptr = load(set, &CSS_CGROUP);
    let kn: Ptr = load(cgroup, &CGROUP_KN);
    load(kn, &KN_ID)
}

/// Where a task has its thread-local memory. On x86-64 it is what pthread_self() returns; on aarch64 that lies below it (by
/// `THREAD_REACH` at most), and the kernel knows it from when the task last left its CPU.
#[inline(always)]
pub fn thread_pointer(task: Ptr) -> u64 {
    load(task, &TASK_THREAD_POINTER)
}

/// Where the kernel stack of a task begins.
#[inline(always)]
pub fn task_stack(task: Ptr) -> u64 {
    load(task, &TASK_STACK)
}

/// Whether a task is a thread of the kernel: it has no memory of its own.
#[inline(always)]
pub fn is_kernel_thread(task: Ptr) -> bool {
    load::<u64>(task, &TASK_MM) == 0
}

/// Instruction, stack and frame pointer of `pt_regs`, and the link register, where there is one.
#[inline(always)]
pub fn registers(regs: Ptr) -> (u64, u64, u64, u64) {
    // The verifier knows the constant and drops the load.
    let lr = if REGS_LR.load() == u32::MAX {
        0
    } else {
        load(regs, &REGS_LR)
    };
    (
        load(regs, &REGS_IP),
        load(regs, &REGS_SP),
        load(regs, &REGS_FP),
        lr,
    )
}

/// Whether these registers entered the kernel by a system call that waits for a futex: `futex`, `futex_waitv` or
/// `futex_wait`; the numbers of the newer two are the same everywhere.
#[inline(always)]
pub fn is_futex(regs: Ptr) -> bool {
    let call = load::<u32>(regs, &REGS_SYSCALL);
    call == SYS_FUTEX.load() || matches!(call, 449 | 455)
}

/// Name of a task's process: that of its first thread.
#[inline(always)]
pub fn task_comm(task: Ptr) -> [u8; 16] {
    let leader: Ptr = load(task, &TASK_LEADER);
    let mut name = [0; 16];
    let mut i = 0;
    // Byte by byte, because it is an array of char to the verifier; without a helper, which lockdown may forbid.
    while i < 16 {
        // SAFETY: as in `load`.
        name[i] = unsafe { address(leader, &TASK_COMM).add(i).read_volatile() };
        i += 1;
    }
    name
}

/// Name of the running process.
#[inline(always)]
pub fn process_comm() -> [u8; 16] {
    // SAFETY: the helper has no preconditions.
    task_comm(unsafe { bpf_get_current_task_btf() } as Ptr)
}

/// Name of the running thread.
#[inline(always)]
pub fn current_comm() -> [u8; 16] {
    bpf_get_current_comm().unwrap_or([0; 16])
}
