//! What a receiver's answer means.

use std::time::{Duration, SystemTime};

/// Longest reply that is read.
pub const LONGEST: usize = 64 * 1024;

/// What became of one attempt.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// Accepted, but for so many data points.
    Accepted {
        /// Data points that the receiver rejected.
        rejected: u64,
        /// Why.
        message: String,
    },
    /// It may be accepted later.
    Retry {
        /// The receiver asks to be left alone for so long.
        after: Option<Duration>,
        /// Why.
        cause: String,
    },
    /// It will never be accepted.
    Permanent {
        /// Why.
        cause: String,
    },
}

impl Reply {
    /// An attempt that got no answer.
    pub fn retry(cause: impl Into<String>) -> Self {
        Self::Retry {
            after: None,
            cause: cause.into(),
        }
    }

    /// An answer to which nothing helps.
    pub fn permanent(cause: impl Into<String>) -> Self {
        Self::Permanent {
            cause: printable(&cause.into()),
        }
    }
}

/// What comes from outside is shortened and made safe for logs.
pub fn printable(text: &str) -> String {
    crate::aggregate::labels::clean(text)
}

/// `Retry-After`: seconds or an HTTP date.
pub fn retry_after(value: &str) -> Option<Duration> {
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) {
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::MAX)));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(SystemTime::now()).unwrap_or_default())
}
