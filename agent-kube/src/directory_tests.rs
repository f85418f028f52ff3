use super::*;
use crate::zones::MAX_ZONES;

pub(super) fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(super) fn claim(at: &str, service: &str, pod: &str) -> Claim {
    Claim {
        address: address(at),
        service: service.into(),
        is_headless: false,
        zone: if pod.is_empty() { "" } else { "eu-1a" }.into(),
        node: if pod.is_empty() { "" } else { "node-1" }.into(),
        pod: pod.into(),
        pod_name: if pod.is_empty() {
            String::new()
        } else {
            format!("shop/{pod}")
        }
        .into(),
        rank: Default::default(),
    }
}

pub(super) fn taken(directory: &mut Directory) -> Vec<(String, String)> {
    let shown = |(address, target): (IpAddr, Option<Target>)| {
        let target = target.map_or_else(String::new, |t| format!("{} {} {}", t.service, t.zone, t.region));
        (address.to_string(), target)
    };
    directory.take().into_iter().map(shown).collect()
}

pub(super) fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    let owned = |(a, b): &(&str, &str)| ((*a).to_owned(), (*b).to_owned());
    expected.iter().map(owned).collect()
}

/// Cause: each endpoint is to have a name of its own. Seen: a service's address is the service's, an endpoint's is its pod's, also where
/// several services have it, and one without a pod is its service's.
#[test]
fn an_endpoint_can_have_a_name_of_its_own() {
    let mut directory = Directory {
        names_endpoints: true,
        ..Directory::default()
    };
    directory.set(By::Service, "s", vec![claim("10.96.0.1", "shop/db", "")]);
    let endpoints = [
        claim("10.244.1.7", "shop/db", "db-0"),
        claim("10.244.1.8", "shop/db", "db-1"),
    ];
    directory.set(By::Slice, "a", endpoints.to_vec());
    directory.set(
        By::Slice,
        "b",
        vec![claim("10.244.1.7", "shop/db-headless", "db-0")],
    );
    directory.set(By::Slice, "c", vec![claim("192.0.2.9", "shop/outside", "")]);
    let all = [
        ("10.96.0.1", "shop/db  "),
        ("10.244.1.7", "shop/db-0 eu-1a "),
        ("10.244.1.8", "shop/db-1 eu-1a "),
        ("192.0.2.9", "shop/outside  "),
    ];
    let mut found = taken(&mut directory);
    found.sort();
    let mut all = pairs(&all);
    all.sort();
    assert_eq!(found, all);
}

#[test]
fn a_service_has_its_address_and_those_of_its_endpoints() {
    let mut directory = Directory::default();
    directory.set(By::Service, "s", vec![claim("10.96.0.10", "shop/db", "")]);
    directory.set(
        By::Slice,
        "e",
        vec![
            claim("10.244.1.7", "shop/db", "p1"),
            claim("10.244.2.8", "shop/db", "p2"),
        ],
    );
    assert_eq!(
        taken(&mut directory),
        pairs(&[
            ("10.96.0.10", "shop/db  "),
            ("10.244.1.7", "shop/db eu-1a "),
            ("10.244.2.8", "shop/db eu-1a ")
        ])
    );
    assert_eq!(taken(&mut directory), pairs(&[]));
    // The region of the zone is learnt from a node of it, once.
    assert_eq!(
        directory.unknown_zone(""),
        Some(("eu-1a".into(), "node-1".into()))
    );
    directory.set_region("eu-1a", Some("eu-1"));
    assert_eq!(directory.unknown_zone(""), None);
    assert_eq!(
        taken(&mut directory),
        pairs(&[
            ("10.244.1.7", "shop/db eu-1a eu-1"),
            ("10.244.2.8", "shop/db eu-1a eu-1")
        ])
    );
    // A pod goes, and another gets the address of the first.
    directory.set(By::Slice, "e", vec![claim("10.244.1.7", "shop/db", "p1")]);
    directory.set(By::Slice, "f", vec![claim("10.244.2.8", "shop/web", "p3")]);
    assert_eq!(
        taken(&mut directory),
        pairs(&[("10.244.2.8", "shop/web eu-1a eu-1")])
    );
    directory.set(By::Slice, "f", Vec::new());
    directory.set(By::Service, "s", Vec::new());
    assert_eq!(
        taken(&mut directory),
        pairs(&[("10.96.0.10", ""), ("10.244.2.8", "")])
    );
    assert_eq!(
        (directory.len(), directory.objects.len(), directory.told.len()),
        (1, 1, 1)
    );
}

