//! What functions of ranges came to, for queries of one time that ask the same: three rules about retransmits read and slide
//! over the same five minutes of the same counters.

use super::eval::Evaluator;
use super::grid::{Grid, Row};
use super::parse;
use crate::labels::NAME;
use crate::series::{Comparison, Millis};
use promql_parser::parser::{Call, Expr};
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Rows that are kept, of some 400 bytes: those of more are made anew each time.
const MOST_ROWS: usize = 50_000;

/// Answers to parts of queries over a source that does not change meanwhile, or whose changes are told by [`Memo::forget`]. What
/// is said beside an answer (warnings) is said the first time.
#[derive(Default)]
pub struct Memo(Mutex<HashMap<Part, Known>>);

/// A call with its arguments, and when.
type Part = (Millis, String);

struct Known {
    metric: String,
    rows: Vec<Row>,
}

impl Memo {
    /// There are new samples of a metric.
    pub fn forget(&self, metric: &str) {
        self.known().retain(|_, known| known.metric != metric);
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Part, Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn get(&self, key: &Key) -> Option<Vec<Row>> {
        self.known().get(&key.part).map(|known| known.rows.clone())
    }

    pub(super) fn put(&self, key: Key, rows: &[Row]) {
        let mut known = self.known();
        let held: usize = known.values().map(|known| known.rows.len()).sum();
        if held + rows.len() <= MOST_ROWS {
            let (metric, rows) = (key.metric, rows.to_vec());
            known.insert(key.part, Known { metric, rows });
        }
    }
}

/// What a part is known by.
pub(super) struct Key {
    part: Part,
    metric: String,
}

impl Evaluator<'_> {
    /// That of a call, if it is of the samples of one metric and of numbers, at one time.
    pub(super) fn part(&self, node: &Call, grid: Grid) -> Option<(&Memo, Key)> {
        let memo = self.memo.filter(|_| grid.count == 1)?;
        let mut metric = None;
        for arg in &node.args.args {
            match &**arg {
                Expr::NumberLiteral(_) => {}
                Expr::MatrixSelector(selector) if metric.is_none() => {
                    let matchers = parse::matchers(&selector.vs);
                    metric = Some(
                        matchers
                            .into_iter()
                            .find_map(|matcher| match matcher.comparison {
                                Comparison::Equal(name) if matcher.label == NAME => Some(name),
                                _ => None,
                            })?,
                    );
                }
                _ => return None,
            }
        }
        let part = (grid.start, node.to_string());
        metric.map(|metric| (memo, Key { part, metric }))
    }
}
