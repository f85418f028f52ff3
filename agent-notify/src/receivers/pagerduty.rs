//! PagerDuty: Events API version 2. A group is one incident there: its key is the key that PagerDuty deduplicates by.

use super::Post;
use crate::alert::fingerprint;
use crate::notification::Notification;
use crate::text::{Text, cut, line, plain};
use agent_store::labels::Labels;
use serde_json::{Value, json};

/// PagerDuty's bound of a summary, in characters.
const SUMMARY: usize = 1024;
/// PagerDuty takes 512 KiB; what is longer goes without its details.
const LONGEST: usize = 500 << 10;
/// Longest of one of the details.
const DETAIL: usize = 100_000;

/// Settings.
#[derive(Clone, Debug, PartialEq)]
pub struct PagerDuty {
    /// The summary.
    pub description: Text,
    /// What the details say of the alerts.
    pub details: Text,
    /// Who is said to send, host and all: incidents of agents that have another one are other incidents.
    pub client: String,
}

/// PagerDuty's words; the first that fits an alert that fires.
const SEVERITIES: [&str; 4] = ["critical", "error", "warning", "info"];

impl PagerDuty {
    /// The request, of this routing key.
    pub fn post(&self, notification: &Notification, routing_key: &str) -> Post {
        let mut event = self.event(notification, routing_key, true);
        let mut post = Post::json(&event);
        if post.body.len() > LONGEST {
            event = self.event(notification, routing_key, false);
            post = Post::json(&event);
        }
        post
    }

    fn event(&self, notification: &Notification, routing_key: &str, whole: bool) -> Value {
        let firing = notification.status() == "firing";
        let common = notification.common_labels();
        let source = common.get("instance").copied().unwrap_or("geophone");
        let severity = |wanted: &&&str| {
            let mut alerts = notification
                .alerts
                .iter()
                .filter(|alert| alert.is_firing() || !firing);
            alerts.any(|alert| alert.labels.get("severity") == **wanted)
        };
        let severity = SEVERITIES.iter().find(severity).unwrap_or(&"error");
        let details = match whole {
            true => cut(&self.details.of(notification, plain), DETAIL).into_owned(),
            false => "left out: longer than PagerDuty takes".to_owned(),
        };
        let action = if firing { "trigger" } else { "resolve" };
        json!({
            "routing_key": routing_key,
            "dedup_key": self.dedup_key(notification),
            "event_action": action,
            "client": self.client,
            "client_url": notification.external_url,
            "payload": {
                "summary": line(&self.description.of(notification, plain), SUMMARY),
                "source": line(source, 255),
                "severity": severity,
                "custom_details": {
                    "alerts": details,
                    "num_firing": notification.alerts.iter().filter(|alert| alert.is_firing()).count(),
                    "num_resolved": notification.alerts.iter().filter(|alert| !alert.is_firing()).count(),
                },
            },
        })
    }

    /// A group's key may be long, PagerDuty's has 255 characters at most. The address alone does not tell agents apart: by
    /// default it is that of loopback, on every node.
    fn dedup_key(&self, notification: &Notification) -> String {
        let host = Labels::new([
            ("group", notification.group_key.as_str()),
            ("receiver", &notification.receiver),
            ("agent", &notification.external_url),
            ("client", &self.client),
        ]);
        format!("geophone-{:016x}", fingerprint(&host))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{hostile, notification};
    use super::*;
    use crate::text::{BODY, SUBJECT};

    fn read(notification: &Notification) -> Value {
        read_of("geophone a", notification)
    }

    fn read_of(client: &str, notification: &Notification) -> Value {
        let place = PagerDuty {
            description: Text::new(SUBJECT).unwrap(),
            details: Text::new(BODY).unwrap(),
            client: client.to_owned(),
        };
        let post = place.post(notification, "key");
        assert!(post.body.len() < LONGEST);
        serde_json::from_slice(&post.body).unwrap()
    }

    #[test]
    fn the_end_has_the_key_of_the_beginning() {
        let (firing, over) = (
            read(&notification("db", None)),
            read(&notification("db", Some(1_700_000_040_000))),
        );
        assert_eq!(
            (&firing["event_action"], &over["event_action"]),
            (&json!("trigger"), &json!("resolve"))
        );
        assert_eq!(firing["dedup_key"], over["dedup_key"]);
        let elsewhere = read_of("geophone b", &notification("db", None));
        assert_ne!(firing["dedup_key"], elsewhere["dedup_key"], "another host's");
        assert_eq!(firing["routing_key"], "key");
        assert_eq!(firing["payload"]["severity"], "critical");
        assert_eq!(firing["payload"]["summary"], "[FIRING:1] Down: db");
        assert_eq!(firing["payload"]["source"], "geophone");
        assert_eq!(over["payload"]["custom_details"]["num_resolved"], 1);
    }

    #[test]
    fn nothing_in_a_label_breaks_the_event_or_is_too_long() {
        for value in hostile() {
            let event = read(&notification(&value, None));
            let summary = event["payload"]["summary"].as_str().unwrap();
            assert!(summary.chars().count() <= SUMMARY && !summary.contains(char::is_control));
            assert!(
                event["payload"]["custom_details"]["alerts"]
                    .as_str()
                    .unwrap()
                    .starts_with("FIRING Down")
            );
        }
        // Each of its characters is six bytes of JSON.
        let mut many = notification(&"\u{7}".repeat(1 << 20), None);
        many.alerts = vec![many.alerts[0].clone(); 20];
        let event = read(&many);
        let alerts = event["payload"]["custom_details"]["alerts"].as_str().unwrap();
        assert!(alerts.starts_with("left out"), "{} bytes", alerts.len());
    }
}
