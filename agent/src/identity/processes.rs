//! From a process id and a start time to the process, from /proc.

use super::cache::Cache;
use super::cgroup::{self, Workload};
use std::fs::File;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

/// Processes that are remembered, live and exited ones together.
pub const CAPACITY: usize = 16_384;
/// One tick of /proc (`USER_HZ` is 100 on every architecture that Debian supports) in ns.
const TICK: i128 = 10_000_000;
/// No file of /proc that is read here is longer; a cgroup path may have 4 KiB for each of a dozen hierarchies.
const LONGEST: u64 = 64 * 1024;

/// A process as /proc showed it when it was first asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Name of the process, as it set it: any bytes, 15 at most.
    pub comm: Vec<u8>,
    /// File name of the executable; empty for kernel threads and where it cannot be read.
    pub exe: String,
    /// What its cgroup says, if anything.
    pub workload: Option<Workload>,
}

/// Processes by id and start time: one that gets the id of another is another.
#[derive(Debug)]
pub struct Processes {
    proc: PathBuf,
    boottime_offset: i128,
    known: Cache<(u32, u64), Arc<Process>>,
}

impl Processes {
    /// Reads below `proc`, which is `/proc` but in tests. Reads no process yet.
    pub fn new(proc: PathBuf) -> Self {
        let offsets = std::fs::read_to_string(proc.join("self/timens_offsets")).unwrap_or_default();
        Self {
            boottime_offset: boottime_offset(&offsets),
            proc,
            known: Cache::new(CAPACITY),
        }
    }

    /// The process `pid` that started `start` ns after boot. `None` if it is gone and was never seen, or if the id
    /// belongs to another by now.
    pub fn get(&mut self, pid: u32, start: u64, now: Instant) -> Option<Arc<Process>> {
        if let Some(process) = self.known.get(&(pid, start), now) {
            return Some(process.clone());
        }
        let process = Arc::new(self.read(pid, start)?);
        self.known.insert((pid, start), process.clone(), now);
        Some(process)
    }

    fn read(&self, pid: u32, start: u64) -> Option<Process> {
        let directory = self.proc.join(pid.to_string());
        let file = |name: &str| {
            let mut content = Vec::new();
            File::open(directory.join(name))
                .ok()?
                .take(LONGEST)
                .read_to_end(&mut content)
                .ok()?;
            Some(content)
        };
        let is_it = || {
            let ticks = start_ticks(&file("stat")?)?;
            let expected = (i128::from(start) + self.boottime_offset).div_euclid(TICK);
            ((i128::from(ticks) - expected).abs() <= 1).then_some(())
        };
        is_it()?;
        let mut comm = file("comm")?;
        if comm.last() == Some(&b'\n') {
            comm.pop();
        }
        let exe = std::fs::read_link(directory.join("exe")).ok();
        let exe = exe
            .as_ref()
            .and_then(|path| path.file_name())
            .map(|name| name.as_bytes())
            .unwrap_or_default();
        let exe = String::from_utf8_lossy(exe.strip_suffix(b" (deleted)").unwrap_or(exe)).into_owned();
        let workload = cgroup::parse_proc(&file("cgroup").unwrap_or_default());
        // Still the same? Otherwise the lines above may be of two processes.
        is_it()?;
        Some(Process { comm, exe, workload })
    }
}

/// Field 22 of /proc/PID/stat. Field 2, the name in parentheses, may hold anything, so only what follows the last
/// parenthesis is split.
fn start_ticks(stat: &[u8]) -> Option<u64> {
    let end = stat.iter().rposition(|b| *b == b')')?;
    let rest = std::str::from_utf8(stat.get(end + 1..)?).ok()?;
    // The first field after the name is field 3.
    rest.split_ascii_whitespace().nth(22 - 3)?.parse().ok()
}

