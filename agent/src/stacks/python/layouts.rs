//! Tells the kernel how to read the Python of a process.

use super::Python;
use super::runtime::{self, Version};
use crate::bpf::sys;
use crate::stacks::maps::Mapping;
use crate::stacks::table::Table;
use agent_common::profile::PythonLayout;
use agent_common::wire::Wire as _;
use aya::maps::MapData;
use std::fs::File;
use std::os::fd::AsFd as _;

/// The versions of CPython that run here, by number.
pub struct Layouts {
    map: MapData,
    known: Vec<PythonLayout>,
}

impl Layouts {
    /// Of the map `PYTHON_LAYOUTS`.
    pub const fn new(map: MapData) -> Self {
        Self {
            map,
            known: Vec::new(),
        }
    }

    /// The Python that a mapping of a process is of, if it is one that can be read.
    pub fn find(&mut self, tgid: u32, table: &Table, mapping: &Mapping) -> Option<Python> {
        let symbols = table.python?.moved(table, mapping)?;
        let memory = File::open(format!("/proc/{tgid}/mem")).map_err(|e| e.to_string());
        let found = memory.and_then(|memory| Ok((runtime::version(&memory, symbols)?, memory)));
        match found {
            Ok((Version { layout, objects }, memory)) => Some(Python {
                memory,
                objects,
                runtime: symbols.runtime,
                layout: self.number(layout)?,
            }),
            Err(why) => {
                tracing::info!(
                    "process {tgid}: unsupported interpreter: Python: {why}; its stacks show the interpreter"
                );
                None
            }
        }
    }

    fn number(&mut self, layout: PythonLayout) -> Option<u32> {
        if let Some(known) = self.known.iter().position(|known| *known == layout) {
            return Some(known as u32);
        }
        let (number, mut bytes) = (self.known.len() as u32, Vec::new());
        layout.encode(&mut bytes);
        match sys::update(self.map.fd().as_fd(), &number.to_ne_bytes(), &bytes) {
            Ok(()) => {
                self.known.push(layout);
                Some(number)
            }
            Err(e) => {
                tracing::warn!("map PYTHON_LAYOUTS: {e}");
                None
            }
        }
    }
}
