use super::*;
use std::collections::BTreeMap;
use std::sync::Arc;

const WINDOW: Millis = 300_000;

fn alert(name: &str, labels: &[(&str, &str)], at: Millis) -> Alert {
    let all = [("alertname", name)].into_iter().chain(labels.iter().copied());
    Alert {
        labels: Labels::new(all),
        annotations: Arc::new(BTreeMap::from([("summary".to_owned(), format!("{name} of it"))])),
        active_at: at,
        starts_at: at,
        ends_at: None,
        generator_url: "".into(),
    }
}

fn ended(alert: &Alert, at: Millis) -> Alert {
    Alert {
        ends_at: Some(at),
        ..alert.clone()
    }
}

fn entity(kind: Kind, name: &str) -> Entity {
    (kind, name.to_owned())
}

/// shop and cart talk to db, which lies in the region; mail talks to web.
fn edges() -> Edges {
    let subject = |name| entity(Kind::Subject, name);
    let peer = |name| entity(Kind::Peer, name);
    Edges::new([
        (subject("shop"), peer("db")),
        (subject("cart"), peer("db")),
        (subject("mail"), peer("web")),
        (peer("db"), entity(Kind::Region, "eu")),
    ])
}

fn names(incident: &Incident) -> Vec<&str> {
    let members = incident.alerts.iter();
    members.map(|member| member.labels.get("alertname")).collect()
}

#[test]
fn what_one_peer_does_is_one_incident_and_the_peer_is_its_cause() {
    let mut incidents = Incidents::new(WINDOW);
    // What suffers is told first: its rule is quicker.
    let slow = alert("Slow", &[("subject", "shop")], 1_000);
    let errors = alert("Errors", &[("subject", "cart"), ("peer", "db")], 2_000);
    let loss = alert("Loss", &[("peer", "db")], 3_000);
    let other = alert("Slow", &[("subject", "mail")], 3_000);
    incidents.observe(1_000, [&slow].into_iter(), &edges());
    incidents.observe(2_000, [&slow, &errors].into_iter(), &edges());
    incidents.observe(3_000, [&slow, &errors, &loss, &other].into_iter(), &edges());
    let all = incidents.all();
    assert_eq!(all.len(), 2, "{all:#?}");
    let loud = all.iter().find(|incident| incident.alerts.len() == 3).unwrap();
    assert_eq!(loud.first_cause().unwrap().labels.get("alertname"), "Loss");
    assert_eq!(loud.why, "peer db: 2 of the 2 others depend on it");
    assert_eq!((loud.started_at, loud.ended_at), (1_000, None));
    let id = loud.id.clone();
    assert_eq!(incidents.of(slow.fingerprint()), id);
    assert_eq!(incidents.of(loss.fingerprint()), id);
    assert_ne!(incidents.of(other.fingerprint()), id);
    // All ends but one: it is not over.
    let all = [
        ended(&slow, 9_000),
        ended(&loss, 9_500),
        errors.clone(),
        other.clone(),
    ];
    incidents.observe(10_000, all.iter(), &edges());
    assert!(incidents.all().iter().all(|incident| incident.ended_at.is_none()));
    incidents.observe(11_000, [&ended(&errors, 10_500), &other].into_iter(), &edges());
    let loud = incidents.all().iter().find(|incident| incident.id == id).unwrap();
    assert_eq!(loud.ended_at, Some(10_500));
}

#[test]
fn a_region_is_the_cause_of_what_its_peers_do() {
    let mut incidents = Incidents::new(WINDOW);
    let peer = alert("Loss", &[("peer", "db")], 1_000);
    let region = alert("Far", &[("peer_region", "eu")], 2_000);
    let subject = alert("Slow", &[("subject", "shop")], 2_500);
    incidents.observe(3_000, [&peer, &region, &subject].into_iter(), &edges());
    let [incident] = incidents.all() else { panic!() };
    assert_eq!(incident.first_cause().unwrap().labels.get("alertname"), "Far");
    assert!(
        incident.why.starts_with("region eu: 2 of the 2"),
        "{}",
        incident.why
    );
}

