//! Where the debug information of a stripped file is: by its build id, or by the name that the file gives, if the file of
//! that name has the sum that it says.
//!
//! That name is whatever somebody has written into a program, and the place that it is looked for in is a container's. So it
//! is looked for as the process sees its files, below the directory that the program lies in and on the same mount; and
//! nothing is opened in earnest before it is known to be a file: opening a device has effects.

use super::table;
use flate2::Crc;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open as open_at, openat2};
use nix::sys::stat::Mode;
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};

/// Largest file whose sum is made, bytes: a second of work.
const LARGEST: u64 = 1 << 30;

/// A file that is sought, and where it is seen.
#[derive(Clone, Copy, Debug)]
pub struct Sought<'a> {
    /// It itself.
    pub file: &'a File,
    /// What its process calls it.
    pub path: &'a Path,
    /// The root directory of a process that has it; empty = none is left.
    pub root: &'a str,
}

/// Where debug information was found, so that it is found again without a sum being made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Its path; if it is beside its file, from there.
    path: OsString,
    /// It is beside its file, and not in our own directories.
    is_beside: bool,
    /// Device, inode, bytes and time of the last change: another file at this place is not it.
    is: [u64; 4],
}

impl Place {
    fn of(path: &Path, is_beside: bool, file: &File) -> Option<Self> {
        let path = path.into();
        let is = file.metadata().ok()?;
        let is = [
            is.dev(),
            is.ino(),
            is.len(),
            is.mtime_nsec() as u64 ^ is.mtime() as u64,
        ];
        Some(Self { path, is_beside, is })
    }

    /// It is somebody's whose files we read anyway, and not the program's own nor a server's.
    pub fn is_ours(&self, fetched: &str) -> bool {
        !self.is_beside && Path::new(&self.path) != Path::new(fetched)
    }

    /// The file that was found here, if it is still there.
    pub fn open(&self, own: Sought<'_>) -> Option<File> {
        let path = Path::new(&self.path);
        let is_it = |file: &File| Self::of(path, self.is_beside, file).as_ref() == Some(self);
        if self.is_beside {
            directories_of(own).find_map(|from| beside(&from, path).filter(is_it))
        } else {
            open(path).filter(is_it)
        }
    }
}

/// Sections that name other files.
const LINKS: [&str; 3] = [".gnu_debuglink", ".gnu_debugaltlink", ".debug_sup"];

/// What a file says of itself.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// Build id, lower-case hexadecimal; may be empty.
    pub build_id: String,
    /// Name and CRC of the file with its debug information (`.gnu_debuglink`).
    pub link: Option<(String, u32)>,
    /// It has DWARF.
    pub has_dwarf: bool,
    /// It names no other file to be read with it: whoever reads DWARF opens those by any path, devices too.
    pub is_alone: bool,
}

/// Reads what a file says of itself; what cannot be read is not said.
pub fn said(file: &File) -> Said {
    let said = table::look(file, |elf| {
        use object::Object as _;
        let id = elf.build_id().ok().flatten().unwrap_or_default();
        let link = elf.gnu_debuglink().ok().flatten();
        Said {
            build_id: id.iter().take(64).map(|b| format!("{b:02x}")).collect(),
            link: link.map(|(name, crc)| (String::from_utf8_lossy(name).into_owned(), crc)),
            has_dwarf: elf.section_by_name(".debug_info").is_some(),
            is_alone: LINKS.iter().all(|name| elf.section_by_name(name).is_none()),
        }
    });
    said.unwrap_or_default()
}

