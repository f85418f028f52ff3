//! Which series of a block a selector means.

use super::super::bytes::Reader;
use super::read::{Block, PairGroup, list};
use super::{Entry, Extent, PAIR_GROUP, SERIES_GROUP, damaged, extent};
use crate::labels::Labels;
use crate::series::{Comparison, Matcher};
use std::collections::HashMap;
use std::io;
use std::sync::Arc;

struct Pair {
    name: Arc<str>,
    value: Arc<str>,
    postings: Extent,
}

/// Groups of pairs that one query has read, so that each is read once; at most `KEPT` of them.
#[derive(Default)]
pub(in super::super) struct Pairs {
    groups: HashMap<usize, Vec<Pair>>,
}

/// Two megabytes or so.
const KEPT: usize = 256;

impl Block {
    fn pair_group(&self, group: &PairGroup) -> io::Result<Vec<Pair>> {
        let bytes = self.read(group.at, "its index")?;
        let mut reader = Reader::new(&bytes);
        let mut pairs: Vec<Pair> = Vec::with_capacity(PAIR_GROUP);
        while !reader.is_empty() {
            let read = (|| Some((reader.str()?, reader.str()?, extent(&mut reader)?)))();
            let (name, value, postings) = read.ok_or_else(|| damaged("its index"))?;
            let name = match pairs.last() {
                Some(last) if &*last.name == name => last.name.clone(),
                _ => name.into(),
            };
            pairs.push(Pair {
                name,
                value: value.into(),
                postings,
            });
        }
        Ok(pairs)
    }

    /// Calls with each value of a label.
    fn each_value(&self, label: &str, mut each: impl FnMut(&Pair) -> io::Result<()>) -> io::Result<()> {
        let start = self
            .pair_groups
            .partition_point(|group| &*group.name < label)
            .saturating_sub(1);
        for group in self
            .pair_groups
            .iter()
            .skip(start)
            .take_while(|group| &*group.name <= label)
        {
            for pair in self.pair_group(group)?.iter().filter(|pair| &*pair.name == label) {
                each(pair)?;
            }
        }
        Ok(())
    }

    fn postings(&self, pair: &Pair) -> io::Result<Vec<u32>> {
        let bytes = self.read(pair.postings, "its index")?;
        list(&mut Reader::new(&bytes)).ok_or_else(|| damaged("its index"))
    }

    /// Reads all pairs and their postings; tells how many parts that were.
    pub(in super::super) fn check_index(&self) -> io::Result<u64> {
        let mut parts = 0;
        for group in &self.pair_groups {
            for pair in self.pair_group(group)? {
                self.postings(&pair)?;
                parts += 1;
            }
        }
        Ok(parts + self.pair_groups.len() as u64)
    }

    /// Series that have a value of the label that is wanted.
    fn having(&self, label: &str, wanted: impl Fn(&str) -> bool) -> io::Result<Vec<u32>> {
        let mut found = Vec::new();
        let mut lists = 0;
        self.each_value(label, |pair| {
            if wanted(&pair.value) {
                found.append(&mut self.postings(pair)?);
                lists += 1;
            }
            Ok(())
        })?;
        if lists > 1 {
            found.sort_unstable();
        }
        Ok(found)
    }

    fn equal(&self, label: &str, value: &str) -> io::Result<Vec<u32>> {
        let after = self
            .pair_groups
            .partition_point(|group| (&*group.name, &*group.value) <= (label, value));
        let Some(group) = after.checked_sub(1).and_then(|at| self.pair_groups.get(at)) else {
            return Ok(Vec::new());
        };
        let pairs = self.pair_group(group)?;
        match pairs.binary_search_by(|pair| (&*pair.name, &*pair.value).cmp(&(label, value))) {
            Ok(at) => pairs.get(at).map_or(Ok(Vec::new()), |pair| self.postings(pair)),
            Err(_) => Ok(Vec::new()),
        }
    }

