//! What all tests share.

pub mod agent;
pub mod btf;
pub mod cgroup;
pub mod cli;
pub mod command;
pub mod delay;
pub mod disk;
pub mod dns;
pub mod fleet;
pub mod http;
pub mod kubernetes;
pub mod netns;
pub mod notify;
pub mod otlp;
pub mod pprof;
pub mod programs;
pub mod prometheus;
pub mod promql;
pub mod remote_write;
pub mod scene;
pub mod snapshot;
pub mod stacks;
pub mod traffic;
pub mod tunnels;
pub mod witness;

pub use agent::{Agent, Setup};
pub use netns::{End, Link, Netns};
pub use scene::Scene;
pub use snapshot::Snapshot;
pub use traffic::Traffic;
pub use tunnels::WireGuard;

use anyhow::{Result, ensure};
use std::fmt::Debug;
use std::io::Write as _;
use std::sync::atomic::{AtomicU32, Ordering};

/// Ends a test that cannot run, because this is not root or lacks one of the programs named: `need_root!("tmux")`.
#[macro_export]
macro_rules! need_root {
    ($($program:literal),*) => {
        if !$crate::harness::can_run(std::any::type_name_of_val(&|| ()), &[$($program),*]) {
            return Ok(());
        }
    };
}

/// True when a test can run. Says loudly when it cannot. The test is named by a closure in it.
pub fn can_run(closure: &str, programs: &[&str]) -> bool {
    let test = closure.trim_end_matches("::{{closure}}");
    if !nix::unistd::geteuid().is_root() {
        skipped(&format!(
            "{test}: it makes network namespaces and attaches eBPF programs, which needs root"
        ));
        return false;
    }
    let missing = programs.iter().find(|program| !command::present(program));
    if let Some(program) = missing {
        skipped(&format!("{test}: there is no {program}"));
    }
    missing.is_none()
}

/// Says what could not be tested here. libtest would hide it, so it is also left for `cargo xtask test` to count.
pub fn skipped(what: &str) {
    eprintln!("SKIPPED {what}");
    let list = std::env::var_os("TESTS_SKIPPED");
    if let Some(mut file) =
        list.and_then(|path| std::fs::File::options().append(true).create(true).open(path).ok())
    {
        let _ = writeln!(file, "{what}");
    }
}

/// A number that no other caller in this process gets.
pub fn serial() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A word that no other test process uses at the same time, at most 15 bytes with a tag of up to 7.
pub fn unique(tag: &str) -> String {
    format!("{tag}{:x}.{:x}", std::process::id() & 0xf_ffff, serial())
}

/// A regular expression of all that [`unique`] makes with this tag in this process.
pub fn all_unique(tag: &str) -> String {
    format!("{tag}{:x}[.].+", std::process::id() & 0xf_ffff)
}

/// Does the same with each of some values, side by side: what most tests do is wait.
pub fn together<T: Send, R: Send>(values: Vec<T>, each: impl Fn(T) -> Result<R> + Sync) -> Result<Vec<R>> {
    std::thread::scope(|scope| {
        let each = &each;
        let running: Vec<_> = values
            .into_iter()
            .map(|value| scope.spawn(move || each(value)))
            .collect();
        running
            .into_iter()
            .map(|thread| match thread.join() {
                Ok(done) => done,
                Err(panic) => std::panic::resume_unwind(panic),
            })
            .collect()
    })
}

/// An error that shows both sides unless they are equal.
pub fn equal<T: PartialEq + Debug>(what: &str, seen: T, truth: T) -> Result<()> {
    ensure!(
        seen == truth,
        "{what}: geophone says {seen:?}, the truth is {truth:?}"
    );
    Ok(())
}

/// An error unless `seen` is within `share` of `truth`.
pub fn near(what: &str, seen: f64, truth: f64, share: f64) -> Result<()> {
    ensure!(
        (seen - truth).abs() <= truth.abs() * share,
        "{what}: geophone says {seen}, the truth is {truth} ± {} %",
        share * 100.0
    );
    Ok(())
}
