//! Containers as the kubelet has them started.

use crate::harness::agent::Scratch;
use crate::harness::traffic::{self, Place};
use crate::harness::{Scene, Traffic, serial};
use anyhow::{Context as _, Result};
use serde_json::json;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A container's id that no other has.
pub fn id() -> String {
    format!(
        "{:08x}{:08x}{}",
        std::process::id(),
        serial(),
        "5ca1ab1e".repeat(6)
    )
}

/// A container of runc, which is what containerd, CRI-O and docker start, where the kubelet has it started.
pub struct Container {
    /// Its id.
    pub id: String,
    scratch: Scratch,
    /// What containerd writes down before it starts it.
    bundle: Option<PathBuf>,
}

impl Container {
    /// One in the pod with this UID, with a process that speaks TCP in the client's namespace.
    pub fn new(uid: &str, scene: &Scene) -> Result<Self> {
        let own = Self {
            id: id(),
            scratch: Scratch::new()?,
            bundle: None,
        };
        let traffic = traffic::binary()?;
        let traffic = traffic.to_str().context("a strange path")?;
        let mut mounts = vec![json!({"destination": "/proc", "type": "proc", "source": "proc"})];
        for path in ["/usr", "/lib", "/lib64", "/bin"]
            .into_iter()
            .filter(|path| Path::new(path).exists())
        {
            mounts.push(
                json!({"destination": path, "type": "bind", "source": path, "options": ["rbind", "ro"]}),
            );
        }
        mounts.push(
            json!({"destination": "/traffic", "type": "bind", "source": traffic, "options": ["bind", "ro"]}),
        );
        let config = json!({
            "ociVersion": "1.0.2",
            "process": {
                "user": {"uid": 0, "gid": 0}, "args": ["/traffic", "--name", "main"],
                "env": ["PATH=/usr/bin:/bin"], "cwd": "/"
            },
            "root": {"path": "rootfs"},
            "mounts": mounts,
            "linux": {
                "cgroupsPath": format!("/kubepods/burstable/pod{uid}/{}", own.id),
                "namespaces": [
                    {"type": "pid"}, {"type": "mount"},
                    {"type": "network", "path": scene.net.a.ns.path()}
                ]
            },
            "annotations": {
                "io.kubernetes.cri.container-name": "main",
                "io.kubernetes.cri.container-type": "container",
                "io.kubernetes.cri.sandbox-name": "web-0",
                "io.kubernetes.cri.sandbox-namespace": "shop"
            }
        });
        fs::create_dir_all(own.scratch.path("rootfs"))?;
        own.scratch.write("config.json", config.to_string())?;
        Ok(own)
    }

    /// Leaves the annotations where containerd does.
    pub fn written_down(mut self) -> Result<Self> {
        let tasks = Path::new("/run/containerd/io.containerd.runtime.v2.task/k8s.io");
        let bundle = tasks.join(&self.id);
        fs::create_dir_all(&bundle)?;
        fs::copy(self.scratch.path("config.json"), bundle.join("config.json"))?;
        self.bundle = Some(bundle);
        Ok(self)
    }

    /// Runs it.
    pub fn start(&self) -> Result<Traffic> {
        let bundle = self.scratch.path("").display().to_string();
        let script = format!("#!/bin/sh\nexec runc run --bundle {bundle} {}\n", self.id);
        let script = self.scratch.write("run", script)?;
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
        Traffic::at(Place {
            binary: Some(&script),
            ..Place::default()
        })
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = Command::new("runc")
            .args(["delete", "--force", &self.id])
            .stderr(Stdio::null())
            .status();
        if let Some(bundle) = &self.bundle {
            let _ = fs::remove_dir_all(bundle);
            // Only what nobody else uses.
            for directory in bundle.ancestors().skip(1).take(3) {
                let _ = fs::remove_dir(directory);
            }
        }
    }
}
