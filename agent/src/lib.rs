//! The library behind `geophone`; see ARCHITECTURE.md for the way of an event.
#![deny(unsafe_code)]

pub mod accounting;
pub mod aggregate;
pub mod api;
pub mod bpf;
pub mod collector;
pub mod config;
pub mod cost;
pub mod coverage;
pub mod error;
pub mod export;
pub mod governor;
pub mod identity;
pub mod probes;
pub mod records;
pub mod ui;
