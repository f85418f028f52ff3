//! What this machine lets an eBPF agent do.

use crate::mountinfo;
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::fs::{self, File};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Size of a page of memory; aarch64 has kernels of 4, 16 and 64 KiB.
pub fn page_size() -> u64 {
    let size = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE);
    let size = size.ok().flatten().and_then(|size| u64::try_from(size).ok());
    size.filter(|size| size.is_power_of_two()).unwrap_or(4096)
}

/// Number of possible CPUs: rows of the per-CPU accounts.
pub fn possible_cpus() -> u32 {
    let text = fs::read_to_string("/sys/devices/system/cpu/possible").unwrap_or_default();
    text.trim()
        .split(',')
        .filter_map(|range| range.rsplit('-').next()?.parse::<u32>().ok())
        .max()
        .map_or(1, |last| last + 1)
}

/// Number of CPUs that are online: what a share of the machine is of, whatever this process may use.
pub fn online_cpus() -> u32 {
    (cpus_online().len() as u32).max(1)
}

/// The CPUs that are online.
pub fn cpus_online() -> Vec<u32> {
    let text = fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default();
    let range = |range: &str| -> Option<std::ops::RangeInclusive<u32>> {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some(first.parse().ok()?..=last.parse().ok()?)
    };
    text.trim().split(',').filter_map(range).flatten().collect()
}

/// Files whose code is sampled stay open: a thousand descriptors, the usual limit, are soon used up. Returns how many
/// there may be.
pub fn more_files() -> usize {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return 1024;
    };
    let wanted = hard.min(65_536).max(soft);
    let most = setrlimit(Resource::RLIMIT_NOFILE, wanted, hard).map_or(soft, |()| wanted);
    usize::try_from(most).unwrap_or(usize::MAX)
}

/// Lets everything else go first: the thread that calls, and what it starts.
pub fn low_priority(nice: i32) {
    // SAFETY: no memory is involved; on Linux a process id of 0 is the thread that calls.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) };
}

/// The pid namespace of this process, if it is not the first: iterators over tasks and files show those of it only.
pub fn own_process_ids() -> Option<PathBuf> {
    beyond_the_first(fs::read_link("/proc/self/ns/pid").ok()?)
}

fn beyond_the_first(own: PathBuf) -> Option<PathBuf> {
    // PROC_PID_INIT_INO of the kernel: the namespace of the first process.
    const FIRST: &str = "pid:[4026531836]";
    (own != Path::new(FIRST)).then_some(own)
}

/// Inode number of the agent's network namespace.
pub fn own_netns() -> u32 {
    use std::os::unix::fs::MetadataExt as _;
    fs::metadata("/proc/self/ns/net").map_or(0, |m| m.ino() as u32)
}

/// Where the kernel's types are: the given path, else the kernel's own.
pub fn btf_path(given: Option<&Path>) -> PathBuf {
    given.map_or_else(|| PathBuf::from("/sys/kernel/btf/vmlinux"), Path::to_path_buf)
}

/// Whether the kernel measures the run time of all programs already (kernel.bpf_stats_enabled).
pub fn bpf_stats_are_on() -> bool {
    fs::read_to_string("/proc/sys/kernel/bpf_stats_enabled").is_ok_and(|text| text.trim() == "1")
}

/// Effective capabilities of this process, as a mask.
pub fn effective_capabilities() -> u64 {
    own_capabilities("CapEff:")
}

/// Permitted ones: what it may make effective.
pub fn permitted_capabilities() -> u64 {
    own_capabilities("CapPrm:")
}

fn own_capabilities(set: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|l| l.strip_prefix(set))
        .and_then(|v| u64::from_str_radix(v.trim(), 16).ok())
        .unwrap_or(0)
}

/// Capabilities that some programs or figures need besides: what for, number, name. Each was taken away to see what goes with it
/// (docs/security.md).
const FURTHER: [(&str, u32, &str); 6] = [
    (
        "programs on cgroups and devices (dns, udp, tunnel, the fallback of tcp)",
        12,
        "CAP_NET_ADMIN",
    ),
    ("stacks of other users' processes", 19, "CAP_SYS_PTRACE"),
    (
        "stacks in files that only their owners may read",
        2,
        "CAP_DAC_READ_SEARCH",
    ),
    ("names of the kernel's functions", 34, "CAP_SYSLOG"),
    ("traces", 13, "CAP_NET_RAW"),
    ("measuring what the programs cost", 21, "CAP_SYS_ADMIN"),
];

/// What cannot be done with these capabilities although programs can be loaded: (what, the capability that it takes).
pub fn further_missing(mask: u64) -> impl Iterator<Item = (&'static str, &'static str)> {
    FURTHER
        .into_iter()
        .filter(move |(_, bit, _)| mask >> bit & 1 == 0)
        .map(|(what, _, name)| (what, name))
}

