//! Anomalies that are told once it is known what else has changed: where many begin at once, or a question was not answered in
//! time, some of them wait for the next looks. They are asked for the moment at which they began.

use super::anomaly::Kept;
use super::evidence::{Answer, Inquiry};
use super::{Anomaly, Ask, Cpu};
use crate::anomaly::Millis;

/// Looks that one waits for its turn; as many anomalies are kept, so each has its turn before.
const LOOKS: u32 = 256;
/// Times that its questions may fail.
const FAILURES: u32 = 3;

/// After this time it is asked once more what the CPUs did: more has been sampled by then, and functions have names.
const AGAIN: Millis = 20_000;

/// What is missing of the evidence where no stacks are taken.
pub const NO_STACKS: &str =
    "what the CPUs did: no stacks are taken; set probes.profile.enabled: true, with hz above 0";

/// One that waits.
struct One {
    number: u64,
    began: Millis,
    looks: u32,
    failures: u32,
}

/// Those that have begun and were not told yet, oldest first; and those that were, of which more is to be known.
#[derive(Default)]
pub(super) struct Waiting {
    untold: Vec<One>,
    /// By number, with when they began.
    told: Vec<(u64, Millis)>,
}

impl Waiting {
    pub fn add(&mut self, number: u64, began: Millis) {
        self.untold.push(One {
            number,
            began,
            looks: 0,
            failures: 0,
        });
    }

    /// Whether nobody waits for anything.
    pub fn is_empty(&self) -> bool {
        self.untold.is_empty() && self.told.is_empty()
    }

    /// Since when one waits, if it does.
    pub fn since(&self, number: u64) -> Option<Millis> {
        let one = self.untold.iter().find(|one| one.number == number)?;
        Some(one.began)
    }

    /// Looks for evidence. Answers those that are told now, as they began.
    pub fn look(
        &mut self,
        inquiry: &mut Inquiry,
        kept: &mut Kept,
        ask: &mut Ask,
        mut cpu: Option<&mut Cpu>,
    ) -> Vec<Anomaly> {
        let mut told = Vec::new();
        self.untold.retain_mut(|one| {
            let Some(anomaly) = kept.get_mut(one.number) else {
                // It is told when it is told that it was given up.
                return true;
            };
            one.looks += 1;
            match inquiry.gather(&anomaly.labels, one.began, ask, cpu.as_deref_mut()) {
                Answer::Found(evidence, left_out) => {
                    (anomaly.evidence, anomaly.evidence_left_out) = (evidence, left_out);
                    let missing = if cpu.is_some() { "" } else { NO_STACKS };
                    missing.clone_into(&mut anomaly.evidence_missing);
                }
                Answer::Failed(why) => {
                    anomaly.evidence_missing = why;
                    one.failures += 1;
                    if one.failures < FAILURES && one.looks < LOOKS {
                        return true;
                    }
                }
                Answer::Later => {
                    "what others that began before have to do with is looked for first"
                        .clone_into(&mut anomaly.evidence_missing);
                    if one.looks < LOOKS {
                        return true;
                    }
                }
            }
            told.push(anomaly.as_it_began());
            self.told.push((one.number, one.began));
            false
        });
        match cpu {
            Some(cpu) => self.look_again(inquiry, kept, cpu),
            None => self.told.clear(),
        }
        told
    }

    /// Who was told of one knows what the CPUs did by then; it goes on with what they have done since.
    fn look_again(&mut self, inquiry: &mut Inquiry, kept: &mut Kept, cpu: &mut Cpu) {
        self.told.retain(|(number, began)| {
            let Some(anomaly) = kept.get(*number) else {
                return false;
            };
            if inquiry.at() < began + AGAIN {
                return true;
            }
            let over = anomaly
                .until
                .map_or(inquiry.at(), |until| (until * 1e3) as Millis);
            let Some(found) = inquiry.cpu(&anomaly.labels, *began, over.max(*began), cpu) else {
                return true;
            };
            if !found.is_empty()
                && let Some(anomaly) = kept.get_mut(*number)
            {
                anomaly.evidence.retain(|one| one.windows.is_none());
                anomaly.evidence.extend(found);
            }
            false
        });
    }

    /// One that is over, or given up, is told to have begun before that is told.
    pub fn take(&mut self, over: &Anomaly) -> Option<Anomaly> {
        let place = self.untold.iter().position(|one| one.number == over.id)?;
        self.untold.remove(place);
        Some(over.as_it_began())
    }

    /// Nobody will look again: all that wait.
    pub fn all(&mut self, kept: &mut Kept) -> Vec<Anomaly> {
        let all = std::mem::take(&mut self.untold).into_iter();
        let mut told = Vec::new();
        for one in all {
            if let Some(anomaly) = kept.get_mut(one.number) {
                "the agent ended before it was looked for".clone_into(&mut anomaly.evidence_missing);
                told.push(anomaly.as_it_began());
            }
        }
        told
    }
}
