//! What became of each program: a probe is never fatal.

use serde::{Deserialize, Serialize};

/// The end of an attempt to run a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It runs.
    Attached,
    /// It cannot run here, and the reason says what would help.
    Unsupported,
    /// The kernel refused it for a reason that is ours.
    Broken,
    /// Not asked for, or not needed because a better one runs.
    Off,
}

impl State {
    /// As exported.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Attached => "attached",
            Self::Unsupported => "unsupported",
            Self::Broken => "broken",
            Self::Off => "off",
        }
    }
}

/// Verdict on one program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Probe it belongs to.
    pub probe: String,
    /// Program.
    #[serde(rename = "name")]
    pub program: String,
    /// Where it hooks in, e.g. `tp_btf/tcp_probe`.
    pub hook: String,
    /// What became of it.
    #[serde(rename = "verdict")]
    pub state: State,
    /// Why, one line; empty when attached.
    pub reason: String,
    /// What would help; empty when nothing is wrong.
    pub remedy: String,
    /// Nothing else does this program's work: its absence is a gap, and `check` fails.
    pub required: bool,
    /// End of the verifier's log, when it refused the program.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub verifier_log: String,
}
