//! What the kernel writes, and what is made of it.

use super::read::{Found, read, walk};
use super::*;
use std::fs;

/// A hierarchy with these files.
fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    write(home.path(), files);
    home
}

fn write(home: &Path, files: &[(&str, &str)]) {
    for (path, text) in files {
        let path = home.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
}

const POD: &str = "kubepods.slice/kubepods-pod0a1b2c3d_0a1b_0a1b_0a1b_0a1b2c3d4e5f.slice";

fn container(pod: &str) -> String {
    format!("{pod}/cri-containerd-{}.scope", "ab".repeat(32))
}

/// The groups of a walk, by their paths, which are in order.
fn groups(home: &Path) -> Vec<(String, Group)> {
    let Found { groups, .. } = walk(home);
    let mut found: Vec<(String, Group)> = groups
        .into_iter()
        .map(|group| {
            let path = group.path.strip_prefix(home).unwrap();
            (path.to_str().unwrap().to_owned(), group)
        })
        .collect();
    found.sort_by(|a, b| a.0.cmp(&b.0));
    found
}

/// Cause: a pod with a limit that two containers share, a unit with something in it, a user's manager with an application, and a
/// cgroup of no kind. Seen: each once and as sockets name it; the pod for who was killed in it; and its limit with its own use.
#[test]
fn each_is_found_once_and_shares_the_limits_above_it() {
    let container = container(POD);
    let home = tree(&[
        (&format!("{POD}/memory.max"), "1000\n"),
        (&format!("{POD}/memory.current"), "900\n"),
        (&format!("{POD}/pids.max"), "max\n"),
        (&format!("{POD}/pids.current"), "7\n"),
        (&format!("{POD}/cpu.stat"), "usage_usec 9\n"),
        (&format!("{POD}/memory.events"), "oom_kill 3\n"),
        (&format!("{container}/cpu.stat"), "usage_usec 5\n"),
        (&format!("{container}/cpu.max"), "150000 100000\n"),
        (&format!("{container}/memory.current"), "400\n"),
        (&format!("{container}/memory.max"), "2000\n"),
        (&format!("{container}/memory.events"), "oom_kill 1\n"),
        (&format!("{container}/pids.current"), "5\n"),
        (&format!("{container}/pids.max"), "70\n"),
        (&format!("{container}/init.scope/cpu.stat"), "usage_usec 1\n"),
        ("system.slice/a.service/inner/cpu.stat", "usage_usec 1\n"),
        (
            "user.slice/user@1000.service/app.slice/app-x.scope/cpu.stat",
            "usage_usec 1\n",
        ),
        ("bare/cpu.stat", "usage_usec 1\n"),
    ]);
    let found = groups(home.path());
    let paths: Vec<&str> = found.iter().map(|(path, _)| path.as_str()).collect();
    let app = "user.slice/user@1000.service/app.slice/app-x.scope";
    assert_eq!(paths, ["bare", POD, &container, "system.slice/a.service", app]);
    let nowhere = Path::new("/nowhere");
    let pod = read(&found[1].1, nowhere).unwrap();
    let kills = Reading {
        oom_kills: Some(3),
        ..Reading::default()
    };
    assert_eq!(pod, kills);
    let reading = read(&found[2].1, nowhere).unwrap();
    assert_eq!(reading.memory, [(400.0, Some(2000.0)), (900.0, Some(1000.0))]);
    assert_eq!(reading.tasks, [(5.0, Some(70.0))]);
    assert_eq!(
        (reading.cores, reading.oom_kills),
        (Some(1.5), None),
        "the pod says it"
    );
    let unit = &found[3].1;
    assert_eq!(read(unit, nowhere), None, "it has no cpu.stat: it is gone");
    let mut other = found[2].1.clone();
    other.id += 1;
    assert_eq!(read(&other, nowhere), None, "another one of that name");
    assert!(walk(nowhere).groups.is_empty());
}

#[test]
fn each_file_is_read_as_the_kernel_writes_it() {
    let home = tree(&[
        (
            "a/cpu.stat",
            "usage_usec 1500\nuser_usec 1000\nnr_throttled 3\nthrottled_usec 700\n",
        ),
        ("a/cpu.max", "max 100000\n"),
        ("a/memory.current", "5000\n"),
        ("a/memory.max", "max\n"),
        (
            "a/memory.stat",
            "anon 1\nfile 4500\ninactive_anon 1\ninactive_file 4000\n",
        ),
        ("a/memory.events", "low 0\noom 2\noom_kill 1\noom_group_kill 0\n"),
        ("a/pids.current", "4\n"),
        (
            "a/cpu.pressure",
            "some avg10=0.00 avg60=0.00 avg300=0.00 total=90\nfull avg10=0.00 total=30\n",
        ),
        // A hostile or a foreign file is no reason to say something.
        ("a/io.pressure", "some total=much\n"),
        ("a/cgroup.procs", "0\n17\n18\nx/../17\n"),
        (
            "proc/17/limits",
            "Limit  Soft Limit  Hard Limit  Units\nMax open files            1024                 4096                 files     \n",
        ),
    ]);
    fs::create_dir_all(home.path().join("proc/17/fd")).unwrap();
    let group = groups(home.path()).remove(0).1;
    let reading = read(&group, &home.path().join("proc")).unwrap();
    assert_eq!(reading.cores, None);
    assert_eq!(
        (reading.cpu, reading.throttled, reading.oom_kills),
        (Some(1500), Some(700), Some(1))
    );
    assert_eq!(reading.memory, [(1000.0, None)]);
    assert_eq!(reading.tasks, [(4.0, None)]);
    assert_eq!(reading.waits, [Some(90), Some(30), None, None]);
    // The size of that directory is the one of a real file system.
    let size = fs::metadata(home.path().join("proc/17/fd")).unwrap().len();
    let wanted = (size >= 256).then_some((size as f64, 1024.0));
    assert_eq!(reading.files, wanted);
}

/// Opens more files than are looked at twice, and finds itself.
#[test]
fn a_process_with_many_files_is_found_by_its_own_limit() {
    let open: Vec<_> = (0..300).map(|_| fs::File::open("/dev/null").unwrap()).collect();
    let home = tree(&[
        ("a/cpu.stat", "usage_usec 1\n"),
        ("a/cgroup.procs", &format!("{}\n", std::process::id())),
    ]);
    let group = groups(home.path()).remove(0).1;
    let files = read(&group, Path::new("/proc")).unwrap().files;
    let size = fs::metadata("/proc/self/fd").unwrap().len();
    if size == 0 {
        println!("SKIPPED: before Linux 6.2 nobody counts open files");
        return;
    }
    let (used, limit) = files.unwrap();
    let truth = fs::read_dir("/proc/self/fd").unwrap().count() as f64;
    // Tests beside this one open files too.
    assert!(
        (used - truth).abs() < 200.0 && used >= open.len() as f64,
        "{used} of {truth}"
    );
    let soft = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE)
        .unwrap()
        .0;
    assert_eq!(limit, soft as f64);
}

