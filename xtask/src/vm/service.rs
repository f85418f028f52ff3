//! geophone as a service: what the machine needs so that systemd is its first process, and what must hold of what
//! deploy/install.sh and the unit have made of it (xtask/vm/service.sh).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::boot::Seen;
use super::image::program;
use super::judge::{Check, check};
use super::report::{programs, section};
use super::userland::Userland;
use crate::shell::root;

/// What the administrator calls, and install.sh.
const PROGRAMS: [&str; 7] = [
    "systemctl",
    "journalctl",
    "getent",
    "useradd",
    "userdel",
    "groupadd",
    "groupdel",
];
/// Where Debian's systemd is.
const HOME: &str = "lib/systemd";
const DAEMONS: [&str; 2] = ["systemd", "systemd-journald"];
/// As few of its units as a host can have.
const UNITS: [&str; 17] = [
    "basic.target",
    "sysinit.target",
    "sockets.target",
    "paths.target",
    "timers.target",
    "slices.target",
    "local-fs.target",
    "local-fs-pre.target",
    "swap.target",
    "network.target",
    "network-online.target",
    "multi-user.target",
    "shutdown.target",
    "umount.target",
    "systemd-journald.service",
    "systemd-journald.socket",
    "systemd-journald-dev-log.socket",
];
/// What is made of the unit's six capabilities: 2, 12, 19, 34, 38, 39.
const CAPABILITIES: u64 = 1 << 2 | 1 << 12 | 1 << 19 | 1 << 34 | 1 << 38 | 1 << 39;

/// Adds systemd, and what is to be installed, to the initial file system.
pub fn stage(userland: &Userland, stage: &Path) -> Result<()> {
    for name in PROGRAMS {
        program(userland, name, stage)?;
    }
    let (home, units) = (Path::new("/").join(HOME), stage.join(HOME).join("system"));
    for wants in ["sysinit.target.wants", "multi-user.target.wants"] {
        fs::create_dir_all(units.join(wants))?;
    }
    let copy = |from: &Path, to: &Path| {
        fs::copy(from, to).with_context(|| format!("{}: run `cargo xtask setup test`", from.display()))
    };
    for name in DAEMONS {
        copy(&home.join(name), &stage.join(HOME).join(name))?;
        userland.libraries(&home.join(name), stage)?;
    }
    for name in UNITS {
        copy(&home.join("system").join(name), &units.join(name))?;
    }
    fs::write(
        units.join("guest.service"),
        include_str!("../../vm/guest.service"),
    )?;
    symlink("multi-user.target", units.join("default.target"))?;
    symlink(
        "../systemd-journald.service",
        units.join("sysinit.target.wants/systemd-journald.service"),
    )?;
    symlink(
        "../guest.service",
        units.join("multi-user.target.wants/guest.service"),
    )?;
    fs::write(stage.join("service.sh"), include_str!("../../vm/service.sh"))?;
    for directory in ["deploy/systemd", "docs/rules"] {
        fs::create_dir_all(stage.join("geophone").join(directory))?;
        for entry in fs::read_dir(root().join(directory))? {
            let path = entry?.path();
            if path.is_file() {
                let name = Path::new(directory).join(path.file_name().unwrap_or_default());
                fs::copy(&path, stage.join("geophone").join(name))?;
            }
        }
    }
    fs::copy(
        root().join("deploy/install.sh"),
        stage.join("geophone/deploy/install.sh"),
    )?;
    Ok(())
}

/// The checks.
pub fn checks(seen: &Seen) -> Vec<Check> {
    vec![
        check("install.sh installs and starts it", installed(seen)),
        check(
            "install.sh again changes nothing",
            says(seen, "again", &["nothing has changed"]),
        ),
        check("every program attached as by hand", as_by_hand(seen)),
        check(
            "it has the unit's user and capabilities and no more",
            threads(seen),
        ),
        check("no system call is refused", calls(seen)),
        check("what it keeps is its own and outlives it", kept(seen)),
        check("it reads its rules again", reloaded(seen)),
        check("it comes back when it is killed", killed(seen)),
        check("it ends in time and leaves nothing attached", stopped(seen)),
        check("an upgrade keeps the settings", upgraded(seen)),
        check(
            "a wrong setting is told in a line and not tried again",
            refused(seen),
        ),
        check("it is taken off", removed(seen)),
    ]
}

