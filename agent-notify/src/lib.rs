//! What happens to alerts once they fire: routes, groups, inhibition, silences, incidents, and a queue on disk for each place
//! that is told.
//!
//! It knows no network and has no clock: whoever uses it says what time it is. What the words mean is what Alertmanager makes
//! of them; docs/alerting.md says where it differs.

#![forbid(unsafe_code)]

pub mod alert;
pub mod dispatch;
pub mod file;
pub mod incident;
pub mod inhibit;
pub mod interval;
pub mod matcher;
pub mod notification;
pub mod queue;
pub mod receivers;
pub mod route;
pub mod silence;
pub mod text;

pub use alert::Alert;
pub use dispatch::{Dispatcher, Integration, Receiver};
pub use incident::{Incident, Incidents};
pub use inhibit::Inhibition;
pub use interval::{Interval, Schedule};
pub use notification::{Entry, Memo, Notification};
pub use queue::{Outcome, Queue};
pub use route::{Route, Routes};
pub use silence::{Silence, Silences};
