//! `geophone check`: what works on this machine, and what would help where it does not.

use crate::app;
use crate::bpf::{State, Verdict, barred, engine, host};
use crate::config::{Config, PeersOf};
use crate::confine;
use crate::error::Result;
use crate::identity::names::Names;
use crate::identity::{kubernetes, runtimes};
use crate::mountinfo;
use crate::record::Source;
use crate::stacks::interpreters::{self, Interpreter};
use crate::ui::print::table;
use agent_kube::{ALL_PODS, Right};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The Kubernetes API is waited for so long.
const ANSWER: Duration = Duration::from_secs(3);

/// A fact about the machine.
#[derive(Clone, Debug, Serialize)]
pub struct Fact {
    /// What.
    pub name: &'static str,
    /// How it is.
    pub value: String,
    /// False: something that was asked for cannot work because of it.
    pub ok: bool,
    /// What would help; empty when nothing is wrong.
    pub remedy: String,
}

/// The whole answer.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Kernel, BTF, cgroups, lockdown, capabilities, and which of them are kept.
    pub facts: Vec<Fact>,
    /// Capabilities that are kept after the start, of those that this process has, and what for.
    pub kept: Vec<confine::Reason>,
    /// One verdict for each program.
    pub programs: Vec<Verdict>,
    /// Interpreters that run here.
    pub interpreters: Vec<Interpreter>,
    /// Why there is no kernel side at all; empty = there is.
    pub engine_error: String,
    /// Everything that was asked for works.
    pub ok: bool,
}

/// Attaches everything for a moment, and detaches it again.
pub fn check(config: &Config, btf: Option<PathBuf>) -> Result<Report> {
    let mut facts = facts(btf.as_deref());
    let (object, built_by) = engine::object();
    facts.push(Fact {
        name: "eBPF object",
        value: format!("sha256:{object}, by {built_by}"),
        ok: true,
        remedy: String::new(),
    });
    facts.extend(calls_fact(barred::barred(), config.probes.profile.enabled));
    facts.extend(kubernetes_fact(config));
    let is_container = mountinfo::own("overlay").contains(&PathBuf::from("/"));
    facts.extend(host_fact(is_container, runtimes::host_error()));
    facts.extend(pid_fact(host::own_process_ids().as_deref()));
    // Names are none of its business, and the API may be slow.
    let collector = app::collector_of(config, btf, Source::Kernel, Names::default())?;
    let programs = collector.verdicts();
    let engine_error = collector.engine_error.clone();
    // The fallback does the work of tcp's required programs, if less well.
    let fallback = programs
        .iter()
        .any(|v| v.program == "tcp_sockops" && v.state == State::Attached);
    let failed = programs.iter().any(|v| {
        v.required && !matches!(v.state, State::Attached | State::Off) && !(fallback && v.probe == "tcp")
    });
    Ok(Report {
        ok: engine_error.is_empty() && !failed,
        facts,
        kept: confine::foretold(config),
        interpreters: interpreters::running(),
        programs,
        engine_error,
    })
}

fn facts(btf: Option<&Path>) -> Vec<Fact> {
    let fact = |name, value: String, ok, remedy: &str| Fact {
        name,
        value,
        ok,
        remedy: if ok { String::new() } else { remedy.to_owned() },
    };
    let path = host::btf_path(btf);
    let types = crate::bpf::btf::KernelTypes::load(&path);
    let capabilities = host::effective_capabilities();
    let missing = host::missing_capabilities(capabilities);
    let further: Vec<String> = host::further_missing(capabilities)
        .map(|(what, name)| format!("{what}: {name}"))
        .collect();
    let lockdown = host::lockdown();
    let cgroup = mountinfo::own("cgroup2");
    let tracefs = [mountinfo::own("tracefs"), mountinfo::own("debugfs")].concat();
    vec![
        fact("kernel", host::kernel_release(), true, ""),
        match types {
            Ok(_) => fact("BTF", path.display().to_string(), true, ""),
            Err(e) => fact(
                "BTF",
                e.to_string(),
                false,
                "use a kernel with CONFIG_DEBUG_INFO_BTF, or give its types by --btf",
            ),
        },
        fact(
            "capabilities",
            if !missing.is_empty() {
                format!("missing {}", missing.join(", "))
            } else if further.is_empty() {
                "sufficient".into()
            } else {
                format!("enough for the rest, but not for {}", further.join("; "))
            },
            missing.is_empty(),
            "run as root, or give the process these capabilities",
        ),
        fact(
            "lockdown",
            lockdown.clone(),
            lockdown != "confidentiality",
            "lockdown=confidentiality forbids reading kernel memory: boot with lockdown=integrity or none",
        ),
        fact(
            "cgroup2",
            cgroup.first().map_or_else(
                || "not mounted: containers and units are known by their processes only".into(),
                |p| p.display().to_string(),
            ),
            true,
            "",
        ),
        fact(
            "tracefs",
            tracefs
                .first()
                .map_or_else(|| "not mounted (not needed)".into(), |p| p.display().to_string()),
            true,
            "",
        ),
    ]
}

