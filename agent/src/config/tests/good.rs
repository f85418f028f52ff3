use super::*;
use std::io::Write as _;
use std::time::Duration;

#[test]
fn nothing_is_the_default() {
    for text in [
        "",
        "\n",
        "# only a comment\n",
        "---\n",
        "{}",
        "null",
        "\u{feff}",
        "probes:\nlimits:\n  \npeers:\nattributes:\n",
    ] {
        assert_eq!(Config::parse("f", text).unwrap(), Config::default(), "{text:?}");
    }
    assert_eq!(Config::load("", None, [], &[]).unwrap(), Config::default());
    Config::default().validate().unwrap();
    assert!(!Config::default().host_name().is_empty());
    assert_eq!(
        Config {
            host: "a".into(),
            ..Config::default()
        }
        .host_name(),
        "a"
    );
}

#[test]
fn a_full_file() {
    let config = Config::parse(
        "f",
        r#"
region: eu
zone: 'a'
host: "h"
attributes: {team: net, version: 12, on: true}
peers:
- name: db
  region: eu
  cidrs: &both [10.1.0.0/16, "2001:db8::/32"]
- {name: web, zone: b, cidrs: [192.0.2.1]}
probes:
  tcp: {enabled: false, rtt_source: sock_ops, flows: false, sweep_interval: 1m 30s}
  drops: {records_per_second: 0}
  netdev: {exclude: ["veth*", lo]}
limits: {series: 500, pairs: 64, drop_keys: 128, ring_bytes: 65536, memory: 1GiB}
budget: {cpu_percent: 2, enabled: false}
api: {listen: "[::1]:80", token_file: /run/token}
export: {otlp: {endpoint: "http://x:4317", protocol: http, interval: 5s}}
log: {level: debug, format: json}
"#,
    )
    .unwrap();
    assert_eq!(config.attributes["version"], "12");
    assert_eq!(config.attributes["on"], "true");
    assert_eq!(config.peers[0].cidrs.len(), 2);
    assert_eq!(config.peers[1].cidrs[0].to_string(), "192.0.2.1/32");
    assert_eq!(config.probes.tcp.rtt_source, RttSource::SockOps);
    assert_eq!(config.probes.tcp.sweep_interval.get(), Duration::from_secs(90));
    assert!(config.probes.netdev.exclude[0].matches("veth1"));
    assert_eq!(
        (config.limits.pairs, config.limits.ring_bytes),
        (Pairs::Count(64), Bytes::kib(64))
    );
    assert_eq!(
        (config.budget.cpu_percent, config.log.level),
        (2.0, LogLevel::Debug)
    );
    assert_eq!(config.export.otlp.interval, Duration::from_secs(5));
    // What is written out reads the same.
    let json = serde_json::to_string(&config).unwrap();
    assert_eq!(Config::parse("f", &json).unwrap(), config);
    assert_eq!(serde_json::from_str::<Config>(&json).unwrap(), config);
}

#[test]
fn aliases_repeat_values() {
    let text = "peers:\n- {name: a, region: &r eu, cidrs: [10.0.0.0/9]}\n- {name: b, region: *r, cidrs: [10.128.0.0/9]}\n";
    assert_eq!(Config::parse("f", text).unwrap().peers[1].region, "eu");
}

