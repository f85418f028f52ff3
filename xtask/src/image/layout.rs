//! The layout of an image on disk (OCI image specification 1.1): blobs by digest, an index that names one manifest.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::arch::Arch;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// What the image says of itself.
pub struct About {
    /// RFC 3339.
    pub created: String,
    /// Commit; may be empty.
    pub revision: String,
    /// Of the agent.
    pub version: String,
    /// Whose machines run it.
    pub arch: Arch,
}

/// What was written.
pub struct Layout {
    /// Of the manifest: what one pulls by.
    pub digest: String,
    /// Of all blobs.
    pub bytes: u64,
}

/// Labels of the image, and annotations of its manifest.
fn labels(about: &About) -> Value {
    let mut labels = json!({
        "org.opencontainers.image.title": "geophone",
        "org.opencontainers.image.description": "Latency, loss and life of every connection, from eBPF programs",
        "org.opencontainers.image.source": env!("CARGO_PKG_REPOSITORY"),
        "org.opencontainers.image.licenses": "Apache-2.0",
        "org.opencontainers.image.version": about.version,
        "org.opencontainers.image.created": about.created,
    });
    if !about.revision.is_empty() {
        labels["org.opencontainers.image.revision"] = json!(about.revision);
    }
    labels
}

/// Writes the layout with this layer, a tar file.
pub fn write(into: &Path, layer: &[u8], about: &About) -> Result<Layout> {
    fs::create_dir_all(into.join("blobs/sha256"))?;
    let mut bytes = 0;
    let mut blob = |content: &[u8], kind: &str| -> Result<Value> {
        let digest = sha256(content);
        fs::write(into.join("blobs/sha256").join(&digest), content)?;
        bytes += content.len() as u64;
        Ok(json!({"mediaType": kind, "digest": format!("sha256:{digest}"), "size": content.len()}))
    };
    let compressed = blob(&gzip(layer)?, LAYER)?;
    let config = json!({
        "created": about.created,
        "architecture": about.arch.name(),
        "os": "linux",
        "config": {
            // Root, with no more capabilities than whoever starts it gives (docs/security.md).
            "User": "0:0",
            "ExposedPorts": {"9779/tcp": {}},
            "Env": ["PATH=/usr/bin"],
            "Entrypoint": ["/usr/bin/geophone"],
            "Cmd": ["run"],
            "WorkingDir": "/",
            "Labels": labels(about),
        },
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", sha256(layer))]},
        "history": [{"created": about.created, "created_by": "cargo xtask image"}],
    });
    let config = blob(&serde_json::to_vec(&config)?, CONFIG)?;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": config,
        "layers": [compressed],
        "annotations": labels(about),
    });
    let mut manifest = blob(&serde_json::to_vec(&manifest)?, MANIFEST)?;
    let digest = manifest["digest"].as_str().unwrap_or_default().to_owned();
    manifest["platform"] = json!({"architecture": about.arch.name(), "os": "linux"});
    manifest["annotations"] = json!({"org.opencontainers.image.ref.name": about.version});
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [manifest]});
    fs::write(into.join("index.json"), serde_json::to_vec(&index)?)?;
    fs::write(into.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
    Ok(Layout { digest, bytes })
}

/// An image that was read back, each blob compared with its digest.
pub struct Image {
    /// Its configuration.
    pub config: Value,
    /// Its one layer, a tar file.
    pub layer: Vec<u8>,
}

