//! The programs of probe `profile`.

use crate::bpf::fields::Group;
use crate::bpf::{Hook, Spec};
use agent_common::account::program;
use agent_common::profile::sample;

pub(super) const NEEDS: &[Group] = &[Group::Task, Group::Registers];

pub(super) static EXEC: Spec = Spec {
    name: "profile_exec",
    probe: "profile",
    account: program::PROFILE_EXEC,
    hook: Hook::TpBtf("sched_process_exec"),
    needs: NEEDS,
    required: true,
    remedy: "without it a process that becomes another program would be unwound by the tables of the old one",
};
pub(super) static EXIT: Spec = Spec {
    name: "profile_exit",
    probe: "profile",
    account: program::PROFILE_EXIT,
    hook: Hook::TpBtf("sched_process_exit"),
    needs: NEEDS,
    required: true,
    remedy: "without it tables of processes that are gone would fill the memory",
};
pub(super) static CPU: Spec = Spec {
    name: "profile_cpu",
    probe: "profile",
    account: program::PROFILE_CPU,
    hook: Hook::PerfClock,
    needs: NEEDS,
    required: true,
    remedy: "needs x86-64 or aarch64, Linux 5.17 and CAP_PERFMON; kernel.perf_event_paranoid may forbid it",
};

/// Those of other kinds of sample, which are off unless asked for.
pub(super) static MORE: &[(u8, Spec)] = &[
    (
        sample::FAULT,
        Spec {
            name: "profile_fault",
            probe: "profile",
            account: program::PROFILE_FAULT,
            hook: Hook::PerfFaults,
            needs: NEEDS,
            required: true,
            remedy: "needs x86-64 or aarch64, Linux 5.17 and CAP_PERFMON; kernel.perf_event_paranoid may forbid it",
        },
    ),
    (
        sample::BLOCK_IO,
        Spec {
            name: "profile_block_done",
            probe: "profile",
            account: program::PROFILE_BLOCK_DONE,
            hook: Hook::TpBtf("block_rq_complete"),
            needs: &[Group::Block],
            required: true,
            remedy: "needs a kernel with BTF",
        },
    ),
    (
        sample::DROP,
        Spec {
            name: "profile_drop",
            probe: "profile",
            account: program::PROFILE_DROP,
            hook: Hook::TpBtf("kfree_skb"),
            needs: &[Group::Task, Group::Registers, Group::Sock, Group::Skb, Group::Dev],
            required: true,
            remedy: "needs a kernel with BTF; reasons came with 5.17",
        },
    ),
    (
        sample::RETRANSMIT,
        Spec {
            name: "profile_retransmit",
            probe: "profile",
            account: program::PROFILE_RETRANSMIT,
            hook: Hook::TpBtf("tcp_retransmit_skb"),
            needs: &[Group::Task, Group::Registers, Group::Sock, Group::Tcp],
            required: true,
            remedy: "needs a kernel with BTF",
        },
    ),
];

/// Who asks for disk I/O: the best that this kernel has.
pub(super) static BLOCK: [Spec; 2] = [
    Spec {
        name: "profile_block",
        probe: "profile",
        account: program::PROFILE_BLOCK,
        hook: Hook::TpBtf("block_io_start"),
        needs: BLOCK_NEEDS,
        required: false,
        remedy: "before 6.5 the stack is taken when the request goes to the driver",
    },
    Spec {
        name: "profile_block_issue",
        probe: "profile",
        account: program::PROFILE_BLOCK,
        hook: Hook::TpBtf("block_rq_issue"),
        needs: BLOCK_NEEDS,
        required: true,
        remedy: "needs a kernel with BTF",
    },
];
const BLOCK_NEEDS: &[Group] = &[Group::Task, Group::Registers, Group::Block];
