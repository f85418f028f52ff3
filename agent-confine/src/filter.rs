//! The filter of system calls, for the kernel (seccomp).
//!
//! Two of them, as one has two answers: the first ends the process at what is plainly hostile; the second has a signal,
//! SIGSYS, for whatever is not in the list, and the agent's handler of it counts the call and lets it fail with EPERM.

use crate::syscalls::{self, BOUNDED, Call, FAMILIES, When};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};
use std::collections::BTreeMap;

/// What is to be allowed besides what always is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allowed {
    /// Stacks are taken.
    pub stacks: bool,
    /// Other network namespaces are looked at.
    pub namespaces: bool,
}

impl Allowed {
    /// Whether a call is allowed once the agent has started.
    pub fn has(self, call: &Call) -> bool {
        match call.when {
            When::Always => true,
            When::Stacks => self.stacks,
            When::Namespaces => self.namespaces,
            When::Start => false,
        }
    }
}

/// The programs for the kernel: first what ends the process, then what is allowed.
///
/// # Errors
///
/// One line: this architecture is none that seccompiler knows.
pub fn programs(allowed: Allowed) -> Result<[BpfProgram; 2], String> {
    let hostile = rules(&syscalls::hostile());
    let calls: Vec<Call> = syscalls::all()
        .into_iter()
        .filter(|call| allowed.has(call))
        .collect();
    let mut listed = rules(&calls);
    let family = |family: i32| {
        let family = u64::from(family.unsigned_abs());
        SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, family)
            .and_then(|condition| SeccompRule::new(vec![condition]))
    };
    let families: Result<Vec<_>, _> = FAMILIES.into_iter().map(family).collect();
    let families = families.map_err(|e| e.to_string())?;
    for call in calls.iter().filter(|call| call.name == BOUNDED) {
        listed.extend(call.number.map(|number| (number, families.clone())));
    }
    Ok([
        program(hostile, SeccompAction::Allow, SeccompAction::KillProcess)?,
        program(listed, SeccompAction::Trap, SeccompAction::Allow)?,
    ])
}

fn rules(calls: &[Call]) -> BTreeMap<i64, Vec<SeccompRule>> {
    calls
        .iter()
        .filter_map(|call| Some((call.number?, Vec::new())))
        .collect()
}

fn program(
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    otherwise: SeccompAction,
    matched: SeccompAction,
) -> Result<BpfProgram, String> {
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(|e| e.to_string())?;
    let filter = SeccompFilter::new(rules, otherwise, matched, arch).map_err(|e| e.to_string())?;
    BpfProgram::try_from(filter).map_err(|e| e.to_string())
}

/// Applies them to all threads of this process, for good, and sets no_new_privs. SIGSYS must have its handler by now, here and
/// in each program that this one starts.
///
/// # Errors
///
/// One line: what the kernel says.
pub fn apply(allowed: Allowed) -> Result<(), String> {
    for program in &programs(allowed)? {
        seccompiler::apply_filter_all_threads(program).map_err(|e| e.to_string())?;
    }
    Ok(())
}

/// The same for the process that reads symbols.
///
/// # Errors
///
/// As of [`apply`].
pub fn apply_reader() -> Result<(), String> {
    let program = program(
        rules(&syscalls::reader()),
        SeccompAction::Trap,
        SeccompAction::Allow,
    )?;
    seccompiler::apply_filter_all_threads(&program).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_fit_the_kernel() {
        let everything = Allowed {
            stacks: true,
            namespaces: true,
        };
        for allowed in [Allowed::default(), everything] {
            for program in programs(allowed).unwrap() {
                // BPF_MAXINSNS.
                assert!((10..4096).contains(&program.len()), "{}", program.len());
            }
        }
    }

    #[test]
    fn what_is_not_needed_is_not_allowed() {
        let find = |name: &str| {
            syscalls::all()
                .into_iter()
                .find(|call| call.name == name)
                .unwrap()
        };
        let (none, stacks) = (
            Allowed::default(),
            Allowed {
                stacks: true,
                namespaces: false,
            },
        );
        for name in ["execve", "perf_event_open"] {
            assert!(!none.has(&find(name)) && stacks.has(&find(name)), "{name}");
        }
        assert!(!stacks.has(&find("setns")));
        // It is the last that is done at the start.
        assert!(!none.has(&find("seccomp")) && !none.has(&find("capset")) && !stacks.has(&find("setuid")));
        assert!(none.has(&find("bpf")));
    }
}
