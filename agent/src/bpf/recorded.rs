//! The engine of a replay: no kernel, no rights; what it would know is in the recording.

use super::sys::MappedArray;
use super::{Engine, Sizes};
use crate::error::{Error, Result};
use crate::record::{Past, Source};
use agent_common::account::{Account, program};
use agent_common::tcp::{PairCells, home};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

/// The most that a recording is believed to have of each.
const MOST_ROWS: usize = 1 << 20;
const MOST_CPUS: u32 = 8192;

/// What a recording has to know of the engine that it is of.
#[derive(Serialize, Deserialize)]
pub(super) struct Told {
    pub cpus: u32,
    pub accept_parameters: u32,
    pub sizes: Sizes,
    pub drop_reasons: BTreeMap<u32, String>,
}

impl Engine {
    /// As the recorded one was.
    pub fn recorded(past: &Arc<Past>) -> Result<Self> {
        let Some(told) = past.fact::<Told>("engine") else {
            let why: Option<String> = past.fact("engine_error");
            let why = why.as_deref().unwrap_or("it does not say how it was");
            return Err(Error::new(format_args!(
                "the recording has no kernel side: {why}"
            )));
        };
        let rows = (told.sizes.slots as usize).saturating_mul(told.sizes.shards as usize);
        // A file may say anything; a row is 4 KB.
        if rows > MOST_ROWS || told.cpus > MOST_CPUS {
            return Err(Error::new(format_args!(
                "the recording says {rows} rows and {} CPUs, more than an agent has",
                told.cpus
            )));
        }
        let accounts = program::COUNT.saturating_mul(told.cpus as usize);
        Ok(Self {
            ebpf: None,
            btf: None,
            btf_path: PathBuf::new(),
            missing: HashMap::new(),
            no_types: false,
            iterators: HashMap::new(),
            events: HashMap::new(),
            verdicts: Vec::new(),
            known: Vec::new(),
            kept: Vec::new(),
            entries: HashMap::new(),
            changed: false.into(),
            accounts: past.array("ACCOUNTS", size_of::<Account>(), accounts)?,
            cells: past.array("PAIR_CELLS", size_of::<PairCells>(), rows)?,
            accept_parameters: told.accept_parameters,
            home: Arc::new(MappedArray::recorded(8 * home::COUNT, told.cpus as usize)?),
            cpus: told.cpus,
            sizes: told.sizes,
            drop_reasons: told.drop_reasons.into_iter().collect(),
            map_memory: Vec::new(),
            source: Source::Recorded(past.clone()),
        })
    }
}
