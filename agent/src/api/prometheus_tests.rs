//! A real Prometheus scrapes a real server: `cargo test -p agent --lib -- --ignored a_real_prometheus`.

use super::ApiSettings;
use super::tests::{Server, start};
use crate::export::testing::{histogram, snapshot};
use crate::export::testing_tls::Directory;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

struct Prometheus {
    child: Child,
    url: String,
    _directory: Directory,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Prometheus {
    fn start(target: &Server, arguments: &[&str]) -> Self {
        let directory = Directory::new();
        let config = format!(
            "global: {{scrape_interval: 500ms, scrape_timeout: 500ms}}\n\
             scrape_configs: [{{job_name: geophone, static_configs: [{{targets: ['{}']}}]}}]\n",
            target.address
        );
        let config = directory.write("prometheus.yml", &config);
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                config.with_file_name("data").display()
            ))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .args(arguments)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self {
            child,
            url: format!("http://127.0.0.1:{port}/api/v1/query"),
            _directory: directory,
        }
    }

    /// The first value of a query that gives one, within ten seconds.
    async fn query(&self, query: &str) -> f64 {
        let mut url = reqwest::Url::parse(&self.url).unwrap();
        url.query_pairs_mut().append_pair("query", query);
        for _ in 0..100 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let Ok(response) = reqwest::get(url.clone()).await else {
                continue;
            };
            let Ok(body) = response.text().await else { continue };
            let answer: serde_json::Value = serde_json::from_str(&body).unwrap_or_default();
            if let Some(value) = answer["data"]["result"][0]["value"][1].as_str() {
                return value.parse().unwrap();
            }
        }
        panic!("no answer to {query}");
    }
}

#[tokio::test]
#[ignore = "needs prometheus"]
async fn a_real_prometheus_reads_text_and_native_histograms() {
    let server = start(ApiSettings::default());
    server.snapshots.send_replace(Arc::new(snapshot(2, 1)));
    let text = Prometheus::start(&server, &[]);
    let native = Prometheus::start(&server, &["--enable-feature=native-histograms"]);
    let want = histogram(11);
    let count = want.count as f64;
    assert_eq!(
        text.query("geophone_test_rtt_seconds_count{otel_metric_overflow=\"\"}")
            .await,
        count
    );
    assert_eq!(
        native
            .query("histogram_count(geophone_test_rtt_seconds{otel_metric_overflow=\"\"})")
            .await,
        count
    );
    assert_eq!(
        native
            .query("histogram_sum(geophone_test_rtt_seconds{otel_metric_overflow=\"\"})")
            .await,
        want.sum
    );
    for q in [0.2, 0.5, 0.9] {
        let truth = want.quantile(q).unwrap();
        for (peer, suffix, octaves) in [(&text, "_bucket", 1.0), (&native, "", 1.0 / 8.0)] {
            let query = format!(
                "histogram_quantile({q}, geophone_test_rtt_seconds{suffix}{{otel_metric_overflow=\"\"}})"
            );
            let got = peer.query(&query).await;
            assert!(
                (got / truth).log2().abs() <= octaves,
                "{query}: {got} for {truth}"
            );
        }
    }
    for peer in [&text, &native] {
        assert_eq!(
            peer.query("geophone_test_bytes_total{otel_metric_overflow=\"\"}")
                .await,
            1_011.0
        );
        assert_eq!(
            peer.query("target_info{host=\"host-1\",region=\"eu\"}").await,
            1.0
        );
        assert_eq!(peer.query("up").await, 1.0);
    }
}
