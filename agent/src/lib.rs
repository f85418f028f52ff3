//! The library behind `geophone`; see ARCHITECTURE.md for the way of an event.
#![deny(unsafe_code)]

pub mod accounting;
pub mod aggregate;
pub mod alert;
pub mod api;
pub mod app;
pub mod bpf;
pub mod capacity;
pub mod check;
pub mod cli;
pub mod collector;
pub mod commands;
pub mod config;
pub mod confine;
pub mod cost;
pub mod coverage;
pub mod docs;
pub mod error;
pub mod export;
pub mod governor;
pub mod identity;
pub mod manager;
pub mod memory;
pub mod mountinfo;
pub mod parts;
pub mod price;
pub mod probes;
pub mod record;
pub mod records;
pub mod ring;
pub mod rtnetlink;
pub mod score;
pub mod stacks;
pub mod topology;
pub mod ui;
