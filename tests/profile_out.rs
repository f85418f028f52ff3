//! How stacks leave the agent: the URL that others scrape, windows, differences, and names that others find.

use anyhow::{Context as _, Result, ensure};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tests::harness::agent::{Scratch, binary, clean};
use tests::harness::cgroup::Cgroup;
use tests::harness::command::said;
use tests::harness::pprof::unpacked;
use tests::harness::stacks::{Busy, Folded, build_id, busy, taking_stacks};
use tests::harness::{Agent, command, equal};
use tests::need_root;

/// A command of the user against an agent.
fn user(agent: &Agent, arguments: &[&str]) -> std::io::Result<std::process::Output> {
    let listen = agent.at.to_string();
    clean(binary())
        .args(arguments)
        .args(["--listen", &listen])
        .output()
}

fn shown(agent: &Agent, arguments: &[&str]) -> Result<String> {
    let out = user(agent, arguments)?;
    ensure!(out.status.success(), "{arguments:?}: {}", said(&out));
    Ok(String::from_utf8(out.stdout)?)
}

/// Waits until a process of this name has been sampled and named.
fn sampled(agent: &Agent, name: &str) -> Result<()> {
    let start = Instant::now();
    loop {
        let path = format!("/api/v1/profile?from=1m&format=json&comm={name}");
        let json: serde_json::Value = serde_json::from_str(&agent.get(&path, "*/*")?.text())?;
        if json["samples"].as_u64().is_some_and(|n| n > 50) {
            return Ok(());
        }
        ensure!(
            start.elapsed() < Duration::from_secs(60),
            "no samples of {name}: {json}"
        );
        std::thread::sleep(Duration::from_millis(300));
    }
}

/// Cause: two busy programs, one in a cgroup of its own. Seen: windows of exactly the seconds that were asked for, now and
/// past; the cgroup's stacks alone; what differs; and of an empty window each format says so.
#[test]
fn windows_cgroups_and_differences() -> Result<()> {
    need_root!("gzip");
    let scratch = Scratch::new()?;
    let ((inside, a), (outside, b)) = (busy(&scratch)?, busy(&scratch)?);
    let cgroup = Cgroup::new("inside.service")?;
    let agent = taking_stacks().start()?;
    let enter = format!(
        "echo $$ > {}/cgroup.procs; exec {} 120",
        cgroup.path().display(),
        inside.display()
    );
    let busy_inside = Busy::start(Command::new("sh").args(["-c", &enter]))?;
    let busy_outside = Busy::start(Command::new(&outside).arg("120"))?;
    sampled(&agent, &a)?;
    sampled(&agent, &b)?;

    let begin = Instant::now();
    // On a busy machine the program may not have run, or its samples still wait for tables: asked again.
    let nanos = loop {
        let before = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos() as i64;
        let answer = agent.get(&format!("/debug/pprof/profile?seconds=2&comm={a}"), "*/*")?;
        equal("status", answer.status, 200)?;
        let made = unpacked(&scratch, &answer.body)?;
        equal("duration", made.duration, 2_000_000_000)?;
        ensure!(
            made.time >= before && made.time % 1_000_000_000 == 0,
            "{} for {before}",
            made.time
        );
        let nanos: i64 = made.sample.iter().filter_map(|s| s.value.get(1)).sum();
        if nanos > 0 || begin.elapsed() > Duration::from_secs(60) {
            break nanos;
        }
    };
    // One thread; the tick that ends first was begun before.
    ensure!(
        (100_000_000..=2_050_000_000).contains(&nanos),
        "{nanos} ns of 2 s"
    );
    for query in ["seconds=0", "seconds=1000", "seconds=x", "seconds=1&type=nothing"] {
        equal(
            query,
            agent.get(&format!("/debug/pprof/profile?{query}"), "*/*")?.status,
            400,
        )?;
    }

    let file = |name: &str| scratch.path(name).to_string_lossy().into_owned();
    shown(
        &agent,
        &["profile", "--for", "2s", "--comm", &a, "-o", &file("for.json")],
    )?;
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(file("for.json"))?)?;
    let length = json["to"].as_f64().context("to")? - json["from"].as_f64().context("from")?;
    ensure!((length - 2.0).abs() < 1e-6, "{json}");

    let path = cgroup.path().to_string_lossy().into_owned();
    let path = path
        .split_once("geophone-test-")
        .map(|(_, tail)| format!("/geophone-test-{tail}"));
    let path = path.context("a cgroup's path")?;
    let parent = path.trim_end_matches("/inside.service").to_owned();
    for of in [path.as_str(), &parent, &format!("{parent}/ins*")] {
        shown(
            &agent,
            &["profile", "--last", "1m", "--cgroup", of, "-o", &file("a.folded")],
        )?;
        let folded = Folded::parse(&std::fs::read_to_string(file("a.folded"))?)?;
        ensure!(folded.total() > 50, "{of}: {}", folded.show());
        // The shell that became the program was in the cgroup as well: a tick or two of it may be seen.
        let of_both = |stack: &[String]| stack.first().is_some_and(|name| *name == a || name == "sh");
        ensure!(
            folded.0.iter().all(|(stack, _)| of_both(stack)),
            "{of}: {}",
            folded.show()
        );
    }
    let table = shown(
        &agent,
        &["profile", "--from", "30s", "--to", "now", "--cgroup", "/nothing"],
    )?;
    ensure!(table.starts_with("no samples of cpu in "), "{table}");

    shown(
        &agent,
        &["profile", "--last", "1m", "--comm", &b, "-o", &file("b.pb.gz")],
    )?;
    let table = shown(&agent, &["diff", &file("a.folded"), &file("b.pb.gz")])?;
    let line = |name: &str| {
        table
            .lines()
            .find(|l| l.ends_with(&format!(" {name}")))
            .unwrap_or_default()
    };
    ensure!(
        line(&a).contains("-100.0") && line(&b).contains("+100.0"),
        "{table}"
    );
    let windows = shown(&agent, &["diff", "4s..2s", "2s..now", "--comm", &a])?;
    ensure!(
        windows.starts_with("A: ") && windows.contains("\nB: ") && windows.contains("4s..2s, "),
        "{windows}"
    );
    for (ending, word) in [
        ("svg", "geophone: difference"),
        ("folded", "busy_leaf"),
        ("json", "\"functions\":"),
    ] {
        let out = file(&format!("diff.{ending}"));
        shown(&agent, &["diff", &file("a.folded"), &file("b.pb.gz"), "-o", &out])?;
        ensure!(
            std::fs::read_to_string(&out)?.contains(word),
            "no {word} in {out}"
        );
    }
    for (arguments, complaint) in [
        (["diff", "/nowhere.folded", "1m..now"], "/nowhere.folded"),
        (["diff", "1m..yesterday", "1m..now"], "yesterday: no time; write"),
        (
            ["diff", "a.png", "1m..now"],
            "a.png: neither a file .folded or .pb.gz nor a window",
        ),
    ] {
        let out = user(&agent, &arguments)?;
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        ensure!(
            !out.status.success() && said.contains(complaint) && said.lines().count() == 1,
            "{said}"
        );
    }

    let of = |format: &str, from: &str| agent.get(&format!("/api/v1/profile?{from}&format={format}"), "*/*");
    let svg = of("svg", "from=1m")?.text();
    ensure!(
        svg.contains("busy_leaf") && svg.contains("id=\"search\""),
        "{} bytes",
        svg.len()
    );
    for fetched in ["href=\"http", "src=", "@import", "url(http"] {
        ensure!(!svg.contains(fetched), "the picture fetches something: {fetched}");
    }
    let empty = of("svg", "from=1000&to=2000")?;
    ensure!(
        empty.status == 200 && empty.text().contains("no samples"),
        "{}",
        empty.text()
    );
    let empty = of("pprof", "from=1000&to=2000")?;
    ensure!(empty.status == 200 && unpacked(&scratch, &empty.body)?.sample.is_empty());
    let empty = of("folded", "from=1000&to=2000")?;
    ensure!(empty.status == 200 && empty.body.is_empty());
    drop((busy_inside, busy_outside));
    Ok(())
}

