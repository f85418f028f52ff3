mod hostile;
mod intervals;
mod replay;

use super::Notifier;
use super::lane::Stats;
use crate::config::{Config, HumanDuration};
use crate::export::testing_tls::install_crypto;
use crate::memory::now;
use agent_notify::Alert;
use agent_notify::incident::Edges;
use agent_store::labels::Labels;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::watch;

fn alert(name: &str, peer: &str, ends_at: Option<i64>) -> Alert {
    Alert {
        labels: Labels::new([("alertname", name), ("peer", peer)]),
        annotations: Arc::new(BTreeMap::new()),
        active_at: now() - 60_000,
        starts_at: now() - 60_000,
        ends_at,
        generator_url: String::new(),
    }
}

/// What a sink answers, the last first, and what it has taken, with the time of each request.
type Got = Arc<Mutex<(Vec<StatusCode>, Vec<Value>, Vec<Instant>)>>;

async fn take(State(got): State<Got>, body: String) -> Response {
    let mut got = got.lock().unwrap();
    got.2.push(Instant::now());
    let status = got.0.pop().unwrap_or(StatusCode::OK);
    if status.is_success() {
        got.1.push(serde_json::from_str(&body).unwrap());
        return "ok".into_response();
    }
    (status, [(header::RETRY_AFTER, "1")], "no").into_response()
}

