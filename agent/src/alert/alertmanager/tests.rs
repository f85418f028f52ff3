use super::{AGAIN, Alertmanager, all};
use crate::alert::Rules;
use crate::config::{Config, StoreKind};
use crate::export::testing_tls::install_crypto;
use crate::memory::Memory;
use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use serde_json::Value;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use tempfile::TempDir;

/// When the alert fires and when it ends, whatever is remembered.
const FIRES: i64 = 1_700_000_000_000;
const ENDS: i64 = FIRES + 300_000;

fn rules(directory: &TempDir, config: &mut Config) -> Arc<Rules> {
    let long = "x".repeat(1 << 20);
    let text = format!(
        "groups:\n- name: g\n  interval: 1s\n  rules:\n  - alert: Late\n    expr: vector(time()) >= {} < {}\n    labels:\n      \
         hostile: \"\\\"}}]\\n</b>\\u0007\"\n      site: own\n    annotations:\n      long: {long}\n      \
         value: '{{{{ $value }}}} {{{{ $labels.nothing }}}}'\n  - alert: Pending\n    expr: vector(1)\n    for: 1h\n",
        FIRES / 1000,
        ENDS / 1000
    );
    let file = directory.path().join("r.yaml");
    std::fs::write(&file, text).unwrap();
    config.store.kind = StoreKind::Memory;
    config.rules.files = vec![file];
    config.host = "node-1".to_owned();
    for (name, value) in [("site", "external"), ("fleet", "f")] {
        config
            .rules
            .external_labels
            .insert(name.to_owned(), value.to_owned());
    }
    let memory = Memory::open(&config.store).unwrap().map(Arc::new);
    Rules::open(config, memory.as_ref(), None).unwrap()
}

type Got = Arc<Mutex<(Vec<StatusCode>, Vec<(String, Value)>)>>;

async fn take(State(got): State<Got>, headers: HeaderMap, body: String) -> (StatusCode, &'static str) {
    let mut got = got.lock().unwrap();
    let status = got.0.pop().unwrap_or(StatusCode::OK);
    let token = headers
        .get("authorization")
        .map(|value| value.to_str().unwrap().to_owned());
    if status.is_success() {
        got.1
            .push((token.unwrap_or_default(), serde_json::from_str(&body).unwrap()));
    }
    (status, "said")
}

/// An Alertmanager that answers with these, the last first, and then takes what comes.
async fn sink(answers: &[StatusCode]) -> (String, Got) {
    install_crypto();
    let got: Got = Arc::new(Mutex::new((answers.to_vec(), Vec::new())));
    let router = Router::new()
        .route("/am/api/v2/alerts", post(take))
        .with_state(got.clone());
    let router = router.layer(axum::extract::DefaultBodyLimit::disable());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/am/", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    (url, got)
}

fn count(manager: &Alertmanager) -> (u64, u64, u64) {
    let stats = &manager.stats;
    let all = [&stats.sent, &stats.refused, &stats.failures];
    let [sent, refused, failures] = all.map(|counter| counter.load(Relaxed));
    (sent, refused, failures)
}

#[tokio::test]
async fn an_alert_is_told_until_it_is_taken_then_each_minute_then_its_end() {
    let directory = tempfile::tempdir().unwrap();
    let (url, got) = sink(&[StatusCode::TOO_MANY_REQUESTS, StatusCode::INTERNAL_SERVER_ERROR]).await;
    let mut config = Config::default();
    let token = directory.path().join("token");
    std::fs::write(&token, "secret\n").unwrap();
    config.rules.alertmanagers = vec![url];
    config.rules.alertmanager_token_file = Some(token);
    let rules = rules(&directory, &mut config);
    let mut manager = all(&config).unwrap().remove(0);
    rules.evaluate(FIRES - 1000);
    assert_eq!(manager.send(&rules, FIRES - 1000).await, Ok(()));
    rules.evaluate(FIRES);
    assert_eq!(manager.send(&rules, FIRES).await, Err(()));
    assert_eq!(manager.send(&rules, FIRES).await, Err(()));
    assert_eq!(manager.send(&rules, FIRES).await, Ok(()));
    assert_eq!(count(&manager), (1, 0, 2));
    assert_eq!(manager.send(&rules, FIRES + AGAIN - 1).await, Ok(()));
    assert_eq!(manager.send(&rules, FIRES + AGAIN).await, Ok(()));
    rules.evaluate(ENDS);
    assert_eq!(manager.send(&rules, ENDS).await, Ok(()));
    assert_eq!(manager.send(&rules, ENDS + 1000).await, Ok(()));
    rules.evaluate(ENDS + 16 * 60_000);
    assert_eq!(manager.send(&rules, ENDS + 16 * 60_000).await, Ok(()));
    let got = got.lock().unwrap().1.clone();
    let ends: Vec<&str> = got
        .iter()
        .map(|(_, body)| body[0]["endsAt"].as_str().unwrap())
        .collect();
    let wanted = [
        "2023-11-14T22:17:20.000Z",
        "2023-11-14T22:18:20.000Z",
        "2023-11-14T22:18:20.000Z",
    ];
    assert_eq!(ends, wanted);
    let (token, body) = &got[0];
    assert_eq!(token, "Bearer secret");
    let alert = &body[0];
    assert_eq!(body.as_array().unwrap().len(), 1);
    assert_eq!(alert["startsAt"], "2023-11-14T22:13:20.000Z");
    let labels = serde_json::json!({
        "alertname": "Late", "hostile": "\"}]\n</b>\u{7}", "site": "own", "fleet": "f", "instance": "node-1",
    });
    assert_eq!(alert["labels"], labels);
    assert_eq!(alert["annotations"]["long"].as_str().unwrap().len(), 1 << 20);
    assert_eq!(alert["annotations"]["value"], "1.7e+09 ");
    let source = alert["generatorURL"].as_str().unwrap();
    assert!(
        source.starts_with("http://127.0.0.1:9779/api/v1/query?query=vector%28time%28%29%29+%3E%3D"),
        "{source}"
    );
}

