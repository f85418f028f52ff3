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

/// The same on another node, where it runs with this address.
pub fn elsewhere(pod: Value, node: &str, address: &str) -> Value {
    let mut pod = running(pod, "elsewhere");
    pod["spec"]["nodeName"] = json!(node);
    pod["status"]["podIP"] = json!(address);
    pod["status"]["podIPs"] = json!([{"ip": address}]);
    pod
}

/// The same with all that a pod of a web application of one container says, as kubectl shows it of a cluster of 1.33.
pub fn lifelike(mut pod: Value) -> Value {
    let at = "2026-11-29T03:00:02Z";
    let labels = pod["metadata"]["labels"].as_object_mut();
    labels.into_iter().for_each(|labels| {
        labels.insert("app.kubernetes.io/instance".to_owned(), json!("web"));
        labels.insert("app.kubernetes.io/version".to_owned(), json!("1.24.3"));
    });
    pod["metadata"]["annotations"] = json!({
        "checksum/config": "0".repeat(64), "prometheus.io/scrape": "true", "prometheus.io/port": "8080"
    });
    let keys = |prefix: &str, names: &str| -> Value {
        let keys = names
            .split(' ')
            .map(|name| (format!("{prefix}{name}"), json!({})));
        Value::Object(keys.collect())
    };
    let variables = "PORT LOG_LEVEL DATABASE_URL CACHE_URL POD_NAME POD_IP TZ OTEL_ENDPOINT";
    let spec = "containers dnsPolicy enableServiceLinks restartPolicy schedulerName securityContext serviceAccount \
                serviceAccountName terminationGracePeriodSeconds volumes";
    let container = "env image imagePullPolicy livenessProbe name ports readinessProbe resources securityContext \
                     terminationMessagePath terminationMessagePolicy volumeMounts";
    let of_status = "containerStatuses hostIP hostIPs phase podIP podIPs startTime";
    let conditions = [
        "PodReadyToStartContainers",
        "Initialized",
        "Ready",
        "ContainersReady",
        "PodScheduled",
    ];
    let of_conditions = conditions.map(|kind| {
        json!({format!("k:{{\"type\":\"{kind}\"}}"): keys("f:", "lastProbeTime lastTransitionTime status type")})
    });
    pod["metadata"]["managedFields"] = json!([
        {"manager": "kube-controller-manager", "operation": "Update", "apiVersion": "v1", "time": at, "fieldsType": "FieldsV1",
         "fieldsV1": {"f:metadata": keys("f:", "annotations generateName labels ownerReferences"),
            "f:labels": keys("f:", "app.kubernetes.io/name app.kubernetes.io/instance pod-template-hash"),
            "f:spec": keys("f:", spec), "f:containers": keys("f:", container), "f:env": keys("k:name ", variables)}},
        {"manager": "kubelet", "operation": "Update", "apiVersion": "v1", "time": at, "fieldsType": "FieldsV1",
         "subresource": "status", "fieldsV1": {"f:status": keys("f:", of_status), "f:conditions": of_conditions}}
    ]);
    let environment: Vec<Value> = variables
        .split(' ')
        .map(|name| json!({"name": name, "value": "postgres.shop.svc.cluster.local:5432"}))
        .collect();
    let probe = json!({"httpGet": {"path": "/healthz", "port": 8080, "scheme": "HTTP"}, "timeoutSeconds": 1,
        "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3});
    let mounts = json!([{"name": "config", "mountPath": "/etc/web", "readOnly": true},
        {"name": "kube-api-access-x7k2p", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount", "readOnly": true}]);
    let volumes = json!([{"name": "config", "configMap": {"name": "web", "defaultMode": 420}},
        {"name": "kube-api-access-x7k2p", "projected": {"defaultMode": 420, "sources": [
            {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}}]}}]);
    let container = json!({
        "name": "main", "image": "registry.example/shop/web:1.24.3", "imagePullPolicy": "IfNotPresent", "env": environment,
        "ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}],
        "resources": {"limits": {"memory": "512Mi"}, "requests": {"cpu": "100m", "memory": "512Mi"}},
        "livenessProbe": probe, "readinessProbe": probe, "volumeMounts": mounts,
        "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
        "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}
    });
    let tolerations = ["not-ready", "unreachable"].map(|taint| {
        json!({"key": format!("node.kubernetes.io/{taint}"), "operator": "Exists", "effect": "NoExecute",
            "tolerationSeconds": 300})
    });
    let node = pod["spec"]["nodeName"].clone();
    pod["spec"] = json!({
        "nodeName": node, "serviceAccountName": "web", "serviceAccount": "web", "restartPolicy": "Always", "dnsPolicy": "ClusterFirst",
        "schedulerName": "default-scheduler", "priority": 0, "preemptionPolicy": "PreemptLowerPriority",
        "terminationGracePeriodSeconds": 30, "enableServiceLinks": true, "securityContext": {"runAsUser": 1000, "fsGroup": 1000},
        "volumes": volumes, "containers": [container], "tolerations": tolerations
    });
    let status = &mut pod["status"];
    status["startTime"] = json!(at);
    status["qosClass"] = json!("Burstable");
    status["hostIPs"] = json!([{"ip": "192.0.2.1"}]);
    status["conditions"] =
        json!(conditions.map(|kind| json!({"type": kind, "status": "True", "lastTransitionTime": at})));
    status["containerStatuses"][0]["imageID"] =
        json!(format!("registry.example/shop/web@sha256:{}", "0".repeat(64)));
    status["containerStatuses"][0]["volumeMounts"] = mounts;
    pod
}
