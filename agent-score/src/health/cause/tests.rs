//! Who is the cause, by who talks to whom.

use super::*;

fn topology(talks: &[(&str, &str)]) -> Topology {
    let talks = talks.iter();
    Topology {
        talks: talks.map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect(),
        ..Topology::default()
    }
}

fn ill(all: &[(&str, &str)]) -> BTreeSet<Entity> {
    all.iter().map(|(kind, name)| entity(kind, name)).collect()
}

fn list(all: &[(&str, &str)]) -> Vec<Entity> {
    ill(all).into_iter().collect()
}

#[test]
fn a_peer_that_all_its_users_suffer_from_is_the_cause() {
    let topology = topology(&[
        ("web", "db"),
        ("web", "cache"),
        ("shop", "db"),
        ("shop", "cache"),
        ("cron", "cache"),
    ]);
    let ill = ill(&[("peer", "db"), ("subject", "web"), ("subject", "shop")]);
    let roles = roles(&ill, &topology, "n");
    let users = list(&[("subject", "shop"), ("subject", "web")]);
    assert_eq!(roles[&entity("peer", "db")], Role::Cause(users));
    let db = Role::Symptom(list(&[("peer", "db")]));
    assert_eq!(roles[&entity("subject", "web")], db);
    assert_eq!(roles[&entity("subject", "shop")], db);
}

#[test]
fn a_subject_that_suffers_everywhere_is_the_cause() {
    let topology = topology(&[("web", "db"), ("web", "cache"), ("shop", "db"), ("shop", "cache")]);
    let ill = ill(&[("peer", "db"), ("peer", "cache"), ("subject", "web")]);
    let roles = roles(&ill, &topology, "n");
    let both = list(&[("peer", "cache"), ("peer", "db")]);
    assert_eq!(roles[&entity("subject", "web")], Role::Cause(both));
    assert_eq!(
        roles[&entity("peer", "db")],
        Role::Symptom(list(&[("subject", "web")]))
    );
}

#[test]
fn a_peer_whose_only_user_is_well_elsewhere_is_the_cause() {
    let topology = topology(&[("web", "db"), ("web", "cache"), ("shop", "cache")]);
    let roles = roles(&ill(&[("peer", "db"), ("subject", "web")]), &topology, "n");
    assert_eq!(
        roles[&entity("peer", "db")],
        Role::Cause(list(&[("subject", "web")]))
    );
    assert_eq!(
        roles[&entity("subject", "web")],
        Role::Symptom(list(&[("peer", "db")]))
    );
}

#[test]
fn two_that_talk_to_nobody_else_cannot_be_told_apart() {
    let topology = topology(&[("web", "db"), ("shop", "cache")]);
    let roles = roles(&ill(&[("peer", "db"), ("subject", "web")]), &topology, "n");
    assert_eq!(
        roles[&entity("peer", "db")],
        Role::Unclear(list(&[("subject", "web")]))
    );
    assert_eq!(
        roles[&entity("subject", "web")],
        Role::Unclear(list(&[("peer", "db")]))
    );
}

#[test]
fn one_of_many_that_has_trouble_with_a_peer_is_not_told_from_it() {
    let topology = topology(&[("a", "db"), ("b", "db"), ("c", "db"), ("a", "cache")]);
    let roles = roles(&ill(&[("peer", "db"), ("subject", "a")]), &topology, "n");
    assert_eq!(
        roles[&entity("peer", "db")],
        Role::Unclear(list(&[("subject", "a")]))
    );
}

#[test]
fn who_suffers_alone_is_its_own_cause() {
    let topology = topology(&[("web", "db"), ("shop", "db")]);
    let roles = roles(&ill(&[("subject", "web")]), &topology, "n");
    assert_eq!(roles[&entity("subject", "web")], Role::Cause(Vec::new()));
    let roles = super::roles(&ill(&[("peer", "db")]), &topology, "n");
    assert_eq!(roles[&entity("peer", "db")], Role::Cause(Vec::new()));
}

#[test]
fn a_zone_whose_peers_all_suffer_is_the_cause() {
    let mut topology = topology(&[("web", "db"), ("web", "cache"), ("web", "mail"), ("shop", "mail")]);
    let places = [("zone", "a", "db"), ("zone", "a", "cache"), ("zone", "b", "mail")];
    topology.places = places
        .map(|(kind, place, peer)| (entity(kind, place), peer.to_owned()))
        .into();
    let ill = ill(&[("peer", "db"), ("peer", "cache"), ("subject", "web")]);
    let roles = roles(&ill, &topology, "n");
    let zone = Role::Symptom(list(&[("zone", "a")]));
    for (kind, name) in [("peer", "db"), ("peer", "cache"), ("subject", "web")] {
        assert_eq!(roles[&entity(kind, name)], zone, "{name}");
    }
    let all = list(&[("peer", "cache"), ("peer", "db"), ("subject", "web")]);
    assert_eq!(roles[&entity("zone", "a")], Role::Cause(all));
}

