//! Probe `node`.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use tests::harness::cgroup::Cgroup;
use tests::harness::command::output;
use tests::harness::{Agent, Scene, Setup, Snapshot, equal, near};
use tests::need_root;

const USED: &str = "geophone_node_used";

fn used(snapshot: &Snapshot, resource: &str) -> Result<f64> {
    snapshot.number(USED, &[("resource", resource)])
}

/// The fields of a line of `df`, of the file system that holds `/tmp`.
fn df(columns: &str) -> Result<(String, Vec<f64>)> {
    let text =
        output(Command::new("df").args(["--block-size=1", &format!("--output=source,{columns}"), "/tmp"]))?;
    let mut words = text.lines().nth(1).context("df")?.split_whitespace();
    let source = words.next().context("df")?.trim_start_matches("/dev/").to_owned();
    Ok((source, words.filter_map(|word| word.parse().ok()).collect()))
}

/// Cause: threads, memory and space that this test takes. Seen: as much more of each, as the kernel's own tools say.
#[test]
fn what_is_taken_is_seen() -> Result<()> {
    need_root!("python3", "df");
    let agent = Agent::start()?;
    let before = agent.after(2)?;
    let script = "import threading, time\n\
                  held = bytearray(b'x') * (192 << 20)\n\
                  for _ in range(300): threading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n\
                  print('ready', flush=True)\n\
                  time.sleep(60)";
    let mut taker = Command::new("python3")
        .args(["-c", script])
        .stdout(Stdio::null())
        .spawn()?;
    let seen = agent.until(|s| {
        let threads = used(s, "threads")? - used(&before, "threads")?;
        let memory = used(s, "memory")? - used(&before, "memory")?;
        ensure!((300.0..400.0).contains(&threads), "{threads} threads");
        ensure!(memory > 150e6, "{memory} bytes more");
        Ok(())
    });
    taker.kill()?;
    taker.wait()?;
    seen?;
    for (resource, columns) in [("filesystem", "used,avail"), ("inodes", "iused,iavail")] {
        agent.until(|s| {
            let (device, truth) = df(columns)?;
            let [taken, left] = *truth.as_slice() else {
                anyhow::bail!("df")
            };
            let labels = [("resource", resource), ("device", device.as_str())];
            let (used, limit) = (
                s.number(USED, &labels)?,
                s.number("geophone_node_limit", &labels)?,
            );
            // Ten seconds may lie between, and others write.
            ensure!(
                (used / taken - 1.0).abs() < 0.05,
                "{resource}: {used}, df says {taken}"
            );
            ensure!(
                (limit / (taken + left) - 1.0).abs() < 0.01,
                "{resource}: {limit}, df says {}",
                taken + left
            );
            Ok(())
        })?;
    }
    agent.settles(|s| {
        let files = std::fs::read_to_string("/proc/sys/fs/file-nr")?;
        let truth: f64 = files.split_whitespace().next().context("file-nr")?.parse()?;
        ensure!(
            (used(s, "file_descriptors")? - truth).abs() <= 256.0,
            "file descriptors: {truth}"
        );
        ensure!(used(s, "cpu")? <= s.number("geophone_node_limit", &[("resource", "cpu")])?);
        Ok(())
    })
}

/// Cause: connections that this side closes first, in the agent's namespace. Seen: as many of them as the kernel keeps, and
/// its own limit.
#[test]
fn time_wait_is_the_namespaces() -> Result<()> {
    need_root!();
    let mut scene = Scene::echo()?;
    let agent = Setup::new().inside(&scene.net.a.ns).start()?;
    scene.exchange(40, 1, 100)?;
    agent.settles(|s| {
        let text = scene.net.a.ns.run("cat /proc/net/sockstat")?;
        let mut words = text.split_whitespace().skip_while(|word| *word != "tw");
        let truth: f64 = words.nth(1).context("no tw")?.parse()?;
        ensure!(truth >= 40.0, "nothing waits: {text}");
        // Whoever asks the agent for a snapshot leaves a connection as well.
        let seen = used(s, "tcp_time_wait")?;
        ensure!(
            (truth - 8.0..=truth).contains(&seen),
            "time_wait: {seen}, the kernel says {truth}"
        );
        let limit = scene.net.a.ns.run("cat /proc/sys/net/ipv4/tcp_max_tw_buckets")?;
        let labels = [("resource", "tcp_time_wait")];
        equal(
            "limit",
            s.number("geophone_node_limit", &labels)?,
            limit.trim().parse()?,
        )
    })
}

