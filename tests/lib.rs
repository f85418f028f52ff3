//! End-to-end tests: each makes a known cause on the real kernel, asks the agent what it saw, and compares with an
//! independent truth: the kernel's own counters, or what the generator itself has counted.
//!
//! They need root, the agent's binary (`GEOPHONE_BIN`, else the workspace's release build), `ip`, `nft`, `ethtool`,
//! and run one at a time: `cargo xtask test --e2e`.

pub mod harness;
