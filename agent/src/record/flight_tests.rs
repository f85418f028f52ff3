use super::*;
use crate::config::Bytes;
use crate::record::format::{self, Step};
use crate::record::reader::Chunks;
use crate::record::segments::list;
use crate::record::{Clock, Past, Replay};

fn meta() -> Meta {
    Meta {
        geophone: "test".into(),
        layout: agent_common::wire::LAYOUT,
        kernel: String::new(),
        host: "h".into(),
        start_unix_nanos: 7,
        settings: serde_json::json!({"probes": {"tunnel": {"enabled": false}}}),
        left_out: Vec::new(),
    }
}

fn settings(directory: &Path) -> FlightSettings {
    FlightSettings {
        minutes: 2,
        directory: directory.to_owned(),
        max_size: Bytes::mib(16),
        dump_on_alert: true,
    }
}

fn until(what: &str, mut is: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is() {
        assert!(began.elapsed() < Duration::from_secs(20), "{what} did not come");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn second(start: Instant, n: u64) -> Clock {
    Clock {
        now: start + Duration::from_secs(n),
        unix_nanos: (1_700_000_000 + n) * 1_000_000_000,
        boot_to_unix: 0,
    }
}

fn run(flight: &Flight, seconds: std::ops::Range<u64>) {
    let start = Instant::now();
    if seconds.start == 0 {
        flight.tape.fact("engine_error", b"\"none here\"".to_vec());
        flight.tape.end(Step::Attach, &second(start, 0), &[]);
    }
    for n in seconds {
        flight.tape.fact("second", n.to_string().into_bytes());
        flight.tape.end(Step::Tick, &second(start, n), &[]);
        until("the disk", || flight.stats().waiting == 0);
    }
}

fn ticks(dump: &[u8]) -> Vec<u64> {
    let mut replay = Replay::new(dump, Path::new("dump")).unwrap();
    let mut out = Vec::new();
    while let Some(snapshot) = replay.tick().unwrap() {
        out.push(snapshot.unix_nanos / 1_000_000_000 - 1_700_000_000);
    }
    let left_out = replay.left_out().unwrap();
    assert!(left_out.ends_with("none here"), "{left_out}");
    out
}

#[test]
fn the_last_minutes_are_dumped_and_replayed_and_each_segment_alone() {
    let scratch = tempfile::tempdir().unwrap();
    let flight = Flight::open(&settings(scratch.path()), meta()).unwrap();
    run(&flight, 0..300);
    let mut out = Vec::new();
    flight.dump(&mut out).unwrap();
    let seen = ticks(&out);
    let expected: Vec<u64> = (seen[0]..300).collect();
    assert_eq!(seen, expected, "seconds are missing");
    assert!((120..=144).contains(&seen.len()), "{} s", seen.len());
    let stats = flight.stats();
    assert_eq!(
        (stats.ticks, stats.written.ticks, stats.waiting, stats.lost),
        (300, 300, 0, 0)
    );
    let mut all = Vec::new();
    for segment in list(scratch.path()).unwrap() {
        all.extend(ticks(&fs::read(&segment.path).unwrap()));
    }
    assert_eq!(all, seen);
}

/// The last segment is cut at each of its bytes, as by a crash: what is before it and what is whole of it is there.
#[test]
fn a_crash_at_any_byte_of_the_last_segment_leaves_the_rest() {
    let scratch = tempfile::tempdir().unwrap();
    let flight = Flight::open(&settings(scratch.path()), meta()).unwrap();
    run(&flight, 0..17);
    drop(flight);
    let last = list(scratch.path()).unwrap().pop().unwrap().path;
    let whole = fs::read(&last).unwrap();
    let mut most = 0;
    for end in 0..=whole.len() {
        fs::write(&last, whole.get(..end).unwrap()).unwrap();
        let mut out = Vec::new();
        dump(scratch.path(), Of::Back(0), &mut out).unwrap();
        let seen = ticks(&out);
        assert!(seen.len() >= most.max(13), "cut at {end}: {seen:?}");
        most = seen.len();
        assert_eq!(seen, (0..most as u64).collect::<Vec<_>>());
    }
    assert_eq!(most, 17);
}

#[test]
fn what_the_disk_does_not_take_is_counted_and_it_goes_on_by_itself() {
    let scratch = tempfile::tempdir().unwrap();
    let flight = Flight::open(&settings(scratch.path()), meta()).unwrap();
    run(&flight, 0..20);
    // A second that no reader would take.
    let huge = vec![b' '; format::LONGEST + 1];
    flight.tape.fact("huge", huge);
    run(&flight, 20..40);
    let stats = flight.stats();
    assert_eq!(stats.waiting, 0);
    assert!(stats.lost > 0, "{stats:?}");
    // What is told anew is no longer too long.
    flight.tape.fact("huge", b"1".to_vec());
    run(&flight, 40..60);
    let after = flight.stats();
    assert_eq!(
        (after.ticks, after.written.ticks + after.lost),
        (60, 60),
        "{after:?}"
    );
    assert!(after.written.ticks > stats.written.ticks, "{after:?}");
    let mut out = Vec::new();
    flight.dump(&mut out).unwrap();
    let mut replay = Replay::new(&out, Path::new("dump")).unwrap();
    let mut replayed = 0;
    while replay.tick().unwrap().is_some() {
        replayed += 1;
    }
    assert_eq!(replayed, after.written.ticks);
    let lost = after.lost;
    let told = replay.left_out().unwrap();
    assert!(
        told.contains(&format!("{lost} ticks were never written")),
        "{told}"
    );
}

/// Cause: what is known does not fit into one chunk. Seen: it is written in several, and whoever begins there knows all of it.
#[test]
fn what_is_known_may_take_several_chunks() {
    let scratch = tempfile::tempdir().unwrap();
    let flight = Flight::open(&settings(scratch.path()), meta()).unwrap();
    run(&flight, 0..1);
    let text = serde_json::to_vec(&"x".repeat(10_000)).unwrap();
    for n in 0..30 {
        flight.tape.fact(&format!("fact {n}"), text.clone());
    }
    // Longer than a segment, so that the first is not there any more.
    run(&flight, 1..300);
    assert_eq!(flight.stats().lost, 0);
    let mut out = Vec::new();
    flight.dump(&mut out).unwrap();
    let (past, mut chunks) = (
        Past::new(),
        Chunks::new(out.as_slice(), None, Path::new("dump")).unwrap(),
    );
    let mut begun = 0;
    loop {
        let frames = chunks.next().unwrap();
        begun += 1;
        match past.advance(&mut format::Reader(&frames)).unwrap() {
            Some(step) => {
                assert_eq!(step, Step::Begin);
                break;
            }
            None => assert!(begun < 10),
        }
    }
    assert!(begun >= 4, "{begun} chunks");
    assert!(
        past.jumped().is_some(),
        "it is known that it does not go on from before"
    );
    let known = (0..30).filter_map(|n| past.fact::<String>(&format!("fact {n}")));
    assert_eq!(known.filter(|text| text.len() == 10_000).count(), 30);
    let seen = ticks(&out);
    assert_eq!(seen, (seen[0]..300).collect::<Vec<_>>());
}

#[test]
fn an_alert_dumps_and_what_alerts_have_dumped_is_bounded() {
    let scratch = tempfile::tempdir().unwrap();
    let flight = Flight::open(&settings(scratch.path()), meta()).unwrap();
    run(&flight, 0..10);
    flight.alert("../High loss");
    flight.alert("Another");
    until("the dump", || flight.dumps() == (1, 0));
    let dumps = alert_dumps(scratch.path()).unwrap();
    let name = dumps[0].0.file_name().unwrap().to_str().unwrap();
    assert!(name.ends_with("-___High_loss.geophone"), "{name}");
    assert_eq!(
        ticks(&fs::read(&dumps[0].0).unwrap()),
        (0..10).collect::<Vec<_>>()
    );

    let most = dumps[0].1 * 5 / 2;
    for n in 0..6 {
        let ring = Ring {
            directory: scratch.path().to_owned(),
            own: Of::Began(7),
            most: most + flight.on_disk().0,
        };
        ring.dump_for(&format!("a{n}")).unwrap();
        let (_, dumped) = flight.on_disk();
        assert!(dumped <= most + flight.on_disk().0, "{dumped} bytes");
    }
    let names = alert_dumps(scratch.path()).unwrap();
    assert!((2..=3).contains(&names.len()), "{names:?}");

    // On an idle machine each is small: then their number is what is bounded, and the oldest go first.
    for n in 0..MOST_DUMPS + 20 {
        fs::write(scratch.path().join(format!("alert-{n:010}-x.geophone")), "").unwrap();
    }
    make_room(scratch.path(), u64::MAX, MOST_DUMPS).unwrap();
    let left = alert_dumps(scratch.path()).unwrap();
    assert_eq!(left.len(), MOST_DUMPS);
    assert!(
        left.iter()
            .any(|(path, _)| path.ends_with(format!("alert-{:010}-x.geophone", MOST_DUMPS + 19)))
    );
}
