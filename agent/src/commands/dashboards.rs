//! `geophone dashboards`: the dashboards of our own metrics, as they are or as somebody wants them, listed, written, or put into a
//! Grafana.

mod push;

use super::say;
use crate::aggregate::{Kind, Metric};
use crate::cli;
use crate::error::{Context as _, Error, Result};
use crate::ui::print::table;
use agent_dashboards::own::{self, Own};
use agent_dashboards::{Dashboard, Style, check, dashboards as make};
use agent_store::promql;
use push::Grafana;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

/// What a dashboard of own panels is called on the command line.
const CUSTOM: &str = "custom";

/// Does what is asked of them.
pub async fn dashboards(options: &cli::Dashboards) -> Result<()> {
    let style = Style {
        classic: options.classic,
    };
    let declared = declared();
    let mut made = make(&declared, style).map_err(|faults| Error::new(faults.join("; ")))?;
    if !options.panels.is_empty() {
        made.push(own::custom(style));
    }
    let mut chosen = chosen(made, options)?;
    change(&mut chosen, options, &declared, style)?;
    if let Some(directory) = &options.output {
        return write(&chosen, directory);
    }
    if let (Some(url), Some(file)) = (&options.push, &options.token_file) {
        let grafana = Grafana::new(url, file, options.ca_file.as_deref())?;
        for board in &chosen {
            let place = grafana.put(board, options.folder.as_deref()).await?;
            say(&format!("{}: {place}", board.name))?;
        }
        return Ok(());
    }
    if let ([board], [_]) = (chosen.as_slice(), options.names.as_slice()) {
        return say(board.text().trim_end());
    }
    if options.is_changed() {
        return Err(Error::usage(
            "nothing is written: name one dashboard, or say where they go, -o DIR or --push URL",
        ));
    }
    let rows: Vec<Vec<String>> = chosen
        .iter()
        .map(|board| {
            vec![
                board.name.clone(),
                board.queries.len().to_string(),
                board.about.to_owned(),
            ]
        })
        .collect();
    say(table(&["NAME", ">QUERIES", "WHAT"], &rows).trim_end())
}

/// Our metrics, as the dashboards want them.
fn declared() -> Vec<agent_dashboards::Metric> {
    let all = crate::docs::all()
        .into_iter()
        .flat_map(|(_, metrics)| metrics.iter());
    all.map(|metric: &&Metric| agent_dashboards::Metric {
        name: metric.name.to_owned(),
        kind: match metric.kind {
            Kind::Counter => agent_dashboards::Kind::Counter,
            Kind::Gauge => agent_dashboards::Kind::Gauge,
            Kind::Histogram => agent_dashboards::Kind::Histogram,
        },
        unit: metric.unit.to_owned(),
        labels: metric
            .labels
            .iter()
            .map(|label| label.prometheus.to_owned())
            .collect(),
        help: metric.help.to_owned(),
    })
    .collect()
}

/// Those of these names, with or without `geophone-`; all but that of own panels if there is no name.
fn chosen(made: Vec<Dashboard>, options: &cli::Dashboards) -> Result<Vec<Dashboard>> {
    if options.names.is_empty() {
        return Ok(made.into_iter().filter(|board| board.name != own::NAME).collect());
    }
    let is = |board: &Dashboard, name: &str| {
        board.name == name || board.name.strip_prefix("geophone-") == Some(name)
    };
    let one = |name: &String| {
        let found = made.iter().find(|board| is(board, name));
        found.cloned().ok_or_else(|| match name.as_str() {
            CUSTOM | own::NAME => Error::usage(format_args!(
                "{name}: it has only panels of your own; give it some, --panel 'TITLE=PROMQL'"
            )),
            _ => {
                let known: Vec<&str> = made.iter().map(|board| board.name.as_str()).collect();
                Error::usage(format_args!(
                    "{name}: no such dashboard; there are {}, and {CUSTOM} with --panel",
                    known.join(", ")
                ))
            }
        })
    };
    options.names.iter().map(one).collect()
}

/// As somebody wants them.
fn change(
    chosen: &mut [Dashboard],
    options: &cli::Dashboards,
    declared: &[agent_dashboards::Metric],
    style: Style,
) -> Result<()> {
    // Under one name, whatever they are called: `node` is `instance`.
    let called = |(said, value): &(String, String)| {
        let name = chosen.iter().find_map(|board| board.called(said));
        (name.unwrap_or(said).to_owned(), value.clone())
    };
    let vars: Vec<(String, String)> = options.vars.iter().map(called).collect();
    for (name, values) in grouped(&vars) {
        let values: Vec<&str> = values.into_iter().map(String::as_str).collect();
        // Of several dashboards not each need have it, but one must.
        let is_of_some = chosen.iter().any(|board| board.has(name));
        for board in chosen.iter_mut().filter(|board| !is_of_some || board.has(name)) {
            let said = board.choose(name, &values);
            said.map_err(|e| Error::usage(format_args!("--var {e}")))?;
        }
    }
    alone(chosen, options, declared, style)?;
    // Of one's own panels as well.
    for board in chosen.iter_mut() {
        if let Some(time) = options.last {
            board.show_last(&written(time)?);
        }
        if let Some(refresh) = options.refresh {
            board.refresh(refresh.map(written).transpose()?.as_deref());
        }
        if let Some(time) = options.interval {
            board.step(&written(time)?);
        }
    }
    Ok(())
}

