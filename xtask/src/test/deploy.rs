//! What is in deploy/, each piece by the tool that reads it in the end.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use super::{Notes, Outcome};
use crate::run::build_release;
use crate::shell::{root, target_dir};
use crate::toolchain::find;

/// What a check may need, and how one gets it. Programs are looked for on the path, the rest below the target directory.
struct Tool {
    programs: &'static [&'static str],
    /// Below the target directory.
    file: Option<&'static str>,
    remedy: &'static str,
}

const fn program(programs: &'static [&'static str], remedy: &'static str) -> Tool {
    Tool {
        programs,
        file: None,
        remedy,
    }
}

/// Helm as a library, the API's schemas, YAML.
const PYTHON: Tool = Tool {
    programs: &[],
    file: Some("python/pinned"),
    remedy: "cargo xtask setup deploy",
};
/// Kustomize, and Helm to compare with.
const KUBECTL: Tool = Tool {
    programs: &["kubectl"],
    file: PYTHON.file,
    remedy: "cargo xtask setup deploy, and kubectl 1.27 or later, which Debian 12 does not have",
};
/// Grafana's own types.
const TYPESCRIPT: Tool = Tool {
    programs: &["node"],
    file: Some("npm/pinned"),
    remedy: "cargo xtask setup test deploy",
};
const SYSTEMD: Tool = program(&["systemd-analyze"], "cargo xtask setup test");
const SHELLCHECK: Tool = program(&["shellcheck"], "cargo xtask setup test");
const PROMTOOL: Tool = program(&["promtool"], "cargo xtask setup test");
const AMTOOL: Tool = program(&["amtool"], "cargo xtask setup test");
const COMPOSE: Tool = program(&["docker-compose"], "cargo xtask setup deploy");
const VMAGENT: Tool = program(&["vmagent"], "cargo xtask setup deploy");
const COLLECTOR: Tool = program(
    &["otelcol-contrib"],
    "a release of opentelemetry-collector-contrib",
);
const NOTHING: Tool = program(&[], "");

/// What CI may be without: no package of Debian 12 and of no registry that `cargo xtask setup` asks brings it.
const NOT_TO_BE_HAD: [&str; 2] = ["otelcol-contrib", "kubectl"];

/// What is checked, with what, and how.
type Check = (&'static str, Tool, fn(&Path) -> Result<()>);
const CHECKS: &[Check] = &[
    ("chart and manifests", PYTHON, |agent| kubernetes(agent, "chart")),
    ("kustomizations", KUBECTL, |agent| kubernetes(agent, "kustomize")),
    ("all YAML", PYTHON, yaml),
    ("what the stack's parts say of each other", PYTHON, stack),
    ("systemd unit", SYSTEMD, unit),
    ("install script's style", SHELLCHECK, style),
    ("install script", NOTHING, install),
    ("compose file", COMPOSE, compose),
    ("settings of the stack's agent", NOTHING, settings),
    ("Prometheus configurations and rules", PROMTOOL, prometheus),
    ("Alertmanager configuration", AMTOOL, alertmanager),
    ("vmagent's configuration", VMAGENT, vmagent),
    ("what a region's collector scrapes", PYTHON, scrapes),
    ("collectors' configurations", COLLECTOR, collector),
    ("dashboards", TYPESCRIPT, dashboards),
];

/// Each in turn, with the agent of `GEOPHONE_BIN` or one that is built; what has no tool here is named.
pub fn deploy() -> Result<Outcome> {
    let agent = &match std::env::var_os("GEOPHONE_BIN") {
        Some(ready) => PathBuf::from(ready),
        None => build_release()?,
    };
    let (mut passed, mut skipped, mut failed) = (0, Vec::new(), Vec::new());
    for (what, tool, check) in CHECKS {
        if let Some(missing) = missing(tool)? {
            let told = format!("{what}: no {missing}; {}", tool.remedy);
            match must_be_there(&missing, std::env::var_os("CI").is_some()) {
                true => failed.push(told),
                false => skipped.push(told),
            }
            continue;
        }
        match check(agent) {
            Ok(()) => passed += 1,
            Err(error) => failed.push(format!("{what}: {error:#}")),
        }
    }
    Ok(match failed.len() as u64 {
        0 if skipped.is_empty() => Outcome::Passed(passed),
        0 => Outcome::Tried(
            passed,
            Notes {
                skipped,
                ..Notes::default()
            },
        ),
        many => Outcome::Failed(passed, many, failed.join("\n")),
    })
}

/// In CI a check that could not be tried is one that has not held.
fn must_be_there(missing: &str, is_ci: bool) -> bool {
    is_ci && !NOT_TO_BE_HAD.contains(&missing)
}

fn missing(tool: &Tool) -> Result<Option<String>> {
    if let Some(program) = tool.programs.iter().find(|program| find(program).is_none()) {
        return Ok(Some((*program).to_owned()));
    }
    let file = tool
        .file
        .map(|file| Ok::<_, anyhow::Error>(target_dir()?.join(file)));
    let file = file.transpose()?.filter(|file| !file.exists());
    Ok(file.map(|file| file.display().to_string()))
}

fn deploy_dir() -> PathBuf {
    root().join("deploy")
}

fn python() -> Result<PathBuf> {
    Ok(target_dir()?.join("python/bin/python"))
}

/// What a program says when it succeeds, both outputs; when it does not, that is the error.
fn said(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("{command:?}"))?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).trim().to_owned();
    ensure!(output.status.success(), "{text}");
    Ok(text)
}

