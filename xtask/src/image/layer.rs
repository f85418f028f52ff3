//! The one layer: a tar file whose entries are sorted and bear one time, root's name and nothing else of this machine.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use anyhow::{Context, Result};

/// What an entry is.
enum Entry {
    Directory,
    File(Vec<u8>),
}

/// Entries by path, sorted as they are written.
pub struct Layer {
    epoch: u64,
    entries: BTreeMap<String, (u32, Entry)>,
}

impl Layer {
    /// With nothing in it; all bear this time, s since 1970.
    pub fn new(epoch: u64) -> Self {
        Self {
            epoch,
            entries: BTreeMap::new(),
        }
    }

    /// Adds a directory, and those that it lies in.
    pub fn directory(&mut self, path: &str, mode: u32) {
        let path = path.trim_matches('/');
        for parent in Path::new(path).ancestors().skip(1) {
            let parent = parent.to_string_lossy().into_owned();
            if !parent.is_empty() {
                self.entries.entry(parent).or_insert((0o755, Entry::Directory));
            }
        }
        self.entries.insert(path.to_owned(), (mode, Entry::Directory));
    }

    /// Adds a file, and the directories that it lies in.
    pub fn file(&mut self, path: &str, mode: u32, bytes: Vec<u8>) {
        let path = path.trim_start_matches('/');
        if let Some((parent, _)) = path.rsplit_once('/')
            && !self.entries.contains_key(parent)
        {
            self.directory(parent, 0o755);
        }
        self.entries.insert(path.to_owned(), (mode, Entry::File(bytes)));
    }

    /// The tar file.
    pub fn finish(self) -> Result<Vec<u8>> {
        let mut archive = tar::Builder::new(Vec::new());
        for (path, (mode, entry)) in self.entries {
            let mut header = tar::Header::new_ustar();
            header.set_mode(mode);
            header.set_mtime(self.epoch);
            header.set_uid(0);
            header.set_gid(0);
            let bytes = match entry {
                Entry::Directory => {
                    header.set_entry_type(tar::EntryType::Directory);
                    Vec::new()
                }
                Entry::File(bytes) => {
                    header.set_entry_type(tar::EntryType::Regular);
                    bytes
                }
            };
            header.set_size(bytes.len() as u64);
            archive
                .append_data(&mut header, &path, bytes.as_slice())
                .with_context(|| format!("{path} in the layer"))?;
        }
        Ok(archive.into_inner()?)
    }
}

/// Unpacks a layer, as a runtime does. The archive is our own: what leads out of the directory is a mistake.
pub fn unpack(bytes: &[u8], into: &Path) -> Result<()> {
    let mut archive = tar::Archive::new(bytes);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        let is_inside = path.components().all(|part| matches!(part, Component::Normal(_)));
        anyhow::ensure!(is_inside, "{} leads out of the layer", path.display());
        entry.unpack_in(into)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(names: [&str; 2]) -> Vec<u8> {
        let mut layer = Layer::new(7);
        layer.directory("tmp", 0o1777);
        for name in names {
            layer.file(name, 0o644, name.as_bytes().to_vec());
        }
        layer.finish().unwrap()
    }

    #[test]
    fn the_order_of_adding_is_not_in_it() {
        let (one, other) = (layer(["usr/bin/a", "/etc/b"]), layer(["/etc/b", "usr/bin/a"]));
        assert!(one == other);
        let mut archive = tar::Archive::new(one.as_slice());
        let names: Vec<String> = archive
            .entries()
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                assert_eq!(
                    (entry.header().mtime().unwrap(), entry.header().uid().unwrap()),
                    (7, 0)
                );
                entry.path().unwrap().display().to_string()
            })
            .collect();
        assert_eq!(names, ["etc", "etc/b", "tmp", "usr", "usr/bin", "usr/bin/a"]);
    }

    #[test]
    fn it_unpacks_to_what_was_put_in() {
        let scratch = tempfile::tempdir().unwrap();
        unpack(&layer(["usr/bin/a", "etc/b"]), scratch.path()).unwrap();
        assert_eq!(
            std::fs::read_to_string(scratch.path().join("usr/bin/a")).unwrap(),
            "usr/bin/a"
        );
    }
}
