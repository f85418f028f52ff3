//! Settings of Kubernetes.

use crate::identity::names::{FurtherLabel, SubjectOf};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;

/// Names of pods and their workloads, from the Kubernetes API. Names that container runtimes write down on this host are
/// used without it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct KubernetesSettings {
    /// Whether the API is asked, where `kubeconfig` is set or the agent runs in a pod that has a service account's token. It
    /// needs list and watch of `pods`, of which it asks for those of its own node, and get of `nodes`, for zone and region.
    pub enabled: bool,
    /// A kubeconfig file. Without it the service account is used that the kubelet gives to a container. A user that a program tells
    /// (`exec`) needs `security.seccomp: false`; one with `tokenFile` does not.
    pub kubeconfig: Option<PathBuf>,
    /// Name of this node in Kubernetes; empty = the variable `NODE_NAME`, which the pod sets to `spec.nodeName`, else the
    /// host's name.
    pub node: String,
    /// What the `subject` of a container is.
    pub subject: SubjectOf,
    /// Whom peers are called after; `true` is `services`, `false` nobody. It costs a series for each name and zone that somebody talks to. What
    /// `peers` says of a single address goes first; wider prefixes are for the rest.
    pub peers: PeersOf,
    /// Whether an endpoint that is spoken to by its own address, and not by its service's, is a peer of its own: `shop/db-0` rather
    /// than `shop/db`. It tells the slow one from the others where clients choose it themselves (gRPC, ingress controllers, headless
    /// services), and costs the series of each pod that somebody talks to.
    pub endpoints: bool,
    /// Labels that its series have beside `subject`. They add no series, for the subject decides them; so `container` needs
    /// `subject: container`, and `pod` needs `subject: pod`.
    pub labels: Vec<FurtherLabel>,
}

/// Whom peers are called after.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PeersOf {
    /// Prefixes only.
    #[default]
    Nobody,
    /// Services, by their addresses and those of their endpoints.
    Services,
    /// These, and pods behind no service.
    Pods,
}

impl PeersOf {
    /// Whether anybody is followed for it.
    pub fn is_any(self) -> bool {
        self != Self::Nobody
    }
}

impl Serialize for PeersOf {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Nobody => serializer.serialize_bool(false),
            Self::Services => serializer.serialize_str("services"),
            Self::Pods => serializer.serialize_str("pods"),
        }
    }
}

impl<'de> Deserialize<'de> for PeersOf {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = PeersOf;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("false, true, services or pods")
            }

            fn visit_bool<E: de::Error>(self, on: bool) -> Result<PeersOf, E> {
                Ok(if on { PeersOf::Services } else { PeersOf::Nobody })
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<PeersOf, E> {
                match text {
                    "false" => Ok(PeersOf::Nobody),
                    "true" | "services" => Ok(PeersOf::Services),
                    "pods" => Ok(PeersOf::Pods),
                    _ => Err(E::custom("expected false, true, services or pods")),
                }
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl JsonSchema for PeersOf {
    fn schema_name() -> Cow<'static, str> {
        "PeersOf".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "oneOf": [
            {
                "const": "services",
                "description": "services, as `shop/db`: by the address of the service, an external one or its load balancer's, else by that of an \
                                endpoint, then with its zone and region. It needs list and watch of `services` and `endpointslices` \
                                (`discovery.k8s.io`) of the whole cluster, as kube-proxy does on each node."
            },
            {
                "const": "pods",
                "description": "these, and pods behind no service, as `shop/worker`: their workload, or with `subject: pod` their name. Each agent \
                                lists and watches the pods of all nodes as well; docs/fleet.md says what that costs the API server."
            },
            { "type": "boolean" }
        ] })
    }

    fn inline_schema() -> bool {
        true
    }
}

impl Default for KubernetesSettings {
    fn default() -> Self {
        Self {
            enabled: true,
            kubeconfig: None,
            node: String::new(),
            subject: SubjectOf::Workload,
            peers: PeersOf::Nobody,
            endpoints: false,
            labels: vec![FurtherLabel::Namespace, FurtherLabel::Workload],
        }
    }
}

impl KubernetesSettings {
    /// Labels that the subject does not decide.
    pub fn validate(&self) -> anyhow::Result<()> {
        anyhow::ensure!(
            !self.endpoints || self.peers.is_any(),
            "endpoints needs peers: services or pods, which name them"
        );
        for (label, name, needs) in [
            (FurtherLabel::Container, "container", SubjectOf::Container),
            (FurtherLabel::Pod, "pod", SubjectOf::Pod),
        ] {
            if self.labels.contains(&label) && self.subject != needs {
                anyhow::bail!("labels {name} needs subject: {name}, which has a series for each {name}");
            }
        }
        let mut twice = self.labels.clone();
        twice.sort_by_key(|label| *label as u8);
        twice.dedup();
        if twice.len() != self.labels.len() {
            anyhow::bail!("labels one is given twice");
        }
        Ok(())
    }
}