#[test]
fn flags_lie_over_the_environment_over_the_file() {
    let text = "region: file\nzone: file\nhost: file\nprobes: {tcp: {enabled: false}}\nexport: {otlp: {endpoint: http://x}}\n";
    let variables = env(&[
        ("GEOPHONE_ZONE", "env"),
        ("GEOPHONE_HOST", "env"),
        ("GEOPHONE_PROBES__TCP__ENABLED", "true"),
        ("GEOPHONE_PROBES__NETDEV__EXCLUDE", "veth*, lo,"),
        ("GEOPHONE_ATTRIBUTES__SERVICE__NAMESPACE", "shop: a, b"),
        ("GEOPHONE_PEERS", "[{name: a, cidrs: [10.0.0.0/8]}]"),
        ("GEOPHONE_PEERS__0__ZONE", "z"),
        ("GEOPHONE_API__LISTEN", "[::1]:1"),
        ("GEOPHONE_LIMITS__PAIRS", "100"),
        ("GEOPHONE_LOG", "{level: warn}"),
        ("GEOPHONE_LOG__FORMAT", "json"),
        ("PATH", "/bin"),
        ("geophone_region", "not ours"),
    ]);
    let flags = sets(&[
        ("host", "flag"),
        ("export.otlp.endpoint", "null"),
        ("attributes.host.owner", "me"),
        ("log.level", "error"),
        ("log.level", "trace"),
        ("limits.ring_bytes", "64KiB"),
    ]);
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().write_all(text.as_bytes()).unwrap();
    let config = Config::load("--config", Some(file.path()), variables, &flags).unwrap();
    assert_eq!(
        (&*config.region, &*config.zone, &*config.host),
        ("file", "env", "flag")
    );
    assert!(config.probes.tcp.enabled);
    assert_eq!(config.probes.netdev.exclude.len(), 2);
    assert_eq!(config.attributes["service.namespace"], "shop: a, b");
    assert_eq!(config.attributes["host.owner"], "me");
    assert_eq!((&*config.peers[0].name, &*config.peers[0].zone), ("a", "z"));
    assert_eq!(config.api.listen.to_string(), "[::1]:1");
    assert_eq!(config.limits.pairs, Pairs::Count(100));
    assert_eq!(
        (config.log.level, config.log.format),
        (LogLevel::Trace, LogFormat::Json)
    );
    assert_eq!(config.export.otlp.endpoint, None);
    assert_eq!(config.limits.ring_bytes, Bytes::kib(64));
}

#[test]
fn what_kubernetes_and_other_tools_put_into_the_environment_is_left_alone() {
    let variables = env(&[
        ("GEOPHONE_SERVICE_HOST", "10.0.0.1"),
        ("GEOPHONE_SERVICE_PORT", "9779"),
        ("GEOPHONE_SERVICE_PORT_METRICS", "9779"),
        ("GEOPHONE_PORT", "tcp://10.0.0.1:9779"),
        ("GEOPHONE_PORT_9779_TCP", "tcp://10.0.0.1:9779"),
        ("GEOPHONE_PORT_9779_TCP_PROTO", "tcp"),
        ("GEOPHONE_PORT_9779_TCP_PORT", "9779"),
        ("GEOPHONE_PORT_9779_TCP_ADDR", "10.0.0.1"),
        ("GEOPHONE_API_PORT", "tcp://10.0.0.1:9779"),
        ("GEOPHONE_API_SERVICE_HOST", "10.0.0.1"),
        ("GEOPHONE_CONFIG", "/etc/geophone.yaml"),
        ("GEOPHONE_BPF_LINKER", "x"),
    ]);
    assert_eq!(Config::load("", None, variables, &[]).unwrap(), Config::default());
}

#[test]
fn peers_of_kubernetes_are_a_word_and_were_a_switch() {
    for (text, expected) in [
        ("false", PeersOf::Nobody),
        ("true", PeersOf::Services),
        ("services", PeersOf::Services),
        ("'pods'", PeersOf::Pods),
    ] {
        let file = Config::parse("f", &format!("kubernetes: {{peers: {text}}}")).unwrap();
        assert_eq!(file.kubernetes.peers, expected);
        let word = text.trim_matches('\'');
        let variables = env(&[("GEOPHONE_KUBERNETES__PEERS", word)]);
        let config = Config::load("--config", None, variables, &[]).unwrap();
        assert_eq!(config.kubernetes.peers, expected);
        let flags = sets(&[("kubernetes.peers", word)]);
        let config = Config::load("--config", None, [], &flags).unwrap();
        assert_eq!(config.kubernetes.peers, expected);
        let written = serde_json::to_string(&config.kubernetes.peers).unwrap();
        assert_eq!(serde_json::from_str::<PeersOf>(&written).unwrap(), expected);
    }
    let wrong = Config::parse("f", "kubernetes: {peers: nodes}")
        .unwrap_err()
        .to_string();
    assert_eq!(
        wrong,
        "f:1: kubernetes.peers: expected false, true, services or pods, found \"nodes\""
    );
}