fn kubernetes(agent: &Path, what: &str) -> Result<()> {
    let mut check = Command::new(python()?);
    check
        .arg(deploy_dir().join("kubernetes/check.py"))
        .arg(what)
        .env("GEOPHONE_BIN", agent);
    said(&mut check).map(drop)
}

/// Whatever no other tool here reads must at least be YAML.
fn yaml(_: &Path) -> Result<()> {
    let script = "import pathlib, sys, yaml\n\
        for path in pathlib.Path(sys.argv[1]).rglob('*.yaml'):\n\
        \x20   if 'templates' not in path.parts:\n\
        \x20       list(yaml.safe_load_all(path.read_text()))\n";
    said(Command::new(python()?).args(["-c", script]).arg(deploy_dir())).map(drop)
}

fn stack(_: &Path) -> Result<()> {
    said(Command::new(python()?).arg(deploy_dir().join("stack/check.py"))).map(drop)
}

fn unit(_: &Path) -> Result<()> {
    let text = fs::read_to_string(deploy_dir().join("systemd/geophone.service"))?;
    let scratch = tempfile::tempdir()?;
    let file = scratch.path().join("geophone.service");
    // It wants the program to be there.
    fs::write(&file, text.replace("/usr/local/bin/geophone", "/bin/true"))?;
    let said_of = said(
        Command::new("systemd-analyze")
            .args(["verify", "--man=no"])
            .arg(&file),
    )?;
    // Of a key that it does not know it only speaks.
    ensure!(said_of.is_empty(), "{said_of}");
    let mut exposure = Command::new("systemd-analyze");
    exposure.args(["security", "--no-pager", "--offline=true", "--threshold=32"]);
    said(exposure.arg(&file)).map(drop)
}

fn style(_: &Path) -> Result<()> {
    said(Command::new("shellcheck").arg(deploy_dir().join("install.sh"))).map(drop)
}

