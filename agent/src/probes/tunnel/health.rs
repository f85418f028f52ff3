//! Whether a tunnel is alive.

use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// Packets out and none in for so many whole seconds, where answers are usual, is the end of the tunnel: it is seen
/// within the fifth.
const SILENCE: u32 = 4;
/// An initiation that has no response for more seconds than this is the end of a WireGuard tunnel; it is sent again
/// after five.
const UNANSWERED: u32 = 5;
/// WireGuard's keys live so long (REJECT_AFTER_TIME): who sends with older ones does not reach anybody.
const KEY_LIFE: f64 = 180.0;
/// Loss is judged over so many seconds.
const SPAN: usize = 30;
/// A share of lost packets above this is a degraded tunnel.
const LOSS: f64 = 0.01;
/// Fewer packets say nothing about a share.
const FEW: u64 = 50;

/// Where both ends always speak, what comes in says that the tunnel is alive only if something went out within so many
/// seconds: WireGuard sends a keepalive ten after what it has not answered.
const DIALOGUE: u32 = 15;
/// Reason of a state that nobody can tell: no program looks at the tunnel's device.
pub const NOT_WATCHED: &str = "not_watched";

/// All reasons.
pub const REASONS: [&str; 7] = [
    "",
    "handshake_unanswered",
    "handshake_old",
    "no_answer",
    "loss",
    "too_big",
    NOT_WATCHED,
];

/// A state and its reason, of a recording.
fn known<'d, D: serde::Deserializer<'d>>(of: D) -> Result<(State, &'static str), D::Error> {
    let (state, told) = <(State, String)>::deserialize(of)?;
    let reason = REASONS.into_iter().find(|reason| *reason == told);
    let unknown = || serde::de::Error::custom(format_args!("no reason: {told}"));
    Ok((state, reason.ok_or_else(unknown)?))
}

/// What a tunnel is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// Nothing has come out of it yet, or nobody watches.
    #[default]
    Unknown,
    /// Alive.
    Up,
    /// Alive, but not well.
    Degraded,
    /// Dead.
    Down,
}

impl State {
    /// As exported.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Up => "up",
            Self::Degraded => "degraded",
            Self::Down => "down",
        }
    }
}

/// What happened in a second.
#[derive(Clone, Copy, Debug, Default)]
pub struct Second {
    /// Packets in, out.
    pub packets: [u64; 2],
    /// Numbered packets that came.
    pub received: u64,
    /// Numbered packets that did not.
    pub lost: u64,
    /// Packets of ours that were too big.
    pub too_big: u64,
    /// Own initiations without an answer.
    pub unanswered: u64,
    /// Both ends always speak.
    pub dialogue: bool,
    /// Age of the last handshake, or of the tunnel if none was seen, s. `None` = it knows no handshakes.
    pub handshake_age: Option<f64>,
}

/// What is remembered of a tunnel.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Health {
    /// State and reason in force; no reason = all is well.
    #[serde(deserialize_with = "known")]
    pub now: (State, &'static str),
    /// Of the last seconds in which something was sent and that lie before the silence: was there an answer?
    pattern: u8,
    /// Seconds since the last packet in, and in how many of them something was sent.
    silence: (u32, u32),
    /// Seconds in which nothing was sent; `None` = nothing ever was.
    unsent: Option<u32>,
    unanswered_for: u32,
    span: VecDeque<(u64, u64, u64)>,
}

impl Health {
    /// Takes a second. Returns whether the state has changed.
    pub fn update(&mut self, second: &Second) -> bool {
        if self.now.1 == NOT_WATCHED {
            // Somebody does again; of which nothing is told until there is more to say.
            self.now = Self::default().now;
        }
        let [came, went] = second.packets.map(|n| n > 0);
        if came {
            // The silence was none: those seconds had no answer.
            let unanswered = self.silence.1.min(8);
            self.pattern = self.pattern.checked_shl(unanswered).unwrap_or(0);
            self.silence = (0, 0);
            if went {
                self.pattern = self.pattern << 1 | 1;
            }
        } else {
            self.silence.0 = self.silence.0.saturating_add(1);
            self.silence.1 = self.silence.1.saturating_add(u32::from(went));
        }
        self.unsent = if went {
            Some(0)
        } else {
            self.unsent.map(|n| n.saturating_add(1))
        };
        self.unanswered_for = if second.unanswered > 0 {
            self.unanswered_for.saturating_add(1)
        } else {
            0
        };
        if self.span.len() == SPAN {
            self.span.pop_front();
        }
        self.span
            .push_back((second.received, second.lost, second.too_big));
        let next = self.judge(second, came, went);
        let changed = next != self.now;
        self.now = next;
        changed
    }

    /// Nobody watches. What is usual is remembered, what was seen last says nothing any more. Returns whether the state
    /// has changed.
    pub fn unwatched(&mut self) -> bool {
        (self.silence, self.unsent, self.unanswered_for) = ((0, 0), None, 0);
        self.span.clear();
        let changed = self.now.0 != State::Unknown;
        self.now = (State::Unknown, NOT_WATCHED);
        changed
    }

    fn judge(&self, second: &Second, came: bool, went: bool) -> (State, &'static str) {
        let was_down = self.now.0 == State::Down;
        if self.unanswered_for > UNANSWERED {
            return (State::Down, "handshake_unanswered");
        }
        // While an initiation waits for its response the keys are being renewed: what was idle wakes up like this.
        let renewing = second.unanswered > 0;
        if went && !renewing && second.handshake_age.is_some_and(|age| age > KEY_LIFE) {
            return (State::Down, "handshake_old");
        }
        let usual = self.pattern.count_ones() >= 3;
        if usual && self.silence.0 >= SILENCE && self.silence.1 >= 3 {
            return (State::Down, "no_answer");
        }
        // What comes in may be forged, an answer hardly.
        let alive = came && (!second.dialogue || self.unsent.is_some_and(|n| n <= DIALOGUE));
        if !alive && (was_down || self.now.0 == State::Unknown) {
            return self.now;
        }
        if self.span.iter().any(|s| s.2 > 0) {
            return (State::Degraded, "too_big");
        }
        if self.loss_ratio().is_some_and(|ratio| ratio > LOSS) {
            return (State::Degraded, "loss");
        }
        (State::Up, "")
    }

