//! Containers as containerd and the kubelet lay them out, without either.

use crate::harness::cgroup::Cgroup;
use crate::harness::traffic::Place;
use crate::harness::{Scene, Traffic, serial};
use anyhow::Result;
use std::path::Path;

/// The UID of a pod that no other test has.
pub fn uid() -> String {
    format!(
        "{:08x}-{:04x}-4a5e-9a41-5f1f0d2c7b11",
        std::process::id(),
        serial()
    )
}

/// The cgroup of a container in a pod.
pub fn container(uid: &str, id: &str) -> Result<Cgroup> {
    let pod = uid.replace('-', "_");
    Cgroup::new(format!(
        "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{pod}.slice/cri-containerd-{id}.scope"
    ))
}

/// A process in a container sends so many bytes and ends.
pub fn talk(scene: &Scene, cgroup: &Path, bytes: u64) -> Result<()> {
    let mut client = Traffic::at(Place {
        netns: Some(&scene.net.a.ns),
        cgroup: Some(cgroup),
        name: "main".into(),
        binary: None,
    })?;
    let connection = client.connect(&scene.at)?;
    client.ping(connection, bytes / 100, 100)?;
    client.close(connection)
}
