//! Who counts packets independently of the agent: nft and tcpdump.

use super::agent::Scratch;
use super::{End, command};
use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::fs;
use std::ops::Sub;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Packets and their bytes from the Ethernet header on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

impl Sub for Count {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            packets: self.packets - earlier.packets,
            bytes: self.bytes - earlier.bytes,
        }
    }
}

/// What nft counts at an end's device.
#[derive(Debug)]
pub struct Nft<'a>(&'a End);

/// A reading of it, by chain and name.
#[derive(Debug)]
pub struct Reading(BTreeMap<(String, String), Count>);

/// Has nft count, in and out, what matches each of these rules.
pub fn counted_by_nft<'a>(end: &'a End, rules: &[(&str, String)]) -> Result<Nft<'a>> {
    let mut text = "table netdev truth { ".to_owned();
    for hook in ["ingress", "egress"] {
        text += &format!(
            "chain {hook} {{ type filter hook {hook} device \"{}\" priority 0; ",
            end.device
        );
        for (name, rule) in rules {
            text += &format!("{rule} counter comment \"{name}\"; ");
        }
        text += "}; ";
    }
    end.ns.nft(&(text + "};"))?;
    Ok(Nft(end))
}

impl Nft<'_> {
    /// The counts of now.
    pub fn read(&self) -> Result<Reading> {
        let text = self.0.ns.run("nft list table netdev truth")?;
        let mut out = BTreeMap::new();
        let mut chain = "";
        for line in text.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let after = |word: &str| {
                words
                    .iter()
                    .position(|w| *w == word)
                    .and_then(|at| words.get(at + 1))
            };
            if let Some(name) = after("chain") {
                chain = name;
            }
            if let (Some(packets), Some(bytes), Some(name)) =
                (after("packets"), after("bytes"), after("comment"))
            {
                let packets = packets.parse()?;
                // At its ingress hook the Ethernet header is gone already.
                let header = if chain == "ingress" { 14 * packets } else { 0 };
                let bytes = bytes.parse::<u64>()? + header;
                out.insert(
                    (chain.to_owned(), name.trim_matches('"').to_owned()),
                    Count { packets, bytes },
                );
            }
        }
        Ok(Reading(out))
    }
}

impl Reading {
    /// A rule's count, in (0) or out (1).
    pub fn of(&self, name: &str, direction: usize) -> Count {
        let chain = if direction == 0 { "ingress" } else { "egress" };
        self.0
            .get(&(chain.to_owned(), name.to_owned()))
            .copied()
            .unwrap_or_default()
    }
}

/// tcpdump at work on an end's device.
#[derive(Debug)]
pub struct Capture {
    child: Child,
    file: PathBuf,
    scratch: Scratch,
}

impl Capture {
    /// Starts it; returns when it listens.
    pub fn start(end: &End) -> Result<Self> {
        let scratch = Scratch::new()?;
        let (file, said) = (scratch.path("capture.pcap"), scratch.path("said"));
        let child = end
            .ns
            .command("tcpdump")
            .args([
                "-i",
                &end.device,
                "-s",
                "128",
                "-B",
                "8192",
                "-U",
                "-Z",
                "root",
                "-w",
            ])
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&said)?)
            .spawn()
            .context("tcpdump")?;
        let made = Self { child, file, scratch };
        let start = Instant::now();
        while !fs::read_to_string(&said)?.contains("listening on") {
            ensure!(
                start.elapsed() < Duration::from_secs(10),
                "tcpdump does not listen"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(made)
    }

    /// Ends it; an error if it has missed anything.
    pub fn stop(mut self) -> Result<Self> {
        let pid = Pid::from_raw(self.child.id().cast_signed());
        kill(pid, Signal::SIGINT)?;
        self.child.wait()?;
        let said = fs::read_to_string(self.scratch.path("said"))?;
        ensure!(
            said.contains("\n0 packets dropped by kernel"),
            "tcpdump has lost packets: {said}"
        );
        Ok(self)
    }

    /// What passes a filter.
    pub fn count(&self, filter: &str) -> Result<Count> {
        let text = command::output(
            Command::new("tcpdump")
                .arg("-r")
                .arg(&self.file)
                .args(["-nn", "-e", "-t", "-q", filter]),
        )?;
        let mut count = Count::default();
        for line in text.lines() {
            // With -e, the first length is the frame's.
            let Some((_, rest)) = line.split_once("length ") else {
                continue;
            };
            let length = rest
                .split(|c: char| !c.is_ascii_digit())
                .next()
                .unwrap_or_default();
            count.packets += 1;
            count.bytes += length.parse::<u64>()?;
        }
        Ok(count)
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
