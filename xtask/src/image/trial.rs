//! The image, started by runc as a node would start it: read-only, with the DaemonSet's capabilities and namespaces, the profile of system calls
//! that is shipped, the node's network.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::{layer, layout};
use crate::shell::{root, say, target_dir};

/// A container starts, and its agent attaches, in so long.
const PATIENCE: Duration = Duration::from_secs(60);

/// Unpacks the image and does with it what its users do; returns how many things held.
pub fn try_all(image: &Path) -> Result<u64> {
    let image = layout::read(image)?;
    let scratch = tempfile::tempdir_in(target_dir()?)?;
    let bundle = scratch.path().join("bundle");
    fs::create_dir_all(bundle.join("rootfs"))?;
    layer::unpack(&image.layer, &bundle.join("rootfs"))?;
    only_what_is_meant(&bundle.join("rootfs"))?;
    let container = Container {
        bundle,
        state: scratch.path().join("state"),
        config: image.config,
    };
    container.checks()?;
    say("the image: `check` holds in a container");
    container.runs()?;
    say("the image: `run` in a container is ready, has its metrics and refused nothing");
    Ok(3)
}

/// No shell, no second program, certificates.
fn only_what_is_meant(rootfs: &Path) -> Result<()> {
    let programs: Vec<_> = fs::read_dir(rootfs.join("usr/bin"))?
        .flatten()
        .map(|entry| entry.file_name())
        .collect();
    ensure!(programs == ["geophone"], "/usr/bin has {programs:?}");
    for shell in ["bin/sh", "usr/bin/sh", "bin/busybox"] {
        ensure!(!rootfs.join(shell).exists(), "there is a {shell}");
    }
    let certificates = fs::read_to_string(rootfs.join("etc/ssl/certs/ca-certificates.crt"))?;
    ensure!(certificates.contains("BEGIN CERTIFICATE"), "no certificates");
    let bill: Value = serde_json::from_slice(&fs::read(rootfs.join("licenses/sbom.cdx.json"))?)?;
    let components = bill["components"].as_array().map_or(0, Vec::len);
    ensure!(
        components > 100,
        "the bill of materials has {components} components"
    );
    Ok(())
}

/// The DaemonSet as it comes: the capabilities that it adds, and whether it sees the node's processes.
fn daemon_set() -> Result<(Vec<String>, bool)> {
    let file = root().join("deploy/kubernetes/kustomize/base/geophone.yaml");
    let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
    let sees_processes = text.lines().any(|line| line.trim() == "hostPID: true");
    let lines = text.lines().skip_while(|line| line.trim() != "add:").skip(1);
    let names = lines.map_while(|line| line.trim().strip_prefix("- "));
    let names: Vec<String> = names.map(|name| format!("CAP_{name}")).collect();
    ensure!(!names.is_empty(), "{}: no capabilities", file.display());
    Ok((names, sees_processes))
}

struct Container {
    bundle: PathBuf,
    /// Where runc keeps what it knows: its own, so that no other's is touched.
    state: PathBuf,
    config: Value,
}

impl Container {
    /// A name that no other has.
    fn id(&self, what: &str) -> String {
        format!("geophone-image-{what}-{}", std::process::id())
    }

    fn runc(&self) -> Command {
        let mut command = Command::new(crate::toolchain::find("runc").unwrap_or_else(|| "runc".into()));
        command.arg("--root").arg(&self.state).stdin(Stdio::null());
        command
    }

    /// Writes the bundle's config.json: what the image says, and what the DaemonSet adds to it.
    fn prepare(&self, arguments: &[&str]) -> Result<()> {
        let said = &self.config["config"];
        let mut words = said["Entrypoint"].as_array().cloned().unwrap_or_default();
        words.extend(arguments.iter().map(|word| json!(word)));
        let (held, sees_processes) = daemon_set()?;
        let mut namespaces = vec![
            json!({"type": "mount"}),
            json!({"type": "ipc"}),
            json!({"type": "uts"}),
        ];
        if !sees_processes {
            namespaces.push(json!({"type": "pid"}));
        }
        let profile = root().join("deploy/container/seccomp.json");
        let seccomp: Value =
            serde_json::from_slice(&fs::read(&profile).with_context(|| profile.display().to_string())?)?;
        let bind = |path: &str| json!({"destination": path, "source": path, "type": "bind", "options": ["rbind", "ro", "nosuid", "nodev"]});
        let memory = |path: &str| json!({"destination": path, "source": "tmpfs", "type": "tmpfs", "options": ["nosuid", "nodev", "mode=1777"]});
        let spec = json!({
            "ociVersion": "1.0.2",
            "process": {
                "terminal": false,
                "user": {"uid": 0, "gid": 0},
                "args": words,
                "env": said["Env"],
                "cwd": said["WorkingDir"],
                "noNewPrivileges": true,
                // As containerd and CRI-O give them.
                "capabilities": {"bounding": held, "effective": held, "permitted": held},
            },
            "root": {"path": "rootfs", "readonly": true},
            "mounts": [
                {"destination": "/proc", "source": "proc", "type": "proc"},
                {"destination": "/dev", "source": "tmpfs", "type": "tmpfs", "options": ["nosuid", "mode=755"]},
                bind("/sys"),
                memory("/tmp"),
                memory("/var/lib/geophone"),
            ],
            // The node's network: no namespace of it.
            "linux": {
                "namespaces": namespaces,
                "resources": {"devices": [{"allow": false, "access": "rwm"}]},
                "seccomp": seccomp,
            },
        });
        fs::write(self.bundle.join("config.json"), serde_json::to_vec(&spec)?)?;
        Ok(())
    }

