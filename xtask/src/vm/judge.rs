//! What must hold of what the guest script reported.

use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeMap;

use super::boot::Seen;
use super::report::{self, Series, Value, family, section};

/// netem's 40 ms and what emulation adds lie in these two buckets of scale 3: 2^(122/8) to 2^(124/8) µs.
const RTT_SECONDS: std::ops::Range<f64> = 0.0389..0.0464;

/// One statement about the guest.
pub struct Check {
    /// What is stated.
    pub name: &'static str,
    /// What was seen, or why it does not hold.
    pub outcome: Result<String, String>,
}

/// A statement and what became of it.
pub fn check(name: &'static str, outcome: Result<String>) -> Check {
    Check {
        name,
        outcome: outcome.map_err(|error| format!("{error:#}")),
    }
}

/// Judges a boot as it comes.
pub fn plain(release: &str, seen: &Seen) -> Vec<Check> {
    vec![
        check("kernel", kernel(release, seen)),
        check("every program attached or known to be unsupported", content(seen)),
        check("the agent ends well", ended(seen, "run")),
        check("round-trip time is netem's 40 ms", rtt(seen)),
        check("retransmits are the kernel's own", retransmits(seen)),
        check("both ends of a connection are one trace", traces(seen)),
        check("accept latency is measured (fexit)", accept(release, seen)),
        check("it ends well with tunnels", ended(seen, "run_tunnels")),
        check("tunnels of another network namespace are seen", elsewhere(seen)),
        check("a CPU that comes back is sampled again", hotplug(seen)),
        check("sock_ops without BTF and cgroups", without_cgroup2(seen)),
        check("its own cgroup2 is nobody else's", mounts(seen)),
        check("nothing stays attached", left(seen)),
    ]
}

/// Judges a boot with lockdown, of which `plain` is the same as it comes.
pub fn lockdown(release: &str, seen: &Seen, plain: &Seen) -> Vec<Check> {
    vec![
        check("kernel", kernel(release, seen)),
        check("nobody may read its memory", locked(seen)),
        check("what is refused says that it is lockdown", refused(seen, plain)),
        check("what needs no such read goes on", goes_on(seen, "run")),
        check("nothing stays attached", left(seen)),
    ]
}

fn kernel(release: &str, seen: &Seen) -> Result<String> {
    let text = &section(seen, "kernel")?.text;
    ensure!(text == release, "{text} booted, not {release}");
    let boot = section(seen, "boot").map_or("?", |boot| boot.text.as_str());
    Ok(format!("{text}, up after {boot} s"))
}

fn programs(seen: &Seen) -> Result<String> {
    let mut counts = [0; 3];
    for program in &report::programs(seen, "check")? {
        let reason = program.reason.as_deref().unwrap_or_default();
        match program.verdict.as_str() {
            "attached" => counts[0] += 1,
            "off" => counts[1] += 1,
            "unsupported" if !reason.is_empty() => counts[2] += 1,
            other => bail!("{}: {other}: {reason}", program.name),
        }
    }
    ensure!(counts[0] > 0, "no program is attached");
    Ok(format!(
        "{} attached, {} off, {} unsupported",
        counts[0], counts[1], counts[2]
    ))
}

/// `geophone check` is content.
fn content(seen: &Seen) -> Result<String> {
    let code = section(seen, "check")?.code;
    ensure!(code == 0, "exit code {code}");
    programs(seen)
}

pub fn ended(seen: &Seen, run: &str) -> Result<String> {
    ensure!(
        section(seen, &format!("ready_{run}"))?.code == 0,
        "it never was ready"
    );
    let code = section(seen, run)?.code;
    ensure!(code == 0, "exit code {code}");
    Ok("exit code 0".into())
}

fn rtt(seen: &Seen) -> Result<String> {
    let series = family(seen, "run", "geophone_tcp_rtt_seconds")?;
    // The transfer has by far the most samples; the other series is the guest asking the agent whether it is ready.
    let most = series
        .into_iter()
        .max_by(|a, b| a.count().total_cmp(&b.count()))
        .context("no series")?;
    let Value::Histogram { p50: Some(p50), .. } = most.value else {
        bail!("no p50");
    };
    ensure!(
        RTT_SECONDS.contains(&p50),
        "p50 is {p50} s of {} samples, not within {RTT_SECONDS:?}",
        most.count()
    );
    Ok(format!("p50 {:.1} ms of {} samples", p50 * 1e3, most.count()))
}

