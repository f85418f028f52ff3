//! Since when something waits.

use super::tests::{entry, open};
use super::*;

/// Cause: a place is dead, and told each minute; what waits is stale after ten, so that the next takes the place of all. Seen: how
/// long it was not told grows all the time, also over a restart, and begins anew once it has taken something. It was a saw-tooth
/// of 0 to 600 s, of which `> 300 for 5m` never fires.
#[test]
fn what_takes_the_place_of_others_waits_since_the_first_of_them() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("q");
    // Stale after a second here.
    let (mut queue, _) = open(&path, 1 << 20);
    assert_eq!(queue.oldest(), None);
    let mut superseded = 0;
    for at in (1_000..20_000).step_by(100) {
        superseded += queue.push(entry("a", at, "")).superseded;
        assert_eq!(queue.oldest(), Some(1_000), "{at}");
    }
    assert!(superseded > 100, "{superseded}");
    queue.rewrite().unwrap();
    std::mem::forget(queue);
    let (mut queue, _) = open(&path, 1 << 20);
    assert_eq!(queue.oldest(), Some(1_000));
    // The first that waits need not be the one that has waited for the longest.
    let _ = queue.push(entry("b", 20_000, ""));
    let _ = queue.push(entry("a", 21_000, ""));
    assert_eq!(queue.front().unwrap().entry.notification.group_key, "b");
    assert_eq!(queue.oldest(), Some(1_000));
    while let Some(one) = queue.take(&BTreeSet::new()) {
        let _ = queue.done(one.number, Outcome::Delivered);
    }
    assert_eq!(queue.oldest(), None);
    let _ = queue.push(entry("a", 30_000, ""));
    assert_eq!(queue.oldest(), Some(30_000));
}

/// Cause: a file of a version that did not write since when something waits. Seen: it waits since it was made.
#[test]
fn what_was_written_before_waits_since_it_was_made() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("q");
    let record = serde_json::to_string(&Record::made(1, 5, &entry("a", 5, ""))).unwrap();
    let old = record.replace("\"since\":5,", "");
    assert_ne!(old, record);
    let mut bytes = MAGIC.to_vec();
    bytes.extend((old.len() as u32).to_le_bytes());
    bytes.extend(crc32fast::hash(old.as_bytes()).to_le_bytes());
    bytes.extend(old.as_bytes());
    std::fs::write(&path, bytes).unwrap();
    let (queue, found) = open(&path, 1 << 20);
    assert_eq!((queue.oldest(), found.lost), (Some(5), 0));
}
