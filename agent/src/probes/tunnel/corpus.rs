//! The corpus of packets through the loaded programs, by BPF_PROG_TEST_RUN: what they count must be what the parser and
//! the window say on this side. `geophone test-corpus`, hidden.

use super::{OWN, Options, SPECS, Tunnel, inner};
use crate::accounting;
use crate::bpf::KernelMap;
use crate::bpf::sys::MappedArray;
use crate::bpf::{Engine, State};
use crate::error::{Context as _, Result};
use agent_common::account::{Account, program};
use agent_common::tunnel::corpus::{self, cases};
use agent_common::tunnel::parse::{Bytes, Parsed, Ports, Verdict, bytes, fact, parse};
use agent_common::tunnel::window::{Step, Window};
use agent_common::tunnel::{
    EndKey, InnerKey, SLOT_OTHER, TunnelCells, TunnelKey, TunnelValue, WindowKey, WindowValue, class,
    counter, direction, kind,
};
use agent_common::wire::Wire;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::mem::offset_of;

/// The kernel runs no program over shorter packets, many kernels over none that ends before its IP header does; nor
/// over those that do not fit into a page.
const SHORTEST: usize = 14;
/// Between the two limits.
const LONG: usize = 1000;
/// Packets of a test run come from the loopback device.
const IFINDEX: u32 = 1;
/// `TCX_NEXT`.
const NEXT: i32 = -1;
/// Differences that are told; the others are counted.
const TOLD: usize = 20;

struct Known<'a>(&'a BTreeMap<u16, u8>);

impl Ports for Known<'_> {
    fn kind(&self, port: u16) -> u8 {
        self.0.get(&port).copied().unwrap_or(kind::NONE)
    }
}

/// What the programs should have counted so far.
#[derive(Default)]
struct Expected {
    /// Ends from which received packets make rows.
    ends: HashSet<EndKey>,
    slots: HashMap<TunnelKey, u32>,
    counters: HashMap<u32, [u64; counter::COUNT]>,
    windows: HashMap<WindowKey, Window>,
    inner: HashMap<InnerKey, [u64; 2]>,
    /// By direction.
    accounts: [Account; 2],
}

impl Expected {
    fn add(&mut self, slot: u32, index: usize, n: u64) {
        let row = self.counters.entry(slot).or_insert([0; counter::COUNT]);
        if let Some(cell) = row.get_mut(index) {
            *cell += n;
        }
    }

    /// A packet of a direction, which the programs have just seen; `slots` asks which tunnels there are. Returns its
    /// slot.
    fn packet(
        &mut self,
        packet: &[u8],
        verdict: Verdict,
        p: &Parsed,
        d: usize,
        slots: impl Fn() -> Result<HashMap<TunnelKey, u32>>,
    ) -> Result<u32> {
        if let Some(account) = self.accounts.get_mut(d) {
            account.seen += 1;
            match verdict {
                Verdict::Nothing | Verdict::Fragment => account.filtered += 1,
                _ => account.aggregated += 1,
            }
        }
        let key = key(p, if verdict == Verdict::TooBig { 1 - d } else { d });
        let known = self.slots.get(&key).copied();
        match verdict {
            Verdict::Nothing => {}
            Verdict::Fragment => self.add(SLOT_OTHER, counter::UNKNOWN_FRAGMENTS + d, 1),
            Verdict::Malformed => self.add(known.unwrap_or(SLOT_OTHER), counter::MALFORMED + d, 1),
            Verdict::TooBig => self.add(known.unwrap_or(SLOT_OTHER), counter::TOO_BIG + d, 1),
            Verdict::SomeTunnel => self.count(packet, p, d, SLOT_OTHER),
            Verdict::Tunnel => {
                if known.is_none() {
                    if d == direction::INGRESS && !self.ends.contains(&key.end()) {
                        self.count(packet, p, d, SLOT_OTHER);
                        self.add(SLOT_OTHER, counter::STRANGERS, 1);
                        return Ok(SLOT_OTHER);
                    }
                    self.ends.insert(key.end());
                    self.slots = slots()?;
                }
                // Whoever has no slot shows as a difference.
                let slot = self.slots.get(&key).copied().unwrap_or(SLOT_OTHER);
                self.count(packet, p, d, slot);
                self.numbers(p, d, slot);
                return Ok(slot);
            }
        }
        Ok(known.unwrap_or(SLOT_OTHER))
    }

