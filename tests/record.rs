//! Recordings: what a replay says is what the agent said that was recorded.

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};
use std::time::{Duration, Instant};
use tests::harness::agent::{Agent, PATIENCE, Scratch, Setup, binary, clean};
use tests::harness::cli::{geophone, one_line, says};
use tests::harness::command::said;
use tests::harness::{Scene, equal};
use tests::need_root;

/// What the agent itself costs and covers: a replay costs something else, and says nothing of it.
const OWN: [&str; 5] = [
    "geophone_agent_",
    "geophone_program",
    "geophone_governor_",
    "geophone_coverage_",
    "geophone_map_",
];

/// A recorder that has attached its programs: its first tick is in the file.
fn start(file: &Path, live: &Path) -> Result<Child> {
    let mut command = clean(binary());
    command.arg("record").arg(file).arg("--exposition").arg(live);
    for setting in [
        "probes.tcp.sweep_interval=1s",
        "budget.enabled=false",
        "probes.udp.enabled=true",
        "probes.dns.enabled=true",
        "probes.block.enabled=true",
        "probes.sched.enabled=true",
        "probes.tunnel.enabled=false",
    ] {
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
    let (said_then, says_now) = (samples(&live), samples(&once));
    let invented: Vec<_> = says_now.difference(&said_then).take(20).collect();
    ensure!(invented.is_empty(), "only in the replay: {invented:#?}");
    let is_own = |line: &&&str| OWN.iter().any(|own| line.contains(own));
    let missing: Vec<_> = said_then
        .difference(&says_now)
        .filter(|l| !is_own(l))
        .take(20)
        .collect();
    ensure!(missing.is_empty(), "only in the agent: {missing:#?}");

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
        "store: {{kind: memory}}\nrules: {{files: [{}]}}\nrecord: {{flight: {{minutes: 1, directory: {}}}}}\n",
        rules.display(),
        ring.display()
    );
    let agent = Setup::new().config(config).start()?;
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