    /// Share of numbered packets that were lost in the last 30 s.
    pub fn loss_ratio(&self) -> Option<f64> {
        let received: u64 = self.span.iter().map(|s| s.0).sum();
        let lost: u64 = self.span.iter().map(|s| s.1).sum();
        (received + lost >= FEW).then(|| lost as f64 / (received + lost) as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(came: u64, went: u64) -> Second {
        Second {
            packets: [came, went],
            ..Second::default()
        }
    }

    fn after(health: &mut Health, seconds: usize, what: Second) -> (State, &'static str) {
        for _ in 0..seconds {
            health.update(&what);
        }
        health.now
    }

    #[test]
    fn silence_where_answers_are_usual_is_down_within_five_seconds_and_an_answer_is_up() {
        let mut h = Health::default();
        assert_eq!(after(&mut h, 3, second(0, 5)), (State::Unknown, ""));
        assert_eq!(after(&mut h, 8, second(5, 5)), (State::Up, ""));
        assert_eq!(after(&mut h, 3, second(0, 5)), (State::Up, ""));
        assert_eq!(after(&mut h, 1, second(0, 5)), (State::Down, "no_answer"));
        // Nothing sent and nothing come does not bring it back.
        assert_eq!(after(&mut h, 60, second(0, 0)).0, State::Down);
        assert_eq!(after(&mut h, 1, second(1, 1)), (State::Up, ""));
    }

    #[test]
    fn one_way_traffic_with_an_answer_now_and_then_is_up() {
        let mut h = Health::default();
        for _ in 0..10 {
            assert_eq!(after(&mut h, 1, second(1, 100)).0, State::Up);
            assert_eq!(after(&mut h, 9, second(0, 100)).0, State::Up);
        }
    }

    #[test]
    fn a_quiet_tunnel_stays_up() {
        let mut h = Health::default();
        after(&mut h, 10, second(5, 5));
        assert_eq!(after(&mut h, 500, second(0, 0)), (State::Up, ""));
    }

    #[test]
    fn what_usually_answers_is_not_up_by_what_comes_in_alone() {
        let mut h = Health::default();
        let dialogue = |came, went| Second {
            dialogue: true,
            ..second(came, went)
        };
        assert_eq!(after(&mut h, 60, dialogue(5, 0)), (State::Unknown, ""));
        // Others may well only receive.
        assert_eq!(after(&mut Health::default(), 1, second(5, 0)), (State::Up, ""));
        assert_eq!(after(&mut h, 1, dialogue(0, 1)), (State::Unknown, ""));
        assert_eq!(after(&mut h, 1, dialogue(5, 0)), (State::Up, ""));
        // It sends nothing but a keepalive every ten seconds.
        for _ in 0..10 {
            assert_eq!(after(&mut h, 9, dialogue(5, 0)), (State::Up, ""));
            assert_eq!(after(&mut h, 1, dialogue(5, 1)), (State::Up, ""));
        }
        let unanswered = Second {
            unanswered: 1,
            ..dialogue(0, 1)
        };
        assert_eq!(after(&mut h, 6, unanswered).0, State::Down);
        assert_eq!(after(&mut h, 20, dialogue(0, 0)).0, State::Down);
        assert_eq!(after(&mut h, 20, dialogue(5, 0)).0, State::Down, "forged");
    }

    #[test]
    fn handshakes_count() {
        let mut h = Health::default();
        after(&mut h, 2, second(1, 1));
        let unanswered = Second {
            unanswered: 1,
            ..second(0, 0)
        };
        assert_eq!(after(&mut h, 5, unanswered).0, State::Up);
        assert_eq!(after(&mut h, 1, unanswered).1, "handshake_unanswered");
        let old = Second {
            handshake_age: Some(181.0),
            ..second(1, 1)
        };
        assert_eq!(after(&mut h, 1, old), (State::Down, "handshake_old"));
    }

    #[test]
    fn an_idle_tunnel_that_wakes_up_is_not_down() {
        let mut h = Health::default();
        after(&mut h, 2, second(1, 1));
        let asks = Second {
            handshake_age: Some(282.0),
            unanswered: 1,
            ..second(0, 1)
        };
        assert_eq!(
            after(&mut h, 1, asks),
            (State::Up, ""),
            "its initiation has no answer yet"
        );
        let answered = Second {
            handshake_age: Some(0.1),
            ..second(2, 2)
        };
        assert_eq!(after(&mut h, 1, answered), (State::Up, ""));
        // Without an answer it is down, as soon as that is certain.
        assert_eq!(after(&mut h, 7, asks), (State::Down, "handshake_unanswered"));
    }

    #[test]
    fn loss_degrades_and_passes() {
        let mut h = Health::default();
        let lossy = Second {
            received: 98,
            lost: 2,
            ..second(98, 98)
        };
        assert_eq!(after(&mut h, 1, lossy), (State::Degraded, "loss"));
        let clean = Second {
            received: 100,
            ..second(100, 100)
        };
        assert_eq!(after(&mut h, 30, clean), (State::Up, ""));
        let big = Second { too_big: 1, ..clean };
        assert_eq!(after(&mut h, 1, big), (State::Degraded, "too_big"));
    }
}
