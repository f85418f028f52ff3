//! A column of floats. Most are counters or whole numbers: those go as integers, with the few values that are none (the
//! marker of staleness, an infinity) beside them.

use super::super::bytes::{Reader, put_f64, put_uint};
use super::{Effort, MAX_NUMBERS, pack, unpack};
use pco::{DeltaSpec, ModeSpec};
use std::cell::RefCell;

const CONSTANT: u8 = 0;
const WHOLE: u8 = 1;
const FLOATS: u8 = 2;
/// As `WHOLE`, after a list of what is not.
const WHOLE_BUT: u8 = 3;

thread_local! {
    /// Room to decode to, so that a query does not ask for it at each column.
    static INTEGERS: RefCell<Vec<i64>> = const { RefCell::new(Vec::new()) };
}

/// The integer that a float is, bit for bit (so not -0), if a float holds it exactly.
pub(in super::super) fn whole(value: f64) -> Option<i64> {
    const MOST: f64 = 9_007_199_254_740_992.0;
    (value.abs() <= MOST && (value as i64 as f64).to_bits() == value.to_bits()).then_some(value as i64)
}

pub(in super::super) fn encode(values: &[f64], effort: Effort, out: &mut Vec<u8>) {
    let Some(first) = values.first() else { return };
    if values.iter().all(|value| value.to_bits() == first.to_bits()) {
        out.push(CONSTANT);
        put_f64(out, *first);
        return;
    }
    let mut integers = Vec::with_capacity(values.len());
    let mut others = Vec::new();
    for (at, value) in values.iter().enumerate() {
        let integer = whole(*value);
        if integer.is_none() {
            others.push((at, *value));
            if others.len() > values.len() / 32 + 1 {
                break;
            }
        }
        integers.push(integer.or(integers.last().copied()).unwrap_or_default());
    }
    if integers.len() < values.len() {
        out.push(FLOATS);
        pack(values, effort, DeltaSpec::Auto, ModeSpec::Auto, out);
        return;
    }
    out.push(if others.is_empty() { WHOLE } else { WHOLE_BUT });
    if !others.is_empty() {
        put_uint(out, others.len() as u64);
        for (at, value) in others {
            put_uint(out, at as u64);
            put_f64(out, value);
        }
    }
    // What only grows is a counter: to try other ways takes longer than the rest and finds none.
    let (delta, mode) = if integers.is_sorted() {
        (DeltaSpec::TryConsecutive(1), ModeSpec::Classic)
    } else {
        (DeltaSpec::Auto, ModeSpec::Auto)
    };
    pack(&integers, effort, delta, mode, out);
}

/// Appends the `n` values of a column.
pub(in super::super) fn decode(data: &[u8], n: usize, into: &mut Vec<f64>) -> Option<()> {
    let mut reader = Reader::new(data);
    if n == 0 {
        return Some(());
    }
    if n > MAX_NUMBERS {
        return None;
    }
    let start = into.len();
    match reader.byte()? {
        CONSTANT => into.resize(start + n, reader.f64()?),
        FLOATS => {
            into.resize(start + n, 0.0);
            unpack(reader.rest(), into.get_mut(start..)?)?;
        }
        kind @ (WHOLE | WHOLE_BUT) => {
            let mut others = Vec::new();
            for _ in 0..if kind == WHOLE_BUT {
                reader.size()?.min(n)
            } else {
                0
            } {
                others.push((reader.size()?, reader.f64()?));
            }
            INTEGERS.with_borrow_mut(|integers| {
                integers.resize(n.max(integers.len()), 0);
                let integers = integers.get_mut(..n)?;
                unpack(reader.rest(), integers)?;
                into.reserve_exact(n);
                into.extend(integers.iter().map(|integer| *integer as f64));
                Some(())
            })?;
            for (at, value) in others {
                *into.get_mut(start + at)? = value;
            }
        }
        _ => return None,
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::series::STALE;
    use rand::{Rng, SeedableRng};

    fn round(values: &[f64]) -> usize {
        let mut smallest = usize::MAX;
        for effort in [Effort::Fast, Effort::Full] {
            let mut out = Vec::new();
            encode(values, effort, &mut out);
            let mut back = vec![1.0];
            decode(&out, values.len(), &mut back).unwrap();
            assert!(
                back[1..]
                    .iter()
                    .map(|v| v.to_bits())
                    .eq(values.iter().map(|v| v.to_bits()))
            );
            smallest = smallest.min(out.len());
        }
        smallest
    }

    #[test]
    fn every_bit_comes_back() {
        let mut rng = rand::rngs::StdRng::seed_from_u64(1);
        round(&[]);
        round(&[STALE]);
        round(&[
            0.0,
            -0.0,
            f64::NAN,
            STALE,
            f64::INFINITY,
            f64::NEG_INFINITY,
            f64::MIN_POSITIVE / 2.0,
            1e300,
        ]);
        round(
            &(0..1000)
                .map(|_| f64::from_bits(rng.random()))
                .collect::<Vec<_>>(),
        );
        round(
            &(0..1000)
                .map(|i| if i % 100 == 7 { STALE } else { f64::from(i) })
                .collect::<Vec<_>>(),
        );
        round(&[
            9_007_199_254_740_992.0,
            9_007_199_254_740_994.0,
            -9_007_199_254_740_992.0,
        ]);
    }

    #[test]
    fn a_random_counter_takes_little_more_than_its_entropy() {
        let mut rng = rand::rngs::StdRng::seed_from_u64(1);
        let mut sum = 0.0;
        let values: Vec<f64> = (0..7200)
            .map(|_| {
                sum += f64::from(rng.random_range(0..1000u32));
                sum
            })
            .collect();
        // log2(1000) is 9.97 bits.
        assert!(round(&values) < 7200 * 10 / 8 + 100, "{}", round(&values));
    }

    #[test]
    fn the_end_of_a_counter_costs_a_few_bytes() {
        let mut values: Vec<f64> = (0..600).map(|i| f64::from(i * 3)).collect();
        let without = round(&values);
        values.push(STALE);
        assert!(round(&values) < without + 40);
    }
}
