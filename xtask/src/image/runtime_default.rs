//! A runtime's default profile of system calls, as containers-common (CRI-O, podman) and Docker write theirs down: its rules
//! depend on capabilities, architecture and kernel. What a runtime makes of it for one container.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::arch::Arch;

/// Where Debian has that of containers-common.
pub const DEBIAN: &str = "/usr/share/containers/seccomp.json";

/// Reads a profile.
pub fn read(file: &Path) -> Result<Value> {
    let text = std::fs::read(file).with_context(|| file.display().to_string())?;
    serde_json::from_slice(&text).with_context(|| file.display().to_string())
}

/// The profile as later runtimes have it, as far as it is about the agent: who has `BPF` may call `bpf`, who has `PERFMON`
/// `perf_event_open`. Debian's is of 2022, when both were for `SYS_ADMIN`.
pub fn later(mut profile: Value) -> Value {
    let given = [("bpf", "CAP_BPF"), ("perf_event_open", "CAP_PERFMON")];
    let rules = profile["syscalls"].as_array_mut().into_iter().flatten();
    for names in rules.filter_map(|rule| rule["names"].as_array_mut()) {
        names.retain(|name| given.iter().all(|(call, _)| name != call));
    }
    let rules = given.map(|(call, capability)| {
        json!({"names": [call], "action": "SCMP_ACT_ALLOW", "includes": {"caps": [capability]}})
    });
    if let Some(all) = profile["syscalls"].as_array_mut() {
        all.extend(rules);
    }
    profile
}

/// `linux.seccomp` of a container with these capabilities.
pub fn of(profile: &Value, held: &[String], arch: Arch) -> Value {
    let native = match arch {
        Arch::Amd64 => "SCMP_ARCH_X86_64",
        Arch::Arm64 => "SCMP_ARCH_AARCH64",
    };
    let maps = profile["archMap"].as_array().into_iter().flatten();
    let own = maps.filter(|map| map["architecture"] == native);
    let others = own.flat_map(|map| map["subArchitectures"].as_array().into_iter().flatten());
    let architectures: Vec<Value> = std::iter::once(json!(native)).chain(others.cloned()).collect();
    let rules = profile["syscalls"].as_array().into_iter().flatten();
    let rules = rules.filter(|rule| applies(rule, held, arch.name())).map(|rule| {
        let mut own = json!({
            "names": if rule["names"].is_array() { rule["names"].clone() } else { json!([rule["name"]]) },
            "action": rule["action"],
        });
        for (key, has) in [
            ("args", rule["args"].is_array()),
            ("errnoRet", rule["errnoRet"].is_number()),
        ] {
            if has {
                own[key] = rule[key].clone();
            }
        }
        own
    });
    // An empty list is a mistake to runc.
    let rules: Vec<Value> = rules.filter(|rule| rule["names"] != json!([])).collect();
    let mut out = json!({
        "defaultAction": profile["defaultAction"],
        "architectures": architectures,
        "syscalls": rules,
    });
    if profile["defaultErrnoRet"].is_number() {
        out["defaultErrnoRet"] = profile["defaultErrnoRet"].clone();
    }
    out
}

/// Whether a rule is for such a container: all that it includes, and nothing that it excludes. A `minKernel` is 4.8 at most, and the
/// agent's is later.
fn applies(rule: &Value, held: &[String], arch: &str) -> bool {
    let list = |side: &str, what: &str| -> Vec<&str> {
        let all = rule[side][what].as_array().into_iter().flatten();
        all.filter_map(Value::as_str).collect()
    };
    let holds = |name: &&str| held.iter().any(|held| held == name);
    let arches = list("includes", "arches");
    list("includes", "caps").iter().all(holds)
        && !list("excludes", "caps").iter().any(holds)
        && (arches.is_empty() || arches.contains(&arch))
        && !list("excludes", "arches").contains(&arch)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile() -> Value {
        json!({
            "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38, "defaultErrno": "ENOSYS",
            "archMap": [
                {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]},
                {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": null}
            ],
            "syscalls": [
                {"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [], "comment": "", "includes": {}, "excludes": {}},
                {"names": ["arch_prctl"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["amd64", "x32"]}},
                {"names": ["bpf", "setns"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
                {"names": ["bpf", "setns"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1, "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
                {"name": "ptrace", "action": "SCMP_ACT_ALLOW", "args": null, "includes": {"minKernel": "4.8"}},
                {"names": ["clone"], "action": "SCMP_ACT_ALLOW", "excludes": {"caps": ["CAP_SYS_ADMIN"], "arches": ["s390"]},
                 "args": [{"index": 0, "value": 1, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]}
            ]
        })
    }

    fn shown(made: &Value) -> Vec<String> {
        let rules = made["syscalls"].as_array().unwrap().iter();
        rules
            .map(|rule| format!("{} {} {}", rule["names"], rule["action"], rule["errnoRet"]))
            .collect()
    }

    #[test]
    fn rules_are_those_of_the_container() {
        let held = ["CAP_BPF".to_owned()];
        let made = of(&profile(), &held, Arch::Amd64);
        assert_eq!(made["defaultErrnoRet"], 38);
        assert_eq!(
            made["architectures"],
            json!(["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"])
        );
        assert_eq!(
            shown(&made),
            [
                r#"["read"] "SCMP_ACT_ALLOW" null"#,
                r#"["arch_prctl"] "SCMP_ACT_ALLOW" null"#,
                r#"["bpf","setns"] "SCMP_ACT_ERRNO" 1"#,
                r#"["ptrace"] "SCMP_ACT_ALLOW" null"#,
                r#"["clone"] "SCMP_ACT_ALLOW" null"#,
            ]
        );
        assert_eq!(made["syscalls"][4]["args"][0]["op"], "SCMP_CMP_MASKED_EQ");
        let made = of(&profile(), &["CAP_SYS_ADMIN".to_owned()], Arch::Arm64);
        assert_eq!(made["architectures"], json!(["SCMP_ARCH_AARCH64"]));
        assert_eq!(
            shown(&made),
            [
                r#"["read"] "SCMP_ACT_ALLOW" null"#,
                r#"["bpf","setns"] "SCMP_ACT_ALLOW" null"#,
                r#"["ptrace"] "SCMP_ACT_ALLOW" null"#,
            ]
        );
    }

    #[test]
    fn later_ones_ask_for_the_capability() {
        let held = ["CAP_BPF".to_owned()];
        let made = of(&later(profile()), &held, Arch::Arm64);
        let rules = shown(&made);
        assert!(
            rules.contains(&r#"["setns"] "SCMP_ACT_ERRNO" 1"#.to_owned()),
            "{rules:?}"
        );
        assert_eq!(rules.last().unwrap(), r#"["bpf"] "SCMP_ACT_ALLOW" null"#);
    }
}
