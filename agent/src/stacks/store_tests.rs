use super::*;

fn who(pid: u32) -> Who {
    Who {
        subject: "web".into(),
        process: "nginx".into(),
        pid,
        thread: "nginx".into(),
        container: "".into(),
        cgroup: "".into(),
        sample: 0,
        label: "".into(),
    }
}

const ONE: Count = Count {
    samples: 1,
    value: 10,
};

fn total(store: &Store, query: &Query) -> u64 {
    store.query(query).iter().map(|row| row.count.samples).sum()
}

#[test]
fn the_same_stack_is_kept_once_and_counted_by_who() {
    let mut store = Store::new(1 << 20);
    let stack = [Place::Binary(1, 5), Place::Kernel(7)];
    for i in 0..10 {
        store.add(SLICE + i, who(1 + (i % 2) as u32), &stack, &[], ONE);
    }
    store.add(3 * SLICE, who(1), &stack, &[], ONE);
    assert_eq!((store.stacks.values.len(), store.frames.values.len()), (1, 2));
    assert_eq!(total(&store, &Query::default()), 11);
    let of_one = Query {
        pid: Some(1),
        ..Query::default()
    };
    assert_eq!(total(&store, &of_one), 6);
    let early = Query {
        to: 2 * SLICE,
        ..Query::default()
    };
    assert_eq!(total(&store, &early), 10);
    let late = Query {
        from: 2 * SLICE,
        ..Query::default()
    };
    assert_eq!(total(&store, &late), 1);
    let rows = store.query(&Query::default());
    assert_eq!(rows.len(), 2);
    let first = rows.first().unwrap();
    let places: Vec<Place> = first.frames.iter().map(|f| store.frame(*f).unwrap().0).collect();
    assert_eq!(places, stack);
}

#[test]
fn memory_stays_within_the_budget_and_the_youngest_stay() {
    let mut store = Store::new(256 << 10);
    for slice in 1..200u64 {
        for i in 0..50u64 {
            let stack = [
                Place::Kernel(slice * 1000 + i),
                Place::Kernel(1),
                Place::Kernel(slice),
            ];
            store.add(slice * SLICE, who(1), &stack, &[], ONE);
            store.name(Place::Kernel(slice * 1000 + i), "a_function_of_the_kernel");
        }
    }
    assert!(store.bytes() <= (256 << 10) + (32 << 10), "{}", store.bytes());
    let left = total(&store, &Query::default());
    assert!(left > 500, "{left}");
    assert_eq!(left + store.forgotten, 199 * 50, "what went is counted");
    let youngest = Query {
        from: 199 * SLICE,
        ..Query::default()
    };
    assert_eq!(total(&store, &youngest), 50);
    for row in store.query(&Query::default()) {
        let places: Vec<Place> = row.frames.iter().map(|f| store.frame(*f).unwrap().0).collect();
        let [Place::Kernel(a), Place::Kernel(1), Place::Kernel(slice)] = places[..] else {
            panic!("{places:?}");
        };
        assert_eq!(a / 1000, slice, "sweeping mixes no stacks");
    }
}

#[test]
fn an_hour_is_kept() {
    let mut store = Store::new(64 << 20);
    for slice in 1..1000 {
        store.add(slice * SLICE, who(1), &[Place::Kernel(1)], &[], ONE);
    }
    assert_eq!(total(&store, &Query::default()), HOUR / SLICE);
    assert_eq!(store.forgotten, 0, "their hour was over");
    assert_eq!(store.since, (1000 - HOUR / SLICE) * SLICE);
}

#[test]
fn the_last_minute_is_known_by_the_second() {
    let mut store = Store::new(64 << 20);
    store.clear(1000 * SECOND);
    for second in 1000..1200 {
        store.add(second * SECOND + 5, who(1), &[Place::Kernel(1)], &[], ONE);
    }
    let now = 1200 * SECOND;
    let seen = |from: u64, to: u64| {
        let query = Query {
            from: from * SECOND + 1,
            to: to * SECOND - 1,
            ..Query::default()
        };
        let Window { from, to } = store.window(&query, now);
        (total(&store, &query), from / SECOND, to / SECOND)
    };
    assert_eq!(seen(1150, 1155), (5, 1150, 1155));
    assert_eq!(seen(1123, 1124), (10, 1120, 1130), "older than a minute");
    assert_eq!(
        seen(900, 1101),
        (110, 1000, 1110),
        "nothing is known of what was before"
    );
    assert_eq!(seen(1190, 1300), (10, 1190, 1200), "and the future has not been");
    assert_eq!(total(&store, &Query::default()), 200);
}

#[test]
fn each_window_is_sealed_once_and_what_is_late_goes_to_the_next() {
    let mut store = Store::new(64 << 20);
    let add = |store: &mut Store, second: u64| {
        store.add(second * SECOND, who(1), &[Place::Kernel(1)], &[], ONE);
    };
    for second in [1001, 1009, 1010, 1031] {
        add(&mut store, second);
    }
    let mut sent = 0;
    let mut take = |store: &mut Store, until: u64, want: &[u64]| {
        let windows = store.seal(until * SECOND);
        let starts: Vec<u64> = windows.iter().map(|w| w.from / SECOND).collect();
        assert_eq!(starts, want);
        for Window { from, to } in windows {
            assert_eq!(to - from, SLICE);
            sent += total(
                store,
                &Query {
                    from,
                    to,
                    ..Query::default()
                },
            );
        }
        sent
    };
    assert_eq!(take(&mut store, 1029, &[1000, 1010]), 3);
    add(&mut store, 1015);
    add(&mut store, 1002);
    assert_eq!(take(&mut store, 1030, &[1020]), 3 + 2);
    assert_eq!(take(&mut store, 1035, &[]), 5);
    for second in 1040..1200 {
        add(&mut store, second);
    }
    let rest: Vec<u64> = (1030..1200).step_by(10).collect();
    assert_eq!(
        take(&mut store, 1200, &rest),
        5 + 1 + 160,
        "merging sends nothing twice"
    );
}

#[test]
fn a_cgroup_has_all_that_is_below_it() {
    let mut store = Store::new(1 << 20);
    for (pid, cgroup) in [
        (1, "/system.slice/nginx.service"),
        (2, "/system.slice/nginx.service/worker"),
        (3, "/system.slice/nginx.service2"),
        (4, "/user.slice/a.scope"),
        (5, ""),
    ] {
        let who = Who {
            cgroup: cgroup.into(),
            ..who(pid)
        };
        store.add(SLICE, who, &[Place::Kernel(1)], &[], ONE);
    }
    for (cgroup, want) in [
        ("/system.slice/nginx.service", &[1, 2][..]),
        ("system.slice/nginx.service/", &[1, 2]),
        ("/system.slice", &[1, 2, 3]),
        ("/system.slice/nginx*", &[1, 2, 3]),
        ("/*.scope", &[4]),
        ("/", &[1, 2, 3, 4, 5]),
        ("/nothing", &[]),
    ] {
        let query = Query {
            cgroup: Some(cgroup.parse().unwrap()),
            ..Query::default()
        };
        let mut pids: Vec<u32> = store.query(&query).iter().map(|row| row.who.pid).collect();
        pids.sort();
        assert_eq!(pids, want, "{cgroup}");
    }
}
