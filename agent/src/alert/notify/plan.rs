//! From the settings to routes and places; what is wrong with them is told with its path.

use super::lane::MINUTE;
use super::place::{Kind, Place};
use super::smtp;
use crate::alert::files;
use crate::config::{
    Config, EmailSettings, HumanDuration, ReceiverSettings, RouteSettings, TimeIntervalSettings,
};
use agent_notify::dispatch::Settings;
use agent_notify::interval::Written;
use agent_notify::matcher::{self, Matcher};
use agent_notify::receivers::{email::Email, log::Log, pagerduty::PagerDuty, slack::Slack, webhook::Webhook};
use agent_notify::text::{BODY, SUBJECT, Text};
use agent_notify::{Inhibition, Interval, Receiver, Route, Routes, Schedule};
use agent_store::series::Millis;
use reqwest::Url;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

/// Longest name of a receiver in bytes: it is in the name of a file.
const LONGEST: usize = 60;

/// Path of a setting below `alerting`, and what is wrong with it.
pub type Wrong = (String, String);

/// All that the settings come to.
pub struct Plan {
    /// The tree; `None` without receivers.
    pub routes: Option<Routes>,
    /// Who is told.
    pub receivers: Vec<Receiver>,
    /// The places of each receiver.
    pub places: Vec<Vec<Place>>,
    /// What inhibits what.
    pub inhibitions: Vec<Inhibition>,
    /// What holds for all.
    pub settings: Settings,
}

fn wrong<T>(path: impl Into<String>, why: impl Into<String>) -> Result<T, Wrong> {
    Err((path.into(), why.into()))
}

pub(super) fn millis(duration: HumanDuration) -> Millis {
    Millis::try_from(duration.get().as_millis()).unwrap_or(Millis::MAX)
}

/// Reads the settings. Of files only the templates are looked at.
pub fn plan(config: &Config) -> Result<Plan, Wrong> {
    let alerting = &config.alerting;
    for (name, given, most) in [
        ("initial", alerting.retry.initial, alerting.retry.max),
        ("max", alerting.retry.max, alerting.retry.max_elapsed),
    ] {
        if given.is_zero() || given > most {
            return wrong(
                format!("retry.{name}"),
                format!(
                    "{} is out of range; initial, max and max_elapsed grow",
                    humantime::format_duration(given)
                ),
            );
        }
    }
    if !alerting.receivers.is_empty() && alerting.retry.max_elapsed <= MINUTE {
        return wrong(
            "retry.max_elapsed",
            format!(
                "{} is out of range; it is more than a minute: one may wait so long for rate_limit, and would never be tried",
                humantime::format_duration(alerting.retry.max_elapsed)
            ),
        );
    }
    let defines = templates(&alerting.templates)?;
    let (mut receivers, mut places) = (Vec::new(), Vec::new());
    let mut names = BTreeSet::new();
    for (at, receiver) in alerting.receivers.iter().enumerate() {
        let path = format!("receivers[{at}]");
        if receiver.name.is_empty() || receiver.name.len() > LONGEST {
            return wrong(
                format!("{path}.name"),
                format!("a receiver has a name of 1 to {LONGEST} bytes"),
            );
        }
        if !names.insert(&receiver.name) {
            return wrong(
                format!("{path}.name"),
                format!("{:?} is the name of another one", receiver.name),
            );
        }
        let own = Reader {
            config,
            receiver,
            defines: &defines,
        };
        let own = own.places(&path)?;
        if own.is_empty() {
            return wrong(path, "it tells nobody; add e.g. webhook_configs");
        }
        receivers.push(Receiver {
            name: receiver.name.clone(),
            integrations: own.iter().map(Place::integration).collect(),
        });
        places.push(own);
    }
    let intervals = intervals(&alerting.time_intervals)?;
    let routes = match receivers.is_empty() {
        true if alerting.route != RouteSettings::default() => {
            return wrong("route", "there are no receivers; add them to alerting.receivers");
        }
        true => None,
        false => Some(routes(&alerting.route, &Known { names, intervals })?),
    };
    let inhibitions = alerting.inhibit_rules.iter().enumerate().map(|(at, rule)| {
        let path = format!("inhibit_rules[{at}]");
        let sides = [
            ("source_matchers", &rule.source_matchers),
            ("target_matchers", &rule.target_matchers),
        ];
        for (name, given) in sides {
            if given.is_empty() {
                return wrong(format!("{path}.{name}"), "is empty: every alert would be meant");
            }
        }
        Ok(Inhibition {
            source: matchers(&format!("{path}.source_matchers"), &rule.source_matchers)?,
            target: matchers(&format!("{path}.target_matchers"), &rule.target_matchers)?,
            equal: rule.equal.clone(),
        })
    });
    Ok(Plan {
        routes,
        receivers,
        places,
        inhibitions: inhibitions.collect::<Result<_, _>>()?,
        settings: Settings {
            resolve_timeout: millis(alerting.resolve_timeout),
            deduplication_window: millis(alerting.deduplication_window),
            external_url: files::external_url(config),
        },
    })
}

