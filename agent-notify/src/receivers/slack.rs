//! Slack: an incoming webhook with one attachment, as Alertmanager sends it.

use super::{Answer, Post, judge};
use crate::notification::Notification;
use crate::text::{Text, cut, line, slack};
use serde_json::json;

/// Alertmanager's bound of a title, in characters.
const TITLE: usize = 1024;
/// Below Slack's bound of an attachment.
const TEXT: usize = 7000;

/// Settings.
#[derive(Clone, Debug, PartialEq)]
pub struct Slack {
    /// Channel or user; empty = the one that the webhook was made for.
    pub channel: String,
    /// Who is said to write.
    pub username: String,
    /// The title.
    pub title: Text,
    /// The text.
    pub text: Text,
}

impl Slack {
    /// The request.
    pub fn post(&self, notification: &Notification) -> Post {
        let (title, text) = (
            line(&self.title.of(notification, slack), TITLE),
            self.text.of(notification, slack),
        );
        let text = cut(text.trim_end(), TEXT);
        let color = match notification.status() {
            "firing" => "danger",
            _ => "good",
        };
        let mut message = json!({
            "username": self.username,
            "attachments": [{
                "fallback": title, "title": title, "title_link": notification.external_url,
                "text": text, "color": color, "mrkdwn_in": ["fallback", "pretext", "text"],
            }],
        });
        if !self.channel.is_empty()
            && let Some(fields) = message.as_object_mut()
        {
            fields.insert("channel".to_owned(), json!(self.channel));
        }
        Post::json(&message)
    }

    /// What the answer means: Slack says `ok`, or with status 200 as well what is wrong.
    pub fn judge(status: u16, body: &[u8]) -> Answer {
        let judged = judge(status, body);
        let failed = serde_json::from_slice::<serde_json::Value>(body)
            .ok()
            .filter(|answer| answer["ok"] == false);
        match (judged, failed) {
            (Answer::Delivered, Some(answer)) => {
                let why = answer["error"].as_str().unwrap_or("it says ok: false");
                Answer::Refused(line(why, 200))
            }
            (judged, _) => judged,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{hostile, notification};
    use super::*;
    use crate::text::{BODY, SUBJECT};

    fn place() -> Slack {
        Slack {
            channel: "#ops".to_owned(),
            username: "geophone".to_owned(),
            title: Text::new(SUBJECT).unwrap(),
            text: Text::new(BODY).unwrap(),
        }
    }

    #[test]
    fn it_is_one_attachment_in_the_colour_of_its_state() {
        let read = |ends_at| -> serde_json::Value {
            serde_json::from_slice(&place().post(&notification("db", ends_at)).body).unwrap()
        };
        let firing = read(None);
        assert_eq!(firing["channel"], "#ops");
        let one = &firing["attachments"][0];
        assert_eq!(
            (one["title"].as_str(), one["color"].as_str()),
            (Some("[FIRING:1] Down: db"), Some("danger"))
        );
        assert!(
            one["text"]
                .as_str()
                .unwrap()
                .starts_with("FIRING Down: db\nwhy\n")
        );
        assert_eq!(read(Some(1_700_000_040_000))["attachments"][0]["color"], "good");
    }

    #[test]
    fn nothing_in_a_label_wakes_everybody_or_is_too_long() {
        for value in hostile() {
            let post = place().post(&notification(&value, None));
            let read: serde_json::Value = serde_json::from_slice(&post.body).unwrap();
            let one = &read["attachments"][0];
            for field in ["title", "text", "fallback"] {
                let text = one[field].as_str().unwrap();
                assert!(!text.contains('\u{202e}'), "{field}");
                assert!(!text.contains("<!") && !text.contains("<script"), "{field}");
                assert!(text.chars().count() <= TEXT, "{field}");
            }
            assert!(!one["title"].as_str().unwrap().contains('\n'));
        }
    }

    #[test]
    fn ok_is_what_counts() {
        assert_eq!(Slack::judge(200, b"ok"), Answer::Delivered);
        assert_eq!(
            Slack::judge(200, b"{\"ok\":false,\"error\":\"channel_not_found\"}"),
            Answer::Refused("channel_not_found".to_owned())
        );
        assert!(matches!(Slack::judge(429, b""), Answer::Retry(_)));
        assert!(matches!(Slack::judge(404, b"no_team"), Answer::Refused(_)));
    }
}
