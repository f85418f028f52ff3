//! Probe `profile`.

use anyhow::{Context as _, Result, bail, ensure};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use tests::harness::agent::{Scratch, binary, clean};
use tests::harness::pprof::unpacked;
use tests::harness::stacks::{Busy, Folded, HERE, build_id, busy, cc, is, spin, taken};
use tests::harness::{Setup, command, unique};
use tests::need_root;

/// points, every stack whole and by the right names.
/// Cause: a Rust program without frame pointers that spends 70, 20 and 10 % on three ways. Seen: these shares within three
#[test]
fn shares_of_three_ways_and_whole_stacks() -> Result<()> {
    need_root!();
    let scratch = Scratch::new()?;
    let (program, name) = busy(&scratch)?;
    let _busy = Busy::start(Command::new(&program).arg("60"))?;
    let folded = taken(&scratch, &name)?;
    let total = folded.total() as f64;
    for (way, truth) in [
        (&["main", "busy_seventy", "seventy_inner", "busy_leaf"][..], 0.7),
        (
            &[
                "main",
                "busy_twenty",
                "twenty_inner",
                "twenty_deeper",
                "busy_leaf",
            ],
            0.2,
        ),
        (&["main", "busy_ten", "busy_leaf"], 0.1),
    ] {
        let share = folded.through(way) as f64 / total;
        println!("{way:?}: {share:.4} of {total}");
        ensure!(
            (share - truth).abs() <= 0.03,
            "{way:?}: {share}\n{}",
            folded.show()
        );
    }
    println!("whole: {:.4}", folded.whole());
    ensure!(folded.whole() >= 0.99, "{}\n{}", folded.whole(), folded.show());
    Ok(())
}

/// Cause: C programs: one that is static and position-independent, one whose time is spent in a plugin that it opens after a
/// second, and one whose file is deleted before anybody looks at it. Seen: whole stacks, by their names.
#[test]
fn static_programs_plugins_and_files_that_are_gone() -> Result<()> {
    need_root!("cc");
    let scratch = Scratch::new()?;
    let main = "int main(void) { return spinning_for(60) & 1; }\n";
    let fixed = cc(
        &scratch,
        &unique("s"),
        &(spin("spinning") + main),
        &["-static-pie"],
    )?;
    let gone = cc(&scratch, &unique("g"), &(spin("spinning") + main), &[])?;
    let plugin = cc(&scratch, "plugin.so", &spin("plugged"), &["-shared", "-fPIC"])?;
    let host = format!(
        "#include <dlfcn.h>\n{}int main(void) {{ spinning_for(3); void *p = dlopen(\"{}\", RTLD_NOW); \
         long (*f)(long) = (long (*)(long))dlsym(p, \"plugged_for\"); return f(60) & 1; }}\n",
        spin("spinning"),
        plugin.display()
    );
    let host = cc(&scratch, &unique("p"), &host, &["-ldl"])?;
    let programs = [&fixed, &gone, &host];
    let _busy: Vec<Busy> = programs
        .iter()
        .map(|p| Busy::start(&mut Command::new(p)))
        .collect::<Result<_>>()?;
    std::fs::remove_file(&gone)?;
    let folded = Folded::take(&scratch, &HERE)?;
    let of = |program: &Path| {
        let name = program
            .file_name()
            .map(|n| n.to_string_lossy().into_owned())
            .unwrap_or_default();
        Folded(
            folded
                .0
                .iter()
                .filter(|(stack, _)| stack.first() == Some(&name))
                .cloned()
                .collect(),
        )
    };
    for (what, program, function) in [
        ("static", &fixed, "spinning"),
        ("deleted", &gone, "spinning"),
        ("plugin", &host, "plugged"),
    ] {
        let seen = of(program);
        let way = seen.through(&[
            "main",
            &format!("{function}_for"),
            function,
            &format!("{function}_leaf"),
        ]);
        println!(
            "{what}: {} samples, {:.4} whole, {way} by {function}",
            seen.total(),
            seen.whole()
        );
        ensure!(seen.total() >= 500, "{what}: {} samples", seen.total());
        ensure!(seen.whole() >= 0.98, "{what}: {}\n{}", seen.whole(), seen.show());
        // The plugin is opened on the way.
        let least = if what == "plugin" { 0.3 } else { 0.97 };
        ensure!(
            way as f64 >= least * seen.total() as f64,
            "{what}: {way}\n{}",
            seen.show()
        );
    }
    Ok(())
}