/// The file with the debug information of one that says this of itself: one that was fetched, or in one of these directories,
/// or beside it.
pub fn find(own: Sought<'_>, said: &Said, fetched: &str, directories: &[OsString]) -> Option<(Place, File)> {
    let by_id = said
        .build_id
        .split_at_checked(2)
        .filter(|(_, rest)| !rest.is_empty());
    let named = by_id.map(|(first, rest)| format!(".build-id/{first}/{rest}.debug"));
    let in_directories = named
        .iter()
        .flat_map(|name| directories.iter().map(move |d| Path::new(d).join(name)));
    let fetched = (!fetched.is_empty()).then(|| PathBuf::from(fetched));
    let its = |path: PathBuf| {
        let file = open(&path).filter(|file| self::said(file).build_id == said.build_id)?;
        Some((Place::of(&path, false, &file)?, file))
    };
    let mut by_id = fetched
        .into_iter()
        .chain(in_directories)
        .filter(|_| by_id.is_some());
    if let Some(found) = by_id.find_map(its) {
        return Some(found);
    }
    let (name, crc) = said.link.as_ref()?;
    // A name and no path: it leads nowhere else.
    let mut parts = Path::new(name).components();
    let (Some(Component::Normal(name)), None) = (parts.next(), parts.next()) else {
        return None;
    };
    let has_sum = |file: &File| sum(file) == Some(*crc);
    let names = [PathBuf::from(name), Path::new(".debug").join(name)];
    for from in directories_of(own) {
        for name in &names {
            if let Some(file) = beside(&from, name).filter(has_sum) {
                return Some((Place::of(name, true, &file)?, file));
            }
        }
    }
    let directory = own.path.parent()?;
    let below = directory.strip_prefix("/").unwrap_or(directory);
    let elsewhere = directories.iter().map(|d| Path::new(d).join(below).join(name));
    elsewhere.into_iter().find_map(|path| {
        let file = open(&path).filter(has_sum)?;
        Some((Place::of(&path, false, &file)?, file))
    })
}

/// The directories that a file lies in, as its process sees them and as we do: where its path leads to another file there is
/// none.
fn directories_of(own: Sought<'_>) -> impl Iterator<Item = OwnedFd> {
    let here = |is: std::fs::Metadata| (is.dev(), is.ino());
    let is = own.file.metadata().ok().map(here);
    let in_root = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    let directory = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let roots = [own.root, "/"].into_iter().filter(|root| !root.is_empty());
    roots.filter_map(move |root| {
        let root = open_at(root, directory, Mode::empty()).ok()?;
        let look = |path: &Path, flags: OFlag| {
            let how = OpenHow::new().flags(flags).resolve(in_root);
            openat2(&root, path, how).ok()
        };
        let found = File::from(look(own.path, OFlag::O_PATH | OFlag::O_CLOEXEC)?);
        let is_it = is.is_some() && found.metadata().ok().map(here) == is;
        look(own.path.parent()?, directory).filter(|_| is_it)
    })
}

/// A regular file below a directory, on its mount.
fn beside(directory: &OwnedFd, name: &Path) -> Option<File> {
    let how = OpenHow::new().flags(OFlag::O_PATH | OFlag::O_CLOEXEC).resolve(
        ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_XDEV | ResolveFlag::RESOLVE_NO_MAGICLINKS,
    );
    regular(openat2(directory, name, how).ok()?)
}

/// A regular file as it is seen from a root directory.
pub(super) fn open_in(root: &File, path: &Path) -> Option<File> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    regular(openat2(root, path, how).ok()?)
}

/// A regular file.
pub(super) fn open(path: &Path) -> Option<File> {
    regular(open_at(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).ok()?)
}

/// Opens what was only looked at, if it is a regular file.
fn regular(place: OwnedFd) -> Option<File> {
    let place = File::from(place);
    let is_file = place.metadata().is_ok_and(|is| is.is_file());
    is_file.then(|| File::open(descriptor(&place)).ok()).flatten()
}

/// The path by which what is open here is opened once more.
pub fn descriptor(file: &File) -> PathBuf {
    format!("/proc/self/fd/{}", file.as_raw_fd()).into()
}

