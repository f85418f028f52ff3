use super::*;
use std::sync::OnceLock;

const SECOND: u64 = 1_000_000_000;

fn meta(start: u64) -> Meta {
    Meta {
        geophone: "test".into(),
        layout: agent_common::wire::LAYOUT,
        kernel: String::new(),
        host: "h".into(),
        start_unix_nanos: start,
        settings: serde_json::json!({}),
        left_out: Vec::new(),
    }
}

fn open(directory: &Path, start: u64, keep: u64, most: u64) -> Segments {
    Segments::open(directory, meta(start), Duration::from_secs(keep), most).unwrap()
}

fn names(directory: &Path) -> Vec<u64> {
    list(directory)
        .unwrap()
        .iter()
        .map(|s| (s.began - begin().1) / SECOND)
        .collect()
}

/// A second of a machine whose clock is right.
fn at(second: u64) -> Clock {
    clock(second, second)
}

/// A moment, and what the clock says then, ns since the epoch: whole seconds.
fn begin() -> (Instant, u64) {
    static START: OnceLock<(Instant, u64)> = OnceLock::new();
    *START.get_or_init(|| {
        let now = Clock::read();
        (now.now, now.unix_nanos / SECOND * SECOND)
    })
}

/// A second by which the clock says another one.
fn clock(second: u64, says: u64) -> Clock {
    let (now, unix_nanos) = begin();
    Clock {
        now: now + Duration::from_secs(second),
        unix_nanos: unix_nanos + says * SECOND,
        boot_to_unix: 0,
    }
}

fn chunk(second: u64) -> Vec<u8> {
    format::chunk(format!("the frames of second {second}").as_bytes())
}

fn frames(recording: &[u8]) -> Vec<String> {
    let chunks = Chunks::new(recording, None, Path::new("dump")).unwrap();
    chunks.map(|frames| String::from_utf8(frames).unwrap()).collect()
}

fn dumped(directory: &Path, back: usize) -> Vec<u8> {
    let mut out = Vec::new();
    let dumped = dump(directory, Of::Back(back), &mut out).unwrap();
    assert_eq!(dumped.bytes, out.len() as u64);
    out
}

#[test]
fn what_is_kept_is_the_last_seconds_and_a_segment_more() {
    let scratch = tempfile::tempdir().unwrap();
    let mut ring = open(scratch.path(), 1, 20, 1 << 20);
    for second in 0..100 {
        ring.append(&chunk(second), second % 5 == 0, &at(second)).unwrap();
        let first = names(scratch.path())[0];
        let reaches = second - first;
        assert!(
            second < 25 || (20..25).contains(&reaches),
            "{reaches} s at {second}"
        );
    }
    let dump = dumped(scratch.path(), 0);
    let expected: Vec<String> = (75..100).map(|s| format!("the frames of second {s}")).collect();
    assert_eq!(frames(&dump), expected);
}

#[test]
fn no_more_bytes_than_allowed_lie_on_the_disk_at_any_time() {
    let scratch = tempfile::tempdir().unwrap();
    let most = 4096;
    let mut ring = open(scratch.path(), 1, 1_000_000, most);
    for second in 0..1000 {
        ring.append(&chunk(second), second % 7 == 0, &at(second)).unwrap();
        let on_disk: u64 = list(scratch.path()).unwrap().iter().map(|s| s.bytes).sum();
        assert!(on_disk <= most && on_disk == total(&ring.all), "{on_disk} bytes");
    }
    assert!(frames(&dumped(scratch.path(), 0)).len() > 14);
    // One that cannot fit is lost; what begins anew goes on.
    let huge = format::chunk(
        &(0..most)
            .flat_map(|n| n.wrapping_mul(0x9e37_79b9).to_le_bytes())
            .collect::<Vec<u8>>(),
    );
    assert!(ring.append(&huge, false, &at(1001)).is_err());
    ring.append(&chunk(1002), true, &at(1002)).unwrap();
    assert_eq!(
        frames(&dumped(scratch.path(), 0)).last().unwrap(),
        "the frames of second 1002"
    );
}

#[test]
fn a_crash_at_any_byte_costs_what_was_not_whole_and_the_next_agent_goes_on() {
    let scratch = tempfile::tempdir().unwrap();
    let mut ring = open(scratch.path(), 1, 1000, 1 << 20);
    for second in 0..6 {
        ring.append(&chunk(second), second % 3 == 0, &at(second)).unwrap();
    }
    let last = ring.all.back().unwrap().0.path.clone();
    drop(ring);
    let whole = fs::read(&last).unwrap();
    let head = format::head(&meta(1)).len();
    let each = chunk(3).len();
    for end in 0..=whole.len() {
        fs::write(&last, whole.get(..end).unwrap()).unwrap();
        let kept = 3 + end.saturating_sub(head) / each;
        let dump = dumped(scratch.path(), 0);
        assert_eq!(frames(&dump).len(), kept, "cut at byte {end} of {}", whole.len());
        assert_eq!(dump, dumped(scratch.path(), 0));
    }
    fs::write(&last, whole.get(..whole.len() - 1).unwrap()).unwrap();
    let mut next = open(scratch.path(), 2, 1000, 1 << 20);
    next.append(&chunk(9), false, &at(9)).unwrap();
    assert_eq!(frames(&dumped(scratch.path(), 0)), ["the frames of second 9"]);
    assert_eq!(
        frames(&dumped(scratch.path(), 1)).len(),
        5,
        "the agent that crashed"
    );
    assert!(dump(scratch.path(), Of::Back(2), &mut Vec::new()).is_err());
}