#[test]
fn without_a_topology_labels_are_what_is_shared_and_the_first_is_the_cause() {
    let mut incidents = Incidents::new(WINDOW);
    let first = alert("A", &[("peer", "db"), ("subject", "x")], 1_000);
    let second = alert("B", &[("entity", "peer"), ("name", "db")], 2_000);
    let third = alert("C", &[("entity", "peer"), ("name", "db")], 1_500);
    let node = alert("Conntrack", &[("instance", "n")], 2_000);
    incidents.observe(
        2_000,
        [&first, &second, &third, &node].into_iter(),
        &Edges::default(),
    );
    let [one, two] = incidents.all() else { panic!() };
    assert_eq!(names(one), ["A", "C", "B"]);
    // The peer itself, not one of its users; of two, the earlier.
    assert_eq!(one.first_cause().unwrap().labels.get("alertname"), "C");
    assert_eq!(
        (names(two), two.why.as_str()),
        (vec!["Conntrack"], "it is the only one")
    );
}

/// They shared "this host" once, and a full store was one incident with rules that fail.
#[test]
fn what_names_nothing_has_nothing_in_common_but_its_rule() {
    let full = alert("StoreFull", &[("instance", "n")], 1_000);
    let failing =
        ["a", "b"].map(|group| alert("RulesFailing", &[("instance", "n"), ("group", group)], 1_000));
    let mut incidents = Incidents::new(WINDOW);
    incidents.observe(1_000, [&full].into_iter().chain(&failing), &edges());
    let found: Vec<_> = incidents.all().iter().map(names).collect();
    assert_eq!(found, [vec!["RulesFailing"; 2], vec!["StoreFull"]]);
}

#[test]
fn labels_of_all_alerts_are_not_what_one_is_about() {
    let own = [("instance", "n"), ("region", "home")];
    let labels = |peer| [&own[..], &[("peer", peer)]].concat();
    let (a, b) = (alert("A", &labels("db"), 0), alert("B", &labels("web"), 0));
    let far = alert("C", &[("instance", "n"), ("region", "eu")], 0);
    let mut edges = Edges::with_common(Labels::new(own));
    edges.add(entity(Kind::Peer, "db"), entity(Kind::Region, "eu"));
    let mut incidents = Incidents::new(WINDOW);
    incidents.observe(0, [&a, &b, &far].into_iter(), &edges);
    let found: Vec<_> = incidents.all().iter().map(names).collect();
    assert_eq!(found, [vec!["A", "C"], vec!["B"]]);
}

#[test]
fn tunnels_are_known_by_their_ends_and_resources_by_what_they_are_of() {
    let named = |pairs: &[(&str, &str)]| {
        place::named(|name| {
            let pair = pairs.iter().find(|(of, _)| *of == name);
            pair.map_or("", |(_, value)| *value)
        })
    };
    let gre = |remote| {
        named(&[
            ("type", "gre"),
            ("local", "a"),
            ("remote", remote),
            ("state", "down"),
        ])
    };
    assert_eq!(gre("b"), Place::from([entity(Kind::Tunnel, "gre a b")]));
    assert_ne!(gre("b"), gre("c"), "GRE has no id, perhaps");
    assert_eq!(
        named(&[("type", "timeout"), ("subject", "s")]),
        Place::from([entity(Kind::Subject, "s")])
    );
    let disk = |label| named(&[("resource", "filesystem"), (label, "sda1")]);
    assert!(disk("name").is_subset(&disk("device")));
    assert_ne!(
        disk("name"),
        named(&[("resource", "filesystem"), ("name", "sdb1")])
    );
    // The memory that one may use is not that of another, nor of the host.
    let memory = |subject| named(&[("resource", "memory"), ("subject", subject)]);
    let host = named(&[("resource", "memory")]);
    assert!(memory("a").is_disjoint(&memory("b")) && memory("a").is_disjoint(&host));
}

