//! What probe `profile` exports.

use crate::aggregate::{Kind, Metric, Stability, label};

/// Samples.
pub static SAMPLES: Metric = Metric {
    name: "geophone_profile_samples_total",
    otlp: "geophone.profile.samples",
    unit: "{sample}",
    kind: Kind::Counter,
    help: "Stacks that were taken; ticks of idle CPUs are not among them",
    labels: &[&label::PROFILE_SAMPLE],
    stability: Stability::Experimental,
};
/// Stacks by how they ended.
pub static STACKS: Metric = Metric {
    name: "geophone_profile_stacks_total",
    otlp: "geophone.profile.stacks",
    unit: "{sample}",
    kind: Kind::Counter,
    help: "User stacks by how they ended; their sum is that of the samples",
    labels: &[&label::END],
    stability: Stability::Experimental,
};
/// Stacks of Python by how they ended.
pub static PYTHON_STACKS: Metric = Metric {
    name: "geophone_profile_python_stacks_total",
    otlp: "geophone.profile.python_stacks",
    unit: "{sample}",
    kind: Kind::Counter,
    help: "Samples of processes that run CPython 3.11 to 3.13, by how their Python frames ended: no_thread = the thread is none of Python's",
    labels: &[&label::END],
    stability: Stability::Experimental,
};
/// Frames of Python without names.
pub static PYTHON_LOST: Metric = Metric {
    name: "geophone_profile_python_lost_frames_total",
    otlp: "geophone.profile.python_lost_frames",
    unit: "{frame}",
    kind: Kind::Counter,
    help: "Frames of Python without a name: unreadable = the process has ended or may not be looked at, replaced = its code object is gone, malformed = it makes no sense, silent = what stands behind its memory has not answered in time",
    labels: &[&label::REASON],
    stability: Stability::Experimental,
};
/// Samples that were taken and are not to be had any more.
pub static LOST: Metric = Metric {
    name: "geophone_profile_lost_samples_total",
    otlp: "geophone.profile.lost_samples",
    unit: "{sample}",
    kind: Kind::Counter,
    help: "Samples that are not in the store although their hour is not over: backlog = the agent fell behind, memory = probes.profile.store_memory is too small for an hour; waker = the sample is there, without who ended the wait",
    labels: &[&label::REASON],
    stability: Stability::Experimental,
};
/// CPUs that are sampled.
pub static CPUS: Metric = Metric {
    name: "geophone_profile_cpus",
    otlp: "geophone.profile.cpus",
    unit: "{cpu}",
    kind: Kind::Gauge,
    help: "CPUs whose clock is sampled: those that are online",
    labels: &[],
    stability: Stability::Experimental,
};
/// Processes that can be unwound.
pub static PROCESSES: Metric = Metric {
    name: "geophone_profile_processes",
    otlp: "geophone.profile.processes",
    unit: "{process}",
    kind: Kind::Gauge,
    help: "Processes that the kernel can unwind",
    labels: &[],
    stability: Stability::Experimental,
};
/// Processes that were looked at.
pub static LOOKED: Metric = Metric {
    name: "geophone_profile_processes_read_total",
    otlp: "geophone.profile.processes_read",
    unit: "{process}",
    kind: Kind::Counter,
    help: "Times that the mappings of a process were read",
    labels: &[],
    stability: Stability::Experimental,
};
/// Files whose code is known.
pub static BINARIES: Metric = Metric {
    name: "geophone_profile_binaries",
    otlp: "geophone.profile.binaries",
    unit: "{file}",
    kind: Kind::Gauge,
    help: "Files whose unwind tables are held",
    labels: &[],
    stability: Stability::Experimental,
};
/// Files that are open.
pub static OPEN_FILES: Metric = Metric {
    name: "geophone_profile_open_files",
    otlp: "geophone.profile.open_files",
    unit: "{file}",
    kind: Kind::Gauge,
    help: "Files that are open because names may be asked of them; one that no process has any more is closed after 30 s",
    labels: &[],
    stability: Stability::Experimental,
};
/// Tables made.
pub static TABLES: Metric = Metric {
    name: "geophone_profile_tables_total",
    otlp: "geophone.profile.tables",
    unit: "{file}",
    kind: Kind::Counter,
    help: "Unwind tables that were made",
    labels: &[],
    stability: Stability::Experimental,
};
/// Tables that could not be made or kept.
pub static TABLE_FAILURES: Metric = Metric {
    name: "geophone_profile_table_failures_total",
    otlp: "geophone.profile.table_failures",
    unit: "{file}",
    kind: Kind::Counter,
    help: "Files and processes whose stacks stay short: no_room = probes.profile.table_memory is full, malformed = the file is no sound ELF file or cannot be read",
    labels: &[&label::REASON],
    stability: Stability::Experimental,
};
/// Rows.
pub static ROWS: Metric = Metric {
    name: "geophone_profile_table_rows",
    otlp: "geophone.profile.table_rows",
    unit: "{row}",
    kind: Kind::Gauge,
    help: "Rows of all unwind tables with their indices, 8 bytes each",
    labels: &[],
    stability: Stability::Experimental,
};
/// Memory of the tables.
pub static TABLE_BYTES: Metric = Metric {
    name: "geophone_profile_table_bytes",
    otlp: "geophone.profile.table_memory",
    unit: "By",
    kind: Kind::Gauge,
    help: "Memory of all unwind tables and mappings",
    labels: &[],
    stability: Stability::Experimental,
};
/// Memory of the samples.
pub static STORE_BYTES: Metric = Metric {
    name: "geophone_profile_store_bytes",
    otlp: "geophone.profile.store_memory",
    unit: "By",
    kind: Kind::Gauge,
    help: "Memory of the samples of the last hour",
    labels: &[],
    stability: Stability::Experimental,
};
/// Failures of the reader of symbols.
pub static SYMBOLIZER_FAILURES: Metric = Metric {
    name: "geophone_profile_symbolizer_failures_total",
    otlp: "geophone.profile.symbolizer_failures",
    unit: "{failure}",
    kind: Kind::Counter,
    help: "Times that the process that reads symbols died or took too long; the addresses have no names then",
    labels: &[],
    stability: Stability::Experimental,
};

/// What else keeps names away.
pub static NAME_FAILURES: Metric = Metric {
    name: "geophone_profile_name_failures_total",
    otlp: "geophone.profile.name_failures",
    unit: "{failure}",
    kind: Kind::Counter,
    help: "What names could not be taken from: perf_map = a file /tmp/perf-PID.map that is not the process's own or no file of bounded size, perf_map_line = a line of one that makes no sense, debuginfod = a file whose debug information no server of probes.profile.debuginfod has (once each), cache = a file of probes.profile.cache_dir that is not sound",
    labels: &[&label::REASON],
    stability: Stability::Experimental,
};

/// All of them.
pub const METRICS: &[&Metric] = &[
    &SAMPLES,
    &STACKS,
    &PYTHON_STACKS,
    &LOST,
    &PYTHON_LOST,
    &CPUS,
    &PROCESSES,
    &LOOKED,
    &BINARIES,
    &OPEN_FILES,
    &TABLES,
    &TABLE_FAILURES,
    &ROWS,
    &TABLE_BYTES,
    &STORE_BYTES,
    &SYMBOLIZER_FAILURES,
    &NAME_FAILURES,
];
