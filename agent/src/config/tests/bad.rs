use super::*;

#[test]
fn unknown_keys_come_with_line_and_nearest_name() {
    for (text, line) in [
        (
            "probes:\n  tcp:\n    enabld: true\n",
            "geophone.yaml:3: unknown key \"enabld\" in probes.tcp; did you mean \"enabled\"?",
        ),
        (
            "region: eu\nprobs: {}\n",
            "geophone.yaml:2: unknown key \"probs\"; did you mean \"probes\"?",
        ),
        (
            "limits: {ring-bytes: 1MiB}",
            "geophone.yaml:1: unknown key \"ring-bytes\" in limits; did you mean \"ring_bytes\"?",
        ),
        (
            "log:\n  colour: red\n",
            "geophone.yaml:2: unknown key \"colour\" in log; known: level, format",
        ),
        (
            "peers:\n- name: a\n  cidr: [10.0.0.0/8]\n",
            "geophone.yaml:3: unknown key \"cidr\" in peers[0]; did you mean \"cidrs\"?",
        ),
        (
            "<<: {region: x}\n",
            "geophone.yaml:1: unknown key \"<<\"; known: region, zone, host, attributes, peers, kubernetes, probes, limits, labels, budget, store, health, slos, slo_files, capacity, anomaly, rules, alerting, record, api, export, security, log",
        ),
        (
            "\"re\\ngion\\e[2J\": x\n",
            "geophone.yaml:1: unknown key \"re\\ngion\\u{1b}[2J\"; known: region, zone, host, attributes, peers, kubernetes, probes, limits, labels, budget, store, health, slos, slo_files, capacity, anomaly, rules, alerting, record, api, export, security, log",
        ),
    ] {
        assert_eq!(error(text), line);
    }
    assert!(error(&format!("{}: 1", "k".repeat(1000))).contains(&format!("\"{}…\"", "k".repeat(60))));
}

