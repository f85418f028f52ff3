//! The system calls of the agent: the one list of which filter and profile are made.

/// When a call is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// At any time.
    Always,
    /// While stacks are taken: CPUs come, and the reader of symbols is a process of its own, which gives up more than the agent.
    Stacks,
    /// While other network namespaces are looked at.
    Namespaces,
    /// At the start alone, before the filter is there; by the container's runtime as well, on its way to the agent.
    Start,
}

/// A system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// As the kernel calls it.
    pub name: &'static str,
    /// Its number here; `None` where this architecture has none.
    pub number: Option<i64>,
    /// When it is made.
    pub when: When,
}

/// The socket families that the agent has use for: AF_UNIX, AF_INET, AF_INET6, AF_NETLINK. `socket` is for these alone.
pub const FAMILIES: [i32; 4] = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];

/// The call that [`FAMILIES`] bounds.
pub const BOUNDED: &str = "socket";

macro_rules! calls {
    ($when:ident: $($id:ident)*) => {
        [$((stringify!($id), Some(libc::$id), When::$when)),*]
    };
}

/// Calls that newer architectures have no more.
macro_rules! old {
    ($when:ident: $($id:ident)*) => {[$({
        #[cfg(target_arch = "x86_64")]
        let number = Some(libc::$id);
        #[cfg(not(target_arch = "x86_64"))]
        let number = None;
        (stringify!($id), number, When::$when)
    }),*]};
}

/// All of them.
pub fn all() -> Vec<Call> {
    let files = calls!(Always:
        SYS_read SYS_write SYS_readv SYS_writev SYS_pread64 SYS_pwrite64 SYS_preadv SYS_pwritev SYS_preadv2 SYS_pwritev2
        SYS_openat SYS_openat2 SYS_close SYS_close_range SYS_lseek SYS_fstat SYS_newfstatat SYS_statx SYS_statfs SYS_fstatfs
        SYS_faccessat SYS_faccessat2 SYS_readlinkat SYS_getdents64 SYS_getcwd SYS_chdir SYS_fchdir SYS_mkdirat SYS_unlinkat
        SYS_renameat SYS_renameat2 SYS_linkat SYS_symlinkat SYS_ftruncate SYS_fallocate SYS_fsync SYS_fdatasync
        SYS_sync_file_range SYS_syncfs SYS_flock SYS_fcntl SYS_ioctl SYS_dup SYS_dup3 SYS_pipe2 SYS_umask SYS_fchmod
        SYS_fchmodat SYS_fchown SYS_fchownat SYS_utimensat SYS_copy_file_range SYS_sendfile SYS_splice SYS_fadvise64
        SYS_readahead SYS_inotify_init1 SYS_inotify_add_watch SYS_inotify_rm_watch
    );
    let waiting = calls!(Always:
        SYS_ppoll SYS_pselect6 SYS_epoll_create1 SYS_epoll_ctl SYS_epoll_pwait SYS_epoll_pwait2 SYS_eventfd2
        SYS_timerfd_create SYS_timerfd_settime SYS_timerfd_gettime SYS_signalfd4 SYS_futex SYS_futex_waitv
        SYS_nanosleep SYS_clock_nanosleep SYS_clock_gettime SYS_clock_getres SYS_gettimeofday SYS_restart_syscall
    );
    let memory = calls!(Always:
        SYS_mmap SYS_munmap SYS_mprotect SYS_mremap SYS_madvise SYS_brk SYS_mincore SYS_msync SYS_membarrier
    );
    let network = calls!(Always:
        SYS_socket SYS_socketpair SYS_bind SYS_connect SYS_listen SYS_accept SYS_accept4 SYS_getsockname SYS_getpeername
        SYS_getsockopt SYS_setsockopt SYS_sendto SYS_recvfrom SYS_sendmsg SYS_recvmsg SYS_sendmmsg SYS_recvmmsg
        SYS_shutdown
    );
    // Threads are made with all signals blocked: what glibc does there must not be refused by a signal.
    let threads = calls!(Always:
        SYS_clone SYS_clone3 SYS_exit SYS_exit_group SYS_set_tid_address SYS_set_robust_list SYS_get_robust_list SYS_rseq
        SYS_gettid SYS_getpid SYS_getppid SYS_getuid SYS_geteuid SYS_getgid SYS_getegid SYS_getresuid SYS_getresgid
        SYS_getgroups SYS_getpgid SYS_getsid SYS_capget SYS_prctl SYS_prlimit64 SYS_getrusage SYS_times SYS_sysinfo
        SYS_uname SYS_getrandom SYS_getcpu SYS_sched_yield SYS_sched_getaffinity SYS_sched_setaffinity SYS_sched_getparam
        SYS_sched_getscheduler SYS_getpriority SYS_setpriority SYS_tgkill SYS_tkill SYS_kill SYS_wait4 SYS_waitid
        SYS_rt_sigaction SYS_rt_sigprocmask SYS_rt_sigreturn SYS_rt_sigpending SYS_rt_sigsuspend SYS_rt_sigtimedwait
        SYS_sigaltstack SYS_getitimer SYS_setitimer
    );
    let kernel = calls!(Always: SYS_bpf);
    let old = old!(Always:
        SYS_open SYS_creat SYS_stat SYS_lstat SYS_access SYS_readlink SYS_getdents SYS_mkdir SYS_rmdir SYS_unlink SYS_rename
        SYS_link SYS_symlink SYS_chmod SYS_chown SYS_lchown SYS_dup2 SYS_pipe SYS_poll SYS_select SYS_epoll_create
        SYS_epoll_wait SYS_eventfd SYS_signalfd SYS_inotify_init SYS_time SYS_getrlimit SYS_setrlimit SYS_getpgrp
        SYS_arch_prctl SYS_alarm SYS_pause
    );
    let stacks = calls!(Stacks: SYS_execve SYS_pidfd_open SYS_pidfd_send_signal SYS_perf_event_open SYS_seccomp SYS_capset);
    let old_stacks = old!(Stacks: SYS_vfork SYS_fork);
    let namespaces = calls!(Namespaces: SYS_setns);
    let start = calls!(Start:
        SYS_setuid SYS_setgid SYS_setgroups SYS_setresuid SYS_setresgid SYS_setsid SYS_setpgid
        SYS_truncate
    );
    let told = files
        .into_iter()
        .chain(waiting)
        .chain(memory)
        .chain(network)
        .chain(threads)
        .chain(kernel)
        .chain(old)
        .chain(stacks)
        .chain(old_stacks)
        .chain(namespaces)
        .chain(start);
    told.map(|(name, number, when)| Call {
        name: bare(name),
        number,
        when,
    })
    .collect()
}