/// The stacks of the last seconds have no names, but addresses in which another program sees the busy function.
fn found_elsewhere(scratch: &Scratch, agent: &Agent, program: &Path, name: &str) -> Result<()> {
    let answer = agent.get(&format!("/api/v1/profile?from=3s&comm={name}"), "*/*")?;
    let made = unpacked(scratch, &answer.body)?;
    let id = build_id(program)?;
    let text = |i: i64| {
        made.strings
            .get(i as usize)
            .map(String::as_str)
            .unwrap_or_default()
    };
    let mapping = made.mapping.iter().find(|m| text(m.build_id) == id);
    let mapping = mapping.context("no such build id")?;
    let (mut found, mut all) = (0, 0);
    for sample in &made.sample {
        let n = sample.value.first().copied().unwrap_or_default();
        all += n;
        let mut through = false;
        let frames = sample.location.iter();
        for location in frames.filter_map(|id| made.location.iter().find(|l| l.id == *id)) {
            if location.mapping != mapping.id {
                continue;
            }
            ensure!(location.line.is_empty(), "a name that nobody was to read");
            ensure!(
                (mapping.start..mapping.limit).contains(&location.address),
                "{location:?}"
            );
            let function = command::output(
                Command::new("addr2line")
                    .args(["-f", "-C", "-e"])
                    .arg(program)
                    .arg(format!("{:#x}", location.address)),
            )?;
            through |= function.contains("busy_leaf");
        }
        found += if through { n } else { 0 };
    }
    ensure!(
        all > 0 && found as f64 > 0.9 * all as f64,
        "{found} of {all} in busy_leaf"
    );
    Ok(())
}

/// Cause: an agent that is not to read symbols. Seen: no process of its own, and addresses by which another program finds
/// the functions in the file of that build id.
#[test]
fn names_that_others_find() -> Result<()> {
    need_root!("gzip", "readelf", "addr2line");
    let scratch = Scratch::new()?;
    let (program, name) = busy(&scratch)?;
    let agent = taking_stacks().set("probes.profile.symbolize", "false").start()?;
    let _busy = Busy::start(Command::new(&program).arg("60"))?;
    sampled(&agent, &name)?;
    let start = Instant::now();
    // The first stacks are short: nobody has looked at the process yet.
    while let Err(e) = found_elsewhere(&scratch, &agent, &program, &name) {
        ensure!(start.elapsed() < Duration::from_secs(60), "{e:#}");
        std::thread::sleep(Duration::from_secs(1));
    }
    let table = shown(&agent, &["profile", "--last", "1m", "--comm", &name])?;
    ensure!(
        table.contains(&format!("[{name}+0x")) && table.contains(&build_id(&program)?),
        "{table}"
    );
    let children = format!("/proc/{0}/task/{0}/children", agent.pid());
    for task in std::fs::read_dir(format!("/proc/{}/task", agent.pid()))?.flatten() {
        let children = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
        ensure!(children.trim().is_empty(), "it has started {children}");
    }
    ensure!(
        Path::new(&children).exists(),
        "this kernel does not tell children"
    );
    Ok(())
}
