mod health;

use super::app::App;
use super::draw::draw;
use super::grid::layout;
use super::tabs::Tab;
use super::{Theme, Update};
use crate::records::{DroppedPacket, Record};
use crate::ui::view::{
    Account, Cost, Counter, DeviceRow, Distribution, DnsRow, DropRow, Hot, HotRow, Lane, Latency, Loss,
    PairRow, ProgramRow, Verdict, View,
};
use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::Terminal;
use ratatui::backend::TestBackend;

fn latency(p50: f64, age: f64) -> Option<Latency> {
    Some(Latency {
        p50,
        p90: 2.0 * p50,
        p95: 3.0 * p50,
        p99: 5.0 * p50,
        p999: 9.0 * p50,
        count: 1234,
        age: Some(age),
    })
}

fn pair(subject: &str, peer: &str, rx: f64) -> PairRow {
    PairRow {
        subject: subject.into(),
        peer: peer.into(),
        peer_region: "eu-west-1".into(),
        connections: 12,
        rtt: latency(0.00123, 0.0),
        jitter: latency(0.0001, 7.0),
        rtt_since_start: Distribution {
            zero: 3,
            first: 70,
            cells: vec![5, 0, 80, 9, 1],
            ..Default::default()
        },
        retransmit_ratio: Some(0.0312),
        receive_rate: rx,
        transmit_rate: 1500.0,
        history: vec![rx; 60],
        resets: 2,
        counters: vec![Counter {
            name: "retransmits".into(),
            kind: "tail_loss_probe".into(),
            total: 31,
            rate: 0.5,
        }],
        ..Default::default()
    }
}

fn view() -> View {
    View {
        host: "web-14".into(),
        region: "eu".into(),
        tick: 9,
        uptime: 192.0,
        total: PairRow {
            connections: 36,
            ..pair("", "", 3e6)
        },
        pairs: vec![
            pair("nginx", "public", 2e6),
            pair("redis", "loopback", 1e3),
            pair("evil\u{1b}[2J", "db", 0.0),
        ],
        drops: vec![DropRow {
            reason: "NO_SOCKET".into(),
            protocol: "udp".into(),
            device: "eth0".into(),
            direction: "receive".into(),
            rate: 2.5,
            total: 77,
            age: Some(0.0),
            ..Default::default()
        }],
        drops_rate: 2.5,
        devices: vec![DeviceRow {
            device: "eth0".into(),
            receive: Lane {
                bytes_rate: 12.5e6,
                ..Default::default()
            },
            speed: Some(1.25e8),
            ..Default::default()
        }],
        cost: Cost {
            cpu: Some(0.0021),
            memory_bytes: Some(31e6),
            programs: vec![ProgramRow {
                program: "tcp_probe".into(),
                nanos_per_run: Some(61.0),
                ..Default::default()
            }],
            governor_level: Some(2.0),
            ..Default::default()
        },
        accounts: vec![Account {
            probe: "tcp".into(),
            seen: 100,
            dropped: vec![Loss {
                stage: "ring".into(),
                reason: "ring_full".into(),
                total: 5,
                rate: 0.0,
            }],
            ..Default::default()
        }],
        verdicts: vec![Verdict {
            program: "tcp_accept".into(),
            state: "unsupported".into(),
            note: "no fexit\nboot 6.4".into(),
        }],
        ..Default::default()
    }
}

fn app() -> App {
    let mut app = App::new(Theme { color: false });
    app.apply(Update::View(Box::new(view())));
    app
}

fn screen(app: &mut App, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, app)).unwrap();
    let buffer = terminal.backend().buffer();
    let row = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>();
    (0..height).map(|y| row(y).trim_end().to_owned() + "\n").collect()
}

fn press(app: &mut App, keys: &str) {
    for c in keys.chars() {
        let code = match c {
            '\n' => KeyCode::Enter,
            '\u{1b}' => KeyCode::Esc,
            '↓' => KeyCode::Down,
            c => KeyCode::Char(c),
        };
        app.key(KeyEvent::new(code, KeyModifiers::NONE));
    }
}

