use super::*;
use crate::arrived::Arrived;
use kube_core::Resource as _;
use serde_json::{Value, json};

fn read(value: &Value) -> Result<Arrived<Pod>, serde_json::Error> {
    serde_json::from_str(&value.to_string())
}

/// As kube-apiserver 1.31 writes it, shortened where nothing of it is read.
fn real() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": "web-6d4cf56db6-x7k2p", "generateName": "web-6d4cf56db6-", "namespace": "shop",
            "uid": "6c9ae3d4-0d2f-4a5e-9a41-5f1f0d2c7b11", "resourceVersion": "184467",
            "creationTimestamp": "2026-11-29T03:00:00Z",
            "labels": {"app": "web", "pod-template-hash": "6d4cf56db6"},
            "annotations": {"cni.projectcalico.org/podIP": "10.244.1.7/32"},
            "ownerReferences": [
                {"apiVersion": "example.io/v1", "kind": "Policy", "name": "p", "uid": "u", "controller": false},
                {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-6d4cf56db6", "uid": "u",
                 "controller": true, "blockOwnerDeletion": true}
            ],
            "managedFields": [{"manager": "kubelet", "fieldsV1": {"f:status": {"f:conditions": {}}}}]
        },
        "spec": {"nodeName": "node-1", "containers": [{"name": "web", "image": "nginx"}]},
        "status": {
            "phase": "Running",
            "containerStatuses": [
                {"name": "web", "containerID": "containerd://aaaa", "restartCount": 1,
                 "lastState": {"terminated": {"containerID": "containerd://9999", "exitCode": 1}},
                 "state": {"running": {"startedAt": "2026-11-29T03:00:02Z"}}},
                {"name": "istio-proxy", "containerID": "cri-o://bbbb", "lastState": {}},
                {"name": "waits", "state": {"waiting": {"reason": "PodInitializing"}}}
            ],
            "initContainerStatuses": [{"name": "init", "containerID": "docker://cccc"}],
            "ephemeralContainerStatuses": null
        }
    })
}

#[test]
fn a_real_pod() {
    let arrived = read(&real()).unwrap();
    assert_eq!(arrived.meta().resource_version.as_deref(), Some("184467"));
    let pod = arrived.what.unwrap();
    assert_eq!(
        (
            pod.namespace.as_str(),
            pod.name.as_str(),
            pod.kind,
            pod.workload.as_str()
        ),
        ("shop", "web-6d4cf56db6-x7k2p", Kind::Deployment, "web")
    );
    let names: Vec<_> = ["aaaa", "9999", "bbbb", "cccc", "dddd"]
        .map(|id| pod.container(id))
        .into();
    assert_eq!(
        names,
        [Some("web"), Some("web"), Some("istio-proxy"), Some("init"), None]
    );
    assert_eq!(pod.file, "");
}

#[test]
fn a_static_pod_is_known_by_its_file() {
    let mut value = real();
    value["metadata"]["name"] = json!("etcd-node-1");
    value["metadata"]["annotations"] =
        json!({"kubernetes.io/config.mirror": "0f1e2d3c4b5a69788796a5b4c3d2e1f0"});
    value["metadata"]["ownerReferences"] = json!([{"kind": "Node", "name": "node-1", "controller": true}]);
    let pod = read(&value).unwrap().what.unwrap();
    assert_eq!((pod.kind, pod.workload.as_str()), (Kind::Pod, "etcd"));
    assert_eq!(pod.file, "0f1e2d3c4b5a69788796a5b4c3d2e1f0");
}

#[test]
fn a_lying_server_gets_nothing_kept() {
    let set = |path: &str, to: Value| {
        let mut value = real();
        *value.pointer_mut(path).unwrap() = to;
        value
    };
    let long = json!("x".repeat(LONGEST + 1));
    for path in [
        "/metadata/name",
        "/metadata/namespace",
        "/metadata/uid",
        "/metadata/ownerReferences/1/name",
    ] {
        assert_eq!(read(&set(path, long.clone())).unwrap().what, None, "{path}");
        if !path.ends_with("/name") {
            assert_eq!(read(&set(path, json!(""))).unwrap().what, None, "{path}");
        }
    }
    let many: Vec<Value> = (0..1000)
        .map(|i| json!({"name": "c", "containerID": format!("containerd://{i}")}))
        .collect();
    let pod = read(&set("/status/containerStatuses", json!(many)))
        .unwrap()
        .what
        .unwrap();
    assert_eq!(pod.containers.len(), MAX_CONTAINERS);
    // No pod at all, or another type where a name should be.
    for bad in [
        json!({}),
        json!({"metadata": {}}),
        json!([]),
        json!(null),
        set("/metadata/name", json!(7)),
    ] {
        assert!(read(&bad).is_err(), "{bad}");
    }
    // Escapes need a copy, which a borrowed string cannot hold.
    let text = real().to_string().replace("\"shop\"", "\"sh\\u006fp\"");
    assert_eq!(
        serde_json::from_str::<Arrived<Pod>>(&text)
            .unwrap()
            .what
            .unwrap()
            .namespace,
        "shop"
    );
}