/// The files with what they define, one after the other.
fn templates(files: &[PathBuf]) -> Result<String, Wrong> {
    let mut all = String::new();
    for (at, path) in files.iter().enumerate() {
        let failed = |why: String| (format!("templates[{at}]"), why);
        let bytes =
            crate::export::secret::read("template", path).map_err(|error| failed(format!("{error:#}")))?;
        let text = String::from_utf8(bytes)
            .map_err(|error| failed(format!("{}: not UTF-8: {error}", path.display())))?;
        Text::new(&text).map_err(|error| failed(format!("{}: {error}", path.display())))?;
        all.push_str(&text);
    }
    Ok(all)
}

fn matchers(path: &str, given: &[String]) -> Result<Vec<Matcher>, Wrong> {
    let mut all = Vec::new();
    for (at, text) in given.iter().enumerate() {
        all.extend(matcher::parse(text).map_err(|why| (format!("{path}[{at}]"), why))?);
    }
    Ok(all)
}

/// Times by name.
type Intervals<'a> = BTreeMap<&'a str, Arc<[Interval]>>;

fn intervals(given: &[TimeIntervalSettings]) -> Result<Intervals<'_>, Wrong> {
    let mut all = Intervals::new();
    for (at, one) in given.iter().enumerate() {
        let path = format!("time_intervals[{at}]");
        if one.name.is_empty() {
            return wrong(format!("{path}.name"), "is empty: no route could name it");
        }
        let times = one.time_intervals.iter().enumerate().map(|(at, times)| {
            let spans = times.times.iter();
            let spans: Vec<(String, String)> = spans
                .map(|span| (span.start_time.clone(), span.end_time.clone()))
                .collect();
            let written = Written {
                times: &spans,
                weekdays: &times.weekdays,
                days_of_month: &times.days_of_month,
                months: &times.months,
                years: &times.years,
                location: &times.location,
            };
            Interval::new(written).map_err(|(key, why)| (format!("{path}.time_intervals[{at}].{key}"), why))
        });
        let times: Arc<[Interval]> = times.collect::<Result<_, _>>()?;
        if all.insert(&one.name, times).is_some() {
            return wrong(
                format!("{path}.name"),
                format!("{:?} is the name of another one", one.name),
            );
        }
    }
    Ok(all)
}

/// What a route can name.
struct Known<'a> {
    names: BTreeSet<&'a String>,
    intervals: Intervals<'a>,
}

fn routes(root: &RouteSettings, known: &Known<'_>) -> Result<Routes, Wrong> {
    let tree = route(root, "route", known)?;
    Routes::new(&tree).map_err(|(path, why)| (format!("route.{path}"), why))
}

fn route(given: &RouteSettings, path: &str, known: &Known<'_>) -> Result<Route, Wrong> {
    let names = &known.names;
    if let Some(name) = given.receiver.as_ref().filter(|name| !names.contains(name)) {
        let known: Vec<&str> = names.iter().map(|name| name.as_str()).collect();
        return wrong(
            format!("{path}.receiver"),
            format!("there is no receiver {name:?}; known: {}", known.join(", ")),
        );
    }
    let times = |key: &str, given: &[String]| {
        let one = |(at, name): (usize, &String)| match known.intervals.get(name.as_str()) {
            Some(times) => Ok(times.clone()),
            None => wrong(
                format!("{path}.{key}[{at}]"),
                format!("there is no {name:?} in alerting.time_intervals"),
            ),
        };
        given
            .iter()
            .enumerate()
            .map(one)
            .collect::<Result<Vec<_>, Wrong>>()
    };
    let schedule = Schedule {
        mute: times("mute_time_intervals", &given.mute_time_intervals)?,
        active: times("active_time_intervals", &given.active_time_intervals)?,
    };
    let below = given.routes.iter().enumerate();
    let below = below.map(|(at, inner)| route(inner, &format!("{path}.routes[{at}]"), known));
    Ok(Route {
        receiver: given.receiver.clone(),
        group_by: given.group_by.clone(),
        group_wait: given.group_wait.map(millis),
        group_interval: given.group_interval.map(millis),
        repeat_interval: given.repeat_interval.map(millis),
        matchers: matchers(&format!("{path}.matchers"), &given.matchers)?,
        goes_on: given.r#continue,
        schedule,
        routes: below.collect::<Result<_, _>>()?,
    })
}

