//! Settings of probe `profile`.

use super::units::{Bytes, HumanDuration};
use crate::stacks::{Kinds, names};
use agent_common::profile::sample;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Probe `profile`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ProfileProbe {
    /// Whether the probe runs.
    pub enabled: bool,
    /// Stacks per second that are taken of each CPU that is not idle. A prime does not march in step with what is
    /// periodic itself. 0 = none: only of what is asked for below.
    #[schemars(range(min = 0, max = 999))]
    pub hz: u32,
    /// Take the stacks of threads that were off their CPU too, with the reason: waiting, sleeping, or another one's turn.
    pub off_cpu: bool,
    /// Threads that were off for a shorter time are not told.
    #[schemars(extend("x-minimum" = "10us", "x-maximum" = "1m"))]
    pub off_cpu_threshold: HumanDuration,
    /// With each wait that was long enough, the stack of who ended it: another thread, or an interrupt. Needs `off_cpu`.
    pub off_cpu_waker: bool,
    /// Take the stacks of threads that had to wait for a lock too: for futexes, and for locks of the kernel that are slept for.
    pub locks: bool,
    /// Waits for locks that were shorter are not told.
    #[schemars(extend("x-minimum" = "10us", "x-maximum" = "1m"))]
    pub lock_threshold: HumanDuration,
    /// Sample page faults too: where memory is touched for the first time.
    pub faults: bool,
    /// So many page faults that need no disk are one sample: 499 are 2 MB. Those that do are all sampled.
    #[schemars(range(min = 2, max = 1_000_000))]
    pub fault_period: u32,
    /// Sample requests to disks too: who asks for them, and how long they take.
    pub block_io: bool,
    /// Sample dropped packets too: where the kernel gives them up.
    pub drops: bool,
    /// Sample TCP segments that are sent again too: why the kernel does it.
    pub retransmits: bool,
    /// Give functions their names. Without it no other process is started to read symbols, and addresses and build ids are
    /// given for symbolizing elsewhere; the kernel's functions have names in any case.
    pub symbolize: bool,
    /// Name the functions that a compiler has inlined too, by debug information: frames of their own. It takes more time and
    /// memory, and files without debug information are as before.
    pub inlined: bool,
    /// Directories with debug information of files that have none themselves, as `.build-id/xx/….debug` or by the file's path.
    pub debug_dirs: Vec<PathBuf>,
    /// Servers that are asked for debug information that is not there, by build id (`https://debuginfod.debian.net`). They
    /// learn what runs here. Needs `cache_dir`.
    pub debuginfod: Vec<String>,
    /// Directory where functions that were found and debug information that was fetched are kept, e.g. /var/cache/geophone;
    /// empty = nowhere.
    pub cache_dir: PathBuf,
    /// Most bytes of it; what was not used for the longest time goes first.
    #[schemars(extend("x-minimum" = "1MiB", "x-maximum" = "1TiB"))]
    pub cache_size: Bytes,
    /// Most memory for the tables by which code without frame pointers is unwound; it is taken as it is needed.
    #[schemars(extend("x-minimum" = "1MiB", "x-maximum" = "1GiB"))]
    pub table_memory: Bytes,
    /// Most memory for the samples of the last hour; over it the oldest ten seconds go first.
    #[schemars(extend("x-minimum" = "1MiB", "x-maximum" = "1GiB"))]
    pub store_memory: Bytes,
}

impl ProfileProbe {
    /// What is sampled.
    pub fn kinds(&self) -> Kinds {
        let mut kinds = Kinds::default();
        for (kind, taken) in [
            (sample::CPU, self.hz > 0),
            (sample::OFF_CPU, self.off_cpu),
            (sample::LOCK, self.locks),
            (sample::FAULT, self.faults),
            (sample::BLOCK_IO, self.block_io),
            (sample::DROP, self.drops),
            (sample::RETRANSMIT, self.retransmits),
        ] {
            if let Some(kind) = kinds.get_mut(usize::from(kind)) {
                *kind = taken;
            }
        }
        kinds
    }

    /// Where functions get their names.
    pub fn names(&self) -> names::Options {
        names::Options {
            symbolize: self.symbolize,
            inlined: self.inlined,
            debug_dirs: self.debug_dirs.clone(),
            debuginfod: self.debuginfod.clone(),
            cache_dir: Some(self.cache_dir.clone()).filter(|dir| !dir.as_os_str().is_empty()),
            cache_size: self.cache_size.get(),
        }
    }

    /// An error says which setting is wrong, and why.
    pub fn validate(&self) -> anyhow::Result<()> {
        for server in &self.debuginfod {
            let url = reqwest::Url::parse(server).ok();
            if !url.is_some_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host()) {
                anyhow::bail!("debuginfod {server}: no URL of a server; write https://debuginfod.debian.net");
            }
        }
        if !self.debuginfod.is_empty() && self.cache_dir.as_os_str().is_empty() {
            anyhow::bail!("debuginfod needs a place for what it fetches; set probes.profile.cache_dir");
        }
        Ok(())
    }
}

impl Default for ProfileProbe {
    fn default() -> Self {
        Self {
            enabled: false,
            hz: 19,
            off_cpu: false,
            off_cpu_threshold: HumanDuration::from_millis(1),
            off_cpu_waker: false,
            locks: false,
            lock_threshold: HumanDuration::from_millis(1),
            faults: false,
            fault_period: 499,
            block_io: false,
            drops: false,
            retransmits: false,
            symbolize: true,
            inlined: false,
            debug_dirs: vec!["/usr/lib/debug".into()],
            debuginfod: Vec::new(),
            cache_dir: PathBuf::new(),
            cache_size: Bytes::mib(512),
            table_memory: Bytes::mib(64),
            store_memory: Bytes::mib(64),
        }
    }
}
