//! Probe `tunnel`: what passes the underlay against what the tunnel devices and nft have counted.

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::process::Stdio;
use std::time::{Duration, Instant};
use tests::harness::tunnels::{Mouth, vxlan};
use tests::harness::{Agent, End, Link, Setup, Snapshot, WireGuard, command, equal};
use tests::need_root;

const BYTES: &str = "geophone_tunnel_bytes_total";
const INNER: &str = "geophone_tunnel_inner_bytes_total";
const PACKETS: &str = "geophone_tunnel_packets_total";
/// Programs are where they belong within this time of the cause.
const LOOK: Duration = Duration::from_secs(5);

fn watching(agent: &Agent, device: &str) -> Result<Duration> {
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

fn ping(from: &End, to: &Mouth, options: &str) -> Result<String> {
    from.ns.run(&format!("ping -q -W 2 {options} {}", to.v4))
}

/// (packets, bytes) by direction, as the tunnel device counts them.
fn device_counts(end: &End, mouth: &Mouth) -> Result<[(u64, u64); 2]> {
    let text = end.ns.ip(&format!("-j -s link show {}", mouth.device))?;
    let json: Value = serde_json::from_str(&text)?;
    let count = |side: &str| -> Result<(u64, u64)> {
        let of = |what: &str| json[0]["stats64"][side][what].as_u64().context("no statistics");
        Ok((of("packets")?, of("bytes")?))
    };
    Ok([count("rx")?, count("tx")?])
}

/// Ids of the tcx links that a process holds, as the kernel describes its descriptors.
fn links(agent: &Agent) -> Result<Vec<u64>> {
    let mut out = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/{}/fdinfo", agent.pid()))? {
        // A descriptor may be closed meanwhile.
        let text = std::fs::read_to_string(entry?.path()).unwrap_or_default();
        let field = |name: &str| text.lines().find_map(|l| l.strip_prefix(name)).map(str::trim);
        if field("link_type:") == Some("tcx") {
            out.push(field("link_id:").context("a link without id")?.parse()?);
        }
    }
    Ok(out)
}

/// Whether a link is there.
fn exists(link: u64) -> bool {
    command::run(&format!("bpftool link show id {link}")).is_ok()
}

/// Cause: pings through a VXLAN of an unusual port. Seen: the packets and bytes that its device has counted.
#[test]
fn a_vxlan_is_counted_as_its_device_counts() -> Result<()> {
    need_root!("ping");
    let link = Link::new()?;
    let [here, there] = vxlan(&link, 77, 4799)?;
    let agent = Setup::new().inside(&link.a.ns).start()?;
    watching(&agent, &link.a.device)?;
    let before = device_counts(&link.a, &here)?;
    ping(&link.a, &there, "-c 50 -i 0.02 -s 300")?;
    let after = device_counts(&link.a, &here)?;
    let (local, remote) = (link.a.v4.to_string(), link.b.v4.to_string());
    agent.settles(|s| {
        for (i, direction) in ["receive", "transmit"].into_iter().enumerate() {
            let labels = [
                ("type", "vxlan"),
                ("id", "77"),
                ("local", local.as_str()),
                ("remote", remote.as_str()),
                ("direction", direction),
            ];
            let packets = after[i].0 - before[i].0;
            ensure!(packets >= 50, "{packets} packets");
            equal("packets", s.sum(PACKETS, &labels), packets)?;
            // The device counts without the inner Ethernet header; outside are Ethernet, IPv4, UDP and VXLAN.
            let inner = after[i].1 - before[i].1 + 14 * packets;
            equal("inner bytes", s.sum(INNER, &labels), inner)?;
            equal("bytes", s.sum(BYTES, &labels), inner + 50 * packets)?;
        }
        let classes = s.values(PACKETS, "class");
        ensure!(
            classes.contains("ipv4_icmp") && !classes.contains("other"),
            "{classes:?}"
        );
        s.lawful()
    })
}

/// Cause: no tunnel, then one; somebody detaches our program; the agent is killed. Seen: nothing attached, attached,
/// attached again with the gap told, nothing left.
#[test]
fn programs_come_with_the_tunnel_come_back_and_leave_nothing() -> Result<()> {
    need_root!("bpftool");
    let link = Link::new()?;
    let mut agent = Setup::new().inside(&link.a.ns).start()?;
    agent.after(4)?;
    equal("links without a tunnel", links(&agent)?.len(), 0)?;
    ensure!(!agent.attached("tunnel_ingress")?, "attached without a tunnel");
    let status = agent.status()?.to_string();
    ensure!(status.contains("no tunnel on this machine"), "{status}");

    vxlan(&link, 5, 4789)?;
    let took = watching(&agent, &link.a.device)?;
    ensure!(took < LOOK, "{took:?}");
    let held = links(&agent)?;
    equal("links", held.len(), 2)?;
    ensure!(held.iter().all(|id| exists(*id)), "bpftool sees no {held:?}");

    let start = Instant::now();
    command::run(&format!("bpftool link detach id {}", held[0]))?;
    agent.until(|s| equal("gaps", s.sum("geophone_tunnel_watch_gaps_total", &[]), 1))?;
    ensure!(
        start.elapsed() < LOOK + Duration::from_secs(1),
        "{:?}",
        start.elapsed()
    );
    watching(&agent, &link.a.device)?;
    ensure!(agent.log().contains("somebody has detached"), "{}", agent.log());

    let held = links(&agent)?;
    equal("links", held.len(), 2)?;
    agent.signal(Signal::SIGKILL)?;
    let _ = agent.wait(LOOK)?;
    ensure!(!held.iter().any(|id| exists(*id)), "a dead agent has links");
    Ok(())
}

