//! Nothing is lost unsaid: the law of conservation, the rows that take what finds no room, and coverage.

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use std::time::{Duration, Instant};
use tests::harness::traffic::{outcome, storm};
use tests::harness::{Agent, Netns, Setup, Traffic, equal, near, root};

/// Addresses of the loopback of a namespace, each with the port of a server that listens at all of them.
fn spread(server: &mut Traffic, count: u32) -> Result<Vec<String>> {
    let at = server.serve("0.0.0.0:0", "sink")?;
    let port = at.rsplit(':').next().context("no port")?;
    Ok((0..count)
        .map(|i| format!("127.{}.{}.{}:{port}", 1 + i / 65_536, i / 256 % 256, i % 256))
        .collect())
}

/// Checks the law at each scrape until the traffic process has done what it was told.
fn lawful_until_done(agent: &Agent<'_>, client: &mut Traffic, order: &serde_json::Value) -> Result<u64> {
    let start = Instant::now();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| client.answer(order));
        let mut scrapes = 0u32;
        while !waiting.is_finished() {
            agent.snapshot()?.lawful()?;
            scrapes += 1;
            std::thread::sleep(Duration::from_millis(150));
        }
        let answer = waiting
            .join()
            .map_err(|panic| anyhow::anyhow!("a thread has panicked: {panic:?}"))??;
        let done = outcome(&answer)?;
        ensure!(done.failed == 0, "the generator could not do its work: {done:?}");
        println!(
            "{} connections in {:.1} s, {scrapes} scrapes",
            done.ok,
            start.elapsed().as_secs_f64()
        );
        Ok(done.ok)
    })
}

/// Cause: a ring of 64 KiB, a storm of connections each of which is told, and an agent that sleeps for three seconds in
/// the middle. Seen: what was lost and why; the counters, which do not pass through the ring, are exact.
#[test]
fn a_ring_that_overflows() -> Result<()> {
    if !root("overload") {
        return Ok(());
    }
    const COUNT: u64 = 60_000;
    let ns = Netns::new()?;
    let mut server = Traffic::new("srv", &ns)?;
    let mut client = Traffic::new("cli", &ns)?;
    let to = spread(&mut server, 40)?;
    let agent = Setup::new()
        .set("limits.ring_bytes", "64KiB")
        .set("probes.tcp.flows_always", "true")
        .start()?;
    let order = storm(&to, COUNT, 4, 10);
    client.give(&order)?;
    agent.signal(Signal::SIGSTOP)?;
    // 64 KiB hold some three hundred records: at any speed they are full many times over.
    std::thread::sleep(Duration::from_secs(3));
    agent.signal(Signal::SIGCONT)?;
    let made = lawful_until_done(&agent, &mut client, &order)?;
    equal("connections made", made, COUNT)?;
    agent.settles(|s| {
        for name in [client.name(), server.name()] {
            for what in ["opened", "closed"] {
                let labels = [("subject", name), ("outcome", what)];
                equal(what, s.sum("geophone_tcp_connections_total", &labels), COUNT)?;
            }
        }
        let full = [("probe", "tcp"), ("stage", "kernel"), ("reason", "ring_full")];
        let lost = s.sum("geophone_events_dropped_total", &full);
        ensure!(lost > 1000, "only {lost} records were lost");
        s.lawful()
    })
}

/// Cause: more pairs than the table has rows. Seen: series + other = all connections.
#[test]
fn a_table_that_overflows() -> Result<()> {
    if !root("overflow") {
        return Ok(());
    }
    const COUNT: u64 = 50_000;
    const PEERS: u32 = 1100;
    let ns = Netns::new()?;
    let mut server = Traffic::new("srv", &ns)?;
    let mut client = Traffic::new("cli", &ns)?;
    let to = spread(&mut server, PEERS)?;
    let mut config = String::from("limits: {pairs: 64}\npeers:\n");
    for (i, to) in to.iter().enumerate() {
        let address = to.split(':').next().unwrap_or_default();
        config.push_str(&format!("- {{name: p{i}, cidrs: [{address}/32]}}\n"));
    }
    let agent = Setup::new().config(config).start()?;
    let order = storm(&to, COUNT, 4, 10);
    client.give(&order)?;
    let made = lawful_until_done(&agent, &mut client, &order)?;
    equal("connections made", made, COUNT)?;
    agent.settles(|s| {
        // `other` has no subject: what other processes of this machine put there cannot be told apart, so all clients
        // are counted, and the few connections of others are allowed for.
        let client = [("role", "client"), ("outcome", "opened")];
        let all = s.series("geophone_tcp_connections_total", &client);
        let sum = |overflow: bool| -> u64 {
            all.iter()
                .filter(|s| s.overflow == overflow)
                .filter_map(|s| s.value.as_u64())
                .sum()
        };
        let (rows, other) = (sum(false), sum(true));
        ensure!(other > COUNT / 2, "other has only {other}");
        ensure!(rows > 0, "no peer has a row of its own");
        ensure!(
            all.iter().filter(|s| s.overflow).count() == 1,
            "more than one series of what found no room"
        );
        ensure!(
            (COUNT..COUNT + COUNT / 200).contains(&(rows + other)),
            "series {rows} + other {other} = {}, the truth is {COUNT}",
            rows + other
        );
        let overflowed = [("probe", "tcp"), ("stage", "overflowed")];
        ensure!(s.sum("geophone_events_total", &overflowed) > 0, "overflowed is 0");
        s.lawful()
    })?;
    let text = agent.metrics()?;
    ensure!(
        text.lines()
            .any(|l| l.starts_with("geophone_tcp_connections_total{")
                && l.contains("otel_metric_overflow=\"true\"")),
        "the overflow series is not marked in /metrics"
    );
    Ok(())
}