/// Cause: a process that becomes another program. Seen: the new one's functions and none of the old one's.
#[test]
fn a_process_that_becomes_another_program() -> Result<()> {
    need_root!("cc");
    let scratch = Scratch::new()?;
    let after = cc(
        &scratch,
        &unique("n"),
        &(spin("after") + "int main(void) { return after_for(60) & 1; }\n"),
        &[],
    )?;
    let before = format!(
        "#include <unistd.h>\n{}int main(void) {{ before_for(4); return execl(\"{1}\", \"{1}\", (char *)0); }}\n",
        spin("before"),
        after.display()
    );
    let before = cc(&scratch, &unique("o"), &before, &[])?;
    let busy = Busy::start(&mut Command::new(&before))?;
    let pid = busy.0.id().to_string();
    let folded = Folded::take(&scratch, &["--own", "--hz", "499", "--for", "10s", "--pid", &pid])?;
    let old = folded.through(&["_start", "main", "before_for", "before", "before_leaf"]);
    let new = folded.through(&["_start", "main", "after_for", "after", "after_leaf"]);
    println!("{} samples: {old} before, {new} after", folded.total());
    ensure!(old > 100 && new > 500, "{old} {new}\n{}", folded.show());
    ensure!(
        (old + new) as f64 >= 0.97 * folded.total() as f64,
        "{}",
        folded.show()
    );
    let name = after
        .file_name()
        .map(|n| n.to_string_lossy().into_owned())
        .unwrap_or_default();
    let wrong = folded.count(|s| s.first() == Some(&name) && s.iter().any(|f| f.starts_with("before")));
    ensure!(
        wrong == 0,
        "{wrong} stacks of the new program by names of the old one\n{}",
        folded.show()
    );
    Ok(())
}

/// Cause: reading zeros. Seen: the kernel's part of the stack by its names, above the program's.
#[test]
fn the_kernels_frames_have_names() -> Result<()> {
    need_root!("dd");
    let scratch = Scratch::new()?;
    let busy = Busy::start(Command::new("dd").args(["if=/dev/zero", "of=/dev/null", "bs=1M"]))?;
    let pid = busy.0.id().to_string();
    let folded = Folded::take(&scratch, &["--own", "--hz", "997", "--for", "2s", "--pid", &pid])?;
    let read = folded.count(|s| s.iter().any(|f| f == "ksys_read_[k]"));
    println!("{read} of {}", folded.total());
    ensure!(
        folded.total() > 500 && read as f64 > 0.9 * folded.total() as f64,
        "{}",
        folded.show()
    );
    Ok(())
}

/// Cause: more samples than a ring of 64 KiB holds while the agent is stopped, and 300 processes a second that live for a
/// moment. Seen: each tick is idle, a sample or counted as lost, exactly; processes that are gone take no room.
#[test]
fn each_tick_is_accounted_for() -> Result<()> {
    need_root!();
    let scratch = Scratch::new()?;
    let (program, _) = busy(&scratch)?;
    let agent = Setup::new()
        .set("probes.profile.enabled", "true")
        .set("probes.profile.hz", "997")
        .set("limits.ring_bytes", "64KiB")
        .start()?;
    let _busy = [
        Busy::start(Command::new(&program).arg("60"))?,
        Busy::start(Command::new(&program).arg("60"))?,
    ];
    let (start, mut storm) = (Instant::now(), 0);
    while start.elapsed() < Duration::from_secs(3) {
        Command::new("/bin/true").status()?;
        storm += 1;
        std::thread::sleep(Duration::from_millis(2));
    }
    agent.pause(Duration::from_secs(2))?;
    println!("{storm} processes");
    let lost = agent.settles(|s| {
        s.lawful()?;
        let of = |name, label| s.sum(name, &[("probe", "profile"), label]);
        let lost = of("geophone_events_dropped_total", ("reason", "ring_full"));
        ensure!(lost > 100, "only {lost} found the ring full");
        let samples = s.sum("geophone_profile_samples_total", &[]);
        let stacks = s.sum("geophone_profile_stacks_total", &[]);
        ensure!(
            samples == stacks && samples > 2000,
            "{samples} samples, {stacks} stacks"
        );
        let delivered = of("geophone_events_total", ("stage", "delivered"));
        ensure!(delivered >= samples, "{delivered} delivered");
        let lost_later = s.sum("geophone_profile_lost_samples_total", &[]);
        ensure!(lost_later == 0, "{lost_later} lost in the agent");
        let processes = s.number("geophone_profile_processes", &[])?;
        ensure!(processes < 200.0, "{processes} processes are still known");
        Ok(lost)
    })?;
    println!("{lost} lost");
    Ok(())
}

