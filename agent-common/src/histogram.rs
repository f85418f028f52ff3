//! Base-2 exponential histograms whose kernel cells are OTel / Prometheus native buckets.
//!
//! Scale 3: eight buckets per octave, upper bounds `2^(k/8)` **seconds**, upper bound inclusive, as the OTel data
//! model and Prometheus' native histograms (schema 3) have them. Because the bounds are powers of two of the unit
//! that is exported, and not of the microsecond that is measured, cells can be added over cores, nodes and regions
//! and handed out without any conversion. The index is computed with integers only: eBPF has no floats.
//!
//! Source: <https://opentelemetry.io/docs/specs/otel/metrics/data-model/#exponentialhistogram>.

/// Buckets per octave is `2^SCALE`.
pub const SCALE: u32 = 3;
/// OTel index of the first cell after the zero cell: `(2^-20 s, 2^(-159/8) s]` holds 1 µs.
pub const FIRST_INDEX: i32 = -160;
/// Number of cells, the zero cell included. The last one ends at `2^(63/8)` s = 235 s and takes what is longer:
/// TCP's own limits (RTO ≤ 120 s, SYN retries ≤ 127 s) end before.
pub const CELLS: usize = 224;
/// Fixed-point unit of [`cell`]: `2^-40` s, about a millionth of the microsecond that the kernel measures, so that
/// truncation cannot move a whole number of microseconds over a bound (tested against exact arithmetic).
pub const UNIT_BITS: u32 = 40;

/// `floor(2^31 * 2^(j/8))` for j = 1..7: the bounds inside an octave, for a mantissa with bit 31 as its top.
/// Computed with 60-digit decimal arithmetic; the test checks each against exact 8th powers.
pub const BOUNDS: [u64; 7] = [
    2_341_847_523,
    2_553_802_833,
    2_784_941_737,
    3_037_000_499,
    3_311_872_529,
    3_611_622_602,
    3_938_502_375,
];

/// Whole microseconds in units of `2^-40` s, rounded down. `2^40 / 10^6` = 1099511.627776.
#[inline(always)]
pub const fn from_micros(micros: u32) -> u64 {
    // 1099511.627776 = 2251799813 / 2^11 + 350.85 / 2^20, both terms rounded down: a bound that is a whole number of
    // µs (15 625 µs = 2^-6 s) must not be passed, and at the end of the table (235 s) less than 200 units are missing.
    ((micros as u64 * 2_251_799_813) >> 11) + ((micros as u64 * 350) >> 20)
}

/// Nanoseconds in units of `2^-40` s, rounded down, to the nanosecond below 2^30 ns (1.07 s), above it to the microsecond.
#[inline(always)]
pub const fn from_nanos(nanos: u64) -> u64 {
    if nanos < 1 << 30 {
        // 1099.511627776 * 2^20, rounded down; below one ns of error up to 2^30 ns.
        (nanos * 1_152_921_504) >> 20
    } else {
        let micros = nanos / 1000;
        from_micros(if micros > u32::MAX as u64 {
            u32::MAX
        } else {
            micros as u32
        })
    }
}

/// Cell of a value in units of `2^-40` s: 0 for zero, else `1 + (OTel index - FIRST_INDEX)`, clamped to the table.
///
/// Bounds are upper-inclusive, hence the `units - 1`: for an irrational bound `units > bound` and
/// `units - 1 >= floor(bound)` are the same for whole numbers, and for a power of two it makes the bound inclusive.
#[inline(always)]
pub const fn cell(units: u64) -> usize {
    if units <= 1 {
        return (units == 1) as usize;
    }
    let below = units - 1;
    let exponent = ilog2(below);
    // The top 32 bits of the value, the leading one at bit 31.
    let mantissa = if exponent >= 31 {
        below >> (exponent - 31)
    } else {
        below << (31 - exponent)
    };
    let sub = if mantissa >= BOUNDS[3] {
        if mantissa >= BOUNDS[5] {
            6 + (mantissa >= BOUNDS[6]) as u32
        } else {
            4 + (mantissa >= BOUNDS[4]) as u32
        }
    } else if mantissa >= BOUNDS[1] {
        2 + (mantissa >= BOUNDS[2]) as u32
    } else {
        (mantissa >= BOUNDS[0]) as u32
    };
    let index = (exponent as i32 - UNIT_BITS as i32) * 8 + sub as i32;
    let cell = index - FIRST_INDEX + 1;
    if cell < 1 {
        1
    } else if cell >= CELLS as i32 {
        CELLS - 1
    } else {
        cell as usize
    }
}

/// OTel bucket index of a cell other than the zero cell.
#[inline]
pub const fn otel_index(cell: usize) -> i32 {
    cell as i32 - 1 + FIRST_INDEX
}

/// Floor of the base-2 logarithm; 0 for 0. Written out because eBPF has no count-leading-zeros before v4 and LLVM's
/// expansion of it costs 50 instructions; this is 6 compares.
#[inline(always)]
pub const fn ilog2(mut v: u64) -> u32 {
    let mut r = ((v > 0xffff_ffff) as u32) << 5;
    v >>= r;
    let mut s = ((v > 0xffff) as u32) << 4;
    v >>= s;
    r |= s;
    s = ((v > 0xff) as u32) << 3;
    v >>= s;
    r |= s;
    s = ((v > 0xf) as u32) << 2;
    v >>= s;
    r |= s;
    s = ((v > 3) as u32) << 1;
    v >>= s;
    r |= s;
    r | (v >> 1) as u32
}

