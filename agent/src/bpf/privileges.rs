//! Capabilities of all threads, and the signal by which the kernel tells of a refused system call.
//!
//! The kernel knows capabilities by thread and lets none change those of another. So each thread that is there is sent a
//! signal, whose handler gives them up for it; a thread that starts later has those of the one that starts it. (libpsx does
//! the same for C.)

use crate::error::{Error, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The highest capability that a kernel may know; `PR_CAPBSET_DROP` of one that it does not know fails and does no harm.
const CAPABILITIES: u8 = 63;
/// _LINUX_CAPABILITY_VERSION_3.
const VERSION: u32 = 0x2008_0522;
/// `si_code` of a SIGSYS that seccomp has sent.
const SYS_SECCOMP: libc::c_int = 1;
/// System calls have lower numbers than this.
const CALLS: usize = 1024;
/// A thread may be in the kernel, where it takes signals as it comes out.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the handler leaves to each thread; read in it, so it is written before any signal.
static KEEP: AtomicU64 = AtomicU64::new(0);
/// Calls that were refused, by number; the last takes what has a higher one.
static REFUSED: [AtomicU64; CALLS] = [const { AtomicU64::new(0) }; CALLS];

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Sets {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Capabilities of a thread, as masks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Those that it can use at once.
    pub effective: u64,
    /// Those that it may make effective.
    pub permitted: u64,
    /// Those that a program may be given that it starts.
    pub inheritable: u64,
    /// Those that such a program can never have more than.
    pub bounding: u64,
    /// Those that such a program is given.
    pub ambient: u64,
    /// no_new_privs is set.
    pub no_new_privs: bool,
    /// A filter of system calls is there.
    pub filtered: bool,
}

impl Held {
    /// Of a /proc/PID/status.
    fn read(status: &str) -> Self {
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|rest| rest.strip_prefix(':')).map(str::trim)
        };
        let mask = |name| {
            field(name)
                .and_then(|hex| u64::from_str_radix(hex, 16).ok())
                .unwrap_or(0)
        };
        Self {
            effective: mask("CapEff"),
            permitted: mask("CapPrm"),
            inheritable: mask("CapInh"),
            bounding: mask("CapBnd"),
            ambient: mask("CapAmb"),
            no_new_privs: field("NoNewPrivs") == Some("1"),
            filtered: field("Seccomp") == Some("2"),
        }
    }

    /// Anything in one of the sets that can be used, or passed on without the bounding set's help.
    pub fn usable(&self) -> u64 {
        self.effective | self.permitted | self.inheritable | self.ambient
    }
}

/// What each thread of this process holds.
pub fn threads() -> BTreeMap<i32, Held> {
    let tasks = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    tasks
        .filter_map(|task| {
            let id = task.file_name().to_str()?.parse().ok()?;
            // A thread that has just ended has none.
            let status = fs::read_to_string(task.path().join("status")).ok()?;
            Some((id, Held::read(&status)))
        })
        .collect()
}

