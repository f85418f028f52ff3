//! One trace of an address: three rounds of a packet a hop. Runs on the probe's own thread.

use super::packet::{Answer, Meaning};
use super::sockets::Sockets;
use crate::error::Result;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Rounds of a trace: packets that each hop gets.
const ROUNDS: u16 = 3;
/// Longest way that is followed.
pub const LONGEST: u8 = 32;
/// Hops in a row that may stay silent before a trace gives up: bounds the packets to an address that does not answer.
const SILENT: u8 = 8;
/// Time between two packets: fifty a second at most.
const PACE: Duration = Duration::from_millis(20);
/// Least time between the beginnings of two rounds: routers limit their answers.
const ROUND: Duration = Duration::from_millis(500);
/// Longest time that the last packet of a round is waited for.
const PATIENCE: Duration = Duration::from_secs(1);
/// Routers that are remembered of one hop in one trace.
const SIDE_BY_SIDE: usize = 4;

/// What one hop answered in a trace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hop {
    /// Who answered; empty = nobody, several = not all packets of the flow go the same way.
    pub addresses: BTreeSet<IpAddr>,
    /// Packets that should have ended here.
    pub sent: u64,
    /// Round-trip times of those that were answered.
    pub answered: Vec<Duration>,
}

/// The way as one trace has found it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trace {
    /// Hops, the first router first; up to the target or, where it did not answer, all that were tried.
    pub hops: Vec<Hop>,
    /// The last hop is the target itself.
    pub reached: bool,
    /// Answers that were about our flow and about none of its packets, or that came twice.
    pub foreign: u64,
}

/// A packet of a trace.
#[derive(Clone, Copy, Debug)]
struct Sent {
    ttl: u8,
    time: Instant,
    answer: Option<(IpAddr, Meaning, Duration)>,
}

/// Packets and answers so far.
#[derive(Default)]
struct Course {
    sent: Vec<Sent>,
    foreign: u64,
}

/// Traces a target: about 1.5 s where all answer, 5 s at most. `None`: told to stop.
pub fn trace(sockets: &Sockets, stop: &AtomicBool) -> Result<Option<Trace>> {
    let mut course = Course::default();
    for _ in 0..ROUNDS {
        let (start, first) = (Instant::now(), course.sent.len());
        let mut last = start;
        for ttl in 1..=LONGEST {
            if ttl > course.end() {
                break;
            }
            if stop.load(Ordering::Relaxed) {
                return Ok(None);
            }
            last = Instant::now();
            let number = course.sent.len() as u16;
            course.sent.push(Sent {
                ttl,
                time: last,
                answer: None,
            });
            sockets.send(number, ttl)?;
            sockets.listen(last + PACE, |from, answer, time| course.take(from, answer, time))?;
        }
        while Instant::now() < last + PATIENCE && course.waits(first) && !stop.load(Ordering::Relaxed) {
            sockets.listen(last + PATIENCE, |from, answer, time| {
                course.take(from, answer, time) && course.waits(first)
            })?;
        }
        sockets.listen(start + ROUND, |from, answer, time| {
            course.take(from, answer, time)
        })?;
    }
    Ok(Some(course.digest()))
}

impl Course {
    /// Notes an answer; goes on listening.
    fn take(&mut self, from: IpAddr, answer: Answer, time: Instant) -> bool {
        match answer {
            Answer::To(number, meaning) => match self.sent.get_mut(usize::from(number)) {
                Some(sent) if sent.answer.is_none() => {
                    let took = time.saturating_duration_since(sent.time);
                    sent.answer = Some((from, meaning, took));
                }
                _ => self.foreign += 1,
            },
            Answer::Foreign => self.foreign += 1,
            Answer::Other => {}
        }
        true
    }

    /// Where the way ends: whoever answered there last had not to pass the packet on.
    fn arrived(&self) -> Option<(u8, bool)> {
        let ends = self.sent.iter().filter_map(|s| match s.answer {
            Some((_, Meaning::Arrived, _)) => Some((s.ttl, true)),
            Some((_, Meaning::Refused, _)) => Some((s.ttl, false)),
            _ => None,
        });
        // A refusal counts only where the target has never answered.
        ends.min_by_key(|(ttl, reached)| (!reached, *ttl))
    }

    /// The last hop that is worth a packet.
    fn end(&self) -> u8 {
        let answered = self.sent.iter().filter(|s| s.answer.is_some()).map(|s| s.ttl);
        let far = answered.max().unwrap_or(0).saturating_add(SILENT);
        self.arrived().map_or(far, |(ttl, _)| ttl)
    }

