//! Probe `tunnel`: what it tells of changes, of its devices, of other namespaces, and over budget.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use std::process::Stdio;
use std::time::{Duration, Instant};
use tests::harness::tunnels::{Mouth, dropped, links, lose, ping, vxlan, watching};
use tests::harness::{Agent, End, Link, Netns, Setup, Snapshot, WireGuard, command, equal};
use tests::need_root;

const PACKETS: &str = "geophone_tunnel_packets_total";
/// Programs are where they belong within this time of the cause.
const LOOK: Duration = Duration::from_secs(5);

/// A child that does not outlive the test.
struct Reaped(std::process::Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// (before, state, reason) of each change so far.
fn changes(agent: &Agent) -> Result<Vec<[String; 3]>> {
    let text = |change: &Value, name: &str| change[name].as_str().unwrap_or("missing").to_owned();
    let of = |change: &Value| ["before", "state", "reason"].map(|name| text(change, name));
    Ok(agent.changes()?.iter().map(of).collect())
}

/// The same of the VXLAN 9 of a link, of which all must be.
fn changes_of(agent: &Agent, link: &Link) -> Result<Vec<[String; 3]>> {
    for change in agent.changes()? {
        let text = |name: &str| change[name].as_str().unwrap_or("missing").to_owned();
        equal("kind", text("kind"), "tunnel".to_owned())?;
        equal("type", text("type"), "vxlan".to_owned())?;
        equal("id", text("id"), "9".to_owned())?;
        equal("local", text("local"), link.a.v4.to_string())?;
        equal("remote", text("remote"), link.b.v4.to_string())?;
        ensure!(change["time"].as_f64() > Some(1.7e9), "{change}");
    }
    changes(agent)
}

/// Cause: a VXLAN that is talked through, cut, healed. Seen: a record each, the one of the cut within 5 s, to those who
/// listen and to those who come later, in the API and at the command line.
#[test]
fn each_change_of_a_tunnel_is_told_once() -> Result<()> {
    need_root!("nft", "ping");
    let link = Link::new()?;
    let [_, there] = vxlan(&link, 9, 4789)?;
    let agent = Setup::new().inside(&link.a.ns).start()?;
    watching(&agent, &link.a.device)?;
    let mut talk = link.a.ns.command("ping");
    talk.args(["-q", "-i", "0.2", &there.v4.to_string()])
        .stdout(Stdio::null());
    let mut talk = Reaped(talk.spawn()?);
    agent.after(6)?;
    let change = |before: &str, state: &str, reason: &str| [before, state, reason].map(str::to_owned);
    let mut told = vec![change("unknown", "up", "")];
    equal("records of its life", changes_of(&agent, &link)?, told.clone())?;

    let start = Instant::now();
    lose(&link.b, "udp dport 4789")?;
    told.push(change("up", "down", "no_answer"));
    while changes_of(&agent, &link)?.len() < 2 {
        ensure!(start.elapsed() < Duration::from_secs(10), "the cut is not told");
    }
    let took = start.elapsed();
    // The stream itself takes 0.7 s.
    ensure!(took < Duration::from_secs(6), "told after {took:?}");
    agent.after(5)?;
    equal("records of the cut", changes_of(&agent, &link)?, told.clone())?;

    let printed = std::thread::scope(|scope| -> Result<String> {
        let following = scope.spawn(|| agent.command("tunnels", &["--follow", "--for", "8s"]));
        std::thread::sleep(Duration::from_secs(1));
        link.b.ns.nft("delete table netdev loss")?;
        following
            .join()
            .map_err(|panic| anyhow::anyhow!("a thread has panicked: {panic:?}"))?
    })?;
    told.push(change("down", "up", ""));
    equal("records of the healing", changes_of(&agent, &link)?, told)?;
    for line in ["unknown → up", "up → down", "no_answer", "down → up"] {
        equal(line, printed.matches(line).count(), 1)?;
    }
    talk.0.kill()?;
    agent.settles(Snapshot::lawful)
}

/// Cause: answers that only a raw socket wants and a datagram that nobody does, and then somebody's rule that drops what
/// comes out of the VXLAN device. Seen: exactly what the rule has dropped, at this device, under this tunnel.
#[test]
fn drops_of_a_tunnel_device_are_told_of_its_tunnel() -> Result<()> {
    need_root!("nft", "ping");
    let link = Link::new()?;
    let [here, there] = vxlan(&link, 33, 4789)?;
    let [other, _] = vxlan(&link, 34, 4789)?;
    let agent = Setup::new().inside(&link.a.ns).start()?;
    watching(&agent, &link.a.device)?;
    ping(&link.a, &there, "-c 20 -i 0.01")?;
    link.b.ns.enter(|| {
        let nobody = (here.v4, 9);
        Ok(std::net::UdpSocket::bind((there.v4, 0))?.send_to(b"?", nobody)?)
    })?;
    // To the kernel these are drops as well.
    agent.settles(|s| {
        let unwanted = [("device", here.device.as_str()), ("reason", "NO_SOCKET")];
        ensure!(
            s.sum("geophone_drops_packets_total", &unwanted) > 0,
            "nothing was unwanted"
        );
        equal("lost", s.sum("geophone_tunnel_device_drops_total", &[]), 0)
    })?;
    let end = End {
        ns: link.a.ns.clone(),
        device: here.device.clone(),
        ..link.a
    };
    end.ns.nft(&format!(
        "table netdev loss {{ chain in {{ type filter hook ingress device \"{}\" priority 0; icmp type echo-reply counter drop; }}; }}",
        end.device
    ))?;
    ensure!(ping(&end, &there, "-c 20 -i 0.05").is_err(), "nothing is dropped");
    let truth = dropped(&end)?;
    equal("dropped", truth, 20)?;
    let (local, remote) = (link.a.v4.to_string(), link.b.v4.to_string());
    const DROPS: &str = "geophone_tunnel_device_drops_total";
    agent.settles(|s| {
        let labels = [
            ("type", "vxlan"),
            ("id", "33"),
            ("local", local.as_str()),
            ("remote", remote.as_str()),
            ("device", here.device.as_str()),
            ("reason", "NETFILTER_DROP"),
        ];
        equal("drops", s.sum(DROPS, &labels), truth)?;
        equal("all drops", s.sum(DROPS, &[("device", &here.device)]), truth)?;
        equal("of another", s.sum(DROPS, &[("device", &other.device)]), 0)?;
        s.lawful()
    })?;
    let rows: Value = serde_json::from_str(&agent.command("tunnels", &["--json"])?)?;
    let row = rows
        .as_array()
        .and_then(|rows| rows.iter().find(|r| r["id"] == "33"))
        .context("no row")?;
    let name = format!("{} NETFILTER_DROP", here.device);
    equal("in the table", row["device_drops"][&name].as_u64(), Some(truth))
}

/// Cause: a WireGuard whose packets nobody watches for a while, since somebody has taken our program off. Seen: a gap, and
/// nothing of it is lost.
#[test]
fn what_passes_unseen_is_not_lost() -> Result<()> {
    need_root!("wireguard-go", "wg", "bpftool", "ping");
    let link = Link::new()?;
    let agent = Setup::new().inside(&link.a.ns).start()?;
    let tunnel = WireGuard::new(&link)?;
    let there = &tunnel.mouths[1];
    watching(&agent, &link.a.device)?;
    let sequenced = |s: &Snapshot| {
        s.sum(
            "geophone_tunnel_sequenced_packets_total",
            &[("type", "wireguard")],
        )
    };
    let lost = |s: &Snapshot| s.sum("geophone_tunnel_lost_packets_total", &[("type", "wireguard")]);
    ping(&link.a, there, "-c 100 -i 0.002")?;
    let before = agent.settles(|s| {
        ensure!(sequenced(s) >= 100, "{} packets", sequenced(s));
        Ok(sequenced(s))
    })?;
    for id in links(&agent)? {
        command::run(&format!("bpftool link detach id {id}"))?;
    }
    // Longer than it takes until the programs are back: packets come before, at and after that moment.
    const SENT: u64 = 2000;
    ping(&link.a, there, &format!("-c {SENT} -i 0.004"))?;
    agent.settles(|s| {
        let gaps = s.sum("geophone_tunnel_watch_gaps_total", &[("reason", "detached")]);
        equal("gaps", gaps, 2)?;
        let seen = sequenced(s) - before;
        ensure!(seen > 0 && seen < SENT, "{seen} of {SENT} seen");
        equal("lost", lost(s), 0)?;
        s.lawful()
    })
}

/// A link whose ends have the same addresses as those of every other one of this kind, and a VXLAN through it.
fn twin() -> Result<(Link, Mouth)> {
    let mut link = Link::new()?;
    for (end, last) in [(&mut link.a, 1), (&mut link.b, 2)] {
        end.v4 = std::net::Ipv4Addr::new(10, 251, 0, last);
        end.ns.ip(&format!("addr add {}/24 dev {}", end.v4, end.device))?;
    }
    let [_, there] = vxlan(&link, 66, 4777)?;
    Ok((link, there))
}

fn index(end: &End) -> Result<u64> {
    let json: Value = serde_json::from_str(&end.ns.ip(&format!("-j link show {}", end.device))?)?;
    json[0]["ifindex"].as_u64().context("no index")
}

/// Cause: two namespaces that the agent is not in, one of them younger than the agent, with devices of the same index and
/// tunnels of the same name. Seen: what passes each of them, under its own name; and nothing holds one that is gone.
#[test]
fn tunnels_of_other_namespaces_do_not_mix() -> Result<()> {
    use std::os::unix::fs::MetadataExt as _;
    need_root!("ping");
    let home = Netns::new()?;
    let (first, one) = twin()?;
    let agent = Setup::new()
        .inside(&home)
        .config(format!(
            "probes: {{ tunnel: {{ namespaces: [\"geophone-{}-*\"] }} }}",
            std::process::id()
        ))
        .start()?;
    let watched = |link: &Link| {
        let netns = link.a.ns.name().to_owned();
        agent.until(move |s| {
            let labels = [("netns", netns.as_str()), ("direction", "receive")];
            equal("watched", s.number("geophone_tunnel_watched", &labels)?, 1.0)
        })
    };
    watched(&first)?;
    let start = Instant::now();
    let (second, two) = twin()?;
    watched(&second)?;
    ensure!(
        start.elapsed() < LOOK + Duration::from_secs(2),
        "{:?}",
        start.elapsed()
    );
    equal("interface indexes", index(&first.a)?, index(&second.a)?)?;
    ping(&first.a, &one, "-c 30 -i 0.02")?;
    ping(&second.a, &two, "-c 50 -i 0.02")?;
    agent.settles(|s| {
        for (link, count) in [(&first, 30), (&second, 50)] {
            for direction in ["receive", "transmit"] {
                let labels = [
                    ("type", "vxlan"),
                    ("id", "66"),
                    ("local", "10.251.0.1"),
                    ("remote", "10.251.0.2"),
                    ("netns", link.a.ns.name()),
                    ("direction", direction),
                    ("class", "ipv4_icmp"),
                ];
                equal(direction, s.sum(PACKETS, &labels), count)?;
            }
        }
        s.lawful()
    })?;
    let inode = std::fs::metadata(second.a.ns.path())?.ino();
    let held = || -> Result<bool> {
        for entry in std::fs::read_dir(format!("/proc/{}/fd", agent.pid()))? {
            if std::fs::metadata(entry?.path()).is_ok_and(|m| m.ino() == inode) {
                return Ok(true);
            }
        }
        Ok(false)
    };
    ensure!(held()?, "what is watched is not held");
    let name = second.a.ns.name().to_owned();
    let start = Instant::now();
    drop(second);
    while held()? {
        ensure!(
            start.elapsed() < LOOK + Duration::from_secs(1),
            "a namespace that is gone is held"
        );
        std::thread::sleep(Duration::from_millis(100));
    }
    agent.until(|s| {
        equal(
            "watched",
            s.series("geophone_tunnel_watched", &[("netns", &name)]).len(),
            0,
        )
    })?;
    watched(&first)
}

/// Cause: a budget that the agent cannot keep. Seen: first the pairs inside become `other` and nothing is missing of them,
/// then the programs are taken off, which is told as such; what goes by then is not counted at all, and nobody knows how
/// the tunnel is.
#[test]
fn over_budget_tunnels_are_given_up_in_order() -> Result<()> {
    need_root!("ping");
    let link = Link::new()?;
    let [_, there] = vxlan(&link, 12, 4789)?;
    let agent = Setup::new()
        .inside(&link.a.ns)
        .with_budget()
        .set("budget.cpu_percent", "0.05")
        .start()?;
    watching(&agent, &link.a.device)?;
    let mut talk = link.a.ns.command("ping");
    talk.args(["-q", "-i", "0.05", "-s", "56", &there.v4.to_string()])
        .stdout(Stdio::null());
    let mut talk = Reaped(talk.spawn()?);
    let level = |s: &Snapshot| s.number("geophone_governor_level", &[]);
    agent.until(|s| {
        ensure!(level(s)? >= 5.0, "level {}", level(s)?);
        Ok(())
    })?;
    agent.until(|s| equal("level", level(s)?, 7.0))?;
    let off = agent.after(2)?;
    for direction in ["receive", "transmit"] {
        let device = [("device", link.a.device.as_str()), ("direction", direction)];
        equal("watched", off.number("geophone_tunnel_watched", &device)?, 0.0)?;
        let gap = [device[0], device[1], ("reason", "governor")];
        equal("gaps", off.sum("geophone_tunnel_watch_gaps_total", &gap), 1)?;
        let pairs = ("direction", direction);
        let pair_bytes = "geophone_tunnel_inner_pair_bytes_total";
        let inner = off.sum("geophone_tunnel_inner_bytes_total", &[pairs]);
        equal("bytes of pairs", off.sum(pair_bytes, &[pairs]), inner)?;
        ensure!(
            off.sum(pair_bytes, &[pairs, ("inner_local", "other")]) > 0,
            "no pair became other"
        );
    }
    let unknown = [("state", "unknown"), ("reason", "not_watched")];
    equal("state", off.number("geophone_tunnel_state", &unknown)?, 1.0)?;
    let last = changes(&agent)?.pop().context("no change is told")?;
    equal(
        "change",
        &last,
        &["up", "unknown", "not_watched"].map(str::to_owned),
    )?;
    let shown = agent.command("tunnels", &[])?;
    ensure!(shown.contains("unknown not_watched"), "{shown}");
    equal("links", links(&agent)?.len(), 0)?;
    ensure!(
        agent.status()?.to_string().contains("the CPU budget is spent"),
        "no verdict"
    );
    let later = agent.after(5)?;
    equal("packets unseen", later.sum(PACKETS, &[]), off.sum(PACKETS, &[]))?;
    let seconds = later.sum(
        "geophone_tunnel_watch_gap_seconds_total",
        &[("reason", "governor")],
    );
    ensure!(seconds >= 2 * 3, "{seconds} s without programs");
    talk.0.kill()?;
    later.lawful()
}
