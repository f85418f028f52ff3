//! What is lost, and what a restart makes of it.

use super::*;

#[test]
fn what_could_not_be_delivered_is_due_again() {
    let mut it = one();
    let a = alert("A", "1", T);
    step(&mut it, T, just(&a));
    let first = entries(&mut it, T + 30 * SECOND, just(&a), &Silences::default());
    let memo = it.failed(&first[0], T + 31 * SECOND).unwrap();
    assert_eq!(memo.told.open, BTreeMap::from([(a.fingerprint(), 0)]));
    assert_eq!((memo.open.len(), memo.told.at), (1, 0));
    assert_eq!(step(&mut it, T + 80 * SECOND, just(&a)), NOTHING);
    let second = entries(&mut it, T + 91 * SECOND, just(&a), &Silences::default());
    assert_eq!(told(&second), ["0: +1"]);
    // An end that was refused is told again for an hour, also after the rule has forgotten it.
    let end = over(&a, T + 95 * SECOND);
    let third = entries(&mut it, T + 160 * SECOND, &[end], &Silences::default());
    assert_eq!(told(&third), ["0: -1"]);
    assert_eq!(
        it.failed(&second[0], T + 161 * SECOND),
        None,
        "a later one has said more"
    );
    let memo = it.failed(&third[0], T + 161 * SECOND).unwrap();
    assert_eq!((memo.open.len(), memo.told.open.len()), (1, 1));
    let fourth = entries(&mut it, T + 222 * SECOND, &[], &Silences::default());
    assert_eq!(told(&fourth), ["0: -1"]);
    let mut last = fourth;
    let mut tries = 0;
    for minute in 4..90 {
        it.failed(&last[0], T + minute * MINUTE);
        let next = entries(
            &mut it,
            T + minute * MINUTE + 61 * SECOND,
            &[],
            &Silences::default(),
        );
        if next.is_empty() {
            break;
        }
        last = next;
        tries += 1;
    }
    assert!((50..60).contains(&tries), "{tries}");
    // After a restart it is not taken for told.
    let mut it = one();
    assert!(it.restore(T + 4 * MINUTE, vec![(0, 0, memo)]).is_empty());
    let seen: Vec<String> = (0..400)
        .step_by(10)
        .flat_map(|second| step(&mut it, T + 4 * MINUTE + second * SECOND, &[]))
        .collect();
    assert_eq!(seen, ["0: -1"]);
}

/// Cause: what could not be delivered, then a restart; nobody sees the alert fire any more. Seen: the place is not told that it fires,
/// but where it was told before, that it does not; ends of long ago are not told at all.
#[test]
fn what_has_ended_or_is_old_is_not_told_as_new_after_a_restart() {
    let mut it = one();
    let both = [alert("A", "1", T), alert("A", "2", T)];
    step(&mut it, T, &both);
    let first = entries(&mut it, T + 30 * SECOND, &both, &Silences::default());
    let memo = it.failed(&first[0], T + 31 * SECOND).unwrap();
    assert!(memo.told.open.values().all(|at| *at == 0), "both are due again");
    // Of two one still fires.
    let mut it = one();
    it.restore(T + MINUTE, vec![(0, 0, memo)]);
    let seen: Vec<String> = (0..200)
        .step_by(10)
        .flat_map(|second| step(&mut it, T + MINUTE + second * SECOND, &both[1..]))
        .collect();
    assert_eq!(seen, ["0: +2"]);
    assert_eq!(step(&mut it, T + 10 * MINUTE, &both[1..]), ["0: +2 -1"]);
    // An end that was given up, and a restart a day later.
    let mut it = one();
    step(&mut it, T, &both);
    step(&mut it, T + 30 * SECOND, &both);
    let ends = both.clone().map(|alert| over(&alert, T + 60 * SECOND));
    let end = entries(&mut it, T + 90 * SECOND, &ends, &Silences::default());
    assert_eq!(told(&end), ["0: -1 -2"]);
    for (later, wanted) in [(10 * MINUTE, &["0: -1 -2"][..]), (24 * 60 * MINUTE, &[])] {
        let mut it = one();
        it.restore(T + later, vec![(0, 0, end[0].memo.clone())]);
        it.failed(&Dispatcher::recall(end[0].clone(), T + later), T + later);
        let seen: Vec<String> = (0..400)
            .step_by(10)
            .flat_map(|second| step(&mut it, T + later + second * SECOND, &[]))
            .collect();
        assert_eq!(seen, wanted);
    }
}