#[track_caller]
fn shows(screen: &str, texts: &[&str]) {
    for text in texts {
        assert!(screen.contains(text), "{text:?} is not on\n{screen}");
    }
}

#[test]
fn connections_at_80_by_24() {
    let screen = screen(&mut app(), 80, 24);
    let heading = "SUBJECT       PEER       CONNS RTT p50    p99 JITTER  RETR   RX/s   TX/s RX+TX▼";
    let nginx = "nginx         public        12  1.23ms 6.15ms ~100µs 3.12% 2.00MB 1.50kB ██████";
    shows(
        &screen,
        &[
            "geophone  web-14  eu  up 3m12s",
            heading,
            nginx,
            "TOTAL         3 pairs       36",
            "tick 9",
        ],
    );
    shows(
        &screen,
        &[
            "RTT p50 1.23ms  p99 6.15ms",
            "agent CPU 0.21%  RSS 31.0MB",
            "q quit",
            "sort: RX+TX ▼",
        ],
    );
    assert!(screen.lines().all(|l| l.chars().count() <= 80));
    assert!(!screen.contains('\u{1b}') && screen.contains("evil\u{fffd}[2J"));
}

#[test]
fn every_tab_at_every_size() {
    for (width, height) in [(140, 40), (80, 24), (40, 10), (20, 6), (3, 2), (1, 1)] {
        for tab in 1..=5 {
            let mut app = app();
            press(&mut app, &format!("{tab}"));
            let table = screen(&mut app, width, height);
            press(&mut app, "↓\n");
            let detail = screen(&mut app, width, height);
            press(&mut app, "\u{1b}?");
            screen(&mut app, width, height);
            if width < 40 {
                continue;
            }
            let wanted = [
                "nginx",
                "NO_SOCKET",
                "eth0",
                "tcp_probe",
                "waiting for a connection to end",
            ];
            shows(&table, &[wanted[tab - 1]]);
            assert!(tab == 5 || detail.contains('┌'), "{detail}");
        }
    }
}

#[test]
fn wide_terminals_get_more_columns() {
    shows(
        &screen(&mut app(), 140, 40),
        &["OPEN/s", "FAIL/s", "RESETS", "ZONE", "eu-west-1"],
    );
    let mut narrow = app();
    let narrow = screen(&mut narrow, 40, 10);
    shows(
        &narrow,
        &["tick 9", "nginx", "SUBJECT", "RTT p50", "1.23ms", "6.15ms"],
    );
    for room in 0..200 {
        let chosen = layout(Tab::Connections.columns(), &[], room);
        let used: u16 = chosen.iter().map(|(_, width)| width + 1).sum();
        assert!(used <= room.max(1), "{used} in {room}");
    }
}

#[test]
fn the_other_tabs_at_80_by_24() {
    let mut app = app();
    press(&mut app, "2");
    shows(
        &screen(&mut app, 80, 24),
        &["NO_SOCKET", "udp", "eth0", "rx", "2.5", "77", "now"],
    );
    press(&mut app, "3");
    shows(
        &screen(&mut app, 80, 24),
        &["eth0", "12.5MB", "1.00Gb/s", "10.0%"],
    );
    press(&mut app, "4");
    let agent = [
        "level 2: sampling lowered",
        "lost 5 of tcp: ring_full at ring",
        "tcp_accept",
        "unsupported",
        "no fexit",
        "61",
    ];
    shows(&screen(&mut app, 80, 24), &agent);
}

