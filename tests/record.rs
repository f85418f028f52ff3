//! Recordings: what a replay says is what the agent said that was recorded.

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use tests::harness::agent::{Agent, PATIENCE, Scratch, Setup, binary, clean};
use tests::harness::cli::{geophone, one_line, says};
use tests::harness::command::said;
use tests::harness::stacks::{Busy, Folded, busy};
use tests::harness::tunnels::{ping, vxlan};
use tests::harness::{Link, Netns, Scene, Traffic, equal};
use tests::need_root;

/// Functions of `geophone-busy`.
const BUSY: [&str; 2] = ["main", "busy_seventy"];
/// Samples of connections that are forwarded.
const FORWARDED: [&str; 2] = ["geophone_path_forwarded_rtt_seconds_count{", "far"];
/// What the agent itself costs and covers: a replay costs something else, and says nothing of it.
const OWN: [&str; 6] = [
    "geophone_agent_",
    "geophone_program",
    "geophone_governor_",
    "geophone_coverage_",
    "geophone_map_",
    "geophone_identity_lost_",
];

/// A recorder that has attached its programs: its first tick is in the file.
fn start(file: &Path, live: &Path) -> Result<Child> {
    recorder(clean(binary()), file, live, &["probes.tunnel.enabled=false"])
}

/// The same by a command of its own, with further settings.
fn recorder(mut command: Command, file: &Path, live: &Path, settings: &[&str]) -> Result<Child> {
    command.arg("record").arg(file).arg("--exposition").arg(live);
    let always = [
        "probes.tcp.sweep_interval=1s",
        "budget.enabled=false",
        "probes.udp.enabled=true",
        "probes.dns.enabled=true",
        "probes.block.enabled=true",
        "probes.sched.enabled=true",
    ];
    for setting in always.iter().chain(settings) {
        command.args(["--set", setting]);
    }
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("set GEOPHONE_BIN")?;
    let begun = Instant::now();
    while replay(file, &["--ticks"]).is_err() {
        ensure!(begun.elapsed() < PATIENCE, "no tick was recorded");
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(child)
}

/// Ends it after so many seconds; what it said.
fn end(child: Child, seconds: u64) -> Result<Output> {
    std::thread::sleep(Duration::from_secs(seconds));
    kill(Pid::from_raw(i32::try_from(child.id())?), Signal::SIGTERM)?;
    let out = child.wait_with_output()?;
    ensure!(out.status.success(), "{}", said(&out));
    Ok(out)
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is no text")
}

fn replay(file: &Path, more: &[&str]) -> Result<(String, String)> {
    let out = geophone(&[&["replay", text(file)?], more].concat())?;
    ensure!(out.status.success(), "{}", said(&out));
    Ok((String::from_utf8(out.stdout)?, String::from_utf8(out.stderr)?))
}

fn samples(exposition: &str) -> BTreeSet<&str> {
    exposition.lines().filter(|l| !l.starts_with('#')).collect()
}

/// An error unless a replay says what the agent has said, sample by sample.
fn alike(live: &str, replayed: &str) -> Result<()> {
    let (said_then, says_now) = (samples(live), samples(replayed));
    let invented: Vec<_> = says_now.difference(&said_then).take(20).collect();
    ensure!(invented.is_empty(), "only in the replay: {invented:#?}");
    let is_own = |line: &&&str| OWN.iter().any(|own| line.contains(own));
    let missing = said_then.difference(&says_now).filter(|l| !is_own(l));
    let missing: Vec<_> = missing.take(20).collect();
    ensure!(missing.is_empty(), "only in the agent: {missing:#?}");
    Ok(())
}

/// The sum of a family's samples that have all these words.
fn sum(exposition: &str, words: &[&str]) -> f64 {
    let lines = exposition.lines().filter(|l| words.iter().all(|w| l.contains(w)));
    lines
        .filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}

/// Cause: connections, datagrams and drops while a recording is made. Seen: the last second of the replay is that of the
/// agent, sample by sample; a second replay says the same byte for byte; a store is filled with it.
#[test]
fn a_replay_says_what_the_agent_said() -> Result<()> {
    need_root!();
    let scratch = Scratch::new()?;
    let (file, live) = (scratch.path("recording"), scratch.path("live"));
    let mut scene = Scene::echo()?;
    scene.net.b.ns.nft(
        "table inet t { chain in { type filter hook input priority 0; udp dport 7000 counter drop; }; }",
    )?;
    let recorder = start(&file, &live)?;
    scene.exchange(30, 20, 500)?;
    scene.client.udp(&scene.net.b.at(7000), 300, 100)?;
    let name = scene.client.name().to_owned();
    let out = end(recorder, 4)?;
    says(&said(&out), &["ticks in"])?;

    let live = fs::read_to_string(&live)?;
    let subject = format!("subject=\"{name}\"");
    let opened = ["geophone_tcp_connections_total{", &subject, "outcome=\"opened\""];
    equal("connections recorded", sum(&live, &opened), 30.0)?;
    let dropped = [
        "geophone_drops_packets_total{",
        "NETFILTER_DROP",
        "direction=\"receive\"",
        &scene.net.b.device,
    ];
    equal("drops recorded", sum(&live, &dropped), 300.0)?;

    for probe in ["node_used{", "sched_cpu_seconds_total{", "netdev_", "block_"] {
        ensure!(
            live.contains(&format!("geophone_{probe}")),
            "the agent says nothing of {probe}"
        );
    }
    let (once, left_out) = replay(&file, &[])?;
    ensure!(left_out.is_empty(), "{left_out}");
    equal("connections replayed", sum(&once, &opened), 30.0)?;
    equal("drops replayed", sum(&once, &dropped), 300.0)?;
    alike(&live, &once)?;

    let (twice, _) = replay(&file, &[])?;
    ensure!(once == twice, "two replays differ");
    let (ticks, _) = replay(&file, &["--ticks"])?;
    ensure!(
        ticks == replay(&file, &["--ticks"])?.0,
        "two replays differ in a tick"
    );
    ensure!(
        (4..=40).contains(&ticks.lines().count()),
        "{} ticks",
        ticks.lines().count()
    );

    let store = scratch.path("store");
    replay(&file, &["--store", text(&store)?])?;
    let query =
        format!("sum(max_over_time(geophone_tcp_connections_total{{outcome=\"opened\",{subject}}}[1m]))");
    let asked = geophone(&["query", "--store", text(&store)?, &query])?;
    says(&said(&asked), &["30"])
}

/// The stacks that a recording has of a process, which the agent may still be writing.
fn stacks(file: &Path, scratch: &Scratch, name: &str) -> Result<Folded> {
    let profile = scratch.path("stacks.folded");
    replay(file, &["--profile", text(&profile)?])?;
    Ok(Folded::parse(&fs::read_to_string(profile)?)?.of(name))
}

/// A gateway: a client behind it, a peer before it, and a tunnel to that peer.
struct Gateway {
    link: Link,
    client: Netns,
}

impl Gateway {
    fn new() -> Result<Self> {
        let (link, client) = (Link::new()?, Netns::new()?);
        let (here, there) = (&link.a.ns, &link.b.ns);
        client.ip(&format!(
            "link add upward type veth peer name near netns {}",
            here.name()
        ))?;
        for (ns, device, last) in [(&client, "upward", 1), (here, "near", 2)] {
            ns.ip(&format!("addr add 10.203.1.{last}/24 dev {device}"))?;
            ns.ip(&format!("link set {device} up"))?;
        }
        here.sysctl("net.ipv4.ip_forward", "1")?;
        client.ip("route add default via 10.203.1.2")?;
        there.ip(&format!("route add 10.203.1.0/24 via {}", link.a.v4))?;
        Ok(Self { link, client })
    }

    /// What an agent on it is to look at.
    fn settings(&self) -> [String; 7] {
        let Self { link, .. } = self;
        [
            format!("peers=[{{name: far, region: away, cidrs: [{}/32]}}]", link.b.v4),
            "probes.path.active.peers=[far]".into(),
            "probes.path.active.interval=10s".into(),
            format!("probes.path.forwarded.devices=[near, {}]", link.a.device),
            "probes.profile.enabled=true".into(),
            "probes.profile.hz=199".into(),
            "store.kind=memory".into(),
        ]
    }
}

/// Cause: a gateway with a tunnel, whose peer is traced, that forwards a connection and where a program spins. Seen: what the
/// recording says of tunnels, ways and stacks is what the agent said, sample by sample, twice the same; its profile has the
/// program with the names of its functions, though the program is gone.
#[test]
fn tunnels_ways_and_stacks_are_told_again() -> Result<()> {
    need_root!("ping");
    let scratch = Scratch::new()?;
    let (file, live) = (scratch.path("recording"), scratch.path("live"));
    let gateway = Gateway::new()?;
    let Gateway { link, client } = &gateway;
    let [_, there] = vxlan(link, 77, 4799)?;
    let mut command = clean("ip");
    command.args(["netns", "exec", link.a.ns.name()]).arg(binary());
    let settings = gateway.settings();
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let (program, name) = busy(&scratch)?;
    let spins = Busy::start(Command::new(&program).arg("120"))?;
    let recorder = recorder(command, &file, &live, &settings)?;
    let mut server = Traffic::new("srv", &link.b.ns)?;
    let at = server.serve(&link.b.at(0), "echo")?;
    let mut talker = Traffic::new("cli", client)?;
    let connection = talker.connect(&at)?;
    talker.ping(connection, 50, 100)?;
    ping(&link.a, &there, "-c 50 -i 0.02 -s 300")?;
    // A trace takes a second and a half, a program on a device is there within three, and names within ten.
    let tunnel = ["geophone_tunnel_packets_total{", "id=\"77\"", "transmit"];
    let begun = Instant::now();
    loop {
        let seen = replay(&file, &[])?.0;
        let missing = [
            ("packets of the tunnel", sum(&seen, &tunnel) < 50.0),
            ("a trace", sum(&seen, &["geophone_path_hop_probes_total{"]) == 0.0),
            ("a way that is forwarded", sum(&seen, &FORWARDED) == 0.0),
            (
                "stacks with names",
                stacks(&file, &scratch, &name)?.through(&BUSY) < 20,
            ),
        ];
        let Some((what, _)) = missing.iter().find(|(_, missing)| *missing) else {
            break;
        };
        ensure!(begun.elapsed() < PATIENCE, "no {what}");
        ping(&link.a, &there, "-c 50 -i 0.02 -s 300")?;
        talker.ping(connection, 200, 100)?;
    }
    end(recorder, 1)?;
    drop(spins);
    fs::remove_file(&program)?;

    let live = fs::read_to_string(&live)?;
    let (once, left_out) = replay(&file, &[])?;
    ensure!(left_out.is_empty(), "{left_out}");
    for words in [
        &tunnel[..],
        &["geophone_tunnel_state{", "id=\"77\"", "state=\"up\""],
        &["geophone_tunnel_watched{", &link.a.device],
        &["geophone_path_hop_probes_total{"],
        &FORWARDED,
        &["geophone_profile_samples_total{", "cpu"],
        &["geophone_profile_processes "],
    ] {
        ensure!(sum(&live, words) > 0.0, "the agent says nothing of {words:?}");
    }
    alike(&live, &once)?;
    equal("a second replay", &replay(&file, &[])?.0, &once)?;

    let profiles = ["a.folded", "b.folded", "a.pb.gz", "b.pb.gz"].map(|name| scratch.path(name));
    for profile in &profiles {
        replay(&file, &["--profile", text(profile)?])?;
    }
    let read = |i: usize| fs::read(&profiles[i]);
    ensure!(
        read(0)? == read(1)? && read(2)? == read(3)?,
        "two profiles differ"
    );
    let folded = Folded::parse(&String::from_utf8(read(0)?)?)?;
    ensure!(folded.of(&name).through(&BUSY) >= 20, "{}", folded.show());
    let counted = sum(&live, &["geophone_profile_samples_total{", "cpu"]);
    ensure!(
        folded.total() as f64 <= counted,
        "{} of {counted}",
        folded.total()
    );
    let refused = geophone(&[
        "replay",
        text(&file)?,
        "--off-cpu",
        "--profile",
        text(&profiles[0])?,
    ])?;
    says(&one_line(&refused)?, &["has no such stacks"])
}

/// Cause: a recording is cut, or a byte of it is another. Seen: what is whole is replayed, and one line names the rest.
#[test]
fn what_is_damaged_is_left_out_and_named() -> Result<()> {
    need_root!();
    let scratch = Scratch::new()?;
    let (file, live) = (scratch.path("recording"), scratch.path("live"));
    end(start(&file, &live)?, 6)?;
    let whole = fs::read(&file)?;
    let (all, _) = replay(&file, &["--ticks"])?;

    let cut = scratch.write("cut", whole.get(..whole.len() - 20).context("short")?)?;
    let (some, left_out) = replay(&cut, &["--ticks"])?;
    says(&left_out, &["bytes are damaged or cut off"])?;
    ensure!(
        !some.is_empty() && some.len() < all.len(),
        "{} of {}",
        some.len(),
        all.len()
    );
    ensure!(all.starts_with(&some), "the beginning is another");

    let mut flipped = whole.clone();
    let at = flipped.len() - 20;
    flipped[at] ^= 1;
    let flipped = scratch.write("flipped", flipped)?;
    let (some, left_out) = replay(&flipped, &["--ticks"])?;
    says(&left_out, &["bytes are damaged or cut off"])?;
    ensure!(
        all.starts_with(&some) && some.len() < all.len(),
        "it was not noticed"
    );

    for (name, content, words) in [
        ("empty", &b""[..], "is no recording"),
        ("foreign", b"GEOPHREC\x07\x00\x00\x00", "form 7"),
        (
            "short",
            whole.get(..20).context("short")?,
            "damaged at its beginning",
        ),
    ] {
        let file = scratch.write(name, content)?;
        says(&one_line(&geophone(&["replay", text(&file)?])?)?, &[name, words])?;
    }
    Ok(())
}

const RULES: &str = "
groups:
- name: g
  interval: 1s
  rules:
  - alert: Busy
    expr: sum(geophone_tcp_connections_total{outcome='opened',subject='NAME'}) >= 20
  - {alert: Never, expr: absent(up)}
";

fn files(directory: &Path, ending: &str) -> Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(directory)? {
        all.push(entry?.path());
    }
    all.retain(|path| path.extension().is_some_and(|e| e == ending));
    all.sort();
    Ok(all)
}

