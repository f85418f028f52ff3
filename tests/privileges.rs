//! Least privilege: what the manifests of deploy/ give is enough, each of it is needed, and what is needed no more is given up.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use tests::harness::agent::{Agent, Scratch, binary, clean};
use tests::harness::stacks::{MAIN, all_named, cc, named, seen, spin};
use tests::harness::tunnels::{vxlan, watching};
use tests::harness::{Link, Scene, Setup, Traffic, equal, unique};
use tests::need_root;

/// Everything that has programs, but for tunnels: there is none.
const PROBES: [&str; 6] = [
    "probes.dns.enabled=true",
    "probes.udp.enabled=true",
    "probes.sched.enabled=true",
    "probes.block.enabled=true",
    "probes.profile.enabled=true",
    "probes.profile.drops=true",
];

fn deploy(file: &str) -> Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(file);
    std::fs::read_to_string(&path).with_context(|| path.display().to_string())
}

/// Capabilities in a line that begins so, in setpriv's words.
fn listed(text: &str, from: &str) -> Result<BTreeSet<String>> {
    let mut lines = text.lines().map(str::trim);
    let line = lines.find_map(|line| line.strip_prefix(from).map(str::to_lowercase));
    let line = line.with_context(|| format!("no {from}"))?;
    let names = line.split([' ', ',', '[', ']']).filter(|name| !name.is_empty());
    Ok(names
        .map(|name| name.trim_start_matches("cap_").to_owned())
        .collect())
}

/// All that settings can ask for but traces: those of the systemd unit.
fn most() -> Result<BTreeSet<String>> {
    listed(&deploy("systemd/geophone.service")?, "AmbientCapabilities=")
}

/// Those of the DaemonSet as it comes: what the default settings need.
fn as_it_comes() -> Result<BTreeSet<String>> {
    let text = deploy("kubernetes/kustomize/base/geophone.yaml")?;
    let lines = text.lines().skip_while(|line| line.trim() != "add:").skip(1);
    let names = lines.map_while(|line| line.trim().strip_prefix("- ").map(str::to_lowercase));
    Ok(names.collect())
}

/// Root as a container has it: with these capabilities and no way to others.
fn as_container(capabilities: &BTreeSet<String>) -> Vec<String> {
    let list: Vec<String> = capabilities.iter().map(|name| format!("+{name}")).collect();
    vec![
        "setpriv".to_owned(),
        "--inh-caps=-all".to_owned(),
        format!("--bounding-set=-all,{}", list.join(",")),
        "--no-new-privs".to_owned(),
        "--".to_owned(),
    ]
}

/// What `geophone check` says with these, and these settings: whether all is well, and all that it says.
fn check(capabilities: &BTreeSet<String>, probes: &[&str]) -> Result<(bool, Value)> {
    let words = as_container(capabilities);
    let (program, rest) = words.split_first().context("no program")?;
    let mut command = clean(program);
    command
        .args(rest)
        .arg(binary())
        .args(["check", "--json", "--set", "store.kind=none"]);
    for probe in probes {
        command.args(["--set", probe]);
    }
    let out = command.output()?;
    let said: Value = serde_json::from_slice(&out.stdout).context("check --json")?;
    Ok((out.status.success(), said))
}

/// Programs that ought to run and do not, with what would help. What this kernel cannot do as root it cannot do here either.
fn refused(said: &Value) -> BTreeSet<(String, String)> {
    let programs = said["programs"].as_array().into_iter().flatten();
    let text = |program: &Value, name: &str| program[name].as_str().unwrap_or_default().to_owned();
    programs
        .filter(|program| matches!(program["verdict"].as_str(), Some("unsupported" | "broken")))
        .map(|program| (text(program, "name"), text(program, "remedy")))
        .collect()
}

