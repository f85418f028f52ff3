//! Power cuts, kills, damage, full disks, and a second agent.

use super::*;
use crate::histogram::Histogram;
use std::path::{Path, PathBuf};

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

fn last(directory: &Path, ending: &str) -> PathBuf {
    let number = *logfile::numbered(directory, ending).unwrap().last().unwrap();
    directory.join(format!("{number:010}.{ending}"))
}

#[test]
fn a_log_cut_at_every_byte_loses_only_what_is_behind_the_cut() {
    let home = tempfile::tempdir().unwrap();
    let (store, _) = open(home.path());
    let mut ends = Vec::new();
    for tick in 0..40 {
        fill(&store, 5, tick, tick + 1);
        store.sync();
        ends.push(std::fs::metadata(last(home.path(), "log")).unwrap().len() as usize);
    }
    let bytes = std::fs::read(last(home.path(), "log")).unwrap();
    for cut in 0..=bytes.len() {
        let other = tempfile::tempdir().unwrap();
        std::fs::write(other.path().join("0000000001.log"), &bytes[..cut]).unwrap();
        let (store, report) = open(other.path());
        let whole = ends.iter().filter(|end| **end <= cut).count();
        assert_filled(&store, 5, 0, whole);
        assert_eq!(
            (report.replayed, report.damaged),
            (whole as u64 * 5, 0),
            "cut at {cut}"
        );
    }
}

#[test]
fn a_block_cut_at_every_byte_comes_back_from_the_log() {
    let home = tempfile::tempdir().unwrap();
    let (store, _) = open(home.path());
    fill(&store, 5, 0, 610);
    store.sync();
    store.maintain();
    let block = std::fs::read(last(home.path(), "block")).unwrap();
    let log = std::fs::read(home.path().join("0000000001.log")).unwrap();
    let rest = std::fs::read(home.path().join("0000000002.log")).unwrap();
    for cut in 0..block.len() {
        let other = tempfile::tempdir().unwrap();
        std::fs::write(other.path().join("0000000001.block"), &block[..cut]).unwrap();
        std::fs::write(other.path().join("0000000001.log"), &log).unwrap();
        std::fs::write(other.path().join("0000000002.log"), &rest).unwrap();
        let (store, report) = open(other.path());
        assert_eq!((report.blocks, report.damaged), (0, 1), "cut at {cut}");
        assert!(report.findings[0].contains("0000000001.damaged"), "{report:?}");
        assert_filled(&store, 5, 0, 610);
    }
}

#[test]
fn a_store_goes_on_where_it_was_killed() {
    let home = tempfile::tempdir().unwrap();
    let copies = tempfile::tempdir().unwrap();
    let mut at = home.path().to_owned();
    for round in 0..6 {
        let (store, report) = open(&at);
        assert_eq!(report.damaged, 0);
        assert_filled(&store, 7, 0, round * 700);
        fill(&store, 7, round * 700, (round + 1) * 700);
        store.sync();
        if round % 2 == 1 {
            store.maintain();
        }
        // A copy is what a kill leaves.
        let next = copies.path().join(round.to_string());
        copy(&at, &next);
        at = next;
    }
    let (store, _) = open(&at);
    store.maintain();
    assert_filled(&store, 7, 0, 4200);
    // Those of the last block, and the live one.
    assert!(logfile::numbered(&at, "log").unwrap().len() <= 3);
}

#[test]
fn a_merge_that_was_not_tidied_up_counts_once() {
    let home = tempfile::tempdir().unwrap();
    let (store, _) = open(home.path());
    fill(&store, 3, 0, 7190);
    store.maintain();
    let copies = tempfile::tempdir().unwrap();
    copy(home.path(), copies.path());
    fill(&store, 3, 7190, 7201);
    store.sync();
    store.maintain();
    assert_eq!(store.stats().blocks, 1);
    drop(store);
    copy(home.path(), copies.path());
    let (store, report) = open(copies.path());
    assert_eq!(report.blocks, 1);
    assert_filled(&store, 3, 0, 7201);
    assert_eq!(logfile::numbered(copies.path(), "block").unwrap().len(), 1);
}

#[test]
fn a_flipped_byte_of_a_block_is_noticed_and_the_rest_is_used() {
    let home = tempfile::tempdir().unwrap();
    let (store, _) = open(home.path());
    fill(&store, 50, 0, 100);
    store.flush();
    drop(store);
    let good = std::fs::read(last(home.path(), "block")).unwrap();
    let log = last(home.path(), "log");
    std::fs::remove_file(log).unwrap();
    for at in (8..good.len()).step_by(3) {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        std::fs::write(last(home.path(), "block"), &bad).unwrap();
        let (store, report) = Store::open(Place::ReadOnly(home.path().to_owned()), quiet()).unwrap();
        let found = select(&store, &[]);
        for series in &found {
            let number = series
                .labels
                .get("peer")
                .trim_start_matches("peer-")
                .parse()
                .unwrap();
            let floats = &series.samples.floats;
            assert!(floats.values.is_empty() || floats.values.len() == 100);
            assert!(
                floats
                    .values
                    .iter()
                    .enumerate()
                    .all(|(tick, v)| *v == value(number, tick))
            );
        }
        let stats = store.stats();
        let whole = found
            .iter()
            .filter(|series| !series.samples.floats.values.is_empty())
            .count();
        assert!(
            stats.damaged > 0 && stats.findings.len() == 1 || whole == 50,
            "byte {at}: {report:?} {stats:?}"
        );
    }
}

