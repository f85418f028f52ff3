use super::*;
use std::os::unix::ffi::OsStringExt as _;
use std::time::{Duration, Instant};

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
            "geophone.yaml:1: unknown key \"<<\"; known: region, zone, host, attributes, peers, probes, limits, budget, api, export, log",
        ),
        (
            "\"re\\ngion\\e[2J\": x\n",
            "geophone.yaml:1: unknown key \"re\\ngion\\u{1b}[2J\"; known: region, zone, host, attributes, peers, probes, limits, budget, api, export, log",
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
            "export: {otlp: {retry: {initial: 10s, max: 1s}}}",
            "geophone.yaml:1: export.otlp.retry.max: 1s: out of range; use 10s to 1h",
        ),
        (
            "api:\n  listen: 0.0.0.0:9779\n",
            "geophone.yaml:2: api.listen: 0.0.0.0:9779: other machines can reach it and api.tls and api.token_file are not set; set them or listen on 127.0.0.1",
        ),
        (
            "api: {listen: \"[::]:1\", token_file: /x}",
            "geophone.yaml:1: api.listen: [::]:1: other machines can reach it and api.tls is not set; set them or listen on 127.0.0.1",
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
fn yaml_itself() {
    for (text, line) in [
        (
            "probes:\n  tcp: {}\n  drops: {}\n  tcp: {}\n",
            "geophone.yaml:4: probes: the key \"tcp\" is given twice, first in line 2",
        ),
        (
            "region: a\n\"region\": b\n",
            "geophone.yaml:2: the key \"region\" is given twice, first in line 1",
        ),
        (
            "region: a\n---\nregion: b\n",
            "geophone.yaml:2: a second document begins, only one is read",
        ),
        (
            "region: !secret x\n",
            "geophone.yaml:1: region: tags (!…) are not supported",
        ),
        (
            "region: a\n\u{0}nonsense: 1\n",
            "geophone.yaml:2: the control character U+0000 is not allowed",
        ),
        (
            "region: a\u{1b}[2J\n",
            "geophone.yaml:1: the control character U+001B is not allowed",
        ),
        ("? [a]\n: b\n", "geophone.yaml:1: a key must be text"),
        (
            "peers: &a [*a]\n",
            "geophone.yaml:1: peers[0]: an alias refers to what holds it",
        ),
    ] {
        assert_eq!(error(text), line);
    }
    for (text, line) in [
        ("region: [a\n", 2),
        ("region: \"a\n", 1),
        ("a: b: c\n", 1),
        ("region: *nowhere\n", 1),
        ("region: a\n\tzone: b\n", 1),
        ("zone: a\n region: b\n", 2),
        ("}", 1),
    ] {
        let error = error(text);
        assert!(
            error.starts_with(&format!("geophone.yaml:{line}: ")),
            "{text:?} {error}"
        );
    }
}

#[test]
fn bombs_are_refused_at_once() {
    let start = Instant::now();
    let mut bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for (this, before) in ('b'..='i').zip('a'..) {
        bomb += &format!("{this}: &{this} [{}]\n", vec![format!("*{before}"); 9].join(", "));
    }
    let said = "more than 100000 values, those that aliases repeat included";
    assert!(error(&bomb).ends_with(said), "{}", error(&bomb));
    assert!(error(&"- a\n".repeat(200_000)).ends_with(said));
    let deep = "nested deeper than 32 levels";
    for deeper in [
        "[".repeat(40),
        "{a: ".repeat(40),
        "- ".repeat(500_000),
        "[".repeat(500_000),
        "{a: ".repeat(200_000),
    ] {
        let error = error(&deeper);
        assert!(
            error.ends_with(deep) || error.contains("recursion limit"),
            "{error}"
        );
    }
    let nested: String = (0..500).map(|i| format!("{}a:\n", " ".repeat(i))).collect();
    assert!(error(&nested).ends_with(deep));
    let chain: String = (1..40).map(|i| format!("k{i}: &k{i} [*k{}]\n", i - 1)).collect();
    assert!(error(&format!("k0: &k0 x\n{chain}")).ends_with(deep));
    for long in [
        "a".repeat(1 << 20),
        "\"".repeat(1 << 20),
        "&a ".repeat(1 << 18),
        "#".repeat(1 << 20),
        "%".repeat(1 << 20),
    ] {
        let _ = Config::parse("f", &long);
    }
    let _ = Config::parse("f", &"? ".repeat(1 << 19));
    let _ = Config::parse("f", &format!("a: {}", "[a, ".repeat(1 << 18)));
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
}

#[test]
fn mutilated_files_never_panic() {
    let good = default_yaml().into_bytes();
    let mut seed = 7u64;
    let mut random = |below: usize| {
        seed = seed
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (seed >> 33) as usize % below
    };
    for _ in 0..2000 {
        let mut text = good.clone();
        for _ in 0..1 + random(8) {
            let at = random(text.len().max(1));
            if text.is_empty() {
                break;
            }
            match random(3) {
                0 => drop(text.remove(at)),
                1 => text.insert(at, b"{}[]:,-&*!|>'\"%@`#? \n\t\\~"[random(24)]),
                _ => text.truncate(at.max(1)),
            }
        }
        if let Err(error) = Config::parse("f", &String::from_utf8_lossy(&text)) {
            assert!(!error.to_string().contains('\n'), "{error}");
        }
    }
}

#[test]
fn the_environment_and_flags_are_checked_alike() {
    let env = |name: &str, value: &str| error_of("", &[(name, value)], &[]);
    for (name, value, line) in [
        (
            "GEOPHONE_PROBES__TCP__ENABLD",
            "1",
            "GEOPHONE_PROBES__TCP__ENABLD: unknown key \"enabld\" in probes.tcp; did you mean GEOPHONE_PROBES__TCP__ENABLED?",
        ),
        (
            "GEOPHONE_PROBES_TCP_ENABLED",
            "1",
            "GEOPHONE_PROBES_TCP_ENABLED: unknown key \"probes_tcp_enabled\"; did you mean GEOPHONE_PROBES__TCP__ENABLED?",
        ),
        (
            "GEOPHONE_PROBES__TCP__ENABLED",
            "1",
            "GEOPHONE_PROBES__TCP__ENABLED: probes.tcp.enabled: expected true or false, found \"1\"",
        ),
        (
            "GEOPHONE_LOG__XYZZY",
            "1",
            "GEOPHONE_LOG__XYZZY: unknown key \"xyzzy\" in log; known: GEOPHONE_LOG__LEVEL, GEOPHONE_LOG__FORMAT",
        ),
        (
            "GEOPHONE_LIMITS__SERIES",
            "1",
            "GEOPHONE_LIMITS__SERIES: limits.series: 1 is out of range, 100 to 1000000",
        ),
        (
            "GEOPHONE_LIMITS__SERIES",
            "",
            "GEOPHONE_LIMITS__SERIES: limits.series: expected a whole number from 0 to 4294967295, found \"\"",
        ),
        (
            "GEOPHONE_REGION__X",
            "1",
            "GEOPHONE_REGION__X: region: expected text, found keys with values",
        ),
        (
            "GEOPHONE_PROBES",
            "on",
            "GEOPHONE_PROBES: probes: expected keys with values, found \"on\"",
        ),
        (
            "GEOPHONE_PEERS__0__NAME",
            "x",
            "GEOPHONE_PEERS__0__NAME: peers: expected a list, found keys with values",
        ),
    ] {
        assert_eq!(env(name, value), line);
    }
    assert!(env("GEOPHONE_PEERS", "[{name: a").starts_with("GEOPHONE_PEERS: not valid YAML: "));
    for name in [
        "GEOPHONE_",
        "GEOPHONE___",
        "GEOPHONE_PORT",
        "GEOPHONE_PORT_X_TCP",
        "GEOPHONE_X\n",
    ] {
        let error = env(name, "1");
        assert!(
            error.starts_with(&name.replace('\n', "\u{fffd}")) && error.contains("unknown key"),
            "{error}"
        );
    }
    let bytes = OsString::from_vec(b"\xff".to_vec());
    let error = Config::load(None, [("GEOPHONE_REGION".into(), bytes.clone())], &[]).unwrap_err();
    assert_eq!(error.to_string(), "GEOPHONE_REGION: the value is not valid UTF-8");
    assert!(Config::load(None, [("OTHER".into(), bytes.clone()), (bytes, "x".into())], &[]).is_ok());

    let set =
        |key: &str, value: &str| error_of("peers: [{name: a, cidrs: [10.0.0.0/8]}]", &[], &[(key, value)]);
    for (key, value, line) in [
        (
            "probes.tcp.enabld",
            "true",
            "--set probes.tcp.enabld: unknown key \"enabld\" in probes.tcp; did you mean \"enabled\"?",
        ),
        (
            "log.level",
            "loud",
            "--set log.level: log.level: unknown value \"loud\"; known: error, warn, info, debug, trace",
        ),
        (
            "peers.1.name",
            "b",
            "--set peers.1.name: peers.1.name: the list has no entry 1",
        ),
        (
            "peers.0.cidrs",
            "10.0.0.1/8",
            "--set peers.0.cidrs: peers[0].cidrs[0]: the address has bits beyond its prefix; 10.0.0.0/8 is meant?, found \"10.0.0.1/8\"",
        ),
    ] {
        assert_eq!(set(key, value), line);
    }
    assert!(
        set("", "x").starts_with("--set : unknown key \"\""),
        "{}",
        set("", "x")
    );
    // The line of the file stays right beside a variable that is right.
    assert_eq!(
        error_of("log:\n  level: loud\n", &[("GEOPHONE_LOG__FORMAT", "json")], &[]),
        "geophone.yaml:2: log.level: unknown value \"loud\"; known: error, warn, info, debug, trace"
    );
}

#[test]
fn files_that_are_none() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let say = |path: &Path| {
        let error = Config::load(Some(path), [], &[]).unwrap_err().to_string();
        error
            .strip_prefix(&path.display().to_string())
            .unwrap_or(&error)
            .to_owned()
    };
    assert_eq!(
        say(&at("missing.yaml")),
        ": no such file; `geophone config default` prints one"
    );
    assert_eq!(say(directory.path()), ": is a directory, not a file");
    assert_eq!(say(Path::new("/dev/null")), ": is not a regular file");
    nix::unistd::mkfifo(&at("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert_eq!(say(&at("fifo")), ": is not a regular file");
    std::fs::write(at("big"), vec![b'#'; (1 << 20) + 1]).unwrap();
    assert_eq!(say(&at("big")), ": is longer than 1MiB");
    std::fs::write(at("sparse"), "").unwrap();
    File::options()
        .write(true)
        .open(at("sparse"))
        .unwrap()
        .set_len(1 << 40)
        .unwrap();
    assert_eq!(say(&at("sparse")), ": is longer than 1MiB");
    std::fs::write(at("latin"), b"region: a\nzone: \xe9\n").unwrap();
    assert_eq!(say(&at("latin")), ": line 2 is not valid UTF-8");
    std::os::unix::fs::symlink(at("loop"), at("loop")).unwrap();
    assert!(say(&at("loop")).starts_with(": cannot read: Too many levels of symbolic links"));
    std::fs::write(at("a\nb.yaml"), "x: 1").unwrap();
    assert!(
        Config::load(Some(&at("a\nb.yaml")), [], &[])
            .unwrap_err()
            .to_string()
            .contains("a\u{fffd}b.yaml:1: unknown")
    );
}
