//! Who is told of alerts, by the agent itself: what is due follows from the crate agent-notify; here are the settings, the
//! network and the tasks.
//!
//! A thread of its own looks after each evaluation what is due and puts it into the queues on disk; a task a place takes it from
//! there. So a place that does not answer delays neither the rules nor another place.

mod edges;
mod lane;
mod metrics;
mod notifier;
mod place;
mod plan;
mod smtp;
#[cfg(test)]
mod tests;
mod view;

pub use metrics::{METRICS, StatsCollect};
pub use notifier::Notifier;
pub use plan::{Plan, plan};