fn retransmits(seen: &Seen) -> Result<String> {
    let kernel = &section(seen, "retransmits")?.text;
    let kernel: Result<Vec<u64>, _> = kernel.split_whitespace().map(str::parse).collect();
    let kernel: u64 = kernel
        .context("the kernel's RetransSegs are no numbers")?
        .iter()
        .sum();
    ensure!(kernel > 0, "the kernel retransmitted nothing: netem did not lose");
    let told: f64 = family(seen, "run", "geophone_tcp_retransmits_total")?
        .iter()
        .map(Series::number)
        .sum();
    ensure!(told == kernel as f64, "geophone says {told}, the kernel {kernel}");
    Ok(format!("{kernel} segments"))
}

/// By the initial sequence numbers, where 40 ms and loss lie between the ends.
fn traces(seen: &Seen) -> Result<String> {
    let mut ends = BTreeMap::<&str, u32>::new();
    for id in section(seen, "traces")?.text.lines() {
        *ends.entry(id).or_default() += 1;
    }
    ensure!(
        ends.len() >= 2,
        "{} traces; iperf3 has two connections",
        ends.len()
    );
    ensure!(
        ends.values().all(|count| *count == 2),
        "not two ends each: {ends:?}"
    );
    Ok(format!("{} traces of two ends", ends.len()))
}

fn accept(release: &str, seen: &Seen) -> Result<String> {
    // fexit came to arm64 later: there it must be said.
    if release.starts_with("6.1.") && release.ends_with("arm64") {
        let mut programs = report::programs(seen, "check")?.into_iter();
        let program = programs.find(|p| p.name.starts_with("tcp_accept"));
        let program = program.context("no tcp_accept is listed")?;
        ensure!(
            program.verdict == "unsupported",
            "{} is {}",
            program.name,
            program.verdict
        );
        return Ok(format!("{}: unsupported", program.name));
    }
    let accepted: f64 = family(seen, "run", "geophone_tcp_accept_seconds")?
        .iter()
        .map(Series::count)
        .sum();
    // iperf3's control and data connections; the agent's own server has some as well.
    ensure!(accepted >= 2.0, "{accepted} connections accepted");
    Ok(format!("{accepted} connections"))
}

/// Five packets of a VXLAN were sent in namespace `a`, each with an ARP frame inside.
fn elsewhere(seen: &Seen) -> Result<String> {
    let series = family(seen, "run", "geophone_tunnel_packets_total")?;
    let wanted = [
        ("type", "vxlan"),
        ("id", "43"),
        ("netns", "a"),
        ("direction", "transmit"),
        ("class", "arp"),
    ];
    let sent: f64 = series
        .iter()
        .filter(|series| series.has(&wanted))
        .map(Series::number)
        .fold(0.0, |sum, n| sum + n);
    ensure!(sent == 5.0, "{sent} packets of 5");
    Ok(format!("{sent} packets"))
}

/// Twenty connections were opened to the agent and seen by it, and it ended well.
fn goes_on(seen: &Seen, run: &str) -> Result<String> {
    ended(seen, run)?;
    let opened: f64 = family(seen, run, "geophone_tcp_connections_total")?
        .iter()
        .filter(|series| series.has(&[("role", "client"), ("outcome", "opened")]))
        .map(Series::number)
        .fold(0.0, |sum, n| sum + n);
    ensure!(opened >= 20.0, "only {opened} connections were seen");
    Ok(format!("{opened} connections"))
}

/// Within two seconds of its return a CPU is sampled: of the two seconds that follow there are half of the ticks at least.
fn hotplug(seen: &Seen) -> Result<String> {
    let text = &section(seen, "hotplug")?.text;
    let numbers: Vec<f64> = text
        .lines()
        .filter_map(|line| line.trim_start_matches("\"samples\":").parse().ok())
        .collect();
    let [before, without, slow, quick, after, unaccounted] = *numbers else {
        bail!("not six numbers: {text}");
    };
    ensure!(
        (before, without, after, unaccounted) == (2.0, 1.0, 2.0, 0.0),
        "{before} CPUs, {without} without it, {after} at the end, {unaccounted} unaccounted"
    );
    ensure!(
        slow >= 97.0 && quick >= 97.0,
        "{slow} and {quick} samples in two seconds at 97 Hz"
    );
    Ok(format!("{slow} and {quick} samples in two seconds at 97 Hz"))
}

