//! `cargo xtask fuzz`: the fuzz target of the tunnel parser, with the stable compiler.
//!
//! cargo-fuzz wants a nightly one for its sanitizer. The parser has no `unsafe`: coverage, which stable rustc can
//! instrument as well, and the checks of debug builds find what there is to find.

use std::process::Command;

use anyhow::{Context, Result};

use crate::shell::{cargo, root, run};

/// What cargo-fuzz gives rustc, without the sanitizer.
const FLAGS: [&str; 9] = [
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=1",
    "-Cdebug-assertions",
    "-Coverflow-checks",
];

/// Builds the target and runs it for so long; what it finds interesting is kept in fuzz/corpus.
pub fn fuzz(seconds: u32) -> Result<()> {
    let dir = root().join("fuzz");
    // With a target named, build scripts and macros are not instrumented.
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    run(cargo()
        .args(["build", "--release", "--bin", "tunnel", "--target", &target])
        .env("RUSTFLAGS", FLAGS.join(" "))
        .env("CARGO_TARGET_DIR", dir.join("target"))
        .current_dir(&dir))?;
    let corpus = dir.join("corpus/tunnel");
    let artifacts = dir.join("artifacts/tunnel/");
    for made in [&corpus, &artifacts] {
        std::fs::create_dir_all(made).with_context(|| format!("cannot make {}", made.display()))?;
    }
    run(
        Command::new(dir.join("target").join(target).join("release/tunnel"))
            .arg(format!("-max_total_time={seconds}"))
            .args(["-max_len=512", "-print_final_stats=1"])
            .arg(format!("-artifact_prefix={}", artifacts.display()))
            .arg(&corpus),
    )
}
