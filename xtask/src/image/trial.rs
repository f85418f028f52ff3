//! The image, started by runc as a node would start it: read-only, with the DaemonSet's capabilities and namespaces, the node's network; under
//! the profile of system calls that is shipped, and under the one that a runtime has by itself.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::{layer, layout, runtime_default};
use crate::arch::Arch;
use crate::shell::{root, say, target_dir};

/// A container starts, and its agent attaches, in so long.
const PATIENCE: Duration = Duration::from_secs(60);

/// Unpacks the image and does with it what its users do, also under another profile of a runtime; returns how many things held.
pub fn try_all(image: &Path, profile: Option<&Path>) -> Result<u64> {
    let image = layout::read(image)?;
    let scratch = tempfile::tempdir_in(target_dir()?)?;
    let bundle = scratch.path().join("bundle");
    fs::create_dir_all(bundle.join("rootfs"))?;
    layer::unpack(&image.layer, &bundle.join("rootfs"))?;
    only_what_is_meant(&bundle.join("rootfs"))?;
    let mut container = Container {
        bundle,
        state: scratch.path().join("state"),
        config: image.config,
        seccomp: runtime_default::read(&root().join("deploy/container/seccomp.json"))?,
    };
    let expected = container.checks()?;
    say("the image: `check` holds in a container");
    container.runs()?;
    say("the image: `run` in a container is ready, has its metrics and refused nothing");
    let debian = runtime_default::read(Path::new(runtime_default::DEBIAN))?;
    let (held, _) = daemon_set()?;
    let under = |profile: &Value| runtime_default::of(profile, &held, Arch::here());
    container.seccomp = under(&debian);
    container.is_told_what_is_refused()?;
    say("the image: where a runtime's profile refuses bpf, `check` tells");
    let mut profiles = vec![("a runtime's default", runtime_default::later(debian))];
    if let Some(file) = profile {
        profiles.push(("the given", runtime_default::read(file)?));
    }
    for (name, profile) in &profiles {
        container.seccomp = under(profile);
        let found = container
            .checks()
            .with_context(|| format!("under {name} profile"))?;
        ensure!(
            found == expected,
            "under {name} profile there is {found:?}, under our own {expected:?}"
        );
        container
            .runs()
            .with_context(|| format!("under {name} profile"))?;
        say(format_args!(
            "the image: under {name} profile all attaches and runs as under our own"
        ));
    }
    Ok(4 + 2 * profiles.len() as u64)
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
    /// The profile of system calls.
    seccomp: Value,
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
            json!({"type": "cgroup"}),
        ];
        if !sees_processes {
            namespaces.push(json!({"type": "pid"}));
        }
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
                // Without what the host has mounted there.
                {"destination": "/sys", "source": "sysfs", "type": "sysfs", "options": ["ro", "nosuid", "nodev", "noexec"]},
                bind("/sys/fs/cgroup"),
                memory("/tmp"),
                memory("/var/lib/geophone"),
            ],
            // The node's network: no namespace of it.
            "linux": {
                "namespaces": namespaces,
                "resources": {"devices": [{"allow": false, "access": "rwm"}]},
                "seccomp": self.seccomp,
            },
        });
        fs::write(self.bundle.join("config.json"), serde_json::to_vec(&spec)?)?;
        Ok(())
    }

    /// What `geophone check` says, and whether it is content.
    fn check(&self) -> Result<(bool, Value)> {
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
        let report = serde_json::from_str(&said)
            .with_context(|| format!("check in a container: {}: {said}{complaint}", output.status))?;
        Ok((output.status.success(), report))
    }

    /// `geophone check`: everything that is asked for works. Returns the verdict of each program.
    fn checks(&self) -> Result<BTreeMap<String, String>> {
        let (well, report) = self.check()?;
        ensure!(well && report["ok"] == true, "{report}");
        let programs = report["programs"].as_array().into_iter().flatten();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let verdicts: BTreeMap<_, _> = programs
            .map(|program| (text(&program["name"]), text(&program["verdict"])))
            .collect();
        let attached = verdicts.values().filter(|verdict| *verdict == "attached").count();
        ensure!(attached >= 5, "{attached} programs are attached: {report}");
        Ok(verdicts)
    }

    /// `geophone check` under a profile that refuses `bpf`: it fails, and says whose fault it is and what helps.
    fn is_told_what_is_refused(&self) -> Result<()> {
        let (well, report) = self.check()?;
        let mut facts = report["facts"].as_array().into_iter().flatten();
        let fact = facts.find(|fact| fact["name"] == "system calls");
        let fact = fact.with_context(|| format!("it is not told what is refused: {report}"))?;
        let says = |value: &Value, word: &str| value.as_str().is_some_and(|text| text.contains(word));
        ensure!(
            !well
                && fact["ok"] == false
                && says(&fact["value"], "refuses bpf and perf_event_open")
                && says(&fact["remedy"], "seccompProfile")
                && says(&report["engine_error"], "refuses bpf"),
            "{report}"
        );
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
        running.is_filtered()?;
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

    /// The agent's own two filters are on all of its threads, upon that of the container.
    fn is_filtered(&self) -> Result<()> {
        let state = self.container.runc().args(["state", &self.id]).output()?;
        let state: Value = serde_json::from_slice(&state.stdout).context("runc state")?;
        let tasks = fs::read_dir(format!("/proc/{}/task", state["pid"]))?;
        for task in tasks.flatten() {
            // A thread that has just ended has none.
            let Ok(status) = fs::read_to_string(task.path().join("status")) else {
                continue;
            };
            let count = status
                .lines()
                .find_map(|line| line.strip_prefix("Seccomp_filters:"));
            ensure!(
                count.is_some_and(|count| count.trim() == "3"),
                "filters of {}: {count:?}",
                task.path().display()
            );
        }
        Ok(())
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
