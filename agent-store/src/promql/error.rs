//! Why a query has no answer, in the words and classes of Prometheus' HTTP API.

use crate::series::Refusal;
use std::fmt;

/// An error of a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// The query, or what came with it, makes no sense: HTTP 400.
    BadData(String),
    /// The query makes sense, but not with these series, or it is too much: HTTP 422.
    Execution(String),
    /// Its time is over: HTTP 503.
    Timeout(String),
    /// The store failed: HTTP 500.
    Internal(String),
}

impl Error {
    /// `errorType` of the HTTP API.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::BadData(_) => "bad_data",
            Self::Execution(_) => "execution",
            Self::Timeout(_) => "timeout",
            Self::Internal(_) => "internal",
        }
    }

    /// The status of the HTTP response.
    pub fn status(&self) -> u16 {
        match self {
            Self::BadData(_) => 400,
            Self::Execution(_) => 422,
            Self::Timeout(_) => 503,
            Self::Internal(_) => 500,
        }
    }

    /// An execution error.
    pub(super) fn execution<T>(text: impl Into<String>) -> Result<T, Self> {
        Err(Self::Execution(text.into()))
    }

    /// A query that does not parse.
    pub(super) fn parse(text: impl fmt::Display) -> Self {
        Self::BadData(format!("invalid parameter \"query\": parse error: {text}"))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadData(text) | Self::Execution(text) | Self::Timeout(text) | Self::Internal(text) => {
                f.write_str(text)
            }
        }
    }
}

impl std::error::Error for Error {}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::TooMany(what) => Self::Execution(format!(
                "query processing would load too many samples into memory in query execution: {what}"
            )),
            Refusal::TimedOut => Self::Timeout("query timed out in expression evaluation".to_owned()),
            Refusal::Senseless(why) => Self::BadData(why),
            Refusal::Failed(why) => Self::Internal(why),
        }
    }
}
