//! Probe `tcp`.

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use std::time::{Duration, Instant};
use tests::harness::delay::Delay;
use tests::harness::{Agent, Link, Scene, Setup, Traffic, equal, near, skipped, together};
use tests::need_root;

/// Width of a bucket at scale 3, as a share of its lower bound.
const BUCKET: f64 = 0.0906;

/// A wire that takes 25 ms each way, with an echo at its end.
fn slow() -> Result<(Scene, Delay)> {
    let (link, devices) = Link::through_middle()?;
    let delay = Delay::between(link.middle()?, &devices, Duration::from_millis(25))?;
    Ok((Scene::on(link)?.serving("echo")?, delay))
}

/// Cause: a wire that takes 25 ms each way. Seen: RTT and connect latency of 50 ms, jitter far below.
#[test]
fn a_delay_of_50_ms_is_the_round_trip_time() -> Result<()> {
    need_root!();
    let (mut scene, delay) = slow()?;
    let agent = Agent::start()?;
    scene.exchange(1, 60, 100)?;
    ensure!(
        delay.frames() > 120,
        "the relay has carried {} frames",
        delay.frames()
    );
    let own = [("subject", scene.client.name())];
    agent.until(|s| {
        let rtt = s.histogram("geophone_tcp_rtt_seconds", &own)?;
        // Each echo acknowledges its message; the handshake makes one sample more.
        ensure!(rtt.count >= 58, "{} samples", rtt.count);
        // The relay wakes up late on a busy machine, never early: 5 ms are allowed for it, and one bucket.
        near("p50 of RTT", rtt.p50, 0.0525, 0.05 + BUCKET)?;
        let jitter = s.histogram("geophone_tcp_jitter_seconds", &own)?;
        ensure!(jitter.p50 < 0.005, "jitter {}", jitter.p50);
        equal("jitter samples", jitter.count, rtt.count - 1)?;
        let connect = s.histogram("geophone_tcp_connect_seconds", &own)?;
        equal("connects", connect.count, 1)?;
        ensure!(
            connect.sum >= 0.05 && connect.sum < 0.5,
            "connect {}",
            connect.sum
        );
        Ok(())
    })
}

/// The same wire. Seen: the same by the other sources of round-trip times, as far as each of them can tell, and which it
/// is.
#[test]
fn a_delay_by_the_other_sources() -> Result<()> {
    need_root!();
    let (mut scene, _delay) = slow()?;
    let sources = vec![("tcp_probe", 38), ("sock_ops", 30), ("sweep", 1)];
    let agents = together(sources, |(source, least)| {
        let agent = Setup::new().set("probes.tcp.rtt_source", source).start()?;
        Ok((source, least, agent))
    })?;
    let connection = scene.connect()?;
    scene.client.ping(connection, 40, 100)?;
    for (.., agent) in &agents {
        agent.after(2)?;
    }
    scene.client.close(connection)?;
    let own = [("subject", scene.client.name())];
    for (source, least, agent) in agents {
        agent
            .until(|s| {
                let rtt = s.histogram("geophone_tcp_rtt_seconds", &own)?;
                ensure!(rtt.count >= least, "{} samples", rtt.count);
                near("p50 of RTT", rtt.p50, 0.0525, 0.05 + BUCKET)?;
                let sources = s.values("geophone_tcp_rtt_source_info", "source");
                equal(
                    "source",
                    sources.iter().map(String::as_str).collect::<Vec<_>>(),
                    vec![source],
                )
            })
            .with_context(|| source.to_owned())?;
    }
    Ok(())
}