/// Cause: peers of one zone are ill, all that there are but for the loopback, which lies in this machine's own zone. Seen: nobody
/// says that it is the zone.
#[test]
fn the_loopback_is_no_other_zone() {
    let mut topology = topology(&[
        ("web", "db"),
        ("web", "cache"),
        ("web", "loopback"),
        ("cron", "loopback"),
    ]);
    for (peer, zone) in [("db", "b"), ("cache", "b"), ("loopback", "a")] {
        topology.lies(peer, zone, "");
    }
    let ill = ill(&[("peer", "db"), ("peer", "cache"), ("subject", "web")]);
    let roles = roles(&ill, &topology, "n");
    let both = list(&[("peer", "cache"), ("peer", "db")]);
    // One subject at all that is far: it or its way out.
    assert_eq!(roles[&entity("subject", "web")], Role::Cause(both));
    assert!(!roles.contains_key(&entity("zone", "b")), "{roles:?}");
}

#[test]
fn who_is_well_at_the_loopback_only_is_well_nowhere_else() {
    let topology = topology(&[("web", "db"), ("web", "loopback"), ("shop", "cache")]);
    let roles = roles(&ill(&[("peer", "db"), ("subject", "web")]), &topology, "n");
    assert_eq!(
        roles[&entity("peer", "db")],
        Role::Unclear(list(&[("subject", "web")]))
    );
}

/// Cause: what listens on this machine is ill, and so are all who use it, also who is well at a peer far away. Seen: it is the cause
/// as any other peer would be.
#[test]
fn the_loopback_can_be_a_cause() {
    let topology = topology(&[
        ("web", "loopback"),
        ("web", "db"),
        ("shop", "loopback"),
        ("cron", "db"),
    ]);
    let ill = ill(&[("peer", "loopback"), ("subject", "web"), ("subject", "shop")]);
    let roles = roles(&ill, &topology, "n");
    let users = list(&[("subject", "shop"), ("subject", "web")]);
    assert_eq!(roles[&entity("peer", "loopback")], Role::Cause(users));
}

/// Cause: the way out has failed, while all talk to themselves as well, one does so only, and some rows have no name. Seen: the node.
#[test]
fn where_everybody_suffers_everywhere_it_is_the_node() {
    let mut topology = topology(&[
        ("web", "db"),
        ("web", "loopback"),
        ("shop", "cache"),
        ("cron", "loopback"),
    ]);
    topology.talks("", "db");
    topology.talks("cron", "");
    let all = [
        ("peer", "cache"),
        ("peer", "db"),
        ("subject", "shop"),
        ("subject", "web"),
    ];
    let roles = roles(&ill(&all), &topology, "n");
    assert_eq!(roles[&entity("node", "n")], Role::Cause(list(&all)));
    assert_eq!(
        roles[&entity("peer", "db")],
        Role::Symptom(list(&[("node", "n")]))
    );
}

/// Zone, region and peer.
fn lie(topology: &mut Topology, places: &[(&str, &str, &str)]) {
    for (zone, region, peer) in places {
        topology.lies(peer, zone, region);
    }
}

/// Cause: a peer loses a third of what it is sent, and so much of all is it that its zone, its region and the node are ill too, while
/// the others in them are well. Seen: all these suffer from it.
#[test]
fn what_is_the_sum_of_others_suffers_from_those_that_are_ill() {
    let mut topology = topology(&[
        ("web", "db"),
        ("web", "cache"),
        ("shop", "cache"),
        ("shop", "mail"),
    ]);
    lie(
        &mut topology,
        &[("a", "r", "db"), ("a", "r", "cache"), ("a", "r", "mail")],
    );
    let ill = ill(&[
        ("peer", "db"),
        ("subject", "web"),
        ("zone", "a"),
        ("region", "r"),
        ("node", "n"),
    ]);
    let roles = roles(&ill, &topology, "n");
    let others = list(&[("node", "n"), ("region", "r"), ("subject", "web"), ("zone", "a")]);
    assert_eq!(roles[&entity("peer", "db")], Role::Cause(others.clone()));
    for one in others {
        let db = Role::Symptom(list(&[("peer", "db")]));
        assert_eq!(roles[&one], db, "{one:?}");
    }
}

