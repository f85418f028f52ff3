//! Services, EndpointSlices and pods as protobuf: turned into what kube reads, with the fields that are read of them.
//!
//! After `generated.proto` of `discovery/v1`, `core/v1` and `meta/v1` of Kubernetes 1.33.

use crate::service::MAX_ENDPOINTS;
use bytes::Bytes;
use prost::Message;
use serde::Serialize;
use std::collections::HashMap;
use std::time::{Duration, SystemTime};
use tower::BoxError;

/// Turns an object of one kind.
pub(crate) type Turn = fn(Bytes) -> Result<Vec<u8>, BoxError>;

/// Who turns objects of this kind.
pub(crate) fn turn(kind: &str) -> Option<Turn> {
    match kind {
        "EndpointSlice" => Some(slice),
        "Pod" => Some(pod),
        "Service" => Some(service),
        _ => None,
    }
}

/// Labels and annotations of pods that are read.
const LABELS: [&str; 2] = ["pod-template-hash", "rollouts-pod-template-hash"];
const ANNOTATIONS: [&str; 1] = ["openshift.io/deployment-config.name"];

#[derive(Clone, PartialEq, Message)]
struct Slice {
    #[prost(message, optional, tag = "1")]
    metadata: Option<Meta>,
    #[prost(bytes = "bytes", repeated, tag = "2")]
    endpoints: Vec<Bytes>,
}

#[derive(Clone, PartialEq, Message, Serialize)]
#[serde(rename_all = "camelCase")]
struct Meta {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "3")]
    namespace: String,
    #[prost(string, tag = "5")]
    uid: String,
    #[prost(string, tag = "6")]
    resource_version: String,
    #[prost(map = "string, string", tag = "11")]
    labels: HashMap<String, String>,
}

#[derive(Clone, PartialEq, Message, Serialize)]
#[serde(rename_all = "camelCase")]
struct Endpoint {
    #[prost(string, repeated, tag = "1")]
    addresses: Vec<String>,
    #[prost(message, optional, tag = "4")]
    target_ref: Option<Behind>,
    #[prost(string, optional, tag = "6")]
    node_name: Option<String>,
    #[prost(string, optional, tag = "7")]
    zone: Option<String>,
}

#[derive(Clone, PartialEq, Message, Serialize)]
struct Behind {
    #[prost(string, optional, tag = "1")]
    kind: Option<String>,
    #[prost(string, optional, tag = "2")]
    namespace: Option<String>,
    #[prost(string, optional, tag = "3")]
    name: Option<String>,
    #[prost(string, optional, tag = "4")]
    uid: Option<String>,
}

/// A slice as kube reads it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown {
    api_version: &'static str,
    kind: &'static str,
    metadata: Meta,
    endpoints: Vec<Endpoint>,
}

fn slice(raw: Bytes) -> Result<Vec<u8>, BoxError> {
    let Slice { metadata, endpoints } = Slice::decode(raw)?;
    let endpoints = endpoints.into_iter().take(MAX_ENDPOINTS);
    Ok(serde_json::to_vec(&Shown {
        api_version: "discovery.k8s.io/v1",
        kind: "EndpointSlice",
        metadata: metadata.unwrap_or_default(),
        endpoints: endpoints.map(Endpoint::decode).collect::<Result<_, _>>()?,
    })?)
}

#[derive(Clone, PartialEq, Message)]
struct Service {
    #[prost(message, optional, tag = "1")]
    metadata: Option<Meta>,
    #[prost(message, optional, tag = "2")]
    spec: Option<ServiceSpec>,
    #[prost(message, optional, tag = "3")]
    status: Option<ServiceStatus>,
}

#[derive(Clone, PartialEq, Message, Serialize)]
struct ServiceSpec {
    #[prost(string, repeated, tag = "5")]
    #[serde(rename = "externalIPs")]
    external: Vec<String>,
    #[prost(string, repeated, tag = "18")]
    #[serde(rename = "clusterIPs")]
    own: Vec<String>,
}

#[derive(Clone, PartialEq, Message, Serialize)]
struct ServiceStatus {
    #[prost(message, optional, tag = "1")]
    #[serde(rename = "loadBalancer", skip_serializing_if = "Option::is_none")]
    balancer: Option<Balancer>,
}

#[derive(Clone, PartialEq, Message, Serialize)]
struct Balancer {
    #[prost(message, repeated, tag = "1")]
    ingress: Vec<Address>,
}

