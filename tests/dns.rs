//! Probe `dns`.

use anyhow::{Context as _, Result, bail, ensure};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};
use tests::harness::delay::Delay;
use tests::harness::{Agent, Link, Netns, Scene, Setup, equal};
use tests::need_root;

const LOOKUP: &str = "geophone_dns_lookup_seconds";
const QUERIES: &str = "geophone_dns_queries_total";
const TIMEOUTS: &str = "geophone_dns_timeouts_total";
const TRUNCATED: &str = "geophone_dns_truncated_total";
const REPEATED: &str = "geophone_dns_repeated_queries_total";

/// A dnsmasq that goes with its owner. It knows `ok.test`, `big.test` (too big for a datagram of 512 bytes), nothing else
/// below `test`, and refuses the rest.
struct Dnsmasq(Child);

impl Dnsmasq {
    fn start(link: &Link) -> Result<Self> {
        let big = vec!["x".repeat(240); 4].join(",");
        let child = link
            .b
            .ns
            .command("dnsmasq")
            .args(["--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv"])
            .args(["--no-hosts", "--pid-file=", "--user=root", "--local=/test/"])
            .args(["--address=/ok.test/10.9.8.7", "--bind-interfaces"])
            .arg(format!("--txt-record=big.test,{big}"))
            .arg(format!("--listen-address={},{}", link.b.v4, link.b.v6))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("dnsmasq")?;
        let made = Self(child);
        let start = Instant::now();
        while !dig(&link.a.ns, &link.b.v4.to_string(), "ok.test +tries=1 +time=1")?.contains("10.9.8.7") {
            if start.elapsed() > Duration::from_secs(20) {
                bail!("dnsmasq does not answer");
            }
        }
        Ok(made)
    }
}

