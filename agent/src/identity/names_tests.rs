use super::super::{Identity, Subject};
use super::*;
use agent_common::tcp::SubjectKey;
use agent_kube::Kind as Owner;
use std::fs;
use std::time::Duration;

const ID: &str = "3f4e1a2b5c6d7e8f90a1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f607";
const UID: &str = "6c9ae3d4-0d2f-4a5e-9a41-5f1f0d2c7b11";

fn pod(kind: Owner) -> Pod {
    Pod {
        uid: UID.into(),
        file: String::new(),
        namespace: "shop".into(),
        name: "web-6d4cf56db6-x7k2p".into(),
        kind,
        workload: "web".into(),
        containers: vec![(ID.into(), "nginx".into())],
    }
}

fn workload(path: &str) -> Workload {
    super::super::cgroup::parse(path.replace("UID", UID).replace("ID", ID).as_bytes()).unwrap()
}

fn names(kubernetes: Option<Kubernetes>, subject: SubjectOf, labels: &[FurtherLabel]) -> Names {
    Names {
        kubernetes,
        runtimes: Runtimes::new(Vec::new()),
        subject,
        labels: labels.to_vec(),
        place: None,
    }
}

/// Label, and further labels as Prometheus has them.
fn told(named: Option<Named>) -> (String, String, bool) {
    let named = named.unwrap();
    let name = named.name.unwrap_or_default();
    let further: Vec<String> = name
        .further
        .iter()
        .map(|(l, v)| format!("{}={v}", l.prometheus))
        .collect();
    (name.label, further.join(","), named.is_final)
}

#[test]
fn the_subject_is_what_the_setting_says_and_labels_follow_it() {
    use FurtherLabel::*;
    let now = Instant::now();
    let in_pod = workload("/kubepods/burstable/podUID/ID");
    let table: [(SubjectOf, &[FurtherLabel], &str, &str); 4] = [
        (SubjectOf::Workload, &[], "shop/web", ""),
        (
            SubjectOf::Workload,
            &[Namespace, Workload],
            "shop/web",
            "k8s_deployment_name=web,k8s_namespace_name=shop",
        ),
        (
            SubjectOf::Container,
            &[Container],
            "shop/web/nginx",
            "k8s_container_name=nginx",
        ),
        (
            SubjectOf::Pod,
            &[Pod],
            "shop/web-6d4cf56db6-x7k2p",
            "k8s_pod_name=web-6d4cf56db6-x7k2p",
        ),
    ];
    for (subject, labels, label, further) in table {
        let mut names = names(Some(Kubernetes::of([pod(Owner::Deployment)])), subject, labels);
        assert_eq!(told(names.of(&in_pod, now)), (label.into(), further.into(), true));
    }
    for (owner, further) in [
        (Owner::StatefulSet, "k8s_statefulset_name=web"),
        (Owner::CronJob, "k8s_cronjob_name=web"),
        (Owner::Pod, ""),
        (Owner::Other, ""),
    ] {
        let mut names = names(
            Some(Kubernetes::of([pod(owner)])),
            SubjectOf::Workload,
            &[Workload],
        );
        assert_eq!(told(names.of(&in_pod, now)).1, further);
    }
}

#[test]
fn what_the_api_does_not_know_yet_may_still_come() {
    let now = Instant::now();
    let in_pod = workload("/kubepods/burstable/podUID/ID");
    let elsewhere = workload("/system.slice/docker-ID.scope");
    let mut behind = names(Some(Kubernetes::of([])), SubjectOf::Workload, &[]);
    assert_eq!(
        told(behind.of(&in_pod, now)),
        (String::new(), String::new(), false)
    );
    assert!(told(behind.of(&elsewhere, now)).2, "no pod will ever own it");
    assert!(behind.of(&workload("/system.slice/a.service"), now).is_none());
    let mut without = names(None, SubjectOf::Workload, &[]);
    assert!(told(without.of(&in_pod, now)).2);
    // The pod is known before its containers are: the UID in the path is enough, but not for their names.
    let mut early = pod(Owner::DaemonSet);
    early.containers.clear();
    let by_workload = &mut names(Some(Kubernetes::of([early.clone()])), SubjectOf::Workload, &[]);
    assert_eq!(
        told(by_workload.of(&in_pod, now)),
        ("shop/web".into(), String::new(), true)
    );
    let by_container = &mut names(Some(Kubernetes::of([early])), SubjectOf::Container, &[]);
    assert_eq!(
        told(by_container.of(&in_pod, now)),
        ("shop/web".into(), String::new(), false)
    );
    // The path names no pod, but the API knows the container.
    let mut known = names(
        Some(Kubernetes::of([pod(Owner::DaemonSet)])),
        SubjectOf::Workload,
        &[],
    );
    assert_eq!(told(known.of(&elsewhere, now)).0, "shop/web");
}

