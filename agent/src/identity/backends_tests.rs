use super::*;

fn attribute(kind: u16, body: &[u8]) -> Vec<u8> {
    let mut out = ((body.len() + 4) as u16).to_ne_bytes().to_vec();
    out.extend(kind.to_ne_bytes());
    out.extend(body);
    out.resize(out.len().next_multiple_of(4), 0);
    out
}

fn connection(status: u32, state: u8) -> Vec<u8> {
    const NESTED: u16 = 1 << 15;
    let tuple = |kind: u16, ends: [[u8; 4]; 2]| {
        let addresses = [attribute(1, &ends[0]), attribute(2, &ends[1])].concat();
        let protocol = [attribute(1, &[6]), attribute(2, &[1, 2])].concat();
        let both = [
            attribute(NESTED | 1, &addresses),
            attribute(NESTED | 2, &protocol),
        ]
        .concat();
        attribute(NESTED | kind, &both)
    };
    let tcp = attribute(NESTED | 1, &[attribute(1, &[state]), attribute(2, &[7])].concat());
    [
        tuple(1, [[10, 244, 0, 5], [10, 96, 0, 10]]),
        tuple(2, [[10, 244, 1, 7], [10, 244, 0, 5]]),
        attribute(3, &status.to_be_bytes()),
        attribute(NESTED | 4, &tcp),
        attribute(7, &[0, 0, 0, 9]),
    ]
    .concat()
}

#[test]
fn established_connections_that_nat_sends_elsewhere() {
    let (service, pod) = (IpAddr::from([10, 96, 0, 10]), IpAddr::from([10, 244, 1, 7]));
    let whole = connection(0x1ae, 3);
    assert_eq!(parse(&whole), Some((service, pod)));
    assert_eq!(parse(&connection(0x18e, 3)), None, "not sent elsewhere");
    assert_eq!(parse(&connection(0x1ae, 7)), None, "over");
    // Whatever is cut off or lies about its length is no connection, and no end is missed.
    for cut in 0..whole.len() - 8 {
        let _ = parse(&whole[..cut]);
        let mut lie = whole.clone();
        lie[cut] = 0xff;
        let _ = parse(&lie);
        lie[cut] = 0;
        let _ = parse(&lie);
    }
    assert_eq!(parse(&[0, 0, 3, 0]), None);
    assert_eq!(parse(&[]), None);
}

fn backend(pod: &str) -> Backend {
    Backend {
        service: "shop/db".into(),
        pod: pod.into(),
        zone: "eu-1a".into(),
        region: "".into(),
    }
}

fn told(backends: &mut Backends) -> Vec<String> {
    let mut out = Vec::new();
    backends.collect(&mut out);
    let shown = out[0].series.iter().map(|series| match series.value {
        Value::Gauge(count) => format!("{} {count}", series.labels.text),
        _ => unreachable!(),
    });
    shown.collect()
}

fn own(pod: &str, n: u64) -> String {
    format!("peer=\"shop/db\",backend=\"{pod}\",peer_zone=\"eu-1a\" {n}")
}

#[test]
fn those_with_the_most_have_series_and_the_rest_is_other() {
    let seen: Arc<Mutex<Seen>> = Arc::default();
    let mut backends = Backends::of(seen.clone(), 2, 1);
    assert_eq!(told(&mut backends), [""; 0]);
    let later = Instant::now() + Duration::from_secs(60);
    let mut look = |counts: &[(&str, u64)]| {
        let connections = counts.iter().map(|(pod, n)| (backend(pod), *n)).collect();
        locked(&seen).end(Outcome::Done, connections, later);
        (told(&mut backends), backends.labels.len())
    };
    let other = |n| format!("peer=\"other\",backend=\"other\",otel_metric_overflow=\"true\" {n}");
    assert_eq!(
        look(&[("b", 1), ("a", 1), ("c", 5), ("d", 1)]).0,
        [own("c", 5), own("a", 1), other(2)]
    );
    assert_eq!(look(&[("d", 1)]), (vec![own("d", 1)], 1));
    assert_eq!(look(&[]), (vec![], 0));
}

#[test]
fn a_look_is_told_until_it_is_old_and_none_after_one_that_failed() {
    let seen: Arc<Mutex<Seen>> = Arc::default();
    let mut backends = Backends::of(seen.clone(), 2, 1);
    let (now, one) = (Instant::now(), || HashMap::from([(backend("a"), 1)]));
    let later = now + Duration::from_secs(60);
    locked(&seen).end(Outcome::Done, one(), later);
    // However often somebody asks.
    for _ in 0..2 {
        assert_eq!(told(&mut backends), [own("a", 1)]);
    }
    locked(&seen).until = Some(now);
    assert_eq!(told(&mut backends), [""; 0]);
    for outcome in [Outcome::Failed, Outcome::Untracked] {
        locked(&seen).end(Outcome::Done, one(), later);
        assert_eq!(told(&mut backends), [own("a", 1)]);
        locked(&seen).end(outcome, HashMap::new(), later);
        assert_eq!(told(&mut backends), [""; 0]);
    }
    assert_eq!(locked(&seen).looks, [3, 1, 1]);
    let cpu = Duration::from_millis;
    assert_eq!(
        [cpu(1), cpu(100), cpu(9000)].map(pause),
        [10, 30, 300].map(Duration::from_secs)
    );
}

#[test]
fn what_is_equal_after_the_cut_is_one() {
    let long = format!("shop/{}", "a".repeat(125));
    let all = [format!("{long}1"), format!("{long}2"), "b".to_owned()];
    let all = all.iter().zip(1..).map(|(pod, n)| (backend(pod), n)).collect();
    let mut all: Vec<_> = shown(all).into_values().collect();
    all.sort_unstable();
    assert_eq!(all, [3, 3]);
}

#[test]
fn only_what_is_not_there_is_not_tracked() {
    let root = tempfile::tempdir().unwrap();
    let at = |name: &str| root.path().join(name);
    std::fs::write(at("there"), "").unwrap();
    let is = |first: &str, second: &str| is_tracked([&at(first), &at(second)]);
    assert_eq!(is("there", "not"), Ok(true));
    assert_eq!(is("not", "there"), Ok(true));
    assert_eq!(is("not", "neither"), Ok(false));
    // It is no directory: whether something is below it nobody knows.
    let e = is("there/below", "neither").unwrap_err().to_string();
    assert!(e.starts_with(&at("there/below").display().to_string()), "{e}");
    assert!(is("not", "there/below").is_err());
}