/// Cause: all peers of a zone are ill, one elsewhere in the region is well, and region and node are ill too. Seen: it is the zone, and
/// region and node suffer from it.
#[test]
fn what_is_the_sum_of_places_suffers_from_the_place() {
    let mut topology = topology(&[("web", "db"), ("web", "cache"), ("web", "mail"), ("shop", "mail")]);
    lie(
        &mut topology,
        &[("a", "r", "db"), ("a", "r", "cache"), ("b", "r", "mail")],
    );
    let ill = ill(&[
        ("peer", "db"),
        ("peer", "cache"),
        ("zone", "a"),
        ("region", "r"),
        ("node", "n"),
    ]);
    let roles = roles(&ill, &topology, "n");
    let zone = Role::Symptom(list(&[("zone", "a")]));
    for (kind, name) in [("peer", "db"), ("peer", "cache"), ("region", "r"), ("node", "n")] {
        assert_eq!(roles[&entity(kind, name)], zone, "{name}");
    }
    assert_eq!(roles[&entity("zone", "a")].name(), "cause");
}

/// Cause: one subject suffers at all its peers, and so do their zone and the node. Seen: all from that subject.
#[test]
fn what_is_the_sum_of_others_suffers_from_whom_these_suffer_from() {
    let mut topology = topology(&[("web", "db"), ("web", "cache"), ("shop", "db"), ("shop", "cache")]);
    lie(&mut topology, &[("a", "", "db"), ("a", "", "cache")]);
    let ill = ill(&[
        ("peer", "db"),
        ("peer", "cache"),
        ("subject", "web"),
        ("zone", "a"),
        ("node", "n"),
    ]);
    let roles = roles(&ill, &topology, "n");
    let web = Role::Symptom(list(&[("subject", "web")]));
    for (kind, name) in [("peer", "db"), ("peer", "cache"), ("zone", "a"), ("node", "n")] {
        assert_eq!(roles[&entity(kind, name)], web, "{name}");
    }
}

/// Cause: a zone and the node are ill, and nobody in them is. Seen: they are so by themselves.
#[test]
fn what_is_the_sum_of_the_healthy_is_ill_by_itself() {
    let mut topology = topology(&[("web", "db"), ("shop", "cache")]);
    lie(&mut topology, &[("a", "r", "db"), ("a", "r", "cache")]);
    let ill = ill(&[("zone", "a"), ("region", "r"), ("node", "n")]);
    for (one, role) in roles(&ill, &topology, "n") {
        assert_eq!(role, Role::Cause(Vec::new()), "{one:?}");
    }
}

/// Cause: a zone is ill, and an ill peer lies in another one. Seen: it has nothing of that.
#[test]
fn a_zone_does_not_suffer_from_a_peer_elsewhere() {
    let mut topology = topology(&[("web", "db"), ("web", "cache"), ("shop", "cache")]);
    lie(&mut topology, &[("a", "", "db"), ("b", "", "cache")]);
    let roles = roles(&ill(&[("peer", "db"), ("zone", "b")]), &topology, "n");
    assert_eq!(roles[&entity("zone", "b")], Role::Cause(Vec::new()));
    assert_eq!(roles[&entity("peer", "db")], Role::Cause(Vec::new()));
}

/// Cause: the way out has failed, and zone, region and node are ill too. Seen: the node, and all others from it.
#[test]
fn the_node_is_no_symptom_where_everybody_suffers() {
    let mut topology = topology(&[("web", "db"), ("shop", "cache")]);
    lie(&mut topology, &[("a", "r", "db"), ("a", "r", "cache")]);
    let others = [
        ("peer", "cache"),
        ("peer", "db"),
        ("region", "r"),
        ("subject", "shop"),
        ("subject", "web"),
        ("zone", "a"),
    ];
    let mut all = ill(&others);
    all.insert(entity("node", "n"));
    let roles = roles(&all, &topology, "n");
    assert_eq!(roles[&entity("node", "n")], Role::Cause(list(&others)));
    assert_eq!(roles[&entity("zone", "a")], Role::Symptom(list(&[("node", "n")])));
}

/// Cause: a subject has used up its memory and talks a little to a peer that is ill, from which others suffer. Seen: both are causes,
/// and the memory is no symptom of the peer; nor is a node that has run out of something.
#[test]
fn who_lacks_something_himself_is_a_cause() {
    let talks = [
        ("batch", "db"),
        ("web", "db"),
        ("web", "cache"),
        ("shop", "cache"),
    ];
    let all = [("peer", "db"), ("subject", "batch"), ("subject", "web")];
    let mut topology = topology(&talks);
    topology.lacks("subject", "batch");
    let found = roles(&ill(&all), &topology, "n");
    assert_eq!(found[&entity("subject", "batch")], Role::Cause(Vec::new()));
    let web = list(&[("subject", "web")]);
    assert_eq!(found[&entity("peer", "db")], Role::Cause(web.clone()));
    let mut ill = ill(&all);
    ill.insert(entity("node", "n"));
    let found = roles(&ill, &topology, "n");
    let db = Role::Symptom(list(&[("peer", "db")]));
    assert_eq!(
        found[&entity("node", "n")],
        db,
        "not from the memory of one subject"
    );
    topology.lacks("node", "n");
    let found = roles(&ill, &topology, "n");
    assert_eq!(found[&entity("node", "n")], Role::Cause(Vec::new()));
    assert_eq!(found[&entity("peer", "db")], Role::Cause(web));
}

