//! Why a program does not run, in words that help.

use super::barred;
use super::host;
use super::spec::Hook;
use super::verdict::State;
use crate::error::Error;
use aya::programs::ProgramError;

/// `ENOTSUPP`: what the kernel returns inside and sometimes lets out; libc does not know it.
const ENOTSUPP: i32 = 524;

const NOT_PERMITTED: &str = "not permitted";

/// Why a program does not run.
pub struct Refusal {
    /// Unsupported or broken.
    pub state: State,
    /// One line.
    pub reason: String,
    /// What would help; empty = the program's own remedy holds.
    pub remedy: String,
    /// End of the verifier's log.
    pub log: String,
}

impl Refusal {
    /// This machine cannot.
    pub fn unsupported(reason: impl Into<String>) -> Self {
        Self {
            state: State::Unsupported,
            reason: one_line(&reason.into()),
            remedy: String::new(),
            log: String::new(),
        }
    }

    /// Adds what is known of the hook to a refusal that says no more than `not permitted`.
    pub fn explain(&mut self, hook: Hook) {
        if self.reason != NOT_PERMITTED || !self.remedy.is_empty() {
            return;
        }
        let mask = host::effective_capabilities();
        let network = matches!(
            hook,
            Hook::SockOps | Hook::SkbIngress | Hook::SkbEgress | Hook::SockCreate | Hook::Tc(_)
        );
        if network && host::further_missing(mask).any(|(_, name)| name == "CAP_NET_ADMIN") {
            self.remedy = "give the process CAP_NET_ADMIN".into();
        } else if matches!(hook, Hook::Fexit(_)) {
            // The kernel says EPERM where it was built without what such programs hang on.
            self.reason = "the functions of this kernel cannot be traced".into();
            self.remedy = "needs a kernel with CONFIG_FUNCTION_TRACER and CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS; nothing \
                           else is missing without it"
                .into();
        }
    }

    /// The fault is ours.
    pub fn broken(reason: impl Into<String>) -> Self {
        Self {
            state: State::Broken,
            ..Self::unsupported(reason)
        }
    }
}

impl From<ProgramError> for Refusal {
    fn from(error: ProgramError) -> Self {
        let (io, log) = match &error {
            ProgramError::LoadError {
                io_error,
                verifier_log,
            } => (Some(io_error), verifier_log.to_string()),
            ProgramError::SyscallError(e) => (Some(&e.io_error), String::new()),
            ProgramError::Btf(e) => return Self::unsupported(format!("the kernel has no such hook: {e}")),
            _ => (None, String::new()),
        };
        let errno = io.and_then(std::io::Error::raw_os_error);
        let is_barred = |call: &&&str| match &error {
            ProgramError::SyscallError(e) => e.call == **call,
            _ => false,
        };
        if let Some(call) = barred::barred().iter().find(is_barred) {
            let mut refusal = Self::unsupported(barred::reason(call));
            refusal.remedy = barred::REMEDY.into();
            return refusal;
        }
        if errno == Some(libc::EPERM) || errno == Some(libc::EACCES) && log.is_empty() {
            let missing = host::missing_capabilities(host::effective_capabilities());
            let lockdown = host::lockdown();
            let mut refusal = Self::unsupported(NOT_PERMITTED);
            refusal.remedy = if !missing.is_empty() {
                format!("give the process {}", missing.join(" and "))
            } else if lockdown == "confidentiality" || lockdown == "integrity" {
                format!("kernel lockdown is {lockdown}: boot with lockdown=none, or do without")
            } else {
                String::new()
            };
            return refusal;
        }
        if errno == Some(ENOTSUPP) || errno == Some(libc::EOPNOTSUPP) || errno == Some(libc::ENOENT) {
            return Self::unsupported(format!(
                "this kernel does not offer the hook: {}",
                io.map(ToString::to_string).unwrap_or_default()
            ));
        }
        let helper = log.contains("cannot use helper") || log.contains("unknown func");
        if helper {
            // The helpers that read kernel memory are what lockdown=confidentiality takes away.
            let (why, remedy) = if host::lockdown() == "confidentiality" {
                (
                    "kernel lockdown (confidentiality) forbids it to read kernel memory: ",
                    "boot with lockdown=integrity or none, or do without",
                )
            } else {
                ("", "needs a newer kernel")
            };
            let mut refusal = Self::unsupported(format!("{why}{}", last_words(&log)));
            refusal.remedy = remedy.into();
            return refusal;
        }
        let text = if log.is_empty() {
            error.to_string()
        } else {
            last_words(&log)
        };
        let mut refusal = Self::broken(text);
        refusal.remedy = "report this with the output of geophone check --verbose".into();
        let start = log.len().saturating_sub(4096);
        refusal.log = log
            .chars()
            .skip(log.get(..start).map_or(0, |s| s.chars().count()))
            .collect();
        refusal
    }
}

/// The verifier's complaint is its last line, but for the statistics.
fn last_words(log: &str) -> String {
    const STATISTICS: [&str; 3] = ["processed ", "stack depth ", "verification time "];
    let line = log
        .lines()
        .rev()
        .find(|l| !l.trim().is_empty() && !STATISTICS.iter().any(|s| l.starts_with(s)))
        .unwrap_or("");
    format!("the verifier refused it: {line}")
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Why the maps cannot be created.
pub fn explain_load(error: aya::EbpfError) -> Error {
    let missing = host::missing_capabilities(host::effective_capabilities());
    let mut chain = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        chain = format!("{chain}: {cause}");
        source = cause.source();
    }
    if barred::barred().contains(&"bpf") {
        let (why, remedy) = (barred::reason("bpf"), barred::REMEDY);
        Error::new(format_args!("creating the eBPF maps: {why}; {remedy}"))
    } else if missing.is_empty() {
        Error::new(format_args!("creating the eBPF maps: {chain}"))
    } else {
        Error::new(format_args!(
            "creating the eBPF maps: not permitted; run as root or give the process {}",
            missing.join(" and ")
        ))
    }
}
