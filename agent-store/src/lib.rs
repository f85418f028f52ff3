//! A node's memory of its series: labels and samples, a store of them on disk, and PromQL over it.
//!
//! It knows nothing of eBPF or of the agent, so that a store can be read, filled and queried with no agent running.

#![forbid(unsafe_code)]

pub mod histogram;
pub mod labels;
pub mod promql;
pub mod series;
pub mod store;