    fn count(&mut self, packet: &[u8], p: &Parsed, d: usize, slot: u32) {
        self.add(slot, counter::BYTES + d, packet.len() as u64);
        self.add(slot, counter::INNER_BYTES + d, p.inner.into());
        self.add(
            slot,
            counter::PACKETS + d * class::COUNT + usize::from(p.class),
            1,
        );
        if p.facts & fact::FRAGMENT != 0 {
            self.add(slot, counter::FRAGMENTS + d, 1);
        }
        if p.facts & fact::PAIR != 0 && slot != SLOT_OTHER {
            let (local, remote) = if d == direction::INGRESS {
                (p.inner_destination, p.inner_source)
            } else {
                (p.inner_source, p.inner_destination)
            };
            let pair = InnerKey {
                local: bytes(local),
                remote: bytes(remote),
                slot,
                pad: 0,
            };
            let bytes = self.inner.entry(pair).or_default();
            if let Some(bytes) = bytes.get_mut(d) {
                *bytes += u64::from(p.inner);
            }
        }
    }

    /// Sequence numbers and handshakes.
    fn numbers(&mut self, p: &Parsed, d: usize, slot: u32) {
        if d == direction::INGRESS && p.facts & fact::SEQUENCED != 0 {
            let key = WindowKey {
                slot,
                index: p.window,
            };
            let mut step = Step::default();
            let window = self.windows.entry(key).or_insert(Window::EMPTY);
            window.take(p.sequence, p.facts & fact::WIDE != 0, &mut step);
            let steps = [
                step.received,
                step.lost,
                step.reordered,
                step.duplicated,
                step.late,
                step.restarts,
            ];
            for (i, n) in steps.into_iter().enumerate() {
                self.add(slot, counter::SEQUENCE + i, n);
            }
        }
        if p.kind == kind::WIREGUARD && (1..4).contains(&p.message) {
            self.add(slot, counter::HANDSHAKES + d * 3 + usize::from(p.message) - 1, 1);
        }
    }
}

fn key(p: &Parsed, d: usize) -> TunnelKey {
    let (source, destination) = (
        (bytes(p.source), p.source_port),
        (bytes(p.destination), p.destination_port),
    );
    let (local, remote) = if d == direction::INGRESS {
        (destination, source)
    } else {
        (source, destination)
    };
    TunnelKey {
        local: local.0,
        remote: remote.0,
        id: p.id,
        ifindex: IFINDEX,
        local_port: local.1,
        remote_port: remote.1,
        kind: p.kind,
        flags: p.flags,
        netns: 0,
    }
}

/// What a hash map holds.
fn entries<K: Wire + Eq + std::hash::Hash, V: Wire>(map: &KernelMap, locked: bool) -> Result<HashMap<K, V>> {
    let mut out = HashMap::new();
    let take = |key: &[u8], value: &[u8]| out.extend(K::decode(key).zip(V::decode(value)));
    if locked {
        map.for_each_locked(K::SIZE, V::SIZE, take)?;
    } else {
        map.for_each(K::SIZE, V::SIZE, take)?;
    }
    Ok(out)
}

fn slots(map: &KernelMap) -> Result<HashMap<TunnelKey, u32>> {
    let all: HashMap<TunnelKey, TunnelValue> = entries(map, false)?;
    Ok(all.into_iter().map(|(key, value)| (key, value.slot)).collect())
}

/// The counters of a slot, over all shards.
fn row(cells: &MappedArray, shards: usize, slot: u32) -> [u64; counter::COUNT] {
    let slot = slot as usize;
    std::array::from_fn(|i| {
        let at = offset_of!(TunnelCells, counters) + 8 * i;
        (slot * shards..(slot + 1) * shards)
            .map(|row| cells.u64_at(row, at))
            .sum()
    })
}