/// A name server that does not answer is why its users are slow, and a tunnel why what is behind it is.
#[test]
fn who_depends_on_what_is_said_by_series_that_name_both() {
    let subject = |name: &str| entity(Kind::Subject, name);
    let tunnel = entity(Kind::Tunnel, "gre a b");
    let mut edges = Edges::default();
    edges.add_series(&Place::from([subject("shop"), entity(Kind::Server, "10.0.0.53")]));
    edges.add_series(&Place::from([entity(Kind::Peer, "db"), tunnel.clone()]));
    edges.add_series(&Place::from([tunnel, entity(Kind::Region, "eu")]));
    let all = [
        alert("Slow", &[("subject", "shop")], 1_000),
        alert("Timeouts", &[("server", "10.0.0.53")], 2_000),
        alert("Loss", &[("peer", "db")], 1_000),
        alert(
            "TunnelDown",
            &[("type", "gre"), ("local", "a"), ("remote", "b")],
            2_000,
        ),
        alert("Region", &[("entity", "region"), ("name", "eu")], 3_000),
    ];
    let mut incidents = Incidents::new(WINDOW);
    incidents.observe(3_000, all.iter(), &edges);
    let causes = incidents.all().iter();
    let causes: Vec<_> = causes
        .map(|one| {
            (
                one.alerts.len(),
                one.first_cause().unwrap().labels.get("alertname"),
            )
        })
        .collect();
    // Of a tunnel and the region of its far end either may be the cause of the other: the one that was first.
    assert_eq!(causes, [(3, "TunnelDown"), (2, "Timeouts")]);
}

#[test]
fn what_comes_after_the_window_is_an_incident_of_its_own() {
    let mut incidents = Incidents::new(WINDOW);
    let first = alert("A", &[("peer", "db")], 0);
    incidents.observe(0, [&first].into_iter(), &edges());
    let late = alert("B", &[("peer", "db")], WINDOW + 1);
    incidents.observe(WINDOW + 1, [&first, &late].into_iter(), &edges());
    assert_eq!(incidents.all().len(), 2);
    // It comes back within the window: the same.
    let gone = ended(&late, WINDOW + 1000);
    incidents.observe(WINDOW + 1000, [&first, &gone].into_iter(), &edges());
    assert!(incidents.all()[1].ended_at.is_some());
    let again = alert("B", &[("peer", "db")], WINDOW + 2000);
    incidents.observe(WINDOW + 2000, [&first, &again].into_iter(), &edges());
    assert_eq!(incidents.all().len(), 2);
    assert_eq!(
        (incidents.all()[1].ended_at, incidents.all()[1].alerts.len()),
        (None, 1)
    );
}

/// Cause: what began with an incident, but fires when its rule's `for` is over: each of those that are shipped. Seen: it is of that
/// incident, also when that is over by then; what began later than the window is not.
#[test]
fn however_long_a_rule_waits_what_began_together_is_one_incident() {
    let rules = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/rules");
    let files = std::fs::read_dir(rules).unwrap().map(|file| file.unwrap().path());
    let files = files
        .filter(|file| file.is_file())
        .map(|file| agent_rules::load(&file).unwrap());
    let rules = files.flatten().flat_map(|group| group.rules);
    let holds: BTreeSet<Millis> = rules.filter_map(|rule| Some(rule.alert?.hold)).collect();
    assert!(holds.last() > Some(&WINDOW), "{holds:?}");
    let quick = alert("Quick", &[("peer", "db")], 20_000);
    for hold in holds {
        for ends in [None, Some(60_000)] {
            let held = |active_at| Alert {
                starts_at: active_at + hold,
                ..alert("Held", &[("peer", "db")], active_at)
            };
            for (began, count) in [(30_000, 1), (ends.unwrap_or(20_000) + WINDOW + 1, 2)] {
                let mut incidents = Incidents::new(WINDOW);
                incidents.observe(20_000, [&quick].into_iter(), &edges());
                let quick = Alert {
                    ends_at: ends,
                    ..quick.clone()
                };
                incidents.observe(60_000, [&quick].into_iter(), &edges());
                let late = held(began);
                incidents.observe(late.starts_at, [&quick, &late].into_iter(), &edges());
                assert_eq!(incidents.all().len(), count, "{hold} {ends:?} {began}");
            }
        }
    }
}

