//! The bill of materials: every crate that the agent and its eBPF programs are made of (CycloneDX 1.5, JSON).
//!
//! Cargo knows them; what only builds or tests is left out. There is no time and no serial number in it, which would be others
//! each time.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::arch::Arch;
use crate::shell::{capture, cargo, root};

/// The crates that are shipped.
const ROOTS: [&str; 2] = ["agent", "agent-ebpf"];

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    source: Option<String>,
    repository: Option<String>,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<Kind>,
}

#[derive(Deserialize)]
struct Kind {
    /// `None` = of the program itself; else `build` or `dev`.
    kind: Option<String>,
}

/// Of the workspace as it is locked; a static program has glibc in it as well.
pub fn of(arch: Arch, is_static: bool) -> Result<String> {
    let text = capture(cargo().args([
        "metadata",
        "--format-version",
        "1",
        "--locked",
        "--filter-platform",
        arch.target(),
    ]))?;
    let metadata: Metadata = serde_json::from_str(&text).context("cargo metadata: not what was expected")?;
    let lock = fs::read_to_string(root().join("Cargo.lock")).context("Cargo.lock")?;
    let libc = if is_static { Some(glibc(arch)?) } else { None };
    Ok(serde_json::to_string_pretty(&bill(&metadata, &checksums(&lock), libc))? + "\n")
}

/// The version of the C library that is linked.
fn glibc(arch: Arch) -> Result<String> {
    if arch.is_foreign() {
        // 2.36-8cross1
        let package = format!("libc6-dev-{}-cross", arch.name());
        let text = capture(Command::new("dpkg-query").args(["-W", "-f", "${Version}", &package]))?;
        return Ok(text.split('-').next().unwrap_or_default().to_owned());
    }
    let text = capture(Command::new("ldd").arg("--version"))?;
    let first = text.lines().next().unwrap_or_default();
    let version = first
        .split_whitespace()
        .next_back()
        .context("ldd tells no version")?;
    Ok(version.to_owned())
}

/// SHA-256 of each crate's archive, by name and version.
fn checksums(lock: &str) -> BTreeMap<(String, String), String> {
    let mut out = BTreeMap::new();
    for package in lock.split("[[package]]").skip(1) {
        let field = |name: &str| {
            let line = package
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(" = "))?;
            Some(line.trim_matches('"').to_owned())
        };
        if let (Some(name), Some(version), Some(sum)) = (field("name"), field("version"), field("checksum")) {
            out.insert((name, version), sum);
        }
    }
    out
}

