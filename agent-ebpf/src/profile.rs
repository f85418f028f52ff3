//! Probe `profile`: where the time goes. See agent/src/probes/profile.rs for what it exports.

mod block;
mod fault;
mod locks;
mod loss;
mod off_cpu;
mod python;
mod unwind;
mod waker;

use crate::account::{self, bump};
use crate::emit::{emit_made, header};
use crate::kernel::{self, Ptr};
use crate::settings::{AARCH64, NCPU};
use agent_common::account::{Account, program, reason};
use agent_common::profile::{
    FRAMES, KERNEL_FRAMES, ProcessKey, StackHead, USER_FRAMES, end, sample, thinning,
};
use agent_common::tcp::SubjectKey;
use agent_common::wire::kind;
use aya_ebpf::{
    EbpfContext as _,
    bindings::{BPF_F_USER_STACK, bpf_perf_event_data},
    helpers::{
        bpf_get_current_cgroup_id, bpf_get_current_pid_tgid, bpf_get_prandom_u32, bpf_get_smp_processor_id,
        bpf_ktime_get_boot_ns,
        generated::{bpf_get_current_task_btf, bpf_get_stack, bpf_task_pt_regs},
    },
    macros::{btf_tracepoint, map, perf_event},
    maps::{Array, PerCpuArray},
    programs::{BtfTracePointContext, PerfEventContext},
};
use core::mem::MaybeUninit;
pub use unwind::Start;
use unwind::{PROCESSES, process};

/// A record while it is made: too large for the stack.
#[repr(C)]
pub struct Stack {
    head: StackHead,
    frames: [u64; FRAMES],
    /// For the walk through Python's frames; not sent.
    python: python::Walk,
    /// When a record of this place last woke the reader; not sent.
    woke: u64,
}

/// One for each kind of sample: a program does not interrupt itself, but the clock interrupts all others.
#[map]
static PROFILE_STACK: PerCpuArray<Stack> = PerCpuArray::with_max_entries(sample::COUNT as u32 + 1, 0);

/// The reader is woken so often at most, ns: a wake-up takes 5 µs here and some 20 there. Less than the time between two ticks
/// of the usual rates.
const WAKE_UPS: u64 = 2_000_000;
const MMAPABLE: u32 = 1 << 10;
const WORD: usize = size_of::<u64>();
/// Privilege level in `cs`: not zero = user mode.
const USER_MODE: u64 = 3;

/// What a stack is taken for.
pub struct Sample {
    /// Of [`program`].
    pub program: usize,
    /// Of [`sample`].
    pub kind: u8,
    /// See [`StackHead::value`].
    pub value: u64,
    /// See [`StackHead::detail`].
    pub detail: u64,
    /// Where the user's code was interrupted; `None` = the kernel was running.
    pub user: Option<Start>,
    /// Whose it is; `None` = the running thread's. Somebody else's has no user stack: who sent a packet is not here where it
    /// is dropped.
    pub whose: Option<(SubjectKey, [u8; 16])>,
}

/// Events of each kind so far in this second, row `kind * NCPU + cpu`; userspace sets them back.
#[map]
static PROFILE_EVENTS: Array<u64> = Array::with_max_entries(sample::COUNT as u32, MMAPABLE);

/// Whether an event is sampled, see [`thinning`]: it stands for `1 << n`.
#[inline(always)]
pub fn chance(kind: u8) -> Option<u32> {
    // SAFETY: no preconditions.
    let cpu = unsafe { bpf_get_smp_processor_id() } as u32;
    let events = PROFILE_EVENTS.get_ptr_mut(u32::from(kind) * NCPU.load() + cpu)?;
    // SAFETY: valid for the program's run. Whoever comes between the load and the store takes the same number: no harm.
    let n = unsafe {
        let n = events.read_volatile();
        events.write_volatile(n + 1);
        n
    };
    let shift = thinning(n) & 63;
    // SAFETY: no preconditions.
    let dice = unsafe { bpf_get_prandom_u32() } as u64;
    (dice & ((1 << shift) - 1) == 0).then_some(shift)
}

