//! Routes that tell only at some times.

use super::*;
use crate::interval::{Interval, Schedule, Written};

#[test]
fn a_route_tells_in_its_times_and_an_end_always() {
    let minutes = |from: u32, to: u32| {
        let times = [(format!("22:{from:02}"), format!("22:{to:02}"))];
        let one = Interval::new(Written {
            times: &times,
            ..Written::default()
        });
        Arc::<[Interval]>::from([one.unwrap()])
    };
    // 22:13:20; it looks each minute from 22:13:50 on.
    let below = |schedule: Schedule| Route {
        receiver: None,
        group_by: None,
        group_wait: None,
        group_interval: None,
        repeat_interval: None,
        schedule,
        ..route("ops")
    };
    let tree = |schedule: Schedule| Route {
        routes: vec![below(schedule)],
        ..route("ops")
    };
    let receivers = || vec![receiver("ops", &[true])];
    let mute = tree(Schedule {
        mute: vec![minutes(13, 16)],
        ..Schedule::default()
    });
    let mut dispatcher = with(&mute, receivers(), Vec::new());
    let one = alert("A", "db", T);
    for (after, said) in [(0, ""), (30, ""), (90, ""), (150, ""), (210, "0: +db")] {
        let told = step(&mut dispatcher, T + after * SECOND, just(&one));
        assert_eq!(told.join(","), said, "{after}");
        let state = dispatcher.states(T + after * SECOND, &Silences::default());
        let wanted = if after < 160 { "muted" } else { "" };
        assert_eq!(state, [(&one, wanted)], "{after}");
    }
    let active = tree(Schedule {
        active: vec![minutes(13, 14)],
        ..Schedule::default()
    });
    let mut dispatcher = with(&active, receivers(), Vec::new());
    assert_eq!(step(&mut dispatcher, T, just(&one)), NOTHING);
    assert_eq!(step(&mut dispatcher, T + 30 * SECOND, just(&one)), ["0: +db"]);
    // Another comes when nothing is told any more, and goes with the one whose end is.
    let both = [one.clone(), alert("A", "web", T + 60 * SECOND)];
    assert_eq!(step(&mut dispatcher, T + 90 * SECOND, &both), NOTHING);
    let ends = both.map(|one| over(&one, T + 140 * SECOND));
    assert_eq!(step(&mut dispatcher, T + 150 * SECOND, &ends), ["0: -db"]);
    assert_eq!(
        Routes::new(&below(mute.routes[0].schedule.clone()))
            .unwrap_err()
            .0,
        "mute_time_intervals"
    );
}