impl Drop for Dnsmasq {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What dig prints, whatever it thinks of it.
fn dig(from: &Netns, server: &str, words: &str) -> Result<String> {
    let out = from
        .command("dig")
        .arg(format!("@{server}"))
        .args(words.split(' '))
        .output()?;
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

fn agent() -> Result<Agent> {
    Setup::new()
        .set("probes.dns.enabled", "true")
        .set("probes.dns.timeout", "2s")
        .start()
}

/// Cause: lookups that end in every way a server can end them, over both protocols and both families. Seen: each of them,
/// under its code.
#[test]
fn every_answer_is_counted_under_its_code() -> Result<()> {
    need_root!("dnsmasq", "dig");
    let link = Link::new()?;
    let _server = Dnsmasq::start(&link)?;
    let agent = agent()?;
    for server in [link.b.v4.to_string(), link.b.v6.to_string()] {
        for (words, count) in [
            ("ok.test", 7),
            ("nothing.test", 5),
            ("elsewhere.example", 3),
            ("ok.test +tcp", 4),
        ] {
            for _ in 0..count {
                dig(&link.a.ns, &server, &format!("{words} +tries=1 +time=5"))?;
            }
        }
    }
    agent.settles(|s| {
        for server in [link.b.v4.to_string(), link.b.v6.to_string()] {
            let to = ("server", server.as_str());
            for (rcode, truth) in [("NOERROR", 11), ("NXDOMAIN", 5), ("REFUSED", 3)] {
                equal(rcode, s.sum(LOOKUP, &[to, ("rcode", rcode)]), truth)?;
            }
            equal("answers", s.sum(LOOKUP, &[to]), 19)?;
            equal("udp", s.sum(QUERIES, &[to, ("protocol", "udp")]), 15)?;
            equal("tcp", s.sum(QUERIES, &[to, ("protocol", "tcp")]), 4)?;
            equal("timeouts", s.sum(TIMEOUTS, &[to]), 0)?;
            equal("whose", s.sum(QUERIES, &[to, ("subject", "dig")]), 19)?;
        }
        s.lawful()
    })
}

/// Cause: a wire of 20 ms each way. Seen: that answers take 40 ms.
#[test]
fn latency_is_that_of_the_wire() -> Result<()> {
    need_root!("dnsmasq", "dig");
    let (link, devices) = Link::through_middle()?;
    let delay = Delay::between(link.middle()?, &devices, Duration::from_millis(20))?;
    let _server = Dnsmasq::start(&link)?;
    let agent = agent()?;
    let server = link.b.v4.to_string();
    for _ in 0..10 {
        dig(&link.a.ns, &server, "ok.test +tries=1")?;
    }
    let seen = agent.settles(|s| {
        let seen = s.histogram(LOOKUP, &[("server", &server), ("rcode", "NOERROR")])?;
        equal("answers", seen.count, 10)?;
        Ok(seen)
    })?;
    ensure!(delay.frames() > 20, "the wire was not used");
    // The relay and the server take their time as well, on a machine that others use.
    ensure!((0.040..0.060).contains(&seen.p50), "{seen:?}");
    ensure!((0.400..0.700).contains(&seen.sum), "{seen:?}");
    Ok(())
}

/// Cause: a server that says nothing. Seen: a timeout for each query, one for those that are sent again from the same
/// socket under the same id, and no answer.
#[test]
fn silence_is_a_timeout() -> Result<()> {
    need_root!("dig");
    let mut scene = Scene::new()?;
    scene.server.udp_bind(&scene.net.b.at(53), 1 << 20)?;
    let server = scene.net.b.v4.to_string();
    let agent = agent()?;
    for _ in 0..3 {
        dig(&scene.net.a.ns, &server, "ok.test +tries=1 +time=1")?;
    }
    let mut query = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    query.extend(b"\x02ok\x04test\0\0\x01\0\x01");
    scene.net.a.ns.enter(|| {
        let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
        for _ in 0..4 {
            socket.send_to(&query, scene.net.b.at(53))?;
        }
        Ok(())
    })?;
    agent.settles(|s| {
        let to = [("server", server.as_str())];
        equal("queries", s.sum(QUERIES, &to), 7)?;
        equal("repeated", s.sum(REPEATED, &to), 3)?;
        equal("timeouts", s.sum(TIMEOUTS, &to), 4)?;
        equal("answers", s.sum(LOOKUP, &to), 0)
    })
}

/// Cause: an answer that does not fit. Seen: it was cut, and asked for again over TCP.
#[test]
fn a_truncated_answer_and_its_retry() -> Result<()> {
    need_root!("dnsmasq", "dig");
    let link = Link::new()?;
    let _server = Dnsmasq::start(&link)?;
    let agent = agent()?;
    let server = link.b.v4.to_string();
    for _ in 0..5 {
        let said = dig(&link.a.ns, &server, "big.test TXT +noedns +tries=1")?;
        ensure!(said.contains("retrying in TCP mode"), "{said}");
    }
    agent.settles(|s| {
        let to = ("server", server.as_str());
        equal("truncated", s.sum(TRUNCATED, &[to]), 5)?;
        equal("udp", s.sum(QUERIES, &[to, ("protocol", "udp")]), 5)?;
        equal("tcp", s.sum(QUERIES, &[to, ("protocol", "tcp")]), 5)?;
        equal("answers", s.sum(LOOKUP, &[to]), 10)
    })
}

/// Cause: an answer that nobody asked for, and one from whom nobody asked. Seen: neither.
#[test]
fn what_was_not_asked_for_is_no_answer() -> Result<()> {
    need_root!();
    let link = Link::new()?;
    let agent = agent()?;
    let mut query = vec![0x43, 0x21, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    query.extend(b"\x02ok\x04test\0\0\x01\0\x01");
    let mut answer = query.clone();
    answer[2] = 0x81;
    let client = link.a.ns.enter(|| Ok(std::net::UdpSocket::bind("0.0.0.0:0")?))?;
    let port = client.local_addr()?.port();
    client.send_to(&query, link.b.at(53))?;
    // From port 53, but another address; then the right address, but another id.
    link.b
        .ns
        .ip(&format!("addr add 10.255.255.1/32 dev {}", link.b.device))?;
    for (from, id) in [("10.255.255.1:53".to_owned(), 0x21), (link.b.at(53), 0x22)] {
        answer[1] = id;
        link.b.ns.enter(|| {
            let socket = std::net::UdpSocket::bind(&from)?;
            Ok(socket.send_to(&answer, link.a.at(port))?)
        })?;
    }
    let server = link.b.v4.to_string();
    agent.settles(|s| {
        let to = [("server", server.as_str())];
        equal("answers", s.sum(LOOKUP, &to), 0)?;
        equal("answers", s.sum(LOOKUP, &[("server", "10.255.255.1")]), 0)?;
        equal("timeouts", s.sum(TIMEOUTS, &to), 1)?;
        s.lawful()
    })
}