#[test]
fn a_clock_that_is_set_back_disturbs_no_order() {
    let scratch = tempfile::tempdir().unwrap();
    let mut ring = open(scratch.path(), 1, 1000, 1 << 20);
    for (n, says) in [50, 60, 10, 20, 70].into_iter().enumerate() {
        let n = n as u64;
        ring.append(&chunk(n), true, &clock(n, says)).unwrap();
    }
    let expected: Vec<String> = (0..5).map(|s| format!("the frames of second {s}")).collect();
    assert_eq!(frames(&dumped(scratch.path(), 0)), expected);
}

#[test]
fn two_agents_do_not_share_a_directory() {
    let scratch = tempfile::tempdir().unwrap();
    let _one = open(scratch.path(), 1, 1000, 1 << 20);
    let two = Segments::open(scratch.path(), meta(2), Duration::from_secs(1), 1 << 20);
    assert!(
        two.err()
            .unwrap()
            .to_string()
            .contains("another agent records here")
    );
}

/// Cause: the clock is set back by a day, or forth. Seen: what is kept is the time that is wanted all the same.
#[test]
fn what_is_kept_does_not_depend_on_what_the_clock_says() {
    for says in [
        |s: u64| 200_000 - 1000 * u64::from(s >= 50),
        |s| 200_000 + 50_000 * u64::from(s >= 50),
    ] {
        let scratch = tempfile::tempdir().unwrap();
        let mut ring = open(scratch.path(), 1, 20, 1 << 20);
        for second in 0..100 {
            let at = clock(second, says(second) + second);
            ring.append(&chunk(second), second % 5 == 0, &at).unwrap();
            let seconds = frames(&dumped(scratch.path(), 0)).len() as u64;
            assert!(
                seconds == second + 1 || (20..=25).contains(&seconds),
                "{seconds} s at {second}"
            );
        }
    }
}

/// Cause: an agent has begun and written nothing yet; one before it has. Seen: what is asked for as its own is not the other's.
#[test]
fn a_dump_is_of_the_agent_that_is_meant() {
    let scratch = tempfile::tempdir().unwrap();
    let mut ring = open(scratch.path(), 1, 1000, 1 << 20);
    ring.append(&chunk(1), true, &at(1)).unwrap();
    drop(ring);
    let mut ring = open(scratch.path(), 2, 1000, 1 << 20);
    let error = dump(scratch.path(), Of::Began(2), &mut Vec::new()).unwrap_err();
    assert!(error.to_string().contains("has written nothing yet"), "{error}");
    ring.append(&chunk(2), true, &at(2)).unwrap();
    for (began, second) in [(1, 1), (2, 2)] {
        let mut out = Vec::new();
        dump(scratch.path(), Of::Began(began), &mut out).unwrap();
        assert_eq!(frames(&out), [format!("the frames of second {second}")]);
    }
    assert_eq!(frames(&dumped(scratch.path(), 1)), ["the frames of second 1"]);
}

/// Cause: the recorder is off and a ring is there. Seen: while it is young, or somebody's, it stays; then it is gone.
#[test]
fn what_nobody_keeps_is_removed_when_it_is_old() {
    let scratch = tempfile::tempdir().unwrap();
    assert_eq!(clear(&scratch.path().join("none"), Duration::ZERO).unwrap(), None);
    let mut ring = open(scratch.path(), 1, 1000, 1 << 20);
    ring.append(&chunk(1), true, &at(1)).unwrap();
    clear(scratch.path(), Duration::ZERO).unwrap();
    assert_eq!(names(scratch.path()).len(), 1, "another agent has it");
    drop(ring);
    let dump = scratch.path().join("alert-1-A.geophone");
    fs::write(&dump, "kept").unwrap();
    let left = clear(scratch.path(), Duration::from_secs(100)).unwrap();
    assert!(
        left.is_some_and(|left| left > Duration::from_secs(90)),
        "{left:?}"
    );
    assert_eq!(names(scratch.path()).len(), 1);
    assert_eq!(clear(scratch.path(), Duration::ZERO).unwrap(), None);
    assert!(names(scratch.path()).is_empty() && dump.exists());
}