#[test]
fn a_damaged_log_costs_the_ticks_until_the_next_key() {
    let home = tempfile::tempdir().unwrap();
    let (store, _) = open(home.path());
    fill(&store, 20, 0, 500);
    drop(store);
    let name = last(home.path(), "log");
    let mut bytes = std::fs::read(&name).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&name, &bytes).unwrap();
    let (store, report) = open(home.path());
    assert_eq!(report.damaged, 1);
    assert!(
        report.findings[0].starts_with("log 1: damaged in 1 places"),
        "{report:?}"
    );
    let found = select(&store, &[]);
    assert_eq!(found.len(), 20);
    let ticks = found[0].samples.floats.times.len();
    assert!((440..500).contains(&ticks), "{ticks}");
    for (at, series) in found.iter().enumerate() {
        for (time, v) in series
            .samples
            .floats
            .times
            .iter()
            .zip(&series.samples.floats.values)
        {
            assert_eq!(*v, value(at, ((time - START) / 1000) as usize));
        }
    }
}

#[test]
fn a_second_agent_is_refused_and_a_reader_is_not() {
    let home = tempfile::tempdir().unwrap();
    let (store, _) = open(home.path());
    fill(&store, 4, 0, 1000);
    store.sync();
    let refusal = Store::open(Place::Directory(home.path().to_owned()), quiet())
        .err()
        .unwrap();
    assert!(
        refusal.contains(&format!("in use by process {}", std::process::id())),
        "{refusal}"
    );
    let read = || {
        Store::open(Place::ReadOnly(home.path().to_owned()), quiet())
            .unwrap()
            .0
    };
    assert_filled(&read(), 4, 0, 1000);
    store.maintain();
    assert_filled(&read(), 4, 0, 1000);
    drop(store);
    assert_filled(&open(home.path()).0, 4, 0, 1000);
}

#[test]
fn a_reader_misses_nothing_that_is_merged_while_it_opens() {
    let home = tempfile::tempdir().unwrap();
    let (store, _) = open(home.path());
    fill(&store, 4, 0, 500);
    store.flush();
    drop(store);
    std::fs::remove_file(last(home.path(), "log")).unwrap();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // What replaces a block is there before that goes.
            for number in 2.. {
                let before = open::block_path(home.path(), number - 1);
                std::fs::hard_link(&before, open::block_path(home.path(), number)).unwrap();
                std::fs::remove_file(before).unwrap();
                if done.load(Ordering::Relaxed) {
                    break;
                }
                std::thread::sleep(std::time::Duration::from_micros(200));
            }
        });
        let read = || Store::open(Place::ReadOnly(home.path().to_owned()), quiet()).unwrap();
        let whole = (0..500)
            .filter(|_| {
                let (store, report) = read();
                report.damaged > 0 || store.stats().samples >= 2000
            })
            .count();
        done.store(true, Ordering::Relaxed);
        assert_eq!(whole, 500);
    });
    // One that is listed and never there.
    std::os::unix::fs::symlink("nowhere", home.path().join("0123456789.block")).unwrap();
    let (store, report) = Store::open(Place::ReadOnly(home.path().to_owned()), quiet()).unwrap();
    assert_eq!(report.damaged, 1, "{report:?}");
    assert_filled(&store, 4, 0, 500);
}

#[test]
fn histograms_and_new_series_come_back_from_the_log() {
    let home = tempfile::tempdir().unwrap();
    let (store, _) = open(home.path());
    let latency = store.register(&labels("latency", 0)).unwrap();
    for tick in 0..200 {
        let histogram = Histogram {
            schema: 3,
            zero_threshold: 1e-6,
            count: f64::from(tick / 3),
            sum: if tick == 150 {
                crate::series::STALE
            } else {
                f64::from(tick / 3) * 0.1
            },
            positive: vec![(-70, 1.0), (tick / 50, f64::from(tick / 3))],
            negative: vec![(3, 0.5)],
            is_gauge: tick > 100,
            ..Histogram::default()
        };
        let late = store.register(&labels("late", tick as usize / 20)).unwrap();
        let samples = [
            (late, Value::Float(0.1)),
            (latency, Value::Histogram(Arc::new(histogram))),
        ];
        // The counter of one tick in three stays away, at keys as well.
        store.append(
            START + Millis::from(tick) * 1000,
            &samples[usize::from(tick % 3 == 0)..],
        );
    }
    let before = select(&store, &[]);
    assert_eq!(before.len(), 11);
    drop(store);
    let after = select(&open(home.path()).0, &[]);
    assert_eq!(format!("{after:?}"), format!("{before:?}"));
}

