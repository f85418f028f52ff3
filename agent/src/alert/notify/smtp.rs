//! Mail: the form of a message, and its way to a mail server, encrypted by STARTTLS.

use super::place::accepted;
use crate::export::push::reply::{Reply, printable};
use crate::export::push::settings::Tls as TlsSettings;
use crate::export::push::tls::Files;
use agent_notify::Notification;
use agent_notify::receivers::email::{Email, Parts};
use anyhow::{Context as _, Result, anyhow};
use lettre::message::{Mailbox, Mailboxes, MultiPart, SinglePart};
use lettre::transport::smtp::Error;
use lettre::transport::smtp::authentication::{Credentials, DEFAULT_MECHANISMS};
use lettre::transport::smtp::client::{
    AsyncSmtpConnection, Certificate, CertificateStore, Identity, Tls, TlsParameters, TlsParametersBuilder,
};
use lettre::transport::smtp::commands::{Data, Mail, Rcpt};
use lettre::transport::smtp::extension::{ClientId, MailBodyParameter, MailParameter};
use lettre::{Address, Message};
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
    host: String,
    port: u16,
    hello: ClientId,
    tls: Tls,
    credentials: Option<Credentials>,
    timeout: Duration,
}

impl Smtp {
    /// Does not connect. `setting` is for errors.
    pub fn new(route: &Route, setting: &str, password: Option<String>, timeout: Duration) -> Result<Self> {
        let parameters = parameters(route, setting)?;
        let login = |password| Credentials::new(route.username.clone(), password);
        Ok(Self {
            host: route.host.clone(),
            port: route.port,
            hello: match route.hello.as_str() {
                "" => ClientId::default(),
                hello => ClientId::Domain(hello.to_owned()),
            },
            tls: match (route.port, route.require_tls) {
                (SUBMISSIONS, _) => Tls::Wrapper(parameters),
                (_, true) => Tls::Required(parameters),
                (_, false) => Tls::Opportunistic(parameters),
            },
            credentials: password.map(login),
            timeout,
        })
    }

    /// Sends one. An address that the server refuses for good keeps it from none of the others.
    pub async fn send(&self, message: &Message) -> Reply {
        match self.deliver(message).await {
            Ok(refused) => {
                for (to, why) in refused {
                    tracing::warn!("alerting: mail to {to}: {}; the others have it", said(&why));
                }
                accepted()
            }
            // What the server refuses for good; but not a password, which may be renewed.
            Err(error) if error.is_permanent() && !is_login(&error) => Reply::permanent(said(&error)),
            Err(error) => Reply::retry(printable(&said(&error))),
        }
    }

    async fn connect(&self) -> Result<AsyncSmtpConnection, Error> {
        let (server, timeout) = ((self.host.as_str(), self.port), Some(self.timeout));
        let wrapper = match &self.tls {
            Tls::Wrapper(parameters) => Some(parameters.clone()),
            _ => None,
        };
        let to = AsyncSmtpConnection::connect_tokio1(server, timeout, &self.hello, wrapper, None);
        let mut connection = to.await?;
        match &self.tls {
            Tls::Opportunistic(parameters) if connection.can_starttls() => {
                connection.starttls(parameters.clone(), &self.hello).await?;
            }
            Tls::Required(parameters) => connection.starttls(parameters.clone(), &self.hello).await?,
            _ => {}
        }
        if let Some(credentials) = &self.credentials {
            connection.auth(DEFAULT_MECHANISMS, credentials).await?;
        }
        Ok(connection)
    }

    /// In one transaction, so that nobody gets it twice when it is tried again; returns who was refused. Who is to be tried later keeps it from all.
    async fn deliver(&self, message: &Message) -> Result<Vec<(Address, Error)>, Error> {
        let (envelope, bytes) = (message.envelope(), message.formatted());
        let all = envelope.from().into_iter().chain(envelope.to());
        let is_plain = all
            .map(|address| address.as_ref())
            .all(|address: &str| address.is_ascii());
        let mut connection = self.connect().await?;
        let mut options = Vec::new();
        if !is_plain {
            options.push(MailParameter::SmtpUtfEight);
        }
        if !bytes.is_ascii() {
            options.push(MailParameter::Body(MailBodyParameter::EightBitMime));
        }
        connection
            .command(Mail::new(envelope.from().cloned(), options))
            .await?;
        let mut refused: Vec<(Address, Error)> = Vec::new();
        for to in envelope.to() {
            match connection.command(Rcpt::new(to.clone(), Vec::new())).await {
                Ok(_) => {}
                Err(error) if error.is_permanent() && !is_login(&error) => refused.push((to.clone(), error)),
                Err(error) => return Err(error),
            }
        }
        if refused.len() == envelope.to().len()
            && let Some((_, error)) = refused.pop()
        {
            return Err(error);
        }
        connection.command(Data).await?;
        connection.message(&bytes).await?;
        // It has it: how they part does not matter.
        let _ = connection.quit().await;
        Ok(refused)
    }
}

