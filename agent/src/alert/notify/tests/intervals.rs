//! Time intervals: what is taken and what is not, here and by Alertmanager's own tool.

use super::parse;
use std::process::Command;

/// A configuration of both: these intervals, and a route below the root that names one.
fn alerting(intervals: &str, route: &str) -> String {
    format!(
        "route: {{receiver: r, routes: [{{receiver: r, {route}}}]}}\n\
         receivers: [{{name: r, webhook_configs: [{{url: 'http://127.0.0.1:1/'}}]}}]\n\
         time_intervals:\n- {{name: t, time_intervals: [{intervals}]}}\n"
    )
}

fn ours(text: &str) -> Result<(), String> {
    let indented: String = text.lines().map(|line| format!("  {line}\n")).collect();
    parse(&format!("alerting:\n{indented}")).map(drop)
}

/// `None` where there is no amtool.
fn amtool(text: &str) -> Option<Result<(), String>> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    let run = Command::new("amtool")
        .arg("check-config")
        .arg(file.path())
        .output();
    let out = run.ok()?;
    let said = String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned();
    Some(if out.status.success() { Ok(()) } else { Err(said) })
}

#[test]
fn intervals_are_those_of_alertmanager() {
    let mute = "mute_time_intervals: [t]";
    let mut judged = 0;
    for (intervals, route, wrong) in [
        ("{}", mute, None),
        (
            "{weekdays: ['monday:friday', 'Sunday']}",
            "active_time_intervals: [t]",
            None,
        ),
        (
            "{times: [{start_time: '09:00', end_time: '17:00'}, {start_time: '18:00', end_time: '24:00'}]}",
            mute,
            None,
        ),
        (
            "{days_of_month: ['1:5', '-3:-1', '31', 7]}, {months: ['may:august', '1', 'December']}",
            mute,
            None,
        ),
        ("{years: ['2026:2028', 2030]}", mute, None),
        (
            "{weekdays: [saturday], location: 'Australia/Sydney'}, {location: 'Local'}, {location: UTC}",
            mute,
            None,
        ),
        (
            "{weekdays: ['friday:monday']}",
            mute,
            Some("weekdays[0]: \"friday:monday\" ends before it begins"),
        ),
        (
            "{weekdays: [1]}",
            mute,
            Some("weekdays[0]: \"1\" is not a weekday"),
        ),
        (
            "{weekdays: ['mon']}",
            mute,
            Some("weekdays[0]: \"mon\" is not a weekday"),
        ),
        (
            "{times: [{start_time: '9:00', end_time: '17:00'}]}",
            mute,
            Some("times[0].start_time: \"9:00\" is no time of a day"),
        ),
        (
            "{times: [{start_time: '09:00', end_time: '24:01'}]}",
            mute,
            Some("times[0].end_time: \"24:01\""),
        ),
        (
            "{times: [{start_time: '22:00', end_time: '06:00'}]}",
            mute,
            Some("times[0].end_time: 06:00 is not later than 22:00"),
        ),
        (
            "{times: [{start_time: '22:00'}]}",
            mute,
            Some("\"end_time\" is missing"),
        ),
        (
            "{days_of_month: ['0']}",
            mute,
            Some("days_of_month[0]: \"0\" is not a day of the month"),
        ),
        ("{days_of_month: ['32']}", mute, Some("days_of_month[0]: \"32\"")),
        ("{days_of_month: ['-3:5']}", mute, Some("write -3:-1")),
        ("{days_of_month: ['9:3']}", mute, Some("ends before it begins")),
        (
            "{months: ['may:march']}",
            mute,
            Some("months[0]: \"may:march\" ends before it begins"),
        ),
        ("{months: ['ma']}", mute, Some("months[0]: \"ma\" is not a month")),
        (
            "{years: ['2028:2026']}",
            mute,
            Some("years[0]: \"2028:2026\" ends before it begins"),
        ),
        (
            "{years: ['soon']}",
            mute,
            Some("years[0]: \"soon\" is not a year"),
        ),
        (
            "{location: 'Nowhere/Land'}",
            mute,
            Some("location: there is no time zone \"Nowhere/Land\""),
        ),
        ("{hours: []}", mute, Some("unknown key \"hours\"")),
        (
            "{}",
            "mute_time_intervals: [u]",
            Some("mute_time_intervals[0]: there is no \"u\" in alerting.time_intervals"),
        ),
        (
            "{}",
            "active_time_intervals: [u]",
            Some("active_time_intervals[0]: there is no \"u\""),
        ),
    ] {
        let text = alerting(intervals, route);
        let said = ours(&text);
        match (&said, wrong) {
            (Ok(()), None) => {}
            (Err(why), Some(wanted)) => assert!(why.contains(wanted), "{intervals}: {why}"),
            _ => panic!("{intervals}: {said:?}"),
        }
        if let Some(theirs) = amtool(&text) {
            assert_eq!(theirs.is_ok(), said.is_ok(), "{intervals}: {theirs:?}, {said:?}");
            judged += 1;
        }
    }
    let root = alerting("{}", mute).replace(
        "receiver: r, routes",
        "mute_time_intervals: [t], receiver: r, routes",
    );
    let why = ours(&root).unwrap_err();
    assert!(
        why.contains("alerting.route.mute_time_intervals: the root always tells"),
        "{why}"
    );
    if let Some(theirs) = amtool(&root) {
        assert!(theirs.is_err());
    }
    println!("{judged} judged by amtool");
}
