//! Names of code that was made at run time, from the file that its maker writes: `/tmp/perf-PID.map`, a function a line, as
//! Node.js (`--perf-basic-prof`), agents of Java and `python -X perf` do.
//!
//! Anybody may write to /tmp, so the file is believed only if it is the process's own: looked for in the process's root,
//! by its own id for itself, without a symbolic link on the way, a regular file of its user or root, and of bounded size.
//! Its file system may be the process's as well and answer late or never: it is read by the process that reads symbols.

use super::debug_files::descriptor;
use super::symbolizer::{Function, cut};
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::Mode;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{BufRead, BufReader, Read as _};
use std::os::unix::fs::MetadataExt as _;

/// Largest file that is read, bytes. That of a large Java server has 20 MB.
const LARGEST: u64 = 128 << 20;
/// Longest line, bytes.
const LINE: u64 = 8192;

/// Where the map of a process is, and whose it must be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PerfMap {
    /// The process's id, as the process knows it.
    pub pid: u32,
    /// Its effective user, as we know it.
    pub uid: u32,
}

impl PerfMap {
    /// By a text of /proc/PID/status.
    pub fn of(status: &str) -> Option<Self> {
        let words = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key))?;
            Some(line.split_ascii_whitespace())
        };
        Some(Self {
            // From the outermost namespace to its own.
            pid: words("NSpid:")?.next_back()?.parse().ok()?,
            uid: words("Uid:")?.nth(1)?.parse().ok()?,
        })
    }

    /// Its path, as the process sees it.
    pub fn path(&self) -> String {
        format!("/tmp/perf-{}.map", self.pid)
    }
}

/// What a map says.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// The function of each address, where there is one.
    pub functions: Vec<Option<Function>>,
    /// Lines that make no sense.
    pub skipped: u64,
}

/// Finds functions in the map of the process whose root directory this is; where there is no map there are none.
pub fn functions(root: &str, map: &PerfMap, addresses: &[u64]) -> Result<Found, String> {
    let name = map.path();
    let io = |what: &str, e: &dyn std::fmt::Display| format!("{name}: {what}: {e}");
    let directory = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let root = open(root, directory, Mode::empty()).map_err(|e| io("the root", &e))?;
    // Nothing is opened in earnest before it is known to be a file: opening a device or a pipe has effects.
    let how = OpenHow::new().flags(OFlag::O_PATH | OFlag::O_CLOEXEC).resolve(
        ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS,
    );
    let place = match openat2(&root, name.trim_start_matches('/'), how) {
        Ok(place) => File::from(place),
        Err(nix::Error::ENOENT) => return Ok(Found::default()),
        Err(nix::Error::ELOOP) => return Err(format!("{name}: a symbolic link is on the way")),
        Err(e) => return Err(io("open", &e)),
    };
    let is = place.metadata().map_err(|e| io("stat", &e))?;
    if !is.is_file() {
        return Err(format!("{name}: not a regular file"));
    }
    if is.uid() != map.uid && is.uid() != 0 {
        return Err(format!(
            "{name}: is user {}'s, the process is {}'s",
            is.uid(),
            map.uid
        ));
    }
    if is.len() > LARGEST {
        return Err(format!("{name}: {} bytes are more than {LARGEST}", is.len()));
    }
    let file = File::open(descriptor(&place)).map_err(|e| io("open", &e))?;
    Ok(search(BufReader::new(file.take(LARGEST)), addresses))
}

/// One pass over the lines. Code is moved and its place taken by other code: of several functions of an address the last
/// one in the file is the one that is there.
fn search(mut lines: impl BufRead, addresses: &[u64]) -> Found {
    let mut order: Vec<usize> = (0..addresses.len()).collect();
    order.sort_by_key(|i| addresses.get(*i));
    let sorted: Vec<u64> = order.iter().filter_map(|i| addresses.get(*i).copied()).collect();
    let mut found = Found {
        functions: vec![None; addresses.len()],
        skipped: 0,
    };
    let mut bytes = Vec::new();
    loop {
        bytes.clear();
        match lines.by_ref().take(LINE).read_until(b'\n', &mut bytes) {
            Ok(0) | Err(_) => return found,
            Ok(_) => {}
        }
        let is_whole = bytes.last() == Some(&b'\n');
        let Some((start, size, name)) = line(&bytes).filter(|_| is_whole) else {
            found.skipped += 1;
            // The rest of a line that is too long; a last line without an end is still being written.
            if !is_whole && lines.skip_until(b'\n').is_err() {
                return found;
            }
            continue;
        };
        let from = sorted.partition_point(|a| *a < start);
        let inside = sorted
            .iter()
            .skip(from)
            .take_while(|a| **a - start < size)
            .count();
        for at in order.iter().skip(from).take(inside) {
            if let Some(place) = found.functions.get_mut(*at) {
                *place = Some((start, size, cut(&String::from_utf8_lossy(name))));
            }
        }
    }
}