#[test]
fn wrong_types_say_what_is_expected() {
    for (text, line) in [
        (
            "probes: {tcp: {enabled: yes}}",
            "geophone.yaml:1: probes.tcp.enabled: expected true or false, found \"yes\"",
        ),
        (
            "probes:\n  tcp:\n    enabled:\n",
            "geophone.yaml:3: probes.tcp.enabled: expected true or false, found nothing",
        ),
        (
            "probes: {tcp: 5}",
            "geophone.yaml:1: probes.tcp: expected keys with values, found \"5\"",
        ),
        (
            "probes: [tcp]",
            "geophone.yaml:1: probes: expected keys with values, found a list",
        ),
        (
            "- a\n",
            "geophone.yaml:1: expected keys with values, found a list",
        ),
        (
            "text",
            "geophone.yaml:1: expected keys with values, found \"text\"",
        ),
        (
            "peers: {}",
            "geophone.yaml:1: peers: expected a list, found keys with values",
        ),
        (
            "region: [eu]",
            "geophone.yaml:1: region: expected text, found a list",
        ),
        (
            "region:\n",
            "geophone.yaml:1: region: expected text, found nothing",
        ),
        (
            "attributes: {a: {b: c}}",
            "geophone.yaml:1: attributes.a: expected text, found keys with values",
        ),
        (
            "limits: {series: many}",
            "geophone.yaml:1: limits.series: expected a whole number from 0 to 4294967295, found \"many\"",
        ),
        (
            "limits: {series: -1}",
            "geophone.yaml:1: limits.series: expected a whole number from 0 to 4294967295, found \"-1\"",
        ),
        (
            "limits: {series: 1.5}",
            "geophone.yaml:1: limits.series: expected a whole number from 0 to 4294967295, found \"1.5\"",
        ),
        (
            "limits: {series: 99999999999999999999}",
            "geophone.yaml:1: limits.series: expected a whole number from 0 to 4294967295, found \"99999999999999999999\"",
        ),
        (
            "limits: {pairs: few}",
            "geophone.yaml:1: limits.pairs: expected auto or a whole number from 64 to 65536, found \"few\"",
        ),
        (
            "limits: {pairs: -1}",
            "geophone.yaml:1: limits.pairs: expected auto or a whole number from 64 to 65536, found integer `-1`",
        ),
        (
            "limits: {pairs: []}",
            "geophone.yaml:1: limits.pairs: expected auto or a whole number from 64 to 65536, found sequence",
        ),
        (
            "limits: {pairs: 5000000000}",
            "geophone.yaml:1: limits.pairs: expected auto or a whole number from 64 to 65536, found \"5000000000\"",
        ),
        (
            "budget: {cpu_percent: nan}",
            "geophone.yaml:1: budget.cpu_percent: expected a number, found \"nan\"",
        ),
        (
            "budget: {cpu_percent: .inf}",
            "geophone.yaml:1: budget.cpu_percent: expected a number, found \".inf\"",
        ),
        (
            "budget: {cpu_percent: 1e999}",
            "geophone.yaml:1: budget.cpu_percent: expected a number, found \"1e999\"",
        ),
        (
            "probes: {tcp: {sweep_interval: 10}}",
            "geophone.yaml:1: probes.tcp.sweep_interval: expected a duration such as 10s, 500ms or 1m 30s, found \"10\"",
        ),
        (
            "probes: {tcp: {sweep_interval: -10s}}",
            "geophone.yaml:1: probes.tcp.sweep_interval: expected a duration such as 10s, 500ms or 1m 30s, found \"-10s\"",
        ),
        (
            "limits: {memory: lots}",
            "geophone.yaml:1: limits.memory: expected a size such as 64KiB, 2MiB or 1GB, found \"lots\"",
        ),
        (
            "probes: {tcp: {rtt_source: tcpprobe}}",
            "geophone.yaml:1: probes.tcp.rtt_source: unknown value \"tcpprobe\"; did you mean \"tcp_probe\"?",
        ),
        (
            "log: {level: loud}",
            "geophone.yaml:1: log.level: unknown value \"loud\"; known: error, warn, info, debug, trace",
        ),
        (
            "log: {level: [info]}",
            "geophone.yaml:1: log.level: expected one of error, warn, info, debug, trace, found a list",
        ),
        (
            "probes: {netdev: {exclude: [\"\"]}}",
            "geophone.yaml:1: probes.netdev.exclude[0]: expected a pattern such as veth* of 1 to 256 bytes, found \"\"",
        ),
        (
            "api: {listen: localhost}",
            "geophone.yaml:1: api.listen: invalid socket address syntax, found \"localhost\"",
        ),
        (
            "api:\n  tls:\n    cert_file: /c\n",
            "geophone.yaml:3: api.tls: the key \"key_file\" is missing",
        ),
        (
            "peers:\n- name: a\n",
            "geophone.yaml:2: peers[0]: the key \"cidrs\" is missing",
        ),
        (
            "peers:\n- name: a\n  cidrs:\n  - 10.0.0.0/8\n  - 10.0.0.1/8\n",
            "geophone.yaml:5: peers[0].cidrs[1]: the address has bits beyond its prefix; 10.0.0.0/8 is meant?, found \"10.0.0.1/8\"",
        ),
        (
            "peers: [{name: a, cidrs: [example.com]}]",
            "geophone.yaml:1: peers[0].cidrs[0]: expected an address or a prefix such as 10.0.0.0/8 or 2001:db8::/32, found \"example.com\"",
        ),
    ] {
        assert_eq!(error(text), line);
    }
}

