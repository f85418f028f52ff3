//! The parser of tunnel packets over any bytes, and the window over any sequence numbers.
#![no_main]

use agent_common::tunnel::parse::{Bytes, Parsed, Ports, Verdict, fact, parse};
use agent_common::tunnel::window::{Step, Window, holes_below};
use agent_common::tunnel::{PORTS, class, kind};
use libfuzzer_sys::fuzz_target;

struct Known;

impl Ports for Known {
    fn kind(&self, port: u16) -> u8 {
        PORTS.iter().find(|p| p.0 == port).map_or(kind::NONE, |p| p.1)
    }
}

fuzz_target!(|data: &[u8]| {
    let [mode, size, rest @ ..] = data else {
        return;
    };
    if mode & 2 == 0 {
        packet(rest, mode & 1 == 0, u32::from(*size) * 8);
    } else {
        sequence(rest, mode & 1 == 0);
    }
});

fn packet(bytes: &[u8], ethernet: bool, segment: u32) {
    let mut parsed = Parsed::default();
    let verdict = parse(&Bytes::gso(bytes, segment), &Known, ethernet, &mut parsed);
    if verdict == Verdict::Tunnel {
        assert!(parsed.kind != kind::NONE && (parsed.kind as usize) < kind::COUNT);
        assert!((parsed.class as usize) < class::COUNT);
        assert!(parsed.end as usize <= bytes.len());
        assert!(parsed.inner <= parsed.end && parsed.headers <= parsed.end);
        assert!(parsed.facts & fact::TCP == 0 || parsed.facts & fact::PAIR != 0);
    }
}

/// Eight bytes a number: absolute, or near the one before.
fn sequence(bytes: &[u8], wide: bool) {
    let (mut window, mut step, mut last, mut packets) = (Window::EMPTY, Step::default(), 0u64, 0);
    for chunk in bytes.chunks_exact(8) {
        let n = u64::from_le_bytes(chunk.try_into().unwrap_or_default());
        last = if n & 1 == 0 { last.wrapping_add((n >> 8) as i8 as u64) } else { n };
        window.take(last, wide, &mut step);
        packets += 1;
        assert_eq!(step.received + step.duplicated + step.late, packets);
        assert!(step.reordered <= step.received && step.restarts <= step.received);
        assert!(holes_below(&window, u64::MAX) <= 64 * 64);
    }
}
