//! What is sent to each kind of place, and what its answer means. Nothing is sent here.

pub mod alertmanager;
pub mod email;
pub mod log;
pub mod pagerduty;
pub mod slack;
pub mod webhook;

use crate::text::cut;
use serde_json::Value;

/// The body of a POST.
#[derive(Clone, Debug, PartialEq)]
pub struct Post {
    /// JSON.
    pub body: Vec<u8>,
}

impl Post {
    fn json(value: &Value) -> Self {
        Self {
            body: value.to_string().into_bytes(),
        }
    }
}

/// What became of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The place has it.
    Delivered,
    /// Another attempt may do.
    Retry(String),
    /// None will.
    Refused(String),
}

/// What an HTTP status means, as Alertmanager takes it: what says "later" or is the server's own trouble may pass. A token that
/// is not valid may be renewed.
pub fn judge(status: u16, body: &[u8]) -> Answer {
    let text = String::from_utf8_lossy(body);
    let first = text.lines().next().unwrap_or_default().trim();
    let why = format!("HTTP {status} {}", cut(first, 200)).trim_end().to_owned();
    match status {
        200..=299 => Answer::Delivered,
        300..=399 => Answer::Refused(format!("{why}: redirects are not followed")),
        401 | 403 | 408 | 429 | 500.. => Answer::Retry(why),
        _ => Answer::Refused(why),
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use crate::alert::Alert;
    use crate::notification::Notification;
    use agent_store::labels::Labels;
    use std::collections::BTreeMap;
    use std::sync::Arc;

    /// What an enemy writes into labels: ends of strings, of lines, of tags and of headers, and a megabyte.
    pub const HOSTILE: &str =
        "\"}],\r\nBcc: all@example.org\r\n\r\n<script>&<!channel>{{ .X }}\u{0}\u{7}\u{202e}é😀\\";

    /// A notification of these values.
    pub fn notification(value: &str, ends_at: Option<i64>) -> Notification {
        let annotations = [("summary", value), ("description", "why")];
        let annotations = annotations.map(|(name, text)| (name.to_owned(), text.to_owned()));
        Notification {
            receiver: "ops".to_owned(),
            group_key: "{}:{alertname=\"Down\"}".to_owned(),
            group_labels: Labels::new([("alertname", "Down")]),
            at: 1_700_000_030_000,
            alerts: vec![Alert {
                labels: Labels::new([("alertname", "Down"), ("peer", value), ("severity", "critical")]),
                annotations: Arc::new(BTreeMap::from(annotations)),
                active_at: 1_700_000_000_000,
                starts_at: 1_700_000_000_000,
                ends_at,
                generator_url: "http://h/q".into(),
            }],
            external_url: "http://h".to_owned(),
            lasts: 0,
        }
    }

    /// Hostile values, one of more than a megabyte.
    pub fn hostile() -> [String; 2] {
        [HOSTILE.to_owned(), HOSTILE.repeat((1 << 20) / HOSTILE.len() + 1)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_final_or_not() {
        assert_eq!(judge(204, b""), Answer::Delivered);
        for status in [401, 403, 408, 429, 500, 503, 599] {
            assert!(matches!(judge(status, b"x"), Answer::Retry(_)), "{status}");
        }
        for status in [302, 400, 404, 410, 422] {
            assert!(matches!(judge(status, b"x"), Answer::Refused(_)), "{status}");
        }
        assert_eq!(
            judge(400, b"invalid\r\nmore"),
            Answer::Refused("HTTP 400 invalid".to_owned())
        );
    }
}