/// Cause: a running agent with the probe on, and a busy program. Seen: every format of the API and the command tells the
/// same samples, a past window too, and a filter leaves the others out.
#[test]
fn a_running_agent_answers_in_every_format() -> Result<()> {
    need_root!("gzip", "readelf");
    let scratch = Scratch::new()?;
    let (program, name) = busy(&scratch)?;
    let agent = Setup::new()
        .set("probes.profile.enabled", "true")
        .set("probes.profile.hz", "199")
        .start()?;
    let listen = agent.at.to_string();
    let mut busy = Busy::start(Command::new(&program).arg("4"))?;
    busy.0.wait()?;
    drop(busy);
    agent.after(2)?;
    let profile = |more: &[&str]| {
        command::output(
            clean(binary())
                .args(["profile", "--listen", &listen, "--last", "10m", "--comm", &name])
                .args(more),
        )
    };
    let file = |name: &str| scratch.path(name).to_string_lossy().into_owned();
    profile(&["-o", &file("a.folded")])?;
    let folded = Folded::parse(&std::fs::read_to_string(file("a.folded"))?)?;
    ensure!(folded.total() > 300, "{}", folded.show());
    ensure!(
        folded.0.iter().all(|(stack, _)| stack.first() == Some(&name)),
        "{}",
        folded.show()
    );
    // The program is gone, its names are not.
    let leaf = folded.through(&["main", "busy_seventy", "busy_leaf"]);
    ensure!(leaf as f64 > 0.6 * folded.total() as f64, "{}", folded.show());

    profile(&["-o", &file("a.pb.gz")])?;
    let made = unpacked(&scratch, &std::fs::read(file("a.pb.gz"))?)?;
    let text = |i: i64| made.strings.get(i as usize).map(String::as_str).unwrap_or("?");
    let types: Vec<(&str, &str)> = made
        .sample_type
        .iter()
        .map(|t| (text(t.first), text(t.second)))
        .collect();
    ensure!(
        types == [("samples", "count"), ("cpu", "nanoseconds")],
        "{types:?}"
    );
    let (mut samples, mut in_leaf) = (0, 0);
    for sample in &made.sample {
        let n = *sample.value.first().context("no value")?;
        samples += n;
        let first = sample.location.first().context("no location")?;
        let location = made
            .location
            .iter()
            .find(|l| l.id == *first)
            .context("no such location")?;
        let function = location.line.first().context("no line")?.first;
        let function = made
            .function
            .iter()
            .find(|f| f.first == function)
            .context("no such function")?;
        in_leaf += if is(text(function.second), "busy_leaf") {
            n
        } else {
            0
        };
    }
    ensure!(
        samples as u64 == folded.total(),
        "{samples} in pprof, {} folded",
        folded.total()
    );
    ensure!(in_leaf as f64 > 0.9 * samples as f64, "{in_leaf} of {samples}");
    let mapping = made
        .mapping
        .iter()
        .find(|m| text(m.filename).ends_with(&name))
        .context("no mapping")?;
    let id = build_id(&program)?;
    ensure!(
        text(mapping.build_id) == id,
        "build id {} for {id}",
        text(mapping.build_id)
    );
    ensure!(
        made.location.iter().any(|l| l.mapping == mapping.id),
        "nothing lies in the program"
    );

    profile(&["-o", &file("a.svg")])?;
    let svg = std::fs::read_to_string(file("a.svg"))?;
    ensure!(
        svg.contains("<svg") && svg.contains("busy_seventy"),
        "{}",
        svg.len()
    );
    let table = profile(&[])?;
    ensure!(
        table.contains(&format!("{} samples", folded.total())) && table.contains("busy_leaf"),
        "{table}"
    );
    let early = agent.get("/api/v1/profile?from=1000&to=2000&format=json", "*/*")?;
    ensure!(early.text().contains("\"samples\":0"), "{}", early.text());
    if agent.get("/api/v1/profile?from=yesterday", "*/*")?.status != 400 {
        bail!("a time that is none was taken");
    }
    Ok(())
}

/// Cause: an agent without the probe. Seen: it says so, and the command takes stacks by itself.
#[test]
fn without_the_probe_the_command_looks_by_itself() -> Result<()> {
    need_root!();
    let scratch = Scratch::new()?;
    let (program, name) = busy(&scratch)?;
    let agent = Setup::new().start()?;
    ensure!(
        agent.get("/api/v1/profile", "*/*")?.status == 404,
        "there are no stacks"
    );
    let _busy = Busy::start(Command::new(&program).arg("30"))?;
    let listen = agent.at.to_string();
    let folded = Folded::take(&scratch, &["--listen", &listen, "--for", "4s", "--comm", &name])?;
    ensure!(folded.through(&["main", "busy_leaf"]) > 50, "{}", folded.show());
    Ok(())
}