#[test]
fn of_several_services_the_plainest_and_no_name_for_the_address_of_a_node() {
    let mut directory = Directory::default();
    let headless = Claim {
        is_headless: true,
        ..claim("10.244.1.7", "shop/b", "p1")
    };
    directory.set(By::Slice, "1", vec![headless]);
    assert_eq!(taken(&mut directory), pairs(&[("10.244.1.7", "shop/b eu-1a ")]));
    directory.set(By::Slice, "2", vec![claim("10.244.1.7", "shop/db-metrics", "p1")]);
    directory.set(By::Slice, "3", vec![claim("10.244.1.7", "shop/db", "p1")]);
    assert_eq!(taken(&mut directory), pairs(&[("10.244.1.7", "shop/db eu-1a ")]));
    // Somebody of another namespace says that the pod is his.
    directory.set(By::Slice, "x", vec![claim("10.244.1.7", "a/b", "p1")]);
    assert_eq!(taken(&mut directory), pairs(&[("10.244.1.7", "")]));
    directory.set(By::Slice, "x", Vec::new());
    assert_eq!(taken(&mut directory), pairs(&[("10.244.1.7", "shop/db eu-1a ")]));
    // Two pods of the host's network.
    directory.set(By::Slice, "4", vec![claim("192.0.2.1", "mon/node", "p1")]);
    directory.set(By::Slice, "5", vec![claim("192.0.2.1", "mon/log", "p2")]);
    assert_eq!(taken(&mut directory), pairs(&[]));
    directory.set(By::Slice, "5", Vec::new());
    assert_eq!(taken(&mut directory), pairs(&[("192.0.2.1", "mon/node eu-1a ")]));
    // A load balancer of the node's address: what else is there is not behind it.
    directory.set(By::Service, "6", vec![claim("192.0.2.1", "shop/outside", "")]);
    assert_eq!(taken(&mut directory), pairs(&[("192.0.2.1", "")]));
    // Alone, or with an endpoint of its own, it is.
    directory.set(By::Slice, "4", vec![claim("192.0.2.1", "shop/outside", "p1")]);
    assert_eq!(taken(&mut directory), pairs(&[("192.0.2.1", "shop/outside  ")]));
    // Without a pod there is a service all the same.
    directory.set(By::Slice, "7", vec![claim("192.0.2.2", "default/kubernetes", "")]);
    directory.set(By::Slice, "8", vec![claim("192.0.2.2", "mon/node", "p3")]);
    assert_eq!(taken(&mut directory), pairs(&[]));
}

#[test]
fn a_new_list_takes_away_at_its_end_and_of_its_kind_only() {
    let mut directory = Directory::default();
    directory.set(By::Service, "s", vec![claim("10.96.0.10", "shop/db", "")]);
    directory.set(By::Slice, "e", vec![claim("10.244.1.7", "shop/db", "p1")]);
    directory.take();
    directory.list(By::Slice);
    assert_eq!(taken(&mut directory), pairs(&[]));
    directory.set(By::Slice, "f", vec![claim("10.244.1.9", "shop/db", "p2")]);
    directory.listed(By::Slice);
    assert_eq!(
        taken(&mut directory),
        pairs(&[("10.244.1.7", ""), ("10.244.1.9", "shop/db eu-1a ")])
    );
    assert_eq!(directory.len(), 2);
}

