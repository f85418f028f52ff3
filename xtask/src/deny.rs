//! `cargo xtask deny`: licences, sources, banned crates and known vulnerabilities of what we depend on (deny.toml).

use anyhow::{Result, bail};

use crate::setup::{Group, How, setup};
use crate::shell::{cargo, run, say, shown};
use crate::toolchain::find;

/// Installs cargo-deny if it is missing and runs every check.
///
/// The advisories come from a database that is fetched; where that cannot be reached, the rest is checked still.
pub fn deny(how: How) -> Result<()> {
    setup(&[Group::Build], how)?;
    if find("cargo-deny").is_none() {
        let mut command = cargo();
        command
            .args(["install", "cargo-deny", "--locked"])
            .env_remove("CARGO_TARGET_DIR")
            .current_dir("/");
        say(format_args!(
            "cargo-deny is missing; it takes some minutes: {}",
            shown(&command)
        ));
        if how.no_install {
            bail!("not installed, as asked (--no-install)");
        }
        run(&mut command)?;
    }
    check_offline()?;
    if run(cargo().args(["deny", "--all-features", "check", "advisories"])).is_err() {
        bail!("advisories: see above (their database is fetched from the network)");
    }
    Ok(())
}

/// The checks that need no network.
pub fn check_offline() -> Result<()> {
    run(cargo().args([
        "deny",
        "--offline",
        "--all-features",
        "check",
        "bans",
        "licenses",
        "sources",
    ]))
}
