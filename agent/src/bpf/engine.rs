//! Loads the object, attaches the programs one by one, and keeps a verdict for each.

use super::facts::{Facts, group_name};
use super::fields::Group;
use super::host;
use super::machine::Machine;
use super::maps::{map_data, memlock, watched};
use super::recorded::Told;
use super::refusal::{Refusal, explain_load};
use super::spec::{Hook, Sizes, Spec};
use super::sys::{self, MappedArray};
use super::verdict::{State, Verdict};
use super::{barred, clock};
use crate::error::{Context as _, Error, Result};
use crate::record::{Source, verdict_key};
use crate::stacks::loader;
use agent_common::account::{Account, program};
use agent_common::profile::{FRAMES, LOCK_THREADS, OFF_THREADS, SHARD_ROWS, sample};
use agent_common::sched;
use agent_common::tcp::{PairCells, home};
use aya::programs::{
    BtfTracePoint, CgroupAttachMode, CgroupSkb, CgroupSkbAttachType, CgroupSock, FExit, Iter, KProbe,
    PerfEvent, Program, ProgramError, SchedClassifier, SockOps,
};
use aya::{Btf, Ebpf, EbpfLoader, Endianness};
use std::collections::HashMap;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The compiled programs; see build.rs. Empty in a build without a BPF toolchain.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/geophone.bpf.o"));

/// SHA-256 of the object, hexadecimal, and what it was built by: of the same source and compiler it is the same everywhere.
pub fn object() -> (String, &'static str) {
    let digest = ring::digest::digest(&ring::digest::SHA256, OBJECT);
    let hex = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    (hex, env!("GEOPHONE_BPF_BUILT_BY"))
}