/// Reads a layout as a runtime does.
pub fn read(from: &Path) -> Result<Image> {
    let json = |bytes: Vec<u8>| serde_json::from_slice::<Value>(&bytes).context("JSON");
    let blob = |descriptor: &Value| -> Result<Vec<u8>> {
        let digest = descriptor["digest"].as_str().unwrap_or_default();
        let name = digest
            .strip_prefix("sha256:")
            .context("a digest that is not SHA-256")?;
        let bytes = fs::read(from.join("blobs/sha256").join(name)).with_context(|| digest.to_owned())?;
        ensure!(sha256(&bytes) == name, "{digest}: its content has another one");
        ensure!(descriptor["size"] == bytes.len(), "{digest}: another size");
        Ok(bytes)
    };
    let version = json(fs::read(from.join("oci-layout"))?)?;
    ensure!(version["imageLayoutVersion"] == "1.0.0", "oci-layout: {version}");
    let index = json(fs::read(from.join("index.json"))?)?;
    let manifest = json(blob(&index["manifests"][0])?)?;
    let config = json(blob(&manifest["config"])?)?;
    let layer = filter("gzip", &["-dc"], &blob(&manifest["layers"][0])?)?;
    let whole = format!("sha256:{}", sha256(&layer));
    ensure!(
        config["rootfs"]["diff_ids"] == json!([whole]),
        "the layer is not the configuration's"
    );
    Ok(Image { config, layer })
}

/// In lower-case hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Without a name or time in it. The program, as ours is not optimized.
fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    filter("gzip", &["-nc6"], bytes)
}

/// What a program makes of its input.
fn filter(program: &str, arguments: &[&str], input: &[u8]) -> Result<Vec<u8>> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {program}"))?;
    let mut stdin = child.stdin.take().context("no pipe")?;
    let output = std::thread::scope(|scope| {
        let writing = scope.spawn(move || stdin.write_all(input));
        let output = child.wait_with_output();
        // What it did not take is told by its status.
        let _ = writing.join();
        output
    })?;
    if !output.status.success() {
        bail!("{program} ended with {}", output.status);
    }
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about() -> About {
        About {
            created: "1970-01-01T00:00:07Z".into(),
            revision: String::new(),
            version: "1.2.3".into(),
            arch: Arch::Arm64,
        }
    }

    #[test]
    fn what_is_written_is_read_and_is_the_same_twice() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let first = write(one.path(), b"a layer", &about()).unwrap();
        let second = write(other.path(), b"a layer", &about()).unwrap();
        assert_eq!(first.digest, second.digest);
        let image = read(one.path()).unwrap();
        assert_eq!(image.layer, b"a layer");
        assert_eq!(image.config["config"]["Entrypoint"], json!(["/usr/bin/geophone"]));
        assert_eq!(image.config["architecture"], "arm64");
        let changed = write(other.path(), b"another", &about()).unwrap();
        assert_ne!(first.digest, changed.digest);
    }

    #[test]
    fn the_dockerfile_says_the_same() {
        let file = fs::read_to_string(crate::shell::root().join("deploy/container/Dockerfile")).unwrap();
        let scratch = tempfile::tempdir().unwrap();
        write(scratch.path(), b"a layer", &about()).unwrap();
        let config = read(scratch.path()).unwrap().config;
        let said = &config["config"];
        let list = |name: &str| serde_json::to_string(&said[name]).unwrap().replace(',', ", ");
        let mut lines = vec![
            format!("ENTRYPOINT {}", list("Entrypoint")),
            format!("CMD {}", list("Cmd")),
            format!("USER {}", said["User"].as_str().unwrap()),
            format!("WORKDIR {}", said["WorkingDir"].as_str().unwrap()),
            format!("ENV {}", said["Env"][0].as_str().unwrap()),
            "EXPOSE 9779".to_owned(),
        ];
        for label in ["title", "description", "source", "licenses"] {
            let label = format!("org.opencontainers.image.{label}");
            lines.push(format!("{label}={}", said["Labels"][&label]));
        }
        for line in lines {
            assert!(file.contains(&line), "the Dockerfile does not say {line}");
        }
        assert!(said["ExposedPorts"].get("9779/tcp").is_some());
    }

    #[test]
    fn a_blob_that_was_changed_is_refused() {
        let scratch = tempfile::tempdir().unwrap();
        let written = write(scratch.path(), b"a layer", &about()).unwrap();
        let name = written.digest.strip_prefix("sha256:").unwrap();
        fs::write(scratch.path().join("blobs/sha256").join(name), b"{}").unwrap();
        let refused = read(scratch.path()).err().unwrap().to_string();
        assert!(refused.contains(&written.digest), "{refused}");
    }

    #[test]
    fn digests_are_those_of_the_standard() {
        assert_eq!(
            sha256(b"abc"),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }
}