/// Cause: somebody's own filter drops everything that comes in. Seen: the packets all the same, for we are first, and
/// the filter does what it did, before, during and after.
#[test]
fn filters_of_others_keep_working() -> Result<()> {
    need_root!("tc", "ping");
    let link = Link::new()?;
    let [_, there] = vxlan(&link, 6, 4789)?;
    ping(&link.a, &there, "-c 1")?;
    let device = &link.a.device;
    link.a.ns.run(&format!("tc qdisc add dev {device} clsact"))?;
    // Classic BPF: drop all.
    command::output(link.a.ns.command("tc").args([
        "filter",
        "add",
        "dev",
        device,
        "ingress",
        "protocol",
        "ip",
        "prio",
        "7",
        "bpf",
        "da",
        "bytecode",
        "1,6 0 0 2",
    ]))?;
    let filters = || link.a.ns.run(&format!("tc filter show dev {device} ingress"));
    let before = filters()?;
    ensure!(
        ping(&link.a, &there, "-c 2 -i 0.1").is_err(),
        "the filter does not drop"
    );
    let agent = Setup::new().inside(&link.a.ns).start()?;
    watching(&agent, device)?;
    ensure!(
        ping(&link.a, &there, "-c 5 -i 0.1").is_err(),
        "the filter does not drop any more"
    );
    agent.settles(|s| {
        let received = s.sum(PACKETS, &[("direction", "receive"), ("class", "ipv4_icmp")]);
        equal("packets before the filter", received, 5)
    })?;
    equal("filters", filters()?, before.clone())?;
    agent.stop()?;
    equal("filters afterwards", filters()?, before)
}

fn wireguard(s: &Snapshot, metric: &str) -> u64 {
    s.sum(metric, &[("type", "wireguard")])
}

fn state(s: &Snapshot) -> Result<(String, String)> {
    let all = s.series("geophone_tunnel_state", &[("type", "wireguard")]);
    let one = all.first().context("no state")?;
    Ok((one.label("state").to_owned(), one.label("reason").to_owned()))
}

/// Drops what `end` sends with this part of a rule; returns how to ask how many it were.
fn lose(end: &End, rule: &str) -> Result<()> {
    end.ns.nft(&format!(
        "table netdev loss {{ chain out {{ type filter hook egress device \"{}\" priority 0; {rule} counter drop; }}; }}",
        end.device
    ))?;
    Ok(())
}

fn dropped(end: &End) -> Result<u64> {
    let text = end.ns.run("nft list table netdev loss")?;
    let count = text.split("counter packets ").nth(1).context("no counter")?;
    Ok(count.split(' ').next().unwrap_or_default().parse()?)
}

/// (before, state, reason) of each change so far, which must be of one VXLAN.
fn changes(agent: &Agent, link: &Link) -> Result<Vec<[String; 3]>> {
    let of = |change: &Value| -> Result<[String; 3]> {
        let text = |name: &str| change[name].as_str().unwrap_or("missing").to_owned();
        equal("kind", text("kind"), "tunnel".to_owned())?;
        equal("type", text("type"), "vxlan".to_owned())?;
        equal("id", text("id"), "9".to_owned())?;
        equal("local", text("local"), link.a.v4.to_string())?;
        equal("remote", text("remote"), link.b.v4.to_string())?;
        ensure!(change["time"].as_f64() > Some(1.7e9), "{change}");
        Ok(["before", "state", "reason"].map(text))
    };
    agent.changes()?.iter().map(of).collect()
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
    equal("records of its life", changes(&agent, &link)?, told.clone())?;

    let start = Instant::now();
    lose(&link.b, "udp dport 4789")?;
    told.push(change("up", "down", "no_answer"));
    while changes(&agent, &link)?.len() < 2 {
        ensure!(start.elapsed() < Duration::from_secs(10), "the cut is not told");
    }
    let took = start.elapsed();
    // The stream itself takes 0.7 s.
    ensure!(took < Duration::from_secs(6), "told after {took:?}");
    agent.after(5)?;
    equal("records of the cut", changes(&agent, &link)?, told.clone())?;

    let printed = std::thread::scope(|scope| -> Result<String> {
        let following = scope.spawn(|| agent.command("tunnels", &["--follow", "--for", "8s"]));
        std::thread::sleep(Duration::from_secs(1));
        link.b.ns.nft("delete table netdev loss")?;
        following
            .join()
            .map_err(|panic| anyhow::anyhow!("a thread has panicked: {panic:?}"))?
    })?;
    told.push(change("down", "up", ""));
    equal("records of the healing", changes(&agent, &link)?, told)?;
    for line in ["unknown → up", "up → down", "no_answer", "down → up"] {
        equal(line, printed.matches(line).count(), 1)?;
    }
    talk.0.kill()?;
    agent.settles(Snapshot::lawful)
}