/// Cause: the capabilities of the unit, and one fewer each time; those of the DaemonSet with the default settings. Seen: every
/// program that root can run runs; each is named when it is missing. The stack gives the unit's, the DaemonSet none of those for stacks.
#[test]
fn the_capabilities_are_enough_and_needed() -> Result<()> {
    need_root!("setpriv");
    let given = most()?;
    ensure!(given.len() >= 6 && !given.contains("sys_admin"), "{given:?}");
    let unit = deploy("systemd/geophone.service")?;
    equal("bound", listed(&unit, "CapabilityBoundingSet=")?, given.clone())?;
    let stack = deploy("stack/compose.yaml")?;
    equal("stack", listed(&stack, "cap_add: ")?, given.clone())?;
    let fewer = as_it_comes()?;
    let for_stacks: Vec<&str> = given.difference(&fewer).map(String::as_str).collect();
    ensure!(fewer.is_subset(&given), "{fewer:?}");
    equal("for stacks", for_stacks, vec!["dac_read_search", "sys_ptrace"])?;

    let all: BTreeSet<String> = [
        "bpf",
        "perfmon",
        "net_admin",
        "sys_ptrace",
        "dac_read_search",
        "syslog",
        "sys_admin",
    ]
    .map(str::to_owned)
    .into();
    let (well, root) = check(&all, &[])?;
    ensure!(well, "{root}");
    let (well, said) = check(&fewer, &[])?;
    ensure!(well, "{said}");
    equal("as it comes", refused(&said), refused(&root))?;
    let (well, root) = check(&all, &PROBES)?;
    ensure!(well, "{root}");
    let (well, said) = check(&given, &PROBES)?;
    ensure!(well, "{said}");
    equal("programs that do not run", refused(&said), refused(&root))?;
    for one in &given {
        let mut fewer = given.clone();
        fewer.remove(one);
        let (_, said) = check(&fewer, &PROBES)?;
        let name = format!("CAP_{}", one.to_uppercase());
        let facts = said["facts"].as_array().into_iter().flatten();
        let told = facts
            .filter_map(|fact| fact["value"].as_str())
            .any(|value| value.contains(&name));
        ensure!(told, "{name} is missing and not named: {said}");
        // The others are for names and stacks.
        if ["bpf", "perfmon", "net_admin"].contains(&one.as_str()) {
            let lost = refused(&said).len() > refused(&root).len() || said["engine_error"] != "";
            ensure!(lost, "{name} is not needed: {said}");
        }
    }
    Ok(())
}

/// Cause: an agent in a pid namespace of its own, and one in the host's. Seen: the former's `check` says what it cannot see, the other's
/// does not, and the DaemonSet as it comes is as the other.
#[test]
fn process_ids_are_the_hosts() -> Result<()> {
    need_root!("unshare");
    let told = |words: &[&str]| -> Result<bool> {
        let mut command = clean(words.first().context("no program")?);
        command.args(words.get(1..).unwrap_or_default());
        if words.len() > 1 {
            command.arg(binary());
        }
        let out = command
            .args(["check", "--json", "--set", "store.kind=none"])
            .output()?;
        let said: Value = serde_json::from_slice(&out.stdout).context("check --json")?;
        let mut facts = said["facts"].as_array().into_iter().flatten();
        Ok(facts.any(|fact| fact["name"] == "process ids" && fact["ok"] == false))
    };
    ensure!(
        told(&["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"])?,
        "not told"
    );
    let own = binary();
    let own = own.to_str().context("a strange path")?;
    let is_first = std::fs::read_link("/proc/self/ns/pid")?.as_os_str() == "pid:[4026531836]";
    equal("told on the host", told(&[own])?, !is_first)?;
    let daemon_set = deploy("kubernetes/kustomize/base/geophone.yaml")?;
    ensure!(
        daemon_set.contains("\n      hostPID: true\n"),
        "the DaemonSet has ids of its own"
    );
    Ok(())
}

