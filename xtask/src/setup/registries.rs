//! What the checks of deploy/ take from PyPI and npm, in the versions that they were written with.

use std::fs;
use std::process::Command;

use anyhow::Result;

use super::Step;
use crate::shell::target_dir;

struct Pinned {
    /// Its directory, in that of the target.
    directory: &'static str,
    packages: &'static [&'static str],
    /// Installs `"$@"` into the directory `$0`.
    script: &'static str,
    why: &'static str,
}

const ALL: [Pinned; 2] = [
    Pinned {
        directory: "python",
        packages: &[
            "helm-python-sdk==0.2.2",
            "kubernetes-validate==1.37.0",
            "jsonschema==4.26.0",
            "pyyaml==6.0.4",
        ],
        script: "python3 -m venv --clear \"$0\" && \"$0/bin/pip\" install -q --disable-pip-version-check --retries 1 \"$@\"",
        why: "Helm as a library and the schemas of Kubernetes' API: checks of the chart",
    },
    Pinned {
        directory: "npm",
        packages: &["@grafana/schema@13.2.3", "typescript@7.0.2"],
        script: "npm install --silent --no-audit --no-fund --prefix \"$0\" \"$@\"",
        why: "Grafana's own types: checks of the dashboards",
    },
];

/// How to install what is not there in its version. A registry may be out of reach: then what needs it is skipped, and named.
pub fn steps() -> Result<Vec<Step>> {
    let mut steps = Vec::new();
    for pinned in ALL {
        let directory = target_dir()?.join(pinned.directory);
        // Written last: an install that was broken off is done again.
        let (stamp, wanted) = (directory.join("pinned"), pinned.packages.join(" "));
        if fs::read_to_string(&stamp).is_ok_and(|there| there.trim() == wanted) {
            continue;
        }
        let mut command = Command::new("sh");
        command
            .arg("-ec")
            .arg(format!("{} && echo \"$@\" > \"$0/pinned\"", pinned.script))
            .arg(directory)
            .args(pinned.packages);
        steps.push(Step {
            command,
            why: vec![format!("{}: {}", pinned.directory, pinned.why)],
            apt: false,
            optional: true,
        });
    }
    Ok(steps)
}
