//! Settings of the flight recorder.

use super::units::{Bytes, HumanDuration};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The flight recorder: the last minutes of all that the kernel told, on disk, to be dumped and replayed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RecordSettings {
    /// How long it is kept, e.g. 10m; 0s = the recorder is off. It has flow and drop records made as if somebody listened.
    #[schemars(extend("x-minimum" = "0s", "x-maximum" = "24h"))]
    pub keep: HumanDuration,
    /// Directory of its segments.
    pub directory: PathBuf,
    /// Most bytes on disk; over it the oldest segments go first.
    #[schemars(extend("x-minimum" = "16MiB", "x-maximum" = "1TiB"))]
    pub size: Bytes,
}

impl Default for RecordSettings {
    fn default() -> Self {
        Self {
            keep: HumanDuration::from_secs(0),
            directory: PathBuf::from("/var/lib/geophone/record"),
            size: Bytes::mib(256),
        }
    }
}