#[test]
fn of_several_the_fullest_counts_and_without_limits_all() {
    let mut uses = Uses::default();
    for (used, limit) in [
        (10.0, Some(100.0)),
        (90.0, Some(1000.0)),
        (60.0, Some(100.0)),
        (5.0, None),
    ] {
        uses.add("memory", used, limit);
    }
    for used in [3.0, 4.0] {
        uses.add("tasks", used, None);
    }
    let all: Vec<_> = uses.iter().collect();
    assert_eq!(all, [("memory", 60.0, Some(100.0)), ("tasks", 7.0, None)]);
}

/// Gives all rows a name.
fn named(probe: &mut Cgroup) {
    for row in probe.rows.values_mut() {
        row.is_read = false;
        let now = Instant::now();
        row.total = Some(probe.totals.place(Some(Name::plain("a")), now, |other| {
            Total::new(Name::plain("a"), other, 0)
        }));
    }
    probe.add(Instant::now());
}

fn cpu(probe: &mut Cgroup) -> Vec<f64> {
    let mut out = Vec::new();
    probe.collect(&mut out);
    let family = out
        .into_iter()
        .find(|family| std::ptr::eq(family.metric, &CPU))
        .unwrap();
    let values = family.series.into_iter().map(|series| match series.value {
        Value::CounterF(value) => value,
        _ => f64::NAN,
    });
    values.collect()
}

