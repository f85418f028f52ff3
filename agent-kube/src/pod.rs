//! What is read of a pod: the few fields that name it.

use crate::arrived::{Kept, LONGEST, LONGEST_ID, fits};
use crate::owner::{self, Kind, Origin, Owner};
use serde::{Deserialize, Deserializer};
use std::borrow::Cow;
use std::time::SystemTime;

/// Most containers of a pod that are kept, those that have ended among them.
pub const MAX_CONTAINERS: usize = 64;

/// A pod, as far as it names what runs in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// UID, as the API has it.
    pub uid: String,
    /// The UID under which the kubelet runs a static pod: the hash of its file. Empty = it is none.
    pub file: String,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// What its workload is.
    pub kind: Kind,
    /// Name of the workload.
    pub workload: String,
    /// Containers that run or have run: id without the runtime's name, and name.
    pub containers: Vec<(String, String)>,
}

impl Pod {
    /// Name of the container with this id, if the API knows it yet.
    pub fn container(&self, id: &str) -> Option<&str> {
        let named = self.containers.iter().find(|(known, _)| known == id);
        named.map(|(_, name)| name.as_str())
    }
}

impl Kept for Pod {
    const KIND: &'static str = "Pod";
    const GROUP: &'static str = "";
    const PLURAL: &'static str = "pods";

    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<(String, Option<Self>), D::Error> {
        let wire = Wire::deserialize(deserializer)?;
        let pod = wire.pod();
        Ok((wire.metadata.resource_version.into_owned(), pod))
    }
}

#[derive(Deserialize)]
struct Wire<'a> {
    // Without it nothing is parsed, so that a list of `{}` is not many times its size in memory.
    #[serde(borrow)]
    metadata: Metadata<'a>,
    #[serde(borrow, default)]
    status: Status<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Metadata<'a> {
    #[serde(borrow)]
    pub name: Cow<'a, str>,
    #[serde(borrow)]
    pub uid: Cow<'a, str>,
    #[serde(borrow)]
    pub resource_version: Cow<'a, str>,
    #[serde(borrow, default)]
    pub namespace: Cow<'a, str>,
    #[serde(borrow, default)]
    creation_timestamp: Option<Cow<'a, str>>,
    /// Since then somebody ends it.
    #[serde(borrow, default)]
    pub deletion_timestamp: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    labels: Option<Labels<'a>>,
    #[serde(borrow, default)]
    annotations: Option<Annotations<'a>>,
    #[serde(borrow, default)]
    owner_references: Option<Vec<Reference<'a>>>,
}

#[derive(Deserialize)]
struct Labels<'a> {
    #[serde(borrow, default, rename = "pod-template-hash")]
    template: Cow<'a, str>,
    #[serde(borrow, default, rename = "rollouts-pod-template-hash")]
    rollout: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Annotations<'a> {
    #[serde(borrow, default, rename = "kubernetes.io/config.mirror")]
    mirror: Cow<'a, str>,
    #[serde(borrow, default, rename = "openshift.io/deployment-config.name")]
    config: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Reference<'a> {
    #[serde(borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(default)]
    controller: Option<bool>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Status<'a> {
    #[serde(borrow)]
    container_statuses: Option<Vec<Container<'a>>>,
    #[serde(borrow)]
    init_container_statuses: Option<Vec<Container<'a>>>,
    #[serde(borrow)]
    ephemeral_container_statuses: Option<Vec<Container<'a>>>,
}

#[derive(Deserialize)]
struct Container<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    /// `containerd://<id>`; absent or empty until it runs.
    #[serde(borrow, default, rename = "containerID")]
    id: Cow<'a, str>,
    #[serde(borrow, default, rename = "lastState")]
    last: Option<Last<'a>>,
}

/// The run before this one, if the container was started again.
#[derive(Deserialize)]
struct Last<'a> {
    #[serde(borrow, default)]
    terminated: Option<Ended<'a>>,
}

#[derive(Deserialize)]
struct Ended<'a> {
    #[serde(borrow, default, rename = "containerID")]
    id: Cow<'a, str>,
}

impl Metadata<'_> {
    /// When it was made.
    pub fn created(&self) -> Option<SystemTime> {
        humantime::parse_rfc3339(self.creation_timestamp.as_deref()?).ok()
    }

    /// Its workload; `None` = it does not say who it is.
    pub fn workload(&self) -> Option<(Kind, &str)> {
        let mut owners = self.owner_references.iter().flatten();
        let owner = owners.find(|owner| owner.controller == Some(true));
        let labels = self.labels.as_ref();
        let annotations = self.annotations.as_ref();
        let (kind, workload) = owner::workload(&Origin {
            name: &self.name,
            owner: owner.map(|owner| Owner {
                kind: &owner.kind,
                name: &owner.name,
            }),
            template: labels.map_or("", |labels| &labels.template),
            rollout: labels.map_or("", |labels| &labels.rollout),
            config: annotations.map_or("", |a| &a.config),
            created: self.created(),
        });
        let is_named = fits(&self.name, LONGEST)
            && fits(&self.namespace, LONGEST)
            && fits(workload, LONGEST)
            && fits(&self.uid, LONGEST_ID);
        is_named.then_some((kind, workload))
    }
}

impl Wire<'_> {
    fn pod(&self) -> Option<Pod> {
        let metadata = &self.metadata;
        let (kind, workload) = metadata.workload()?;
        let mirror = metadata.annotations.as_ref().map_or("", |a| &a.mirror);
        Some(Pod {
            uid: metadata.uid.to_string(),
            file: Some(mirror)
                .filter(|hash| fits(hash, LONGEST_ID))
                .unwrap_or_default()
                .to_owned(),
            namespace: metadata.namespace.to_string(),
            name: metadata.name.to_string(),
            kind,
            workload: workload.to_owned(),
            containers: self.containers(),
        })
    }

    fn containers(&self) -> Vec<(String, String)> {
        let status = &self.status;
        let all = [
            &status.container_statuses,
            &status.init_container_statuses,
            &status.ephemeral_container_statuses,
        ];
        let runs = all.into_iter().flatten().flatten().flat_map(|container| {
            let last = container.last.as_ref().and_then(|last| last.terminated.as_ref());
            // While one waits to be started again, both are the run that has ended.
            let last = last.filter(|last| last.id != container.id);
            [Some(&container.id), last.map(|last| &last.id)]
                .into_iter()
                .flatten()
                .map(|id| (id, &container.name))
        });
        runs.filter_map(|(id, name)| {
            let id = id.split_once("://")?.1;
            let is_named = fits(id, LONGEST_ID) && fits(name, LONGEST);
            is_named.then(|| (id.to_owned(), name.to_string()))
        })
        .take(MAX_CONTAINERS)
        .collect()
    }
}

#[cfg(test)]
#[path = "pod_tests.rs"]
mod tests;
