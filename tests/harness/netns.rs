//! Network namespaces and the wires between them. All of it goes when the value is dropped, also by a failed test.

use super::{command, serial};
use anyhow::{Context as _, Result, anyhow, bail};
use nix::sched::{CloneFlags, setns};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

/// A network namespace made by `ip netns add`, with its loopback up. It goes with the last of its clones.
#[derive(Clone, Debug)]
pub struct Netns(Arc<Name>);

/// As `ip netns` knows it.
#[derive(Debug)]
struct Name(String);

impl Netns {
    /// A new one.
    pub fn new() -> Result<Self> {
        sweep();
        let name = format!("geophone-{}-{}", std::process::id(), serial());
        command::run(&format!("ip netns add {name}"))?;
        let made = Self(Arc::new(Name(name)));
        made.ip("link set lo up")?;
        Ok(made)
    }

    /// As `ip netns` knows it.
    pub fn name(&self) -> &str {
        &self.0.0
    }

    /// The file that stands for it.
    pub fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(self.name())
    }

    /// `ip -n NAME …`.
    pub fn ip(&self, line: &str) -> Result<String> {
        command::run(&format!("ip -n {} {line}", self.name()))
    }

    /// A command that will run inside, through `ip netns exec`.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", self.name(), program]);
        command
    }

    /// Runs a line of words inside.
    pub fn run(&self, line: &str) -> Result<String> {
        let mut words = line.split_whitespace();
        command::output(self.command(words.next().unwrap_or_default()).args(words))
    }

    /// Feeds a rule set to nft.
    pub fn nft(&self, rules: &str) -> Result<String> {
        command::output(self.command("nft").arg(rules))
    }

    /// The packets that each `counter` of the rule set has counted, in its order.
    pub fn nft_counters(&self) -> Result<Vec<u64>> {
        let rules: serde_json::Value = serde_json::from_str(&self.run("nft -j list ruleset")?)?;
        let items = rules["nftables"].as_array().into_iter().flatten();
        let parts = items.flat_map(|item| item["rule"]["expr"].as_array().into_iter().flatten());
        Ok(parts
            .filter_map(|part| part["counter"]["packets"].as_u64())
            .collect())
    }

    /// The only one of them.
    pub fn nft_counter(&self) -> Result<u64> {
        match self.nft_counters()?[..] {
            [only] => Ok(only),
            ref all => bail!("{} counters in {}", all.len(), self.name()),
        }
    }

    /// Runs `f` on a thread that has entered the namespace.
    pub fn enter<T: Send>(&self, f: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let path = self.path();
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().spawn_scoped(scope, || {
                let file = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
                setns(file, CloneFlags::CLONE_NEWNET).context("setns")?;
                f()
            })?;
            thread
                .join()
                .map_err(|panic| anyhow!("a thread has panicked: {panic:?}"))?
        })
    }

    /// The kernel's counters of the namespace: /proc/net/snmp and /proc/net/netstat, as `Tcp.RetransSegs`.
    pub fn counters(&self) -> Result<Counters> {
        self.enter(Counters::of_this_thread)
    }

    /// A kernel setting of the namespace, e.g. `net.ipv4.tcp_syn_retries`.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let file = format!("/proc/sys/{}", key.replace('.', "/"));
        self.enter(|| fs::write(&file, value).with_context(|| file.clone()))
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        if let Err(e) = command::run(&format!("ip netns del {}", self.0)) {
            eprintln!("left behind: {e:#}");
        }
    }
}

/// Removes what tests that were killed have left.
fn sweep() {
    for entry in fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let pid = name
            .strip_prefix("geophone-")
            .and_then(|rest| rest.split('-').next());
        if let Some(pid) = pid.filter(|pid| pid.parse::<u32>().is_ok())
            && !PathBuf::from("/proc").join(pid).exists()
        {
            let _ = command::run(&format!("ip netns del {name}"));
        }
    }
}

/// Counters by `Protocol.Name`.
#[derive(Clone, Debug, Default)]
pub struct Counters(BTreeMap<String, u64>);

