//! Webhook: Alertmanager's payload, version 4.

use super::Post;
use crate::notification::Notification;

/// Settings.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Webhook {
    /// Most alerts in a message; 0 = all.
    pub max_alerts: usize,
}

impl Webhook {
    /// The request.
    pub fn post(&self, notification: &Notification) -> Post {
        Post {
            body: notification.payload(self.max_alerts),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{hostile, notification};
    use super::*;

    #[test]
    fn nothing_in_a_label_breaks_the_payload() {
        for value in hostile() {
            let post = Webhook::default().post(&notification(&value, None));
            let read: serde_json::Value = serde_json::from_slice(&post.body).unwrap();
            assert_eq!(read["alerts"][0]["labels"]["peer"], *value);
            assert_eq!(read["commonAnnotations"]["summary"], *value);
            assert!(!post.body.contains(&b'\n'));
        }
    }
}
