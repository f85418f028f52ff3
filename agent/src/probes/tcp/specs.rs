//! The programs of probe `tcp`.

use crate::bpf::fields::Group;
use crate::bpf::{Engine, Hook, Spec, sys};
use agent_common::account::program;
use std::sync::Arc;

const SOCKETS: &[Group] = &[Group::Sock, Group::Tcp];
const SOCKETS_AND_TASKS: &[Group] = &[Group::Sock, Group::Tcp, Group::Task];

pub(super) const fn spec(
    name: &'static str,
    account: usize,
    hook: Hook,
    needs: &'static [Group],
    required: bool,
    remedy: &'static str,
) -> Spec {
    Spec {
        name,
        probe: "tcp",
        account,
        hook,
        needs,
        required,
        remedy,
    }
}

/// RTT source of choice.
pub static RTT: Spec = spec(
    "tcp_probe",
    program::TCP_PROBE,
    Hook::TpBtf("tcp_probe"),
    SOCKETS_AND_TASKS,
    true,
    "needs a kernel with BTF (CONFIG_DEBUG_INFO_BTF) and the tcp_probe tracepoint (4.16)",
);

/// The others, in the order of attaching: those that find old sockets first, then those that count.
pub static SPECS: [Spec; 6] = [
    spec(
        "tcp_adopt",
        program::TCP_ADOPT,
        Hook::IterFiles,
        SOCKETS_AND_TASKS,
        false,
        "without it connections older than the agent are adopted at their first packet, without a process",
    ),
    spec(
        "tcp_state",
        program::TCP_STATE,
        Hook::TpBtf("inet_sock_set_state"),
        SOCKETS_AND_TASKS,
        true,
        "needs a kernel with BTF and the inet_sock_set_state tracepoint (4.16)",
    ),
    spec(
        "tcp_retransmit",
        program::TCP_RETRANSMIT,
        Hook::TpBtf("tcp_retransmit_skb"),
        SOCKETS,
        true,
        "needs a kernel with BTF and the tcp_retransmit_skb tracepoint (4.15)",
    ),
    spec(
        "tcp_synack",
        program::TCP_SYNACK,
        Hook::TpBtf("tcp_retransmit_synack"),
        SOCKETS,
        false,
        "without it retransmitted SYN-ACKs are not counted",
    ),
    spec(
        "tcp_send_reset",
        program::TCP_SEND_RESET,
        Hook::TpBtf("tcp_send_reset"),
        &[Group::Sock, Group::Tcp, Group::Skb, Group::Dev],
        false,
        "without it sent resets are not counted",
    ),
    spec(
        "tcp_receive_reset",
        program::TCP_RECEIVE_RESET,
        Hook::TpBtf("tcp_receive_reset"),
        SOCKETS,
        false,
        "without it received resets are not counted",
    ),
];

/// The sweep: over the tracked sockets, and over all open files where the kernel refuses iterators over maps.
pub static SWEEP: [Spec; 2] = [
    spec(
        "tcp_sweep",
        program::TCP_SWEEP,
        Hook::IterMap("CONNECTIONS"),
        SOCKETS,
        false,
        "tcp_sweep_files stands in for it",
    ),
    spec(
        "tcp_sweep_files",
        program::TCP_SWEEP,
        Hook::IterFiles,
        SOCKETS,
        false,
        "without it silent connections report at their close only, and long ones are not told",
    ),
];

/// That of the two which works here.
pub fn sweep(engine: &Engine) -> Option<Arc<sys::Iterator>> {
    SWEEP.iter().find_map(|spec| engine.iterator(spec.name))
}

/// Accept-queue wait, where the kernel lets functions be traced: since 6.10, and before.
pub static ACCEPT: [Spec; 2] = [
    spec(
        "tcp_accept2",
        program::TCP_ACCEPT,
        Hook::Fexit("inet_csk_accept"),
        SOCKETS,
        false,
        "without it geophone_tcp_accept_seconds is empty",
    ),
    spec(
        "tcp_accept4",
        program::TCP_ACCEPT,
        Hook::Fexit("inet_csk_accept"),
        SOCKETS,
        false,
        "without it geophone_tcp_accept_seconds is empty",
    ),
];

/// What stands in for the others on a kernel without types.
pub static FALLBACK: Spec = spec(
    "tcp_sockops",
    program::TCP_SOCKOPS,
    Hook::SockOps,
    &[],
    false,
    "needs a cgroup2 hierarchy, mounted or mountable",
);