/// Leaves no more capabilities than these to any thread of this process, and sets no_new_privs for all. Capabilities of the
/// bounding set go as far as this process may take them away; without no_new_privs undone they can be had no more.
///
/// # Errors
///
/// One line: the kernel refuses it, or a thread still has more when some seconds are over.
pub fn keep_only(keep: u64) -> Result<()> {
    KEEP.store(keep, Ordering::SeqCst);
    lower(keep).map_err(|e| Error::new(format_args!("capset: {e}")))?;
    let signal = libc::SIGRTMIN() + 7;
    // For good: whoever takes the signal late must not die of it.
    handle(signal, give_up)?;
    let start = Instant::now();
    // SAFETY: no preconditions.
    let own = unsafe { libc::gettid() };
    let mut clean = false;
    // Each once: of these signals each waits its turn, and one that comes behind the filter would be a refused call.
    let mut sent = BTreeSet::new();
    let left = loop {
        let more = |held: &Held| held.usable() & !keep != 0 || !held.no_new_privs;
        let all = threads();
        let is_told = all.contains_key(&own);
        let left: Vec<i32> = all
            .into_iter()
            .filter(|(_, held)| more(held))
            .map(|(id, _)| id)
            .collect();
        // Twice: a thread that another was just making, which takes no signal meanwhile, may not have been in the list; once
        // that one is done it is there.
        if left.is_empty() && is_told && clean {
            break left;
        }
        if start.elapsed() > PATIENCE {
            // Where the list cannot be read nothing is known of any.
            break if left.is_empty() { vec![own] } else { left };
        }
        clean = left.is_empty() && is_told;
        for thread in left.into_iter().filter(|thread| sent.insert(*thread)) {
            // SAFETY: no memory is involved; a thread that has ended meanwhile is no error, and its number is not given to
            // one of another process within this call's thread group.
            unsafe { libc::syscall(libc::SYS_tgkill, std::process::id(), thread, signal) };
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    if left.is_empty() {
        return Ok(());
    }
    Err(Error::new(format_args!(
        "{} threads keep their capabilities",
        left.len()
    )))
}

/// The same for the thread that calls. Only system calls: it runs in a signal's handler as well.
fn lower(keep: u64) -> io::Result<()> {
    let header = Header {
        version: VERSION,
        pid: 0,
    };
    let mut sets = [Sets::default(); 2];
    // SAFETY: numbers go to the kernel, and two structures of the version that the header names, as large as it asks for.
    unsafe {
        let control = |option: libc::c_int, of: libc::c_int, value: u8| {
            let (of, value, no) = (
                of as libc::c_ulong,
                libc::c_ulong::from(value),
                0 as libc::c_ulong,
            );
            libc::prctl(option, of, value, no, no)
        };
        control(libc::PR_SET_NO_NEW_PRIVS, 1, 0);
        for capability in (0..=CAPABILITIES).filter(|c| keep >> c & 1 == 0) {
            // Both fail for those that the kernel does not know; the first, without SETPCAP, for all.
            control(libc::PR_CAPBSET_DROP, libc::c_int::from(capability), 0);
            control(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_LOWER, capability);
        }
        if libc::syscall(libc::SYS_capget, &raw const header, sets.as_mut_ptr()) != 0 {
            return Err(io::Error::last_os_error());
        }
        for (half, set) in sets.iter_mut().enumerate() {
            let keep = (keep >> (32 * half)) as u32;
            set.effective &= keep;
            set.permitted &= keep;
            set.inheritable &= keep;
        }
        if libc::syscall(libc::SYS_capset, &raw const header, sets.as_ptr()) != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Runs `f` on this thread without some of its effective capabilities, and gives them back.
pub fn without<T>(mask: u64, f: impl FnOnce() -> T) -> T {
    let header = Header {
        version: VERSION,
        pid: 0,
    };
    let mut sets = [Sets::default(); 2];
    // SAFETY: as in `lower`.
    let read = unsafe { libc::syscall(libc::SYS_capget, &raw const header, sets.as_mut_ptr()) } == 0;
    let mut fewer = sets;
    for (half, set) in fewer.iter_mut().enumerate() {
        set.effective &= !((mask >> (32 * half)) as u32);
    }
    let set = |sets: &[Sets; 2]| {
        // SAFETY: as in `lower`; what is permitted stays so.
        unsafe { libc::syscall(libc::SYS_capset, &raw const header, sets.as_ptr()) }
    };
    if read {
        set(&fewer);
    }
    let out = f();
    if read {
        set(&sets);
    }
    out
}

/// Has SIGSYS handled: a system call that the filter refuses is counted and fails with EPERM. To be called before a filter is
/// there, and by each program that is started under one.
///
/// # Errors
///
/// One line: the kernel refuses it.
pub fn handle_refused() -> Result<()> {
    handle(libc::SIGSYS, refused)
}

/// The number under which calls are counted that have a higher one, or of which it is not known.
pub const OTHER: i64 = CALLS as i64 - 1;

/// Counts what another process of ours was refused.
pub fn add_refused(calls: &[(i64, u64)]) {
    for (number, times) in calls {
        let at = usize::try_from(*number).unwrap_or(CALLS).min(CALLS - 1);
        if let Some(count) = REFUSED.get(at) {
            count.fetch_add(*times, Ordering::Relaxed);
        }
    }
}

/// What this process was refused since this was asked last.
pub fn take_refused() -> Vec<(i64, u64)> {
    let counts = REFUSED.iter().map(|count| count.swap(0, Ordering::Relaxed));
    (0..).zip(counts).filter(|(_, count)| *count > 0).collect()
}

/// System calls that were refused, by number: how often.
pub fn refused_calls() -> impl Iterator<Item = (i64, u64)> {
    let counts = REFUSED.iter().map(|count| count.load(Ordering::Relaxed));
    (0..).zip(counts).filter(|(_, count)| *count > 0)
}

type Handler = extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void);

/// Sets a handler.
fn handle(signal: libc::c_int, handler: Handler) -> Result<()> {
    // SAFETY: a zeroed sigaction is one, with no flags and an empty mask; both handlers below only make system calls and touch
    // atomics, as handlers may.
    let done = unsafe {
        let mut action: libc::sigaction = MaybeUninit::zeroed().assume_init();
        action.sa_sigaction = handler as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART | libc::SA_ONSTACK;
        libc::sigaction(signal, &action, std::ptr::null_mut())
    };
    if done != 0 {
        let e = io::Error::last_os_error();
        return Err(Error::new(format_args!("a handler of signal {signal}: {e}")));
    }
    Ok(())
}

extern "C" fn give_up(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: errno is this thread's own; whoever was interrupted finds it as it was.
    let errno = unsafe { *libc::__errno_location() };
    // That it worked is seen from outside.
    let _ = lower(KEEP.load(Ordering::SeqCst));
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno };
}

/// `_sigsys` of siginfo_t (include/uapi/asm-generic/siginfo.h), which libc does not have.
#[repr(C)]
struct SigSys {
    signal: libc::c_int,
    errno: libc::c_int,
    code: libc::c_int,
    _pad: libc::c_int,
    address: usize,
    call: libc::c_int,
    architecture: libc::c_uint,
}

extern "C" fn refused(_: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes both, and of a signal of seccomp the information has this layout. The register is that in
    // which the system call's answer is looked for.
    unsafe {
        let told = &*info.cast::<SigSys>();
        if told.code != SYS_SECCOMP {
            return;
        }
        let call = usize::try_from(told.call).unwrap_or(CALLS).min(CALLS - 1);
        REFUSED[call].fetch_add(1, Ordering::Relaxed);
        let context = &mut *context.cast::<libc::ucontext_t>();
        #[cfg(target_arch = "x86_64")]
        {
            context.uc_mcontext.gregs[libc::REG_RAX as usize] = i64::from(-libc::EPERM);
        }
        #[cfg(target_arch = "aarch64")]
        {
            context.uc_mcontext.regs[0] = i64::from(-libc::EPERM) as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Name:\tgeophone\nCapInh:\t0000000000000000\nCapPrm:\t000000c000001000\nCapEff:\t0000008000001000\n\
                          CapBnd:\t000001ffffffffff\nCapAmb:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t2\n";

    #[test]
    fn a_thread_is_read() {
        let held = Held::read(STATUS);
        assert_eq!(held.permitted, 1 << 39 | 1 << 38 | 1 << 12);
        assert_eq!(held.effective, 1 << 39 | 1 << 12);
        assert_eq!(held.usable(), held.permitted);
        assert_eq!(held.bounding, (1 << 41) - 1);
        assert!(held.no_new_privs && held.filtered);
        assert_eq!(Held::read(""), Held::default());
        assert!(threads().len() > 1, "the test's thread is not the first");
    }

    #[test]
    fn what_is_taken_for_a_while_is_given_back() {
        let own = || {
            // SAFETY: no preconditions.
            let id = unsafe { libc::gettid() };
            threads().get(&id).copied().unwrap_or_default().effective
        };
        let before = own();
        // DAC_OVERRIDE and DAC_READ_SEARCH; of who has none nothing is taken.
        let during = without(0b110, own);
        assert_eq!(during, before & !0b110);
        assert_eq!(own(), before);
    }

    /// What is given up is given up for good: each of these runs in a process of its own, this program once more.
    fn in_a_process(name: &str, then: fn()) -> Option<std::process::ExitStatus> {
        const INSIDE: &str = "GEOPHONE_TEST_INSIDE";
        if std::env::var_os(INSIDE).is_some_and(|inside| inside == name) {
            then();
            return None;
        }
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "--nocapture",
                &format!("bpf::privileges::tests::{name}"),
            ])
            .env(INSIDE, name)
            .output()
            .unwrap();
        if !output.status.success() {
            eprintln!("{}", String::from_utf8_lossy(&output.stderr));
        }
        Some(output.status)
    }

    fn unshare() -> io::Result<()> {
        // SAFETY: without a flag it does nothing.
        match unsafe { libc::unshare(0) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    #[test]
    fn all_threads_give_up_and_are_filtered() {
        let status = in_a_process("all_threads_give_up_and_are_filtered", || {
            let (ask, asked) = std::sync::mpsc::channel::<()>();
            // One that waits in the kernel, and was there before.
            let other = std::thread::spawn(move || {
                asked.recv().unwrap();
                unshare().map_err(|e| e.raw_os_error())
            });
            keep_only(0).unwrap();
            handle_refused().unwrap();
            agent_confine::filter::apply(agent_confine::filter::Allowed::default()).unwrap();
            let threads = threads();
            assert!(threads.len() >= 3, "{threads:?}");
            for held in threads.values() {
                assert_eq!(held.usable(), 0, "{held:?}");
                assert!(held.no_new_privs && held.filtered, "{held:?}");
            }
            ask.send(()).unwrap();
            assert_eq!(other.join().unwrap(), Err(Some(libc::EPERM)));
            let refused = || refused_calls().collect::<Vec<_>>();
            assert_eq!(refused(), [(libc::SYS_unshare, 1)]);
            let program = c"/bin/true";
            assert_eq!(
                nix::unistd::execv(program, &[program]),
                Err(nix::errno::Errno::EPERM)
            );
            let socket = |family| {
                // SAFETY: no memory is involved; the descriptor is left to the end of the process.
                unsafe { libc::socket(family, libc::SOCK_DGRAM, 0) }
            };
            assert_eq!(socket(libc::AF_PACKET), -1);
            assert!(socket(libc::AF_NETLINK) >= 0);
            assert_eq!(refused().iter().map(|(_, count)| count).sum::<u64>(), 3);
            // What the agent does all day goes on.
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let client = std::net::TcpStream::connect(listener.local_addr().unwrap());
            assert!(client.is_ok() && listener.accept().is_ok());
            assert!(
                std::thread::spawn(|| fs::read("/proc/self/stat").is_ok())
                    .join()
                    .unwrap()
            );
            assert_eq!(refused().len(), 3);
        });
        assert!(status.is_none_or(|status| status.success()), "{status:?}");
    }

    #[test]
    fn what_another_process_was_refused_is_counted_as_ones_own() {
        let status = in_a_process("what_another_process_was_refused_is_counted_as_ones_own", || {
            add_refused(&[(libc::SYS_socket, 2), (i64::MAX, 1), (-1, 1)]);
            add_refused(&[(libc::SYS_socket, 1)]);
            let counted: Vec<_> = refused_calls().collect();
            assert_eq!(counted, [(libc::SYS_socket, 3), (OTHER, 2)]);
        });
        assert!(status.is_none_or(|status| status.success()), "{status:?}");
    }

    #[test]
    fn what_is_hostile_ends_the_process() {
        use std::os::unix::process::ExitStatusExt as _;
        let status = in_a_process("what_is_hostile_ends_the_process", || {
            handle_refused().unwrap();
            agent_confine::filter::apply(agent_confine::filter::Allowed::default()).unwrap();
            // SAFETY: PTRACE_TRACEME has no further arguments.
            unsafe { libc::ptrace(libc::PTRACE_TRACEME) };
        });
        if let Some(status) = status {
            assert_eq!(status.signal(), Some(libc::SIGSYS), "{status:?}");
        }
    }

    #[test]
    fn who_reads_symbols_can_read_and_no_more() {
        let status = in_a_process("who_reads_symbols_can_read_and_no_more", || {
            assert_eq!(crate::confine::reader(), Ok(()));
            assert_eq!(take_refused(), [], "what it does to confine itself is allowed");
            let held = threads();
            let kept = agent_confine::capability::READER
                .iter()
                .fold(0, |mask, one| mask | one.bit());
            assert!(
                held.values()
                    .all(|held| held.usable() & !kept == 0 && held.filtered),
                "{held:?}"
            );
            assert!(fs::read("/proc/self/exe").is_ok_and(|bytes| bytes.len() > 1000));
            assert!(std::net::TcpListener::bind("127.0.0.1:0").is_err());
            // Told with the next answer, once.
            assert_eq!(take_refused(), [(libc::SYS_socket, 1)]);
            assert_eq!(take_refused(), []);
        });
        assert!(status.is_none_or(|status| status.success()), "{status:?}");
    }
}
