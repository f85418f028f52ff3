//! Prometheus pulls: OpenMetrics text, the older text, and protobuf with native histograms. All three are made from
//! the same snapshot and hold the same totals.

pub mod negotiate;
pub mod proto;
mod scraped;
pub mod text;

pub use negotiate::{Format, negotiate};
pub use proto::ZERO_THRESHOLD;
pub use scraped::Scraped;

use crate::aggregate::{Exemplar, Label, Labels, Metric, Snapshot};
use crate::aggregate::{Kind, Stability};
use agent_common::histogram::FIRST_INDEX;

static HOST: Label = Label {
    prometheus: "host",
    otlp: "host.name",
    help: "Name of this machine",
};
static REGION: Label = Label {
    prometheus: "region",
    otlp: "cloud.region",
    help: "Region of this machine",
};
static ZONE: Label = Label {
    prometheus: "zone",
    otlp: "cloud.availability_zone",
    help: "Availability zone of this machine",
};

/// `target_info`: what all series are about, as OpenMetrics has it. OTLP says the same with resource attributes.
pub static TARGET_INFO: Metric = Metric {
    name: "target_info",
    otlp: "geophone.target",
    unit: "1",
    kind: Kind::Gauge,
    help: "What the series of this target are about; always 1",
    labels: &[&HOST, &REGION, &ZONE],
    stability: Stability::Stable,
};

/// Metrics that only Prometheus gets.
pub static METRICS: &[&Metric] = &[&TARGET_INFO];

/// Appends a snapshot to `out`.
pub fn encode(snapshot: &Snapshot, format: Format, out: &mut Vec<u8>) {
    match format {
        Format::OpenMetrics => text::encode(snapshot, true, out),
        Format::Text => text::encode(snapshot, false, out),
        Format::Protobuf => proto::encode(snapshot, out),
    }
}

/// Labels of [`TARGET_INFO`].
pub fn target_labels(snapshot: &Snapshot) -> Labels {
    let resource = &snapshot.resource;
    Labels::new(
        TARGET_INFO.labels,
        &[&resource.host, &resource.region, &resource.zone],
        false,
        snapshot.start_unix_nanos,
    )
}

/// Exponents of the bounds of the classic buckets: 2^k seconds. Every eighth kernel bound is one of them, so the
/// counts are exact.
const FIRST_BOUND: i32 = -20;
const LAST_BOUND: i32 = 7;
const BOUNDS: usize = (LAST_BOUND - FIRST_BOUND + 1) as usize;
/// The first bound is the lower end of the first cell: only what is zero lies below.
const _: () = assert!(FIRST_BOUND * 8 == FIRST_INDEX);

/// Cumulative counts at the classic bounds. What lies beyond the last one is in the total count only.
fn classic(histogram: &crate::aggregate::HistogramValue) -> [u64; BOUNDS] {
    let mut out = [histogram.zero; BOUNDS];
    let mut sum = histogram.zero;
    let mut octaves = histogram.cells.chunks(8);
    for at in out.iter_mut().skip(1) {
        sum += octaves.next().map_or(0, |cells| cells.iter().sum());
        *at = sum;
    }
    out
}

/// Exemplars by classic bucket: the newest of each.
pub(in crate::export) struct Exemplars<'a>(Vec<&'a Exemplar>);

impl<'a> Exemplars<'a> {
    pub(in crate::export) fn new(mut all: Vec<&'a Exemplar>) -> Self {
        // The last is that of the smallest power of two.
        all.sort_by_key(|one| std::cmp::Reverse(one.octave()));
        Self(all)
    }

    /// That of the bucket which ends at `2^exponent`; buckets are asked for in their order.
    pub(in crate::export) fn up_to(&mut self, exponent: i32) -> Option<&'a Exemplar> {
        // Several only where a bucket has no end, or no beginning.
        std::iter::from_fn(|| self.0.pop_if(|one| one.octave() <= exponent)).max_by_key(|one| one.unix_nanos)
    }
}