/// A service as kube reads it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ShownService {
    api_version: &'static str,
    kind: &'static str,
    metadata: Meta,
    spec: ServiceSpec,
    status: ServiceStatus,
}

fn service(raw: Bytes) -> Result<Vec<u8>, BoxError> {
    let Service {
        metadata,
        spec,
        status,
    } = Service::decode(raw)?;
    let mut metadata = metadata.unwrap_or_default();
    metadata.labels.clear();
    Ok(serde_json::to_vec(&ShownService {
        api_version: "v1",
        kind: "Service",
        metadata,
        spec: spec.unwrap_or_default(),
        status: status.unwrap_or_default(),
    })?)
}

#[derive(Clone, PartialEq, Message)]
struct Pod {
    #[prost(message, optional, tag = "1")]
    metadata: Option<PodMeta>,
    #[prost(message, optional, tag = "2")]
    spec: Option<Spec>,
    #[prost(message, optional, tag = "3")]
    status: Option<Addressed>,
}

#[derive(Clone, PartialEq, Message)]
struct PodMeta {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "3")]
    namespace: String,
    #[prost(string, tag = "5")]
    uid: String,
    #[prost(string, tag = "6")]
    resource_version: String,
    #[prost(message, optional, tag = "8")]
    creation_timestamp: Option<Time>,
    #[prost(message, optional, tag = "9")]
    deletion_timestamp: Option<Time>,
    #[prost(map = "string, string", tag = "11")]
    labels: HashMap<String, String>,
    #[prost(map = "string, string", tag = "12")]
    annotations: HashMap<String, String>,
    #[prost(message, repeated, tag = "13")]
    owner_references: Vec<Owner>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Time {
    #[prost(int64, tag = "1")]
    seconds: i64,
}

#[derive(Clone, PartialEq, Message, Serialize)]
struct Owner {
    #[prost(string, tag = "1")]
    kind: String,
    #[prost(string, tag = "3")]
    name: String,
    #[prost(bool, optional, tag = "6")]
    controller: Option<bool>,
}

#[derive(Clone, PartialEq, Message, Serialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    #[prost(string, tag = "10")]
    node_name: String,
    #[prost(bool, tag = "11")]
    host_network: bool,
}

#[derive(Clone, PartialEq, Message, Serialize)]
struct Addressed {
    #[prost(string, tag = "1")]
    phase: String,
    #[prost(message, repeated, tag = "12")]
    #[serde(rename = "podIPs")]
    addresses: Vec<Address>,
}

#[derive(Clone, PartialEq, Message, Serialize)]
struct Address {
    #[prost(string, tag = "1")]
    ip: String,
}

/// A pod as kube reads it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ShownPod {
    api_version: &'static str,
    kind: &'static str,
    metadata: ShownMeta,
    spec: Spec,
    status: Addressed,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ShownMeta {
    name: String,
    namespace: String,
    uid: String,
    resource_version: String,
    creation_timestamp: Option<String>,
    deletion_timestamp: Option<String>,
    labels: HashMap<String, String>,
    annotations: HashMap<String, String>,
    owner_references: Vec<Owner>,
}

fn time(time: Time) -> Option<String> {
    let since = Duration::from_secs(u64::try_from(time.seconds).ok()?);
    let at = SystemTime::UNIX_EPOCH.checked_add(since)?;
    // Beyond the year 9999 there is no text of it.
    let has_text = time.seconds < 253_402_300_800;
    has_text.then(|| humantime::format_rfc3339_seconds(at).to_string())
}

fn pod(raw: Bytes) -> Result<Vec<u8>, BoxError> {
    let Pod {
        metadata,
        spec,
        status,
    } = Pod::decode(raw)?;
    let mut metadata = metadata.unwrap_or_default();
    metadata.labels.retain(|name, _| LABELS.contains(&name.as_str()));
    metadata
        .annotations
        .retain(|name, _| ANNOTATIONS.contains(&name.as_str()));
    Ok(serde_json::to_vec(&ShownPod {
        api_version: "v1",
        kind: "Pod",
        metadata: ShownMeta {
            name: metadata.name,
            namespace: metadata.namespace,
            uid: metadata.uid,
            resource_version: metadata.resource_version,
            creation_timestamp: metadata.creation_timestamp.and_then(time),
            deletion_timestamp: metadata.deletion_timestamp.and_then(time),
            labels: metadata.labels,
            annotations: metadata.annotations,
            owner_references: metadata.owner_references,
        },
        spec: spec.unwrap_or_default(),
        status: status.unwrap_or_default(),
    })?)
}