#[test]
fn details_tell_everything() {
    let mut app = app();
    screen(&mut app, 80, 24);
    press(&mut app, "\n");
    let detail = screen(&mut app, 80, 24);
    shows(
        &detail,
        &[
            "nginx → public (eu-west-1)",
            "p99.9",
            "newest",
            "now",
            "RTT since start, 98 samples",
            "█",
        ],
    );
    shows(
        &detail,
        &["retransmits tail probe       31    0.50", "7s ago", "81.6%"],
    );
    press(&mut app, "\u{1b}4");
    screen(&mut app, 80, 24);
    press(&mut app, "/accept\n");
    screen(&mut app, 80, 24);
    press(&mut app, "\n");
    shows(&screen(&mut app, 80, 24), &["boot 6.4"]);
}

#[test]
fn sorting_filtering_and_selecting() {
    let mut app = app();
    screen(&mut app, 80, 24);
    press(&mut app, "s");
    assert_eq!(app.grid().sort, 0);
    let order = |screen: &str| ["evil", "nginx", "redis"].map(|n| screen.find(n).unwrap());
    let by_name = order(&screen(&mut app, 80, 24));
    assert!(by_name.is_sorted());
    press(&mut app, "r");
    assert!(order(&screen(&mut app, 80, 24)).iter().rev().is_sorted());
    press(&mut app, "/LOOP");
    let filtered = screen(&mut app, 80, 24);
    shows(&filtered, &["redis", "filter: LOOP"]);
    assert!(!filtered.contains("nginx") && !filtered.contains("TOTAL"));
    press(&mut app, "x");
    shows(&screen(&mut app, 80, 24), &["nothing contains “LOOPx”"]);
    press(&mut app, "\u{1b}↓↓");
    screen(&mut app, 80, 24);
    // The selection stays with its row, wherever that goes.
    press(&mut app, "↓");
    let selected = app.grid().selected.clone().unwrap();
    press(&mut app, "r");
    shows(
        &screen(&mut app, 80, 24),
        &[&format!("▶{}", selected.lines().next().unwrap())],
    );
}

#[test]
fn a_pause_keeps_news_back_and_a_lost_agent_is_told() {
    let mut app = app();
    press(&mut app, "p");
    app.apply(Update::View(Box::new(View {
        host: "other".into(),
        tick: 10,
        ..view()
    })));
    shows(&screen(&mut app, 80, 24), &["web-14", "PAUSED"]);
    assert_eq!(app.newest().unwrap().host, "other");
    press(&mut app, "p");
    shows(&screen(&mut app, 80, 24), &["other"]);
    let gone = "agent at 127.0.0.1:9779 does not answer; retrying";
    app.apply(Update::Gone(gone.into()));
    shows(&screen(&mut app, 80, 24), &[gone, "NO ANSWER", "nginx"]);
    app.apply(Update::View(Box::new(view())));
    assert!(!screen(&mut app, 80, 24).contains(gone));
}

#[test]
fn nothing_yet() {
    let mut app = App::new(Theme { color: false });
    shows(
        &screen(&mut app, 80, 24),
        &["waiting for the first second…", "starting"],
    );
    app.apply(Update::View(Box::default()));
    shows(&screen(&mut app, 80, 24), &["waiting for the first connection…"]);
}

#[test]
fn records_are_cleaned_bounded_and_newest_first() {
    let mut app = app();
    let drop = |i: u32| {
        Record::Drop(Box::new(DroppedPacket {
            time: f64::from(i),
            reason: format!("R{i}\u{1b}]0;x"),
            location: "f+0x1".into(),
            protocol: "tcp".into(),
            direction: "receive".into(),
            device: "eth0".into(),
            subject: String::new(),
            source: None,
            destination: None,
            bytes: 60,
        }))
    };
    app.apply(Update::Records((0..2000).map(drop).collect()));
    assert_eq!(app.records.len(), super::app::RECORDS);
    press(&mut app, "5");
    let screen = screen(&mut app, 80, 24);
    shows(&screen, &["R1999\u{fffd}]0;x", "00:33:19 drop"]);
    assert!(screen.find("R1999").unwrap() < screen.find("R1998").unwrap());
}

