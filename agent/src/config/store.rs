//! Settings of the store.

use super::units::{Bytes, HumanDuration};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What the agent remembers of its own series, so that it can be asked in PromQL.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct StoreSettings {
    /// Where the series are kept.
    pub kind: StoreKind,
    /// Directory of the store on disk. One agent at a time may have it.
    pub directory: PathBuf,
    /// How long every second is kept.
    #[schemars(extend("x-minimum" = "10m", "x-maximum" = "30d"))]
    pub retention: HumanDuration,
    /// How long ten seconds are kept in one; 0s = not at all. What windows of objectives are sums of is kept for as long as the
    /// longest of them, and so is what the node and its interfaces use (`geophone_node_used`, `geophone_netdev_bytes_total`), but
    /// for 30 days at least: their trends know the week when they have seen three.
    #[schemars(extend("x-minimum" = "0s", "x-maximum" = "365d"))]
    pub downsampled_retention: HumanDuration,
    /// Most bytes of blocks on disk; over it the oldest hours go first. The log comes on top.
    #[schemars(extend("x-minimum" = "16MiB", "x-maximum" = "1TiB"))]
    pub size: Bytes,
    /// Most memory: half of it for samples that are in no block yet, a quarter for the identities of series. What finds no
    /// room is counted.
    #[schemars(extend("x-minimum" = "8MiB", "x-maximum" = "64GiB"))]
    pub memory: Bytes,
    /// At least so often what was written is made safe from a power cut. What is newer may be lost by one.
    #[schemars(extend("x-minimum" = "1s", "x-maximum" = "1m"))]
    pub sync_interval: HumanDuration,
    /// A query that takes longer ends with an error.
    #[schemars(extend("x-minimum" = "1s", "x-maximum" = "10m"))]
    pub query_timeout: HumanDuration,
    /// A query that looks at more samples ends with an error: 16 bytes each.
    #[schemars(range(min = 100_000, max = 1_000_000_000))]
    pub query_samples: u32,
    /// A query that looks at more series ends with an error.
    #[schemars(range(min = 1_000, max = 10_000_000))]
    pub query_series: u32,
}

impl Default for StoreSettings {
    fn default() -> Self {
        Self {
            kind: StoreKind::default(),
            directory: PathBuf::from("/var/lib/geophone/store"),
            retention: HumanDuration::from_secs(24 * 3600),
            downsampled_retention: HumanDuration::from_secs(15 * 24 * 3600),
            size: Bytes::mib(1024),
            memory: Bytes::mib(64),
            sync_interval: HumanDuration::from_secs(1),
            query_timeout: HumanDuration::from_secs(30),
            query_samples: 50_000_000,
            query_series: 100_000,
        }
    }
}

/// Where series are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StoreKind {
    /// On disk; in memory where the directory cannot be had, and the log says why.
    #[default]
    Auto,
    /// Nowhere: there is only the latest second.
    None,
    /// In memory, compressed; gone with the agent.
    Memory,
    /// On disk.
    Disk,
}
