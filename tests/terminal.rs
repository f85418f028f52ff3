//! What people see: the live view in a real terminal.

use anyhow::{Result, bail, ensure};
use std::collections::BTreeSet;
use std::process::Command;
use std::time::{Duration, Instant};
use tests::harness::agent::{PATIENCE, Scratch, binary, clean};
use tests::harness::command::output;
use tests::harness::stacks::{Busy, busy};
use tests::harness::{Agent, Scene, Setup, unique};
use tests::need_root;

/// A terminal of 80 × 24, in a tmux server of its own.
struct Terminal(String);

impl Terminal {
    fn new() -> Result<Self> {
        let made = Self(unique("tm"));
        made.tmux(&[
            "-f",
            "/dev/null",
            "new-session",
            "-d",
            "-x",
            "80",
            "-y",
            "24",
            "env PS1='READY>' sh",
        ])?;
        made.wait("READY>")?;
        Ok(made)
    }

    fn tmux(&self, arguments: &[&str]) -> Result<String> {
        let mut command = clean("tmux");
        command.env_remove("TMUX").arg("-L").arg(&self.0).args(arguments);
        output(&mut command)
    }

    fn keys(&self, keys: &[&str]) -> Result<()> {
        self.tmux(&[&["send-keys"], keys].concat())?;
        Ok(())
    }

    fn screen(&self) -> Result<String> {
        self.tmux(&["capture-pane", "-p"])
    }

    fn wait(&self, word: &str) -> Result<String> {
        self.until(word, |screen| screen.contains(word))
    }

    fn until(&self, what: &str, good: impl Fn(&str) -> bool) -> Result<String> {
        let start = Instant::now();
        loop {
            let screen = self.screen()?;
            if good(&screen) {
                return Ok(screen);
            }
            if start.elapsed() > PATIENCE {
                bail!("{what} does not come:\n{screen}");
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.tmux(&["kill-server"]);
    }
}

/// Cause: somebody watches a running agent. Seen: who talks, what is dropped, each tab; `q` leaves all as it was.
#[test]
fn top_in_a_terminal() -> Result<()> {
    need_root!("tmux");
    let mut scene = Scene::echo()?;
    let agent = Agent::start()?;
    let connection = scene.connect()?;
    scene.client.ping(connection, 200, 5000)?;
    scene.client.udp(&scene.net.b.at(7002), 300, 64)?;
    let terminal = Terminal::new()?;
    let command = format!("{} top --listen {}; echo LEFT $?", binary().display(), agent.at);
    terminal.keys(&["-l", &command])?;
    terminal.keys(&["Enter"])?;
    let first = terminal.until("the client", |s| {
        s.contains(scene.client.name()) && s.contains(scene.server.name())
    })?;
    ensure!(
        first.lines().count() <= 24 && first.lines().all(|l| l.chars().count() <= 80),
        "{first}"
    );
    ensure!(
        !first.contains("READY>"),
        "the old screen shows through:\n{first}"
    );
    terminal.keys(&["2"])?;
    let mut seen = BTreeSet::from([first]);
    let drops = terminal.wait("NO_SOCKET");
    for tab in ["1", "2", "3", "4", "5"] {
        terminal.keys(&[tab])?;
        std::thread::sleep(Duration::from_millis(1500));
        seen.insert(terminal.screen()?);
    }
    let all: String = seen.iter().cloned().collect();
    if drops.is_err() {
        ensure!(all.contains("NO_SOCKET"), "no drops in any tab:\n{all}");
    }
    ensure!(seen.len() >= 5, "tabs look alike:\n{all}");
    ensure!(!all.contains("panicked"), "{all}");
    // A smaller and a larger window.
    for (x, y) in [("40", "10"), ("200", "60"), ("80", "24")] {
        terminal.tmux(&["resize-window", "-x", x, "-y", y])?;
        std::thread::sleep(Duration::from_millis(700));
        ensure!(!terminal.screen()?.contains("LEFT"), "it has left at {x}×{y}");
    }
    terminal.keys(&["q"])?;
    let after = terminal.wait("LEFT 0")?;
    ensure!(after.contains("READY>"), "the old screen is not back:\n{after}");
    agent.after(1)?.lawful()
}

/// Cause: a busy program and an agent that takes stacks. Seen: program and function in the tab `Stacks`; its stack by Enter.
#[test]
fn hot_functions_in_a_terminal() -> Result<()> {
    need_root!("tmux");
    let scratch = Scratch::new()?;
    let (program, name) = busy(&scratch)?;
    let agent = Setup::new()
        .set("probes.profile.enabled", "true")
        .set("probes.profile.hz", "199")
        .start()?;
    let _busy = Busy::start(Command::new(&program).arg("120"))?;
    let terminal = Terminal::new()?;
    let command = format!("{} top --listen {}", binary().display(), agent.at);
    terminal.keys(&["-l", &command])?;
    terminal.keys(&["Enter"])?;
    let bar = terminal.wait(" Stacks")?;
    let before = bar.split(" Stacks").next().unwrap_or_default();
    let tab = before.rsplit(' ').next().unwrap_or_default().to_owned();
    terminal.keys(&[&tab])?;
    let seen = terminal.until("the busy program's functions", |s| {
        s.contains("ALL, 10 s, of a core") && s.matches(&name).count() > 1 && s.contains("busy_")
    })?;
    ensure!(
        seen.lines().count() <= 24 && seen.lines().all(|l| l.chars().count() <= 80),
        "{seen}"
    );
    terminal.keys(&["/"])?;
    terminal.keys(&["-l", &name])?;
    terminal.keys(&["Enter"])?;
    terminal.keys(&["Enter"])?;
    terminal.until("its stack", |s| {
        s.contains("its busiest stack") && s.contains("_start")
    })?;
    Ok(())
}

/// Cause: nobody runs an agent. Seen: top runs one of its own, and leaves nothing attached.
#[test]
fn top_of_its_own() -> Result<()> {
    need_root!("tmux");
    let mut scene = Scene::echo()?;
    let terminal = Terminal::new()?;
    let command = format!("{} top --own; echo LEFT $?", binary().display());
    terminal.keys(&["-l", &command])?;
    terminal.keys(&["Enter"])?;
    terminal.until("the view", |s| !s.contains("READY>") && s.contains("geophone"))?;
    let connection = scene.connect()?;
    scene.client.ping(connection, 100, 5000)?;
    terminal.wait(scene.client.name())?;
    terminal.keys(&["C-c"])?;
    terminal.wait("LEFT 0")?;
    Ok(())
}
