//! What waits for one place: a file to which records are appended, so that nothing is lost when the process is killed, and
//! from which it is known again what the place was told.
//!
//! A record is its length and its CRC-32 (little-endian u32 each), then JSON: an entry, what became of one, or a memo. What can
//! not be read is left out and reported; a torn end is cut off. When most of the file is history it is written anew.

#[cfg(test)]
mod late;
mod record;
#[cfg(test)]
mod tests;

use crate::alert::Alert;
use crate::file::replace;
use crate::notification::{Entry, Memo};
use agent_store::series::Millis;
use record::{Record, read, write};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

/// Begin of the file.
const MAGIC: &[u8; 8] = b"GPNOTIF1";
/// History below this is not worth writing the file anew.
const HISTORY: u64 = 1 << 20;
/// A memo that is older is of a group that nobody will speak of again, ms.
const FORGOTTEN: i64 = 30 * 24 * 3_600_000;

/// What became of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The place has it.
    Delivered,
    /// Newer ones needed the room.
    QueueFull,
    /// The place said that it will never take it.
    Refused,
    /// Tried for too long.
    Expired,
    /// A later one of its group says what it said.
    Superseded,
}

/// What a queue holds at most.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes that wait; the oldest go first. A group has half of them at most, but for one notification.
    pub bytes: u64,
    /// When one of a group has waited for so long, in ms, the next takes the place of all that wait of the group.
    pub stale: Millis,
}

/// What came of putting an entry into a queue.
#[derive(Debug)]
pub struct Pushed {
    /// What had to go for it: whole entries, or what it could not say of those that it has taken the place of.
    pub dropped: Vec<Waiting>,
    /// How many it has taken the place of.
    pub superseded: u64,
    /// An error if it is in memory only.
    pub written: Result<(), String>,
}

/// An entry that waits.
#[derive(Clone, Debug, PartialEq)]
pub struct Waiting {
    /// Its number within the queue.
    pub number: u64,
    /// What is to be delivered.
    pub entry: Entry,
    /// When the first was made of those whose place it has taken, or it itself: since then the place was not told.
    since: Millis,
    bytes: u64,
}

/// The queue of one place.
#[derive(Debug)]
pub struct Queue {
    path: PathBuf,
    file: File,
    /// Bytes in the file.
    length: u64,
    waiting: VecDeque<Waiting>,
    /// The one that is being tried: what comes of it is still to be said, so that nothing takes its place.
    trying: Option<u64>,
    memos: BTreeMap<String, Memo>,
    /// What was given up, and nothing was remembered of its group since: a restart must find it.
    given_up: Vec<(Waiting, Outcome)>,
    /// Bytes of the memos when the file was written anew; 0 = it was not yet.
    memo_bytes: u64,
    next: u64,
    limits: Limits,
    /// The last attempt to write failed, and somebody knows.
    broken: bool,
}

/// What was found when a queue was opened.
#[derive(Debug, Default, PartialEq)]
pub struct Found {
    /// Bytes that could not be read and are gone.
    pub lost: u64,
    /// What was left out because the queue has become smaller.
    pub dropped: Vec<Waiting>,
    /// What was given up, and nothing was remembered of its group since: the process may have been stopped in between.
    pub given_up: Vec<Entry>,
}

