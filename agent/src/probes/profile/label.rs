//! What a sample has to say beside its stack.

use crate::identity::Peers;
use crate::probes::drops;
use agent_common::profile::{StackHead, retransmit, sample};
use std::collections::HashMap;

/// Gives details ([`StackHead::detail`]) their names.
#[derive(Default)]
pub struct Labeller {
    reasons: HashMap<u32, String>,
}

impl Labeller {
    /// With the names of this kernel's drop reasons.
    pub fn new(reasons: HashMap<u32, String>) -> Self {
        Self { reasons }
    }

    /// The label of a sample; empty = it has none.
    pub fn label(&self, head: &StackHead, peers: &Peers) -> String {
        let (number, peer) = (head.detail as u32, (head.detail >> 32) as u32);
        let with_peer = |why: &str| format!("{why} {}", peers.get(peer).name);
        match head.sample {
            sample::DROP => with_peer(&drops::reason(&self.reasons, number)),
            sample::RETRANSMIT => {
                let why = retransmit::NAMES.get(number as usize).copied();
                with_peer(why.unwrap_or_default())
            }
            _ => String::new(),
        }
    }
}
