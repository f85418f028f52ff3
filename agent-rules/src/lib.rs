//! Prometheus' rule files, evaluated over any [`agent_store::series::Source`]: recording rules, alerts, their life cycle and
//! their templates.
//!
//! Like agent-store it knows nothing of eBPF or of the agent. What a rule means is what Prometheus makes of it:
//! tests/conformance writes what comes out here down as expectations, and `promtool test rules` has to agree.

#![forbid(unsafe_code)]

pub mod alert;
pub mod derived;
pub mod evaluate;
pub mod file;
mod restore;
pub mod results;
pub mod template;
pub mod yaml;

pub use alert::{Alert, State};
pub use derived::Derived;
pub use evaluate::{Environment, Episode, Group, Health, Past, Rule, Settings, past};
pub use file::{Fault, load};
pub use results::Results;