/// Cause: an agent with the DaemonSet's capabilities; a datagram to a port where nobody listens. Seen: the function that dropped
/// it, by name, which takes the last of them.
#[test]
fn the_place_of_a_drop_has_a_name() -> Result<()> {
    need_root!("setpriv");
    let given = as_it_comes()?;
    let mut fewer = given.clone();
    fewer.remove("syslog");
    let sysctl = |name: &str| -> Result<i32> {
        Ok(std::fs::read_to_string(format!("/proc/sys/kernel/{name}"))?
            .trim()
            .parse()?)
    };
    // Else addresses are everybody's to see.
    let hidden = sysctl("kptr_restrict")? > 0 || sysctl("perf_event_paranoid")? > 1;
    for (capabilities, named) in [(&given, true), (&fewer, false)] {
        let link = Link::new()?;
        let mut traffic = Traffic::new("udp", &link.a.ns)?;
        let agent = Setup::new().through(as_container(capabilities)).start()?;
        let drops = agent.drops("2s", || {
            traffic.udp(&format!("{}:9", link.b.v4), 5, 100)?;
            Ok(())
        })?;
        let places: BTreeSet<&str> = drops
            .iter()
            .filter(|drop| drop["reason"] == "NO_SOCKET")
            .filter_map(|drop| drop["location"].as_str())
            .collect();
        ensure!(!places.is_empty(), "no drop is told: {drops:?}");
        let numbers = places.iter().all(|place| place.starts_with("0x"));
        ensure!(numbers != named || !hidden, "with SYSLOG: {named}: {places:?}");
    }
    Ok(())
}

/// A line of each of an agent's threads' status.
fn threads(agent: &Agent, field: &str) -> Result<BTreeSet<String>> {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", agent.pid()))?;
    let mut out = BTreeSet::new();
    for task in tasks.flatten() {
        // A thread may have ended meanwhile.
        let Ok(status) = std::fs::read_to_string(task.path().join("status")) else {
            continue;
        };
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        out.insert(line.context("no such line")?.trim().to_owned());
    }
    Ok(out)
}

fn only(value: &str) -> BTreeSet<String> {
    [value.to_owned()].into()
}

/// What it says that it keeps, in setpriv's words.
fn kept(agent: &Agent) -> Result<BTreeSet<String>> {
    let status = agent.status()?;
    let kept = status["privileges"]["kept"]
        .as_array()
        .context("nothing is told")?
        .clone();
    let names = kept.iter().filter_map(|kept| kept["capability"].as_str());
    Ok(names
        .map(|name| name.trim_start_matches("CAP_").to_lowercase())
        .collect())
}

/// No system call was refused, and each thread has its filter.
fn refused_nothing(agent: &Agent) -> Result<()> {
    let snapshot = agent.snapshot()?;
    let refused = snapshot.values("geophone_agent_refused_calls_total", "syscall");
    ensure!(refused.is_empty(), "refused: {refused:?}\n{}", agent.log());
    equal(
        "unfiltered",
        snapshot.number("geophone_agent_unfiltered_threads", &[])?,
        0.0,
    )
}

/// Cause: an agent with exactly the DaemonSet's capabilities and everything switched on; a tunnel that comes later, and a program
/// of another user that only he may read. Seen: the tunnel is watched, the program's functions have names, connections are
/// counted; all of the capabilities are kept, as all are needed; no system call was refused.
#[test]
fn all_that_is_promised_works_after_the_start() -> Result<()> {
    need_root!("setpriv", "cc");
    let given = most()?;
    let mut scene = Scene::echo()?;
    let mut setup = Setup::new()
        .inside(&scene.net.a.ns)
        .through(as_container(&given))
        .set("probes.profile.hz", "199");
    for probe in PROBES {
        setup = setup.arg("--set").arg(probe);
    }
    let agent = setup.start()?;
    equal("kept", kept(&agent)?, given)?;
    equal("no_new_privs", threads(&agent, "NoNewPrivs")?, only("1"))?;
    equal("filtered", threads(&agent, "Seccomp")?, only("2"))?;

    vxlan(&scene.net, 9, 4789)?;
    let scratch = Scratch::new()?;
    let source = spin("spinning") + MAIN;
    let program = cc(
        &scratch,
        &unique("foreign"),
        &source,
        &["-fno-omit-frame-pointer"],
    )?;
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o700))?;
    std::os::unix::fs::chown(&program, Some(65_534), Some(65_534))?;
    let mut nobody = Command::new("setpriv");
    nobody
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"])
        .arg(&program);
    let (name, _busy) = named(&program, &mut nobody)?;
    watching(&agent, &scene.net.a.device)?;
    seen(&agent, &name, all_named)?;
    scene.talk(&agent)?;
    refused_nothing(&agent)
}

