//! Settings of Kubernetes.

use crate::identity::names::{FurtherLabel, SubjectOf};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
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
    /// Whether peers are called after services, as `shop/db`: by the address of the service, an external one or its load balancer's, else
    /// by that of an endpoint, then with its zone and region. It needs list and watch of `services` and `endpointslices`
    /// (`discovery.k8s.io`) of the whole cluster, as kube-proxy does on each node, and costs a series for each service and
    /// zone that somebody talks to. What `peers` says of a single address goes first; wider prefixes are for the rest.
    pub peers: bool,
    /// Labels that its series have beside `subject`. They add no series, for the subject decides them; so `container` needs
    /// `subject: container`, and `pod` needs `subject: pod`.
    pub labels: Vec<FurtherLabel>,
}

impl Default for KubernetesSettings {
    fn default() -> Self {
        Self {
            enabled: true,
            kubeconfig: None,
            node: String::new(),
            subject: SubjectOf::Workload,
            peers: false,
            labels: vec![FurtherLabel::Namespace, FurtherLabel::Workload],
        }
    }
}

impl KubernetesSettings {
    /// Labels that the subject does not decide.
    pub fn validate(&self) -> anyhow::Result<()> {
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