#[test]
fn an_end_that_a_place_does_not_want_is_remembered() {
    let quiet = || with(&route("ops"), vec![receiver("ops", &[false])], Vec::new());
    let mut it = quiet();
    let a = alert("A", "1", T);
    step(&mut it, T, just(&a));
    assert_eq!(step(&mut it, T + 30 * SECOND, just(&a)), ["0: +1"]);
    assert!(it.quiet().is_empty());
    assert_eq!(
        step(&mut it, T + 90 * SECOND, &[over(&a, T + 80 * SECOND)]),
        NOTHING
    );
    let memos = it.quiet();
    assert_eq!((memos.len(), it.quiet().len()), (1, 0));
    assert!(memos[0].2.open.is_empty() && memos[0].2.told.open.is_empty());
    // After a restart it does not fire, and a new beginning is one.
    let mut it = quiet();
    it.restore(T + 100 * SECOND, memos);
    assert_eq!(step(&mut it, T + 100 * SECOND, &[]), NOTHING);
    assert!(it.alerts.is_empty());
    let now = T + 10 * MINUTE;
    step(&mut it, now, &[alert("A", "1", now)]);
    assert_eq!(
        step(&mut it, now + 30 * SECOND, &[alert("A", "1", now)]),
        ["0: +1"]
    );
}

#[test]
fn what_nobody_has_seen_since_a_restart_inhibits_nothing_and_is_no_incident() {
    let inhibited = || {
        let inhibition = Inhibition {
            source: parse("alertname=Source").unwrap(),
            target: parse("alertname=A").unwrap(),
            equal: vec!["peer".to_owned()],
        };
        with(&route("ops"), vec![receiver("ops", &[true])], vec![inhibition])
    };
    let mut it = inhibited();
    let all = [alert("Source", "1", T), alert("A", "1", T)];
    entries(&mut it, T, &all, &Silences::default());
    let first = entries(&mut it, T + 30 * SECOND, &all, &Silences::default());
    assert_eq!(
        (first.len(), first[0].notification.group_labels.get("alertname")),
        (1, "Source")
    );
    let mut it = inhibited();
    it.restore(T + MINUTE, vec![(0, 0, first[0].memo.clone())]);
    assert_eq!(step(&mut it, T + MINUTE, &[]), NOTHING);
    assert!(it.incidents().all().is_empty());
    assert_eq!(step(&mut it, T + 2 * MINUTE, &all[1..]), ["0: +1"]);
    let states = it.states(T + 2 * MINUTE, &Silences::default());
    let states: Vec<(&str, &str)> = states
        .iter()
        .map(|(alert, state)| (alert.labels.get("alertname"), *state))
        .collect();
    assert_eq!(states, [("A", ""), ("Source", "")]);
}

