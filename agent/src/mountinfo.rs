//! Where file systems are mounted, from /proc/PID/mountinfo.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;

/// Of each mount: root, mount point, type and source.
fn mounts(mountinfo: &[u8]) -> impl Iterator<Item = [&[u8]; 4]> {
    mountinfo.split(|b| *b == b'\n').filter_map(|line| {
        // id parent major:minor root mount-point options [optional…] - type source options
        let mut fields = line.split(|b| *b == b' ');
        let (root, point) = (fields.nth(3)?, fields.next()?);
        fields.find(|field| *field == b"-")?;
        Some([root, point, fields.next()?, fields.next()?])
    })
}

/// Mount points of a file system type in a text of mountinfo: those that show the whole file system before those that
/// show a part of it, else as the kernel lists them.
pub fn parse(mountinfo: &[u8], fs_type: &str) -> Vec<PathBuf> {
    let (mut whole, mut parts) = (Vec::new(), Vec::new());
    for [root, point, kind, _] in mounts(mountinfo) {
        if kind != fs_type.as_bytes() {
            continue;
        }
        let list = if root == b"/" { &mut whole } else { &mut parts };
        list.push(PathBuf::from(OsString::from_vec(unescape(point))));
    }
    whole.append(&mut parts);
    whole
}

/// Whether /proc shows processes of others to nobody but who may trace them, or not at all: mounted with `hidepid`.
pub fn hides_processes() -> bool {
    std::fs::read("/proc/self/mountinfo").is_ok_and(|text| hides(&text))
}

fn hides(mountinfo: &[u8]) -> bool {
    let shown: [&[u8]; 2] = [b"hidepid=0", b"hidepid=off"];
    let mut mounts = mountinfo.split(|b| *b == b'\n').filter(|line| {
        let mut fields = line.split(|b| *b == b' ');
        fields.nth(4) == Some(b"/proc")
    });
    mounts.any(|line| {
        let options = line.rsplit(|b| *b == b' ').next().unwrap_or_default();
        let mut options = options.split(|b| *b == b',');
        options.any(|option| option.starts_with(b"hidepid=") && !shown.contains(&option))
    })
}

/// File systems that hold files on a block device of this machine. Not squashfs and the like, which are always full; nor FUSE,
/// whose `/dev/` is anybody's word, and whose daemon may never answer.
const ON_DISKS: &[&[u8]] = &[
    b"ext2",
    b"ext3",
    b"ext4",
    b"xfs",
    b"btrfs",
    b"f2fs",
    b"bcachefs",
    b"jfs",
    b"nilfs2",
    b"reiserfs",
    b"vfat",
    b"exfat",
    b"ntfs3",
];

/// Block devices without `/dev/`, each with a mount point of its file system.
pub fn on_block_devices(mountinfo: &[u8]) -> Vec<(String, PathBuf)> {
    let mut found: Vec<(String, PathBuf)> = Vec::new();
    for [_, point, kind, source] in mounts(mountinfo) {
        let point = PathBuf::from(OsString::from_vec(unescape(point)));
        // A later mount on the same point covers the earlier one: who asks there asks that.
        found.retain(|(_, known)| *known != point);
        if !ON_DISKS.contains(&kind) {
            continue;
        }
        let source = String::from_utf8(unescape(source)).unwrap_or_default();
        let device = source.strip_prefix("/dev/").map(str::to_owned);
        // It is mounted as often as parts of it are bound somewhere: its size is one.
        if let Some(device) = device.filter(|device| found.iter().all(|(known, _)| known != device)) {
            found.push((device, point));
        }
    }
    found
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

    #[test]
    fn processes_may_be_hidden() {
        let shown =
            b"22 1 0:5 / /proc rw,nosuid - proc proc rw\n23 1 0:6 / /sys rw - sysfs sysfs rw,hidepid=2\n";
        assert!(!hides(shown) && !hides(b""));
        let hidden =
            |value: &str| hides(format!("22 1 0:5 / /proc rw shared:3 - proc proc rw,{value}\n").as_bytes());
        assert!(hidden("hidepid=2") && hidden("gid=3,hidepid=ptraceable"));
        assert!(!hidden("hidepid=0") && !hidden("hidepid=off"));
    }

    #[test]
    fn each_block_device_once() {
        let text = b"22 1 254:1 / / rw - ext4 /dev/vda1 rw\n23 22 0:5 / /proc rw shared:5 - proc proc rw\n\
            24 22 254:1 /etc/hosts /a\\040b rw - ext4 /dev/vda1 rw\n25 22 254:2 / /a\\040c rw shared:1 master:2 - xfs /dev/mapper/vg-x rw\n\
            26 22 7:0 / /snap/x ro - squashfs /dev/loop0 ro\n27 22 0:50 / /mnt rw - fuse.any /dev/vdb rw\n\
            28 22 254:3 / /data rw - ext4 /dev/vdc rw\n29 28 0:51 / /data rw - nfs4 host:/ rw\n";
        let found = on_block_devices(text);
        assert_eq!(
            found,
            [
                ("vda1".to_owned(), "/".into()),
                ("mapper/vg-x".to_owned(), "/a c".into())
            ]
        );
    }
}
