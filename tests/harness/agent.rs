//! An agent of one's own: started, asked, stopped, whatever happens.

use super::http::{self, Answer};
use super::{Netns, Snapshot, serial};
use anyhow::{Context as _, Result, anyhow, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How long an answer may take on a machine that others use as well.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The agent's binary.
pub fn binary() -> PathBuf {
    std::env::var_os("GEOPHONE_BIN").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release/geophone"),
        PathBuf::from,
    )
}

/// A command that does not inherit our own GEOPHONE_* variables: to the agent they are configuration.
pub fn clean(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("GEOPHONE_") {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null());
    command
}

/// A directory that goes with its owner.
#[derive(Debug)]
pub struct Scratch(PathBuf);

impl Scratch {
    /// A new one.
    pub fn new() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("geophone-test-{}-{}", std::process::id(), serial()));
        fs::create_dir_all(&path).with_context(|| path.display().to_string())?;
        Ok(Self(path))
    }

    /// A file in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// A file in it, written.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> Result<PathBuf> {
        let path = self.path(name);
        fs::write(&path, content).with_context(|| path.display().to_string())?;
        Ok(path)
    }

    /// The same, which nobody else may read.
    pub fn secret(&self, name: &str, content: impl AsRef<[u8]>) -> Result<PathBuf> {
        let path = self.write(name, content)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        Ok(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// How an agent is to run. As it comes: silent connections report each second, and no budget, so that nothing is
/// sampled away because the machine is busy.
#[derive(Debug, Default)]
pub struct Setup {
    config: Option<String>,
    arguments: Vec<OsString>,
    wrapper: Vec<OsString>,
    netns: Option<Netns>,
    address: Option<IpAddr>,
    budget: bool,
}

impl Setup {
    /// With everything as it comes.
    pub fn new() -> Self {
        Self::default()
    }

    /// With a configuration file of this content.
    pub fn config(mut self, yaml: impl Into<String>) -> Self {
        self.config = Some(yaml.into());
        self
    }

    /// With a further argument.
    pub fn arg(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// With `--set KEY=VALUE`.
    pub fn set(self, key: &str, value: &str) -> Self {
        self.arg("--set").arg(format!("{key}={value}"))
    }

    /// Inside a network namespace.
    pub fn inside(mut self, netns: &Netns) -> Self {
        self.netns = Some(netns.clone());
        self
    }

    /// Listening on this address instead of the loopback's.
    pub fn listen(mut self, address: impl Into<IpAddr>) -> Self {
        self.address = Some(address.into());
        self
    }

    /// Started through another program.
    pub fn through<I: IntoIterator<Item: Into<OsString>>>(mut self, wrapper: I) -> Self {
        self.wrapper = wrapper.into_iter().map(Into::into).collect();
        self
    }

    /// With the budget of the default configuration.
    pub fn with_budget(mut self) -> Self {
        self.budget = true;
        self
    }

    /// Starts it and waits until it is ready.
    pub fn start(self) -> Result<Agent> {
        let mut agent = self.spawn()?;
        agent.wait_ready()?;
        Ok(agent)
    }

    /// Starts it.
    pub fn spawn(self) -> Result<Agent> {
        let scratch = Scratch::new()?;
        let address = self.address.unwrap_or(Ipv4Addr::LOCALHOST.into());
        let at = match &self.netns {
            Some(netns) => netns.enter(|| free(address))?,
            None => free(address)?,
        };
        let mut words: Vec<OsString> = Vec::new();
        if let Some(netns) = &self.netns {
            words.extend(["ip", "netns", "exec", netns.name()].map(OsString::from));
        }
        words.extend(self.wrapper);
        words.push(binary().into());
        let (program, rest) = words.split_first().context("no program")?;
        let mut command = clean(program);
        command.args(rest).arg("run").arg("--listen").arg(at.to_string());
        if let Some(config) = &self.config {
            command.arg("--config").arg(scratch.write("config.yaml", config)?);
        }
        // Before the others, so that they may set it as well.
        command.args(["--set", "probes.tcp.sweep_interval=1s"]);
        if !self
            .config
            .as_ref()
            .is_some_and(|config| config.contains("store:"))
        {
            command.args(["--set", "store.kind=none"]);
        }
        if !self.budget {
            command.args(["--set", "budget.enabled=false"]);
        }
        let child = command
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(File::create(scratch.path("out"))?)
            .stderr(File::create(scratch.path("log"))?)
            .spawn()
            .with_context(|| format!("cannot run {command:?}; set GEOPHONE_BIN"))?;
        Ok(Agent {
            child: Some(child),
            at,
            netns: self.netns,
            scratch,
        })
    }
}

/// A free port of an address.
fn free(address: IpAddr) -> Result<SocketAddr> {
    Ok(TcpListener::bind((address, 0))?.local_addr()?)
}

/// A running agent.
#[derive(Debug)]
pub struct Agent {
    child: Option<Child>,
    /// Where its API is.
    pub at: SocketAddr,
    netns: Option<Netns>,
    scratch: Scratch,
}

impl Agent {
    /// One in this namespace with everything as it comes.
    pub fn start() -> Result<Self> {
        Setup::new().start()
    }

    /// Its process id.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.as_ref().map_or(0, Child::id) as i32)
    }

    /// What it wrote to standard error.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.scratch.path("log")).unwrap_or_default()).into_owned()
    }

    /// What it wrote to standard output.
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.scratch.path("out")).unwrap_or_default()).into_owned()
    }

    /// Waits until it answers that it is ready.
    pub fn wait_ready(&mut self) -> Result<()> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.as_mut().context("stopped")?.try_wait()? {
                bail!("the agent has ended ({status}): {}", self.log());
            }
            match self.get("/readyz", "*/*") {
                Ok(answer) if answer.status == 200 => return Ok(()),
                _ if start.elapsed() > PATIENCE => {
                    bail!("not ready after {} s: {}", PATIENCE.as_secs(), self.log())
                }
                _ => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    }

    /// Stops it for a time, as a machine without a free CPU does.
    pub fn pause(&self, time: Duration) -> Result<()> {
        kill(self.pid(), Signal::SIGSTOP)?;
        std::thread::sleep(time);
        Ok(kill(self.pid(), Signal::SIGCONT)?)
    }

    /// GET.
    pub fn get(&self, path: &str, accept: &str) -> Result<Answer> {
        http::get(self.netns.as_ref(), self.at, path, accept)
    }

    /// POST of nothing.
    pub fn post(&self, path: &str) -> Result<Answer> {
        http::post(self.netns.as_ref(), self.at, path)
    }

    /// /metrics as text.
    pub fn metrics(&self) -> Result<String> {
        Ok(self.get("/metrics", "text/plain")?.text())
    }

    /// The connections told in a time, while `cause` is at work.
    pub fn flows(&self, time: &str, cause: impl FnOnce() -> Result<()>) -> Result<Vec<Value>> {
        self.stream("flows", time, cause)
    }

    /// The drops told in a time, while `cause` is at work.
    pub fn drops(&self, time: &str, cause: impl FnOnce() -> Result<()>) -> Result<Vec<Value>> {
        self.stream("drops", time, cause)
    }

    /// What another command prints that finds this agent.
    pub fn command(&self, name: &str, options: &[&str]) -> Result<String> {
        let mut words: Vec<OsString> = Vec::new();
        if let Some(netns) = &self.netns {
            words.extend(["ip", "netns", "exec", netns.name()].map(OsString::from));
        }
        words.push(binary().into());
        let (program, rest) = words.split_first().context("no program")?;
        let mut command = clean(program);
        command.args(rest).arg(name).args(options);
        super::command::output(command.arg("--listen").arg(self.at.to_string()))
    }

    /// The changes of tunnels so far.
    pub fn changes(&self) -> Result<Vec<Value>> {
        self.stream("tunnels", "200ms", || Ok(()))
    }

    fn stream(&self, what: &str, time: &str, cause: impl FnOnce() -> Result<()>) -> Result<Vec<Value>> {
        let (netns, at) = (self.netns.as_ref(), self.at);
        let path = format!("/api/v1/{what}?for={time}");
        let answer = std::thread::scope(|scope| {
            let asking = scope.spawn(|| http::get(netns, at, &path, "*/*"));
            // The request must be there first.
            std::thread::sleep(Duration::from_millis(500));
            cause()?;
            asking
                .join()
                .map_err(|panic| anyhow!("a thread has panicked: {panic:?}"))?
        })?;
        ensure!(answer.status == 200, "{what}: {}", answer.text());
        let lines = answer.text();
        lines
            .lines()
            .filter(|line| !line.is_empty())
            .map(|line| serde_json::from_str(line).with_context(|| line.to_owned()))
            .collect()
    }

    /// The latest snapshot.
    pub fn snapshot(&self) -> Result<Snapshot> {
        let answer = self.get("/api/v1/snapshot", "application/json")?;
        ensure!(answer.status == 200, "snapshot: {}", answer.text());
        Snapshot::parse(&answer.body)
    }

    /// /api/v1/status.
    pub fn status(&self) -> Result<Value> {
        Ok(serde_json::from_slice(
            &self.get("/api/v1/status", "application/json")?.body,
        )?)
    }

    /// /api/v1/topology.
    pub fn topology(&self) -> Result<Value> {
        let answer = self.get("/api/v1/topology", "application/json")?;
        ensure!(answer.status == 200, "topology: {}", answer.text());
        Ok(serde_json::from_slice(&answer.body)?)
    }

    /// Whether a program whose name begins so is attached.
    pub fn attached(&self, program: &str) -> Result<bool> {
        Ok(self.status()?["programs"]
            .as_array()
            .into_iter()
            .flatten()
            .any(|p| {
                p["name"].as_str().is_some_and(|name| name.starts_with(program)) && p["verdict"] == "attached"
            }))
    }

    /// A snapshot that began `ticks` after the present one.
    pub fn after(&self, ticks: u64) -> Result<Snapshot> {
        let first = self.snapshot()?.tick;
        let start = Instant::now();
        loop {
            let now = self.snapshot()?;
            if now.tick >= first + ticks {
                return Ok(now);
            }
            ensure!(start.elapsed() < PATIENCE, "it does not tick any more");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Asks until `check` is content, then once more some ticks later: what is right must stay right.
    pub fn settles<T>(&self, check: impl Fn(&Snapshot) -> Result<T>) -> Result<T> {
        self.until(&check)?;
        let last = self.after(3)?;
        check(&last).context("it was right and is no longer")
    }

    /// Asks until `check` is content, and returns what it returned.
    pub fn until<T>(&self, check: impl Fn(&Snapshot) -> Result<T>) -> Result<T> {
        let start = Instant::now();
        loop {
            let error = match self.snapshot().and_then(|s| check(&s)) {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            if start.elapsed() > PATIENCE {
                return Err(error.context(format!("not after {} s", PATIENCE.as_secs())));
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(self.pid(), signal)?)
    }

    /// Waits for its end.
    pub fn wait(&mut self, patience: Duration) -> Result<ExitStatus> {
        let child = self.child.as_mut().context("stopped")?;
        let start = Instant::now();
        while start.elapsed() < patience {
            if let Some(status) = child.try_wait()? {
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        bail!("still running after {} s", patience.as_secs())
    }

    /// Stops it as a service manager does; it must end in time and without complaint.
    pub fn stop(mut self) -> Result<String> {
        self.signal(Signal::SIGTERM)?;
        let status = self.wait(PATIENCE)?;
        ensure!(status.success(), "{status}: {}", self.log());
        self.child = None;
        Ok(self.log())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let Some(mut child) = self.child.take() else {
            return;
        };
        if std::thread::panicking() {
            eprintln!("the agent's log:\n{}", self.log());
        }
        let pid = Pid::from_raw(child.id() as i32);
        let _ = kill(pid, Signal::SIGCONT);
        let _ = kill(pid, Signal::SIGTERM);
        for _ in 0..100 {
            if !matches!(child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        eprintln!("the agent does not heed SIGTERM");
        let _ = child.kill();
        let _ = child.wait();
    }
}
