//! What the agent may still do once it has started, as data: the capabilities that it keeps and why, the system calls that
//! it makes, and of them the filter and the profile for containers.
//!
//! Nothing here is done to the process but [`filter::apply`]; giving up capabilities is the agent's (agent/src/confine.rs).

#![forbid(unsafe_code)]

pub mod capability;
pub mod filter;
pub mod profile;
pub mod syscalls;

pub use capability::{Capability, Kept, Needs, keep};
