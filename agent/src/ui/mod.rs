//! What people look at: the view computed from snapshots, the live terminal, and plain text.

pub mod print;
pub mod top;
pub mod units;
pub mod view;

pub use view::{View, ViewBuilder};
