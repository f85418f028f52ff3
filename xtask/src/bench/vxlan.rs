//! Two network namespaces and a VXLAN between them. This process and all that it starts from then on are in one of
//! them, and so are the subjects: the agent watches the tunnels of its own namespace.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, setns, unshare};

use super::child::{Child, Program};
use crate::shell::capture;

/// The device that the tunnel's packets pass, on both sides.
pub const UNDERLAY: &str = "underlay";
const TUNNEL: &str = "tunnel";
/// The other end, inside the tunnel.
pub const SERVER: &str = "10.201.0.2";
const NAMESPACE: &str = "/proc/thread-self/ns/net";

/// Both namespaces; they go with this.
pub struct Net {
    home: File,
    other: Child,
}

impl Net {
    /// Makes them and enters the first. Without `offload` each packet is on its own when it comes to the underlay;
    /// with it, up to 64 KiB are one.
    pub fn enter(scratch: &Path, offload: bool) -> Result<Self> {
        let home = File::open(NAMESPACE).context(NAMESPACE)?;
        unshare(CloneFlags::CLONE_NEWNET).context("a network namespace")?;
        let mine = fs::read_link(NAMESPACE).context(NAMESPACE)?;
        let other = Program::new(["unshare", "--net", "sleep", "infinity"]).start(scratch);
        let mut net = match other {
            Ok(other) => Self { home, other },
            Err(error) => {
                setns(&home, CloneFlags::CLONE_NEWNET).context("the way home")?;
                return Err(error);
            }
        };
        let there = format!("/proc/{}/ns/net", net.other.pid());
        net.other.wait_until(Duration::from_secs(5), |_| {
            fs::read_link(&there).is_ok_and(|namespace| namespace != mine)
        })?;
        let pid = net.other.pid().to_string();
        run("ip link set lo up")?;
        run(&format!(
            "ip link add {UNDERLAY} type veth peer name {UNDERLAY} netns {pid}"
        ))?;
        for (prefix, local, remote) in [(String::new(), 1, 2), (net.prefix(), 2, 1)] {
            for line in [
                format!("ip addr add 10.200.0.{local}/24 dev {UNDERLAY}"),
                format!("ip link set {UNDERLAY} up"),
                format!(
                    "ip link add {TUNNEL} type vxlan id 42 local 10.200.0.{local} remote 10.200.0.{remote} \
                     dstport 4789 dev {UNDERLAY}"
                ),
                format!("ip addr add 10.201.0.{local}/24 dev {TUNNEL}"),
                format!("ip link set {TUNNEL} up"),
            ] {
                run(&format!("{prefix} {line}"))?;
            }
            if !offload {
                run(&format!("{prefix} ethtool -K {TUNNEL} tso off gso off"))?;
            }
        }
        Ok(net)
    }

    fn prefix(&self) -> String {
        format!("nsenter --net=/proc/{}/ns/net", self.other.pid())
    }

    /// What runs a program at the other end.
    pub fn there(&self) -> Vec<String> {
        self.prefix().split(' ').map(str::to_owned).collect()
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        self.other.stop();
        let _ = setns(&self.home, CloneFlags::CLONE_NEWNET);
    }
}

fn run(line: &str) -> Result<()> {
    let mut words = line.split_whitespace();
    let mut command = Command::new(words.next().unwrap_or_default());
    capture(command.args(words)).context("setting up a VXLAN")?;
    Ok(())
}

/// The kernel's threads that do what interrupts leave undone: packets are received in them, or in whoever is running.
pub fn soft_interrupts() -> Vec<u32> {
    let pid = |entry: fs::DirEntry| {
        let name = fs::read_to_string(entry.path().join("comm")).ok()?;
        name.starts_with("ksoftirqd/")
            .then(|| entry.file_name().to_str()?.parse().ok())
            .flatten()
    };
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(pid)
        .collect()
}
