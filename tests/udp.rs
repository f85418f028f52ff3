//! Probe `udp`.

use anyhow::{Result, ensure};
use tests::harness::cgroup::Cgroup;
use tests::harness::traffic::Place;
use tests::harness::{Agent, Link, Scene, Setup, Traffic, equal};
use tests::need_root;

const DATAGRAMS: &str = "geophone_udp_datagrams_total";
const BYTES: &str = "geophone_udp_bytes_total";

fn agent() -> Result<Agent> {
    Setup::new().set("probes.udp.enabled", "true").start()
}

/// Cause: datagrams there and back. Seen: as many as /proc/net/snmp counts, by subject and direction.
#[test]
fn datagrams_are_the_kernels_own_count() -> Result<()> {
    need_root!();
    let mut scene = Scene::new()?;
    let agent = agent()?;
    let at = scene.server.udp_serve(&scene.net.b.at(0), "echo")?;
    let (client, server) = (scene.net.a.ns.counters()?, scene.net.b.ns.counters()?);
    equal("sent", scene.client.udp(&at, 2000, 200)?, 2000)?;
    agent.settles(|s| {
        let now = scene.net.b.ns.counters()?;
        let since = |name| now.since(&server, name);
        let came = since("Udp.InDatagrams") + since("Udp.RcvbufErrors");
        let out = scene.net.a.ns.counters()?.since(&client, "Udp.OutDatagrams");
        equal("the kernel's OutDatagrams", out, 2000)?;
        equal("what came, says the kernel", came, 2000)?;
        let own = |name, direction| [("subject", name), ("direction", direction)];
        let (client, server) = (scene.client.name(), scene.server.name());
        equal("sent", s.sum(DATAGRAMS, &own(client, "transmit")), out)?;
        equal("bytes sent", s.sum(BYTES, &own(client, "transmit")), out * 200)?;
        equal("came", s.sum(DATAGRAMS, &own(server, "receive")), came)?;
        equal("bytes came", s.sum(BYTES, &own(server, "receive")), came * 200)?;
        equal(
            "sent back",
            s.sum(DATAGRAMS, &own(server, "transmit")),
            since("Udp.OutDatagrams"),
        )?;
        s.lawful()
    })
}

/// Cause: as above over IPv6, with a payload that must be fragmented. Seen: datagrams, not fragments.
#[test]
fn fragments_are_one_datagram() -> Result<()> {
    need_root!();
    let mut scene = Scene::new()?;
    let agent = agent()?;
    let at = scene.server.udp_serve(&scene.net.b.at6(0), "sink")?;
    equal("sent", scene.client.udp(&at, 50, 4000)?, 50)?;
    agent.settles(|s| {
        for (name, direction) in [
            (scene.client.name(), "transmit"),
            (scene.server.name(), "receive"),
        ] {
            let own = [("subject", name), ("direction", direction)];
            equal(direction, s.sum(DATAGRAMS, &own), 50)?;
            equal(direction, s.sum(BYTES, &own), 50 * 4000)?;
        }
        Ok(())
    })
}

/// Cause: a receive queue that nobody empties. Seen: all that came, and how many of it the queue refused.
#[test]
fn a_full_queue_has_still_been_reached() -> Result<()> {
    need_root!();
    let mut scene = Scene::new()?;
    let agent = agent()?;
    let at = scene.server.udp_bind(&scene.net.b.at(0), 4096)?;
    let before = scene.net.b.ns.counters()?;
    scene.client.udp(&at, 1000, 200)?;
    agent.settles(|s| {
        let refused = scene.net.b.ns.counters()?.since(&before, "Udp.RcvbufErrors");
        ensure!(refused > 500, "the queue took all but {refused}");
        let own = [("subject", scene.server.name()), ("direction", "receive")];
        equal("came", s.sum(DATAGRAMS, &own), 1000)?;
        let drops = s.sum(
            "geophone_drops_packets_total",
            &[
                ("reason", "SOCKET_RCVBUFF"),
                ("device", scene.net.b.device.as_str()),
            ],
        );
        equal("refused", drops, refused)
    })
}

/// Cause: datagrams with a wrong checksum, short ones (checked as they come) and long ones (checked as they are read).
/// Seen: as many UDP_CSUM as the kernel's InCsumErrors.
#[test]
fn checksum_errors_are_the_kernels_own_count() -> Result<()> {
    need_root!("python3");
    let mut scene = Scene::new()?;
    let agent = agent()?;
    let at = scene.server.udp_serve(&scene.net.b.at(0), "sink")?;
    let port = at.rsplit(':').next().unwrap_or_default();
    let before = scene.net.b.ns.counters()?;
    let script = format!(
        "import socket,struct\n\
         s=socket.socket(socket.AF_INET,socket.SOCK_RAW,socket.IPPROTO_UDP)\n\
         for size in (20,500):\n\
         \x20for _ in range(30): s.sendto(struct.pack('!HHHH',4000,{port},8+size,0xbad)+b'x'*size,('{}',0))\n",
        scene.net.b.v4
    );
    let done = scene.net.a.ns.command("python3").args(["-c", &script]).status()?;
    ensure!(done.success(), "python3: {done}");
    agent.settles(|s| {
        let now = scene.net.b.ns.counters()?;
        equal("InCsumErrors", now.since(&before, "Udp.InCsumErrors"), 60)?;
        equal("InErrors", now.since(&before, "Udp.InErrors"), 60)?;
        let wrong = [("reason", "UDP_CSUM"), ("protocol", "udp")];
        equal("UDP_CSUM", s.sum("geophone_drops_packets_total", &wrong), 60)
    })
}

/// Cause: sender and receiver in cgroups of version 2. Seen: these, and no process.
#[test]
fn cgroups_are_subjects() -> Result<()> {
    need_root!();
    let link = Link::new()?;
    let units = ["here", "there"].map(|side| format!("{side}-{}.service", std::process::id()));
    let (here, there) = (Cgroup::new(&units[0])?, Cgroup::new(&units[1])?);
    let place = |netns, cgroup: &Cgroup| {
        Traffic::at(Place {
            netns: Some(netns),
            cgroup: Some(cgroup.path()),
            ..Place::default()
        })
    };
    let mut client = place(&link.a.ns, &here)?;
    let mut server = place(&link.b.ns, &there)?;
    let at = server.udp_serve(&link.b.at(0), "sink")?;
    let agent = agent()?;
    equal("sent", client.udp(&at, 300, 64)?, 300)?;
    agent.settles(|s| {
        for (unit, direction) in units.iter().zip(["transmit", "receive"]) {
            let own = [("subject", unit.as_str())];
            equal("datagrams", s.sum(DATAGRAMS, &own), 300)?;
            equal(
                direction,
                s.sum(DATAGRAMS, &[own[0], ("direction", direction)]),
                300,
            )?;
        }
        s.lawful()
    })
}

/// Cause: the default configuration. Seen: neither of the probes that cost something per packet.
#[test]
fn off_unless_asked_for() -> Result<()> {
    need_root!();
    let agent = Agent::start()?;
    for program in ["udp_", "dns_"] {
        ensure!(!agent.attached(program)?, "{program} is attached");
    }
    Ok(())
}
