use super::*;
use crate::alert::Alert;
use crate::notification::{Notification, Told};
use agent_store::labels::Labels;
use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;

pub(super) fn alert(name: &str, text: &str) -> Alert {
    Alert {
        labels: Labels::new([("alertname", name)]),
        annotations: Arc::new(BTreeMap::from([("summary".to_owned(), text.to_owned())])),
        active_at: 1,
        starts_at: 2,
        ends_at: None,
        generator_url: "http://h".into(),
    }
}

/// Of a group: one alert that fires and is told, one that is muted, but was told before.
pub(super) fn entry(group: &str, at: i64, text: &str) -> Entry {
    let (told, muted) = (alert(group, text), alert("Muted", "m"));
    let open = [&told, &muted].map(|alert| (alert.fingerprint(), at));
    Entry {
        receiver: 1,
        integration: 2,
        notification: Notification {
            receiver: "ops".to_owned(),
            group_key: group.to_owned(),
            group_labels: Labels::new([("g", group)]),
            at,
            alerts: vec![told.clone()],
            external_url: "http://h".to_owned(),
            lasts: 0,
        },
        memo: Memo {
            receiver: "ops".to_owned(),
            group_key: group.to_owned(),
            group_labels: Labels::new([("g", group)]),
            told: Told {
                at,
                open: BTreeMap::from(open),
                ended: BTreeMap::from([(7, 5)]),
            },
            open: vec![told, muted],
        },
    }
}

pub(super) fn open(path: &Path, most: u64) -> (Queue, Found) {
    let limits = Limits {
        bytes: most,
        stale: 1_000,
    };
    Queue::open(path, limits, (1, 2)).unwrap()
}

fn groups(queue: &Queue) -> Vec<&str> {
    let waiting = queue.waiting.iter();
    waiting
        .map(|one| one.entry.notification.group_key.as_str())
        .collect()
}

#[test]
fn what_waits_and_what_was_told_is_there_again() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("q");
    let (mut queue, found) = open(&path, 1 << 20);
    assert_eq!(found, Found::default());
    let hostile = "\"}\r\n<b>\u{0}é".repeat(1000);
    let entries = [
        entry("a", 10, &hostile),
        entry("b", 20, ""),
        entry("a", 30, "later"),
    ];
    for one in &entries {
        let pushed = queue.push(one.clone());
        assert_eq!((pushed.dropped.len(), pushed.written), (0, Ok(())));
    }
    let first = queue.front().unwrap().number;
    assert_eq!(queue.done(first, Outcome::Delivered), (true, Ok(())));
    assert_eq!(queue.done(first, Outcome::Delivered), (false, Ok(())));
    // No drop, no flush: the process is killed here.
    std::mem::forget(queue);
    let (queue, found) = open(&path, 1 << 20);
    assert_eq!(found, Found::default());
    assert_eq!(groups(&queue), ["b", "a"]);
    assert_eq!(queue.front().unwrap().entry, entries[1]);
    let memos: Vec<&Memo> = queue.memos().collect();
    assert_eq!(memos, [&entries[2].memo, &entries[1].memo]);
}

#[test]
fn the_oldest_makes_room() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("q");
    let size = write(&Record::made(1, 1, &entry("a", 1, ""))).len() as u64;
    let (mut queue, _) = open(&path, 3 * size + size / 2);
    for group in ["a", "b", "c"] {
        assert!(queue.push(entry(group, 1, "")).dropped.is_empty());
    }
    let dropped = queue.push(entry("d", 1, "")).dropped;
    assert_eq!(dropped.len(), 1);
    assert_eq!(groups(&queue), ["b", "c", "d"]);
    std::mem::forget(queue);
    let (queue, found) = open(&path, 2 * size + size / 2);
    assert_eq!((groups(&queue), found.dropped.len()), (vec!["c", "d"], 1));
    // Larger than the whole queue: alone it may be in it.
    drop(queue);
    let (mut queue, found) = open(&path, 10);
    assert!(queue.is_empty());
    // Until somebody has taken note a restart finds what had to go, then or now.
    let mut given_up: Vec<Entry> = found.given_up;
    given_up.extend(found.dropped.into_iter().map(|one| one.entry));
    assert_eq!(given_up, ["a", "b", "c", "d"].map(|group| entry(group, 1, "")));
    assert_eq!(open(&path, 10).1.given_up, given_up);
    let _ = queue.push(entry("e", 1, ""));
    assert_eq!(groups(&queue), ["e"]);
}

