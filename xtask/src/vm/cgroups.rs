//! What must hold of two units with limits that the guest script made.

use anyhow::{Context, Result, ensure};

use super::boot::Seen;
use super::judge::{Check, check, ended};
use super::report::{family, section};

/// The run of the agent, and what happened during it.
const RUN: &str = "run_cgroups";
const CAUSE: &str = "cause_run_cgroups";

/// Judges a boot as it comes.
pub fn checks(seen: &Seen) -> Vec<Check> {
    vec![check(
        "limits and wants of cgroups are the kernel's own",
        cgroups(seen),
    )]
}

/// A unit had a fifth of a CPU and 50 tasks below a slice of 64 MiB, whose limit is its own as well; another 32 MiB, of which it wanted
/// more. Both came after the agent, so what it has counted is what the kernel has.
fn cgroups(seen: &Seen) -> Result<String> {
    ended(seen, RUN)?;
    let truth = &section(seen, CAUSE)?.text;
    let kernel = |unit: &str, name: &str| -> Result<f64> {
        let begin = format!("{unit} {name} ");
        let line = truth.lines().find_map(|line| line.strip_prefix(&begin));
        let line = line.with_context(|| format!("the kernel says no {name} of {unit}: {truth}"))?;
        Ok(line.trim().parse()?)
    };
    let told = |name: &str, unit: &str, more: &[(&str, &str)]| -> Result<f64> {
        let subject = format!("{unit}.service");
        let wanted = [&[("subject", subject.as_str())][..], more].concat();
        let series = family(seen, RUN, name)?;
        let found = series.iter().find(|series| series.has(&wanted));
        Ok(found
            .with_context(|| format!("{name}: none of {wanted:?}"))?
            .number())
    };
    for (unit, resource, limit) in [
        ("limited", "memory", 67_108_864.0),
        ("limited", "tasks", 50.0),
        ("limited", "cpu", 0.2),
    ] {
        let seen = told("geophone_cgroup_limit", unit, &[("resource", resource)])?;
        ensure!(seen == limit, "{resource} of {unit}: {seen}, not {limit}");
    }
    let kills = told("geophone_cgroup_oom_kills_total", "eater", &[])?;
    let killed = kernel("eater", "oom_kill")?;
    ensure!(
        kills == killed && kills >= 1.0,
        "{kills} killed, the kernel says {killed}"
    );
    let full = [("resource", "cpu"), ("kind", "full")];
    let mut words = Vec::new();
    for (name, of_kernel, more) in [
        ("geophone_cgroup_cpu_seconds_total", "usage_usec", &[][..]),
        ("geophone_cgroup_throttled_seconds_total", "throttled_usec", &[]),
        ("geophone_cgroup_pressure_seconds_total", "full", &full),
    ] {
        let (seen, truth) = (told(name, "limited", more)?, kernel("limited", of_kernel)? / 1e6);
        ensure!(
            truth > 0.1,
            "{of_kernel}: {truth} s: it was not the cause that it should be"
        );
        ensure!(
            (seen - truth).abs() <= 0.001 * truth,
            "{name}: {seen} s, the kernel says {truth}"
        );
        words.push(format!("{of_kernel} {truth:.2} s"));
    }
    Ok(format!("{killed} killed, {}", words.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::boot::Section;

    const TRUTH: &str =
        "limited usage_usec 800000\nlimited throttled_usec 3000000\nlimited full 2900000\neater oom_kill 1\n";

    fn seen(change: impl Fn(String) -> String) -> Seen {
        let series = |name: &str, labels: &str, value: f64| {
            format!(
                r#"{{"name":"{name}","series":[{{"labels":{{"subject":"limited.service"{labels}}},"value":{value}}}]}}"#
            )
        };
        let limit = |unit: &str, resource: &str, value: f64| {
            format!(r#"{{"labels":{{"subject":"{unit}.service","resource":"{resource}"}},"value":{value}}}"#)
        };
        let limits = [
            limit("limited", "memory", 67_108_864.0),
            limit("limited", "tasks", 50.0),
            limit("limited", "cpu", 0.2),
        ]
        .join(",");
        let families = [
            format!(r#"{{"name":"geophone_cgroup_limit","series":[{limits}]}}"#),
            series("geophone_cgroup_oom_kills_total", "", 1.0).replace("limited", "eater"),
            series("geophone_cgroup_cpu_seconds_total", "", 0.8),
            series("geophone_cgroup_throttled_seconds_total", "", 3.0),
            series(
                "geophone_cgroup_pressure_seconds_total",
                r#","resource":"cpu","kind":"full""#,
                2.9,
            ),
        ]
        .join(",");
        let text = change(format!(r#"{{"families":[{families}]}}"#));
        let section = |text: String| Section { text, code: 0 };
        [
            (RUN, text),
            (CAUSE, TRUTH.to_owned()),
            ("ready_run_cgroups", String::new()),
        ]
        .map(|(name, text)| (name.to_owned(), section(text)))
        .into()
    }

    #[test]
    fn what_is_not_the_kernels_own_is_told() {
        let told = checks(&seen(|text| text)).remove(0);
        assert_eq!(
            told.outcome,
            Ok("1 killed, usage_usec 0.80 s, throttled_usec 3.00 s, full 2.90 s".to_owned())
        );
        for (word, other) in [
            ("\"value\":0.8}", "\"value\":0.7}"),
            ("\"value\":2.9}", "\"value\":3.9}"),
            ("67108864", "33554432"),
            ("\"value\":1}", "\"value\":2}"),
            ("\"tasks\"", "\"threads\""),
        ] {
            let wrong = seen(|text| text.replace(word, other));
            assert!(checks(&wrong).remove(0).outcome.is_err(), "{word} {other}");
        }
    }
}
