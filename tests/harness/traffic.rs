//! A process that makes traffic as it is told, in a namespace, under a name, in a cgroup. See tests/traffic.rs.

use super::{Netns, unique};
use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use std::ffi::OsString;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// Longest time for one order.
const PATIENCE: Duration = Duration::from_secs(180);

/// Where and as what it is to run.
#[derive(Debug, Default)]
pub struct Place<'a> {
    /// Network namespace.
    pub netns: Option<&'a Netns>,
    /// Directory of the cgroup.
    pub cgroup: Option<&'a Path>,
    /// Name of the process.
    pub name: OsString,
    /// Binary to run instead of the usual one.
    pub binary: Option<&'a Path>,
}

/// Such a process.
#[derive(Debug)]
pub struct Traffic {
    child: Child,
    stdin: ChildStdin,
    lines: Receiver<String>,
    name: String,
}

/// What became of many connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Came about and ended well.
    pub ok: u64,
    /// Did not.
    pub failed: u64,
}

/// The usual binary.
pub fn binary() -> Result<PathBuf> {
    beside("geophone-traffic")
}

/// A program of this package: beside the test's own.
pub fn beside(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let directory = own.parent().and_then(Path::parent).context("no directory")?;
    Ok(directory.join(name))
}

impl Traffic {
    /// One in a namespace, with a name that begins with `tag` and that nobody else has.
    pub fn new(tag: &str, netns: &Netns) -> Result<Self> {
        let name = unique(tag);
        Self::at(Place {
            netns: Some(netns),
            name: name.into(),
            ..Place::default()
        })
    }

