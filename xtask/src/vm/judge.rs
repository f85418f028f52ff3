//! What must hold of what the guest script reported.

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use super::boot::{Section, Seen};

/// netem's 40 ms and what emulation adds lie in these two buckets of scale 3: 2^(122/8) to 2^(124/8) µs.
const RTT_SECONDS: std::ops::Range<f64> = 0.0389..0.0464;

/// One statement about the guest.
pub struct Check {
    /// What is stated.
    pub name: &'static str,
    /// What was seen, or why it does not hold.
    pub outcome: Result<String, String>,
}

/// `geophone check --json`.
#[derive(Deserialize)]
struct Programs {
    programs: Vec<Program>,
}

#[derive(Deserialize)]
struct Program {
    name: String,
    verdict: String,
    #[serde(default)]
    reason: Option<String>,
}

/// `geophone run --summary-json`.
#[derive(Deserialize)]
struct Summary {
    families: Vec<Family>,
}

#[derive(Deserialize)]
struct Family {
    name: String,
    series: Vec<Series>,
}

#[derive(Deserialize)]
struct Series {
    value: Value,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Value {
    Number(f64),
    Histogram { count: f64, p50: Option<f64> },
}

impl Series {
    fn count(&self) -> f64 {
        match self.value {
            Value::Histogram { count, .. } => count,
            Value::Number(_) => 0.0,
        }
    }
}

/// Judges one boot of a kernel.
pub fn judge(release: &str, seen: &Seen) -> Vec<Check> {
    let check = |name, outcome: Result<String>| Check {
        name,
        outcome: outcome.map_err(|error| format!("{error:#}")),
    };
    vec![
        check("kernel", kernel(release, seen)),
        check(
            "every program attached or known to be unsupported",
            programs(seen),
        ),
        check("the agent ends well", ended(seen)),
        check("round-trip time is netem's 40 ms", rtt(seen)),
        check("retransmits are the kernel's own", retransmits(seen)),
        check("accept latency is measured (fexit)", accept(seen)),
        check("nothing stays attached", left(seen)),
    ]
}

fn section<'a>(seen: &'a Seen, name: &str) -> Result<&'a Section> {
    seen.get(name)
        .with_context(|| format!("the guest reported no `{name}`"))
}

fn kernel(release: &str, seen: &Seen) -> Result<String> {
    let text = &section(seen, "kernel")?.text;
    ensure!(text == release, "{text} booted, not {release}");
    let boot = section(seen, "boot").map_or("?", |boot| boot.text.as_str());
    Ok(format!("{text}, up after {boot} s"))
}

fn programs(seen: &Seen) -> Result<String> {
    let section = section(seen, "check")?;
    let parsed: Programs = serde_json::from_str(&section.text).with_context(|| {
        format!(
            "`geophone check --json` (exit code {}) is not what was agreed",
            section.code
        )
    })?;
    ensure!(!parsed.programs.is_empty(), "no program is listed");
    let mut counts = [0; 3];
    for program in &parsed.programs {
        let reason = program.reason.as_deref().unwrap_or_default();
        match program.verdict.as_str() {
            "attached" => counts[0] += 1,
            "off" => counts[1] += 1,
            "unsupported" if !reason.is_empty() => counts[2] += 1,
            other => bail!("{}: {other}: {reason}", program.name),
        }
    }
    ensure!(counts[0] > 0, "no program is attached");
    ensure!(section.code == 0, "exit code {}", section.code);
    Ok(format!(
        "{} attached, {} off, {} unsupported",
        counts[0], counts[1], counts[2]
    ))
}

fn ended(seen: &Seen) -> Result<String> {
    ensure!(section(seen, "ready")?.code == 0, "it never was ready");
    let run = section(seen, "run")?;
    ensure!(run.code == 0, "exit code {}", run.code);
    Ok("exit code 0".into())
}

fn family(seen: &Seen, name: &str) -> Result<Vec<Series>> {
    let text = &section(seen, "run")?.text;
    let summary: Summary = serde_json::from_str(text).context("`--summary-json` is not what was agreed")?;
    let found = summary.families.into_iter().find(|family| family.name == name);
    Ok(found.with_context(|| format!("no {name} in the summary"))?.series)
}

fn rtt(seen: &Seen) -> Result<String> {
    let series = family(seen, "geophone_tcp_rtt_seconds")?;
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
    let told: f64 = family(seen, "geophone_tcp_retransmits_total")?
        .iter()
        .map(|series| match series.value {
            Value::Number(n) => n,
            Value::Histogram { .. } => 0.0,
        })
        .sum();
    ensure!(told == kernel as f64, "geophone says {told}, the kernel {kernel}");
    Ok(format!("{kernel} segments"))
}

fn accept(seen: &Seen) -> Result<String> {
    let accepted: f64 = family(seen, "geophone_tcp_accept_seconds")?
        .iter()
        .map(Series::count)
        .sum();
    // iperf3's control and data connections; the agent's own server has some as well.
    ensure!(accepted >= 2.0, "{accepted} connections accepted");
    Ok(format!("{accepted} connections"))
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
    use super::{Section, Seen, judge};

    fn seen(verdict: &str, p50: f64, retransmits: u64) -> Seen {
        let summary = format!(
            r#"{{"families":[{{"name":"geophone_tcp_rtt_seconds","series":[{{"labels":{{"peer":"loopback"}},"value":{{"count":9,
            "sum":1,"p50":0.0001,"p99":1}}}},{{"labels":{{}},"value":{{"count":400,"sum":16,"p50":{p50},"p99":0.05}}}}]}},
            {{"name":"geophone_tcp_retransmits_total","series":[{{"labels":{{"type":"fast"}},"value":{retransmits}}},
            {{"labels":{{"type":"timeout"}},"value":2}}]}},
            {{"name":"geophone_tcp_accept_seconds","series":[{{"labels":{{}},"value":{{"count":2,"sum":0.1,"p50":0.05}}}}]}}]}}"#
        );
        let check = format!(
            r#"{{"programs":[{{"name":"a","probe":"tcp","verdict":"attached","reason":null}},
            {{"name":"b","probe":"tcp","verdict":"{verdict}","reason":"no such hook","remedy":""}}]}}"#
        );
        let texts = [
            ("kernel", "6.1"),
            ("check", &check),
            ("run", &summary),
            ("retransmits", "40\n2\n0"),
            ("ready", ""),
            ("left", ""),
        ];
        texts
            .map(|(name, text)| {
                (
                    name.to_owned(),
                    Section {
                        text: text.to_owned(),
                        code: 0,
                    },
                )
            })
            .into()
    }

    fn failed(seen: &Seen) -> Vec<&'static str> {
        judge("6.1", seen)
            .into_iter()
            .filter(|check| check.outcome.is_err())
            .map(|check| check.name)
            .collect()
    }

    #[test]
    fn holds() {
        assert_eq!(failed(&seen("unsupported", 0.0407, 40)), Vec::<&str>::new());
    }

    #[test]
    fn does_not_hold() {
        assert_eq!(
            failed(&seen("broken", 0.0407, 40)),
            ["every program attached or known to be unsupported"]
        );
        assert_eq!(
            failed(&seen("off", 0.05, 40)),
            ["round-trip time is netem's 40 ms"]
        );
        assert_eq!(
            failed(&seen("off", 0.04, 41)),
            ["retransmits are the kernel's own"]
        );
        assert_eq!(failed(&Seen::new()).len(), 7);
    }
}