/// What is of one dashboard only.
fn alone(
    chosen: &mut [Dashboard],
    options: &cli::Dashboards,
    declared: &[agent_dashboards::Metric],
    style: Style,
) -> Result<()> {
    let alone = [
        ("--panel", !options.panels.is_empty()),
        ("--title", options.title.is_some()),
        ("--uid", options.uid.is_some()),
    ];
    let [board] = chosen else {
        return match alone.iter().find(|(_, given)| *given) {
            Some((flag, _)) => Err(Error::usage(format_args!(
                "{flag}: it is of one dashboard; name it"
            ))),
            None => Ok(()),
        };
    };
    let panels = grouped(&options.panels).into_iter().map(|(title, queries)| Own {
        title: title.clone(),
        queries: queries.into_iter().cloned().collect(),
    });
    let panels: Vec<Own> = panels.collect();
    for own in &panels {
        judge(own, declared, style)?;
    }
    if !panels.is_empty() {
        board
            .add(&panels, declared)
            .map_err(|e| Error::usage(format_args!("--panel {e}")))?;
    }
    if let Some(title) = &options.title {
        board.rename(title);
    }
    if let Some(uid) = &options.uid {
        board
            .set_uid(uid)
            .map_err(|e| Error::usage(format_args!("--uid {e}")))?;
    }
    Ok(())
}

/// Own queries must make sense; that they ask for what is not there is remarked, for it may come.
fn judge(panel: &Own, declared: &[agent_dashboards::Metric], style: Style) -> Result<()> {
    for query in &panel.queries {
        let text = check::aligned(query, |_| ());
        promql::check(&text).map_err(|e| {
            let (said, place) = (e.to_string(), own::place_of(&text));
            let said = said
                .strip_prefix("invalid parameter \"query\": ")
                .unwrap_or(&said);
            Error::usage(format_args!("--panel {}: {said}{place}, in {query}", panel.title))
        })?;
        for doubt in own::doubts(query, declared, style) {
            let _ = writeln!(std::io::stderr(), "geophone: --panel {}: {doubt}", panel.title);
        }
    }
    Ok(())
}

/// Values of the same name together, in their order.
fn grouped(pairs: &[(String, String)]) -> Vec<(&String, Vec<&String>)> {
    let mut out: Vec<(&String, Vec<&String>)> = Vec::new();
    for (name, value) in pairs {
        match out.iter_mut().find(|(known, _)| *known == name) {
            Some((_, values)) => values.push(value),
            None => out.push((name, vec![value])),
        }
    }
    out
}

/// A duration as Grafana writes it: one number and the largest unit that it is a multiple of.
fn written(time: Duration) -> Result<String> {
    let seconds = time.as_secs();
    if seconds == 0 || time.subsec_nanos() != 0 {
        return Err(Error::usage(format_args!(
            "{time:?}: Grafana counts whole seconds; give 1s or more"
        )));
    }
    let units = [(86_400, "d"), (3_600, "h"), (60, "m"), (1, "s")];
    let (unit, name) = units
        .into_iter()
        .find(|(unit, _)| seconds.is_multiple_of(*unit))
        .unwrap_or((1, "s"));
    Ok(format!("{}{name}", seconds / unit))
}

fn write(boards: &[Dashboard], directory: &Path) -> Result<()> {
    std::fs::create_dir_all(directory).context(format_args!("--output {}", directory.display()))?;
    for board in boards {
        let file = directory.join(format!("{}.json", board.name));
        std::fs::write(&file, board.text()).context(format_args!("--output {}", file.display()))?;
    }
    say(&format!("{} dashboards in {}", boards.len(), directory.display()))
}

#[cfg(test)]
mod tests {
    use agent_score::watch::defaults;

    /// The dashboards draw bands of what is watched: the same names, units and labels.
    #[test]
    fn the_watches_are_those_of_the_dashboards() {
        let watched = defaults(10_000);
        assert_eq!(watched.len(), agent_dashboards::WATCHES.len());
        for (one, (name, unit, labels)) in watched.iter().zip(agent_dashboards::WATCHES) {
            assert_eq!((one.name.as_str(), one.unit.name()), (*name, *unit));
            let by = format!("by ({}) (", labels.join(", "));
            assert!(one.expr.contains(&by), "{name}: not {by} in {}", one.expr);
        }
    }
}
