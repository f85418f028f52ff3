//! E-mail: the parts of a message. Its form and its way are the sender's.

use crate::notification::Notification;
use crate::text::{Text, cut, html, line, plain};

/// Longest subject in characters.
const SUBJECT: usize = 200;
/// Longest body in characters.
const BODY: usize = 200_000;

/// Settings.
#[derive(Clone, Debug, PartialEq)]
pub struct Email {
    /// The subject.
    pub subject: Text,
    /// The text.
    pub text: Text,
    /// The text as HTML; `None` = there is only the plain one.
    pub html: Option<Text>,
}

/// The parts of a message.
#[derive(Clone, Debug, PartialEq)]
pub struct Parts {
    /// One line without control characters.
    pub subject: String,
    /// Plain text, without control characters but line ends and tabs.
    pub text: String,
    /// HTML.
    pub html: Option<String>,
}

impl Email {
    /// What the message says.
    pub fn parts(&self, notification: &Notification) -> Parts {
        let html = self.html.as_ref().map(|text| text.of(notification, html));
        Parts {
            subject: line(&self.subject.of(notification, plain), SUBJECT),
            text: body(&self.text.of(notification, plain)),
            html: html.as_deref().map(body),
        }
    }
}

fn body(text: &str) -> String {
    let text = text.replace("\r\n", "\n");
    let kept = |c: &char| !c.is_control() || matches!(c, '\n' | '\t');
    let clean: String = cut(&text, BODY).chars().filter(kept).collect();
    clean
}

#[cfg(test)]
mod tests {
    use super::super::testing::{hostile, notification};
    use super::*;
    use crate::text;

    #[test]
    fn nothing_in_a_label_becomes_a_header_or_markup() {
        let email = Email {
            subject: Text::new(text::SUBJECT).unwrap(),
            text: Text::new(text::BODY).unwrap(),
            html: Some(Text::new("<p>{{ .CommonLabels.peer }}</p>").unwrap()),
        };
        for value in hostile() {
            let parts = email.parts(&notification(&value, None));
            assert!(!parts.subject.contains(char::is_control), "{}", parts.subject);
            assert!(parts.subject.chars().count() <= SUBJECT);
            assert!(!parts.text.contains('\r') && parts.text.chars().count() <= BODY);
            let html = parts.html.unwrap();
            assert!(html.starts_with("<p>&#34;}]") && !html.contains("<script"));
        }
    }
}
