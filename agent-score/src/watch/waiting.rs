//! Anomalies that are told once it is known what else has changed: where many begin at once, or a question was not answered in
//! time, some of them wait for the next looks. They are asked for the moment at which they began.

use super::anomaly::Kept;
use super::evidence::{Answer, Inquiry};
use super::{Anomaly, Ask};
use crate::anomaly::Millis;

/// Looks that one waits for its turn; as many anomalies are kept, so each has its turn before.
const LOOKS: u32 = 256;
/// Times that its questions may fail.
const FAILURES: u32 = 3;

/// One that waits.
struct One {
    number: u64,
    began: Millis,
    looks: u32,
    failures: u32,
}

/// Those that have begun and were not told yet, oldest first.
#[derive(Default)]
pub(super) struct Waiting(Vec<One>);

impl Waiting {
    pub fn add(&mut self, number: u64, began: Millis) {
        self.0.push(One {
            number,
            began,
            looks: 0,
            failures: 0,
        });
    }

    /// Since when one waits, if it does.
    pub fn since(&self, number: u64) -> Option<Millis> {
        let one = self.0.iter().find(|one| one.number == number)?;
        Some(one.began)
    }

    /// Looks for evidence. Answers those that are told now, as they began.
    pub fn look(&mut self, inquiry: &mut Inquiry, kept: &mut Kept, ask: &mut Ask) -> Vec<Anomaly> {
        let mut told = Vec::new();
        self.0.retain_mut(|one| {
            let Some(anomaly) = kept.get_mut(one.number) else {
                // It is told when it is told that it was given up.
                return true;
            };
            one.looks += 1;
            match inquiry.gather(&anomaly.labels, one.began, ask) {
                Answer::Found(evidence) => {
                    anomaly.evidence = evidence;
                    anomaly.evidence_missing.clear();
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
            false
        });
        told
    }

    /// One that is over, or given up, is told to have begun before that is told.
    pub fn take(&mut self, over: &Anomaly) -> Option<Anomaly> {
        let place = self.0.iter().position(|one| one.number == over.id)?;
        self.0.remove(place);
        Some(over.as_it_began())
    }

    /// Nobody will look again: all that wait.
    pub fn all(&mut self, kept: &mut Kept) -> Vec<Anomaly> {
        let all = std::mem::take(&mut self.0).into_iter();
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
