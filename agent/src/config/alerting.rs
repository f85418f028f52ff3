//! Settings of what happens to alerts once they fire.

use super::units::{Bytes, HumanDuration};
use crate::export::push::settings::{Retry, Tls};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::Duration;

/// Who is told of alerts, by the agent itself. The names are Alertmanager's. Without receivers nobody is told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AlertingSettings {
    /// Directory of what waits to be delivered, of silences and of incidents. One agent at a time may have it.
    pub directory: PathBuf,
    /// Which receiver is told of what, and what is told together.
    pub route: RouteSettings,
    /// Who is told. Each place has a queue on disk and a task of its own, so that one that does not answer delays no other.
    #[schemars(example = receivers_example())]
    pub receivers: Vec<ReceiverSettings>,
    /// Alerts that nobody need be told of while others fire.
    #[schemars(example = inhibit_example())]
    pub inhibit_rules: Vec<InhibitSettings>,
    /// Times by name, in which routes tell or do not.
    #[schemars(example = intervals_example())]
    pub time_intervals: Vec<TimeIntervalSettings>,
    /// Files with templates, `{{ define "name" }}…{{ end }}`, for the texts of receivers.
    pub templates: Vec<PathBuf>,
    /// An alert that the rules do not speak of any more is taken for resolved after this time: after a restart, when its rule is
    /// gone.
    #[schemars(extend("x-minimum" = "1s", "x-maximum" = "1d"))]
    pub resolve_timeout: HumanDuration,
    /// An alert whose end was told and that fires again is told again only when this time has passed since it was told to fire.
    #[schemars(extend("x-minimum" = "0s", "x-maximum" = "1d"))]
    pub deduplication_window: HumanDuration,
    /// Alerts that concern the same peer, zone, region, subject, tunnel, device, name server or resource, or what these depend on, are
    /// one incident if one begins so long at most after the other has come or gone. The `for` of its rule does not count.
    #[schemars(extend("x-minimum" = "1s", "x-maximum" = "1d"))]
    pub incident_window: HumanDuration,
    /// Most bytes that wait for one place; the oldest goes first, and is counted. A group has half of them at most: the next of it
    /// says then what all that wait of it say.
    #[schemars(extend("x-minimum" = "64KiB", "x-maximum" = "1GiB"))]
    pub queue_size: Bytes,
    /// When a notification has waited for so long, as its place does not answer, the next of its group takes its place: that says
    /// what it said, but of each alert only how it is by now. `0s`: always.
    #[schemars(extend("x-minimum" = "0s", "x-maximum" = "1d"))]
    pub stale_after: HumanDuration,
    /// Longest time for one attempt.
    #[schemars(extend("x-minimum" = "100ms", "x-maximum" = "10m"))]
    pub timeout: HumanDuration,
    /// Most notifications a minute to one place; the others wait.
    #[schemars(range(min = 1, max = 6000))]
    pub rate_limit: u32,
    /// What happens after an attempt that may succeed later.
    pub retry: Retry,
}

fn receivers_example() -> serde_json::Value {
    serde_json::json!([{
        "name": "ops",
        "webhook_configs": [{ "url": "http://127.0.0.1:9094/alerts" }],
        "slack_configs": [{ "api_url_file": "/etc/geophone/slack-url", "channel": "#ops" }],
    }])
}

fn inhibit_example() -> serde_json::Value {
    serde_json::json!([{
        "source_matchers": ["severity=critical"],
        "target_matchers": ["severity=warning"],
        "equal": ["instance", "peer"],
    }])
}

fn intervals_example() -> serde_json::Value {
    serde_json::json!([{
        "name": "office-hours",
        "time_intervals": [{
            "weekdays": ["monday:friday"],
            "times": [{ "start_time": "09:00", "end_time": "17:00" }],
            "location": "Europe/Berlin",
        }],
    }])
}

impl Default for AlertingSettings {
    fn default() -> Self {
        Self {
            directory: PathBuf::from("/var/lib/geophone/alerting"),
            route: RouteSettings::default(),
            receivers: Vec::new(),
            inhibit_rules: Vec::new(),
            time_intervals: Vec::new(),
            templates: Vec::new(),
            resolve_timeout: HumanDuration::from_secs(300),
            deduplication_window: HumanDuration::from_secs(300),
            incident_window: HumanDuration::from_secs(300),
            queue_size: Bytes::mib(8),
            stale_after: HumanDuration::from_secs(600),
            timeout: HumanDuration::from_secs(10),
            rate_limit: 60,
            retry: Retry {
                max: Duration::from_secs(60),
                max_elapsed: Duration::from_secs(24 * 3600),
                ..Retry::default()
            },
        }
    }
}

