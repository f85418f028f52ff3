//! Gives back what a recording says, step by step.

use super::Clock;
use super::base::Offsets;
use super::format::{Reader, Step, tag};
use super::stacks::{self, Recalled};
use super::tape::{LEFT_OUT, Rows};
use crate::bpf::sys::{MappedArray, Memory};
use crate::bpf::{Spec, State, Verdict};
use crate::error::Result;
use serde::de::DeserializeOwned;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Words that are held for arrays until somebody asks for them, at the first step.
const EARLY_WORDS: usize = 1 << 22;

/// Most bytes of all that is held: no agent knows as much, and a file may say anything.
const MOST_BYTES: usize = if cfg!(test) { 64 << 20 } else { 1 << 30 };
/// What a fact, the rows of a map, a key or a name take besides.
const BESIDES: usize = 64;
/// What such a word takes.
const EARLY: usize = 32;
/// Longest name of a map or an array.
const LONGEST_NAME: usize = 256;
/// Arrays that a recording may have.
const MOST_ARRAYS: usize = 1024;
/// Keys of a map that the agent took out, and of which nobody has asked.
const MOST_VANISHED: usize = 1 << 20;

/// What was read up to a step. Nothing here depends on the order of a hash: they are only looked up.
struct Known {
    clock: Clock,
    facts: HashMap<String, Vec<u8>>,
    rows: HashMap<String, Arc<Rows>>,
    /// Bytes of these two, of names of arrays, early words, what has vanished, and what stacks are told of.
    held: usize,
    /// Bytes of what was told of this step alone.
    of_step: usize,
    /// The step is over: what comes is of the next.
    is_over: bool,
    /// It has begun anew in this step.
    is_reset: bool,
    /// By number: name, bytes of an element.
    declared: Vec<(String, usize)>,
    arrays: HashMap<String, (usize, Arc<Memory>)>,
    records: Vec<u8>,
    /// What stacks are told of by number, and those of this step.
    stacks: (stacks::Reader, Vec<Recalled>),
    taken: HashMap<(String, Vec<u8>), Vec<u8>>,
    refused: HashSet<(String, Vec<u8>)>,
    /// What the agent takes out in this step, and the replay has not yet.
    leaving: HashSet<(String, Vec<u8>)>,
    /// By map: what it never did.
    vanished: HashMap<String, Vec<Vec<u8>>>,
    happened: HashSet<String>,
    /// Ticks so far.
    ticks: u64,
    /// Ticks that were over when the recording began.
    before: u64,
    missing: u64,
    /// There was a step.
    begun: bool,
    /// What this step does is not the next after the one before it.
    jumped: bool,
    /// What the series were at the last beginning.
    base: Option<Offsets>,
    /// Words in it so far.
    early_words: usize,
    /// Arrays that nobody has asked for yet keep what was written to them.
    early: HashMap<String, HashMap<usize, u64>>,
}

/// What was read up to a step.
pub struct Past {
    start: Instant,
    state: Mutex<Known>,
}

impl Default for Past {
    fn default() -> Self {
        Self::new()
    }
}

