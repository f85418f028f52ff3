use super::*;
use agent_kube::directory::Claim;
use agent_kube::{Kind, Pod};

fn pod(uid: &str, containers: usize) -> Pod {
    let named = |i: usize| (format!("{uid}{i:063x}"), format!("c{i}"));
    Pod {
        uid: uid.to_owned(),
        file: String::new(),
        namespace: "shop".to_owned(),
        name: format!("web-{uid}"),
        kind: Kind::Deployment,
        workload: "web".to_owned(),
        containers: (0..containers).map(named).collect(),
    }
}

fn claim(service: &str, pod: &str) -> Claim {
    Claim {
        address: [10, 244, 1, 7].into(),
        service: service.into(),
        is_headless: false,
        zone: "eu-1a".into(),
        node: "node-1".into(),
        pod: pod.into(),
        pod_name: format!("shop/{pod}").into(),
        rank: Default::default(),
    }
}

/// Text of the series that say which services there are.
fn told(collect: &mut StatsCollect) -> Vec<String> {
    let series = collect.services().series;
    series.iter().map(|one| one.labels.text.clone()).collect()
}

/// Cause: two pods of one Deployment behind a service, one of them behind another as well; somebody of another namespace
/// names one too. Seen: services by what other series have as their subject, each once; those of another namespace never.
#[test]
fn services_are_told_by_the_subject_that_series_have() {
    let front = r#"k8s_namespace_name="shop",k8s_service_name="front""#;
    let table = [
        (SubjectOf::Workload, vec!["shop/web"]),
        (SubjectOf::Pod, vec!["shop/web-a", "shop/web-b"]),
        (SubjectOf::Container, vec!["shop/web/c0", "shop/web/c1"]),
    ];
    for (subject, subjects) in table {
        let kubernetes = Kubernetes::of([pod("a", 2), pod("b", 1)]);
        kubernetes.add_slice(
            "node-1",
            "s",
            vec![claim("shop/front", "a"), claim("shop/front", "b")],
        );
        kubernetes.add_slice("node-1", "x", vec![claim("evil/front", "a")]);
        kubernetes.add_slice("node-1", "y", vec![claim("shop/front", "nobody")]);
        let mut collect = StatsCollect::new(kubernetes.clone(), subject, 1);
        let expected = |service: &str| -> Vec<String> {
            let series = subjects
                .iter()
                .map(|subject| format!(r#"subject="{subject}",{service}"#));
            series.collect()
        };
        assert_eq!(told(&mut collect), expected(front));
        let first = collect.services().series;
        assert!(Arc::ptr_eq(
            &first[0].labels,
            &collect.services().series[0].labels
        ));
        kubernetes.add_slice("node-1", "z", vec![claim("shop/metrics", "a")]);
        assert_eq!(
            told(&mut collect).len(),
            expected(front).len()
                + match subject {
                    SubjectOf::Container => 2,
                    _ => 1,
                }
        );
        for slice in ["s", "z"] {
            kubernetes.add_slice("node-1", slice, Vec::new());
        }
        assert_eq!(told(&mut collect), Vec::<String>::new());
    }
}

/// Cause: more subjects in services than there is room for. Seen: as many as there is, the rest counted once.
#[test]
fn services_beyond_the_bound_are_counted() {
    let names: Vec<String> = (0..MAX_SERVICES + 5).map(|i| format!("p{i:04}")).collect();
    let kubernetes = Kubernetes::of(names.iter().map(|name| pod(name, 0)));
    let claims = names.iter().map(|name| claim("shop/front", name));
    kubernetes.add_slice("node-1", "s", claims.collect());
    let mut collect = StatsCollect::new(kubernetes.clone(), SubjectOf::Pod, 1);
    for _ in 0..2 {
        assert_eq!(told(&mut collect).len(), MAX_SERVICES);
        assert_eq!(kubernetes.status().refused.get("services"), Some(&5));
    }
}
