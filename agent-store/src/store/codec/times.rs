//! A list of times: the axis that series share.

use super::super::bytes::{Reader, put_int};
use super::{Effort, MAX_NUMBERS, pack, unpack};
use crate::series::Millis;
use pco::{DeltaSpec, ModeSpec};

const REGULAR: u8 = 0;
const PACKED: u8 = 1;

pub(in super::super) fn encode(times: &[Millis], out: &mut Vec<u8>) {
    let first = times.first().copied().unwrap_or_default();
    let step = times.get(1).map_or(0, |second| second - first);
    if times.windows(2).all(|pair| pair[1] - pair[0] == step) {
        out.push(REGULAR);
        put_int(out, first);
        put_int(out, step);
    } else {
        out.push(PACKED);
        pack(times, Effort::Full, DeltaSpec::Auto, ModeSpec::Auto, out);
    }
}

pub(in super::super) fn decode(data: &[u8], n: usize) -> Option<Vec<Millis>> {
    let mut reader = Reader::new(data);
    if n > MAX_NUMBERS {
        return None;
    }
    let times = match reader.byte()? {
        REGULAR => {
            let (first, step) = (reader.int()?, reader.int()?);
            (0..n as i64)
                .map(|i| first.wrapping_add(step.wrapping_mul(i)))
                .collect()
        }
        PACKED => {
            let mut times = vec![0; n];
            unpack(reader.rest(), &mut times)?;
            times
        }
        _ => return None,
    };
    times.is_sorted_by(|a, b| a < b).then_some(times)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regular_times_take_a_few_bytes_and_others_come_back() {
        for (times, most) in [
            (
                (0..7200)
                    .map(|i| 1_700_000_000_000 + i * 1000)
                    .collect::<Vec<_>>(),
                12,
            ),
            (
                (0..7200)
                    .map(|i| 1_700_000_000_000 + i * 1000 + i * 7919 % 13)
                    .collect(),
                7200,
            ),
            (vec![5], 4),
            (vec![], 4),
        ] {
            let mut out = Vec::new();
            encode(&times, &mut out);
            assert!(out.len() <= most, "{}", out.len());
            assert_eq!(decode(&out, times.len()).unwrap(), times);
        }
    }
}
