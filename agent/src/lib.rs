//! The library behind `geophone`; see ARCHITECTURE.md for the way of an event.
#![deny(unsafe_code)]

pub mod aggregate;
pub mod config;
pub mod identity;
pub mod records;