fn sum(mut file: &File) -> Option<u32> {
    if file.metadata().ok()?.len() > LARGEST {
        return None;
    }
    let (mut crc, mut part) = (Crc::new(), vec![0; 1 << 16]);
    loop {
        match file.read(&mut part).ok()? {
            0 => return Some(crc.sum()),
            n => crc.update(part.get(..n)?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(own: Sought<'_>, said: &Said, directory: &Path) -> Option<(OsString, bool)> {
        let (place, file) = find(own, said, "", &[directory.into()])?;
        assert_eq!(
            place.is,
            Place::of(directory, false, &place.open(own).unwrap()).unwrap().is
        );
        assert!(file.metadata().unwrap().is_file());
        Some((place.path, place.is_beside))
    }

    #[test]
    fn a_debug_file_is_found_by_build_id_or_by_name_and_sum() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().to_path_buf();
        let own = File::open("/proc/self/exe").unwrap();
        let id = said(&own).build_id;
        assert!(
            said(&own).has_dwarf && said(&own).is_alone && id.len() > 8,
            "{id}"
        );
        let (first, rest) = id.split_at(2);
        let placed = dir.join(format!(".build-id/{first}/{rest}.debug"));
        std::fs::create_dir_all(placed.parent().unwrap()).unwrap();
        let told = |link| Said {
            build_id: id.clone(),
            link,
            has_dwarf: false,
            is_alone: false,
        };
        let sought = Sought {
            file: &own,
            path: Path::new("/opt/bin/prog"),
            root: "",
        };
        let find = |said: &Said| found(sought, said, &dir);
        assert_eq!(find(&told(None)), None);
        std::fs::write(&placed, "another one").unwrap();
        assert_eq!(find(&told(None)), None, "it is not that file's");
        std::fs::remove_file(&placed).unwrap();
        std::os::unix::fs::symlink("/proc/self/exe", &placed).unwrap();
        assert_eq!(find(&told(None)), Some((placed.clone().into(), false)));
        std::fs::remove_file(&placed).unwrap();
        // As zlib says.
        let link = |name: &str, crc| told(Some((name.into(), crc)));
        let elsewhere = dir.join("opt/bin/prog.debug");
        std::fs::create_dir_all(elsewhere.parent().unwrap()).unwrap();
        std::fs::write(&elsewhere, "123456789").unwrap();
        assert_eq!(
            find(&link("prog.debug", 0xcbf4_3926)),
            Some((elsewhere.into(), false))
        );
        assert_eq!(find(&link("prog.debug", 0xcbf4_3927)), None);
        assert_eq!(find(&link("bin/prog.debug", 0xcbf4_3926)), None, "a path");
        assert_eq!(find(&link("../bin", 0)), None);
        assert_eq!(find(&link("", 0)), None);
    }

    #[test]
    fn what_lies_beside_a_file_is_sought_where_its_process_sees_it() {
        use std::os::unix::fs::symlink;
        let (root, nowhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let bin = root.path().join("opt/bin");
        std::fs::create_dir_all(bin.join(".debug")).unwrap();
        std::fs::write(bin.join("prog"), "a program").unwrap();
        std::fs::write(bin.join("other"), "a program").unwrap();
        let (own, other) = (
            File::open(bin.join("prog")).unwrap(),
            File::open(bin.join("other")).unwrap(),
        );
        let of = |name: &str, crc| Said {
            link: Some((name.into(), crc)),
            ..Said::default()
        };
        let sought = |file, root| Sought {
            file,
            path: Path::new("/opt/bin/prog"),
            root,
        };
        let as_seen = root.path().to_str().unwrap();
        let find = |name: &str| found(sought(&own, as_seen), &of(name, 0xcbf4_3926), nowhere.path());
        std::fs::write(bin.join(".debug/a.debug"), "123456789").unwrap();
        assert_eq!(find("a.debug"), Some((".debug/a.debug".into(), true)));
        for (file, root) in [(&other, as_seen), (&own, ""), (&own, "/nowhere")] {
            let found = found(sought(file, root), &of("a.debug", 0xcbf4_3926), nowhere.path());
            assert_eq!(found, None, "{root}: it is not there that the file lies");
        }
        // As the process sees it, links lead to what is below the directory, and nowhere else.
        symlink(".debug/a.debug", bin.join("b.debug")).unwrap();
        assert_eq!(find("b.debug"), Some(("b.debug".into(), true)));
        std::fs::write(root.path().join("secret"), "123456789").unwrap();
        for (i, to) in ["/secret", "../../secret", "/opt/bin/.debug/a.debug"]
            .iter()
            .enumerate()
        {
            symlink(to, bin.join(format!("{i}.out"))).unwrap();
            assert_eq!(find(&format!("{i}.out")), None, "{to}");
        }
        // Opening it in earnest would wait for a writer.
        nix::unistd::mkfifo(&bin.join("pipe"), Mode::S_IRWXU).unwrap();
        assert_eq!(find("pipe"), None);
        // Where there is another file by now it is not the one that was found.
        let (place, _) = super::find(sought(&own, as_seen), &of("a.debug", 0xcbf4_3926), "", &[]).unwrap();
        std::fs::remove_file(bin.join(".debug/a.debug")).unwrap();
        assert!(place.open(sought(&own, as_seen)).is_none());
        std::fs::write(bin.join(".debug/a.debug"), "1234567890").unwrap();
        assert!(place.open(sought(&own, as_seen)).is_none());
    }
}
