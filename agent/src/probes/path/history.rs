//! The latest traces of a target: what they show together, and when they show another way.

use super::trace::{Hop, Trace};
use std::collections::{BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

/// Traces that count; older ones are forgotten, and with them the hops that no longer answer.
const WINDOW: usize = 10;

/// What is known of one hop.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Who answered when somebody last did.
    pub addresses: BTreeSet<IpAddr>,
    /// Packets that should have ended here.
    pub sent: u64,
    /// Those of them that nobody answered.
    pub lost: u64,
    /// Median of the round-trip times.
    pub rtt: Option<Duration>,
}

/// A way that another has taken the place of, and that one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Who answered at each hop, `*` = nobody, `|` between several.
    pub before: Vec<String>,
    /// Who does now.
    pub after: Vec<String>,
    /// Routers on the way, if the target answered.
    pub hops: (Option<u8>, Option<u8>),
}

/// In what a trace is another way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Difference {
    /// Another router at this hop.
    Router(usize),
    /// The target is nearer or farther.
    Length,
}

/// The latest traces of a target.
#[derive(Debug, Default)]
pub struct History {
    /// Those of the present way, and those that flapped.
    traces: VecDeque<Trace>,
    /// A whole trace of another way, if it was the last one: the next one confirms or refutes it.
    doubted: Option<Trace>,
}

impl History {
    /// Takes a trace. A change is two whole traces in succession that agree on a way of which no trace before has shown
    /// anything: what comes back is balanced, and what is silent is lost.
    pub fn take(&mut self, trace: Trace) -> Option<Change> {
        let whole = trace.reached || !self.reached();
        let differences = if whole {
            self.differences(&trace)
        } else {
            Vec::new()
        };
        let doubted = self.doubted.take();
        if differences.is_empty() {
            // What is not whole neither confirms nor refutes.
            if whole {
                self.traces.extend(doubted);
            } else {
                self.doubted = doubted;
            }
        } else if let Some(other) = doubted {
            let before = self.differences(&other);
            if differences
                .iter()
                .any(|d| before.contains(d) && agree(&other, &trace, *d))
            {
                return Some(self.replace(other, trace));
            }
            self.traces.push_back(other);
            self.doubted = Some(trace);
            self.forget();
            return None;
        } else {
            self.doubted = Some(trace);
            return None;
        }
        self.traces.push_back(trace);
        self.forget();
        None
    }

    fn forget(&mut self) {
        while self.traces.len() > WINDOW {
            self.traces.pop_front();
        }
    }

    fn replace(&mut self, first: Trace, second: Trace) -> Change {
        let before = self.settled();
        let after = [&first, &second];
        let routers = |traces: &[&Trace]| {
            let reached = traces.iter().rev().find(|t| t.reached)?;
            Some(reached.hops.len().saturating_sub(1) as u8)
        };
        let change = Change {
            before: names(&before),
            after: names(&after),
            hops: (routers(&before), routers(&after)),
        };
        self.traces.clear();
        self.traces.push_back(second);
        change
    }

    fn reached(&self) -> bool {
        self.traces.iter().any(|t| t.reached)
    }

    /// The whole traces, without the last if the way moved while it was made.
    fn settled(&self) -> Vec<&Trace> {
        let reached = self.reached();
        let clear = self.traces.len() - usize::from(self.mixed());
        let traces = self.traces.iter().take(clear);
        traces.filter(|t| t.reached || !reached).collect()
    }

    /// Whether the last trace shows the way before it and another one.
    fn mixed(&self) -> bool {
        let mut latest = self.traces.iter().rev();
        let (Some(last), Some(previous)) = (latest.next(), latest.next()) else {
            return false;
        };
        let both = |(a, b): (&Hop, &Hop)| {
            !a.addresses.is_subset(&b.addresses) && !a.addresses.is_disjoint(&b.addresses)
        };
        last.hops.iter().zip(&previous.hops).any(both)
    }

    fn differences(&self, trace: &Trace) -> Vec<Difference> {
        let before = self.settled();
        let mut out = Vec::new();
        for (i, hop) in trace
            .hops
            .iter()
            .enumerate()
            .filter(|(_, h)| !h.addresses.is_empty())
        {
            let hops = before.iter().filter_map(|t| t.hops.get(i));
            let mut known = hops.filter(|h| !h.addresses.is_empty()).peekable();
            if known.peek().is_some() && known.all(|h| h.addresses.is_disjoint(&hop.addresses)) {
                out.push(Difference::Router(i));
            }
        }
        let mut reached = before.iter().filter(|t| t.reached).peekable();
        if trace.reached && reached.peek().is_some() && reached.all(|t| t.hops.len() != trace.hops.len()) {
            out.push(Difference::Length);
        }
        out
    }

    /// What the traces of the window show, hop by hop, the first router first.
    pub fn view(&self) -> Vec<Seen> {
        let traces: Vec<&Trace> = self.traces.iter().collect();
        let hop = |i: usize| {
            let hops = || traces.iter().filter_map(|t| t.hops.get(i));
            let sent = hops().map(|h| h.sent).sum();
            let mut answered: Vec<Duration> = hops().flat_map(|h| h.answered.iter().copied()).collect();
            answered.sort_unstable();
            Seen {
                addresses: newest(&traces, i).cloned().unwrap_or_default(),
                sent,
                lost: sent.saturating_sub(answered.len() as u64),
                rtt: answered.get(answered.len() / 2).copied(),
            }
        };
        (0..length(&traces)).map(hop).collect()
    }
}

/// Whether both show the same in what they differ in from the way before.
fn agree(a: &Trace, b: &Trace, difference: Difference) -> bool {
    match difference {
        Difference::Length => a.hops.len() == b.hops.len(),
        Difference::Router(i) => match (a.hops.get(i), b.hops.get(i)) {
            (Some(a), Some(b)) => !a.addresses.is_disjoint(&b.addresses),
            _ => false,
        },
    }
}

/// Hops up to the target; where no trace has reached it, up to the last that answered.
fn length(traces: &[&Trace]) -> usize {
    let answered = |t: &&Trace| {
        t.hops
            .iter()
            .rposition(|h| !h.addresses.is_empty())
            .map_or(0, |i| i + 1)
    };
    match traces.iter().rev().find(|t| t.reached) {
        Some(reached) => reached.hops.len(),
        None => traces.iter().map(answered).max().unwrap_or(0),
    }
}

/// Who answered at a hop when somebody last did.
fn newest<'a>(traces: &[&'a Trace], hop: usize) -> Option<&'a BTreeSet<IpAddr>> {
    let hops = traces.iter().rev().filter_map(|t| t.hops.get(hop));
    hops.map(|h| &h.addresses).find(|a| !a.is_empty())
}

fn names(traces: &[&Trace]) -> Vec<String> {
    let name = |hop: usize| match newest(traces, hop) {
        Some(all) => all.iter().map(IpAddr::to_string).collect::<Vec<_>>().join("|"),
        None => "*".to_owned(),
    };
    (0..length(traces)).map(name).collect()
}

#[cfg(test)]
#[path = "history_tests.rs"]
mod tests;
