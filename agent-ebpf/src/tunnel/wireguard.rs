//! WireGuard's handshakes: how long they take, and whether they are answered.

use super::row::{self, bump};
use crate::account::{self, exchange};
use crate::histogram::record;
use agent_common::tunnel::parse::Parsed;
use agent_common::tunnel::{counter, handshake, series};
use aya_ebpf::helpers::bpf_ktime_get_boot_ns;

/// Takes an initiation, response or cookie reply.
#[inline(never)]
pub fn handshake<const DIRECTION: usize>(parsed: &Parsed, slot: u32) {
    let (Some(cells), Some(state)) = (row::cells(slot), row::state(slot)) else {
        return;
    };
    let first = counter::HANDSHAKES + DIRECTION * 3;
    // SAFETY: no preconditions.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    let micros = (now / 1000) as u32;
    match parsed.message {
        1 => {
            bump(&mut cells.counters[first + handshake::INITIATION]);
            exchange(
                &mut state.initiation[DIRECTION],
                (parsed.sender as u64) << 32 | micros as u64,
            );
            // All CPUs share the state of a tunnel; its cells they do not.
            account::bump(&mut state.unanswered[DIRECTION]);
        }
        2 => {
            bump(&mut cells.counters[first + handshake::RESPONSE]);
            let asked = &mut state.initiation[1 - DIRECTION];
            let pending = *asked;
            // Who takes the initiation out is the one who counts the response.
            if pending == 0 || (pending >> 32) as u32 != parsed.window || exchange(asked, 0) != pending {
                return;
            }
            let latency = micros.wrapping_sub(pending as u32);
            // Whoever asked, the tunnel is alive: the other side's own tries end with it.
            exchange(&mut state.unanswered[1 - DIRECTION], 0);
            exchange(&mut state.unanswered[DIRECTION], 0);
            state.last_handshake = now;
            state.last_latency = latency as u64;
            record(&mut state.histograms[series::HANDSHAKE], latency);
        }
        _ => bump(&mut cells.counters[first + handshake::COOKIE]),
    }
}
