//! Probe `block`: how long requests to block devices take.
//!
//! | program | hook | gives |
//! |---|---|---|
//! | `block_complete` | tp_btf/block_rq_complete | latency, bytes and errors by disk and operation |
//!
//! A request knows when it began (that is what /proc/diskstats adds up), so one program and no map of open requests is
//! enough. How many are open the kernel tells in /proc/diskstats.

mod disks;

use super::totals::Totals;
use super::{Context, Probe, histograms, relieve_packets};
use crate::aggregate::{Family, HistogramValue, Kind, Labels, Metric, Series, Stability, Value, label};
use crate::bpf::KernelMap;
use crate::bpf::fields::Group;
use crate::bpf::{Hook, Spec};
use crate::error::{Context as _, Result};
use agent_common::account::program;
use agent_common::block::{BlockCells, BlockKey, operation};
use agent_common::histogram::Histogram;
use agent_common::wire::Wire;
use disks::{Coverage, Disk};
use std::collections::HashMap;
use std::sync::Arc;

static PROGRAMS: [Spec; 1] = [Spec {
    name: "block_complete",
    probe: "block",
    account: program::BLOCK_COMPLETE,
    hook: Hook::TpBtf("block_rq_complete"),
    needs: &[Group::Block],
    required: true,
    remedy: "needs a kernel with BTF, 5.16 or later",
}];

const LABELS: &[&crate::aggregate::Label] = &[&label::BLOCK_DEVICE, &label::OPERATION];

/// Latency.
pub static IO: Metric = Metric::experimental(
    "geophone_block_io_seconds",
    "geophone.block.duration",
    "s",
    Kind::Histogram,
    LABELS,
    "Time that requests took, from their beginning, waiting in queues included, to their end",
);
/// Bytes.
pub static BYTES: Metric = Metric::experimental(
    "geophone_block_bytes_total",
    "geophone.block.io",
    "By",
    Kind::Counter,
    LABELS,
    "Bytes that were read, written or discarded",
);
/// Errors.
pub static ERRORS: Metric = Metric::experimental(
    "geophone_block_errors_total",
    "geophone.block.errors",
    "{request}",
    Kind::Counter,
    LABELS,
    "Requests that ended, wholly or in part, with an error",
);
/// Open requests.
pub static IN_FLIGHT: Metric = Metric::experimental(
    "geophone_block_in_flight",
    "geophone.block.in_flight",
    "{request}",
    Kind::Gauge,
    &[&label::BLOCK_DEVICE],
    "Requests that have begun and not ended (/proc/diskstats), of disks that have been used",
);
/// Coverage.
pub static COVERAGE: Metric = Metric {
    name: "geophone_block_coverage_ratio",
    otlp: "geophone.block.coverage",
    unit: "1",
    kind: Kind::Gauge,
    help: "Requests that geophone counted divided by those that the kernel counted (/proc/diskstats), since the start",
    labels: &[],
    stability: Stability::Experimental,
};

/// All of them.
pub const METRICS: &[&Metric] = &[&IO, &BYTES, &ERRORS, &IN_FLIGHT, &COVERAGE];

/// What the configuration says.
#[derive(Clone, Debug)]
pub struct Options {
    /// Most series; what is beyond goes to `other`.
    pub max_series: usize,
}

/// What the kernel had counted for a disk and an operation when it was last read.
struct Row {
    last: BlockCells,
    total: usize,
}

struct Total {
    device: u32,
    labels: Arc<Labels>,
    latency: Arc<HistogramValue>,
    bytes: u64,
    errors: u64,
}

/// The probe.
pub struct Block {
    map: Option<KernelMap>,
    rows: HashMap<BlockKey, Row>,
    totals: Totals<(String, u32), Total>,
    disks: HashMap<u32, Disk>,
    /// Labels of [`IN_FLIGHT`].
    devices: HashMap<u32, (String, Arc<Labels>)>,
    coverage: Coverage,
    /// Requests that we have counted.
    counted: u64,
    ratio: Option<f64>,
    start: u64,
}

