use super::*;
use crate::owner::Kind;

fn pod(number: usize) -> Pod {
    Pod {
        uid: format!("{number:08x}-0d2f-4a5e-9a41-5f1f0d2c7b11"),
        file: String::new(),
        namespace: "shop".into(),
        name: format!("web-6d4cf56db6-{number:05x}"),
        kind: Kind::Deployment,
        workload: "web".into(),
        containers: (0..3)
            .map(|c| (format!("{number:032x}{c:032x}"), format!("c{c}")))
            .collect(),
    }
}

fn name(store: &Store, uid: &str, container: &str) -> Option<String> {
    store.find(uid, container).map(|pod| pod.name.clone())
}

#[test]
fn a_pod_is_found_by_uid_by_container_and_by_its_file() {
    let now = Instant::now();
    let mut store = Store::default();
    let mut one = pod(1);
    one.file = "0f1e2d3c4b5a69788796a5b4c3d2e1f0".into();
    store.set(one.clone(), now);
    for (uid, container) in [
        (one.uid.as_str(), ""),
        ("", one.containers[2].0.as_str()),
        (one.file.as_str(), ""),
        (one.file.as_str(), "unknown"),
    ] {
        assert_eq!(
            name(&store, uid, container).as_ref(),
            Some(&one.name),
            "{uid} {container}"
        );
    }
    assert_eq!(name(&store, "", ""), None);
    assert_eq!(name(&store, "other", "other"), None);
    // A container that was started again has a new id, and the pod may forget the old one.
    let old = std::mem::replace(&mut one.containers[0].0, "new".into());
    store.set(one.clone(), now);
    assert_eq!(
        (name(&store, "", "new"), name(&store, "", &old)),
        (Some(one.name), None)
    );
    assert_eq!(store.by_id.len(), 4);
}

#[test]
fn what_is_gone_is_known_for_ten_minutes_and_a_listing_takes_nothing_away_before_its_end() {
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    let mut store = Store::default();
    store.list();
    for i in 1..=3 {
        store.set(pod(i), start);
    }
    store.listed(start);
    store.delete(&pod(1).uid, at(10));
    store.delete("unknown", at(10));
    assert_eq!(store.len(), 2);
    assert!(name(&store, &pod(1).uid, "").is_some(), "deleted, still known");
    // The server has lost its memory: it names one pod, and fails before the end.
    store.list();
    store.set(pod(2), at(20));
    assert_eq!(store.len(), 2);
    store.list();
    store.set(pod(2), at(30));
    store.listed(at(30));
    assert_eq!(store.len(), 1);
    assert!(name(&store, &pod(3).uid, "").is_some());
    store.delete(&pod(2).uid, at(609));
    assert!(name(&store, &pod(1).uid, "").is_some());
    store.listed(at(611));
    assert_eq!(name(&store, &pod(1).uid, &pod(1).containers[0].0), None);
    assert!(name(&store, &pod(3).uid, "").is_some() && name(&store, &pod(2).uid, "").is_some());
    // One that was gone and is there after all.
    store.set(pod(3), at(620));
    assert_eq!((store.len(), store.pods.len()), (1, 2));
    store.listed(at(2000));
    assert_eq!((store.len(), store.pods.len(), store.by_id.len()), (1, 1, 3));
}

#[test]
fn too_many_are_counted_and_the_gone_make_room() {
    let _alone = crate::LARGE.lock().unwrap();
    let now = Instant::now();
    let mut store = Store::default();
    for i in 0..MAX_PODS + 10 {
        store.set(pod(i), now);
    }
    assert_eq!((store.len(), store.refused), (MAX_PODS, 10));
    for i in 0..80 {
        store.delete(&pod(i).uid, now + Duration::from_secs(1 + i as u64));
    }
    store.set(pod(MAX_PODS), now + Duration::from_secs(100));
    assert_eq!((store.refused, store.len()), (10, MAX_PODS - 79));
    assert_eq!(name(&store, &pod(0).uid, ""), None);
    assert!(name(&store, &pod(79).uid, "").is_some() && name(&store, &pod(MAX_PODS).uid, "").is_some());
}

/// Resident bytes of this process.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

#[test]
fn ten_thousand_pods_fit_into_fifty_mebibytes() {
    let _alone = crate::LARGE.lock().unwrap();
    let now = Instant::now();
    let before = resident();
    let mut store = Store::default();
    for i in 0..MAX_PODS {
        store.set(pod(i), now);
    }
    let used = resident().saturating_sub(before);
    assert_eq!(store.len(), MAX_PODS);
    println!("{} KiB for {MAX_PODS} pods of three containers", used / 1024);
    assert!(used < 50 << 20, "{used} bytes");
}

#[test]
fn a_file_is_of_the_pod_that_was_there_first_for_as_long_as_it_is() {
    let now = Instant::now();
    let mut store = Store::default();
    let file = "0f1e2d3c4b5a69788796a5b4c3d2e1f0";
    let (mut one, mut other) = (pod(1), pod(2));
    (one.file, other.file) = (file.into(), file.into());
    (one.namespace, other.namespace) = ("kube-system".into(), "evil".into());
    store.set(one.clone(), now);
    store.set(other.clone(), now);
    let of = |store: &Store| store.find(file, "").map(|pod| pod.namespace.clone());
    assert_eq!(of(&store).as_deref(), Some("kube-system"));
    // The kubelet has started it again, under another UID.
    store.delete(&one.uid, now);
    let mut again = pod(3);
    (again.file, again.namespace) = (file.into(), "kube-system".into());
    store.set(again.clone(), now);
    assert_eq!(name(&store, file, "").as_deref(), Some(again.name.as_str()));
    // Once more, while nobody watched: the list has the new one before it is known that the old one is gone.
    let mut third = pod(4);
    (third.file, third.namespace) = (file.into(), "kube-system".into());
    store.list();
    store.set(third.clone(), now);
    store.listed(now);
    assert_eq!(name(&store, file, "").as_deref(), Some(third.name.as_str()));
}
