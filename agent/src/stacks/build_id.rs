//! What a file is known by beside its build id, which anybody can write into any file; and the kernel's own.

use nix::sys::statfs::{FUSE_SUPER_MAGIC, fstatfs};
use ring::digest::{Context, SHA256};
use std::fs::File;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};

/// Bytes of head and tail.
const PAGE: u64 = 4096;
/// Type of the note that holds a build id (`NT_GNU_BUILD_ID`).
const GNU_BUILD_ID: u32 = 3;

/// What a file is known by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// `process.executable.build_id.htlhash` of OpenTelemetry; empty = it could not be read.
    pub hash: String,
    /// What no other file can have at the same time or later: device, inode and time of the last change, which no user can set
    /// but by a file system of his own: FUSE is left out; of an overlay above it only the device, a number that is used again
    /// after an unmount, is not the user's. Empty = it has none.
    pub inode: String,
}

impl Identity {
    /// Of a file.
    pub fn of(file: &File) -> Self {
        Self {
            hash: htlhash(file).unwrap_or_default(),
            inode: inode(file).unwrap_or_default(),
        }
    }
}

fn inode(file: &File) -> Option<String> {
    if fstatfs(file).ok()?.filesystem_type() == FUSE_SUPER_MAGIC {
        return None;
    }
    let is = file.metadata().ok()?;
    Some(format!(
        "{:x}-{:x}-{:x}-{:x}",
        is.dev(),
        is.ino(),
        is.ctime(),
        is.ctime_nsec()
    ))
}

/// The first half of the SHA-256 of the file's head, its tail and its length.
fn htlhash(file: &File) -> Option<String> {
    let length = file.metadata().ok()?.len();
    let mut digest = Context::new(&SHA256);
    let mut part = vec![0; PAGE.min(length) as usize];
    for offset in [0, length.saturating_sub(PAGE)] {
        file.read_exact_at(&mut part, offset).ok()?;
        digest.update(&part);
    }
    digest.update(&length.to_be_bytes());
    Some(hex(digest.finish().as_ref().get(..16)?))
}

/// Build id of the running kernel; empty = it tells none.
pub fn kernel() -> String {
    let notes = std::fs::read("/sys/kernel/notes").unwrap_or_default();
    note(&notes).map(hex).unwrap_or_default()
}

/// The build id among ELF notes: size of the name, size of the value, type, then both, each filled up to four bytes.
fn note(mut notes: &[u8]) -> Option<&[u8]> {
    loop {
        let (head, rest) = notes.split_first_chunk::<12>()?;
        let word =
            |at: usize| -> Option<u32> { Some(u32::from_ne_bytes(head.get(at..at + 4)?.try_into().ok()?)) };
        let (name, value) = (word(0)? as usize, word(4)? as usize);
        let begin = name.checked_next_multiple_of(4)?;
        let found = rest.get(begin..begin.checked_add(value)?)?;
        if word(8)? == GNU_BUILD_ID && rest.starts_with(b"GNU\0") {
            return Some(found);
        }
        notes = rest.get(begin + value.checked_next_multiple_of(4)?..)?;
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().take(64).map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn a_file_has_the_hash_that_the_specification_says() {
        // Made by: (head -c4096 F; tail -c4096 F; printf '%016x' SIZE | xxd -r -p) | sha256sum | head -c32
        for (bytes, want) in [
            (b"hello\n".to_vec(), "4d9cbfd062dc96c836340b284e743e15"),
            (
                b"0123456789abcdef".repeat(1000),
                "569579b0d610fb07382d5cda1c9fb8de",
            ),
        ] {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&bytes).unwrap();
            assert_eq!(Identity::of(&file).hash, want);
        }
    }

    #[test]
    fn a_file_that_is_changed_is_another_one() {
        let mut file = tempfile::tempfile().unwrap();
        let (first, other) = (Identity::of(&file), Identity::of(&tempfile::tempfile().unwrap()));
        assert_eq!(first, Identity::of(&file));
        assert!(
            !first.inode.is_empty() && first.inode != other.inode,
            "{first:?} {other:?}"
        );
        // The clock of files is the kernel's tick.
        std::thread::sleep(std::time::Duration::from_millis(20));
        file.write_all(b"x").unwrap();
        assert_ne!(Identity::of(&file).inode, first.inode);
    }

    #[test]
    fn the_build_id_is_found_among_notes() {
        let note_of = |name: &[u8], kind: u32, value: &[u8]| {
            let mut out = Vec::new();
            for word in [name.len() as u32, value.len() as u32, kind] {
                out.extend(word.to_ne_bytes());
            }
            for part in [name, value] {
                out.extend(part);
                out.resize(out.len().next_multiple_of(4), 0);
            }
            out
        };
        let other = note_of(b"Linux\0", 3, b"abcde");
        let ours = note_of(b"GNU\0", GNU_BUILD_ID, &[1, 2, 0xff]);
        assert_eq!(note(&[other.clone(), ours].concat()).map(hex).unwrap(), "0102ff");
        assert_eq!(note(&other), None);
        let lie = [u32::MAX.to_ne_bytes(), u32::MAX.to_ne_bytes(), 3u32.to_ne_bytes()].concat();
        assert_eq!(note(&lie), None);
        if std::path::Path::new("/sys/kernel/notes").exists() {
            assert!(kernel().len() >= 16, "{}", kernel());
        }
    }
}