/// Cause: somebody's rule drops what comes out of a VXLAN device. Seen: exactly these, at this device, under this tunnel.
#[test]
fn drops_of_a_tunnel_device_are_told_of_its_tunnel() -> Result<()> {
    need_root!("nft", "ping");
    let link = Link::new()?;
    let [here, there] = vxlan(&link, 33, 4789)?;
    let [other, _] = vxlan(&link, 34, 4789)?;
    let agent = Setup::new().inside(&link.a.ns).start()?;
    watching(&agent, &link.a.device)?;
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
    let home = tests::harness::Netns::new()?;
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
    ensure!(start.elapsed() < LOOK + Duration::from_secs(2), "{:?}", start.elapsed());
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
        ensure!(start.elapsed() < LOOK + Duration::from_secs(1), "a namespace that is gone is held");
        std::thread::sleep(Duration::from_millis(100));
    }
    agent.until(|s| equal("watched", s.series("geophone_tunnel_watched", &[("netns", &name)]).len(), 0))?;
    watched(&first)
}

/// A child that does not outlive the test.
struct Reaped(std::process::Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Cause: a userspace WireGuard, first whole, then with losses behind the sender, then cut, then healed. Seen: nothing
/// lost, exactly what nft has dropped, down within 5 s, up.
#[test]
fn a_wireguard_tunnel_tells_loss_and_life() -> Result<()> {
    need_root!("wireguard-go", "wg", "nft", "ping");
    let link = Link::new()?;
    let agent = Setup::new().inside(&link.a.ns).start()?;
    let tunnel = WireGuard::new(&link)?;
    let there = &tunnel.mouths[1];
    watching(&agent, &link.a.device)?;
    ping(&link.a, there, "-c 500 -i 0.002 -s 400")?;
    agent.settles(|s| {
        ensure!(
            wireguard(s, "geophone_tunnel_sequenced_packets_total") >= 500,
            "too few"
        );
        equal(
            "lost of nothing",
            wireguard(s, "geophone_tunnel_lost_packets_total"),
            0,
        )?;
        equal(
            "duplicated",
            wireguard(s, "geophone_tunnel_duplicated_packets_total"),
            0,
        )?;
        equal("state", state(s)?, ("up".to_owned(), String::new()))?;
        ensure!(
            wireguard(s, "geophone_tunnel_handshake_seconds") >= 1,
            "no handshake"
        );
        s.lawful()
    })?;

    // Only the answers: a lost question has none. 200 bytes leave handshakes and keepalives alone.
    lose(&link.b, "udp length > 200 numgen random mod 100 < 5")?;
    const SENT: u64 = 4000;
    ping(&link.a, there, &format!("-c {SENT} -i 0.002 -s 400"))?;
    let truth = dropped(&link.b)?;
    link.b.ns.nft("delete table netdev loss")?;
    // What is lost at the end shows when something comes after it.
    ping(&link.a, there, "-c 3 -i 0.2")?;
    let lost = agent.settles(|s| {
        let lost = wireguard(s, "geophone_tunnel_lost_packets_total");
        equal("lost", lost, truth).map(|()| lost)
    })?;
    // 99 % of the binomial distribution lie within 2.58 standard deviations.
    let (mean, deviation) = (SENT as f64 * 0.05, (SENT as f64 * 0.05 * 0.95).sqrt());
    ensure!(
        (lost as f64 - mean).abs() < 2.58 * deviation + 1.0,
        "{lost} of {SENT}"
    );
    agent.until(|s| equal("state", state(s)?, ("degraded".to_owned(), "loss".to_owned())))?;

    let mut talk = link
        .a
        .ns
        .command("ping")
        .args(["-q", "-i", "0.2", &there.v4.to_string()])
        .stdout(Stdio::null())
        .spawn()?;
    agent.after(5)?;
    lose(&link.b, "udp sport 51820")?;
    let start = Instant::now();
    let down = agent.until(|s| equal("state", state(s)?.0, "down".to_owned()));
    let took = start.elapsed();
    let healed = link.b.ns.nft("delete table netdev loss");
    let back = agent.until(|s| {
        let (state, _) = state(s)?;
        ensure!(state == "up" || state == "degraded", "{state}");
        Ok(())
    });
    talk.kill()?;
    talk.wait()?;
    down?;
    healed?;
    back?;
    ensure!(took < Duration::from_secs(6), "down after {took:?}");
    Ok(())
}
