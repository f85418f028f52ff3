//! What a thread waited for: the innermost function of the kernel on its stack that tells.

use crate::identity::symbols::Symbols;
use agent_common::profile::{contention, off};
use std::collections::HashMap;

/// Addresses whose meaning is remembered; a kernel has some hundreds of places to wait at.
const REMEMBERED: usize = 16_384;

/// Nothing on the stack tells.
const OTHER: &str = "other";

/// Functions by the beginnings of their names. The kernel gives them other endings as it is compiled (`.isra.0`), and other
/// names in other versions.
const MEANINGS: &[(&str, &[&str])] = &[
    (
        "lock",
        &[
            "futex_",
            "__futex_",
            "do_futex",
            "mutex_lock",
            "__mutex_lock",
            "ww_mutex_",
            "rwsem_",
            "down_",
            "__down",
            "rt_mutex_",
            "rt_spin_lock",
            "rtlock_",
            "percpu_down_",
            "percpu_rwsem_",
            "__percpu_down_",
            "flock_lock_",
            "locks_lock_",
            "fcntl_setlk",
            "do_lock_file_wait",
        ],
    ),
    (
        "network",
        &[
            "sk_wait_",
            "sk_stream_wait_",
            "inet_",
            "tcp_",
            "udp_",
            "unix_",
            "__skb_wait_",
            "__skb_recv_",
            "skb_recv_",
            "lock_sock",
            "__lock_sock",
            "netlink_",
            "packet_recvmsg",
            "vsock_",
            "sock_recvmsg",
            "sock_sendmsg",
            "rpc_",
            "__rpc_",
            "nfs_",
            "nfs4_",
            "mptcp_",
            "smc_",
        ],
    ),
    (
        "disk",
        &[
            "io_schedule",
            "blk_",
            "submit_bio_wait",
            "blkdev_",
            "folio_wait_",
            "__folio_lock",
            "wait_on_page_",
            "__wait_on_buffer",
            "jbd2_",
            "wait_transaction_",
            "balance_dirty_pages",
            "filemap_",
            "iomap_dio_",
            "swap_read",
            "wb_wait_for_completion",
            "xlog_wait",
            "xfs_",
            "ext4_",
            "btrfs_",
            "f2fs_",
            "read_events",
            "bio_wait_",
        ],
    ),
    (
        "poll",
        &[
            "ep_poll",
            "do_epoll_wait",
            "do_poll",
            "do_sys_poll",
            "do_select",
            "core_sys_select",
            "poll_schedule_timeout",
            "io_cqring_wait",
        ],
    ),
    ("pipe", &["pipe_", "anon_pipe_", "fifo_"]),
    (
        "sleep",
        &[
            "do_nanosleep",
            "hrtimer_nanosleep",
            "common_nsleep",
            "msleep",
            "schedule_timeout_interruptible",
        ],
    ),
    (
        "process",
        &[
            "do_wait",
            "kernel_wait",
            "kernel_clone",
            "wait_for_vfork_done",
            "coredump_wait",
            "do_exit",
        ],
    ),
];

/// How the kernel comes to an interrupt, from wherever: what lies below on the stack has nothing to do with it.
const INTERRUPTS: &[&str] = &[
    "asm_sysvec_",
    "asm_common_interrupt",
    "el0t_64_irq",
    "el1h_64_irq",
];
const INTERRUPT: &str = "interrupt";

fn meaning(function: &str) -> Option<&'static str> {
    let is_any = |beginnings: &[&str]| beginnings.iter().any(|b| function.starts_with(b));
    if is_any(INTERRUPTS) {
        return Some(INTERRUPT);
    }
    let fits = |(_, beginnings): &&(&str, &[&str])| is_any(beginnings);
    MEANINGS.iter().find(fits).map(|(meaning, _)| *meaning)
}

/// Tells reasons, and remembers what addresses mean.
pub struct Reasons {
    symbols: Symbols,
    known: HashMap<u64, Option<&'static str>>,
}

impl Reasons {
    /// Nothing is read yet.
    pub fn new() -> Self {
        Self {
            symbols: Symbols::new("/proc/kallsyms", "/proc/modules"),
            known: HashMap::new(),
        }
    }

