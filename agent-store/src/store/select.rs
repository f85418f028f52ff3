//! The store as a source of queries.

use super::block::Kind;
use super::gather::{Gather, extend};
use super::rollup::ROLLUP;
use super::{Store, View, read};
use crate::labels::Labels;
use crate::series::{Bounds, Column, Comparison, Matcher, Millis, Refusal, Rise, Series, Source, Visit};
use std::collections::{BTreeSet, HashMap};
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};

/// The rollup that is asked for, and its name as the query has it; `None` for the last, which is what a block has anyway.
type Asked = (Option<Kind>, String);

/// Takes the rollup that is asked for out of the matchers.
fn rollup(matchers: &[Matcher]) -> Result<(Vec<Matcher>, Option<Asked>), Refusal> {
    let (asked, rest): (Vec<Matcher>, Vec<Matcher>) = matchers
        .iter()
        .cloned()
        .partition(|matcher| matcher.label == ROLLUP);
    let Some(Comparison::Equal(which)) = asked.first().map(|matcher| &matcher.comparison) else {
        if asked.is_empty() {
            return Ok((rest, None));
        }
        return Err(Refusal::Senseless(format!("{ROLLUP} is compared by = only")));
    };
    let kind = match which.as_str() {
        "" | "last" => None,
        "min" => Some(Kind::Min),
        "max" => Some(Kind::Max),
        "sum" => Some(Kind::Sum),
        "count" => Some(Kind::Count),
        other => {
            return Err(Refusal::Senseless(format!(
                "{ROLLUP}={other:?}: there are last, min, max, sum and count"
            )));
        }
    };
    Ok((rest, Some((kind, which.clone()))))
}

/// Which samples are wanted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Which {
    /// Only who has any.
    None,
    /// At least the latest.
    Latest,
    All,
}

impl Store {
    /// Calls with each series that the matchers accept and that has a sample in the span, whole if `samples` are wanted; what
    /// is left of its samples is room for those of another. After a `Break` it soon ends.
    fn gather(
        &self,
        matchers: &[Matcher],
        (from, to): (Millis, Millis),
        which: Which,
        bounds: &dyn Bounds,
        make: &(dyn Fn(&mut Series) -> ControlFlow<()> + Sync),
    ) -> Result<(), Refusal> {
        let (matchers, rollup) = rollup(matchers)?;
        let counters = &self.inner.counters;
        let kind = rollup.as_ref().and_then(|(kind, _)| *kind);
        let gather = || Gather {
            rollup: kind,
            samples: which != Which::None,
            latest: which == Which::Latest,
            ..Gather::new((from, to), bounds, counters)
        };
        // The head is read first, and under its lock the view of the rest: what is frozen meanwhile is in one of the two.
        let mut head = gather();
        let since;
        let view = {
            let live = read(&self.inner.live);
            since = live.head.axis.first().copied().unwrap_or(Millis::MIN);
            let mut result = Ok(());
            live.head.each(&matchers, |labels, id, held| {
                if result.is_ok() {
                    result = head.held(labels, id, held, &live.head.axis);
                }
            });
            result?;
            self.inner.view()
        };
        let mut all = Gather {
            counted: Some(&head.index),
            since,
            ..gather()
        };
        for (number, block) in view.blocks.iter().enumerate() {
            all.block(number, block, &matchers)?;
        }
        frozen(&mut all, &view, &matchers)?;
        let ids: HashMap<usize, u128> = head.index.iter().map(|(id, at)| (*at, *id)).collect();
        for (at, series) in head.found.into_iter().enumerate() {
            let known = ids
                .get(&at)
                .and_then(|id| all.index.get(id))
                .and_then(|at| all.found.get_mut(*at));
            match known {
                None => all.found.push(series),
                Some(known) => {
                    extend(&mut known.samples.floats, series.samples.floats);
                    extend(&mut known.samples.histograms, series.samples.histograms);
                }
            }
        }
        let which = rollup.map(|(_, which)| which).filter(|which| !which.is_empty());
        if let Some(which) = which {
            let own = (Arc::from(ROLLUP), Arc::from(which.as_str()));
            for series in &mut all.found {
                let pairs = series.labels.iter();
                let pairs = pairs.map(|(name, value)| (name.clone(), value.clone()));
                series.labels = Labels::new(pairs.chain([own.clone()]));
            }
        }
        all.each(&view.blocks, make)
    }

