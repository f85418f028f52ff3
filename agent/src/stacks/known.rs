//! Functions that are known, by file and address, here and on disk.
//!
//! A build id is not enough: anybody can give a program that of another file, and names would be told of the one that are the
//! other's. So it is the same file only if nobody can have made another of it ([`super::build_id::Identity`]).
//!
//! A file of the cache has a line of head with the sum of what follows, and a line for each function. It is written beside
//! its place and then put there, so that it is whole or not there; one that is not sound is thrown away.

use super::debuginfod::{private, room};
use super::image::Binary;
use crate::error::{Context as _, Error, Result};
use flate2::Crc;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Write as _;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

/// Functions that are remembered …
const FUNCTIONS: usize = 65_536;
/// … and of one file on disk.
const OF_A_FILE: usize = FUNCTIONS / 4;
/// Largest file that is read: more functions than are remembered.
const LARGEST: u64 = 32 << 20;
/// What a file begins with: what it is and which version of it.
const HEAD: &str = "geophone functions 1";

/// Functions by file and first address.
#[derive(Debug, Default)]
pub struct Known {
    functions: BTreeMap<(u32, u64), (u64, Arc<str>)>,
    files: HashMap<String, u32>,
    /// Those that have more than their file on disk.
    dirty: HashSet<String>,
    disk: Option<Disk>,
    /// Files on disk that were not sound.
    pub corrupt: u64,
}

/// Where functions are kept.
#[derive(Debug)]
struct Disk {
    directory: PathBuf,
    /// Bytes of all files.
    most: u64,
    /// Names with and without inlined functions are not the same.
    ending: &'static str,
}

impl Known {
    /// Kept below a directory too, if there is one, in at most so many bytes.
    pub fn new(directory: Option<&Path>, most: u64, inlined: bool) -> Self {
        Self {
            disk: directory.map(|directory| Disk {
                directory: directory.join("functions"),
                most,
                ending: if inlined { ".inlined" } else { "" },
            }),
            ..Self::default()
        }
    }

    /// The function of an address.
    pub fn find(&mut self, binary: &Binary, address: u64) -> Option<&Arc<str>> {
        let file = self.file(binary);
        let (&(found, start), (size, name)) = self.functions.range(..=(file, address)).next_back()?;
        // Sizes are claims, whoever makes them: no function is in two parts of a file.
        let is_here = found == file && address - start < *size && binary.segment(address).address <= start;
        is_here.then_some(name)
    }

    /// Adds a function.
    pub fn add(&mut self, binary: &Binary, start: u64, size: u64, name: &str) {
        self.make_room();
        let file = self.file(binary);
        self.functions.insert((file, start), (size, name.into()));
        if let (Some(kept), true) = (kept(binary), self.disk.is_some()) {
            self.dirty.insert(kept);
        }
    }

    /// Forgets all when it is too much.
    fn make_room(&mut self) {
        if self.functions.len() > FUNCTIONS || self.files.len() > FUNCTIONS {
            self.save();
            self.functions.clear();
            self.files.clear();
        }
    }

    /// Number of a file; its functions are read from disk when it is new.
    fn file(&mut self, binary: &Binary) -> u32 {
        let kept = kept(binary);
        let key = kept.clone().unwrap_or_else(|| format!("#{}", binary.id));
        if let Some(&number) = self.files.get(&key) {
            return number;
        }
        // What is read from disk takes room too.
        self.make_room();
        let number = self.files.len() as u32;
        self.files.insert(key, number);
        if let (Some(disk), Some(kept)) = (&self.disk, kept) {
            match disk.read(&kept) {
                Ok(functions) => {
                    let functions = functions.into_iter().take(OF_A_FILE);
                    self.functions
                        .extend(functions.map(|(start, size, name)| ((number, start), (size, name))));
                }
                Err(e) => {
                    self.corrupt += 1;
                    tracing::warn!("{e}; it is thrown away");
                }
            }
        }
        number
    }