/// Runs every packet, whole and cut at every byte of its headers, through all four programs; says where they and this
/// side differ.
pub fn run(engine: &mut Engine, options: Options) -> Result<Value> {
    let ports = options.ports.clone();
    let mut probe = Tunnel::new(options);
    probe.prepare(engine, 0)?;
    probe.write_ports()?;
    for spec in SPECS.iter().take(OWN) {
        if engine.attach(spec) != State::Attached {
            let why = engine.verdicts.iter().find(|v| v.program == spec.name);
            return Err(crate::error::Error::new(format_args!(
                "{} does not load: {}",
                spec.name,
                why.map_or("", |v| v.reason.as_str())
            )));
        }
    }
    let tunnels = engine.sizes.tunnels;
    let maps = probe.maps.as_ref().context("no maps")?;
    let mut expected = Expected::default();
    let (mut packets, mut runs, mut refused, mut differences) = (0u64, 0u64, 0u64, Vec::new());
    let (mut shortest, mut longest) = (SHORTEST, usize::MAX);
    let mut kinds = BTreeMap::<String, u64>::new();
    let all = || cases().into_iter();
    // First nobody has named an end, and of whole packets only what is sent makes rows; then all ends are known.
    let twice = all()
        .map(|case| (case, false))
        .chain(all().map(|case| (case, true)));
    for (case, known) in twice {
        if known && packets == 0 {
            for end in corpus::ends() {
                maps.ends.name(&end, u32::MAX)?;
                expected.ends.insert(end);
            }
        }
        packets += u64::from(known);
        let ip = matches!(case.bytes.get(12..14), Some([8, 0] | [0x86, 0xdd]));
        let ways = [
            (
                Some(case.bytes.as_slice()),
                true,
                ["tunnel_ingress", "tunnel_egress"],
            ),
            (
                case.bytes.get(14..).filter(|_| ip),
                false,
                ["tunnel_ingress_ip", "tunnel_egress_ip"],
            ),
        ];
        for (whole, ethernet, names) in ways {
            let Some(whole) = whole else { continue };
            // Every header of a packet ends long before its first 512 bytes do.
            let lengths =
                (SHORTEST..whole.len()).filter(|len| known && (*len < 512 || len.is_multiple_of(61)));
            for len in lengths.chain([whole.len()]) {
                let Some(packet) = whole.get(..len) else { continue };
                let mut parsed = Parsed::default();
                let verdict = parse(&Bytes::new(packet), &Known(&ports), ethernet, &mut parsed);
                for (d, name) in names.into_iter().enumerate() {
                    let what = || format!("{name}: {} cut to {len} of {}", case.name, whole.len());
                    let Some(action) = engine.classify(name, packet).context(what())? else {
                        refused += 1;
                        // One of the kernel's two limits.
                        if len < LONG {
                            shortest = shortest.max(len + 1);
                        } else {
                            longest = longest.min(len - 1);
                        }
                        continue;
                    };
                    runs += 1;
                    *kinds.entry(format!("{verdict:?}")).or_default() += 1;
                    let slot = expected.packet(packet, verdict, &parsed, d, || slots(&maps.tunnels))?;
                    let mut wrong = action != NEXT;
                    for slot in [slot, SLOT_OTHER] {
                        let seen = row(&maps.cells, maps.shards, slot);
                        let own = expected.counters.entry(slot).or_insert([0; counter::COUNT]);
                        wrong |= *own != seen;
                        // Told once.
                        *own = seen;
                    }
                    if wrong {
                        differences.push(format!("{}: {verdict:?} {parsed:?}", what()));
                    }
                }
            }
        }
    }
    for slot in 0..tunnels {
        let own = expected
            .counters
            .get(&slot)
            .copied()
            .unwrap_or([0; counter::COUNT]);
        if row(&maps.cells, maps.shards, slot) != own {
            differences.push(format!("slot {slot}: counted for another"));
        }
    }
    let windows: HashMap<WindowKey, WindowValue> = entries(&maps.windows, true)?;
    let windows: HashMap<WindowKey, Window> = windows
        .into_iter()
        .map(|(key, value)| (key, value.window))
        .collect();
    if windows != expected.windows {
        differences.push("the windows of sequence numbers".into());
    }
    let pairs: HashMap<InnerKey, [u64; 2]> = (0..maps.inner_cells)
        .filter_map(|cell| inner::read(&maps.inner, cell))
        .collect();
    if pairs != expected.inner {
        differences.push("the pairs inside".into());
    }
    if slots(&maps.tunnels)? != expected.slots {
        differences.push("the tunnels".into());
    }
    for (account, own) in [program::TUNNEL_INGRESS, program::TUNNEL_EGRESS]
        .into_iter()
        .zip(&expected.accounts)
    {
        let seen = accounting::read(engine, &[account]);
        if seen != *own {
            differences.push(format!("the account: {seen:?}, not {own:?}"));
        }
    }
    Ok(json!({
        "packets": packets,
        "runs": runs,
        "refused": refused,
        "shortest": shortest,
        "longest": longest,
        "verdicts": kinds,
        "tunnels": expected.slots.len(),
        "windows": expected.windows.len(),
        "pairs": expected.inner.len(),
        "different": differences.len(),
        "differences": differences.into_iter().take(TOLD).collect::<Vec<_>>(),
    }))
}