/// Ticks of a CPU's clock.
#[perf_event]
pub fn profile_cpu(ctx: PerfEventContext) -> u32 {
    let Some(account) = account::of(program::PROFILE_CPU) else {
        return 0;
    };
    bump(&mut account.seen);
    if bpf_get_current_pid_tgid() >> 32 == 0 {
        // Idle.
        bump(&mut account.filtered);
        return 0;
    }
    let (period, user) = registers(&ctx);
    let sample = Sample {
        program: program::PROFILE_CPU,
        kind: sample::CPU,
        value: period,
        detail: 0,
        user,
        whose: None,
    };
    take(account, ctx.as_ptr(), sample);
    0
}

/// How many events a run stands for, and where the user's code was, if it was that.
#[inline(always)]
fn registers(ctx: &PerfEventContext) -> (u64, Option<Start>) {
    if AARCH64.load() != 0 {
        let mut start = MaybeUninit::uninit();
        let period = registers_of_aarch64(ctx.as_ptr().cast(), &mut start);
        // SAFETY: all of it was written.
        let start = unsafe { start.assume_init() };
        return (period, (start.ip != 0).then_some(start));
    }
    let data: *const bpf_perf_event_data = ctx.as_ptr().cast_const().cast();
    // SAFETY: the context is valid; volatile keeps the accesses apart and of the width that the verifier wants.
    let (code, period, start) = unsafe {
        (
            (&raw const (*data).regs.cs).read_volatile(),
            (&raw const (*data).sample_period).read_volatile(),
            Start {
                ip: (&raw const (*data).regs.rip).read_volatile(),
                sp: (&raw const (*data).regs.rsp).read_volatile(),
                fp: (&raw const (*data).regs.rbp).read_volatile(),
                lr: 0,
            },
        )
    };
    (period, (code & USER_MODE != 0).then_some(start))
}

/// The same of an event on aarch64, where 31 registers, `sp`, `pc` and `pstate` come before the period; the instruction pointer
/// is zero if the kernel was running. A function of its own: LLVM would make one load of two, at an offset that depends, and
/// the context is not read so.
#[inline(never)]
fn registers_of_aarch64(data: *const u64, start: &mut MaybeUninit<Start>) -> u64 {
    /// Exception level in `pstate`: zero = user mode.
    const LEVEL: u64 = 0xf;
    // SAFETY: as in [`registers`].
    unsafe {
        let start = start.write(Start {
            fp: data.add(29).read_volatile(),
            lr: data.add(30).read_volatile(),
            sp: data.add(31).read_volatile(),
            ip: data.add(32).read_volatile(),
        });
        if data.add(33).read_volatile() & LEVEL != 0 {
            start.ip = 0;
        }
        data.add(34).read_volatile()
    }
}

/// Tells the stack of what runs here; the account gets exactly one outcome.
#[inline(always)]
pub fn take(account: &mut Account, context: *mut core::ffi::c_void, sample: Sample) {
    if let Some((stack, len)) = make(account, context, sample) {
        // Until userspace has looked at the process its stacks are short, and others would follow this one.
        let unknown = stack.head.end == end::UNKNOWN_PROCESS || stack.head.end == end::NO_MAPPING;
        let urgent = unknown && stack.head.time.wrapping_sub(stack.woke) > WAKE_UPS;
        if urgent {
            stack.woke = stack.head.time;
        }
        emit_made(account, core::ptr::from_ref(stack).cast(), len, urgent);
    }
}