#[test]
fn there_is_a_most_of_everything() {
    let _alone = crate::LARGE.lock().unwrap();
    let mut directory = Directory::default();
    let many = |from: u32, count: u32| {
        (from..from + count).map(|i| claim(&IpAddr::from(i.to_be_bytes()).to_string(), "a/b", "p"))
    };
    directory.set(By::Slice, "1", many(0, MAX_ADDRESSES as u32 + 5).collect());
    assert_eq!((directory.len(), directory.refused), (MAX_ADDRESSES, 5));
    for i in 0..40 {
        directory.set(By::Slice, &format!("x{i}"), vec![claim("0.0.0.1", "a/b", "p")]);
    }
    assert_eq!(directory.refused, 5 + 40 - (MAX_CLAIMS as u64 - 1));
    assert_eq!(directory.all, MAX_ADDRESSES + MAX_CLAIMS - 1);
    // Who comes first is not taken for the owner.
    for i in 0..MAX_CLAIMS {
        directory.set(By::Slice, &format!("y{i}"), vec![claim("0.0.0.2", "evil/a", "")]);
    }
    directory.take();
    assert_eq!(directory.find(&address("0.0.0.2")), None);
    directory.list(By::Slice);
    directory.set(By::Slice, "1", many(0, MAX_ADDRESSES as u32).collect());
    directory.listed(By::Slice);
    assert_eq!(
        taken(&mut directory)[1],
        ("0.0.0.2".to_owned(), "a/b eu-1a ".to_owned())
    );
    assert!(directory.crowded.is_empty());
    directory.set(By::Slice, "2", many(MAX_ADDRESSES as u32, 1).collect());
    // A node that is not there is not asked for again and again.
    directory.set_region("eu-1a", None);
    assert_eq!(directory.unknown_zone(""), None);
    assert!(!directory.has_room_again(By::Slice));
    directory.set(By::Slice, "1", Vec::new());
    assert_eq!((directory.len(), directory.all), (0, 0));
    // What found no room then may come again.
    assert!(!directory.has_room_again(By::Service));
    assert!(directory.has_room_again(By::Slice) && !directory.has_room_again(By::Slice));
    for i in 0..300u32 {
        let zone = Claim {
            zone: format!("z{i}").into(),
            ..claim("10.0.0.1", "a/b", "p")
        };
        directory.set(By::Slice, "z", vec![zone]);
    }
    assert_eq!(directory.zones.len(), MAX_ZONES);
    assert_eq!(directory.zones.refused, 300 - (MAX_ZONES as u64 - 1));
    directory.renew_zones();
    assert_eq!(directory.zones.len(), 1, "{:?}", directory.zones);
}

#[test]
fn a_zone_is_where_a_node_says_that_is_there() {
    let mut directory = Directory::default();
    let on = |address: &str, node: &str| Claim {
        node: node.into(),
        ..claim(address, "shop/db", "p")
    };
    directory.set(By::Slice, "1", vec![on("10.0.0.1", "a")]);
    directory.set(By::Slice, "2", vec![on("10.0.0.2", "b")]);
    let asked = |directory: &Directory| {
        directory
            .unknown_zone("")
            .map(|(zone, node)| format!("{zone} {node}"))
    };
    assert_eq!(asked(&directory).as_deref(), Some("eu-1a a"));
    // It is gone: another one is asked that is known already, and after the last of them nobody.
    directory.set_region("eu-1a", None);
    assert_eq!(asked(&directory).as_deref(), Some("eu-1a b"));
    directory.set_region("eu-1a", None);
    assert_eq!(asked(&directory), None);
    directory.set(By::Slice, "1", vec![on("10.0.0.1", "a")]);
    assert_eq!(asked(&directory), None);
    directory.set(By::Slice, "3", vec![on("10.0.0.3", "c")]);
    assert_eq!(asked(&directory).as_deref(), Some("eu-1a c"));
    directory.set_region("eu-1a", Some("eu-1"));
    assert_eq!(asked(&directory), None);
    directory.take();
    // It is asked for anew, of a node that is there, and the answer may be another one; until then the old one holds.
    for gone in ["1", "3"] {
        directory.set(By::Slice, gone, Vec::new());
    }
    directory.renew_zones();
    assert_eq!(asked(&directory).as_deref(), Some("eu-1a b"));
    directory.take();
    directory.set_region("eu-1a", Some("eu-2"));
    assert_eq!(
        taken(&mut directory),
        pairs(&[("10.0.0.2", "shop/db eu-1a eu-2")])
    );
    directory.set(By::Slice, "2", Vec::new());
    directory.renew_zones();
    assert_eq!(directory.zones.len(), 0);
}

#[test]
fn behind_a_service_is_the_pod_that_nat_has_chosen() {
    let mut directory = Directory::default();
    directory.set(By::Service, "s", vec![claim("10.96.0.10", "shop/db", "")]);
    directory.set(
        By::Slice,
        "e",
        vec![
            claim("10.244.1.7", "shop/db", "p1"),
            claim("192.0.2.9", "shop/db", ""),
        ],
    );
    directory.set(By::Slice, "f", vec![claim("10.244.1.8", "shop/web", "p2")]);
    directory.set_region("eu-1a", Some("eu-1"));
    let behind = |at: &str, to: &str| {
        let found = directory.behind(&address(at), &address(to))?;
        Some([found.service, found.pod, found.zone, found.region].map(|text| text.to_string()))
    };
    let own = |parts: [&str; 4]| Some(parts.map(str::to_owned));
    assert_eq!(
        behind("10.96.0.10", "10.244.1.7"),
        own(["shop/db", "shop/p1", "eu-1a", "eu-1"])
    );
    assert_eq!(
        behind("10.96.0.10", "192.0.2.9"),
        own(["shop/db", "192.0.2.9", "", ""])
    );
    // Another service's endpoint, an endpoint that is asked for itself, and strangers.
    assert_eq!(behind("10.96.0.10", "10.244.1.8"), None);
    assert_eq!(behind("10.244.1.7", "10.244.1.7"), None);
    assert_eq!(behind("10.96.0.11", "10.244.1.7"), None);
}

