//! Where file systems are mounted, from /proc/PID/mountinfo.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;

/// Mount points of a file system type in a text of mountinfo: those that show the whole file system before those that
/// show a part of it, else as the kernel lists them.
pub fn parse(mountinfo: &[u8], fs_type: &str) -> Vec<PathBuf> {
    let (mut whole, mut parts) = (Vec::new(), Vec::new());
    for line in mountinfo.split(|b| *b == b'\n') {
        // id parent major:minor root mount-point options [optional…] - type source options
        let mut fields = line.split(|b| *b == b' ');
        let (Some(root), Some(point)) = (fields.nth(3), fields.next()) else {
            continue;
        };
        if fields.find(|field| *field == b"-").is_none() || fields.next() != Some(fs_type.as_bytes()) {
            continue;
        }
        let list = if root == b"/" { &mut whole } else { &mut parts };
        list.push(PathBuf::from(OsString::from_vec(unescape(point))));
    }
    whole.append(&mut parts);
    whole
}

/// As [`parse`], of this process.
pub fn own(fs_type: &str) -> Vec<PathBuf> {
    parse(
        &std::fs::read("/proc/self/mountinfo").unwrap_or_default(),
        fs_type,
    )
}

/// Undoes the kernel's octal escapes: `\040` is a space.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, after)) = rest.split_first() {
        match rest.get(..4) {
            Some([b'\\', a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7']) => {
                out.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = rest.get(4..).unwrap_or_default();
            }
            _ => {
                out.push(first);
                rest = after;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes() {
        assert_eq!(unescape(br"/a\040b\134c"), br"/a b\c");
        assert_eq!(unescape(br"/a\zz\1"), br"/a\zz\1");
    }

    #[test]
    fn the_whole_comes_before_a_part_of_it() {
        let text = b"1 1 0:1 /user.slice /a rw - cgroup2 none rw\n2 1 0:1 / /sys/fs/cgroup rw shared:1 - cgroup2 none rw\n\
                     3 1 0:2 / /proc rw - proc none rw\n";
        assert_eq!(
            parse(text, "cgroup2"),
            ["/sys/fs/cgroup", "/a"].map(PathBuf::from)
        );
    }
}
