//! Nothing is lost unsaid: the law of conservation, the rows that take what finds no room, coverage, and drops of the whole
//! machine.

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::json;
use std::time::{Duration, Instant};
use tests::harness::traffic::{outcome, storm};
use tests::harness::{Agent, Scene, Setup, Snapshot, Traffic, equal, near};
use tests::need_root;

const DROPPED: &str = "geophone_drops_packets_total";

/// A configuration in which each address is a peer, and the table has rows for so many pairs.
fn each_a_peer(to: &[String], pairs: u32) -> String {
    // Else the number of series would be the limit.
    let mut config = format!("limits: {{pairs: {pairs}, series: 100000}}\npeers:\n");
    for (i, to) in to.iter().enumerate() {
        let address = to.split(':').next().unwrap_or_default();
        config.push_str(&format!("- {{name: p{i}, cidrs: [{address}/32]}}\n"));
    }
    config
}

/// What an agent says of the connections that clients have opened: in rows of this subject's own, how many rows, and
/// in the series of what found no room, of which there must be one. That one has no subject: what other processes of
/// this machine put there cannot be told apart.
fn opened(s: &Snapshot, subject: &str) -> Result<(u64, usize, u64)> {
    let client = [("role", "client"), ("outcome", "opened")];
    let all = s.series("geophone_tcp_connections_total", &client);
    let rows = all.iter().filter(|s| s.label("subject") == subject);
    let own: Vec<u64> = rows.filter_map(|s| s.value.as_u64()).collect();
    let other: Vec<u64> = all
        .iter()
        .filter(|s| s.overflow)
        .filter_map(|s| s.value.as_u64())
        .collect();
    ensure!(other.len() == 1, "{} series of what found no room", other.len());
    Ok((own.iter().sum(), own.len(), other.iter().sum()))
}

