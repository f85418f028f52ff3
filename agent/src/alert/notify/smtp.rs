//! Mail: the form of a message, and its way to a mail server, encrypted by STARTTLS.

use crate::export::push::reply::{Reply, printable};
use crate::export::push::settings::Tls as TlsSettings;
use crate::export::push::tls::Files;
use agent_notify::Notification;
use agent_notify::receivers::email::{Email, Parts};
use anyhow::{Context as _, Result, anyhow};
use lettre::message::{Mailbox, Mailboxes, MultiPart, SinglePart};
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{
    Certificate, CertificateStore, Identity, Tls, TlsParameters, TlsParametersBuilder,
};
use lettre::transport::smtp::extension::ClientId;
use lettre::{AsyncSmtpTransport, AsyncTransport as _, Message, Tokio1Executor};
use std::time::Duration;

/// The port where TLS begins at once, as Alertmanager knows it.
pub const SUBMISSIONS: u16 = 465;

/// Where mails go, and from whom to whom.
#[derive(Clone, Debug)]
pub struct Route {
    /// Who sends.
    pub from: Mailbox,
    /// Who gets it.
    pub to: Mailboxes,
    /// The mail server.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// How the agent calls itself; empty = by its host's name.
    pub hello: String,
    /// Name of the user; empty = it does not log in.
    pub username: String,
    /// Whether a server that cannot encrypt gets nothing.
    pub require_tls: bool,
    /// Whom to trust.
    pub tls: TlsSettings,
}

/// A way to a mail server, with its files read.
pub struct Smtp {
    transport: AsyncSmtpTransport<Tokio1Executor>,
}

impl Smtp {
    /// Does not connect. `setting` is for errors.
    pub fn new(route: &Route, setting: &str, password: Option<String>, timeout: Duration) -> Result<Self> {
        let parameters = parameters(route, setting)?;
        let tls = match (route.port, route.require_tls) {
            (SUBMISSIONS, _) => Tls::Wrapper(parameters),
            (_, true) => Tls::Required(parameters),
            (_, false) => Tls::Opportunistic(parameters),
        };
        let mut builder = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(route.host.as_str())
            .port(route.port)
            .tls(tls)
            .timeout(Some(timeout));
        if !route.hello.is_empty() {
            builder = builder.hello_name(ClientId::Domain(route.hello.clone()));
        }
        if let Some(password) = password {
            builder = builder.credentials(Credentials::new(route.username.clone(), password));
        }
        Ok(Self {
            transport: builder.build(),
        })
    }

    /// Sends one.
    pub async fn send(&self, message: &Message) -> Reply {
        match self.transport.send(message.clone()).await {
            Ok(_) => Reply::Accepted {
                rejected: 0,
                message: String::new(),
            },
            // What the server refuses for good; but not a password, which may be renewed.
            Err(error) if error.is_permanent() && !is_login(&error) => Reply::permanent(said(&error)),
            Err(error) => Reply::retry(printable(&said(&error))),
        }
    }
}

fn is_login(error: &lettre::transport::smtp::Error) -> bool {
    let code = error.status().map(|code| code.to_string());
    matches!(code.as_deref(), Some("530" | "534" | "535" | "538"))
}

/// The error and what lies below it.
fn said(error: &dyn std::error::Error) -> String {
    let mut out = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        out = format!("{out}: {error}");
        source = error.source();
    }
    out
}

fn parameters(route: &Route, setting: &str) -> Result<TlsParameters> {
    let name = route.tls.server_name.as_ref().unwrap_or(&route.host);
    let files = Files::read(setting, &route.tls)?;
    let mut builder = TlsParametersBuilder::new(name.clone());
    if let Some(ca) = files.ca() {
        let ca = Certificate::from_pem(ca).with_context(|| format!("{setting}.tls.ca_file"))?;
        builder = builder
            .certificate_store(CertificateStore::None)
            .add_root_certificate(ca);
    }
    if let Some((certificate, key)) = files.identity() {
        let identity = Identity::from_pem(certificate, key);
        builder =
            builder.identify_with(identity.with_context(|| format!("{setting}.tls.cert_file, key_file"))?);
    }
    builder
        .build()
        .map_err(|error| anyhow!("{setting}.tls: {}; check the PEM files", said(&error)))
}

/// The message of a notification.
pub fn message(email: &Email, route: &Route, notification: &Notification) -> Result<Message> {
    let Parts { subject, text, html } = email.parts(notification);
    let mut builder = Message::builder()
        .from(route.from.clone())
        .subject(subject)
        .date_now()
        .message_id(None);
    for to in route.to.iter() {
        builder = builder.to(to.clone());
    }
    let built = match html {
        Some(html) => builder.multipart(MultiPart::alternative_plain_html(text, html)),
        None => builder.singlepart(SinglePart::plain(text)),
    };
    built.map_err(|error| anyhow!("the mail cannot be written: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use agent_notify::Alert;
    use agent_notify::text::{BODY, SUBJECT, Text};
    use agent_store::labels::Labels;
    use std::sync::Arc;

    /// What is in labels stays in the body, whatever it looks like, and lines are no longer than mail allows.
    #[test]
    fn labels_become_neither_headers_nor_parts() {
        let hostile = "\"}\r\nBcc: all@example.org\r\n.\r\nQUIT\r\n--boundary\r\n<b>\u{0}é😀";
        let route = Route {
            from: "geophone@example.org".parse().unwrap(),
            to: "Ops <a@example.org>, b@example.org".parse().unwrap(),
            host: "localhost".to_owned(),
            port: 25,
            hello: String::new(),
            username: String::new(),
            require_tls: true,
            tls: TlsSettings::default(),
        };
        let email = Email {
            subject: Text::new(SUBJECT).unwrap(),
            text: Text::new(BODY).unwrap(),
            html: Some(Text::new("<p>{{ .CommonLabels.peer }}</p>").unwrap()),
        };
        for value in [hostile.to_owned(), hostile.repeat((1 << 20) / hostile.len())] {
            let notification = Notification {
                receiver: "ops".to_owned(),
                group_key: "{}:{}".to_owned(),
                group_labels: Labels::default(),
                at: 0,
                alerts: vec![Alert {
                    labels: Labels::new([("alertname", value.as_str()), ("peer", value.as_str())]),
                    annotations: Arc::default(),
                    active_at: 0,
                    starts_at: 0,
                    ends_at: None,
                    generator_url: String::new(),
                }],
                external_url: String::new(),
                lasts: 0,
            };
            let message = message(&email, &route, &notification).unwrap();
            assert_eq!(message.envelope().to().len(), 2);
            let bytes = message.formatted();
            let text = String::from_utf8(bytes).unwrap();
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            let names = head.lines().filter(|line| !line.starts_with([' ', '\t']));
            let names: Vec<&str> = names.filter_map(|line| Some(line.split_once(':')?.0)).collect();
            let mut wanted = [
                "Content-Type",
                "Date",
                "From",
                "MIME-Version",
                "Message-ID",
                "Subject",
                "To",
            ];
            wanted.sort_unstable();
            let mut names = names;
            names.sort_unstable();
            assert_eq!(names, wanted);
            // The plain part may say what it likes.
            let (_, html) = body.split_once("Content-Type: text/html").unwrap();
            assert!(!html.contains("<b>"));
            assert!(text.lines().all(|line| line.len() <= 998), "too long a line");
        }
    }
}
