//! Writes down what is read.

use super::file::{Output, Written};
use super::format::{self, Parts, Step, bytes, signed, tag, varint};
use super::stacks::Writer;
use super::{Clock, base};
use crate::aggregate::Family;
use crate::bpf::sys::Shadow;
use crate::error::Result;
use crate::stacks::store::Store;
use crate::stacks::tap::Tapped;
use agent_common::wire::kind;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A state that no reader would take is not made again before: it costs what a hundred ticks do.
const AGAIN: Duration = Duration::from_secs(if cfg!(test) { 15 } else { 600 });
/// Facts whose last answer is kept, so that each is written once, and again after a gap; the oldest go first.
const FACTS: usize = 65_536;
/// Bytes of records that the flight recorder takes in a second: 8,000 flows or drops. It always runs, and a flood of records
/// must not make it dear. Those beyond are counted, and no series misses them.
const RECORDS: usize = 1 << 20;
/// What has happened in a step some of whose records are not there.
pub(super) const LEFT_OUT: &str = "records left out";

/// The first epoch.
const ATTACHING: u32 = 1;

/// Rows of a map.
#[derive(Clone, Default)]
pub struct Rows {
    /// Bytes of a key.
    pub key: usize,
    /// Bytes of a value.
    pub value: usize,
    /// Keys and values, one behind the other.
    pub bytes: Vec<u8>,
}

impl Rows {
    /// Takes one out; what it held.
    pub fn remove(&mut self, key: &[u8]) -> Option<Vec<u8>> {
        let row = self.key + self.value;
        let at = self
            .bytes
            .chunks_exact(row.max(1))
            .position(|r| r.get(..self.key) == Some(key))?;
        let gone: Vec<u8> = self.bytes.drain(at * row..(at + 1) * row).collect();
        gone.get(self.key..).map(<[u8]>::to_vec)
    }
}

struct Array {
    name: &'static str,
    stride: usize,
    shadow: Shadow,
    /// Words of this step.
    words: Vec<u8>,
    /// The word before.
    at: i64,
}

impl Array {
    fn word(&mut self, word: usize, growth: u64) {
        signed(&mut self.words, word as i64 - self.at);
        signed(&mut self.words, growth.cast_signed());
        self.at = word as i64;
    }
}

struct Inner {
    /// Whole frames of the steps that are not written yet.
    frames: Vec<u8>,
    /// Records of this step.
    records: Vec<u8>,
    arrays: Vec<Array>,
    /// What was written to arrays in this step.
    set: Vec<(usize, usize, u64)>,
    rows: BTreeMap<&'static str, Rows>,
    facts: BTreeMap<String, (u64, Vec<u8>)>,
    told: u64,
    stacks: Writer,
    output: Output,
    /// Something could not be written: what follows begins with everything.
    anew: bool,
    /// No state is made before: the last one was too long.
    not_before: Option<Instant>,
    /// So it does where so many stacks were told that they have to be forgotten.
    is_full: bool,
    /// Ticks so far.
    ticks: u64,
    /// Those of them that were not handed over.
    lost: u64,
    /// Records that were too many.
    left_out: u64,
    /// Some of them since the last tick.
    over: bool,
    /// Bytes of records since the last tick.
    taken: usize,
}

/// Writes down what is read.
pub struct Tape {
    start: Instant,
    epoch: AtomicU32,
    inner: Mutex<Inner>,
}

