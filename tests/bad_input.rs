//! What is wrong or missing gives one clear line, and the rest goes on.

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::net::TcpListener;
use std::time::Duration;
use tests::harness::agent::{PATIENCE, Scratch, binary, clean};
use tests::harness::btf;
use tests::harness::cli::{geophone, one_line, says};
use tests::harness::command::said;
use tests::harness::{Agent, Scene, Setup, command, equal, together};
use tests::need_root;

/// Cause: mistakes in a configuration file. Said: file, line, what is wrong and what was meant.
#[test]
fn broken_configurations() -> Result<()> {
    let scratch = Scratch::new()?;
    for (name, content, words) in [
        (
            "a.yaml",
            "probes:\n  tcp:\n    enabeld: true\n",
            &["a.yaml:3", "enabeld", "enabled"][..],
        ),
        ("b.yaml", "probes:\n  tcp: [\n", &["b.yaml:"]),
        (
            "c.yaml",
            "limits:\n  ring_bytes: 100000\n",
            &["c.yaml:2", "ring_bytes", "power of two"],
        ),
        ("d.yaml", "limits:\n  pairs: 5\n", &["d.yaml:2", "pairs", "64"]),
        (
            "e.yaml",
            "peers:\n- {name: x, cidrs: [10.0.0.1/8]}\n",
            &["e.yaml:2", "10.0.0.0/8"],
        ),
        ("f.yaml", "region: a\nregion: b\n", &["f.yaml:2", "region"]),
        ("g.yaml", "\u{1b}[31m: 1\n", &["g.yaml:1"]),
    ] {
        let file = scratch.write(name, content)?;
        let file = file.to_string_lossy();
        for (arguments, status) in [
            (["config", "validate", &*file], 1),
            (["run", "--config", &*file], 2),
        ] {
            let out = geophone(&arguments)?;
            let line = one_line(&out).with_context(|| content.to_owned())?;
            equal("exit status", out.status.code(), Some(status)).context(line.clone())?;
            says(&line, words)?;
            ensure!(
                !line.chars().any(char::is_control),
                "control characters: {line:?}"
            );
        }
    }
    let line = one_line(&geophone(&["run", "--config", "/nowhere.yaml"])?)?;
    says(&line, &["/nowhere.yaml"])?;
    let line = one_line(&geophone(&["run", "--set", "probes.tpc.flows=true"])?)?;
    says(&line, &["tpc", "tcp"])
}

/// Cause: an address that the world can reach, without TLS and token. Said: what it takes.
#[test]
fn an_open_door() -> Result<()> {
    let line = one_line(&geophone(&["run", "--listen", "0.0.0.0:9779", "--for", "1s"])?)?;
    says(&line, &["0.0.0.0:9779", "tls", "token_file"])
}

/// Cause: something else has the port. Said: which, before anything is attached.
#[test]
fn a_port_in_use() -> Result<()> {
    need_root!();
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let at = taken.local_addr()?.to_string();
    let line = one_line(&geophone(&["run", "--listen", &at, "--for", "1s"])?)?;
    says(&line, &[&at, "in use"])
}

/// Cause: a second agent on the same port. Said: that; the first does not notice.
#[test]
fn a_second_agent() -> Result<()> {
    need_root!();
    let first = Agent::start()?;
    let line = one_line(&geophone(&[
        "run",
        "--listen",
        &first.at.to_string(),
        "--for",
        "1s",
    ])?)?;
    says(&line, &[&first.at.to_string(), "in use"])?;
    first.after(2)?.lawful()?;
    first.stop()?;
    Ok(())
}