#[test]
fn what_was_given_up_is_found_until_something_is_remembered_of_its_group() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("q");
    let (mut queue, _) = open(&path, 1 << 20);
    let entries = ["a", "b", "c"].map(|group| entry(group, 1, ""));
    for (one, outcome) in entries
        .iter()
        .zip([Outcome::Refused, Outcome::Expired, Outcome::Delivered])
    {
        let _ = queue.push(one.clone());
        let number = queue.front().unwrap().number;
        let _ = queue.done(number, outcome);
    }
    std::mem::forget(queue);
    let (mut queue, found) = open(&path, 1 << 20);
    assert_eq!((found.given_up, queue.len()), (entries[..2].to_vec(), 0));
    queue.remember(entries[0].memo.clone()).unwrap();
    std::mem::forget(queue);
    let (mut queue, found) = open(&path, 1 << 20);
    assert_eq!(found.given_up, entries[1..2]);
    // The same group has told more since; what was given up stays, and what holds is the later.
    let later = entry("b", 2, "");
    let _ = queue.push(later.clone());
    let number = queue.front().unwrap().number;
    let _ = queue.done(number, Outcome::Delivered);
    queue.rewrite().unwrap();
    drop(queue);
    let (mut queue, found) = open(&path, 1 << 20);
    let given_up = found.given_up;
    assert_eq!(given_up.len(), 1);
    assert_eq!(given_up[0].notification, entries[1].notification);
    let memo = |queue: &Queue| queue.memos().find(|memo| memo.group_key == "b").cloned();
    assert_eq!(memo(&queue).unwrap().told, later.memo.told);
    // Without what is not due any more, as it is given back.
    let mut recalled = given_up[0].clone();
    recalled.notification.alerts.clear();
    queue.settle(&recalled);
    queue.rewrite().unwrap();
    drop(queue);
    let (queue, found) = open(&path, 1 << 20);
    assert_eq!(
        (found, memo(&queue).unwrap().told),
        (Found::default(), later.memo.told)
    );
}

#[test]
fn torn_and_broken_records_cost_themselves_only() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("q");
    let (mut queue, _) = open(&path, 1 << 20);
    for group in ["a", "b", "c"] {
        let _ = queue.push(entry(group, 1, ""));
    }
    let whole = fs::read(&path).unwrap();
    let size = (whole.len() - MAGIC.len()) / 3;
    for end in [whole.len() - 1, whole.len() - size + 3, whole.len() - size] {
        fs::write(&path, &whole[..end]).unwrap();
        let (mut queue, found) = open(&path, 1 << 20);
        assert_eq!(groups(&queue), ["a", "b"], "{end}");
        assert_eq!(found.lost, (end - (whole.len() - size)) as u64);
        let _ = queue.push(entry("d", 1, ""));
        drop(queue);
        let (queue, found) = open(&path, 1 << 20);
        assert_eq!((groups(&queue), found.lost), (vec!["a", "b", "d"], 0));
    }
    let mut flipped = whole.clone();
    flipped[MAGIC.len() + size + 20] ^= 1;
    fs::write(&path, &flipped).unwrap();
    let (queue, found) = open(&path, 1 << 20);
    assert_eq!((groups(&queue), found.lost), (vec!["a", "c"], size as u64));
    drop(queue);
    for bytes in [&b"something else"[..], &whole[..3], &[0xff; 100]] {
        fs::write(&path, bytes).unwrap();
        let (mut queue, found) = open(&path, 1 << 20);
        assert_eq!((queue.len(), found.lost), (0, bytes.len() as u64));
        let _ = queue.push(entry("a", 1, ""));
        drop(queue);
        assert_eq!(groups(&open(&path, 1 << 20).0), ["a"]);
    }
}

