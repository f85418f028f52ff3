//! Kernel fields that the programs read: name of the global in the object, path in BTF, size.

/// A group of fields: what a program declares that it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// Any socket.
    Sock,
    /// TCP sockets.
    Tcp,
    /// Packets.
    Skb,
    /// Devices.
    Dev,
    /// Processes.
    Task,
    /// What the scheduler keeps of a thread.
    Sched,
    /// Registers of a task.
    Registers,
    /// Iterators over files.
    File,
    /// Requests to block devices.
    Block,
    /// The way between two hosts. No program needs them: what this kernel lacks is not shown.
    Path,
}

/// A field.
pub struct Field {
    /// Symbol in agent-ebpf/src/kernel.rs.
    pub global: &'static str,
    /// Path in BTF; empty = this architecture has no such thing.
    pub path: &'static str,
    /// Added to it: a second path, for what lies in an opaque buffer (`sk_buff.cb`); may be empty.
    pub inside: &'static str,
    /// Size in bytes that the program reads; 0 = only the address is taken, or a part is read.
    pub size: u32,
    /// Who needs it.
    pub group: Group,
}

/// The path on x86-64, or another one on aarch64.
const fn here(path: &'static str, aarch64: Option<&'static str>) -> &'static str {
    match aarch64 {
        Some(path) if cfg!(target_arch = "aarch64") => path,
        _ => path,
    }
}

macro_rules! fields {
    ($($group:ident {
        $($global:ident $path:literal $(| $aarch64:literal)? $(+ $inside:literal)? $size:literal;)*
    })*) => {
        &[$($(Field {
            global: stringify!($global),
            path: here($path, fields!(@ $($aarch64)?)),
            inside: concat!("" $(, $inside)?),
            size: $size,
            group: Group::$group,
        }),*),*]
    };
    (@) => { None };
    (@ $path:literal) => { Some($path) };
}