    /// One at any place.
    pub fn at(place: Place<'_>) -> Result<Self> {
        let program = place.binary.map_or_else(binary, |p| Ok(p.to_owned()))?;
        let mut command = Command::new(&program);
        if let Some(netns) = place.netns {
            command.arg("--netns").arg(netns.path());
        }
        if let Some(cgroup) = place.cgroup {
            command.arg("--cgroup").arg(cgroup);
        }
        if !place.name.is_empty() {
            command.arg("--name").arg(&place.name);
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run {}", program.display()))?;
        let stdin = child.stdin.take().context("no pipe")?;
        let stdout = child.stdout.take().context("no pipe")?;
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let mut made = Self {
            child,
            stdin,
            lines,
            name: place.name.to_string_lossy().into_owned(),
        };
        made.ask(json!({ "do": "hello" }))?;
        Ok(made)
    }

    /// Name of the process: its subject, where cgroups say nothing.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Gives an order and waits for the answer.
    pub fn ask(&mut self, order: Value) -> Result<Value> {
        self.give(&order)?;
        self.answer(&order)
    }

    /// Gives an order; its answer must be taken by [`Self::answer`].
    pub fn give(&mut self, order: &Value) -> Result<()> {
        writeln!(self.stdin, "{order}").context("the traffic process has gone")
    }

    /// The answer to an order.
    pub fn answer(&mut self, order: &Value) -> Result<Value> {
        let line = self
            .lines
            .recv_timeout(PATIENCE)
            .with_context(|| format!("no answer to {order}"))?;
        let answer: Value = serde_json::from_str(&line)?;
        if let Some(fault) = answer["fault"].as_str() {
            bail!("{order}: {fault}");
        }
        Ok(answer)
    }

    /// Listens, accepts everything, and sends back what comes (`echo`), swallows it (`sink`), or does so with long pauses
    /// and a small buffer (`sip`), until the other side ends. Returns the address.
    pub fn serve(&mut self, at: &str, mode: &str) -> Result<String> {
        text(&self.ask(json!({ "do": "serve", "at": at, "mode": mode }))?, "at")
    }

    /// Listens with a backlog and never accepts.
    pub fn listen(&mut self, at: &str, backlog: i32) -> Result<String> {
        text(
            &self.ask(json!({ "do": "listen", "at": at, "backlog": backlog }))?,
            "at",
        )
    }

    /// Opens a connection.
    pub fn connect(&mut self, to: &str) -> Result<u64> {
        let answer = self.ask(json!({ "do": "connect", "to": to }))?;
        answer["id"]
            .as_u64()
            .with_context(|| format!("connect to {to}: {answer}"))
    }

    /// Tries to open a connection that cannot come about; returns the error.
    pub fn connect_fails(&mut self, to: &str) -> Result<String> {
        text(&self.ask(json!({ "do": "connect", "to": to }))?, "error")
    }

    /// Sends bytes.
    pub fn send(&mut self, id: u64, bytes: u64) -> Result<()> {
        self.ask(json!({ "do": "send", "id": id, "bytes": bytes }))?;
        Ok(())
    }

    /// From now on sends so many bytes again and again, with a pause between; it does nothing else any more.
    pub fn drip(&mut self, id: u64, bytes: u64, pause: Duration) -> Result<()> {
        let pause = u64::try_from(pause.as_millis())?;
        self.give(&json!({ "do": "drip", "id": id, "bytes": bytes, "pause_ms": pause }))
    }

    /// Sends a message and waits for it to come back, many times.
    pub fn ping(&mut self, id: u64, rounds: u64, size: u64) -> Result<()> {
        self.ask(json!({ "do": "ping", "id": id, "rounds": rounds, "size": size }))?;
        Ok(())
    }

    /// Ends the connection: half-closes it, reads what is left, and closes.
    pub fn close(&mut self, id: u64) -> Result<()> {
        self.ask(json!({ "do": "close", "id": id }))?;
        Ok(())
    }

    /// Ends the connection with a RST.
    pub fn reset(&mut self, id: u64) -> Result<()> {
        self.ask(json!({ "do": "reset", "id": id }))?;
        Ok(())
    }

    /// Opens many connections, sends `bytes` on each and closes it.
    pub fn storm(&mut self, to: &[String], count: u64, threads: u64, bytes: u64) -> Result<Outcome> {
        let order = storm(to, count, threads, bytes);
        let answer = self.ask(order)?;
        outcome(&answer)
    }

    /// Sends datagrams.
    pub fn udp(&mut self, to: &str, count: u64, size: u64) -> Result<u64> {
        let answer = self.ask(json!({ "do": "udp", "to": to, "count": count, "size": size }))?;
        answer["sent"].as_u64().context("sent")
    }

    /// Takes datagrams, and sends them back (`echo`) or swallows them (`sink`). Returns the address.
    pub fn udp_serve(&mut self, at: &str, mode: &str) -> Result<String> {
        text(
            &self.ask(json!({ "do": "udp_serve", "at": at, "mode": mode }))?,
            "at",
        )
    }

    /// Binds a datagram socket that nobody reads.
    pub fn udp_bind(&mut self, at: &str, rcvbuf: u64) -> Result<String> {
        text(
            &self.ask(json!({ "do": "udp_bind", "at": at, "rcvbuf": rcvbuf }))?,
            "at",
        )
    }

    /// What its servers have accepted and received so far.
    pub fn served(&mut self) -> Result<(u64, u64)> {
        let answer = self.ask(json!({ "do": "served" }))?;
        Ok((
            answer["accepted"].as_u64().context("accepted")?,
            answer["received"].as_u64().context("received")?,
        ))
    }
}

/// The order that [`Traffic::storm`] gives.
pub fn storm(to: &[String], count: u64, threads: u64, bytes: u64) -> Value {
    json!({ "do": "storm", "to": to, "count": count, "threads": threads, "bytes": bytes })
}

/// The answer to [`storm`].
pub fn outcome(answer: &Value) -> Result<Outcome> {
    Ok(Outcome {
        ok: answer["ok"].as_u64().context("ok")?,
        failed: answer["failed"].as_u64().context("failed")?,
    })
}

fn text(answer: &Value, key: &str) -> Result<String> {
    Ok(answer[key]
        .as_str()
        .with_context(|| format!("no {key} in {answer}"))?
        .to_owned())
}

impl Drop for Traffic {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