#[test]
fn a_crowd_of_one_kind_is_not_taken_back_by_a_listing_of_the_other() {
    let mut directory = Directory::default();
    // A tenant's slices are there before the service whose address they name.
    let crowd: Vec<String> = (0..MAX_CLAIMS).map(|i| format!("x{i}")).collect();
    for uid in &crowd {
        directory.set(By::Slice, uid, vec![claim("10.96.0.10", "evil/a", "")]);
    }
    assert_eq!(taken(&mut directory), pairs(&[("10.96.0.10", "evil/a  ")]));
    let service = || vec![claim("10.96.0.10", "shop/db", "")];
    directory.set(By::Service, "s", service());
    assert_eq!(taken(&mut directory), pairs(&[("10.96.0.10", "")]));
    // Whichever of them is listed anew, nobody has it.
    for _ in 0..2 {
        directory.list(By::Slice);
        for uid in &crowd {
            directory.set(By::Slice, uid, vec![claim("10.96.0.10", "evil/a", "")]);
        }
        directory.listed(By::Slice);
        assert_eq!(taken(&mut directory), pairs(&[]));
        directory.list(By::Service);
        directory.set(By::Service, "s", service());
        directory.listed(By::Service);
        assert_eq!(taken(&mut directory), pairs(&[]));
        assert!(!directory.has_room_again(By::Service) && !directory.has_room_again(By::Slice));
    }
    // The other way: a slice is refused where services are.
    let mut directory = Directory::default();
    for uid in &crowd {
        directory.set(By::Service, uid, vec![claim("10.0.0.1", "evil/a", "")]);
    }
    directory.set(By::Slice, "e", vec![claim("10.0.0.1", "shop/db", "p1")]);
    directory.list(By::Service);
    for uid in &crowd {
        directory.set(By::Service, uid, vec![claim("10.0.0.1", "evil/a", "")]);
    }
    directory.listed(By::Service);
    assert_eq!(taken(&mut directory), pairs(&[]));
    assert_eq!(directory.behind(&address("10.0.0.1"), &address("10.0.0.1")), None);
}

#[test]
fn when_the_crowd_is_gone_who_was_refused_is_listed_anew() {
    let mut directory = Directory::default();
    let crowd: Vec<String> = (0..MAX_CLAIMS).map(|i| format!("x{i}")).collect();
    let evil = || vec![claim("10.96.0.10", "evil/a", "")];
    for uid in &crowd {
        directory.set(By::Slice, uid, evil());
    }
    directory.set(By::Service, "s", vec![claim("10.96.0.10", "shop/db", "")]);
    // One of the crowd that says the same again makes no room.
    directory.set(By::Slice, "x0", evil());
    assert!(!directory.has_room_again(By::Service));
    for uid in &crowd {
        directory.set(By::Slice, uid, Vec::new());
    }
    // Until it is, nobody has it, whoever comes.
    directory.set(By::Slice, "y", evil());
    assert_eq!(taken(&mut directory), pairs(&[]));
    assert!(directory.has_room_again(By::Service) && !directory.has_room_again(By::Service));
    assert!(!directory.has_room_again(By::Slice));
    directory.set(By::Slice, "y", Vec::new());
    directory.list(By::Service);
    directory.set(By::Service, "s", vec![claim("10.96.0.10", "shop/db", "")]);
    directory.listed(By::Service);
    assert_eq!(taken(&mut directory), pairs(&[("10.96.0.10", "shop/db  ")]));
    assert!(!directory.has_room_again(By::Service) && directory.crowded.is_empty());
    // Also if it is the one that was refused that goes.
    let own = || vec![claim("10.244.1.7", "shop/db", "p1")];
    for uid in &crowd {
        directory.set(By::Slice, uid, own());
    }
    directory.set(By::Slice, "y", vec![claim("10.244.1.7", "evil/a", "p1")]);
    assert_eq!(taken(&mut directory), pairs(&[]));
    assert_eq!(directory.waiting, 1);
    directory.set(By::Slice, "y", Vec::new());
    assert_eq!(directory.waiting, 0);
    assert!(directory.has_room_again(By::Slice) && !directory.has_room_again(By::Service));
    directory.list(By::Slice);
    for uid in &crowd {
        directory.set(By::Slice, uid, own());
    }
    directory.listed(By::Slice);
    assert_eq!(taken(&mut directory), pairs(&[("10.244.1.7", "shop/db eu-1a ")]));
    assert!(!directory.has_room_again(By::Slice));
}