#[test]
fn history_does_not_grow_for_ever() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("q");
    let (mut queue, _) = open(&path, 1 << 20);
    let text = "x".repeat(50_000);
    for at in 0..200 {
        let _ = queue.push(entry("a", at, &text));
        let number = queue.front().unwrap().number;
        let _ = queue.done(number, Outcome::Delivered);
    }
    let length = fs::metadata(&path).unwrap().len();
    assert!(length < 2 * HISTORY, "{length}");
    drop(queue);
    let (mut queue, _) = open(&path, 1 << 20);
    assert_eq!(queue.memos().next().unwrap().told.at, 199);
    let mut memo = queue.memos().next().unwrap().clone();
    memo.told.at = 0;
    queue.remember(memo).unwrap();
    drop(queue);
    assert_eq!(open(&path, 1 << 20).0.memos().next().unwrap().told.at, 0);
}

#[test]
fn many_memos_are_not_written_anew_each_time() {
    use std::os::unix::fs::MetadataExt as _;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("q");
    let (mut queue, _) = open(&path, 1 << 20);
    let text = "x".repeat(50_000);
    let (mut anew, mut last) = (0, 0);
    for at in 0..150 {
        let _ = queue.push(entry(&at.to_string(), at, &text));
        let number = queue.front().unwrap().number;
        let _ = queue.done(number, Outcome::Delivered);
        let inode = fs::metadata(&path).unwrap().ino();
        anew += i32::from(std::mem::replace(&mut last, inode) != inode);
    }
    assert!(anew < 8, "{anew}");
}

#[test]
fn what_is_of_another_group_may_go_first() {
    let directory = tempfile::tempdir().unwrap();
    let (mut queue, _) = open(&directory.path().join("q"), 1 << 20);
    for (group, at) in [("a", 1), ("a", 2), ("b", 3), ("b", 4)] {
        let _ = queue.push(entry(group, at, ""));
    }
    let first = |aside: &[&str]| {
        let aside = aside.iter().map(|group| (*group).to_owned()).collect();
        queue.first_but(&aside).unwrap().entry.notification.at
    };
    assert_eq!(
        [first(&[]), first(&["a"]), first(&["b"]), first(&["a", "b"])],
        [1, 3, 1, 1]
    );
}

#[test]
fn a_full_disk_is_told_and_what_waits_is_written_once_there_is_room() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("d/q");
    fs::create_dir(path.parent().unwrap()).unwrap();
    let (mut queue, _) = open(&path, 1 << 20);
    // A file that takes nothing more, and a place where none can be made.
    queue.file = File::open("/dev/null").unwrap();
    let away = directory.path().join("away");
    fs::rename(path.parent().unwrap(), &away).unwrap();
    assert!(queue.push(entry("a", 1, "")).written.is_err());
    assert!(queue.push(entry("b", 1, "")).written.is_err());
    assert_eq!(queue.len(), 2, "they are in memory");
    fs::rename(&away, path.parent().unwrap()).unwrap();
    assert_eq!(queue.push(entry("c", 1, "")).written, Ok(()));
    drop(queue);
    assert_eq!(groups(&open(&path, 1 << 20).0), ["a", "b", "c"]);
}

