//! What series mean: whether a value is an anomaly, and where a trend leads; and which of many series are to be watched.
//!
//! Pure computation: no clock, no files, no threads. The agent evaluates the health rules over its store; `geophone score` and
//! `geophone capacity` judge the series of a file. `watch` is what the agent does all the time.

#![forbid(unsafe_code)]

pub mod anomaly;
pub mod capacity;
pub mod health;
pub mod watch;