/// sock_ops sees connections, or says why it cannot; it is attached to a cgroup2 that the agent mounts for itself.
fn without_cgroup2(seen: &Seen) -> Result<String> {
    let programs = report::programs(seen, "check_no_cgroup2")?;
    let fallback = programs.into_iter().find(|p| p.name == "tcp_sockops");
    let fallback = fallback.context("no tcp_sockops is listed")?;
    let reason = fallback.reason.unwrap_or_default();
    let verdict = &fallback.verdict;
    ensure!(verdict == "attached", "tcp_sockops is {verdict}: {reason}");
    goes_on(seen, "run_no_cgroup2")
}

fn mounts(seen: &Seen) -> Result<String> {
    for when in ["mounts_during", "mounts_after"] {
        let text = &section(seen, when)?.text;
        ensure!(text.is_empty(), "{when}: {text}");
    }
    Ok("neither mount nor directory, while it runs and after".into())
}

fn locked(seen: &Seen) -> Result<String> {
    let text = &section(seen, "lockdown")?.text;
    ensure!(
        text.contains("[confidentiality]"),
        "/sys/kernel/security/lockdown is {text:?}"
    );
    Ok("lockdown=confidentiality".into())
}

/// What lockdown takes away names it, and that is not what connections are counted by.
fn refused(seen: &Seen, plain: &Seen) -> Result<String> {
    let counts = programs(seen)?;
    let before = report::programs(plain, "check")?;
    let ran = |name: &str| before.iter().any(|p| p.name == name && p.verdict == "attached");
    let mut taken = Vec::new();
    for program in report::programs(seen, "check")? {
        if program.verdict != "unsupported" || !ran(&program.name) {
            continue;
        }
        let reason = program.reason.unwrap_or_default();
        ensure!(
            reason.contains("lockdown"),
            "{} says only: {reason}",
            program.name
        );
        taken.push(program.name);
    }
    ensure!(!taken.is_empty(), "nothing is refused");
    for vital in ["tcp_state", "tcp_probe", "tcp_retransmit"] {
        ensure!(!taken.iter().any(|name| name == vital), "{vital} is refused");
    }
    Ok(format!("{counts}: {}", taken.join(", ")))
}

fn left(seen: &Seen) -> Result<String> {
    let section = section(seen, "left")?;
    ensure!(section.code == 0, "bpftool ended with {}", section.code);
    ensure!(
        section.text.is_empty(),
        "still loaded: {}",
        section.text.lines().next().unwrap_or_default()
    );
    Ok("no program is loaded".into())
}

#[cfg(test)]
mod tests {
    use super::{Check, lockdown, plain};
    use crate::vm::boot::{Section, Seen};