/// `START SIZE name`, both hexadecimal.
fn line(line: &[u8]) -> Option<(u64, u64, &[u8])> {
    let number = |bytes: &[u8]| {
        let text = std::str::from_utf8(bytes).ok()?;
        let digits = text.strip_prefix("0x").unwrap_or(text);
        let is_plain = digits.bytes().all(|b| b.is_ascii_hexdigit());
        u64::from_str_radix(digits, 16).ok().filter(|_| is_plain)
    };
    let mut parts = line.splitn(3, |b| *b == b' ');
    let (start, size) = (number(parts.next()?)?, number(parts.next()?)?);
    let name = parts.next()?.trim_ascii();
    let is_there = size > 0 && start.checked_add(size).is_some() && !name.is_empty();
    is_there.then_some((start, size, name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn the_process_knows_itself_by_its_innermost_id() {
        let status = "Name:\tnode\nUid:\t1000\t1001\t1000\t1000\nNSpid:\t4711\t33\t7\nVmPeak:\t1 kB\n";
        assert_eq!(PerfMap::of(status), Some(PerfMap { pid: 7, uid: 1001 }));
        assert_eq!(PerfMap::of("Name:\tx\n"), None);
    }

    fn names(text: &[u8], addresses: &[u64]) -> (Vec<String>, u64) {
        let found = search(text, addresses);
        let shown = |f: Option<Function>| {
            f.map_or_else(
                || "-".into(),
                |(start, size, name)| format!("{name}@{start:x}+{size:x}"),
            )
        };
        (found.functions.into_iter().map(shown).collect(), found.skipped)
    }

    #[test]
    fn the_last_function_of_an_address_is_the_one_that_is_there() {
        let text = b"1000 100 first one\n2000 80 JS:*second /a b.js:3:1\n0x1080 0x10 moved\n";
        assert_eq!(
            names(text, &[0x2010, 0x1085, 0x1000, 0x10ff, 0x1100, 0xfff]),
            (
                [
                    "JS:*second /a b.js:3:1@2000+80",
                    "moved@1080+10",
                    "first one@1000+100",
                    "first one@1000+100",
                    "-",
                    "-"
                ]
                .map(str::to_owned)
                .to_vec(),
                0
            )
        );
    }

    #[test]
    fn lines_that_make_no_sense_are_skipped_and_counted() {
        let mut text = b"1000 10 good\n\nnonsense\n2000 0 empty\n+300 10 signed\nffffffffffffffff 2 wraps\n4000 10 \n\xff\xfe\n".to_vec();
        text.extend(
            [
                b"5000 10 ".as_slice(),
                &[b'x'; 3 * LINE as usize],
                b"\n6000 10 after\n7000 10 half",
            ]
            .concat(),
        );
        let asked = [0x1001, 0x2000, 0x301, u64::MAX, 0x4001, 0x5001, 0x6001, 0x7001];
        let (found, skipped) = names(&text, &asked);
        assert_eq!(
            found,
            ["good@1000+10", "-", "-", "-", "-", "-", "after@6000+10", "-"]
        );
        assert_eq!(skipped, 9);
        let (long, _) = names(&[b"1 1 ".as_slice(), &[b'y'; 5000], b"\n"].concat(), &[1]);
        assert!(long.iter().all(|name| name.len() < 600), "{long:?}");
    }

    #[test]
    fn only_a_file_of_the_processs_own_is_read() {
        let root = tempfile::tempdir().unwrap();
        let tmp = root.path().join("tmp");
        std::fs::create_dir(&tmp).unwrap();
        let own = PerfMap {
            pid: 7,
            uid: nix::unistd::geteuid().as_raw(),
        };
        let ask = |map: &PerfMap| functions(root.path().to_str().unwrap(), map, &[0x1001]);
        assert_eq!(ask(&own), Ok(Found::default()));
        let path = tmp.join("perf-7.map");
        std::fs::write(&path, "1000 10 mine\n").unwrap();
        let found = ask(&own).unwrap();
        assert_eq!(found.functions, [Some((0x1000, 0x10, "mine".to_owned()))]);
        let others = PerfMap {
            uid: own.uid + 1,
            ..own.clone()
        };
        // Root's is believed by everybody.
        assert_eq!(ask(&others).is_ok(), own.uid == 0);
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(LARGEST + 1)
            .unwrap();
        assert!(ask(&own).unwrap_err().contains("are more than"));
        std::fs::rename(&path, tmp.join("elsewhere")).unwrap();
        symlink("elsewhere", &path).unwrap();
        assert!(ask(&own).unwrap_err().contains("symbolic link"));
        std::fs::remove_file(&path).unwrap();
        nix::unistd::mkfifo(&path, Mode::S_IRWXU).unwrap();
        assert!(ask(&own).unwrap_err().contains("not a regular file"));
    }
}
