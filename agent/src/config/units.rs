//! Values with a unit: durations, sizes, patterns.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A duration with its unit: `10s`, `500ms`, `1m 30s`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HumanDuration(pub Duration);

impl HumanDuration {
    /// Whole seconds.
    pub const fn from_secs(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// Whole milliseconds.
    pub const fn from_millis(millis: u64) -> Self {
        Self(Duration::from_millis(millis))
    }

    /// The duration.
    pub const fn get(self) -> Duration {
        self.0
    }
}

impl FromStr for HumanDuration {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let duration = humantime::parse_duration(text).ok();
        duration
            .map(Self)
            .ok_or_else(|| "expected a duration such as 10s, 500ms or 1m 30s".to_owned())
    }
}

impl fmt::Display for HumanDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

/// A size: `2MiB`, `64KiB`, `1GB`, or a plain number of bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(pub u64);

/// Binary units first, so that they are preferred in print.
const UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];

impl Bytes {
    /// Binary kilobytes.
    pub const fn kib(count: u64) -> Self {
        Self(count << 10)
    }

    /// Binary megabytes.
    pub const fn mib(count: u64) -> Self {
        Self(count << 20)
    }

    /// The number of bytes.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl FromStr for Bytes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at_checked(digits).unwrap_or((text, ""));
        let factor = match unit.trim_start() {
            "" => Some(1),
            unit => UNITS
                .iter()
                .find(|(name, _)| name.eq_ignore_ascii_case(unit))
                .map(|(_, factor)| *factor),
        };
        let bytes = number
            .parse::<u64>()
            .ok()
            .zip(factor)
            .and_then(|(number, factor)| number.checked_mul(factor));
        bytes
            .map(Self)
            .ok_or_else(|| "expected a size such as 64KiB, 2MiB or 1GB".to_owned())
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = |(_, factor): &&(&str, u64)| self.0 != 0 && self.0.is_multiple_of(*factor);
        let (unit, factor) = UNITS.iter().find(fits).copied().unwrap_or(("B", 1));
        write!(f, "{}{unit}", self.0 / factor)
    }
}

/// A pattern for names: `*` stands for any characters, `?` for one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Glob(String);

impl Glob {
    /// Whether the whole name fits. Takes at most pattern × name steps.
    pub fn matches(&self, name: &str) -> bool {
        let (pattern, name): (Vec<char>, Vec<char>) = (self.0.chars().collect(), name.chars().collect());
        let (mut p, mut n) = (0, 0);
        let mut star = None;
        while let Some(c) = name.get(n) {
            match pattern.get(p) {
                Some('*') => {
                    star = Some((p, n));
                    p += 1;
                }
                Some(want) if *want == '?' || want == c => {
                    p += 1;
                    n += 1;
                }
                _ => {
                    // Let the last star take one character more.
                    let Some((at, taken)) = star else { return false };
                    star = Some((at, taken + 1));
                    (p, n) = (at + 1, taken + 1);
                }
            }
        }
        pattern.iter().skip(p).all(|c| *c == '*')
    }
}

impl FromStr for Glob {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() || text.len() > 256 {
            return Err("expected a pattern such as veth* of 1 to 256 bytes".to_owned());
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// As text in every format; a plain number is taken as text too.
macro_rules! as_text {
    ($($type:ty: $json:tt, $name:literal, $description:literal;)*) => {$(
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
            }
        }

        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                $name.into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": $json, "format": $name, "description": $description })
            }

            fn inline_schema() -> bool {
                true
            }
        }
    )*};
}

as_text! {
    HumanDuration: "string", "duration", "A duration with its unit, e.g. `10s`, `500ms`, `1m 30s`.";
    Bytes: ["string", "integer"], "bytes", "A size, e.g. `64KiB`, `2MiB`, `1GB`.";
    Glob: "string", "glob", "A pattern: `*` stands for any characters, `?` for one.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_a_unit() {
        for (text, millis) in [
            ("10s", 10_000),
            ("500ms", 500),
            ("1m 30s", 90_000),
            ("0s", 0),
            ("1h", 3_600_000),
        ] {
            let parsed: HumanDuration = text.parse().unwrap();
            assert_eq!(parsed.get(), Duration::from_millis(millis), "{text}");
            assert_eq!(parsed.to_string().parse(), Ok(parsed));
        }
        for text in [
            "",
            "10",
            "-5s",
            "s",
            "10 parsecs",
            "1e3s",
            "99999999999999999999s",
            "10s\n5",
            "nan",
        ] {
            assert!(text.parse::<HumanDuration>().is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_have_exact_units() {
        for (text, bytes, printed) in [
            ("2MiB", 2 << 20, "2MiB"),
            ("64 KiB", 64 << 10, "64KiB"),
            ("1gb", 1_000_000_000, "1GB"),
            ("1024", 1024, "1KiB"),
            ("1500", 1500, "1500B"),
            ("0", 0, "0B"),
            ("3000", 3000, "3kB"),
        ] {
            let parsed: Bytes = text.parse().unwrap();
            assert_eq!(
                (parsed.get(), parsed.to_string().as_str()),
                (bytes, printed),
                "{text}"
            );
            assert_eq!(printed.parse(), Ok(parsed));
        }
        for text in [
            "",
            "MiB",
            "-1",
            "1.5MiB",
            "2 MiBs",
            "1XB",
            "99999999999999999999",
            "17000000TiB",
            "１",
        ] {
            assert!(text.parse::<Bytes>().is_err(), "{text}");
        }
    }

    #[test]
    fn patterns_match_whole_names() {
        let matches = |pattern: &str, name: &str| pattern.parse::<Glob>().unwrap().matches(name);
        for (pattern, name) in [
            ("veth*", "veth12"),
            ("*", ""),
            ("e?h0", "eth0"),
            ("*a*b", "xaxxb"),
            ("é*", "éa"),
            ("**", "x"),
        ] {
            assert!(matches(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [
            ("veth", "veth0"),
            ("?", ""),
            ("*a", "ab"),
            ("eth?", "eth"),
            ("a*b*c", "acb"),
        ] {
            assert!(!matches(pattern, name), "{pattern} {name}");
        }
        assert!(!matches(&"*a".repeat(128), &"a".repeat(127)));
        assert!("".parse::<Glob>().is_err() && "x".repeat(257).parse::<Glob>().is_err());
    }
}