    /// The series that all matchers accept, by number.
    pub(in super::super) fn find(&self, matchers: &[Matcher]) -> io::Result<Vec<u32>> {
        let mut found: Option<Vec<u32>> = None;
        let mut keep = |list: Vec<u32>, having: bool| {
            found = Some(match found.take() {
                None if having => list,
                None => without(&(0..self.summary.series as u32).collect::<Vec<_>>(), &list),
                Some(before) if having => both(&before, &list),
                Some(before) => without(&before, &list),
            });
        };
        for matcher in matchers {
            match &matcher.comparison {
                Comparison::Equal(value) if !value.is_empty() => {
                    keep(self.equal(&matcher.label, value)?, true)
                }
                // Absent is empty: who accepts that is found by whom it does not accept.
                _ if matcher.accepts("") => {
                    keep(
                        self.having(&matcher.label, |value| !matcher.accepts(value))?,
                        false,
                    );
                }
                _ => keep(self.having(&matcher.label, |value| matcher.accepts(value))?, true),
            }
        }
        Ok(found.unwrap_or_else(|| (0..self.summary.series as u32).collect()))
    }

    /// The entries of some series; calls `lost` with the number of those whose group is damaged.
    pub(in super::super) fn entries(
        &self,
        series: &[u32],
        mut lost: impl FnMut(usize, io::Error),
    ) -> Vec<Entry> {
        let mut found = Vec::with_capacity(series.len());
        for group in series.chunk_by(|a, b| *a as usize / SERIES_GROUP == *b as usize / SERIES_GROUP) {
            let number = group.first().map_or(0, |first| *first as usize / SERIES_GROUP);
            match self.group(number) {
                Ok(entries) => {
                    let mut entries: Vec<Option<Entry>> = entries.into_iter().map(Some).collect();
                    found.extend(
                        group.iter().filter_map(|s| {
                            entries.get_mut(*s as usize % SERIES_GROUP).and_then(Option::take)
                        }),
                    );
                }
                Err(error) => lost(group.len(), error),
            }
        }
        found
    }

    /// The labels of an entry.
    pub(in super::super) fn labels(&self, entry: &Entry, known: &mut Pairs) -> io::Result<Labels> {
        let mut pairs = Vec::with_capacity(entry.pairs.len());
        for pair in &entry.pairs {
            let number = *pair as usize / PAIR_GROUP;
            if !known.groups.contains_key(&number) {
                if known.groups.len() >= KEPT {
                    known.groups.clear();
                }
                let group = self.pair_groups.get(number).ok_or_else(|| damaged("its index"))?;
                known.groups.insert(number, self.pair_group(group)?);
            }
            let found = known
                .groups
                .get(&number)
                .and_then(|group| group.get(*pair as usize % PAIR_GROUP));
            let found = found.ok_or_else(|| damaged("its index"))?;
            pairs.push((found.name.clone(), found.value.clone()));
        }
        Ok(Labels::new(pairs))
    }

    /// Calls with the names of all labels, or with the values of one.
    pub(in super::super) fn words(&self, label: Option<&str>, mut each: impl FnMut(&str)) -> io::Result<()> {
        if let Some(label) = label {
            return self.each_value(label, |pair| {
                each(&pair.value);
                Ok(())
            });
        }
        for (at, group) in self.pair_groups.iter().enumerate() {
            each(&group.name);
            // A group that begins and ends with one name needs no reading.
            if self
                .pair_groups
                .get(at + 1)
                .is_none_or(|next| next.name != group.name)
            {
                for pair in self.pair_group(group)? {
                    each(&pair.name);
                }
            }
        }
        Ok(())
    }
}

/// What is in both of two rising lists.
fn both(a: &[u32], b: &[u32]) -> Vec<u32> {
    let (few, many) = if a.len() <= b.len() { (a, b) } else { (b, a) };
    if few.len() * 16 < many.len() {
        return few
            .iter()
            .copied()
            .filter(|x| many.binary_search(x).is_ok())
            .collect();
    }
    let mut at = 0;
    let mut found = Vec::new();
    for x in few {
        while many.get(at).is_some_and(|y| y < x) {
            at += 1;
        }
        if many.get(at) == Some(x) {
            found.push(*x);
        }
    }
    found
}

/// What is in the first of two rising lists only.
fn without(a: &[u32], b: &[u32]) -> Vec<u32> {
    let mut at = 0;
    let mut found = Vec::with_capacity(a.len());
    for x in a {
        while b.get(at).is_some_and(|y| y < x) {
            at += 1;
        }
        if b.get(at) != Some(x) {
            found.push(*x);
        }
    }
    found
}