impl Tape {
    /// Writes to an output.
    pub fn new(output: Output) -> Self {
        Self {
            start: Instant::now(),
            epoch: ATTACHING.into(),
            inner: Mutex::new(Inner {
                frames: Vec::new(),
                records: Vec::new(),
                arrays: Vec::new(),
                set: Vec::new(),
                rows: BTreeMap::new(),
                facts: BTreeMap::new(),
                told: 0,
                stacks: Writer::default(),
                output,
                anew: false,
                not_before: None,
                is_full: false,
                ticks: 0,
                lost: 0,
                left_out: 0,
                over: false,
                taken: 0,
            }),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Number of the step that runs.
    pub fn epoch(&self) -> u32 {
        self.epoch.load(Ordering::Relaxed)
    }

    /// Enters an array; its number.
    pub fn array(&self, name: &'static str, stride: usize, shadow: Shadow) -> usize {
        let mut inner = self.inner();
        let number = inner.arrays.len();
        declare(&mut inner.frames, number, name, stride);
        inner.arrays.push(Array {
            name,
            stride,
            shadow,
            words: Vec::new(),
            at: 0,
        });
        number
    }

    /// A word of an array has grown.
    pub fn word(&self, array: usize, word: usize, growth: u64) {
        if let Some(array) = self.inner().arrays.get_mut(array) {
            array.word(word, growth);
        }
    }

    /// A word of an array is written by the agent: to a replay too, but not before it has read what was there in this step.
    pub fn set(&self, array: usize, word: usize, growth: u64) {
        self.inner().set.push((array, word, growth));
    }

    /// All rows of a map.
    pub fn rows(&self, map: &'static str, key: usize, value: usize, rows: Vec<u8>) {
        let inner = &mut *self.inner();
        let rows = Rows {
            key,
            value,
            bytes: rows,
        };
        let is_new = inner.rows.get(map).is_none_or(|last| last.bytes != rows.bytes);
        if is_new {
            put_rows(&mut inner.frames, map, &rows);
            inner.rows.insert(map, rows);
        }
    }

    /// A row was taken out, or was not there any more.
    pub fn removed(&self, map: &'static str, key: &[u8], was_there: bool) {
        let inner = &mut *self.inner();
        let tag = if was_there { tag::REMOVED } else { tag::REFUSED };
        pair(&mut inner.frames, tag, map, key);
        if let Some(rows) = inner.rows.get_mut(map) {
            rows.remove(key);
        }
    }

    /// What a row held when it was taken out.
    pub fn taken(&self, map: &'static str, key: &[u8], value: &[u8]) {
        let frames = &mut self.inner().frames;
        pair(frames, tag::TAKEN, map, key);
        bytes(frames, value);
    }

    /// An answer, as JSON.
    pub fn fact(&self, key: &str, json: Vec<u8>) {
        let inner = &mut *self.inner();
        inner.told += 1;
        // What was told while the programs were attached is asked for by every replay.
        let told = if self.epoch() == ATTACHING {
            u64::MAX
        } else {
            inner.told
        };
        if let Some((last_told, last)) = inner.facts.get_mut(key) {
            *last_told = told.max(*last_told);
            if *last == json {
                return;
            }
        }
        put_fact(&mut inner.frames, key, &json);
        let known = inner.facts.entry(key.to_owned()).or_default();
        *known = (known.0.max(told), json);
        if inner.facts.len() > FACTS {
            inner.forget();
        }
    }

    /// Something happened.
    pub fn happened(&self, what: &str) {
        let frames = &mut self.inner().frames;
        frames.push(tag::HAPPENED);
        bytes(frames, what.as_bytes());
    }

    /// A record of the ring. Stacks come by [`Self::stacks`], when it is known where their addresses lead: that they have come
    /// is known of what was counted.
    pub fn record(&self, record: &[u8]) {
        let inner = &mut *self.inner();
        if record.first() == Some(&kind::STACK) {
            inner.over = true;
            return;
        }
        if !inner.output.is_file() && inner.taken + record.len() > RECORDS {
            inner.left_out += 1;
            inner.over = true;
            return;
        }
        inner.taken += record.len();
        bytes(&mut inner.records, record);
    }

    /// Samples of stacks, and names that were found.
    pub fn stacks(&self, tapped: &Tapped, store: &Store) {
        let inner = &mut *self.inner();
        let (batch, left_out) = inner.stacks.batch(tapped, store, !inner.output.is_file());
        inner.left_out += left_out;
        if let Some(json) = batch {
            inner.frames.push(tag::STACKS);
            bytes(&mut inner.frames, &json);
        }
    }

    /// So many samples of stacks come too late to be in it.
    pub fn left_out(&self, samples: u64) {
        self.inner().left_out += samples;
    }

    /// Whether somebody has asked for the recording: records are made for it as for one who listens.
    pub fn listens(&self) -> bool {
        self.inner().output.is_file()
    }

    /// Whether the tick that begins now ends with a chunk that has everything.
    pub fn is_due(&self, now: Instant) -> bool {
        let inner = &mut *self.inner();
        inner.is_full = inner.stacks.is_full();
        inner.wants(now)
    }

    /// What became of the ticks, and of records.
    pub fn stats(&self) -> Stats {
        let inner = self.inner();
        let (written, waiting) = inner.output.written();
        Stats {
            written,
            waiting,
            ticks: inner.ticks,
            lost: inner.lost + written.lost,
            records_left_out: inner.left_out,
        }
    }

    /// The end of a step, with what it came to. A drain that has brought nothing is not written.
    pub fn end(&self, step: Step, clock: &Clock, families: &[Family]) {
        let inner = &mut *self.inner();
        if step == Step::Drain && inner.records.is_empty() {
            return;
        }
        self.epoch.fetch_add(1, Ordering::Relaxed);
        for (number, array) in inner.arrays.iter_mut().enumerate() {
            if !array.words.is_empty() {
                put_words(&mut inner.frames, number, &array.words);
                array.words.clear();
                array.at = 0;
            }
        }
        for (array, word, growth) in std::mem::take(&mut inner.set) {
            if let Some(array) = inner.arrays.get_mut(array) {
                array.word(word, growth);
            }
        }
        if matches!(step, Step::Tick | Step::Last) && std::mem::take(&mut inner.over) {
            inner.frames.push(tag::HAPPENED);
            bytes(&mut inner.frames, LEFT_OUT.as_bytes());
        }
        if !inner.records.is_empty() {
            inner.frames.push(tag::RECORDS);
            bytes(&mut inner.frames, &inner.records);
            inner.records.clear();
        }
        put_step(&mut inner.frames, step, self.start, clock);
        match step {
            Step::Attach | Step::Drain | Step::Begin => {}
            Step::Tick | Step::Last => inner.write(self.start, clock, families),
        }
    }

    /// Ends it: all is on the disk. A recording goes no further.
    pub fn finish(&self) -> Result<Written> {
        self.inner().output.finish()
    }
}

impl Inner {
    /// Hands the frames of a second to the writer. If it is too far behind, they are missing, and what follows begins anew.
    fn write(&mut self, start: Instant, clock: &Clock, families: &[Family]) {
        // As was said when the tick began: what is told once has been told again. What is lost now is due at the next.
        let wanted = self.wants(clock.now);
        self.ticks += 1;
        self.taken = 0;
        let frames = std::mem::take(&mut self.frames);
        let is_lost = self.anew || !self.put(&frames, false, clock);
        self.lost += u64::from(is_lost);
        self.anew |= is_lost;
        if wanted && self.output.may_begin(clock.now) {
            // The state has in it what the frames did, but for their records.
            let mut state = self.state();
            let mut series = Vec::new();
            base::put(&mut series, families);
            let out = state.room();
            out.push(tag::BASE);
            bytes(out, &series);
            put_step(state.room(), Step::Begin, start, clock);
            let chunks = state.chunks();
            if chunks.is_none() {
                self.not_before = clock.now.checked_add(AGAIN);
                tracing::error!(
                    "recording: what one thing is known of comes to more than {} MiB, and no reader takes it; until it is less nothing is recorded and ticks are counted as lost; the next attempt is in {} s",
                    format::LONGEST >> 20,
                    AGAIN.as_secs()
                );
            }
            self.anew = !chunks.is_some_and(|chunks| self.output.write(chunks, true, clock));
        }
    }

    /// Whether a tick of this time ends with a chunk that has everything.
    fn wants(&self, now: Instant) -> bool {
        let may = self.not_before.is_none_or(|at| now >= at);
        may && (self.anew || self.is_full || self.output.turns(now))
    }

    /// A chunk that no reader takes is as good as lost.
    fn put(&mut self, frames: &[u8], anew: bool, clock: &Clock) -> bool {
        frames.len() <= format::LONGEST && self.output.write(format::chunk(frames), anew, clock)
    }

    /// Forgets the oldest quarter of what may be forgotten.
    fn forget(&mut self) {
        let mut told: Vec<u64> = self.facts.values().map(|(told, _)| *told).collect();
        let (_, &mut oldest, _) = told.select_nth_unstable(FACTS / 4);
        self.facts
            .retain(|_, (told, _)| *told > oldest || *told == u64::MAX);
    }

    /// Everything as it is now.
    fn state(&mut self) -> Parts {
        let mut out = Parts::default();
        self.stacks = Writer::default();
        self.is_full = false;
        // It has what was written.
        for array in &mut self.arrays {
            array.words.clear();
            array.at = 0;
        }
        out.room().push(tag::RESET);
        varint(out.room(), self.ticks);
        for (key, (_, json)) in &self.facts {
            put_fact(out.room(), key, json);
        }
        for (map, rows) in &self.rows {
            put_rows(out.room(), map, rows);
        }
        for (number, array) in self.arrays.iter().enumerate() {
            declare(out.room(), number, array.name, array.stride);
            let mut now = Array {
                words: Vec::new(),
                at: 0,
                name: array.name,
                stride: array.stride,
                shadow: array.shadow.clone(),
            };
            array.shadow.each_read(|word| {
                let value = array.shadow.words.get(word);
                if value != 0 {
                    now.word(word, value);
                }
            });
            if !now.words.is_empty() {
                put_words(out.room(), number, &now.words);
            }
        }
        out
    }
}

/// What became of all that a tape was told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// On the disk.
    pub written: Written,
    /// Ticks that the disk has still to take.
    pub waiting: u64,
    /// Ticks so far: written, waiting and lost.
    pub ticks: u64,
    /// Ticks that are not in it: the disk was full or too slow, or a second was too long.
    pub lost: u64,
    /// Records that were too many for a second of the flight recorder.
    pub records_left_out: u64,
}

fn put_step(out: &mut Vec<u8>, step: Step, start: Instant, clock: &Clock) {
    out.push(tag::STEP);
    let since = clock.now.saturating_duration_since(start);
    let times = [since.as_nanos() as u64, clock.unix_nanos, clock.boot_to_unix];
    for number in [step.number()].into_iter().chain(times) {
        varint(out, number);
    }
}

fn declare(out: &mut Vec<u8>, number: usize, name: &str, stride: usize) {
    out.push(tag::ARRAY);
    varint(out, number as u64);
    bytes(out, name.as_bytes());
    varint(out, stride as u64);
}

fn put_words(out: &mut Vec<u8>, number: usize, words: &[u8]) {
    out.push(tag::WORDS);
    varint(out, number as u64);
    bytes(out, words);
}

fn put_rows(out: &mut Vec<u8>, map: &str, rows: &Rows) {
    out.push(tag::ROWS);
    bytes(out, map.as_bytes());
    varint(out, rows.key as u64);
    varint(out, rows.value as u64);
    bytes(out, &rows.bytes);
}

fn put_fact(out: &mut Vec<u8>, key: &str, json: &[u8]) {
    out.push(tag::FACT);
    bytes(out, key.as_bytes());
    bytes(out, json);
}

fn pair(out: &mut Vec<u8>, tag: u8, map: &str, key: &[u8]) {
    out.push(tag);
    bytes(out, map.as_bytes());
    bytes(out, key);
}