/// Takes all but what is of one name.
async fn take_but_poison(State(got): State<Got>, body: String) -> Response {
    let told: Value = serde_json::from_str(&body).unwrap();
    if told["commonLabels"]["alertname"] == "Poison" {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    got.lock().unwrap().1.push(told);
    "ok".into_response()
}

async fn sink(answers: &[StatusCode]) -> (String, Got) {
    install_crypto();
    let got: Got = Arc::new(Mutex::new((answers.to_vec(), Vec::new(), Vec::new())));
    let router = Router::new().route("/hook", post(take));
    let router = router
        .route("/hook/api/v2/alerts", post(take))
        .with_state(got.clone());
    let router = router.layer(axum::extract::DefaultBodyLimit::disable());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    (url, got)
}

fn parse(yaml: &str) -> Result<Config, String> {
    Config::parse("f", yaml).map_err(|error| error.to_string())
}

/// A receiver of these webhooks, which is told at once.
fn config(directory: &Path, urls: &[&str]) -> Config {
    parse(&text(directory, urls)).unwrap()
}

fn text(directory: &Path, urls: &[&str]) -> String {
    let hooks: Vec<String> = urls.iter().map(|url| format!("{{url: '{url}'}}")).collect();
    format!(
        "alerting:\n  directory: {}\n  timeout: 300ms\n  deduplication_window: 0s\n  retry: {{initial: 10ms, max: 2s, max_elapsed: 1h}}\n  \
         route: {{receiver: ops, group_by: [alertname], group_wait: 0s, group_interval: 10ms}}\n  receivers:\n  - name: ops\n    \
         webhook_configs: [{}]\n",
        directory.display(),
        hooks.join(", ")
    )
}

/// A notifier at work, as in the agent but for the rules.
struct Running {
    notifier: Arc<Notifier>,
    over: watch::Sender<bool>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Running {
    fn start(config: &Config) -> Self {
        let notifier = Arc::new(Notifier::open(config).unwrap());
        let (over, ended) = watch::channel(false);
        let tasks = notifier.deliver(&ended);
        Self {
            notifier,
            over,
            tasks,
        }
    }

    fn look(&self, alerts: &[Alert]) {
        self.notifier.look(now(), alerts, Edges::default);
    }

    /// Looks until it is so.
    async fn until(&self, alerts: &[Alert], what: impl Fn() -> bool) {
        let begin = Instant::now();
        while !what() {
            assert!(
                begin.elapsed() < Duration::from_secs(20),
                "it does not come about"
            );
            self.look(alerts);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn stats(&self, place: usize) -> &Stats {
        &self.notifier.lanes().nth(place).unwrap().stats
    }

    /// Made, delivered, dropped, in flight: the law must hold.
    fn counts(&self, place: usize) -> [u64; 4] {
        let stats = self.stats(place);
        let dropped = stats.dropped.iter().map(|count| count.load(Relaxed)).sum();
        let [made, delivered, flying] =
            [&stats.made, &stats.delivered, &stats.in_flight].map(|count| count.load(Relaxed));
        assert_eq!(made, delivered + dropped + flying);
        [made, delivered, dropped, flying]
    }

    /// As a SIGKILL does: no task gets to its end.
    fn kill(self) {
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }

    async fn stop(self) {
        self.over.send_replace(true);
        for task in self.tasks {
            task.await.unwrap();
        }
    }
}

fn taken(got: &Got) -> Vec<(String, String)> {
    let got = got.lock().unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let all = got.1.iter();
    all.map(|told| (text(&told["status"]), text(&told["commonLabels"]["alertname"])))
        .collect()
}

fn pair(status: &str, name: &str) -> (String, String) {
    (status.to_owned(), name.to_owned())
}

#[tokio::test]
async fn a_dead_place_delays_no_other_and_has_it_all_after_a_kill() {
    let directory = tempfile::tempdir().unwrap();
    let (url, got) = sink(&[]).await;
    // It takes connections and never answers.
    let dead = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = dead.local_addr().unwrap();
    let config = config(directory.path(), &[&format!("http://{at}/hook"), &url]);
    let running = Running::start(&config);
    let fires = [alert("A", "\"}\r\n<b>", None)];
    running.until(&fires, || taken(&got).len() == 1).await;
    let over = [alert("A", "\"}\r\n<b>", Some(now()))];
    running.until(&over, || taken(&got).len() == 2).await;
    assert_eq!(taken(&got), [pair("firing", "A"), pair("resolved", "A")]);
    running
        .until(&over, || running.stats(0).retries.load(Relaxed) > 0)
        .await;
    assert_eq!(running.counts(0), [2, 0, 0, 2]);
    running.until(&over, || running.counts(1) == [2, 2, 0, 0]).await;
    running.kill();
    // Another one at the same address, and the same configuration.
    drop(dead);
    tokio::time::sleep(Duration::from_millis(50)).await;
    let late: Got = Arc::default();
    let router = Router::new().route("/hook", post(take)).with_state(late.clone());
    let listener = tokio::net::TcpListener::bind(at).await.unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    let begin = Instant::now();
    let again = loop {
        // The lock goes with the tasks that were killed.
        match Notifier::open(&config) {
            Ok(notifier) => break notifier,
            Err(error) => assert!(begin.elapsed() < Duration::from_secs(5), "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let (over, ended) = watch::channel(false);
    let notifier = Arc::new(again);
    let running = Running {
        tasks: notifier.deliver(&ended),
        notifier,
        over,
    };
    running.until(&[], || taken(&late).len() == 2).await;
    assert_eq!(taken(&late), [pair("firing", "A"), pair("resolved", "A")]);
    running.until(&[], || running.counts(0) == [2, 2, 0, 0]).await;
    assert_eq!(taken(&got).len(), 2, "the other place is told nothing twice");
    running.stop().await;
}

#[tokio::test]
async fn a_place_that_asks_for_patience_gets_it_and_what_is_refused_is_due_again() {
    let directory = tempfile::tempdir().unwrap();
    let answers = [StatusCode::BAD_REQUEST, StatusCode::TOO_MANY_REQUESTS];
    let (url, got) = sink(&answers).await;
    let running = Running::start(&config(directory.path(), &[&url]));
    let fires = [alert("A", "x", None)];
    running.until(&fires, || taken(&got).len() == 1).await;
    let times = got.lock().unwrap().2.clone();
    assert_eq!(times.len(), 3);
    assert!(times[1] - times[0] >= Duration::from_secs(1), "Retry-After: 1");
    running.until(&fires, || running.counts(0) == [2, 1, 1, 0]).await;
    assert_eq!(running.stats(0).dropped[1].load(Relaxed), 1);
    running.stop().await;
}

#[tokio::test]
async fn after_an_outage_a_place_is_told_how_it_is_now() {
    let directory = tempfile::tempdir().unwrap();
    let (url, got) = sink(&[StatusCode::SERVICE_UNAVAILABLE; 1000]).await;
    let mut config = config(directory.path(), &[&url]);
    config.alerting.stale_after = HumanDuration::from_secs(0);
    let running = Running::start(&config);
    let (fires, over) = ([alert("A", "x", None)], [alert("A", "x", Some(now()))]);
    for (made, alerts) in [(1, &fires), (2, &over), (3, &fires)] {
        running.until(alerts, || running.counts(0)[0] == made).await;
    }
    got.lock().unwrap().0.clear();
    running.until(&fires, || running.counts(0) == [3, 1, 2, 0]).await;
    assert_eq!(running.stats(0).dropped[3].load(Relaxed), 2);
    assert_eq!(taken(&got), [pair("firing", "A")]);
    running.stop().await;
}

/// Cause: an alert fires and ends while the Alertmanager is away. Seen: once it is there it has the alert as one that fires, for
/// as long as it takes to notify.
#[tokio::test]
async fn an_alertmanager_that_was_away_hears_of_what_came_and_went() {
    let directory = tempfile::tempdir().unwrap();
    let (url, got) = sink(&[StatusCode::SERVICE_UNAVAILABLE; 1000]).await;
    let text = text(directory.path(), &[&url]).replace("webhook_configs", "alertmanager_configs");
    let running = Running::start(&parse(&text).unwrap());
    let label = "\"}\r\n<b>";
    let (since, fires) = (now(), [alert("A", label, None)]);
    running.notifier.look(since - 10_000, &fires, Edges::default);
    let over = [alert("A", label, Some(since - 9_000))];
    running.notifier.look(since - 8_000, &over, Edges::default);
    assert_eq!(running.counts(0), [2, 0, 0, 2]);
    got.lock().unwrap().0.clear();
    running.until(&over, || running.counts(0) == [2, 2, 0, 0]).await;
    let told = got.lock().unwrap().1.clone();
    let soon = agent_notify::alert::time(Some(since + 50_000));
    for body in &told {
        assert_eq!(
            (body.as_array().unwrap().len(), &body[0]["labels"]["alertname"]),
            (1, &Value::from("A"))
        );
        assert_eq!(body[0]["labels"]["peer"], label);
        assert!(
            body[0]["endsAt"].as_str().unwrap() > soon.as_str(),
            "{}",
            body[0]["endsAt"]
        );
    }
    running.stop().await;
}

/// Cause: a notification has waited for longer than it is tried. Seen: it is not delivered as news; what still fires is told anew.
#[tokio::test]
async fn what_has_waited_for_too_long_is_not_delivered() {
    let directory = tempfile::tempdir().unwrap();
    let (url, got) = sink(&[]).await;
    let running = Running::start(&config(directory.path(), &[&url]));
    let (old, fires) = (now() - 7_200_000, [alert("A", "x", None), alert("B", "x", None)]);
    running.notifier.look(old, &fires, Edges::default);
    let begin = Instant::now();
    while running.counts(0) != [2, 0, 2, 0] {
        assert!(
            begin.elapsed() < Duration::from_secs(20),
            "{:?}",
            running.counts(0)
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(running.stats(0).dropped[2].load(Relaxed), 2);
    let is_told = |status, name| taken(&got).contains(&pair(status, name));
    running.until(&fires[..1], || is_told("firing", "A")).await;
    assert!(!is_told("firing", "B"), "{:?}", taken(&got));
    running.stop().await;
}

#[tokio::test]
async fn what_is_never_taken_delays_nothing_of_another_group() {
    install_crypto();
    let directory = tempfile::tempdir().unwrap();
    let got: Got = Arc::default();
    let router = Router::new().route("/hook", post(take_but_poison));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let router = router.with_state(got.clone());
    tokio::spawn(async move { axum::serve(listener, router).await });
    let yaml = text(directory.path(), &[&url]);
    // Half of it at least is waited, longer than `until` is patient.
    let config = parse(&yaml.replace("initial: 10ms, max: 2s", "initial: 2m, max: 2m")).unwrap();
    let running = Running::start(&config);
    let fires = [alert("Poison", "x", None), alert("B", "x", None)];
    let retries = || running.stats(0).retries.load(Relaxed);
    running.until(&fires[..1], || retries() == 1).await;
    let delivered = || running.stats(0).delivered.load(Relaxed);
    running.until(&fires, || delivered() == 1).await;
    assert_eq!(taken(&got), [pair("firing", "B")]);
    assert_eq!(running.counts(0), [2, 1, 0, 1]);
    running.stop().await;
}

#[tokio::test]
async fn no_more_than_the_limit_in_a_minute() {
    let directory = tempfile::tempdir().unwrap();
    let (url, got) = sink(&[]).await;
    let mut config = config(directory.path(), &[&url]);
    config.alerting.rate_limit = 3;
    let running = Running::start(&config);
    let fires: Vec<Alert> = (0..5)
        .map(|number| alert(&number.to_string(), "x", None))
        .collect();
    running.until(&fires, || taken(&got).len() == 3).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!((taken(&got).len(), running.counts(0)), (3, [5, 3, 0, 2]));
    running.stop().await;
}

#[tokio::test]
async fn a_directory_has_one_agent() {
    install_crypto();
    let directory = tempfile::tempdir().unwrap();
    let config = config(directory.path(), &["http://127.0.0.1:1/"]);
    let first = Notifier::open(&config).unwrap();
    let error = Notifier::open(&config).err().unwrap().to_string();
    assert!(error.contains("another agent has it"), "{error}");
    drop(first);
    Notifier::open(&config).unwrap();
}

#[test]
fn every_mistake_is_one_line_with_its_path() {
    let hook = "webhook_configs: [{url: 'http://h/'}]";
    let mail = |smarthost: &str| {
        let login = "auth_username: u, auth_password_file: /p, require_tls: false";
        let who = "to: a@b.org, from: c@b.org";
        format!(
            "{{route: {{receiver: r}}, receivers: [{{name: r, email_configs: [{{smarthost: '{smarthost}', {who}, {login}}}]}}]}}"
        )
    };
    for (alerting, wanted) in [
        (
            "{route: {receiver: r}}".to_owned(),
            "f:1: alerting.route: there are no receivers",
        ),
        (
            format!("{{receivers: [{{name: r, {hook}}}]}}"),
            "alerting.route.receiver: the root needs a receiver",
        ),
        (
            format!("{{route: {{receiver: x}}, receivers: [{{name: r, {hook}}}]}}"),
            "alerting.route.receiver: there is no receiver \"x\"; known: r",
        ),
        (
            format!(
                "{{route: {{receiver: r, routes: [{{receiver: y}}]}}, receivers: [{{name: r, {hook}}}]}}"
            ),
            "alerting.route.routes[0].receiver: there is no receiver \"y\"",
        ),
        (
            format!(
                "{{route: {{receiver: r, routes: [{{matchers: ['a~b']}}]}}, receivers: [{{name: r, {hook}}}]}}"
            ),
            "alerting.route.routes[0].matchers[0]: \"a~b\" has none of",
        ),
        (
            format!(
                "{{route: {{receiver: r, routes: [{{matcher: ['a=b']}}]}}, receivers: [{{name: r, {hook}}}]}}"
            ),
            "unknown key \"matcher\" in alerting.route.routes[0]; did you mean \"matchers\"?",
        ),
        (
            format!("{{route: {{receiver: r, repeat_interval: 1s}}, receivers: [{{name: r, {hook}}}]}}"),
            "alerting.route.repeat_interval: is shorter than group_interval",
        ),
        (
            format!("{{retry: {{max: 30s, max_elapsed: 1m}}, receivers: [{{name: r, {hook}}}]}}"),
            "alerting.retry.max_elapsed: 1m is out of range; it is more than a minute",
        ),
        (
            "{receivers: [{name: r}]}".to_owned(),
            "alerting.receivers[0]: it tells nobody",
        ),
        (
            format!("{{receivers: [{{name: r, {hook}}}, {{name: r, {hook}}}]}}"),
            "alerting.receivers[1].name: \"r\"",
        ),
        (
            "{receivers: [{name: r, webhook_configs: [{url: 'h:80'}]}]}".to_owned(),
            "alerting.receivers[0].webhook_configs[0].url: \"h:80\" is no http address",
        ),
        (
            "{receivers: [{name: r, webhook_configs: [{url: 'htp://u:secret@h'}]}]}".to_owned(),
            "alerting.receivers[0].webhook_configs[0].url: it is no http address",
        ),
        (
            "{receivers: [{name: r, webhook_configs: [{url: 'http://u:secret@h'}]}]}".to_owned(),
            "alerting.receivers[0].webhook_configs[0].url: has a user or password",
        ),
        (
            "{receivers: [{name: r, webhook_configs: [{url: 'http://h/x?token=secret@'}]}]}".to_owned(),
            "alerting.receivers[0].webhook_configs[0].url: has a query (?…), in which secrets are passed; put the whole address into a file, and its path into url_file",
        ),
        (
            "{receivers: [{name: r, webhook_configs: [{url: 'htp://h?secret=secret'}]}]}".to_owned(),
            "alerting.receivers[0].webhook_configs[0].url: it is no http address",
        ),
        (
            "{receivers: [{name: r, alertmanager_configs: [{url: 'http://h?token=secret@'}]}]}".to_owned(),
            "alerting.receivers[0].alertmanager_configs[0].url: has a query (?…), in which secrets are passed; leave it out; a token belongs into headers_file",
        ),
        (
            "{receivers: [{name: r, pagerduty_configs: [{routing_key_file: /k, url: 'http://h?x'}]}]}"
                .to_owned(),
            "alerting.receivers[0].pagerduty_configs[0].url: has a query (?…), in which secrets are passed; leave it out",
        ),
        (
            mail("mail.example.org:587"),
            "alerting.receivers[0].email_configs[0].require_tls: is false, and the password of auth_username could go over the net in clear; set it to true, or leave out auth_username",
        ),
        (
            "{receivers: [{name: r, alertmanager_configs: [{}]}]}".to_owned(),
            "alerting.receivers[0].alertmanager_configs[0].url: is missing; write e.g. http://127.0.0.1:9093",
        ),
        (
            "{receivers: [{name: r, slack_configs: [{channel: '#x'}]}]}".to_owned(),
            "alerting.receivers[0].slack_configs[0]: needs api_url_file",
        ),
        (
            "{receivers: [{name: r, log_configs: [{text: '{{ .Status'}]}]}".to_owned(),
            "alerting.receivers[0].log_configs[0].text: ",
        ),
        (
            "{templates: [/nowhere.tmpl]}".to_owned(),
            "alerting.templates[0]: template /nowhere.tmpl: No such file",
        ),
        (
            "{inhibit_rules: [{source_matchers: ['a=b']}]}".to_owned(),
            "alerting.inhibit_rules[0].target_matchers: is empty",
        ),
        (
            "{rate_limit: 0}".to_owned(),
            "alerting.rate_limit: 0 is out of range",
        ),
        (
            "{retry: {initial: 0s}}".to_owned(),
            "alerting.retry.initial: 0s is out of range",
        ),
    ] {
        let error = parse(&format!("alerting: {alerting}")).unwrap_err();
        assert!(
            error.contains(wanted) && !error.contains("secret@") && !error.contains('\n'),
            "{alerting}: {error}"
        );
    }
    // Nobody is on the way, and at this port nothing is sent in clear.
    for smarthost in ["localhost:25", "127.0.0.1:25", "[::1]:25", "mail.example.org:465"] {
        parse(&format!("alerting: {}", mail(smarthost))).unwrap();
    }
}
