//! What series mean. The detectors, the watches and the forecasts are the crate agent-score; here is where their series come
//! from, and where what is said of them goes.

mod board;
pub mod csv;
pub mod explain;
mod live;
mod metrics;
mod sampled;
pub mod slo;
#[cfg(test)]
mod tests;

pub use board::attribute;
pub use live::Anomalies;
pub use metrics::{METRICS, StatsCollect};