fn bill(metadata: &Metadata, sums: &BTreeMap<(String, String), String>, libc: Option<String>) -> Value {
    let packages: BTreeMap<&str, &Package> = metadata.packages.iter().map(|p| (p.id.as_str(), p)).collect();
    let nodes: BTreeMap<&str, &Node> = metadata
        .resolve
        .nodes
        .iter()
        .map(|n| (n.id.as_str(), n))
        .collect();
    // What is linked, from the roots on.
    let of = |id: &str| -> Vec<&str> {
        let deps = nodes.get(id).map(|node| node.deps.as_slice()).unwrap_or_default();
        deps.iter()
            .filter(|dep| dep.dep_kinds.iter().any(|kind| kind.kind.is_none()))
            .map(|dep| dep.pkg.as_str())
            .collect()
    };
    let is_root = |package: &&Package| package.source.is_none() && ROOTS.contains(&package.name.as_str());
    let mut todo: Vec<&str> = metadata
        .packages
        .iter()
        .filter(is_root)
        .map(|p| p.id.as_str())
        .collect();
    let mut linked: BTreeSet<&str> = BTreeSet::new();
    while let Some(id) = todo.pop() {
        if linked.insert(id) {
            todo.extend(of(id));
        }
    }
    let purl = |package: &Package| format!("pkg:cargo/{}@{}", package.name, package.version);
    let mut components: Vec<Value> = linked
        .iter()
        .filter_map(|id| packages.get(id))
        .map(|package| {
            let mut component = json!({
                "type": "library",
                "bom-ref": purl(package),
                "name": package.name,
                "version": package.version,
                "purl": purl(package),
            });
            if let Some(license) = &package.license {
                // The old way of writing "or".
                component["licenses"] = json!([{"expression": license.replace('/', " OR ")}]);
            }
            if let Some(sum) = sums.get(&(package.name.clone(), package.version.clone())) {
                component["hashes"] = json!([{"alg": "SHA-256", "content": sum}]);
            }
            if let Some(repository) = &package.repository {
                component["externalReferences"] = json!([{"type": "vcs", "url": repository}]);
            }
            component
        })
        .collect();
    components.extend(libc.map(|version| {
        json!({
            "type": "library",
            "bom-ref": format!("pkg:generic/glibc@{version}"),
            "name": "glibc",
            "version": version,
            "purl": format!("pkg:generic/glibc@{version}"),
            "licenses": [{"expression": "LGPL-2.1-or-later"}],
        })
    }));
    components.sort_by_key(|component| component["bom-ref"].as_str().unwrap_or_default().to_owned());
    let mut dependencies: Vec<Value> = linked
        .iter()
        .filter_map(|id| Some((id, packages.get(id)?)))
        .map(|(id, package)| {
            let on: BTreeSet<String> = of(id)
                .iter()
                .filter_map(|id| packages.get(id))
                .map(|p| purl(p))
                .collect();
            json!({"ref": purl(package), "dependsOn": on})
        })
        .collect();
    dependencies.sort_by_key(|one| one["ref"].as_str().unwrap_or_default().to_owned());
    json!({
        "$schema": "http://cyclonedx.org/schema/bom-1.5.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": "geophone",
                "name": "geophone",
                "version": env!("CARGO_PKG_VERSION"),
                "licenses": [{"expression": "Apache-2.0"}],
            },
        },
        "components": components,
        "dependencies": dependencies,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_read_from_the_lock() {
        let lock = "version = 4\n\n[[package]]\nname = \"a\"\nversion = \"1.0.0\"\nsource = \"x\"\nchecksum = \"ff\"\n\n\
                    [[package]]\nname = \"own\"\nversion = \"0.1.0\"\ndependencies = [\n \"a\",\n]\n";
        let sums = checksums(lock);
        assert_eq!(sums.len(), 1);
        assert_eq!(sums[&("a".to_owned(), "1.0.0".to_owned())], "ff");
    }

    #[test]
    fn what_is_not_linked_is_not_in_it() {
        let package = |name: &str, source: Option<&str>| json!({"id": name, "name": name, "version": "1.0.0", "license": "MIT/Apache-2.0", "source": source, "repository": null});
        let dep = |name: &str, kind: Value| json!({"pkg": name, "dep_kinds": [{"kind": kind}]});
        let metadata: Metadata = serde_json::from_value(json!({
            "packages": [
                package("agent", None), package("linked", Some("r")), package("deeper", Some("r")),
                package("builds", Some("r")), package("tests", Some("r")), package("tools", None),
            ],
            "resolve": {"nodes": [
                {"id": "agent", "deps": [dep("linked", Value::Null), dep("builds", json!("build")), dep("tests", json!("dev"))]},
                {"id": "linked", "deps": [dep("deeper", Value::Null)]},
                {"id": "tools", "deps": [dep("tests", Value::Null)]},
            ]},
        }))
        .unwrap();
        let bill = bill(&metadata, &BTreeMap::new(), Some("2.36".into()));
        let names: Vec<&str> = bill["components"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|c| c["name"].as_str())
            .collect();
        assert_eq!(names, ["agent", "deeper", "linked", "glibc"]);
        assert_eq!(
            bill["components"][1]["licenses"][0]["expression"],
            "MIT OR Apache-2.0"
        );
        assert_eq!(
            bill["dependencies"][2],
            json!({"ref": "pkg:cargo/linked@1.0.0", "dependsOn": ["pkg:cargo/deeper@1.0.0"]})
        );
    }
}
