//! One line for the operator: `what failed: path or name: cause; remedy`.

use crate::aggregate::labels::printable;
use std::fmt;

/// An error that is told to a person. Its text is one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    text: String,
    is_usage: bool,
}

/// Result with an [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// From a text; line breaks become spaces, and what a terminal obeys is made harmless: it may quote a file.
    pub fn new(text: impl fmt::Display) -> Self {
        let text = text.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
        Self {
            text: printable(&text),
            is_usage: false,
        }
    }

    /// As [`Error::new`], of what was asked for: a flag or a setting is wrong, and another try will not help.
    pub fn usage(text: impl fmt::Display) -> Self {
        Self {
            is_usage: true,
            ..Self::new(text)
        }
    }

    /// The reader of the output has gone: an end, and nothing that anybody needs to be told.
    pub const fn closed() -> Self {
        Self {
            text: String::new(),
            is_usage: false,
        }
    }

    /// Whether it is [`Error::closed`].
    pub fn is_closed(&self) -> bool {
        self.text.is_empty()
    }

    /// The exit status of a command that ends with it.
    pub fn status(&self) -> u8 {
        match (self.is_closed(), self.is_usage) {
            (true, _) => 0,
            (_, true) => 2,
            _ => 1,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_line_that_no_terminal_obeys() {
        let error = Error::new("a\n b\u{1b}[2J\u{202e}c\r\n");
        assert_eq!(error.to_string(), "a b\u{fffd}[2J\u{fffd}c");
    }
}
