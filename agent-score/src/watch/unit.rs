//! What a value is counted in, and how people read it.

use serde::{Deserialize, Serialize};

/// A unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Unit {
    /// A number of something.
    #[default]
    #[serde(rename = "number")]
    Number,
    /// Seconds.
    #[serde(rename = "s")]
    Seconds,
    /// A share, 1 = all.
    #[serde(rename = "ratio")]
    Ratio,
    /// Times a second.
    #[serde(rename = "1/s")]
    PerSecond,
    /// Bytes a second.
    #[serde(rename = "B/s")]
    BytesPerSecond,
}

impl Unit {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Number,
        Self::Seconds,
        Self::Ratio,
        Self::PerSecond,
        Self::BytesPerSecond,
    ];

    /// As it is written in a configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Number => "number",
            Self::Seconds => "s",
            Self::Ratio => "ratio",
            Self::PerSecond => "1/s",
            Self::BytesPerSecond => "B/s",
        }
    }

    /// A value, with three digits.
    pub fn show(self, value: f64) -> String {
        let scaled = |steps: &[(f64, &str)], unit: &str| {
            let size = value.abs();
            let step = steps.iter().find(|(from, _)| size >= *from);
            match step.or(steps.last()) {
                Some((from, prefix)) => format!("{} {prefix}{unit}", digits(value / from)),
                None => digits(value),
            }
        };
        match self {
            _ if value == 0.0 && self != Self::Ratio => format!("0{}", self.zero()),
            Self::Number => digits(value),
            Self::Seconds => scaled(&[(1.0, ""), (1e-3, "m"), (1e-6, "µ")], "s"),
            Self::Ratio => format!("{} %", digits(value * 100.0)),
            Self::PerSecond => format!("{}/s", digits(value)),
            Self::BytesPerSecond => scaled(&[(1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, "")], "B/s"),
        }
    }

    const fn zero(self) -> &'static str {
        match self {
            Self::Number => "",
            Self::Seconds => " s",
            Self::Ratio => " %",
            Self::PerSecond => "/s",
            Self::BytesPerSecond => " B/s",
        }
    }
}

/// Three significant digits, without zeros at the end.
fn digits(value: f64) -> String {
    if !value.is_finite() {
        return value.to_string();
    }
    let whole = value.abs().max(1e-12).log10().floor() as i32;
    let places = usize::try_from((2 - whole).clamp(0, 6)).unwrap_or(0);
    let text = format!("{value:.places$}");
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_as_people_read_them() {
        for (unit, value, text) in [
            (Unit::Seconds, 0.012_34, "12.3 ms"),
            (Unit::Seconds, 0.000_05, "50 µs"),
            (Unit::Seconds, 0.0, "0 s"),
            (Unit::Seconds, 2.5, "2.5 s"),
            (Unit::Ratio, 0.125, "12.5 %"),
            (Unit::Ratio, 0.0, "0 %"),
            (Unit::PerSecond, 34.04, "34/s"),
            (Unit::BytesPerSecond, 1_234_567.0, "1.23 MB/s"),
            (Unit::BytesPerSecond, -20.0, "-20 B/s"),
            (Unit::Number, 1234.0, "1234"),
            (Unit::Number, f64::NAN, "NaN"),
        ] {
            assert_eq!(unit.show(value), text);
        }
    }
}