    /// `geophone check`: everything that is asked for works, and what is kept is told.
    fn checks(&self) -> Result<()> {
        self.prepare(&["check", "--json"])?;
        let output = self
            .runc()
            .args(["run", "--bundle"])
            .arg(&self.bundle)
            .arg(self.id("check"))
            .output()
            .context("runc: run `cargo xtask setup test`")?;
        let (said, complaint) = (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        ensure!(
            output.status.success(),
            "check in a container: {}: {said}{complaint}",
            output.status
        );
        let report: Value =
            serde_json::from_str(&said).with_context(|| format!("check --json: {said}{complaint}"))?;
        ensure!(report["ok"] == true, "{report}");
        let attached = report["programs"].as_array().into_iter().flatten();
        let attached = attached
            .filter(|program| program["verdict"] == "attached")
            .count();
        ensure!(attached >= 5, "{attached} programs are attached: {report}");
        Ok(())
    }

    /// `geophone run`: it is ready, tells its metrics, holds what is promised and was refused nothing.
    fn runs(&self) -> Result<()> {
        let at = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        self.prepare(&["run", "--listen", &at.to_string()])?;
        let log = self.bundle.join("log");
        let id = self.id("run");
        let child = self
            .runc()
            .args(["run", "--bundle"])
            .arg(&self.bundle)
            .arg(&id)
            .stdout(File::create(self.bundle.join("out"))?)
            .stderr(File::create(&log)?)
            .spawn()
            .context("runc")?;
        let mut running = Running {
            child,
            container: self,
            id,
        };
        let told = || fs::read_to_string(&log).unwrap_or_default();
        let start = Instant::now();
        let text = loop {
            if let Some(status) = running.child.try_wait()? {
                bail!("the agent in a container has ended ({status}): {}", told());
            }
            match scrape(at) {
                // The first seconds: until the threads were looked at.
                Ok(text) if text.contains("geophone_agent_capabilities{") => break text,
                last if start.elapsed() > PATIENCE => {
                    bail!("no metrics after {} s: {last:?} {}", PATIENCE.as_secs(), told())
                }
                _ => std::thread::sleep(Duration::from_millis(200)),
            }
        };
        let samples = |name: &str| {
            text.lines()
                .filter(|line| line.starts_with(name))
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        let attached = samples("geophone_program_info{")
            .iter()
            .filter(|line| line.contains("state=\"attached\""))
            .count();
        ensure!(attached >= 5, "{attached} programs are attached: {}", told());
        let refused = samples("geophone_agent_refused_calls_total{");
        ensure!(refused.is_empty(), "refused: {refused:?}");
        let unfiltered = samples("geophone_agent_unfiltered_threads");
        ensure!(
            unfiltered.iter().all(|line| number(line) == Some(0.0)),
            "{unfiltered:?}"
        );
        let (given, _) = daemon_set()?;
        for line in samples("geophone_agent_capabilities{") {
            ensure!(
                given.iter().any(|name| line.contains(name)),
                "nobody gave it: {line}"
            );
        }
        running.stop()
    }
}

/// Ends with its owner, whatever happens.
struct Running<'a> {
    child: Child,
    container: &'a Container,
    id: String,
}

impl Running<'_> {
    fn signal(&self, signal: &str) {
        let mut command = self.container.runc();
        // One that has ended is what is wanted.
        let _ = command
            .args(["kill", &self.id, signal])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
    }

    /// As a node stops it; it must end well.
    fn stop(mut self) -> Result<()> {
        self.signal("TERM");
        let start = Instant::now();
        loop {
            match self.child.try_wait()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => bail!("told to stop, the agent ended with {status}"),
                None if start.elapsed() > PATIENCE => bail!("told to stop, the agent goes on"),
                None => std::thread::sleep(Duration::from_millis(100)),
            }
        }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            self.signal("KILL");
            let _ = self.child.wait();
        }
    }
}

/// The value of a line of /metrics.
fn number(line: &str) -> Option<f64> {
    line.split_whitespace().nth(1)?.parse().ok()
}

/// What /metrics says.
fn scrape(at: SocketAddr) -> Result<String> {
    let output = Command::new("curl")
        .args(["--silent", "--show-error", "--fail", "--max-time", "10"])
        .arg(format!("http://{at}/metrics"))
        .output()
        .context("curl")?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