#[test]
fn the_runtime_names_what_the_api_does_not() {
    let root = tempfile::tempdir().unwrap();
    let bundle = root
        .path()
        .join("run/containerd/io.containerd.runtime.v2.task/k8s.io")
        .join(ID);
    fs::create_dir_all(&bundle).unwrap();
    let text = r#"{"annotations":{"io.kubernetes.cri.container-name":"nginx",
        "io.kubernetes.cri.sandbox-name":"web-1","io.kubernetes.cri.sandbox-namespace":"shop"}}"#;
    fs::write(bundle.join("config.json"), text).unwrap();
    let runtimes = || Runtimes::new(vec![root.path().to_owned()]);
    let in_pod = workload("/kubepods/burstable/podUID/ID");
    let now = Instant::now();
    let all = [FurtherLabel::Namespace, FurtherLabel::Workload];
    let mut alone = names(None, SubjectOf::Workload, &all);
    alone.runtimes = runtimes();
    // No runtime writes down a pod: what its own cgroup is called is known with the first of its containers.
    let of_pod = workload("/kubepods/burstable/podUID");
    assert_eq!(
        told(alone.of(&of_pod, now)),
        (String::new(), String::new(), false)
    );
    for cgroup in [&in_pod, &of_pod] {
        assert_eq!(
            told(alone.of(cgroup, now)),
            ("shop/web-1".into(), "k8s_namespace_name=shop".into(), true)
        );
    }
    let mut behind = names(Some(Kubernetes::of([])), SubjectOf::Workload, &[]);
    behind.runtimes = runtimes();
    assert_eq!(
        told(behind.of(&in_pod, now)),
        ("shop/web-1".into(), String::new(), false)
    );
    // The name of the container, before the API has it.
    let mut early = pod(Owner::Deployment);
    early.containers.clear();
    let mut names = names(Some(Kubernetes::of([early])), SubjectOf::Container, &[]);
    names.runtimes = runtimes();
    assert_eq!(
        told(names.of(&in_pod, now)),
        ("shop/web/nginx".into(), String::new(), true)
    );
}

#[test]
fn a_row_waits_for_its_pod_but_not_for_ever() {
    let cgroups = tempfile::tempdir().unwrap();
    let path = cgroups.path().join(format!("kubepods/burstable/pod{UID}/{ID}"));
    fs::create_dir_all(&path).unwrap();
    let key = SubjectKey {
        cgroup: std::os::unix::fs::MetadataExt::ino(&fs::metadata(&path).unwrap()),
        ..SubjectKey::NOBODY
    };
    let start = Instant::now();
    let ask = |identity: &mut Identity, ms| -> Arc<Subject> {
        identity.subject_at(&key, &[0; 16], start + Duration::from_millis(ms))
    };
    let of = |kubernetes| {
        let identity = Identity::new(Some(cgroups.path().to_owned()), "/nowhere".into());
        identity.named(names(
            Some(kubernetes),
            SubjectOf::Workload,
            &[FurtherLabel::Namespace],
        ))
    };
    let away = Kubernetes::of([]);
    let mut outage = of(away.clone());
    let fixed = [0, 1100, 2200].map(|ms| ask(&mut outage, ms).fixed);
    assert_eq!(fixed, [false, false, true]);
    assert_eq!(ask(&mut outage, 2200).label, ID.split_at(12).0);
    // What comes after the API is back has the name that it says.
    away.add(pod(Owner::Deployment));
    assert_eq!(ask(&mut outage, 20_000).label, ID.split_at(12).0);
    assert_eq!(ask(&mut outage, 33_000).label, "shop/web");
    let kubernetes = Kubernetes::of([]);
    let mut late = of(kubernetes.clone());
    assert!(!ask(&mut late, 0).fixed);
    kubernetes.add(pod(Owner::Deployment));
    let subject = ask(&mut late, 1100);
    assert_eq!((subject.label.as_str(), subject.fixed), ("shop/web", true));
    assert_eq!(
        (subject.pod_uid.as_str(), subject.container_id.as_str()),
        (UID, ID)
    );
    // Written down and read again, as a recording does.
    let json = serde_json::to_string(&*subject).unwrap();
    assert_eq!(serde_json::from_str::<Subject>(&json).unwrap(), *subject);
}