#[test]
fn what_waited_for_too_long_is_told_by_the_next_of_its_group() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("q");
    let (mut queue, _) = open(&path, 1 << 20);
    let of = |at: i64, alerts: &[(&str, Option<i64>)]| {
        let mut one = entry("a", at, "");
        let alerts = alerts.iter().map(|(name, ends_at)| Alert {
            ends_at: *ends_at,
            ..alert(name, &at.to_string())
        });
        one.notification.alerts = alerts.collect();
        one
    };
    let said = |queue: &Queue| -> Vec<Vec<(String, Option<i64>, String)>> {
        let one = |alert: &Alert| {
            let text = alert.annotations["summary"].clone();
            (alert.labels.get("alertname").to_owned(), alert.ends_at, text)
        };
        let all = queue.waiting.iter();
        all.map(|waiting| waiting.entry.notification.alerts.iter().map(one).collect())
            .collect()
    };
    assert!(queue.push(entry("other", 10, "")).written.is_ok());
    // A fires and ends, B ends, C fires and is silenced: none of it is delivered.
    for (one, superseded, waiting) in [
        (of(10, &[("A", None), ("C", None)]), 0, 2),
        (of(500, &[("A", Some(400)), ("B", Some(300))]), 0, 3),
        (of(900, &[("D", None), ("E", None)]), 0, 4),
        (of(1010, &[("E", Some(1000)), ("F", None)]), 3, 2),
        (of(1500, &[("F", None)]), 0, 3),
    ] {
        let pushed = queue.push(one);
        assert_eq!((pushed.superseded, pushed.written), (superseded, Ok(())));
        assert_eq!((pushed.dropped.len(), queue.len()), (0, waiting));
    }
    let alert = |name: &str, ends_at, text: &str| (name.to_owned(), ends_at, text.to_owned());
    let wanted = [
        vec![alert("other", None, "")],
        vec![
            alert("C", None, "10"),
            alert("D", None, "900"),
            alert("F", None, "1010"),
            alert("A", Some(400), "500"),
            alert("B", Some(300), "500"),
            alert("E", Some(1000), "1010"),
        ],
        vec![alert("F", None, "1500")],
    ];
    assert_eq!(said(&queue), wanted);
    std::mem::forget(queue);
    // Killed here; then with what it had taken the place of, where the end was torn off.
    let (queue, found) = open(&path, 1 << 20);
    assert_eq!((said(&queue), found), (wanted.to_vec(), Found::default()));
    drop(queue);
    let bytes = fs::read(&path).unwrap();
    let (all, _) = read(&bytes[MAGIC.len()..]);
    let last: u64 = all.iter().rev().take(4).map(|(_, size)| *size).sum();
    fs::write(&path, &bytes[..bytes.len() - last as usize]).unwrap();
    let (queue, found) = open(&path, 1 << 20);
    assert_eq!((queue.len(), found.given_up.len()), (5, 0));
    assert_eq!(said(&queue)[4], wanted[1]);
}

/// Cause: while one is tried, later ones of its group come, and so many that there is no room. Seen: it stays until it is known what
/// came of it, and its outcome is counted; what is put back may be superseded.
#[test]
fn what_is_being_tried_is_neither_superseded_nor_dropped() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("q");
    let size = write(&Record::made(1, 1, &entry("a", 1, ""))).len() as u64;
    let (mut queue, _) = open(&path, 4 * size + size / 2);
    let _ = queue.push(entry("a", 1, ""));
    let tried = queue.take(&BTreeSet::new()).unwrap();
    // Stale for the second, which takes the place of none; the third takes that of the second.
    for (at, superseded) in [(5_000, 0), (10_000, 1)] {
        let pushed = queue.push(entry("a", at, ""));
        assert_eq!((pushed.superseded, pushed.dropped.len()), (superseded, 0));
    }
    assert_eq!(
        (groups(&queue), queue.front().unwrap().number),
        (vec!["a", "a"], tried.number)
    );
    for group in ["b", "c", "d"] {
        let _ = queue.push(entry(group, 10_000, ""));
    }
    assert_eq!(queue.front().unwrap().number, tried.number);
    assert_eq!(groups(&queue), ["a", "b", "c", "d"]);
    assert_eq!(queue.done(tried.number, Outcome::Delivered), (true, Ok(())));
    let tried = queue.take(&BTreeSet::from(["b".to_owned()])).unwrap();
    assert_eq!(tried.entry.notification.group_key, "c");
    queue.put_back();
    assert_eq!(queue.push(entry("c", 20_000, "")).superseded, 1);
    assert_eq!(groups(&queue), ["b", "d", "c"]);
}