/// Installed below a directory: once, again, with settings that are wrong, and taken off.
fn install(agent: &Path) -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let below = scratch.path().join("root");
    let script = |arguments: &[&str]| {
        let mut command = Command::new("sh");
        command
            .arg(deploy_dir().join("install.sh"))
            .arg("--root")
            .arg(&below);
        command.args(arguments);
        said(&mut command)
    };
    let agent = agent.to_str().context("the agent's path")?;
    let wrong = scratch.path().join("wrong.yaml");
    fs::write(&wrong, "no_such_key: 1\n")?;
    let wrong = wrong.to_str().context("a path")?;
    let refused = script(&["--binary", agent, "--config", wrong]);
    ensure!(
        refused.is_err_and(|e| e.to_string().contains("no_such_key")),
        "a wrong configuration was taken"
    );
    ensure!(
        !below.exists(),
        "something was written although the configuration is wrong"
    );
    ensure!(
        script(&["--binary", agent, "--sha256", "00"]).is_err(),
        "a program with another checksum was taken"
    );
    let first = script(&["--binary", agent])?;
    for file in [
        "usr/local/bin/geophone",
        "etc/geophone/geophone.yaml",
        "etc/geophone/rules/loss.yaml",
        "etc/systemd/system/geophone.service",
    ] {
        ensure!(below.join(file).is_file(), "no {file} after: {first}");
    }
    let own = below.join("etc/geophone/geophone.yaml");
    fs::write(&own, "region: mine\n")?;
    let second = script(&["--binary", agent])?;
    ensure!(!second.contains("wrote"), "not idempotent: {second}");
    ensure!(
        fs::read_to_string(&own)? == "region: mine\n",
        "settings were overwritten"
    );
    script(&["--uninstall"])?;
    ensure!(
        !below.join("usr/local/bin/geophone").exists() && own.exists(),
        "uninstall took the wrong things"
    );
    script(&["--uninstall", "--purge"])?;
    ensure!(!own.exists(), "purge left the settings");
    Ok(())
}

fn compose(_: &Path) -> Result<()> {
    // Version 1 looks for the seccomp profile from where it runs, version 2 from where the file is.
    said(
        Command::new("docker-compose")
            .current_dir(deploy_dir().join("stack"))
            .args(["config", "-q"]),
    )
    .map(drop)
}

fn settings(agent: &Path) -> Result<()> {
    let file = deploy_dir().join("stack/geophone.yaml");
    said(Command::new(agent).args(["config", "validate"]).arg(file)).map(drop)
}

/// What Debian's promtool does not know yet.
const SINCE_3_8: &str = "    scrape_native_histograms: true\n";

fn prometheus(_: &Path) -> Result<()> {
    let promtool =
        |what: &[&str], files: &[PathBuf]| said(Command::new("promtool").args(what).args(files)).map(drop);
    let at = deploy_dir().join("prometheus");
    let scratch = tempfile::tempdir()?;
    let region = scratch.path().join("region.yaml");
    let text = fs::read_to_string(at.join("config/region.yaml"))?;
    ensure!(text.contains(SINCE_3_8), "region.yaml: no native histograms");
    fs::write(&region, text.replace(SINCE_3_8, ""))?;
    for file in [region, deploy_dir().join("stack/prometheus/prometheus.yaml")] {
        promtool(&["check", "config", "--syntax-only"], &[file])?;
    }
    promtool(
        &["check", "rules"],
        &[at.join("fleet.yaml"), at.join("health.yaml")],
    )?;
    promtool(
        &["test", "rules"],
        &[at.join("tests/fleet.yaml"), at.join("tests/health.yaml")],
    )
}

fn alertmanager(_: &Path) -> Result<()> {
    let file = deploy_dir().join("stack/alertmanager/alertmanager.yaml");
    said(Command::new("amtool").arg("check-config").arg(file)).map(drop)
}

fn vmagent(_: &Path) -> Result<()> {
    let file = deploy_dir().join("stack/vmagent/vmagent.yaml");
    said(
        Command::new("vmagent")
            .args([
                "-dryRun",
                "-loggerLevel=ERROR",
                "-remoteWrite.url=http://127.0.0.1:1",
            ])
            .arg(format!("-promscrape.config={}", file.display()))
            // The container's own; here it need only be there.
            .env("HOSTNAME", "node"),
    )
    .map(drop)
}