impl Counters {
    /// Those of the namespace that the calling thread is in.
    pub fn of_this_thread() -> Result<Self> {
        let mut all = BTreeMap::new();
        for file in ["/proc/thread-self/net/snmp", "/proc/thread-self/net/netstat"] {
            let text = fs::read_to_string(file).context(file)?;
            let lines: Vec<&str> = text.lines().collect();
            for pair in lines.chunks_exact(2) {
                let (Some(names), Some(values)) = (pair.first(), pair.last()) else {
                    continue;
                };
                let Some((protocol, names)) = names.split_once(':') else {
                    continue;
                };
                let values = values.split_whitespace().skip(1);
                for (name, value) in names.split_whitespace().zip(values) {
                    // MaxConn is -1.
                    all.insert(format!("{protocol}.{name}"), value.parse().unwrap_or(0));
                }
            }
        }
        Ok(Self(all))
    }

    /// One of them; 0 when this kernel does not have it.
    pub fn get(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    /// How much one of them has grown since.
    pub fn since(&self, earlier: &Self, name: &str) -> u64 {
        self.get(name).wrapping_sub(earlier.get(name))
    }
}

/// One end of a [`Link`].
#[derive(Debug)]
pub struct End {
    /// Its namespace.
    pub ns: Netns,
    /// Its interface: no other test has one of that name.
    pub device: String,
    /// Its IPv4 address.
    pub v4: Ipv4Addr,
    /// Its IPv6 address.
    pub v6: Ipv6Addr,
}

impl End {
    /// Its IPv4 address and a port, to listen at or to connect to.
    pub fn at(&self, port: u16) -> String {
        format!("{}:{port}", IpAddr::from(self.v4))
    }

    /// The same for IPv6.
    pub fn at6(&self, port: u16) -> String {
        format!("[{}]:{port}", self.v6)
    }
}

/// Two namespaces with a wire between them.
#[derive(Debug)]
pub struct Link {
    /// One end, where clients live.
    pub a: End,
    /// The other end, where servers live.
    pub b: End,
    /// What stands between them, if anything does.
    middle: Option<Netns>,
}

impl Link {
    /// Joined by a veth pair. No segmentation offload: a packet on it is a segment.
    pub fn new() -> Result<Self> {
        let (a, b) = ends()?;
        command::run(&format!(
            "ip link add {} netns {} type veth peer name {} netns {}",
            a.device,
            a.ns.name(),
            b.device,
            b.ns.name()
        ))?;
        let link = Self { a, b, middle: None };
        link.raise()?;
        Ok(link)
    }

    /// Joined through a third namespace: what comes in at one of the two devices named is to be sent out at the
    /// other, by [`super::delay`].
    pub fn through_middle() -> Result<(Self, [String; 2])> {
        let (a, b) = ends()?;
        let middle = Netns::new()?;
        let devices = [format!("{}m", a.device), format!("{}m", b.device)];
        for (end, device) in [&a, &b].into_iter().zip(&devices) {
            command::run(&format!(
                "ip link add {} netns {} type veth peer name {device} netns {}",
                end.device,
                end.ns.name(),
                middle.name()
            ))?;
            // Nothing but the relay may answer in the middle.
            middle.sysctl(&format!("net.ipv6.conf.{device}.disable_ipv6"), "1")?;
            middle.ip(&format!("link set {device} up"))?;
        }
        let link = Self {
            a,
            b,
            middle: Some(middle),
        };
        link.raise()?;
        Ok((link, devices))
    }

    /// The namespace in the middle.
    pub fn middle(&self) -> Result<&Netns> {
        self.middle.as_ref().context("this link has no middle")
    }

    fn raise(&self) -> Result<()> {
        for end in [&self.a, &self.b] {
            let device = &end.device;
            end.ns.ip(&format!("addr add {}/24 dev {device}", end.v4))?;
            end.ns.ip(&format!("addr add {}/64 dev {device} nodad", end.v6))?;
            end.ns
                .run(&format!("ethtool -K {device} tx off gso off tso off gro off"))?;
            end.ns.ip(&format!("link set {device} up"))?;
        }
        Ok(())
    }
}

fn ends() -> Result<(End, End)> {
    let n = serial();
    let pid = std::process::id();
    let end = |side: &str, last: u8| -> Result<End> {
        Ok(End {
            ns: Netns::new()?,
            device: format!("g{:x}{:x}{side}", pid & 0xff_ffff, n & 0xfff),
            v4: Ipv4Addr::new(10, (pid % 250) as u8 + 1, n as u8, last),
            v6: Ipv6Addr::new(0xfd77, pid as u16, n as u16, 0, 0, 0, 0, u16::from(last)),
        })
    };
    Ok((end("a", 1)?, end("b", 2)?))
}
