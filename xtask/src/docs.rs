//! `cargo xtask docs`: the pages of docs/ that the agent itself prints, from the declarations in its code.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::setup::{Group, How, setup};
use crate::shell::{capture, cargo, root, run, say, target_dir};

/// `geophone docs NAME` prints docs/NAME.md.
const PAGES: [&str; 2] = ["metrics", "config"];

/// Writes the pages.
pub fn write(how: How) -> Result<()> {
    setup(&[Group::Build], how)?;
    let agent = build()?;
    for name in PAGES {
        let (page, text) = (page(name), text(&agent, name)?);
        if fs::read_to_string(&page).is_ok_and(|old| old == text) {
            continue;
        }
        fs::create_dir_all(root().join("docs"))?;
        fs::write(&page, text).with_context(|| format!("cannot write {}", page.display()))?;
        say(format_args!("wrote {}", page.display()));
    }
    Ok(())
}

/// An error if a page is not what the agent prints; what is not checked, and why, if a page is not there.
pub fn check() -> Result<Option<String>> {
    let (there, missing): (Vec<_>, Vec<_>) = PAGES.into_iter().partition(|name| page(name).exists());
    if !there.is_empty() {
        let agent = build()?;
        for name in there {
            if fs::read_to_string(page(name))? != text(&agent, name)? {
                bail!("docs/{name}.md is not what `geophone docs {name}` prints: run `cargo xtask docs`");
            }
        }
    }
    let missing: Vec<_> = missing.iter().map(|name| format!("docs/{name}.md")).collect();
    Ok((!missing.is_empty()).then(|| format!("no {} yet: run `cargo xtask docs`", missing.join(", "))))
}

fn page(name: &str) -> PathBuf {
    root().join(format!("docs/{name}.md"))
}

fn text(agent: &Path, name: &str) -> Result<String> {
    capture(Command::new(agent).args(["docs", name]))
}

fn build() -> Result<PathBuf> {
    run(cargo().args(["build", "--quiet", "--locked", "--package", "agent"]))?;
    Ok(target_dir()?.join("debug/geophone"))
}
