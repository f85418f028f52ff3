//! Which elements of two vectors belong together.

use super::super::Error;
use super::super::eval::{Evaluator, OF_LABELS};
use super::super::grid::{Collector, Row, Sample, only, with, without};
use super::super::show::metric;
use super::Operator;
use crate::labels::{Labels, NAME};
use promql_parser::parser::{BinModifier, LabelModifier, VectorMatchCardinality};
use std::collections::{HashMap, HashSet};

/// The labels by which two elements match.
pub(super) fn signature(modifier: Option<&BinModifier>, labels: &Labels) -> Labels {
    match modifier.and_then(|modifier| modifier.matching.as_ref()) {
        Some(LabelModifier::Include(names)) => only(labels, &strs(&names.labels)),
        Some(LabelModifier::Exclude(names)) => without(labels, &[strs(&names.labels), vec![NAME]].concat()),
        None => without(labels, &[NAME]),
    }
}

pub(in super::super) fn strs(names: &[String]) -> Vec<&str> {
    names.iter().map(String::as_str).collect()
}

/// Applies an operator to the pairs; `many` and `one` are the sides, swapped for `group_right`.
struct Join<'a> {
    evaluator: &'a Evaluator<'a>,
    operator: Operator,
    modifier: Option<&'a BinModifier>,
    /// The labels that `group_left` and `group_right` take from the one side.
    included: Option<&'a [String]>,
    swapped: bool,
    many: Vec<Row>,
    one: Vec<Row>,
    count: usize,
}

pub(super) fn combine(
    evaluator: &Evaluator,
    operator: Operator,
    modifier: Option<&BinModifier>,
    left: Vec<Row>,
    right: Vec<Row>,
    count: usize,
) -> Result<Vec<Row>, Error> {
    let card = modifier.map(|modifier| &modifier.card);
    let (included, swapped) = match card {
        Some(VectorMatchCardinality::ManyToOne(labels)) => (Some(labels.labels.as_slice()), false),
        Some(VectorMatchCardinality::OneToMany(labels)) => (Some(labels.labels.as_slice()), true),
        _ => (None, false),
    };
    let (many, one) = if swapped { (right, left) } else { (left, right) };
    Join {
        evaluator,
        operator,
        modifier,
        included,
        swapped,
        many,
        one,
        count,
    }
    .run()
}

impl Join<'_> {
    fn run(&self) -> Result<Vec<Row>, Error> {
        let mut groups: HashMap<Labels, Vec<usize>> = HashMap::new();
        for (at, row) in self.one.iter().enumerate() {
            groups
                .entry(signature(self.modifier, &row.labels))
                .or_default()
                .push(at);
        }
        self.check_one_side(&groups)?;
        let mut collector = Collector::new(self.count, self.many.len());
        // For each signature: the steps that have a result, and the labels of the rows with results.
        let mut given: HashMap<Labels, (Vec<bool>, HashSet<Labels>)> = HashMap::new();
        for many in &self.many {
            let signature = signature(self.modifier, &many.labels);
            let Some(group) = groups.get(&signature) else {
                continue;
            };
            let (taken, rows) = given
                .entry(signature)
                .or_insert_with(|| (vec![false; self.count], HashSet::new()));
            for one in group.iter().map(|at| &self.one[*at]) {
                self.evaluator.work(self.count + OF_LABELS)?;
                let labels = self.result_labels(&many.labels, &one.labels);
                let row = collector.row(&labels, self.evaluator.bounds)?;
                for (step, taken) in taken.iter_mut().enumerate() {
                    let Some(result) = self.pair(many, one, step) else {
                        continue;
                    };
                    if self.included.is_none() && *taken {
                        return Error::execution(
                            "multiple matches for labels: many-to-one matching must be explicit (group_left/group_right)",
                        );
                    }
                    if row.has(step) && rows.contains(&labels) {
                        return Error::execution(
                            "multiple matches for labels: grouping labels must ensure unique matches",
                        );
                    }
                    row.put(step, result)?;
                    *taken = true;
                }
                rows.insert(labels);
            }
        }
        Ok(collector.finish())
    }

    fn pair(&self, many: &Row, one: &Row, step: usize) -> Option<Sample> {
        let (many, one) = (many.get(step)?, one.get(step)?);
        if self.swapped {
            self.operator.samples(&one, &many)
        } else {
            self.operator.samples(&many, &one)
        }
    }

    /// The one side must be unique at every step at which there is a many side at all.
    fn check_one_side(&self, groups: &HashMap<Labels, Vec<usize>>) -> Result<(), Error> {
        let crowded: Vec<(&Labels, &Vec<usize>)> =
            groups.iter().filter(|(_, group)| group.len() > 1).collect();
        if crowded.is_empty() {
            return Ok(());
        }
        for step in 0..self.count {
            self.evaluator.work(self.many.len() + self.one.len())?;
            if !self.many.iter().any(|row| row.has(step)) {
                continue;
            }
            let doubles = crowded.iter().filter_map(|(signature, group)| {
                let mut there = group.iter().filter(|at| self.one[**at].has(step));
                let (first, second) = (there.next()?, there.next()?);
                Some((second, first, signature))
            });
            let Some((second, first, signature)) = doubles.min_by_key(|(second, ..)| **second) else {
                continue;
            };
            let side = if self.swapped { "left" } else { "right" };
            return Error::execution(format!(
                "found duplicate series for the match group {} on the {side} hand-side of the operation: [{}, {}];\
                 many-to-many matching not allowed: matching labels must be unique on one side",
                metric(signature),
                metric(&self.one[*second].labels),
                metric(&self.one[*first].labels),
            ));
        }
        Ok(())
    }

    fn result_labels(&self, many: &Labels, one: &Labels) -> Labels {
        let mut labels = many.clone();
        if self.operator.drops_name() {
            labels = super::drop_name(&labels);
        }
        let Some(included) = self.included else {
            return match self.modifier.and_then(|modifier| modifier.matching.as_ref()) {
                Some(LabelModifier::Include(on)) => only(&labels, &strs(&on.labels)),
                Some(LabelModifier::Exclude(ignored)) => without(&labels, &strs(&ignored.labels)),
                None => labels,
            };
        };
        for name in included {
            labels = with(&labels, name, one.get(name));
        }
        labels
    }
}
