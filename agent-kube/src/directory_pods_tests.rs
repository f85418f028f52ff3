//! Pods that are peers: whose an address is when no service says it.

use super::tests::{address, claim, pairs, taken};
use super::*;
use crate::store::MAX_PODS;

/// A pod of a workload, on a node.
fn pod(at: &str, workload: &str, uid: &str, rank: (bool, u64)) -> Claim {
    Claim {
        zone: Arc::default(),
        node: "node-2".into(),
        service: format!("shop/{workload}").into(),
        rank,
        ..claim(at, "", uid)
    }
}

fn on(node: &str, zone: &str, at: &str) -> Claim {
    Claim {
        node: node.into(),
        zone: zone.into(),
        ..claim(at, "shop/db", "p9")
    }
}

/// Cause: a pod, then a service that it is behind, then none again; where its node is is said by an endpoint there, first of one zone,
/// then of another as well. Seen: its workload, or its own name if pods are subjects, unless a service has it; with zone and
/// region as soon as they are known, and with none while they are contradicted.
#[test]
fn a_pod_behind_no_service_is_its_workload() {
    for (names_pods, name) in [(false, "shop/worker"), (true, "shop/p1")] {
        let mut directory = Directory {
            names_pods,
            ..Directory::default()
        };
        let is = |place: &str| pairs(&[("10.244.2.7", &format!("{name} {place}"))]);
        directory.set(By::Pod, "p1", vec![pod("10.244.2.7", "worker", "p1", (true, 1))]);
        assert_eq!(taken(&mut directory), is(" "));
        directory.set(By::Slice, "e", vec![on("node-2", "eu-1b", "10.244.2.8")]);
        assert_eq!(
            taken(&mut directory),
            [is("eu-1b "), pairs(&[("10.244.2.8", "shop/db eu-1b ")])].concat()
        );
        directory.set_region("eu-1b", Some("eu-1"));
        let db = |region: &str| pairs(&[("10.244.2.8", &format!("shop/db eu-1b {region}"))]);
        assert_eq!(taken(&mut directory), [is("eu-1b eu-1"), db("eu-1")].concat());
        let own = Claim {
            node: "node-2".into(),
            zone: "eu-1b".into(),
            ..claim("10.244.2.7", "shop/web", "p1")
        };
        directory.set(By::Slice, "w", vec![own]);
        assert_eq!(
            taken(&mut directory),
            pairs(&[("10.244.2.7", "shop/web eu-1b eu-1")])
        );
        directory.set(By::Slice, "w", Vec::new());
        assert_eq!(taken(&mut directory), is("eu-1b eu-1"));
        directory.set(By::Slice, "x", vec![on("node-2", "moon", "10.244.2.9")]);
        let moon = pairs(&[("10.244.2.9", "shop/db moon ")]);
        assert_eq!(taken(&mut directory), [is(" "), moon].concat());
        directory.set(By::Slice, "x", Vec::new());
        directory.renew_zones();
        let gone = pairs(&[("10.244.2.9", "")]);
        assert_eq!(taken(&mut directory), [is("eu-1b eu-1"), gone].concat());
        // Its node has no endpoint any more.
        directory.set(By::Slice, "e", Vec::new());
        directory.renew_zones();
        assert_eq!(
            taken(&mut directory),
            [is(" "), pairs(&[("10.244.2.8", "")])].concat()
        );
        directory.list(By::Pod);
        directory.listed(By::Pod);
        assert_eq!(taken(&mut directory), pairs(&[("10.244.2.7", "")]));
        assert_eq!(
            (directory.objects.len(), directory.told.len(), directory.all),
            (0, 0, 0)
        );
    }
}