    /// Why a thread was off its CPU; `detail` as in the record, `kernel` its frames, innermost first.
    pub fn off_cpu(&mut self, detail: u64, kernel: &[u64]) -> &'static str {
        match detail & off::WHY {
            off::PREEMPTED => return "runqueue",
            off::FUTEX => return "lock",
            _ => {}
        }
        self.learn(kernel);
        let mut meanings = kernel
            .iter()
            .filter_map(|address| self.known.get(address).copied().flatten());
        meanings.next().unwrap_or(OTHER)
    }

    /// How many frames an interrupt has, if there is one.
    pub fn interrupt(&mut self, kernel: &[u64]) -> Option<usize> {
        self.learn(kernel);
        let is_entry = |address: &u64| self.known.get(address).copied().flatten() == Some(INTERRUPT);
        kernel.iter().position(is_entry).map(|at| at + 1)
    }

    fn learn(&mut self, kernel: &[u64]) {
        let new: Vec<u64> = kernel
            .iter()
            .copied()
            .filter(|a| !self.known.contains_key(a))
            .collect();
        if self.known.len() + new.len() > REMEMBERED {
            self.known.clear();
        }
        for (address, function) in new.iter().zip(self.symbols.functions(&new)) {
            self.known.insert(*address, meaning(&function));
        }
    }

    /// Gives the table of symbols back when it has not been needed for a while.
    pub fn rest(&mut self) {
        self.symbols.rest();
    }
}

/// What kind of lock was waited for.
pub const fn lock(detail: u64) -> &'static str {
    if detail & off::WHY == off::FUTEX {
        "futex"
    } else if detail & contention::MUTEX != 0 {
        "mutex"
    } else if detail & contention::RT != 0 {
        "rt_mutex"
    } else if detail & contention::READ != 0 {
        "rwsem for reading"
    } else if detail & contention::WRITE != 0 {
        "rwsem for writing"
    } else {
        "semaphore"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_function_that_tells_is_the_reason() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(
            file.path(),
            "0000000000001000 T schedule\n0000000000002000 t io_schedule\n0000000000003000 T ext4_sync_file\n\
             0000000000004000 T rwsem_down_read_slowpath\n0000000000005000 T anon_pipe_read\n0000000000006000 T vfs_read\n\
             0000000000007000 T tcp_recvmsg_locked\n0000000000008000 T sk_wait_data\n0000000000009000 T ep_poll\n\
             000000000000a000 T do_nanosleep\n",
        )
        .unwrap();
        let mut reasons = Reasons {
            symbols: Symbols::new(file.path(), "/nonexistent"),
            ..Reasons::new()
        };
        for (stack, reason) in [
            (&[0x1004, 0x2004, 0x3004][..], "disk"),
            (&[0x1004, 0x4004, 0x3004], "lock"),
            (&[0x1004, 0x5004, 0x6004], "pipe"),
            (&[0x1004, 0x8004, 0x7004], "network"),
            (&[0x1004, 0x9004], "poll"),
            (&[0x1004, 0xa004], "sleep"),
            (&[0x1004, 0x6004], "other"),
            (&[], "other"),
        ] {
            for _ in 0..2 {
                assert_eq!(reasons.off_cpu(off::BLOCKED, stack), reason, "{stack:x?}");
            }
            assert_eq!(reasons.off_cpu(off::PREEMPTED, stack), "runqueue");
            assert_eq!(reasons.off_cpu(off::FUTEX | 7, stack), "lock");
        }
    }

    #[test]
    fn an_interrupt_ends_where_it_began() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let symbols = "0000000000001000 T hrtimer_wakeup\n0000000000002000 T asm_sysvec_apic_timer_interrupt\n\
                       0000000000003000 T vfs_read\n";
        std::fs::write(file.path(), symbols).unwrap();
        let mut reasons = Reasons {
            symbols: Symbols::new(file.path(), "/nonexistent"),
            ..Reasons::new()
        };
        assert_eq!(reasons.interrupt(&[0x1004, 0x2004, 0x3004]), Some(2));
        assert_eq!(reasons.interrupt(&[0x1004, 0x3004]), None);
    }

    #[test]
    fn kinds_of_locks() {
        assert_eq!(lock(off::FUTEX), "futex");
        assert_eq!(lock(contention::MUTEX | contention::SPIN), "mutex");
        assert_eq!(lock(contention::PERCPU | contention::READ), "rwsem for reading");
        assert_eq!(lock(contention::WRITE), "rwsem for writing");
        assert_eq!(lock(0), "semaphore");
    }
}
