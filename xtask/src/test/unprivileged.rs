//! The unit tests once more, as nobody: they must not need what root may do.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use super::cargo_test::{counted, programs};
use super::{Notes, Outcome};
use crate::shell::{cargo_tested, is_root, root};
use crate::toolchain::find;

/// Runs copies of the test programs as nobody, from a directory that nobody can read.
pub fn unit(filter: &[String]) -> Result<Outcome> {
    if !is_root() {
        return Ok(Outcome::Skipped("this is not root anyway".into()));
    }
    if find("setpriv").is_none() {
        return Ok(Outcome::Skipped(
            "no setpriv: run `cargo xtask setup test`".into(),
        ));
    }
    // Some tests read files of the repository.
    let readable = nobody(Path::new("test"))
        .arg("-r")
        .arg(root().join("Cargo.toml"))
        .stdin(Stdio::null())
        .status();
    if !readable.is_ok_and(|status| status.success()) {
        return Ok(Outcome::Skipped(format!(
            "nobody cannot read {}",
            root().display()
        )));
    }
    let dir = std::env::temp_dir().join(format!("geophone-unprivileged-{}", std::process::id()));
    let outcome = run_copies(&dir, filter);
    // Its leftovers are in the way of no one: not worth failing for.
    let _ = fs::remove_dir_all(&dir);
    outcome
}

fn run_copies(dir: &Path, filter: &[String]) -> Result<Outcome> {
    fs::create_dir(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let temp = dir.join("tmp");
    fs::create_dir(&temp)?;
    fs::set_permissions(&temp, fs::Permissions::from_mode(0o777))?;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755))?;
    let (mut total, mut notes) = ((0, 0), Notes::default());
    let mut build = cargo_tested("test")?;
    build.args(["--locked", "--workspace", "--exclude", "tests", "--lib", "--bins"]);
    build.args(["--no-run", "--quiet", "--message-format=json"]);
    for (name, program) in programs(&mut build)? {
        let copy = dir.join(&name);
        fs::copy(&program, &copy).with_context(|| format!("cannot copy {}", program.display()))?;
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o755))?;
        let mut command = nobody(&copy);
        command
            .args(filter)
            .arg("--show-output")
            .current_dir(root())
            .env("HOME", &temp)
            .env("TMPDIR", &temp);
        match counted(&mut command)? {
            Outcome::Passed(passed) => total.0 += passed,
            Outcome::Tried(passed, more) => {
                total.0 += passed;
                notes.skipped.extend(more.skipped);
            }
            Outcome::Failed(passed, failed, _) => total = (total.0 + passed, total.1 + failed),
            Outcome::Skipped(_) => {}
        }
        fs::remove_file(&copy)?;
    }
    Ok(match total {
        (passed, 0) if notes.skipped.is_empty() => Outcome::Passed(passed),
        (passed, 0) => Outcome::Tried(passed, notes),
        (passed, failed) => Outcome::Failed(passed, failed, "these pass only as root".into()),
    })
}

fn nobody(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args([
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        "--bounding-set=-all",
        "--no-new-privs",
        "--",
    ]);
    command.arg(program);
    command
}
