//! Scores of a file: a known cause in a series, and what is said of its lines.

use anyhow::{Context as _, Result, ensure};
use tests::harness::agent::Scratch;
use tests::harness::cli::{geophone, one_line, says};
use tests::harness::command::said;
use tests::harness::equal;

/// Values around 100, without a random number generator: a sum of sines that have no common period.
fn usual(t: u32) -> f64 {
    let t = f64::from(t);
    100.0 + (t * 1.7).sin() + (t * 0.73).cos() + (t * t * 0.013).sin()
}

fn series(samples: u32, change: impl Fn(u32) -> f64) -> String {
    let line = |t| format!("{},{:.4}\n", 1_769_860_800 + t, usual(t) + change(t));
    (0..samples).map(line).collect()
}

/// Cause: one value far above the others, nothing else. Said: of its line, and of no other, that it is an anomaly, upwards,
/// above the band, by which detectors; of the first that it is learning. Each detector by itself finds it as well.
#[test]
fn an_outlier() -> Result<()> {
    let scratch = Scratch::new()?;
    let text = series(4000, |t| if t == 3000 { 40.0 } else { 0.0 });
    let file = scratch.write("series.csv", text)?;
    let file = file.to_string_lossy();
    for detector in [
        "",
        "three-sigma",
        "moving-average",
        "robust",
        "exponential-smoothing",
        "holt-winters",
    ] {
        let mut arguments = vec!["score", &file];
        if !detector.is_empty() {
            arguments.extend(["--detector", detector]);
        }
        let out = geophone(&arguments)?;
        ensure!(out.status.success(), "{}", said(&out));
        let text = String::from_utf8(out.stdout)?;
        let rows: Vec<Vec<&str>> = text.lines().map(|l| l.split(',').collect()).collect();
        equal("lines", rows.len(), 4001)?;
        equal(
            "columns",
            rows[0].join(","),
            "timestamp,value,score,lower,upper,verdict,direction,detectors".to_owned(),
        )?;
        equal("first verdict", rows[1][5], "learning")?;
        let anomalies: Vec<&Vec<&str>> = rows.iter().filter(|r| r[5] == "anomaly").collect();
        ensure!(anomalies.len() == 1, "{detector}: {anomalies:?}");
        let row = anomalies[0];
        equal("its time", row[0], "1769863800")?;
        equal("its direction", row[6], "up")?;
        ensure!(row[2].parse::<f64>()? > 0.5, "{row:?}");
        ensure!(row[4].parse::<f64>()? < row[1].parse::<f64>()?, "{row:?}");
        ensure!(
            row[7].contains(if detector.is_empty() { "robust" } else { detector }),
            "{row:?}"
        );
    }
    Ok(())
}

/// Cause: a shift of the level. Said: the forest over the latest values agrees with who finds it, by name; asked alone, where many
/// alarms are allowed, it is named as well, and so it is in the summary; at one alarm a week it finds nothing, and from which rate on it
/// can is said on standard error.
#[test]
fn the_forest_is_named() -> Result<()> {
    let scratch = Scratch::new()?;
    let file = scratch.write("series.csv", series(4000, |t| if t >= 3000 { 12.0 } else { 0.0 }))?;
    let file = file.to_string_lossy();
    let forest = "isolation-forest";
    let alone = ["--detector", forest, "--alarms-per-week", "10000"];
    for more in [&[] as &[&str], &alone] {
        let arguments = [&["score", &file], more].concat();
        let out = geophone(&arguments)?;
        ensure!(out.status.success(), "{}", said(&out));
        let text = String::from_utf8(out.stdout)?;
        let rows = text.lines().map(|line| line.split(',').collect::<Vec<_>>());
        let mut found = rows.filter(|row| row[5] == "anomaly" && row[7].contains(forest));
        let at_begin = found.find(|row| (1_769_863_800..1_769_863_830).any(|t| row[0] == t.to_string()));
        let row = at_begin.with_context(|| format!("{more:?}: it is not named"))?;
        ensure!(more.is_empty() || row[7] == forest, "{row:?}");
    }
    let summary = geophone(&[&["score", &file, "-o", "/dev/null"], &alone[..]].concat())?;
    says(&String::from_utf8(summary.stdout)?, &[forest])?;
    ensure!(
        summary.stderr.is_empty(),
        "{}",
        String::from_utf8(summary.stderr)?
    );
    let silent = geophone(&["score", &file, "--detector", forest])?;
    ensure!(silent.status.success(), "{}", said(&silent));
    let note = String::from_utf8(silent.stderr)?;
    equal("lines of notes", note.lines().count(), 1)?;
    says(
        &note,
        &[
            forest,
            "--alarms-per-week 1,",
            "greatest value",
            "from --alarms-per-week ",
        ],
    )
}

