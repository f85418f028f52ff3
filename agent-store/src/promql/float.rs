//! Floats as Go computes them.

/// A sum with Neumaier's compensation.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Kahan {
    sum: f64,
    lost: f64,
}

impl Kahan {
    pub fn add(&mut self, value: f64) {
        let total = self.sum + value;
        self.lost += if total.is_infinite() {
            0.0
        } else if self.sum.abs() >= value.abs() {
            (self.sum - total) + value
        } else {
            (value - total) + self.sum
        };
        self.sum = total;
    }

    pub fn total(self) -> f64 {
        if self.sum.is_infinite() {
            self.sum
        } else {
            self.sum + self.lost
        }
    }
}

/// The mean; incremental, slower, when the sum is too large for a float although no value is infinite.
pub(super) fn mean(values: impl Iterator<Item = f64> + Clone) -> f64 {
    let mut sum = Kahan::default();
    let mut count = 0.0;
    for value in values.clone() {
        sum.add(value);
        count += 1.0;
    }
    let total = sum.total();
    if !total.is_infinite() || values.clone().any(f64::is_infinite) {
        return total / count;
    }
    let (mut mean, mut seen) = (Kahan::default(), 0.0);
    for value in values {
        seen += 1.0;
        mean.add(value / seen - mean.total() / seen);
    }
    mean.total()
}

/// The variance by Welford, as Prometheus has it.
pub(super) fn variance(values: impl Iterator<Item = f64>) -> f64 {
    let (mut count, mut mean, mut aux) = (0.0, Kahan::default(), Kahan::default());
    for value in values {
        count += 1.0;
        let delta = value - mean.total();
        mean.add(delta / count);
        aux.add(delta * (value - mean.total()));
    }
    aux.total() / count
}

/// Go's `math.Max`: NaN wins, unless one is +Inf.
pub(super) fn max(a: f64, b: f64) -> f64 {
    if a == f64::INFINITY || b == f64::INFINITY {
        f64::INFINITY
    } else if a.is_nan() || b.is_nan() {
        f64::NAN
    } else if a == 0.0 && b == 0.0 {
        if a.is_sign_negative() { b } else { a }
    } else {
        a.max(b)
    }
}

/// Go's `math.Min`.
pub(super) fn min(a: f64, b: f64) -> f64 {
    -max(-a, -b)
}

/// `strconv.FormatFloat(value, 'f', -1, 64)`: never an exponent.
pub(super) fn plain(value: f64) -> String {
    if value.is_nan() {
        "NaN".to_owned()
    } else if value.is_infinite() {
        if value > 0.0 { "+Inf" } else { "-Inf" }.to_owned()
    } else {
        value.to_string()
    }
}

/// As Prometheus writes samples: with an exponent below 1e-6 and from 1e21.
pub(super) fn shortest(value: f64) -> String {
    let abs = value.abs();
    if abs == 0.0 || !value.is_finite() || (1e-6..1e21).contains(&abs) {
        return plain(value);
    }
    let text = format!("{value:e}");
    let Some((mantissa, exponent)) = text.split_once('e') else {
        return text;
    };
    let (sign, digits) = exponent
        .strip_prefix('-')
        .map_or(('+', exponent), |digits| ('-', digits));
    format!("{mantissa}e{sign}{digits:0>2}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_written_as_go_writes_them() {
        let cases = [
            (0.0, "0"),
            (-0.0, "-0"),
            (1e-7, "1e-07"),
            (1.5e300, "1.5e+300"),
            (1e20, "100000000000000000000"),
            (1e21, "1e+21"),
            (0.000001, "0.000001"),
            (f64::NEG_INFINITY, "-Inf"),
            (f64::NAN, "NaN"),
            (0.1 + 0.2, "0.30000000000000004"),
        ];
        for (value, text) in cases {
            assert_eq!(shortest(value), text);
        }
        assert_eq!(plain(1e-7), "0.0000001");
        assert_eq!(plain(1e21), "1000000000000000000000");
    }

    #[test]
    fn sums_keep_what_plain_addition_loses() {
        let mut sum = Kahan::default();
        for value in [1.0, 1e100, 1.0, -1e100] {
            sum.add(value);
        }
        assert_eq!(sum.total(), 2.0);
        assert_eq!(mean([f64::MAX, f64::MAX].into_iter()), f64::MAX);
        assert_eq!(mean([f64::INFINITY, 1.0].into_iter()), f64::INFINITY);
    }

    #[test]
    fn nan_wins_but_over_infinity() {
        assert!(max(f64::NAN, 1.0).is_nan());
        assert_eq!(max(f64::NAN, f64::INFINITY), f64::INFINITY);
        assert_eq!(min(f64::NAN, f64::NEG_INFINITY), f64::NEG_INFINITY);
        assert_eq!(min(2.0, 1.0), 1.0);
    }
}
