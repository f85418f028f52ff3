//! Files that are renewed while the agent runs.

use super::stats::OUTDATED;
use super::tests::{Server, start};
use super::{ApiSettings, ApiTls, StatsCollect, tls};
use crate::aggregate::{Collect as _, Value};
use crate::export::testing_tls::{Authority, Directory, contents, install_crypto};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A secret as the kubelet mounts it: its files are links through `..data`, a link to the directory of the present state, which is
/// replaced at once.
struct Mounted {
    directory: Directory,
    root: PathBuf,
}

impl Mounted {
    fn new(names: &[&str]) -> Self {
        let directory = Directory::new();
        let root = directory.write("root", "").with_file_name("mounted");
        std::fs::create_dir(&root).unwrap();
        for name in names {
            symlink(Path::new("..data").join(name), root.join(name)).unwrap();
        }
        Self { directory, root }
    }

    fn becomes(&self, state: &str, files: &[(&str, &[u8])]) {
        std::fs::create_dir(self.root.join(state)).unwrap();
        for (name, contents) in files {
            std::fs::write(self.root.join(state).join(name), contents).unwrap();
        }
        symlink(state, self.root.join("..next")).unwrap();
        std::fs::rename(self.root.join("..next"), self.root.join("..data")).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }
}

/// Asks until it is so.
async fn becomes(what: &str, is: impl AsyncFn() -> bool) {
    for _ in 0..100 {
        if is().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{what}: not after 5 s");
}

/// What `geophone_api_files_outdated` says of these files.
fn outdated(server: &Server, setting: &str) -> bool {
    let mut families = Vec::new();
    StatsCollect::new(server.stats.clone(), 1).collect(&mut families);
    let family = families.iter().find(|family| family.metric.name == OUTDATED.name);
    let series = family.unwrap().series.iter();
    let mut values = series
        .filter(|series| series.labels.get(OUTDATED.labels[0]) == Some(setting))
        .map(|series| matches!(series.value, Value::Gauge(value) if value == 1.0));
    values.next().unwrap()
}

#[tokio::test]
async fn renewed_certificates_are_shown_and_what_is_no_pair_is_not() {
    install_crypto();
    let mounted = Mounted::new(&["tls.crt", "tls.key"]);
    let authority = Authority::new("ours");
    let pair = |name: &str| {
        let (certificate, key) = authority.issue(&mounted.directory, name);
        (contents(&certificate), contents(&key))
    };
    let (first, second, third) = (pair("first"), pair("second"), pair("third"));
    let put = |state: &str, certificate: &[u8], key: &[u8]| {
        mounted.becomes(state, &[("tls.crt", certificate), ("tls.key", key)]);
    };
    put("1", &first.0, &first.1);
    let settings = ApiTls {
        cert_file: mounted.path("tls.crt"),
        key_file: mounted.path("tls.key"),
        client_ca_file: None,
        client_cert_file: None,
        client_key_file: None,
    };
    let server = start(ApiSettings {
        tls: Some(settings.clone()),
        ..ApiSettings::default()
    });
    let url = format!("https://{}/healthz", server.address);
    let shows = async |name: &str, certificate: &[u8]| {
        let known = tls::client(&ApiTls {
            cert_file: mounted
                .directory
                .write(name, str::from_utf8(certificate).unwrap()),
            ..settings.clone()
        });
        let client = reqwest::Client::builder().tls_backend_preconfigured(known.unwrap());
        client.build().unwrap().get(&url).send().await.is_ok()
    };
    assert!(shows("1.pem", &first.0).await);
    put("2", &second.0, &second.1);
    becomes("the second", async || shows("2.pem", &second.0).await).await;
    assert!(!shows("1.pem", &first.0).await, "the first is shown on");
    assert!(!outdated(&server, "api.tls"));
    put("3", &third.0, &second.1);
    becomes("outdated", async || outdated(&server, "api.tls")).await;
    assert!(shows("2.pem", &second.0).await, "the second is gone");
    put("4", &third.0, &third.1);
    becomes("the third", async || shows("3.pem", &third.0).await).await;
    assert!(!outdated(&server, "api.tls"));
}

#[tokio::test]
async fn a_renewed_token_is_asked_for_and_a_bad_one_is_not() {
    let mounted = Mounted::new(&["token"]);
    let [first, second] = ["0123456789abcdef-first", "0123456789abcdef-second"];
    mounted.becomes("1", &[("token", first.as_bytes())]);
    let server = start(ApiSettings {
        token_file: Some(mounted.path("token")),
        ..ApiSettings::default()
    });
    let url = format!("http://{}/metrics", server.address);
    let client = reqwest::Client::new();
    let admits =
        async |token: &str| client.get(&url).bearer_auth(token).send().await.unwrap().status() == 200;
    assert!(admits(first).await && !admits(second).await);
    mounted.becomes("2", &[("token", second.as_bytes())]);
    becomes("the second", async || admits(second).await).await;
    assert!(!admits(first).await, "the first is still good");
    mounted.becomes("3", &[("token", b"short")]);
    becomes("outdated", async || outdated(&server, "api.token_file")).await;
    assert!(admits(second).await && !admits("short").await);
}
