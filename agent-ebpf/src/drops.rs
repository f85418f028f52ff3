//! Probe `drops`.