    fn all(
        &self,
        matchers: &[Matcher],
        span: (Millis, Millis),
        which: Which,
        bounds: &dyn Bounds,
    ) -> Result<Vec<Series>, Refusal> {
        let all = Mutex::new(Vec::new());
        self.gather(matchers, span, which, bounds, &|series| {
            let mut series = std::mem::take(series);
            // What was decoded and is not wanted: the bounds did not count it.
            shrink(&mut series.samples.floats);
            shrink(&mut series.samples.histograms);
            all.lock().unwrap_or_else(PoisonError::into_inner).push(series);
            ControlFlow::Continue(())
        })?;
        Ok(all.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    /// The identities of the series that all matchers accept and that have a sample in `from..=to`.
    pub fn series(
        &self,
        matchers: &[Matcher],
        from: Millis,
        to: Millis,
        bounds: &dyn Bounds,
    ) -> Result<Vec<Labels>, Refusal> {
        Ok(self
            .all(matchers, (from, to), Which::None, bounds)?
            .into_iter()
            .map(|series| series.labels)
            .collect())
    }

    /// The names of all labels that series in `from..=to` have, or the values of one, ordered. Matchers cost reading what they
    /// accept; without any only the index is read, block by block, so that a name may be a little older than asked for.
    pub fn words(
        &self,
        label: Option<&str>,
        matchers: &[Matcher],
        (from, to): (Millis, Millis),
        bounds: &dyn Bounds,
    ) -> Result<Vec<String>, Refusal> {
        let mut words = BTreeSet::new();
        if !matchers.is_empty() {
            for labels in self.series(matchers, from, to, bounds)? {
                words.extend(spoken(&labels, label));
            }
            return Ok(words.into_iter().collect());
        }
        let view = {
            let live = read(&self.inner.live);
            live.head.each(&[], |labels, _, held| {
                if !held.is_empty() {
                    words.extend(spoken(labels, label));
                }
            });
            self.inner.view()
        };
        for frozen in &view.frozen {
            words.extend(
                frozen
                    .series
                    .iter()
                    .flat_map(|(labels, ..)| spoken(labels, label)),
            );
        }
        for block in view
            .blocks
            .iter()
            .filter(|block| block.summary.from <= to && block.summary.to >= from)
        {
            let read = block.words(label, |word| {
                if !words.contains(word) {
                    words.insert(word.to_owned());
                }
            });
            if let Err(error) = read {
                self.inner.counters.damage(block.id, &error);
            }
        }
        Ok(words.into_iter().collect())
    }
}

/// Gives back what it does not need.
fn shrink<T>(column: &mut Column<T>) {
    column.times.shrink_to_fit();
    column.values.shrink_to_fit();
}

fn spoken(labels: &Labels, label: Option<&str>) -> Vec<String> {
    match label {
        None => labels.iter().map(|(name, _)| name.to_string()).collect(),
        Some(label) => Some(labels.get(label))
            .filter(|value| !value.is_empty())
            .map(str::to_owned)
            .into_iter()
            .collect(),
    }
}

fn frozen(gather: &mut Gather<'_>, view: &View, matchers: &[Matcher]) -> Result<(), Refusal> {
    let (from, to) = (gather.from, gather.to);
    let is_of_span = |axis: &[Millis]| {
        axis.first().is_some_and(|first| *first <= to) && axis.last().is_some_and(|last| *last >= from)
    };
    for frozen in view.frozen.iter().filter(|frozen| is_of_span(&frozen.axis)) {
        for (labels, id, held) in frozen.accepted(matchers) {
            gather.held(labels, *id, held, &frozen.axis)?;
        }
    }
    Ok(())
}

impl Source for Store {
    fn select(
        &self,
        matchers: &[Matcher],
        from: Millis,
        to: Millis,
        bounds: &dyn Bounds,
    ) -> Result<Vec<Series>, Refusal> {
        self.all(matchers, (from, to), Which::All, bounds)
    }

    fn latest(
        &self,
        matchers: &[Matcher],
        from: Millis,
        to: Millis,
        bounds: &dyn Bounds,
    ) -> Result<Vec<Series>, Refusal> {
        self.all(matchers, (from, to), Which::Latest, bounds)
    }

    fn each(
        &self,
        matchers: &[Matcher],
        from: Millis,
        to: Millis,
        bounds: &dyn Bounds,
        visit: &Visit<'_>,
    ) -> Result<(), Refusal> {
        self.gather(matchers, (from, to), Which::All, bounds, &|series| visit(series))
    }

    fn rises(
        &self,
        matchers: &[Matcher],
        from: Millis,
        to: Millis,
        bounds: &dyn Bounds,
    ) -> Result<Option<Vec<Rise>>, Refusal> {
        self.find_rises(matchers, (from, to), bounds)
    }
}