/// Cause: two cgroups of one subject; one was there before the agent, one comes later, and goes. Seen: what each has used since
/// the agent began, and nothing that has been counted is lost.
#[test]
fn what_was_used_before_is_not_counted_and_what_has_ended_stays() {
    let home = tree(&[("old/cpu.stat", "usage_usec 5000000\n")]);
    let options = Options {
        interval: Duration::from_secs(1),
        max_series: 100,
    };
    let mut probe = Cgroup::at(options, Some(home.path().to_owned()), Path::new("/nowhere"));
    let start = Instant::now();
    let second = |n| start + Duration::from_secs(n);
    let look = |probe: &mut Cgroup, n| {
        let batch = probe.live(second(n), false);
        probe.take(batch);
        named(probe);
        cpu(probe)
    };
    assert_eq!(look(&mut probe, 0), [0.0]);
    write(
        home.path(),
        &[
            ("old/cpu.stat", "usage_usec 6000000\n"),
            ("new/cpu.stat", "usage_usec 250000\n"),
        ],
    );
    assert_eq!(look(&mut probe, 1), [1.25], "the new one from its beginning");
    fs::remove_dir_all(home.path().join("new")).unwrap();
    assert_eq!(look(&mut probe, 2), [1.25]);
    assert_eq!(probe.rows.len(), 1, "it is gone");
    assert_eq!(look(&mut probe, 2), [1.25], "nothing is due twice");
}

/// Cause: a slice whose only child goes, with all that it has counted of it. Seen: nothing of that is new.
#[test]
fn what_becomes_a_leaf_has_counted_before() {
    let home = tree(&[
        ("a.slice/cpu.stat", "usage_usec 90000000\n"),
        ("a.slice/b.slice/cpu.stat", "usage_usec 1000000\n"),
    ]);
    let options = Options {
        interval: Duration::from_secs(1),
        max_series: 100,
    };
    let mut probe = Cgroup::at(options, Some(home.path().to_owned()), Path::new("/nowhere"));
    let start = Instant::now();
    let mut seen = Vec::new();
    for n in 0..3 {
        let batch = probe.live(start + Duration::from_secs(40 * n), false);
        probe.take(batch);
        named(&mut probe);
        seen.extend(cpu(&mut probe));
        if n == 0 {
            fs::remove_dir_all(home.path().join("a.slice/b.slice")).unwrap();
        }
    }
    assert_eq!(seen, [0.0, 0.0, 0.0]);
    assert_eq!(probe.rows.len(), 1, "it is a subject now");
}

/// Cause: a hundred cgroups and an interval of a minute, of which a thousandth is enough to read them. Seen: after the first round, which reads all at once, some in each tick.
#[test]
fn they_are_read_by_and_by() {
    let files: Vec<String> = (0..100).map(|n| format!("g{n}/cpu.stat")).collect();
    let files: Vec<(&str, &str)> = files
        .iter()
        .map(|path| (path.as_str(), "usage_usec 1\n"))
        .collect();
    let home = tree(&files);
    let options = Options {
        interval: Duration::from_secs(60),
        max_series: 100,
    };
    let mut probe = Cgroup::at(options, Some(home.path().to_owned()), Path::new("/nowhere"));
    let start = Instant::now();
    let counts: Vec<usize> = (0..180)
        .map(|n| {
            let batch = probe.live(start + Duration::from_secs(n), false);
            let count = batch.len();
            probe.take(batch);
            count
        })
        .collect();
    assert_eq!(counts[0], 100);
    assert_eq!(counts[1..60].iter().sum::<usize>(), 0);
    for round in [&counts[60..120], &counts[120..]] {
        assert_eq!(round.iter().sum::<usize>(), 100, "{counts:?}");
        assert!(round.iter().all(|n| *n <= 4), "{counts:?}");
    }
}

/// Cause: three containers of one workload that wait, in two rounds. Seen: as long as the one that waited most in each, not their sum.
#[test]
fn containers_that_wait_at_once_wait_once() {
    let reading = |micros| Reading {
        waits: [None, Some(micros), None, None],
        ..Reading::default()
    };
    let mut waits = Waits::default();
    let mut add = |id, before, now| {
        waits.add(id, &reading(now), &reading(before));
        waits.micros[1]
    };
    assert_eq!(
        [add(1, 0, 50), add(2, 0, 50), add(3, 0, 80)],
        [Some(50), Some(50), Some(80)]
    );
    assert_eq!(
        [add(2, 50, 60), add(1, 50, 80), add(3, 80, 80), add(3, 80, 90)],
        [Some(90), Some(110), Some(110), Some(120)]
    );
    assert_eq!(waits.micros[0], None);
}