/// A collector in the place of a region's Prometheus scrapes as that would.
fn scrapes(_: &Path) -> Result<()> {
    let script = "import pathlib, sys, yaml\n\
        region, collector = (yaml.safe_load(pathlib.Path(sys.argv[1], name).read_text()) for name in ('region.yaml', 'collector.yaml'))\n\
        own = collector['receivers']['prometheus']['config']['scrape_configs']\n\
        sys.exit(own != region['scrape_configs'] and f'collector.yaml scrapes otherwise than region.yaml: {own}')\n";
    let at = deploy_dir().join("prometheus/config");
    said(Command::new(python()?).args(["-c", script]).arg(at)).map(drop)
}

fn collector(_: &Path) -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let at = |file: &str| scratch.path().join(file);
    // It wants files that a configuration names to be there.
    for file in ["geophone.token", "geophone-ca.pem"] {
        fs::write(at(file), "")?;
    }
    let text = fs::read_to_string(deploy_dir().join("prometheus/config/collector.yaml"))?;
    let region = at("collector.yaml");
    fs::write(
        &region,
        text.replace("/etc/prometheus", &scratch.path().to_string_lossy()),
    )?;
    for file in [deploy_dir().join("stack/otelcol/config.yaml"), region] {
        let config = format!("--config={}", file.display());
        said(Command::new("otelcol-contrib").arg("validate").arg(config))?;
    }
    Ok(())
}

/// Grafana's type of a dashboard, in which an enumeration is written as JSON has it, and what an annotation asks is Prometheus'.
const TYPED: &str = "import type { AnnotationQuery, Dashboard } from '@grafana/schema';\n\
    type Plain<T> = T extends string ? `${T}` : T extends (infer U)[] ? Plain<U>[]\n\
    \x20 : T extends object ? { [K in keyof T]: Plain<T[K]> } : T;\n\
    type Asks = Plain<AnnotationQuery> & { target: { expr: string }, titleFormat: string };\n\
    type Board = Plain<Omit<Dashboard, 'annotations'>> & { annotations: { list: Asks[] } };\n";

/// Each dashboard as a value of Grafana's own type.
fn dashboards(_: &Path) -> Result<()> {
    let modules = target_dir()?.join("npm/node_modules");
    let scratch = tempfile::tempdir_in(target_dir()?)?;
    std::os::unix::fs::symlink(&modules, scratch.path().join("node_modules"))?;
    let mut files = Vec::new();
    for directory in ["grafana", "grafana-classic"] {
        for entry in fs::read_dir(deploy_dir().join(directory))? {
            let path = entry?.path();
            let text = format!("{TYPED}export const d: Board = {};\n", fs::read_to_string(&path)?);
            let file = scratch.path().join(format!("{}.ts", files.len()));
            fs::write(&file, text).with_context(|| path.display().to_string())?;
            files.push(file);
        }
    }
    if files.is_empty() {
        bail!("no dashboards in deploy/grafana");
    }
    let mut tsc = Command::new("node");
    tsc.arg(modules.join("typescript/bin/tsc"))
        .args([
            "--noEmit",
            "--strict",
            "--skipLibCheck",
            "--moduleResolution",
            "bundler",
        ])
        .args(["--module", "esnext", "--target", "es2022"])
        .args(files);
    said(&mut tsc).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Cause: a tool that is not there, in CI and not. Seen: CI fails but for what cannot be had; each of that is a tool of a check.
    #[test]
    fn ci_does_without_what_cannot_be_had_only() {
        assert!(must_be_there("promtool", true) && !must_be_there("promtool", false));
        assert!(!must_be_there("otelcol-contrib", true));
        for name in NOT_TO_BE_HAD {
            assert!(
                CHECKS.iter().any(|(_, tool, _)| tool.programs.contains(&name)),
                "{name}"
            );
        }
    }
}
