use super::*;
use std::os::unix::ffi::OsStringExt as _;
use std::time::{Duration, Instant};

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
    let error = Config::load("", None, [("GEOPHONE_REGION".into(), bytes.clone())], &[]).unwrap_err();
    assert_eq!(error.to_string(), "GEOPHONE_REGION: the value is not valid UTF-8");
    assert!(
        Config::load(
            "",
            None,
            [("OTHER".into(), bytes.clone()), (bytes, "x".into())],
            &[]
        )
        .is_ok()
    );

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
        let error = Config::load("--config", Some(path), [], &[])
            .unwrap_err()
            .to_string();
        let place = format!("--config {}", path.display());
        error.strip_prefix(&place).unwrap_or(&error).to_owned()
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
        Config::load("--config", Some(&at("a\nb.yaml")), [], &[])
            .unwrap_err()
            .to_string()
            .contains("a\u{fffd}b.yaml:1: unknown")
    );
}
