//! Settings of what the agent gives up.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the agent gives up once it has started. `geophone check` tells what it keeps, and what for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SecuritySettings {
    /// Give up, on all threads and for good, each capability that nothing needs any more that is switched on; sets
    /// no_new_privs.
    pub drop_capabilities: bool,
    /// Let the kernel refuse all system calls that the agent has no use for (seccomp). They fail, and
    /// `geophone_agent_refused_calls_total` counts them; plainly hostile ones end the agent.
    pub seccomp: bool,
}

impl Default for SecuritySettings {
    fn default() -> Self {
        Self {
            drop_capabilities: true,
            seccomp: true,
        }
    }
}
