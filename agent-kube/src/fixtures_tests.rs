//! What is read of objects as clusters have them: tests/harness/kubernetes/fixtures, whose README tells where each was seen.

use crate::arrived::{Arrived, Kept};
use crate::bearer::Bearer;
use crate::pod::Pod;
use crate::service::{Named, Service, Slice};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// Kind, namespace, workload, then the names of containers in the order of their ids; a `file` goes before a static pod.
const PODS: &[(&str, &str)] = &[
    ("pod-argo-rollout", "Other nginx/blue-green-fe: fe"),
    ("pod-k3s-crash-loop", "Deployment default/backend-api: api-server"),
    (
        "pod-k3s-daemonset",
        "DaemonSet kube-system/svclb-traefik-9ce4920b: lb-tcp-443 lb-tcp-80",
    ),
    // Its chart's release, not a schedule.
    ("pod-k3s-job", "Job kube-system/helm-install-traefik: helm"),
    ("pod-k3s-not-scheduled", "Deployment default/cpu-intensive-app:"),
    // One that runs, the one before it, and one that somebody has looked with.
    (
        "pod-kind-debugged",
        "Pod default/hello-world: hello-server hello-server debugger-ssst6",
    ),
    ("pod-kind-dual-stack", "Deployment kube-system/coredns: coredns"),
    ("pod-kruise-clone-set", "Other shop/shop-crflxhk4hn:"),
    ("pod-minikube-1.16-docker", "StatefulSet shop/db: busybox"),
    ("pod-minikube-1.20-cronjob", "CronJob batch/cronjob:"),
    ("pod-minikube-static-etcd", "file Pod kube-system/etcd: etcd"),
    (
        "pod-openshift-cronjob",
        "CronJob data/auditlog-retention: auditlog-retention",
    ),
    (
        "pod-openshift-deployment-config",
        "Other shop/shop-backend: backend",
    ),
    (
        "pod-openshift-name-cut-off",
        "Deployment data/shop-catalog-search-1a3a7e88888b7fe0630189-qcwhm:",
    ),
    (
        "pod-openshift-statefulset",
        "StatefulSet openshift-monitoring/alertmanager-main: \
         alertmanager alertmanager-proxy config-reloader kube-rbac-proxy prom-label-proxy",
    ),
    (
        "pod-openshift-static-etcd",
        "file Pod openshift-etcd/etcd: etcd etcd etcd-metrics etcdctl etcd-ensure-env-vars etcd-resources-copy",
    ),
    (
        "pod-openshift-virtual-machine",
        "Other default/router-01: compute",
    ),
];

/// The service, then its addresses.
const SERVICES: &[(&str, &str)] = &[
    // A balancer that has a name only.
    ("service-eks-hostname", "kong/kong-proxy 10.99.19.245"),
    (
        "service-k3s-balancer",
        "kube-system/traefik 10.96.97.79 10.99.138.83",
    ),
    (
        "service-kind-dual-stack",
        "default/my-service-3 fd00:10:96::c306 10.97.15.29",
    ),
    ("service-minikube-balancer-pending", "shop/shop 10.97.192.84"),
];

/// The service, and whether it is headless; then address, zone, node and pod of each endpoint, as far as it has them.
const SLICES: &[(&str, &str)] = &[
    (
        "slice-gardener-hints",
        "shop/shop headless 10.96.128.228 zone-a 10.99.46.162 zone-b",
    ),
    (
        "slice-k3s",
        "kube-system/traefik 10.96.55.173 server-1 kube-system/traefik-c98fdf6fb-6jpj2",
    ),
    ("slice-k3s-api-server", "default/kubernetes 10.99.138.83"),
    (
        "slice-k3s-not-ready",
        "default/backend-api-service 10.99.2.5 server-1 default/backend-api-75fb46b7bd-xtkrh",
    ),
    (
        "slice-minikube-dashboard",
        "kubernetes-dashboard/kubernetes-dashboard 10.98.202.88 minikube kubernetes-dashboard/kubernetes-dashboard-f87d45d87-s65jb",
    ),
    ("slice-submariner", "nobody's"),
    (
        "slice-terminating",
        "prod/api 10.99.26.136 eu-west-1a node-07 prod/api-6c47d9f8b4-x9pql 10.99.48.66 eu-west-1b node-08 prod/api-5b9f0c1a22-mn4tv",
    ),
];