/// A section whose command succeeded and said all of this.
fn says(seen: &Seen, name: &str, words: &[&str]) -> Result<String> {
    let section = section(seen, name)?;
    ensure!(section.code == 0, "exit code {}: {}", section.code, section.text);
    for word in words {
        ensure!(
            section.text.contains(word),
            "{name}: no `{word}` in: {}",
            section.text
        );
    }
    Ok(words.join(", "))
}

/// How many seconds a command took, which succeeded or not.
fn took(seen: &Seen, name: &str) -> Result<f64> {
    let text = &section(seen, name)?.text;
    let line = text.lines().find_map(|line| line.strip_prefix("took "));
    let hundredths: f64 = line.context("no time")?.parse()?;
    Ok(hundredths / 100.0)
}

fn installed(seen: &Seen) -> Result<String> {
    says(
        seen,
        "install",
        &[
            "wrote /usr/local/bin/geophone",
            "made the user geophone",
            "geophone: runs",
        ],
    )?;
    says(seen, "ready", &[])?;
    says(seen, "active", &["active"])?;
    says(
        seen,
        "metrics",
        &[
            "geophone_tcp_rtt_seconds_count",
            "geophone_agent_cpu_seconds_total",
        ],
    )
}

/// The service's verdicts against those of root, all of whose rights `geophone check` has, on the same settings.
fn as_by_hand(seen: &Seen) -> Result<String> {
    let verdicts = |name: &str| -> Result<BTreeMap<String, String>> {
        let all = programs(seen, name)?.into_iter();
        Ok(all.map(|program| (program.name, program.verdict)).collect())
    };
    let (here, root) = (verdicts("status")?, verdicts("by_hand")?);
    let differ: Vec<String> = root
        .iter()
        .filter(|(name, verdict)| here.get(*name) != Some(verdict))
        .map(|(name, verdict)| format!("{name}: {verdict} by hand, {:?} as a service", here.get(name)))
        .collect();
    ensure!(
        differ.is_empty() && here.len() == root.len(),
        "{}",
        differ.join("; ")
    );
    let attached = here.values().filter(|verdict| *verdict == "attached").count();
    ensure!(attached > 0, "no program is attached");
    Ok(format!("{attached} of {} attached", here.len()))
}

/// A line of each kind: all threads are alike.
fn threads(seen: &Seen) -> Result<String> {
    let text = &section(seen, "threads")?.text;
    let mut lines = BTreeMap::<&str, BTreeSet<&str>>::new();
    for line in text.lines() {
        let (key, value) = line.split_once(':').context("no status")?;
        lines.entry(key).or_default().insert(value.trim());
    }
    let one = |key: &str| -> Result<&str> {
        let values = lines.get(key).with_context(|| format!("no {key}"))?;
        ensure!(values.len() == 1, "{key} differs between threads: {values:?}");
        values.first().copied().context("no value")
    };
    let user = one("Uid")?.split_whitespace().next().unwrap_or_default();
    ensure!(user != "0", "it runs as root");
    for key in ["CapBnd", "CapPrm", "CapEff"] {
        let has = u64::from_str_radix(one(key)?, 16)?;
        ensure!(has == CAPABILITIES, "{key} is {has:x}, not {CAPABILITIES:x}");
    }
    ensure!(one("NoNewPrivs")? == "1" && one("Seccomp")? == "2", "{text}");
    Ok(format!("user {user}, {CAPABILITIES:x}"))
}

fn calls(seen: &Seen) -> Result<String> {
    let text = &section(seen, "metrics_all")?.text;
    let refused: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with("geophone_agent_refused_calls_total{"))
        .collect();
    ensure!(refused.is_empty(), "{}", refused.join("; "));
    let unfiltered = text
        .lines()
        .find_map(|line| line.strip_prefix("geophone_agent_unfiltered_threads "));
    let unfiltered: f64 = unfiltered.context("nothing is said of threads")?.parse()?;
    ensure!(unfiltered == 0.0, "{unfiltered} threads have no filter");
    Ok("none, all threads have the filter".into())
}

fn kept(seen: &Seen) -> Result<String> {
    let state = says(
        seen,
        "state",
        &["drwxr-x---", "/var/lib/geophone", "/var/cache/geophone"],
    )?;
    says(seen, "remembered", &["geophone_agent_memory_bytes"])?;
    Ok(state)
}

fn reloaded(seen: &Seen) -> Result<String> {
    says(seen, "reload", &[])?;
    says(seen, "same", &[])?;
    says(seen, "rules", &["own:up"])
}

