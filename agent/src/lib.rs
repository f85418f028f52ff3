//! The library behind `geophone`; see ARCHITECTURE.md for the way of an event.
#![deny(unsafe_code)]

pub mod aggregate;
pub mod api;
pub mod bpf;
pub mod config;
pub mod error;
pub mod export;
pub mod identity;
pub mod records;
pub mod ui;