/// Cause: a listener of this process that accepts nobody, and thirty connections to it. Seen: as many wait and take as many ports,
/// beside the limits that ss and the kernel say; and `geophone capacity` names the queue, the memory and a map with how full they are.
#[test]
fn what_runs_out_of_sockets_is_seen_and_told() -> Result<()> {
    need_root!("ss");
    const THIRTY: usize = 30;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?.to_string();
    let clients: Vec<TcpStream> = (0..THIRTY)
        .map(|_| TcpStream::connect(&address))
        .collect::<Result<_, _>>()?;
    let truth = output(Command::new("ss").args(["-Hltn", "src", &address]))?;
    let mut words = truth.split_whitespace().skip(1);
    let mut number = || words.next().context("ss")?.parse::<f64>().context("ss");
    let (waiting, most) = (number()?, number()?);
    let agent = Setup::new().config("store: {kind: memory}").start()?;
    agent.until(|s| {
        let labels = [("resource", "listen_queue"), ("device", address.as_str())];
        equal("waiting", s.number(USED, &labels)?, waiting)?;
        equal("most", s.number("geophone_node_limit", &labels)?, most)?;
        let ports = used(s, "ephemeral_ports")?;
        ensure!(ports >= THIRTY as f64, "{ports} ephemeral ports");
        Ok(())
    })?;
    let text = agent.command("capacity", &["--json"])?;
    let report: Value = serde_json::from_str(&text).context(text)?;
    let all = report["resources"].as_array().context("resources")?;
    let share = |resource: &str, name: &str| {
        let found = all
            .iter()
            .find(|r| r["resource"] == resource && r["name"] == name);
        let share = found.and_then(|r| r["utilization"].as_f64());
        share.with_context(|| format!("no {resource} {name}: {report}"))
    };
    ensure!((share("listen_queue", &address)? - waiting / most).abs() < 1e-9);
    for (resource, name) in [("memory", ""), ("map", "PAIRS")] {
        let share = share(resource, name)?;
        ensure!((0.0..=1.0).contains(&share), "{resource} {name}: {share}");
    }
    let told = agent.command("capacity", &["listen_queue"])?;
    ensure!(
        told.contains(&format!("listen_queue {address} on ")) && told.contains("not enough data"),
        "{told}"
    );
    drop(clients);
    Ok(())
}

/// Cause: a unit that comes after the agent, with four processes that are busy on one CPU for two seconds, one of which then has 900
/// of 1000 files open. Seen: the time that they ran and waited as the kernel counts it, also when they are gone, and the files beside their limit.
#[test]
fn what_a_unit_uses_and_waits_for_is_what_its_cgroup_says() -> Result<()> {
    need_root!("python3");
    let agent = Setup::new().set("probes.cgroup.interval", "1s").start()?;
    agent.after(2)?;
    let name = format!("worker-{}.service", std::process::id());
    let unit = Cgroup::new(&name)?;
    let script = "import os, resource, sys, time\n\
                  open(sys.argv[1] + '/cgroup.procs', 'w').write('0')\n\
                  os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n\
                  busy = [os.fork() for _ in range(2)]\n\
                  end = time.time() + 2\n\
                  while time.time() < end: pass\n\
                  if 0 in busy: os._exit(0)\n\
                  for child in busy: os.waitpid(child, 0)\n\
                  resource.setrlimit(resource.RLIMIT_NOFILE, (1000, 1000))\n\
                  held = [open('/dev/null') for _ in range(900)]\n\
                  time.sleep(60)";
    let mut worker = Command::new("python3")
        .arg("-c")
        .arg(script)
        .arg(unit.path())
        .spawn()?;
    let counted = |file: &str, name: &str| -> Result<f64> {
        let text = std::fs::read_to_string(unit.path().join(file))?;
        let line = text
            .lines()
            .find(|line| line.starts_with(name))
            .context(text.clone())?;
        let word = line.rsplit([' ', '=']).next().context("a number")?;
        Ok(word.parse::<f64>()? / 1e6)
    };
    let subject = ("subject", name.as_str());
    let seen = agent.settles(|s| {
        let files = [subject, ("resource", "file_descriptors")];
        let (open, limit) = (
            s.number("geophone_cgroup_used", &files)?,
            s.number("geophone_cgroup_limit", &files)?,
        );
        ensure!(
            (900.0..920.0).contains(&open) && limit == 1000.0,
            "{open} of {limit} files"
        );
        let (cpu, waited) = (
            counted("cpu.stat", "usage_usec")?,
            counted("cpu.pressure", "some")?,
        );
        ensure!(
            cpu > 0.2 && waited > 0.1,
            "{cpu} s run, {waited} s waited: they were not busy"
        );
        near(
            "CPU",
            s.number("geophone_cgroup_cpu_seconds_total", &[subject])?,
            cpu,
            0.001,
        )?;
        let some = [subject, ("resource", "cpu"), ("kind", "some")];
        let seen = s.number("geophone_cgroup_pressure_seconds_total", &some)?;
        near("time that some waited", seen, waited, 0.001)?;
        Ok(cpu)
    });
    worker.kill()?;
    worker.wait()?;
    let cpu = seen?;
    drop(unit);
    agent.until(|s| {
        ensure!(
            s.series("geophone_cgroup_used", &[subject]).is_empty(),
            "it is still there"
        );
        // What the end took comes to it.
        let late = s.number("geophone_cgroup_cpu_seconds_total", &[subject])?;
        ensure!(
            (cpu..cpu + 0.5).contains(&late),
            "{late} s at the end, {cpu} before"
        );
        Ok(())
    })
}
