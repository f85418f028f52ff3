//! Functions of labels.

use super::super::Error;
use super::super::eval::Evaluated;
use super::super::grid::{unite, with};
use super::Arguments;
use crate::labels::Labels;
use regex::Regex;
use std::cmp::Ordering;

/// Whether a label may have this name.
pub fn is_label_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

pub(super) fn replace(args: &Arguments) -> Result<Evaluated, Error> {
    let mut rows = args.vector(0)?;
    let (to, replacement) = (args.string(1)?, args.string(2)?);
    let (from, pattern) = (args.string(3)?, args.string(4)?);
    let Ok(regex) = Regex::new(&format!("^(?:{pattern})$")) else {
        return Error::execution(format!(
            "invalid regular expression in label_replace(): {pattern}"
        ));
    };
    if !is_label_name(to) {
        return Error::execution(format!("invalid destination label name in label_replace(): {to}"));
    }
    for row in &mut rows {
        let Some(found) = regex.captures(row.labels.get(from)) else {
            continue;
        };
        let mut value = String::new();
        found.expand(replacement, &mut value);
        row.labels = with(&row.labels, to, &value);
    }
    unite(rows).map(Evaluated::Vector)
}

pub(super) fn join(args: &Arguments) -> Result<Evaluated, Error> {
    let mut rows = args.vector(0)?;
    let (to, separator, from) = (args.string(1)?, args.string(2)?, args.strings(3)?);
    if let Some(bad) = from.iter().find(|name| !is_label_name(name)) {
        return Error::execution(format!("invalid source label name in label_join(): {bad}"));
    }
    if !is_label_name(to) {
        return Error::execution(format!("invalid destination label name in label_join(): {to}"));
    }
    for row in &mut rows {
        let values: Vec<&str> = from.iter().map(|name| row.labels.get(name)).collect();
        row.labels = with(&row.labels, to, &values.join(separator));
    }
    unite(rows).map(Evaluated::Vector)
}

/// `sort_by_label` and `sort_by_label_desc`: numbers within the values count as numbers.
pub(super) fn sort(args: &Arguments) -> Result<Evaluated, Error> {
    let mut rows = args.vector(0)?;
    let names = args.strings(1)?;
    if args.grid.count == 1 {
        let compare = |a: &Labels, b: &Labels| {
            let by_names = names
                .iter()
                .map(|name| natural(a.get(name), b.get(name)))
                .find(|order| order.is_ne());
            by_names.unwrap_or_else(|| a.cmp(b))
        };
        rows.sort_by(|a, b| compare(&a.labels, &b.labels));
        if args.name.ends_with("_desc") {
            rows.reverse();
        }
    }
    Ok(Evaluated::Vector(rows))
}

fn natural(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a.chars().peekable(), b.chars().peekable());
    let number = |chars: &mut std::iter::Peekable<std::str::Chars>| {
        let mut digits = String::new();
        while let Some(digit) = chars.next_if(char::is_ascii_digit) {
            digits.push(digit);
        }
        digits.trim_start_matches('0').to_owned()
    };
    loop {
        let order = match (a.peek().copied(), b.peek().copied()) {
            (Some(x), Some(y)) if x.is_ascii_digit() && y.is_ascii_digit() => {
                let (x, y) = (number(&mut a), number(&mut b));
                x.len().cmp(&y.len()).then_with(|| x.cmp(&y))
            }
            (x, y) => {
                if x.is_none() && y.is_none() {
                    return Ordering::Equal;
                }
                a.next();
                b.next();
                x.cmp(&y)
            }
        };
        if order.is_ne() {
            return order;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_labels_are_ordered_as_numbers() {
        assert_eq!(natural("cpu2", "cpu10"), Ordering::Less);
        assert_eq!(natural("cpu", "cpu1"), Ordering::Less);
        assert_eq!(natural("a07", "a7"), Ordering::Equal);
        assert_eq!(natural("b", "a9"), Ordering::Greater);
    }
}
