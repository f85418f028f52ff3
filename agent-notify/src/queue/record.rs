//! A record of the file.

use super::Outcome;
use crate::alert::Alert;
use crate::notification::{Entry, Memo, Notification, Told};
use agent_store::series::Millis;
use serde::{Deserialize, Serialize};

/// More than any record has: what says so is no length.
const LONGEST: usize = 1 << 28;
/// Length and checksum.
const HEAD: usize = 8;

/// What is written.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Record {
    /// An entry was put into the queue.
    Made {
        number: u64,
        /// When the first was made of those whose place it has taken. Files of before do not have it.
        #[serde(default)]
        since: Option<Millis>,
        notification: Notification,
        memo: Brief,
    },
    /// One has left it.
    Done { number: u64, outcome: Outcome },
    /// What is remembered of a group.
    Memo(Memo),
}

/// A memo without what its notification has as well.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Brief {
    told: Told,
    /// Open alerts that are not in the notification.
    rest: Vec<Alert>,
}

impl Brief {
    pub fn with(self, notification: &Notification) -> Memo {
        let told = self.told;
        let own = notification.alerts.iter();
        let own = own.filter(|alert| alert.is_firing() && told.open.contains_key(&alert.fingerprint()));
        Memo {
            receiver: notification.receiver.clone(),
            group_key: notification.group_key.clone(),
            group_labels: notification.group_labels.clone(),
            open: own.cloned().chain(self.rest).collect(),
            told,
        }
    }
}

impl Record {
    pub fn made(number: u64, since: Millis, entry: &Entry) -> Self {
        let within = |alert: &Alert| {
            let mut own = entry.notification.alerts.iter();
            own.any(|other| other.is_firing() && other.labels == alert.labels)
        };
        let rest = entry.memo.open.iter().filter(|alert| !within(alert));
        Self::Made {
            number,
            since: Some(since),
            notification: entry.notification.clone(),
            memo: Brief {
                told: entry.memo.told.clone(),
                rest: rest.cloned().collect(),
            },
        }
    }

    pub fn done(number: u64, outcome: Outcome) -> Self {
        Self::Done { number, outcome }
    }
}

/// The bytes of a record.
pub(super) fn write(record: &Record) -> Vec<u8> {
    // There is nothing in a record that JSON could not write.
    let json = serde_json::to_vec(record).unwrap_or_default();
    let length = u32::try_from(json.len()).unwrap_or(u32::MAX);
    let mut out = Vec::with_capacity(HEAD + json.len());
    out.extend(length.to_le_bytes());
    out.extend(crc32fast::hash(&json).to_le_bytes());
    out.extend(json);
    out
}

/// All records that are whole, each with its size; and how many bytes were none.
pub(super) fn read(mut bytes: &[u8]) -> (Vec<(Record, u64)>, u64) {
    let (mut records, mut lost) = (Vec::new(), 0);
    while !bytes.is_empty() {
        let number = |at: usize| {
            let part = bytes.get(at..at + 4)?;
            Some(u32::from_le_bytes(part.try_into().ok()?))
        };
        let length = number(0).map_or(LONGEST, |length| length as usize);
        let body = match length < LONGEST {
            true => bytes.get(HEAD..HEAD + length),
            false => None,
        };
        let Some(body) = body else {
            // Torn, or what says how long it is is broken: there is no finding the next one.
            lost += bytes.len() as u64;
            break;
        };
        let size = (HEAD + length) as u64;
        let whole = number(4) == Some(crc32fast::hash(body));
        match serde_json::from_slice(body) {
            Ok(record) if whole => records.push((record, size)),
            _ => lost += size,
        }
        bytes = bytes.get(HEAD + length..).unwrap_or_default();
    }
    (records, lost)
}
