//! Files that hold secrets and certificates.

use anyhow::{Context as _, Result, bail};
use std::io::Read as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

/// More than a chain of certificates needs.
const LIMIT: u64 = 1 << 20;

/// Reads a whole file; `what` is the name of the setting. A pipe or a device would hang the agent and is refused.
pub fn read(what: &str, path: &Path) -> Result<Vec<u8>> {
    let context = || format!("{what} {}", path.display());
    // Without O_NONBLOCK opening a pipe that nobody writes to never returns.
    let file = std::fs::File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(path)
        .with_context(context)?;
    let metadata = file.metadata().with_context(context)?;
    if !metadata.is_file() {
        bail!("{}: not a regular file; name a file", context());
    }
    let mut contents = Vec::new();
    file.take(LIMIT + 1)
        .read_to_end(&mut contents)
        .with_context(context)?;
    if contents.len() as u64 > LIMIT {
        bail!("{}: larger than 1 MiB; this is hardly the right file", context());
    }
    Ok(contents)
}

/// Reads a text that nobody else should see, and says so if everybody can. It works all the same: Kubernetes mounts
/// secrets with mode 0644 unless told otherwise.
pub fn read_secret(what: &str, path: &Path) -> Result<String> {
    let contents = read(what, path)?;
    if std::fs::metadata(path).is_ok_and(|m| m.mode() & 0o004 != 0) {
        tracing::warn!("{what} {}: every user can read it; chmod 600", path.display());
    }
    String::from_utf8(contents).map_err(|e| {
        anyhow::anyhow!(
            "{what} {}: not UTF-8 at byte {}; write it as text",
            path.display(),
            e.utf8_error().valid_up_to()
        )
    })
}
