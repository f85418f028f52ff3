//! Probe `tunnel`: more kinds of tunnel and of underlay, against the counts of nft, tcpdump and the devices.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use std::time::Duration;
use tests::harness::agent::{binary, clean};
use tests::harness::delay::{Delay, Fate};
use tests::harness::tunnels::{OpenVpn, ping, vxlan, vxlan_between, watching};
use tests::harness::witness::{Capture, Count, counted_by_nft};
use tests::harness::{End, Link, Setup, Snapshot, WireGuard, command, equal, skipped};
use tests::need_root;

const BYTES: &str = "geophone_tunnel_bytes_total";
const INNER: &str = "geophone_tunnel_inner_bytes_total";
const PACKETS: &str = "geophone_tunnel_packets_total";
const DIRECTIONS: [&str; 2] = ["receive", "transmit"];

/// What the agent says of a tunnel, by direction.
fn told(s: &Snapshot, metric: &str, labels: &[(&str, &str)]) -> [u64; 2] {
    DIRECTIONS.map(|direction| {
        let mut all = labels.to_vec();
        all.push(("direction", direction));
        s.sum(metric, &all)
    })
}

/// Cause: the corpus of crafted packets, whole and cut at every byte, through the loaded programs. Seen: counters,
/// windows and pairs are those of the parser on this side.
#[test]
fn programs_and_parser_agree_over_the_corpus() -> Result<()> {
    need_root!();
    let text = command::output(clean(binary()).arg("test-corpus"))?;
    let found: Value = serde_json::from_str(&text)?;
    equal("differences", &found["differences"], &Value::Array(Vec::new()))?;
    equal("different", &found["different"], &Value::from(0))?;
    ensure!(found["packets"].as_u64() >= Some(89), "{found}");
    ensure!(found["runs"].as_u64() > Some(40_000), "{found}");
    // Without its IP header a packet is none to some kernels; the other limit is a page.
    ensure!(found["shortest"].as_u64() <= Some(54), "{found}");
    ensure!(found["longest"].as_u64() >= Some(3000), "{found}");
    for verdict in [
        "Nothing",
        "Tunnel",
        "SomeTunnel",
        "Fragment",
        "Malformed",
        "TooBig",
    ] {
        ensure!(
            found["verdicts"][verdict].as_u64() > Some(0),
            "no {verdict}: {found}"
        );
    }
    Ok(())
}

/// Cause: pings through OpenVPN. Seen: data and control packets as nft tells them apart by their opcodes, and their
/// bytes; up.
#[test]
fn an_openvpn_is_counted_as_nft_counts() -> Result<()> {
    need_root!("openvpn", "openssl", "nft", "ping");
    let link = Link::new()?;
    let device = &link.a.device;
    let own = "udp sport 1194 udp dport 1194";
    // The opcode is the first five bits behind the UDP header; 6 and 9 are data.
    let rules = [
        ("data", format!("{own} @th,64,5 {{ 6, 9 }}")),
        ("control", format!("{own} @th,64,5 != {{ 6, 9 }}")),
    ];
    let truth = counted_by_nft(&link.a, &rules)?;
    let agent = Setup::new().inside(&link.a.ns).start()?;
    let tunnel = OpenVpn::new(&link)?;
    watching(&agent, device)?;
    // What passed before the programs were there they have not seen.
    let before = agent.after(2)?;
    let nft_before = truth.read()?;
    ping(&link.a, &tunnel.mouths[1], "-c 100 -i 0.01 -s 300")?;
    agent.settles(|s| {
        let (local, remote) = (link.a.at(1194), link.b.at(1194));
        let labels = [
            ("type", "openvpn"),
            ("id", ""),
            ("local", &local),
            ("remote", &remote),
        ];
        let now = truth.read()?;
        let grown = |name: &str, d: usize| now.of(name, d) - nft_before.of(name, d);
        for d in [0, 1] {
            let (data, control) = (grown("data", d), grown("control", d));
            ensure!(data.packets >= 100, "{} packets", data.packets);
            let since = |metric: &str, class: &str| {
                let mut labels = labels.to_vec();
                if !class.is_empty() {
                    labels.push(("class", class));
                }
                told(s, metric, &labels)[d] - told(&before, metric, &labels)[d]
            };
            equal("data", since(PACKETS, "encrypted"), data.packets)?;
            equal("control", since(PACKETS, "control"), control.packets)?;
            equal("bytes", since(BYTES, ""), data.bytes + control.bytes)?;
            // Ethernet, IPv4, UDP, opcode and peer.
            equal("inner bytes", since(INNER, ""), data.bytes - 46 * data.packets)?;
        }
        equal(
            "malformed",
            s.sum("geophone_tunnel_malformed_packets_total", &[]),
            0,
        )?;
        let state = s.series("geophone_tunnel_state", &[("type", "openvpn")]);
        equal("state", state.first().context("no state")?.label("state"), "up")?;
        s.lawful()
    })
}

