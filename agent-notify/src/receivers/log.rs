//! Log: one line of the agent's own log.

use crate::notification::Notification;
use crate::text::{Text, line, plain};

/// Longest line in characters.
const LONGEST: usize = 500;

/// Settings.
#[derive(Clone, Debug, PartialEq)]
pub struct Log {
    /// The line.
    pub text: Text,
}

impl Log {
    /// The line.
    pub fn line(&self, notification: &Notification) -> String {
        line(&self.text.of(notification, plain), LONGEST)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{hostile, notification};
    use super::*;
    use crate::text::SUBJECT;

    #[test]
    fn it_is_one_line() {
        let log = Log {
            text: Text::new(SUBJECT).unwrap(),
        };
        assert_eq!(log.line(&notification("db", None)), "[FIRING:1] Down: db");
        for value in hostile() {
            let told = log.line(&notification(&value, None));
            assert!(!told.contains(char::is_control) && told.chars().count() <= LONGEST);
        }
    }
}