#[test]
fn of_several_services_of_one_address_the_one_whose_endpoint_it_is() {
    let mut directory = Directory::default();
    directory.set(By::Service, "1", vec![claim("192.0.2.1", "shop/web", "")]);
    directory.set(By::Service, "2", vec![claim("192.0.2.1", "shop/db", "")]);
    directory.set(By::Slice, "e", vec![claim("10.244.1.7", "shop/web", "p1")]);
    directory.set(By::Slice, "f", vec![claim("10.244.1.8", "shop/db", "p2")]);
    directory.set(By::Slice, "g", vec![claim("10.244.1.9", "shop/web", "p3")]);
    directory.set(By::Slice, "h", vec![claim("10.244.1.9", "shop/db", "p3")]);
    // Of a third, which has another address.
    directory.set(By::Slice, "i", vec![claim("10.244.1.7", "shop/all", "p1")]);
    let behind = |to: &str| {
        let found = directory.behind(&address("192.0.2.1"), &address(to))?;
        Some(format!("{} {}", found.service, found.pod))
    };
    assert_eq!(behind("10.244.1.7").as_deref(), Some("shop/web shop/p1"));
    assert_eq!(behind("10.244.1.8").as_deref(), Some("shop/db shop/p2"));
    assert_eq!(behind("10.244.1.9"), None, "which of both is not known");
}

/// Cause: slices that name pods of this node and of another, one of them at an address that is crowded already. Seen: the own ones by
/// service, none twice, until their slice goes, is listed no more, or names others; beyond the bound they are counted.
#[test]
fn own_pods_are_known_by_the_services_that_they_are_behind() {
    let mut directory = Directory {
        node: "node-1".into(),
        ..Directory::default()
    };
    let members = |directory: &Directory| {
        let shown = directory
            .members()
            .map(|(service, pod)| format!("{service} {pod}"));
        shown
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect::<Vec<_>>()
            .join(", ")
    };
    let other = Claim {
        node: "node-2".into(),
        ..claim("10.244.2.8", "shop/db", "p2")
    };
    let own = claim("10.244.1.7", "shop/db", "p1");
    directory.set(By::Slice, "e", vec![own.clone(), other.clone(), own.clone()]);
    assert_eq!(members(&directory), "shop/db p1");
    for i in 0..MAX_CLAIMS {
        directory.set(By::Slice, &format!("x{i}"), vec![claim("192.0.2.1", "a/b", "")]);
    }
    directory.set(By::Slice, "f", vec![claim("192.0.2.1", "mon/node", "p3")]);
    assert_eq!(members(&directory), "mon/node p3, shop/db p1");
    directory.set(By::Slice, "e", vec![other]);
    assert_eq!(members(&directory), "mon/node p3");
    directory.list(By::Slice);
    directory.listed(By::Slice);
    assert_eq!((members(&directory).as_str(), directory.objects.len()), ("", 0));
    let many = (0..MAX_MEMBERS + 3).map(|i| claim("10.244.1.7", "shop/db", &format!("p{i}")));
    directory.set(By::Slice, "e", many.collect());
    assert_eq!(
        (directory.members().count(), directory.refused_members),
        (MAX_MEMBERS, 3)
    );
}

/// Cause: two zones, and a node of the first of which nobody answers. Seen: the other one is asked as well, and then the first again.
#[test]
fn each_zone_is_asked_in_turn() {
    let mut directory = Directory::default();
    for zone in ["a", "b"] {
        let claim = Claim {
            zone: zone.into(),
            node: format!("node-{zone}").into(),
            ..claim("10.0.0.1", "shop/db", "p")
        };
        directory.set(By::Slice, zone, vec![claim]);
    }
    let asked =
        |directory: &Directory, last: &str| directory.unknown_zone(last).map(|(zone, _)| zone.to_string());
    assert_eq!(asked(&directory, "").as_deref(), Some("a"));
    assert_eq!(asked(&directory, "a").as_deref(), Some("b"));
    assert_eq!(asked(&directory, "b").as_deref(), Some("a"));
    directory.set_region("b", Some("eu"));
    assert_eq!(
        asked(&directory, "a").as_deref(),
        Some("a"),
        "it is the only one left"
    );
}
