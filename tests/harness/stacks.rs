//! Programs whose stacks are known, and stacks as they come.

use super::agent::{Agent, Scratch, binary, clean};
use super::{Setup, command, unique};
use anyhow::{Context as _, Result, ensure};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A program that goes with its owner.
pub struct Busy(pub Child);

impl Busy {
    /// Starts it.
    pub fn start(command: &mut Command) -> Result<Self> {
        let shown = format!("{command:?}");
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Ok(Self(child.context(shown)?))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A copy of `geophone-busy` under a name of its own, so that other tests' are not counted.
pub fn busy(scratch: &Scratch) -> Result<(PathBuf, String)> {
    let name = unique("b");
    let path = scratch.path(&name);
    std::fs::copy(super::traffic::beside("geophone-busy")?, &path)?;
    Ok((path, name))
}

/// An agent that takes stacks.
pub fn taking_stacks() -> Setup {
    Setup::new()
        .set("probes.profile.enabled", "true")
        .set("probes.profile.hz", "499")
}

/// The build id of a program, as another tool reads it.
pub fn build_id(program: &Path) -> Result<String> {
    let notes = command::output(Command::new("readelf").arg("-n").arg(program))?;
    let id = notes.lines().find_map(|l| l.trim().strip_prefix("Build ID: "));
    Ok(id.context("no build id")?.to_owned())
}

/// Compiles a C program.
pub fn cc(scratch: &Scratch, name: &str, source: &str, options: &[&str]) -> Result<PathBuf> {
    let code = scratch.write(&format!("{name}.c"), source)?;
    let program = scratch.path(name);
    command::output(
        Command::new("cc")
            .args(["-O2", "-o"])
            .arg(&program)
            .arg(code)
            .args(options),
    )?;
    Ok(program)
}

/// A C function that keeps a CPU busy below `outer`, and no call of it is a jump.
pub fn spin(outer: &str) -> String {
    format!(
        "#include <time.h>\n\
         __attribute__((noinline)) long {outer}_leaf(long n) {{ volatile long x = n; \
         for (long i = 0; i < 200000; i++) x = x * 31 + i; return x; }}\n\
         __attribute__((noinline)) long {outer}(long n) {{ volatile long a[5] = {{n}}; \
         return {outer}_leaf(n) + a[2]; }}\n\
         long {outer}_for(long seconds) {{ time_t end = time(0) + seconds; long s = 0; \
         while (time(0) < end) s += {outer}(s); return s; }}\n"
    )
}

/// Stacks of a window: outermost first, the name of the process before them, and how often.
pub struct Folded(pub Vec<(Vec<String>, u64)>);

impl Folded {
    /// What `geophone profile` with these arguments has seen.
    pub fn take(scratch: &Scratch, arguments: &[&str]) -> Result<Self> {
        let file = scratch.path(&format!("{}.folded", unique("p")));
        command::output(
            clean(binary())
                .arg("profile")
                .args(arguments)
                .arg("-o")
                .arg(&file),
        )?;
        Self::parse(&std::fs::read_to_string(file)?)
    }

    /// Reads folded stacks.
    pub fn parse(text: &str) -> Result<Self> {
        let line = |line: &str| -> Result<(Vec<String>, u64)> {
            let (stack, count) = line.rsplit_once(' ').context("no count")?;
            Ok((stack.split(';').map(str::to_owned).collect(), count.parse()?))
        };
        Ok(Self(text.lines().map(line).collect::<Result<_>>()?))
    }

    /// Samples whose frames are as wanted.
    pub fn count(&self, wanted: impl Fn(&[String]) -> bool) -> u64 {
        self.0
            .iter()
            .filter(|(stack, _)| wanted(stack))
            .map(|(_, n)| n)
            .sum()
    }

    /// All samples.
    pub fn total(&self) -> u64 {
        self.count(|_| true)
    }

    /// Samples with these functions, outermost first, whatever lies between them.
    pub fn through(&self, functions: &[&str]) -> u64 {
        self.count(|stack| {
            let mut frames = stack.iter();
            functions.iter().all(|f| frames.any(|frame| is(frame, f)))
        })
    }

    /// Share of the samples with these functions.
    pub fn share(&self, functions: &[&str]) -> f64 {
        self.through(functions) as f64 / self.total().max(1) as f64
    }

    /// Those of one process name.
    pub fn of(&self, name: &str) -> Self {
        let own = |(stack, _): &&(Vec<String>, u64)| stack.first().is_some_and(|first| first == name);
        Self(self.0.iter().filter(own).cloned().collect())
    }

    /// Share of the samples that were unwound to their end, whatever that is called.
    pub fn uncut(&self) -> f64 {
        let cut = self.count(|stack| {
            stack
                .get(1)
                .is_some_and(|outermost| outermost.starts_with("[cut: "))
        });
        1.0 - cut as f64 / self.total().max(1) as f64
    }

    /// Share of the samples whose outermost frame is `_start`.
    pub fn whole(&self) -> f64 {
        let whole = self.count(|stack| stack.get(1).is_some_and(|outermost| outermost == "_start"));
        whole as f64 / self.total().max(1) as f64
    }

    /// The busiest stacks, for a complaint.
    pub fn show(&self) -> String {
        let mut lines = self.0.clone();
        lines.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
        lines
            .iter()
            .take(12)
            .map(|(stack, n)| format!("{n} {}\n", stack.join(";")))
            .collect()
    }
}

/// A function by its last name: `crate::f` is `f`.
pub fn is(frame: &str, function: &str) -> bool {
    frame == function || frame.rsplit("::").next() == Some(function)
}

/// An own look, long and often enough for thousands of samples.
pub const HERE: [&str; 5] = ["--own", "--hz", "997", "--for", "8s"];

/// What a command of this name was seen to do, of two thousand samples at least.
pub fn taken(scratch: &Scratch, comm: &str) -> Result<Folded> {
    let arguments = ["--own", "--hz", "997", "--for", "5s", "--comm", comm];
    let folded = Folded::take(scratch, &arguments)?;
    ensure!(
        folded.total() >= 2000,
        "only {} samples:\n{}",
        folded.total(),
        folded.show()
    );
    Ok(folded)
}

/// Asks for the stacks of a process of this name until they are as wanted. On a busy machine an answer that waits for names
/// may be later than the one who asks has patience: it is asked for again.
pub fn seen(agent: &Agent, name: &str, check: impl Fn(&Folded) -> Result<()>) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(120);
    let path = format!("/api/v1/profile?from=2s&comm={name}&format=folded");
    let look = || {
        let answer = agent.get(&path, "*/*")?;
        ensure!(answer.status == 200, "{}", answer.text());
        let folded = Folded::parse(&answer.text())?;
        check(&folded).with_context(|| format!("{name}:\n{}", folded.show()))
    };
    loop {
        std::thread::sleep(Duration::from_millis(500));
        match look() {
            Err(e) if Instant::now() > deadline => return Err(e),
            Err(_) => {}
            Ok(()) => return Ok(()),
        }
    }
}

/// The main function of [`spin`]'s `spinning`.
pub const MAIN: &str = "int main(void) { return spinning_for(600) & 1; }\n";
/// Its functions, outermost first; none of them is exported.
pub const SPINNING: &[&str] = &["_start", "main", "spinning_for", "spinning", "spinning_leaf"];

/// An error unless the stacks are whole and have all their names.
pub fn all_named(folded: &Folded) -> Result<()> {
    let named = folded.share(SPINNING);
    ensure!(folded.total() > 100 && named > 0.95, "{named}");
    Ok(())
}

/// Starts a program; returns its name.
pub fn run(program: &Path) -> Result<(String, Busy)> {
    named(program, &mut Command::new(program))
}

/// Starts a program that gives way to all others: the agent gives way to programs too, and shall get on beside many.
pub fn run_gently(program: &Path) -> Result<(String, Busy)> {
    named(program, Command::new("nice").args(["-n", "19"]).arg(program))
}

/// Starts a program by this command; returns its name.
pub fn named(program: &Path, command: &mut Command) -> Result<(String, Busy)> {
    let name = program.file_name().context("no name")?.to_string_lossy();
    Ok((name.into_owned(), Busy::start(command)?))
}