#[test]
fn what_is_lost_is_due_again_although_others_were_told_since_or_the_group_is_gone() {
    let mut it = one();
    let (a, b, c) = (alert("A", "1", T), alert("A", "2", T), alert("A", "3", T));
    let mut look = |minute: Millis, alerts: &[Alert]| {
        let now = T + minute * MINUTE;
        entries(&mut it, now, alerts, &Silences::default())
    };
    look(0, &[a.clone(), b.clone()]);
    assert_eq!(told(&look(1, &[a.clone(), b.clone()])), ["0: +1 +2"]);
    let end = look(2, &[over(&a, T + 90 * SECOND), b.clone()]);
    assert_eq!(told(&end), ["0: +2 -1"]);
    let later = look(3, &[b.clone(), c.clone()]);
    assert_eq!(told(&later), ["0: +2 +3"]);
    let memo = it.failed(&end[0], T + 200 * SECOND).unwrap();
    let mut open: Vec<&str> = memo.open.iter().map(|alert| alert.labels.get("peer")).collect();
    open.sort_unstable();
    assert_eq!((open, memo.told.open.len()), (vec!["1", "2", "3"], 3));
    assert!(memo.open.iter().all(Alert::is_firing));
    let again = step(&mut it, T + 5 * MINUTE, &[b.clone(), c.clone()]);
    assert_eq!(again, ["0: +2 +3 -1"]);
    // All are over, and so long that nothing is known of them.
    let ends = [&b, &c].map(|alert| over(alert, T + 6 * MINUTE));
    let last = entries(&mut it, T + 7 * MINUTE, &ends, &Silences::default());
    assert_eq!(told(&last), ["0: -2 -3"]);
    step(&mut it, T + 30 * MINUTE, &[]);
    assert!(it.groups.is_empty() && it.alerts.is_empty());
    assert_eq!(it.failed(&last[0], T + 31 * MINUTE).unwrap().open.len(), 2);
    assert_eq!(step(&mut it, T + 40 * MINUTE, &[]), ["0: -2 -3"]);
}

#[test]
fn the_end_is_told_of_what_was_delivered_although_its_repetition_was_refused() {
    let mut it = one();
    let (a, b) = (alert("A", "1", T), alert("A", "2", T));
    step(&mut it, T, just(&a));
    assert_eq!(step(&mut it, T + 30 * SECOND, just(&a)), ["0: +1"]);
    let both = [a.clone(), b.clone()];
    let second = entries(&mut it, T + 90 * SECOND, &both, &Silences::default());
    assert_eq!(told(&second), ["0: +1 +2"]);
    let memo = it.failed(&second[0], T + 91 * SECOND).unwrap();
    let ends = [over(&a, T + 100 * SECOND), b];
    assert_eq!(step(&mut it, T + 150 * SECOND, &ends), ["0: +2 -1"]);
    // After a restart as well.
    let mut it = one();
    it.restore(T + 95 * SECOND, vec![(0, 0, memo)]);
    assert_eq!(step(&mut it, T + 150 * SECOND, &ends), ["0: +2 -1"]);
}

#[test]
fn what_was_never_taken_is_told_when_it_fires_again_although_its_end_was_refused() {
    let mut it = one();
    let a = alert("A", "1", T);
    step(&mut it, T, just(&a));
    let first = entries(&mut it, T + 30 * SECOND, just(&a), &Silences::default());
    it.failed(&first[0], T + 31 * SECOND).unwrap();
    let end = over(&a, T + 40 * SECOND);
    let second = entries(&mut it, T + 90 * SECOND, just(&end), &Silences::default());
    assert_eq!(told(&second), ["0: -1"]);
    it.failed(&second[0], T + 91 * SECOND).unwrap();
    let again = alert("A", "1", T + 95 * SECOND);
    assert_eq!(step(&mut it, T + 150 * SECOND, just(&again)), ["0: +1"]);
}

#[test]
fn a_place_that_refuses_delays_no_other_of_its_group() {
    let mut it = with(&route("ops"), vec![receiver("ops", &[true, true])], Vec::new());
    let both = [alert("A", "1", T), alert("A", "2", T + 40 * SECOND)];
    step(&mut it, T, &both[..1]);
    let first = entries(&mut it, T + 30 * SECOND, &both[..1], &Silences::default());
    it.failed(&first[0], T + 85 * SECOND).unwrap();
    assert_eq!(step(&mut it, T + 89 * SECOND, &both), NOTHING);
    assert_eq!(step(&mut it, T + 90 * SECOND, &both), ["0: +1 +2", "1: +1 +2"]);
}