/// All of them.
pub const FIELDS: &[Field] = fields! {
    Sock {
        SOCK_FAMILY "sock.__sk_common.skc_family" 2;
        SOCK_STATE "sock.__sk_common.skc_state" 1;
        SOCK_DADDR "sock.__sk_common.skc_daddr" 4;
        SOCK_SADDR "sock.__sk_common.skc_rcv_saddr" 4;
        SOCK_DADDR6 "sock.__sk_common.skc_v6_daddr" 16;
        SOCK_SADDR6 "sock.__sk_common.skc_v6_rcv_saddr" 16;
        SOCK_DPORT "sock.__sk_common.skc_dport" 2;
        SOCK_NET "sock.__sk_common.skc_net.net" 8;
        SOCK_PROTOCOL "sock.sk_protocol" 2;
        SOCK_FLAGS "sock.__sk_common.skc_flags" 8;
        SOCK_DROPS "sock.sk_drops.counter" 4;
        SOCK_ERR "sock.sk_err" 4;
        SOCK_CGROUP "sock.sk_cgrp_data.cgroup" 8;
        NET_INUM "net.ns.inum" 4;
        CGROUP_KN "cgroup.kn" 8;
        KN_ID "kernfs_node.id" 8;
    }
    Tcp {
        TCP_SPORT "tcp_sock.inet_conn.icsk_inet.inet_sport" 2;
        TCP_SRTT "tcp_sock.srtt_us" 4;
        TCP_MDEV "tcp_sock.mdev_us" 4;
        TCP_MSTAMP "tcp_sock.tcp_mstamp" 8;
        TCP_SND_UNA "tcp_sock.snd_una" 4;
        TCP_SND_WND "tcp_sock.snd_wnd" 4;
        TCP_RCV_WND "tcp_sock.rcv_wnd" 4;
        TCP_RCV_NXT "tcp_sock.rcv_nxt" 4;
        TCP_SND_CWND "tcp_sock.snd_cwnd" 4;
        // struct minmax: s[0] = { t, v }, both u32.
        TCP_RTT_MIN "tcp_sock.rtt_min" + "minmax_sample.v" 0;
        TCP_SEGS_IN "tcp_sock.segs_in" 4;
        TCP_SEGS_OUT "tcp_sock.segs_out" 4;
        TCP_BYTES_RECEIVED "tcp_sock.bytes_received" 8;
        TCP_BYTES_ACKED "tcp_sock.bytes_acked" 8;
        TCP_BYTES_SENT "tcp_sock.bytes_sent" 8;
        TCP_BYTES_RETRANS "tcp_sock.bytes_retrans" 8;
        TCP_DSACK_DUPS "tcp_sock.dsack_dups" 4;
        TCP_TOTAL_RETRANS "tcp_sock.total_retrans" 4;
        TCP_RACK_MSTAMP "tcp_sock.rack.mstamp" 8;
        TCP_RACK_RTT "tcp_sock.rack.rtt_us" 4;
        TCP_CA_STATE "tcp_sock.inet_conn.icsk_ca_state" 0;
        SKB_CB_ACK_SEQ "sk_buff.cb" + "tcp_skb_cb.ack_seq" 0;
        SKB_CB_SEGS "sk_buff.cb" + "tcp_skb_cb.tcp_gso_segs" 0;
    }
    Path {
        TCP_PMTU "tcp_sock.inet_conn.icsk_pmtu_cookie" 4;
        TCP_RECEIVED_CE "tcp_sock.received_ce" 4;
        TCP_DELIVERED_CE "tcp_sock.delivered_ce" 4;
    }
    Skb {
        SKB_LEN "sk_buff.len" 4;
        SKB_DEV "sk_buff.dev" 8;
        SKB_IIF "sk_buff.skb_iif" 4;
        SKB_PROTOCOL "sk_buff.protocol" 2;
        SKB_HEAD "sk_buff.head" 8;
        SKB_NETWORK "sk_buff.network_header" 2;
        SKB_SK "sk_buff.sk" 8;
    }
    Dev {
        DEV_IFINDEX "net_device.ifindex" 4;
        DEV_NAME "net_device.name" 16;
        DEV_NET "net_device.nd_net.net" 8;
    }
    Task {
        TASK_LEADER "task_struct.group_leader" 8;
        TASK_START "task_struct.start_boottime" 8;
        TASK_TGID "task_struct.tgid" 4;
        TASK_COMM "task_struct.comm" 16;
        TASK_PID "task_struct.pid" 4;
        TASK_MM "task_struct.mm" 8;
        TASK_STACK "task_struct.stack" 8;
    }
    Sched {
        TASK_BORN "task_struct.start_boottime" 8;
        TASK_FLAGS "task_struct.flags" 4;
        TASK_CGROUPS "task_struct.cgroups" 8;
        CSS_CGROUP "css_set.dfl_cgrp" 8;
        TASK_ON_CPU "task_struct.on_cpu" 4;
        TASK_EXIT "task_struct.exit_state" 4;
        TASK_EXEC "task_struct.se.sum_exec_runtime" 8;
        TASK_DELAY "task_struct.sched_info.run_delay" 8;
        TASK_ARRIVALS "task_struct.sched_info.pcount" 8;
        TASK_VOLUNTARY "task_struct.nvcsw" 8;
        TASK_INVOLUNTARY "task_struct.nivcsw" 8;
    }
    Registers {
        REGS_IP "pt_regs.ip" | "pt_regs.pc" 8;
        REGS_SP "pt_regs.sp" 8;
        REGS_FP "pt_regs.bp" | "pt_regs.regs[29]" 8;
        REGS_LR "" | "pt_regs.regs[30]" 8;
        // Of 8 bytes or 4; 4 are read.
        REGS_SYSCALL "pt_regs.orig_ax" | "pt_regs.syscallno" 0;
        TASK_THREAD_POINTER "task_struct.thread.fsbase" | "task_struct.thread.uw.tp_value" 8;
    }
    File {
        SOCKET_SK "socket.sk" 8;
    }
    Block {
        RQ_QUEUE "request.q" 8;
        RQ_OP "request.cmd_flags" 4;
        RQ_FLAGS "request.rq_flags" 4;
        RQ_LEN "request.__data_len" 4;
        RQ_START "request.start_time_ns" 8;
        QUEUE_DISK "request_queue.disk" 8;
        DISK_MAJOR "gendisk.major" 4;
        DISK_MINOR "gendisk.first_minor" 4;
    }
};