/// Cause: the only one who talks to an ill peer has used up his memory, and talks to nobody else. Seen: two causes, not one doubt.
#[test]
fn who_lacks_something_himself_says_nothing_of_a_peer() {
    let mut topology = topology(&[("batch", "db"), ("shop", "cache")]);
    topology.lacks("subject", "batch");
    let roles = roles(&ill(&[("peer", "db"), ("subject", "batch")]), &topology, "n");
    for one in [entity("peer", "db"), entity("subject", "batch")] {
        assert_eq!(roles[&one], Role::Cause(Vec::new()), "{one:?}");
    }
}

/// Cause: the way out has failed, and one of three has used up its memory as well. Seen: that one is a cause too.
#[test]
fn who_lacks_something_himself_does_so_where_everybody_suffers() {
    let mut topology = topology(&[("web", "db"), ("shop", "cache"), ("batch", "db")]);
    topology.lacks("subject", "batch");
    let others = [
        ("peer", "cache"),
        ("peer", "db"),
        ("subject", "shop"),
        ("subject", "web"),
    ];
    let mut all = ill(&others);
    all.insert(entity("subject", "batch"));
    let roles = roles(&all, &topology, "n");
    assert_eq!(roles[&entity("node", "n")], Role::Cause(list(&others)));
    assert_eq!(roles[&entity("subject", "batch")], Role::Cause(Vec::new()));
}

/// Cause: all are ill but one, who loses a little by his memory. Seen: not everybody suffers, so it is not the node.
#[test]
fn who_lacks_something_and_is_well_is_well() {
    let mut topology = topology(&[("web", "db"), ("shop", "db"), ("web", "cache"), ("batch", "db")]);
    topology.lacks("subject", "batch");
    let all = [
        ("peer", "cache"),
        ("peer", "db"),
        ("subject", "shop"),
        ("subject", "web"),
    ];
    let roles = roles(&ill(&all), &topology, "n");
    assert!(!roles.contains_key(&entity("node", "n")), "{roles:?}");
    assert!(!roles.contains_key(&entity("subject", "batch")), "{roles:?}");
}

/// Cause: all but one peer are ill, and who talks to that one lacks something himself; the way out is down, and one of two lacks something.
/// Seen: the node is no cause of the first, and the cause of the second.
#[test]
fn who_lacks_something_himself_talks_all_the_same() {
    let mut first = topology(&[("web", "db"), ("shop", "cache"), ("batch", "mail")]);
    first.lacks("subject", "batch");
    let some = ill(&[
        ("peer", "db"),
        ("peer", "cache"),
        ("subject", "web"),
        ("subject", "shop"),
        ("subject", "batch"),
    ]);
    let told = roles(&some, &first, "n");
    assert_eq!(told.get(&entity("node", "n")), None);
    let mut second = topology(&[("web", "db"), ("batch", "cache")]);
    second.lacks("subject", "batch");
    let all = ill(&[
        ("peer", "db"),
        ("peer", "cache"),
        ("subject", "web"),
        ("subject", "batch"),
    ]);
    let told = roles(&all, &second, "n");
    assert!(matches!(told[&entity("node", "n")], Role::Cause(_)), "{told:?}");
    assert_eq!(told[&entity("subject", "batch")], Role::Cause(Vec::new()));
}

/// Cause: a subject that suffers at all its peers, beside one at one of them who lacks something. Seen: the first is the cause, as without
/// the other.
#[test]
fn who_lacks_something_himself_takes_no_blame_from_others() {
    let mut topology = topology(&[
        ("web", "db"),
        ("web", "cache"),
        ("shop", "db"),
        ("shop", "cache"),
        ("batch", "db"),
    ]);
    topology.lacks("subject", "batch");
    let ill = ill(&[
        ("peer", "db"),
        ("peer", "cache"),
        ("subject", "web"),
        ("subject", "batch"),
    ]);
    let told = roles(&ill, &topology, "n");
    let both = list(&[("peer", "cache"), ("peer", "db")]);
    assert_eq!(told[&entity("subject", "web")], Role::Cause(both));
}
