//! Tunnels between the two ends of a link.

use super::agent::{Agent, Scratch};
use super::otlp::Authority;
use super::{End, Link, command, equal, serial};
use anyhow::{Context as _, Result, ensure};
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// One end of a tunnel.
#[derive(Debug)]
pub struct Mouth {
    /// The tunnel device.
    pub device: String,
    /// Its address.
    pub v4: Ipv4Addr,
}

fn mouths(tag: &str) -> [Mouth; 2] {
    let n = serial();
    [1, 2].map(|last| Mouth {
        device: format!("{tag}{:x}x{:x}{last}", std::process::id() & 0xff_ffff, n & 0xff),
        v4: Ipv4Addr::new(172, 29, n as u8, last),
    })
}

/// A VXLAN between the ends of a link, both mouths up; it carries nothing that it is not given.
pub fn vxlan(link: &Link, vni: u32, port: u16) -> Result<[Mouth; 2]> {
    let (a, b) = (&link.a, &link.b);
    vxlan_between([a, b], [(&a.device, a.v4), (&b.device, b.v4)], vni, port)
}

/// The same over other devices of the two ends, with their addresses.
pub fn vxlan_between(
    ends: [&End; 2],
    underlay: [(&str, Ipv4Addr); 2],
    vni: u32,
    port: u16,
) -> Result<[Mouth; 2]> {
    let mouths = mouths("vx");
    for (i, (own, mouth)) in ends.into_iter().zip(&mouths).enumerate() {
        let device = &mouth.device;
        let ((below, local), (_, remote)) = (underlay[i], underlay[1 - i]);
        own.ns.ip(&format!(
            "link add {device} type vxlan id {vni} local {local} remote {remote} dstport {port} dev {below}"
        ))?;
        own.ns
            .sysctl(&format!("net.ipv6.conf.{device}.disable_ipv6"), "1")?;
        own.ns.ip(&format!("addr add {}/24 dev {device}", mouth.v4))?;
        own.ns.ip(&format!("link set {device} up"))?;
    }
    Ok(mouths)
}

/// A userspace WireGuard between the ends of a link.
#[derive(Debug)]
pub struct WireGuard {
    /// Of `a` and of `b`.
    pub mouths: [Mouth; 2],
    children: Vec<Child>,
    scratch: Scratch,
}

impl WireGuard {
    /// Port of both ends.
    pub const PORT: u16 = 51820;

    /// Made by wireguard-go, without a keepalive.
    pub fn new(link: &Link) -> Result<Self> {
        let scratch = Scratch::new()?;
        let mut all = Self {
            mouths: mouths("wg"),
            children: Vec::new(),
            scratch,
        };
        let ends = [&link.a, &link.b];
        let mut keys = Vec::new();
        for (end, mouth) in ends.into_iter().zip(&all.mouths) {
            let child = end
                .ns
                .command("wireguard-go")
                .args(["-f", &mouth.device])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .context("wireguard-go")?;
            all.children.push(child);
            let private = command::run("wg genkey")?;
            let file = all.scratch.secret(&mouth.device, &private)?;
            let public = command::output(
                std::process::Command::new("sh").args(["-c", &format!("wg pubkey < {}", file.display())]),
            )?;
            keys.push((file, public.trim().to_owned()));
        }
        for (i, end) in ends.into_iter().enumerate() {
            all.settle(end, ends[1 - i], i, &keys[i].0, &keys[1 - i].1)?;
        }
        Ok(all)
    }

