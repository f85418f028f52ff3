//! Stacks: how the kernel is enabled to take them, what their addresses are called, and how they are kept.

pub mod arena;
pub mod loader;
pub mod maps;
pub mod table;