    const RUN: &str = r#"{"families":[
        {"name":"geophone_tcp_rtt_seconds","series":[
            {"labels":{"peer":"loopback"},"value":{"count":9,"sum":1,"p50":0.0001,"p99":1}},
            {"labels":{},"value":{"count":400,"sum":16,"p50":0.0407,"p99":0.05}}]},
        {"name":"geophone_tcp_retransmits_total","series":[
            {"labels":{"type":"fast"},"value":40},{"labels":{"type":"timeout"},"value":2}]},
        {"name":"geophone_tcp_connections_total","series":[
            {"labels":{"role":"client","outcome":"opened"},"value":20},
            {"labels":{"role":"server","outcome":"opened"},"value":7}]},
        {"name":"geophone_tunnel_packets_total","series":[
            {"labels":{"type":"vxlan","id":"43","netns":"a","direction":"transmit","class":"arp"},"value":5},
            {"labels":{"type":"vxlan","id":"43","netns":"","direction":"transmit","class":"arp"},"value":3}]},
        {"name":"geophone_tcp_accept_seconds","series":[{"labels":{},"value":{"count":2,"sum":0.1,"p50":0.05}}]}]}"#;
    const PROGRAMS: &str = r#"{"programs":[{"name":"tcp_state","probe":"tcp","verdict":"attached","reason":null},
        {"name":"drops_kfree","probe":"drops","verdict":"attached","reason":""},
        {"name":"b","probe":"tcp","verdict":"unsupported","reason":"no such hook","remedy":""}]}"#;
    const FALLBACK: &str =
        r#"{"programs":[{"name":"tcp_sockops","probe":"tcp","verdict":"attached","reason":""}]}"#;

    /// What a guest reports where all is well.
    fn good() -> Seen {
        [
            ("kernel", "6.1"),
            ("check", PROGRAMS),
            ("lockdown", "[none] integrity confidentiality"),
            ("run", RUN),
            ("retransmits", "40\n2\n0"),
            (
                "traces",
                "\"trace_id\":\"a1\"\n\"trace_id\":\"b2\"\n\"trace_id\":\"b2\"\n\"trace_id\":\"a1\"",
            ),
            ("ready_run", ""),
            ("ready_run_tunnels", ""),
            ("run_tunnels", ""),
            ("ready_run_no_cgroup2", ""),
            ("check_no_cgroup2", FALLBACK),
            ("run_no_cgroup2", RUN),
            ("mounts_during", ""),
            ("mounts_after", ""),
            ("hotplug", "2.0\n1.0\n\"samples\":151\n\"samples\":169\n2.0\n0.0"),
            ("left", ""),
        ]
        .map(|(name, text)| (name.to_owned(), said(text)))
        .into()
    }

    fn said(text: &str) -> Section {
        Section {
            text: text.to_owned(),
            code: 0,
        }
    }

    /// The same but for one section, in which one word is another.
    fn but(mut seen: Seen, section: &str, word: &str, other: &str) -> Seen {
        let text = &mut seen.get_mut(section).expect("a section").text;
        assert!(text.contains(word), "{text}");
        *text = text.replace(word, other);
        seen
    }

    fn failed(checks: Vec<Check>) -> Vec<&'static str> {
        let failed = checks.into_iter().filter(|check| check.outcome.is_err());
        failed.map(|check| check.name).collect()
    }

    #[test]
    fn a_boot_as_it_comes() {
        assert_eq!(failed(plain("6.1", &good())), Vec::<&str>::new());
        for (section, word, other, name) in [
            (
                "check",
                "unsupported",
                "broken",
                "every program attached or known to be unsupported",
            ),
            ("run", "0.0407", "0.05", "round-trip time is netem's 40 ms"),
            ("hotplug", ":169", ":9", "a CPU that comes back is sampled again"),
            (
                "run",
                "\"value\":5}",
                "\"value\":4}",
                "tunnels of another network namespace are seen",
            ),
            ("retransmits", "40", "41", "retransmits are the kernel's own"),
            (
                "traces",
                "b2\"\n\"trace_id\":\"a1",
                "b2\"\n\"trace_id\":\"a2",
                "both ends of a connection are one trace",
            ),
            (
                "check_no_cgroup2",
                "attached",
                "off",
                "sock_ops without BTF and cgroups",
            ),
            ("run_no_cgroup2", ":20", ":19", "sock_ops without BTF and cgroups"),
            (
                "mounts_during",
                "",
                "cgroup2 /tmp/x",
                "its own cgroup2 is nobody else's",
            ),
            (
                "mounts_after",
                "",
                "/tmp/geophone",
                "its own cgroup2 is nobody else's",
            ),
            ("left", "", "1: tracing", "nothing stays attached"),
        ] {
            assert_eq!(failed(plain("6.1", &but(good(), section, word, other))), [name]);
        }
        assert_eq!(failed(plain("6.1", &Seen::new())).len(), 13);
    }

    #[test]
    fn a_boot_with_lockdown() {
        let judged = |seen: Seen| failed(lockdown("6.1", &seen, &good()));
        let locked = || {
            but(
                good(),
                "lockdown",
                "[none] integrity confidentiality",
                "none [confidentiality]",
            )
        };
        let refused = |name: &str, reason: &str| {
            let was = if name == "drops_kfree" {
                r#""drops_kfree","probe":"drops","verdict":"attached","reason":"""#
            } else {
                r#""tcp_state","probe":"tcp","verdict":"attached","reason":null"#
            };
            let is = format!(r#""{name}","verdict":"unsupported","reason":"{reason}""#);
            but(locked(), "check", was, &is)
        };
        let names_it = "what is refused says that it is lockdown";
        assert_eq!(
            judged(refused("drops_kfree", "kernel lockdown")),
            Vec::<&str>::new()
        );
        assert_eq!(judged(refused("drops_kfree", "not permitted")), [names_it]);
        assert_eq!(judged(refused("tcp_state", "kernel lockdown")), [names_it]);
        assert_eq!(judged(locked()), [names_it]);
        let unlocked = but(
            refused("drops_kfree", "kernel lockdown"),
            "lockdown",
            "[confidentiality]",
            "confidentiality",
        );
        assert_eq!(judged(unlocked), ["nobody may read its memory"]);
    }
}
