use super::*;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

const ID: &str = "3f4e1a2b5c6d7e8f90a1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f607";

fn comm(name: &[u8]) -> [u8; 16] {
    let mut out = [0; 16];
    out[..name.len()].copy_from_slice(name);
    out
}

fn key(cgroup: u64, tgid: u32) -> SubjectKey {
    SubjectKey {
        cgroup,
        start: if tgid == 0 { 0 } else { 1_000_000_000 },
        tgid,
        netns: 9,
    }
}

fn process(proc: &Path, pid: u32, name: &str, ticks: u64, cgroup: &str) {
    let directory = proc.join(pid.to_string());
    fs::create_dir_all(&directory).unwrap();
    fs::write(
        directory.join("stat"),
        format!("{pid} ({name}) S 1{} {ticks} 0\n", " 0".repeat(17)),
    )
    .unwrap();
    fs::write(directory.join("comm"), format!("{name}\n")).unwrap();
    fs::write(directory.join("cgroup"), cgroup).unwrap();
}

struct Host {
    cgroups: tempfile::TempDir,
    proc: tempfile::TempDir,
    now: Instant,
}

impl Host {
    fn new() -> Self {
        Self {
            cgroups: tempfile::tempdir().unwrap(),
            proc: tempfile::tempdir().unwrap(),
            now: Instant::now(),
        }
    }

    fn identity(&self) -> Identity {
        Identity::new(Some(self.cgroups.path().to_owned()), self.proc.path().to_owned())
    }

    fn cgroup(&self, path: &str) -> u64 {
        let path = self.cgroups.path().join(path);
        fs::create_dir_all(&path).unwrap();
        fs::metadata(path).unwrap().ino()
    }

    fn after(&self, ms: u64) -> Instant {
        self.now + Duration::from_millis(ms)
    }
}

#[test]
fn two_cgroups_are_two_subjects_and_outlive_their_directories() {
    let host = Host::new();
    let a = host.cgroup(&format!("system.slice/docker-{ID}.scope"));
    let b = host.cgroup("system.slice/web.service");
    let mut identity = host.identity();
    let container = identity.subject_at(&key(a, 0), &comm(b"nginx"), host.now);
    assert_eq!(
        (container.label.as_str(), container.container_id.as_str()),
        ("3f4e1a2b5c6d", ID)
    );
    assert_eq!(
        (container.process.as_str(), container.netns, container.fixed),
        ("nginx", 9, true)
    );
    let unit = identity.subject_at(&key(b, 0), &comm(b""), host.now);
    assert_eq!(
        (unit.label.as_str(), unit.unit.as_str()),
        ("web.service", "web.service")
    );
    fs::remove_dir_all(host.cgroups.path().join("system.slice")).unwrap();
    let again = identity.subject_at(&key(a, 0), &comm(b"nginx"), host.after(299_000));
    assert!(
        Arc::ptr_eq(&again, &container),
        "cached past the container's exit"
    );
}

#[test]
fn without_cgroups_containers_are_found_by_process() {
    let host = Host::new();
    process(
        host.proc.path(),
        7,
        "redis",
        100,
        &format!("9:name=systemd:/\n4:memory:/docker/{ID}\n0::/\n"),
    );
    process(
        host.proc.path(),
        8,
        "curl",
        100,
        "9:name=systemd:/system.slice/a.service\n0::/\n",
    );
    let mut identity = host.identity();
    let redis = identity.subject_at(&key(1, 7), &comm(b"redis"), host.now);
    assert_eq!(
        (redis.label.as_str(), redis.process.as_str(), redis.pid),
        ("3f4e1a2b5c6d", "redis", 7)
    );
    let curl = identity.subject_at(&key(1, 8), &comm(b""), host.now);
    assert_eq!(
        (curl.label.as_str(), curl.unit.as_str(), curl.fixed),
        ("curl", "a.service", true)
    );
    assert_eq!(
        identity.subject_at(&key(1, 0), &comm(b"ghost"), host.now).label,
        UNKNOWN
    );
    assert_eq!(
        identity.subject_at(&key(0, 0), &comm(b""), host.now).label,
        UNKNOWN
    );
}