/// Cause: of two that were told one is silenced, and the other ends, so that the place was told nothing that fires last. Seen: when the
/// silence is over, it is told of the one that still fires, once; also after a restart.
#[test]
fn what_was_left_out_of_what_was_told_is_news_when_it_is_not_silenced_any_more() {
    let mut it = one();
    let mut silences = Silences::default();
    let (a, b) = (alert("A", "1", T), alert("A", "2", T));
    let both = [a.clone(), b.clone()];
    step(&mut it, T, &both);
    assert_eq!(step(&mut it, T + 30 * SECOND, &both), ["0: +1 +2"]);
    let silence = Silence {
        id: "s".to_owned(),
        matchers: parse("peer=1").unwrap(),
        starts_at: T + MINUTE,
        ends_at: T + 3 * MINUTE,
        updated_at: T,
        created_by: "me".to_owned(),
        comment: "why".to_owned(),
    };
    silences.add(silence, T + MINUTE).unwrap();
    let now = [a.clone(), over(&b, T + 80 * SECOND)];
    let end = entries(&mut it, T + 90 * SECOND, &now, &silences);
    assert_eq!(told(&end), ["0: -2"]);
    let mut again = one();
    again.restore(T + 2 * MINUTE, vec![(0, 0, end[0].memo.clone())]);
    for mut it in [it, again] {
        let seen: Vec<String> = (120..600)
            .step_by(10)
            .flat_map(|second| told(&entries(&mut it, T + second * SECOND, just(&a), &silences)))
            .collect();
        assert_eq!(seen, ["0: +1"]);
    }
}

/// Cause: a restart, after which for an hour nobody can say whether what was told still fires. Seen: nobody is told that it is over, until
/// who can does not speak of it.
#[test]
fn what_nobody_can_look_at_is_not_over() {
    let mut it = one();
    let a = alert("A", "1", T);
    step(&mut it, T, just(&a));
    let first = entries(&mut it, T + 30 * SECOND, just(&a), &Silences::default());
    let mut it = one();
    it.restore(T + MINUTE, vec![(0, 0, first[0].memo.clone())]);
    let mut ends = Vec::new();
    for minute in 1..90 {
        let now = T + minute * MINUTE;
        it.spare(now, |labels, seen| !seen && minute < 60 && *labels == a.labels);
        let told = step(&mut it, now, &[]);
        ends.extend(told.into_iter().map(|one| (minute, one)));
    }
    assert_eq!(ends, [(64, "0: -1".to_owned())]);
}

/// Cause: of two that were told one ends after a restart, before the other has been seen again. Seen: its end; and when the other is seen, that it
/// fires, for who has one state of both has been told that it is over.
#[test]
fn what_was_not_seen_since_a_restart_is_news_after_the_end_of_another() {
    let mut it = one();
    let (a, b) = (alert("A", "1", T), alert("A", "2", T));
    let both = [a.clone(), b.clone()];
    step(&mut it, T, &both);
    let first = entries(&mut it, T + 30 * SECOND, &both, &Silences::default());
    assert_eq!(told(&first), ["0: +1 +2"]);
    let mut again = one();
    again.restore(T + MINUTE, vec![(0, 0, first[0].memo.clone())]);
    let mut seen = |seconds: std::ops::Range<i64>, alert: &Alert| -> Vec<String> {
        let steps = seconds.step_by(10);
        steps
            .flat_map(|second| step(&mut again, T + second * SECOND, just(alert)))
            .collect()
    };
    assert_eq!(seen(70..90, &a), NOTHING);
    assert_eq!(seen(90..180, &over(&a, T + 90 * SECOND)), ["0: -1"]);
    assert_eq!(seen(180..600, &b), ["0: +2"]);
}
