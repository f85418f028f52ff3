//! Alertmanager: `POST /api/v2/alerts`, as a Prometheus sends them.

use super::Post;
use crate::alert::time;
use crate::notification::{Notification, map};
use agent_store::series::Millis;
use serde_json::{Value, json};

/// What may not have come before is said to end no sooner than this, ms from now: an Alertmanager tells nobody of an alert that is
/// over when its own group_wait (30s, if nothing else is set) is.
pub const SEEN: Millis = 60_000;
/// An attempt so late, in ms, is one after others that failed.
const LATE: Millis = 5_000;

/// Settings: there are none.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Alertmanager;

impl Alertmanager {
    /// The request, now.
    pub fn post(&self, notification: &Notification, now: Millis) -> Post {
        let is_late = now - notification.at > LATE;
        let alerts = notification.alerts.iter().map(|alert| {
            let starts = alert.starts_at.min(now);
            let ends = match alert.ends_at {
                // Until the group is looked at again. Its end may be the next in the queue, and of two that are to come an
                // Alertmanager keeps the later.
                None if is_late => now + notification.lasts / 4 + SEEN,
                // Told again before: if that is missed for good, the agent is gone.
                None => now + notification.lasts,
                Some(_) if is_late => now + SEEN,
                Some(at) => at.clamp(starts, now),
            };
            json!({
                "labels": map(&alert.labels),
                "annotations": *alert.annotations,
                "startsAt": time(Some(starts)),
                "endsAt": time(Some(ends)),
                "generatorURL": alert.generator_url,
            })
        });
        Post::json(&Value::Array(alerts.collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{hostile, notification};
    use super::*;

    fn ends(ends_at: Option<Millis>, now: Millis) -> String {
        let mut told = notification("db", ends_at);
        told.lasts = 240_000;
        let body: Value = serde_json::from_slice(&Alertmanager.post(&told, now).body).unwrap();
        assert_eq!(body[0]["startsAt"], "2023-11-14T22:13:20Z");
        body[0]["endsAt"].as_str().unwrap().to_owned()
    }

    /// It fires at 22:13:20, and is told ten seconds later.
    #[test]
    fn it_lasts_until_it_is_told_again_and_its_end_is_noticed() {
        let (at, long) = (notification("db", None).at, Some(1_700_000_028_000 + 60_000));
        assert_eq!(ends(None, at), "2023-11-14T22:17:50Z");
        assert_eq!(ends(long, at + 60_000), "2023-11-14T22:15:50Z", "late");
        assert_eq!(ends(None, at + 60_000), "2023-11-14T22:16:50Z", "late");
        let mut told = notification("db", long);
        told.at = 1_700_000_090_000;
        let body: Value = serde_json::from_slice(&Alertmanager.post(&told, told.at).body).unwrap();
        assert_eq!(body[0]["endsAt"], "2023-11-14T22:14:48Z");
    }

    #[test]
    fn nothing_in_a_label_breaks_the_payload() {
        for value in hostile() {
            let post = Alertmanager.post(&notification(&value, None), 1_700_000_030_000);
            let read: Value = serde_json::from_slice(&post.body).unwrap();
            assert_eq!(read[0]["labels"]["peer"], *value);
            assert_eq!(read.as_array().unwrap().len(), 1);
        }
    }
}