/// Reads a receiver.
struct Reader<'a> {
    config: &'a Config,
    receiver: &'a ReceiverSettings,
    defines: &'a str,
}

impl Reader<'_> {
    fn text(&self, path: &str, given: Option<&String>, default: &str) -> Result<Text, Wrong> {
        let own = given.map_or(default, String::as_str);
        Text::with(self.defines, own).map_err(|why| (path.to_owned(), why))
    }

    fn place(&self, path: &str, kind: &str, at: usize, send_resolved: bool, what: Kind) -> Place {
        let alerting = &self.config.alerting;
        Place {
            receiver: self.receiver.name.clone(),
            integration: format!("{kind}[{at}]"),
            setting: format!("alerting.{path}.{kind}_configs[{at}]"),
            send_resolved,
            kind: what,
            timeout: alerting.timeout.get(),
            retry: alerting.retry.clone(),
            rate_limit: alerting.rate_limit as usize,
        }
    }

    fn places(&self, path: &str) -> Result<Vec<Place>, Wrong> {
        let mut all = Vec::new();
        for (at, given) in self.receiver.alertmanager_configs.iter().enumerate() {
            let own = format!("{path}.alertmanager_configs[{at}].url");
            let Some(given_url) = &given.url else {
                return wrong(own, "is missing; write e.g. http://127.0.0.1:9093");
            };
            let mut url = address(&own, given_url, "leave it out; a token belongs into headers_file")?;
            let below = format!("{}/api/v2/alerts", url.path().trim_end_matches('/'));
            url.set_path(&below);
            let what = Kind::Alertmanager {
                url,
                headers_file: given.headers_file.clone(),
                tls: given.tls.clone(),
            };
            all.push(self.place(path, "alertmanager", at, given.send_resolved, what));
        }
        for (at, given) in self.receiver.webhook_configs.iter().enumerate() {
            let own = format!("{path}.webhook_configs[{at}]");
            let url = match (&given.url, &given.url_file) {
                (Some(url), None) => {
                    let instead = "put the whole address into a file, and its path into url_file";
                    Some(address(&format!("{own}.url"), url, instead)?)
                }
                (None, Some(_)) => None,
                _ => return wrong(own, "needs one of url and url_file"),
            };
            let what = Kind::Webhook {
                webhook: Webhook {
                    max_alerts: given.max_alerts as usize,
                },
                url,
                url_file: given.url_file.clone(),
                headers_file: given.headers_file.clone(),
                tls: given.tls.clone(),
            };
            all.push(self.place(path, "webhook", at, given.send_resolved, what));
        }
        for (at, given) in self.receiver.slack_configs.iter().enumerate() {
            let own = format!("{path}.slack_configs[{at}]");
            let Some(url_file) = given.api_url_file.clone() else {
                return wrong(own, "needs api_url_file: the webhook's address is a secret");
            };
            let what = Kind::Slack {
                slack: Slack {
                    channel: given.channel.clone(),
                    username: given.username.clone(),
                    title: self.text(&format!("{own}.title"), given.title.as_ref(), SUBJECT)?,
                    text: self.text(&format!("{own}.text"), given.text.as_ref(), BODY)?,
                },
                url_file,
                tls: given.tls.clone(),
            };
            all.push(self.place(path, "slack", at, given.send_resolved, what));
        }
        for (at, given) in self.receiver.pagerduty_configs.iter().enumerate() {
            let own = format!("{path}.pagerduty_configs[{at}]");
            let Some(key_file) = given.routing_key_file.clone() else {
                return wrong(own, "needs routing_key_file");
            };
            let what = Kind::PagerDuty {
                pagerduty: PagerDuty {
                    description: self.text(
                        &format!("{own}.description"),
                        given.description.as_ref(),
                        SUBJECT,
                    )?,
                    details: self.text(&format!("{own}.details"), given.details.as_ref(), BODY)?,
                    client: format!("geophone {}", self.config.host_name()),
                },
                url: address(&format!("{own}.url"), &given.url, "leave it out")?,
                key_file,
                tls: given.tls.clone(),
            };
            all.push(self.place(path, "pagerduty", at, given.send_resolved, what));
        }
        for (at, given) in self.receiver.email_configs.iter().enumerate() {
            let own = format!("{path}.email_configs[{at}]");
            let what = self.email(&own, given)?;
            all.push(self.place(path, "email", at, given.send_resolved, what));
        }
        for (at, given) in self.receiver.log_configs.iter().enumerate() {
            let own = format!("{path}.log_configs[{at}]");
            let what = Kind::Log(Log {
                text: self.text(&format!("{own}.text"), given.text.as_ref(), SUBJECT)?,
            });
            all.push(self.place(path, "log", at, given.send_resolved, what));
        }
        Ok(all)
    }
}