/// Cause: a shift of the level, and -o. Seen: the lines are in the file, the summary says when it began, and that was at the
/// shift.
#[test]
fn a_shift_and_a_summary() -> Result<()> {
    let scratch = Scratch::new()?;
    let file = scratch.write("series.csv", series(4000, |t| if t >= 3000 { 12.0 } else { 0.0 }))?;
    let out = scratch.write("out.csv", "")?;
    let summary = geophone(&["score", &file.to_string_lossy(), "-o", &out.to_string_lossy()])?;
    ensure!(summary.status.success(), "{}", said(&summary));
    let summary = String::from_utf8(summary.stdout)?;
    says(
        &summary,
        &["4000 samples", "1s apart", "2026-01-31T12:50:0", "up"],
    )?;
    let lines = std::fs::read_to_string(out)?.lines().count();
    equal("lines", lines, 4001)
}

/// Cause: a series of which every fifth value is missing and three lines are none. Said: which lines, on standard error;
/// the rest is judged.
#[test]
fn gaps_and_bad_lines() -> Result<()> {
    let scratch = Scratch::new()?;
    let mut lines: Vec<String> = series(2000, |_| 0.0).lines().map(str::to_owned).collect();
    for line in lines.iter_mut().step_by(5) {
        line.truncate(11);
    }
    lines[1500] = "yesterday,3".to_owned();
    lines[1601] = "1769860800,3".to_owned();
    lines[1702] = "1769862502,many".to_owned();
    let file = scratch.write("series.csv", lines.join("\n"))?;
    let out = geophone(&["score", &file.to_string_lossy()])?;
    ensure!(out.status.success(), "{}", said(&out));
    let errors = String::from_utf8(out.stderr)?;
    let complaints: Vec<&str> = errors.lines().collect();
    equal("complaints", complaints.len(), 4)?;
    says(
        complaints[0],
        &["series.csv:1501: ", "yesterday", "2026-01-31T12:00:00Z"],
    )?;
    says(complaints[1], &["series.csv:1703: ", "many", "leave it empty"])?;
    says(complaints[2], &["series.csv:1602: ", "earlier", "sorted by time"])?;
    says(complaints[3], &["1 lines have the time of one before"])?;
    let text = String::from_utf8(out.stdout)?;
    let of = |verdict: &str| {
        text.lines()
            .filter(|l| l.split(',').nth(5) == Some(verdict))
            .count()
    };
    equal("missing", of("missing"), 399)?;
    equal("anomalies", of("anomaly"), 0)?;
    ensure!(of("normal") > 1200, "{}", of("normal"));
    Ok(())
}

/// Cause: growth of one a day for thirty days, from 10 on. Said: by every fit that it is one a day, and that 100 is reached
/// in sixty.
#[test]
fn a_trend_and_its_limit() -> Result<()> {
    let scratch = Scratch::new()?;
    let text: String = (0..720)
        .map(|hour| {
            format!(
                "{},{:.4}\n",
                1_769_860_800 + hour * 3600,
                10.0 + f64::from(hour) / 24.0 + 0.01 * usual(hour)
            )
        })
        .collect();
    let file = scratch.write("disk.csv", text)?;
    let file = file.to_string_lossy();
    let out = geophone(&["capacity", "--csv", &file, "--limit", "100", "--json"])?;
    ensure!(out.status.success(), "{}", said(&out));
    let found: serde_json::Value = serde_json::from_slice(&out.stdout)?;
    for forecast in found["forecasts"].as_array().context("forecasts")? {
        let slope = forecast["per_day"]["value"].as_f64().context("a slope")?;
        let days = forecast["exhaustion"]["in"]["days"].as_f64().context("days")?;
        ensure!(
            (slope - 1.0).abs() < 0.01 && (days - 59.0).abs() < 1.0,
            "{forecast}"
        );
    }
    let out = geophone(&["capacity", "--csv", &file, "--limit", "100"])?;
    says(
        &String::from_utf8(out.stdout)?,
        &["theil-sen", "100 is reached in 59", "act within"],
    )?;
    let few = scratch.write("few.csv", "1,1\n2,2\n3,3\n")?;
    let out = geophone(&["capacity", "--csv", &few.to_string_lossy()])?;
    says(&one_line(&out)?, &["few.csv", "not enough data", "20"])?;
    equal("exit status", out.status.code(), Some(1))
}

