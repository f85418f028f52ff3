//! `cargo xtask docs`: what the agent itself prints, from the declarations in its code: pages of docs/, dashboards and rules of
//! deploy/.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::run::build_release;
use crate::setup::{Group, How, setup};
use crate::shell::{capture, root, run, say, target_dir};

/// What prints which file. Of the dashboards the list of names comes from the agent.
const PAGES: [(&[&str], &str); 4] = [
    (&["docs", "metrics"], "docs/metrics.md"),
    (&["docs", "config"], "docs/config.md"),
    (&["health", "--rules"], "deploy/prometheus/health.yaml"),
    (&["docs", "seccomp"], "deploy/container/seccomp.json"),
];
/// Where dashboards are, and how those are asked for.
const DASHBOARDS: [(&str, &[&str]); 2] = [
    ("deploy/grafana", &[]),
    ("deploy/grafana-classic", &["--classic"]),
];

/// Writes them.
pub fn write(how: How) -> Result<()> {
    setup(&[Group::Build], how)?;
    let agent = build_release()?;
    for (file, text) in printed(&agent)? {
        if fs::read_to_string(&file).is_ok_and(|old| old == text) {
            continue;
        }
        if let Some(directory) = file.parent() {
            fs::create_dir_all(directory)?;
        }
        fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
        say(format_args!("wrote {}", file.display()));
    }
    // Plain manifests are made from the chart, in which docs/rules are.
    let python = target_dir()?.join("python/bin/python");
    if python.exists() {
        run(Command::new(python)
            .arg(root().join("deploy/kubernetes/check.py"))
            .arg("--write"))?;
    } else {
        say("deploy/kubernetes/kustomize is left as it is: no target/python, see CONTRIBUTING.md");
    }
    Ok(())
}

/// An error if one of them is not what this agent prints.
pub fn check(agent: &Path) -> Result<()> {
    let printed = printed(agent)?;
    for (directory, _) in DASHBOARDS {
        for entry in fs::read_dir(root().join(directory))? {
            let file = entry?.path();
            if !printed.iter().any(|(known, _)| *known == file) {
                bail!(
                    "{} is of no dashboard that geophone prints: remove it",
                    file.display()
                );
            }
        }
    }
    for (file, text) in printed {
        if fs::read_to_string(&file).unwrap_or_default() != text {
            bail!(
                "{} is not what geophone prints: run `cargo xtask docs`",
                file.display()
            );
        }
    }
    Ok(())
}

/// Files and what is to be in them.
fn printed(agent: &Path) -> Result<Vec<(PathBuf, String)>> {
    let mut out = Vec::new();
    for (arguments, file) in PAGES {
        out.push((root().join(file), capture(Command::new(agent).args(arguments))?));
    }
    let list = capture(Command::new(agent).arg("dashboards"))?;
    let names = list
        .lines()
        .skip(1)
        .filter_map(|line| line.split_whitespace().next());
    for name in names {
        for (directory, style) in DASHBOARDS {
            let text = capture(Command::new(agent).args(["dashboards", name]).args(style))?;
            out.push((root().join(directory).join(format!("{name}.json")), text));
        }
    }
    Ok(out)
}