/// Those of CAP_BPF and CAP_PERFMON (or CAP_SYS_ADMIN, which stands for both) that are missing.
pub fn missing_capabilities(mask: u64) -> Vec<&'static str> {
    let has = |bit: u32| mask >> bit & 1 == 1;
    if has(21) {
        return Vec::new();
    }
    [("CAP_BPF", 39), ("CAP_PERFMON", 38)]
        .into_iter()
        .filter(|(_, bit)| !has(*bit))
        .map(|(name, _)| name)
        .collect()
}

/// Mode of kernel lockdown: `none`, `integrity`, `confidentiality`, or `unknown` where securityfs is not mounted.
pub fn lockdown() -> String {
    match fs::read_to_string("/sys/kernel/security/lockdown") {
        Ok(text) => text.split(['[', ']']).nth(1).unwrap_or("unknown").to_owned(),
        Err(_) => "unknown (securityfs is not mounted, or the kernel has none)".into(),
    }
}

/// The kernel's own name of a function: what the compiler has made of it may have an ending.
pub fn kernel_function(name: &str) -> Option<String> {
    let symbols = fs::read_to_string("/proc/kallsyms").ok()?;
    let names = symbols
        .lines()
        .filter_map(|line| line.split_ascii_whitespace().nth(2));
    let ending = |found: &str| {
        found.strip_prefix(name).is_some_and(|ending| {
            ending.is_empty() || ending.starts_with(".isra.") || ending.starts_with(".constprop.")
        })
    };
    names
        .filter(|found| ending(found))
        .min_by_key(|found| found.len())
        .map(str::to_owned)
}

/// Kernel release.
pub fn kernel_release() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease")
        .unwrap_or_default()
        .trim()
        .to_owned()
}

/// Whether the kernel's release is at least this.
pub fn kernel_at_least(major: u32, minor: u32) -> bool {
    let release = kernel_release();
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map_while(|n| n.parse::<u32>().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (major, minor)
}

/// The root of the cgroup2 hierarchy: where it is mounted, else mounted by us, where nobody else sees it. Nothing of
/// that is left when the process ends, however it ends.
pub fn cgroup2_root() -> Result<PathBuf, String> {
    static OWN: Mutex<Option<File>> = Mutex::new(None);
    if let Some(path) = mountinfo::own("cgroup2").into_iter().next() {
        return Ok(path);
    }
    let mut own = OWN.lock().unwrap_or_else(PoisonError::into_inner);
    let root = match own.take() {
        Some(root) => root,
        None => mount_cgroup2().map_err(|e| format!("no cgroup2 is mounted and {e}"))?,
    };
    let root = own.insert(root);
    Ok(PathBuf::from(format!("/proc/self/fd/{}", root.as_raw_fd())))
}

/// Mounts cgroup2 in a mount namespace of our own, opens it, and takes it off its place again: it lives as long as the
/// file is open.
fn mount_cgroup2() -> Result<File, String> {
    use nix::mount::{MntFlags, MsFlags, mount, umount2};
    let none: Option<&str> = None;
    unshare(CloneFlags::CLONE_NEWNS).map_err(|e| format!("no mount namespace: {e}"))?;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .map_err(|e| format!("/ cannot be made private: {e}"))?;
    // A directory of its own: what is mounted over cannot be seen from here any more.
    let place = std::env::temp_dir().join(format!("geophone-cgroup2-{}", std::process::id()));
    fs::create_dir(&place).map_err(|e| format!("{}: {e}", place.display()))?;
    let mounted = mount(Some("cgroup2"), &place, Some("cgroup2"), MsFlags::empty(), none)
        .map_err(|e| format!("it cannot be mounted: {e}"));
    let root = mounted.and_then(|()| {
        let root = File::open(&place).map_err(|e| format!("{}: {e}", place.display()));
        // Fails only where there is no such mount, and then the directory goes all the same.
        let _ = umount2(&place, MntFlags::MNT_DETACH);
        root
    });
    // An empty directory left behind would be all that this can do wrong.
    let _ = fs::remove_dir(&place);
    root
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_pid_namespace_is_none_of_its_own() {
        assert_eq!(beyond_the_first("pid:[4026531836]".into()), None);
        let other = PathBuf::from("pid:[4026532281]");
        assert_eq!(beyond_the_first(other.clone()), Some(other));
    }

    #[test]
    fn capabilities_by_name() {
        assert!(missing_capabilities(1 << 21).is_empty());
        assert_eq!(missing_capabilities(1 << 39), ["CAP_PERFMON"]);
        assert_eq!(missing_capabilities(0), ["CAP_BPF", "CAP_PERFMON"]);
        let further = |mask| further_missing(mask).map(|(_, name)| name).collect::<Vec<_>>();
        assert_eq!(further(0).len(), FURTHER.len());
        let most = !(1 << 12 | 1 << 34);
        assert_eq!(further(most), ["CAP_NET_ADMIN", "CAP_SYSLOG"]);
        assert!(further(u64::MAX).is_empty());
    }
}
