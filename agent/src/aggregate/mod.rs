//! From what the probes read to series: labels, families, and the snapshot of each tick.

mod exemplar;
pub mod fold;
mod further;
pub mod labels;
mod living;
pub mod metric;
pub mod snapshot;

pub use exemplar::Exemplar;
pub use fold::{ADD_UP, Fold};
pub use further::{FURTHER, Further};
pub use labels::Labels;
pub use living::Living;
pub(crate) use metric::metrics;
pub use metric::{Kind, Label, Metric, Stability, label};
pub use snapshot::{Family, HistogramValue, Resource, Series, Snapshot, Value};

/// Something that contributes families to every snapshot. Its metrics are declared beside it.
pub trait Collect: Send {
    /// Appends the families as of now.
    fn collect(&mut self, out: &mut Vec<Family>);
}