    /// Writes what is new; to be called now and then.
    pub fn save(&mut self) {
        let Some(disk) = &self.disk else { return };
        let dirty = std::mem::take(&mut self.dirty);
        for id in &dirty {
            let Some(&file) = self.files.get(id) else { continue };
            let functions = self.functions.range((file, 0)..=(file, u64::MAX));
            if let Err(e) = disk.write(
                id,
                functions.map(|((_, start), (size, name))| (*start, *size, &**name)),
            ) {
                tracing::warn!("probes.profile.cache_dir: {e}; names are not kept");
                self.disk = None;
                return;
            }
        }
        if !dirty.is_empty() {
            room(&disk.directory, disk.most, Path::new(""));
        }
    }
}

/// What a file is called on disk; `None` = it is not kept.
fn kept(binary: &Binary) -> Option<String> {
    let (id, inode) = (&binary.build_id, &binary.identity.inode);
    (!id.is_empty() && !inode.is_empty()).then(|| format!("{id}.{inode}"))
}

/// A function: its first address, its bytes, its name.
type Function = (u64, u64, Arc<str>);

impl Disk {
    fn path(&self, id: &str) -> PathBuf {
        self.directory.join(format!("{id}{}", self.ending))
    }

    /// The functions of a file, none if there is none; one that is not sound is removed.
    fn read(&self, id: &str) -> Result<Vec<Function>> {
        let path = self.path(id);
        let Ok(file) = File::open(&path) else {
            return Ok(Vec::new());
        };
        let read = Self::parse(&file);
        if read.is_err() {
            let _ = std::fs::remove_file(&path);
        } else {
            // It is in use: others make room first.
            let _ = file.set_modified(SystemTime::now());
        }
        read.context(path.display())
    }

    fn parse(file: &File) -> Result<Vec<Function>> {
        let mut text = String::new();
        let is_text = file.take(LARGEST).read_to_string(&mut text).is_ok();
        let parsed = || {
            let (head, body) = text.split_once('\n')?;
            let sum = u32::from_str_radix(head.strip_prefix(HEAD)?.trim_start(), 16).ok()?;
            if sum != crc(body) {
                return None;
            }
            let function = |line: &str| -> Option<Function> {
                let mut parts = line.splitn(3, ' ');
                let mut number = || u64::from_str_radix(parts.next()?, 16).ok();
                let (start, size) = (number()?, number()?);
                Some((start, size, parts.next()?.into()))
            };
            body.lines().map(function).collect()
        };
        parsed()
            .filter(|_| is_text)
            .ok_or_else(|| Error::new("is no sound file of functions of this version"))
    }

    fn write<'a>(&self, id: &str, functions: impl Iterator<Item = (u64, u64, &'a str)>) -> Result<()> {
        private(&self.directory)?;
        let mut body = String::new();
        for (start, size, name) in functions.take(OF_A_FILE) {
            let _ = writeln!(body, "{start:x} {size:x} {name}");
        }
        let path = self.path(id);
        let part = self.directory.join(format!("{id}{}.part", self.ending));
        let text = format!("{HEAD} {:08x}\n{body}", crc(&body));
        std::fs::write(&part, text)
            .and_then(|()| std::fs::rename(&part, &path))
            .context(path.display())
    }
}

