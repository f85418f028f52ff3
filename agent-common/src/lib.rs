//! What the kernel side and the user side of geophone share.
//!
//! Everything here is `no_std`, plain integers and pure functions, so that the logic which runs in the kernel is
//! tested on the host. One module per probe, plus [`mod@wire`] (layout rules), [`histogram`] (the bucket function) and
//! [`account`] (what became of every event).
#![no_std]
#![forbid(unsafe_code)]

pub mod account;
pub mod block;
pub mod dns;
pub mod drops;
pub mod histogram;
pub mod path;
pub mod profile;
pub mod sched;
pub mod tcp;
pub mod trace;
pub mod tunnel;
pub mod udp;
pub mod wire;
