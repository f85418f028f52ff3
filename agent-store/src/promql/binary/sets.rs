//! `and`, `or`, `unless`.

use super::super::Error;
use super::super::grid::{Row, unite};
use super::matching::signature;
use crate::labels::Labels;
use promql_parser::parser::BinaryExpr;
use promql_parser::parser::token::{T_LAND, T_LOR};
use std::collections::HashMap;

pub(super) fn combine(
    node: &BinaryExpr,
    mut left: Vec<Row>,
    mut right: Vec<Row>,
    count: usize,
) -> Result<Vec<Row>, Error> {
    let modifier = node.modifier.as_ref();
    let key = |row: &Row| signature(modifier, &row.labels);
    match node.op.id() {
        T_LOR => {
            let there = present(&left, count, key);
            for row in &mut right {
                if let Some(there) = there.get(&key(row)) {
                    keep(row, |step| !there[step]);
                }
            }
            left.append(&mut right);
        }
        id => {
            let there = present(&right, count, key);
            let nowhere = vec![false; count];
            for row in &mut left {
                let there = there.get(&key(row)).unwrap_or(&nowhere);
                keep(row, |step| there[step] == (id == T_LAND));
            }
        }
    }
    unite(left)
}

/// At which steps each signature has any sample.
fn present(rows: &[Row], count: usize, key: impl Fn(&Row) -> Labels) -> HashMap<Labels, Vec<bool>> {
    let mut all = HashMap::new();
    for row in rows {
        let there = all.entry(key(row)).or_insert_with(|| vec![false; count]);
        for (step, there) in there.iter_mut().enumerate() {
            *there |= row.has(step);
        }
    }
    all
}

fn keep(row: &mut Row, stays: impl Fn(usize) -> bool) {
    for step in 0..row.count() {
        if !stays(step) {
            row.clear(step);
        }
    }
}