/// A file system of a few MiB, unmounted at the end.
struct Small(tempfile::TempDir);

impl Small {
    fn new(size: &str) -> Option<Self> {
        let home = tempfile::tempdir().unwrap();
        let mount = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "store-test"])
            .arg(home.path())
            .stderr(std::process::Stdio::null())
            .status();
        mount.is_ok_and(|status| status.success()).then(|| Self(home))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount")
            .arg("-l")
            .arg(self.0.path())
            .status();
    }
}

#[test]
fn a_full_disk_costs_nothing_once_there_is_room_again() {
    // As nobody there is no file system to fill.
    let Some(small) = Small::new("2m") else {
        return eprintln!("skipped: this needs root, to mount a tmpfs");
    };
    let home = small.0.path().join("store");
    let (store, _) = open(&home);
    fill(&store, 20, 0, 100);
    store.sync();
    let ballast = small.0.path().join("ballast");
    // Fills the rest to the last byte.
    let full = std::io::copy(&mut std::io::repeat(1), &mut File::create(&ballast).unwrap());
    assert_eq!(full.unwrap_err().kind(), std::io::ErrorKind::StorageFull);
    for tick in 100..1300 {
        fill(&store, 20, tick, tick + 1);
        store.sync();
    }
    store.maintain();
    let stats = store.stats();
    assert!(stats.write_failures > 1000 && stats.blocks == 0, "{stats:?}");
    assert!(
        stats
            .findings
            .iter()
            .any(|f| f.starts_with("cannot write the log")),
        "{stats:?}"
    );
    assert!(
        stats
            .findings
            .iter()
            .any(|f| f.starts_with("cannot write a block")),
        "{stats:?}"
    );
    assert_filled(&store, 20, 0, 1300);
    std::fs::remove_file(&ballast).unwrap();
    store.sync();
    store.maintain();
    let stats = store.stats();
    assert_eq!((stats.blocks, stats.unlogged, stats.lost), (2, 0, 0));
    drop(store);
    assert_filled(&open(&home).0, 20, 0, 1300);
}

#[test]
fn the_worker_heals_within_ten_seconds_and_counts_what_the_log_never_had() {
    let Some(small) = Small::new("64m") else {
        return eprintln!("skipped: this needs root, to mount a tmpfs");
    };
    let home = small.0.path().join("store");
    let settings = Settings {
        sync_interval: std::time::Duration::from_millis(100),
        ..Settings::default()
    };
    let (store, _) = Store::open(Place::Directory(home.clone()), settings).unwrap();
    fill(&store, 1, 0, 1);
    let ballast = small.0.path().join("ballast");
    let _ = std::io::copy(&mut std::io::repeat(1), &mut File::create(&ballast).unwrap());
    // More than the log may hold back: the counters are random, so that each takes its bytes.
    let refs: Vec<SeriesRef> = (0..2000)
        .map(|at| store.register(&labels("y", at)).unwrap())
        .collect();
    let mut bits = 1u64;
    for tick in 1..700 {
        let next = |series: &SeriesRef| {
            bits = bits.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (*series, Value::Float(f64::from_bits(bits >> 2)))
        };
        store.append(START + tick * 1000, &refs.iter().map(next).collect::<Vec<_>>());
    }
    assert!(store.stats().unlogged > 0, "{:?}", store.stats());
    let ticks = |store: &Store| {
        select(store, &[Matcher::equal("peer", "peer-1999")])[0]
            .samples
            .floats
            .times
            .len()
    };
    assert_eq!(ticks(&store), 699);
    std::fs::remove_file(&ballast).unwrap();
    let start = std::time::Instant::now();
    let failures = || store.stats().write_failures;
    let healed = || {
        let before = failures();
        std::thread::sleep(std::time::Duration::from_millis(500));
        before == failures()
    };
    while !healed() {
        assert!(start.elapsed().as_secs() < 10);
    }
    // What comes now is in the log, and understood without what was given up.
    store.append(START + 800_000, &[(refs[1999], Value::Float(7.0))]);
    store.sync();
    drop(store);
    let (store, _) = Store::open(Place::ReadOnly(home), quiet()).unwrap();
    let last = &select(&store, &[Matcher::equal("peer", "peer-1999")])[0]
        .samples
        .floats;
    assert_eq!(
        (last.times.last(), last.values.last()),
        (Some(&(START + 800_000)), Some(&7.0))
    );
}