/// Makes the record; `None`: it could not be made, and the account has its outcome.
#[inline(always)]
pub fn make(
    account: &mut Account,
    context: *mut core::ffi::c_void,
    sample: Sample,
) -> Option<(&'static mut Stack, u32)> {
    let Some(stack) = PROFILE_STACK.get_ptr_mut(u32::from(sample.kind)) else {
        bump(&mut account.dropped[reason::MAP_FULL]);
        return None;
    };
    // SAFETY: a non-null map value stays valid for the program's run, and no other program of this CPU uses it.
    let stack = unsafe { &mut *stack };
    // SAFETY: the helper has no preconditions.
    let task = unsafe { bpf_get_current_task_btf() } as Ptr;
    let pids = bpf_get_current_pid_tgid();
    let tgid = (pids >> 32) as u32;
    let head = &mut stack.head;
    head.kernel = 0;
    head.user = 0;
    head.python = 0;
    head.python_end = 0;
    head.end = end::COMPLETE;
    let start = match sample.user {
        Some(start) => start,
        None => {
            // SAFETY: the buffer has room for so many bytes.
            let bytes = unsafe {
                bpf_get_stack(
                    context,
                    (&raw mut stack.frames).cast(),
                    (KERNEL_FRAMES * WORD) as u32,
                    skip(sample.kind),
                )
            };
            if bytes > 0 {
                head.kernel = (bytes as usize / WORD) as u16;
            }
            // SAFETY: the task is the running one.
            let regs = unsafe { bpf_task_pt_regs(task as *mut _) } as Ptr;
            let (ip, sp, fp, lr) = kernel::registers(regs);
            Start { ip, sp, fp, lr }
        }
    };
    if sample.whose.is_none() && !kernel::is_kernel_thread(task) {
        match process(tgid, kernel::task_start(task)) {
            Some(process) => {
                python::walk(
                    stack,
                    process.python,
                    process.layout,
                    kernel::thread_pointer(task),
                );
                unwind::walk(stack, start, process);
                python::mark(stack);
            }
            None => by_frame_pointers(stack, context),
        }
    }
    let head = &mut stack.head;
    head.header = header::<StackHead>(kind::STACK, sample.program);
    // SAFETY: no preconditions.
    unsafe {
        head.time = bpf_ktime_get_boot_ns();
        head.subject.cgroup = bpf_get_current_cgroup_id();
        head.cpu = bpf_get_smp_processor_id() as u32;
    }
    match sample.whose {
        None => {
            head.subject = SubjectKey {
                cgroup: head.subject.cgroup,
                start: kernel::task_start(task),
                tgid,
                netns: 0,
            };
            head.tid = pids as u32;
            head.comm = kernel::task_comm(task);
            head.thread = kernel::current_comm();
        }
        Some((subject, comm)) => {
            head.subject = subject;
            head.tid = 0;
            head.comm = comm;
            head.thread = [0; 16];
        }
    }
    head.value = sample.value;
    head.detail = sample.detail;
    head.sample = sample.kind;
    let frames = head.kernel as usize + 2 * head.python as usize + head.user as usize;
    if frames >= FRAMES {
        bump(&mut account.dropped[reason::MAP_FULL]);
        return None;
    }
    let len = size_of::<StackHead>() + frames * WORD;
    head.header.len = len as u16;
    Some((stack, len as u32))
}

/// Frames that are our own: at a tracepoint the program and what has called it. An event has registers, and they are from
/// before.
#[inline(always)]
fn skip(kind: u8) -> u64 {
    if matches!(kind, sample::CPU | sample::FAULT) {
        0
    } else {
        2
    }
}

/// What the kernel makes of a process that nobody has looked at yet: right if it was built with frame pointers.
#[inline(always)]
fn by_frame_pointers(stack: &mut Stack, context: *mut core::ffi::c_void) {
    stack.head.end = end::UNKNOWN_PROCESS;
    let kernel = stack.head.kernel as usize;
    if kernel > KERNEL_FRAMES {
        return;
    }
    // SAFETY: behind `kernel` frames there is room for those of the user.
    let bytes = unsafe {
        bpf_get_stack(
            context,
            (&raw mut stack.frames).cast::<u64>().add(kernel).cast(),
            (USER_FRAMES * WORD) as u32,
            BPF_F_USER_STACK as u64,
        )
    };
    if bytes > 0 {
        stack.head.user = (bytes as usize / WORD) as u16;
    }
}

/// A process has become another program: what was known of its mappings is void.
#[btf_tracepoint(function = "sched_process_exec")]
pub fn profile_exec(ctx: BtfTracePointContext) -> i32 {
    forget(ctx.arg(0), program::PROFILE_EXEC, false)
}

/// A thread has ended; with the first one the process has.
#[btf_tracepoint(function = "sched_process_exit")]
pub fn profile_exit(ctx: BtfTracePointContext) -> i32 {
    forget(ctx.arg(0), program::PROFILE_EXIT, true)
}

#[inline(always)]
fn forget(task: Ptr, program: usize, leader_only: bool) -> i32 {
    let Some(account) = account::of(program) else {
        return 0;
    };
    bump(&mut account.seen);
    let tgid = kernel::task_tgid(task);
    let gone = !leader_only || kernel::task_tid(task) == tgid;
    if gone && PROCESSES.remove(ProcessKey { tgid }).is_ok() {
        bump(&mut account.aggregated);
    } else {
        bump(&mut account.filtered);
    }
    0
}