/// Cause: bytes sent over a wire without loss, by either side, some connections ended by the client, some by the server's
/// kernel when it dies. Seen: those bytes, no more: neither SYN nor FIN is a byte.
#[test]
fn bytes_and_segments_are_exact() -> Result<()> {
    need_root!();
    let mut scene = Scene::echo()?;
    let agent = Agent::start()?;
    let before = (scene.net.a.ns.counters()?, scene.net.b.ns.counters()?);
    scene.exchange(20, 50, 1000)?;
    let truth = 20 * 50 * 1000;
    // All segments of these namespaces are of these connections.
    agent.settles(|s| {
        let now = (scene.net.a.ns.counters()?, scene.net.b.ns.counters()?);
        for (name, before, now) in [
            (scene.client.name(), &before.0, &now.0),
            (scene.server.name(), &before.1, &now.1),
        ] {
            let of =
                |metric: &str, direction: &str| s.sum(metric, &[("subject", name), ("direction", direction)]);
            equal("bytes sent", of("geophone_tcp_bytes_total", "transmit"), truth)?;
            let sent = now.since(before, "Tcp.OutSegs") + now.since(before, "Tcp.RetransSegs");
            let seen = of("geophone_tcp_segments_total", "transmit");
            // A segment that a socket in TIME_WAIT answers is no socket's.
            ensure!(
                seen <= sent && seen + 20 >= sent,
                "segments sent: geophone says {seen}, the truth is {sent}"
            );
        }
        for name in [scene.client.name(), scene.server.name()] {
            let received = [("subject", name), ("direction", "receive")];
            equal(
                "bytes received",
                s.sum("geophone_tcp_bytes_total", &received),
                truth,
            )?;
        }
        Ok(())
    })
}

/// Cause: an application is slow to accept. Seen: the accept latency.
#[test]
fn accept_latency() -> Result<()> {
    need_root!();
    let mut scene = Scene::sink()?;
    let agent = Agent::start()?;
    if !agent.attached("tcp_accept")? {
        skipped("accept latency: this kernel cannot trace functions; the virtual machines can");
        return Ok(());
    }
    scene.storm(50, 1, 100)?;
    agent.settles(|s| {
        equal(
            "accepts",
            s.sum("geophone_tcp_accept_seconds", &[("subject", scene.server.name())]),
            50,
        )
    })
}

/// Cause: connections over IPv4, IPv6 and IPv4 on IPv6 sockets. Seen: the configured peers, with region and zone.
#[test]
fn addresses_of_all_kinds_find_their_peers() -> Result<()> {
    need_root!();
    let link = Link::new()?;
    let (a, b) = (&link.a, &link.b);
    let agent = Setup::new()
        .config(format!(
            "region: here\nzone: here-1\npeers:\n\
             - {{name: wide, region: r0, zone: z0, cidrs: [10.0.0.0/8, \"fd77::/16\"]}}\n\
             - {{name: four, region: r4, zone: z4, cidrs: [{}/32]}}\n\
             - {{name: six, region: r6, zone: z6, cidrs: [\"{}/128\"]}}\n",
            b.v4, b.v6
        ))
        .start()?;
    let mut server = Traffic::new("srv", &b.ns)?;
    let v4 = server.serve(&b.at(0), "echo")?;
    let v6 = server.serve(&b.at6(0), "echo")?;
    // A socket of IPv6 that takes IPv4 as well.
    let dual = server.serve("[::]:0", "echo")?;
    let dual_port: u16 = dual.rsplit(':').next().unwrap_or_default().parse()?;
    let v4_port: u16 = v4.rsplit(':').next().unwrap_or_default().parse()?;
    let cases = [
        ("four", "v4", v4.clone()),
        ("six", "v6", v6),
        ("four", "mapped", format!("[::ffff:{}]:{v4_port}", b.v4)),
        ("four", "dual4", b.at(dual_port)),
        ("six", "dual6", b.at6(dual_port)),
    ];
    let mut clients = Vec::new();
    for (peer, tag, to) in cases {
        let mut client = Traffic::new(tag, &a.ns)?;
        let connection = client.connect(&to)?;
        client.ping(connection, 10, 100)?;
        client.close(connection)?;
        clients.push((peer, format!("{tag} to {to}"), client));
    }
    agent.settles(|s| {
        for (peer, what, client) in &clients {
            let (region, zone) = match *peer {
                "four" => ("r4", "z4"),
                _ => ("r6", "z6"),
            };
            let own = [("subject", client.name())];
            for series in s.series("geophone_tcp_bytes_total", &own) {
                equal(what, series.label("peer"), peer)?;
                equal(what, series.label("peer_region"), region)?;
                equal(what, series.label("peer_zone"), zone)?;
            }
            let sent = [own[0], ("direction", "transmit")];
            equal(what, s.sum("geophone_tcp_bytes_total", &sent), 1000)?;
        }
        // To the server, all clients are the wider prefixes.
        let own = [("subject", server.name()), ("direction", "transmit")];
        for series in s.series("geophone_tcp_bytes_total", &own) {
            equal("peer", series.label("peer"), "wide")?;
            equal("region", series.label("peer_region"), "r0")?;
        }
        equal("bytes", s.sum("geophone_tcp_bytes_total", &own), 5000)
    })
}

