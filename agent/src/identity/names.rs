//! What a container is called: after its workload if Kubernetes says which, else as its runtime calls it.

use super::Name;
use super::cgroup::{Kind, Workload};
use super::place::Place;
use super::runtimes::{Container, Runtimes};
use crate::aggregate::labels::clean;
use crate::aggregate::{Further, Label, label};
use agent_kube::{Kubernetes, Pod};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Instant;

/// What a container is to its series.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SubjectOf {
    /// `namespace/workload`: the fewest, and the same after each rollout.
    #[default]
    Workload,
    /// `namespace/workload/container`: a sidecar is told from what it stands beside.
    Container,
    /// `namespace/pod`: new ones with each rollout.
    Pod,
}

impl SubjectOf {
    /// What a container of a pod is called; empty = its name is not known.
    pub fn of(self, pod: &Pod, container: &str) -> String {
        let Pod {
            namespace,
            name,
            workload,
            ..
        } = pod;
        match self {
            Self::Pod => format!("{namespace}/{name}"),
            Self::Container if !container.is_empty() => format!("{namespace}/{workload}/{container}"),
            Self::Container | Self::Workload => format!("{namespace}/{workload}"),
        }
    }
}

/// A label that series of containers may have beside `subject`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FurtherLabel {
    /// `k8s_namespace_name`.
    Namespace,
    /// `k8s_deployment_name`, `k8s_statefulset_name` and the like, by what the workload is.
    Workload,
    /// `k8s_container_name`; with `subject: container`.
    Container,
    /// `k8s_pod_name`; with `subject: pod`.
    Pod,
}

/// Where names of containers come from.
#[derive(Default)]
pub struct Names {
    /// The API, if it is asked.
    pub kubernetes: Option<Kubernetes>,
    /// The files of the runtimes.
    pub runtimes: Runtimes,
    /// What a subject is.
    pub subject: SubjectOf,
    /// What it is said beside.
    pub labels: Vec<FurtherLabel>,
    /// Where the node is, if Kubernetes says so.
    pub place: Option<Place>,
}

/// What is known of a container's name.
#[derive(Debug, PartialEq, Eq)]
pub struct Named {
    /// `None` = nothing.
    pub name: Option<Name>,
    /// False: a better one may still come.
    pub is_final: bool,
}

impl Names {
    /// The name of a workload; `None` if it is no container, and is called what its cgroup says.
    pub fn of(&mut self, workload: &Workload, now: Instant) -> Option<Named> {
        if !matches!(workload.kind, Kind::Container | Kind::Pod) {
            return None;
        }
        let id = workload.container_id.as_deref().unwrap_or_default();
        let uid = workload.pod_uid.as_deref().unwrap_or_default();
        let pod = self
            .kubernetes
            .as_ref()
            .and_then(|kubernetes| kubernetes.find(uid, id));
        let Some(pod) = pod else {
            let container = self.runtimes.container_of(uid, id, now);
            // The API is behind, for the moment or because it cannot be reached; and a pod's cgroup is made before those of its containers.
            let is_early = id.is_empty() && container.is_none();
            let is_final = uid.is_empty() || self.kubernetes.is_none() && !is_early;
            let name = container.map(|container| self.without_pod(&container));
            return Some(Named { name, is_final });
        };
        let container = match pod.container(id) {
            Some(name) => name.to_owned(),
            // The API has it some seconds after it has been started. That of the pause container stays empty.
            None if self.subject == SubjectOf::Container => {
                let known = self.runtimes.container(id, now);
                known.map_or_else(String::new, |container| container.name.clone())
            }
            None => String::new(),
        };
        let is_final = self.subject != SubjectOf::Container || !container.is_empty();
        let name = Some(self.of_pod(&pod, &container));
        Some(Named { name, is_final })
    }

    fn of_pod(&self, pod: &Arc<Pod>, container: &str) -> Name {
        let label = self.subject.of(pod, container);
        let further = self.labels.iter().filter_map(|further| {
            Some(match further {
                FurtherLabel::Namespace => (&label::K8S_NAMESPACE, pod.namespace.as_str()),
                FurtherLabel::Workload => (workload_label(pod.kind)?, pod.workload.as_str()),
                FurtherLabel::Pod => (&label::K8S_POD, pod.name.as_str()),
                FurtherLabel::Container => (&label::K8S_CONTAINER, container),
            })
        });
        named(&label, further)
    }

    /// Of what a runtime says. It does not know the workload of a pod.
    fn without_pod(&self, container: &Container) -> Name {
        let Container { name, namespace, pod } = container;
        let label = match self.subject {
            _ if pod.is_empty() => name.clone(),
            SubjectOf::Container if !name.is_empty() => format!("{namespace}/{pod}/{name}"),
            _ => format!("{namespace}/{pod}"),
        };
        let further = self.labels.iter().filter_map(|further| {
            Some(match further {
                _ if pod.is_empty() => return None,
                FurtherLabel::Namespace => (&label::K8S_NAMESPACE, namespace.as_str()),
                FurtherLabel::Workload => return None,
                FurtherLabel::Pod => (&label::K8S_POD, pod.as_str()),
                FurtherLabel::Container => (&label::K8S_CONTAINER, name.as_str()),
            })
        });
        named(&label, further)
    }
}

fn named<'a>(label: &str, further: impl Iterator<Item = (&'static Label, &'a str)>) -> Name {
    Name {
        label: clean(label),
        further: Further::new(further.map(|(label, value)| (label, clean(value)))),
    }
}

fn workload_label(kind: agent_kube::Kind) -> Option<&'static Label> {
    use agent_kube::Kind;
    Some(match kind {
        Kind::Deployment => &label::K8S_DEPLOYMENT,
        Kind::ReplicaSet => &label::K8S_REPLICA_SET,
        Kind::ReplicationController => &label::K8S_REPLICATION_CONTROLLER,
        Kind::StatefulSet => &label::K8S_STATEFUL_SET,
        Kind::DaemonSet => &label::K8S_DAEMON_SET,
        Kind::Job => &label::K8S_JOB,
        Kind::CronJob => &label::K8S_CRON_JOB,
        Kind::Pod | Kind::Other => return None,
    })
}

#[cfg(test)]
#[path = "names_tests.rs"]
mod tests;
