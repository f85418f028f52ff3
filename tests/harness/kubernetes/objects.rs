//! Objects as a cluster has them, shortened where nothing of it is read.

use serde_json::{Value, json};

/// A node with its place.
pub fn node(name: &str, region: &str, zone: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {
            "name": name, "uid": name,
            "labels": {
                "kubernetes.io/hostname": name, "topology.kubernetes.io/region": region,
                "topology.kubernetes.io/zone": zone
            }
        },
        "spec": {"providerID": "x"}, "status": {"capacity": {"cpu": "8"}}
    })
}

/// A service with its address.
pub fn service(name: &str, address: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": "shop", "uid": format!("service-{name}"), "labels": {"app": name}},
        "spec": {
            "type": "ClusterIP", "clusterIP": address, "clusterIPs": [address], "selector": {"app": name},
            "ipFamilies": ["IPv4"], "ports": [{"port": 5432, "protocol": "TCP", "targetPort": 5432}]
        },
        "status": {"loadBalancer": {}}
    })
}

/// The endpoints of a service, each by its address, node and zone.
pub fn slice(service: &str, endpoints: &[(&str, &str, &str)]) -> Value {
    let endpoints: Vec<Value> = endpoints
        .iter()
        .map(|(address, node, zone)| {
            json!({
                "addresses": [address], "nodeName": node, "zone": zone,
                "conditions": {"ready": true, "serving": true, "terminating": false},
                "targetRef": {"kind": "Pod", "namespace": "shop", "name": service, "uid": format!("pod-of-{address}")}
            })
        })
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {
            "name": format!("{service}-x7k2p"), "namespace": "shop", "uid": format!("slice-{service}"),
            "labels": {
                "kubernetes.io/service-name": service,
                "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io"
            }
        },
        "endpoints": endpoints, "ports": [{"name": "", "port": 5432, "protocol": "TCP"}]
    })
}

/// The endpoints of a service that are one pod of `node-1`.
pub fn behind(service: &str, pod: &str) -> Value {
    let mut slice = slice(service, &[("10.255.1.7", "node-1", "eu-1a")]);
    slice["endpoints"][0]["targetRef"]["uid"] = json!(pod);
    slice
}

/// A pod of `node-1`: a Deployment's, as kube-controller-manager names them.
pub fn pod(uid: &str, namespace: &str, deployment: &str) -> Value {
    let hash = "6d4cf56db6";
    let replica_set = format!("{deployment}-{hash}");
    let name = format!("{replica_set}-{}", uid.get(..5).unwrap_or(uid));
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name, "generateName": format!("{replica_set}-"), "namespace": namespace, "uid": uid,
            "creationTimestamp": "2026-11-29T03:00:00Z",
            "labels": {"app.kubernetes.io/name": deployment, "pod-template-hash": hash},
            "annotations": {"kubernetes.io/config.seen": "2026-11-29T03:00:00.000000000Z"},
            "ownerReferences": [{
                "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": replica_set, "uid": "r",
                "controller": true, "blockOwnerDeletion": true
            }],
            "managedFields": [{
                "manager": "kube-controller-manager", "operation": "Update", "apiVersion": "v1",
                "time": "2026-11-29T03:00:00Z", "fieldsType": "FieldsV1",
                "fieldsV1": {"f:metadata": {"f:generateName": {}, "f:labels": {".": {}, "f:pod-template-hash": {}}}}
            }]
        },
        "spec": {
            "nodeName": "node-1", "serviceAccountName": "default",
            "containers": [{"name": "main", "image": "registry.example/web:1", "resources": {}}]
        },
        "status": {"phase": "Pending", "conditions": [], "hostIP": "192.0.2.1"}
    })
}

/// The same once its container runs.
pub fn running(mut pod: Value, container: &str) -> Value {
    pod["status"] = json!({
        "phase": "Running", "podIP": "10.244.1.7",
        "containerStatuses": [{
            "name": "main", "containerID": format!("containerd://{container}"), "ready": true, "restartCount": 0,
            "image": "registry.example/web:1", "lastState": {},
            "state": {"running": {"startedAt": "2026-11-29T03:00:02Z"}}
        }]
    });
    pod
}