#[test]
fn ranges_and_contradictions() {
    for (text, line) in [
        (
            "limits:\n  series: 99\n",
            "geophone.yaml:2: limits.series: 99 is out of range, 100 to 1000000",
        ),
        (
            "limits: {series: 1000001}",
            "geophone.yaml:1: limits.series: 1000001 is out of range, 100 to 1000000",
        ),
        (
            "limits: {pairs: 63}",
            "geophone.yaml:1: limits.pairs: 63 is out of range, 64 to 65536",
        ),
        (
            "limits: {pairs: 65537}",
            "geophone.yaml:1: limits.pairs: 65537 is out of range, 64 to 65536",
        ),
        (
            "limits: {drop_keys: 0}",
            "geophone.yaml:1: limits.drop_keys: 0 is out of range, 64 to 65536",
        ),
        (
            "limits: {ring_bytes: 32KiB}",
            "geophone.yaml:1: limits.ring_bytes: 32KiB is out of range, 64KiB to 256MiB",
        ),
        (
            "limits: {ring_bytes: 512MiB}",
            "geophone.yaml:1: limits.ring_bytes: 512MiB is out of range, 64KiB to 256MiB",
        ),
        (
            "limits: {ring_bytes: 3MiB}",
            "geophone.yaml:1: limits.ring_bytes: 3MiB is not a power of two",
        ),
        (
            "limits: {memory: 0}",
            "geophone.yaml:1: limits.memory: 0B is out of range, 1MiB to 1GiB",
        ),
        (
            "probes: {tcp: {sweep_interval: 0s}}",
            "geophone.yaml:1: probes.tcp.sweep_interval: 0s is out of range, 1s to 1h",
        ),
        (
            "probes: {tcp: {sweep_interval: 2days}}",
            "geophone.yaml:1: probes.tcp.sweep_interval: 2days is out of range, 1s to 1h",
        ),
        (
            "probes: {drops: {records_per_second: 2000000}}",
            "geophone.yaml:1: probes.drops.records_per_second: 2000000 is out of range, 0 to 1000000",
        ),
        (
            "budget:\n  enabled: true\n  cpu_percent: 0\n",
            "geophone.yaml:3: budget.cpu_percent: 0.0 is out of range, 0.05 to 100.0",
        ),
        (
            "budget: {cpu_percent: 101}",
            "geophone.yaml:1: budget.cpu_percent: 101.0 is out of range, 0.05 to 100.0",
        ),
        (
            "export:\n  otlp:\n    interval: 1ms\n",
            "geophone.yaml:3: export.otlp.interval: 1ms: out of range; use 1s to 1h",
        ),
        (
            "export:\n  otlp:\n    endpoint: x\n",
            "geophone.yaml:3: export.otlp.endpoint: \"x\": not a URL; write e.g. http://127.0.0.1:4317",
        ),
        (
            "export:\n  otlp:\n    endpoint: https://user:secret@x\n",
            "geophone.yaml:3: export.otlp.endpoint: has a user or password; put an authorization header into otlp.headers_file",
        ),
        (
            "anomaly: {enabled: false}\nexport: {otlp: {logs: true}}\n",
            "geophone.yaml:2: export.otlp.logs: nothing is watched, so there is nothing to log; set anomaly.enabled: true",
        ),
        (
            "anomaly: {defaults: false}\nexport: {otlp: {logs: true}}\n",
            "geophone.yaml:2: export.otlp.logs: nothing is watched, so there is nothing to log; set anomaly.defaults: true, or watch something of your own with anomaly.watch",
        ),
        (
            "store: {kind: none}\nexport: {otlp: {logs: true}}\n",
            "geophone.yaml:2: export.otlp.logs: nothing is watched, so there is nothing to log; with store.kind: none nothing is remembered that could be watched; set it to auto, memory or disk",
        ),
        (
            "export: {otlp: {retry: {initial: 10s, max: 1s}}}",
            "geophone.yaml:1: export.otlp.retry.max: 1s: out of range; use 10s to 1h",
        ),
        (
            "api:\n  listen: 0.0.0.0:9779\n",
            "geophone.yaml:2: api.listen: 0.0.0.0:9779: other machines can reach it and api.tls and api.token_file are not set; set them or listen on 127.0.0.1",
        ),
        (
            "api: {listen: \"[::]:1\", token_file: /x}",
            "geophone.yaml:1: api.listen: [::]:1: other machines can reach it and api.tls is not set; set it or listen on 127.0.0.1",
        ),
        (
            "peers: [{name: '', cidrs: [10.0.0.0/8]}]",
            "geophone.yaml:1: peers[0].name: a peer needs a name",
        ),
        (
            "peers: [{name: a, cidrs: []}]",
            "geophone.yaml:1: peers[0].cidrs: a peer needs at least one prefix",
        ),
        (
            "peers:\n- name: a\n  cidrs: [10.0.0.0/8]\n- name: b\n  cidrs: [10.0.0.0/8]\n",
            "geophone.yaml:5: peers[1].cidrs: 10.0.0.0/8 is given to two peers, \"a\" and \"b\"",
        ),
        (
            "slos:\n- name: a\n  template: dns\n  interval: 5s\n",
            "geophone.yaml:4: slos[0].interval: below 10s the window may not be longer than store.retention (1day), as beyond it the store has one sample in 10s; take 10s or more, or a shorter window",
        ),
        (
            "attributes: {'': x}",
            "geophone.yaml:1: attributes.: the name of an attribute has 1 to 128 bytes and no control characters",
        ),
    ] {
        assert_eq!(error(text), line);
    }
    assert_eq!(
        error(&format!("region: {}", "x".repeat(129))),
        "geophone.yaml:1: region: 129 bytes are more than 128"
    );
    let many: String = (0..65).map(|i| format!("  k{i}: v\n")).collect();
    assert_eq!(
        error(&format!("attributes:\n{many}")),
        "geophone.yaml:2: attributes: 65 attributes are more than 64"
    );
    let mut built = Config::default();
    built.limits.series = 1;
    assert_eq!(
        built.validate().unwrap_err().to_string(),
        "limits.series: 1 is out of range, 100 to 1000000"
    );
    built.limits.series = 100;
    built.budget.cpu_percent = f64::NAN;
    assert!(built.validate().is_err());
}

