//! Rules over what is remembered, and the alerts that come of them. What a rule means is in the crate agent-rules.

pub mod alertmanager;
mod engine;
pub mod files;
mod metrics;
pub mod notify;
mod reload;
mod roles;
#[cfg(test)]
mod tests;
pub mod view;

pub use engine::Rules;
pub(crate) use engine::left_out;
pub use metrics::{METRICS, StatsCollect};
pub use reload::{on_hangup, reload};