/// That the runtime of the container lets nobody make calls that are needed; perf events are of stacks only.
fn calls_fact(barred: &[&str], stacks: bool) -> Option<Fact> {
    (!barred.is_empty()).then(|| Fact {
        name: "system calls",
        value: barred::reason(&barred.join(" and ")),
        ok: !stacks && !barred.contains(&"bpf"),
        remedy: barred::REMEDY.into(),
    })
}

/// That the runtimes' files are not seen from a container; on the host they are those of our own root.
fn host_fact(is_container: bool, error: Option<std::io::Error>) -> Option<Fact> {
    let error = error.filter(|_| is_container)?;
    Some(Fact {
        name: "host's files",
        value: format!("/proc/1/root: {error}: no names of containers from their runtimes"),
        ok: false,
        remedy: "give the container hostPID and SYS_PTRACE (in the chart hostFiles: true), and on nodes with AppArmor appArmorProfile: {type: Unconfined}".into(),
    })
}

/// That the kernel's iterators, which are of the pid namespace of who opens them, do not show all files and threads.
fn pid_fact(own: Option<&Path>) -> Option<Fact> {
    let own = own?;
    Some(Fact {
        name: "process ids",
        value: format!(
            "{}, not the host's: connections that are open already are known at their first event only, threads that keep a CPU have no CPU \
             time, and where tcp_sweep is refused nothing sweeps silent connections",
            own.display()
        ),
        ok: false,
        remedy: "share the host's process ids: hostPID: true, --pid=host".into(),
    })
}

/// Whether the API answers, if it is asked.
fn kubernetes_fact(config: &Config) -> Option<Fact> {
    if !kubernetes::is_wanted(config) {
        return None;
    }
    let node = kubernetes::node(config);
    let fact = |value, ok, remedy: &str| Fact {
        name: "kubernetes",
        value,
        ok,
        remedy: remedy.to_owned(),
    };
    let api = match kubernetes::connect(config) {
        Ok(api) => api,
        Err(e) => {
            return Some(fact(
                e.to_string(),
                false,
                "mend kubernetes.kubeconfig, or set kubernetes.enabled: false",
            ));
        }
    };
    let is_complete = api.wait(ANSWER);
    // A list that is complete says nothing of the watch behind it.
    api.wait_for_rights(ANSWER);
    let rights = api.rights();
    let status = api.status();
    let (pods, reasons) = (
        status.pods,
        status.errors.into_keys().collect::<Vec<_>>().join(", "),
    );
    let denied: Vec<String> = rights
        .iter()
        .filter(|(.., right)| *right == Some(Right::Denied))
        .map(|(verb, kind, _)| right(verb, kind))
        .collect();
    if !denied.is_empty() {
        let denied = denied.join(", ");
        let known = match status.lists {
            0 => String::new(),
            _ => format!("{pods} pods of node {node}, but "),
        };
        let remedy = format!(
            "give the service account {denied}; without it {}",
            without(&denied)
        );
        return Some(fact(format!("{known}forbidden: {denied}"), false, &remedy));
    }
    Some(if !is_complete && status.lists == 0 {
        let remedy = "give the service account list and watch of pods; without it containers have the names of their runtime, or ids";
        fact(
            format!("node {node}: no list of its pods in {ANSWER:?} ({reasons})"),
            false,
            remedy,
        )
    } else if !is_complete && api.node().is_none() {
        let remedy = "give the service account get of nodes, and set NODE_NAME to spec.nodeName";
        fact(
            format!("{pods} pods, but node {node} is not known ({reasons}): no zone, no region"),
            false,
            remedy,
        )
    } else if !is_complete {
        let open = rights.iter().filter(|(.., right)| right.is_none());
        let open: Vec<String> = open.map(|(verb, kind, _)| right(verb, kind)).collect();
        fact(
            format!(
                "{pods} pods of node {node}, but peers are not known in {ANSWER:?} ({reasons} {})",
                open.join(", ")
            ),
            false,
            "give the service account list and watch of services and endpointslices, or set kubernetes.peers: false",
        )
    } else if pods == 0 {
        fact(
            format!("node {node} has no pods"),
            false,
            "set NODE_NAME to spec.nodeName by the downward API, or kubernetes.node",
        )
    } else {
        let addresses = match status.addresses {
            0 => String::new(),
            n if config.kubernetes.peers == PeersOf::Pods => format!(", {n} addresses of services and pods"),
            n => format!(", {n} addresses of services"),
        };
        fact(format!("{pods} pods of node {node}{addresses}"), true, "")
    })
}

/// A right as roles have it.
fn right(verb: &str, kind: &str) -> String {
    match kind {
        ALL_PODS => format!("{verb} of all pods"),
        kind => format!("{verb} of {kind}"),
    }
}