#[test]
fn labels_of_metrics() {
    for (text, line) in [
        (
            "labels:\n- metrics: geophone_tpc_rtt_seconds\n  exclude: [peer]\n",
            "geophone.yaml:2: labels[0].metrics: no metric is called \"geophone_tpc_rtt_seconds\"; did you mean geophone_tcp_rtt_seconds?",
        ),
        (
            "labels: [{metrics: 'kube_*', exclude: [peer]}]",
            "geophone.yaml:1: labels[0].metrics: no metric is called \"kube_*\"; docs/metrics.md has their names",
        ),
        (
            "labels: [{metrics: '', exclude: [peer]}]",
            "geophone.yaml:1: labels[0].metrics: expected a pattern such as veth* of 1 to 256 bytes, found \"\"",
        ),
        (
            "labels: [{exclude: [peer]}]",
            "geophone.yaml:1: labels[0]: the key \"metrics\" is missing",
        ),
        (
            "labels:\n- {metrics: '*', exclude: [hop]}\n- metrics: geophone_tcp_rtt_seconds\n  exclude:\n  - pear\n",
            "geophone.yaml:5: labels[1].exclude: geophone_tcp_rtt_seconds has no label \"pear\"; did you mean peer?",
        ),
        (
            "labels: [{metrics: geophone_netdev_*, include: [subject]}]",
            "geophone.yaml:1: labels[0].include: geophone_netdev_* has no label \"subject\"; known: device, direction",
        ),
        (
            "labels: [{metrics: geophone_path_mtu_bytes, exclude: [peer]}]",
            "geophone.yaml:1: labels[0].metrics: the values of geophone_path_mtu_bytes cannot be added up, so that its series keep their labels; counters, histograms and gauges of what is there (geophone_tcp_connections, geophone_block_in_flight, geophone_kubernetes_backend_connections) can",
        ),
        (
            "labels: [{metrics: geophone_tcp_*}]",
            "geophone.yaml:1: labels[0].metrics: a rule needs include or exclude",
        ),
        (
            "labels: [{metrics: geophone_tcp_*, include: [peer, subject], exclude: [peer]}]",
            "geophone.yaml:1: labels[0].exclude: peer is included as well",
        ),
    ] {
        assert_eq!(error(text), line);
    }
    let good = "labels: [{metrics: '*', exclude: [k8s_pod_name, otel]}]";
    assert!(
        error(good).contains("labels[0].exclude: * has no label \"otel\"; "),
        "{}",
        error(good)
    );
    Config::parse(
        "f",
        "labels: [{metrics: geophone_tcp_*, exclude: [k8s_namespace_name, peer_zone]}]",
    )
    .unwrap();
}
