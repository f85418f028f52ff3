//! One line for the operator: `what failed: path or name: cause; remedy`.

use std::fmt;

/// An error that is told to a person. Its text is one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error(String);

/// Result with an [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// From a text; line breaks become spaces.
    pub fn new(text: impl fmt::Display) -> Self {
        Self(text.to_string().split_whitespace().collect::<Vec<_>>().join(" "))
    }

    /// The reader of the output has gone: an end, and nothing that anybody needs to be told.
    pub const fn closed() -> Self {
        Self(String::new())
    }

    /// Whether it is [`Error::closed`].
    pub fn is_closed(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Error {}

/// Puts what failed before an error.
pub trait Context<T> {
    /// `what: cause`.
    fn context(self, what: impl fmt::Display) -> Result<T>;
}

impl<T, E: fmt::Display> Context<T> for std::result::Result<T, E> {
    fn context(self, what: impl fmt::Display) -> Result<T> {
        self.map_err(|e| Error::new(format_args!("{what}: {e}")))
    }
}

impl<T> Context<T> for Option<T> {
    fn context(self, what: impl fmt::Display) -> Result<T> {
        self.ok_or_else(|| Error::new(what))
    }
}