/// Cause: pings through a VXLAN and a WireGuard of one underlay device, which tcpdump watches as well. Seen: the packets
/// and bytes that tcpdump has, of each tunnel and direction.
#[test]
fn tcpdump_agrees() -> Result<()> {
    need_root!("tcpdump", "wireguard-go", "wg", "ping");
    let link = Link::new()?;
    let [_, over] = vxlan(&link, 78, 4789)?;
    let agent = Setup::new().inside(&link.a.ns).start()?;
    let tunnel = WireGuard::new(&link)?;
    watching(&agent, &link.a.device)?;
    let before = agent.after(2)?;
    let capture = Capture::start(&link.a)?;
    ping(&link.a, &over, "-c 200 -i 0.005 -s 700")?;
    ping(&link.a, &tunnel.mouths[1], "-c 200 -i 0.005 -s 700")?;
    ping(&link.b, &tunnel.mouths[0], "-c 50 -i 0.005 -s 100")?;
    // Nothing passes any more until WireGuard's next keepalive.
    let s = agent.after(3)?;
    let capture = capture.stop()?;
    for (kind, id, port) in [("vxlan", "78", 4789), ("wireguard", "", WireGuard::PORT)] {
        let labels = [("type", kind), ("id", id)];
        for (d, from) in [&link.b, &link.a].into_iter().enumerate() {
            let truth = capture.count(&format!("src host {} and udp dst port {port}", from.v4))?;
            let what = format!("{kind} {}", DIRECTIONS[d]);
            ensure!(truth.packets >= 200, "{what}: tcpdump has only {}", truth.packets);
            let grown = |metric| told(&s, metric, &labels)[d] - told(&before, metric, &labels)[d];
            equal(&format!("packets of {what}"), grown(PACKETS), truth.packets)?;
            equal(&format!("bytes of {what}"), grown(BYTES), truth.bytes)?;
        }
    }
    s.lawful()
}

/// Cause: a wire out of sight of both ends loses, doubles and delays answers inside of a WireGuard. Seen: exactly those.
#[test]
fn what_the_way_does_is_told_apart() -> Result<()> {
    need_root!("wireguard-go", "wg", "ping");
    const HARMED: u64 = 1000;
    let (link, devices) = Link::through_middle()?;
    let _wire = Delay::harming(link.middle()?, &devices, Duration::ZERO, |number| {
        match number % 20 {
            _ if number >= HARMED => Fate::Pass,
            5 => Fate::Lose,
            10 => Fate::Double,
            15 => Fate::Late,
            _ => Fate::Pass,
        }
    })?;
    let agent = Setup::new().inside(&link.a.ns).start()?;
    let tunnel = WireGuard::new(&link)?;
    watching(&agent, &link.a.device)?;
    ping(
        &link.a,
        &tunnel.mouths[1],
        &format!("-c {HARMED} -i 0.002 -s 400"),
    )?;
    // What is lost at the end shows when something comes after it.
    ping(&link.a, &tunnel.mouths[1], "-c 3 -i 0.2 -s 400")?;
    agent.settles(|s| {
        let of = |what: &str| {
            s.sum(
                &format!("geophone_tunnel_{what}_packets_total"),
                &[("type", "wireguard")],
            )
        };
        equal("lost", of("lost"), HARMED / 20)?;
        equal("duplicated", of("duplicated"), HARMED / 20)?;
        equal("reordered", of("reordered"), HARMED / 20)?;
        equal("late", of("late"), 0)?;
        equal("sequenced", of("sequenced"), HARMED + 3 - HARMED / 20)?;
        s.lawful()
    })
}

/// (packets, bytes) by direction, as a tunnel device counts them.
fn device_counts(end: &End, device: &str) -> Result<[Count; 2]> {
    let text = end.ns.ip(&format!("-j -s link show {device}"))?;
    let json: Value = serde_json::from_str(&text)?;
    let count = |side: &str| -> Result<Count> {
        let of = |what: &str| json[0]["stats64"][side][what].as_u64().context("no statistics");
        Ok(Count {
            packets: of("packets")?,
            bytes: of("bytes")?,
        })
    };
    Ok([count("rx")?, count("tx")?])
}

