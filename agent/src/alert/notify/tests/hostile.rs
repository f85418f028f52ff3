use super::*;
use crate::alert::notify::view;
use crate::alert::view::Told;

/// Cause: labels and annotations of a megabyte, of what an enemy writes. Seen: places of every kind are told of all these alerts,
/// also after a restart; none breaks a payload, and none takes the room of another.
#[tokio::test]
async fn a_megabyte_gets_from_the_rule_to_every_place() {
    let directory = tempfile::tempdir().unwrap();
    let (url, got) = sink(&[]).await;
    let secret = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    // Megabytes are read by a sink that has not been optimized.
    let text = text(&directory.path().join("a"), &[&url])
        .replace("group_by: [alertname]", "group_by: [incident]")
        .replace("timeout: 300ms", "timeout: 20s");
    let config = parse(&format!(
        "{text}    alertmanager_configs: [{{url: '{url}'}}]\n    slack_configs: [{{api_url_file: '{}'}}]\n    \
         pagerduty_configs: [{{routing_key_file: '{}', url: '{url}'}}]\n    log_configs: [{{}}]\n",
        secret("slack", &url),
        secret("key", "k")
    ))
    .unwrap();
    let long = "\"}],\r\n<script>&<!channel>{{ .X }}\u{0}\u{202e}é\\".repeat(30_000);
    assert!(long.len() > 1 << 20);
    let alerts: Vec<Alert> = (0..10)
        .map(|at| {
            let big = format!("{long}{at}");
            let told = Told {
                labels: Labels::new([("alertname", "Big"), ("peer", "db"), ("big", big.as_str())]),
                annotations: Arc::new(BTreeMap::from([("summary".to_owned(), long.clone())])),
                active_at: now() - 60_000,
                fired_at: now() - 60_000,
                resolved_at: None,
                query: "up == 0".to_owned(),
                interval: 1000,
                unknown: false,
            };
            view::alert(&told, &Labels::new([("instance", "n")]), "http://h")
        })
        .collect();
    // Nothing is delivered before the restart.
    let first = Notifier::open(&config).unwrap();
    first.look(now(), &alerts, Edges::default);
    let one = &first.incidents()[0];
    assert_eq!(one["alerts"].as_array().unwrap().len(), 10);
    assert!(one.to_string().len() < 20_000);
    drop(first);
    let running = Running::start(&config);
    for (place, lane) in running.notifier.lanes().enumerate() {
        let begin = Instant::now();
        while lane.stats.delivered.load(Relaxed) == 0 {
            assert!(
                begin.elapsed() < Duration::from_secs(20),
                "{}: {:?}",
                lane.place.name(),
                running.counts(place)
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(running.counts(place)[2], 0, "{}", lane.place.name());
    }
    let told = got.lock().unwrap().1.clone();
    let of = |told: &Value| match told.as_array() {
        Some(alerts) => alerts.len(),
        None => told["alerts"].as_array().map_or(0, Vec::len),
    };
    // The webhook's and the Alertmanager's payload have all of them; texts for people say how many.
    let whole: Vec<&Value> = told.iter().filter(|told| of(told) > 0).collect();
    assert_eq!(whole.iter().map(|told| of(told)).collect::<Vec<_>>(), [10, 10]);
    for told in whole {
        let first = told.get("alerts").unwrap_or(told);
        let value = first[0]["labels"]["big"].as_str().unwrap();
        assert!(value.starts_with("\"}],\r\n<script>") && value.len() < 66_000);
        assert!(value.contains(&format!("… ({} bytes, ", long.len() + 1)));
    }
    running.stop().await;
}
