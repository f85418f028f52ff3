//! The executable mappings of a process, from /proc/PID/maps.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

/// Which file, whatever its names are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileId {
    /// Major and minor number of its device, as the kernel writes them.
    pub device: (u32, u32),
    /// Its inode.
    pub inode: u64,
}

/// What a mapping is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A file; the name is that which the process sees, which may be gone.
    File(FileId, PathBuf),
    /// The kernel's own `[vdso]`.
    Vdso,
    /// Code that was made at run time, or the kernel's `[vsyscall]`.
    Anonymous,
}

/// An executable mapping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// First address.
    pub start: u64,
    /// Address behind the last.
    pub end: u64,
    /// Offset of `start` in the file.
    pub offset: u64,
    /// What it is of.
    pub origin: Origin,
}

/// The executable mappings in a text of /proc/PID/maps, ordered by address. Lines that make no sense are left out.
pub fn parse(text: &[u8]) -> Vec<Mapping> {
    let mut found: Vec<Mapping> = text.split(|b| *b == b'\n').filter_map(line).collect();
    found.sort_by_key(|mapping| mapping.start);
    found
}

fn line(line: &[u8]) -> Option<Mapping> {
    // start-end perms offset major:minor inode, blanks, and a name that may hold anything but a newline.
    let mut rest = line;
    let mut field = || {
        let from = rest.iter().position(|b| *b != b' ')?;
        let to = rest
            .get(from..)?
            .iter()
            .position(|b| *b == b' ')
            .map_or(rest.len(), |n| from + n);
        let found = rest.get(from..to)?;
        rest = rest.get(to..)?;
        std::str::from_utf8(found).ok()
    };
    let (start, end) = field()?.split_once('-')?;
    let permissions = field()?;
    let offset = u64::from_str_radix(field()?, 16).ok()?;
    let (major, minor) = field()?.split_once(':')?;
    let inode: u64 = field()?.parse().ok()?;
    if permissions.as_bytes().get(2) != Some(&b'x') {
        return None;
    }
    let name = rest.get(rest.iter().position(|b| *b != b' ').unwrap_or(rest.len())..)?;
    let origin = match name {
        b"[vdso]" => Origin::Vdso,
        _ if inode == 0 => Origin::Anonymous,
        _ => Origin::File(
            FileId {
                device: (
                    u32::from_str_radix(major, 16).ok()?,
                    u32::from_str_radix(minor, 16).ok()?,
                ),
                inode,
            },
            PathBuf::from(OsStr::from_bytes(
                name.strip_suffix(b" (deleted)").unwrap_or(name),
            )),
        ),
    };
    let (start, end) = (
        u64::from_str_radix(start, 16).ok()?,
        u64::from_str_radix(end, 16).ok()?,
    );
    (start < end).then_some(Mapping {
        start,
        end,
        offset,
        origin,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executable_mappings_and_nothing_else() {
        let text = b"\
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]
55d0c0000000-55d0c0001000 r--p 00000000 fe:01 1234                       /usr/bin/cat
55d0c0001000-55d0c0005000 r-xp 00001000 fe:01 1234                       /usr/bin/cat
7f0000000000-7f0000010000 rwxp 00000000 00:00 0
7f1000000000-7f1000010000 r-xp 00028000 08:11 99                         /tmp/a b (x)\xff\\012 (deleted)
7ffd00000000-7ffd00002000 r-xp 00000000 00:00 0                          [vdso]
nonsense
7f2000000000-7f1000010000 r-xp 00028000 08:11 99 /backwards
";
        let found = parse(text);
        let origins: Vec<&Origin> = found.iter().map(|m| &m.origin).collect();
        let file = |device, inode, name: &[u8]| {
            Origin::File(FileId { device, inode }, PathBuf::from(OsStr::from_bytes(name)))
        };
        assert_eq!(
            origins,
            [
                &file((0xfe, 1), 1234, b"/usr/bin/cat"),
                &Origin::Anonymous,
                &file((8, 0x11), 99, b"/tmp/a b (x)\xff\\012"),
                &Origin::Vdso,
                &Origin::Anonymous,
            ]
        );
        let cat = found.first().unwrap();
        assert_eq!(
            (cat.start, cat.end, cat.offset),
            (0x55d0_c000_1000, 0x55d0_c000_5000, 0x1000)
        );
    }

    #[test]
    fn ones_own_are_found() {
        let found = parse(&std::fs::read("/proc/self/maps").unwrap());
        let here = executable_mappings_and_nothing_else as *const () as u64;
        let mine = found.iter().find(|m| m.start <= here && here < m.end).unwrap();
        assert!(matches!(mine.origin, Origin::File(..)), "{mine:?}");
        assert!(found.iter().any(|m| m.origin == Origin::Vdso));
    }
}