const NOTHING: BlockCells = BlockCells {
    latency: histograms::EMPTY,
    bytes: 0,
    errors: 0,
};

fn decode(bytes: &[u8]) -> Option<BlockCells> {
    let (latency, rest) = bytes.split_at_checked(size_of::<Histogram>())?;
    let (bytes, errors) = rest.split_at_checked(8)?;
    Some(BlockCells {
        latency: histograms::decode(latency)?,
        bytes: u64::from_ne_bytes(bytes.try_into().ok()?),
        errors: u64::from_ne_bytes(errors.try_into().ok()?),
    })
}

fn name(disks: &HashMap<u32, Disk>, device: u32) -> String {
    let name = disks.get(&device).map(|disk| disk.name.clone());
    name.unwrap_or_else(|| format!("{}:{}", device >> 20, device & 0xf_ffff))
}

/// What a disk of this number is called.
pub fn disk_name(device: u32) -> String {
    name(&disks::read(), device)
}

/// Requests between two readings.
fn requests(last: &Histogram, now: &Histogram) -> u64 {
    let cells = now.cells.iter().zip(&last.cells);
    cells.map(|(now, last)| u64::from(now.wrapping_sub(*last))).sum()
}

impl Block {
    /// A probe that is not attached yet.
    pub fn new(options: Options) -> Self {
        Self {
            // A row is three series.
            totals: Totals::new((options.max_series / 3).saturating_sub(1)),
            map: None,
            rows: HashMap::new(),
            disks: HashMap::new(),
            devices: HashMap::new(),
            coverage: Coverage::default(),
            counted: 0,
            ratio: None,
            start: 0,
        }
    }

    fn take(&mut self, key: BlockKey, now: BlockCells, context: &Context<'_>) {
        let (last, at) = match self.rows.get(&key) {
            Some(row) => (row.last, row.total),
            None => {
                let name = name(&self.disks, key.device);
                let known = (key != BlockKey::OTHER).then(|| (name.clone(), key.operation));
                let at = self.totals.place(known, context.now, |other| {
                    let operation = operation::NAMES.get(key.operation as usize).copied();
                    let values = if other {
                        ["other", ""]
                    } else {
                        [&*name, operation.unwrap_or_default()]
                    };
                    Total {
                        device: key.device,
                        labels: Arc::new(Labels::new(LABELS, &values, other, context.series_start)),
                        latency: Arc::default(),
                        bytes: 0,
                        errors: 0,
                    }
                });
                (NOTHING, at)
            }
        };
        self.counted += requests(&last.latency, &now.latency);
        if let Some(total) = self.totals.get_mut(at) {
            if last.latency.cells != now.latency.cells {
                histograms::grow(Arc::make_mut(&mut total.latency), &last.latency, &now.latency);
            }
            total.bytes += now.bytes.wrapping_sub(last.bytes);
            total.errors += now.errors.wrapping_sub(last.errors);
        }
        self.rows.insert(key, Row { last: now, total: at });
    }

