//! What all tests share.

pub mod agent;
pub mod cgroup;
pub mod command;
pub mod delay;
pub mod http;
pub mod netns;
pub mod otlp;
pub mod snapshot;
pub mod traffic;

pub use agent::{Agent, Setup};
pub use netns::{Link, Netns};
pub use snapshot::Snapshot;
pub use traffic::Traffic;

use anyhow::{Result, ensure};
use std::fmt::Debug;
use std::sync::atomic::{AtomicU32, Ordering};

/// True when the test can run. Says loudly when it cannot.
pub fn root(test: &str) -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED {test}: it makes network namespaces and attaches eBPF programs, which needs root");
    }
    root
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