fn fixtures() -> BTreeMap<String, String> {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/harness/kubernetes/fixtures");
    let files = std::fs::read_dir(directory)
        .unwrap()
        .flatten()
        .map(|file| file.path());
    files
        .filter(|path| path.extension().is_some_and(|ending| ending == "json"))
        .map(|path| {
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            (name, std::fs::read_to_string(path).unwrap())
        })
        .collect()
}

/// What is read of one, as it is written down and as a server sends it.
fn read<T: Kept>(text: &str) -> Option<T> {
    let compact = serde_json::from_str::<Value>(text).unwrap().to_string();
    let _: Arrived<T> = serde_json::from_str(&compact).unwrap();
    serde_json::from_str::<Arrived<T>>(text).unwrap().what
}

fn pod(text: &str) -> String {
    let pod: Pod = read(text).unwrap();
    for (id, name) in &pod.containers {
        assert!(text.contains(&format!("://{id}")) && pod.container(id) == Some(name));
    }
    let value: Value = serde_json::from_str(text).unwrap();
    assert_eq!(pod.uid, value["metadata"]["uid"]);
    assert_eq!(pod.name, value["metadata"]["name"]);
    let hash = &value["metadata"]["annotations"]["kubernetes.io/config.mirror"];
    assert_eq!(pod.file, hash.as_str().unwrap_or_default());
    let file = if pod.file.is_empty() { "" } else { "file " };
    let head = format!("{file}{:?} {}/{}:", pod.kind, pod.namespace, pod.workload);
    let names = pod.containers.iter().map(|(_, name)| name.as_str());
    std::iter::once(head.as_str())
        .chain(names)
        .collect::<Vec<_>>()
        .join(" ")
}

fn claims<T: Named>(text: &str) -> String {
    let Some(object) = read::<T>(text) else {
        return "nobody's".into();
    };
    let (_, claims) = object.claims();
    let mut out: Vec<String> = Vec::new();
    for claim in claims {
        if out.is_empty() {
            out.push(format!(
                "{}{}",
                claim.service,
                if claim.is_headless { " headless" } else { "" }
            ));
        }
        let place = [&claim.zone, &claim.node, &claim.pod_name].map(|part| part.to_string());
        let place = place.into_iter().filter(|part| !part.is_empty());
        out.extend(std::iter::once(claim.address.to_string()).chain(place));
    }
    out.join(" ")
}

/// Each file of a kind is in its table, and says what the table says.
fn compare(kind: &str, table: &[(&str, &str)], shown: impl Fn(&str) -> String) {
    let files = fixtures();
    let of_kind: BTreeSet<&str> = files
        .keys()
        .map(String::as_str)
        .filter(|name| name.starts_with(kind))
        .collect();
    assert_eq!(of_kind, table.iter().map(|(name, _)| *name).collect());
    for (name, expected) in table {
        assert_eq!(shown(&files[*name]), *expected, "{name}");
    }
}

#[test]
fn pods_are_who_they_are() {
    compare("pod-", PODS, pod);
}

#[test]
fn addresses_of_pods_have_the_names_of_their_subjects() {
    let mut count = 0;
    for text in fixtures()
        .iter()
        .filter_map(|(name, text)| name.starts_with("pod-").then_some(text))
    {
        let pod: Pod = read(text).unwrap();
        let bearer: Bearer = read(text).unwrap();
        for claim in bearer.claims().1 {
            assert_eq!(*claim.service, format!("{}/{}", pod.namespace, pod.workload));
            assert_eq!(*claim.pod_name, format!("{}/{}", pod.namespace, pod.name));
            count += 1;
        }
    }
    assert!(count > 5, "{count} addresses");
}

#[test]
fn services_have_their_addresses() {
    compare("service-", SERVICES, claims::<Service>);
}

#[test]
fn slices_have_their_endpoints() {
    compare("slice-", SLICES, claims::<Slice>);
}
