//! What series mean. The detectors and forecasts are the crate agent-score; here is where their series come from.

pub mod csv;
