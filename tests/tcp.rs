//! Probe `tcp`.

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use std::time::Duration;
use tests::harness::delay::Delay;
use tests::harness::{Agent, Link, Setup, Traffic, equal, near, root};

/// Width of a bucket at scale 3, as a share of its lower bound.
const BUCKET: f64 = 0.0906;

/// Cause: a wire that takes 25 ms each way. Seen: RTT and connect latency of 50 ms, jitter far below.
#[test]
fn a_delay_of_50_ms_is_the_round_trip_time() -> Result<()> {
    if !root("delay") {
        return Ok(());
    }
    let (link, devices) = Link::through_middle()?;
    let delay = Delay::between(link.middle()?, &devices, Duration::from_millis(25))?;
    let mut server = Traffic::new("srv", &link.b.ns)?;
    let mut client = Traffic::new("cli", &link.a.ns)?;
    let at = server.serve(&link.b.at(0), "echo")?;
    let agent = Agent::start()?;
    let connection = client.connect(&at)?;
    client.ping(connection, 60, 100)?;
    client.close(connection)?;
    ensure!(
        delay.frames() > 120,
        "the relay has carried {} frames",
        delay.frames()
    );
    let own = [("subject", client.name())];
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
    if !root("delay") {
        return Ok(());
    }
    let (link, devices) = Link::through_middle()?;
    let _delay = Delay::between(link.middle()?, &devices, Duration::from_millis(25))?;
    let mut server = Traffic::new("srv", &link.b.ns)?;
    let at = server.serve(&link.b.at(0), "echo")?;
    for (source, least) in [("tcp_probe", 38), ("sock_ops", 30), ("sweep", 1)] {
        let mut client = Traffic::new("cli", &link.a.ns)?;
        let agent = Setup::new().set("probes.tcp.rtt_source", source).start()?;
        let connection = client.connect(&at)?;
        client.ping(connection, 40, 100)?;
        agent.after(2)?;
        client.close(connection)?;
        let own = [("subject", client.name())];
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

/// Cause: the receiver throws 2 % of the segments away. Seen: as many retransmits as the kernel itself counts.
#[test]
fn retransmits_are_the_kernels_own_count() -> Result<()> {
    if !root("loss") {
        return Ok(());
    }
    let link = Link::new()?;
    link.b.ns.nft(
        "table inet loss { chain in { type filter hook input priority 0; \
         meta l4proto tcp numgen random mod 100 < 2 counter drop; }; }",
    )?;
    let mut server = Traffic::new("srv", &link.b.ns)?;
    let mut client = Traffic::new("cli", &link.a.ns)?;
    let at = server.serve(&link.b.at(0), "sink")?;
    let agent = Agent::start()?;
    let before = link.a.ns.counters()?;
    let connection = client.connect(&at)?;
    client.send(connection, 8 << 20)?;
    client.close(connection)?;
    let own = [("subject", client.name())];
    agent.settles(|s| {
        let truth = link.a.ns.counters()?.since(&before, "Tcp.RetransSegs");
        ensure!(truth > 20, "only {truth} retransmits: the wire loses too little");
        equal(
            "retransmits",
            s.sum("geophone_tcp_retransmits_total", &own),
            truth,
        )?;
        for series in s.series("geophone_tcp_retransmits_total", &own) {
            let known = ["fast", "tail_loss_probe", "timeout", "synack"];
            ensure!(known.contains(&series.label("type")), "{:?}", series.labels);
        }
        ensure!(
            s.sum(
                "geophone_tcp_retransmits_total",
                &[("subject", client.name()), ("type", "fast")]
            ) > 0,
            "2 % of a long transfer are repaired by fast retransmits"
        );
        Ok(())
    })
}

/// Cause: nobody listens. Seen: a failed connection with its error; the RST on both sides.
#[test]
fn a_refused_connect() -> Result<()> {
    if !root("refused") {
        return Ok(());
    }
    let link = Link::new()?;
    let mut client = Traffic::new("cli", &link.a.ns)?;
    let agent = Agent::start()?;
    for _ in 0..5 {
        equal("error", client.connect_fails(&link.b.at(9))?.as_str(), "refused")?;
    }
    agent.settles(|s| {
        let failed = [
            ("subject", client.name()),
            ("role", "client"),
            ("outcome", "failed"),
        ];
        equal("failed", s.sum("geophone_tcp_connections_total", &failed), 5)?;
        let refused = [failed[0], failed[1], failed[2], ("error", "refused")];
        equal("refused", s.sum("geophone_tcp_connections_total", &refused), 5)?;
        let received = [("subject", client.name()), ("direction", "receive")];
        equal("resets", s.sum("geophone_tcp_resets_total", &received), 5)?;
        equal(
            "opened",
            s.sum(
                "geophone_tcp_connections_total",
                &[("subject", client.name()), ("outcome", "opened")],
            ),
            0,
        )
    })
}

/// The same loss, and an agent without kernel types. Seen: sock_ops counts the same.
#[test]
fn retransmits_without_kernel_types() -> Result<()> {
    if !root("loss without BTF") {
        return Ok(());
    }
    let link = Link::new()?;
    link.b.ns.nft(
        "table inet loss { chain in { type filter hook input priority 0; \
         meta l4proto tcp numgen random mod 100 < 2 counter drop; }; }",
    )?;
    let mut server = Traffic::new("srv", &link.b.ns)?;
    let mut client = Traffic::new("cli", &link.a.ns)?;
    let at = server.serve(&link.b.at(0), "sink")?;
    let agent = Setup::new().arg("--btf").arg("/dev/null").start()?;
    let before = link.a.ns.counters()?;
    let connection = client.connect(&at)?;
    client.send(connection, 8 << 20)?;
    client.close(connection)?;
    let own = [("subject", client.name())];
    agent.settles(|s| {
        let truth = link.a.ns.counters()?.since(&before, "Tcp.RetransSegs");
        ensure!(truth > 20, "only {truth} retransmits: the wire loses too little");
        equal(
            "retransmits",
            s.sum("geophone_tcp_retransmits_total", &own),
            truth,
        )
    })
}

/// Cause: bytes sent over a wire without loss, by either side, some connections ended by the client, some by the server's
/// kernel when it dies. Seen: those bytes, no more: neither SYN nor FIN is a byte.
#[test]
fn bytes_and_segments_are_exact() -> Result<()> {
    if !root("bytes") {
        return Ok(());
    }
    let link = Link::new()?;
    let mut server = Traffic::new("srv", &link.b.ns)?;
    let mut client = Traffic::new("cli", &link.a.ns)?;
    let at = server.serve(&link.b.at(0), "echo")?;
    let agent = Agent::start()?;
    let before = (link.a.ns.counters()?, link.b.ns.counters()?);
    for _ in 0..20 {
        let connection = client.connect(&at)?;
        client.ping(connection, 50, 1000)?;
        client.close(connection)?;
    }
    let truth = 20 * 50 * 1000;
    // All segments of these namespaces are of these connections.
    agent.settles(|s| {
        let now = (link.a.ns.counters()?, link.b.ns.counters()?);
        for (name, before, now) in [
            (client.name(), &before.0, &now.0),
            (server.name(), &before.1, &now.1),
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
        for name in [client.name(), server.name()] {
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

/// Cause: SYNs vanish. Seen: a failed connection with its error; each SYN sent again, as many as the kernel counts.
#[test]
fn a_connect_that_times_out() -> Result<()> {
    if !root("timed out") {
        return Ok(());
    }
    let link = Link::new()?;
    link.a.ns.sysctl("net.ipv4.tcp_syn_retries", "1")?;
    // tcp_syn_linear_timeouts would add four more.
    let _ = link.a.ns.sysctl("net.ipv4.tcp_syn_linear_timeouts", "0");
    link.b
        .ns
        .nft("table inet hole { chain in { type filter hook input priority 0; tcp dport 7777 drop; }; }")?;
    let mut client = Traffic::new("cli", &link.a.ns)?;
    let agent = Agent::start()?;
    let before = link.a.ns.counters()?;
    equal(
        "error",
        client.connect_fails(&link.b.at(7777))?.as_str(),
        "timed_out",
    )?;
    agent.settles(|s| {
        let truth = link.a.ns.counters()?.since(&before, "Tcp.RetransSegs");
        ensure!(truth > 0, "the kernel sent no SYN again");
        let timed_out = [
            ("subject", client.name()),
            ("role", "client"),
            ("outcome", "failed"),
            ("error", "timed_out"),
        ];
        equal(
            "timed out",
            s.sum("geophone_tcp_connections_total", &timed_out),
            1,
        )?;
        let own = [("subject", client.name())];
        equal(
            "retransmits",
            s.sum("geophone_tcp_retransmits_total", &own),
            truth,
        )?;
        let timeout = [("subject", client.name()), ("type", "timeout")];
        equal(
            "retransmits after a timeout",
            s.sum("geophone_tcp_retransmits_total", &timeout),
            truth,
        )
    })
}

/// Cause: the application closes with SO_LINGER 0. Seen: a reset sent, one received, and a close with that error.
#[test]
fn a_reset_connection() -> Result<()> {
    if !root("reset") {
        return Ok(());
    }
    let link = Link::new()?;
    let mut server = Traffic::new("srv", &link.b.ns)?;
    let mut client = Traffic::new("cli", &link.a.ns)?;
    let at = server.serve(&link.b.at(0), "echo")?;
    let agent = Agent::start()?;
    let before = (link.a.ns.counters()?, link.b.ns.counters()?);
    for _ in 0..7 {
        let connection = client.connect(&at)?;
        client.ping(connection, 3, 100)?;
        client.reset(connection)?;
    }
    agent.settles(|s| {
        let (a, b) = (link.a.ns.counters()?, link.b.ns.counters()?);
        equal("the kernel's OutRsts", a.since(&before.0, "Tcp.OutRsts"), 7)?;
        equal(
            "the kernel's EstabResets",
            b.since(&before.1, "Tcp.EstabResets"),
            7,
        )?;
        let of = |name: &str, direction: &str| {
            s.sum(
                "geophone_tcp_resets_total",
                &[("subject", name), ("direction", direction)],
            )
        };
        equal("resets sent", of(client.name(), "transmit"), 7)?;
        equal("resets received", of(server.name(), "receive"), 7)?;
        let closed = [
            ("subject", server.name()),
            ("role", "server"),
            ("outcome", "closed"),
            ("error", "reset"),
        ];
        equal(
            "closed by reset",
            s.sum("geophone_tcp_connections_total", &closed),
            7,
        )
    })
}

/// Cause: many short connections. Seen: each opened and closed once on either side, none live at the end.
#[test]
fn what_is_opened_is_closed() -> Result<()> {
    if !root("opened and closed") {
        return Ok(());
    }
    const COUNT: u64 = 3000;
    let link = Link::new()?;
    let mut server = Traffic::new("srv", &link.b.ns)?;
    let mut client = Traffic::new("cli", &link.a.ns)?;
    let at = server.serve(&link.b.at(0), "sink")?;
    let agent = Agent::start()?;
    let done = client.storm(&[at], COUNT, 4, 100)?;
    equal("connections made", (done.ok, done.failed), (COUNT, 0))?;
    agent.settles(|s| {
        let of = |name: &str, outcome: &str| {
            s.sum(
                "geophone_tcp_connections_total",
                &[("subject", name), ("outcome", outcome)],
            )
        };
        for name in [client.name(), server.name()] {
            equal("opened", of(name, "opened"), COUNT)?;
            equal("closed", of(name, "closed"), COUNT)?;
            equal("failed", of(name, "failed"), 0)?;
            equal("live", s.sum("geophone_tcp_connections", &[("subject", name)]), 0)?;
        }
        equal(
            "connect samples",
            s.sum("geophone_tcp_connect_seconds", &[("subject", client.name())]),
            COUNT,
        )?;
        s.lawful()
    })
}

/// Cause: connections that stay open. Seen: the gauge, until they go.
#[test]
fn live_connections_are_counted_while_they_live() -> Result<()> {
    if !root("live") {
        return Ok(());
    }
    let link = Link::new()?;
    let mut server = Traffic::new("srv", &link.b.ns)?;
    let mut client = Traffic::new("cli", &link.a.ns)?;
    let at = server.serve(&link.b.at(0), "echo")?;
    let agent = Agent::start()?;
    let open = (0..25).map(|_| client.connect(&at)).collect::<Result<Vec<_>>>()?;
    let name = client.name().to_owned();
    let own = [("subject", name.as_str())];
    let live = |n: u64| agent.settles(|s| equal("live", s.sum("geophone_tcp_connections", &own), n));
    live(25)?;
    for &connection in open.iter().take(10) {
        client.close(connection)?;
    }
    live(15)?;
    drop(client);
    agent.settles(|s| {
        let server = [("subject", server.name())];
        equal(
            "live at the server",
            s.sum("geophone_tcp_connections", &server),
            0,
        )
    })
}

/// Cause: an application is slow to accept. Seen: the accept latency.
#[test]
fn accept_latency() -> Result<()> {
    if !root("accept latency") {
        return Ok(());
    }
    let link = Link::new()?;
    let mut server = Traffic::new("srv", &link.b.ns)?;
    let mut client = Traffic::new("cli", &link.a.ns)?;
    let at = server.serve(&link.b.at(0), "sink")?;
    let agent = Agent::start()?;
    if !agent.attached("tcp_accept")? {
        eprintln!("SKIPPED accept latency: this kernel cannot trace functions");
        return Ok(());
    }
    let done = client.storm(&[at], 50, 1, 100)?;
    equal("connections made", (done.ok, done.failed), (50, 0))?;
    agent.settles(|s| {
        equal(
            "accepts",
            s.sum("geophone_tcp_accept_seconds", &[("subject", server.name())]),
            50,
        )
    })
}

/// Cause: a connection that is older than the agent. Seen: what it carries from then on, to the byte, and no more.
#[test]
fn a_connection_older_than_the_agent() -> Result<()> {
    if !root("older") {
        return Ok(());
    }
    let link = Link::new()?;
    let mut server = Traffic::new("srv", &link.b.ns)?;
    let mut client = Traffic::new("cli", &link.a.ns)?;
    let at = server.serve(&link.b.at(0), "echo")?;
    let connection = client.connect(&at)?;
    client.ping(connection, 100, 1000)?;
    let agent = Agent::start()?;
    agent.after(2)?;
    client.ping(connection, 37, 1000)?;
    agent.settles(|s| {
        for name in [client.name(), server.name()] {
            for direction in ["receive", "transmit"] {
                let what = [("subject", name), ("direction", direction)];
                equal(direction, s.sum("geophone_tcp_bytes_total", &what), 37_000)?;
            }
            let adopted = [("subject", name), ("role", "unknown"), ("outcome", "adopted")];
            equal("adopted", s.sum("geophone_tcp_connections_total", &adopted), 1)?;
            equal("live", s.sum("geophone_tcp_connections", &[("subject", name)]), 1)?;
            ensure!(
                s.sum("geophone_tcp_rtt_seconds", &[("subject", name)]) > 0,
                "{name} has no RTT"
            );
        }
        Ok(())
    })?;
    let flows = agent.flows("4s", || client.close(connection))?;
    let own: Vec<_> = flows
        .iter()
        .filter(|f| f["subject"] == client.name() && f["event"] == "closed")
        .collect();
    equal("closed flows", own.len(), 1)?;
    for flow in own {
        equal("role", flow["role"].as_str(), Some("unknown"))?;
        equal("process", flow["process"].as_str(), Some(client.name()))?;
        equal("pid", flow["pid"].as_u64(), Some(client.pid().into()))?;
        equal("duration", flow["duration"].is_null(), true)?;
        equal(
            "bytes in the whole life",
            flow["bytes_sent"].as_u64(),
            Some(137_000),
        )?;
    }
    agent.settles(|s| {
        let closed = [
            ("subject", client.name()),
            ("role", "unknown"),
            ("outcome", "closed"),
        ];
        equal("closed", s.sum("geophone_tcp_connections_total", &closed), 1)?;
        let live = [("subject", client.name())];
        equal("live", s.sum("geophone_tcp_connections", &live), 0)
    })
}

/// Cause: connections over IPv4, IPv6 and IPv4 on IPv6 sockets. Seen: the configured peers, with region and zone.
#[test]
fn addresses_of_all_kinds_find_their_peers() -> Result<()> {
    if !root("peers") {
        return Ok(());
    }
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
    for (peer, tag, to) in cases {
        let mut client = Traffic::new(tag, &a.ns)?;
        let connection = client.connect(&to)?;
        client.ping(connection, 10, 100)?;
        client.close(connection)?;
        let number = if peer == "four" {
            ("r4", "z4")
        } else {
            ("r6", "z6")
        };
        agent
            .settles(|s| {
                let own = [("subject", client.name())];
                for series in s.series("geophone_tcp_bytes_total", &own) {
                    equal("peer", series.label("peer"), peer)?;
                    equal("region", series.label("peer_region"), number.0)?;
                    equal("zone", series.label("peer_zone"), number.1)?;
                }
                let sent = [own[0], ("direction", "transmit")];
                equal("bytes", s.sum("geophone_tcp_bytes_total", &sent), 1000)
            })
            .with_context(|| format!("{tag} to {to}"))?;
    }
    agent.settles(|s| {
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
    if !root("zero window") {
        return Ok(());
    }
    let link = Link::new()?;
    let mut server = Traffic::new("srv", &link.b.ns)?;
    let mut client = Traffic::new("cli", &link.a.ns)?;
    let at = server.listen(&link.b.at(0), 5)?;
    let agent = Agent::start()?;
    let connection = client.connect(&at)?;
    // Nobody reads: this blocks, and is still at it when the test ends.
    client.give(&json!({ "do": "send", "id": connection, "bytes": 64 << 20 }))?;
    agent.until(|s| {
        let client = [("subject", client.name()), ("direction", "receive")];
        ensure!(
            s.sum("geophone_tcp_zero_windows_total", &client) >= 1,
            "the client has not seen the window close"
        );
        let server = [("subject", server.name()), ("direction", "transmit")];
        ensure!(
            s.sum("geophone_tcp_zero_windows_total", &server) >= 1,
            "the server has not closed its window"
        );
        Ok(())
    })
}