/// The kernel side.
pub struct Engine {
    /// aya's object: maps and programs; a recording has none.
    pub(super) ebpf: Option<Ebpf>,
    /// Kernel types for aya, needed to attach; dropped by [`Engine::settle`].
    pub(super) btf: Option<Btf>,
    pub(super) btf_path: PathBuf,
    pub(super) missing: HashMap<&'static str, Vec<&'static str>>,
    pub(super) no_types: bool,
    pub(super) iterators: HashMap<&'static str, Arc<sys::Iterator>>,
    /// Programs at events of the CPUs.
    pub(super) events: HashMap<&'static str, clock::Attached>,
    /// Verdicts so far, in the order of attaching.
    pub verdicts: Vec<Verdict>,
    /// Where what is in the maps comes from.
    pub(super) source: Source,
    pub(super) known: Vec<(&'static str, usize)>,
    /// Maps that are mapped.
    pub(super) kept: Vec<aya::maps::Map>,
    /// Entries to programs from other network namespaces; see [`super::tc`].
    pub(super) entries: HashMap<(u16, &'static str), SchedClassifier>,
    pub(super) changed: std::sync::atomic::AtomicBool,
    /// Accounts: row `program * cpus + cpu`.
    pub accounts: MappedArray,
    /// Pair cells: row `slot * shards + shard`.
    pub cells: MappedArray,
    /// Parameters of `inet_csk_accept`; 0 = not known.
    pub accept_parameters: u32,
    /// Counters of the own namespace.
    pub home: Arc<MappedArray>,
    /// Possible CPUs.
    pub cpus: u32,
    /// Sizes in force.
    pub sizes: Sizes,
    /// Names of this kernel's drop reasons.
    pub drop_reasons: HashMap<u32, String>,
    /// Memory of the maps, bytes, by map.
    pub map_memory: Vec<(String, u64)>,
}

impl Engine {
    /// Creates the maps. Programs follow by [`Engine::attach`].
    pub fn load(btf: Option<PathBuf>, sizes: Sizes, source: &Source) -> Result<Self> {
        if OBJECT.is_empty() {
            return Err(Error::new(
                "this build has no eBPF programs (GEOPHONE_SKIP_BPF was set); run cargo xtask setup and build again",
            ));
        }
        // While the agent has no filter of its own yet.
        barred::barred();
        let path = host::btf_path(btf.as_deref());
        let cpus = host::possible_cpus();
        let Facts {
            offsets,
            missing,
            no_types,
            drop_reasons,
            consumed,
            queue_purge,
            rq_flush_seq,
            kfree_has_socket,
            retransmit_has_error,
            accept_parameters,
        } = Facts::of(&path);
        let shard_mask = sizes.shards - 1;
        let home_netns = host::own_netns();
        // "bpf: Allow some trace helpers for all prog types".
        let has_current = u32::from(host::kernel_at_least(6, 17));
        // A program with a read that lockdown forbids is refused as a whole.
        let asked = sizes.paths && !missing.contains_key(group_name(Group::Skb));
        let read = if asked { sys::may_read_kernel() } else { Ok(()) };
        // Without the right to load a program at all, the verdict of each says so.
        if let Err(cause) = &read
            && cause.raw_os_error() != Some(libc::EPERM)
        {
            tracing::warn!(
                "no hop counts: this kernel lets no program read its memory (lockdown=confidentiality): {cause}"
            );
        }
        let reads = asked && read.is_ok();
        let (paths, probe_reads) = (u32::from(sizes.paths), u32::from(reads));
        let high_water = u64::from(sizes.ring_bytes / 4);
        let tunnel_inner_mask = sizes.tunnel_inner() - 1;
        let dns_names = u32::from(sizes.dns_names);
        let profile = sizes.unwind_shards != 0;
        let (frame_mask, row_mask) = (FRAMES as u32 - 1, SHARD_ROWS as u32 - 1);
        let sched_slots = if sizes.sched { sched::SLOTS } else { 1 };
        let machine = Machine::here();
        let mut loader = EbpfLoader::new();
        loader
            // No relocations in the object: aya need not parse the kernel's types a second time.
            .btf(None)
            .allow_unsupported_maps()
            .override_global("NCPU", &cpus, true)
            .override_global("SHARD_MASK", &shard_mask, true)
            .override_global("HOME_NETNS", &home_netns, true)
            .override_global("RING_HIGH_WATER", &high_water, true)
            .override_global("REASON_CONSUMED", &consumed, false)
            .override_global("REASON_QUEUE_PURGE", &queue_purge, false)
            .override_global("RQ_FLUSH_SEQ", &rq_flush_seq, false)
            .override_global("PATHS", &paths, false)
            .override_global("PROBE_READS", &probe_reads, false)
            .override_global("SOCKOPS_HAS_CURRENT", &has_current, false)
            .override_global("KFREE_HAS_SOCKET", &kfree_has_socket, false)
            .override_global("RETRANSMIT_HAS_ERROR", &retransmit_has_error, false)
            .override_global("TUNNEL_INNER_MASK", &tunnel_inner_mask, false)
            .override_global("DNS_NAMES", &dns_names, false)
            .override_global("FRAME_MASK", &frame_mask, false)
            .override_global("ROW_MASK", &row_mask, false)
            .override_global("AARCH64", &machine.aarch64, false)
            .override_global("USER_BITS", &machine.user_bits, false)
            .override_global("SYS_FUTEX", &machine.futex, false)
            .override_global("THREAD_SIZE", &machine.thread_size, false)
            .override_global("THREAD_REACH", &machine.thread_reach, false)
            .map_max_entries("ACCOUNTS", program::COUNT as u32 * cpus)
            .map_max_entries("HOME", cpus)
            .map_max_entries("RECORDS", sizes.ring_bytes)
            .map_max_entries("PAIR_CELLS", sizes.slots * sizes.shards)
            .map_max_entries("PAIRS", sizes.slots)
            .map_max_entries("FREE_SLOTS", sizes.slots)
            .map_max_entries("PEERS", sizes.prefixes.max(1))
            .map_max_entries("DROPS", sizes.drop_keys)
            .map_max_entries("DROP_TOKENS", cpus)
            .map_max_entries("TUNNELS", sizes.tunnels)
            .map_max_entries("TUNNEL_ENDS", sizes.tunnels * 4)
            .map_max_entries("TUNNEL_FREE", sizes.tunnels)
            .map_max_entries("TUNNEL_STATES", sizes.tunnels)
            .map_max_entries("TUNNEL_CELLS", sizes.tunnels * sizes.shards)
            .map_max_entries("TUNNEL_WINDOWS", sizes.tunnels * 4)
            .map_max_entries("TUNNEL_INNER", sizes.tunnel_inner())
            .map_max_entries("DNS_TOKENS", cpus)
            .map_max_entries("SCHED_THREADS", if sizes.sched { sched::THREADS } else { 1 })
            .map_max_entries("SCHED_SUBJECTS", sched_slots)
            .map_max_entries("SCHED_FREE", sched_slots)
            .map_max_entries("SCHED_CELLS", sched_slots * sizes.shards)
            .map_max_entries("PROFILE_EVENTS", sample::COUNT as u32 * cpus)
            .map_max_entries("PROFILE_RULES", if profile { cpus } else { 1 })
            .map_max_entries("PROFILE_REQUESTS", if profile { 1024 } else { 1 })
            .map_max_entries("PROFILE_OFF", if sizes.off_cpu { OFF_THREADS } else { 1 })
            .map_max_entries("PROFILE_WAITS", if sizes.locks { LOCK_THREADS } else { 1 })
            .map_max_entries("PROCESSES", if profile { loader::PROCESSES } else { 1 })
            .map_max_entries("RANGES", if profile { loader::RANGES } else { 1 })
            .map_max_entries("UNWIND_SHARDS", sizes.unwind_shards.max(1));
        for (global, offset) in &offsets {
            // Not every field is read by a program of this build; the linker drops unused globals.
            loader.override_global(global, offset, false);
        }
        let ebpf = loader.load(OBJECT).map_err(explain_load)?;
        let map = |name: &str| {
            ebpf.map(name)
                .context(format_args!("the object has no map {name}"))
        };
        let data =
            |name: &str| map(name).and_then(|m| map_data(m).context(format_args!("map {name} has no data")));
        let array = |name: &'static str, size: usize, entries: usize| {
            let array = MappedArray::new(data(name)?.fd(), size, entries)?;
            watched(array, name, source)
        };
        let accounts = array("ACCOUNTS", size_of::<Account>(), program::COUNT * cpus as usize)?;
        let pairs = (sizes.slots * sizes.shards) as usize;
        let cells = array("PAIR_CELLS", size_of::<PairCells>(), pairs)?;
        let home = MappedArray::new(data("HOME")?.fd(), 8 * home::COUNT, cpus as usize)?;
        source.tell("engine", || Told {
            cpus,
            accept_parameters,
            sizes: sizes.clone(),
            drop_reasons: drop_reasons.iter().map(|(n, name)| (*n, name.clone())).collect(),
        });
        let map_memory = ebpf
            .maps()
            .filter_map(|(name, map)| Some((name.to_owned(), memlock(map_data(map)?.fd().as_fd())?)))
            .collect();
        Ok(Self {
            ebpf: Some(ebpf),
            source: source.clone(),
            btf: load_btf(&path),
            btf_path: path,
            missing,
            no_types,
            iterators: HashMap::new(),
            events: HashMap::new(),
            verdicts: Vec::new(),
            known: Vec::new(),
            kept: Vec::new(),
            entries: HashMap::new(),
            changed: false.into(),
            accounts,
            cells,
            accept_parameters,
            home: Arc::new(home),
            cpus,
            sizes,
            drop_reasons,
            map_memory,
        })
    }

    /// Loads and attaches a program; the verdict says what became of it.
    pub fn attach(&mut self, spec: &Spec) -> State {
        if let Source::Recorded(past) = &self.source {
            let verdict = past.verdict(spec);
            let state = verdict.state;
            self.enter(verdict);
            self.learn(spec.name, spec.account);
            return state;
        }
        let mut verdict = Verdict {
            probe: spec.probe.to_owned(),
            program: spec.name.to_owned(),
            hook: spec.hook.describe(),
            state: State::Attached,
            reason: String::new(),
            remedy: String::new(),
            required: spec.required,
            verifier_log: String::new(),
        };
        let missing = spec
            .needs
            .iter()
            .find_map(|group| self.missing.get(group_name(*group)).and_then(|m| m.first()));
        let result = match missing {
            Some(_) if self.no_types => Err(Refusal::unsupported("the kernel's types (BTF) cannot be read")),
            Some(path) => Err(Refusal::unsupported(format!("this kernel's BTF has no {path}"))),
            None => self.try_attach(spec),
        };
        if let Err(mut refusal) = result {
            refusal.explain(spec.hook);
            verdict.state = refusal.state;
            verdict.reason = refusal.reason;
            verdict.remedy = if refusal.remedy.is_empty() {
                spec.remedy.to_owned()
            } else {
                refusal.remedy
            };
            verdict.verifier_log = refusal.log;
        }
        let state = verdict.state;
        self.source.tell(&verdict_key(spec), || state);
        self.enter(verdict);
        self.learn(spec.name, spec.account);
        state
    }

    /// Adds a verdict.
    pub(super) fn enter(&mut self, verdict: Verdict) {
        self.verdicts.push(verdict);
        self.changed.store(true, std::sync::atomic::Ordering::Relaxed);
    }

    /// Remembers which account a program has.
    pub(super) fn learn(&mut self, program: &'static str, account: usize) {
        if !self.known.iter().any(|(name, _)| *name == program) {
            self.known.push((program, account));
        }
    }

    /// Enters a program that is not wanted into the table.
    pub fn leave_off(&mut self, spec: &Spec, reason: &str) {
        self.enter(Verdict {
            probe: spec.probe.to_owned(),
            program: spec.name.to_owned(),
            hook: spec.hook.describe(),
            state: State::Off,
            reason: reason.to_owned(),
            remedy: String::new(),
            required: false,
            verifier_log: String::new(),
        });
    }

    fn try_attach(&mut self, spec: &Spec) -> std::result::Result<(), Refusal> {
        let map_fd = match spec.hook {
            Hook::IterMap(name) => self
                .ebpf
                .as_ref()
                .and_then(|ebpf| map_data(ebpf.map(name)?))
                .and_then(|d| d.fd().as_fd().try_clone_to_owned().ok()),
            _ => None,
        };
        let ebpf = self.ebpf.as_mut();
        let Some(program) = ebpf.and_then(|ebpf| ebpf.program_mut(spec.name)) else {
            return Err(Refusal::broken("the object has no such program"));
        };
        let btf = || {
            self.btf
                .as_ref()
                .ok_or_else(|| Refusal::unsupported("the kernel has no BTF (/sys/kernel/btf/vmlinux)"))
        };
        match spec.hook {
            Hook::TpBtf(name) => {
                let p: &mut BtfTracePoint = program.try_into().map_err(Refusal::from)?;
                p.load(name, btf()?)?;
                p.attach()?;
            }
            Hook::Fexit(name) => {
                let p: &mut FExit = program.try_into().map_err(Refusal::from)?;
                p.load(name, btf()?)?;
                p.attach()?;
            }
            Hook::Kprobe(name) => {
                let function = host::kernel_function(name)
                    .ok_or_else(|| Refusal::unsupported(format!("the kernel has no function {name}")))?;
                let p: &mut KProbe = program.try_into().map_err(Refusal::from)?;
                p.load()?;
                p.attach(function, 0)?;
            }
            Hook::IterMap(_) => {
                let p: &mut Iter = program.try_into().map_err(Refusal::from)?;
                p.load("bpf_sk_storage_map", btf()?)?;
                let map = map_fd.ok_or_else(|| Refusal::broken("the map to iterate over is missing"))?;
                let iterator = sys::Iterator::over_map(p.fd()?.as_fd(), map.as_fd())
                    .map_err(|e| Refusal::unsupported(format!("iterator over socket storage: {e}")))?;
                self.iterators.insert(spec.name, Arc::new(iterator));
            }
            Hook::IterFiles | Hook::IterTasks => {
                let p: &mut Iter = program.try_into().map_err(Refusal::from)?;
                let what = if spec.hook == Hook::IterFiles {
                    "task_file"
                } else {
                    "task"
                };
                p.load(what, btf()?)?;
                let iterator = sys::Iterator::over_all(p.fd()?.as_fd())
                    .map_err(|e| Refusal::unsupported(format!("{}: {e}", spec.hook.describe())))?;
                self.iterators.insert(spec.name, Arc::new(iterator));
            }
            Hook::SockOps => {
                let cgroup = cgroup2_root()?;
                let p: &mut SockOps = program.try_into().map_err(Refusal::from)?;
                p.load()?;
                p.attach(cgroup, LINK)?;
            }
            Hook::SkbIngress | Hook::SkbEgress => {
                let cgroup = cgroup2_root()?;
                let p: &mut CgroupSkb = program.try_into().map_err(Refusal::from)?;
                p.load()?;
                let side = if spec.hook == Hook::SkbIngress {
                    CgroupSkbAttachType::Ingress
                } else {
                    CgroupSkbAttachType::Egress
                };
                p.attach(cgroup, side, LINK)?;
            }
            Hook::SockCreate => {
                let cgroup = cgroup2_root()?;
                let p: &mut CgroupSock = program.try_into().map_err(Refusal::from)?;
                p.load()?;
                p.attach(cgroup, LINK)?;
            }
            Hook::PerfClock | Hook::PerfFaults => {
                let p: &mut PerfEvent = program.try_into().map_err(Refusal::from)?;
                p.load()?;
                let period = if spec.hook == Hook::PerfClock {
                    clock::period(self.sizes.profile_hz)
                } else {
                    self.sizes.fault_period
                };
                let attached = clock::Attached::new(p, spec, period)?;
                self.events.insert(spec.name, attached);
            }
            Hook::Tc(_) => {
                let p: &mut SchedClassifier = program.try_into().map_err(Refusal::from)?;
                match p.load() {
                    Err(ProgramError::AlreadyLoaded) => {}
                    result => result?,
                }
            }
        }
        Ok(())
    }

    /// Takes a program away for a while; the verdict says why. Returns whether it was there.
    pub fn suspend(&mut self, spec: &Spec, reason: &str) -> bool {
        if !self.is(spec, State::Attached) {
            return false;
        }
        let _ = match self.program_mut(spec.name) {
            Some(Program::BtfTracePoint(p)) => p.unload(),
            Some(Program::CgroupSkb(p)) => p.unload(),
            _ => return false,
        };
        self.verdicts.retain(|v| v.program != spec.name);
        self.leave_off(spec, reason);
        true
    }

    /// Attaches again what [`Engine::suspend`] took away.
    pub fn resume(&mut self, spec: &Spec) -> bool {
        if !self.is(spec, State::Off) {
            return false;
        }
        self.verdicts.retain(|v| v.program != spec.name);
        self.unsettle();
        let state = self.attach(spec);
        self.settle();
        state == State::Attached
    }

    fn is(&self, spec: &Spec, state: State) -> bool {
        let of = |v: &Verdict| v.program == spec.name && v.state == state;
        self.verdicts.iter().any(of)
    }

    /// (program, account) of every account whose programs were asked for: the first of them stands for all.
    pub fn programs(&self) -> Vec<(&'static str, usize)> {
        let mut first = self.known.clone();
        let mut seen = std::collections::HashSet::new();
        first.retain(|(_, account)| seen.insert(*account));
        first
    }

    /// The program that stands for this one.
    pub(super) fn first(&self, name: &str) -> Option<&'static str> {
        let (_, account) = self.known.iter().find(|(known, _)| *known == name)?;
        let first = self.known.iter().find(|(_, a)| a == account);
        first.map(|(name, _)| *name)
    }