#[test]
fn a_reused_pid_is_another_subject() {
    let host = Host::new();
    process(host.proc.path(), 7, "old", 100, "0::/\n");
    let mut identity = host.identity();
    let old = key(1, 7);
    let new = SubjectKey {
        start: 2_000_000_000,
        ..old
    };
    assert_eq!(identity.subject_at(&old, &comm(b""), host.now).label, "old");
    process(host.proc.path(), 7, "new", 200, &format!("0::/docker/{ID}\n"));
    assert_eq!(
        identity.subject_at(&new, &comm(b""), host.now).label,
        "3f4e1a2b5c6d"
    );
    assert_eq!(identity.subject_at(&old, &comm(b""), host.now).label, "old");
    // Never seen, and its id has a new owner: the name that the kernel gave is all there is.
    let never = SubjectKey {
        start: 500_000_000,
        ..old
    };
    let subject = identity.subject_at(&never, &comm(b"never"), host.now);
    assert_eq!(
        (subject.label.as_str(), subject.container_id.as_str()),
        ("never", "")
    );
}

#[test]
fn a_name_may_come_late_but_not_for_ever() {
    let host = Host::new();
    let mut identity = host.identity();
    let hidden = host.cgroup("late.service");
    fs::rename(
        host.cgroups.path().join("late.service"),
        host.proc.path().join("late.service"),
    )
    .unwrap();
    let first = identity.subject_at(&key(hidden, 0), &comm(b"late"), host.now);
    assert_eq!((first.label.as_str(), first.fixed), ("late", false));
    assert!(Arc::ptr_eq(
        &first,
        &identity.subject_at(&key(hidden, 0), &comm(b"late"), host.after(900))
    ));
    fs::rename(
        host.proc.path().join("late.service"),
        host.cgroups.path().join("late.service"),
    )
    .unwrap();
    let second = identity.subject_at(&key(hidden, 0), &comm(b"late"), host.after(1100));
    assert_eq!((second.label.as_str(), second.fixed), ("late.service", true));

    let gone = key(1 << 60, 0);
    let fixed: Vec<bool> = [0, 1100, 2200, 3300]
        .map(|ms| identity.subject_at(&gone, &comm(b"x"), host.after(ms)).fixed)
        .into();
    assert_eq!(fixed, [false, false, true, true]);
    // It may exist later: the name stays.
    assert_eq!(
        identity.subject_at(&gone, &comm(b"y"), host.after(90_000)).label,
        "x"
    );
}

#[test]
fn who_asks_without_the_name_does_not_take_it_away() {
    let host = Host::new();
    let mut identity = host.identity();
    let mut ask = |name: &[u8], ms| {
        let subject = identity.subject_at(&key(1, 7), &comm(name), host.after(ms));
        (subject.label.clone(), subject.fixed)
    };
    // Dead before it was read: what the kernel has said is all there is.
    assert_eq!(ask(b"dig", 0), ("dig".into(), false));
    assert_eq!(ask(b"", 1000), ("dig".into(), false));
    assert_eq!(ask(b"", 2000), ("dig".into(), true));
    assert_eq!(ask(b"", 9000), ("dig".into(), true));

    let mut identity = host.identity();
    let mut ask = |name: &[u8], ms| {
        let subject = identity.subject_at(&key(1, 7), &comm(name), host.after(ms));
        subject.label.clone()
    };
    assert_eq!(
        (ask(b"", 0), ask(b"", 1000), ask(b"", 2000)),
        (UNKNOWN.into(), UNKNOWN.into(), UNKNOWN.into())
    );
    assert_eq!(ask(b"dig", 2001), "dig", "it comes late, and is taken at once");
}

#[test]
fn a_reused_cgroup_id_loses_its_old_name() {
    let host = Host::new();
    let id = host.cgroup("old.service");
    let mut identity = host.identity();
    assert_eq!(
        identity.subject_at(&key(id, 0), &comm(b""), host.now).label,
        "old.service"
    );
    fs::rename(
        host.cgroups.path().join("old.service"),
        host.cgroups.path().join("new.service"),
    )
    .unwrap();
    identity.subject_at(&key(1 << 60, 0), &comm(b""), host.after(60_000));
    assert_eq!(
        identity
            .subject_at(&key(id, 0), &comm(b""), host.after(60_000))
            .label,
        "new.service"
    );
}

#[test]
fn hostile_names_are_harmless() {
    let host = Host::new();
    let evil = host.cgroup("a\u{1b}[2J\n\u{202e}\".service");
    let mut identity = host.identity();
    let subject = identity.subject_at(&key(evil, 0), b"\xff\n\x1b[2J\"\\{}aaaaaa", host.now);
    assert_eq!(subject.label, "a\u{fffd}[2J\u{fffd}\u{fffd}\".service");
    assert_eq!(subject.process, "\u{fffd}\u{fffd}\u{fffd}[2J\"\\{}aaaaaa");
    for i in 0..100_000u32 {
        identity.subject_at(&key(1, 1000 + i), &comm(b"storm"), host.now);
    }
    assert!(identity.subjects.len() <= CAPACITY);
    assert_eq!(identity.cgroups.walks(), 1);
}
