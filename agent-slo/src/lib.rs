//! Service level objectives: what share of something must be good over a window, what is left of the errors that this
//! allows, and how fast they are used up.
//!
//! Pure computation: no clock, no network. [`Definition`]s, geophone's own or read from OpenSLO ([`openslo`]), become
//! [`Slo`]s; [`rules`] writes each as Prometheus rules, which the agent evaluates over its store and a fleet's Prometheus
//! over what it scrapes; [`ledger`] says of what these rules recorded, or of any lines of good and bad, what a span came to
//! and when the objective was not met.

#![forbid(unsafe_code)]

mod definition;
pub mod indicator;
pub mod ledger;
pub mod openslo;
mod query;
pub mod rules;
mod template;
mod window;

pub use definition::{Definition, Fault, Slo, budget, checked_objective};
pub use indicator::Indicator;
pub use ledger::Ledger;
pub use template::Template;
pub use window::Window;
