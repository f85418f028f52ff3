//! Settings of recordings.

use super::units::Bytes;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Recordings that the agent makes by itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RecordSettings {
    /// The flight recorder.
    pub flight: FlightSettings,
}

/// The flight recorder: the last minutes of all that the kernel told, kept on disk, to be dumped and replayed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FlightSettings {
    /// How many minutes are kept; 0 = it is off, and what an earlier one has left in the directory is removed a day after it was
    /// last written.
    #[schemars(range(min = 0, max = 1440))]
    pub minutes: u32,
    /// Directory that it keeps them in. One agent at a time may have it. Addresses and names of processes
    /// are in it, and with probe profile those of files and functions.
    pub directory: PathBuf,
    /// Most bytes on disk, half of them for the minutes, half for what alerts have dumped. The oldest go first.
    #[schemars(extend("x-minimum" = "16MiB", "x-maximum" = "1TiB"))]
    pub max_size: Bytes,
    /// Dump the minutes before when an alert begins to fire, to `alert-TIME-NAME.geophone` in the directory; at most one
    /// dump a minute, which is for all alerts of that minute, and a hundred in all.
    pub dump_on_alert: bool,
}

impl Default for FlightSettings {
    fn default() -> Self {
        Self {
            minutes: 0,
            directory: PathBuf::from("/var/lib/geophone/flight"),
            max_size: Bytes::mib(256),
            dump_on_alert: true,
        }
    }
}