fn killed(seen: &Seen) -> Result<String> {
    says(seen, "killed", &[])?;
    let text = &section(seen, "killed")?.text;
    ensure!(text == "1", "restarts: {text}");
    Ok("one restart".into())
}

fn stopped(seen: &Seen) -> Result<String> {
    says(seen, "stop", &[])?;
    // Else it is `timeout`: it was killed.
    says(seen, "result", &["success"])?;
    let took = took(seen, "stop")?;
    // systemd has programs of its own: of devices and addresses of services.
    let text = &section(seen, "left_by_service")?.text;
    let left: Vec<&str> = text
        .lines()
        .filter(|line| line.contains(" name ") && !line.contains(" name sd_"))
        .collect();
    ensure!(left.is_empty(), "{}", left.join("; "));
    Ok(format!("{took:.1} s"))
}

fn upgraded(seen: &Seen) -> Result<String> {
    says(seen, "ready_new", &[])?;
    says(seen, "kept", &[])?;
    says(
        seen,
        "upgrade",
        &["wrote /usr/local/bin/geophone", "geophone: runs"],
    )
}

fn refused(seen: &Seen) -> Result<String> {
    let status = &section(seen, "refused")?.text;
    let line = "/etc/geophone/geophone.yaml:1: unknown key \"tpc\" in probes";
    ensure!(
        status.contains("Active: failed") && status.matches(line).count() == 1,
        "{status}"
    );
    let restarts = &section(seen, "restarts")?.text;
    ensure!(restarts == "0", "restarts: {restarts}");
    let upgrade = section(seen, "refused_upgrade")?;
    ensure!(
        upgrade.code != 0 && upgrade.text.contains("nothing was changed"),
        "{}",
        upgrade.text
    );
    says(seen, "mended", &[])?;
    says(seen, "ready_mended", &[])?;
    Ok("tried once".into())
}

fn removed(seen: &Seen) -> Result<String> {
    says(seen, "uninstall", &["are left"])?;
    says(seen, "purge", &["removed the user geophone"])?;
    says(seen, "gone", &[])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::boot::Section;

    fn seen(sections: &[(&str, &str)]) -> Seen {
        let section = |text: &str| Section {
            text: text.to_owned(),
            code: 0,
        };
        sections
            .iter()
            .map(|(name, text)| ((*name).to_owned(), section(text)))
            .collect()
    }

    #[test]
    fn verdicts_are_those_of_root() {
        let said = |a: &str, b: &str| {
            format!(
                "{{\"programs\":[{{\"name\":\"a\",\"verdict\":\"{a}\"}},{{\"name\":\"b\",\"verdict\":\"{b}\"}}]}}"
            )
        };
        let judged = |here: &str, root: &str| {
            as_by_hand(&seen(&[("status", here), ("by_hand", root)])).map_err(|e| e.to_string())
        };
        let root = said("attached", "off");
        assert_eq!(judged(&root, &root).unwrap(), "1 of 2 attached");
        let refused = judged(&said("unsupported", "off"), &root).unwrap_err();
        assert!(refused.contains("a: attached by hand"), "{refused}");
    }

    #[test]
    fn threads_are_alike_and_bounded() {
        let judged = |effective: &str, user: &str| {
            let text = format!(
                "CapBnd:\t000000c400081004\nCapEff:\t{effective}\nCapPrm:\t000000c400081004\n\
                 NoNewPrivs:\t1\nSeccomp:\t2\nUid:\t{user}\t{user}\n"
            );
            threads(&seen(&[("threads", &text)])).is_ok()
        };
        assert!(judged("000000c400081004", "999"));
        assert!(!judged("000000c400281004", "999"), "with SYS_ADMIN");
        assert!(!judged("000000c400081004\nCapEff:\t0", "999"), "they differ");
        assert!(!judged("000000c400081004", "0"));
    }

    #[test]
    fn only_systemd_has_programs_left() {
        let judged = |left: &str| {
            let sections = [
                ("stop", "took 90"),
                ("result", "success"),
                ("left_by_service", left),
            ];
            stopped(&seen(&sections)).is_ok()
        };
        assert!(judged(
            "9: cgroup_device  name sd_devices  tag 7e  gpl\n\txlated 4B"
        ));
        assert!(!judged("9: tracing  name tcp_state  tag 7e  gpl"));
    }
}