#[test]
fn dns_and_udp_have_tabs_while_their_probes_are_on() {
    let mut app = app();
    let before = screen(&mut app, 120, 24);
    assert!(!before.contains("DNS") && !before.contains("UDP"), "{before}");
    let mut on = view();
    on.tick += 1;
    on.dns = Some(vec![DnsRow {
        subject: "nginx\u{1b}[2J".into(),
        server: "10.0.0.53".into(),
        queries: 40,
        p50: Some(0.002),
        answers: [("NOERROR".into(), 30), ("NXDOMAIN".into(), 10)].into(),
        ..DnsRow::default()
    }]);
    app.apply(Update::View(Box::new(on.clone())));
    press(&mut app, "7");
    let dns = screen(&mut app, 120, 24);
    shows(&dns, &["7 DNS", "10.0.0.53", "NXDOM", "25.0%", "2.00ms"]);
    assert!(!dns.contains("UDP") && !dns.contains('\u{1b}'), "{dns}");
    press(&mut app, "\n");
    shows(&screen(&mut app, 120, 24), &["NOERROR", "30"]);
    on.udp = Some(Vec::new());
    on.tick += 1;
    let mut app = App::new(Theme { color: false });
    app.apply(Update::View(Box::new(on)));
    press(&mut app, "8");
    shows(&screen(&mut app, 80, 24), &["no datagram has been seen yet"]);
}

#[test]
fn stacks_have_a_tab_with_subjects_and_functions() {
    let row = |subject: &str, function: &str, own: f64| HotRow {
        subject: subject.into(),
        function: function.into(),
        own,
        total: own * 2.0,
        off_cpu: Some(own / 2.0),
        stack: vec![function.into(), "main".into(), "_start".into()],
        stack_share: 0.75,
    };
    let mut on = view();
    (on.dns, on.udp) = (Some(Vec::new()), Some(Vec::new()));
    on.stacks = Some(Hot {
        seconds: 10.0,
        off_cpu: true,
        subjects: ["nginx", "redis", "a", "b", "c"].map(|s| row(s, "", 0.5)).into(),
        functions: (0..40)
            .map(|i| {
                row(
                    "nginx",
                    &format!("ngx_http_process_{i}\u{1b}[2J"),
                    f64::from(i) / 100.0,
                )
            })
            .collect(),
        total: row("", "", 1.5),
    });
    let mut app = App::new(Theme { color: false });
    app.apply(Update::View(Box::new(on)));
    press(&mut app, "9");
    let first = screen(&mut app, 80, 24);
    // Nine tabs by their short names.
    shows(
        &first,
        &[
            "1 Conns",
            "7 DNS",
            "8 UDP",
            "9 Stacks",
            "nginx",
            "redis",
            "ALL, 10 s, of a core",
            "150%",
        ],
    );
    shows(
        &first,
        &[
            "FUNCTION",
            "ngx_http_process_39",
            "39.0%",
            "78.0%",
            "19.5%",
            "sort: OWN",
        ],
    );
    assert!(
        first.lines().all(|l| l.chars().count() <= 80) && !first.contains('\u{1b}'),
        "{first}"
    );
    assert!(!first.contains("\n c "), "four subjects are enough:\n{first}");
    press(&mut app, "/process_7\n");
    let filtered = screen(&mut app, 80, 24);
    shows(&filtered, &["ngx_http_process_7", "7.00%"]);
    assert!(!filtered.contains("ngx_http_process_39"), "{filtered}");
    press(&mut app, "\n");
    shows(
        &screen(&mut app, 80, 24),
        &[
            "its busiest stack, 75.0% of its own time",
            "main",
            "_start",
            "14.0% with what it calls",
        ],
    );
    // Where there is little room the functions have it.
    let small = {
        press(&mut app, "\u{1b}");
        screen(&mut app, 80, 12)
    };
    assert!(
        small.contains("ngx_http_process_7") && !small.contains("ALL, 10 s"),
        "{small}"
    );
}
