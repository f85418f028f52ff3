//! The kernel side as userspace sees it. The only part of the agent that may be `unsafe`.
#![expect(
    unsafe_code,
    reason = "bpf(2) and shared mappings; every block has its SAFETY comment"
)]

pub mod barred;
pub mod btf;
pub mod clock;
pub mod engine;
mod facts;
pub mod fields;
pub mod host;
mod machine;
pub mod map;
mod mapped;
pub mod maps;
pub mod measure;
pub mod privileges;
mod recorded;
mod refusal;
pub mod shards;
pub mod spec;
pub mod sys;
pub mod tc;
pub mod verdict;

pub use engine::Engine;
pub use map::KernelMap;
pub use spec::{Hook, Sizes, Spec};
pub use verdict::{State, Verdict};
