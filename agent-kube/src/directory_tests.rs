use super::*;

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn claim(at: &str, service: &str, pod: &str) -> Claim {
    Claim {
        address: address(at),
        service: service.into(),
        is_headless: false,
        zone: if pod.is_empty() { "" } else { "eu-1a" }.into(),
        node: if pod.is_empty() { "" } else { "node-1" }.into(),
        pod: pod.into(),
    }
}

fn taken(directory: &mut Directory) -> Vec<(String, String)> {
    let shown = |(address, target): (IpAddr, Option<Target>)| {
        let target = target.map_or_else(String::new, |t| format!("{} {} {}", t.service, t.zone, t.region));
        (address.to_string(), target)
    };
    directory.take().into_iter().map(shown).collect()
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    let owned = |(a, b): &(&str, &str)| ((*a).to_owned(), (*b).to_owned());
    expected.iter().map(owned).collect()
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
    assert_eq!(directory.unknown_zone(), Some(("eu-1a".into(), "node-1".into())));
    directory.set_region("eu-1a", Some("eu-1"));
    assert_eq!(directory.unknown_zone(), None);
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
        ..claim("10.244.1.7", "a/b", "p1")
    };
    directory.set(By::Slice, "1", vec![headless]);
    assert_eq!(taken(&mut directory), pairs(&[("10.244.1.7", "a/b eu-1a ")]));
    directory.set(By::Slice, "2", vec![claim("10.244.1.7", "shop/db-metrics", "p1")]);
    directory.set(By::Slice, "3", vec![claim("10.244.1.7", "shop/db", "p1")]);
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
    // A node that is not there is not asked for again and again.
    directory.set_region("eu-1a", None);
    assert_eq!(directory.unknown_zone(), None);
    directory.set(By::Slice, "1", Vec::new());
    assert_eq!(directory.len(), 1);
}
