//! What series mean: whether a value is an anomaly, and where a trend leads.
//!
//! Pure computation: no clock, no files, no threads. The agent evaluates the health rules over its store; `geophone score` and
//! `geophone capacity` judge the series of a file.

#![forbid(unsafe_code)]

pub mod anomaly;
pub mod capacity;
pub mod health;
