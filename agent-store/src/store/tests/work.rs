//! Who works when, and who waits for whom.

use super::*;
use crate::store::block::read::Data;
use std::time::{Duration, Instant};

/// Whether something happens within ten seconds.
fn soon(happened: impl Fn() -> bool) -> bool {
    let start = Instant::now();
    while !happened() {
        if start.elapsed().as_secs() >= 10 {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}

#[test]
fn a_disk_that_stands_still_keeps_nobody_waiting_for_statistics() {
    let home = tempfile::tempdir().unwrap();
    let (store, _) = open(home.path());
    fill(&store, 3, 0, 10);
    store.sync();
    // As a write that does not end holds it.
    let held = lock(&store.inner.log_file);
    let (send, told) = std::sync::mpsc::channel();
    let bytes = std::thread::scope(|scope| {
        scope.spawn(|| send.send(store.stats().disk_bytes));
        let bytes = told.recv_timeout(Duration::from_secs(10));
        drop(held);
        bytes
    });
    let log = std::fs::metadata(home.path().join("0000000001.log")).unwrap();
    assert_eq!(bytes, Ok(log.len()));
}

#[test]
fn the_log_is_written_while_blocks_are_merged() {
    let home = tempfile::tempdir().unwrap();
    let settings = Settings {
        sync_interval: Duration::from_millis(10),
        ..quiet()
    };
    let (store, _) = Store::open(Place::Directory(home.path().to_owned()), settings).unwrap();
    let merging = lock(&store.inner.upkeep);
    let worker = Worker::start(&store.inner, Duration::from_millis(10)).unwrap();
    // Long enough for the other thread to begin, and wait.
    std::thread::sleep(Duration::from_millis(100));
    fill(&store, 3, 0, 700);
    assert!(soon(|| store.stats().disk_bytes > 0));
    assert_eq!(store.stats().blocks, 0);
    drop(merging);
    assert!(soon(|| store.stats().blocks == 1));
    worker.stop();
}

#[test]
fn a_log_that_could_not_be_written_is_tried_again_within_seconds() {
    let settings = Settings {
        sync_interval: Duration::from_mins(1),
        ..quiet()
    };
    let (store, _) = Store::open(Place::Memory, settings).unwrap();
    assert_eq!(worker::pause(&store.inner), Duration::from_mins(1));
    store.inner.waiting.store(1, Ordering::Relaxed);
    assert_eq!(worker::pause(&store.inner), worker::UPKEEP);
}

/// Puts a block's first column on a bad sector.
fn spoil(store: &Store, number: usize) {
    let bad = {
        let block = &store.inner.view().blocks[number];
        let name = open::block_path(store.inner.directory.as_ref().unwrap(), block.id);
        let bytes = std::fs::read(name).unwrap();
        let first = block.group(0).unwrap()[0].columns[0].chunk.offset;
        Arc::new(Block::open(block.id, Data::Bad(bytes, first)).unwrap())
    };
    store.inner.replace(|view| view.blocks[number] = bad);
}

#[test]
fn a_bad_sector_costs_the_column_that_is_on_it() {
    let home = tempfile::tempdir().unwrap();
    let (store, _) = open(home.path());
    fill(&store, 40, 0, 300);
    store.flush();
    spoil(&store, 0);
    let found = select(&store, &[]);
    let lengths = found.iter().map(|series| series.samples.floats.times.len());
    assert_eq!(lengths.collect::<Vec<_>>()[..3], [0, 300, 300]);
    assert_eq!(found.len(), 40);
    let stats = store.stats();
    assert_eq!((stats.damaged, stats.write_failures), (1, 0), "{stats:?}");
    assert_eq!(stats.findings, ["block 1: a bad sector; the rest is used"]);
    assert_eq!(store.verify().damaged.len(), 1);
}

#[test]
fn a_block_that_cannot_be_read_stays_and_the_others_are_merged() {
    let home = tempfile::tempdir().unwrap();
    let (store, _) = open(home.path());
    for ten in 0..12 {
        fill(&store, 40, ten * 600, ten * 600 + 600);
        store.maintain();
    }
    store.flush();
    assert_eq!(store.stats().blocks, 12);
    spoil(&store, 4);
    fill(&store, 40, 7200, 7201);
    store.maintain();
    // Four, the bad one, seven.
    let stats = store.stats();
    assert_eq!((stats.blocks, stats.damaged, stats.write_failures), (3, 1, 0));
    drop(store);
    // On a disk that has got over it nothing is missing.
    let (store, _) = open(home.path());
    fill(&store, 40, 7201, 7202);
    store.maintain();
    assert_eq!(store.stats().blocks, 1);
    assert_filled(&store, 40, 0, 7202);
}

#[test]
fn a_failed_sync_is_not_taken_for_repaired_by_the_next() {
    let home = tempfile::tempdir().unwrap();
    let (store, _) = open(home.path());
    fill(&store, 3, 0, 100);
    store.sync();
    // Writes there succeed, and syncing them does not.
    let spoil = || {
        let null = File::options().write(true).open("/dev/null").unwrap();
        lock(&store.inner.log_file).current.as_mut().unwrap().file = null;
    };
    spoil();
    fill(&store, 3, 100, 110);
    store.sync();
    let stats = store.stats();
    assert_eq!((stats.write_failures, stats.unlogged), (1, 30), "{stats:?}");
    fill(&store, 3, 110, 120);
    store.sync();
    // A segment that ends meanwhile fails as well, and the one behind it is good.
    spoil();
    fill(&store, 3, 120, 125);
    store.inner.freeze(&mut write(&store.inner.live));
    fill(&store, 3, 125, 130);
    store.sync();
    store.sync();
    let stats = store.stats();
    assert_eq!((stats.write_failures, stats.unlogged), (2, 45), "{stats:?}");
    assert_filled(&store, 3, 0, 130);
    // As a power cut leaves it: what comes after a failure is understood without what is lost.
    let (reader, report) = Store::open(Place::ReadOnly(home.path().to_owned()), quiet()).unwrap();
    assert_eq!((report.damaged, report.torn), (0, 0), "{report:?}");
    let times = &select(&reader, &[])[0].samples.floats.times;
    let ticks: Vec<Millis> = times.iter().map(|time| (time - START) / 1000).collect();
    assert_eq!(
        ticks,
        (0..100).chain(110..120).chain(125..130).collect::<Vec<_>>()
    );
    // The block has all.
    store.maintain();
    drop(store);
    assert_filled(&open(home.path()).0, 3, 0, 130);
}