impl Queue {
    /// Opens the queue of a place. `place` says whose entries these are.
    pub fn open(path: &Path, limits: Limits, place: (usize, usize)) -> Result<(Self, Found), String> {
        let failed = |error: std::io::Error| format!("{}: {error}", path.display());
        let mut bytes = Vec::new();
        match File::open(path) {
            Ok(mut file) => file.read_to_end(&mut bytes).map(drop).map_err(failed)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        let (records, lost) = match bytes.strip_prefix(MAGIC) {
            Some(rest) => read(rest),
            None => (Vec::new(), bytes.len() as u64),
        };
        let mut waiting: VecDeque<Waiting> = VecDeque::new();
        let (mut memos, mut next) = (BTreeMap::new(), 1);
        let mut given_up: Vec<(Waiting, Outcome)> = Vec::new();
        for (record, bytes) in records {
            match record {
                Record::Made {
                    number,
                    since,
                    notification,
                    memo,
                } => {
                    let since = since.unwrap_or(notification.at);
                    let memo = memo.with(&notification);
                    memos.insert(memo.group_key.clone(), memo.clone());
                    next = next.max(number + 1);
                    let entry = Entry {
                        receiver: place.0,
                        integration: place.1,
                        notification,
                        memo,
                    };
                    waiting.push_back(Waiting {
                        number,
                        entry,
                        since,
                        bytes,
                    });
                }
                Record::Done { number, outcome } => {
                    let at = waiting.iter().position(|one| one.number == number);
                    if let Some(one) = at.and_then(|at| waiting.remove(at))
                        && !matches!(outcome, Outcome::Delivered | Outcome::Superseded)
                    {
                        given_up.push((one, outcome));
                    }
                }
                Record::Memo(memo) => {
                    given_up.retain(|(one, _)| one.entry.memo.group_key != memo.group_key);
                    memos.insert(memo.group_key.clone(), memo);
                }
            }
        }
        let mut queue = Self {
            path: path.to_owned(),
            file: File::options()
                .create(true)
                .append(true)
                .open(path)
                .map_err(failed)?,
            length: bytes.len() as u64,
            waiting,
            trying: None,
            memos,
            given_up,
            memo_bytes: 0,
            next,
            limits,
            broken: false,
        };
        let given_up = queue.given_up.iter().map(|(one, _)| one.entry.clone());
        let given_up = given_up.collect();
        // Those that are larger than the whole queue, then the others.
        let (mut dropped, mut records) = queue.shrink(u64::MAX);
        let (more, their) = queue.shrink(0);
        dropped.extend(more);
        records.extend(their);
        if lost > 0 || !bytes.starts_with(MAGIC) {
            queue.rewrite().map_err(failed)?;
        } else if !dropped.is_empty() {
            queue.append(&records, true)?;
        }
        let found = Found {
            lost,
            dropped,
            given_up,
        };
        Ok((queue, found))
    }

    /// What the place was told, by group.
    pub fn memos(&self) -> impl Iterator<Item = &Memo> {
        self.memos.values()
    }

    /// Puts an entry at the end, in the place of those of its group that have become stale, or that are too many.
    pub fn push(&mut self, mut entry: Entry) -> Pushed {
        let number = self.next;
        self.next += 1;
        let mut since = entry.notification.at;
        let mut bytes = write(&Record::made(number, since, &entry));
        let (stale, left) = self.supersede(&mut entry, &mut since, bytes.len() as u64);
        if !stale.is_empty() {
            bytes = write(&Record::made(number, since, &entry));
        }
        let size = bytes.len() as u64;
        let (mut dropped, mut all) = self.shrink(size);
        // Of those whose place it takes one is not superseded but dropped: there is one outcome for each that was made.
        let superseded = (stale.len() - usize::from(left.is_some())) as u64;
        self.memos
            .insert(entry.memo.group_key.clone(), entry.memo.clone());
        self.waiting.push_back(Waiting {
            number,
            entry,
            since,
            bytes: size,
        });
        all.extend(bytes);
        if let Some(left) = left {
            let (gone, records) = self.drop_new(left);
            // After the entry: it says that the place was told, and is in the queue then.
            all.extend(records);
            dropped.push(gone);
        }
        // After what says the same: where the end is torn off both are there.
        for number in &stale {
            all.extend(write(&Record::done(*number, Outcome::Superseded)));
        }
        Pushed {
            dropped,
            superseded,
            written: self.append(&all, true),
        }
    }

    /// Takes out all that wait of the group if one of them is stale, or if with this one they were more than half of what may wait,
    /// and has the entry say what they say, as far as the group has half of the queue then: what fires, then what has ended
    /// last. However old an end is, it is said if there is room: the place may believe that it still fires. `since` becomes that of
    /// the first of them. Answers their numbers, and what it does not say.
    fn supersede(&mut self, entry: &mut Entry, since: &mut Millis, size: u64) -> (Vec<u64>, Option<Entry>) {
        let key = entry.notification.group_key.clone();
        let trying = self.trying;
        let of_group = |one: &Waiting| one.entry.notification.group_key == key && Some(one.number) != trying;
        let before = entry.notification.at.saturating_sub(self.limits.stale);
        let mut group = self.waiting.iter().filter(|one| of_group(one));
        let is_stale = group.any(|one| one.entry.notification.at <= before);
        let group = self
            .waiting
            .iter()
            .filter(|one| one.entry.notification.group_key == key);
        let held: u64 = group.map(|one| one.bytes).sum();
        if !is_stale && held + size <= self.limits.bytes / 2 {
            return (Vec::new(), None);
        }
        let (gone, kept): (VecDeque<_>, _) =
            std::mem::take(&mut self.waiting).into_iter().partition(of_group);
        self.waiting = kept;
        let numbers = gone.iter().map(|one| one.number).collect();
        *since = gone.iter().map(|one| one.since).fold(*since, Millis::min);
        let Some(last) = gone.back() else {
            return (numbers, None);
        };
        // The latest first: what it says of an alert holds.
        let earlier = gone.iter().rev().map(|one| &one.entry.notification);
        let mut unsaid = entry.notification.unsaid(earlier);
        // What fires, then the latest ends.
        unsaid.sort_by_key(|alert| Reverse(alert.ends_at.unwrap_or(Millis::MAX)));
        // What is being tried stays besides.
        let waiting = self.waiting.iter();
        let tried = waiting.filter(|one| one.entry.notification.group_key == key);
        let tried: u64 = tried.map(|one| one.bytes).sum();
        let mut room = (self.limits.bytes / 2).saturating_sub(size + tried);
        let (kept, left): (Vec<Alert>, Vec<Alert>) = unsaid.into_iter().partition(|alert| {
            // With the comma before it. There is nothing in it that JSON could not write.
            let bytes = serde_json::to_vec(alert).map_or(0, |json| json.len() as u64 + 1);
            let fits = bytes <= room;
            room = if fits { room - bytes } else { 0 };
            fits
        });
        entry.notification.add(kept);
        // As of what said it last: whoever looks what was told since finds this entry.
        let left = (!left.is_empty()).then(|| {
            let mut notification = last.entry.notification.clone();
            notification.alerts = left;
            Entry {
                receiver: last.entry.receiver,
                integration: last.entry.integration,
                notification,
                memo: entry.memo.clone(),
            }
        });
        (numbers, left)
    }

    /// Takes note that something is dropped which was never in the queue by itself. Answers it, and the records that say so.
    fn drop_new(&mut self, entry: Entry) -> (Waiting, Vec<u8>) {
        let number = self.next;
        self.next += 1;
        let since = entry.notification.at;
        let mut records = write(&Record::made(number, since, &entry));
        let bytes = records.len() as u64;
        let gone = Waiting {
            number,
            entry,
            since,
            bytes,
        };
        records.extend(write(&Record::done(number, Outcome::QueueFull)));
        self.given_up.push((gone.clone(), Outcome::QueueFull));
        (gone, records)
    }

    /// The next to be tried, with none of these groups if there is another. Until it is done, or put back, it stays.
    pub fn take(&mut self, but: &BTreeSet<String>) -> Option<Waiting> {
        let next = self.first_but(but).cloned();
        self.trying = next.as_ref().map(|one| one.number);
        next
    }

    /// It is tried again later; until then a later one of its group may take its place.
    pub fn put_back(&mut self) {
        self.trying = None;
    }

    /// The first that waits.
    pub fn front(&self) -> Option<&Waiting> {
        self.waiting.front()
    }

    /// The first that waits and is of none of these groups; if all are, the first.
    pub fn first_but(&self, groups: &BTreeSet<String>) -> Option<&Waiting> {
        let mut waiting = self.waiting.iter();
        let other = waiting.find(|one| !groups.contains(&one.entry.notification.group_key));
        other.or_else(|| self.front())
    }

    /// Since when something waits: what has taken the place of something else has not been told since that was made.
    pub fn oldest(&self) -> Option<Millis> {
        self.waiting.iter().map(|one| one.since).min()
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether none does.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Takes note of what became of one; false if it is not there any more. Not synced: after a power cut it would be delivered
    /// again, which is allowed, and a killed process loses nothing that was written.
    pub fn done(&mut self, number: u64, outcome: Outcome) -> (bool, Result<(), String>) {
        let Some(at) = self.waiting.iter().position(|one| one.number == number) else {
            return (false, Ok(()));
        };
        self.trying = self.trying.filter(|trying| *trying != number);
        let one = self.waiting.remove(at);
        if outcome != Outcome::Delivered {
            self.given_up.extend(one.map(|one| (one, outcome)));
        }
        (true, self.append(&write(&Record::done(number, outcome)), false))
    }

    /// Remembers something else of a group than its latest entry says.
    pub fn remember(&mut self, memo: Memo) -> Result<(), String> {
        let bytes = write(&Record::Memo(memo.clone()));
        self.given_up
            .retain(|(one, _)| one.entry.memo.group_key != memo.group_key);
        self.memos.insert(memo.group_key.clone(), memo);
        self.append(&bytes, true)
    }

    /// Nothing is to be remembered of one that was given up: a restart need not find it.
    pub fn settle(&mut self, entry: &Entry) {
        // Not by all of it: what is due of its alerts may have been taken out.
        let is_it = |own: &Entry| {
            let places = [own, entry].map(|one| (one.receiver, one.integration));
            let made = [own, entry].map(|one| (&one.notification.group_key, one.notification.at));
            places[0] == places[1] && made[0] == made[1]
        };
        self.given_up.retain(|(one, _)| !is_it(&one.entry));
    }

    /// Lets go of the oldest until so many bytes more have room. One that is larger than the whole queue takes the place of those
    /// that are so too, and of no other: it would still not fit. Answers these, and the records that say so.
    fn shrink(&mut self, more: u64) -> (Vec<Waiting>, Vec<u8>) {
        let limit = self.limits.bytes;
        let is_huge = |bytes: u64| bytes > limit;
        let is_alike = |one: &Waiting| is_huge(one.bytes) == is_huge(more);
        let alike = self.waiting.iter().filter(|one| is_alike(one));
        let mut held: u64 = alike.map(|one| one.bytes).sum();
        let (mut dropped, mut records) = (Vec::new(), Vec::new());
        let trying = self.trying;
        while held.saturating_add(more) > limit
            && let Some(at) = self
                .waiting
                .iter()
                .position(|one| Some(one.number) != trying && is_alike(one))
            && let Some(one) = self.waiting.remove(at)
        {
            held -= one.bytes;
            records.extend(write(&Record::done(one.number, Outcome::QueueFull)));
            self.given_up.push((one.clone(), Outcome::QueueFull));
            dropped.push(one);
        }
        (dropped, records)
    }

    fn append(&mut self, bytes: &[u8], sync: bool) -> Result<(), String> {
        let given_up = self.given_up.iter().map(|(one, _)| one);
        let kept: u64 = self.waiting.iter().chain(given_up).map(|one| one.bytes).sum();
        // Memos count: else a file that is mostly memos would be written anew each time.
        let live = kept + self.memo_bytes;
        let mut result = if self.broken || self.length > 2 * live + HISTORY {
            // All that counts is in memory, this record too.
            self.rewrite()
        } else {
            self.length += bytes.len() as u64;
            self.file.write_all(bytes)
        };
        if result.is_ok() && sync {
            result = self.file.sync_data();
        }
        self.broken = result.is_err();
        result.map_err(|error| format!("{}: {error}", self.path.display()))
    }

    /// Writes the file anew, with what waits and what is remembered.
    fn rewrite(&mut self) -> std::io::Result<()> {
        let newest = self.memos.values().map(|memo| memo.told.at).max().unwrap_or(0);
        let wanted = |memo: &Memo| !memo.open.is_empty() || newest - memo.told.at < FORGOTTEN;
        self.memos.retain(|_, memo| wanted(memo));
        let mut bytes = MAGIC.to_vec();
        for one in &self.waiting {
            bytes.extend(write(&Record::made(one.number, one.since, &one.entry)));
        }
        // With the memo of now: one of its own would settle what was given up, and the latest says what holds.
        let mut settled: BTreeSet<&String> = self.memos.keys().collect();
        for (one, outcome) in &self.given_up {
            let mut entry = one.entry.clone();
            if let Some(memo) = self.memos.get(&entry.memo.group_key) {
                entry.memo.clone_from(memo);
            }
            settled.remove(&entry.memo.group_key);
            bytes.extend(write(&Record::made(one.number, one.since, &entry)));
            bytes.extend(write(&Record::done(one.number, *outcome)));
        }
        let before_memos = bytes.len();
        // After the entries: the latest says what holds.
        for (_, memo) in self.memos.iter().filter(|(key, _)| settled.contains(key)) {
            bytes.extend(write(&Record::Memo(memo.clone())));
        }
        replace(&self.path, &bytes)?;
        self.file = File::options().append(true).open(&self.path)?;
        self.length = bytes.len() as u64;
        self.memo_bytes = (bytes.len() - before_memos) as u64;
        Ok(())
    }
}