    fn read(&mut self, context: &Context<'_>) -> Result<()> {
        let Some(map) = &self.map else { return Ok(()) };
        let mut found = Vec::new();
        let (key, value) = (BlockKey::SIZE, size_of::<BlockCells>());
        map.for_each(key, value, |key, value| {
            found.extend(BlockKey::decode(key).zip(decode(value)));
        })?;
        // Behind our own: what ends between the two readings makes the ratio less, and never too good.
        self.disks = disks::of(context.source);
        for (key, now) in found {
            let is_used = key != BlockKey::OTHER || now.bytes != 0 || now.latency.sum_micros != 0;
            if is_used {
                self.take(key, now, context);
            }
        }
        let mut kernels = self.coverage.update(&self.disks, false, context.source);
        const FACT: &str = "block coverage";
        if let Some((counted, then)) = context.source.resume(FACT) {
            (self.counted, kernels) = (counted, then);
            self.coverage.resume(kernels);
        }
        context.source.tell(FACT, || (self.counted, kernels));
        self.ratio = (kernels > 0).then(|| self.counted as f64 / kernels as f64);
        // Disks that are gone give their rows back.
        let (disks, map) = (&self.disks, &self.map);
        self.rows.retain(|key, _| {
            let is_there = *key == BlockKey::OTHER || disks.contains_key(&key.device);
            if !is_there {
                let mut bytes = Vec::with_capacity(BlockKey::SIZE);
                key.encode(&mut bytes);
                let _ = map.as_ref().map(|map| map.remove(&bytes));
            }
            is_there
        });
        self.totals
            .end(context.now, self.rows.values().map(|row| row.total));
        let start = context.series_start;
        let used: Vec<u32> = self.totals.iter().map(|total| total.device).collect();
        self.devices.retain(|device, (name, _)| {
            used.contains(device) && disks.get(device).is_some_and(|disk| disk.name == *name)
        });
        for device in used {
            if let Some(disk) = disks.get(&device) {
                self.devices.entry(device).or_insert_with(|| {
                    let labels = Labels::new(IN_FLIGHT.labels, &[&disk.name], false, start);
                    (disk.name.clone(), Arc::new(labels))
                });
            }
        }
        Ok(())
    }
}

impl Probe for Block {
    fn name(&self) -> &'static str {
        "block"
    }

    fn accounts(&self) -> &'static [usize] {
        &[program::BLOCK_COMPLETE]
    }

    fn attach(&mut self, context: &mut Context<'_>) -> Result<()> {
        self.start = context.series_start;
        let Some(engine) = context.engine.as_deref_mut() else {
            return Ok(());
        };
        let map = engine.take_data("BLOCK_IO")?;
        // The row that takes what finds no room; see agent-ebpf/src/block.rs.
        let nothing = [0; size_of::<BlockCells>()];
        map.update(&[0; BlockKey::SIZE], &nothing)
            .context("map BLOCK_IO")?;
        self.map = Some(map);
        for spec in &PROGRAMS {
            engine.attach(spec);
        }
        self.coverage
            .update(&disks::of(context.source), true, context.source);
        Ok(())
    }

    fn tick(&mut self, context: &mut Context<'_>) {
        if let Err(e) = self.read(context) {
            tracing::warn!("probe block: {e}");
        }
    }

    fn relieve(&mut self, level: u32, context: &mut Context<'_>) {
        relieve_packets(level, &PROGRAMS, context);
    }

    fn collect(&mut self, out: &mut Vec<Family>) {
        let series = |value: fn(&Total) -> Value| -> Vec<Series> {
            let each = self.totals.iter().map(|total| Series {
                labels: total.labels.clone(),
                value: value(total),
            });
            each.collect()
        };
        let io = series(|total| Value::Histogram(total.latency.clone()));
        let bytes = series(|total| Value::Counter(total.bytes));
        let errors = series(|total| Value::Counter(total.errors));
        let in_flight = self.devices.iter().filter_map(|(device, (_, labels))| {
            Some(Series {
                labels: labels.clone(),
                value: Value::Gauge(self.disks.get(device)?.in_flight as f64),
            })
        });
        let in_flight = in_flight.collect();
        let ratio = self.ratio.map(|ratio| Series {
            labels: Arc::new(Labels::new(COVERAGE.labels, &[], false, self.start)),
            value: Value::Gauge(ratio),
        });
        let families = [
            (&IO, io),
            (&BYTES, bytes),
            (&ERRORS, errors),
            (&IN_FLIGHT, in_flight),
        ];
        out.extend(families.map(|(metric, series)| Family { metric, series }));
        out.push(Family {
            metric: &COVERAGE,
            series: ratio.into_iter().collect(),
        });
    }
}