/// A route. What it leaves out it has from the route above it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RouteSettings {
    /// Name of the receiver. The first route needs one.
    pub receiver: Option<String>,
    /// Labels by which alerts are told together; `incident` = those of one incident, `...` = each by itself. None by default: all
    /// of a route are told together.
    #[schemars(example = ["alertname", "peer"])]
    pub group_by: Option<Vec<String>>,
    /// How long a new group waits for others before it is told; 30s if no route says it.
    pub group_wait: Option<HumanDuration>,
    /// How long after that the group is told what has changed; 5m if no route says it.
    pub group_interval: Option<HumanDuration>,
    /// How long until a group that has not changed is told again; 4h if no route says it.
    pub repeat_interval: Option<HumanDuration>,
    /// What an alert must have to take this route: `name="value"`, with `=`, `!=`, `=~` or `!~`.
    #[schemars(example = ["severity=~\"warning|critical\""])]
    pub matchers: Vec<String>,
    /// Names of `time_intervals` in which nothing of this route is told to fire; ends of what was told are. Not for the first
    /// route, and not handed down.
    pub mute_time_intervals: Vec<String>,
    /// Names of `time_intervals` outside of which nothing of this route is told to fire; as above.
    pub active_time_intervals: Vec<String>,
    /// Whether the routes beside it are tried after it has taken an alert.
    pub r#continue: bool,
    /// Routes below it, each with the same keys: the first that fits takes the alert.
    #[schemars(with = "Vec<serde_json::Value>")]
    pub routes: Vec<RouteSettings>,
}

/// Times that have a name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TimeIntervalSettings {
    /// Its name, for routes.
    pub name: String,
    /// It is one of these times.
    pub time_intervals: Vec<TimesSettings>,
}

/// Times at which all that is given here is so.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TimesSettings {
    /// Spans of a day.
    pub times: Vec<TimeOfDaySettings>,
    /// Weekdays by name, or spans of them from Sunday on: `monday:friday`.
    pub weekdays: Vec<String>,
    /// Days of the month, or spans of them; below 0 from its end: `-3:-1`.
    pub days_of_month: Vec<String>,
    /// Months by name or number, or spans of them: `may:august`.
    pub months: Vec<String>,
    /// Years, or spans of them: `2027:2028`.
    pub years: Vec<String>,
    /// Time zone, e.g. `Europe/Berlin`; `Local` is that of the host, nothing is UTC.
    pub location: String,
}

/// A span of a day.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TimeOfDaySettings {
    /// When it begins, `HH:MM`.
    pub start_time: String,
    /// When it is over, at most `24:00`.
    pub end_time: String,
}

/// Alerts that nobody need be told of while others fire.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct InhibitSettings {
    /// What must fire.
    pub source_matchers: Vec<String>,
    /// What is not told then.
    pub target_matchers: Vec<String>,
    /// Labels that must be the same in both.
    pub equal: Vec<String>,
}

/// A receiver.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReceiverSettings {
    /// Its name, for routes.
    pub name: String,
    /// Alertmanagers, which are told again at each `group_interval`. They group, silence and notify; unlike
    /// `rules.alertmanagers`, what they could not be told waits on disk.
    #[serde(default)]
    pub alertmanager_configs: Vec<AlertmanagerSettings>,
    /// Webhooks, which get Alertmanager's payload.
    #[serde(default)]
    pub webhook_configs: Vec<WebhookSettings>,
    /// Incoming webhooks of Slack.
    #[serde(default)]
    pub slack_configs: Vec<SlackSettings>,
    /// Services of PagerDuty, by its Events API version 2.
    #[serde(default)]
    pub pagerduty_configs: Vec<PagerDutySettings>,
    /// Mail, by a mail server with STARTTLS.
    #[serde(default)]
    pub email_configs: Vec<EmailSettings>,
    /// Lines in the agent's own log.
    #[serde(default)]
    pub log_configs: Vec<LogSettings>,
}

/// An Alertmanager.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AlertmanagerSettings {
    /// Its address, e.g. http://127.0.0.1:9093.
    pub url: Option<String>,
    /// Whether the end of alerts is told; without it they end there when they are not told any more.
    pub send_resolved: bool,
    /// File with headers to send, one `name: value` a line, for tokens and tenants.
    pub headers_file: Option<PathBuf>,
    /// Whom to trust and who we are. Needs an `https` address.
    pub tls: Tls,
}

