use super::remote::{Remote, reached};
use crate::api::tests::{Server, start};
use crate::api::{ApiSettings, ApiTls};
use crate::config::Config;
use crate::export::testing_tls::{Authority, Directory, install_crypto};
use serde_json::{Value, json};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use tokio::io::AsyncWriteExt as _;

const TOKEN: &str = "0123456789abcdef-secret";

/// An API as a node of a cluster shows it: on any address, by a certificate that names something else.
struct Exposed {
    directory: Directory,
    authority: Authority,
    server: Server,
    config: Config,
}

impl Exposed {
    fn start(clients: Option<&Authority>) -> Self {
        install_crypto();
        let (directory, authority) = (Directory::new(), Authority::new("ours"));
        let (cert_file, key_file) = authority.issue(&directory, "node-7.example");
        let api = ApiSettings {
            listen: (Ipv4Addr::UNSPECIFIED, 0).into(),
            token_file: Some(directory.write("token", TOKEN)),
            tls: Some(ApiTls {
                cert_file,
                key_file,
                client_ca_file: clients.map(|clients| clients.file(&directory)),
                client_cert_file: None,
                client_key_file: None,
            }),
            hosts: Vec::new(),
        };
        let server = start(api.clone());
        let mut api = ApiSettings {
            listen: server.address,
            ..api
        };
        // What a client does not need it may not read.
        if let Some(tls) = &mut api.tls {
            tls.key_file = "/nowhere/key".into();
        }
        let config = Config {
            api,
            ..Config::default()
        };
        Self {
            directory,
            authority,
            server,
            config,
        }
    }

    /// The settings with a change.
    fn with(&self, change: impl FnOnce(&mut ApiSettings)) -> Config {
        let mut config = self.config.clone();
        change(&mut config.api);
        config
    }
}

async fn refusal(config: &Config) -> String {
    match Remote::find(config).await {
        Ok(found) => panic!("{:?} is asked", found.map(|remote| remote.base)),
        Err(error) => error.to_string(),
    }
}

#[tokio::test]
async fn an_agent_on_any_address_is_asked_by_the_certificate_it_shows() {
    let exposed = Exposed::start(None);
    assert!(exposed.config.api.listen.ip().is_unspecified());
    let remote = Remote::find(&exposed.config).await.unwrap().unwrap();
    assert_eq!(
        remote.base,
        format!("https://127.0.0.1:{}", exposed.server.address.port())
    );
    let status: Value = remote.json("/api/v1/status").await.unwrap();
    assert_eq!(status, json!({"version": "test"}));
    // A refusal has its own words.
    let error = remote.get("/nothing").await.unwrap_err().to_string();
    assert!(error.contains("no such path"), "{error}");
}

#[test]
fn any_address_is_reached_through_loopback_of_its_kind() {
    for (listen, want) in [
        ("0.0.0.0:9779", "127.0.0.1:9779"),
        ("[::]:9779", "[::1]:9779"),
        ("10.0.0.1:9779", "10.0.0.1:9779"),
        ("[fd00::1]:1", "[fd00::1]:1"),
    ] {
        assert_eq!(reached(listen.parse().unwrap()), want.parse().unwrap());
    }
}

#[tokio::test]
async fn nobody_else_is_trusted() {
    let exposed = Exposed::start(None);
    // Neither what another authority has signed, nor what the same one has, be it for the same name.
    for authority in [&Authority::new("other"), &exposed.authority] {
        let elsewhere = Directory::new();
        let (cert_file, _) = authority.issue(&elsewhere, "node-7.example");
        let want = format!("is not that of api.tls.cert_file {}", cert_file.display());
        let error = refusal(&exposed.with(|api| api.tls.as_mut().unwrap().cert_file = cert_file)).await;
        assert!(error.contains(&want), "{error}");
    }
}

#[tokio::test]
async fn what_is_in_the_way_is_one_line_with_a_remedy() {
    let exposed = Exposed::start(None);
    let written = |name: &str, text: &str| Some(exposed.directory.write(name, text));
    let found = async |config: Config| {
        let remote = Remote::find(&config).await.unwrap().unwrap();
        remote.get("/api/v1/status").await.unwrap_err().to_string()
    };
    let error = found(exposed.with(|api| api.token_file = written("wrong", "fedcba9876543210"))).await;
    assert!(
        error.contains("another token than that of api.token_file"),
        "{error}"
    );
    let error = found(exposed.with(|api| api.token_file = None)).await;
    assert!(
        error.contains("asks for a token") && error.contains("--config"),
        "{error}"
    );
    for (config, words) in [
        // As without its settings: not taken for nobody, beside which there is room for another agent.
        (exposed.with(|api| api.tls = None), "--config (GEOPHONE_CONFIG)"),
        (
            exposed.with(|api| api.token_file = Some("/nowhere/token".into())),
            "api.token_file /nowhere/token: No such file",
        ),
    ] {
        let error = refusal(&config).await;
        assert!(error.contains(words), "{error}");
    }
}

#[tokio::test]
async fn a_certificate_is_shown_where_one_is_asked_for() {
    let clients = Authority::new("clients");
    let exposed = Exposed::start(Some(&clients));
    let error = refusal(&exposed.config).await;
    assert!(error.contains("api.tls.client_cert_file"), "{error}");
    let with = |(certificate, key): (PathBuf, PathBuf)| {
        exposed.with(|api| {
            let tls = api.tls.as_mut().unwrap();
            (tls.client_cert_file, tls.client_key_file) = (Some(certificate), Some(key));
        })
    };
    let ours = with(clients.issue(&exposed.directory, "operator"));
    let remote = Remote::find(&ours).await.unwrap().unwrap();
    remote.get("/api/v1/status").await.unwrap();
    let theirs = with(exposed.authority.issue(&exposed.directory, "operator"));
    refusal(&theirs).await;
    let halved = exposed.with(|api| api.tls.as_mut().unwrap().client_cert_file = Some("/a".into()));
    let error = halved.api.validate().unwrap_err().to_string();
    assert!(error.contains("set both or none"), "{error}");
}

#[tokio::test]
async fn a_port_that_another_has_is_not_nobodys() {
    install_crypto();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut config = Config::default();
    config.api.listen = listener.local_addr().unwrap();
    let other = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(b"220 mail.example ESMTP\r\n").await;
        }
    });
    let error = refusal(&config).await;
    assert!(error.contains("--listen"), "{error}");
    let error = Remote::find_unless(false, &config)
        .await
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("--own"), "{error}");
    assert!(Remote::find_unless(true, &config).await.unwrap().is_none());
    other.abort();
    let _ = other.await;
    assert!(Remote::find(&config).await.unwrap().is_none());
}