    /// Whether a packet of this round may still be answered.
    fn waits(&self, first: usize) -> bool {
        let end = self.end();
        let round = self.sent.iter().skip(first);
        round.into_iter().any(|s| s.ttl <= end && s.answer.is_none())
    }

    fn digest(&self) -> Trace {
        let end = self.arrived();
        let tried = self.sent.iter().map(|s| s.ttl).max().unwrap_or(0);
        let mut hops = vec![Hop::default(); usize::from(end.map_or(tried, |(ttl, _)| ttl))];
        for sent in &self.sent {
            let Some(hop) = usize::from(sent.ttl).checked_sub(1).and_then(|i| hops.get_mut(i)) else {
                continue;
            };
            hop.sent += 1;
            if let Some((from, _, took)) = sent.answer {
                hop.answered.push(took);
                if hop.addresses.len() < SIDE_BY_SIDE {
                    hop.addresses.insert(from);
                }
            }
        }
        Trace {
            hops,
            reached: end.is_some_and(|(_, reached)| reached),
            foreign: self.foreign,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Meaning::{Arrived, Refused, Router};

    const TARGET: &str = "10.9.9.9";

    /// Packets with their answers, in their order.
    fn course(rounds: &[&[(u8, &str, Meaning)]]) -> Course {
        let mut course = Course::default();
        let time = Instant::now();
        for (ttl, host, meaning) in rounds.concat() {
            let number = course.sent.len() as u16;
            course.sent.push(Sent {
                ttl,
                time,
                answer: None,
            });
            if let Ok(host) = host.parse() {
                let later = time + Duration::from_millis(ttl.into());
                course.take(host, Answer::To(number, meaning), later);
            }
        }
        course
    }

    fn counts(trace: &Trace) -> Vec<(u64, usize)> {
        trace.hops.iter().map(|h| (h.sent, h.answered.len())).collect()
    }

    #[test]
    fn the_way_ends_where_the_target_first_answers() {
        // All packets of the first round are under way before the first answer comes.
        let first = [
            (1, "10.0.0.1", Router),
            (2, "", Router),
            (3, TARGET, Arrived),
            (4, TARGET, Arrived),
            (5, TARGET, Arrived),
            (6, "", Router),
        ];
        let course = course(&[
            &first,
            &[
                (1, "10.0.0.1", Router),
                (2, "10.0.0.2", Router),
                (3, TARGET, Arrived),
            ],
            &[(1, "", Router), (2, "", Router), (3, TARGET, Arrived)],
        ]);
        assert_eq!(course.end(), 3);
        let trace = course.digest();
        assert!(trace.reached);
        assert_eq!(counts(&trace), [(3, 2), (3, 1), (3, 3)]);
        assert_eq!(trace.hops[2].answered[0], Duration::from_millis(3));
    }

    #[test]
    fn silence_is_followed_for_some_hops_only() {
        assert_eq!(course(&[&[(1, "", Router)]]).end(), SILENT);
        assert_eq!(
            course(&[&[(1, "", Router), (2, "10.0.0.2", Router)]]).end(),
            2 + SILENT
        );
        let silent = course(&[&[(1, "10.0.0.1", Router), (2, "", Router), (3, "", Router)]]);
        assert!(silent.waits(0) && !silent.waits(3));
        let trace = silent.digest();
        assert!(!trace.reached);
        assert_eq!(counts(&trace), [(1, 1), (1, 0), (1, 0)]);
    }

    #[test]
    fn who_refuses_is_the_end_unless_the_target_answers() {
        let refused = &[
            (1, "10.0.0.1", Router),
            (2, "10.0.0.2", Refused),
            (3, "10.0.0.2", Refused),
        ];
        let trace = course(&[refused]).digest();
        assert!(!trace.reached);
        assert_eq!(trace.hops.len(), 2);
        let trace = course(&[
            refused,
            &[(1, "", Router), (2, "10.0.0.2", Router), (3, TARGET, Arrived)],
        ])
        .digest();
        assert!(trace.reached);
        assert_eq!(trace.hops.len(), 3);
    }

    #[test]
    fn each_packet_is_answered_once() {
        let mut course = course(&[&[(1, "10.0.0.1", Router), (2, "", Router)]]);
        let (foreign, now) = ("10.6.6.6".parse().unwrap(), Instant::now());
        for answer in [
            Answer::To(0, Router),
            Answer::To(2, Arrived),
            Answer::Foreign,
            Answer::Other,
        ] {
            course.take(foreign, answer, now);
        }
        let trace = course.digest();
        assert_eq!(trace.foreign, 3);
        assert_eq!(counts(&trace), [(1, 1), (1, 0)]);
        assert_eq!(
            trace.hops[0].addresses,
            BTreeSet::from(["10.0.0.1".parse().unwrap()])
        );
    }
}
