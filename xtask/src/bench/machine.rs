//! Where and with what it was measured.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::child::Program;
use super::price::tracing_programs;
use super::proc::cpus;

fn line(text: &str) -> String {
    text.lines()
        .map(str::trim)
        .find(|l| !l.is_empty())
        .unwrap_or_default()
        .to_owned()
}

/// What a program says to a question about its version.
fn asked(words: &[&str]) -> String {
    Program::new(words.iter().copied())
        .finish()
        .map_or_else(|_| "?".into(), |t| line(&t))
}

fn file(path: &str) -> String {
    fs::read_to_string(path).map_or_else(|_| "?".into(), |t| t.trim().to_owned())
}

fn commit() -> String {
    let git =
        |args: &[&str]| asked(&[&["git", "-C", &crate::shell::root().display().to_string()], args].concat());
    let dirty = git(&["status", "--porcelain", "--untracked-files=no"]);
    let mark = if dirty.is_empty() || dirty == "?" {
        ""
    } else {
        ", changed since"
    };
    format!("{}{mark}", git(&["rev-parse", "--short=12", "HEAD"]))
}

/// Versions and settings, for the record.
pub fn describe(agent: &Path, settings: Value) -> Value {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo
        .lines()
        .find_map(|l| l.strip_prefix("model name"))
        .unwrap_or_default();
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory = memory
        .lines()
        .next()
        .and_then(|l| l.split_whitespace().nth(1)?.parse::<u64>().ok());
    let vulnerabilities: BTreeMap<String, String> = fs::read_dir("/sys/devices/system/cpu/vulnerabilities")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|f| Some((f.file_name().into_string().ok()?, file(f.path().to_str()?))))
        .filter(|(_, state)| state != "Not affected")
        .collect();
    let binary = fs::metadata(agent);
    let built = binary
        .as_ref()
        .ok()
        .and_then(|m| m.modified().ok()?.elapsed().ok());
    json!({
        "kernel": file("/proc/sys/kernel/osrelease"),
        "cpu": model.trim_start_matches([' ', '\t', ':']),
        "cpus": cpus(),
        "memory_bytes": memory.unwrap_or(0) * 1024,
        "mitigations": vulnerabilities,
        "load_before": file("/proc/loadavg"),
        "tracing_programs_of_others": tracing_programs(),
        "agent": agent,
        "agent_version": asked(&[&agent.display().to_string(), "--version"]),
        "agent_bytes": binary.map_or(0, |m| m.len()),
        "agent_built_seconds_ago": built.map(|t| t.as_secs()),
        "commit": commit(),
        "nginx": asked(&["sh", "-c", "nginx -v 2>&1"]),
        "wrk": asked(&["sh", "-c", "wrk -v 2>&1 | head -1; true"]),
        "iperf3": asked(&["iperf3", "--version"]),
        "bpftool": asked(&["bpftool", "version"]),
        "bpftrace": asked(&["bpftrace", "--version"]),
        "node_exporter": asked(&["sh", "-c", "prometheus-node-exporter --version 2>&1"]),
        "settings": settings,
    })
}