/// As above in a namespace where nobody else is: exact to the connection.
#[test]
fn a_table_that_overflows_loses_nothing() -> Result<()> {
    if !root("exact overflow") {
        return Ok(());
    }
    const COUNT: u64 = 20_000;
    let ns = Netns::new()?;
    let mut server = Traffic::new("srv", &ns)?;
    let mut client = Traffic::new("cli", &ns)?;
    let to = spread(&mut server, 200)?;
    let mut config = String::from("limits: {pairs: 64}\npeers:\n");
    for (i, to) in to.iter().enumerate() {
        let address = to.split(':').next().unwrap_or_default();
        config.push_str(&format!("- {{name: p{i}, cidrs: [{address}/32]}}\n"));
    }
    let agent = Setup::new().config(config).start()?;
    let before = ns.counters()?;
    let done = client.storm(&to, COUNT, 4, 10)?;
    equal("connections made", (done.ok, done.failed), (COUNT, 0))?;
    // The agent's coverage is of its own namespace, which is not this one; compare by hand with every connection whose
    // client is of this test or in `other`.
    agent.settles(|s| {
        let truth = ns.counters()?.since(&before, "Tcp.ActiveOpens");
        equal("the kernel's ActiveOpens", truth, COUNT)?;
        let what = [
            ("role", "client"),
            ("outcome", "opened"),
            ("subject", client.name()),
        ];
        let own = s.sum("geophone_tcp_connections_total", &what);
        let other: u64 = s
            .series("geophone_tcp_connections_total", &what[..2])
            .iter()
            .filter(|s| s.overflow)
            .filter_map(|s| s.value.as_u64())
            .sum();
        ensure!(
            own + other >= COUNT && own + other <= COUNT + COUNT / 200,
            "own {own} + other {other} for {COUNT}"
        );
        s.lawful()
    })
}

/// Cause: some megabytes and two thousand connections in the agent's own namespace. Seen: what it counts and what the
/// kernel counts are the same within 1 %.
#[test]
fn coverage_is_complete() -> Result<()> {
    if !root("coverage") {
        return Ok(());
    }
    let ns = Netns::new()?;
    let mut server = Traffic::new("srv", &ns)?;
    let mut client = Traffic::new("cli", &ns)?;
    let to = spread(&mut server, 4)?;
    let agent = Setup::new().inside(&ns).start()?;
    agent.after(1)?;
    let done = client.storm(&to, 2000, 2, 3000)?;
    equal("connections made", (done.ok, done.failed), (2000, 0))?;
    for _ in 0..300 {
        client.connect_fails("127.0.0.1:9")?;
    }
    let first = to.first().context("no server")?;
    for _ in 0..50 {
        let connection = client.connect(first)?;
        client.send(connection, 100_000)?;
        client.reset(connection)?;
    }
    agent.settles(|s| {
        for metric in [
            "tcp_segments_transmit",
            "tcp_active_opens",
            "tcp_passive_opens",
            "tcp_resets_transmit",
        ] {
            let ratio = s.number("geophone_coverage_ratio", &[("metric", metric)])?;
            near(metric, ratio, 1.0, 0.01)?;
        }
        Ok(())
    })
}

/// Cause: loss in the agent's own namespace. Seen: retransmits are covered as well.
#[test]
fn coverage_of_retransmits() -> Result<()> {
    if !root("coverage") {
        return Ok(());
    }
    let ns = Netns::new()?;
    ns.nft(
        "table inet loss { chain in { type filter hook input priority 0; \
         tcp dport 7100 numgen random mod 100 < 3 counter drop; }; }",
    )?;
    ns.run("ethtool -K lo gso off tso off gro off")?;
    let mut server = Traffic::new("srv", &ns)?;
    let mut client = Traffic::new("cli", &ns)?;
    let at = server.serve("127.0.0.1:7100", "sink")?;
    let agent = Setup::new().inside(&ns).start()?;
    let connection = client.connect(&at)?;
    client.send(connection, 30 << 20)?;
    client.close(connection)?;
    agent.settles(|s| {
        for metric in ["tcp_retransmits", "tcp_segments_transmit"] {
            let ratio = s.number("geophone_coverage_ratio", &[("metric", metric)])?;
            near(metric, ratio, 1.0, 0.01)?;
        }
        Ok(())
    })
}
