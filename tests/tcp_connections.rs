//! Probe `tcp`: connections that come about, do not, and end.

use anyhow::{Result, ensure};
use tests::harness::{Agent, Scene, equal};
use tests::need_root;

/// Cause: nobody listens. Seen: a failed connection with its error; the RST on both sides.
#[test]
fn a_refused_connect() -> Result<()> {
    need_root!();
    let mut scene = Scene::new()?;
    let agent = Agent::start()?;
    for _ in 0..5 {
        equal(
            "error",
            scene.client.connect_fails(&scene.net.b.at(9))?.as_str(),
            "refused",
        )?;
    }
    agent.settles(|s| {
        let failed = [
            ("subject", scene.client.name()),
            ("role", "client"),
            ("outcome", "failed"),
        ];
        equal("failed", s.sum("geophone_tcp_connections_total", &failed), 5)?;
        let refused = [failed[0], failed[1], failed[2], ("error", "refused")];
        equal("refused", s.sum("geophone_tcp_connections_total", &refused), 5)?;
        let received = [("subject", scene.client.name()), ("direction", "receive")];
        equal("resets", s.sum("geophone_tcp_resets_total", &received), 5)?;
        equal(
            "opened",
            s.sum(
                "geophone_tcp_connections_total",
                &[("subject", scene.client.name()), ("outcome", "opened")],
            ),
            0,
        )
    })
}

/// Cause: SYNs vanish. Seen: a failed connection with its error; each SYN sent again, as many as the kernel counts.
#[test]
fn a_connect_that_times_out() -> Result<()> {
    need_root!();
    let mut scene = Scene::new()?;
    scene.net.a.ns.sysctl("net.ipv4.tcp_syn_retries", "1")?;
    // tcp_syn_linear_timeouts would add four more.
    let _ = scene.net.a.ns.sysctl("net.ipv4.tcp_syn_linear_timeouts", "0");
    scene
        .net
        .b
        .ns
        .nft("table inet hole { chain in { type filter hook input priority 0; tcp dport 7777 drop; }; }")?;
    let agent = Agent::start()?;
    let before = scene.net.a.ns.counters()?;
    equal(
        "error",
        scene.client.connect_fails(&scene.net.b.at(7777))?.as_str(),
        "timed_out",
    )?;
    agent.settles(|s| {
        let truth = scene.net.a.ns.counters()?.since(&before, "Tcp.RetransSegs");
        ensure!(truth > 0, "the kernel sent no SYN again");
        let timed_out = [
            ("subject", scene.client.name()),
            ("role", "client"),
            ("outcome", "failed"),
            ("error", "timed_out"),
        ];
        equal(
            "timed out",
            s.sum("geophone_tcp_connections_total", &timed_out),
            1,
        )?;
        let own = [("subject", scene.client.name())];
        equal(
            "retransmits",
            s.sum("geophone_tcp_retransmits_total", &own),
            truth,
        )?;
        let timeout = [("subject", scene.client.name()), ("type", "timeout")];
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
    need_root!();
    let mut scene = Scene::echo()?;
    let agent = Agent::start()?;
    let before = (scene.net.a.ns.counters()?, scene.net.b.ns.counters()?);
    for _ in 0..7 {
        let connection = scene.connect()?;
        scene.client.ping(connection, 3, 100)?;
        scene.client.reset(connection)?;
    }
    agent.settles(|s| {
        let (a, b) = (scene.net.a.ns.counters()?, scene.net.b.ns.counters()?);
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
        equal("resets sent", of(scene.client.name(), "transmit"), 7)?;
        equal("resets received", of(scene.server.name(), "receive"), 7)?;
        let closed = [
            ("subject", scene.server.name()),
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
    need_root!();
    const COUNT: u64 = 3000;
    let mut scene = Scene::sink()?;
    let agent = Agent::start()?;
    scene.storm(COUNT, 4, 100)?;
    agent.settles(|s| {
        let of = |name: &str, outcome: &str| {
            s.sum(
                "geophone_tcp_connections_total",
                &[("subject", name), ("outcome", outcome)],
            )
        };
        for name in [scene.client.name(), scene.server.name()] {
            equal("opened", of(name, "opened"), COUNT)?;
            equal("closed", of(name, "closed"), COUNT)?;
            equal("failed", of(name, "failed"), 0)?;
            equal("live", s.sum("geophone_tcp_connections", &[("subject", name)]), 0)?;
        }
        equal(
            "connect samples",
            s.sum(
                "geophone_tcp_connect_seconds",
                &[("subject", scene.client.name())],
            ),
            COUNT,
        )?;
        s.lawful()
    })
}

/// Cause: connections that stay open. Seen: the gauge, until they go.
#[test]
fn live_connections_are_counted_while_they_live() -> Result<()> {
    need_root!();
    let mut scene = Scene::echo()?;
    let agent = Agent::start()?;
    let open = (0..25).map(|_| scene.connect()).collect::<Result<Vec<_>>>()?;
    let name = scene.client.name().to_owned();
    let own = [("subject", name.as_str())];
    let live = |n: u64| agent.settles(|s| equal("live", s.sum("geophone_tcp_connections", &own), n));
    live(25)?;
    for &connection in open.iter().take(10) {
        scene.client.close(connection)?;
    }
    live(15)?;
    drop(scene.client);
    agent.settles(|s| {
        let server = [("subject", scene.server.name())];
        equal(
            "live at the server",
            s.sum("geophone_tcp_connections", &server),
            0,
        )
    })
}

/// Cause: a connection that is older than the agent. Seen: what it carries from then on, to the byte, and no more.
#[test]
fn a_connection_older_than_the_agent() -> Result<()> {
    need_root!();
    let mut scene = Scene::echo()?;
    let connection = scene.connect()?;
    scene.client.ping(connection, 100, 1000)?;
    let agent = Agent::start()?;
    agent.after(2)?;
    scene.client.ping(connection, 37, 1000)?;
    agent.settles(|s| {
        for name in [scene.client.name(), scene.server.name()] {
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
    let flows = agent.flows("4s", || scene.client.close(connection))?;
    let own: Vec<_> = flows
        .iter()
        .filter(|f| f["subject"] == scene.client.name() && f["event"] == "closed")
        .collect();
    equal("closed flows", own.len(), 1)?;
    for flow in own {
        equal("role", flow["role"].as_str(), Some("unknown"))?;
        equal("process", flow["process"].as_str(), Some(scene.client.name()))?;
        equal("pid", flow["pid"].as_u64(), Some(scene.client.pid().into()))?;
        equal("duration", flow["duration"].is_null(), true)?;
        equal(
            "bytes in the whole life",
            flow["bytes_sent"].as_u64(),
            Some(137_000),
        )?;
    }
    agent.settles(|s| {
        let closed = [
            ("subject", scene.client.name()),
            ("role", "unknown"),
            ("outcome", "closed"),
        ];
        equal("closed", s.sum("geophone_tcp_connections_total", &closed), 1)?;
        let live = [("subject", scene.client.name())];
        equal("live", s.sum("geophone_tcp_connections", &live), 0)
    })
}