fn is_login(error: &Error) -> bool {
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
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::net::TcpListener;
    use std::sync::{Arc, mpsc};

    fn route(port: u16, to: &str) -> Route {
        Route {
            from: "geophone@example.org".parse().unwrap(),
            to: to.parse().unwrap(),
            host: "127.0.0.1".to_owned(),
            port,
            hello: "localhost".to_owned(),
            username: String::new(),
            require_tls: false,
            tls: TlsSettings::default(),
        }
    }

    /// Cause: a server that knows one of two addresses no more, or both. Seen: the other one gets the message, once; of two that are
    /// refused nobody does.
    #[tokio::test]
    async fn an_address_that_is_gone_keeps_nothing_from_the_others() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = server.local_addr().unwrap().port();
        let (sender, delivered) = mpsc::channel();
        std::thread::spawn(move || {
            for stream in server.incoming() {
                let mut writer = stream.unwrap();
                let mut to = Vec::new();
                let mut is_data = false;
                writer.write_all(b"220 here\r\n").unwrap();
                for line in BufReader::new(writer.try_clone().unwrap()).lines() {
                    let line = line.unwrap_or_default();
                    let answer = match line.split(' ').next().unwrap_or_default() {
                        "." => {
                            is_data = false;
                            sender.send(std::mem::take(&mut to)).unwrap();
                            "250 taken"
                        }
                        _ if is_data => continue,
                        "MAIL" => {
                            to.clear();
                            "250 go on"
                        }
                        "RCPT" if line.contains("gone") => "550 5.1.1 no such user",
                        "RCPT" if line.contains("grey") => "451 4.7.1 later",
                        "RCPT" => {
                            to.push(line);
                            "250 go on"
                        }
                        "DATA" => {
                            is_data = true;
                            "354 go on"
                        }
                        _ => "250 go on",
                    };
                    let _ = writer.write_all(format!("{answer}\r\n").as_bytes());
                }
            }
        });
        let email = Email {
            subject: Text::new(SUBJECT).unwrap(),
            text: Text::new(BODY).unwrap(),
            html: None,
        };
        let notification = Notification {
            receiver: "ops".to_owned(),
            group_key: "{}:{}".to_owned(),
            group_labels: Labels::default(),
            at: 0,
            alerts: Vec::new(),
            external_url: String::new(),
            lasts: 0,
        };
        for (to, is_taken) in [
            ("ops@example.org, gone@example.org", true),
            ("gone@example.org, gone-too@example.org", false),
            // Who is to be tried later keeps it from all: else they would get it twice.
            ("ops@example.org, grey@example.org", false),
        ] {
            let route = route(port, to);
            let smtp = Smtp::new(&route, "receivers", None, Duration::from_secs(5)).unwrap();
            let reply = smtp.send(&message(&email, &route, &notification).unwrap()).await;
            assert_eq!(matches!(reply, Reply::Accepted { .. }), is_taken, "{reply:?}");
            let is_later = matches!(reply, Reply::Retry { .. });
            assert_eq!(is_later, to.contains("grey"), "{reply:?}");
            let all: Vec<Vec<String>> = delivered.try_iter().collect();
            let wanted: &[&[&str]] = if is_taken {
                &[&["RCPT TO:<ops@example.org>"]]
            } else {
                &[]
            };
            assert_eq!(all, wanted);
        }
    }

    /// What is in labels stays in the body, whatever it looks like, and lines are no longer than mail allows.
    #[test]
    fn labels_become_neither_headers_nor_parts() {
        let hostile = "\"}\r\nBcc: all@example.org\r\n.\r\nQUIT\r\n--boundary\r\n<b>\u{0}é😀";
        let route = route(25, "Ops <a@example.org>, b@example.org");
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
