//! What must hold of two containers of runc that the guest script started under kubepods (kubepods.sh).

use anyhow::{Result, ensure};

use super::boot::Seen;
use super::judge::{Check, check, ended};
use super::report::family;

/// The run of the agent.
const RUN: &str = "run_kubepods";
/// What the first of them sent, and its limit.
const SENT: f64 = 3_000_000.0;
const LIMIT: f64 = 67_108_864.0;

/// Judges a boot as it comes.
pub fn checks(seen: &Seen) -> Vec<Check> {
    vec![check(
        "containers of runc have the names of their pods",
        kubepods(seen),
    )]
}

fn kubepods(seen: &Seen) -> Result<String> {
    ended(seen, RUN)?;
    let told = |name: &str, wanted: &[(&str, &str)]| -> Result<f64> {
        let series = family(seen, RUN, name)?;
        let found: Vec<f64> = series
            .iter()
            .filter(|s| s.has(wanted))
            .map(|s| s.number())
            .collect();
        ensure!(!found.is_empty(), "{name}: none of {wanted:?}");
        Ok(found.iter().sum())
    };
    let bytes = "geophone_tcp_bytes_total";
    let transmit = ("direction", "transmit");
    let sent = told(bytes, &[("subject", "shop/web-0"), transmit])?;
    ensure!(sent == SENT, "{sent} bytes of shop/web-0, not {SENT}");
    let once = told(bytes, &[("subject", "shop/web-1"), transmit])?;
    ensure!(once > 0.0, "no byte of shop/web-1, which was over at once");
    let of_memory = [("subject", "shop/web-0"), ("resource", "memory")];
    let limit = told("geophone_cgroup_limit", &of_memory)?;
    ensure!(limit == LIMIT, "a limit of {limit} bytes, not {LIMIT}");
    Ok(format!(
        "{sent} bytes of one, {once} of one that was over at once"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::boot::Section;

    fn seen(change: impl Fn(String) -> String) -> Seen {
        let bytes = |subject: &str, value: u32| {
            format!(r#"{{"labels":{{"subject":"{subject}","direction":"transmit"}},"value":{value}}}"#)
        };
        let text = change(format!(
            r#"{{"families":[{{"name":"geophone_tcp_bytes_total","series":[{},{}]}},
                {{"name":"geophone_cgroup_limit","series":[{}]}}]}}"#,
            bytes("shop/web-0", 3_000_000),
            bytes("shop/web-1", 80),
            r#"{"labels":{"subject":"shop/web-0","resource":"memory"},"value":67108864}"#,
        ));
        let section = |text: String| Section { text, code: 0 };
        [(RUN, text), ("ready_run_kubepods", String::new())]
            .map(|(name, text)| (name.to_owned(), section(text)))
            .into()
    }

    #[test]
    fn a_container_without_its_name_is_told() {
        let told = checks(&seen(|text| text)).remove(0);
        assert!(told.outcome.is_ok(), "{:?}", told.outcome);
        for (word, other) in [
            ("shop/web-0\",\"direction", "pod0\",\"direction"),
            ("3000000", "2999999"),
            ("shop/web-1", "other"),
            ("67108864", "1"),
        ] {
            let wrong = seen(|text| text.replace(word, other));
            assert!(checks(&wrong).remove(0).outcome.is_err(), "{word} {other}");
        }
    }
}