/// Cause: an address goes from one pod to another, in whatever order the server tells of both. Seen: at each step one of them, and the new
/// one as soon as it is there: no address is nobody's because it was somebody's.
#[test]
fn an_address_is_the_pods_that_has_it_now() {
    let old = |stays| vec![pod("10.244.2.7", "old", "p1", (stays, 5))];
    let new = || vec![pod("10.244.2.7", "new", "p2", (true, 9))];
    let is = |name: &str| pairs(&[("10.244.2.7", name)]);
    let same = pairs(&[]);
    // The old one is being ended; the new one comes before it is gone.
    let mut directory = Directory::default();
    directory.set(By::Pod, "p1", old(true));
    assert_eq!(taken(&mut directory), is("shop/old  "));
    directory.set(By::Pod, "p1", old(false));
    assert_eq!(taken(&mut directory), same);
    directory.set(By::Pod, "p2", new());
    assert_eq!(taken(&mut directory), is("shop/new  "));
    // That it is not gone is said again: nothing changes, and neither when it is.
    directory.set(By::Pod, "p1", old(false));
    directory.set(By::Pod, "p1", Vec::new());
    assert_eq!(taken(&mut directory), same);
    // The new one is told of first, and what is told of the old one comes late: the newer one has it.
    let mut directory = Directory::default();
    directory.set(By::Pod, "p2", new());
    directory.set(By::Pod, "p1", old(true));
    assert_eq!(taken(&mut directory), is("shop/new  "));
    // An old pod has a new address, which one had that is being ended.
    let mut directory = Directory::default();
    directory.set(By::Pod, "p2", vec![pod("10.244.2.7", "new", "p2", (false, 9))]);
    directory.set(By::Pod, "p1", old(true));
    assert_eq!(taken(&mut directory), is("shop/old  "));
    // It is deleted while nobody watched.
    directory.list(By::Pod);
    directory.set(By::Pod, "p3", vec![pod("10.244.2.7", "third", "p3", (true, 4))]);
    assert_eq!(taken(&mut directory), same);
    directory.listed(By::Pod);
    assert_eq!(taken(&mut directory), is("shop/third  "));
    assert_eq!(directory.objects.len(), 1);
}

/// Cause: endpoints of another namespace at the address of a pod; several services of one address that do not agree. Seen: the pod's
/// own service, or its workload, where it would be nobody's without the pod.
#[test]
fn what_a_pod_says_of_its_address_is_held_against_what_others_say() {
    let mut directory = Directory::default();
    directory.set(By::Slice, "x", vec![claim("10.244.1.7", "evil/a", "p1")]);
    assert_eq!(taken(&mut directory), pairs(&[("10.244.1.7", "evil/a eu-1a ")]));
    directory.set(By::Pod, "p1", vec![pod("10.244.1.7", "worker", "p1", (true, 1))]);
    assert_eq!(taken(&mut directory), pairs(&[("10.244.1.7", "shop/worker  ")]));
    directory.set(By::Slice, "e", vec![claim("10.244.1.7", "shop/db", "p1")]);
    assert_eq!(taken(&mut directory), pairs(&[("10.244.1.7", "shop/db eu-1a ")]));
    directory.set(By::Slice, "f", vec![claim("10.244.1.7", "shop/web", "p0")]);
    assert_eq!(taken(&mut directory), pairs(&[("10.244.1.7", "shop/worker  ")]));
    directory.set(By::Slice, "f", Vec::new());
    assert_eq!(taken(&mut directory), pairs(&[("10.244.1.7", "shop/db eu-1a ")]));
    // A crowd hides the pod as it hides a service, until it is gone and pods are listed anew.
    directory.set(By::Pod, "p1", Vec::new());
    for i in 0..MAX_CLAIMS {
        directory.set(
            By::Slice,
            &format!("x{i}"),
            vec![claim("10.244.1.7", "evil/a", "p1")],
        );
    }
    directory.set(By::Pod, "p1", vec![pod("10.244.1.7", "worker", "p1", (true, 1))]);
    assert_eq!(taken(&mut directory), pairs(&[("10.244.1.7", "")]));
    for i in 0..MAX_CLAIMS {
        directory.set(By::Slice, &format!("x{i}"), Vec::new());
    }
    assert!(directory.has_room_again(By::Pod));
    directory.list(By::Pod);
    directory.set(By::Pod, "p1", vec![pod("10.244.1.7", "worker", "p1", (true, 1))]);
    directory.listed(By::Pod);
    directory.has_room_again(By::Slice);
    directory.list(By::Slice);
    directory.set(By::Slice, "e", vec![claim("10.244.1.7", "shop/db", "p1")]);
    directory.listed(By::Slice);
    assert_eq!(taken(&mut directory), pairs(&[("10.244.1.7", "shop/db eu-1a ")]));
}