fn crc(text: &str) -> u32 {
    let mut crc = Crc::new();
    crc.update(text.as_bytes());
    crc.sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stacks::build_id;
    use crate::stacks::image::Open;
    use crate::stacks::table::{Segment, Table};

    fn binary(id: u32, build_id: &str) -> Binary {
        Binary {
            id,
            path: "f".into(),
            file: Open::default(),
            build_id: build_id.into(),
            identity: build_id::Identity {
                inode: "1".into(),
                ..build_id::Identity::default()
            },
            table: Table::default(),
            fault: String::new(),
            perf_map: None,
        }
    }

    fn name(known: &mut Known, binary: &Binary, address: u64) -> Option<String> {
        known.find(binary, address).map(|name| name.to_string())
    }

    #[test]
    fn functions_are_known_by_build_id_and_after_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let new = || Known::new(Some(directory.path()), 1 << 20, false);
        let (mut known, nameless) = (new(), binary(2, ""));
        known.add(&binary(1, "ab12"), 0x1000, 0x10, "first one");
        known.add(&nameless, 0x1000, 0x10, "second");
        assert_eq!(name(&mut known, &binary(9, "ab12"), 0x100f).unwrap(), "first one");
        assert_eq!(name(&mut known, &binary(9, "ab12"), 0x1010), None);
        assert_eq!(name(&mut known, &nameless, 0x1000).unwrap(), "second");
        let mut other = binary(3, "ab12");
        other.identity.inode = "2".into();
        assert_eq!(
            name(&mut known, &other, 0x1000),
            None,
            "it only says that it is the same"
        );
        other.identity.inode.clear();
        assert_eq!(name(&mut known, &other, 0x1000), None);
        known.add(&other, 0x1000, 0x10, "wrong");
        known.save();
        let mut known = new();
        assert_eq!(name(&mut known, &binary(1, "ab12"), 0x1000).unwrap(), "first one");
        assert_eq!(
            name(&mut known, &nameless, 0x1000),
            None,
            "nobody knows that it is the same"
        );
        let mut inlined = Known::new(Some(directory.path()), 1 << 20, true);
        assert_eq!(name(&mut inlined, &binary(1, "ab12"), 0x1000), None);
        assert_eq!(known.corrupt + inlined.corrupt, 0);
    }

    #[test]
    fn what_is_not_sound_is_thrown_away() {
        let directory = tempfile::tempdir().unwrap();
        let new = || Known::new(Some(directory.path()), 1 << 20, false);
        let mut known = new();
        known.add(&binary(1, "ab12"), 0x1000, 0x10, "first");
        known.save();
        let path = directory.path().join("functions/ab12.1");
        let sound = std::fs::read(&path).unwrap();
        let old = String::from_utf8(sound.clone())
            .unwrap()
            .replace("functions 1", "functions 0")
            .into_bytes();
        let mut bad: Vec<Vec<u8>> = (0..sound.len()).map(|len| sound[..len].to_vec()).collect();
        bad.extend((0..sound.len()).map(|at| {
            let mut bytes = sound.clone();
            bytes[at] ^= 0x55;
            bytes
        }));
        for bytes in bad.into_iter().chain([old, vec![0; 1000]]) {
            std::fs::write(&path, &bytes).unwrap();
            let mut known = new();
            assert_eq!(name(&mut known, &binary(1, "ab12"), 0x1000), None, "{bytes:?}");
            assert_eq!((known.corrupt, path.exists()), (1, false));
        }
    }

    #[test]
    fn what_is_read_from_disk_is_bounded_too() {
        let directory = tempfile::tempdir().unwrap();
        let new = || Known::new(Some(directory.path()), 1 << 30, false);
        let id = |i: u32| format!("{i:04x}");
        let mut known = new();
        for i in 0..6 {
            for start in 0..OF_A_FILE as u64 {
                known.add(&binary(i, &id(i)), start, 1, "f");
            }
        }
        known.save();
        let mut known = new();
        for i in 0..6 {
            assert!(name(&mut known, &binary(i, &id(i)), 0).is_some(), "{i}");
            assert!(known.functions.len() <= FUNCTIONS + OF_A_FILE);
        }
        assert!(known.functions.len() < FUNCTIONS, "it has been emptied once");
    }

    #[test]
    fn no_function_reaches_into_another_part_of_the_file() {
        let mut known = Known::new(None, 0, false);
        let part = |address| Segment {
            offset: address,
            size: 0x1000,
            address,
        };
        let mut binary = binary(1, "ab12");
        binary.table.segments = vec![part(0x1000), part(0x3000)];
        known.add(&binary, 0x1800, u64::MAX, "greedy");
        assert!(name(&mut known, &binary, 0x1fff).is_some());
        assert_eq!(name(&mut known, &binary, 0x3000), None);
    }

    #[test]
    fn what_is_on_disk_is_bounded() {
        let directory = tempfile::tempdir().unwrap();
        let mut known = Known::new(Some(directory.path()), 1000, false);
        for i in 0..100 {
            known.add(
                &binary(i, &format!("{i:04x}")),
                0,
                1,
                "a function with a name of some length",
            );
            known.save();
        }
        let files = std::fs::read_dir(directory.path().join("functions")).unwrap();
        let bytes: u64 = files.map(|f| f.unwrap().metadata().unwrap().len()).sum();
        assert!((500..=1000).contains(&bytes), "{bytes}");
    }
}