/// Cause: one of two alerts goes and comes again long after both began; and a third, which began before an incident that is over and
/// fires in the one after it. Seen: the first is of the incident that it was of; the third of the one that is open.
#[test]
fn an_incident_that_is_open_is_gone_on_with() {
    let mut incidents = Incidents::new(WINDOW);
    let stays = alert("A", &[("peer", "db")], 0);
    let flaps = alert("B", &[("peer", "db")], 0);
    incidents.observe(0, [&stays, &flaps].into_iter(), &edges());
    let later = 10 * WINDOW;
    incidents.observe(later, [&stays, &ended(&flaps, later)].into_iter(), &edges());
    let again = alert("B", &[("peer", "db")], later + 1000);
    incidents.observe(later + 1000, [&stays, &again].into_iter(), &edges());
    assert_eq!(incidents.all().len(), 1);
    assert_eq!(
        incidents.of(again.fingerprint()),
        incidents.of(stays.fingerprint())
    );

    let mut incidents = Incidents::new(WINDOW);
    incidents.observe(0, [&stays].into_iter(), &edges());
    incidents.observe(1000, [&ended(&stays, 1000)].into_iter(), &edges());
    let next = alert("C", &[("peer", "db")], later);
    incidents.observe(later, [&next].into_iter(), &edges());
    incidents.observe(later + 1000, [&next, &flaps].into_iter(), &edges());
    assert_eq!(incidents.all().len(), 2);
    assert_eq!(
        incidents.of(flaps.fingerprint()),
        incidents.of(next.fingerprint())
    );
}

/// Cause: the clock was set back by an hour, which the time of the store, by which alerts begin, does not follow. Seen: what begins
/// together is one incident all the same.
#[test]
fn a_clock_that_is_set_back_tears_nothing_apart() {
    let mut incidents = Incidents::new(WINDOW);
    let (now, store) = (10 * WINDOW, 22 * WINDOW);
    let first = alert("A", &[("peer", "db")], store);
    incidents.observe(now, [&first].into_iter(), &edges());
    let second = alert("B", &[("peer", "db")], store + 10_000);
    incidents.observe(now + 10_000, [&first, &second].into_iter(), &edges());
    assert_eq!(incidents.all().len(), 1);
}

#[test]
fn one_that_concerns_two_makes_them_one() {
    let mut incidents = Incidents::new(WINDOW);
    let a = alert("A", &[("subject", "s")], 0);
    let b = alert("B", &[("peer", "p")], 1);
    incidents.observe(1, [&a, &b].into_iter(), &Edges::default());
    assert_eq!(incidents.all().len(), 2);
    let id = incidents.of(a.fingerprint()).to_owned();
    let both = alert("C", &[("subject", "s"), ("peer", "p")], 2);
    incidents.observe(2, [&a, &b, &both].into_iter(), &Edges::default());
    let [one] = incidents.all() else { panic!() };
    assert_eq!((one.id.as_str(), one.alerts.len()), (id.as_str(), 3));
    assert_eq!(incidents.of(b.fingerprint()), id);
}