/// That the agent goes on without its programs, says why in one line that has these words, and tells of interfaces.
fn goes_on_without_programs(agent: Agent, words: &[&str]) -> Result<()> {
    agent.until(|s| {
        ensure!(
            s.sum("geophone_netdev_bytes_total", &[("device", "lo")]) > 0,
            "netdev does not go on"
        );
        ensure!(
            s.series("geophone_tcp_bytes_total", &[]).is_empty(),
            "tcp goes on"
        );
        Ok(())
    })?;
    equal("healthz", agent.get("/healthz", "*/*")?.status, 200)?;
    command::promtool(&agent.metrics()?)?;
    let programs = agent.status()?["programs"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    for program in &programs {
        ensure!(program["verdict"] != "attached", "{program}");
    }
    let log = agent.stop()?;
    let found: Vec<&str> = log
        .lines()
        .filter(|line| words.iter().all(|word| line.contains(word)))
        .collect();
    ensure!(found.len() == 1, "not one line with {words:?}, but: {log}");
    let bad = log
        .lines()
        .filter(|l| l.contains("ERROR") || l.contains("WARN"))
        .count();
    ensure!(bad == 1, "{bad} complaints: {log}");
    Ok(())
}

/// `geophone check` of the same: exit status 1, and the same words.
fn check_says(geophone: &[&str], words: &[&str]) -> Result<()> {
    let (program, rest) = geophone.split_first().context("no program")?;
    let check = |more: &[&str]| clean(program).args(rest).arg("check").args(more).output();
    let out = check(&["--json"])?;
    equal("exit status", out.status.code(), Some(1))?;
    let report: Value = serde_json::from_slice(&out.stdout).with_context(|| said(&out))?;
    equal("ok", report["ok"].as_bool(), Some(false))?;
    let text = report.to_string();
    says(&text, words)?;
    let plain = said(&check(&[])?);
    says(&plain, words)
}

/// Cause: no kernel types. Said: that, and what would help. Seen: interfaces, and by sock_ops what that can tell of
/// connections: how many, to whom, their bytes.
#[test]
fn no_btf() -> Result<()> {
    need_root!();
    together(vec!["/dev/null", "/nowhere/vmlinux"], |file| {
        let binary = binary();
        let binary = binary.to_string_lossy();
        check_says(&[&binary, "--btf", file], &["BTF", file])?;
        let agent = Setup::new().arg("--btf").arg(file).start()?;
        let mut scene = Scene::alone("sink")?;
        scene.storm(200, 2, 1000)?;
        agent
            .settles(|s| {
                ensure!(
                    s.sum("geophone_netdev_bytes_total", &[("device", "lo")]) > 0,
                    "netdev does not go on"
                );
                let own = ("subject", scene.client.name());
                for (outcome, count) in [("opened", 200), ("closed", 200), ("failed", 0)] {
                    let what = [own, ("outcome", outcome)];
                    equal(outcome, s.sum("geophone_tcp_connections_total", &what), count)?;
                }
                let sent = [own, ("direction", "transmit")];
                equal("bytes", s.sum("geophone_tcp_bytes_total", &sent), 200_000)?;
                equal("live", s.sum("geophone_tcp_connections", &[own]), 0)?;
                s.lawful()
            })
            .with_context(|| agent.log())?;
        for program in agent.status()?["programs"].as_array().into_iter().flatten() {
            let tracing = program["hook"].as_str().unwrap_or_default().starts_with("tp_btf");
            ensure!(!tracing || program["verdict"] == "unsupported", "{program}");
        }
        let log = agent.stop()?;
        let found = log.lines().filter(|line| line.contains(file)).count();
        ensure!(found == 1, "{found} lines name {file}: {log}");
        for line in log
            .lines()
            .filter(|l| l.contains(" WARN ") || l.contains(" ERROR "))
        {
            ensure!(line.contains(file) || line.contains("unsupported"), "{line}");
        }
        Ok(())
    })?;
    Ok(())
}

/// Cause: kernel types that are garbage, at any length. Said: that; it never panics.
#[test]
fn garbage_btf() -> Result<()> {
    need_root!();
    let scratch = Scratch::new()?;
    let real = std::fs::read("/sys/kernel/btf/vmlinux")?;
    let half = real.len() / 2;
    for (name, bytes) in [
        ("header", real.get(..24).unwrap_or_default().to_vec()),
        ("half", real.get(..half).unwrap_or_default().to_vec()),
        (
            "noise",
            (0..50_000u32)
                .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
                .collect(),
        ),
        ("noisy", {
            let mut noisy = real.clone();
            for (i, byte) in noisy.iter_mut().enumerate().skip(24).step_by(97) {
                *byte ^= i as u8;
            }
            noisy
        }),
    ] {
        let file = scratch.write(name, bytes)?;
        let out = clean(binary())
            .args(["check", "--json", "--btf"])
            .arg(&file)
            .output()?;
        let text = said(&out);
        equal(name, out.status.code(), Some(1)).with_context(|| text.clone())?;
        ensure!(!text.contains("panicked"), "{name}: {text}");
        serde_json::from_slice::<Value>(&out.stdout).with_context(|| text)?;
    }
    Ok(())
}

/// Cause: kernel types that are wrong in one place, so that the verifier refuses what believes them. Said: which
/// programs and why, once, with the verifier's log for who wants it; the others go on.
#[test]
fn a_rejected_program() -> Result<()> {
    need_root!();
    let scratch = Scratch::new()?;
    let mut types = std::fs::read("/sys/kernel/btf/vmlinux")?;
    btf::misplace(&mut types, "sk_buff", "len")?;
    let file = scratch.write("btf", types)?;
    let file = file.to_string_lossy();
    let out = geophone(&["check", "--json", "--btf", &file])?;
    equal("exit status", out.status.code(), Some(1)).with_context(|| said(&out))?;
    let report: Value = serde_json::from_slice(&out.stdout)?;
    let programs = report["programs"].as_array().context("no programs")?;
    let of = |verdict: &str| {
        programs
            .iter()
            .filter(|p| p["verdict"] == verdict)
            .collect::<Vec<_>>()
    };
    let broken = of("broken");
    ensure!(!broken.is_empty(), "nothing is refused: {}", said(&out));
    for program in &broken {
        let text = |key: &str| program[key].as_str().unwrap_or_default();
        says(text("reason"), &["verifier refused it: ", "sk_buff"])?;
        says(text("remedy"), &["report"])?;
        ensure!(text("verifier_log").lines().count() > 3, "{program}");
    }
    ensure!(of("attached").len() >= 7, "{}", said(&out));
    let agent = Setup::new().arg("--btf").arg(&*file).start()?;
    let mut scene = Scene::alone("sink")?;
    scene.storm(100, 2, 1000)?;
    agent.settles(|s| {
        let opened = [("subject", scene.client.name()), ("outcome", "opened")];
        equal("opened", s.sum("geophone_tcp_connections_total", &opened), 100)?;
        let states = [("state", "broken")];
        equal(
            "broken",
            s.series("geophone_program_info", &states).len(),
            broken.len(),
        )?;
        s.lawful()
    })?;
    let log = agent.stop()?;
    let lines = log.lines().filter(|line| line.contains("verifier refused it"));
    equal("lines of the log", lines.count(), broken.len()).context(log.clone())
}

const WITHOUT: [&str; 3] = ["setpriv", "--bounding-set=-bpf,-perfmon,-sys_admin", "--"];

/// Cause: a removed capability. Said: which; interfaces go on.
#[test]
fn a_removed_capability() -> Result<()> {
    need_root!();
    let agent = Setup::new().through(WITHOUT).start()?;
    goes_on_without_programs(agent, &["CAP_BPF"])?;
    let binary = binary();
    let binary = binary.to_string_lossy();
    let words = [&WITHOUT[..], &[&binary]].concat();
    check_says(&words, &["CAP_BPF", "CAP_PERFMON"])
}

/// Without what only some programs and figures need.
const WITH_LESS: [&str; 3] = ["setpriv", "--bounding-set=-net_admin,-sys_admin", "--"];

/// Cause: the capabilities that load programs, and no others. Said: what it takes to have the rest; no price is made up.
#[test]
fn few_capabilities() -> Result<()> {
    need_root!();
    let agent = Setup::new()
        .through(WITH_LESS)
        .set("probes.udp.enabled", "true")
        .start()?;
    let mut scene = Scene::alone("sink")?;
    scene.storm(200, 2, 1000)?;
    agent.settles(|s| {
        let opened = [("subject", scene.client.name()), ("outcome", "opened")];
        equal("opened", s.sum("geophone_tcp_connections_total", &opened), 200)?;
        let state = [("program", "tcp_state")];
        ensure!(s.sum("geophone_program_runs_total", &state) > 200, "no runs");
        let priced = s.series("geophone_program_run_seconds_total", &state).len();
        equal("prices that nobody knows", priced, 0)
    })?;
    ensure!(agent.log().contains("CAP_SYS_ADMIN"), "{}", agent.log());
    let status = agent.status()?;
    let programs = status["programs"].as_array().context("programs")?;
    let egress = programs
        .iter()
        .find(|p| p["name"] == "udp_egress")
        .context("udp_egress")?;
    equal(
        "remedy",
        egress["remedy"].as_str(),
        Some("give the process CAP_NET_ADMIN"),
    )?;
    let binary = binary();
    let binary = binary.to_string_lossy();
    let words = [&WITH_LESS[..], &[&binary, "--set", "probes.udp.enabled=true"]].concat();
    check_says(&words, &["CAP_NET_ADMIN", "CAP_SYS_ADMIN"])
}

/// Runs a program where these file systems are not mounted.
const WITHOUT_MOUNTS: [&str; 5] = [
    "unshare",
    "--mount",
    "sh",
    "-c",
    "umount -l /sys/fs/cgroup/unified /sys/fs/cgroup /sys/kernel/tracing /sys/kernel/debug 2>/dev/null; exec \"$0\" \"$@\"",
];

/// Cause: no cgroup2 and no kernel types, which leaves sock_ops, which needs cgroups. Seen: connections; the agent mounts
/// cgroups for itself, nobody else sees them, and nothing is left behind, even after a kill.
#[test]
fn no_cgroup2_where_it_is_needed() -> Result<()> {
    need_root!();
    let mut agent = Setup::new()
        .through(WITHOUT_MOUNTS)
        .arg("--btf")
        .arg("/dev/null")
        .start()?;
    ensure!(agent.attached("tcp_sockops")?, "{}", agent.log());
    let mut scene = Scene::alone("sink")?;
    scene.storm(50, 2, 1000)?;
    agent.settles(|s| {
        for outcome in ["opened", "closed"] {
            let what = [("subject", scene.client.name()), ("outcome", outcome)];
            equal(outcome, s.sum("geophone_tcp_connections_total", &what), 50)?;
        }
        s.lawful()
    })?;
    let pid = agent.pid();
    let place = std::env::temp_dir().join(format!("geophone-cgroup2-{pid}"));
    let own = std::fs::read_to_string(format!("/proc/{pid}/mounts"))?;
    agent.signal(Signal::SIGKILL)?;
    agent.wait(PATIENCE)?;
    for (whose, mounts) in [
        ("its own", own),
        ("ours", std::fs::read_to_string("/proc/mounts")?),
    ] {
        ensure!(!mounts.contains("geophone-cgroup2"), "{whose} mounts: {mounts}");
    }
    ensure!(!place.exists(), "{} is left", place.display());
    Ok(())
}

/// Cause: no cgroup2, no tracefs, no debugfs. Seen: all programs attached, and connections counted.
#[test]
fn file_systems_that_are_absent() -> Result<()> {
    need_root!();
    let agent = Setup::new().through(WITHOUT_MOUNTS).start()?;
    agent.until(|s| {
        let attached = [("state", "attached"), ("probe", "tcp")];
        ensure!(
            s.series("geophone_program_info", &attached).len() >= 7,
            "{:?}",
            s.series("geophone_program_info", &[])
        );
        Ok(())
    })?;
    let mut scene = Scene::alone("sink")?;
    scene.storm(10, 1, 10)?;
    agent.settles(|s| {
        let opened = [("subject", scene.client.name()), ("outcome", "opened")];
        equal("opened", s.sum("geophone_tcp_connections_total", &opened), 10)
    })
}

/// Cause: a healthy machine. Said: so, exit status 0.
#[test]
fn a_machine_where_all_is_well() -> Result<()> {
    need_root!();
    let out = geophone(&["check", "--json"])?;
    equal("exit status", out.status.code(), Some(0)).with_context(|| said(&out))?;
    let report: Value = serde_json::from_slice(&out.stdout)?;
    let programs = report["programs"].as_array().context("no programs")?;
    ensure!(programs.len() >= 10, "{} programs", programs.len());
    for program in programs {
        let verdict = program["verdict"].as_str().unwrap_or_default();
        if program["required"] == true {
            ensure!(["attached", "off"].contains(&verdict), "{program}");
        }
        ensure!(verdict != "broken", "{program}");
        if verdict != "attached" {
            let why = program["reason"].as_str().unwrap_or_default();
            ensure!(!why.is_empty(), "no reason: {program}");
        }
    }
    Ok(())
}

/// Cause: clients that speak no HTTP, or too much of it. Seen: the agent does not mind.
#[test]
fn clients_that_misbehave() -> Result<()> {
    use std::io::{Read as _, Write as _};
    need_root!();
    let agent = Agent::start()?;
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(1 << 20));
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(20_000));
    for request in [
        "\0\0\0\0",
        "GET",
        "GET /metrics HTTP/9.9\r\n\r\n",
        "POST /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello",
        "GET /../../etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "GET /metrics HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        "GET /api/v1/flows?for=9999999999d HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "GET /api/v1/flows?for=-1s HTTP/1.1\r\nHost: localhost\r\n\r\n",
        &long,
        &many,
    ] {
        let mut stream = std::net::TcpStream::connect(agent.at)?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        // It may close while we are still talking.
        let _ = stream.write_all(request.as_bytes());
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer);
        let start: String = request.chars().take(40).collect();
        ensure!(
            !answer.starts_with("HTTP/1.1 2"),
            "{start:?} is answered by {answer}"
        );
    }
    agent.after(1)?.lawful()?;
    equal("healthz", agent.get("/healthz", "*/*")?.status, 200)?;
    agent.signal(Signal::SIGINT)?;
    Ok(())
}