/// Cause: the flight recorder runs while connections are made, and an alert looks at them. Seen: the alert has dumped the time
/// before, the API and the command line dump it too, the latest segment is a recording by itself, and what each of them
/// replays is what the agent said; the rules say of a replay what fired; nothing is lost, and after a kill all is there.
#[test]
fn the_flight_recorder_is_dumped_by_hand_and_by_an_alert() -> Result<()> {
    need_root!();
    let scratch = Scratch::new()?;
    let mut scene = Scene::echo()?;
    let ring = scratch.path("ring");
    let rules = scratch.write("rules.yaml", RULES.replace("NAME", scene.client.name()))?;
    let config = format!(
        "store: {{kind: memory}}\nrules: {{files: [{}]}}\nrecord: {{flight: {{minutes: 1, directory: {}}}}}\n\
         probes: {{profile: {{enabled: true, hz: 199}}}}\n",
        rules.display(),
        ring.display()
    );
    let agent = Setup::new().config(config).start()?;
    let (program, name) = busy(&scratch)?;
    let _spins = Busy::start(Command::new(&program).arg("120"))?;
    scene.exchange(20, 5, 100)?;
    let of = [("subject", scene.client.name()), ("outcome", "opened")];
    let subject = format!("subject=\"{}\"", scene.client.name());
    let words = ["geophone_tcp_connections_total{", &subject, "outcome=\"opened\""];
    agent.settles(|s| equal("connections", s.sum("geophone_tcp_connections_total", &of), 20))?;
    let begun = Instant::now();
    let by_alert = loop {
        if let Some(dump) = files(&ring, "geophone")?.pop() {
            break dump;
        }
        ensure!(begun.elapsed() < PATIENCE, "no dump\n{}", agent.log());
        std::thread::sleep(Duration::from_millis(100));
    };
    ensure!(text(&by_alert)?.ends_with("-Busy.geophone"), "{by_alert:?}");
    ensure!(
        sum(&replay(&by_alert, &[])?.0, &words) >= 20.0,
        "not in the alert's dump"
    );

    while files(&ring, "segment")?.len() < 2 {
        ensure!(begun.elapsed() < PATIENCE, "one segment only\n{}", agent.log());
        std::thread::sleep(Duration::from_millis(100));
    }
    agent.after(2)?;
    let answer = agent.get("/api/v1/record", "*/*")?;
    equal("status", answer.status, 200)?;
    let dump = scratch.write("dump", &answer.body)?;
    let (seen, left_out) = replay(&dump, &[])?;
    ensure!(
        !left_out.contains("damaged") && !left_out.contains("never"),
        "{left_out}"
    );
    equal("connections in the dump", sum(&seen, &words), 20.0)?;
    let (again, _) = replay(&dump, &[])?;
    ensure!(seen == again, "two replays differ");
    let (fired, _) = replay(&dump, &["--rules", text(&rules)?])?;
    ensure!(fired.contains("Busy") && !fired.contains("Never"), "{fired}");

    // Until a program has been looked at, its samples wait.
    while stacks(
        &scratch.write("stacks", agent.get("/api/v1/record", "*/*")?.body)?,
        &scratch,
        &name,
    )?
    .total()
        <= 20
    {
        ensure!(begun.elapsed() < PATIENCE, "no stacks\n{}", agent.log());
        std::thread::sleep(Duration::from_millis(200));
    }
    let stats = agent.snapshot()?;
    let ticks = |outcome: &str| stats.sum("geophone_record_ticks_total", &[("outcome", outcome)]);
    equal("lost", ticks("lost"), 0)?;
    ensure!(ticks("written") >= 7, "{} ticks written", ticks("written"));
    let live = agent.metrics()?;
    // What it said then is on the disk by the next second.
    agent.after(1)?;
    kill(agent.pid(), Signal::SIGKILL)?;
    drop(agent);

    let by_hand = scratch.path("by hand");
    let directory = format!("record.flight.directory={}", text(&ring)?);
    let out = geophone(&["record", "--dump", text(&by_hand)?, "--set", &directory])?;
    ensure!(out.status.success(), "{}", said(&out));
    let latest = files(&ring, "segment")?.pop().context("no segment")?;
    ensure!(
        stacks(&by_hand, &scratch, &name)?.total() > 20,
        "stacks are missing"
    );
    let (scores, _) = replay(&by_hand, &["--scores", "--rules", text(&rules)?])?;
    says(&scores, &["that were scored, from", "Busy"])?;
    let again = replay(&by_hand, &["--scores", "--rules", text(&rules)?])?.0;
    equal("scored again", &again, &scores)?;
    for file in [&by_hand, &latest] {
        let (seen, left_out) = replay(file, &[])?;
        ensure!(
            !left_out.contains("damaged") && !left_out.contains("never"),
            "{left_out}"
        );
        for family in ["geophone_tcp_connections_total{", "geophone_tcp_bytes_total{"] {
            let words = [family, &subject];
            equal(family, sum(&seen, &words), sum(&live, &words))?;
        }
        let taken = ["geophone_profile_samples_total{", "cpu"];
        ensure!(sum(&seen, &taken) >= sum(&live, &taken), "samples are missing");
        equal("unaccounted", sum(&seen, &["geophone_events_unaccounted{"]), 0.0)?;
        let delivered = ["geophone_events_total{", "probe=\"tcp\"", "delivered"];
        ensure!(
            sum(&seen, &delivered) >= sum(&live, &delivered),
            "events are missing"
        );
    }

    let agent = Agent::start()?;
    let answer = agent.get("/api/v1/record", "*/*")?;
    equal("status without", answer.status, 404)?;
    says(&answer.text(), &["record.flight.minutes"])
}