#[tokio::test]
async fn one_that_was_away_hears_of_what_came_and_went() {
    let directory = tempfile::tempdir().unwrap();
    let (url, got) = sink(&[StatusCode::BAD_GATEWAY]).await;
    let mut config = Config::default();
    config.rules.alertmanagers = vec![url];
    let rules = rules(&directory, &mut config);
    let mut manager = all(&config).unwrap().remove(0);
    rules.evaluate(FIRES);
    assert_eq!(manager.send(&rules, FIRES).await, Err(()));
    rules.evaluate(ENDS);
    for after in [0, 1000, AGAIN] {
        assert_eq!(manager.send(&rules, ENDS + after).await, Ok(()));
    }
    let got = got.lock().unwrap().1.clone();
    let ends: Vec<&str> = got
        .iter()
        .map(|(_, body)| body[0]["endsAt"].as_str().unwrap())
        .collect();
    // For a minute as one that fires, so that it is noticed; then its end, which was before.
    assert_eq!(ends, ["2023-11-14T22:19:20.000Z", "2023-11-14T22:18:20.000Z"]);
}

#[tokio::test]
async fn what_is_refused_for_good_is_counted_and_not_tried_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let (url, got) = sink(&[StatusCode::BAD_REQUEST]).await;
    let mut config = Config::default();
    config.rules.alertmanagers = vec![url];
    let rules = rules(&directory, &mut config);
    let mut manager = all(&config).unwrap().remove(0);
    rules.evaluate(FIRES);
    assert_eq!(manager.send(&rules, FIRES).await, Ok(()));
    assert_eq!(manager.send(&rules, FIRES + 1000).await, Ok(()));
    assert_eq!((count(&manager), got.lock().unwrap().1.len()), ((0, 1, 0), 0));
    assert_eq!(manager.send(&rules, FIRES + AGAIN).await, Ok(()));
    assert_eq!(count(&manager), (1, 1, 0));
}

#[tokio::test]
async fn one_that_does_not_answer_delays_no_other() {
    let directory = tempfile::tempdir().unwrap();
    let (url, got) = sink(&[]).await;
    // It takes connections and never answers.
    let dead = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut config = Config::default();
    config.rules.alertmanagers = vec![format!("http://{}", dead.local_addr().unwrap()), url];
    let rules = rules(&directory, &mut config);
    let tasks = all(&config).unwrap().into_iter().map(|manager| {
        let rules = rules.clone();
        tokio::spawn(manager.run(rules, std::future::pending()))
    });
    let tasks: Vec<_> = tasks.collect();
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    let evaluated = rules.clone();
    tokio::task::spawn_blocking(move || evaluated.evaluate(FIRES))
        .await
        .unwrap();
    let begin = std::time::Instant::now();
    while got.lock().unwrap().1.is_empty() {
        assert!(begin.elapsed().as_secs() < 5, "nothing came");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    tasks.iter().for_each(tokio::task::JoinHandle::abort);
}

#[test]
fn an_address_that_is_none_is_named() {
    install_crypto();
    for given in ["127.0.0.1:9093", "ftp://h", "http://", ""] {
        let mut config = Config::default();
        config.rules.alertmanagers = vec!["http://ok:9093".to_owned(), given.to_owned()];
        let error = all(&config).err().unwrap().to_string();
        assert!(
            error.starts_with(&format!("rules.alertmanagers[1] {given:?}: ")),
            "{error}"
        );
    }
}

/// `PATH=… cargo test -p agent --lib -- --ignored a_real_alertmanager`
#[tokio::test]
#[ignore = "needs prometheus-alertmanager"]
async fn a_real_alertmanager_has_the_alert_and_its_end() {
    install_crypto();
    let directory = tempfile::tempdir().unwrap();
    let own = directory.path().join("am.yml");
    std::fs::write(&own, "route: {receiver: none}\nreceivers: [{name: none}]\n").unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let mut child = std::process::Command::new("prometheus-alertmanager")
        .arg(format!("--config.file={}", own.display()))
        .arg(format!("--storage.path={}", directory.path().display()))
        .arg(format!("--web.listen-address=127.0.0.1:{port}"))
        .arg("--cluster.listen-address=")
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let mut config = Config::default();
    config.rules.alertmanagers = vec![format!("http://127.0.0.1:{port}")];
    let rules = rules(&directory, &mut config);
    let mut manager = all(&config).unwrap().remove(0);
    let now = crate::memory::now();
    // The rule's times are long ago; to the Alertmanager only what is told counts.
    rules.evaluate(FIRES);
    let begin = std::time::Instant::now();
    while manager.send(&rules, now).await.is_err() {
        assert!(begin.elapsed().as_secs() < 20);
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    let ask = async || -> Value {
        let answer = reqwest::get(format!("http://127.0.0.1:{port}/api/v2/alerts"))
            .await
            .unwrap();
        serde_json::from_str(&answer.text().await.unwrap()).unwrap()
    };
    let alerts = ask().await;
    rules.evaluate(ENDS);
    manager.send(&rules, now + 1000).await.unwrap();
    let after = ask().await;
    let _ = child.kill();
    let _ = child.wait();
    assert_eq!(alerts[0]["labels"]["hostile"], "\"}]\n</b>\u{7}");
    assert_eq!(alerts[0]["status"]["state"], "active");
    assert_eq!(after.as_array().unwrap().len(), 0, "{after}");
}