/// Cause: more pods than there is room for. Seen: those that are too many counted, room for services all the same, and for pods again when
/// enough are gone.
#[test]
fn pods_leave_room_for_services() {
    let _alone = crate::LARGE.lock().unwrap();
    let mut directory = Directory::default();
    let at = |i: usize| IpAddr::from((0x0a00_0000 + i as u32).to_be_bytes()).to_string();
    let said = |i: usize| vec![pod(&at(i), "worker", "p", (true, 1))];
    for i in 0..MAX_BY_PODS + 5 {
        directory.set(By::Pod, &format!("p{i}"), said(i));
    }
    assert_eq!((directory.len(), directory.refused), (MAX_BY_PODS, 5));
    directory.set(By::Service, "s", vec![claim("10.96.0.10", "shop/db", "")]);
    directory.set(By::Slice, "e", vec![claim(&at(MAX_BY_PODS), "shop/db", "p")]);
    assert_eq!((directory.len(), directory.refused), (MAX_BY_PODS + 2, 5));
    assert!(!directory.has_room_again(By::Pod));
    for i in 0..MAX_BY_PODS / 4 {
        directory.set(By::Pod, &format!("p{i}"), Vec::new());
    }
    assert!(directory.has_room_again(By::Pod) && !directory.has_room_again(By::Pod));
}

/// Resident bytes of this process.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

/// Cause: as many pods as a node may have, of all nodes, each behind a service too, and what they say again and again. Seen: less than
/// 50 MiB; of what is said again nothing is left, and nothing is told.
#[test]
fn ten_thousand_pods_of_all_nodes_fit_into_fifty_mebibytes() {
    let _alone = crate::LARGE.lock().unwrap();
    let before = resident();
    let mut directory = Directory::default();
    let at = |i: usize| IpAddr::from([10, 244, (i >> 8) as u8, i as u8]).to_string();
    let said = |i: usize| {
        let uid = format!("{i:08x}-0d2f-4a5e-9a41-5f1f0d2c7b11");
        let claim = Claim {
            node: format!("node-{}", i / 100).into(),
            pod_name: format!("shop/worker-of-{}-6d4cf56db6-{i:05x}", i / 10).into(),
            ..pod(&at(i), &format!("worker-of-{}", i / 10), &uid, (true, i as u64))
        };
        (uid, vec![claim])
    };
    let all = |directory: &mut Directory| {
        for i in 0..MAX_PODS {
            let (uid, claims) = said(i);
            directory.set(By::Pod, &uid, claims);
        }
    };
    all(&mut directory);
    for (slice, pods) in (0..MAX_PODS).collect::<Vec<_>>().chunks(100).enumerate() {
        let claims = pods.iter().map(|i| Claim {
            zone: "eu-1a".into(),
            service: format!("shop/service-{slice}").into(),
            ..said(*i).1.remove(0)
        });
        directory.set(By::Slice, &format!("slice-{slice}"), claims.collect());
    }
    assert_eq!(directory.take().len(), MAX_PODS);
    let used = resident().saturating_sub(before);
    println!("{} KiB for {MAX_PODS} pods behind services", used / 1024);
    assert!(used < 50 << 20, "{used} bytes");
    for _ in 0..5 {
        all(&mut directory);
        assert!(directory.dirty.is_empty());
    }
    directory.list(By::Pod);
    all(&mut directory);
    directory.listed(By::Pod);
    assert!(directory.dirty.is_empty() && directory.refused == 0);
    let more = resident().saturating_sub(before + used);
    println!("{} KiB more after 60,000 updates", more / 1024);
    assert!(more < 1 << 20, "{more} bytes");
    assert_eq!(
        directory.find(&address(&at(7))).unwrap().service,
        "shop/service-0".into()
    );
}
