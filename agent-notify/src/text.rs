//! Texts of notifications: Alertmanager's data in the templates of agent-rules.

use crate::alert::{Alert, time};
use crate::notification::Notification;
use agent_rules::template::{Datum, Template};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// A template, and the text that it was made of.
#[derive(Clone, Debug)]
pub struct Text {
    source: String,
    template: Template,
}

/// How foreign text is made harmless before it goes into a template. What the template itself says stays as it is.
pub type Escape = fn(&str) -> Cow<'_, str>;

/// Longest value of a label or annotation that a text shows, in characters: webhooks have the whole.
const VALUE: usize = 8000;
/// Alerts that are named if a template fails.
const NAMED: usize = 20;

/// Leaves text as it is.
pub fn plain(text: &str) -> Cow<'_, str> {
    Cow::Borrowed(text)
}

/// For HTML, in text and in quoted attributes.
pub fn html(text: &str) -> Cow<'_, str> {
    escaped(text, |c| match c {
        '&' => Some("&amp;"),
        '<' => Some("&lt;"),
        '>' => Some("&gt;"),
        '"' => Some("&#34;"),
        '\'' => Some("&#39;"),
        '\0' => Some("\u{fffd}"),
        _ => None,
    })
}

/// For Slack, where `<!channel>` would wake everybody.
pub fn slack(text: &str) -> Cow<'_, str> {
    escaped(text, |c| match c {
        '&' => Some("&amp;"),
        '<' => Some("&lt;"),
        '>' => Some("&gt;"),
        _ => None,
    })
}

fn escaped(text: &str, by: impl Fn(char) -> Option<&'static str>) -> Cow<'_, str> {
    if text.chars().all(|c| by(c).is_none()) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + text.len() / 8);
    for c in text.chars() {
        match by(c) {
            Some(other) => out.push_str(other),
            None => out.push(c),
        }
    }
    Cow::Owned(out)
}

/// Whether a character turns the direction of writing of what follows it: a label that has one makes other text look like something
/// else.
fn turns(c: char) -> bool {
    matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Text from elsewhere, with a sign in the place of each of these.
fn upright(text: &str) -> Cow<'_, str> {
    escaped(text, |c| turns(c).then_some("\u{fffd}"))
}

/// One line without control characters and those that turn the direction of writing, of so many characters at most.
pub fn line(text: &str, most: usize) -> String {
    let mut out = String::new();
    let marks = |c: char| matches!(c, '\u{200e}' | '\u{200f}') || turns(c);
    let words = text.split(|c: char| c.is_whitespace() || c.is_control() || marks(c));
    for word in words.filter(|word| !word.is_empty()) {
        if !out.is_empty() {
            out.push(' ');
        }
        out.push_str(word);
        // A megabyte need not be split to its end.
        if out.len() > 4 * most {
            break;
        }
    }
    cut(&out, most).into_owned()
}

/// The beginning of a text, of so many characters at most, with a sign that there was more.
pub fn cut(text: &str, most: usize) -> Cow<'_, str> {
    match text.char_indices().nth(most) {
        None => Cow::Borrowed(text),
        Some(_) => {
            let end = text.char_indices().nth(most.saturating_sub(1));
            let end = end.map_or(0, |(at, _)| at);
            Cow::Owned(format!("{}…", text.get(..end).unwrap_or_default()))
        }
    }
}

impl Text {
    /// Parses a template; an error says what is wrong with it.
    pub fn new(source: &str) -> Result<Self, String> {
        Self::with("", source)
    }

    /// The same, with what files define; text of theirs outside of that is nobody's.
    pub fn with(files: &str, source: &str) -> Result<Self, String> {
        Ok(Self {
            source: format!("{files}{source}"),
            template: Template::of_notification(files, source)?,
        })
    }

    /// What it comes to. A template that fails must not keep anybody from being told: the error takes its place.
    pub fn of(&self, notification: &Notification, escape: Escape) -> String {
        let data = data(notification, escape);
        let filled = self.template.fill(&data, &notification.external_url);
        filled.unwrap_or_else(|error| {
            let alerts = notification.alerts.iter().take(NAMED);
            let names: Vec<&str> = alerts.map(|alert| alert.labels.get("alertname")).collect();
            let told = format!(
                "{}: {} (error expanding template: {})",
                notification.status(),
                names.join(" "),
                line(&error, 200)
            );
            escape(&upright(&told)).into_owned()
        })
    }

    /// The text that it was made of.
    pub fn source(&self) -> &str {
        &self.source
    }
}