/// ns that the time namespace adds to the boot time that /proc shows.
fn boottime_offset(offsets: &str) -> i128 {
    let parse = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        if !matches!(fields.next()?, "boottime" | "7") {
            return None;
        }
        let (seconds, nanos): (i64, i64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        Some(i128::from(seconds) * 1_000_000_000 + i128::from(nanos))
    };
    offsets.lines().find_map(parse).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::Path;

    fn fake(proc: &Path, pid: u32, comm: &[u8], ticks: u64, cgroup: &str) {
        let directory = proc.join(pid.to_string());
        fs::create_dir_all(&directory).unwrap();
        let mut stat = format!("{pid} (").into_bytes();
        stat.extend_from_slice(comm);
        stat.extend_from_slice(format!(") S 1{} {ticks} 0 0\n", " 0".repeat(17)).as_bytes());
        fs::write(directory.join("stat"), stat).unwrap();
        fs::write(directory.join("comm"), [comm, b"\n"].concat()).unwrap();
        fs::write(directory.join("cgroup"), cgroup).unwrap();
        let _ = fs::remove_file(directory.join("exe"));
        std::os::unix::fs::symlink("/usr/bin/thing (deleted)", directory.join("exe")).unwrap();
    }

    #[test]
    fn a_reused_pid_is_another_process_and_the_exited_one_stays_known() {
        let proc = tempfile::tempdir().unwrap();
        let mut processes = Processes::new(proc.path().to_owned());
        let now = Instant::now();
        fake(proc.path(), 7, b"old", 100, "0::/system.slice/old.service\n");
        let old = processes.get(7, 1_000_000_000, now).unwrap();
        assert_eq!((&old.comm[..], old.exe.as_str()), (&b"old"[..], "thing"));
        assert_eq!(old.workload.as_ref().unwrap().name, "old.service");
        fake(proc.path(), 7, b"new", 200, "0::/\n");
        assert_eq!(processes.get(7, 1_000_000_000, now).unwrap(), old);
        assert_eq!(processes.get(7, 2_000_000_000, now).unwrap().comm, b"new");
        assert_eq!(processes.get(7, 3_000_000_000, now), None, "neither of the two");
        assert_eq!(processes.get(8, 1_000_000_000, now), None);
        fs::remove_dir_all(proc.path().join("7")).unwrap();
        assert_eq!(processes.get(7, 2_000_000_000, now).unwrap().comm, b"new");
    }

    #[test]
    fn ticks_are_compared_within_one() {
        let proc = tempfile::tempdir().unwrap();
        fake(proc.path(), 7, b"x", 100, "");
        let found = |start| {
            Processes::new(proc.path().to_owned())
                .get(7, start, Instant::now())
                .is_some()
        };
        assert!(found(1_000_000_000) && found(1_009_999_999) && found(1_019_999_999) && found(990_000_000));
        assert!(!found(1_020_000_000) && !found(989_999_999) && !found(0) && !found(u64::MAX));
    }

    #[test]
    fn names_cannot_break_the_parser() {
        let proc = tempfile::tempdir().unwrap();
        for (pid, comm) in [
            &b"a) R 1 2 3"[..],
            b"((sd-pam))",
            b"\n\xff\x1b[2J",
            b"",
            b")",
            b"a b c",
            b"x\n",
        ]
        .into_iter()
        .enumerate()
        {
            fake(proc.path(), pid as u32, comm, 5, "0::/\n");
            let mut processes = Processes::new(proc.path().to_owned());
            assert_eq!(
                processes
                    .get(pid as u32, 50_000_000, Instant::now())
                    .unwrap()
                    .comm,
                comm
            );
        }
        for garbage in [
            &b""[..],
            b")",
            b"1 (x",
            b"1 (x) S 1",
            b"1 (x) S \xff",
            b"1 (x) S 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 -5",
        ] {
            assert_eq!(start_ticks(garbage), None);
        }
    }

    #[test]
    fn time_namespaces_are_allowed_for() {
        assert_eq!(
            boottime_offset("monotonic 5 0\nboottime -3 500000000\n"),
            -2_500_000_000
        );
        assert_eq!(
            boottime_offset("monotonic           0         0\nboottime            7         1\n"),
            7_000_000_001
        );
        assert_eq!(
            boottime_offset("") + boottime_offset("boottime x y") + boottime_offset("boottime 1"),
            0
        );
        let proc = tempfile::tempdir().unwrap();
        fs::create_dir(proc.path().join("self")).unwrap();
        fs::write(proc.path().join("self/timens_offsets"), "boottime 10 0\n").unwrap();
        fake(proc.path(), 7, b"x", 1100, "");
        assert!(
            Processes::new(proc.path().to_owned())
                .get(7, 1_000_000_000, Instant::now())
                .is_some()
        );
    }

    #[test]
    fn the_real_proc_shows_this_process() {
        let stat = fs::read("/proc/self/stat").unwrap();
        let start = start_ticks(&stat).unwrap() * TICK as u64;
        let mut processes = Processes::new("/proc".into());
        let me = processes.get(std::process::id(), start, Instant::now()).unwrap();
        assert!(me.exe.starts_with("agent"), "{me:?}");
    }
}
