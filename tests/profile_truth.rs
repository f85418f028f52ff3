//! Probe `profile`: stacks of every kind of program, and what others say of the same.

use anyhow::{Result, bail, ensure};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tests::harness::Setup;
use tests::harness::agent::{Agent, Scratch};
use tests::harness::programs::{self, Running};
use tests::harness::stacks::Folded;
use tests::need_root;

/// Functions on the way, outermost first.
const SPINNING: &[&str] = &["_start", "main", "spinning_for", "spinning", "spinning_leaf"];

/// Cause: programs of nine kinds side by side. Seen: each one's stacks, whole and by their names; of the one that has more
/// frames than a record holds, that it has.
#[test]
fn programs_of_every_kind() -> Result<()> {
    need_root!("cc", "c++", "python3", "unshare");
    let scratch = Scratch::new()?;
    let start: [fn(&Scratch) -> Result<Running>; 8] = [
        programs::plain,
        programs::frame_pointers,
        programs::stripped,
        programs::signals,
        programs::deep,
        programs::contained,
        programs::cpp,
        programs::python,
    ];
    let agent = sampling("499")?;
    let running: Vec<Running> = start.iter().map(|start| start(&scratch)).collect::<Result<_>>()?;
    right_in_a_window(&agent, |folded| {
        let (mut native, mut whole) = (0, 0.0);
        for program in &running {
            let seen = folded(&program.name)?;
            let uncut = judge(program.kind, &seen).map_err(|e| {
                e.context(format!(
                    "{}: {} samples\n{}",
                    program.kind,
                    seen.total(),
                    seen.show()
                ))
            })?;
            if program.kind != "deep" {
                native += seen.total();
                whole += uncut * seen.total() as f64;
            }
        }
        let whole = whole / native as f64;
        println!("all: {native} samples, {whole:.4} whole");
        ensure!(whole >= 0.99, "{whole} of {native} are whole");
        Ok(())
    })
}

/// An error unless the stacks of a kind of program are right; returns how many are whole.
fn judge(kind: &str, seen: &Folded) -> Result<f64> {
    let (total, uncut) = (seen.total(), seen.uncut());
    let share = |functions: &[&str]| seen.through(functions) as f64 / total.max(1) as f64;
    println!("{kind}: {total} samples, {uncut:.4} whole");
    ensure!(total >= 200, "too few");
    let right = match kind {
        "plain" | "frame pointers" | "contained" => share(SPINNING) > 0.97 && seen.whole() > 0.98,
        "signals" => {
            let handled = share(&[
                "_start",
                "main",
                "spinning_for",
                "handler",
                "handled",
                "handled_leaf",
            ]);
            let spinning = |s: &[String]| SPINNING.iter().all(|f| s.iter().any(|frame| frame == f));
            let outside = seen.count(|s| spinning(s) && s.iter().all(|frame| frame != "handler"));
            let others = outside as f64 / total as f64;
            println!("  {handled:.3} in the handler, {others:.3} outside");
            handled > 0.2 && others > 0.2 && handled + others > 0.95
        }
        // It has no names, but as many frames as the same program with names.
        "stripped" => seen.count(|stack| (6..=8).contains(&stack.len())) as f64 > 0.95 * total as f64,
        "deep" => {
            let deep = seen.count(|s| s.get(1).is_some_and(|f| f == "[cut: too_deep]") && s.len() >= 130);
            return if deep as f64 > 0.99 * total as f64 {
                Ok(0.0)
            } else {
                bail!("{deep} were too deep")
            };
        }
        "c++" => {
            let thrown = share(&[
                "_start",
                "main",
                "catching(long)",
                "thrower(long, long*)",
                "_Unwind_RaiseException",
            ]);
            let virtually = share(&["virtually(Shape*, long)", "Circle::area(long)", "leaf(long)"]);
            println!("  {thrown:.3} thrown, {virtually:.3} virtually");
            thrown > 0.05 && virtually > 0.2
        }
        "python" => share(&["_start"]) > 0.97,
        _ => false,
    };
    ensure!(right && uncut >= 0.97, "{uncut} whole");
    Ok(uncut)
}

/// An agent that takes stacks so often a second.
fn sampling(hz: &str) -> Result<Agent> {
    Setup::new()
        .set("probes.profile.enabled", "true")
        .set("probes.profile.hz", hz)
        .start()
}

/// Looks at the samples of ten seconds by the name of a process, until `check` is content: when processes are new their
/// tables are still to be made, on a busy machine for seconds.
fn right_in_a_window(
    agent: &Agent,
    check: impl Fn(&dyn Fn(&str) -> Result<Folded>) -> Result<()>,
) -> Result<()> {
    let mut outcome = Ok(());
    for _ in 0..5 {
        let from = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64();
        std::thread::sleep(Duration::from_secs(10));
        outcome = check(&|name| {
            let path = format!("/api/v1/profile?from={from}&comm={name}&format=folded");
            let answer = agent.get(&path, "*/*")?;
            ensure!(answer.status == 200, "{path}: {}", answer.text());
            Folded::parse(&answer.text())
        });
        match &outcome {
            Ok(()) => break,
            Err(e) => println!("not yet: {e:#}"),
        }
    }
    outcome
}
