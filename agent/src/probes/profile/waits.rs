//! Programs that follow threads off their CPU and waiting for locks.

use super::Options;
use super::specs::NEEDS;
use crate::bpf::fields::Group;
use crate::bpf::sys::MappedArray;
use crate::bpf::{Engine, Hook, Spec, State};
use crate::error::Result;
use agent_common::account::program;
use agent_common::profile::{limit, sample};
use std::time::Duration;

static ON: Spec = Spec {
    name: "profile_on",
    probe: "profile",
    account: program::PROFILE_ON,
    hook: Hook::TpBtf("sched_exit_tp"),
    needs: NEEDS,
    required: false,
    remedy: "came with Linux 6.15; before it a kprobe does the same",
};
static ON_KPROBE: Spec = Spec {
    name: "profile_on_kprobe",
    probe: "profile",
    account: program::PROFILE_ON,
    hook: Hook::Kprobe("finish_task_switch"),
    needs: NEEDS,
    required: true,
    remedy: "needs Linux 6.15, or a kernel with CONFIG_KPROBES; threads off their CPU are not seen",
};
static OFF: Spec = Spec {
    name: "profile_off",
    probe: "profile",
    account: program::PROFILE_OFF,
    hook: Hook::TpBtf("sched_switch"),
    needs: &[Group::Task],
    required: true,
    remedy: "needs a kernel with BTF; threads off their CPU are not seen",
};
static WAKER: Spec = Spec {
    name: "profile_waker",
    probe: "profile",
    account: program::PROFILE_WAKER,
    hook: Hook::TpBtf("sched_waking"),
    needs: NEEDS,
    required: true,
    remedy: "needs a kernel with BTF; waits are seen without who ended them",
};
static LOCKS: [Spec; 2] = [
    Spec {
        name: "profile_lock_end",
        probe: "profile",
        account: program::PROFILE_LOCK_END,
        hook: Hook::TpBtf("contention_end"),
        needs: NEEDS,
        required: true,
        remedy: "came with Linux 5.19; futexes are seen without it",
    },
    Spec {
        name: "profile_lock_begin",
        probe: "profile",
        account: program::PROFILE_LOCK_BEGIN,
        hook: Hook::TpBtf("contention_begin"),
        needs: &[Group::Task],
        required: true,
        remedy: "came with Linux 5.19; futexes are seen without it",
    },
];

/// The way to tell the programs which waits are too short.
pub struct Waits(MappedArray);

impl Waits {
    /// Attaches what is wanted. `None` = nothing is.
    pub fn attach(engine: &mut Engine, options: &Options) -> Result<Option<Self>> {
        let wants = |kind: u8| options.kinds.get(usize::from(kind)) == Some(&true);
        if !wants(sample::OFF_CPU) && !wants(sample::LOCK) {
            return Ok(None);
        }
        // Loading needs the map's descriptor: it goes when all is attached.
        let waits = Self(engine.take_array("PROFILE_LIMITS", 8, limit::COUNT as usize)?);
        waits.limit(options, 0);
        // Without an end no beginning: it would cost and give nothing.
        if engine.attach(&ON) == State::Attached || engine.attach(&ON_KPROBE) == State::Attached {
            // Before there are any waits, so that none is without its waker.
            if options.waker {
                engine.attach(&WAKER);
            }
            engine.attach(&OFF);
        } else {
            engine.leave_off(&OFF, "nobody can be seen to come back to a CPU");
        }
        if wants(sample::LOCK) {
            if engine.attach(&LOCKS[0]) == State::Attached {
                engine.attach(&LOCKS[1]);
            } else {
                engine.leave_off(&LOCKS[1], "the end of waiting for a lock is not to be seen");
            }
        }
        Ok(Some(waits))
    }

    /// Tells the shortest waits of interest, doubled with each level of the governor.
    pub fn limit(&self, options: &Options, level: u32) {
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX) << level.min(10);
        let wants = |kind: u8| options.kinds.get(usize::from(kind)) == Some(&true);
        let (off_cpu, lock) = (nanos(options.off_cpu_threshold), nanos(options.lock_threshold));
        let off_cpu = if wants(sample::OFF_CPU) { off_cpu } else { u64::MAX };
        let lock = if wants(sample::LOCK) { lock } else { u64::MAX };
        for (kind, shortest) in [
            (limit::OFF_CPU, off_cpu),
            (limit::FUTEX, off_cpu.min(lock)),
            (limit::LOCK, lock),
        ] {
            self.0.set_u64(kind as usize, 0, shortest);
        }
    }
}