impl Past {
    /// Nothing yet.
    pub fn new() -> Self {
        let start = Instant::now();
        Self {
            start,
            state: Mutex::new(Known {
                clock: Clock {
                    now: start,
                    unix_nanos: 0,
                    boot_to_unix: 0,
                },
                facts: HashMap::new(),
                rows: HashMap::new(),
                held: 0,
                of_step: 0,
                is_over: true,
                is_reset: false,
                declared: Vec::new(),
                arrays: HashMap::new(),
                records: Vec::new(),
                stacks: Default::default(),
                taken: HashMap::new(),
                refused: HashSet::new(),
                leaving: HashSet::new(),
                vanished: HashMap::new(),
                happened: HashSet::new(),
                ticks: 0,
                before: 0,
                missing: 0,
                begun: false,
                jumped: false,
                base: None,
                early_words: 0,
                early: HashMap::new(),
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, Known> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Applies the frames up to the next step. `None` = there is none, and the next chunk goes on with it; `Err` says at what it
    /// stopped.
    pub fn advance(&self, frames: &mut Reader<'_>) -> std::result::Result<Option<Step>, u8> {
        let state = &mut *self.state();
        if std::mem::take(&mut state.is_over) {
            state.leave();
            state.taken.clear();
            state.refused.clear();
            state.happened.clear();
            state.stacks.1.clear();
            (state.jumped, state.is_reset, state.of_step) = (false, false, 0);
        }
        while let Some(tag) = frames.byte() {
            if let Some(step) = state.frame(tag, frames, self.start).ok_or(tag)? {
                state.is_over = true;
                return Ok(Some(step));
            }
        }
        Ok(None)
    }

    /// How long after the recording began it was.
    pub fn elapsed(&self) -> Duration {
        self.state().clock.now.saturating_duration_since(self.start)
    }

    /// The time of the step.
    pub fn clock(&self) -> Clock {
        self.state().clock
    }

    /// A fact.
    pub fn fact<T: DeserializeOwned>(&self, key: &str) -> Option<T> {
        serde_json::from_slice(self.state().facts.get(key)?).ok()
    }

    /// What became of a program.
    pub fn verdict(&self, spec: &Spec) -> Verdict {
        let state = self.fact(&verdict_key(spec)).unwrap_or(State::Off);
        Verdict {
            probe: spec.probe.to_owned(),
            program: spec.name.to_owned(),
            hook: spec.hook.describe(),
            state,
            reason: "as recorded".to_owned(),
            remedy: String::new(),
            required: spec.required,
            verifier_log: String::new(),
        }
    }

    /// Calls `each` for the rows of a map.
    pub fn each_row(&self, map: &str, key: usize, value: usize, mut each: impl FnMut(&[u8], &[u8])) {
        let rows = self.state().rows.get(map).cloned();
        let Some(rows) = rows.filter(|r| (r.key, r.value) == (key, value)) else {
            return;
        };
        for row in rows.bytes.chunks_exact(key + value) {
            let (key, value) = row.split_at(key);
            each(key, value);
        }
    }

    /// Takes a row out, if it was there.
    pub fn remove(&self, map: &str, key: &[u8]) -> Option<Vec<u8>> {
        let state = &mut *self.state();
        let rows = Arc::make_mut(state.rows.get_mut(map)?);
        let gone = rows.remove(key)?;
        state.held = state.held.saturating_sub(key.len() + gone.len());
        let at = (map.to_owned(), key.to_vec());
        state.leaving.remove(&at);
        (!state.refused.remove(&at)).then_some(gone)
    }

    /// Rows that the agent took out, and the replay did not; each is told once.
    pub fn vanished(&self, map: &str) -> Vec<Vec<u8>> {
        let state = &mut *self.state();
        let keys = state.vanished.remove(map).unwrap_or_default();
        let bytes: usize = keys.iter().map(|key| key.len() + BESIDES).sum();
        state.held = state.held.saturating_sub(bytes);
        keys
    }

    /// Takes a row out; what it held then.
    pub fn take(&self, map: &str, key: &[u8]) -> Option<Vec<u8>> {
        let gone = self.remove(map, key)?;
        let then = self.state().taken.remove(&(map.to_owned(), key.to_vec()));
        Some(then.unwrap_or(gone))
    }

    /// An array that the recording fills.
    pub fn array(&self, name: &'static str, size: usize, entries: usize) -> Result<MappedArray> {
        let array = MappedArray::recorded(size, entries)?;
        let state = &mut *self.state();
        let memory = array.memory();
        let early = state.early.remove(name).unwrap_or_default();
        state.early_words = state.early_words.saturating_sub(early.len());
        state.held = state.held.saturating_sub(early.len() * EARLY);
        for (word, growth) in early {
            memory.set(word, memory.get(word).wrapping_add(growth));
        }
        state
            .arrays
            .insert(name.to_owned(), (size.next_multiple_of(8), memory));
        Ok(array)
    }

    /// Whether something happened in this step.
    pub fn happened(&self, what: &str) -> bool {
        self.state().happened.contains(what)
    }

    /// At a [`Step::Begin`]: what the series were, if ticks are missing before it or it is the first step.
    pub(super) fn jumped(&self) -> Option<Offsets> {
        let mut state = self.state();
        let base = state.base.take();
        base.filter(|_| state.jumped)
    }

    /// Whether this step is not the next after the one before it.
    pub fn has_jumped(&self) -> bool {
        self.state().jumped
    }

    /// Whether what was counted from the records up to this tick is only known from what the agent said.
    pub fn lacks_records(&self) -> bool {
        let state = self.state();
        state.jumped || state.happened.contains(LEFT_OUT)
    }

    /// The records of this step.
    pub fn records(&self) -> Vec<u8> {
        std::mem::take(&mut self.state().records)
    }

    /// Gives back the memory of records that were read, for the next: fresh memory costs more than what is done with them.
    pub fn read(&self, mut records: Vec<u8>) {
        records.clear();
        let mut state = self.state();
        if state.records.is_empty() {
            state.records = records;
        }
    }

    /// Samples of stacks of this step.
    pub fn stacks(&self) -> Vec<Recalled> {
        std::mem::take(&mut self.state().stacks.1)
    }

    /// Ticks that were not written, ever.
    pub fn missing(&self) -> u64 {
        self.state().missing
    }
}

impl Known {
    /// The step is over: what the agent has taken out is gone.
    fn leave(&mut self) {
        let mut leaving: Vec<_> = self.leaving.drain().collect();
        leaving.sort();
        for (map, key) in leaving {
            // Of a map that was never read nobody asks.
            let Some(rows) = self.rows.get_mut(&map) else {
                continue;
            };
            if let Some(gone) = Arc::make_mut(rows).remove(&key) {
                self.held = self.held.saturating_sub(key.len() + gone.len());
            }
            let vanished = self.vanished.entry(map).or_default();
            let bytes = key.len() + BESIDES;
            if vanished.len() < MOST_VANISHED && self.held + bytes <= MOST_BYTES {
                self.held += bytes;
                vanished.push(key);
            }
        }
    }

    /// Applies a frame; `None` = it is damaged.
    fn frame(&mut self, tag: u8, r: &mut Reader<'_>, start: Instant) -> Option<Option<Step>> {
        match tag {
            tag::FACT => {
                let key = r.text()?.to_owned();
                let json = r.bytes()?.to_vec();
                let (size, own) = (json.len(), key.len() + BESIDES);
                let gone = self.facts.insert(key, json);
                self.hold(size + own, gone.map_or(0, |gone| gone.len() + own))?;
            }
            tag::ROWS => {
                let map = name(r)?;
                let (key, value) = (r.varint()? as usize, r.varint()? as usize);
                let bytes = r.bytes()?.to_vec();
                // A size that no map has, and sums of which could overflow.
                if key > 1 << 16 || value > 1 << 20 || key + value == 0 {
                    return None;
                }
                let (size, own) = (bytes.len(), map.len() + BESIDES);
                let gone = self.rows.insert(map, Arc::new(Rows { key, value, bytes }));
                self.hold(size + own, gone.map_or(0, |gone| gone.bytes.len() + own))?;
            }
            tag::ARRAY => {
                let number = r.varint()? as usize;
                let declared = (name(r)?, r.varint()? as usize);
                if number >= MOST_ARRAYS {
                    return None;
                }
                let more = declared.0.len() + BESIDES;
                let mut fewer = 0;
                if number == self.declared.len() {
                    self.declared.push(declared);
                } else {
                    let known = self.declared.get_mut(number)?;
                    fewer = known.0.len() + BESIDES;
                    *known = declared;
                }
                self.hold(more, fewer)?;
            }
            tag::WORDS => {
                let number = r.varint()? as usize;
                self.words(number, Reader(r.bytes()?))?;
            }
            tag::RECORDS => {
                self.records.clear();
                self.records.extend_from_slice(r.bytes()?);
            }
            tag::STACKS => {
                let (json, before) = (r.bytes()?, self.stacks.0.bytes());
                let recalled = self.stacks.0.read(json)?;
                self.hold(self.stacks.0.bytes(), before)?;
                self.hold_for_now(json.len())?;
                self.stacks.1.push(recalled);
            }
            tag::TAKEN => {
                let at = (name(r)?, r.bytes()?.to_vec());
                let value = r.bytes()?.to_vec();
                self.hold_for_now(at.0.len() + at.1.len() + value.len())?;
                self.taken.insert(at, value);
            }
            tag::REFUSED => {
                let at = (name(r)?, r.bytes()?.to_vec());
                self.hold_for_now(at.0.len() + at.1.len())?;
                self.refused.insert(at);
            }
            tag::REMOVED => {
                let at = (name(r)?, r.bytes()?.to_vec());
                self.hold_for_now(at.0.len() + at.1.len())?;
                self.leaving.insert(at);
            }
            tag::HAPPENED => {
                let what = r.text()?.to_owned();
                self.hold_for_now(what.len())?;
                self.happened.insert(what);
            }
            tag::BASE => self.base = Some(Offsets::read(Reader(r.bytes()?))?),
            tag::STEP => {
                let step = Step::of(r.varint()?)?;
                self.begun = true;
                self.clock = Clock {
                    now: start.checked_add(Duration::from_nanos(r.varint()?))?,
                    unix_nanos: r.varint()?,
                    boot_to_unix: r.varint()?,
                };
                self.ticks += u64::from(matches!(step, Step::Tick | Step::Last));
                return Some(Some(step));
            }
            tag::RESET => {
                let so_far = r.varint()?;
                // It goes through all memory there is: no agent does it twice.
                if std::mem::replace(&mut self.is_reset, true) {
                    return None;
                }
                if !self.begun {
                    self.before = so_far;
                    self.jumped = true;
                }
                let missing = so_far.saturating_sub(self.ticks + self.before);
                self.jumped |= missing > self.missing;
                self.missing = missing;
                for (_, memory) in self.arrays.values() {
                    // What is zero takes no memory, and shall not.
                    let set = (0..memory.words()).filter(|word| memory.get(*word) != 0);
                    set.for_each(|word| memory.set(word, 0));
                }
                let gone = self.early_words * EARLY + self.stacks.0.bytes();
                self.held = self.held.saturating_sub(gone);
                self.early.clear();
                self.early_words = 0;
                self.records.clear();
                self.stacks = Default::default();
            }
            _ => return None,
        }
        Some(None)
    }

    /// So many bytes more and fewer are held; `None` = too many.
    fn hold(&mut self, more: usize, fewer: usize) -> Option<()> {
        self.held = (self.held + more).saturating_sub(fewer);
        (self.held <= MOST_BYTES).then_some(())
    }

    /// So many bytes more until the step is over; `None` = too many.
    fn hold_for_now(&mut self, more: usize) -> Option<()> {
        self.of_step += more + BESIDES;
        (self.held + self.of_step <= MOST_BYTES).then_some(())
    }

    fn words(&mut self, number: usize, mut r: Reader<'_>) -> Option<()> {
        let (name, stride) = self.declared.get(number)?;
        let memory = match self.arrays.get(name) {
            // An array of another layout: no number of it would mean what it says.
            Some((ours, _)) if ours != stride => return Some(()),
            Some((_, memory)) => Some(memory),
            None => None,
        };
        let mut at = 0i64;
        while !r.0.is_empty() {
            at = at.wrapping_add(r.signed()?);
            let growth = r.signed()?.cast_unsigned();
            let word = usize::try_from(at).ok()?;
            match memory {
                Some(memory) => memory.set(word, memory.get(word).wrapping_add(growth)),
                // Nor is it for an array that this version does not know, or no more.
                None => {
                    let words = match self.early.get_mut(name) {
                        Some(words) => words,
                        None => self.early.entry(name.clone()).or_default(),
                    };
                    match words.get_mut(&word) {
                        Some(word) => *word = word.wrapping_add(growth),
                        None if self.early_words >= EARLY_WORDS => {}
                        None => {
                            self.early_words += 1;
                            self.held += EARLY;
                            words.insert(word, growth);
                        }
                    }
                    if self.held > MOST_BYTES {
                        return None;
                    }
                }
            }
        }
        Some(())
    }
}

/// The name of a map or an array; `None` = none has such a one.
fn name(r: &mut Reader<'_>) -> Option<String> {
    let name = r.text()?;
    (name.len() <= LONGEST_NAME).then(|| name.to_owned())
}

/// The fact that says what became of a program.
pub fn verdict_key(spec: &Spec) -> String {
    format!("program {}", spec.name)
}

#[cfg(test)]
#[path = "past_tests.rs"]
mod tests;