impl PartialEq for Text {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

/// As Alertmanager's templates see a notification.
fn data(notification: &Notification, escape: Escape) -> Datum {
    let escape = |text: &str| escape(&upright(&cut(text, VALUE))).into_owned();
    let text = |text: &str| Datum::Text(escape(text));
    let status = notification.status();
    let owned = |pairs: &mut dyn Iterator<Item = (&str, &str)>| {
        let pairs: BTreeMap<String, String> = pairs
            .map(|(name, value)| (name.to_owned(), escape(value)))
            .collect();
        Datum::Pairs(pairs)
    };
    let labels = |labels: &agent_store::labels::Labels| {
        owned(&mut labels.iter().map(|(name, value)| (&**name, &**value)))
    };
    let one = |alert: &Alert| {
        let annotations = alert.annotations.iter();
        Datum::Record(BTreeMap::from([
            ("Status", text(alert.status())),
            ("Labels", labels(&alert.labels)),
            (
                "Annotations",
                owned(&mut annotations.map(|(name, value)| (name.as_str(), value.as_str()))),
            ),
            ("StartsAt", Datum::Text(time(Some(alert.starts_at)))),
            ("EndsAt", Datum::Text(time(alert.ends_at))),
            ("GeneratorURL", text(&alert.generator_url)),
            (
                "Fingerprint",
                Datum::Text(format!("{:016x}", alert.fingerprint())),
            ),
        ]))
    };
    Datum::Record(BTreeMap::from([
        ("Receiver", text(&notification.receiver)),
        ("Status", text(status)),
        (
            "Alerts",
            Datum::List(notification.alerts.iter().map(one).collect()),
        ),
        ("GroupLabels", labels(&notification.group_labels)),
        (
            "CommonLabels",
            owned(&mut notification.common_labels().into_iter()),
        ),
        (
            "CommonAnnotations",
            owned(&mut notification.common_annotations().into_iter()),
        ),
        ("ExternalURL", text(&notification.external_url)),
    ]))
}

/// The default subject: what, how many, and what they have in common.
pub const SUBJECT: &str = "[{{ .Status | toUpper }}{{ if eq .Status \"firing\" }}:{{ .Alerts.Firing | len }}{{ end }}] \
{{ if .CommonLabels.alertname }}{{ .CommonLabels.alertname }}{{ else }}{{ .Alerts | len }} alerts{{ end }}\
{{ if .CommonAnnotations.summary }}: {{ .CommonAnnotations.summary }}{{ end }}";

/// The default text: a paragraph for each alert.
pub const BODY: &str = "\
{{ define \"alert\" }}{{ .Labels.alertname }}{{ if .Annotations.summary }}: {{ .Annotations.summary }}{{ end }}
{{ if .Annotations.description }}{{ .Annotations.description }}
{{ end }}{{ if .Annotations.evidence }}{{ .Annotations.evidence }}
{{ end }}{{ range .Labels.SortedPairs }}{{ .Name }}={{ .Value }} {{ end }}
since {{ .StartsAt }}{{ if ne .Status \"firing\" }} until {{ .EndsAt }}{{ end }}
{{ if .Annotations.runbook_url }}{{ .Annotations.runbook_url }}
{{ end }}{{ end }}\
{{ range .Alerts.Firing }}FIRING {{ template \"alert\" . }}
{{ end }}{{ range .Alerts.Resolved }}RESOLVED {{ template \"alert\" . }}
{{ end }}";

#[cfg(test)]
mod tests {
    use super::*;
    use agent_store::labels::Labels;
    use std::sync::Arc;

    fn notification(value: &str) -> Notification {
        let alert = Alert {
            labels: Labels::new([("alertname", "Down"), ("peer", value)]),
            annotations: Arc::new(BTreeMap::from([(
                "summary".to_owned(),
                format!("{value} is down"),
            )])),
            active_at: 0,
            starts_at: 1_700_000_000_000,
            ends_at: None,
            generator_url: "http://h".into(),
        };
        Notification {
            receiver: "ops".to_owned(),
            group_key: "{}:{}".to_owned(),
            group_labels: Labels::default(),
            at: 0,
            alerts: vec![alert],
            external_url: "http://h".to_owned(),
            lasts: 0,
        }
    }

    #[test]
    fn the_defaults_say_what_when_and_since_when() {
        let subject = Text::new(SUBJECT).unwrap();
        let told = notification("db");
        assert_eq!(subject.of(&told, plain), "[FIRING:1] Down: db is down");
        let body = Text::new(BODY).unwrap().of(&told, plain);
        assert_eq!(
            body,
            "FIRING Down: db is down\nalertname=Down peer=db \nsince 2023-11-14T22:13:20Z\n\n"
        );
        let mut over = notification("db");
        over.alerts[0].ends_at = Some(1_700_000_060_000);
        assert_eq!(subject.of(&over, plain), "[RESOLVED] Down: db is down");
        let body = Text::new(BODY).unwrap().of(&over, plain);
        assert!(body.starts_with("RESOLVED Down"), "{body}");
        assert!(body.contains(" until 2023-11-14T22:14:20Z\n"), "{body}");
    }

    #[test]
    fn foreign_text_is_escaped_and_the_templates_own_is_not() {
        let text = Text::new("<b>{{ .CommonLabels.peer }}</b>").unwrap();
        let told = notification("<!channel> & \"'\n");
        assert_eq!(text.of(&told, html), "<b>&lt;!channel&gt; &amp; &#34;&#39;\n</b>");
        assert_eq!(text.of(&told, slack), "<b>&lt;!channel&gt; &amp; \"'\n</b>");
        assert_eq!(text.of(&told, plain), "<b><!channel> & \"'\n</b>");
        let wrong = Text::new("{{ .Nothing }}").unwrap();
        let instead = wrong.of(&told, html);
        assert!(
            instead.starts_with("firing: Down (error expanding template: "),
            "{instead}"
        );
    }

    /// Cause: a label or annotation with what turns the direction of writing: a mail, Slack and PagerDuty would show the rest of it, and
    /// what stands behind it, in another order. Seen: a sign in its place, also where a template fails; the notification itself is as it
    /// was. Words of languages that are written from right to left stay.
    #[test]
    fn nothing_foreign_turns_the_direction_of_writing() {
        let text = Text::new("{{ .CommonLabels.peer }}|{{ .CommonAnnotations.summary }}").unwrap();
        let told = notification("a\u{202e}b\u{2066}c\u{2069}\u{202a} שלום\u{200f}");
        for escape in [plain as Escape, html, slack] {
            assert_eq!(
                text.of(&told, escape),
                "a\u{fffd}b\u{fffd}c\u{fffd}\u{fffd} שלום\u{200f}|a\u{fffd}b\u{fffd}c\u{fffd}\u{fffd} שלום\u{200f} is down"
            );
        }
        let mut named = told.clone();
        named.alerts[0].labels = Labels::new([("alertname", "x\u{202e}y")]);
        let instead = Text::new("{{ .Nothing }}").unwrap().of(&named, plain);
        assert!(instead.starts_with("firing: x\u{fffd}y (error"), "{instead}");
        let whole = crate::receivers::webhook::Webhook { max_alerts: 0 }.post(&told);
        let whole = String::from_utf8(whole.body).unwrap();
        assert!(whole.contains('\u{202e}') && !whole.contains('\u{fffd}'));
    }

    /// Cause: files of templates with a title, line ends and comments around their definitions, and twice one of a name. Seen: texts have
    /// what they use of it, and nothing else; it stood at the beginning of every message.
    #[test]
    fn of_files_only_what_they_define_is_used() {
        let files = "# Our texts.\n\n{{ define \"a\" }}A{{ end }}\n{{/* b */}}\n{{ define \"b\" }}{{ template \"a\" }}B{{ end }}\n\
                     {{ if true }}shown{{ end }}\n";
        let told = notification("db");
        let of = |source: &str| Text::with(files, source).unwrap().of(&told, plain);
        assert_eq!(of("{{ template \"b\" . }}!"), "AB!");
        assert_eq!(of("{{ define \"a\" }}own{{ end }}{{ template \"b\" . }}"), "ownB");
        assert_eq!(of(SUBJECT), "[FIRING:1] Down: db is down");
        // The line is that of the text itself.
        let error = Text::with(files, "\n{{ $nothing }}").unwrap_err();
        assert!(error.contains("line 2"), "{error}");
        assert!(Text::with("{{ define", "").is_err());
    }

    #[test]
    fn a_line_is_one_line_and_not_too_long() {
        assert_eq!(line(" a\r\nBcc: x\u{7}y\u{85}\tz ", 100), "a Bcc: x y z");
        assert_eq!(line("äöü", 3), "äöü");
        assert_eq!(line("äöüß", 3), "äö…");
        assert_eq!(line(&"x ".repeat(1 << 20), 5), "x x …");
        assert_eq!(cut("abc", 0), "…");
    }
}