#[test]
fn they_survive_and_are_bounded() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("incidents.json");
    let (mut incidents, wrong) = Incidents::open(WINDOW, path.clone());
    assert_eq!(wrong, None);
    let hostile = "\r\n\"}<b>".repeat(100_000);
    let first = alert("A", &[("peer", "db"), ("l", &hostile)], 0);
    incidents.observe(0, [&first].into_iter(), &edges());
    incidents.save().unwrap();
    assert!(std::fs::metadata(&path).unwrap().len() < 2_000);
    let before = incidents.all().to_vec();
    let (mut incidents, wrong) = Incidents::open(WINDOW, path);
    assert_eq!((incidents.all(), wrong), (&before[..], None));
    assert_eq!(incidents.of(first.fingerprint()), before[0].id);
    for number in 0..KEPT + 10 {
        let peer = format!("p{number}");
        let one = alert("B", &[("peer", &peer)], number as Millis);
        incidents.observe(number as Millis, [&first, &one].into_iter(), &edges());
    }
    assert_eq!(incidents.all().len(), KEPT);
    assert_eq!(incidents.all()[0].id, before[0].id, "what is not over stays");
    let many: Vec<Alert> = (0..MEMBERS + 5)
        .map(|number| alert(&number.to_string(), &[("peer", "many")], 900))
        .collect();
    incidents.observe(900, many.iter(), &edges());
    let last = incidents.all().last().unwrap();
    assert_eq!((last.alerts.len(), last.more), (MEMBERS, 5));
}

/// Cause: the health of a region, one peer in it, and who talks to that; then another peer of it. Seen: one peer makes the region ill, and the
/// region makes two so.
#[test]
fn what_is_the_mean_of_many_is_no_cause_of_one() {
    let mut incidents = Incidents::new(WINDOW);
    let peer = |name| entity(Kind::Peer, name);
    let region = entity(Kind::Region, "eu");
    let edges = Edges::new([
        (entity(Kind::Subject, "shop"), peer("db")),
        (peer("db"), region.clone()),
        (peer("web"), region),
    ]);
    let mean = alert("Mean", &[("entity", "region"), ("name", "eu")], 1_000);
    let db = alert("Db", &[("entity", "peer"), ("name", "db")], 1_000);
    let shop = alert("Shop", &[("entity", "subject"), ("name", "shop")], 1_000);
    let cause = |incidents: &Incidents| {
        assert_eq!(incidents.all().len(), 1);
        incidents.all()[0]
            .first_cause()
            .unwrap()
            .labels
            .get("alertname")
            .to_owned()
    };
    incidents.observe(1_000, [&mean, &shop, &db].into_iter(), &edges);
    assert_eq!(cause(&incidents), "Db");
    let web = alert("Web", &[("entity", "peer"), ("name", "web")], 2_000);
    incidents.observe(2_000, [&mean, &shop, &db, &web].into_iter(), &edges);
    assert_eq!(cause(&incidents), "Mean");
}

/// Cause: the health of a zone, with alerts of one peer in it by two who talk to that; or with the node's health alone, which depends on
/// all. Seen: the peer is the cause; the node is none.
#[test]
fn one_peer_is_one_however_many_suffer_from_it() {
    let peer = entity(Kind::Peer, "db");
    let edges = Edges::new([
        (entity(Kind::Subject, "shop"), peer.clone()),
        (entity(Kind::Subject, "web"), peer.clone()),
        (peer.clone(), entity(Kind::Zone, "a")),
        (entity(Kind::Node, "n"), peer),
    ]);
    let zone = alert("Zone", &[("entity", "zone"), ("name", "a")], 1_000);
    let cause = |others: &[Alert]| {
        let mut incidents = Incidents::new(WINDOW);
        incidents.observe(1_000, std::iter::once(&zone).chain(others), &edges);
        assert_eq!(incidents.all().len(), 1, "{:?}", incidents.all());
        incidents.all()[0]
            .first_cause()
            .unwrap()
            .labels
            .get("alertname")
            .to_owned()
    };
    let of = |subject| alert("Unreachable", &[("subject", subject), ("peer", "db")], 1_000);
    assert_eq!(cause(&[of("shop"), of("web")]), "Unreachable");
    let node = alert("Node", &[("entity", "node"), ("name", "n")], 1_000);
    let db = alert("Db", &[("entity", "peer"), ("name", "db")], 2_000);
    assert_eq!(cause(&[node, db]), "Db");
}
