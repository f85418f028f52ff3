//! What must hold of the stacks of xtask/vm/stacks.c: half of the time below libc's qsort, half of it in a signal's handler.

use anyhow::{Context, Result, ensure};

use super::boot::Seen;
use super::judge::{Check, check};
use super::report::section;

/// Functions, outermost first, that all lie in a stack.
const SORTING: [&str; 4] = ["main", "sorter", "compare", "leaf"];
const HANDLING: [&str; 6] = ["main", "waiter", "interrupted", "on_alarm", "handled", "leaf"];
/// Whether a stack is whole shows at its outermost end: what the program's start-up code has called.
const OUTERMOST: &str = "main";

/// The checks, if the guest had such a program.
pub fn checks(seen: &Seen) -> Vec<Check> {
    if !seen.contains_key("stacks") {
        return Vec::new();
    }
    vec![check("stacks without frame pointers are whole", whole(seen))]
}

fn whole(seen: &Seen) -> Result<String> {
    let section = section(seen, "stacks")?;
    ensure!(section.code == 0, "exit code {}", section.code);
    let (mut all, mut whole, mut sorting, mut handling) = (0, 0, 0, 0);
    for line in section.text.lines() {
        let (stack, count) = line.rsplit_once(' ').context("a line without a count")?;
        let count: u64 = count.parse().with_context(|| line.to_owned())?;
        let stack: Vec<&str> = stack.split(';').collect();
        all += count;
        if stack.contains(&OUTERMOST) {
            whole += count;
        }
        if leads(&stack, &SORTING) {
            sorting += count;
        }
        if leads(&stack, &HANDLING) {
            handling += count;
        }
    }
    let share = |part: u64| part as f64 / (all as f64).max(1.0);
    let seen = format!(
        "{all} samples, {:.3} whole, {:.3} below qsort, {:.3} in the handler",
        share(whole),
        share(sorting),
        share(handling)
    );
    ensure!(all >= 100, "{seen}");
    ensure!(share(whole) >= 0.98, "{seen}\n{}", section.text);
    ensure!(
        share(sorting) >= 0.2 && share(handling) >= 0.2,
        "{seen}\n{}",
        section.text
    );
    Ok(seen)
}

/// Whether these functions follow each other in a stack, others between them or not.
fn leads(stack: &[&str], way: &[&str]) -> bool {
    let mut rest = way.iter().peekable();
    for frame in stack {
        rest.next_if(|wanted| *wanted == frame);
    }
    rest.peek().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::boot::Section;

    #[test]
    fn shares_are_judged() {
        let judged = |text: &str| {
            let section = Section {
                text: text.to_owned(),
                code: 0,
            };
            whole(&[("stacks".to_owned(), section)].into()).map_err(|e| e.to_string())
        };
        let sorting = "stacks;_start;main;sorter;qsort_r;compare;leaf";
        let handling = "stacks;_start;main;waiter;interrupted;__kernel_rt_sigreturn;on_alarm;handled;leaf";
        assert!(judged(&format!("{sorting} 90\n{handling} 110\n")).is_ok());
        assert!(
            judged(&format!("{sorting} 90\nstacks;leaf 110\n"))
                .unwrap_err()
                .contains("0.450 whole")
        );
        assert!(judged(&format!("{sorting} 900\n{handling} 110\n")).is_err());
        assert!(judged("").is_err());
        assert!(checks(&Seen::new()).is_empty());
    }
}