/// Cause: the reader stops reading. Seen: a window that fell to zero, from both sides.
#[test]
fn a_closed_window() -> Result<()> {
    need_root!();
    let mut scene = Scene::new()?;
    scene.at = scene.server.listen(&scene.net.b.at(0), 5)?;
    let agent = Agent::start()?;
    let connection = scene.connect()?;
    // Nobody reads: this blocks, and is still at it when the test ends.
    scene
        .client
        .give(&json!({ "do": "send", "id": connection, "bytes": 64 << 20 }))?;
    agent.until(|s| {
        let client = [("subject", scene.client.name()), ("direction", "receive")];
        ensure!(
            s.sum("geophone_tcp_zero_windows_total", &client) >= 1,
            "the client has not seen the window close"
        );
        let server = [("subject", scene.server.name()), ("direction", "transmit")];
        ensure!(
            s.sum("geophone_tcp_zero_windows_total", &server) >= 1,
            "the server has not closed its window"
        );
        Ok(())
    })
}

/// Cause: a reader that pauses again and again. Seen: each time that its window closed, by both sides, as the kernel's
/// TCPToZeroWindowAdv counts it.
#[test]
fn a_window_that_closes_again_and_again() -> Result<()> {
    need_root!();
    let mut scene = Scene::new()?;
    scene.at = scene.server.serve(&scene.net.b.at(0), "sip")?;
    let agent = Agent::start()?;
    let before = scene.net.b.ns.counters()?;
    let connection = scene.connect()?;
    let order = json!({ "do": "send", "id": connection, "bytes": 1_u64 << 40 });
    scene.client.give(&order)?;
    let closed = || -> Result<u64> {
        Ok(scene
            .net
            .b
            .ns
            .counters()?
            .since(&before, "TcpExt.TCPToZeroWindowAdv"))
    };
    let start = Instant::now();
    while closed()? < 8 {
        ensure!(
            start.elapsed() < Duration::from_secs(60),
            "the window closed {} times",
            closed()?
        );
        std::thread::sleep(Duration::from_millis(100));
    }
    agent.until(|s| {
        // It goes on closing meanwhile: what is seen lies between two looks at the truth, and the last one may be young.
        let least = closed()?;
        let of = |name: &str, direction| {
            s.sum(
                "geophone_tcp_zero_windows_total",
                &[("subject", name), ("direction", direction)],
            )
        };
        let (sender, reader) = (
            of(scene.client.name(), "receive"),
            of(scene.server.name(), "transmit"),
        );
        for (who, seen) in [("sender", sender), ("reader", reader)] {
            ensure!(seen + 2 >= least, "{who}: {seen} of {least}");
            let most = closed()?;
            ensure!(seen <= most, "{who}: {seen}, but the kernel counts {most}");
        }
        Ok(())
    })
}
