//! Processes that the benchmark starts, and that end with it whatever happens.

use std::ffi::OsString;
use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

static STARTED: AtomicU32 = AtomicU32::new(0);
static INTERRUPTED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// From now on SIGINT and SIGTERM end the benchmark in order: what it started is stopped.
pub fn catch_signals() -> Result<()> {
    let flag = INTERRUPTED.get_or_init(Arc::default);
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signal_hook::flag::register(signal as i32, flag.clone()).context("signals")?;
    }
    Ok(())
}

/// An error once a signal has come.
pub fn check_interrupted() -> Result<()> {
    ensure!(
        !INTERRUPTED.get().is_some_and(|f| f.load(Ordering::Relaxed)),
        "interrupted"
    );
    Ok(())
}

/// Sleeps; a signal ends it with an error.
pub fn pause(time: Duration) -> Result<()> {
    let end = Instant::now() + time;
    loop {
        check_interrupted()?;
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(Duration::from_millis(50)));
    }
}

/// A loopback port that is free just now, the wanted one if possible.
pub fn free_port(wanted: u16) -> Result<u16> {
    (wanted..wanted.saturating_add(200))
        .find(|&port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok())
        .with_context(|| format!("no free port from {wanted} to {}", wanted + 199))
}

/// What to run and how.
#[derive(Clone, Debug)]
pub struct Program {
    words: Vec<OsString>,
    cpu: Option<usize>,
    nice: bool,
}

impl Program {
    /// A program with its arguments.
    pub fn new<W: Into<OsString>>(words: impl IntoIterator<Item = W>) -> Self {
        Self {
            words: words.into_iter().map(Into::into).collect(),
            cpu: None,
            nice: false,
        }
    }

    /// This program in one of its hidden roles.
    pub fn role<W: Into<OsString>>(words: impl IntoIterator<Item = W>) -> Result<Self> {
        let me = std::env::current_exe().context("own path")?;
        let mut all: Vec<OsString> = vec![me.into(), "bench".into(), "role".into()];
        all.extend(words.into_iter().map(Into::into));
        Ok(Self::new(all))
    }

    /// On one CPU only, where there are several.
    pub fn on(mut self, cpu: usize) -> Self {
        self.cpu = (super::proc::cpus() > 1).then_some(cpu);
        self
    }

    /// Only when nobody else wants the CPU.
    pub fn nice(mut self) -> Self {
        self.nice = true;
        self
    }

    /// The command: it gets a SIGTERM when the benchmark dies. Every wrapper executes the next, so the pid is the
    /// program's own.
    fn command(&self) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM", "--"]);
        if let Some(cpu) = self.cpu {
            command.args(["taskset", "-c", &cpu.to_string()]);
        }
        if self.nice {
            command.args(["nice", "-n", "19"]);
        }
        command.args(&self.words).env_remove("GEOPHONE_CONFIG");
        command
    }

    fn name(&self) -> String {
        let word = |w: &OsString| {
            Path::new(w)
                .file_name()
                .unwrap_or(w)
                .to_string_lossy()
                .into_owned()
        };
        self.words
            .iter()
            .take(4)
            .map(word)
            .filter(|w| w.len() < 40)
            .collect::<Vec<_>>()
            .join(" ")
    }

    /// Runs it to its end, which must be a good one; returns what it prints.
    pub fn finish(&self) -> Result<String> {
        check_interrupted()?;
        let output = self
            .command()
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("cannot run {}", self.name()))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            let errors = String::from_utf8_lossy(&output.stderr);
            bail!(
                "{} ended with {}: {}",
                self.name(),
                output.status,
                tail(&format!("{text}{errors}"))
            );
        }
        Ok(text)
    }

    /// Starts it. What it prints goes to a file in `scratch`; its standard input stays open until it is stopped.
    pub fn start(&self, scratch: &Path) -> Result<Child> {
        check_interrupted()?;
        let name = self.name();
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let log = scratch.join(format!("{number}.log"));
        let file = File::create(&log).with_context(|| log.display().to_string())?;
        let inner = self
            .command()
            .stdin(Stdio::piped())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("cannot run {name}"))?;
        Ok(Child { inner, name, log })
    }
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.trim_end().lines().collect();
    lines
        .get(lines.len().saturating_sub(5)..)
        .unwrap_or_default()
        .join(" | ")
}

/// A running process; it is stopped when this goes.
pub struct Child {
    inner: std::process::Child,
    name: String,
    log: PathBuf,
}

impl Child {
    /// Its pid.
    pub fn pid(&self) -> u32 {
        self.inner.id()
    }

    /// What it has printed so far.
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// An error if it has ended.
    pub fn check(&mut self) -> Result<()> {
        if let Some(status) = self.inner.try_wait().ok().flatten() {
            bail!("{} ended with {status}: {}", self.name, tail(&self.output()));
        }
        Ok(())
    }

    /// Waits until something holds; an error if the process ends or the time runs out first.
    pub fn wait_until(&mut self, limit: Duration, mut holds: impl FnMut(&Self) -> bool) -> Result<()> {
        let end = Instant::now() + limit;
        while !holds(self) {
            self.check()?;
            ensure!(
                Instant::now() < end,
                "{} is not ready after {limit:?}: {}",
                self.name,
                tail(&self.output())
            );
            pause(Duration::from_millis(20))?;
        }
        Ok(())
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        let _ = self.inner.kill();
        let _ = self.inner.wait();
    }

    /// Stops it: politely, then not. Returns how it ended, if it had to be waited for.
    pub fn stop(&mut self) -> Option<ExitStatus> {
        drop(self.inner.stdin.take());
        if let Ok(Some(status)) = self.inner.try_wait() {
            return Some(status);
        }
        // Not waited for yet, so the pid is still this process's.
        let pid = i32::try_from(self.inner.id()).ok()?;
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        let end = Instant::now() + Duration::from_secs(8);
        while Instant::now() < end {
            if let Ok(Some(status)) = self.inner.try_wait() {
                return Some(status);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.inner.kill();
        self.inner.wait().ok()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A directory that goes with the benchmark.
pub struct Scratch(PathBuf);

impl Scratch {
    /// Makes it.
    pub fn new() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("geophone-bench-{}", std::process::id()));
        std::fs::create_dir_all(&path).with_context(|| path.display().to_string())?;
        Ok(Self(path))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
