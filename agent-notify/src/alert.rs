//! An alert as receivers are told of it.

use agent_store::labels::Labels;
use agent_store::series::Millis;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

/// An alert that fires, or did. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Alert {
    /// Its identity, `alertname` among it.
    #[serde(with = "as_map")]
    pub labels: Labels,
    /// What is said of it.
    #[serde(with = "shared")]
    pub annotations: Arc<BTreeMap<String, String>>,
    /// Since when its query has had a result, ms since 1970: before it fires, if its rule has a `for`.
    pub active_at: Millis,
    /// Since when it fires.
    pub starts_at: Millis,
    /// Since when it does no longer; `None` = it fires.
    pub ends_at: Option<Millis>,
    /// Where its query can be looked at.
    pub generator_url: String,
}

impl Alert {
    /// Whether it fires.
    pub fn is_firing(&self) -> bool {
        self.ends_at.is_none()
    }

    /// `firing` or `resolved`.
    pub fn status(&self) -> &'static str {
        if self.is_firing() { "firing" } else { "resolved" }
    }

    /// Alertmanager's number of these labels.
    pub fn fingerprint(&self) -> u64 {
        fingerprint(&self.labels)
    }
}

/// Longest value of a label or an annotation that is told, in bytes, but for its mark: what is said of a group, which may have half of
/// a queue of 8 MiB, has room for some thirty.
const LONGEST: usize = 64 << 10;

/// A value that is not too long: what is cut ends with a number of the whole, so that two stay two.
pub fn bounded(value: &str) -> Cow<'_, str> {
    if value.len() <= LONGEST {
        return value.into();
    }
    let start = value
        .get(..value.floor_char_boundary(LONGEST))
        .unwrap_or_default();
    format!("{start}… ({} bytes, {:016x})", value.len(), fnv(value.bytes())).into()
}

/// FNV-1a.
fn fnv(bytes: impl Iterator<Item = u8>) -> u64 {
    bytes.fold(0xcbf2_9ce4_8422_2325, |sum, byte| {
        (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// FNV-1a over the sorted labels, as Prometheus' `LabelSet.Fingerprint` has it.
pub fn fingerprint(labels: &Labels) -> u64 {
    let parts = labels.iter().flat_map(|(name, value)| [name, value]);
    fnv(parts.flat_map(|part| part.bytes().chain([0xff])))
}

/// The last ms of the year 9999, since 1970: what is later cannot be written.
pub const LATEST: Millis = 253_402_300_799_999;

/// A time as Go writes it; `None` is Go's zero.
pub fn time(at: Option<Millis>) -> String {
    match at {
        None => "0001-01-01T00:00:00Z".to_owned(),
        Some(at) => {
            let at = UNIX_EPOCH + Duration::from_millis(at.clamp(0, LATEST).unsigned_abs());
            let text = humantime::format_rfc3339_millis(at).to_string();
            let short = text.trim_end_matches('Z').trim_end_matches('0');
            match short.strip_suffix('.') {
                Some(whole) => format!("{whole}Z"),
                None => format!("{short}Z"),
            }
        }
    }
}

/// Labels as an object of JSON.
pub mod as_map {
    use super::{BTreeMap, Labels};
    use serde::{Deserialize as _, Deserializer, Serializer};

    /// Writes them.
    pub fn serialize<S: Serializer>(labels: &Labels, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(labels.iter().map(|(name, value)| (&**name, &**value)))
    }

    /// Reads them.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Labels, D::Error> {
        let pairs: BTreeMap<String, String> = BTreeMap::deserialize(deserializer)?;
        Ok(Labels::new(pairs))
    }
}

/// What is shared, as if it were not.
pub(crate) mod shared {
    use super::{Arc, BTreeMap};
    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};

    type Texts = BTreeMap<String, String>;

    pub fn serialize<S: Serializer>(texts: &Arc<Texts>, serializer: S) -> Result<S::Ok, S::Error> {
        texts.as_ref().serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<Texts>, D::Error> {
        Texts::deserialize(deserializer).map(Arc::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The number is Alertmanager's; tests of notifications have two more.
    #[test]
    fn a_fingerprint_is_that_of_prometheus() {
        let labels = Labels::new([("alertname", "Down"), ("peer", "b"), ("severity", "critical")]);
        assert_eq!(fingerprint(&labels), 0x33f0_3bff_7e4b_b440);
        assert_ne!(
            fingerprint(&Labels::new([("ab", "c")])),
            fingerprint(&Labels::new([("a", "bc")]))
        );
    }

    #[test]
    fn what_is_too_long_is_cut_and_stays_different() {
        let text = |letters: usize| "é".repeat(letters);
        assert_eq!(bounded(&text(LONGEST / 2)), text(LONGEST / 2));
        let [a, b] = [1 << 19, (1 << 19) - 1].map(|letters| bounded(&text(letters)).into_owned());
        assert_ne!(a, b);
        assert!(a.len() < LONGEST + 50 && a.contains("é… (1048576 bytes, "));
    }

    #[test]
    fn times_are_written_as_go_writes_them() {
        assert_eq!(time(None), "0001-01-01T00:00:00Z");
        assert_eq!(time(Some(Millis::MIN)), "1970-01-01T00:00:00Z");
        assert_eq!(time(Some(Millis::MAX)), "9999-12-31T23:59:59.999Z");
        for (millis, wanted) in [(0, "20Z"), (123, "20.123Z"), (500, "20.5Z"), (10_000, "30Z")] {
            assert_eq!(
                time(Some(1_700_000_000_000 + millis)),
                format!("2023-11-14T22:13:{wanted}")
            );
        }
    }
}