/// What it means that these are forbidden.
fn without(denied: &str) -> &'static str {
    if denied.contains("list of pods") {
        "containers have the names of their runtime, or ids"
    } else if denied.contains("watch of pods") {
        "pods that come later have the names of their runtime, or ids"
    } else if denied.contains("services") || denied.contains("endpointslices") {
        "peers have no names of services, or those of the start"
    } else if denied.contains("all pods") {
        "peers that are pods behind no service have no names, or those of the start"
    } else {
        "zone and region are not known"
    }
}

fn row(interpreter: &Interpreter) -> Vec<String> {
    let named: Vec<String> = interpreter.processes.iter().map(u32::to_string).collect();
    let more = if interpreter.count > named.len() {
        ", …"
    } else {
        ""
    };
    let verdict = if interpreter.supported {
        "its functions are in the stacks"
    } else {
        "unsupported interpreter"
    };
    vec![
        interpreter.name.clone(),
        format!("{} ({}{more})", interpreter.count, named.join(", ")),
        verdict.into(),
        interpreter.note.clone(),
    ]
}

impl Report {
    /// As tables.
    pub fn text(&self, verbose: bool) -> String {
        let mark = |ok: bool| if ok { "ok" } else { "FAIL" }.to_owned();
        let facts: Vec<Vec<String>> = self
            .facts
            .iter()
            .map(|f| vec![f.name.into(), mark(f.ok), f.value.clone(), f.remedy.clone()])
            .collect();
        let mut out = table(&["machine", "", "", "remedy"], &facts);
        out.push('\n');
        let kept = self
            .kept
            .iter()
            .map(|kept| vec![kept.capability.clone(), kept.why.to_owned()]);
        let kept: Vec<Vec<String>> = kept.collect();
        if kept.is_empty() {
            out.push_str("no capability is kept after the start\n");
        } else {
            out.push_str(&table(&["kept after the start", "for"], &kept));
        }
        out.push('\n');
        if !self.engine_error.is_empty() {
            out.push_str(&format!("\nno eBPF: {}\n", self.engine_error));
        }
        let programs: Vec<Vec<String>> = self
            .programs
            .iter()
            .map(|v| {
                let state = if v.state == State::Attached {
                    "attached".into()
                } else {
                    v.state.as_str().to_uppercase()
                };
                let note = if v.state == State::Attached {
                    String::new()
                } else {
                    [v.reason.as_str(), v.remedy.as_str()]
                        .into_iter()
                        .filter(|s| !s.is_empty())
                        .collect::<Vec<_>>()
                        .join("; ")
                };
                vec![v.probe.clone(), v.program.clone(), v.hook.clone(), state, note]
            })
            .collect();
        if !programs.is_empty() {
            out.push_str(&table(
                &["probe", "program", "hook", "verdict", "why, and what would help"],
                &programs,
            ));
            out.push('\n');
        }
        let interpreters: Vec<Vec<String>> = self.interpreters.iter().map(row).collect();
        if !interpreters.is_empty() {
            out.push('\n');
            out.push_str(&table(
                &["language", "processes", "verdict", "why, and what would help"],
                &interpreters,
            ));
            out.push('\n');
        }
        if verbose {
            for v in self.programs.iter().filter(|v| !v.verifier_log.is_empty()) {
                out.push_str(&format!("\nverifier on {}:\n{}\n", v.program, v.verifier_log));
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Cause: files of the host that nobody may look at, from a container and on the host itself. Seen: a fact with the remedy in the
    /// former alone, where they are missed.
    #[test]
    fn what_a_container_cannot_see_is_told() {
        let denied = || Some(std::io::ErrorKind::PermissionDenied.into());
        let fact = host_fact(true, denied()).unwrap();
        assert!(!fact.ok && fact.remedy.contains("appArmorProfile"), "{fact:?}");
        assert!(
            fact.value.starts_with("/proc/1/root: permission denied"),
            "{fact:?}"
        );
        assert!(host_fact(false, denied()).is_none());
        assert!(host_fact(true, None).is_none());
    }

    #[test]
    fn a_profile_that_refuses_calls_is_told() {
        assert!(calls_fact(&[], true).is_none());
        let fact = calls_fact(&["bpf", "perf_event_open"], false).unwrap();
        assert!(
            !fact.ok && fact.value.ends_with("refuses bpf and perf_event_open"),
            "{fact:?}"
        );
        assert!(fact.remedy.contains("seccompProfile"), "{fact:?}");
        // Only stacks need perf events.
        assert!(calls_fact(&["perf_event_open"], false).unwrap().ok);
        assert!(!calls_fact(&["perf_event_open"], true).unwrap().ok);
    }

    #[test]
    fn process_ids_of_its_own_are_told() {
        let fact = pid_fact(Some(Path::new("pid:[4026532281]"))).unwrap();
        assert!(!fact.ok && fact.remedy.contains("hostPID"), "{fact:?}");
        assert!(pid_fact(None).is_none());
    }
}