    /// Whether a verdict has come since the last call.
    pub fn verdicts_changed(&self) -> bool {
        self.changed.swap(false, std::sync::atomic::Ordering::Relaxed)
    }

    /// An iterator program, to be run elsewhere.
    pub fn iterator(&self, name: &str) -> Option<Arc<sys::Iterator>> {
        self.iterators.get(name).cloned()
    }

    /// Runs an iterator program once, if it could be attached.
    pub fn run_iterator(&self, name: &str) -> Option<std::io::Result<()>> {
        self.iterators.get(name).map(|i| i.run())
    }

    /// Gives back what was only needed for attaching.
    pub fn settle(&mut self) {
        self.btf = None;
        sys::trim();
    }

    /// Has the kernel types that attaching needs; [`Engine::settle`] gave them back.
    fn unsettle(&mut self) {
        if self.btf.is_none() {
            self.btf = load_btf(&self.btf_path);
        }
    }
}

/// Links are always multi; AllowMultiple is refused with EINVAL (aya#1078).
const LINK: CgroupAttachMode = CgroupAttachMode::Single;

fn cgroup2_root() -> std::result::Result<std::fs::File, Refusal> {
    let root = host::cgroup2_root().map_err(Refusal::unsupported)?;
    std::fs::File::open(&root).map_err(|e| Refusal::unsupported(format!("{}: {e}", root.display())))
}

fn load_btf(path: &Path) -> Option<Btf> {
    Btf::parse_file(path, Endianness::default()).ok()
}
