//! System calls that somebody else's filter refuses: the profile that a container's runtime puts on it.

use super::host;
use std::io;
use std::sync::OnceLock;

/// What helps where a call is refused.
pub const REMEDY: &str = "a newer runtime lets who has the capabilities make it (docs/security.md tells which); until then give the container \
                          deploy/container/seccomp.json as its profile, or seccompProfile: {type: Unconfined}";

/// Calls that the agent needs and that a filter of somebody else's refuses, by name. It is looked once, when maps are to be made:
/// later the agent has a filter of its own, which counts what it refuses.
pub fn barred() -> &'static [&'static str] {
    static BARRED: OnceLock<Vec<&str>> = OnceLock::new();
    BARRED.get_or_init(|| {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        if !status.lines().any(|line| line == "Seccomp:\t2") {
            return Vec::new();
        }
        // Who lacks the capability is told of that: profiles refuse the call for the same reason, and old kernels would.
        let missing = host::missing_capabilities(host::effective_capabilities());
        // SAFETY: there is no such command, and no memory for it.
        let bpf = || unsafe { libc::syscall(libc::SYS_bpf, -1, std::ptr::null::<u8>(), 0) };
        // SAFETY: there are no such flags, and the kernel looks at them first.
        let perf = || unsafe {
            libc::syscall(
                libc::SYS_perf_event_open,
                std::ptr::null::<u8>(),
                0,
                -1,
                -1,
                libc::c_ulong::MAX,
            )
        };
        let mut out = Vec::new();
        if !missing.contains(&"CAP_BPF") && is_refused(bpf) {
            out.push("bpf");
        }
        if !missing.contains(&"CAP_PERFMON") && is_refused(perf) {
            out.push("perf_event_open");
        }
        out
    })
}

/// The kernel says EINVAL of what makes no sense; who never asks it, something else.
fn is_refused(call: impl FnOnce() -> libc::c_long) -> bool {
    call() < 0
        && matches!(
            io::Error::last_os_error().raw_os_error(),
            Some(libc::EPERM | libc::EACCES | libc::ENOSYS)
        )
}

/// Why a call is refused, for people.
pub fn reason(call: &str) -> String {
    format!("the container's profile of system calls (seccomp) refuses {call}")
}
