//! The same list as a profile for containers, as runtimes read it (runc, containerd, CRI-O, Docker).

use crate::syscalls::{self, BOUNDED, Call, FAMILIES};
use serde_json::{Value, json};

/// EPERM.
const REFUSED: i32 = libc::EPERM;

/// What goes to deploy/container/seccomp.json: everything that the agent may be configured to do, and what it takes to get there.
pub fn profile() -> Value {
    let names = |calls: &[Call]| {
        let mut names: Vec<&str> = calls
            .iter()
            .map(|call| call.name)
            .filter(|name| *name != BOUNDED)
            .collect();
        names.sort_unstable();
        names
    };
    let mut rules = vec![json!({
        "names": names(&syscalls::all()),
        "action": "SCMP_ACT_ALLOW",
    })];
    rules.extend(FAMILIES.map(|family| {
        json!({
            "names": [BOUNDED],
            "action": "SCMP_ACT_ALLOW",
            "args": [{"index": 0, "value": family, "op": "SCMP_CMP_EQ"}],
        })
    }));
    rules.push(json!({
        "names": names(&syscalls::hostile()),
        "action": "SCMP_ACT_KILL_PROCESS",
    }));
    json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": REFUSED,
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"],
        "syscalls": rules,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn it_is_the_list() {
        let profile = profile();
        let of = |action: &str| -> BTreeSet<&str> {
            let rules = profile["syscalls"].as_array().unwrap().iter();
            rules
                .filter(|rule| rule["action"] == action)
                .flat_map(|rule| rule["names"].as_array().unwrap())
                .filter_map(Value::as_str)
                .collect()
        };
        let names = |calls: Vec<Call>| calls.into_iter().map(|call| call.name).collect::<BTreeSet<_>>();
        assert_eq!(of("SCMP_ACT_ALLOW"), names(syscalls::all()));
        assert_eq!(of("SCMP_ACT_KILL_PROCESS"), names(syscalls::hostile()));
        let sockets = profile["syscalls"].as_array().unwrap().iter();
        let bounded: Vec<_> = sockets.filter(|rule| rule["names"][0] == BOUNDED).collect();
        assert_eq!(bounded.len(), FAMILIES.len());
        assert!(bounded.iter().all(|rule| rule["args"][0]["value"].is_i64()));
    }
}
