//! Probe `dns`.

use anyhow::{Context as _, Result, ensure};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::thread::JoinHandle;
use std::time::Duration;
use tests::harness::delay::Delay;
use tests::harness::dns::{Dnsmasq, broken, dig};
use tests::harness::snapshot::{Series, Snapshot};
use tests::harness::{Agent, Link, Scene, Setup, equal};
use tests::need_root;

const LOOKUP: &str = "geophone_dns_lookup_seconds";
const QUERIES: &str = "geophone_dns_queries_total";
const TIMEOUTS: &str = "geophone_dns_timeouts_total";
const TRUNCATED: &str = "geophone_dns_truncated_total";
const NAMES: &str = "geophone_dns_busiest_names";
const REPEATED: &str = "geophone_dns_repeated_queries_total";

/// A message that asks for the address of `ok.test`.
fn question(id: u16) -> Vec<u8> {
    let mut out = id.to_be_bytes().to_vec();
    out.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    out.extend(b"\x02ok\x04test\0\0\x01\0\x01");
    out
}

fn setup() -> Setup {
    Setup::new()
        .set("probes.dns.enabled", "true")
        .set("probes.dns.timeout", "2s")
}

fn agent() -> Result<Agent> {
    setup().start()
}

/// Cause: lookups that end in every way a server can end them, over both protocols and both families. Seen: each of them,
/// under its code.
#[test]
fn every_answer_is_counted_under_its_code() -> Result<()> {
    need_root!("dnsmasq", "dig");
    let link = Link::new()?;
    broken(&link)?;
    let _server = Dnsmasq::start(&link)?;
    let agent = agent()?;
    for server in [link.b.v4.to_string(), link.b.v6.to_string()] {
        for (words, count) in [
            ("broken.test", 6),
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
            for (rcode, truth) in [("NOERROR", 11), ("SERVFAIL", 6), ("NXDOMAIN", 5), ("REFUSED", 3)] {
                equal(rcode, s.sum(LOOKUP, &[to, ("rcode", rcode)]), truth)?;
            }
            equal("answers", s.sum(LOOKUP, &[to]), 25)?;
            equal("udp", s.sum(QUERIES, &[to, ("protocol", "udp")]), 21)?;
            equal("tcp", s.sum(QUERIES, &[to, ("protocol", "tcp")]), 4)?;
            equal("timeouts", s.sum(TIMEOUTS, &[to]), 0)?;
            equal("whose", s.sum(QUERIES, &[to, ("subject", "dig")]), 25)?;
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
    let query = question(0x1234);
    scene.net.a.ns.enter(|| {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
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
    let query = question(0x4321);
    let mut answer = query.clone();
    answer[2] = 0x81;
    let client = link.a.ns.enter(|| Ok(UdpSocket::bind("0.0.0.0:0")?))?;
    let port = client.local_addr()?.port();
    client.send_to(&query, link.b.at(53))?;
    // From port 53, but another address; then the right address, but another id.
    link.b
        .ns
        .ip(&format!("addr add 10.255.255.1/32 dev {}", link.b.device))?;
    for (from, id) in [("10.255.255.1:53".to_owned(), 0x21), (link.b.at(53), 0x22)] {
        answer[1] = id;
        link.b.ns.enter(|| {
            let socket = UdpSocket::bind(&from)?;
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

/// Cause: seven queries on one connection before any answer comes; the answers come 30 ms later and in the opposite order.
/// Seen: each query, and each answer with its time.
#[test]
fn pipelined_over_tcp() -> Result<()> {
    need_root!();
    const MESSAGES: u16 = 7;
    let link = Link::new()?;
    let agent = agent()?;
    let server = answering(&link, MESSAGES, |stream, answers| {
        std::thread::sleep(Duration::from_millis(30));
        answers.iter().rev().try_for_each(|message| send(stream, message))
    })?;
    let mut stream = link.a.ns.enter(|| Ok(TcpStream::connect(link.b.at(53))?))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    for id in 1..=MESSAGES {
        send(&mut stream, &question(id))?;
    }
    for id in (1..=MESSAGES).rev() {
        let message = framed(&mut stream)?;
        ensure!(message.starts_with(&id.to_be_bytes()), "not the answer to {id}");
    }
    drop(stream);
    server.join().ok().context("the server has panicked")??;
    let server = link.b.v4.to_string();
    agent.settles(|s| {
        let to = ("server", server.as_str());
        equal(
            "queries",
            s.sum(QUERIES, &[to, ("protocol", "tcp")]),
            MESSAGES.into(),
        )?;
        let seen = s.histogram(LOOKUP, &[to, ("rcode", "NOERROR")])?;
        equal("answers", seen.count, MESSAGES.into())?;
        equal("timeouts", s.sum(TIMEOUTS, &[to]), 0)?;
        ensure!(seen.p50 >= 0.029 && seen.p99 < 0.200, "{seen:?}");
        s.lawful()
    })
}

/// Cause: queries on one connection, cut as no client would cut them: byte by byte, the length alone, several in a
/// segment, and one whose end comes with the next one's beginning. Seen: each query and each answer of the real server.
#[test]
fn however_messages_are_cut_over_tcp() -> Result<()> {
    need_root!("dnsmasq", "dig");
    let link = Link::new()?;
    let _server = Dnsmasq::start(&link)?;
    let agent = setup().set("probes.dns.names", "3").start()?;
    for v4 in [true, false] {
        let to = if v4 {
            link.b.v4.to_string()
        } else {
            format!("[{}]", link.b.v6)
        };
        let mut stream = link.a.ns.enter(|| Ok(TcpStream::connect(format!("{to}:53"))?))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let message = |id: u16| with_length(&question(id));
        let mut parts: Vec<Vec<u8>> = message(1).chunks(1).map(<[u8]>::to_vec).collect();
        for cut in 2..=10 {
            let whole = message(cut as u16);
            let (a, b) = whole.split_at(cut);
            parts.extend([a.to_vec(), b.to_vec()]);
        }
        parts.push((11..=14).flat_map(message).collect());
        let two = [message(15), message(16)].concat();
        let (a, b) = two.split_at(two.len() - 20);
        parts.extend([a.to_vec(), b.to_vec()]);
        for part in parts {
            stream.write_all(&part)?;
            // A segment of its own, whatever the kernel would put together.
            std::thread::sleep(Duration::from_millis(2));
        }
        let mut ids: Vec<u16> = Vec::new();
        for _ in 1..=16 {
            let answer = framed(&mut stream)?;
            ids.push(u16::from_be_bytes([answer[0], answer[1]]));
        }
        ids.sort_unstable();
        equal("answers that have come", ids, (1..=16).collect::<Vec<u16>>())?;
    }
    agent.settles(|s| {
        for server in [link.b.v4.to_string(), link.b.v6.to_string()] {
            let to = ("server", server.as_str());
            equal("queries", s.sum(QUERIES, &[to, ("protocol", "tcp")]), 16)?;
            equal("answers", s.sum(LOOKUP, &[to, ("rcode", "NOERROR")]), 16)?;
            equal("timeouts", s.sum(TIMEOUTS, &[to]), 0)?;
        }
        equal("not followed", unfollowed(s), 0)?;
        s.lawful()
    })
}

/// Segments whose messages could not be followed.
fn unfollowed(s: &Snapshot) -> u64 {
    s.sum(
        "geophone_events_dropped_total",
        &[("probe", "dns"), ("reason", "unfollowed")],
    )
}

/// Cause: answers that the server cuts and puts together, in another order than they were asked for. Seen: each.
#[test]
fn however_answers_are_cut_over_tcp() -> Result<()> {
    need_root!();
    const MESSAGES: u16 = 40;
    let link = Link::new()?;
    let agent = agent()?;
    let server = answering(&link, MESSAGES, |stream, mut answers| {
        for (i, message) in answers.iter_mut().enumerate() {
            // Longer than a segment, now and then.
            message.resize(if i % 7 == 3 { 4000 } else { 30 + i }, 0);
        }
        let bytes: Vec<u8> = answers.iter().rev().flat_map(|m| with_length(m)).collect();
        for part in bytes.chunks(97) {
            stream.write_all(part)?;
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    })?;
    let mut stream = link.a.ns.enter(|| Ok(TcpStream::connect(link.b.at(53))?))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let all: Vec<u8> = (1..=MESSAGES).flat_map(|id| with_length(&question(id))).collect();
    stream.write_all(&all)?;
    for id in (1..=MESSAGES).rev() {
        let message = framed(&mut stream)?;
        ensure!(message.starts_with(&id.to_be_bytes()), "not the answer to {id}");
    }
    drop(stream);
    server.join().ok().context("the server has panicked")??;
    let server = link.b.v4.to_string();
    agent.settles(|s| {
        let to = ("server", server.as_str());
        equal("queries", s.sum(QUERIES, &[to]), MESSAGES.into())?;
        equal(
            "answers",
            s.sum(LOOKUP, &[to, ("rcode", "NOERROR")]),
            MESSAGES.into(),
        )?;
        equal("timeouts", s.sum(TIMEOUTS, &[to]), 0)?;
        equal("not followed", unfollowed(s), 0)?;
        s.lawful()
    })
}

/// Cause: a connection to port 53 that carries something else, and one with queries that began before the agent. Seen: the
/// first as what could not be followed; of the second what begins with a segment, and its answers.
#[test]
fn what_cannot_be_followed_over_tcp_is_counted() -> Result<()> {
    need_root!("dnsmasq", "dig");
    let link = Link::new()?;
    let _server = Dnsmasq::start(&link)?;
    let mut stream = link.a.ns.enter(|| Ok(TcpStream::connect(link.b.at(53))?))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    // Half a message.
    let old = with_length(&question(1));
    let (begin, end) = old.split_at(20);
    stream.write_all(begin)?;
    std::thread::sleep(Duration::from_millis(50));
    let agent = agent()?;
    stream.write_all(end)?;
    framed(&mut stream)?;
    for id in 2..=5 {
        send(&mut stream, &question(id))?;
        framed(&mut stream)?;
    }
    let mut other = link.a.ns.enter(|| Ok(TcpStream::connect(link.b.at(53))?))?;
    other.write_all(b"\0\x05hello, this is no question")?;
    let server = link.b.v4.to_string();
    agent.settles(|s| {
        let to = ("server", server.as_str());
        equal("queries", s.sum(QUERIES, &[to, ("protocol", "tcp")]), 4)?;
        equal("answers", s.sum(LOOKUP, &[to]), 4)?;
        equal("timeouts", s.sum(TIMEOUTS, &[to]), 0)?;
        // The rest of the old message, and what says hello.
        equal("not followed", unfollowed(s), 2)?;
        s.lawful()
    })
}

/// A message behind its length.
fn with_length(message: &[u8]) -> Vec<u8> {
    [&(message.len() as u16).to_be_bytes(), message].concat()
}

/// Cause: lookups at more servers than there is room for, each answered with what does not fit. Seen: all of them; what
/// found no room as `other`, each query and each answer once.
#[test]
fn what_finds_no_room_is_counted_once() -> Result<()> {
    need_root!();
    const SERVERS: u16 = 1100;
    let agent = setup().set("limits.series", "100000").start()?;
    let client = UdpSocket::bind("127.0.0.1:0")?;
    client.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut buffer = [0; 512];
    for id in 0..SERVERS {
        let [high, low] = id.to_be_bytes();
        let server = UdpSocket::bind((Ipv4Addr::new(127, 53, high, low), 53))?;
        server.set_read_timeout(Some(Duration::from_secs(10)))?;
        client.send_to(&question(id), server.local_addr()?)?;
        let (n, from) = server.recv_from(&mut buffer)?;
        // An answer, truncated.
        buffer[2] |= 0x82;
        server.send_to(&buffer[..n], from)?;
        client.recv_from(&mut buffer)?;
    }
    agent.settles(|s| {
        let sum = |name: &str, others: bool| {
            let series = s.series(name, &[]).into_iter();
            let count = |s: &Series| s.value["count"].as_u64().or(s.value.as_f64().map(|v| v as u64));
            series
                .filter(|s| s.overflow || !others)
                .filter_map(count)
                .sum::<u64>()
        };
        for (name, all) in [
            ("queries", QUERIES),
            ("answers", LOOKUP),
            ("truncated", TRUNCATED),
        ] {
            ensure!(sum(all, false) >= SERVERS.into(), "{name}: {}", sum(all, false));
            ensure!(sum(all, true) >= 70, "{name} of `other`: {}", sum(all, true));
        }
        let overflowed = s.sum(
            "geophone_events_total",
            &[("probe", "dns"), ("stage", "overflowed")],
        );
        equal("overflowed", overflowed, sum(QUERIES, true) + sum(LOOKUP, true))?;
        s.lawful()
    })
}

/// Sends a message behind its length, in one segment.
fn send(stream: &mut TcpStream, message: &[u8]) -> Result<()> {
    Ok(stream.write_all(&with_length(message))?)
}

/// Reads such a message.
fn framed(stream: &mut TcpStream) -> Result<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut message = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut message)?;
    Ok(message)
}

/// A server of one connection, which reads so many queries and then answers as it is told; `answer` gets them as answers, in
/// their order.
fn answering(
    link: &Link,
    queries: u16,
    answer: impl FnOnce(&mut TcpStream, Vec<Vec<u8>>) -> Result<()> + Send + 'static,
) -> Result<JoinHandle<Result<()>>> {
    let listener = link.b.ns.enter(|| Ok(TcpListener::bind(link.b.at(53))?))?;
    Ok(std::thread::spawn(move || {
        let (mut stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let mut read = || -> Result<Vec<u8>> {
            let mut message = framed(&mut stream)?;
            *message.get_mut(2).context("no flags")? |= 0x80;
            Ok(message)
        };
        let answers = (0..queries).map(|_| read()).collect::<Result<_>>()?;
        answer(&mut stream, answers)?;
        // Until the client has read it all.
        let _ = stream.read(&mut [0]);
        Ok(())
    }))
}

/// Cause: names asked for more and less often, with two agents, of which one was asked for the three busiest. Seen: these
/// three in their order, for the minute in which they were asked for; the other agent tells none.
#[test]
fn the_busiest_names_if_they_are_asked_for() -> Result<()> {
    need_root!("dnsmasq", "dig");
    let link = Link::new()?;
    let _server = Dnsmasq::start(&link)?;
    let agent = setup().set("probes.dns.names", "3").start()?;
    let silent = self::agent()?;
    let server = link.b.v4.to_string();
    for (name, count) in [("d.test", 1), ("b.test", 6), ("Ok.test", 9), ("c.test", 3)] {
        for _ in 0..count {
            dig(&link.a.ns, &server, &format!("{name} AAAA +tries=1 +time=5"))?;
        }
    }
    // Other tests of this machine may ask as well: not for these.
    let told = |s: &Snapshot| {
        let told = s.series(NAMES, &[("qtype", "AAAA")]);
        let line = |s: &&Series| format!("{} {}", s.label("name"), s.value);
        told.iter().map(line).collect::<Vec<_>>()
    };
    // A minute is counted to its end.
    while agent.snapshot()?.tick < 60 {
        std::thread::sleep(Duration::from_secs(1));
    }
    let busiest = ["ok.test 9.0", "b.test 6.0", "c.test 3.0"].map(str::to_owned);
    agent.until(|s| equal("names", told(s), busiest.to_vec()))?;
    silent.until(|s| {
        ensure!(s.tick > 60, "its minute is not over");
        equal("lookups", s.sum(LOOKUP, &[("server", &server)]), 19)?;
        equal("names", s.series(NAMES, &[]).len(), 0)
    })
}