/// A webhook.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct WebhookSettings {
    /// Where to post. It has no query (`?token=…`): that is for `url_file`.
    pub url: Option<String>,
    /// File with that address, if it is a secret or has a query.
    pub url_file: Option<PathBuf>,
    /// Whether the end of alerts is told.
    pub send_resolved: bool,
    /// Most alerts of a message; 0 = all.
    pub max_alerts: u32,
    /// File with headers to send, one `name: value` a line, for tokens.
    pub headers_file: Option<PathBuf>,
    /// Whom to trust and who we are. Needs an `https` address.
    pub tls: Tls,
}

/// An incoming webhook of Slack.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SlackSettings {
    /// File with the webhook's address, which is a secret.
    pub api_url_file: Option<PathBuf>,
    /// Channel or user; empty = the one that the webhook was made for.
    pub channel: String,
    /// Who is said to write.
    pub username: String,
    /// Template of the title.
    pub title: Option<String>,
    /// Template of the text.
    pub text: Option<String>,
    /// Whether the end of alerts is told.
    pub send_resolved: bool,
    /// Whom to trust and who we are.
    pub tls: Tls,
}

/// A service of PagerDuty.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PagerDutySettings {
    /// File with the integration's key.
    pub routing_key_file: Option<PathBuf>,
    /// Where events are posted.
    pub url: String,
    /// Template of the summary.
    pub description: Option<String>,
    /// Template of what the details say of the alerts.
    pub details: Option<String>,
    /// Whether the end of alerts is told; it resolves the incident there.
    pub send_resolved: bool,
    /// Whom to trust and who we are.
    pub tls: Tls,
}

/// Mail.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EmailSettings {
    /// Who gets it: addresses, with commas between.
    pub to: String,
    /// Who sends it.
    pub from: String,
    /// Host and port of the mail server. At port 465 TLS begins at once, elsewhere by STARTTLS.
    pub smarthost: String,
    /// How the agent calls itself; empty = by the name of this host.
    pub hello: String,
    /// User of the mail server; empty = the agent does not log in.
    pub auth_username: String,
    /// File with the user's password.
    pub auth_password_file: Option<PathBuf>,
    /// Whether a server that cannot encrypt is sent nothing. With `auth_username` only one on this host may be without.
    pub require_tls: bool,
    /// Template of the subject.
    pub subject: Option<String>,
    /// Template of the text.
    pub text: Option<String>,
    /// Template of the text as HTML; without it there is plain text only.
    pub html: Option<String>,
    /// Whether the end of alerts is told.
    pub send_resolved: bool,
    /// Whom to trust and who we are.
    pub tls: Tls,
}

/// Lines in the agent's own log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LogSettings {
    /// Template of the line.
    pub text: Option<String>,
    /// Whether the end of alerts is told.
    pub send_resolved: bool,
}

impl Default for AlertmanagerSettings {
    fn default() -> Self {
        Self {
            url: None,
            send_resolved: true,
            headers_file: None,
            tls: Tls::default(),
        }
    }
}

impl Default for WebhookSettings {
    fn default() -> Self {
        Self {
            url: None,
            url_file: None,
            send_resolved: true,
            max_alerts: 0,
            headers_file: None,
            tls: Tls::default(),
        }
    }
}

impl Default for SlackSettings {
    fn default() -> Self {
        Self {
            api_url_file: None,
            channel: String::new(),
            username: "geophone".to_owned(),
            title: None,
            text: None,
            send_resolved: true,
            tls: Tls::default(),
        }
    }
}

impl Default for PagerDutySettings {
    fn default() -> Self {
        Self {
            routing_key_file: None,
            url: "https://events.pagerduty.com/v2/enqueue".to_owned(),
            description: None,
            details: None,
            send_resolved: true,
            tls: Tls::default(),
        }
    }
}

impl Default for EmailSettings {
    fn default() -> Self {
        Self {
            to: String::new(),
            from: String::new(),
            smarthost: String::new(),
            hello: String::new(),
            auth_username: String::new(),
            auth_password_file: None,
            require_tls: true,
            subject: None,
            text: None,
            html: None,
            send_resolved: true,
            tls: Tls::default(),
        }
    }
}

impl Default for LogSettings {
    fn default() -> Self {
        Self {
            text: None,
            send_resolved: true,
        }
    }
}