/// Cause: a VXLAN inside of a VXLAN, on an underlay of large frames. Seen: each as its own device counts it, the outer
/// one on the wire, the inner one on the outer one's device.
#[test]
fn a_vxlan_in_a_vxlan_is_two_tunnels() -> Result<()> {
    need_root!("ping");
    let link = Link::new()?;
    for end in [&link.a, &link.b] {
        end.ns.ip(&format!("link set {} mtu 9000", end.device))?;
    }
    let outer = vxlan(&link, 11, 4789)?;
    let inner = vxlan_between(
        [&link.a, &link.b],
        [(&outer[0].device, outer[0].v4), (&outer[1].device, outer[1].v4)],
        12,
        4789,
    )?;
    let agent = Setup::new().inside(&link.a.ns).start()?;
    watching(&agent, &link.a.device)?;
    watching(&agent, &outer[0].device)?;
    // ARP has been asked for already.
    ping(&link.a, &inner[1], "-c 1")?;
    let start = agent.after(2)?;
    let before = [&outer, &inner].map(|mouths| device_counts(&link.a, &mouths[0].device));
    // The last are jumbo frames.
    ping(&link.a, &inner[1], "-c 40 -i 0.01 -s 300")?;
    ping(&link.a, &inner[1], "-c 10 -i 0.01 -s 8000")?;
    let after = [&outer, &inner].map(|mouths| device_counts(&link.a, &mouths[0].device));
    let ends = [
        ("11", link.a.v4.to_string(), link.b.v4.to_string()),
        ("12", outer[0].v4.to_string(), outer[1].v4.to_string()),
    ];
    // Not for long: neighbours are asked for again when some time has passed.
    agent.until(|s| {
        for ((id, local, remote), (before, after)) in ends.iter().zip(before.iter().zip(&after)) {
            let labels = [
                ("type", "vxlan"),
                ("id", *id),
                ("local", local),
                ("remote", remote),
            ];
            let (before, after) = (
                before.as_ref().ok().context("before")?,
                after.as_ref().ok().context("after")?,
            );
            for d in [0, 1] {
                let what = format!("VNI {id} {}", DIRECTIONS[d]);
                let truth = after[d] - before[d];
                ensure!(truth.packets >= 50, "{what}: {} packets", truth.packets);
                let grown = |metric| told(s, metric, &labels)[d] - told(&start, metric, &labels)[d];
                equal(&format!("packets of {what}"), grown(PACKETS), truth.packets)?;
                // The device does not count the inner Ethernet header.
                equal(
                    &format!("inner bytes of {what}"),
                    grown(INNER),
                    truth.bytes + 14 * truth.packets,
                )?;
            }
        }
        s.lawful()
    })
}

/// Cause: a VXLAN over a VLAN in a VLAN. Seen: its packets once and with their tags where the lowest device is asked
/// for, once and without tags where it is not.
#[test]
fn tags_of_the_underlay_are_passed_over() -> Result<()> {
    need_root!("tcpdump", "ping");
    let link = Link::new()?;
    // Where the kernel has no VLANs, `cargo xtask vm` is the proof.
    let lower = &link.a.device;
    if link
        .a
        .ns
        .ip(&format!("link add link {lower} name {lower}x type vlan id 5"))
        .is_err()
    {
        skipped("tags_of_the_underlay_are_passed_over: this kernel has no VLANs");
        return Ok(());
    }
    let (mut tops, mut addresses) = (Vec::new(), Vec::new());
    for (end, last) in [(&link.a, 1), (&link.b, 2)] {
        let (lower, outer, top) = (
            &end.device,
            format!("{}o", end.device),
            format!("{}t", end.device),
        );
        end.ns.sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
        end.ns.ip(&format!(
            "link add link {lower} name {outer} type vlan proto 802.1ad id 5"
        ))?;
        end.ns.ip(&format!("link set {outer} up"))?;
        end.ns
            .ip(&format!("link add link {outer} name {top} type vlan id 6"))?;
        end.ns.ip(&format!("addr add 172.30.5.{last}/24 dev {top}"))?;
        end.ns.ip(&format!("link set {top} up"))?;
        tops.push(top);
        addresses.push([172, 30, 5, last].into());
    }
    let mouths = vxlan_between(
        [&link.a, &link.b],
        [(&tops[0], addresses[0]), (&tops[1], addresses[1])],
        13,
        4789,
    )?;
    ping(&link.a, &mouths[1], "-c 1")?;
    // The tags are in the frames that tcpdump has of the lowest device, and gone at the top.
    for (lowest, tags) in [(true, 8), (false, 0)] {
        let mut setup = Setup::new().inside(&link.a.ns);
        if lowest {
            setup = setup.set("probes.tunnel.devices", &format!("[{}]", link.a.device));
        }
        let agent = setup.start()?;
        watching(&agent, if lowest { &link.a.device } else { &tops[0] })?;
        let before = agent.after(2)?;
        let capture = Capture::start(&link.a)?;
        ping(&link.a, &mouths[1], "-c 50 -i 0.01 -s 300")?;
        let s = agent.after(3)?;
        let capture = capture.stop()?;
        for (d, from) in [&addresses[1], &addresses[0]].into_iter().enumerate() {
            let truth = capture.count(&format!(
                "vlan and vlan and src host {from} and udp dst port 4789"
            ))?;
            let what = format!("{}, {tags} bytes of tags", DIRECTIONS[d]);
            ensure!(truth.packets >= 50, "{what}: tcpdump has only {}", truth.packets);
            let labels = [("type", "vxlan"), ("id", "13")];
            let grown = |metric| told(&s, metric, &labels)[d] - told(&before, metric, &labels)[d];
            equal(&format!("packets, {what}"), grown(PACKETS), truth.packets)?;
            let bytes = truth.bytes - (8 - tags) * truth.packets;
            equal(&format!("bytes, {what}"), grown(BYTES), bytes)?;
        }
        s.lawful()?;
        agent.stop()?;
    }
    Ok(())
}
