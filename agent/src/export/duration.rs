//! Durations in the configuration: `10s`, `1m 30s`, `250ms`.

use serde::{Deserialize as _, Deserializer, Serializer};
use std::time::Duration;

/// Writes a duration as it may be read again.
pub fn serialize<S: Serializer>(value: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(&humantime::format_duration(*value))
}

/// Reads a duration with its unit; a bare number is refused, for nobody can tell what it counts.
pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(from)?;
    humantime::parse_duration(&text)
        .map_err(|e| serde::de::Error::custom(format!("duration {text:?}: {e}; write e.g. 10s or 1m 30s")))
}