/// Checks the law at each scrape until the traffic process has done what it was told.
fn lawful_until_done(agent: &Agent, client: &mut Traffic, order: &serde_json::Value) -> Result<u64> {
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
    need_root!();
    const COUNT: u64 = 60_000;
    let mut scene = Scene::alone("sink")?;
    let to = scene.spread(40);
    let agent = Setup::new()
        .set("limits.ring_bytes", "64KiB")
        .set("probes.tcp.flows_always", "true")
        .start()?;
    let order = storm(&to, COUNT, 4, 10);
    scene.client.give(&order)?;
    agent.signal(Signal::SIGSTOP)?;
    // 64 KiB hold some three hundred records: at any speed they are full many times over.
    std::thread::sleep(Duration::from_secs(3));
    agent.signal(Signal::SIGCONT)?;
    let made = lawful_until_done(&agent, &mut scene.client, &order)?;
    equal("connections made", made, COUNT)?;
    agent.settles(|s| {
        for name in [scene.client.name(), scene.server.name()] {
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

/// Cause: 50,000 connections of 3,000 pairs, and a table of 1,024. Seen: series + other = the kernel's own count; the law
/// holds all the time.
#[test]
fn a_table_that_overflows() -> Result<()> {
    need_root!();
    const COUNT: u64 = 50_000;
    const PAIRS: u32 = 1024;
    let mut scene = Scene::alone("sink")?;
    let to = scene.spread(3000);
    let agent = Setup::new().config(each_a_peer(&to, PAIRS)).start()?;
    let before = scene.net.counters()?;
    let order = storm(&to, COUNT, 4, 10);
    scene.client.give(&order)?;
    let made = lawful_until_done(&agent, &mut scene.client, &order)?;
    equal("connections made", made, COUNT)?;
    agent.settles(|s| {
        let truth = scene.net.counters()?.since(&before, "Tcp.ActiveOpens");
        equal("the kernel's ActiveOpens", truth, COUNT)?;
        let (own, rows, other) = opened(s, scene.client.name())?;
        println!("{own} in {rows} series, {other} in `other`");
        // The rest of the rows belongs to the server, to the agent's client, and to whoever else is at work here.
        ensure!(
            (PAIRS as usize - 50..PAIRS as usize).contains(&rows),
            "{rows} series of {PAIRS} pairs"
        );
        ensure!(other > COUNT / 2, "other has only {other}");
        ensure!(
            (COUNT..COUNT + COUNT / 500).contains(&(own + other)),
            "series {own} + other {other} = {}, the truth is {COUNT}",
            own + other
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

/// As above with the smallest table that there is, and nobody who asks in the meantime.
#[test]
fn the_smallest_table_loses_nothing() -> Result<()> {
    need_root!();
    const COUNT: u64 = 20_000;
    let mut scene = Scene::alone("sink")?;
    let to = scene.spread(200);
    let agent = Setup::new().config(each_a_peer(&to, 64)).start()?;
    let before = scene.net.counters()?;
    let done = scene.client.storm(&to, COUNT, 4, 10)?;
    equal("connections made", (done.ok, done.failed), (COUNT, 0))?;
    agent.settles(|s| {
        let truth = scene.net.counters()?.since(&before, "Tcp.ActiveOpens");
        equal("the kernel's ActiveOpens", truth, COUNT)?;
        let (own, rows, other) = opened(s, scene.client.name())?;
        ensure!(0 < rows && rows < 64, "{rows} series of 64 pairs");
        ensure!(
            (COUNT..COUNT + COUNT / 200).contains(&(own + other)),
            "own {own} + other {other} for {COUNT}"
        );
        // 0.7 µs for each of both ends.
        let storage = s.number("geophone_tcp_storage_seconds_total", &[])?;
        near("storage", storage, 2.0 * COUNT as f64 * 0.7e-6, 0.05)?;
        s.lawful()
    })
}

/// Cause: some megabytes and two thousand connections in the agent's own namespace. Seen: what it counts and what the
/// kernel counts are the same within 1 %.
#[test]
fn coverage_is_complete() -> Result<()> {
    need_root!();
    let mut scene = Scene::alone("sink")?;
    let to = scene.spread(4);
    let agent = Setup::new().inside(&scene.net).start()?;
    agent.after(1)?;
    let done = scene.client.storm(&to, 2000, 2, 3000)?;
    equal("connections made", (done.ok, done.failed), (2000, 0))?;
    for _ in 0..300 {
        scene.client.connect_fails("127.0.0.1:9")?;
    }
    let first = to.first().context("no server")?;
    for _ in 0..50 {
        let connection = scene.client.connect(first)?;
        scene.client.send(connection, 100_000)?;
        scene.client.reset(connection)?;
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

/// Cause: a connection that is never silent. Seen: coverage of the moment of each sweep, not of one a second later.
#[test]
fn coverage_holds_while_traffic_flows() -> Result<()> {
    need_root!();
    let mut scene = Scene::alone("echo")?;
    let agent = Setup::new()
        .inside(&scene.net)
        .set("probes.tcp.sweep_interval", "2s")
        .start()?;
    let connection = scene.connect()?;
    let order = json!({ "do": "ping", "id": connection, "rounds": 100_000_000_u64, "size": 100 });
    scene.client.give(&order)?;
    let ratio = |s: &Snapshot| s.number("geophone_coverage_ratio", &[("metric", "tcp_segments_transmit")]);
    agent.until(|s| ratio(s).map(drop))?;
    for _ in 0..6 {
        let s = agent.after(1)?;
        near("tcp_segments_transmit", ratio(&s)?, 1.0, 0.01)?;
    }
    Ok(())
}

/// Cause: loss in the agent's own namespace. Seen: retransmits are covered as well.
#[test]
fn coverage_of_retransmits() -> Result<()> {
    need_root!();
    let mut scene = Scene::alone("sink")?;
    scene.net.nft(
        "table inet loss { chain in { type filter hook input priority 0; \
         tcp dport 7100 numgen random mod 100 < 3 counter drop; }; }",
    )?;
    scene.net.run("ethtool -K lo gso off tso off gro off")?;
    scene.at = scene.server.serve("127.0.0.1:7100", "sink")?;
    let agent = Setup::new().inside(&scene.net).start()?;
    scene.deliver(30 << 20)?;
    agent.settles(|s| {
        for metric in ["tcp_retransmits", "tcp_segments_transmit"] {
            let ratio = s.number("geophone_coverage_ratio", &[("metric", metric)])?;
            near(metric, ratio, 1.0, 0.01)?;
        }
        Ok(())
    })
}

/// Cause: a receive queue that nobody empties. Seen: SOCKET_RCVBUFF, and the queue's owner, as many as RcvbufErrors.
#[test]
fn a_full_udp_queue() -> Result<()> {
    need_root!();
    let mut scene = Scene::new()?;
    let at = scene.server.udp_bind(&scene.net.b.at(0), 4096)?;
    let agent = Agent::start()?;
    let before = scene.net.b.ns.counters()?;
    let failures = agent
        .snapshot()?
        .sum("geophone_drops_udp_queue_failures_total", &[]);
    scene.client.udp(&at, 1000, 200)?;
    agent.settles(|s| {
        let truth = scene.net.b.ns.counters()?.since(&before, "Udp.RcvbufErrors");
        ensure!(truth > 500, "the queue took all but {truth}");
        let own = [
            ("reason", "SOCKET_RCVBUFF"),
            ("device", scene.net.b.device.as_str()),
        ];
        equal("SOCKET_RCVBUFF", s.sum(DROPPED, &own), truth)?;
        // Others on this machine may have full queues, too, but hardly now.
        let seen = s.sum("geophone_drops_udp_queue_failures_total", &[]) - failures;
        equal("queue failures", seen, truth)
    })
}

/// Cause: the agent starts, then another one. Seen: neither by itself nor by the other.
#[test]
fn the_agent_makes_no_drops_itself() -> Result<()> {
    need_root!();
    let agent = Agent::start()?;
    let other = Agent::start()?;
    other.after(1)?;
    let s = agent.after(2)?;
    // Measuring the cost of a program with BPF_PROG_TEST_RUN frees packets that never were.
    let odd: Vec<_> = s
        .series(DROPPED, &[("device", "lo")])
        .into_iter()
        .filter(|d| d.label("protocol").starts_with("ethertype_"))
        .collect();
    ensure!(odd.is_empty(), "packets that nobody sent: {odd:?}");
    Ok(())
}