/// A histogram as the kernel keeps it, one per shard. All zero is empty.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Histogram {
    /// Counts by cell; they wrap, the reader adds differences.
    pub cells: [u32; CELLS],
    /// Sum of the values in µs.
    pub sum_micros: u64,
    /// `u32::MAX - smallest value in µs`; zero when empty, so that an untouched map is an empty histogram.
    pub min_complement: u32,
    /// Largest value in µs.
    pub max_micros: u32,
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;

    /// Compares `micros * 10^-6 * 2^e` with `2^(k/8)` exactly: both sides to the 8th power in wide integers.
    mod exact {
        extern crate std;
        use std::vec::Vec;

        /// Little-endian u32 limbs.
        fn mul(a: &[u32], m: u64) -> Vec<u32> {
            let mut out = Vec::with_capacity(a.len() + 2);
            let mut carry = 0u128;
            for &limb in a {
                let v = limb as u128 * m as u128 + carry;
                out.push(v as u32);
                carry = v >> 32;
            }
            while carry > 0 {
                out.push(carry as u32);
                carry >>= 32;
            }
            out
        }
        fn shl(a: &[u32], bits: usize) -> Vec<u32> {
            let mut out = std::vec![0u32; bits / 32];
            out.extend(mul(a, 1u64 << (bits % 32)));
            out
        }
        fn cmp(mut a: Vec<u32>, mut b: Vec<u32>) -> core::cmp::Ordering {
            while a.last() == Some(&0) {
                a.pop();
            }
            while b.last() == Some(&0) {
                b.pop();
            }
            a.len()
                .cmp(&b.len())
                .then_with(|| a.iter().rev().cmp(b.iter().rev()))
        }
        /// `value / scale` compared with `2^(k/8)`: `value^8` with `scale^8 * 2^k`.
        pub fn cmp_with_bound(value: u64, scale: u64, k: i32) -> core::cmp::Ordering {
            let mut left = std::vec![1u32];
            let mut right = std::vec![1u32];
            for _ in 0..8 {
                left = mul(&left, value);
                right = mul(&right, scale);
            }
            if k >= 0 {
                right = shl(&right, k as usize);
            } else {
                left = shl(&left, -k as usize);
            }
            cmp(left, right)
        }
    }

    /// The bucket (lower, upper] of a value is right by exact arithmetic.
    fn check(value: u64, scale: u64, cell: usize) {
        use core::cmp::Ordering::*;
        let index = otel_index(cell);
        if cell > 1 {
            assert_eq!(
                exact::cmp_with_bound(value, scale, index),
                Greater,
                "{value}/{scale} is not above {index}/8"
            );
        }
        if cell < CELLS - 1 {
            assert_ne!(
                exact::cmp_with_bound(value, scale, index + 1),
                Greater,
                "{value}/{scale} is above its bucket"
            );
        }
    }

    #[test]
    fn every_microsecond_up_to_the_end_of_the_range_is_in_its_bucket() {
        // cell(from_micros(v)) never decreases, so it is enough that both ends of every run of equal cells are
        // right: that proves each value between them. The runs are found by bisection over all of u32.
        let f = |v: u32| cell(from_micros(v));
        assert_eq!(f(0), 0);
        let mut start = 1u32;
        loop {
            let c = f(start);
            let (mut low, mut high) = (start, u32::MAX);
            while low < high {
                let middle = low + (high - low).div_ceil(2);
                if f(middle) == c {
                    low = middle
                } else {
                    high = middle - 1
                }
            }
            check(start as u64, 1_000_000, c);
            check(low as u64, 1_000_000, c);
            if low == u32::MAX {
                break;
            }
            start = low + 1;
        }
    }

    #[test]
    fn the_index_never_decreases() {
        let mut last = 0;
        for v in (0..u32::MAX).step_by(997).chain(0..2_000_000) {
            if v == 0 {
                last = 0;
            }
            let c = cell(from_micros(v));
            assert!(c >= last, "{v}");
            last = c;
        }
    }

    #[test]
    fn nanoseconds_and_microseconds_agree() {
        for v in (1..400_000_000u64).step_by(1009) {
            check(v.max(1000), 1_000_000_000, cell(from_nanos(v.max(1000))));
            assert_eq!(cell(from_nanos(v * 1000)), cell(from_micros(v as u32)), "{v}");
        }
    }

    #[test]
    fn powers_of_two_belong_to_the_bucket_below() {
        // 15625 µs = 2^-6 s exactly: upper bound inclusive.
        assert_eq!(otel_index(cell(from_micros(15_625))), -6 * 8 - 1);
        assert_eq!(otel_index(cell(from_micros(15_626))), -6 * 8);
        assert_eq!(otel_index(cell(from_micros(1_000_000))), -1);
        assert_eq!(otel_index(cell(from_micros(1))), FIRST_INDEX);
    }
}