    fn settle(&self, own: &End, other: &End, i: usize, private: &Path, peer: &str) -> Result<()> {
        let (mouth, there) = (&self.mouths[i], &self.mouths[1 - i]);
        let device = &mouth.device;
        let socket = format!("/var/run/wireguard/{device}.sock");
        let start = Instant::now();
        while !Path::new(&socket).exists() {
            ensure!(
                start.elapsed() < Duration::from_secs(10),
                "wireguard-go has made no {socket}"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        own.ns.run(&format!(
            "wg set {device} private-key {} listen-port {} peer {peer} allowed-ips {}/32 endpoint {}",
            private.display(),
            Self::PORT,
            there.v4,
            other.at(Self::PORT)
        ))?;
        own.ns
            .sysctl(&format!("net.ipv6.conf.{device}.disable_ipv6"), "1")?;
        own.ns.ip(&format!("addr add {}/24 dev {device}", mouth.v4))?;
        own.ns.ip(&format!("link set {device} up"))?;
        Ok(())
    }
}

impl Drop for WireGuard {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        for mouth in &self.mouths {
            let _ = fs::remove_file(format!("/var/run/wireguard/{}.sock", mouth.device));
        }
    }
}

/// Waits until the agent watches a device; returns how long it took.
pub fn watching(agent: &Agent, device: &str) -> Result<Duration> {
    let start = Instant::now();
    agent.until(|s| {
        for direction in ["receive", "transmit"] {
            let labels = [("device", device), ("direction", direction)];
            equal(device, s.number("geophone_tunnel_watched", &labels)?, 1.0)?;
        }
        Ok(())
    })?;
    Ok(start.elapsed())
}

/// Pings through a tunnel.
pub fn ping(from: &End, to: &Mouth, options: &str) -> Result<String> {
    from.ns.run(&format!("ping -q -W 2 {options} {}", to.v4))
}

/// Ids of the tcx links that a process holds, as the kernel describes its descriptors.
pub fn links(agent: &Agent) -> Result<Vec<u64>> {
    let mut out = Vec::new();
    for entry in fs::read_dir(format!("/proc/{}/fdinfo", agent.pid()))? {
        // A descriptor may be closed meanwhile.
        let text = fs::read_to_string(entry?.path()).unwrap_or_default();
        let field = |name: &str| text.lines().find_map(|l| l.strip_prefix(name)).map(str::trim);
        if field("link_type:") == Some("tcx") {
            out.push(field("link_id:").context("a link without id")?.parse()?);
        }
    }
    Ok(out)
}

/// Drops what `end` sends with this part of a rule; returns how to ask how many it were.
pub fn lose(end: &End, rule: &str) -> Result<()> {
    end.ns.nft(&format!(
        "table netdev loss {{ chain out {{ type filter hook egress device \"{}\" priority 0; {rule} counter drop; }}; }}",
        end.device
    ))?;
    Ok(())
}

/// How many packets the rule has dropped.
pub fn dropped(end: &End) -> Result<u64> {
    let text = end.ns.run("nft list table netdev loss")?;
    let count = text.split("counter packets ").nth(1).context("no counter")?;
    Ok(count.split(' ').next().unwrap_or_default().parse()?)
}

/// An OpenVPN over UDP between the ends of a link, with certificates.
#[derive(Debug)]
pub struct OpenVpn {
    /// Of `a` and of `b`.
    pub mouths: [Mouth; 2],
    children: Vec<Child>,
    certificates: Authority,
}

impl OpenVpn {
    /// `b` is the server. Returns when the tunnel carries.
    pub fn new(link: &Link) -> Result<Self> {
        let certificates = Authority::new()?;
        let mut made = Self {
            mouths: mouths("ov"),
            children: Vec::new(),
            certificates,
        };
        let roles = [("client", "--tls-client"), ("server", "--tls-server")];
        for (i, (own, other)) in [(&link.a, &link.b), (&link.b, &link.a)].into_iter().enumerate() {
            let ((name, role), mouth) = (roles[i], &made.mouths[i]);
            let line = format!(
                "--dev {} --dev-type tun --ifconfig {} {} --proto udp4 --port 1194 --local {} --remote {} {role} \
                 --dh none --disable-dco --ca ca.crt --cert {name}.crt --key {name}.key --verb 1",
                mouth.device,
                mouth.v4,
                made.mouths[1 - i].v4,
                own.v4,
                other.v4
            );
            let child = own
                .ns
                .command("openvpn")
                .args(line.split_whitespace())
                .current_dir(made.certificates.files.path(""))
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .context("openvpn")?;
            made.children.push(child);
        }
        let start = Instant::now();
        while link
            .a
            .ns
            .run(&format!("ping -q -c 1 -W 1 {}", made.mouths[1].v4))
            .is_err()
        {
            ensure!(
                start.elapsed() < Duration::from_secs(30),
                "openvpn carries nothing"
            );
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(made)
    }
}

impl Drop for OpenVpn {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