/// Cause: a store of two days, in which a disk fills by 4 GB a day and has 4 left, and nothing else moves. Said, with no agent: that
/// this disk is first, in a day, and what is to be done; of one resource all fits; of what is not there that it is not.
#[test]
fn what_runs_out_of_a_store() -> Result<()> {
    let scratch = Scratch::new()?;
    let line = |name: &str, labels: &str, value: f64, at: u32| {
        let labels = format!("instance=\"n\",job=\"geophone\",{labels}");
        format!("{name}{{{labels}}} {value} {at}\n")
    };
    let series = [
        ("geophone_node_limit", "resource=\"conntrack\"", 1000.0, 0.0),
        (
            "geophone_node_limit",
            "resource=\"filesystem\",device=\"vda1\"",
            60e9,
            0.0,
        ),
        ("geophone_node_used", "resource=\"conntrack\"", 100.0, 0.0),
        (
            "geophone_node_used",
            "resource=\"filesystem\",device=\"vda1\"",
            48e9,
            4e9,
        ),
    ];
    let mut text = String::new();
    for (name, labels, first, per_day) in series {
        for minute in 0..=2880_u32 {
            let value = first + per_day * f64::from(minute) / 1440.0;
            text += &line(name, labels, value, 1_769_860_800 + minute * 60);
        }
    }
    let file = scratch.write("days.om", text + "# EOF\n")?;
    let (file, store) = (file.to_string_lossy(), scratch.path("store"));
    let store = store.to_string_lossy();
    let out = geophone(&["store", "import", &file, "--store", &store])?;
    ensure!(out.status.success(), "{}", said(&out));
    let out = geophone(&["capacity", "--store", &store, "--json"])?;
    ensure!(out.status.success(), "{}", said(&out));
    let report: serde_json::Value = serde_json::from_slice(&out.stdout)?;
    let disk = &report["resources"][0];
    equal("first", disk["name"].as_str(), Some("vda1"))?;
    let trusted = &disk["forecast"]["trusted"];
    let fits = disk["forecast"]["forecasts"].as_array().context("forecasts")?;
    let best = fits
        .iter()
        .find(|fit| fit["method"] == *trusted)
        .context("a fit")?;
    let days = best["exhaustion"]["in"]["days"].as_f64().context("days")?;
    ensure!((days - 1.0).abs() < 0.05, "{best}");
    let out = geophone(&["capacity", "--store", &store])?;
    says(
        &String::from_utf8(out.stdout)?,
        &[
            "filesystem vda1",
            "93.3%",
            "+4.00GB",
            "conntrack",
            "first of all: ",
            "free space",
        ],
    )?;
    let out = geophone(&["capacity", "--store", &store, "filesystem/vda1"])?;
    says(
        &String::from_utf8(out.stdout)?,
        &["theil-sen", "least-squares", "56.0GB of 60.0GB"],
    )?;
    let out = geophone(&["capacity", "--store", &store, "tape"])?;
    says(&one_line(&out)?, &["tape", "geophone capacity"])
}

/// Cause: a value that no detector can hold among others. Said, by all three commands that read lines: which line, and that it is too
/// large; what is said of the rest has no NaN in it.
#[test]
fn what_is_too_large_is_left_out_everywhere() -> Result<()> {
    let scratch = Scratch::new()?;
    let line = |hour: u32| match hour {
        40 => format!("{},1.5e308\n", 1_769_860_800 + hour * 3600),
        _ => format!("{},0.{hour:03}\n", 1_769_860_800 + hour * 3600),
    };
    let text: String = (0..100).map(line).collect();
    let file = scratch.write("large.csv", text)?;
    let file = file.to_string_lossy();
    for arguments in [
        &["score", &file][..],
        &["capacity", "--csv", &file, "--limit", "1"],
        &["slo", "--csv", &file, "--objective", "99", "--over", "1d"],
    ] {
        let out = geophone(arguments)?;
        ensure!(out.status.success(), "{}", said(&out));
        let complaint = String::from_utf8(out.stderr)?;
        says(&complaint, &["large.csv:41: ", "1.5e308", "1e30", "larger unit"])?;
        let text = String::from_utf8(out.stdout)?;
        ensure!(!text.contains("NaN"), "{arguments:?}: {text}");
    }
    Ok(())
}

/// Cause: a file that is not there, one without a value, a detector that there is not. Said: what it was, in one line, and
/// what helps.
#[test]
fn what_cannot_be_scored() -> Result<()> {
    let scratch = Scratch::new()?;
    let empty = scratch.write("empty.csv", "time,value\n")?;
    let empty = empty.to_string_lossy();
    let cases: [(&[&str], i32, &[&str]); 5] = [
        (&["score", "/nowhere.csv"], 2, &["/nowhere.csv", "no such file"]),
        (
            &["score", &empty],
            1,
            &["empty.csv", "no value", "timestamp,value"],
        ),
        (
            &["score", &empty, "--detector", "magic"],
            2,
            &["--detector", "magic", "robust"],
        ),
        (
            &["score", &empty, "-o", "/nowhere/x.csv"],
            2,
            &["--output", "/nowhere"],
        ),
        (
            &["score", &empty, "-o", &empty],
            2,
            &["--output", "is the file that is read"],
        ),
    ];
    for (arguments, status, words) in cases {
        let out = geophone(arguments)?;
        let line = one_line(&out).with_context(|| format!("{arguments:?}"))?;
        says(&line, words)?;
        equal("exit status", out.status.code(), Some(status)).context(line)?;
    }
    Ok(())
}