/// Cause: agents with exactly what the DaemonSet has as it comes, without tunnels, and with traces; connections, a tunnel, and a peer that is
/// traced. Seen: each sees what its settings promise, keeps nothing that they need no more, and has no system call refused.
#[test]
fn each_set_of_the_chart_is_enough() -> Result<()> {
    need_root!("setpriv");
    let given = as_it_comes()?;
    let mut scene = Scene::echo()?;
    {
        let agent = Setup::new()
            .inside(&scene.net.a.ns)
            .through(as_container(&given))
            .start()?;
        vxlan(&scene.net, 9, 4789)?;
        watching(&agent, &scene.net.a.device)?;
        scene.talk(&agent)?;
        equal("kept", kept(&agent)?, given.clone())?;
        refused_nothing(&agent)?;
    }
    {
        let mut fewer = given.clone();
        ensure!(fewer.remove("net_admin"), "{given:?}");
        let agent = Setup::new()
            .set("probes.tunnel.enabled", "false")
            .through(as_container(&fewer))
            .start()?;
        scene.talk(&agent)?;
        refused_nothing(&agent)?;
    }
    let mut more = given.clone();
    more.insert("net_raw".to_owned());
    let to = scene.net.b.v4.to_string();
    for (capabilities, works) in [(&more, true), (&given, false)] {
        let agent = Setup::new()
            .config(format!(
                "peers:\n- {{name: far, cidrs: [{to}/32]}}\nprobes: {{path: {{active: {{peers: [far], interval: 10s}}}}}}\n"
            ))
            .inside(&scene.net.a.ns)
            .through(as_container(capabilities))
            .start()?;
        // Who has no address to trace has nothing to do.
        scene.chat()?;
        agent.until(|s| {
            let sent = s.sum("geophone_path_hop_probes_total", &[]);
            let errors = s.sum("geophone_path_trace_errors_total", &[]);
            ensure!(
                (sent > 0) == works && (errors > 0) != works,
                "{sent} probes, {errors} errors"
            );
            Ok(())
        })?;
        refused_nothing(&agent)?;
    }
    Ok(())
}

/// Cause: an agent that looks at nothing that comes later, with the unit's capabilities and with all of root's. Seen: no
/// thread has any of the first; of root's what the log tells, and no way back to the rest; connections are counted.
#[test]
fn what_nothing_needs_is_given_up() -> Result<()> {
    need_root!("setpriv");
    let given = most()?;
    let calm = || {
        Setup::new()
            .set("probes.tunnel.enabled", "false")
            .set("probes.drops.enabled", "false")
            .set("probes.node.enabled", "false")
    };
    let none = only("0000000000000000");
    let mut scene = Scene::echo()?;
    {
        let agent = calm().through(as_container(&given)).start()?;
        equal("kept", kept(&agent)?, BTreeSet::new())?;
        for set in ["CapEff", "CapPrm", "CapInh", "CapAmb"] {
            equal(set, threads(&agent, set)?, none.clone())?;
        }
        equal("filtered", threads(&agent, "Seccomp")?, only("2"))?;
        scene.talk(&agent)?;
        let said = agent
            .snapshot()?
            .values("geophone_agent_capabilities", "capability");
        equal("told", said, BTreeSet::new())?;
        refused_nothing(&agent)?;
        let log = agent.log();
        ensure!(
            log.contains("privileges from now on: no capability; 6 given up"),
            "{log}"
        );
    }
    {
        // SYS_ADMIN is kept where the kernel's statistics are off: it measures by it.
        let agent = calm().start()?;
        ensure!(
            kept(&agent)?.iter().all(|name| name == "sys_admin"),
            "{}",
            agent.log()
        );
        equal(
            "no way back",
            threads(&agent, "CapBnd")?,
            threads(&agent, "CapPrm")?,
        )?;
        equal("no_new_privs", threads(&agent, "NoNewPrivs")?, only("1"))?;
        scene.talk(&agent)?;
        refused_nothing(&agent)?;
    }
    let agent = calm()
        .set("security.drop_capabilities", "false")
        .set("security.seccomp", "false")
        .start()?;
    ensure!(kept(&agent)?.len() > 20, "{}", agent.log());
    equal("not filtered", threads(&agent, "Seccomp")?, only("0"))?;
    Ok(())
}
