//! Numbers as Go's fmt writes them.

/// `%e`, `%f` or `%g` of a float, with a precision or, without one, as many digits as it takes.
pub fn float(value: f64, verb: char, precision: Option<usize>) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    match verb {
        'f' => match precision {
            Some(digits) => format!("{value:.digits$}"),
            None => format!("{value}"),
        },
        'e' => exponential(value, precision),
        _ => general(value, precision),
    }
}

/// Rust writes `1.5e7` where Go writes `1.5e+07`.
fn exponential(value: f64, precision: Option<usize>) -> String {
    let text = match precision {
        Some(digits) => format!("{value:.digits$e}"),
        None => format!("{value:e}"),
    };
    let Some((mantissa, exponent)) = text.split_once('e') else {
        return text;
    };
    let (sign, digits) = match exponent.strip_prefix('-') {
        Some(digits) => ('-', digits),
        None => ('+', exponent),
    };
    format!("{mantissa}e{sign}{digits:0>2}")
}

fn general(value: f64, precision: Option<usize>) -> String {
    let digits = precision.map(|digits| digits.max(1));
    let text = match digits {
        Some(digits) => format!("{value:.*e}", digits - 1),
        None => format!("{value:e}"),
    };
    let Some((mantissa, exponent)) = text.split_once('e') else {
        return text;
    };
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let mantissa = if mantissa.contains('.') {
        mantissa.trim_end_matches('0').trim_end_matches('.')
    } else {
        mantissa
    };
    // Go decides by six digits when it is to use as many as it takes.
    let most = digits.map_or(6, |digits| i32::try_from(digits).unwrap_or(i32::MAX));
    if exponent < -4 || exponent >= most {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{mantissa}e{sign}{:02}", exponent.abs());
    }
    let significant = i32::try_from(mantissa.chars().filter(char::is_ascii_digit).count()).unwrap_or(1);
    let decimals = usize::try_from(significant - 1 - exponent).unwrap_or(0);
    // From the rounded mantissa, not from the value: rounding twice must not differ.
    let rounded: f64 = text.parse().unwrap_or(value);
    format!("{rounded:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::float;

    #[test]
    fn numbers_are_go_s() {
        // Written by Go 1.19's fmt.Sprintf.
        for (value, verb, precision, wanted) in [
            (12_345_678.0, 'g', None, "1.2345678e+07"),
            (100_000.0, 'g', None, "100000"),
            (1_000_000.0, 'g', None, "1e+06"),
            (0.00001, 'g', None, "1e-05"),
            (0.0001, 'g', None, "0.0001"),
            (-0.0, 'g', None, "-0"),
            (1234.5678, 'g', Some(4), "1235"),
            (12345.0, 'g', Some(4), "1.234e+04"),
            (999.96, 'g', Some(4), "1000"),
            (9999.6, 'g', Some(4), "1e+04"),
            (0.5, 'g', Some(4), "0.5"),
            (2.5, 'f', Some(0), "2"),
            (1.5, 'e', Some(6), "1.500000e+00"),
            (f64::NEG_INFINITY, 'f', Some(2), "-Inf"),
            (1.0 / 3.0, 'g', Some(3), "0.333"),
            (
                1e100,
                'f',
                Some(1),
                "10000000000000000159028911097599180468360808563945281389781327557747838772170381060813469985856815104.0",
            ),
        ] {
            assert_eq!(
                float(value, verb, precision),
                wanted,
                "{value} {verb} {precision:?}"
            );
        }
    }
}