/// What the process that reads symbols has use for: it opens, reads and maps files, and answers.
const READER: &[&str] = &[
    "read",
    "write",
    "readv",
    "writev",
    "pread64",
    "preadv",
    "openat",
    "openat2",
    "open",
    "close",
    "lseek",
    "fstat",
    "stat",
    "lstat",
    "newfstatat",
    "statx",
    "statfs",
    "fstatfs",
    "access",
    "faccessat",
    "faccessat2",
    "readlink",
    "readlinkat",
    "getdents64",
    "getcwd",
    "fcntl",
    "ioctl",
    "dup",
    "poll",
    "ppoll",
    "fadvise64",
    "readahead",
    "mmap",
    "munmap",
    "mprotect",
    "mremap",
    "madvise",
    "brk",
    "mincore",
    "futex",
    "exit",
    "exit_group",
    "restart_syscall",
    "rt_sigaction",
    "rt_sigprocmask",
    "rt_sigreturn",
    "sigaltstack",
    "tgkill",
    "getpid",
    "gettid",
    "getuid",
    "geteuid",
    "getrandom",
    "clock_gettime",
    "clock_nanosleep",
    "nanosleep",
    "gettimeofday",
    "sched_yield",
    "sched_getaffinity",
    "sysinfo",
    "uname",
    "getrusage",
    "prlimit64",
    "rseq",
    "set_robust_list",
];

/// Those of the process that reads symbols.
pub fn reader() -> Vec<Call> {
    all()
        .into_iter()
        .filter(|call| READER.contains(&call.name))
        .collect()
}

/// What is plainly hostile: whoever asks for it has taken the agent over, and it ends at once.
pub fn hostile() -> Vec<Call> {
    let told = calls!(Always:
        SYS_ptrace SYS_process_vm_writev SYS_kexec_load SYS_kexec_file_load SYS_init_module SYS_finit_module
        SYS_delete_module SYS_reboot SYS_pivot_root SYS_mount SYS_move_mount SYS_fsmount SYS_open_tree SYS_chroot SYS_swapon
        SYS_swapoff SYS_acct SYS_settimeofday SYS_clock_settime SYS_sethostname SYS_setdomainname SYS_open_by_handle_at
    );
    let old = old!(Always: SYS_iopl SYS_ioperm);
    told.into_iter()
        .chain(old)
        .map(|(name, number, when)| Call {
            name: bare(name),
            number,
            when,
        })
        .collect()
}

/// The name of a call of this architecture, as far as it is in one of the lists; else its number.
pub fn name(number: i64) -> String {
    let known = all()
        .into_iter()
        .chain(hostile())
        .find(|call| call.number == Some(number));
    known.map_or_else(|| format!("number {number}"), |call| call.name.to_owned())
}

fn bare(constant: &'static str) -> &'static str {
    constant.strip_prefix("SYS_").unwrap_or(constant)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn each_is_listed_once_and_the_hostile_are_not_allowed() {
        let mut seen = BTreeSet::new();
        for call in all().into_iter().chain(hostile()) {
            assert!(seen.insert(call.name), "{} is there twice", call.name);
        }
        for call in ["ptrace", "mount", "kexec_load", "finit_module"] {
            assert!(
                hostile().iter().any(|c| c.name == call && c.number.is_some()),
                "{call}"
            );
        }
        for call in [
            "unshare",
            "io_uring_setup",
            "keyctl",
            "userfaultfd",
            "memfd_secret",
        ] {
            assert!(!seen.contains(call), "{call} is of no use to the agent");
        }
    }

    #[test]
    fn who_reads_symbols_can_do_no_more_than_read() {
        let names: BTreeSet<&str> = reader().iter().map(|call| call.name).collect();
        assert_eq!(names.len(), READER.len(), "one of them is not in the whole list");
        for call in [
            "socket",
            "connect",
            "bpf",
            "execve",
            "clone",
            "clone3",
            "kill",
            "unlinkat",
            "renameat2",
        ] {
            assert!(!names.contains(call), "{call}");
        }
    }

    #[test]
    fn numbers_are_told_by_name() {
        assert_eq!(name(libc::SYS_ptrace), "ptrace");
        assert_eq!(name(libc::SYS_openat), "openat");
        assert_eq!(name(libc::SYS_keyctl), format!("number {}", libc::SYS_keyctl));
    }
}