/// Cause: a group that tells again and again while its place does not answer. Seen: it has half of the queue, in which it says all that
/// it has to say, and pushes out nothing of another.
#[test]
fn a_noisy_group_has_half_of_the_queue() {
    let directory = tempfile::tempdir().unwrap();
    let (mut queue, _) = open(&directory.path().join("q"), 10_000);
    let _ = queue.push(entry("quiet", 1, ""));
    let mut superseded = 0;
    for at in 2..200 {
        let mut noisy = entry("noisy", at, "");
        noisy.notification.alerts = vec![alert(&format!("A{}", at % 7), "")];
        let pushed = queue.push(noisy);
        assert!(pushed.dropped.is_empty(), "{at}");
        superseded += pushed.superseded;
        let held = queue
            .waiting
            .iter()
            .filter(|one| one.entry.notification.group_key == "noisy");
        let held: u64 = held.map(|one| one.bytes).sum();
        assert!(held <= 5_000, "{held} at {at}");
    }
    assert!(superseded > 100, "{superseded}");
    assert_eq!(queue.front().unwrap().entry.notification.group_key, "quiet");
    let said = queue
        .waiting
        .iter()
        .flat_map(|one| &one.entry.notification.alerts);
    let said: BTreeSet<&str> = said.map(|alert| alert.labels.get("alertname")).collect();
    assert_eq!(said.len(), 1 + 7, "nothing of what it said is lost: {said:?}");
}

/// Cause: while a place does not answer, a group tells of ever other alerts, each of which ends. Seen: it has half of the queue, in
/// which it says what is newest; the rest is given back, with one outcome for each that was made, and nothing of another group goes.
#[test]
fn ever_other_alerts_do_not_grow_without_limit() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("q");
    let (mut queue, _) = open(&path, 20_000);
    let _ = queue.push(entry("quiet", 1, ""));
    let (mut superseded, mut dropped) = (0, 0);
    let (mut back, mut last) = (BTreeSet::new(), 0);
    let rounds = 300;
    for round in 0..rounds {
        let at = 10 + round * 60_000;
        let mut noisy = entry("noisy", at, "");
        let ended = Alert {
            ends_at: Some(at - 1),
            ..alert(&format!("A{:03}", round - 1), "")
        };
        noisy.notification.alerts = vec![alert(&format!("A{round:03}"), ""), ended];
        let pushed = queue.push(noisy);
        superseded += pushed.superseded;
        dropped += pushed.dropped.len() as u64;
        for one in &pushed.dropped {
            assert_eq!(one.entry.notification.group_key, "noisy");
            assert!(one.entry.notification.at < at);
            let names = one.entry.notification.alerts.iter();
            back.extend(names.map(|alert| alert.labels.get("alertname").to_owned()));
            queue.settle(&one.entry);
        }
        let noisy = |one: &&Waiting| one.entry.notification.group_key == "noisy";
        last = queue.waiting.iter().filter(noisy).map(|one| one.bytes).sum();
        assert!(last <= 10_000, "{last} at {round}");
    }
    assert!(last > 8_000, "what has room is said: {last}");
    assert!(dropped > 0 && queue.given_up.is_empty());
    assert_eq!(rounds as u64 + 1, superseded + dropped + queue.len() as u64);
    assert_eq!(queue.front().unwrap().entry.notification.group_key, "quiet");
    let said = queue.waiting.iter().skip(1);
    let said = said.flat_map(|one| &one.entry.notification.alerts);
    let said: BTreeSet<String> = said
        .map(|alert| alert.labels.get("alertname").to_owned())
        .collect();
    assert_eq!(said.intersection(&back).count(), 0, "given back or said");
    assert!(
        back.iter().all(|old| said.iter().all(|new| old < new)),
        "{said:?}"
    );
    assert_eq!(said.len() + back.len(), rounds as usize + 1, "nothing is lost");
}

/// Cause: one that is larger than the whole queue. Seen: it waits beside the others, which would go for nothing; another such one
/// takes its place.
#[test]
fn one_that_never_fits_drops_no_other() {
    let directory = tempfile::tempdir().unwrap();
    let (mut queue, _) = open(&directory.path().join("q"), 5_000);
    for group in ["a", "b"] {
        let _ = queue.push(entry(group, 1, ""));
    }
    let text = "x".repeat(6_000);
    assert!(queue.push(entry("huge", 1, &text)).dropped.is_empty());
    let pushed = queue.push(entry("larger", 1, &text));
    assert_eq!(pushed.dropped.len(), 1);
    assert_eq!(groups(&queue), ["a", "b", "larger"]);
    assert!(queue.push(entry("c", 1, "")).dropped.is_empty());
    assert_eq!(groups(&queue), ["a", "b", "larger", "c"]);
}
