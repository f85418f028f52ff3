//! What series mean: whether a value is an anomaly, and where a trend leads.
//!
//! Pure computation: no clock, no files, no threads. The agent feeds it the series of its store, `geophone score` those of
//! a file.

#![forbid(unsafe_code)]

pub mod anomaly;
pub mod capacity;
pub mod health;