impl Reader<'_> {
    fn email(&self, own: &str, given: &EmailSettings) -> Result<Kind, Wrong> {
        let address = |name: &str, text: &str, error: &lettre::address::AddressError| {
            let why = format!("{text:?}: {error}; write e.g. ops@example.org");
            (format!("{own}.{name}"), why)
        };
        let server = given.smarthost.rsplit_once(':');
        let server = server.and_then(|(host, port)| Some((host, port.parse().ok()?)));
        let Some((host, port)) = server.filter(|(host, _)| !host.is_empty()) else {
            let why = format!(
                "{:?} is no host with a port; write e.g. mail.example.org:587",
                given.smarthost
            );
            return wrong(format!("{own}.smarthost"), why);
        };
        let from = given.from.parse();
        let to = given.to.parse();
        if given.auth_username.is_empty() != given.auth_password_file.is_none() {
            let why = "auth_username and auth_password_file go together; set both or none";
            return wrong(format!("{own}.auth_username"), why);
        }
        // Who is on the way can take STARTTLS out of what the server offers, and would be sent the password.
        if !given.require_tls
            && !given.auth_username.is_empty()
            && port != smtp::SUBMISSIONS
            && !is_local(host)
        {
            let why = "is false, and the password of auth_username could go over the net in clear; set it to true, or leave out \
                       auth_username and auth_password_file (a server on this host may have both)";
            return wrong(format!("{own}.require_tls"), why);
        }
        let html = given.html.as_ref();
        let html = html.map(|text| self.text(&format!("{own}.html"), Some(text), BODY));
        Ok(Kind::Email {
            email: Box::new(Email {
                subject: self.text(&format!("{own}.subject"), given.subject.as_ref(), SUBJECT)?,
                text: self.text(&format!("{own}.text"), given.text.as_ref(), BODY)?,
                html: html.transpose()?,
            }),
            route: Box::new(smtp::Route {
                from: from.map_err(|error| address("from", &given.from, &error))?,
                to: to.map_err(|error| address("to", &given.to, &error))?,
                host: host.trim_matches(['[', ']']).to_owned(),
                port,
                hello: given.hello.clone(),
                username: given.auth_username.clone(),
                require_tls: given.require_tls,
                tls: given.tls.clone(),
            }),
            password_file: given.auth_password_file.clone(),
        })
    }
}

/// Whether a mail server is on this host.
fn is_local(host: &str) -> bool {
    let ip = host.trim_matches(['[', ']']).parse::<IpAddr>();
    host.eq_ignore_ascii_case("localhost") || ip.is_ok_and(|ip| ip.is_loopback())
}

/// An address that may be shown: it is no place for secrets. `instead` says what to do with a query, which often is one.
fn address(path: &str, text: &str, instead: &str) -> Result<Url, Wrong> {
    let url = Url::parse(text)
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https"));
    match url {
        Some(url) if !url.username().is_empty() || url.password().is_some() => wrong(
            path,
            "has a user or password; put an authorization header into headers_file",
        ),
        Some(url) if url.query().is_some() => wrong(
            path,
            format!("has a query (?…), in which secrets are passed; {instead}"),
        ),
        Some(url) => Ok(url),
        None => {
            // What cannot be read as one may have a secret all the same.
            let shown = match text.contains(['@', '?']) {
                true => "it".to_owned(),
                false => format!("{text:?}"),
            };
            wrong(
                path,
                format!("{shown} is no http address; write e.g. https://host/path"),
            )
        }
    }
}
