//! What a sample has to say beside its stack.

use crate::identity::Peers;
use crate::probes::block;
use crate::probes::drops;
use agent_common::block::operation;
use agent_common::profile::{StackHead, fault, retransmit, sample};
use std::collections::HashMap;

/// Gives details ([`StackHead::detail`]) their names.
#[derive(Default)]
pub struct Labeller {
    reasons: HashMap<u32, String>,
    disks: HashMap<u32, String>,
}

impl Labeller {
    /// With the names of this kernel's drop reasons.
    pub fn new(reasons: HashMap<u32, String>) -> Self {
        Self {
            reasons,
            disks: HashMap::new(),
        }
    }

    /// The label of a sample; empty = it has none.
    pub fn label(&mut self, head: &StackHead, peers: &Peers) -> String {
        let (number, high) = (head.detail as u32, (head.detail >> 32) as u32);
        let with_peer = |why: &str| format!("{why} {}", peers.get(high).name);
        match head.sample {
            sample::DROP => with_peer(&drops::reason(&self.reasons, number)),
            sample::RETRANSMIT => {
                let why = retransmit::NAMES.get(number as usize).copied();
                with_peer(why.unwrap_or_default())
            }
            sample::FAULT => {
                let name = fault::NAMES.get(number as usize).copied();
                name.unwrap_or_default().to_owned()
            }
            sample::BLOCK_IO => {
                let operation = operation::NAMES.get(high as usize).copied();
                format!("{} {}", self.disk(number), operation.unwrap_or_default())
            }
            _ => String::new(),
        }
    }

    /// Names of disks are asked for once: they change with the machine's hardware.
    fn disk(&mut self, number: u32) -> &str {
        self.disks
            .entry(number)
            .or_insert_with(|| block::disk_name(number))
    }
}
