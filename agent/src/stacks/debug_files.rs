//! Where the debug information of a stripped file is: by its build id, or by the name that the file gives, if the file of
//! that name has the sum that it says.

use super::table;
use flate2::Crc;
use std::ffi::OsString;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Component, Path, PathBuf};

/// Largest file whose sum is made, bytes: a second of work.
const LARGEST: u64 = 1 << 30;

/// What a file says of itself.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// Build id, lower-case hexadecimal; may be empty.
    pub build_id: String,
    /// Name and CRC of the file with its debug information (`.gnu_debuglink`).
    pub link: Option<(String, u32)>,
    /// It has DWARF.
    pub has_dwarf: bool,
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
        }
    });
    said.unwrap_or_default()
}

/// The file with the debug information of one that lies at `path` and says this of itself: one that was fetched, or in one of
/// these directories, or beside it.
pub fn find(path: &Path, said: &Said, fetched: &str, directories: &[OsString]) -> Option<PathBuf> {
    let by_id = said
        .build_id
        .split_at_checked(2)
        .filter(|(_, rest)| !rest.is_empty());
    let named = by_id.map(|(first, rest)| format!(".build-id/{first}/{rest}.debug"));
    let in_directories = named
        .iter()
        .flat_map(|name| directories.iter().map(move |d| Path::new(d).join(name)));
    let fetched = (!fetched.is_empty()).then(|| PathBuf::from(fetched));
    let is_its = |path: &PathBuf| open(path).is_some_and(|file| self::said(&file).build_id == said.build_id);
    if let Some(found) = fetched
        .into_iter()
        .chain(in_directories)
        .find(|path| by_id.is_some() && is_its(path))
    {
        return Some(found);
    }
    let (name, crc) = said.link.as_ref()?;
    // A name and no path: it leads nowhere else.
    let mut parts = Path::new(name).components();
    let (Some(Component::Normal(name)), None) = (parts.next(), parts.next()) else {
        return None;
    };
    let own = path.parent()?;
    let below = own.strip_prefix("/").unwrap_or(own);
    let beside = [own.join(name), own.join(".debug").join(name)];
    let elsewhere = directories.iter().map(|d| Path::new(d).join(below).join(name));
    let has_sum = |path: &PathBuf| open(path).and_then(sum) == Some(*crc);
    beside.into_iter().chain(elsewhere).find(has_sum)
}

/// A regular file; nothing else is waited for.
fn open(path: &Path) -> Option<File> {
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
        .ok()?;
    file.metadata().is_ok_and(|is| is.is_file()).then_some(file)
}

fn sum(mut file: File) -> Option<u32> {
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

    #[test]
    fn a_debug_file_is_found_by_build_id_or_by_name_and_sum() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().to_path_buf();
        let own = File::open("/proc/self/exe").unwrap();
        let id = said(&own).build_id;
        assert!(said(&own).has_dwarf && id.len() > 8, "{id}");
        let (first, rest) = id.split_at(2);
        let placed = dir.join(format!(".build-id/{first}/{rest}.debug"));
        std::fs::create_dir_all(placed.parent().unwrap()).unwrap();
        let told = |link| Said {
            build_id: id.clone(),
            link,
            has_dwarf: false,
        };
        let find = |said: &Said| find(&dir.join("bin/prog"), said, "", &[dir.clone().into()]);
        assert_eq!(find(&told(None)), None);
        std::fs::write(&placed, "another one").unwrap();
        assert_eq!(find(&told(None)), None, "it is not that file's");
        std::fs::remove_file(&placed).unwrap();
        std::os::unix::fs::symlink("/proc/self/exe", &placed).unwrap();
        assert_eq!(find(&told(None)), Some(placed.clone()));
        std::fs::remove_file(&placed).unwrap();
        // As zlib says.
        let link = |name: &str, crc| told(Some((name.into(), crc)));
        let beside = dir.join("bin/.debug/prog.debug");
        std::fs::create_dir_all(beside.parent().unwrap()).unwrap();
        std::fs::write(&beside, "123456789").unwrap();
        assert_eq!(find(&link("prog.debug", 0xcbf4_3926)), Some(beside));
        assert_eq!(find(&link("prog.debug", 0xcbf4_3927)), None);
        assert_eq!(find(&link(".debug/prog.debug", 0xcbf4_3926)), None, "a path");
        assert_eq!(find(&link("../bin", 0)), None);
        assert_eq!(find(&link("", 0)), None);
    }
}
